"""When values are looked at: `checks=` of the losses and of `training.fit`."""

import itertools
import math
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from dro_torch import (
    BoundLoss,
    EntropicDROLoss,
    EstimatorWarning,
    LinearisedDROLoss,
    Multiplier,
    WassersteinDROLoss,
)
from dro_torch.losses.unbalanced import LikelihoodCost, UnbalancedOTLoss
from dro_torch.training import TrainingDivergedError, fit, reconstruction_phase, record

NAN = math.nan
#: Losses, and how often conjugate gradients look on the CPU to stop early (elsewhere never).
KINDS = {
    "sg": (lambda **more: EntropicDROLoss(0.1, modulus=1.0, **more), 0),
    "tilted": (lambda **more: EntropicDROLoss(0.1, estimator="tilted", rank=1, **more), 0),
    "wasserstein": (lambda **more: WassersteinDROLoss(start="zero", modulus=1.0, **more), 0),
    "linearised": (lambda **more: LinearisedDROLoss(epsilon=0.1, iterations=4, **more), 4),
    "bound": (
        lambda **more: BoundLoss(
            0.1, lipschitz=torch.tensor(2.0), loss=lambda m, x, y: (x - m(y)).square().sum(1),
            **more,
        ),
        0,
    ),
}  # fmt: skip


class Looks(TorchDispatchMode):
    """Counts what would wait for an accelerator."""

    def __init__(self):
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name()
        self.number += name in ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal")
        return function(*args, **(kwargs or {}))


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 4))


def batch(step=0, size=6):
    generator = torch.Generator().manual_seed(step)
    return tuple(torch.randn(size, n, generator=generator) for n in (4, 3))


def call(loss, model, x, y, multiplier=50.0, **key):
    if isinstance(loss, BoundLoss):
        return loss(model, x, y)
    if isinstance(multiplier, float):  # as a learned one arrives
        multiplier = torch.tensor(multiplier, dtype=torch.float64)
    return loss(model, x, y, multiplier, **key)


def looks(loss, *arguments, **key):
    with Looks() as seen:
        call(loss, *arguments, **key).backward()
    return seen.number


# --- a bare loss ---


@pytest.mark.parametrize("kind", KINDS)
def test_how_often_a_bare_loss_looks(kind):
    make, own = KINDS[kind]
    model, (x, y) = network(), batch()
    for checks, expected in (
        (None, [1, 1, 1]),
        ("always", [1, 1, 1]),
        ("first", [1, 0, 0]),
        ("never", [0, 0, 0]),
    ):
        loss = make() if checks is None else make(checks=checks)
        seen = [looks(loss, model, x, y, seed=0, step=s) for s in range(3)]
        assert [number > own for number in seen] == [bool(e) for e in expected], (checks, seen)


@pytest.mark.parametrize("kind", KINDS)
def test_checks_change_no_value(kind):
    make, _ = KINDS[kind]
    model, (x, y) = network(), batch()
    key = {"seed": 3, "step": 1}
    values = [call(make(checks=c), model, x, y, **key) for c in ("always", "first", "never")]
    assert values[0].item() == values[1].item() == values[2].item()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_checked_is_nan_in_nan_out(kind):
    make, _ = KINDS[kind]
    model, (x, y) = network(), batch()
    bad = y.clone()
    bad[1, 2] = NAN
    loss = make(checks="first")
    with pytest.raises(ValueError, match="y: 1 entries are NaN"):
        call(loss, model, x, bad)
    with pytest.raises(ValueError, match="y: 1 entries are NaN"):  # nothing was checked yet
        call(loss, model, x, bad)
    call(loss, model, x, y)
    for unchecked in (loss, make(checks="never")):
        if kind == "tilted":  # the singular directions of NaN do not exist
            with pytest.raises(torch.linalg.LinAlgError):
                call(unchecked, model, x, bad)
        else:
            assert call(unchecked, model, x, bad).isnan()
    with pytest.raises(ValueError, match="y: 1 entries are NaN"):
        call(make(), model, x, bad)


def test_shapes_and_types_are_always_checked():
    model, (x, y) = network(), batch()
    with pytest.raises(ValueError, match="y: 5 samples"):
        WassersteinDROLoss(checks="never")(model, x, y[:5], 50.0)


def test_a_loss_that_checks_seldom_warns_once_in_a_hundred_calls():
    model, (x, y) = network(), batch()
    loss = WassersteinDROLoss(start="zero", modulus=5.0, checks="first")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(100):
            call(loss, model, x, y, 50.0)
    with pytest.warns(EstimatorWarning, match="at or below κ²"):
        call(loss, model, x, y, 24.0)
    loss = WassersteinDROLoss(start="zero", modulus=5.0, checks="never")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(102):
            call(loss, model, x, y, 24.0)


def test_transport_losses_have_the_switch():
    v, transport = nn.Linear(2, 1), nn.Linear(2, 2)
    y = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    bad = torch.full((4, 2), NAN)
    cost = LikelihoodCost(likelihood=0, scale=0.1)
    loss = UnbalancedOTLoss(cost, limits=(-9.0, 9.0), checks="first")
    seen = []
    for _ in range(2):
        with Looks() as each:
            loss.potential_loss(v, transport, y, y).backward()
            loss.map_loss(v, transport, y).backward()
        seen.append(each.number)
    assert seen[0] > 0
    assert seen[1] == 0
    assert loss.map_loss(v, transport, bad).isnan()
    with pytest.raises(ValueError, match="y: 8 entries are NaN"):
        UnbalancedOTLoss(cost).map_loss(v, transport, bad)


