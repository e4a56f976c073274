"""Losses of a learned transport map: exact problems, invariances, gradients, a trained pair."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dro_core.unbalanced import c_transform, semidual_value, unbalanced_gaussian, unbalanced_ot

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from dro_torch.losses.unbalanced import (  # noqa: E402
    DIVERGENCES,
    Balanced,
    BicubicUpsampling,
    ChiSquared,
    KullbackLeibler,
    LikelihoodCost,
    Softplus,
    UnbalancedOTLoss,
    cost_scale,
    gradient_penalty_weight,
)

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
#: High enough for the densities of every finite problem here.
EXACT_KL = KullbackLeibler(threshold=60.0)
SIDES = {"kl": EXACT_KL, "balanced": Balanced()}
PAIRS = [(first, second) for first in SIDES for second in SIDES]


def lookup(points, values):
    """A function that has the given values at the given points, and is known only there."""

    def function(x):
        return values[(x[:, None] - points).flatten(2).square().sum(-1).argmin(1)]

    return function


class Finite:
    """Uniform measures on finitely many points; A a matrix; the table of costs by its own."""

    def __init__(self, y, x, A, scale=1.0, divergence=("kl", "kl"), weight=1.0):
        self.y, self.x, self.A = y, x, A
        fit = ((y[:, None] - (x @ A.T)[None]) ** 2).sum(-1)
        near = ((y[:, None] - x[None]) ** 2).sum(-1)
        self.table = scale * (0.7 * fit + 1.3 * near)
        self.a, self.b = np.full(len(y), 1 / len(y)), np.full(len(x), 1 / len(x))
        self.divergence, self.weight, self.scale = divergence, weight, scale
        self.tensors = torch.from_numpy(y), torch.from_numpy(x)
        matrix = torch.from_numpy(A)
        self.cost = LikelihoodCost(lambda z: z @ matrix.T, 0.7, 1.3, scale=scale)

    def loss(self, **options):
        first, second = (SIDES[name] for name in self.divergence)
        return UnbalancedOTLoss(
            self.cost, source_divergence=first, target_divergence=second, **options
        )

    def pair(self, v):
        """v as a function, and the exact map of its c-transform."""
        points, values = self.tensors[1], torch.tensor(np.asarray(v))
        best = torch.from_numpy((self.table - v).argmin(1))
        return lookup(points, values), lookup(self.tensors[0], points[best])

    def solve(self):
        return unbalanced_ot(self.table, self.a, self.b, self.divergence, weight=self.weight)


@st.composite
def finite_problems(draw, pairs=tuple(PAIRS)):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, m = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    y, x = rng.standard_normal((n, 2)), rng.standard_normal((m, 2)) + 0.5
    scale = draw(st.sampled_from([0.03, 0.3, 3.0]))
    A = rng.standard_normal((2, 2))
    return Finite(y, x, A, scale, draw(st.sampled_from(pairs))), rng


# --- exact problems ---------------------------------------------------------------------------


@given(finite_problems())
@settings(max_examples=50)
def test_at_the_exact_pair_the_loss_is_minus_the_value(case):
    problem, _ = case
    found = problem.solve()
    loss = problem.loss()
    v, T = problem.pair(found.potentials[1])
    assert float(loss.potential_loss(v, T, *problem.tensors)) == pytest.approx(
        -found.value, rel=1e-10, abs=1e-10
    )
    assert float(loss.components["value"]) == pytest.approx(found.value, rel=1e-10, abs=1e-10)
    masses = (float(loss.components[name]) for name in ("mass", "target_mass"))
    assert list(masses) == pytest.approx([found.mass] * 2, rel=1e-9, abs=1e-12)
    transform = c_transform(found.potentials[1], problem.table)
    assert float(loss.map_loss(v, T, problem.tensors[0])) == pytest.approx(transform.mean())
    weights = loss.weights(v, T, problem.tensors[0])
    expected = np.exp(-transform) if problem.divergence[0] == "kl" else np.ones(len(problem.a))
    np.testing.assert_allclose(weights, expected, rtol=1e-10)


@given(finite_problems())
@settings(max_examples=50)
def test_weak_duality_at_any_potential(case):
    """With the exact map the loss is minus the semi-dual, and never below minus the value."""
    problem, rng = case
    value = problem.solve().value
    potential = rng.standard_normal(len(problem.b)) * 2
    v, T = problem.pair(potential)
    loss = float(problem.loss().potential_loss(v, T, *problem.tensors))
    semidual = semidual_value(potential, problem.table, problem.a, problem.b, problem.divergence)
    assert loss == pytest.approx(-semidual, rel=1e-12, abs=1e-12)
    assert loss >= -value - 1e-9 * max(1, abs(value))


@given(
    finite_problems(), st.sampled_from(sorted(DIVERGENCES)), st.sampled_from(sorted(DIVERGENCES))
)
@settings(max_examples=50)
def test_weak_duality_for_every_divergence_against_any_plan(case, first, second):
    problem, rng = case
    sides = DIVERGENCES[first](), DIVERGENCES[second]()
    v, T = problem.pair(rng.standard_normal(len(problem.b)))
    loss = UnbalancedOTLoss(problem.cost, source_divergence=first, target_divergence=second)
    plan = np.outer(problem.a, problem.b)
    if "balanced" not in (first, second):
        plan *= 0.1 + rng.random(plan.shape)
    marginals = (plan.sum(1) / problem.a, plan.sum(0) / problem.b)
    value = float((plan * problem.table).sum()) + sum(
        float(side.primal(torch.from_numpy(np.round(t, 14))).mean())
        for side, t in zip(sides, marginals, strict=True)
    )
    assert math.isfinite(value)
    assert value >= -float(loss.potential_loss(v, T, *problem.tensors)) - 1e-9


def test_two_points_by_hand():
    """One point each, cost 2: mass e^-1, v = 1, value 2 - 2/e; and which way each step pushes."""
    y, x = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    loss = UnbalancedOTLoss(LikelihoodCost(likelihood=0, scale=2.0))
    level = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    real = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)

    def both(at_map, at_data):
        v = lambda z: (at_data if float(z) > 0 else at_map).expand(len(z))  # noqa: E731
        return loss.potential_loss(v, lambda _: -x, y, x)

    value = both(level, level)
    assert float(value) == pytest.approx(-(2 - 2 / math.e), rel=1e-14)
    (slope,) = torch.autograd.grad(value, level)
    assert float(slope) == pytest.approx(0, abs=1e-15)  # optimal
    up, down = torch.autograd.grad(both(level, real), (level, real))
    assert float(up) == pytest.approx(math.exp(-1))  # generated points go down,
    assert float(down) == pytest.approx(-1)  # data points go up
    moved = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
    step = loss.map_loss(lambda z: 3 * z[:, 0], lambda _: moved, y)
    assert float(torch.autograd.grad(step, moved)[0]) == pytest.approx(-3)  # towards larger v


# --- divergences ------------------------------------------------------------------------------

ALL = [
    EXACT_KL,
    KullbackLeibler(threshold=1.0),
    Balanced(),
    Softplus(),
    ChiSquared(),
    KullbackLeibler(2.5),
    Softplus(0.3),
    ChiSquared(2.0),
]


@pytest.mark.parametrize("side", ALL, ids=str)
def test_conjugates_and_densities(side):
    s = torch.linspace(-6, 6, 49, dtype=torch.float64)
    t = torch.cat([torch.linspace(0, 12, 240001), torch.logspace(1.08, 3, 40001)]).double()
    if side.name == "balanced":
        t = torch.ones(1, dtype=torch.float64)
    if isinstance(side, KullbackLeibler):
        t = torch.cat([t, torch.tensor([math.exp(side.threshold)], dtype=torch.float64)])
    supremum = torch.stack([(k * t - side.primal(t)).max() for k in s])
    torch.testing.assert_close(side.conjugate(s), supremum, rtol=3e-5, atol=3e-5)
    step = 1e-6
    slope = (side.conjugate(s + step) - side.conjugate(s - step)) / (2 * step)
    torch.testing.assert_close(side.density(s), slope, rtol=1e-6, atol=1e-6)
    zero = torch.zeros(1, dtype=torch.float64)
    assert float(side.conjugate(zero)) == pytest.approx(0, abs=1e-15)
    assert float(side.density(zero)) == 1
    assert float(side.primal(zero + 1)) == pytest.approx(0, abs=1e-15)
    assert float(side.primal(zero - 1e-3)) == math.inf
    density = side.density(s)  # Fenchel-Young is an equality at the maximiser
    torch.testing.assert_close(s * density - side.primal(density), side.conjugate(s))


def test_the_exponential_goes_on_along_its_tangent():
    side = KullbackLeibler(threshold=3.0)
    s = torch.tensor([3 - 1e-7, 3 + 1e-7, 1e4, 2.0], dtype=torch.float64, requires_grad=True)
    values = side.conjugate(s)
    slopes = torch.autograd.grad(values.sum(), s)[0]
    assert float(values[1] - values[0]) == pytest.approx(2e-7 * math.exp(3), rel=1e-4)
    np.testing.assert_allclose(slopes, np.exp([3, 3, 3, 2]), rtol=1e-6)
    assert float(values[2]) == pytest.approx(math.exp(3) * (1e4 - 2) - 1)


def test_a_planted_overflow_stays_finite():
    y = x = torch.zeros(4, 2)
    bias = torch.tensor(0.0, requires_grad=True)
    for size in (1e3, -1e3):
        loss = UnbalancedOTLoss(LikelihoodCost(likelihood=0, scale=1.0))
        value = loss.potential_loss(lambda z, k=size: bias + k + z[:, 0], lambda y: y, y, x)
        (slope,) = torch.autograd.grad(value, bias)
        assert torch.isfinite(value)
        assert abs(float(slope)) <= math.exp(5) * 1.01
        assert all(torch.isfinite(number) for number in loss.components.values())


# --- invariances ------------------------------------------------------------------------------


@given(finite_problems(pairs=(("kl", "kl"),)), st.sampled_from([0.2, 4.0]))
@settings(max_examples=50)
def test_a_weighted_divergence_is_a_cheaper_cost(case, alpha):
    problem, rng = case
    loss = UnbalancedOTLoss(problem.cost, KullbackLeibler(alpha, 60.0))
    light = LikelihoodCost(problem.cost.operator, 0.7, 1.3, scale=problem.scale / alpha)
    plain = UnbalancedOTLoss(light, EXACT_KL)
    v, T = problem.pair(rng.standard_normal(len(problem.b)))
    assert float(loss.potential_loss(v, T, *problem.tensors)) == pytest.approx(
        alpha * float(plain.potential_loss(lambda x: v(x) / alpha, T, *problem.tensors)), rel=1e-12
    )
    problem.weight = alpha
    found = problem.solve()
    v, T = problem.pair(found.potentials[1])
    assert float(loss.potential_loss(v, T, *problem.tensors)) == pytest.approx(
        -found.value, rel=1e-10, abs=1e-10
    )


@given(finite_problems(), st.floats(-3, 3))
@settings(max_examples=50)
def test_a_constant_in_the_cost_scales_the_plan(case, shift):
    """The centred loss at the optimum of c - c0, and the mass it reports."""
    problem, _ = case
    exact = problem.solve()
    problem.table = problem.table - shift
    found = problem.solve()
    loss = problem.loss(centre_cost=True).eval()
    loss.centre.fill_(shift)
    shift = float(loss.centre)
    v, T = problem.pair(found.potentials[1])
    value = float(loss.potential_loss(v, T, *problem.tensors))
    assert value == pytest.approx(-found.value, rel=1e-5, abs=1e-5)  # the buffer is float32
    factor = math.exp(-shift / 2) if problem.divergence == ("kl", "kl") else 1.0
    assert float(loss.centring_factor) == pytest.approx(factor, rel=1e-6)
    assert float(loss.components["mass"]) * factor == pytest.approx(exact.mass, rel=1e-5)
    weights = loss.weights(v, T, problem.tensors[0]).numpy() * factor
    kept = exact.plan.sum(axis=1) / problem.a
    np.testing.assert_allclose(weights, kept, rtol=1e-4, atol=1e-9)


@given(finite_problems(), st.floats(-50, 50))
@settings(max_examples=50)
def test_the_translation_invariant_form(case, shift):
    problem, rng = case
    found = problem.solve()
    loss = problem.loss(translation_invariant=True)
    v, T = problem.pair(found.potentials[1])
    value = float(loss.potential_loss(lambda x: v(x) + shift, T, *problem.tensors))
    assert float(loss.components["value"]) == pytest.approx(found.value, rel=1e-9, abs=1e-9)
    assert float(loss.components["mass"]) == pytest.approx(found.mass, rel=1e-9)
    assert float(loss.components["target_mass"]) == pytest.approx(found.mass, rel=1e-9)
    expected = 2 * math.log(found.mass) if problem.divergence == ("kl", "kl") else -found.value
    assert value == pytest.approx(expected, rel=1e-9, abs=1e-9)
    weights = loss.weights(v, T, problem.tensors[0])
    assert float(weights.mean()) == pytest.approx(1)
    # never above the plain loss, whose constant may be wrong
    v, T = problem.pair(rng.standard_normal(len(problem.b)))
    loss.potential_loss(v, T, *problem.tensors)
    plain = problem.loss()
    plain.potential_loss(v, T, *problem.tensors)
    assert float(loss.components["value"]) >= float(plain.components["value"]) - 1e-9


def test_the_running_mean_of_the_cost():
    cost = LikelihoodCost(likelihood=0, scale=1.0)
    loss = UnbalancedOTLoss(cost, centre_cost=True, momentum=0.25)
    v, centre = (lambda x: x[:, 0]), 0.0
    for step in range(1, 8):
        y = torch.full((3, 1), float(step))
        loss.potential_loss(v, torch.zeros_like, y, y)
        centre += max(0.25, 1 / step) * (step**2 - centre)
        assert float(loss.centre) == pytest.approx(centre, rel=1e-6)
    loss.eval().potential_loss(v, torch.zeros_like, 9 * y, y)
    loss.train().map_loss(v, torch.zeros_like, 9 * y)
    loss.weights(v, torch.zeros_like, 9 * y)
    assert float(loss.centre) == pytest.approx(centre, rel=1e-6)
    copy = UnbalancedOTLoss(cost, centre_cost=True, momentum=0.25)
    copy.load_state_dict(loss.state_dict())
    for each in (loss, copy):
        each.potential_loss(v, torch.zeros_like, y, y)
    assert torch.equal(loss.centre, copy.centre)


def test_the_running_mean_is_that_of_all_processes(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda mean: mean.add_(10.0))
    loss = UnbalancedOTLoss(LikelihoodCost(likelihood=0, scale=1.0), centre_cost=True)
    y = 2 * torch.ones(3, 1)
    loss.potential_loss(lambda x: x[:, 0], torch.zeros_like, y, y)
    assert float(loss.centre) == 7  # (4 + 10) / 2
    assert float(loss.components["cost"]) == 4


@pytest.mark.parametrize("options", [{"divergence": "balanced"}, {"translation_invariant": True}])
def test_a_free_constant_is_pulled_to_zero(options):
    y, x = torch.randn(2, 64, 2, generator=torch.Generator().manual_seed(0)).double()
    loss = UnbalancedOTLoss(LikelihoodCost(likelihood=0, scale=0.1), **options)
    level = torch.tensor(7.0, dtype=torch.float64, requires_grad=True)
    values = []
    for _ in range(300):
        value = loss.potential_loss(lambda z: z[:, 0] + level, lambda y: y, y, x)
        values.append(float(value))
        (slope,) = torch.autograd.grad(value, level)
        level.data -= slope
    assert abs(float((y[:, 0] + level).mean())) < 0.01
    assert np.ptp(values) < 1e-12  # the pull is in the gradient, not in the value


def test_free_sides_have_no_pull():
    y = torch.zeros(3, 1)
    level = torch.tensor(0.5, requires_grad=True)
    loss = UnbalancedOTLoss(LikelihoodCost(likelihood=0))
    (slope,) = torch.autograd.grad(
        loss.potential_loss(lambda z: level.expand(len(z)), lambda y: y, y, y), level
    )
    assert float(slope) == pytest.approx(math.exp(0.5) - math.exp(-0.5))


# --- the cost ---------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
def test_the_cost_sums_over_pixels(device):
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(2, 3, 2, 4, 4, generator=generator).double().to(device)
    cost = LikelihoodCost(lambda z: z.flip(-1), 2.0, 3.0, scale=0.1)
    by_hand = [
        0.1 * (2 * float(((x[i].flip(-1) - y[i]) ** 2).sum()) + 3 * float(((y - x)[i] ** 2).sum()))
        for i in range(3)
    ]
    np.testing.assert_allclose(cost(y, x).cpu(), by_hand, rtol=1e-13)
    assert cost(y.float(), x.float()).dtype == torch.float32
    half = cost(y.bfloat16(), x.bfloat16())
    assert half.dtype == torch.float32
    with torch.autocast(device, dtype=torch.bfloat16):
        product = LikelihoodCost(nn.Linear(4, 4).to(device))
        assert product(y.float(), x.float()).dtype == torch.float32


def test_a_part_of_weight_zero_is_never_computed():
    def refuse(_):
        raise AssertionError("called")

    y = torch.ones(2, 1, 4, 4)
    assert torch.equal(LikelihoodCost(refuse, 0, 1, scale=1.0)(y, 0 * y), torch.full((2,), 16.0))
    blind = LikelihoodCost(likelihood=0, scale=1.0)
    assert torch.equal(blind(y, 0 * y), torch.full((2,), 16.0))
    cost = LikelihoodCost(lambda x: x, 1, 0, scale=1.0, upsample=refuse)
    assert torch.equal(cost(y, 0 * y), torch.full((2,), 16.0))


def test_a_physics_object_is_applied_without_its_noise():
    class Physics(nn.Module):
        def A(self, x):
            return 2 * x

        def forward(self, x):
            raise AssertionError("a call would add noise")

    cost = LikelihoodCost(Physics(), 1, 0, scale=1.0)
    assert float(cost(torch.zeros(1, 3), torch.ones(1, 3))) == 12
    assert len(list(cost.children())) == 1  # moves with .to()

    class Matrix(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("A", 2 * torch.eye(3))

        def forward(self, x):
            return x @ self.A

    assert (
        float(LikelihoodCost(Matrix(), 1, 0, scale=1.0)(torch.zeros(1, 3), torch.ones(1, 3))) == 12
    )


def test_super_resolution_compares_with_the_upsampled_measurement():
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    y = nn.functional.avg_pool2d(x, 4)
    wide = nn.functional.interpolate(y, size=(8, 8), mode="bicubic", align_corners=False)
    for upsample in (4, BicubicUpsampling(4)):
        cost = LikelihoodCost(nn.AvgPool2d(4), scale=1.0, upsample=upsample)
        torch.testing.assert_close(cost(y, x), ((wide - x) ** 2).sum((1, 2, 3)))
    assert torch.equal(BicubicUpsampling(1)(y), y)


def test_the_rules_for_other_sizes():
    assert cost_scale(196608) == 1e-3
    assert cost_scale(32 * 32 * 3) == pytest.approx(0.064)
    assert gradient_penalty_weight(196608) == 5
    assert gradient_penalty_weight(3072) == pytest.approx(5 / 64)


# --- gradients --------------------------------------------------------------------------------


def networks(generator, dtype=torch.float64, width=5, hidden=2):
    """A potential and a map of the plane, with weights of their own generator."""

    def network(outputs):
        sizes, layers = [2] + hidden * [width] + [outputs], []
        for inputs, outputs in pairwise(sizes):
            layer = nn.Linear(inputs, outputs)
            nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=generator)
            nn.init.uniform_(layer.bias, -0.1, 0.1, generator=generator)
            layers += [layer, nn.SiLU()]
        return nn.Sequential(*layers[:-1]).to(dtype)

    return network(1), network(2)


def case(device="cpu", dtype=torch.float64, **options):
    generator = torch.Generator().manual_seed(3)
    v, T = (network.to(device) for network in networks(generator, dtype))
    y, x = torch.randn(2, 6, 2, generator=generator, dtype=dtype).to(device)
    cost = LikelihoodCost(lambda z: z * torch.tensor([0.4, 0.9]).to(z), scale=0.5)
    return UnbalancedOTLoss(cost, **options), v, T, y, x


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "options",
    [{"divergence": name} for name in sorted(DIVERGENCES)]
    + [{"translation_invariant": True}, {"gradient_penalty": 0.7}, {"centre_cost": True}],
    ids=str,
)
def test_gradients_against_differences(options, device):
    loss, v, T, y, x = case(device, **options)
    loss.eval()  # a running mean would move between evaluations

    def potential(*parameters):
        names = [name for name, _ in v.named_parameters()]
        held = dict(zip(names, parameters, strict=True))
        call = lambda z: torch.func.functional_call(v, held, (z,))  # noqa: E731
        value = loss.potential_loss(call, T, y, x)
        # the pull is a gradient without a value
        return value if not loss._gauge else value + 0 * sum(p.sum() for p in parameters)

    if not loss._gauge:
        assert torch.autograd.gradcheck(potential, tuple(v.parameters()))

    def transport(*parameters):
        names = [name for name, _ in T.named_parameters()]
        held = dict(zip(names, parameters, strict=True))
        return loss.map_loss(v, lambda z: torch.func.functional_call(T, held, (z,)), y)

    assert torch.autograd.gradcheck(transport, tuple(T.parameters()))


def test_gradient_of_the_cost():
    x, y = torch.randn(2, 2, 1, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    cost = LikelihoodCost(lambda z: z**3, scale=0.3)
    assert torch.autograd.gradcheck(cost, (y.requires_grad_(), x.requires_grad_()))
    small = nn.functional.avg_pool2d(y, 4).detach().requires_grad_()
    cost = LikelihoodCost(nn.AvgPool2d(4), scale=0.3, upsample=4)
    assert torch.autograd.gradcheck(cost, (small, x))


@pytest.mark.parametrize("gradient_penalty", [0.0, 0.3])
def test_each_step_leaves_the_other_network_alone(gradient_penalty):
    loss, v, T, y, x = case(gradient_penalty=gradient_penalty)
    v[0].bias.requires_grad_(False)
    before = [parameter.requires_grad for parameter in v.parameters()]
    loss.map_loss(v, T, y).backward()
    assert all(parameter.grad is None for parameter in v.parameters())
    assert all(parameter.grad is not None for parameter in T.parameters())
    assert [parameter.requires_grad for parameter in v.parameters()] == before
    T.zero_grad()
    loss.potential_loss(v, T, y, x).backward()
    assert all(parameter.grad is None for parameter in T.parameters())
    assert [parameter.grad is not None for parameter in v.parameters()] == before
    assert all(parameter.requires_grad for parameter in T.parameters())


def test_the_maps_graph_holds_no_parameter_of_the_potential():
    loss, v, T, y, _ = case()
    value = loss.map_loss(v, T, y)
    leaves, seen, stack = set(), set(), [value.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves.add(id(node.variable))
        stack.extend(parent for parent, _ in node.next_functions)
    assert leaves == {id(parameter) for parameter in T.parameters()}


def test_gradient_penalty_by_finite_differences():
    loss, v, T, y, x = case(gradient_penalty=0.6)
    step, slopes = 1e-6, []
    with torch.no_grad():
        for axis in torch.eye(2, dtype=torch.float64):
            slopes.append((v(x + step * axis) - v(x - step * axis))[:, 0] / (2 * step))
    by_hand = 0.3 * float(torch.stack(slopes).square().sum(0).mean())
    assert float(loss.r1(v, x)) == pytest.approx(by_hand, rel=1e-8)
    with_penalty = float(loss.potential_loss(v, T, y, x))
    assert float(loss.components["gradient_penalty"]) == pytest.approx(by_hand, rel=1e-8)
    value = float(loss.components["value"])
    loss.gradient_penalty = 0.0
    without = float(loss.potential_loss(v, T, y, x))
    assert with_penalty - without == pytest.approx(by_hand, rel=1e-8)
    assert value == pytest.approx(-without)
    loss.gradient_penalty = 0.6
    with torch.no_grad():  # validation
        assert float(loss.potential_loss(v, T, y, x)) == pytest.approx(with_penalty)


@pytest.mark.parametrize("device", DEVICES)
def test_potentials_stay_in_float32_under_autocast(device):
    loss, v, T, y, x = case(device, torch.float32, gradient_penalty=0.1)
    T_exact = lambda z: z + 1.0  # noqa: E731
    plain = [float(loss.potential_loss(v, T_exact, y, x)), float(loss.map_loss(v, T_exact, y))]
    seen = []
    v[0].register_forward_hook(lambda _, inputs, output: seen.append(output.dtype))
    with torch.autocast(device, dtype=torch.bfloat16):
        assert T(y).dtype == torch.bfloat16
        mixed = loss.potential_loss(v, T_exact, y, x), loss.map_loss(v, T_exact, y)
        loss.r1(v, x)
        loss.weights(v, T_exact, y)
        coarse = loss.map_loss(v, T, y)
    assert set(seen) == {torch.float32}
    assert [float(value) for value in mixed] == plain
    assert coarse.dtype == torch.float32
    coarse.backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in T.parameters())


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch's own, in dynamo
@pytest.mark.parametrize("options", [{}, {"centre_cost": True}, {"translation_invariant": True}])
def test_compiles_without_a_break(options):
    loss, v, T, y, x = case(dtype=torch.float32, **options)
    expected = loss.potential_loss(v, T, y, x), loss.map_loss(v, T, y)
    loss.centre.zero_(), loss.seen.zero_()
    compiled = [
        torch.compile(step, backend="eager", fullgraph=True)
        for step in (loss.potential_loss, loss.map_loss)
    ]
    values = compiled[0](v, T, y, x), compiled[1](v, T, y)
    torch.testing.assert_close(values, expected)
    values[1].backward()
    assert all(parameter.grad is None for parameter in v.parameters())
    whole = torch.compile(v, backend="eager")  # a compiled network in the eager loss
    torch.testing.assert_close(loss.map_loss(whole, T, y), expected[1])
    assert all(parameter.grad is None for parameter in v.parameters())


# --- weights ----------------------------------------------------------------------------------


def test_mean_weights_per_group():
    loss, v, T, y, _ = case()
    weights = loss.weights(v, T, y)
    assert not weights.requires_grad
    by_hand = torch.exp(v(T(y))[:, 0] - loss.cost(y, T(y))).detach()
    torch.testing.assert_close(weights, by_hand)
    groups = loss.weights(v, T, y, groups=[5, 5, 2, 5, 2, 9])
    assert list(groups) == [2, 5, 9]
    assert groups[2] == pytest.approx(float(by_hand[[2, 4]].mean()))
    assert groups == loss.weights(v, T, y, groups=torch.tensor([5, 5, 2, 5, 2, 9]))


def test_a_fixed_source_weighs_every_measurement_alike():
    loss, v, T, y, x = case(source_divergence="balanced")
    assert loss.source_divergence == Balanced()
    assert loss.target_divergence == KullbackLeibler()
    assert torch.equal(loss.weights(v, T, 100 * y), torch.ones(6, dtype=torch.float64))
    loss.potential_loss(v, T, y, x)
    assert float(loss.components["mass"]) == 1


# --- class imbalance and outliers, exactly -----------------------------------------------------


def two_clusters(points=120):
    """y: a quarter at the left, x: three quarters there; clusters six apart."""
    rng = np.random.default_rng(0)
    y, x = 0.4 * rng.standard_normal((2, points, 2))
    left = np.arange(points) < points // 4, np.arange(points) < 3 * points // 4
    y[~left[0], 0] += 6
    x[~left[1], 0] += 6
    return y, x, left


def test_class_imbalance_splits_transport_but_not_unbalanced_transport():
    y, x, (left_y, left_x) = two_clusters()
    crossing = {}
    for name in ("balanced", "kl"):
        problem = Finite(y, x, np.zeros((2, 2)), 0.3, (name, name))
        problem.table = problem.scale * ((y[:, None] - x[None]) ** 2).sum(-1)
        problem.cost = LikelihoodCost(likelihood=0, scale=problem.scale)
        found = problem.solve()
        plan = found.plan.toarray()
        crossing[name] = plan[left_y[:, None] != left_x[None]].sum() / plan.sum()
        v, T = problem.pair(found.potentials[1])
        loss = problem.loss()
        assert float(loss.potential_loss(v, T, *problem.tensors)) == pytest.approx(-found.value)
        same = (T(problem.tensors[0]).numpy()[:, 0] < 3) == left_y
        if name == "kl":
            assert same.all()  # the map keeps clusters
            groups = loss.weights(v, T, problem.tensors[0], groups=left_y.astype(int))
            # within a cluster of masses p and q the density is (q/p)^(1/2), nearly
            assert groups[1] == pytest.approx(math.sqrt(3), rel=0.15)
            assert groups[0] == pytest.approx(math.sqrt(1 / 3), rel=0.15)
    assert crossing["balanced"] == pytest.approx(0.5, abs=1e-12)
    assert crossing["kl"] < 1e-4


def test_outliers_are_dropped_by_unbalanced_transport_alone():
    rng = np.random.default_rng(1)
    y, x = rng.standard_normal((2, 100, 2))
    y[:5, 0] -= 12.0
    x[:5, 1] += 12.0
    far = (np.arange(100) < 5).astype(int)
    shares = {}
    for name in ("balanced", "kl"):
        problem = Finite(y, x, np.eye(2), 0.1, (name, name))
        found = problem.solve()
        v, T = problem.pair(found.potentials[1])
        loss = problem.loss()
        loss.potential_loss(v, T, *problem.tensors)
        shares[name] = loss.weights(v, T, problem.tensors[0], groups=far)
        target = np.exp(-found.potentials[1])
        if name == "kl":
            assert target[:5].max() < 1e-3
            assert 0.8 < target[5:].mean() < 1.05
            score = -np.log(loss.weights(v, T, problem.tensors[0]).numpy())
            assert score[:5].min() > score[5:].max()  # outliers can be told apart
    assert shares["balanced"] == {0: 1.0, 1: 1.0}
    assert shares["kl"][1] < 1e-3
    assert 0.8 < shares["kl"][0] < 1.05


# --- a trained pair ---------------------------------------------------------------------------

SCALE = 0.3
FORWARD = torch.tensor([0.4, 0.9])
MEAN_Y, STD_Y = torch.tensor([0.5, -0.3]), torch.tensor([0.8, 0.6])
MEAN_X, STD_X = torch.tensor([-0.2, 0.4]), torch.tensor([1.0, 0.7])


def trained(iterations, divergence="kl", mismatch=1.0, seed=0, **options):
    """Train a pair on two Gaussians: relative error of the map, and the loss's own numbers."""
    generator = torch.Generator().manual_seed(seed)
    v, T = networks(generator, torch.float32, width=96, hidden=3)
    costs = [LikelihoodCost(lambda x: x * FORWARD, scale=s * SCALE) for s in (1.0, mismatch)]
    loss, other = (UnbalancedOTLoss(cost, divergence, **options) for cost in costs)
    optimisers = [
        torch.optim.Adam(net.parameters(), betas=(0.5, 0.9), fused=True) for net in (v, T)
    ]

    def draw(mean, std, size=256):
        return mean + std * torch.randn(size, 2, generator=generator)

    for step in range(iterations):
        for optimiser in optimisers:
            optimiser.param_groups[0]["lr"] = 2e-3 * (1 + math.cos(math.pi * step / iterations))
            optimiser.zero_grad()
        loss.potential_loss(v, T, draw(MEAN_Y, STD_Y), draw(MEAN_X, STD_X)).backward()
        optimisers[0].step()
        optimisers[1].zero_grad()
        other.map_loss(v, T, draw(MEAN_Y, STD_Y)).backward()
        optimisers[1].step()
    y, x = draw(MEAN_Y, STD_Y, 20000), draw(MEAN_X, STD_X, 20000)
    with torch.no_grad():
        loss.eval().potential_loss(v, T, y, x)
        loss.components["factor"] = loss.centring_factor
        exact = exact_map(y, divergence)
        error = (T(y) - exact).norm() / (exact - exact.mean(0)).norm()
    return float(error), {name: float(number) for name, number in loss.components.items()}


