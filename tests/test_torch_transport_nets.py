"""The map, the potential, and a trained map as a user's object."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from dro_torch.losses.unbalanced import LikelihoodCost, UnbalancedOTLoss  # noqa: E402
from dro_torch.nets.transport import Potential, TransportMap  # noqa: E402
from dro_torch.transport_map import TransportRestoration  # noqa: E402

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def images(*shape, seed=1):
    return torch.randn(*shape, generator=seeded(seed))


def size_of(network):
    return sum(parameter.numel() for parameter in network.parameters())


# --- the map ----------------------------------------------------------------------------------


def test_the_paper_map_has_four_point_six_million_parameters():
    with torch.device("meta"):
        sizes = {name: size_of(TransportMap(3, name)) for name in ("paper", "32", "small")}
    assert sizes["paper"] == pytest.approx(4.6e6, rel=0.01)
    assert sizes["small"] < sizes["32"] < sizes["paper"]


def test_the_parameters_of_the_map_are_those_of_its_description():
    """Five blocks of 18.5 w² per scale (four at the coarsest), one in the stem, 1x1 between."""
    widths, hidden = (16, 24, 32), (4, 6, 8)
    block = {w: 18 * w * w + 2 * w * h for w, h in zip(widths, hidden, strict=True)}
    expected = 6 * block[16] + 5 * block[24] + 4 * block[32]
    expected += 2 * (16 * 24 + 24 * 32) + 9 * 3 * 16 + 16 * 3 + 1
    T = TransportMap(3, widths)
    assert size_of(T) == expected
    slopes = [part for part in T.modules() if isinstance(part, nn.PReLU)]
    assert len(slopes) == 1  # one, shared
    assert slopes[0].weight.numel() == 1
    assert all(part.bias is None for part in T.modules() if isinstance(part, nn.Conv2d))
    assert not [part for part in T.modules() if "Norm" in type(part).__name__]


@pytest.mark.parametrize("size", [(4, 4), (5, 7), (1, 1), (30, 33), (28, 28)])
@pytest.mark.parametrize("widths", [(4,), (4, 6), (2, 2, 4, 4)])
def test_every_size_is_padded_and_cropped(size, widths):
    T = TransportMap(1, widths, generator=seeded())
    y = images(2, 1, *size)
    moved = T(y)
    assert moved.shape == y.shape
    unit = 2 ** (len(T.widths) - 1)
    padded = nn.functional.pad(y, (0, -size[1] % unit, 0, -size[0] % unit), mode="replicate")
    torch.testing.assert_close(moved, T(padded)[..., : size[0], : size[1]])
    assert torch.equal(T(0 * y), 0 * y)  # without biases


def test_the_global_residual():
    T = TransportMap(2, "small", generator=seeded())
    y = images(2, 2, 8, 8)
    nn.init.zeros_(T.head.weight)
    assert torch.equal(T(y), y)
    S = TransportMap(2, "small", upsample=4, generator=seeded())
    wide = nn.functional.interpolate(y, scale_factor=4, mode="bicubic", align_corners=False)
    assert S(y).shape == wide.shape
    nn.init.zeros_(S.head.weight)
    assert torch.equal(S(y), wide)


def test_the_map_step_by_step():
    """The forward pass from its description: convolutions at full size, resampling by torch."""
    T = TransportMap(1, (4, 6, 8), generator=seeded()).double()
    y = images(2, 1, 8, 12).double()

    def block(part, x):
        h = part.second(nn.functional.prelu(part.first(x), part.slope.weight))
        gate = h.mean((2, 3), keepdim=True)
        gate = torch.sigmoid(part.excite(torch.relu(part.squeeze(gate))))
        return x + h * gate

    def blocks(parts, x):
        for part in parts:
            x = block(part, x)
        return x

    def resampled(x, factor):
        return nn.functional.interpolate(
            x, scale_factor=factor, mode="bilinear", align_corners=False
        )

    e1 = blocks(T.down[0], block(T.stem[1], T.stem[0](y)))
    e2 = blocks(T.down[1], T.narrow[0](resampled(e1, 0.5)))
    e3 = blocks(T.down[2], T.narrow[1](resampled(e2, 0.5)))
    d3 = blocks(T.up[2], e3)
    d2 = blocks(T.up[1], T.widen[1](resampled(d3, 2)) + block(T.skip[1][0], e2))
    d1 = blocks(T.up[0], T.widen[0](resampled(d2, 2)) + block(T.skip[0][0], e1))
    torch.testing.assert_close(T(y), y + T.head(d1), rtol=1e-12, atol=1e-12)
    assert float((T(y) - y).abs().max()) > 1e-3


# --- the potential ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "width", "widths"),
    [
        (256, "paper", [128, 256, 512, 512, 512, 512, 512]),
        (32, "32", [128, 256, 512, 512]),
        (28, "small", [16, 32, 64]),
        ((64, 48), 8, [8, 16, 32, 32]),
        (4, 8, [8]),
    ],
)
def test_depth_and_widths_of_the_potential(size, width, widths):
    with torch.device("meta"):
        v = Potential(3, size, width)
        assert v(torch.empty(2, 3, *v.size)).shape == (2,)
    assert [v.stem.out_channels] + [block.second.out_channels for block in v.blocks] == widths
    assert v.end.in_channels == widths[-1] + 1
    assert not [part for part in v.modules() if "Norm" in type(part).__name__]


def low_pass(x):
    """Every second value of the correlation with (1, 3, 3, 1) / 8 along both axes."""
    for axis in (-2, -1):
        x = np.moveaxis(x, axis, -1)
        n = x.shape[-1]
        ends = [(0, 0)] * (x.ndim - 1) + [(1, 1)]
        p = np.pad(x, ends)
        x = np.stack([(p[..., 2 * i : 2 * i + 4] @ [1, 3, 3, 1]) / 8 for i in range(n // 2)], -1)
        x = np.moveaxis(x, -1, axis)
    return x


def test_the_potential_step_by_step():
    v = Potential(1, 9, 4, generator=seeded()).double()
    for block in v.blocks:
        assert not block.second.weight.any()  # starts at zero
        nn.init.normal_(block.second.weight, generator=seeded(5))
    x = images(6, 1, 9, 9).double()

    def leaky(h):
        return torch.where(h > 0, h, 0.2 * h)

    def halved(h):
        return torch.from_numpy(low_pass(h.numpy()))

    with torch.no_grad():
        h = v.stem(x)
        for block in v.blocks:
            inner = block.second(halved(leaky(block.first(leaky(h)))))
            h = (inner + block.skip(halved(h))) / math.sqrt(2)
        groups = h.numpy().reshape(3, 2, -1)  # images i, i + 2, i + 4: the largest divisor <= 4
        deviation = np.sqrt(groups.var(axis=0) + 1e-8).mean(axis=1)
        plane = torch.from_numpy(np.tile(deviation, 3))[:, None, None, None]
        h = torch.cat([h, plane.expand(6, 1, *h.shape[-2:])], 1)
        h = leaky(v.end(h)).sum((2, 3))
        torch.testing.assert_close(v(x), v.head(h)[:, 0], rtol=1e-12, atol=1e-12)


def test_the_deviation_of_the_batch_is_optional():
    x = images(4, 1, 8, 8)
    alone = Potential(1, 8, 4, minibatch_deviation=False, generator=seeded())
    torch.testing.assert_close(alone(x)[:1], alone(x[:1]))
    together = Potential(1, 8, 4, generator=seeded())
    assert float((together(x)[:1] - together(x[:1])).abs().detach()) > 1e-4
    assert torch.isfinite(together(x[:1])).all()


def test_the_gradient_penalty_of_a_potential_by_finite_differences():
    v = Potential(1, 8, 4, minibatch_deviation=False, generator=seeded()).double()
    x, step = images(2, 1, 8, 8).double(), 1e-6
    loss = UnbalancedOTLoss(LikelihoodCost(likelihood=0), gradient_penalty=2.0)
    slopes = torch.zeros(2).double()
    with torch.no_grad():
        for axis in torch.eye(64).double():
            shift = step * axis.reshape(1, 1, 8, 8)
            slopes += ((v(x + shift) - v(x - shift)) / (2 * step)).square()
    assert float(loss.r1(v, x).detach()) == pytest.approx(float(slopes.mean()), rel=1e-6)
    loss.r1(v, x).backward()
    assert all(torch.isfinite(p.grad).all() for p in v.parameters() if p.grad is not None)


def test_a_bfloat16_potential_sums_in_float32():
    """Values, slopes and both gradients of the loss agree to a rounding of bfloat16, no worse.

    A sum over pixels in bfloat16 would stop at 256 units of its last digit.
    """
    plain = Potential(1, 32, 8, generator=seeded())
    reduced = Potential(1, 32, 8, bf16=True, generator=seeded())
    with torch.no_grad():  # the last convolutions start at zero
        for p, q in zip(plain.parameters(), reduced.parameters(), strict=True):
            p.add_(0.05 * torch.randn(p.shape, generator=seeded()))
            q.copy_(p)
    x = images(8, 1, 32, 32)
    assert reduced(x).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        inside = reduced(x)
    torch.testing.assert_close(inside, reduced(x), rtol=0, atol=0)
    widths = []
    hooks = [
        reduced.blocks[0].first.register_forward_hook(lambda *a: widths.append(a[2].dtype)),
        reduced.head.register_forward_pre_hook(lambda *a: widths.append(a[1][0].dtype)),
    ]
    loss = UnbalancedOTLoss(LikelihoodCost(likelihood=0, scale=0.01), gradient_penalty=0.1)
    found = []
    for v in (plain, reduced):
        v.zero_grad()
        value = loss.potential_loss(v, torch.nn.Identity(), x, x.flip(0))
        value.backward()
        gradients = torch.cat([p.grad.flatten() for p in v.parameters()])
        found.append((float(value.detach()), gradients))
    for hook in hooks:
        hook.remove()
    assert set(widths[::2]) == {torch.bfloat16}
    assert set(widths[1::2]) == {torch.float32}
    (value, gradient), (close, close_gradient) = found
    assert close == pytest.approx(value, rel=0.02)
    assert close != value
    assert float((close_gradient - gradient).norm()) < 0.03 * float(gradient.norm())
    assert Potential(**reduced.config).bf16


# --- both -------------------------------------------------------------------------------------


def both():
    yield TransportMap(2, (4, 6, 8), generator=seeded())
    yield TransportMap(2, (4, 6, 8), upsample=2, generator=seeded())
    yield Potential(2, (12, 9), 4, generator=seeded())


NETWORKS = pytest.mark.parametrize("which", range(3), ids=["map", "upsampling map", "potential"])


@pytest.mark.parametrize(
    "network",
    [TransportMap(2, (4, 6), upsample=2, generator=seeded()), Potential(2, (12, 9), 4)],
    ids=["map", "potential"],
)
def test_compiles_without_a_break(network):
    """The graph is captured whole."""
    x = images(4, 2, 12, 9) if isinstance(network, Potential) else images(4, 2, 5, 4)
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    values = compiled(x), network(x)
    torch.testing.assert_close(*values, rtol=1e-5, atol=1e-5)
    slopes = [torch.autograd.grad(value.sum(), network.head.weight)[0] for value in values]
    torch.testing.assert_close(*slopes, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("device", DEVICES)
@NETWORKS
def test_dtypes_layouts_and_states(which, device):
    network = list(both())[which].to(device)
    for parameter in network.parameters():  # nothing at zero
        parameter.data.add_(
            torch.randn(parameter.shape, generator=seeded(2)).to(device), alpha=0.05
        )
    x = images(4, 2, 12, 9).to(device)
    plain = network(x)
    copy = type(network)(**network.config).to(device)
    copy.load_state_dict(network.state_dict())
    assert torch.equal(copy(x), plain)
    last = copy.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(last, plain, rtol=1e-4, atol=1e-4)
    double = copy.double()(x.double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), plain, rtol=1e-4, atol=1e-4)
    with torch.autocast(device, dtype=torch.bfloat16):
        mixed = network(x)
    torch.testing.assert_close(mixed.float(), plain, rtol=0.1, atol=0.1)


@NETWORKS
def test_gradients_against_differences(which):
    network = list(both())[which].double()
    for parameter in network.parameters():
        parameter.data.add_(torch.randn(parameter.shape, generator=seeded(2)), alpha=0.05)
    x = images(2, 2, 12, 9).double().requires_grad_()
    assert torch.autograd.gradcheck(network, x, fast_mode=True)
    assert torch.autograd.gradgradcheck(network, x, fast_mode=True)


@NETWORKS
def test_initial_weights_come_from_the_generator(which):
    before = torch.get_rng_state()
    first, second = (list(both())[which] for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    other = type(first)(**first.config, generator=seeded(7))
    assert any(
        not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True)
    )


@pytest.mark.parametrize("device", DEVICES)
def test_both_steps_lower_their_losses(device):
    T = TransportMap(1, (4, 6), generator=seeded()).to(device)
    v = Potential(1, 8, 4, generator=seeded(3)).to(device)
    loss = UnbalancedOTLoss(LikelihoodCost(lambda x: 0.5 * x, scale=0.1), gradient_penalty=0.01)
    y, x = images(8, 1, 8, 8).to(device), images(8, 1, 8, 8, seed=2).to(device)
    for network, step in (
        (v, lambda: loss.potential_loss(v, T, y, x)),
        (T, lambda: loss.map_loss(v, T, y)),
    ):
        optimiser = torch.optim.Adam(network.parameters(), 1e-3)
        values = []
        for _ in range(15):
            optimiser.zero_grad()
            value = step()
            value.backward()
            optimiser.step()
            values.append(float(value.detach()))
        assert values[-1] < values[0] - 1e-3


# --- the user's object ------------------------------------------------------------------------


def restoration(upsample=1, **options):
    T = TransportMap(1, (4, 6), upsample=upsample, generator=seeded())
    T.head.weight.data.mul_(5)
    v = Potential(1, 8 * upsample, 4, minibatch_deviation=False, generator=seeded(1))
    forward = nn.AvgPool2d(upsample)
    cost = LikelihoodCost(forward, scale=0.3, upsample=None if upsample == 1 else upsample)
    return TransportRestoration(T, v, cost, **options), forward


@pytest.mark.parametrize("upsample", [1, 2])
def test_restore_and_score(upsample):
    trained, _ = restoration(upsample)
    y = images(5, 1, 8, 8)
    raw = trained.restore(y, clamp=False, batch=2)
    with torch.no_grad():
        torch.testing.assert_close(raw, trained.transport(y))
        by_hand = trained.cost(y, raw) - trained.potential(raw)
    assert raw.shape == (5, 1, 8 * upsample, 8 * upsample)
    assert float(raw.abs().max()) > 1
    assert torch.equal(trained.restore(y, batch=2), raw.clamp(-1, 1))
    assert not raw.requires_grad
    score = trained.outlier_score(y, batch=3)
    torch.testing.assert_close(score, by_hand)
    loss = UnbalancedOTLoss(trained.cost)
    weights = loss.weights(trained.potential, trained.transport, y)
    torch.testing.assert_close(torch.exp(-score), weights)
    assert not trained.transport.training


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_save_and_load(tmp_path, dtype):
    for upsample in (1, 2):
        trained, forward = restoration(upsample, largest=9.0)
        trained.to(dtype)
        y = images(3, 1, 8, 8).to(dtype)
        trained.save(tmp_path / "map.pt")
        assert [path.name for path in tmp_path.iterdir()] == ["map.pt"]
        again = TransportRestoration.load(tmp_path / "map.pt", forward=forward)
        assert torch.equal(again.restore(2.2 * y), trained.restore(2.2 * y))
        assert torch.equal(again.outlier_score(y), trained.outlier_score(y))
        assert again.largest == 9
        assert "cost=True" in repr(again)
        bare = TransportRestoration.load(tmp_path / "map.pt")
        assert bare.cost is None
        with pytest.raises(ValueError, match=r"^cost: None, but the score needs it"):
            bare.outlier_score(y)


def test_an_upsampling_of_ones_own_is_asked_for_again(tmp_path):
    trained, forward = restoration(2)
    own = nn.Upsample(scale_factor=2)
    trained.cost = LikelihoodCost(forward, scale=0.3, upsample=own)
    trained.save(tmp_path / "map.pt")
    y = images(3, 1, 8, 8)
    again = TransportRestoration.load(tmp_path / "map.pt", forward=forward, upsample=own)
    assert torch.equal(again.outlier_score(y), trained.outlier_score(y))
    assert TransportRestoration.load(tmp_path / "map.pt", forward=forward).cost is None


class Doubled(nn.Module):
    """A first reconstruction with a parameter and a layer that no generator may draw anew."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(1, 1, 1)
        nn.init.constant_(self.layer.weight, 0.5)
        nn.init.constant_(self.layer.bias, 0.25)
        self.requires_grad_(False)

    def forward(self, y):
        return self.layer(nn.functional.interpolate(y, scale_factor=2.0))


