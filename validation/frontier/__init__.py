"""Clean error against error under attack, for every way of training: where structured DRO wins.

Two balls on deblurring: an isotropic one (`isotropic`), and one in which a quarter of the
measurements is unreliable and the rest is trusted (`weighted`). Every family of losses is tuned on
validation images with equally many candidates, and all arms meet the same attack. Below are the
arms and the engine of `validation.mnist`.
"""
