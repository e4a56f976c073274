r"""General K_z: each sample's own convex hull of given measures; Gaussian and Poisson families.

Theorem 3.1 of the DRO paper allows any convex closed set :math:`K_z` of kernels. Its Example 2.1
has two that are *not* convex, all Gaussians :math:`N(Ax, s^2 I)` over a range of s and all Poisson
laws over a range of photon counts, and replaces them by their closed convex hulls. On finitely many
members :math:`\gamma_{z_i,1}, \dots, \gamma_{z_i,K}` a kernel of the hull is a mixture with weights
:math:`p_{ik}`, and its expected loss and cost are the mixtures of

.. math:: L_{ik} = \int \ell\,d\gamma_{z_i,k},\qquad C_{ik} = \int c(z_i, \cdot)\,d\gamma_{z_i,k}.

So the worst case over the hull is `finite_worst_case` with member k as candidate k. The dual of the
family itself, in which every sample must choose *one* member, is the dual of the hull: the choice
has a duality gap (`dro_core.reference.finite_worst_case_pure` computes it), at most
:math:`\max_i\mu_i(\max_k L_{ik} - \min_k L_{ik})`, because an optimal plan splits one sample only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse, special

from dro_core.blocks import BLOCK_ENTRIES, LARGEST_ENTRY, as_block
from dro_core.checks import (
    LARGEST,
    WEIGHT_SUM_TOLERANCE,
    as_map,
    as_positive_integer,
    as_real_array,
    as_samples,
    check_magnitude,
    check_samples_and_map,
)
from dro_core.linear_map import MapLike
from dro_core.types import Array, Table

#: More weights (samples x members x atoms) than this are refused: a table of 1 GiB.
LARGEST_TABLE = 2**27
#: Gauss-Hermite rules beyond this order have weights that underflow.
LARGEST_ORDER = 300
#: Poisson counts whose total mass is at most this are left out.
POISSON_TAIL = 1e-12


class _Measures:
    """K measures on P atoms, shared by all samples (sparse) or one family each (dense)."""

    def __init__(self, value: object) -> None:
        self.own = False
        self.weights: Any
        if sparse.issparse(value):
            self.weights = _sparse_weights(value)
        else:
            array = as_real_array(value, "measures")
            if array.ndim not in (2, 3) or array.size == 0:
                raise ValueError(
                    "measures: a non-empty (members, atoms) array, or (samples, members, atoms) "
                    f"for each sample's own, is needed, given shape {array.shape}"
                )
            _check_measures(array.min(), int(array.argmin()), array.sum(axis=-1), array.shape)
            self.own = array.ndim == 3
            self.weights = array if self.own else sparse.csr_array(array)
        self.members, self.atoms = (int(size) for size in self.weights.shape[-2:])

    def mix(self, block: Array, rows: slice) -> Array:
        """Expected values (rows, K) of a block (rows, P) of atoms; the same in every block."""
        if not self.own:  # zeros are not stored, so an infinite cost meets no zero weight
            return np.ascontiguousarray((self.weights @ np.ascontiguousarray(block.T)).T)
        weights = self.weights[rows]
        infinite = np.isinf(block)
        if not infinite.any():
            return np.asarray(np.matmul(weights, block[:, :, None])[:, :, 0])
        mixed = np.matmul(weights, np.where(infinite, 0.0, block)[:, :, None])
        touched = np.matmul(weights, infinite.astype(np.float64)[:, :, None]) > 0
        return np.asarray(np.where(touched, np.inf, mixed)[:, :, 0])

    def check_fit(self, block: Array, rows: slice | None, name: str) -> None:
        """The atoms of a table, and its samples if every sample has measures of its own."""
        if block.shape[1] != self.atoms:
            raise ValueError(
                f"measures: {self.atoms} atoms (columns), but {name} has {block.shape[1]}"
            )
        samples = len(self.weights if rows is None else self.weights[rows]) if self.own else None
        if samples is not None and samples != len(block):
            where = "" if rows is None else f" for rows {rows.start}:{rows.stop}"
            raise ValueError(
                f"measures: given for {samples} samples{where}, but {name} has {len(block)} rows"
            )


def _sparse_weights(value: Any) -> Any:
    if value.dtype.kind not in "biuf":
        raise TypeError(
            f"measures: dtype {value.dtype} is not real; allowed: integer or floating-point arrays"
        )
    if value.ndim != 2 or 0 in value.shape:
        raise ValueError(
            f"measures: a non-empty (members, atoms) matrix is needed, given shape {value.shape}"
        )
    weights = sparse.csr_array(value, dtype=np.float64, copy=True)
    weights.sum_duplicates()
    weights.eliminate_zeros()
    as_real_array(weights.data, "measures")
    if weights.nnz:
        lowest = int(weights.data.argmin())
        row = int(np.searchsorted(weights.indptr, lowest, side="right")) - 1
        flat = row * weights.shape[1] + int(weights.indices[lowest])
        _check_measures(weights.data[lowest], flat, weights.sum(axis=1), weights.shape)
    else:
        _check_measures(0.0, 0, np.zeros(weights.shape[0]), weights.shape)
    return weights


def _check_measures(smallest: float, where: int, sums: Array, shape: tuple[int, ...]) -> None:
    """Weights >= 0 (the smallest one and its flat index are given) with rows that sum to one."""
    if smallest < 0:
        index = tuple(int(i) for i in np.unravel_index(int(where), shape))
        raise ValueError(
            f"measures: entry {index} is {smallest}; weights of a measure must be non-negative"
        )
    off = ~(np.abs(sums - 1.0) <= WEIGHT_SUM_TOLERANCE)
    if off.any():
        first = tuple(int(i) for i in np.argwhere(off)[0])
        place = f"row {first[-1]}" + (f" of sample {first[0]}" if len(first) == 2 else "")
        raise ValueError(
            f"measures: {place} sums to {float(sums[first])!r}, not to 1; divide every row by its "
            "sum if that is what you mean"
        )


@overload
def hull_candidates(
    loss: ArrayLike, cost: ArrayLike, measures: ArrayLike
) -> tuple[Array, Array]: ...
@overload
def hull_candidates(loss: Table, cost: Table, measures: ArrayLike) -> tuple[Table, Table]: ...
def hull_candidates(loss: Table, cost: Table, measures: ArrayLike) -> tuple[Table, Table]:
    r"""Loss and cost of the members of each sample's hull of measures, for `finite_worst_case`.

    .. math:: L_{ik} = \sum_p \gamma_{ikp}\,\ell_{ip},\qquad C_{ik} = \sum_p \gamma_{ikp}\,c_{ip}

    With :math:`K_{z_i} = \operatorname{conv}\{\gamma_{i1}, \dots, \gamma_{iK}\}` the worst case
    over all kernels in these sets is ``finite_worst_case(*hull_candidates(...), radius)``: its plan
    entry (i, k), divided by the weight of sample i, is the share of member k in the worst-case
    kernel at sample i. The ball may be empty, for a member that costs nothing need not exist.

    Parameters
    ----------
    loss, cost : (N, P) arrays, or callables ``f(rows: slice) -> (len(rows), P) array``
        Loss and transport cost >= 0 of sample i at atom p. The atoms are shared, or each sample's
        own (column p of row i is atom p of sample i). A cost may be infinite; it counts only where
        the atom has positive weight. Callables behave as in `finite_worst_case`.
    measures : (K, P) array or scipy sparse matrix, or (N, K, P) array
        Weights >= 0 of the members on the atoms, each row summing to one: one family for all
        samples, or sample i's own in ``measures[i]``.

    Returns
    -------
    loss, cost : (N, K) arrays, or callables ``f(rows: slice) -> (len(rows), K) array``
        An array for an array, a callable for a callable. Units as given.

    Raises
    ------
    ValueError, TypeError
        For NaN, infinite losses, negative costs, weights that are negative or do not sum to one
        (the row is named), or shapes that do not fit.

    Notes
    -----
    Source: DRO paper, section 2 (the sets K_z) and Theorem 3.1.

    Examples
    --------
    Three atoms; one sample may keep its atom, or send a quarter of its mass to the last one:

    >>> from dro_core import finite_worst_case
    >>> from dro_core.noise import hull_candidates
    >>> atoms_loss, atoms_cost = [[0.0, 1.0, 8.0]], [[0.0, 1.0, 4.0]]
    >>> hull = hull_candidates(atoms_loss, atoms_cost, [[1, 0, 0], [0.75, 0, 0.25]])
    >>> hull
    (array([[0., 2.]]), array([[0., 1.]]))
    >>> finite_worst_case(*hull, radius=0.5).risk
    0.5
    """
    family = _Measures(measures)
    tables: dict[str, Any] = {}
    for name, value in (("loss", loss), ("cost", cost)):
        if callable(value):
            tables[name] = _blockwise(family, value, name)
            continue
        table = as_real_array(value, name, finite=name == "loss")
        table = as_block(table, name)
        if len(table) == 0:
            raise ValueError(f"{name}: no rows (shape {table.shape}); at least one is needed")
        family.check_fit(table, None, name)
        _check_atoms(table, name, 0)
        tables[name] = table
    shapes = {name: value.shape for name, value in tables.items() if not callable(value)}
    if len(set(shapes.values())) > 1:
        raise ValueError(
            f"cost: shape {shapes['cost']}, but loss has shape {shapes['loss']}; they must agree"
        )
    for name, value in tables.items():
        if not callable(value):
            tables[name] = family.mix(value, slice(0, None))
    return tables["loss"], tables["cost"]


def _check_atoms(block: Array, name: str, start: int) -> None:
    if name == "loss":
        bad, allowed = ~(np.abs(block) <= LARGEST_ENTRY), ""
    else:
        bad = ~((block >= 0) & ((block <= LARGEST_ENTRY) | (block == np.inf)))
        allowed = " and >= 0 (infinite: the atom is forbidden)"
    if bad.any():
        i, p = (int(k) for k in np.argwhere(bad)[0])
        raise ValueError(
            f"{name}: entry ({start + i}, {p}) is {block[i, p]}; every entry must be at most "
            f"{LARGEST_ENTRY:g} in size{allowed}"
        )


def _blockwise(
    family: _Measures, function: Callable[[slice], Any], name: str
) -> Callable[[slice], Array]:
    """Expected values of a block callable, in pieces of at most BLOCK_ENTRIES atoms."""
    step = max(1, BLOCK_ENTRIES // family.atoms)

    def expected(rows: slice) -> Array:
        start, parts = rows.start or 0, []
        while rows.stop is None or start < rows.stop:
            stop = start + step if rows.stop is None else min(start + step, rows.stop)
            piece = slice(start, stop)
            block = as_block(function(piece), name)
            if len(block) > stop - start:
                raise ValueError(
                    f"{name}: rows {start}:{stop} came back with shape {block.shape}; needed: "
                    f"at most {stop - start} rows"
                )
            family.check_fit(block, piece, name)
            _check_atoms(block, name, start)
            parts.append(family.mix(block, piece))
            if len(block) < stop - start:  # past the last sample, as slicing does
                break
            start = stop
        return np.concatenate(parts) if parts else np.empty((0, family.members))

    return expected


def _as_members(value: object, name: str, smallest: float) -> Array:
    """Parameters of the members of a family: a read-only copy, 1-D and not empty."""
    array = as_real_array(value, name)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(
            f"{name}: a non-empty 1-D array, one entry per member, is needed, given shape "
            f"{array.shape}"
        )
    check_magnitude(array, name)
    if (array < smallest).any():
        raise ValueError(
            f"{name}: entry {int(array.argmin())} is {array.min()}; every entry must be >= "
            f"{smallest:g}"
        )
    array = array.copy()
    array.setflags(write=False)
    return array


def _as_scalar_samples(clean: Array) -> Array:
    if clean.shape[1] != 1:
        raise ValueError(
            f"clean: {clean.shape[1]} columns; atoms are for one component, so (N, 1) is needed; "
            "for a map that acts on components one by one use clean.reshape(-1, 1) and add up the "
            "expected losses of each sample's components"
        )
    return clean[:, 0]


@dataclass(frozen=True, eq=False)
class GaussianNoise:
    r"""Additive Gaussian noise of K levels: member k at clean data a is :math:`N(a, s_k^2 I)`.

    Parameters
    ----------
    levels : (K,) array
        Standard deviations :math:`s_k \ge 0` per component, in the units of the data.

    Raises
    ------
    ValueError, TypeError
        For levels that are not a non-empty 1-D array of finite numbers >= 0.

    Notes
    -----
    Source: DRO paper, Example 2.1 (a), with clean data a = Ax. The family over a range of s is not
    convex; use its hull, `noise_candidates` or `hull_candidates`.
    """

    levels: ArrayLike

    def __post_init__(self) -> None:
        object.__setattr__(self, "levels", _as_members(self.levels, "levels", 0.0))

    @property
    def _members(self) -> Array:
        return np.asarray(self.levels, dtype=np.float64)

    def _variance_factors(self, clean: Array) -> tuple[Array, Array]:
        """(K,) and (N, m): the variance of component j of member k at sample i is v_k u_ij."""
        return np.asarray(self._members**2), np.ones(clean.shape)

    def moments(self, clean: ArrayLike) -> tuple[Array, Array]:
        r"""Mean and variance of every member: :math:`a_i` and :math:`s_k^2` per component.

        Parameters
        ----------
        clean : (N, m) array
            Noise-free data a_i = Ax_i, rows.

        Returns
        -------
        mean : (N, m) array
            Of all members alike; in the units of the data.
        variance : (N, K, m) array
            Per component; in squared units.

        Raises
        ------
        ValueError, TypeError
            For a bad array.
        """
        return _moments(self, as_samples(clean, "clean"))

    def atoms(self, clean: ArrayLike, order: int = 64) -> tuple[Array, Array]:
        r"""Every member as a Gauss-Hermite rule: atoms :math:`a_i + s_k t_q` with weights w_q.

        For scalar data and maps that are not linear. Expectations of polynomials of degree up to
        2 `order` - 1 are exact; at a kink of the map the error decays like 1 / `order` only.

        Parameters
        ----------
        clean : (N, 1) array
            Noise-free data.
        order : int
            Nodes per member, 1 to 300.

        Returns
        -------
        atoms : (N, K * order) array
            Row i holds the atoms of sample i, member after member; in the units of the data.
        measures : (K, K * order) scipy sparse array
            The weights, the same for all samples; for `hull_candidates`.

        Raises
        ------
        ValueError, TypeError
            For a bad array, more than one column, or a bad order.
        """
        centre = _as_scalar_samples(as_samples(clean, "clean"))
        count, members = as_positive_integer(order, "order"), len(self._members)
        if count > LARGEST_ORDER:
            raise ValueError(f"order: {count}; allowed: an integer from 1 to {LARGEST_ORDER}")
        nodes, mass = special.roots_hermitenorm(count)
        mass = mass / mass.sum()
        offsets = (self._members[:, None] * nodes).ravel()
        rows = np.repeat(np.arange(members), count)
        columns = np.arange(members * count)
        weights = (np.tile(mass, members), (rows, columns))
        return centre[:, None] + offsets, sparse.csr_array(weights, shape=(members, len(columns)))


@dataclass(frozen=True, eq=False)
class PoissonNoise:
    r"""Photon noise of K intensities: member k at clean data a is Poisson(:math:`p_k a`) / p_k.

    Parameters
    ----------
    photons : (K,) array
        Photon counts :math:`p_k > 0` per unit of clean data; few photons, much noise.

    Raises
    ------
    ValueError, TypeError
        For photons that are not a non-empty 1-D array of numbers from 1e-140 to 1e140.

    Notes
    -----
    Source: DRO paper, Example 2.1 (b), with clean data a = Ax >= 0. Components are independent.
    The family over a range of counts is not convex; use its hull.
    """

    photons: ArrayLike

    def __post_init__(self) -> None:
        object.__setattr__(self, "photons", _as_members(self.photons, "photons", 1 / LARGEST))

    @property
    def _members(self) -> Array:
        return np.asarray(self.photons, dtype=np.float64)

    def _variance_factors(self, clean: Array) -> tuple[Array, Array]:
        """(K,) and (N, m): the variance of component j of member k at sample i is v_k u_ij."""
        return 1.0 / self._members, _non_negative_clean(clean)

    def moments(self, clean: ArrayLike) -> tuple[Array, Array]:
        r"""Mean and variance of every member: :math:`a_i` and :math:`a_i / p_k` per component.

        Parameters
        ----------
        clean : (N, m) array
            Noise-free data a_i = Ax_i >= 0, rows.

        Returns
        -------
        mean : (N, m) array
            Of all members alike; in the units of the data.
        variance : (N, K, m) array
            Per component; in squared units.

        Raises
        ------
        ValueError, TypeError
            For a bad array or a negative entry.
        """
        return _moments(self, as_samples(clean, "clean"))

    def atoms(self, clean: ArrayLike) -> tuple[Array, Array]:
        r"""Every member on its counts: atoms :math:`c / p_k`, :math:`c = 0, 1, \dots`, and weights.

        For scalar data and maps that are not linear. Counts beyond Bernstein's bound
        :math:`\mu + \sqrt{2\mu t} + 2t/3`, :math:`t = -\log 10^{-12}`, of the largest mean µ of a
        member are left out: a mass of at most 1e-12. The rest is scaled to sum to one.

        Parameters
        ----------
        clean : (N, 1) array
            Noise-free data >= 0.

        Returns
        -------
        atoms : (N, P) array
            The same in every row (a read-only view), member after member; units of the data.
        measures : (N, K, P) array
            The weights of each sample's own members; for `hull_candidates`.

        Raises
        ------
        ValueError, TypeError
            For a bad array, a negative entry, more than one column, or so many counts that the
            weights would not fit into 1 GiB.
        """
        rates = _as_scalar_samples(_non_negative_clean(as_samples(clean, "clean")))
        highest = float(rates.max()) * self._members
        tail = -math.log(POISSON_TAIL)
        ends = np.ceil(highest + np.sqrt(2 * highest * tail) + 2 * tail / 3) + 1
        samples, members = len(rates), len(self._members)
        if not samples * members * float(ends.sum()) <= LARGEST_TABLE:
            raise ValueError(
                f"photons: {samples} samples, {members} members and {ends.sum():.4g} counts are "
                f"more than the {LARGEST_TABLE} weights allowed; take fewer samples or members at "
                "a time, or moments() where the map is linear"
            )
        stops = np.cumsum(ends.astype(np.int64))
        total = int(stops[-1])
        atoms, measures = np.empty(total), np.zeros((samples, members, total))
        for k, (stop, end) in enumerate(zip(stops, ends.astype(np.int64), strict=True)):
            count = np.arange(end, dtype=np.float64)
            mean = (self._members[k] * rates)[:, None]
            mass = np.exp(special.xlogy(count, mean) - mean - special.gammaln(count + 1))
            atoms[stop - end : stop] = count / self._members[k]
            measures[:, k, stop - end : stop] = mass / mass.sum(axis=1, keepdims=True)
        return np.broadcast_to(atoms, (samples, total)), measures


def _non_negative_clean(clean: Array) -> Array:
    if (clean < 0).any():
        i, j = (int(k) for k in np.argwhere(clean < 0)[0])
        raise ValueError(
            f"clean: entry ({i}, {j}) is {clean[i, j]}; the mean of a Poisson law must be >= 0"
        )
    return clean


def _moments(noise: GaussianNoise | PoissonNoise, clean: Array) -> tuple[Array, Array]:
    per_member, per_entry = noise._variance_factors(clean)
    return clean, per_member[None, :, None] * per_entry[:, None, :]


def noise_candidates(
    B: MapLike, x: ArrayLike, y: ArrayLike, clean: ArrayLike, noise: GaussianNoise | PoissonNoise
) -> tuple[Array, Array]:
    r"""Exact loss and cost of a family of noise models for a linear map, for `finite_worst_case`.

    Kernel k at sample i is :math:`\delta_{x_i}\otimes\gamma_{ik}`, where :math:`\gamma_{ik}` has
    mean :math:`a_i` (`clean`) and independent components with variances :math:`v_{ikj}`:

    .. math:: L_{ik} = \|x_i - Ba_i\|^2 + \sum_j \|B_{:,j}\|^2 v_{ikj},\qquad
              C_{ik} = \|y_i - a_i\|^2 + \sum_j v_{ikj}.

    With y = Ax + noise and clean = Ax the ball is empty below the radius that
    `finite_worst_case` then names: every member costs at least the noise in the data. Both L and C
    are affine in :math:`s^2` (Gaussian) or 1 / photons (Poisson): a whole *range* of these is a
    segment, so there the hull adds nothing, and a grid of it has a gap that closes with its step.

    Parameters
    ----------
    B : (n, m) matrix
        The reconstruction map (dense, scipy sparse or an operator of `dro_core.operators`).
    x, y : (N, n) and (N, m) arrays
        The samples.
    clean : (N, m) array
        Noise-free data, row i is A x_i; the mean of every member.
    noise : GaussianNoise or PoissonNoise
        The members.

    Returns
    -------
    loss : (N, K) array
        In squared units of x.
    cost : (N, K) array
        In squared units of y.

    Raises
    ------
    ValueError, TypeError
        For bad arrays or shapes, another noise, or negative clean data of a Poisson law.
    OverflowError
        If a loss or cost exceeds the largest float.

    Notes
    -----
    Source: DRO paper, Example 2.1 with §2.1 (structure y|x) and Theorem 3.1.

    Examples
    --------
    >>> from dro_core import finite_worst_case
    >>> from dro_core.noise import GaussianNoise, noise_candidates
    >>> members = noise_candidates([[3.0]], [[1.0]], [[1.0]], [[1.0]], GaussianNoise([0.0, 2.0]))
    >>> members
    (array([[ 4., 40.]]), array([[0., 4.]]))
    >>> finite_worst_case(*members, radius=1.0).risk
    13.0
    """
    matrix = as_map(B, "B")
    x, y, clean = as_samples(x, "x"), as_samples(y, "y"), as_samples(clean, "clean")
    check_samples_and_map(matrix, x, y, "B")
    if clean.shape != y.shape:
        raise ValueError(
            f"clean: shape {clean.shape}, but y has shape {y.shape}; row i is the noise-free y_i"
        )
    if not isinstance(noise, GaussianNoise | PoissonNoise):
        raise TypeError(
            f"noise: {noise!r} is neither a GaussianNoise nor a PoissonNoise; other families go "
            "through hull_candidates"
        )
    per_member, per_entry = noise._variance_factors(clean)
    with np.errstate(over="ignore", invalid="ignore"):
        gain = np.einsum("ij,ij->j", matrix, matrix)
        residual, offset = x - clean @ matrix.T, y - clean
        loss = np.einsum("ij,ij->i", residual, residual)[:, None]
        loss = loss + (per_entry @ gain)[:, None] * per_member
        cost = np.einsum("ij,ij->i", offset, offset)[:, None]
        cost = cost + per_entry.sum(axis=1)[:, None] * per_member
    for name, table in (("B, clean, noise", loss), ("y, clean, noise", cost)):
        if not np.isfinite(table).all():
            raise OverflowError(f"{name}: an expected square exceeds the largest float; rescale")
    return loss, cost
