"""Transport maps: train one from unpaired images; restore, score, save and load with it.

Unbalanced-transport (ISUM) paper, Eqs. 14-16 and Algorithm 1. In go a map, a potential, a loss and
two sets of images that do not belong together; out comes a restoration that also says which
measurements it does not trust. Below are networks, the unbalanced loss and the training engine;
above is the user alone.
"""

from dro_torch.transport_map.fit import fit_transport_map
from dro_torch.transport_map.measurement import NoisyMeasurement
from dro_torch.transport_map.restoration import TransportRestoration

__all__ = ["fit_transport_map", "NoisyMeasurement", "TransportRestoration"]
