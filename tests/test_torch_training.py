"""The training engine: what an iteration computes, and that nothing stops it."""

import copy
import json
import math
import os
import pickle
import select
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from dro_torch.training import (
    CHECKPOINT,
    PREVIOUS,
    CheckpointError,
    Phase,
    TrainingDivergedError,
    ema_decay,
    fit,
    load_checkpoint,
    rate_factor,
    reconstruction_phase,
    record,
)
from dro_torch.training.options import as_folder

sys.path.insert(0, str(Path(__file__).parent))
import training_worker as worker

ROOT = Path(__file__).parent.parent
WORKER = ROOT / "tests" / "training_worker.py"
DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
quiet = partial(fit, seed=0, progress=False)


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module", autouse=True)
def children(tmp_path_factory):
    """Started together, so that they run beside the tests that do not need them."""
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    started = {}
    for name, before in (("SIGKILL", []), ("SIGTERM", []), ("distributed", torchrun)):
        folder = tmp_path_factory.mktemp(name)
        command = [sys.executable, *before, str(WORKER), name, str(folder)]
        with (folder / "said").open("wb") as said:  # a pipe would stay open with a grandchild
            process = subprocess.Popen(command, env=environment(), stderr=said)
        started[name] = process, folder
    yield started
    for process, folder in started.values():
        end(process, folder)


def end(process, folder):
    """Torchrun ends its children, but not if it is ended at its start: they look for a file."""
    (folder / worker.STOP).touch()
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def ended(children, name):
    process, folder = children[name]
    code = process.wait(120)
    return code, folder, (folder / "said").read_text()


@pytest.mark.parametrize("seconds", [0.0, 1.0])
def test_torchrun_that_is_ended_at_its_start_leaves_nobody(tmp_path, seconds):
    command = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", str(WORKER)]
    read, write = os.pipe()  # open as long as anybody has it
    with (tmp_path / "said").open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, *command, "waiting", str(tmp_path)],
            env=environment(), stdout=write, stderr=said,
        )  # fmt: skip
    os.close(write)
    time.sleep(seconds)
    end(process, tmp_path)
    assert select.select([read], [], [], 30)[0], "somebody still runs"
    os.close(read)


def assert_same(one, other):
    """Bitwise equal tensors and rows."""
    one, other = (r if isinstance(r, dict) else worker.state(r) for r in (one, other))
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def line(rate=0.1, **options):
    """A scalar problem: (w - mean of the batch)²/2, one parameter w = 1."""
    module = nn.ParameterDict({"w": nn.Parameter(torch.ones(1))})

    def loss(modules, batch, context):
        return 0.5 * (modules["line"]["w"] - batch[0]).square().mean()

    options = {"optimizer": torch.optim.SGD} | options
    return Phase("line", {"line": module}, loss, rate=rate, **options)


def constant(value=3.0, size=4):
    return lambda step: (torch.arange(size), torch.full((size,), value))


# --- what an iteration computes ---


@pytest.mark.parametrize("warmup", [0, 1, 5])
@pytest.mark.parametrize("final", [0.0, 0.1])
def test_rates_are_those_of_torch_schedulers(warmup, final):
    steps, schedulers = 20, torch.optim.lr_scheduler
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = schedulers.CosineAnnealingLR(optimizer, steps - warmup, eta_min=final)
    rise = schedulers.LinearLR(optimizer, 1 / (warmup + 1), 1.0, max(warmup, 1))
    if warmup:
        scheduler = schedulers.SequentialLR(optimizer, [rise, scheduler], [warmup])
    else:
        optimizer.param_groups[0]["lr"] = 1.0
    for step in range(steps):
        ours = rate_factor(step, steps, warmup=warmup, final=final)
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12), step
        optimizer.step()
        scheduler.step()


