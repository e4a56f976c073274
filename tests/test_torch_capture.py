"""Recorded steps: the same training, from a replay that sees nothing of Python.

Without a GPU a stand-in records the operators of a step with their arguments and runs them again
on the same memory: what a CUDA graph does.
"""

import math

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from dro_torch import (
    BoundLoss,
    EntropicDROLoss,
    LinearisedDROLoss,
    Multiplier,
    WassersteinDROLoss,
    keyed_noise,
    training,
)
from dro_torch.data import Batches, IndexedDataset
from dro_torch.training import capture

CUDA = torch.cuda.is_available()


def places(arguments):
    flat, _ = torch.utils._pytree.tree_flatten(arguments)
    return {t.untyped_storage().data_ptr() for t in flat if isinstance(t, torch.Tensor)}


class Tape(TorchDispatchMode):
    """Records operators; a read of a value is refused, as by a stream that is captured."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name()
        if name in ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::_unique2"):
            raise RuntimeError(f"{name}: operation not permitted when stream is capturing")
        result = function(*args, **(kwargs or {}))
        self.calls.append((function, args, kwargs or {}, result))
        return result

    def replay(self):
        with torch.no_grad():
            for function, args, kwargs, result in self.calls:
                inside = places((args, kwargs))
                new = function(*args, **kwargs)
                pairs = zip(
                    torch.utils._pytree.tree_leaves(result),
                    torch.utils._pytree.tree_leaves(new),
                    strict=True,
                )
                for old, fresh in pairs:
                    if isinstance(old, torch.Tensor) and not places(old) & inside:
                        old.copy_(fresh)  # views and in-place results are there already


class Stand:
    """In the place of CUDA graphs."""

    def __init__(self):
        self.recorded = 0

    def warm(self, function):
        return function()

    def record(self, function):
        tape = Tape()
        with tape:
            answer = function()
        self.recorded += 1
        first = True

        def replay():  # recording has run the step here, which a capture does not
            nonlocal first
            if not first:
                tape.replay()
            first = False

        return answer, replay


@pytest.fixture
def stand(monkeypatch):
    found = Stand()
    monkeypatch.setattr(capture, "recorder_for", lambda *arguments: found)
    return found


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 4))


def pairs(count=20):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(count, n, generator=generator) for n in (4, 3)]


def trained(criterion, steps=11, multiplier=True, micro_batches=1, folder=None, **options):
    model, lam = network(), Multiplier(0.3, 20.0) if multiplier else None
    phase = training.reconstruction_phase(
        model,
        criterion,
        lam,
        rate={"model": 1e-2, "multiplier": 1e-1} if multiplier else 1e-2,
        gradient_clip={"model": 5.0},
        micro_batches=micro_batches,
        optimizer=lambda groups: torch.optim.AdamW(groups, fused=True),
    )
    source = Batches(IndexedDataset(*pairs()), 6, 0)
    result = training.fit(
        phase, source, steps, seed=3, warmup=2, ema={"model": 0.9}, folder=folder, log_every=1,
        progress=False, **options,
    )  # fmt: skip
    return result, [*model.parameters(), *result.modules["model"].parameters()]


LOSSES = {
    "sg": (lambda: EntropicDROLoss(0.1, samples=4), 1),
    "sg, micro-batches": (lambda: EntropicDROLoss(0.1, samples=4), 2),
    "rt-mlmc": (lambda: EntropicDROLoss(0.1, estimator="rt-mlmc"), 1),
    "tilted": (lambda: EntropicDROLoss(0.1, estimator="tilted"), 1),
    # from zero: on a CPU conjugate gradients look whether they have converged
    "wasserstein": (lambda: WassersteinDROLoss(start="zero"), 1),
}


@pytest.mark.parametrize("kind", LOSSES)
def test_a_recorded_run_is_the_plain_one(stand, kind):
    """Noise, batches, rates and clipping of every step are its own."""
    loss, parts = LOSSES[kind]
    plain, expected = trained(loss(), micro_batches=parts)
    recorded, found = trained(loss(), micro_batches=parts, capture=True)
    assert stand.recorded == 1
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    rows = [[row["loss"] for row in result.history] for result in (plain, recorded)]
    assert rows[1] == pytest.approx(rows[0], rel=1e-4)
    assert len(set(rows[1])) == len(rows[1])
    assert recorded.history[-1].keys() == plain.history[-1].keys()


def test_a_recorded_run_resumes_and_a_plain_one_goes_on_with_it(stand, tmp_path):
    loss = LOSSES["sg"][0]
    _, expected = trained(loss(), 12)
    for name, first, second in (("there", True, False), ("back", False, True)):
        folder, options = tmp_path / name, {"checkpoint_every": 6}

        def stop(row):
            if row["step"] == 6:
                raise InterruptedError

        with pytest.raises(InterruptedError):
            trained(loss(), 12, folder=folder, capture=first, log=stop, **options)
        result, found = trained(loss(), 12, folder=folder, capture=second, **options)
        assert result.step == 12
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_a_batch_that_is_not_finite_is_named_from_a_replay(stand):
    x, y = pairs(6)

    def source(step):
        return torch.arange(6), x * (math.nan if step == 8 else 1.0), y

    phase = training.reconstruction_phase(
        network(), EntropicDROLoss(0.1, samples=4), 20.0, rate=1e-2,
        optimizer=lambda groups: torch.optim.AdamW(groups, fused=True),
    )  # fmt: skip
    with pytest.raises(training.TrainingDivergedError, match="step 8: x: NaN or infinite"):
        training.fit(phase, source, 12, seed=0, capture=True, progress=False)
    assert stand.recorded == 1


def test_what_cannot_be_recorded_says_so(stand):
    def reads(model, x, y):
        return (x - model(y)).square().sum() * float(y.sum() > 0)

    with pytest.raises(ValueError, match="capture: the step of phase 'reconstruction' cannot be"):
        trained(reads, multiplier=False, capture=True)
    x, y = pairs(6)
    sizes = iter([6, 6, 6, 6, 6, 4])

    def source(step):
        size = next(sizes)
        return torch.arange(size), x[:size], y[:size]

    with pytest.raises(ValueError, match=r"capture: the batch of step 5 has shapes .*\(4,\)"):
        training.fit(
            training.reconstruction_phase(
                network(), BoundLoss(0.1, lipschitz=2.0), rate=1e-2,
                optimizer=lambda groups: torch.optim.AdamW(groups, fused=True),
            ),
            source, 8, seed=0, capture=True, progress=False,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"capture": True}, ValueError, "capture: True on device cpu; allowed on CUDA"),
        ({"capture": "yes"}, TypeError, "capture: 'yes'; allowed: True or False"),
        ({"capture": True, "checks": "always"}, ValueError, "capture: True, but checks='always'"),
    ],
)
def test_bad_settings_are_explained(options, error, message):
    with pytest.raises(error, match=message):
        trained(LinearisedDROLoss(), 4, **options)


def test_recorders_name_what_is_in_the_way():
    cuda = torch.device("cuda")
    with pytest.raises(ValueError, match="capture: True with 2 processes"):
        capture.recorder_for(cuda, 2, [])
    sgd = torch.optim.SGD(network().parameters(), lr=0.1)
    with pytest.raises(ValueError, match="capture: True with SGD, which is not capturable"):
        capture.recorder_for(cuda, 1, [sgd])


@pytest.mark.skipif(not CUDA, reason="no CUDA device")
@pytest.mark.parametrize("kind", ["sg", "rt-mlmc"])
def test_cuda_graphs_train_what_plain_steps_do(kind):
    answers = []
    for captured in (False, True):
        model, lam = network(), Multiplier(0.3, 20.0)
        phase = training.reconstruction_phase(
            model, LOSSES[kind][0](), lam, rate={"model": 1e-2, "multiplier": 1e-1}
        )
        source = Batches(IndexedDataset(*pairs()).to("cuda"), 6, 0)
        training.fit(phase, source, 12, seed=3, device="cuda", capture=captured, progress=False)
        answers.append([p.detach().cpu() for p in model.parameters()])
    torch.testing.assert_close(*answers, rtol=1e-3, atol=1e-5)


# -- the parts


def test_noise_of_a_step_in_a_tensor_is_that_of_the_number():
    index = torch.tensor([0, 7, 2**40])
    for step in (0, 1, 12345, 2**40):
        key = {"seed": 2**63 + 5, "stream": 3}
        number = keyed_noise.standard_normal(index, 2, 5, step=step, **key)
        tensor = keyed_noise.standard_normal(index, 2, 5, step=torch.tensor(step), **key)
        assert torch.equal(number, tensor)
        kept = torch.tensor(step)
        one, other = (keyed_noise.uniform(index, step=s, **key) for s in (step, kept))
        assert torch.equal(one, other)
        assert kept == step  # not overwritten


@pytest.mark.parametrize("step", [torch.tensor(1.0), torch.tensor([1]), torch.tensor(1).int()])
def test_a_step_of_another_kind_is_refused(step):
    with pytest.raises(TypeError, match=r"step: a tensor of dtype .*; allowed: an integer"):
        keyed_noise.uniform(torch.arange(2), seed=0, step=step)


def test_images_move_as_they_are_and_are_converted_there():
    """uint8 is a quarter of float32 to store, and only the index of a batch travels."""
    images = torch.arange(24, dtype=torch.uint8).reshape(6, 4)
    part = IndexedDataset(images, value_range=(-1.0, 1.0)).subset([1, 4, 5])
    there = part.to("meta")
    assert [t.dtype for t in there.tensors] == [torch.uint8]
    index, x = there[[0, 2]]
    assert index.tolist() == [1, 5]
    assert (x.device.type, x.dtype, x.shape) == ("meta", torch.float32, (2, 4))
    same = part.to("cpu")
    for one, other in zip(part[[0, 2]], same[[0, 2]], strict=True):
        assert torch.equal(one, other)


def test_a_checkpoint_keeps_how_steps_are_computed_here():
    plain = torch.optim.AdamW(network().parameters(), lr=0.1)
    model = network()
    fused = torch.optim.AdamW(model.parameters(), lr=torch.tensor(0.2), fused=True)
    for group in plain.param_groups:
        for p in group["params"]:
            p.grad = torch.ones_like(p)
    plain.step()
    training.phase.restore_optimizer(fused, plain.state_dict())
    (group,) = fused.param_groups
    assert group["fused"] is True
    assert torch.equal(group["lr"], torch.tensor(0.2))
    moments = [state["exp_avg"] for state in fused.state.values()]
    expected = [state["exp_avg"] for state in plain.state.values()]
    assert all(torch.equal(a, b) for a, b in zip(moments, expected, strict=True))
