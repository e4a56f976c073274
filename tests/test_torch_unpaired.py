"""Other methods for unpaired images: neural OT, OTUR and RCOT, where their answers are known."""

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import wasserstein_distance

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from dro_torch.losses.unbalanced import LikelihoodCost, UnbalancedOTLoss  # noqa: E402
from dro_torch.losses.unpaired import CriticOTLoss, neural_ot_loss  # noqa: E402
from dro_torch.nets.transport import Potential, TransportMap  # noqa: E402
from dro_torch.training import Phase, fit  # noqa: E402
from dro_torch.transport_map import NoisyMeasurement, fit_transport_map  # noqa: E402

NAN = float("nan")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Table(nn.Module):
    """A map of a few measurements, known by their order, whose values are its parameters."""

    def __init__(self, values):
        super().__init__()
        self.values = nn.Parameter(torch.as_tensor(values, dtype=torch.float64))

    def forward(self, y):
        return self.values + 0 * y


# --- NOT: the balanced semi-dual, and the closed form on Gaussians ---


def test_neural_ot_is_its_formula():
    y, x = torch.randn(2, 5, 3, generator=seeded()).double()
    T, v = nn.Linear(3, 3).double(), nn.Sequential(nn.Linear(3, 1), nn.Tanh()).double()
    loss = neural_ot_loss(3, scale=2.0)
    cost = 2.0 * (T(y) - y).square().mean()  # s / D times the sum over entries
    expected = cost - v(T(y)).mean()
    assert float(loss.map_loss(v, T, y)) == pytest.approx(float(expected), rel=1e-12)
    found = loss.potential_loss(v, T, y, x)
    by_hand = v(T(y)).mean() - cost - v(x).mean()
    assert float(found) == pytest.approx(float(by_hand), rel=1e-12)
    assert set(loss.components) == {"value", "cost", "mass", "target_mass"}


def normals(mean, std):
    return lambda size, generator: mean + std * torch.randn(size, 2, generator=generator)


MEASURED = normals(torch.tensor([0.5, -0.3]), torch.tensor([0.8, 0.6]))
CLEAN = normals(torch.tensor([-0.2, 0.4]), torch.tensor([1.0, 0.7]))


def perceptron(outputs, generator):
    sizes = (2, 64, 64, outputs)
    layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.SiLU())][:-1]
    with torch.no_grad():
        for layer in layers[::2]:
            for parameter in layer.parameters():
                bound = layer.in_features**-0.5
                parameter.uniform_(-bound, bound, generator=generator)
    return nn.Sequential(*layers)


def test_neural_ot_finds_the_monotone_map_of_gaussians():
    """Ten steps of the map per step of the potential; T(y) = m2 + (s2 / s1)(y - m1) per axis."""
    steps, generator = 1200, seeded(1)
    T, v, loss = perceptron(2, generator), perceptron(1, generator), neural_ot_loss(2)

    def pair(step):
        drawn = seeded(step)
        return torch.arange(256), MEASURED(256, drawn), CLEAN(256, drawn)

    options = {"betas": (0.5, 0.9)}
    fit(
        [
            Phase(
                "v",
                {"v": v},
                lambda m, b, c: loss.potential_loss(m["v"], m["T"], *b),
                rate=1e-2,
                every=10,
                **options,
            ),
            Phase(
                "T",
                {"T": T},
                lambda m, b, c: loss.map_loss(m["v"], m["T"], b[0]),
                rate=4e-3,
                **options,
            ),
        ],
        pair,
        steps,
        seed=0,
        progress=False,
    )
    y = MEASURED(20000, seeded(5))
    ratio = torch.tensor([1.0 / 0.8, 0.7 / 0.6])
    exact = torch.tensor([-0.2, 0.4]) + ratio * (y - torch.tensor([0.5, -0.3]))
    with torch.no_grad():
        error = (T(y) - exact).norm() / (exact - exact.mean(0)).norm()
        identity = (y - exact).norm() / (exact - exact.mean(0)).norm()
    assert error < 0.06
    assert identity > 0.8


# --- OTUR: two measurements of one value, two clean signals ---


