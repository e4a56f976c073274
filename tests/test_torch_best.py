"""The best validation of a run: kept, killed and resumed, and restored from."""

import math
import signal
from itertools import pairwise

import pytest
import torch
from torch import nn

from dro_torch.losses.unbalanced import LikelihoodCost, UnbalancedOTLoss
from dro_torch.nets.transport import Potential, TransportMap
from dro_torch.training import CHECKPOINT, CheckpointError, Phase, fit, load_checkpoint
from dro_torch.transport_map import NoisyMeasurement, fit_transport_map

#: What is validated after step 1, 2, ...; NaN is never the best, a tie not either.
SCORES = [3.0, math.nan, 5.0, 1.0, 5.0, 2.0, 1.0, 4.0]


def walk():
    """A parameter that goes down by one per step: w = -step."""
    module = nn.ParameterDict({"w": nn.Parameter(torch.zeros(1))})

    def loss(modules, batch, context):
        return modules["line"]["w"].sum()

    return Phase("line", {"line": module}, loss, rate=1.0, optimizer=torch.optim.SGD)


def scores(modules):
    """Those of the step: what is validated may be an average, the step is not."""
    scores.calls += 1
    return {"score": SCORES[scores.step - 1], "other": -1.0}


def run(folder=None, steps=8, best=("score", "max"), **options):
    scores.calls, phase = 0, walk()

    def counted(modules):
        scores.step = round(-float(phase.modules["line"]["w"].detach()))
        return scores(modules)

    return fit(
        phase, lambda step: (torch.arange(2), torch.ones(2)), steps, seed=0, schedule="constant",
        validate=counted, validate_every=1, best=best, folder=folder, checkpoint_every=2,
        log_every=1, progress=False, **options,
    )  # fmt: skip


def value(modules):
    return float(modules["line"]["w"].detach())


@pytest.mark.parametrize(("direction", "step"), [("max", 3), ("min", 4)])
def test_the_earliest_best_in_any_direction(direction, step):
    result = run(best=("score", direction))
    assert result.best_row == {"step": step, "score": SCORES[step - 1], "other": -1.0}
    assert value(result.best) == -step
    assert not result.best["line"].training
    assert not any(p.requires_grad for p in result.best["line"].parameters())
    assert value(result.modules) == -8  # the last step is returned as before
    assert run(best=("other", "max")).best_row["step"] == 1


def test_without_a_goal_or_a_number_there_is_none():
    assert run(best=None).best is None
    result = run(steps=2, best=("score", "max"))
    assert result.best_row["step"] == 1  # the other one is NaN
    SCORES[0], first = math.nan, SCORES[0]
    try:
        result = run(steps=2)
        assert result.best is result.best_row is None
    finally:
        SCORES[0] = first


def test_averages_are_what_is_kept():
    result = run(ema=0.9)
    assert value(result.best) != round(value(result.best))
    assert value(result.best) > value(result.modules)


@pytest.mark.parametrize("fatal", [2, 3, 4, 5, 6, 7])
def test_a_run_that_is_stopped_anywhere_ends_with_the_same(tmp_path, fatal):
    """A signal writes a checkpoint; an error does not: the run goes on from an older one."""
    whole = run()
    for name in ("signal", "error"):
        folder, seen = tmp_path / name, []

        def stop(row, name=name, seen=seen):
            if row["step"] == fatal and not seen:
                seen.append(row)
                if name == "error":
                    raise InterruptedError
                signal.raise_signal(signal.SIGINT)

        with pytest.raises((InterruptedError, KeyboardInterrupt)):
            run(folder, log=stop)
        result = run(folder, resume="auto")
        assert result.best_row == whole.best_row
        assert torch.equal(result.best["line"]["w"], whole.best["line"]["w"])
        stored = load_checkpoint(folder)["best"]
        assert stored["row"] == whole.best_row
        assert torch.equal(stored["modules"]["line"]["w"], whole.best["line"]["w"])
        again = run(folder, resume="must")  # finished: read, not validated anew
        assert scores.calls == 0
        assert again.best_row == whole.best_row
        assert value(again.best) == value(whole.best)


def test_a_damaged_checkpoint_takes_its_best_along(tmp_path):
    run(tmp_path, steps=6)
    path = tmp_path / CHECKPOINT
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.warns(UserWarning, match="damaged"):
        result = run(tmp_path, steps=8)
    assert result.best_row == run().best_row


def test_a_run_with_another_goal_is_another_run(tmp_path):
    run(tmp_path, steps=4)
    with pytest.raises(CheckpointError, match="best"):
        run(tmp_path, best=("score", "min"))
    with pytest.raises(CheckpointError, match="best"):
        run(tmp_path, best=None)


@pytest.mark.parametrize(
    ("patience", "direction", "steps"),
    [(1, "max", 2), (2, "max", 5), (3, "max", 6), (5, "max", 8), (1, "min", 2), (3, "min", 7)],
)
def test_patience_ends_a_run(patience, direction, steps):
    """Scores are 3, NaN, 5, 1, 5, 2, 1, 4: NaN is waited for like any other, a tie too."""
    result = run(best=("score", direction), patience=patience)
    whole = run(steps=steps, best=("score", direction))
    assert result.step == steps
    assert result.settled == (result.step - result.best_row["step"] >= patience)
    assert not result.interrupted
    assert repr(result.validation) == repr(whole.validation)  # NaN is not itself
    assert result.best_row == whole.best_row
    assert value(result.best) == value(whole.best)


