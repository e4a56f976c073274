"""The one question: how bad can this map get, on these data, within this radius?"""

from __future__ import annotations

import importlib.metadata
import platform
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq

from dro_core.auditing.answer import BestLinear, StructureAudit
from dro_core.auditing.layout import as_rows
from dro_core.auditing.maps import AuditedMap, RecognisedMap, recognise_map
from dro_core.auditing.radius import Pairs, audit_radius
from dro_core.auditing.report import Audit
from dro_core.auditing.shares import principal_directions, sample_shares, spectral_shares
from dro_core.auditing.upstairs import networks
from dro_core.certificate import Certificate
from dro_core.checks import InfeasibleRadiusError, as_count, as_samples, as_weights
from dro_core.estimator import NotOptimalWarning, fit_linear
from dro_core.linear_map import MapLike
from dro_core.structure import PointStructure, Structure, XShift, YShift, as_structure
from dro_core.transport import squared_norms
from dro_core.types import Array, Real
from dro_core.worst_case import LinearReconstruction

#: Relative tolerance of certificates.
CERTIFIED = 1e-6
#: Radii of the curve, as multiples of the audit's.
CURVE = np.linspace(0.0, 2.0, 33)
#: The best linear map is fitted up to this many numbers per pair (x, y).
LARGEST_FIT = 2048
#: To this gap of the risk, half of it in the RMSE that the page shows; it says what is left.
COMPARED = 1e-2
#: Radii up to this multiple of the audit's are searched for one where the audited map is better.
FURTHEST = 1e3


