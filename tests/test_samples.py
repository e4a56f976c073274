"""Samples in blocks: the same numbers whatever the blocks, in the memory of a block."""

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dro_core
from dro_core import (
    LinearReconstruction,
    XShift,
    entropic_worst_case,
    fit_linear,
    radius_of_operator_change,
    radius_of_poisson_noise,
    worst_case_curve,
    worst_case_risk,
)
from dro_core.samples import as_blocks, pairwise

STRUCTURES = ("y|x", "joint", "x|y", "x")


def cut(arrays, cuts):
    """Blocks of the arrays' rows, cut where the sorted numbers say."""
    ends = sorted({min(c, len(arrays[0])) for c in cuts} | {len(arrays[0])} - {0})
    return [
        tuple(a[low:high] for a in arrays)
        for low, high in zip([0, *ends], ends, strict=False)
        if low < high
    ]


class Anew:
    """Blocks from a function, made whenever they are read."""

    def __init__(self, make):
        self.make = make

    def __iter__(self):
        return iter(self.make())


class Chunked:
    """The part of a Dask array's interface that is used, over one array."""

    def __init__(self, array, sizes):
        self.array, self.sizes = array, tuple(sizes)

    shape = property(lambda self: self.array.shape)
    dtype = property(lambda self: self.array.dtype)

    @property
    def chunks(self):
        return self.sizes, *((size,) for size in self.shape[1:])

    def rechunk(self, chunks):
        assert chunks[1:] == tuple((size,) for size in self.shape[1:])
        return Chunked(self.array, chunks[0])

    def compute(self):
        return self.array

    def __getitem__(self, key):
        return Chunked(self.array[key], self.sizes)

    def _parts(self):
        return np.split(self.array, np.cumsum(self.sizes)[:-1])

    @property
    def blocks(self):
        return Picked(lambda key: Chunked(*self._picked(key)))

    def _picked(self, key):
        index = key[0] if isinstance(key, tuple) else key
        index = slice(index, index + 1) if isinstance(index, int) else index
        return np.concatenate(self._parts()[index]), self.sizes[index]

    def map_blocks(self, function, *others, dtype, chunks, meta):
        assert (dtype, meta.shape) == (object, (0, 0))
        parts = zip(*(a._parts() for a in (self, *others)), strict=True)
        rows = [function(*part, block_id=(k, 0)) for k, part in enumerate(parts)]
        return Chunked(np.concatenate(rows), chunks[0])


class Picked:
    def __init__(self, pick):
        self.pick = pick

    def __getitem__(self, key):
        return self.pick(key)


def data(seed, count, n=3, m=4, noise=0.3):
    rng = np.random.default_rng(seed)
    forward, x = rng.standard_normal((m, n)), rng.standard_normal((count, n))
    y = x @ forward.T + noise * rng.standard_normal((count, m))
    B = np.linalg.pinv(forward) * rng.uniform(0.5, 1.5)
    return B, x, y, forward, rng.dirichlet(np.ones(count))


def structure_of(name, forward):
    return XShift(forward) if name == "x" else name


def assert_same(first, second, rtol=1e-12):
    np.testing.assert_allclose(first, second, rtol=rtol, atol=rtol * np.abs(second).max())


