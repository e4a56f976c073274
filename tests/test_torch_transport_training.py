"""Training of a transport map: the loop it is, its noise, its resume, and what it refuses."""

import copy
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from dro_torch import metrics  # noqa: E402
from dro_torch.data import Batches, IndexedDataset  # noqa: E402
from dro_torch.keyed_noise import standard_normal  # noqa: E402
from dro_torch.losses.unbalanced import LikelihoodCost, UnbalancedOTLoss  # noqa: E402
from dro_torch.nets.transport import Potential, TransportMap  # noqa: E402
from dro_torch.training import CheckpointError, ema_decay  # noqa: E402
from dro_torch.transport_map import NoisyMeasurement, fit_transport_map  # noqa: E402

ROOT = Path(__file__).parent.parent
DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
SIDE = 8


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def halved(x):
    return x / 2


def pictures(number=12, seed=0, channels=1):
    return 2 * torch.rand(number, channels, SIDE, SIDE, generator=seeded(seed)) - 1


def networks(seed=1, channels=1, **options):
    T = TransportMap(channels, (4, 4), generator=seeded(seed), **options)
    v = Potential(channels, SIDE, 4, minibatch_deviation=False, generator=seeded(seed + 1))
    return T, v


def objective(forward=halved, scale=0.05, divergence="kl", **options):
    options = {"gradient_penalty": 0.3, "centre_cost": True} | options
    return UnbalancedOTLoss(LikelihoodCost(forward, scale=scale), divergence, **options)


def train(steps=6, folder=None, *, nets=None, loss=None, **options):
    settings = {
        "seed": 5,
        "measure": NoisyMeasurement(halved, (0.05, 0.2), (2, 1)),
        "batch_size": 4,
        "map_rate": 1e-2,
        "potential_rate": 1e-2,
        "progress": False,
        "log_every": 1,
        "validate_every": 2,
        "validation": (pictures(3, 7) / 2, pictures(3, 7)),
    } | options
    T, v = nets or networks()
    measurements = settings.pop("measurements", pictures())
    clean = settings.pop("clean", pictures(seed=3))
    return fit_transport_map(
        T, v, loss or objective(), measurements, clean, steps, folder=folder, **settings
    )


def state(found):
    result = found.training
    parts = {
        "T": result.modules["T"],
        "raw": result.trained["T"],
        "v": found.potential,
        "loss": result.modules["loss"],
        "monitor": result.modules["monitor"],
    }
    return {f"{k}.{n}": t for k, part in parts.items() for n, t in part.state_dict().items()}


def assert_same(one, other):
    first, second = state(one), state(other)
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name
    assert one.training.history == other.training.history
    assert one.training.validation == other.training.validation


# --- what an iteration is ---


@pytest.mark.parametrize("device", DEVICES)
def test_it_is_the_loop_one_would_write(device):
    steps, levels, rates = 6, torch.tensor([0.05, 0.2]), (3e-3, 1e-2)
    found = train(
        steps,
        map_rate=rates[1],
        potential_rate=rates[0],
        ema=0.5,
        device=device,
        final_gradient_penalty=0.1,
        schedule="constant",
    )
    T, v = networks()
    loss, noisy = objective(), NoisyMeasurement(halved, (0.05, 0.2), (2, 1))
    average = copy.deepcopy(T)
    first = torch.optim.Adam(v.parameters(), rates[0], betas=(0.5, 0.9))
    second = torch.optim.Adam(T.parameters(), rates[1], betas=(0.5, 0.9))
    pool, target = IndexedDataset(pictures()), IndexedDataset(pictures(seed=3))

    def measured(batches, step, stream):
        index, x = batches.batch(step)
        noise = standard_normal(index, 1, SIDE**2, seed=5, step=step, stream=stream)
        sigma = levels[noisy.group(index, seed=5)].view(-1, 1, 1, 1)
        return x / 2 + sigma * noise.view_as(x)

    for step in range(steps):
        y = measured(Batches(pool, 4, 5), step, 0)
        x = Batches(target, 4, 5).batch(step)[1]
        first.zero_grad()
        loss.gradient_penalty = [0.3, 0.3, 0.3, 0.3, 0.3 - 0.2 / 3, 0.3 - 0.4 / 3][step]
        loss.potential_loss(v, T, y, x).backward()
        first.step()
        y = measured(Batches(pool, 4, 6), step, 1)
        second.zero_grad()
        loss.map_loss(v, T, y).backward()
        second.step()
        decay = ema_decay(step + 1, 0.5)
        with torch.no_grad():
            for mean, now in zip(average.parameters(), T.parameters(), strict=True):
                mean.lerp_(now, 1 - decay)
    tolerance = {"rtol": 1e-3, "atol": 1e-4} if device == "cuda" else {"rtol": 1e-5, "atol": 1e-6}
    for mine, theirs in (
        (average, found.transport),
        (v, found.potential),
        (T, found.training.trained["T"]),
    ):
        for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b.cpu(), **tolerance)