def gaussian_optimum():
    arguments = [t.double().numpy() for t in (MEAN_Y, STD_Y**2, MEAN_X, STD_X**2)]
    forward = np.diag(FORWARD.double().numpy())
    return unbalanced_gaussian(*arguments, forward=forward, likelihood=SCALE, quadratic=SCALE)


def exact_map(y, divergence):
    if divergence == "balanced":
        return MEAN_X + STD_X / STD_Y * (y - MEAN_Y)
    return torch.from_numpy(gaussian_optimum().transport(y.double().numpy())).float()


def balanced_gaussian_value():
    value = 0.0
    for m, s, n, t, A in zip(MEAN_Y, STD_Y, MEAN_X, STD_X, FORWARD, strict=True):
        for gain in (A, torch.ones(())):
            value += float((gain * n - m) ** 2 + (gain * t - s) ** 2)
    return SCALE * value


@pytest.mark.parametrize(
    ("iterations", "options"),
    [
        (500, {}),
        pytest.param(1500, {}, marks=pytest.mark.slow),
        pytest.param(1500, {"translation_invariant": True}, marks=pytest.mark.slow),
        pytest.param(1500, {"centre_cost": True}, marks=pytest.mark.slow),
    ],
)
def test_a_trained_pair_meets_the_closed_form(iterations, options):
    error, found = trained(iterations, **options)
    exact = gaussian_optimum()
    assert error < 0.02
    for name in ("mass", "target_mass"):
        assert found[name] * found["factor"] == pytest.approx(exact.mass, abs=0.02)
    if "centre_cost" not in options:
        assert found["value"] == pytest.approx(exact.value, abs=0.03)


