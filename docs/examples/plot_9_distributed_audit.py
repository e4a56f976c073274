r"""
An audit of data on several machines
====================================

*The calibration data are large and lie in several places. Do I have to bring them together?* No,
for two reasons.

*Blocks.* Everything that the worst case of a linear map needs is a mean over samples, so data are
read a block at a time, from files that stay on disk.

*Second moments.* With the residual :math:`r = x - By` the worst-case risk depends on the samples
through :math:`\mathbb E[rr^\top]` alone. A machine can replace its N rows :math:`(x_i, y_i)` by the
n + m rows of a triangular factor R with the same second moments,

.. math:: Z = QR \quad\Longrightarrow\quad Z^\top Z = R^\top R ,

and send these: exactly the same answer from some kilobytes, and no sample leaves its machine.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib.pyplot as plt
import numpy as np

from dro_core import operators, worst_case_curve, worst_case_risk

n = 24
A = operators.BackwardHeat(time=1e-4, size=n)
B = A.inverse(regularization=1e-2)
radius = 0.5

# %%
# Three sites
# -----------
#
# Each writes its pairs in single precision. The third has an older device, with three times the
# noise.

folder = TemporaryDirectory()
sites = {"north": (20_000, 0.05), "south": (30_000, 0.05), "east": (10_000, 0.15)}
for seed, (site, (count, noise)) in enumerate(sites.items()):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, n)).cumsum(axis=1) / 5
    y = A.apply(x) + noise * rng.standard_normal(x.shape)
    np.save(Path(folder.name) / f"{site}.npy", np.hstack([x, y]).astype(np.float32))


def pairs(site):
    """x and y of a site; nothing is read before it is used."""
    rows = np.load(Path(folder.name) / f"{site}.npy", mmap_mode="r")
    return rows[:, :n], rows[:, n:]


# %%
# One machine: blocks
# -------------------
#
# Anything that hands out blocks (x, y) whenever it is iterated stands in the place of the data.


class AllSites:
    """The pairs of all sites, 5,000 rows at a time."""

    def __iter__(self):
        for site in sites:
            x, y = pairs(site)
            for first in range(0, len(x), 5_000):
                yield x[first : first + 5_000], y[first : first + 5_000]


together = worst_case_risk(B, AllSites(), None, radius)
assert together.verify().holds()  # another pass over the files, through B itself
print(f"nominal {together.nominal_risk:.3f}, worst case {together.risk:.3f}, at radius {radius}")

# %%
# Several machines: triangular factors
# ------------------------------------
#
# Threads stand for machines here; on a cluster the same function is what a worker runs. (Dask
# arrays are taken as they are, and reduced where their scheduler puts them.)


def summary(site):
    """Number of samples, and n + m rows with their second moments: all that is sent."""
    rows = np.hstack(pairs(site)).astype(np.float64)
    factor = np.linalg.qr(rows, mode="r")
    return len(rows), np.sqrt(len(factor) / len(rows)) * factor


with ThreadPoolExecutor() as pool:
    sent = dict(zip(sites, pool.map(summary, sites), strict=True))
total = sum(count for count, _ in sent.values())
rows = np.vstack([factor for _, factor in sent.values()])
weights = np.concatenate([np.full(2 * n, count / total / (2 * n)) for count, _ in sent.values()])
merged = worst_case_risk(B, rows[:, :n], rows[:, n:], radius, weights=weights)

print(f"{total} samples, {len(rows)} rows sent ({rows.nbytes / 1024:.0f} KiB)")
print(
    f"worst case from the summaries / from the samples - 1: {merged.risk / together.risk - 1:.1e}"
)
assert abs(merged.risk / together.risk - 1) < 1e-9
assert merged.verify().holds()

# %%
# The same number from 144 rows in place of 60,000. What the summaries cannot say is which *samples*
# are moved most; ``together.atoms()`` says that, a block at a time.
#
# Site by site
# ------------
#
# The mean hides where the risk comes from. The summaries answer that as well: each is an audit of
# its own.

alone = {
    site: worst_case_risk(B, factor[:, :n], factor[:, n:], radius)
    for site, (_, factor) in sent.items()
}
for site, worst in alone.items():
    print(f"{site:6} nominal {worst.nominal_risk:.3f}, worst case {worst.risk:.3f}")
assert abs(alone["north"].risk / alone["south"].risk - 1) < 0.02
assert alone["east"].nominal_risk > 5 * alone["north"].nominal_risk

radii = np.linspace(0.0, 1.0, 21)
figure, axis = plt.subplots(
    figsize=(7.0, 3.4),
    num="Worst-case risk against the radius for the three sites and all together. North and south"
    " coincide; east, with its older device, lies above them; the curve of all data lies "
    "between.",
)
for site, (_, factor) in sent.items():
    curve = worst_case_curve(B, factor[:, :n], factor[:, n:], radii)
    axis.plot(radii, curve.risk, "--" if site == "south" else "-", label=f"{site}, alone")
every = worst_case_curve(B, rows[:, :n], rows[:, n:], radii, weights=weights)
axis.plot(radii, every.risk, ":", color="black", label="all three, from 144 rows")
axis.axvline(radius, color="0.6", linewidth=0.8)
axis.set(xlabel="radius ρ (units of y)", ylabel="worst-case risk (squared units of x)")
axis.legend()
folder.cleanup()
