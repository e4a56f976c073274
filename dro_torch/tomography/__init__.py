r"""Fan-beam tomography: geometry, projector as an explicit sparse matrix, filtered back-projection.

Kak and Slaney, *Principles of Computerized Tomographic Imaging*, 3.4, with Parker's weights. In go
a geometry and images or sinograms, out come sinograms or images, differentiable in what goes in.
Below are the linear maps of `dro_torch.physics` and the scans of `dro_torch.data`; above are the
reconstruction networks and experiments.

Geometry (that of ASTRA's ``fanflat``, all lengths in one unit, millimetres in the presets): the
image is centred on the rotation axis, x to the right along columns, y up, row 0 on top. At angle
:math:`\theta` a point has the lateral coordinate :math:`t = x\cos\theta + y\sin\theta` and the
depth :math:`s = -x\sin\theta + y\cos\theta`; the source is at :math:`s = -D` (`source_origin`),
the detector at distance :math:`D_d` (`source_detector`) from it, and the ray through a point meets
a flat detector at :math:`u = D_d\,(t + c)/(D + s)`, a curved one (arc around the source) at the arc
length :math:`u = D_d\arctan((t + c)/(D + s))`, with c the `centre_offset`. Cell k is centred at
:math:`u_k = (k - (K-1)/2)\,p + o`, with o the `detector_offset`.
"""

from __future__ import annotations

from dro_torch.tomography.backprojection import FILTERS, FanBeamFBP, fan_beam_fbp
from dro_torch.tomography.geometry import DETECTORS, FanBeamGeometry, check_geometry
from dro_torch.tomography.projector import FanBeamProjector, fan_beam_matrix
from dro_torch.tomography.weights import CoverageWarning, scan_weights

__all__ = [
    "FanBeamGeometry",
    "FanBeamProjector",
    "FanBeamFBP",
    "fan_beam_fbp",
    "fan_beam_matrix",
    "scan_weights",
    "check_geometry",
    "CoverageWarning",
    "DETECTORS",
    "FILTERS",
]
