"""The experiments and benchmarks of both papers: every claim with our number and whether it holds.

In go settings from the command line (`python -m validation NAME --set name=value`) and, for learned
maps, a data root; out come tables, figures and checks in a folder. On top is `__main__` with
`registry`, then one module or package per experiment; they share `settings`, `results`, `tables`,
`errors` and, where arms are trained, the runner `experiment`; below are `dro_core` and `dro_torch`,
which know nothing of this package.
"""