def test_rates_in_numbers():
    assert [rate_factor(s, 8, warmup=3) for s in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert rate_factor(7, 8, schedule="constant", warmup=3) == 1.0
    assert rate_factor(4, 8, final=0.5) == pytest.approx(0.75)


@pytest.mark.parametrize("device", DEVICES)
def test_it_is_the_loop_one_would_write(device):
    """Adam, warm-up and cosine, clipping, AdamW's decay: bit for bit a hand-written loop."""
    phase = worker.denoiser(weight_decay={"model": 0.01, "multiplier": 0.0}, gradient_clip=0.5)
    result = fit(
        phase, worker.Batches(), 15, seed=3, warmup=4, device=device, progress=False, log_every=1
    )

    model = worker.network().to(device)
    multiplier, loss = (
        worker.Multiplier().to(device, torch.float32),
        worker.EntropicLoss().to(device),
    )
    rates, decays = {"model": 1e-2, "multiplier": 3e-2}, {"model": 0.01, "multiplier": 0.0}
    modules = {"model": model, "multiplier": multiplier}
    optimizer = torch.optim.AdamW(
        [
            {"params": modules[n].parameters(), "lr": rates[n], "weight_decay": decays[n]}
            for n in rates
        ]
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: rate_factor(step, 15, warmup=4)
    )
    for step in range(15):
        index, x, y = (t.to(device) for t in worker.Batches().batch(step))
        optimizer.zero_grad()
        value = loss(model, x, y, multiplier(), index=index, seed=3, step=step)
        (value + multiplier.penalty()).backward()
        norms = [nn.utils.clip_grad_norm_(m.parameters(), 0.5) for m in modules.values()]
        row = result.history[step]
        assert row["step"] == step + 1
        assert row["loss"] == pytest.approx(float((value + multiplier.penalty()).detach()))
        assert row["multiplier"] == multiplier().item()
        assert row["effective_sample_size"] == float(loss.diagnostics["effective_sample_size"])
        assert row["gradient norm model"] == pytest.approx(float(norms[0]))
        optimizer.step()
        scheduler.step()
    for name, module in modules.items():
        for ours, theirs in zip(
            result.trained[name].parameters(), module.parameters(), strict=True
        ):
            assert torch.equal(ours, theirs)
    assert result.modules["model"] is phase.modules["model"]


def test_the_clip_bounds_each_modules_own_gradient():
    """SGD with rate 1: a step is as long as the clip, or the gradient where it is shorter."""
    modules = {
        name: nn.ParameterDict({"w": nn.Parameter(torch.zeros(2))}) for name in ("a", "b", "c")
    }
    slopes = {
        name: torch.tensor(s) for name, s in (("a", [30.0, 40]), ("b", [0.3, 0.4]), ("c", [6.0, 8]))
    }

    def loss(modules, batch, context):
        return sum((slopes[name] * m["w"]).sum() for name, m in modules.items())

    phase = Phase(
        "p", modules, loss, rate=1.0, optimizer=torch.optim.SGD, gradient_clip={"a": 2.0, "b": 2.0}
    )
    row = quiet(phase, constant(), 1, log_every=1).history[0]
    lengths = [modules[name]["w"].norm().item() for name in "abc"]
    assert lengths == pytest.approx([2.0, 0.5, 10.0], rel=1e-5)
    assert [row[f"gradient norm {n}"] for n in "abc"] == pytest.approx([50.0, 0.5, 10.0])


def test_the_average_follows_its_formula():
    """Theta-bar_s = d_s theta-bar_(s-1) + (1 - d_s) theta_s, d_s = min(d, (1 + s)/(10 + s))."""
    seen = []
    phase, decay = line(), 0.4
    result = quiet(
        phase,
        constant(),
        12,
        ema=decay,
        log_every=1,
        schedule="constant",
        log=lambda row: seen.append(phase.modules["line"]["w"].item()),
    )
    average = 1.0
    for step, value in enumerate(seen, 1):
        d = min(decay, (1 + step) / (10 + step))
        assert ema_decay(step, decay) == d
        average = d * average + (1 - d) * value
    assert result.modules["line"]["w"].item() == pytest.approx(average, rel=1e-6)
    assert result.trained["line"]["w"].item() == pytest.approx(seen[-1])
    assert seen == pytest.approx([3 - 2 * 0.9**s for s in range(1, 13)], rel=1e-6)
    assert result.modules["line"] is not result.trained["line"]
    assert not result.modules["line"]["w"].requires_grad


def test_averages_copy_buffers_and_only_the_named_modules():
    result = quiet(worker.denoiser(), worker.Batches(), 5, ema={"model": 0.9})
    assert result.modules["multiplier"] is result.trained["multiplier"]
    assert result.modules["model"] is not result.trained["model"]
    normalised = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    phase = reconstruction_phase(normalised, lambda m, x, y: (x - m(y)).square().mean())
    result = quiet(phase, worker.Batches(), 3, ema=0.9)
    assert torch.equal(result.modules["model"][1].running_mean, normalised[1].running_mean)
    assert normalised[1].running_mean.abs().sum() > 0


def test_two_phases_alternate_and_freeze_each_other():
    """In phase A no gradient of B's parameters is built; B then sees A's new parameters."""
    own, seen, draws = {"potential": "v", "map": "T"}, [], {}

    def watched(phase):
        def loss(modules, batch, context):
            value = phase.loss(modules, batch, context)
            value.backward(retain_graph=True)
            for name, module in modules.items():
                built = {p.grad is not None for p in module.parameters()}
                assert built == {name == own[phase.name]}, (phase.name, name)
                module.zero_grad()
            seen.append((context.step, phase.name, modules["v"][0].weight.detach().clone()))
            draws[context.step, phase.name] = batch[0]
            return value

        return Phase(phase.name, phase.modules, loss, rate=1e-2)

    phases = [watched(phase) for phase in worker.transport()]
    sources = {"potential": worker.Batches(1), "map": worker.Batches(2)}

    result = quiet(phases, sources, 3, log_every=1)
    assert [entry[:2] for entry in seen] == [(s, n) for s in range(3) for n in ("potential", "map")]
    assert not torch.equal(seen[0][2], seen[1][2])  # the map's step sees the new potential
    assert torch.equal(seen[1][2], seen[2][2])  # and leaves it alone
    for step in range(3):
        assert not torch.equal(draws[step, "potential"], draws[step, "map"])
    assert {"potential loss", "map loss", "map gradient norm T"} < result.history[0].keys()
    left = [p for module in result.trained.values() for p in module.parameters()]
    assert all(p.requires_grad and p.grad is None for p in left)


def test_phases_with_one_source_share_its_draw():
    count = []

    def source(step):
        count.append(step)
        return worker.Batches().batch(step)

    quiet(worker.transport(), source, 4)
    assert count == [0, 1, 2, 3]


def test_a_phase_may_be_due_every_few_steps():
    phases = worker.transport()
    steps = {"potential": [], "map": []}

    def spy(phase, every):
        def loss(modules, batch, context):
            steps[phase.name].append(context.step)
            return phase.loss(modules, batch, context)

        return Phase(phase.name, phase.modules, loss, every=every)

    quiet([spy(phases[0], 3), spy(phases[1], 1)], worker.Batches(), 7)
    assert steps == {"potential": [0, 3, 6], "map": list(range(7))}


@pytest.mark.parametrize("parts", [2, 5, 100])
def test_micro_batches_do_not_change_the_step(parts):
    results = [
        fit(
            worker.denoiser(micro_batches=n),
            worker.Batches(),
            6,
            seed=1,
            precision="float64",
            progress=False,
            log_every=1,
        )
        for n in (1, parts)
    ]
    whole, cut = ({k: v for k, v in worker.state(r).items() if "calls" not in k} for r in results)
    for name in whole:
        torch.testing.assert_close(whole[name], cut[name], rtol=1e-10, atol=1e-12)
    for one, other in zip(results[0].history, results[1].history, strict=True):
        assert one == pytest.approx(other, rel=1e-10)


@pytest.mark.parametrize("device", DEVICES)
def test_precision(device):
    kinds = []

    def criterion(model, x, y):
        kinds.append((model(y).dtype, x.dtype))
        return (x - model(y)).float().square().mean()

    for precision in ("float32", "bf16", "float64"):
        result = quiet(
            reconstruction_phase(worker.network(), criterion),
            worker.Batches(),
            2,
            precision=precision,
            device=device,
        )
        wide = torch.float64 if precision == "float64" else torch.float32
        assert {p.dtype for p in result.modules["model"].parameters()} == {wide}
        assert {p.device.type for p in result.modules["model"].parameters()} == {device}
        assert kinds[-1] == (torch.bfloat16 if precision == "bf16" else wide, wide)


def test_channels_last_and_compile(monkeypatch):
    asked, layouts, original = [], [], torch.compile

    def eager(module):
        asked.append(module)
        return original(module, backend="eager")

    monkeypatch.setattr(torch, "compile", eager)
    model = nn.Conv2d(2, 2, 3, padding=1)
    x = torch.randn(4, 2, 6, 6, generator=torch.Generator().manual_seed(0))

    def criterion(model, x, y):
        layouts.append(y.is_contiguous(memory_format=torch.channels_last))
        return (x - model(y)).square().mean()

    phase = reconstruction_phase(model, criterion)
    source = lambda step: (torch.arange(4), x, x)  # noqa: E731
    plain = quiet(reconstruction_phase(copy.deepcopy(model), criterion), source, 3)
    result = quiet(phase, source, 3, compile=["model"], channels_last=True)
    assert asked == [model]
    assert layouts == [False] * 3 + [True] * 3
    assert model.weight.is_contiguous(memory_format=torch.channels_last)
    for ours, theirs in zip(
        result.modules["model"].parameters(), plain.modules["model"].parameters(), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


WRAPPERS = {
    "plain": lambda model: model,
    "compiled": lambda model: torch.compile(model, backend="eager"),
    "compiled inside": lambda model: nn.Sequential(
        torch.compile(model[0], backend="eager"), *model[1:]
    ),
    "parallel": nn.DataParallel,
}


@pytest.mark.parametrize(
    ("first", "wrapper"),
    [
        ("plain", "compiled"),
        ("compiled", "plain"),
        ("compiled inside", "parallel"),
        ("parallel", "compiled inside"),
    ],
)
def test_checkpoints_are_those_of_the_module_inside(tmp_path, first, wrapper):
    def phase(wrapped):
        torch.manual_seed(0)
        inner = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
        model = nn.Sequential(inner, nn.Linear(3, 2))
        return reconstruction_phase(
            WRAPPERS[wrapped](model), lambda model, x, y: (x - model(y)).square().mean(), rate=0.1
        )

    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(1))
    options = {"schedule": "constant", "ema": 0.9}
    source = lambda step: (torch.arange(6), x + step, x)  # noqa: E731
    quiet(phase(first), source, 2, folder=tmp_path, **options)
    stored = load_checkpoint(tmp_path)
    plain = nn.Sequential(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)), nn.Linear(3, 2))
    assert set(stored["modules"]["model"]) == set(plain.state_dict())
    plain.load_state_dict(stored["averaged"]["model"])
    resumed = quiet(phase(wrapper), source, 4, folder=tmp_path, resume="must", **options)
    straight = quiet(phase("plain"), source, 4, **options)
    for kind in ("modules", "trained"):
        ends = [list(getattr(r, kind)["model"].parameters()) for r in (resumed, straight)]
        assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_checkpoints_with_the_names_of_a_compiled_module_are_read(tmp_path):
    x = torch.ones(4, 1)
    phase = lambda: reconstruction_phase(  # noqa: E731
        nn.Linear(1, 1), lambda model, x, y: (x - model(y)).square().mean()
    )
    source = lambda step: (torch.arange(4), x, x)  # noqa: E731
    quiet(phase(), source, 1, folder=tmp_path, schedule="constant")
    path = tmp_path / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    weights = state["modules"]["model"]
    state["modules"]["model"] = {f"_orig_mod.{name}": value for name, value in weights.items()}
    torch.save(state, path)
    result = quiet(phase(), source, 1, folder=tmp_path, schedule="constant", resume="must")
    assert torch.equal(result.modules["model"].weight, weights["weight"])