def audit(
    B: AuditedMap,
    x: ArrayLike,
    y: ArrayLike,
    *,
    radius: Real | None = None,
    shifted: Pairs | None = None,
    noise: Real | None = None,
    photons: Real | None = None,
    operator_change: tuple[MapLike, MapLike] | None = None,
    structures: str | Structure | Iterable[str | Structure] = ("y|x", "joint", "x|y"),
    forward: MapLike | None = None,
    posterior: MapLike | None = None,
    weights: ArrayLike | None = None,
    linear: bool | None = None,
    best: bool = True,
    output_range: Sequence[float] | None = None,
    lipschitz: Real | None = None,
    smoothing: Real | None = None,
    seed: int = 0,
) -> Audit:
    r"""A robustness report for a reconstruction map that somebody already has.

    For every structure the certified interval of the worst-case risk
    :math:`\sup_\pi\int\|x' - B(y')\|^2\,d\pi` against the radius, the law that attains it, where
    its budget goes, and the best linear map at that radius beside yours. Linear and affine maps get
    exact answers (`worst_case_risk`), networks those of `dro_torch.certify`.

    Parameters
    ----------
    B : map from y to x
        A matrix (dense, sparse, complex; (n, m) for flattened samples), a LinearOperator of scipy
        or PyLops, an operator of ODL or SigPy, a physics of deepinv (its ``A_dagger``), a
        ``torch.nn.Module``, or a function of a batch (N, ...) of arrays (or tensors). Functions and
        modules go through a randomised test of linearity; a linear one is audited as its matrix.
    x, y : (N, ...) arrays
        Signals and measurements: real or complex, images, tensors, data frames.
    radius, noise, photons, operator_change, shifted
        Exactly one. A W2 radius in the units of the data; the standard deviation of noise in every
        number of y; photons per unit of y; maps (forward, changed) from x to y; pairs (x', y') from
        the field, whose conditional Wasserstein distance is taken (see `RadiusSource`).
    structures : names or Structures
        "y|x", "joint", "x|y"; "x" with `forward`, "y" with `posterior`. The first one leads.
    forward, posterior : maps, optional
        For the structures x and y.
    weights : (N,) array, optional
        Of the samples; non-negative, summing to one; default uniform.
    linear : bool, optional
        True refuses a function that is not linear (to 1e-3: an inverse by iteration is so to its
        tolerance), False leaves it a network.
    best : bool
        Whether to fit the best linear map for the leading structure (at most 2048 numbers per
        pair).
    output_range, lipschitz, smoothing : optional
        For networks, as in `dro_torch.certify`.
    seed : int
        Of random tests and resampling.

    Returns
    -------
    Audit
        `.summary()`, `.to_dict()`, `.report(folder)`, `.structures`, `.best`.

    Raises
    ------
    ValueError, TypeError
        For what does not fit; the message names the argument, and the side.
    ModuleNotFoundError
        For a network without torch.

    Examples
    --------
    >>> import numpy as np
    >>> from dro_core import audit
    >>> x = np.array([[1.0], [-1.0]])
    >>> found = audit([[2.0]], x, x, radius=0.5, structures="y|x")
    >>> found.structures["y|x"].upper, found.best.risk < 4.0, found.holds
    (4.0, True, True)
    """
    rows_x, layout_x = as_rows(x, "x")
    rows_y, layout_y = as_rows(y, "y")
    if len(rows_x) != len(rows_y):
        raise ValueError(
            f"y: {len(rows_y)} samples, but x has {len(rows_x)}; sample i of both is one pair"
        )
    mu = as_weights(weights, len(rows_x))
    start = as_count(seed, "seed")
    chosen = audit_structures(structures, forward, posterior)
    found = recognise_map(B, layout_x, layout_y, rows_y, linear=linear, seed=start)
    ball = audit_radius(
        rows_x,
        rows_y,
        radius=radius,
        shifted=shifted,
        noise=noise,
        photons=photons,
        operator_change=operator_change,
        weights=None if weights is None else mu,
        seed=start,
    )
    residual = rows_x - found.call(rows_y)
    nominal = float(mu @ squared_norms(residual))
    network = {"output_range": output_range, "lipschitz": lipschitz, "smoothing": smoothing}
    name, reconstruct = found.kind, found.call
    if found.linear is not None:
        answers, fitted, missing = _audit_linear(
            found, rows_x, rows_y, mu, ball.value, chosen, best
        )
        notes = _notes_of_linear(found, network)
    else:
        certified = networks().intervals(
            found.source, rows_x, rows_y, (layout_x, layout_y), ball.value, chosen, mu, network
        )
        answers, nominal = certified.structures, certified.nominal
        name = f"{found.kind}: {certified.map}"
        if output_range is not None:
            reconstruct = _clamped(found.call, output_range)
        notes = _notes_of_network(certified.precision_defect, smoothing)
        fitted, missing = None, "it is found for linear maps; see dro_torch.training for networks"
    return Audit(
        map=name,
        linear=found.linear is not None,
        radius=ball,
        structures={answer.structure: answer for answer in answers},
        nominal=nominal,
        best=fitted,
        best_missing=missing,
        field_risk=None if shifted is None else _field_risk(reconstruct, shifted),
        x=layout_x.restore(rows_x),
        y=layout_y.restore(rows_y),
        layout_x=layout_x,
        layout_y=layout_y,
        weights=mu,
        reconstruct=reconstruct,
        notes=notes,
        versions=versions(),
        command=f"dro_core.audit(B, x, y, radius={ball.value!r}, structures={[*chosen]!r}, "
        f"seed={start})",
    )


def audit_structures(
    structures: str | Structure | Iterable[str | Structure],
    forward: MapLike | None = None,
    posterior: MapLike | None = None,
) -> dict[str, Structure]:
    """Structures by name, those of the marginals with their maps.

    Raises
    ------
    ValueError, TypeError
        For unknown ones, none, the same twice, or a marginal without its map.
    """
    given = [structures] if isinstance(structures, str | Structure) else list(structures)
    found: dict[str, Structure] = {}
    for item in given:
        structure: Structure
        if item == XShift.name and forward is not None:
            structure = XShift(forward)
        elif item == YShift.name and posterior is not None:
            structure = YShift(posterior)
        elif item in (XShift.name, YShift.name):
            which = (
                "forward, the forward map"
                if item == XShift.name
                else ("posterior, the posterior mean")
            )
            raise ValueError(f"structures: {item!r} needs the argument {which}")
        else:
            structure = as_structure(item, "structures")
        if structure.name in found:
            raise ValueError(f"structures: {structure.name!r} is there twice")
        found[structure.name] = structure
    if not found:
        raise ValueError("structures: empty; at least one is needed")
    return found


