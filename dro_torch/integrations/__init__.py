"""Adapters for other training frameworks; each imports its framework when it is used.

No theorem of its own: the losses of DRO paper, sections 3, 4 and 6.1, as others call them. In goes
a loss of this package, out comes an object of the framework. Below is `dro_torch.losses`; above are
the framework's trainers.
"""