def test_networks_that_work_in_place_leave_the_data_alone():
    x, y = torch.randn(2, 8, 3, generator=torch.Generator().manual_seed(1))
    kept = y.clone()
    ends = []
    for inplace in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.LeakyReLU(0.3, inplace=inplace), nn.Linear(3, 3))
        phase = reconstruction_phase(
            model, lambda model, x, y: (x - model(y)).square().mean(), micro_batches=2
        )
        ends.append(quiet(phase, lambda step: (torch.arange(8), x, y), 3))
        assert torch.equal(y, kept)
    assert ends[0].history == ends[1].history


def test_the_callers_random_state_is_neither_used_nor_changed():
    ends = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        phase = worker.denoiser(dropout=0.5)
        before = torch.get_rng_state()
        ends.append(quiet(phase, worker.Batches(), 4))
        assert torch.equal(torch.get_rng_state(), before)
    assert_same(*ends)
    other = fit(worker.denoiser(dropout=0.5), worker.Batches(), 4, seed=1, progress=False)
    assert not torch.equal(other.modules["model"][0].weight, ends[0].modules["model"][0].weight)


def test_dropout_masks_differ_from_step_to_step():
    masks = []

    def criterion(model, x, y):
        masks.append(nn.functional.dropout(torch.ones(64), 0.5))
        return (x - model(y)).square().mean()

    quiet(reconstruction_phase(worker.network(), criterion), worker.Batches(), 2)
    assert not torch.equal(*masks)


def test_validation_sees_the_averages_in_evaluation_mode():
    phase, modes, rows = worker.denoiser(dropout=0.5), [], []
    trained = phase.modules["model"]

    def validate(modules):
        modes.append((modules["model"].training, trained.training))
        assert modules["model"] is not trained
        torch.rand(7)  # must not disturb the training
        return {"error": torch.tensor(2.0)}

    result = quiet(
        phase,
        worker.Batches(),
        5,
        ema=0.9,
        validate=validate,
        validate_every=2,
        log=rows.append,
        log_every=3,
    )
    assert modes == [(False, False)] * 3
    assert result.validation == [{"step": s, "error": 2.0} for s in (2, 4, 5)]
    assert [row["step"] for row in rows] == [2, 3, 4, 5, 5]
    assert not any(m.training for m in result.trained.values())
    plain = quiet(worker.denoiser(dropout=0.5), worker.Batches(), 5, ema=0.9)
    assert_same(result, plain)


def test_modules_are_trained_in_training_mode_even_after_an_evaluation():
    model, modes = worker.network(), []

    def criterion(model, x, y):
        modes.append(model.training)
        return (x - model(y)).square().mean()

    phase = reconstruction_phase(model, criterion)
    for _ in range(2):
        model.eval()
        quiet(phase, worker.Batches(), 1)
    assert modes == [True, True]


