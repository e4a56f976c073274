"""Time, memory and accuracy against what else there is: the figures that the documentation claims.

In go sizes; out come ratios measured in one run, tables and checks. Each module is an experiment of
`validation.registry`, except for `timing`, `text`, `finite_memory`, `peer_runs`, `peer_worker` and
the parts of `torch_suite`, which they share; below are `dro_core` and `dro_torch`.
"""