@pytest.mark.parametrize("kind", KINDS)
def test_a_switch_that_does_not_exist_is_refused(kind):
    with pytest.raises(ValueError, match=r"checks: .*sometimes.*first.*always.*never"):
        KINDS[kind][0](checks="sometimes")


# --- the engine ---


def trained(kind="sg", source=None, steps=6, *, checks=None, own=None, micro=1, **options):
    """A short run and the number of looks in each of its steps."""
    make, _ = KINDS[kind]
    loss, numbers = make(**({} if own is None else {"checks": own})), []

    class Counting(nn.Module):
        diagnostics = property(lambda self: loss.diagnostics)

        def forward(self, model, x, y, *multiplier, index, seed, step):
            with Looks() as seen:
                key = {} if kind == "bound" else {"index": index, "seed": seed, "step": step}
                value = loss(model, x, y, *multiplier, **key)
            numbers.append(seen.number)
            return value

    multiplier = None if kind == "bound" else Multiplier(0.1, 50.0)
    phase = reconstruction_phase(
        network(), Counting(), multiplier, micro_batches=micro, optimizer=torch.optim.SGD,
        rate=1e-4,
    )  # fmt: skip
    options = {"seed": 0, "progress": False, "log_every": 3} | options
    if checks is not None:
        options["checks"] = checks
    source = source or (lambda step: (torch.arange(6), *batch(step)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EstimatorWarning)
        return fit(phase, source, steps, **options), numbers


def spoiled(step_at_fault, entry, value=NAN):
    def source(step):
        given = [torch.arange(6), *batch(step)]
        if step == step_at_fault:
            given[entry][2] = value
        return tuple(given)

    return source


@pytest.mark.parametrize("kind", KINDS)
def test_the_engine_looks_in_the_first_step_only(kind, tmp_path):
    own = KINDS[kind][1]
    _, numbers = trained(kind, folder=tmp_path, schedule="constant")
    assert [n > own for n in numbers] == [True] + [False] * 5
    _, numbers = trained(kind, steps=9, folder=tmp_path, schedule="constant")
    assert [n > own for n in numbers] == [True] + [False] * 2  # and in that of a resume
    assert all(n > own for n in trained(kind, checks="always")[1])
    assert not any(n > own for n in trained(kind, checks="never")[1])
    assert all(n > own for n in trained(kind, own="always")[1])  # the loss's own word counts


def test_a_step_has_no_look_at_all(monkeypatch):
    monkeypatch.setattr(record, "READ_AT_ONCE", ())  # as on an accelerator
    seen = Looks()
    totals = []

    def source(step):
        totals.append(seen.number)
        return (torch.arange(6), *batch(step))

    with seen:
        trained(source=source, steps=8, log_every=4)
    steps = [after - before for before, after in itertools.pairwise(totals)]
    assert steps[0] > 0
    assert steps[1:3] == [0, 0]
    assert steps[4:] == [0, 0, 0]


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("checks", ["first", "always"])
@pytest.mark.parametrize("fault", [0, 4])
@pytest.mark.parametrize(("entry", "name"), [(1, "x"), (2, "y")])
def test_a_nan_batch_names_the_step_and_the_argument(
    monkeypatch, tmp_path, late, checks, fault, entry, name
):
    if late:
        monkeypatch.setattr(record, "READ_AT_ONCE", ())
    for value, micro in ((NAN, 1), (math.inf, 3)):
        with pytest.raises(TrainingDivergedError, match=rf"^step {fault}: {name}: ") as caught:
            trained(source=spoiled(fault, entry, value), checks=checks, micro=micro, log_every=50)
        assert caught.value.step == fault
        again = pickle.loads(pickle.dumps(caught.value))
        assert (str(again), again.step) == (str(caught.value), fault)


@pytest.mark.parametrize("kind", KINDS)
def test_without_any_check_a_nan_batch_still_names_the_step(kind):
    with pytest.raises(TrainingDivergedError, match=r"^step 4: (loss of phase|linalg)"):
        trained(kind, source=spoiled(4, 2), checks="never")
    with pytest.raises(TrainingDivergedError, match=r"^step 4: y: "):
        trained(kind, source=spoiled(4, 2))


def test_an_argument_made_by_pairs_is_named_too():
    phase = reconstruction_phase(
        network(), EntropicDROLoss(0.1), 50.0,
        pairs=lambda b, context: (b[0], b[1] / (0.0 if context.step == 3 else 1.0)),
    )  # fmt: skip
    with pytest.raises(TrainingDivergedError, match=r"^step 3: y: "):
        fit(phase, lambda step: (torch.arange(6), *batch(step)), 5, seed=0, progress=False)


def test_a_multiplier_that_leaves_its_range_names_the_step():
    class Sinking(nn.Module):
        def __init__(self):
            super().__init__()
            self.value, self.calls = nn.Parameter(torch.tensor(50.0)), 0

        def forward(self):
            self.calls += 1
            return self.value * (1.0 if self.calls < 4 else -1.0)

        def penalty(self):
            return 0.01 * self.value

    phase = reconstruction_phase(network(), EntropicDROLoss(0.1), Sinking())
    with pytest.raises(TrainingDivergedError, match=r"^step 3: multiplier: .* > 0"):
        fit(phase, lambda step: (torch.arange(6), *batch(step)), 6, seed=0, progress=False)


def test_flags_leave_no_trace_in_history():
    first, always = (trained(checks=c)[0] for c in ("first", "always"))
    assert first.history == always.history
    assert not any("refused" in name for row in first.history for name in row)


def test_the_engine_refuses_a_switch_that_does_not_exist():
    with pytest.raises(ValueError, match=r"checks: .*sometimes"):
        trained(checks="sometimes")
