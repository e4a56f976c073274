"""Losses: the objectives of `dro_core` for networks.

DRO paper, Theorems 3.1-3.4, 4.1, 4.2 and section 6.1; unbalanced-transport paper, Eqs. 13-16. In go
a network and a batch (and the multiplier), out comes a scalar to which ``backward()`` applies.
Below are what moves, its residual and `dro_torch.linearisation`; above are training loops, that of
`dro_torch.training` or any other.
"""