def distance_and_root(t, x, rho):
    """W1 of the two laws plus rho times the root of the mean squared displacement from zero."""
    return wasserstein_distance(t, x) + rho * math.sqrt(np.mean(np.square(t)))


@pytest.mark.parametrize("rho", [0.8, 0.9, 0.99])
def test_otur_on_two_points(rho):
    """y = (0, 0), x = (a, b), 1/sqrt 2 < rho < 1: t = (a, a / sqrt(2 rho^2 - 1)), at most b.

    The root couples the images of a batch: the nearer one arrives, the farther one goes on as far
    as the price of the batch allows.
    """
    a, b = 0.3, 2.0
    second = min(b, a / math.sqrt(2 * rho**2 - 1))
    best = distance_and_root((a, second), (a, b), rho)
    grid = np.linspace(-0.5, 2.5, 121)
    assert best <= min(distance_and_root((s, t), (a, b), rho) for s in grid for t in grid) + 1e-9
    loss = CriticOTLoss(distance=rho, value_range=(0, 1))
    T, y = Table([[a], [second]]), torch.zeros(2, 1, dtype=torch.float64)
    bend = rho * a / math.sqrt((a**2 + second**2) / 2)  # the critic's slope where a signal is
    assert 0 < bend < 1

    def critic(z):  # 1-Lipschitz, slope 1 between the signals
        return torch.where(z <= a, bend * (z - a), z - a)[:, 0]

    value = loss.map_loss(critic, T, y)
    value.backward()
    torch.testing.assert_close(T.values.grad, torch.zeros(2, 1).double(), atol=1e-12, rtol=0)
    clean = torch.tensor([[a], [b]], dtype=torch.float64)
    distance = -float(loss.potential_loss(critic, T, y, clean, gradient_penalty=0))
    assert distance == pytest.approx(wasserstein_distance((a, second), (a, b)), abs=1e-12)
    assert float(value) + float(critic(clean).mean()) == pytest.approx(best, abs=1e-12)


def test_otur_all_or_nothing_for_one_point():
    """A single image moves by d where rho < 1 and stays where rho > 1."""
    for rho, slope in ((0.9, -0.1), (1.1, 0.1)):
        T = Table([[0.5]])
        y = torch.zeros(1, 1, dtype=torch.float64)
        CriticOTLoss(rho, value_range=(0, 1)).map_loss(lambda z: z[:, 0], T, y).backward()
        assert float(T.values.grad) == pytest.approx(slope)


def test_units_are_the_range_of_the_images():
    """Images in [-1, 1] and the same in [0, 1]: the same losses."""
    y, x = torch.rand(2, 4, 1, 3, 3, generator=seeded()).double()
    weight = torch.randn(9, generator=seeded(2)).double()
    wide, narrow = CriticOTLoss(3.0, 2.0), CriticOTLoss(3.0, 2.0, value_range=(0, 1))

    def critic(z):
        return torch.tanh(z.flatten(1) @ weight)

    def scaled(z):
        return critic((z + 1) / 2)

    def small(z):
        return 0.7 * z

    def large(z):
        return 2 * small((z + 1) / 2) - 1

    torch.testing.assert_close(
        wide.map_loss(scaled, large, 2 * y - 1), narrow.map_loss(critic, small, y)
    )
    values = []
    for loss, v, T, pair in (
        (wide, scaled, large, (2 * y - 1, 2 * x - 1)),
        (narrow, critic, small, (y, x)),
    ):
        torch.manual_seed(0)
        values.append(float(loss.potential_loss(v, T, *pair)))
    assert values[0] == pytest.approx(values[1], rel=1e-12)


@pytest.mark.parametrize("slope", [0.5, 1.0, 3.0])
def test_the_penalty_of_a_linear_critic(slope):
    loss = CriticOTLoss(gradient_penalty=7.0, value_range=(0, 1))
    direction = torch.tensor([0.6, 0.8]) * slope
    y, x = torch.randn(2, 5, 2, generator=seeded())
    loss.potential_loss(lambda z: z @ direction, lambda y: y, y, x)
    assert float(loss.components["gradient_penalty"]) == pytest.approx(
        7 * (slope - 1) ** 2, abs=1e-5
    )