def _audit_linear(
    found: RecognisedMap,
    x: Array,
    y: Array,
    weights: Array,
    radius: float,
    structures: dict[str, Structure],
    best: bool,
) -> tuple[list[StructureAudit], BestLinear | None, str]:
    """Exact answers. An offset b of an affine map belongs to x: x - (By + b) = (x - b) - By."""
    assert found.linear is not None
    if found.offset is not None:
        if not all(isinstance(structure, PointStructure) for structure in structures.values()):
            raise ValueError(
                "structures: 'x' and 'y' need a linear map; this one is affine, B(0) is not zero"
            )
        x = x - found.offset
    problem = LinearReconstruction(found.linear, x, y, weights=weights)
    answers = [
        linear_structure_audit(problem, structure, radius) for structure in structures.values()
    ]
    name, leading = next(iter(structures.items()))
    missing = _no_fit(leading, x, y, best)
    if missing:
        return answers, None, missing
    return answers, _best_linear(problem, name, leading, radius), ""


def linear_structure_audit(
    problem: LinearReconstruction, structure: Structure, radius: float
) -> StructureAudit:
    """The exact worst case of a linear map over one structure, with its shares and curve.

    An empty ball is an answer without numbers, whose reason names the smallest feasible radius.
    """
    smallest = 0.0
    try:
        worst = problem.worst_case(radius, structure)
        problem.curve([0.0], structure)
    except InfeasibleRadiusError as error:
        smallest = error.smallest_radius
        if radius < smallest:
            return StructureAudit(
                structure.name, radius, None, None, False, False, reason=str(error)
            )
        worst = problem.worst_case(radius, structure)
    radii = radius * CURVE if radius > 0 else np.zeros(1)
    curve = problem.curve(radii[radii >= smallest * (1 + 1e-12)], structure)
    certificate, exact = worst.verify(), worst.risk == worst.upper
    dx, dy = worst.displacement_x, worst.displacement_y
    moved = "y" if squared_norms(dy) @ worst.weights >= squared_norms(dx) @ worst.weights else "x"
    directions, shares = principal_directions(dy if moved == "y" else dx, worst.weights)
    spectral = None
    if isinstance(structure, PointStructure) and problem.map.singular_basis() is not None:
        spectral = spectral_shares(problem.spectrum(structure), radius)
    return StructureAudit(
        structure=structure.name,
        radius=radius,
        lower=certificate.primal_risk,
        upper=max(certificate.dual_risk, worst.upper),
        exact=exact,
        holds=certificate.holds(CERTIFIED) if exact else _bracket_holds(certificate, worst.upper),
        failure_probability=worst.failure_probability,
        multiplier=worst.multiplier,
        radii=curve.radius,
        curve_lower=curve.risk,
        curve_upper=curve.upper,
        displacement_x=dx,
        displacement_y=dy,
        sample_shares=sample_shares(structure.transport_cost(dx, dy), worst.weights),
        directions=directions,
        direction_shares=shares,
        moved=moved,
        spectral=spectral,
    )


def _bracket_holds(certificate: Certificate, upper: float) -> bool:
    """Whether a matrix-free bracket is in order, and its law in the ball."""
    slack = CERTIFIED * upper + certificate.resolution
    in_ball = certificate.transport_cost <= certificate.budget * (1 + CERTIFIED)
    return in_ball and certificate.primal_risk <= upper + slack


def _no_fit(structure: Structure, x: Array, y: Array, best: bool) -> str:
    """Why there is no best linear map, or nothing."""
    if not best:
        return "not asked for"
    if not isinstance(structure, PointStructure) or structure.norm != 2.0:
        return f"it is found for y|x, joint and x|y, not for {structure.name}"
    size = x.shape[1] + y.shape[1]
    if size > LARGEST_FIT:
        return f"it is found for up to {LARGEST_FIT} numbers per pair, and these have {size}"
    return ""


