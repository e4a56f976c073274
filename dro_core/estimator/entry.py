"""`fit_linear`: what is asked, checked and brought into the form that is searched, and back."""

from __future__ import annotations

import math
import warnings

import numpy as np
from numpy.typing import ArrayLike

from dro_core.checks import as_non_negative, as_radius, check_option
from dro_core.estimator.fit import LinearFit
from dro_core.estimator.judge import TOO_FAR_APART, Judge
from dro_core.estimator.law import Law
from dro_core.estimator.reduction import whitened
from dro_core.estimator.search import BLURS, Search
from dro_core.optional import installed, missing
from dro_core.samples import Samples, SamplesLike, as_blocks
from dro_core.structure import PointStructure, SignalNoise, Structure, as_structure
from dro_core.threads import single_threaded
from dro_core.types import Array, Real

#: Structures that a map can be fitted for.
FITTED = ("y|x", "joint", "x|y")
ALLOWED = "'y|x', 'joint', 'x|y', or YGivenX, Joint, XGivenY with weights, or SignalNoise"
#: Up to this many entries of the second moments one thread is faster: Newton steps are short.
SMALL_MOMENTS = 2**18
#: A map with a worse gap comes with a warning.
LARGEST_QUIET_GAP = 1e-3
#: Small problems without a good law are left to a semidefinite programme, where there is cvxpy.
WITHOUT_PROGRAMME = "; " + missing("cvxpy", "a better proof for small data")


class NotOptimalWarning(UserWarning):
    """The map of `fit_linear` is not proved optimal: its relative saddle gap exceeds 1e-3."""


def fit_linear(
    *,
    x: SamplesLike,
    y: ArrayLike | None = None,
    radius: Real,
    epsilon: Real = 0.0,
    structure: str | Structure = "y|x",
    weights: ArrayLike | None = None,
    tolerance: Real = 0.0,
) -> LinearFit:
    r"""The linear map with the smallest (entropic) worst-case risk, certified.

    .. math:: \min_B\ \sup_{\pi}\ \int \|x' - By'\|^2\,d\pi

    over the laws of `worst_case_risk` (``epsilon = 0``) or of `entropic_worst_case`. Keyword-only,
    so that there is no doubt about which is the signal and which the measurement.

    Parameters
    ----------
    x, y : (N, n) and (N, m) arrays
        Signals and measurements, samples as rows; or in blocks, as in `LinearReconstruction`: these
        are replaced by n + m rows with their second moments, which are all a fit depends on, and
        read again for the worst case of the map (whose `law` then speaks of those rows).
    radius : float
        W2 radius >= 0 in the units of the data (with ``epsilon > 0``: the adjusted radius). At zero
        the least-squares map of smallest norm (or the ridge map with weight ε/2).
    epsilon : float
        Entropy weight >= 0, in squared units of the data.
    structure : "y|x", "joint", "x|y", or one of them as an object with weights; `SignalNoise`
        The weights of the transport cost are those of `Joint`; infinity freezes an axis, whose
        columns of B are least squares. With entropy what moves is blurred by
        :math:`N(0, \tfrac\varepsilon2W^{-1})`. Under x|y every least-squares map is optimal,
        whatever the weights; the one of smallest norm is returned.
    weights : (N,) array, optional
        Non-negative, summing to one; default uniform.
    tolerance : float
        Gap >= 0 at which the search may end; by default it goes on to 1e-9 (5e-5 for large maps),
        which noise-free data of many dimensions make slow. `.gap` says what was reached.

    Returns
    -------
    LinearFit
        `.matrix`, `.risk`, `.lower`, `.gap`, `.multiplier`, `.singular_values`, `.predict(y)`,
        `.verify()`.

    Raises
    ------
    ValueError, TypeError
        For bad arrays, radius, epsilon, weights or structure (a norm other than 2 included).
    OverflowError
        If x, y, radius and epsilon are too far apart in size.

    Warns
    -----
    NotOptimalWarning
        If `gap` exceeds 1e-3 and the tolerance.
    """
    samples = as_blocks(x, y, weights)
    rho = as_radius(radius)
    gap = as_non_negative(tolerance, "tolerance", "a relative gap >= 0")
    entropy_weight = as_non_negative(epsilon, "epsilon", "an entropy weight >= 0")
    resolved = as_fitted_structure(structure)
    _check_sizes(resolved, samples.widths, entropy_weight)
    rows, signals, mu = _moments_or_all(samples)
    quiet = np.errstate(over="ignore", divide="ignore", invalid="ignore")
    try:
        with quiet, single_threaded(sum(samples.widths) ** 2, SMALL_MOMENTS):
            if isinstance(resolved, SignalNoise):
                found = _uncoupled(rows, signals, mu, rho, resolved, gap)
            else:
                found = _fit(rows, signals, mu, rho, entropy_weight, resolved, gap)
            if not samples.in_memory:
                found = found.of_samples(samples)
    except np.linalg.LinAlgError:  # of matrices that are not numbers any more
        raise OverflowError(TOO_FAR_APART) from None
    if not math.isfinite(found.risk + found.lower):
        raise OverflowError(TOO_FAR_APART)
    if found.gap > max(gap, LARGEST_QUIET_GAP):
        warnings.warn(
            f"the worst-case risk of the map, {found.risk:.6g}, may be {found.gap:.2g} of itself "
            f"above the smallest one, which is at least {found.lower:.6g}; rescale the data, or "
            f"try another radius or epsilon{'' if installed('cvxpy') else WITHOUT_PROGRAMME}",
            NotOptimalWarning,
            stacklevel=2,
        )
    return found