@pytest.mark.parametrize(
    ("iterations", "tolerance"), [(500, 0.03), pytest.param(1500, 0.02, marks=pytest.mark.slow)]
)
def test_a_trained_pair_meets_optimal_transport(iterations, tolerance):
    error, found = trained(iterations, "balanced")
    assert error < tolerance
    assert found["mass"] == found["target_mass"] == 1
    assert found["value"] == pytest.approx(balanced_gaussian_value(), abs=0.03)


def test_half_the_cost_in_one_step_costs_map_error():
    """A public predecessor has tau in the potential's step and tau / 2 in the map's."""
    error, _ = trained(200, mismatch=0.5)
    assert error > 0.05


# --- bad input --------------------------------------------------------------------------------

NAN = float("nan")
Y, X = torch.zeros(4, 2), torch.ones(4, 2)


def first_entry(x):
    return x[:, 0]


def unchanged(y):
    return y


BAD_COST = [
    ({"forward": None}, ValueError, "forward: None, but likelihood is 1"),
    ({"forward": 3}, TypeError, "forward: int is neither callable nor has a method A"),
    ({"likelihood": -1}, ValueError, "likelihood: -1.0 is negative"),
    ({"quadratic": -0.5}, ValueError, "quadratic: -0.5 is negative"),
    ({"quadratic": NAN}, ValueError, "quadratic: nan is not finite"),
    ({"likelihood": 0, "quadratic": 0}, ValueError, "likelihood, quadratic: both are zero"),
    ({"scale": 0}, ValueError, "scale: 0.0; allowed: a number > 0"),
    ({"scale": -1e-3}, ValueError, "scale: -0.001; allowed"),
    ({"scale": "1e-3"}, TypeError, "scale: '1e-3' is not a real number"),
    ({"upsample": 0}, ValueError, "upsample: 0 is below 1"),
    ({"upsample": 2.5}, TypeError, "upsample: 2.5 is not an integer"),
    ({"y": Y[:2]}, ValueError, "y: 2 samples, but x has 4"),
    ({"y": torch.zeros(4, 3)}, ValueError, r"forward: A\(x\) has shape \(4, 2\), but y has"),
    ({"forward": lambda x: None}, TypeError, r"forward: forward\(x\) returned a NoneType"),
    ({"likelihood": 0, "y": torch.zeros(4, 3)}, ValueError, r"upsample: Q\(y\) has shape \(4, 3\)"),
]