def _best_linear(
    problem: LinearReconstruction, name: str, structure: Structure, radius: float
) -> BestLinear:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotOptimalWarning)  # `lower` says how far
        fit = fit_linear(
            x=problem.x,
            y=problem.y,
            radius=radius,
            structure=structure,
            weights=problem.weights,
            tolerance=COMPARED,
        )
    other = LinearReconstruction(fit.matrix, problem.x, problem.y, weights=problem.weights)
    radii = radius * CURVE if radius > 0 else np.zeros(1)
    below, above = overtaken(problem, other, structure, radius)
    return BestLinear(
        name,
        fit.matrix,
        fit.risk,
        fit.lower,
        other.fidelity,
        radii,
        other.curve(radii, structure).risk,
        below,
        above,
    )


def overtaken(
    audited: LinearReconstruction, best: LinearReconstruction, structure: Structure, radius: float
) -> tuple[float | None, float | None]:
    r"""The nearest radii below and above at which the audited map has the smaller worst case.

    Crossings of the two exact curves on a grid (linear below, geometric up to 1000 times the radius
    above), refined by a bracketed root. For large radii the map with the smaller norm is better.
    """

    def excess(rho: float) -> float:
        """Of the audited map, as a root mean square."""
        first, second = (
            float(np.sqrt(problem.worst_case(rho, structure).risk)) for problem in (audited, best)
        )
        return first - second

    if radius == 0.0:
        return None, None
    found: list[float | None] = []
    rounding = 1e-9 * float(np.sqrt(audited.worst_case(radius, structure).risk))
    grids = (radius * CURVE[CURVE <= 1.0][::-1], radius * np.geomspace(1.0, FURTHEST, 25))
    for grid in grids:
        roots = [np.sqrt(problem.curve(grid, structure).risk) for problem in (audited, best)]
        better = np.flatnonzero(roots[0] - roots[1] < -rounding)
        if not better.size:
            found.append(None)
            continue
        k = int(better[0])
        ends = (grid[k - 1], grid[k]) if k else (grid[0], grid[0])
        crossing = ends[0] != ends[1] and excess(float(ends[0])) > 0
        found.append(float(brentq(excess, *ends, rtol=1e-10)) if crossing else float(ends[0]))
    return found[0], found[1]


def _clamped(
    call: Callable[[Array], Array], output_range: Sequence[float]
) -> Callable[[Array], Array]:
    low, high = (float(end) for end in output_range)
    return lambda rows: np.clip(call(rows), low, high)


def _field_risk(call: Callable[[Array], Array], shifted: Pairs) -> float:
    rows = [as_samples(as_rows(part, "shifted")[0], "shifted") for part in shifted]
    return float(squared_norms(rows[0] - call(rows[1])).mean())


def _notes_of_linear(found: RecognisedMap, network: dict[str, Any]) -> tuple[str, ...]:
    unused = [name for name, value in network.items() if value is not None]
    notes = [f"{', '.join(unused)}: for networks only, not used for this map"] if unused else []
    if found.defect > 0:
        notes.append(
            f"the function and the matrix that was audited agree to {found.defect:.1e}, "
            "relatively, on the data and in the randomised test"
        )
    return tuple(notes)


def _notes_of_network(precision_defect: float, smoothing: Real | None) -> tuple[str, ...]:
    notes = []
    if precision_defect > 0:
        notes.append(
            f"outputs in the network's own precision differ by up to {precision_defect:.1e} (norm "
            "of a sample) from those in float64, which the intervals are about"
        )
    if smoothing is not None:
        notes.append("reconstructions in the pictures are those without smoothing")
    return tuple(notes)


def versions() -> dict[str, str]:
    """Versions of what an audit rests on, and of what is loaded besides."""
    found = {"python": platform.python_version()}
    for name in ("structured-dro", "numpy", "scipy", "torch"):
        if name == "torch" and name not in sys.modules:
            continue
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "from a checkout"
    return found