def test_the_history_shows_both_losses_weights_per_group_and_psnr(capsys):
    found = train(5, progress=True)
    rows, checks = found.training.history, found.training.validation
    assert [row["step"] for row in checks] == [2, 4, 5]
    for row in rows:
        assert {"potential loss", "potential value", "potential mass", "map loss"} <= row.keys()
        assert ("map PSNR" in row) == (row["step"] > 2)
    assert rows[2]["map PSNR"] == pytest.approx(checks[0]["PSNR"], rel=1e-6)
    assert rows[4]["map weight 1"] == pytest.approx(checks[1]["weight 1"], rel=1e-6)
    shown = capsys.readouterr().err
    for name in ("potential loss=", "map loss=", "map weight 0=", "map weight 1=", "map PSNR="):
        assert name in shown
    # the last row is that of the objects that come back
    y, x = pictures(3, 7) / 2, pictures(3, 7)
    expected = metrics.psnr(x, found.restore(y), 2.0).mean()
    assert checks[-1]["PSNR"] == pytest.approx(float(expected), rel=1e-5)
    noisy = NoisyMeasurement(halved, (0.05, 0.2), (2, 1))
    images = pictures()[:12]
    y, groups = noisy(images, torch.arange(12), seed=5, step=0, stream=2)
    weights = found.training.modules["loss"].weights(found.potential, found.transport, y, groups)
    for group, weight in weights.items():
        assert checks[-1][f"weight {group}"] == pytest.approx(weight, rel=1e-4)


def test_the_map_sees_other_measurements_than_the_potential():
    seen = {}
    noisy = NoisyMeasurement(halved)

    def measure(x, index, *, seed, step, stream):
        y, groups = noisy(x, index, seed=seed, step=step, stream=stream)
        seen.setdefault(stream, []).append((step, index.tolist(), y))
        return y, groups

    train(3, measure=measure)
    assert [step for step, *_ in seen[0]] == [step for step, *_ in seen[1]] == [0, 1, 2]
    for (_, one, a), (_, other, b) in zip(seen[0], seen[1], strict=True):
        assert one != other
        for i in set(one) & set(other):  # the same image: other noise
            assert not torch.equal(a[one.index(i)], b[other.index(i)])


def test_the_gradient_penalty_falls_in_the_second_half():
    loss, seen = objective(gradient_penalty=0.4), []
    plain = loss.potential_loss

    def spy(*arguments, gradient_penalty):
        assert loss.gradient_penalty == 0.4  # the user's object is left alone
        seen.append(gradient_penalty)
        return plain(*arguments, gradient_penalty=gradient_penalty)

    loss.potential_loss = spy
    train(8, loss=loss, final_gradient_penalty=0.0)
    assert seen == pytest.approx([0.4] * 5 + [0.3, 0.2, 0.1])
    assert loss.gradient_penalty == 0.4


def test_it_learns_to_double_the_contrast():
    """y = x/2 + noise: T(y) = 2y fits the likelihood and the law of x."""
    x = torch.where(pictures(64, 8) > 0, 0.9, -0.9)
    y = x[:8] / 2
    T, v = networks()
    loss = UnbalancedOTLoss(LikelihoodCost(halved, quadratic=0.0, scale=0.5), centre_cost=True)
    found = train(
        60,
        nets=(T, v),
        loss=loss,
        measurements=x[:32],
        clean=x[32:],
        validation=(y, x[:8]),
        measure=NoisyMeasurement(halved, (0.02,)),
        batch_size=8,
        validate_every=60,
    )
    before = float(metrics.psnr(x[:8], y, 2.0).mean())
    assert found.training.validation[-1]["PSNR"] > before + 6


# --- resume, processes ---


@pytest.mark.parametrize("at", [3, 4])
def test_an_interrupted_run_goes_on_bit_for_bit(tmp_path, at):
    straight = train(7, tmp_path / "straight")

    def interrupt(row):
        if row["step"] == at and "map loss" in row:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(7, tmp_path / "cut", log=interrupt)
    resumed = train(7, tmp_path / "cut", resume="must")
    assert_same(straight, resumed)
    assert_same(resumed, train(7, tmp_path / "cut", resume="must"))  # finished: only read


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"loss": objective(scale=0.1)}, "loss"),
        ({"loss": objective(divergence="balanced")}, "loss"),
        ({"loss": objective(centre_cost=False)}, "centre_cost"),
        ({"batch_size": 2}, "batch_size"),
        ({"measure": NoisyMeasurement(halved, (0.1,))}, "levels"),
        ({"final_gradient_penalty": 0.0}, "final_gradient_penalty"),
        ({"clean": pictures(9)}, "pools"),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused(tmp_path, change, name):
    train(2, tmp_path)
    with pytest.raises(CheckpointError, match=name):
        train(2, tmp_path, **change)