@pytest.mark.parametrize("two_pass", [False, True])
def test_a_first_reconstruction_is_what_the_map_corrects(two_pass):
    y, Q = images(3, 1, 4, 4), Doubled()
    T = TransportMap(1, (4, 6), upsample=Q, two_pass=two_pass, generator=seeded())
    plain = TransportMap(1, (4, 6), two_pass=two_pass, generator=seeded())
    assert torch.equal(Q.layer.weight, torch.full((1, 1, 1, 1), 0.5))
    torch.testing.assert_close(T(y), plain(Q(y)))  # the same draws: Q has taken none
    T.head.weight.data.zero_()
    assert torch.equal(T(y), Q(y))
    assert T(y).shape == (3, 1, 8, 8)
    assert (T.factor, T.config["upsample"], plain.factor) == (None, None, 1)
    assert T(y).requires_grad
    assert not any(p.requires_grad for p in T.upsample.parameters())


def test_a_map_is_loaded_with_its_first_reconstruction(tmp_path):
    T = TransportMap(1, (4, 6), upsample=Doubled(), generator=seeded())
    T.upsample.layer.weight.fill_(0.75)  # what it has is stored, what it is is not
    cost = LikelihoodCost(nn.AvgPool2d(2), scale=0.3, upsample=T.upsample)
    trained = TransportRestoration(T, Potential(1, 8, 4, generator=seeded(1)), cost)
    trained.save(tmp_path / "map.pt")
    y = images(3, 1, 4, 4)
    again = TransportRestoration.load(
        tmp_path / "map.pt", forward=nn.AvgPool2d(2), upsample=Doubled()
    )
    assert torch.equal(again.restore(y), trained.restore(y))
    assert torch.equal(again.outlier_score(y), trained.outlier_score(y))
    for wrong in (None, lambda y: y):
        with pytest.raises(ValueError, match=r"^upsample: .*saved without its own first"):
            TransportRestoration.load(tmp_path / "map.pt", upsample=wrong)


