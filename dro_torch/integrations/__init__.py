"""Adapters for other training frameworks; each imports its framework when it is used."""