def test_the_penalty_is_taken_between_map_and_signal():
    """A critic that is flat below 1 and has slope 3 above: points lie on the segments only."""
    loss = CriticOTLoss(gradient_penalty=1.0, value_range=(0, 1))
    y = torch.zeros(2000, 1)

    def critic(z):
        return 3 * torch.relu(z[:, 0] - 1)

    torch.manual_seed(0)
    loss.potential_loss(critic, lambda y: y, y, y + 4)  # uniform on [0, 4]
    assert float(loss.components["gradient_penalty"]) == pytest.approx(0.75 * 4 + 0.25, abs=0.12)


def test_a_flat_critic_and_a_map_that_stays_have_gradients():
    T, v = Table(torch.zeros(3, 2)), nn.Linear(2, 1).double()
    nn.init.zeros_(v.weight)
    y = torch.zeros(3, 2, dtype=torch.float64)
    loss = CriticOTLoss(2.0, 1.0)
    (loss.map_loss(v, T, y) + loss.potential_loss(v, T, y, y + 1)).backward()
    for parameter in (*T.parameters(), *v.parameters()):
        assert parameter.grad.isfinite().all()


# --- RCOT: the residual's Fourier coefficients are shrunk ---


def test_rcot_on_two_pixels():
    """mean |F r| of two pixels is max(|r1|, |r2|) / sqrt 2."""
    loss = CriticOTLoss(0.0, 5.0, value_range=(0, 1))
    y = torch.zeros(1, 1, 1, 2, dtype=torch.float64)
    for r in ((0.3, -0.7), (2.0, 1.0)):
        moved = torch.tensor(r, dtype=torch.float64).reshape(1, 1, 1, 2)
        value = loss.map_loss(lambda z: 0 * z.flatten(1)[:, 0], lambda y, moved=moved: moved, y)
        assert float(value) == pytest.approx(5 * max(map(abs, r)) / math.sqrt(2), rel=1e-12)


def test_rcot_shrinks_the_residuals_spectrum():
    """Against the critic -|z - b|^2 / 2 the best residual is that of soft thresholds in Fourier."""
    side, strength = 4, 3.0
    y, b = torch.randn(2, 1, 1, side, side, generator=seeded(3)).double()
    loss = CriticOTLoss(0.0, strength, value_range=(0, 1))
    wanted = torch.fft.fft2(b - y, norm="ortho")
    kept = (1 - strength / side**2 / wanted.abs()).clamp(min=0)
    assert 0 < int((kept > 0).sum()) < side**2  # some frequencies stay, some go
    found = y + torch.fft.ifft2(kept * wanted, norm="ortho").real

    def objective(z):
        def critic(z):
            return -0.5 * (z - b).square().flatten(1).sum(1)

        return float(loss.map_loss(critic, lambda y: z, y))

    best = objective(found)
    generator = seeded(4)
    for size in (1e-3, 1e-1, 1.0):
        for _ in range(20):
            move = size * torch.randn(found.shape, generator=generator, dtype=torch.float64)
            assert objective(found + move) > best


def test_the_second_pass_sees_the_residual_of_the_first():
    T = TransportMap(2, (4, 4), two_pass=True, generator=seeded())
    y = torch.rand(3, 2, 7, 8, generator=seeded(1))
    seen = []
    handle = T.stem.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    found = T(y)
    handle.remove()
    assert len(seen) == 2
    first, second = (part[..., :7, :8] for part in seen)
    torch.testing.assert_close(first, torch.cat([y, torch.zeros_like(y)], 1))
    torch.testing.assert_close(second[:, :2], y)
    residual = second[:, 2:]  # Q(y) - T0(y), so T0(y) = y - r
    with torch.no_grad():
        T.stem[0].weight[:, 2:] = 0  # a network that does not look at it gives T0 = T
    torch.testing.assert_close(T(y) - T(y), torch.zeros_like(y))
    assert float(residual.detach().abs().max()) > 0
    plain = TransportMap(2, (4, 4))
    weights = {
        key: value[:, :2] if key == "stem.0.weight" else value
        for key, value in T.state_dict().items()
    }
    plain.load_state_dict(weights)
    torch.testing.assert_close(T(y), plain(y))
    assert found.shape == y.shape
    assert TransportMap(**T.config).two_pass