def test_a_blind_cost_needs_no_operator(tmp_path):
    T = TransportMap(1, (4, 6))
    blind = TransportRestoration(T, Potential(1, 8, 4), LikelihoodCost(likelihood=0, scale=0.3))
    blind.save(tmp_path / "map.pt")
    y = images(4, 1, 8, 8)
    again = TransportRestoration.load(tmp_path / "map.pt")
    assert torch.equal(again.outlier_score(y), blind.outlier_score(y))


def test_nothing_in_a_file_is_executed(tmp_path):
    class Planted:
        def __reduce__(self):
            return (exec, ("raise SystemExit",))

    torch.save({"format": Planted()}, tmp_path / "bad.pt")
    with pytest.raises(ValueError, match=r"^path: .*bad.pt is damaged, or not"):
        TransportRestoration.load(tmp_path / "bad.pt")


@pytest.mark.parametrize("content", [b"", b"not a file of torch", "cut", "other", "list"])
def test_damaged_files_are_refused(tmp_path, content):
    path = tmp_path / "map.pt"
    restoration()[0].save(path)
    if content == "cut":
        path.write_bytes(path.read_bytes()[:-500])
    elif content == "other":
        torch.save({"state": {}}, path)
    elif content == "list":
        torch.save([1, 2], path)
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"^path: .*map.pt is (damaged|not a saved)"):
        TransportRestoration.load(path)
    with pytest.raises(FileNotFoundError, match=r"^path: no file"):
        TransportRestoration.load(tmp_path / "none.pt")