def test_repeated_fits_start_warm():
    """Ten fits of one step are one fit of ten; an optimiser returned again keeps its moments."""
    once, often = line(), line()
    quiet(once, constant(), 10, schedule="constant")
    for _ in range(10):
        quiet(often, constant(), 1, schedule="constant")
    assert_same({"w": once.modules["line"]["w"]}, {"w": often.modules["line"]["w"]})

    phases = []
    for _ in range(2):
        kept = []

        def factory(groups, kept=kept):
            kept.append(kept[0] if kept else torch.optim.Adam(groups))
            return kept[0]

        phases.append(line(optimizer=factory))
    quiet(phases[0], constant(), 10, schedule="constant")
    for _ in range(5):
        quiet(phases[1], constant(), 2, schedule="constant")
    assert_same(*({"w": p.modules["line"]["w"]} for p in phases))


def test_a_loss_without_a_parameter_gives_it_a_zero_gradient():
    phase = worker.transport()[0]
    lazy = Phase(
        "p",
        {"v": phase.modules["v"], "unused": nn.Linear(1, 1)},
        lambda m, b, c: m["v"](b[0]).mean(),
    )
    row = quiet(lazy, worker.Batches(), 1, log_every=1).history[0]
    assert row["gradient norm unused"] == 0.0


# --- the ready phase ---


def test_reconstruction_phase_minimises_the_dual():
    """min over w, lambda of a quadratic that is known: w solves least squares, lambda = c/rho."""

    class Fixed(worker.Multiplier):
        pass

    multiplier = Fixed(radius=0.5, initial=1.0)

    def criterion(model, x, y, weight, seed=None, step=None):
        assert (seed, step is not None) == (0, True)
        return (x - model(y)).square().mean() + 1.0 / weight

    model = nn.Linear(4, 4, bias=False)
    phase = reconstruction_phase(
        model, criterion, multiplier, pairs=lambda batch, context: (batch[0], batch[0]), rate=0.04
    )
    result = quiet(phase, worker.Batches(), 300, log_every=100)
    torch.testing.assert_close(model.weight.detach(), torch.eye(4), atol=1e-2, rtol=0)
    assert multiplier().item() == pytest.approx(2.0, rel=1e-2)  # 1/lambda + lambda/4
    assert result.history[-1]["loss"] == pytest.approx(1.0, abs=1e-2)


def test_reconstruction_phase_passes_what_the_criterion_takes():
    seen = {}

    def criterion(model, x, y, weight, **keys):
        seen.update(keys, weight=weight)
        return weight * (x - model(y)).square().mean(), {"extra": torch.tensor(2.0)}

    phase = reconstruction_phase(worker.network(), criterion, 3.0)
    result = fit(phase, worker.Batches(), 1, seed=5, progress=False)
    assert seen["weight"] == 3.0
    assert torch.equal(seen["index"], worker.Batches().batch(0)[0])
    assert (seen["seed"], seen["step"]) == (5, 0)
    assert (result.history[0]["multiplier"], result.history[0]["extra"]) == (3.0, 2.0)
    assert set(reconstruction_phase(worker.network(), worker.EntropicLoss()).modules) == {
        "model",
        "criterion",
    }


def test_progress_shows_loss_multiplier_and_effective_sample_size(capfd):
    fit(worker.denoiser(), worker.Batches(), 10, seed=0, log_every=5)
    shown = capfd.readouterr().err
    for word in ("loss=", "multiplier=", "effective_sample_size=", "10/10"):
        assert word in shown
    assert "gradient norm" not in shown


# --- interruption ---


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return worker.train(tmp_path_factory.mktemp("uninterrupted"))


def test_a_killed_run_resumes_bit_for_bit(children, uninterrupted):
    """SIGKILL in the middle: dropout, averages, history and every parameter continue the same."""
    code, folder, said = ended(children, "SIGKILL")
    assert code == -signal.SIGKILL, said
    assert load_checkpoint(folder)["step"] == 10  # the checkpoint before the fatal step 13
    (folder / "checkpoint.tmp").write_bytes(b"half a checkpoint")
    steps = []
    result = worker.train(folder, resume="must", log=lambda row: steps.append(row["step"]))
    assert min(steps) == 12
    assert_same(result, uninterrupted)
    assert result.history == uninterrupted.history
    assert worker.train(folder, resume="must").step == 40  # a finished run stays finished


def test_a_terminated_run_leaves_a_checkpoint_of_the_finished_step(children, uninterrupted):
    """SIGTERM ends the process as it does without a handler, after the step's checkpoint."""
    code, folder, said = ended(children, "SIGTERM")
    assert code == -signal.SIGTERM, said
    assert load_checkpoint(folder)["step"] == 14
    assert_same(worker.train(folder, resume="must"), uninterrupted)


def test_the_handler_that_was_there_gets_the_signal(tmp_path):
    """If it returns, so does fit; a second signal acts at once."""
    received = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        phase = worker.denoiser()
        result = quiet(
            phase,
            worker.Batches(),
            20,
            folder=tmp_path,
            log_every=4,
            log=lambda row: row["step"] == 8 and signal.raise_signal(signal.SIGTERM),
        )
    finally:
        handler = signal.signal(signal.SIGTERM, before)
    assert received == [signal.SIGTERM]
    assert handler is not before
    assert (result.interrupted, load_checkpoint(result.checkpoint)["step"]) == (True, result.step)
    assert result.step in (8, 9)

    def twice(row):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError

    with pytest.raises(KeyboardInterrupt):
        quiet(line(), constant(), 20, log_every=4, log=twice)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_without_a_folder_and_outside_the_main_thread():
    with pytest.raises(KeyboardInterrupt):
        quiet(
            line(), constant(), 9, log_every=2, log=lambda row: signal.raise_signal(signal.SIGINT)
        )
    ends = []
    thread = threading.Thread(target=lambda: ends.append(quiet(line(), constant(), 2)))
    thread.start()
    thread.join()
    assert ends[0].step == 2


# --- divergence ---