@pytest.mark.slow
def test_two_processes_do_what_one_does(tmp_path):
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--standalone",
        __file__,
        str(tmp_path),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    alone = train(4)
    for rank in (0, 1):
        there = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, value in state(alone).items():
            if not name.startswith("monitor") or rank == 0:
                torch.testing.assert_close(there["state"][name], value, rtol=1e-3, atol=1e-5)
        for one, other in zip(there["history"], alone.training.history, strict=True):
            assert one == pytest.approx(other, rel=1e-3, abs=1e-5)


# --- measurements ---


def test_levels_come_in_their_shares_and_belong_to_the_sample():
    levels, shares = (0.05, 0.1, 0.15, 0.2), (4, 3, 2, 1)
    noisy = NoisyMeasurement(halved, levels, shares)
    index = torch.arange(4000)
    y, groups = noisy(torch.zeros(4000, 1, 4, 4), index, seed=1, step=0)
    counts = torch.bincount(groups, minlength=4) / 4000
    torch.testing.assert_close(counts, torch.tensor(shares) / 10, atol=0.02, rtol=0)
    for group, level in enumerate(levels):
        assert float(y[groups == group].std()) == pytest.approx(level, rel=0.05)
    order = torch.randperm(4000, generator=seeded())
    other, again = noisy(torch.zeros(4000, 1, 4, 4), order, seed=1, step=0)
    assert torch.equal(again, groups[order])
    assert torch.equal(other, y[order])
    assert not torch.equal(noisy(torch.zeros(4000, 1, 4, 4), index, seed=1, step=1)[0], y)
    assert torch.equal(noisy.group(index[:7], seed=1), groups[:7])
    assert not torch.equal(noisy.group(index, seed=2), groups)


def test_noise_that_belongs_to_the_image():
    fixed, x = NoisyMeasurement(halved, fresh=False), pictures(4)
    index = torch.tensor([7, 3, 5, 0])
    first, _ = fixed(x, index, seed=0, step=0)
    assert torch.equal(fixed(x, index, seed=0, step=9, stream=1)[0], first)
    assert not torch.equal(first[0] - x[0] / 2, first[1] - x[1] / 2)
    assert torch.equal(NoisyMeasurement(halved, (0.0,))(x, index, seed=0, step=0)[0], x / 2)


def test_a_fixed_pool_with_groups_and_super_resolution():
    x = pictures(8)
    small = nn.functional.avg_pool2d(x, 2)
    cost = LikelihoodCost(lambda x: nn.functional.avg_pool2d(x, 2), scale=0.1, upsample=2)
    groups = torch.tensor([3, 3, 3, 3, 9, 9, 9, 9])
    found = train(
        2,
        nets=networks(upsample=2),
        loss=UnbalancedOTLoss(cost),
        measure=None,
        measurements=IndexedDataset(small, groups),
        clean=x,
        validation=None,
    )
    assert found.training.validation[-1].keys() == {"step", "weight 3", "weight 9"}
    assert found.restore(small).shape == x.shape


@pytest.mark.parametrize("measured", [True, False])
def test_a_first_reconstruction_trains_along_only_if_it_may(tmp_path, measured):
    """Frozen it stays, bit for bit, in the averaged copy too; and the run resumes as it was."""
    x = pictures(8)
    small = nn.functional.avg_pool2d(x, 2)
    given = {"measure": None, "measurements": small, "clean": x, "validation": None}
    if measured:
        given = {"measure": NoisyMeasurement(nn.AvgPool2d(2)), "validation": (small, x)}
    for frozen in (True, False):
        ends = []
        for folder, steps in ((None, (4,)), (tmp_path / str(frozen), (2, 4))):
            Q = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(1, 1, 1))
            nn.init.constant_(Q[1].weight, 0.5)
            nn.init.zeros_(Q[1].bias)
            Q.requires_grad_(not frozen)
            fixed = nn.Upsample(scale_factor=2)  # a cost has nothing that is trained
            cost = LikelihoodCost(nn.AvgPool2d(2), scale=0.1, upsample=Q if frozen else fixed)
            T, v = networks(upsample=Q)
            for number in steps:
                found = train(
                    number, folder, nets=(T, v), loss=UnbalancedOTLoss(cost),
                    schedule="constant", **given,
                )  # fmt: skip
            assert (found.transport.upsample[1].weight == 0.5).all() == frozen
            assert (Q[1].weight == 0.5).all() == frozen
            ends.append(found.restore(small))
        assert torch.equal(*ends)