# --- bad input --------------------------------------------------------------------------------

NAN = float("nan")

BAD = [
    (TransportMap, {"channels": 0}, ValueError, "channels: 0 is below 1"),
    (TransportMap, {"channels": 1.5}, TypeError, "channels: 1.5 is not an integer"),
    (TransportMap, {"widths": "papr"}, ValueError, "widths: unknown value 'papr'.*'paper'"),
    (TransportMap, {"widths": ()}, TypeError, r"widths: \(\); allowed: a non-empty"),
    (TransportMap, {"widths": 80}, TypeError, "widths: 80; allowed: a non-empty sequence"),
    (TransportMap, {"widths": (8, -1)}, ValueError, "widths: -1 is below 1"),
    (TransportMap, {"upsample": 0}, ValueError, "upsample: 0 is below 1"),
    (TransportMap, {"upsample": 2.5}, TypeError, "upsample: 2.5 is not an integer"),
    (TransportMap, {"upsample": "bicubic"}, TypeError, "upsample: 'bicubic' is not an integer"),
    (Potential, {"channels": 0}, ValueError, "channels: 0 is below 1"),
    (Potential, {"size": 3}, ValueError, "size: 3; both sides must be at least 4"),
    (Potential, {"size": (8, 8, 8)}, ValueError, r"size: \(8, 8, 8\); allowed: one integer, or"),
    (Potential, {"size": 8.0}, TypeError, "size: 8.0 is not an integer"),
    (Potential, {"width": "big"}, ValueError, "width: unknown value 'big'; allowed"),
    (Potential, {"width": 0}, ValueError, "width: 0 is below 1"),
    (Potential, {"minibatch_deviation": 1}, TypeError, "minibatch_deviation: 1; allowed"),
    (Potential, {"bf16": "yes"}, TypeError, "bf16: 'yes'; allowed: True or False"),
    (TransportRestoration, {"transport": nn.Linear(1, 1)}, TypeError, "transport: Linear is not"),
    (TransportRestoration, {"transport": None}, TypeError, "transport: NoneType is not"),
    (TransportRestoration, {"potential": nn.Linear(1, 1)}, TypeError, "potential: Linear is not"),
    (
        TransportRestoration,
        {"potential": Potential(3, 8, 4)},
        ValueError,
        "potential: for 3 channels, but the map has 1",
    ),
    (TransportRestoration, {"cost": abs}, TypeError, "cost: builtin.* is not a LikelihoodCost"),
    (TransportRestoration, {"largest": 0}, ValueError, "largest: 0.0; allowed: a number > 0"),
]
DEFAULTS = {
    TransportMap: {"channels": 1, "widths": (4,)},
    Potential: {"channels": 1, "size": 8, "width": 4},
    TransportRestoration: {"transport": TransportMap(1, (4,))},
}