def poisoned(at, value=math.nan, **options):
    """The denoiser, with one batch that makes the loss (or only its gradient) not finite."""
    phase = worker.denoiser(**options)

    def loss(modules, batch, context):
        result, logged = phase.loss(modules, batch, context)
        if context.step == at and value == "gradient":
            zero = modules["model"][0].weight.sum() * 0
            result = result + zero.abs().sqrt()  # the slope of the root at zero
        elif context.step == at:
            result = result * value
        return result, logged

    return Phase("denoiser", phase.modules, loss, rate=1e-2)


@pytest.mark.parametrize("value", [math.nan, math.inf, "gradient"])
def test_a_value_that_is_not_finite_stops(tmp_path, value):
    phase, rows = poisoned(7, value), []
    with pytest.raises(
        TrainingDivergedError, match=r"step 7: .* multiplier .*checkpoint.pt"
    ) as caught:
        quiet(
            phase,
            worker.Batches(),
            20,
            folder=tmp_path,
            checkpoint_every=3,
            log=rows.append,
            log_every=1,
        )
    error = pickle.loads(pickle.dumps(caught.value))
    assert (error.step, error.checkpoint) == (7, tmp_path / CHECKPOINT)
    # on the CPU the parameters are those before the step at fault
    sound = worker.denoiser()
    clean = Phase("denoiser", sound.modules, sound.loss, rate=1e-2)
    untouched = quiet(clean, worker.Batches(), 7, schedule="cosine", log_every=1)
    assert all(p.isfinite().all() for m in phase.modules.values() for p in m.parameters())
    assert error.multiplier == pytest.approx(phase.modules["multiplier"]().item())
    assert len(rows) == 7
    assert untouched.step == 7
    state = load_checkpoint(error.checkpoint)
    assert state["step"] == 6
    assert all(t.isfinite().all() for m in state["modules"].values() for t in m.values())


def test_values_read_late_name_the_first_bad_step_and_spare_the_checkpoint(tmp_path, monkeypatch):
    """As on an accelerator, where values are fetched every log_every steps only."""
    monkeypatch.setattr(record, "READ_AT_ONCE", ())
    steps = []
    phase = poisoned(7)
    inner = phase.loss

    def loss(modules, batch, context):
        steps.append((context.step, modules["multiplier"]().item()))
        return inner(modules, batch, context)

    phase = Phase("denoiser", phase.modules, loss, rate=1e-2)
    with pytest.raises(TrainingDivergedError, match="step 7: loss") as caught:
        quiet(phase, worker.Batches(), 40, folder=tmp_path, checkpoint_every=6, log_every=50)
    assert max(steps)[0] == 11  # noticed when the next checkpoint was due
    assert caught.value.multiplier == pytest.approx(steps[7][1])
    assert load_checkpoint(tmp_path)["step"] == 6

    late = quiet(worker.denoiser(), worker.Batches(), 20, log_every=7)
    monkeypatch.setattr(record, "READ_AT_ONCE", ("cpu",))
    at_once = quiet(worker.denoiser(), worker.Batches(), 20, log_every=7)
    assert late.history == at_once.history
    assert_same(late, at_once)


def test_a_loss_that_refuses_nan_does_not_hide_the_step_at_fault(monkeypatch):
    monkeypatch.setattr(record, "READ_AT_ONCE", ())
    phase = poisoned(3)
    inner = phase.loss

    def strict(modules, batch, context):
        if not modules["multiplier"]().isfinite():
            raise ValueError("multiplier: nan; allowed: a finite number > 0")
        return inner(modules, batch, context)

    with pytest.raises(TrainingDivergedError, match="step 3"):
        quiet(Phase("p", phase.modules, strict), worker.Batches(), 20)


def test_parameters_that_are_not_finite_are_never_written(tmp_path):
    phase = line()

    def loss(modules, batch, context):
        if context.step == 4:
            with torch.no_grad():
                modules["line"]["other"].fill_(math.inf)
        return phase.loss(modules, batch, context)

    phase.modules["line"]["other"] = nn.Parameter(torch.zeros(1))
    broken = Phase("line", phase.modules, loss, optimizer=torch.optim.SGD, rate=0.1)
    with pytest.raises(
        TrainingDivergedError, match="step 4: a parameter is NaN or infinite"
    ) as caught:
        quiet(broken, constant(), 9, folder=tmp_path, checkpoint_every=1)
    assert caught.value.multiplier is None
    assert load_checkpoint(tmp_path)["step"] == 4


# --- checkpoints ---


def flip(path):
    """Damage one byte of the first tensor's data; torch.load alone would not notice."""
    data = bytearray(path.read_bytes())
    weight = load_checkpoint(path)["modules"]["model"]["0.weight"]
    data[bytes(data).find(weight.numpy().tobytes()) + 2] ^= 0xFF
    path.write_bytes(bytes(data))


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("damage", [flip, cut, lambda p: p.write_bytes(b""), Path.unlink])
def test_a_damaged_checkpoint_falls_back_to_the_previous_one(tmp_path, damage, uninterrupted):
    worker.train(tmp_path)
    last, previous = tmp_path / CHECKPOINT, tmp_path / PREVIOUS
    assert (load_checkpoint(last)["step"], load_checkpoint(previous)["step"]) == (40, 35)
    damage(last)
    if last.exists():
        with pytest.raises(CheckpointError, match="damaged"):
            load_checkpoint(last)
        with pytest.warns(UserWarning, match=r"checkpoint.pt: damaged.*using .*previous.pt"):
            result = worker.train(tmp_path)
    else:
        result = worker.train(tmp_path)
    assert_same(result, uninterrupted)
    assert (load_checkpoint(last)["step"], load_checkpoint(previous)["step"]) == (40, 35)
    assert not list(tmp_path.glob("*.tmp"))


def test_nothing_but_damaged_checkpoints_is_an_error(tmp_path):
    worker.train(tmp_path)
    for path in tmp_path.glob("*.pt"):
        cut(path)
    with pytest.raises(CheckpointError, match=r"checkpoint.pt: damaged"):
        worker.train(tmp_path)
    assert worker.train(tmp_path, resume="never").step == 40