# --- the same numbers ---------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 40),
    st.lists(st.integers(0, 40), max_size=8),
    st.sampled_from(STRUCTURES),
    st.sampled_from([0.0, 0.3]),
    st.sampled_from(["list", "weighted list", "chunks", "weighted chunks", "mapped"]),
)
def test_blocks_give_the_numbers_of_the_whole(seed, count, cuts, name, noise, kind):
    B, x, y, forward, mu = data(seed, count, noise=noise)
    structure, weights = structure_of(name, forward), mu if "weighted" in kind else None
    radius = 1.5 if name == "x" else 0.4
    whole = worst_case_risk(B, x, y, radius, structure, weights=weights)
    if "list" in kind:
        arrays = (x, y) if weights is None else (x, y, weights)
        given = (cut(arrays, cuts), None)
    elif "chunks" in kind:
        sizes = [len(block[0]) for block in cut((x, y), cuts)]
        given = (Chunked(x, sizes), Chunked(y, sizes[::-1]))
        weights = None if weights is None else Chunked(weights, [count])
    else:
        given = (x.view(np.memmap), y.view(np.memmap))
    weights = None if "list" in kind else weights
    worst = worst_case_risk(B, *given, radius, structure, weights=weights)
    for attribute in ("risk", "multiplier", "bound", "nominal_risk", "gradient"):
        assert_same(getattr(worst, attribute), getattr(whole, attribute), 1e-11)
    assert_same(worst.verify().primal_risk, whole.verify().primal_risk)
    assert_same(worst.verify().transport_cost, whole.verify().transport_cost)
    assert worst.verify().holds()
    assert_same(worst.displacement_y, whole.displacement_y, 1e-9)
    atoms = [np.concatenate(parts) for parts in zip(*worst.atoms(), strict=True)]
    for part, expected in zip(atoms, (worst.x, worst.y, whole.weights), strict=True):
        assert_same(part, expected)


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_the_size_of_the_blocks_that_are_worked_on_changes_nothing(rows, monkeypatch):
    B, x, y, _, mu = data(1, 100)
    whole = entropic_worst_case(B, x, y, 0.4, 0.01, "joint", weights=mu)
    monkeypatch.setattr(dro_core.samples, "BLOCK_ENTRIES", 7 * rows)
    monkeypatch.setattr(dro_core.samples, "BLOCK_ROWS", rows)
    worst = entropic_worst_case(B, x, y, 0.4, 0.01, "joint", weights=mu)
    for attribute in ("risk", "multiplier", "kl", "primal_risk", "gradient", "covariance"):
        assert_same(getattr(worst, attribute), getattr(whole, attribute))
    assert_same(worst.displacement_x, whole.displacement_x)
    blocks = cut((x, y, mu), [30, 31, 60])
    assert_same(entropic_worst_case(B, blocks, None, 0.4, 0.01, "joint").verify().kl, whole.kl)


def test_float32_is_widened_late(monkeypatch, rng):
    B, x, y = rng.standard_normal((3, 4)), rng.standard_normal((90, 3)), rng.integers(0, 9, (90, 4))
    x = x.astype(np.float32)
    exact = worst_case_curve(B, x.astype(float), y.astype(float), [0.1, 1.0], "joint")
    monkeypatch.setattr(dro_core.samples, "LARGEST_BLOCK", 50)
    monkeypatch.setattr(dro_core.samples, "BLOCK_ENTRIES", 50)
    samples = as_blocks(x, y)
    assert not samples.in_memory
    assert len(list(samples.blocks())) == 13
    assert_same(worst_case_curve(B, x, y, [0.1, 1.0], "joint").risk, exact.risk)


def test_residuals_on_a_tiny_top_direction_keep_their_digits(rng):
    """There a product with images of the axes would lose what the change of basis keeps."""
    left, right = (np.linalg.qr(rng.standard_normal((6, 6)))[0] for _ in range(2))
    B = (left * [2.0, 1.0, 1.0, 0.5, 0.2, 0.1]) @ right.T
    y = rng.standard_normal((200, 6))
    for size in (1.0, 1e-6, 1e-12):
        rest = rng.standard_normal((200, 6)) * [size, 1, 1, 1, 1, 1]
        worst = worst_case_risk(B, y @ B.T + rest @ left.T, y, 10.0)
        assert worst.verify().holds(1e-11)
        assert worst.verify().transport_cost == pytest.approx(100.0, rel=1e-11)


def test_a_torch_data_loader_is_a_source_of_blocks():
    torch = pytest.importorskip("torch")
    B, x, y, _, _ = data(3, 50)
    pairs = torch.utils.data.TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
    loader = torch.utils.data.DataLoader(pairs, batch_size=16, shuffle=True)
    worst = worst_case_risk(B, loader, None, 0.4)
    assert_same(worst.risk, worst_case_risk(B, x, y, 0.4).risk)
    assert worst.verify().holds()


def test_dask_arrays_are_reduced_by_dask():
    dask_array = pytest.importorskip("dask.array")
    B, x, y, _, mu = data(4, 500)
    given = [
        dask_array.from_array(rows, chunks=chunks)
        for rows, chunks in ((x, (130, 2)), (y, (200, 4)), (mu, 77))
    ]
    whole = worst_case_risk(B, x, y, 0.4, weights=mu)
    worst = worst_case_risk(B, *given[:2], 0.4, weights=given[2])
    assert_same(worst.risk, whole.risk)
    assert worst.verify().holds()
    assert_same(np.concatenate([part[1] for part in worst.atoms()]), whole.y)


