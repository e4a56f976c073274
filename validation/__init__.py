"""The evidence: each experiment is one module, run as ``python -m validation NAME``."""