def test_a_failed_write_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    worker.train_without_dropout(tmp_path, steps=6)
    before = (tmp_path / CHECKPOINT).read_bytes()

    def full(state, file):
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(CheckpointError, match=r"No space") as caught:
        worker.train_without_dropout(tmp_path, steps=12)
    assert str(tmp_path) in str(caught.value)
    assert "step 12" in str(caught.value)
    assert isinstance(caught.value.__cause__, OSError)
    assert (tmp_path / CHECKPOINT).read_bytes() == before
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("steps", [0, 6])
def test_a_full_disk_names_the_folder(tmp_path, steps):
    if steps:
        worker.train_without_dropout(tmp_path, steps=steps)
    (tmp_path / "checkpoint.tmp").symlink_to("/dev/full")
    last = rf"as it was: .*{CHECKPOINT}" if steps else "none was written before"
    with pytest.raises(CheckpointError, match=rf"(?s)No space left on device.*{last}") as caught:
        worker.train_without_dropout(tmp_path, steps=12)
    assert str(tmp_path) in str(caught.value)
    assert not (tmp_path / "checkpoint.tmp").is_symlink()
    whole = worker.train_without_dropout(None, steps=12)
    assert_same(worker.train_without_dropout(tmp_path, steps=12), whole)  # room has been made


def test_a_checkpoint_holds_all_and_no_code(tmp_path):
    result = worker.train_transport(tmp_path)
    state = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    assert set(state["modules"]) == set(state["modules"]) == {"v", "T"}
    assert set(state["averaged"]) == {"T"}
    assert set(state["optimizers"]) == {"potential", "map"}
    assert len(state["optimizers"]["map"]["state"]) == 4
    assert state["history"] == result.history
    fresh = worker.network()
    fresh.load_state_dict(load_checkpoint(tmp_path)["averaged"]["T"])
    assert_same(fresh.state_dict(), result.modules["T"].state_dict())
    json.dumps(state["config"])


def test_two_networks_resume_bit_for_bit(tmp_path):
    """Interrupted by Ctrl-C in the middle; the phases are due at different steps."""
    whole = worker.train_transport(None)
    with pytest.raises(KeyboardInterrupt):
        worker.train_transport(
            tmp_path, log=lambda row: row["step"] == 6 and signal.raise_signal(signal.SIGINT)
        )
    assert load_checkpoint(tmp_path)["step"] == 7
    resumed = worker.train_transport(tmp_path, resume="must")
    assert_same(resumed, whole)
    assert resumed.history == whole.history


def test_a_longer_run_resumes_if_the_schedule_is_constant(tmp_path):
    whole = worker.train_without_dropout(None, steps=12)
    worker.train_without_dropout(tmp_path, steps=8)
    assert_same(worker.train_without_dropout(tmp_path, steps=12), whole)
    with pytest.raises(CheckpointError, match="at step 12, beyond the 8 of this run"):
        worker.train_without_dropout(tmp_path, steps=8)


def test_a_finished_cosine_run_is_extended_by_a_flag_only(tmp_path):
    """From the checkpoint on the rates are those of the longer run; w follows them by hand."""

    def run(steps, folder, **options):
        return quiet(line(), constant(), steps, folder=folder, log_every=1, **options)

    run(8, tmp_path, warmup=2, final_rate=0.1)
    before = (tmp_path / CHECKPOINT).read_bytes()
    with pytest.raises(CheckpointError, match=r"steps: 8 in the checkpoint, 12 now") as caught:
        run(12, tmp_path, warmup=2, final_rate=0.1)
    assert "extend=True" in str(caught.value)
    with pytest.raises(CheckpointError, match="steps: 8 in the checkpoint, 6 now"):
        run(6, tmp_path, warmup=2, final_rate=0.1, extend=True)
    with pytest.raises(CheckpointError, match="warmup: 2 in the checkpoint, 3 now") as caught:
        run(12, tmp_path, warmup=3, final_rate=0.1, extend=True)
    assert "steps" not in str(caught.value).split("warmup: 2")[1]
    assert (tmp_path / CHECKPOINT).read_bytes() == before

    whole = run(12, tmp_path, warmup=2, final_rate=0.1, extend=True)
    w = 1.0
    for step in range(12):
        factor = rate_factor(step, 8 if step < 8 else 12, warmup=2, final=0.1)
        assert whole.history[step]["loss"] == pytest.approx(0.5 * (w - 3.0) ** 2, rel=1e-5)
        w -= 0.1 * factor * (w - 3.0)
    assert whole.step == 12
    assert load_checkpoint(tmp_path)["config"]["rates"]["steps"] == 12
    for extend in (False, True):  # the longer run is the run now
        assert run(12, tmp_path, warmup=2, final_rate=0.1, extend=extend).step == 12


def test_an_extended_run_resumes_as_if_it_had_not_stopped(tmp_path):
    for folder in ("one", "two"):
        quiet(line(), constant(), 8, folder=tmp_path / folder)
    whole = quiet(line(), constant(), 20, folder=tmp_path / "one", extend=True)
    with pytest.raises(KeyboardInterrupt):
        quiet(
            line(), constant(), 20, folder=tmp_path / "two", extend=True, log_every=1,
            log=lambda row: row["step"] == 12 and signal.raise_signal(signal.SIGINT),
        )  # fmt: skip
    resumed = quiet(line(), constant(), 20, folder=tmp_path / "two", resume="must")
    assert_same(resumed, whole)