# --- steps, engine, bad input ---


@pytest.mark.parametrize("fourier", [0.0, 2.0])
def test_each_step_leaves_the_other_network_alone(fourier):
    T, v = nn.Linear(3, 3), nn.Linear(3, 1)
    y, x = torch.randn(2, 4, 3, generator=seeded())
    loss = CriticOTLoss(fourier=fourier)
    loss.potential_loss(v, T, y, x).backward()
    assert all(p.grad is None for p in T.parameters())
    assert v.weight.grad is not None
    v.zero_grad()
    loss.map_loss(v, T, y).backward()
    assert all(p.grad is None or not p.grad.any() for p in v.parameters())
    assert T.weight.grad.any()
    assert loss.weights(v, T, y, [0, 0, 1, 1]) == {0: 1.0, 1: 1.0}


def halved(x):
    return x / 2


def pictures(seed):
    return 2 * torch.rand(8, 1, 8, 8, generator=seeded(seed)) - 1


def trained(loss, steps=4, **options):
    T = TransportMap(1, (4, 4), two_pass=options.pop("two_pass", False), generator=seeded(1))
    v = Potential(1, 8, 4, generator=seeded(2))
    given = {"measure": NoisyMeasurement(halved), "batch_size": 4, "map_rate": 1e-3} | options
    return fit_transport_map(
        T,
        v,
        loss,
        pictures(0),
        pictures(3),
        steps,
        seed=0,
        progress=False,
        log_every=1,
        validate_every=2,
        validation=(pictures(5) / 2, pictures(5)),
        **given,
    )


@pytest.mark.parametrize(
    ("loss", "options"),
    [
        (CriticOTLoss(), {"optimizer": "rmsprop"}),
        (CriticOTLoss(fourier=10.0), {"two_pass": True}),
        (neural_ot_loss(64), {"potential_every": 2}),
    ],
    ids=["otur", "rcot", "not"],
)
def test_every_method_trains_and_resumes_bit_for_bit(loss, options, tmp_path):
    straight = trained(loss, **options)
    for steps in (2, 4):
        resumed = trained(
            loss,
            steps,
            folder=tmp_path,
            **options,
            schedule="constant",
        )
    again = trained(loss, schedule="constant", **options)
    for one, other in zip(
        resumed.transport.parameters(), again.transport.parameters(), strict=True
    ):
        assert torch.equal(one, other)
    row = straight.training.validation[-1]
    assert row["weight 0"] == 1.0
    assert math.isfinite(row["PSNR"])


def test_the_potential_takes_part_in_every_second_iteration_only(monkeypatch):
    loss, calls = neural_ot_loss(64), []
    for name in ("potential_loss", "map_loss"):
        plain = getattr(UnbalancedOTLoss, name)

        def counted(self, *arguments, plain=plain, name=name, **named):
            calls.append(name)
            return plain(self, *arguments, **named)

        monkeypatch.setattr(UnbalancedOTLoss, name, counted)
    trained(loss, 4, potential_every=2)
    assert calls == ["potential_loss", "map_loss", "map_loss"] * 2


def test_the_scale_goes_geometrically_and_the_loss_stays_as_it_is(monkeypatch):
    loss, scales = UnbalancedOTLoss(LikelihoodCost(halved, scale=0.01)), []
    plain = LikelihoodCost.forward

    def noted(self, y, x):
        scales.append(self.scale)
        return plain(self, y, x)

    monkeypatch.setattr(LikelihoodCost, "forward", noted)
    found = trained(loss, 3, final_scale=1.0)
    assert sorted({round(scale, 9) for scale in scales}) == [0.01, 0.1, 1.0]
    assert loss.cost.scale == 0.01
    assert found.cost.scale == 1.0


Y, X = torch.zeros(4, 2), torch.ones(4, 2)


def first_entry(x):
    return x[:, 0]


def unchanged(y):
    return y