@pytest.mark.parametrize("structure", ["y|x", "joint", "x|y"])
@pytest.mark.parametrize("noise", [0.0, 0.3])
@pytest.mark.parametrize("epsilon", [0.0, 0.01])
def test_a_fit_of_blocks_is_that_of_the_whole(structure, noise, epsilon):
    """Only second moments count, also without noise, where those of the residual are tiny."""
    _, x, y, _, mu = data(12, 400, n=4, m=5, noise=noise)
    settings = {"radius": 0.3, "epsilon": epsilon, "structure": structure}
    whole = fit_linear(x=x, y=y, weights=mu, **settings)
    blocks = fit_linear(x=cut((x, y, mu), range(0, 400, 37)), **settings)
    assert_same(blocks.risk, whole.risk, 1e-7 if noise == epsilon == 0.0 else 1e-9)
    assert_same(blocks.lower, blocks.risk, 1e-6)
    assert blocks.verify().holds()
    chunked = [Chunked(a, [150, 250]) for a in (x, y, mu)]
    again = fit_linear(x=chunked[0], y=chunked[1], weights=chunked[2], **settings)
    assert_same(again.matrix, blocks.matrix, 1e-6)


@pytest.mark.parametrize("count", [3, 500])
def test_the_root_has_the_second_moments_and_the_small_ones_to_their_own_digits(count, rng):
    rows = rng.standard_normal((count, 6)) * 10.0 ** -np.arange(0, 12, 2)
    mu = rng.dirichlet(np.ones(count))
    root = as_blocks(cut((rows[:, :2], rows[:, 2:], mu), range(0, count, 7))).root()
    moments = rows.T @ (mu[:, None] * rows)
    scale = np.sqrt(np.outer(np.diag(moments), np.diag(moments)))
    np.testing.assert_allclose(root.T @ root / scale, moments / scale, atol=1e-13)


def test_radii_in_blocks():
    B, x, y, forward, mu = data(5, 40)
    counts = y**2
    whole = radius_of_poisson_noise(counts, 100.0)
    assert_same(radius_of_poisson_noise(Anew(lambda: [counts[:9], counts[9:]]), 100.0), whole)
    weighted = [(x[:9], mu[:9]), (x[9:], mu[9:])]
    assert_same(
        radius_of_operator_change(forward, B.T, Anew(lambda: weighted)),
        radius_of_operator_change(forward, B.T, x, weights=mu),
    )
    assert_same(radius_of_poisson_noise(Chunked(counts, [20, 20]), 100.0), whole)


# --- any amount ---------------------------------------------------------------------------------


def test_sums_over_many_blocks_keep_their_digits():
    """Ten million terms added one after another are off by 1e-10; in pairs, by nothing."""
    count = 2**20 - 1
    total = pairwise((0.1 for _ in range(count)), lambda a, b: a + b)
    assert total == pytest.approx(math.fsum([0.1] * count), rel=1e-15)
    assert pairwise(map(str, range(9)), lambda a, b: a + b) == "012345678"  # in order


def test_repeated_blocks_are_the_same_law():
    B, x, y, _, _ = data(6, 10)
    once = worst_case_risk(B, x, y, 0.4)
    often = worst_case_risk(B, Anew(lambda: ((x, y) for _ in range(3000))), None, 0.4)
    assert_same(often.risk, once.risk, 1e-14)
    assert_same(often.verify().primal_risk, once.risk, 1e-14)


def test_memory_is_that_of_a_block(tmp_path):
    """60,000 x 32 in float32 and their certificate: 4 MB at most, of 30 in double precision."""
    rng = np.random.default_rng(0)
    paths = [tmp_path / name for name in ("x.npy", "y.npy")]
    for path in paths:
        np.save(path, rng.standard_normal((60_000, 32)).astype(np.float32))
    B = rng.standard_normal((32, 32)) / 6
    x, y = (np.load(path, mmap_mode="r") for path in paths)
    tracemalloc.start()
    try:
        worst = worst_case_risk(B, x, y, 1.0)
        assert worst.verify().holds()
        heaviest = sum(len(block[0]) for block in worst.atoms())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert heaviest == 60_000
    assert peak < 4 * 2**20


# --- what is refused ----------------------------------------------------------------------------


def blocks_with(change):
    B, x, y, _, mu = data(7, 60)
    blocks = [list(block) for block in cut((x, y, mu), range(0, 60, 3))]
    change(blocks)
    return B, blocks


def spoil(index, part, value):
    def change(blocks):
        blocks[index][part] = value(blocks[index][part].copy())

    return change