@pytest.mark.parametrize(
    ("phase", "options", "message"),
    [
        ({"rate": 0.2}, {}, "phases.line.rate.line: 0.1 in the checkpoint, 0.2 now"),
        ({"betas": (0.5, 0.9)}, {}, "phases.line.betas"),
        ({"gradient_clip": 1.0}, {}, "gradient_clip.line: inf in the checkpoint, 1.0 now"),
        ({}, {"seed": 8}, "config.seed: 0 in the checkpoint, 8 now"),
        ({}, {"steps": 12}, r"extend=True for a longer run(.|\n)*rates.steps: 6 in the check"),
        ({}, {"ema": 0.9}, "ema.line: absent in the checkpoint, 0.9 now"),
        ({}, {"precision": "float64"}, "precision: float32 in the checkpoint, float64 now"),
        (
            {},
            {"config": {"data": {"size": [3]}}},
            r"user.data.size: \[2\] in the checkpoint, \[3\] now",
        ),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path, phase, options, message):
    settings = {"folder": tmp_path, "seed": 0, "steps": 6, "config": {"data": {"size": (2,)}}}
    fit(line(), constant(), progress=False, **settings)
    other = line(**phase)
    with pytest.raises(CheckpointError, match=message):
        fit(other, constant(), progress=False, **settings | options)
    assert other.modules["line"]["w"].item() == 1.0  # nothing was loaded
    fit(line(**phase), constant(), progress=False, resume="never", **settings | options)
    assert not (tmp_path / PREVIOUS).exists()


def test_other_modules_or_shapes_are_refused(tmp_path):
    quiet(reconstruction_phase(nn.Linear(4, 4), error), worker.Batches(), 1, folder=tmp_path)
    wider = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(
        CheckpointError, match=r"(?s)modules.model.weight: \(4, 4\) .*absent now.*0.weight: absent"
    ):
        quiet(reconstruction_phase(wider, error), worker.Batches(), 1, folder=tmp_path)
    with pytest.raises(
        CheckpointError, match=r"modules.model.bias: \(4,\) in the checkpoint, absent"
    ):
        quiet(
            reconstruction_phase(nn.Linear(4, 4, bias=False), error),
            worker.Batches(),
            1,
            folder=tmp_path,
        )


def error(model, x, y):
    return (x - model(y)).square().mean()


# --- several processes ---


@pytest.fixture(scope="module")
def two_processes(children):
    code, folder, said = ended(children, "distributed")
    assert code == 0, said
    return folder, [torch.load(folder / f"rank{r}.pt", weights_only=True) for r in (0, 1)]


@pytest.mark.parametrize("job", worker.JOBS)
def test_two_processes_train_what_one_does(two_processes, job):
    """Same global batch, noise keyed by sample: the same parameters up to rounding."""
    one = worker.JOBS[job](None)
    _, ranks = two_processes
    for rank in ranks:
        assert_same(rank[job]["state"], ranks[0][job]["state"])
        for name, value in worker.state(one).items():
            torch.testing.assert_close(rank[job]["state"][name], value, rtol=1e-5, atol=1e-5)
        for ours, theirs in zip(one.history, rank[job]["history"], strict=True):
            assert ours == pytest.approx(theirs, rel=1e-4)


def test_patience_of_the_first_process_ends_all(two_processes):
    _, ranks = two_processes
    assert [rank["patient"]["history"][-1]["step"] for rank in ranks] == [4, 4]


def test_processes_stop_together_and_only_the_first_writes(two_processes):
    """A signal to one process stops all after the same step; the resumed run ends the same."""
    folder, ranks = two_processes
    assert [rank.get("interrupted") for rank in ranks] == [9, None]
    for rank in ranks:
        assert_same(rank["resumed"]["state"], ranks[0]["dro"]["state"])
    assert {p.name for p in (folder / "resumed").iterdir()} == {CHECKPOINT, PREVIOUS}


# --- bad input ---


class Broken(nn.Module):
    def forward(self, x):
        return x


def with_loss(loss):
    return {"phases": Phase("p", {"m": nn.Linear(4, 4)}, loss)}


def phase(name, **modules):
    return Phase(name, modules, error)


def gives(*batch):
    return {"batches": lambda step: batch}


LINEAR = nn.Linear(2, 2)
BAD_FIT = [
    ({"steps": 0}, ValueError, "steps: 0 is below 1"),
    ({"steps": 2.0}, TypeError, "steps: 2.0 is not an integer"),
    ({"seed": -1}, ValueError, "seed: -1 is negative"),
    ({"seed": None}, TypeError, "seed: None is not an integer"),
    ({"schedule": "cosin"}, ValueError, "schedule: unknown value 'cosin' .*'cosine'"),
    ({"warmup": 5}, ValueError, "warmup: 5; allowed: fewer than the 5 steps"),
    ({"warmup": -1}, ValueError, "warmup: -1 is negative"),
    ({"final_rate": 1.5}, ValueError, r"final_rate: 1.5; allowed: a number in \[0, 1\]"),
    ({"precision": "float16"}, ValueError, "precision: unknown value 'float16'"),
    ({"resume": "yes"}, ValueError, "resume: unknown value 'yes'"),
    ({"resume": "must"}, ValueError, "resume: 'must', but there is no folder"),
    ({"extend": 1}, TypeError, "extend: 1; allowed: True or False"),
    ({"extend": True, "resume": "never"}, ValueError, "extend: True, but resume='never'"),
    ({"checks": "sometimes"}, ValueError, "checks: unknown value 'sometimes'"),
    ({"device": "gpu"}, ValueError, "device: 'gpu' is not available here"),
    ({"device": "cuda:99"}, ValueError, "device: 'cuda:99' is not available here"),
    ({"device": 3.5}, ValueError, "device: 3.5 is not available here"),
    ({"ema": 1.0}, ValueError, r"ema: 1.0; allowed: a number in \[0, 1\)"),
    ({"ema": {"lin": 0.9}}, ValueError, "ema: unknown value 'lin' .did you mean 'line'"),
    ({"checkpoint_every": 0}, ValueError, "checkpoint_every: 0 is below 1"),
    ({"log_every": 0}, ValueError, "log_every: 0 is below 1"),
    ({"validate_every": 2}, ValueError, "validate_every: given without validate"),
    ({"validate": 3}, TypeError, "validate: int is not callable"),
    ({"log": "file"}, TypeError, "log: str is not callable"),
    ({"compile": ["net"]}, ValueError, "compile: unknown value 'net'"),
    ({"config": {"path": Path("x")}}, TypeError, r"config.user.path: .*Path; allowed"),
    ({"folder": __file__}, ValueError, "folder: .*test_torch_training.py cannot be written"),
    ({"phases": []}, ValueError, "phases: none given"),
    ({"phases": [LINEAR]}, TypeError, "phases: Linear; allowed: Phase"),
    ({"phases": [line(), line()]}, ValueError, "phases: two modules are called 'line'"),
    (
        {"phases": [phase("a", m=LINEAR), phase("b", n=nn.Sequential(LINEAR))]},
        ValueError,
        "phases: module 'n' of phase 'b' and module 'm' of phase 'a' share a parameter",
    ),
    (
        {"phases": [phase("a", m=nn.Linear(1, 1)), phase("a", n=nn.Linear(1, 1))]},
        ValueError,
        r"phases: names \['a', 'a'\] are not distinct",
    ),
    ({"batches": [1, 2]}, TypeError, "batches: list; allowed: an object with a method batch"),
    ({"batches": {"lime": constant()}}, ValueError, r"batches: given for \['lime'\]; phases: "),
    ({"batches": lambda s: torch.ones(3)}, TypeError, "batches: step 0 gave Tensor"),
    (gives(torch.arange(3)), TypeError, "batches: step 0 gave tuple; needed: a tuple"),
    (gives(torch.arange(3), [1, 2, 3]), TypeError, "batches: entry 1 of step 0 is list"),
    (gives(torch.ones(3), torch.ones(3)), TypeError, "batches: the index of step 0 has dtype"),
    (gives(torch.arange(0), torch.ones(0)), TypeError, r"batches: the index .* shape \(0,\)"),
    (gives(torch.arange(3), torch.ones(2)), ValueError, r"batches: entry 1 .* but there are 3"),
    (with_loss(lambda m, b, c: 1.0), ValueError, "phase 'p': loss: float; needed: a scalar"),
    (with_loss(lambda m, b, c: m["m"].weight), ValueError, r"'p': loss: shape \(4, 4\), requires"),
    (with_loss(lambda m, b, c: torch.ones(())), ValueError, r"requires_grad=False.*\['m'\]"),
    (
        with_loss(lambda m, b, c: (m["m"].weight.sum(), {"loss": 1.0})),
        ValueError,
        r"phase 'p': loss: it logs \['loss'\], names in use",
    ),
    (
        {"phases": line(optimizer=lambda groups: torch.optim.SGD(LINEAR.parameters()))},
        ValueError,
        r"phase 'line': optimizer: it must hold exactly the trainable parameters of \['line'\]",
    ),
]


@pytest.mark.parametrize(("changes", "kind", "message"), BAD_FIT)
def test_fit_refuses(changes, kind, message):
    arguments = {"phases": line(), "batches": constant(), "steps": 5, "seed": 0, "progress": False}
    with pytest.raises(kind, match=message):
        fit(**arguments | changes)


BAD_PHASE = [
    ({"name": ""}, TypeError, "name: ''; allowed: a non-empty string"),
    ({"modules": {}}, TypeError, "modules: dict; allowed: a non-empty mapping"),
    ({"modules": LINEAR}, TypeError, "modules: Linear; allowed: a non-empty mapping"),
    ({"modules": {"m": 3}}, TypeError, r"modules\['m'\]: int is no Module"),
    ({"modules": {"m": Broken()}}, ValueError, r"modules: no trainable parameter in \['m'\]"),
    ({"modules": {"m": nn.Linear(1, 1, dtype=torch.complex64)}}, TypeError, "complex parameters"),
    ({"loss": None}, TypeError, "phase 'p': loss: NoneType is not callable"),
    ({"optimizer": "adam"}, TypeError, "optimizer: str is not callable"),
    ({"rate": 0.0}, ValueError, "phase 'p': rate of 'm': 0; allowed: a number > 0"),
    ({"rate": -1.0}, ValueError, "rate of 'm': -1.0 is negative"),
    ({"rate": math.nan}, ValueError, "rate of 'm': nan is not finite"),
    ({"rate": {"n": 1.0}}, ValueError, r"rate: given for \['n'\]; trained modules: \['m'\]"),
    ({"weight_decay": -0.1}, ValueError, "weight_decay of 'm': -0.1 is negative"),
    ({"gradient_clip": 0}, ValueError, "gradient_clip of 'm': 0; allowed"),
    ({"gradient_clip": {"n": 1.0}}, ValueError, "gradient_clip: given for"),
    ({"betas": (0.9, 1.0)}, ValueError, r"betas: \(0.9, 1.0\); allowed: two numbers"),
    ({"betas": (0.9,)}, ValueError, r"betas: \(0.9,\); allowed"),
    ({"every": 0}, ValueError, "phase 'p': every: 0 is below 1"),
    ({"micro_batches": 1.5}, TypeError, "micro_batches: 1.5 is not an integer"),
]


@pytest.mark.parametrize(("changes", "kind", "message"), BAD_PHASE)
def test_phases_refuse(changes, kind, message):
    with pytest.raises(kind, match=message):
        Phase(**{"name": "p", "modules": {"m": LINEAR}, "loss": error} | changes)


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"criterion": 2}, TypeError, "criterion: int is not callable"),
        ({"multiplier": LINEAR}, TypeError, r"multiplier: it needs a method penalty\(\)"),
        ({"multiplier": -1.0}, ValueError, "multiplier: -1.0 is negative"),
        ({"multiplier": 0}, ValueError, "multiplier: 0; allowed: a number > 0"),
        ({"rate": -1.0}, ValueError, "rate of 'model': -1.0 is negative"),
        ({"model": 3}, TypeError, r"modules\['model'\]: int is no Module"),
    ],
)
def test_reconstruction_phase_refuses(changes, kind, message):
    with pytest.raises(kind, match=message):
        reconstruction_phase(**{"model": LINEAR, "criterion": error} | changes)


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (None, FileNotFoundError, "no checkpoint.pt and no checkpoint_previous.pt"),
        (b"text", CheckpointError, "damaged or not a checkpoint"),
        ([1, 2], CheckpointError, "not a checkpoint of dro_torch.training"),
        ({"step": 1}, CheckpointError, "not a checkpoint of dro_torch.training"),
        (worker.Batches(), CheckpointError, "not a checkpoint .*weights_only"),
    ],
)
def test_loading_refuses(tmp_path, content, kind, message):
    path = tmp_path / CHECKPOINT
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(kind, match=f"(?s){message}"):
        load_checkpoint(tmp_path)
    if kind is FileNotFoundError:
        with pytest.raises(FileNotFoundError, match="nothing to resume, and resume='must'"):
            quiet(line(), constant(), 1, folder=tmp_path, resume="must")


def test_processes_may_look_at_their_folder_at_the_same_time(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: as_folder(tmp_path / "run"), range(400)))
    assert set(found) == {tmp_path / "run"}
    assert list((tmp_path / "run").iterdir()) == []