def _moments_or_all(samples: Samples) -> tuple[Array, Array, Array]:
    """The samples with their weights; of those in blocks, rows with the same second moments."""
    if samples.in_memory:
        (x, y), weights = samples.whole()
        return x, y, weights
    root, n = samples.root(), samples.widths[0]
    root *= math.sqrt(len(root))
    return root[:, :n], root[:, n:], np.full(len(root), 1.0 / len(root))


def _check_sizes(
    structure: PointStructure | SignalNoise, sizes: tuple[int, ...], epsilon: float
) -> None:
    n, m = sizes
    if isinstance(structure, PointStructure):
        structure.weight_x.check_size(n, "x")
        structure.weight_y.check_size(m, "y")
    elif epsilon > 0:
        raise ValueError(f"epsilon: {epsilon} with {structure!r}; allowed: 0.0")
    elif structure.forward.shape != (m, n):
        raise ValueError(
            f"forward: shape {structure.forward.shape}, but a map from x to y has shape {(m, n)}"
        )


def as_fitted_structure(structure: str | Structure) -> PointStructure | SignalNoise:
    """A structure that a map can be fitted for, with weights or without."""
    if not isinstance(structure, Structure):
        if not isinstance(structure, str):
            raise TypeError(f"structure: {structure!r}; allowed: {ALLOWED}")
        check_option(structure, "structure", FITTED)
    resolved = as_structure(structure)
    if isinstance(resolved, SignalNoise):
        return resolved
    if not isinstance(resolved, PointStructure) or resolved.norm != 2.0:
        raise ValueError(f"structure: {resolved!r}; allowed: {ALLOWED}, with norm 2")
    return resolved


def _uncoupled(
    x: Array, y: Array, weights: Array, radius: float, structure: SignalNoise, tolerance: float
) -> LinearFit:
    """The fit where signal and noise move: that of (x - Γy, y) with uncoupled costs, plus Γ."""
    gain, costs = structure.equivalent()
    found = _fit(x - y @ gain.T, y, weights, radius, 0.0, costs, tolerance)
    n = x.shape[1]
    law, roots = found.law, found.law.roots
    back = Law(
        law.displacement_x + law.displacement_y @ gain.T,
        law.displacement_y,
        np.hstack([roots[:, :n] + roots[:, n:] @ gain.T, roots[:, n:]]),
    )
    return Judge(x, y, weights, radius, 0.0, structure).fit(found.matrix + gain, [back])


def _fit(
    x: Array,
    y: Array,
    weights: Array,
    radius: float,
    epsilon: float,
    structure: PointStructure,
    tolerance: float,
) -> LinearFit:
    """The fit of the whitened data, brought back; its law or a better one proves it there."""
    search = Search(x, y, weights, radius, epsilon, structure, tolerance)
    if structure.weight_y.scalar_inverse == 1.0 or not search.moves_y:
        return _in_subspaces(search) if search.lives_in_subspaces else search.run()
    if radius == 0.0 and epsilon == 0.0:  # least squares of smallest norm, in the data's own units
        return search.run()
    data = whitened(x, y, weights, structure)
    own = Search(data.x, data.y, weights, radius, epsilon, data.structure, tolerance)
    found = own.run()
    laws = [found.law]
    if epsilon == 0.0:
        # what has no variance in these units may have rounding in the given ones
        laws += [own.blurred(found.law, share) for share in BLURS]
        # a common shift may be correlated with frozen axes, a blur is not
        laws += own.laws_without_residual(found.matrix)
    return search.fit(data.restore(found.matrix), [data.restore_law(law) for law in laws])


def _in_subspaces(search: Search) -> LinearFit:
    """The fit in coordinates of the data's subspaces (the lemma), brought back and judged once."""
    x, y = search.space_x.basis, search.space_y.basis
    own = Search(
        search.x @ x,
        search.y @ y,
        search.weights,
        search.radius,
        0.0,
        search.structure,
        search.tolerance,
    )
    found, k = own.run(), x.shape[1]
    law = found.law
    back = Law(
        law.displacement_x @ x.T,
        law.displacement_y @ y.T,
        np.hstack([law.roots[:, :k] @ x.T, law.roots[:, k:] @ y.T]),
    )
    # what has no variance outside of the subspaces may have rounding there
    laws = [back, *(search.blurred(back, share) for share in BLURS)]
    return search.fit(x @ found.matrix @ y.T, laws)