@pytest.mark.parametrize(("kind", "change", "error", "message"), BAD)
def test_bad_arguments_are_refused(kind, change, error, message):
    with pytest.raises(error, match=f"^{message}"):
        kind(**{**DEFAULTS[kind], **change})


def with_nan():
    y = torch.zeros(2, 1, 8, 8)
    y[1, 0, 2, 3] = NAN
    return y


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"y": with_nan()}, ValueError, r"y: 1 entries are NaN.*index \(1, 0, 2, 3\)"),
        (
            {"y": torch.full((1, 1, 8, 8), 255.0)},
            ValueError,
            "y: the largest entry has size 255, abo",
        ),
        (
            {"y": torch.zeros(2, 3, 8, 8)},
            ValueError,
            r"y: shape \(2, 3, 8, 8\); needed: \(N, 1, he",
        ),
        ({"y": torch.zeros(8, 8)}, ValueError, r"y: shape \(8, 8\); images are"),
        ({"y": torch.zeros(0, 1, 8, 8)}, ValueError, "y: empty"),
        ({"y": np.zeros((1, 1, 8, 8))}, TypeError, "y: ndarray is not a torch.Tensor"),
        ({"y": torch.zeros(1, 1, 8, 8).int()}, TypeError, "y: dtype torch.int32"),
        (
            {"y": torch.zeros(1, 1, 8, 8).double()},
            ValueError,
            "y: dtype torch.float64, but the map",
        ),
        ({"batch": 0}, ValueError, "batch: 0 is below 1"),
        (
            {"y": torch.zeros(1, 1, 12, 12)},
            ValueError,
            r"x: images of \(12, 12\); this potential is",
        ),
    ],
)
def test_bad_measurements_are_refused(change, error, message):
    trained, _ = restoration()
    given = {"y": torch.zeros(2, 1, 8, 8), **change}
    with pytest.raises(error, match=f"^{message}"):
        trained.outlier_score(**given)
    if "potential" not in message:
        with pytest.raises(error, match=f"^{message}"):
            trained.restore(**given)