def test_groups_of_the_pool_take_precedence():
    pool = IndexedDataset(pictures(), torch.arange(12) % 3)
    found = train(2, measurements=pool)
    assert {"weight 0", "weight 1", "weight 2"} <= found.training.validation[-1].keys()


def test_the_operator_of_the_measurements_follows_the_networks():
    class Gain(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("gain", torch.tensor(0.5))

        def forward(self, x):
            return self.gain * x

    found = train(1, measure=NoisyMeasurement(Gain()), loss=objective(Gain()))
    assert "A" in found.training.modules


# --- bad input ---


class Trainable(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.5))

    def forward(self, x):
        return self.gain * x


BYTES = torch.zeros(6, 1, SIDE, SIDE, dtype=torch.uint8)
BAD = [
    ({"measurements": 2 * pictures()}, ValueError, r"measurements: entries in \[-1\.9.*\[-1, 1\]"),
    ({"clean": 127 * pictures()}, ValueError, r"clean: entries in \[-12.*\[-1, 1\]"),
    ({"clean": IndexedDataset(BYTES)}, ValueError, r"clean: value_range \(0.0, 1.0\)"),
    ({"measurements": IndexedDataset(BYTES)}, ValueError, r"measurements: value_range"),
    ({"measurements": pictures() * torch.nan}, ValueError, "measurements: .*NaN"),
    ({"clean": pictures() * torch.inf}, ValueError, "clean: .*infinite"),
    ({"measurements": pictures(channels=3)}, ValueError, r"measurements: shape \(12, 3, 8, 8\)"),
    ({"clean": pictures(channels=3)}, ValueError, r"clean: shape \(12, 3, 8, 8\)"),
    ({"clean": torch.zeros(6, 1, 8, 9)}, ValueError, r"clean: shape .*\(N, 1, 8, 8\)"),
    ({"measurements": torch.zeros(6, 1, 4, 4)}, ValueError, r"measurements: .*\(N, 1, 8, 8\)"),
    ({"clean": torch.zeros(6, 64)}, ValueError, "clean: shape"),
    ({"clean": [1, 2]}, TypeError, "clean: list"),
    ({"measurements": None}, TypeError, "measurements: NoneType"),
    ({"measure": 3}, TypeError, "measure: int is not callable"),
    ({"measure": None, "measurements": 5 * pictures()}, ValueError, "measurements: entries"),
    ({"measure": NoisyMeasurement(Trainable())}, ValueError, "measure: .*trainable"),
    ({"loss": objective(Trainable())}, ValueError, "loss: .*trainable"),
    ({"loss": nn.MSELoss()}, TypeError, "loss: MSELoss; allowed: UnbalancedOTLoss"),
    ({"nets": (networks()[0], nn.Linear(2, 1))}, TypeError, "potential: Linear"),
    ({"nets": (nn.Linear(2, 1), networks()[1])}, TypeError, "transport: Linear"),
    ({"nets": (networks()[0], Potential(3, SIDE, 4))}, ValueError, "potential: for 3 channels"),
    ({"steps": 0}, ValueError, "steps"),
    ({"steps": 2.5}, TypeError, "steps"),
    ({"seed": -1}, ValueError, "seed"),
    ({"batch_size": 0}, ValueError, "batch_size"),
    ({"validate_every": 0}, ValueError, "validate_every"),
    ({"map_rate": 0.0}, ValueError, "rate"),
    ({"potential_rate": -1.0}, ValueError, "rate"),
    ({"ema": 1.0}, ValueError, "ema"),
    ({"final_gradient_penalty": -1.0}, ValueError, "final_gradient_penalty"),
    ({"validation": (pictures(3), pictures(2))}, ValueError, "x|reconstruction"),
    ({"device": "nowhere"}, ValueError, "device"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD)
def test_bad_input(change, error, message):
    with pytest.raises(error, match=message):
        train(**{"steps": 1, **change})


BAD_NOISE = [
    ({"levels": ()}, TypeError, "levels"),
    ({"levels": 0.1}, TypeError, "levels: 0.1"),
    ({"levels": (-0.1,)}, ValueError, "levels"),
    ({"levels": (float("nan"),)}, ValueError, "levels"),
    ({"shares": (1, 2)}, ValueError, "shares: 2 for 1 levels"),
    ({"shares": (0,)}, ValueError, "shares"),
    ({"forward": 3}, TypeError, "forward"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD_NOISE)
def test_bad_noise(change, error, message):
    with pytest.raises(error, match=message):
        NoisyMeasurement(**{"forward": halved, **change})


if __name__ == "__main__":  # under torchrun, for test_two_processes_do_what_one_does
    torch.set_num_threads(1)
    ended = train(4)
    content = {"state": state(ended), "history": ended.training.history}
    torch.save(content, Path(sys.argv[1]) / f"{os.environ['RANK']}.pt")