BAD_OPTIONS = [
    ({"distance": -1.0}, ValueError, "distance: -1.0 is negative"),
    ({"distance": NAN}, ValueError, "distance: nan is not finite"),
    ({"distance": "30"}, TypeError, "distance: '30' is not a real number"),
    ({"fourier": -2.0}, ValueError, "fourier: -2.0 is negative"),
    ({"fourier": math.inf}, ValueError, "fourier: inf is not finite"),
    ({"distance": 0, "fourier": 0}, ValueError, "distance, fourier: both are zero"),
    ({"gradient_penalty": -1}, ValueError, "gradient_penalty: -1.0 is negative"),
    ({"value_range": (1, 1)}, ValueError, r"value_range: \(1.0, 1.0\); the first must be smaller"),
    ({"value_range": 2.0}, TypeError, "value_range: 2.0; allowed: a pair"),
    ({"value_range": (0, NAN)}, ValueError, "value_range: nan is not finite"),
    ({"upsample": 0}, ValueError, "upsample: 0 is below 1"),
    ({"checks": "often"}, ValueError, "checks: unknown value 'often'"),
]


@pytest.mark.parametrize(("change", "kind", "message"), BAD_OPTIONS)
def test_bad_options_are_refused(change, kind, message):
    with pytest.raises(kind, match=f"^{message}"):
        CriticOTLoss(**change)


BAD_BATCHES = [
    ({"y": Y / 0}, ValueError, "y: 8 entries are NaN"),
    ({"x": X / 0}, ValueError, "x: 8 entries are NaN or infinite"),
    ({"x": X[:3]}, ValueError, "x: 3 samples, y: 4; the penalty needs equally many"),
    ({"x": X.double()}, ValueError, "x: dtype torch.float64, but y has torch.float32"),
    ({"y": Y.int()}, TypeError, "y: dtype torch.int32"),
    ({"x": X.numpy()}, TypeError, "x: ndarray is not a torch.Tensor"),
    ({"v": lambda x: x}, ValueError, r"v: v\(x\) returned shape \(4, 2\) for 4"),
    ({"T": lambda y: y[:2]}, ValueError, r"T: T\(y\) returned shape \(2, 2\) for y"),
    ({"T": lambda y: y[:, :1]}, ValueError, r"upsample: Q\(y\) has shape \(4, 2\), but T\(y\)"),
    ({"x": X[:, :1]}, ValueError, r"T: T\(y\) has shape \(4, 2\), but x has \(4, 1\)"),
    ({"gradient_penalty": -1.0}, ValueError, "gradient_penalty: -1.0 is negative"),
]


@pytest.mark.parametrize(("change", "kind", "message"), BAD_BATCHES)
def test_bad_batches_are_refused(change, kind, message):
    given = {"v": first_entry, "T": unchanged, "y": Y, "x": X, **change}
    with pytest.raises(kind, match=f"^{message}"):
        CriticOTLoss().potential_loss(**given)
    if not {"x", "gradient_penalty"} & set(change):
        with pytest.raises(kind, match=f"^{message}"):
            CriticOTLoss().map_loss(given["v"], given["T"], given["y"])


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: neural_ot_loss(0), ValueError, "entries: 0 is below 1"),
        (lambda: neural_ot_loss(2.5), TypeError, "entries: 2.5 is not an integer"),
        (lambda: neural_ot_loss(4, scale=0.0), ValueError, "scale: 0.0; allowed: a number > 0"),
        (lambda: neural_ot_loss(4, upsample=-1), ValueError, "upsample: -1 is below 1"),
        (lambda: TransportMap(1, two_pass=1), TypeError, "two_pass: 1; allowed: True or False"),
        (lambda: trained(CriticOTLoss(), final_scale=1.0), ValueError, "final_scale: the loss has"),
        (
            lambda: trained(neural_ot_loss(64), final_scale=0.0),
            ValueError,
            "final_scale: 0.0; allowed: a number > 0",
        ),
        (
            lambda: trained(neural_ot_loss(64), potential_every=0),
            ValueError,
            "potential_every: 0 is below 1",
        ),
        (
            lambda: trained(neural_ot_loss(64), optimizer="sgd"),
            ValueError,
            "optimizer: unknown value 'sgd'",
        ),
        (
            lambda: trained(nn.MSELoss()),
            TypeError,
            "loss: MSELoss; allowed: UnbalancedOTLoss, Crit",
        ),
    ],
)
def test_bad_numbers_are_refused(make, kind, message):
    with pytest.raises(kind, match=f"^{message}"):
        make()