def with_nan(rows):
    rows[1, 2] = np.nan
    return rows


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (spoil(17, 0, with_nan), ValueError, r"x in block 17: 1 entries are NaN .* index \(1, 2\)"),
        (spoil(3, 1, lambda y: y[:, :3]), ValueError, "y in block 3: 3 columns; needed: 4"),
        (spoil(3, 1, lambda y: y[:2]), ValueError, "y in block 3: 2 rows, but x has 3"),
        (spoil(3, 1, lambda y: y[0]), ValueError, "y in block 3: 4 rows, but x has 3"),
        (spoil(2, 2, lambda w: w[:2]), ValueError, r"weights in block 2: shape \(2,\); needed"),
        (spoil(2, 2, lambda w: -w), ValueError, "weights in block 2: entry . is -.*non-negative"),
        (spoil(2, 2, lambda w: 2 * w), ValueError, "weights: they sum to 1.*, not to 1"),
        (lambda blocks: blocks[4].pop(), ValueError, "weights in block 4: missing, unlike"),
        (
            lambda blocks: blocks.insert(4, blocks[0][0]),
            TypeError,
            "x in block 4: ndarray; a block",
        ),
        (spoil(5, 0, lambda x: x * 1e150), ValueError, "x in block 5: the largest magnitude"),
        (spoil(5, 0, lambda x: x.astype(complex)), TypeError, "x in block 5: dtype complex128"),
    ],
)
def test_bad_blocks_are_refused_by_number(change, error, message):
    B, blocks = blocks_with(change)
    with pytest.raises(error, match=message):
        worst_case_risk(B, blocks, None, 0.4)


def test_what_is_no_source_of_blocks_is_refused():
    B, x, y, _, mu = data(8, 30)
    with pytest.raises(TypeError, match="x: generator can be read only once, but the samples"):
        worst_case_risk(B, ((x, y) for _ in range(2)), None, 0.4)
    with pytest.raises(ValueError, match="y: None, but x is an array"):
        LinearReconstruction(B, x)
    with pytest.raises(ValueError, match="weights: given beside blocks"):
        LinearReconstruction(B, [(x, y)], weights=mu)
    with pytest.raises(TypeError, match="x: float; allowed: arrays, or blocks"):
        LinearReconstruction(B, 3.0)
    with pytest.raises(ValueError, match="x: no blocks"):
        LinearReconstruction(B, [])
    with pytest.raises(ValueError, match=r"B: shape \(4, 3\), but x has 3 columns and y has 4"):
        LinearReconstruction(B.T, [(x, y)])
    with pytest.raises(ValueError, match=r"clean: -.* is negative"):
        radius_of_poisson_noise(Anew(lambda: [y]), 1.0)


def test_blocks_that_change_between_passes_are_refused():
    B, x, y, _, _ = data(9, 30)
    lengths = iter([30, 30, 20])  # the first block, the first pass, the certificate
    changing = Anew(lambda: [(x[:k], y[:k]) for k in [next(lengths)]])
    worst = worst_case_risk(B, changing, None, 0.4)
    with pytest.raises(ValueError, match="x: 20 samples in this pass, 30 in the first"):
        worst.verify()


def test_mapped_rows_are_refused_by_their_place(tmp_path):
    B, x, y, _, _ = data(10, 20_000)
    x[15_000, 1] = np.inf
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    with pytest.raises(ValueError, match=r"x\[9362:18724\]: 1 entries .* index \(5638, 1\)"):
        worst_case_risk(B, mapped, y, 0.4)
    with pytest.raises(ValueError, match="y: 19999 rows, but x has 20000"):
        LinearReconstruction(B, mapped, y[1:])


def test_dask_arrays_are_taken_together():
    B, x, y, _, mu = data(11, 30)
    chunked = Chunked(x, [10, 20]), Chunked(y, [30])
    with pytest.raises(TypeError, match="y: ndarray, but x is a Dask array"):
        LinearReconstruction(B, chunked[0], y)
    with pytest.raises(TypeError, match=r"weights: ndarray of shape \(30,\); allowed beside"):
        LinearReconstruction(B, *chunked, weights=mu)
    with pytest.raises(ValueError, match="y: 29 rows, but x has 30"):
        LinearReconstruction(B, chunked[0], chunked[1][1:])
    with pytest.raises(ValueError, match="x: chunks of unknown size"):
        LinearReconstruction(B, Chunked(x, [math.nan, math.nan]), chunked[1])
    x[25, 0] = np.nan
    with pytest.raises(ValueError, match=r"x in block 1: 1 entries .* index \(15, 0\)"):
        worst_case_risk(B, *chunked, 0.4)