@pytest.mark.parametrize(("change", "kind", "message"), BAD_COST)
def test_bad_costs_are_refused(change, kind, message):
    arguments = {"forward": unchanged, "y": Y, "x": X, **change}
    y, x = arguments.pop("y"), arguments.pop("x")
    with pytest.raises(kind, match=f"^{message}"):
        LikelihoodCost(**arguments)(y, x)


BAD_OPTIONS = [
    ({"cost": 1.0}, TypeError, "cost: float is not callable"),
    ({"divergence": "KL"}, ValueError, "divergence: unknown value 'KL'.*did you mean 'kl'"),
    ({"divergence": None}, TypeError, "divergence: None; allowed: a Divergence"),
    ({"source_divergence": "kl2"}, ValueError, "source_divergence: unknown value 'kl2'"),
    ({"target_divergence": 3}, TypeError, "target_divergence: 3; allowed"),
    ({"gradient_penalty": -1}, ValueError, "gradient_penalty: -1.0 is negative"),
    ({"gradient_penalty": NAN}, ValueError, "gradient_penalty: nan is not finite"),
    ({"momentum": 0}, ValueError, r"momentum: 0.0; allowed: a number in \(0, 1\]"),
    ({"momentum": 1.5}, ValueError, "momentum: 1.5; allowed"),
    ({"centre_cost": 1}, TypeError, "centre_cost: 1; allowed: True or False"),
    ({"centre_cost": True, "divergence": "softplus"}, ValueError, "centre_cost: not for 'softp"),
    (
        {"translation_invariant": True, "target_divergence": "chi2"},
        ValueError,
        "translation_invariant: not for 'chi2'",
    ),
    ({"translation_invariant": True, "centre_cost": True}, ValueError, "centre_cost: without ef"),
    ({"limits": (1, -1)}, ValueError, "limits: .*the first must be smaller"),
    ({"limits": 1.0}, TypeError, "limits: 1.0; allowed: a pair"),
]