def test_patience_ends_a_run_without_any_number():
    first, SCORES[0] = SCORES[0], math.nan
    try:
        result = run(patience=2)
        assert (result.step, result.settled, result.best) == (2, True, None)
    finally:
        SCORES[0] = first


@pytest.mark.parametrize("fatal", [1, 2, 3, 4])
def test_patience_survives_a_kill(tmp_path, fatal):
    whole = run(patience=2)
    seen = []

    def stop(row):
        if row["step"] == fatal and not seen:
            seen.append(row)
            raise InterruptedError

    with pytest.raises(InterruptedError):
        run(tmp_path, patience=2, log=stop)
    result = run(tmp_path, patience=2)
    assert (result.step, result.settled) == (whole.step, True)
    assert repr(result.validation) == repr(whole.validation)
    assert load_checkpoint(tmp_path)["step"] == whole.step  # written though no step was due
    again = run(tmp_path, patience=2, resume="must")
    assert (scores.calls, again.step, again.settled) == (0, whole.step, True)
    more = run(tmp_path, patience=5, resume="must")  # who waits longer goes on
    assert (more.step, more.settled) == (8, True)
    assert repr(more.validation) == repr(run().validation)


def test_a_transport_map_waits_no_longer():
    images = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    dark = NoisyMeasurement(lambda x: x / 2)
    generator = torch.Generator().manual_seed(1)
    found = fit_transport_map(
        TransportMap(1, (4,), generator=generator), Potential(1, 8, 4, generator=generator),
        UnbalancedOTLoss(LikelihoodCost(dark.forward, scale=0.1)), images[:8], images[8:], 50,
        seed=0, measure=dark, batch_size=4, map_rate=0.05, validation=(images / 2, images),
        validate_every=1, best=("PSNR", "min"), patience=1, progress=False,
    )  # fmt: skip
    rows = found.training.validation
    assert found.training.settled
    assert len(rows) < 50
    falls = [after["PSNR"] < before["PSNR"] for before, after in pairwise(rows)]
    assert falls == [True] * (len(falls) - 1) + [False]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"patience": 0}, ValueError, "patience: 0 is below 1"),
        ({"patience": -2}, ValueError, "patience: -2 is below 1"),
        ({"patience": 1.5}, TypeError, "patience: .*1.5"),
        ({"patience": math.nan}, (TypeError, ValueError), "patience: nan"),
        ({"patience": "3"}, TypeError, "patience: '3'"),
        ({"patience": True}, TypeError, "patience: True"),
        ({"patience": 3, "best": None}, ValueError, "patience: given without best"),
        ({"best": "score"}, ValueError, "best: 'score'; allowed: the name of a number"),
        ({"best": ("score",)}, ValueError, r"best: \('score',\); allowed"),
        ({"best": ("score", "up")}, ValueError, "best: .*'up'.*; allowed: .*'max' or 'min'"),
        ({"best": (1, "max")}, ValueError, "best: .*allowed"),
        ({"best": ["score", "max", "more"]}, ValueError, "best: .*allowed"),
        ({"best": 3}, ValueError, "best: 3; allowed"),
        ({"best": ("PSNR", "max")}, ValueError, "best: 'PSNR', but validate returned score, other"),
    ],
)
def test_bad_goals_are_explained(options, error, message):
    with pytest.raises(error, match=message):
        run(**options)


def test_a_goal_needs_a_validation():
    with pytest.raises(ValueError, match="best: given without validate"):
        fit(
            walk(), lambda step: (torch.arange(2), torch.ones(2)), 2, seed=0,
            best=("score", "max"), progress=False,
        )  # fmt: skip


def test_a_transport_map_is_restored_from_its_best_step():
    images = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    dark = NoisyMeasurement(lambda x: x / 2)
    answers = {}
    for best in (None, ("PSNR", "max"), ("PSNR", "min")):
        generator = torch.Generator().manual_seed(1)
        answers[best] = fit_transport_map(
            TransportMap(1, (4,), generator=generator), Potential(1, 8, 4, generator=generator),
            UnbalancedOTLoss(LikelihoodCost(dark.forward, scale=0.1)),
            images[:8], images[8:], 6, seed=0, measure=dark, batch_size=4, map_rate=0.05,
            validation=(images / 2, images), validate_every=1, best=best, progress=False,
        )  # fmt: skip
    rows = answers[None].training.validation
    highest = max(rows, key=lambda row: row["PSNR"])

    def psnr(restoration):
        error = (restoration.restore(images / 2) - images).square().flatten(1).mean(1)
        return float((10 * torch.log10(4 / error)).mean())

    assert answers["PSNR", "max"].training.best_row == highest
    assert psnr(answers["PSNR", "max"]) == pytest.approx(highest["PSNR"], abs=1e-3)
    assert psnr(answers[None]) == pytest.approx(rows[-1]["PSNR"], abs=1e-3)
    assert psnr(answers["PSNR", "min"]) < psnr(answers["PSNR", "max"])
    score = answers["PSNR", "max"].outlier_score(images / 2)  # by the potential of that step
    assert score.isfinite().all()