@pytest.mark.parametrize(
    ("network", "x", "error", "message"),
    [
        (
            TransportMap(1, (4,)),
            torch.zeros(1, 2, 8, 8),
            ValueError,
            r"y: shape \(1, 2, 8, 8\); need",
        ),
        (TransportMap(1, (4,)), torch.zeros(1, 8, 8), ValueError, r"y: shape \(1, 8, 8\); needed"),
        (TransportMap(1, (4,)), 3.0, TypeError, "y: float is not a torch.Tensor"),
        (
            Potential(1, 8, 4),
            torch.zeros(1, 2, 8, 8),
            ValueError,
            r"x: shape \(1, 2, 8, 8\); needed",
        ),
        (
            Potential(1, 8, 4),
            torch.zeros(1, 1, 8, 9),
            ValueError,
            r"x: images of \(8, 9\); this pot",
        ),
    ],
)
def test_networks_refuse_other_shapes(network, x, error, message):
    with pytest.raises(error, match=f"^{message}"):
        network(x)


def test_a_map_that_diverged_says_so():
    trained, _ = restoration()
    trained.transport.head.weight.data.fill_(NAN)
    with pytest.raises(ValueError, match=r"^transport: T\(y\): .* NaN"):
        trained.restore(torch.ones(1, 1, 8, 8))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.Conv2d(1, 3, 1), r"upsample: Q\(y\): shape \(2, 3, 4, 4\); needed: \(N, 1, height"),
        (nn.Flatten(), r"upsample: Q\(y\): shape \(2, 16\); needed"),
    ],
)
def test_bad_first_reconstructions_are_explained(layer, message):
    with pytest.raises(ValueError, match=message):
        TransportMap(1, (4, 6), upsample=layer)(torch.zeros(2, 1, 4, 4))
