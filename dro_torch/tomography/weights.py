"""Redundancy weights: the share of the integral over all rays that a measured one stands for."""

from __future__ import annotations

import math
import warnings

import numpy as np
import numpy.typing as npt

from dro_core.types import Array, Booleans
from dro_torch.tomography.geometry import FanBeamGeometry, check_geometry

#: Gaps between views of more than so many usual ones count as missing data, not as coarse steps.
MISSING_GAP = 10.0
#: Wider gaps are left out of the usual ones while they are few: so many at most.
WIDE_GAP = math.radians(30.0)
MOST_HOLES = 6
#: Views nearer than this are one view, measured again.
COINCIDENT = 1e-6
#: Smaller ones may have been converted from degrees twice.
SMALLEST_SPAN = 0.2
#: Share of the rays through the image that may be measured from neither side without a warning.
UNSEEN = 0.005
#: Redundancy weights fade over this angle from missing views, and this share of the detector.
VIEW_TAPER = math.radians(10.0)
CELL_TAPER = 0.05


class CoverageWarning(UserWarning):
    """The views leave out rays through the image: no filtered back-projection can be right."""


def scan_weights(geometry: FanBeamGeometry) -> Array:
    r"""Share of the integral over all rays that each measured one stands for: (views, cells).

    .. math:: w(\theta, \gamma) = \Delta\theta\,\frac{m(\theta, \gamma)}
              {m(\theta, \gamma) + m(\theta', \gamma')},\qquad
              \gamma' = 2\delta - \gamma,\quad \theta' = \theta + \pi - 2(\gamma - \delta),\quad
              \delta = \arctan(c/D)

    where :math:`(\theta', \gamma')` is the same ray from the other side and m says how surely a ray
    is measured: 1 inside, falling linearly to 0 within 10 degrees of missing views and 5 % of
    the detector from its ends. A full scan has :math:`w = \Delta\theta/2`; short scans, missing
    views and displaced detectors are weighted smoothly, as Parker's and Wang's weights do.
    :math:`\Delta\theta` is half the sum of the gaps to the neighbouring angles on the circle,
    shared by views that coincide (several turns, views taken again). Gaps above ten usual ones are
    missing data and count as a usual one: the gap that half of the circle lies in smaller ones
    than, not counting gaps above 30 degrees where there are few. So every ray that is measured has
    the weight :math:`\pi` in all, whatever the order, spacing and number of the views.

    Parameters
    ----------
    geometry : FanBeamGeometry

    Warns
    -----
    CoverageWarning
        Where more than 0.5 % of the rays through the image are measured from neither side.

    Returns
    -------
    (views, detector_count) array
        In radians.

    Raises
    ------
    TypeError
        If `geometry` is not a FanBeamGeometry.

    Notes
    -----
    Source: Parker, *Optimal short scan convolution reconstruction for fanbeam CT* (Med. Phys. 9,
    1982): weights of the two measurements of a ray sum to one and change continuously, and half a
    turn plus the fan angle measures every ray. His weights depend on the end of the arc alone;
    these on the nearest missing view, so that arcs of any number and size are covered. Wang, *X-ray
    micro-CT with a displaced detector array* (Med. Phys. 29, 2002) for the ends of the detector.
    """
    angles, again, count = _distinct(np.asarray(check_geometry(geometry).angles))
    gaps = np.diff(angles, append=angles[0] + 2 * np.pi)
    usual = _usual_gap(gaps)
    missing = gaps > MISSING_GAP * usual
    holes = list(
        zip(angles[missing] + usual / 2, np.roll(angles, -1)[missing] - usual / 2, strict=True)
    )
    gaps = np.where(missing, usual, gaps)
    steps = (gaps + np.roll(gaps, 1)) / 2 / count
    _warn_of_unseen_rays(geometry, holes)

    def measured(view: Array, fan: Array) -> Array:
        nearest = np.full(np.broadcast_shapes(view.shape, fan.shape), VIEW_TAPER)
        for low, high in holes:
            width, after = np.mod(high - low, 2 * np.pi), np.mod(view - low, 2 * np.pi)
            away = np.minimum(after - width, 2 * np.pi - after)
            nearest = np.minimum(nearest, np.where(after <= width, 0.0, away))
        half = (geometry.fan_angles[-1] - geometry.fan_angles[0] + pitch) / 2
        middle = (geometry.fan_angles[-1] + geometry.fan_angles[0]) / 2
        inside = np.clip((half - np.abs(fan - middle)) / (2 * half * CELL_TAPER), 0, 1)
        return np.asarray(nearest / VIEW_TAPER * inside)

    pitch = geometry.detector_pixel / geometry.source_detector
    view, fan = angles[:, None], geometry.fan_angles[None, :]
    own = np.maximum(measured(view, fan), 1e-9)
    other = measured(*_other_side(geometry, view, fan))
    return np.asarray(steps[:, None] * own / (own + other))[again]


def _distinct(angles: Array) -> tuple[Array, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Different angles on the circle in increasing order, which is whose, and how often each is."""
    turned = np.mod(angles, 2 * np.pi)
    turned = np.where(turned > 2 * np.pi - COINCIDENT, turned - 2 * np.pi, turned)
    order = np.argsort(turned, kind="stable")
    first = np.diff(turned[order], prepend=-np.inf) > COINCIDENT
    which = np.empty(len(angles), dtype=np.int64)
    which[order] = np.cumsum(first) - 1
    return turned[order][first], which, np.bincount(which)


def _usual_gap(gaps: Array) -> float:
    """Half of what the gaps cover lies in gaps up to this; a few wide ones may be holes."""
    narrow = gaps[gaps <= WIDE_GAP]
    wide = len(gaps) - len(narrow)
    some = np.sort(narrow if wide <= MOST_HOLES and len(narrow) >= 2 * max(wide, 1) else gaps)
    return float(some[np.searchsorted(np.cumsum(some), some.sum() / 2)])


def _other_side(geometry: FanBeamGeometry, view: Array, fan: Array) -> tuple[Array, Array]:
    """View and fan angle of the same ray from the other side."""
    displaced = math.atan(geometry.centre_offset / geometry.source_origin)
    return view + np.pi - 2 * (fan - displaced), 2 * displaced - fan


def _warn_of_unseen_rays(geometry: FanBeamGeometry, holes: list[tuple[float, float]]) -> None:
    if not holes:
        return
    radius = geometry.image_size * geometry.pixel_size / 2
    reach = math.asin(min(1.0, radius / geometry.source_origin))
    view, fan = np.linspace(0, 2 * np.pi, 720)[:, None], np.linspace(-reach, reach, 33)[None, :]

    def hidden(angle: Array) -> npt.NDArray[np.bool_]:
        inside = [
            np.mod(angle - low, 2 * np.pi) < np.mod(high - low, 2 * np.pi) for low, high in holes
        ]
        result: Booleans = np.any(inside, axis=0)
        return result

    unseen = float((hidden(view + 0 * fan) & hidden(_other_side(geometry, view, fan)[0])).mean())
    if unseen > UNSEEN:
        span = float(np.ptp(geometry.angles))
        twice = f" (the views span only {span:.3g} radians: converted from degrees twice?)"
        warnings.warn(
            f"geometry: {unseen:.1%} of the rays through the image are measured from neither side; "
            "its filtered back-projection misses edges and mass along them"
            + twice
            * (0 < span < SMALLEST_SPAN),
            CoverageWarning,
            stacklevel=4,
        )