@pytest.mark.parametrize(("change", "kind", "message"), BAD_OPTIONS)
def test_bad_options_are_refused(change, kind, message):
    with pytest.raises(kind, match=f"^{message}"):
        UnbalancedOTLoss(**{"cost": LikelihoodCost(unchanged), **change})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: KullbackLeibler(0.0), "weight: 0.0; allowed: a number > 0"),
        (lambda: Softplus(-1.0), "weight: -1.0; allowed"),
        (lambda: KullbackLeibler(threshold=-1.0), "threshold: -1.0 is negative"),
        (
            lambda: KullbackLeibler(threshold=100.0),
            r"threshold: 100.0; allowed: a number in \[0, 80",
        ),
        (lambda: cost_scale(0), "entries: 0 is below 1"),
        (lambda: gradient_penalty_weight(-3), "entries: -3 is below 1"),
    ],
)
def test_bad_numbers_are_refused(make, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        make()


def nan_at(tensor):
    tensor = tensor.clone()
    tensor[1, 0] = NAN
    return tensor


BAD_BATCHES = [
    ({"y": nan_at(Y)}, ValueError, r"y: 1 entries are NaN.*index \(1, 0\)"),
    ({"x": nan_at(X)}, ValueError, "x: 1 entries are NaN"),
    ({"x": X / 0}, ValueError, r"x: 8 entries are NaN or infinite, the first \(inf\)"),
    ({"x": X.numpy()}, TypeError, "x: ndarray is not a torch.Tensor"),
    ({"y": Y.int()}, TypeError, "y: dtype torch.int32"),
    ({"y": Y[0]}, ValueError, r"y: shape \(2,\); axis 0 counts samples"),
    ({"x": X[:0]}, ValueError, "x: empty"),
    ({"x": X.double()}, ValueError, "x: dtype torch.float64, but y has torch.float32"),
    ({"x": 1.5 * X}, ValueError, r"x: entries in \[1.5, 1.5\]; allowed: \[-1.0, 1.0\]"),
    ({"v": lambda x: x}, ValueError, r"v: v\(x\) returned shape \(4, 2\) for 4"),
    ({"v": lambda x: x.sum()}, ValueError, r"v: v\(x\) returned shape \(\) for x"),
    ({"v": lambda x: 1.0}, TypeError, r"v: v\(x\) returned a float"),
    ({"T": lambda y: None}, TypeError, r"T: T\(y\) returned a NoneType"),
    ({"T": lambda y: y[:2]}, ValueError, r"T: T\(y\) returned shape \(2, 2\) for y"),
    ({"T": lambda y: y[:, :1]}, ValueError, r"forward: A\(x\) has shape \(4, 1\), but y has"),
    ({"cost": lambda y, x: y.sum()}, ValueError, r"cost: gave \(\); needed: one number per sam"),
    ({"gradient_penalty": 1.0, "v": lambda x: torch.zeros(4)}, ValueError, "v: has no gradient"),
]


@pytest.mark.parametrize(("change", "kind", "message"), BAD_BATCHES)
def test_bad_batches_are_refused(change, kind, message):
    given = {"v": first_entry, "T": unchanged, "y": Y, "x": X, **change}
    options = {
        "cost": given.pop("cost", LikelihoodCost(unchanged)),
        "gradient_penalty": given.pop("gradient_penalty", 0.0),
    }
    loss = UnbalancedOTLoss(**options, limits=(-1, 1))
    with pytest.raises(kind, match=f"^{message}"):
        loss.potential_loss(**given)
    if "x" not in change and "gradient_penalty" not in change:
        with pytest.raises(kind, match=f"^{message}"):
            loss.map_loss(given["v"], given["T"], given["y"])


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([0, 1], r"groups: shape \(2,\).*needed: 4 integers"),
        ([0.0, 1.0, 2.0, 3.0], "groups: shape .*dtype torch.float32; needed"),
    ],
)
def test_bad_groups_are_refused(groups, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        UnbalancedOTLoss(LikelihoodCost(unchanged)).weights(first_entry, unchanged, Y, groups)


def test_weights_are_never_nan():
    with pytest.raises(ValueError, match="weights of v, T, y: 4 entries are NaN"):
        UnbalancedOTLoss(LikelihoodCost(unchanged)).weights(lambda x: NAN * x[:, 0], unchanged, Y)
