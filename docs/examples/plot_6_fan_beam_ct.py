r"""
Fan-beam CT, end to end
=======================

*My scanner will run at a tenth of the dose. Which reconstruction withstands it, and what can I
promise?* From the geometry to a certificate, at a size that runs in seconds: 16 × 16 pixels of 1
mm, 20 views.

A sinogram is :math:`y = Ax` with x the attenuation in 1/mm. At I photons per ray the detector
counts :math:`\operatorname{Poisson}(Ie^{-y})`; its logarithm has about the variance
:math:`e^{y}/I`. Hence the radius of a dose is

.. math:: \rho_I = \Bigl(\mathbb E\sum_k e^{y_k}/I\Bigr)^{1/2} .
"""

import math

import matplotlib.pyplot as plt
import numpy as np
import torch

from dro_core import LinearReconstruction, fit_linear
from dro_torch.tomography import FanBeamGeometry, FanBeamProjector

rng = np.random.default_rng(0)
size = 16
geometry = FanBeamGeometry(
    source_origin=60.0,  # mm
    source_detector=120.0,
    detector_pixel=2.8,
    detector_count=20,
    angles=np.linspace(0.0, 2 * np.pi, 20, endpoint=False),  # radians
    image_size=size,
    pixel_size=1.0,
)
projector = FanBeamProjector(geometry, dtype=torch.float64)


def phantoms(count):
    """Ellipses of 0.02 per mm with three discs of other densities, (count, size, size)."""
    column, row = np.meshgrid(np.arange(size) - (size - 1) / 2, np.arange(size) - (size - 1) / 2)
    images = np.zeros((count, size, size))
    for image in images:
        width, height = rng.uniform(5, 7, 2)
        body = (column / width) ** 2 + (row / height) ** 2 < 1
        image += 0.02 * body
        for _ in range(3):
            u, v = rng.uniform(-3, 3, 2)
            disc = (column - u) ** 2 + (row - v) ** 2 < rng.uniform(1, 2.2) ** 2
            image += rng.uniform(-0.01, 0.02) * (disc & body)
    return torch.from_numpy(images)


images = phantoms(400)
sinograms = projector.A(images)
fbp = projector.fbp(sinograms)
print(f"sinograms {tuple(sinograms.shape)}, line integrals up to {sinograms.max():.2f}")
print(f"root mean square error of FBP per pixel: {(fbp - images).square().mean().sqrt():.4f} /mm")

# %%
# FBP is a matrix
# ---------------
#
# Filtered back-projection is linear, so its worst case is exact. Its matrix is what it makes of
# unit sinograms. The Hann window is the usual remedy against noise.

cells = sinograms[0].numel()
units = torch.eye(cells, dtype=torch.float64).reshape(cells, *geometry.sinogram_shape)
maps = {
    "FBP, ramp": projector.fbp(units).flatten(1).T.numpy(),
    "FBP, Hann": projector.fbp(units, filter="hann").flatten(1).T.numpy(),
}
x, y = images.flatten(1).numpy(), sinograms.flatten(1).numpy()
assert np.allclose(y @ maps["FBP, ramp"].T, fbp.flatten(1).numpy())

# %%
# The radius of a dose, and the map for it
# ----------------------------------------


def scan(photons):
    """The sinograms counted at a dose (photons per ray)."""
    return -np.log(np.maximum(rng.poisson(photons * np.exp(-y)), 1) / photons)


def radius_of(photons):
    return math.sqrt((np.exp(y) / photons).sum(axis=1).mean())


full, low = 1e4, 1e3
radius = radius_of(low)
low_dose = scan(low)
moved = math.sqrt(((low_dose - y) ** 2).sum(axis=1).mean())
print(f"radius of {low:g} photons: {radius:.3f}; the scans have moved by {moved:.3f}")
assert abs(moved / radius - 1) < 0.02

fit = fit_linear(x=x, y=y, radius=radius)  # the linear map of smallest worst-case risk
maps["certified optimum"] = fit.matrix

rows = {}
for name, matrix in maps.items():
    worst = LinearReconstruction(matrix, x, y).worst_case(radius, "y|x")
    assert worst.verify().holds()
    measured = ((x - low_dose @ matrix.T) ** 2).sum(axis=1).mean()
    assert measured <= worst.risk
    rows[name] = [math.sqrt(risk) / size for risk in (worst.nominal_risk, measured, worst.risk)]
    print(f"{name:18}" + "".join(f"{rmse:9.4f}" for rmse in rows[name]))
ramp, hann, best = rows.values()
assert best[2] < 0.85 * hann[2] < 0.85 * 0.85 * ramp[2]
assert hann[0] > 1.3 * ramp[0]

# %%
# Root mean square errors per pixel, in 1/mm (the body has 0.02): without noise, measured at low
# dose, and certified: no change of the sinograms of that size, whatever its kind (another dose, a
# miscalibrated detector, a drifting source), can do worse. The ramp filter is exact where nothing
# changes and falls apart; the Hann window buys robustness with blur; the fitted map is the best
# linear map there is at this radius, and says so with a proof:

print(f"no linear map has a worst case below {math.sqrt(fit.lower) / size:.4f}")
assert fit.gap < 1e-3

# %%
# The figure
# ----------
#
# What is promised against everything looks cautious: the fitted map shows a disc only as far as no
# change of that size could have faked it. One phantom at low dose, and the certified error of the
# three maps against the dose. The radius falls with the root of the dose, and at full dose the ramp
# filter is the best of the three: a map is fitted for a radius.

doses = np.geomspace(300.0, 3e4, 9)
figure, axes = plt.subplot_mosaic(
    [
        ["truth", "FBP, ramp", "curve", "curve"],
        ["FBP, Hann", "certified optimum", "curve", "curve"],
    ],
    figsize=(7.0, 3.4),
    num="Left, a phantom with three discs and its reconstructions at 1000 photons: that of the "
    "ramp filter is grainy, that of the Hann window blurred, that of the fitted map smooth "
    "with faint discs. Right, certified error per pixel against the photons per ray, falling "
    "for all: the ramp filter is highest below 4000 photons and lowest above 10000, the "
    "fitted map is lowest between.",
)
shown = {"truth": x[0]} | {name: low_dose[0] @ matrix.T for name, matrix in maps.items()}
for name, picture in shown.items():
    axes[name].imshow(picture.reshape(size, size), cmap="gray", vmin=0.0, vmax=0.04)
    axes[name].set_title(name)
    axes[name].set_axis_off()
for name, matrix in maps.items():
    curve = LinearReconstruction(matrix, x, y).curve([radius_of(dose) for dose in doses], "y|x")
    axes["curve"].plot(doses, np.sqrt(curve.risk) / size, label=name)
axes["curve"].axvline(low, color="0.6", linewidth=0.8)
axes["curve"].set(xscale="log", yscale="log", xlabel="dose (photons per ray)")
axes["curve"].set_ylabel("certified error (1/mm per pixel)")
axes["curve"].yaxis.set_major_formatter("{x:g}")
axes["curve"].yaxis.set_minor_formatter("{x:g}")
axes["curve"].legend()
