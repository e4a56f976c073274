"""The best validation of a run: kept, killed and resumed, and restored from."""

import math
import signal

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
    ("options", "error", "message"),
    [
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
