"""Forward operators, kernels and noise of dro_torch.physics."""

import copy
import math
import pickle
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.sparse.linalg import aslinearoperator
from torch.nn import functional

from dro_core import operators
from dro_torch import physics
from dro_torch.checks import check_images
from dro_torch.physics import (
    AdjointError,
    ClippedHDR,
    Convolution,
    Downsampling,
    GammaMotionBlur,
    GaussianNoise,
    Integration,
    LinearForward,
    LinearOperatorModule,
    MixtureNoise,
    MultiLevelGaussianNoise,
    PoissonNoise,
    SaltAndPepperNoise,
    SignalGatedBlur,
    SpeckleNoise,
    UniformNoise,
    Upsampling,
    anisotropic_gaussian_kernel,
    as_forward,
    check_adjoint,
    gaussian_kernel,
    motion_blur_kernel,
    pretrained_forward,
)

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
NAN = float("nan")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=seeded(seed), dtype=dtype)


# --- convolution ------------------------------------------------------------------------------


@st.composite
def convolutions(draw):
    """(kernel, shape of the grid, padding): 1-D and 2-D, of rank one or not, any sizes."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dimensions = draw(st.sampled_from([1, 2]))
    grid = tuple(draw(st.integers(1, 9)) for _ in range(dimensions))
    size = tuple(draw(st.integers(1, length)) for length in grid)
    kernel = rng.standard_normal(size)
    if dimensions == 2 and draw(st.booleans()):
        kernel = np.outer(rng.standard_normal(size[0]), rng.standard_normal(size[1]))
    return kernel, grid, draw(st.sampled_from(operators.PADDINGS))


@given(convolutions())
@settings(max_examples=60)
def test_convolution_is_that_of_dro_core(case):
    kernel, grid, padding = case
    core, ours = operators.Convolution(kernel, grid, padding), Convolution(kernel, padding)
    x = normal(2, 3, *grid)
    rows = x.reshape(6, -1).numpy()
    for theirs, mine in ((core.apply, ours.A), (core.adjoint, ours.A_adjoint)):
        expected = theirs(rows).reshape(x.shape)
        np.testing.assert_allclose(mine(x).numpy(), expected, rtol=0, atol=1e-12)


@given(convolutions(), st.integers(0, 2**31))
@settings(max_examples=60)
def test_convolution_is_linear_with_an_exact_adjoint(case, seed):
    kernel, grid, padding = case
    operator = Convolution(kernel, padding)
    assert check_adjoint(operator, (2, *grid), (2, *grid), generator=seeded(seed)) < 1e-14
    assert check_adjoint(operator, (2, *grid), dtype=torch.float32) < 1e-6
    x, z = normal(2, *grid, seed=seed), normal(2, *grid, seed=seed + 1)
    torch.testing.assert_close(operator.A(2 * x - z), 2 * operator.A(x) - operator.A(z))


def test_kernels_of_rank_one_are_applied_axis_by_axis():
    assert Convolution(gaussian_kernel(3.0)).separable
    assert Convolution(gaussian_kernel(3.0).float()).separable
    assert Convolution(gaussian_kernel(1.0, dimensions=1)).separable
    assert not Convolution(anisotropic_gaussian_kernel((3.0, 1.0), 30.0)).separable
    assert not Convolution(motion_blur_kernel(5.0, 45.0)).separable
    assert Convolution(np.zeros((3, 3))).separable  # zero stays zero
    assert float(Convolution(np.zeros((3, 3))).A(torch.ones(1, 4, 4)).abs().max()) == 0.0


@pytest.mark.parametrize("device", DEVICES)
def test_float32_convolution_has_float32_accuracy(device):
    """Depthwise: no TF32 on CUDA, with one channel either."""
    for kernel in (gaussian_kernel(2.0), motion_blur_kernel(7.0, 20.0)):
        for shape in ((1, 1, 32, 32), (4, 3, 32, 32)):
            operator, x = Convolution(kernel, "reflect").to(device), normal(*shape).to(device)
            exact = operator.A(x)
            assert float((operator.A(x.float()) - exact).abs().max()) < 2e-6
            assert check_adjoint(operator, shape, dtype=torch.float32, device=device) < 1e-6


# --- kernels ----------------------------------------------------------------------------------


def moments(kernel):
    """Mass, mean (right, up) and covariance of a 2-D kernel."""
    size = len(kernel)
    offsets = torch.arange(size, dtype=torch.float64) - size // 2
    right, up = offsets.expand(size, size), -offsets[:, None].expand(size, size)
    place = torch.stack([right, up]).reshape(2, -1)
    mass = kernel.flatten()
    mean = place @ mass
    centred = place - mean[:, None]
    return float(mass.sum()), mean, (centred * mass) @ centred.T


def test_gaussian_kernels_have_their_widths():
    mass, mean, covariance = moments(gaussian_kernel(3.0, size=61))
    assert mass == pytest.approx(1.0, abs=1e-14)
    torch.testing.assert_close(covariance, 9.0 * torch.eye(2, dtype=torch.float64))
    angle = math.radians(30)
    kernel = anisotropic_gaussian_kernel((3.0, 1.5), 30.0, size=41)
    mass, mean, covariance = moments(kernel)
    axes = torch.tensor(
        [[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]],
        dtype=torch.float64,
    )
    expected = axes.T @ torch.diag(torch.tensor([9.0, 2.25], dtype=torch.float64)) @ axes
    torch.testing.assert_close(covariance, expected, rtol=1e-6, atol=1e-6)
    assert float(mean.abs().max()) < 1e-12
    assert mass == pytest.approx(1.0, abs=1e-14)
    round_ = anisotropic_gaussian_kernel((2.0, 2.0), 17.0)
    torch.testing.assert_close(round_, gaussian_kernel(2.0), rtol=1e-12, atol=1e-15)


def test_truncation_leaves_25_taps_of_the_paper_s_kernel():
    whole, short = gaussian_kernel(3.0, size=61), gaussian_kernel(3.0)
    assert short.shape == (25, 25)
    middle = whole[18:43, 18:43]
    assert 1 - float(middle.sum()) < 1.3e-4
    torch.testing.assert_close(short, middle / middle.sum())
    torch.testing.assert_close(
        gaussian_kernel(3.0), torch.outer(*2 * [gaussian_kernel(3.0, dimensions=1)])
    )
    assert gaussian_kernel(0.0).tolist() == [[1.0]]


@given(st.integers(-720, 720), st.floats(-720, 720))
def test_angles_in_degrees_are_taken_and_in_radians_refused(degrees, angle):
    """Half degrees given in radians are told from degrees by their digits."""
    assert motion_blur_kernel(3.0, degrees / 2).isfinite().all()
    if angle and abs(2 * math.degrees(angle) % 1 - 0.5) < 0.499:
        assert motion_blur_kernel(3.0, angle).isfinite().all()
    if degrees:
        with pytest.raises(ValueError, match="degrees in radians"):
            motion_blur_kernel(3.0, math.radians(degrees / 2))


def test_motion_blur_is_a_path_of_its_length_and_direction():
    length, angle = 9.3, 25.0
    mass, mean, covariance = moments(motion_blur_kernel(length, angle))
    direction = torch.tensor(
        [math.cos(math.radians(angle)), math.sin(math.radians(angle))], dtype=torch.float64
    )
    across = direction.flip(0) * torch.tensor([-1.0, 1.0], dtype=torch.float64)
    assert mass == pytest.approx(1.0, abs=1e-14)
    assert float(mean.abs().max()) < 1e-12
    along = float(direction @ covariance @ direction)
    assert along == pytest.approx(length**2 / 12, abs=0.25)  # bilinear shares add up to a quarter
    assert 0 < float(across @ covariance @ across) < 0.25
    _, mean, _ = moments(motion_blur_kernel(length, angle, decay=2.0))
    share = 1 / 2 - 1 / (math.e**2 - 1)  # mean of exp(-2 s) on [0, 1]
    torch.testing.assert_close(mean, length * (share - 0.5) * direction, rtol=1e-3, atol=1e-3)
    _, back, _ = moments(motion_blur_kernel(length, angle, decay=-2.0))
    torch.testing.assert_close(back, -mean)
    assert motion_blur_kernel(0.0).tolist() == [[1.0]]
    torch.testing.assert_close(motion_blur_kernel(2.0)[1], torch.tensor([0.25, 0.5, 0.25]).double())
    torch.testing.assert_close(motion_blur_kernel(2.0, 90.0), motion_blur_kernel(2.0).T)


# --- integration, sampling, saturation, nonlinear blurs ---------------------------------------


@given(st.integers(1, 40))
def test_integration_is_that_of_dro_core(size):
    core, x = operators.Integration(size), normal(3, size)
    np.testing.assert_allclose(Integration().A(x).numpy(), core.apply(x.numpy()), atol=1e-12)
    np.testing.assert_allclose(
        Integration().A_adjoint(x).numpy(), core.adjoint(x.numpy()), atol=1e-12
    )


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5))
def test_sampling_is_torch_s_with_exact_adjoints(factor, height, width):
    small, large = (2, 3, height, width), (2, 3, factor * height, factor * width)
    down, up = Downsampling(factor), Upsampling(factor)
    x, y = normal(*large), normal(*small)
    torch.testing.assert_close(down.A(x), functional.avg_pool2d(x, factor))
    torch.testing.assert_close(
        up.A(y),
        functional.interpolate(y, scale_factor=factor, mode="bicubic"),
        rtol=1e-10,
        atol=1e-12,
    )
    assert check_adjoint(down, large, small) < 1e-14
    assert check_adjoint(up, small, large) < 1e-14
    torch.testing.assert_close(down.A(down.A_adjoint(y)), y / factor**2)
    torch.testing.assert_close(down.A(torch.ones_like(x)), torch.ones_like(y))


def test_clipped_hdr_saturates_and_is_monotone():
    x = torch.tensor([[-2.0, -0.6, -0.25, 0.0, 0.25, 0.6, 2.0]], requires_grad=True)
    y = ClippedHDR().A(x)
    assert y.tolist() == [[-1.0, -1.0, -0.5, 0.0, 0.5, 1.0, 1.0]]
    y.sum().backward()
    assert x.grad.tolist() == [[0.0, 0.0, 2.0, 2.0, 2.0, 0.0, 0.0]]


@pytest.mark.parametrize("operator", [GammaMotionBlur(), SignalGatedBlur()])
def test_nonlinear_blurs_keep_constants_and_range_and_are_not_linear(operator):
    for value in (-1.0, -0.9, 0.0, 0.7, 1.0):
        constant = torch.full((1, 3, 24, 24), value, dtype=torch.float64)
        torch.testing.assert_close(operator.A(constant), constant, rtol=1e-6, atol=1e-6)
    x = (normal(2, 3, 24, 24)).clamp(-1, 1)
    y = operator.A(x)
    assert float(y.abs().max()) <= 1
    assert float((operator.A(-x) + y).abs().max()) > 1e-2
    assert not hasattr(operator, "A_adjoint")


def test_gamma_blur_is_the_blur_of_the_light():
    x = normal(1, 1, 16, 16).clamp(-1, 1)
    blur = Convolution(motion_blur_kernel(8.0, 30.0, decay=2.0), "reflect")
    torch.testing.assert_close(GammaMotionBlur(gamma=1.0).A(x), blur.A(x))
    light = ((GammaMotionBlur().A(x) + 1) / 2) ** 2.2
    torch.testing.assert_close(light, blur.A(((x + 1) / 2) ** 2.2))
    dark = torch.full((1, 1, 16, 16), -1.0, requires_grad=True)
    GammaMotionBlur().A(dark).sum().backward()
    assert bool(dark.grad.isfinite().all())


def test_gated_blur_uses_the_kernel_of_the_local_brightness():
    operator = SignalGatedBlur(temperature=0.01)
    for number, level in enumerate((-0.75, -0.25, 0.25, 0.75)):
        x = level + 0.02 * normal(1, 1, 24, 24)
        torch.testing.assert_close(operator.A(x), operator.blurs[number].A(x), rtol=1e-3, atol=1e-6)


# --- derivatives ------------------------------------------------------------------------------

MATRIX = sparse.random_array((5, 6), density=0.5, rng=np.random.default_rng(1), format="csr")
DERIVATIVES = {
    **{
        f"convolution {padding} {len(size)}-D": (Convolution(normal(*size), padding), shape)
        for padding in operators.PADDINGS
        for size, shape in (((3,), (2, 6)), ((3, 2), (2, 5, 6)))
    },
    "separable": (Convolution(gaussian_kernel(0.4)), (2, 5, 5)),
    "integration": (Integration(), (2, 5)),
    "downsampling": (Downsampling(2), (1, 2, 4, 4)),
    "upsampling": (Upsampling(2), (1, 2, 3, 2)),
    "saturation": (ClippedHDR(), (1, 1, 3, 3)),
    "gamma": (GammaMotionBlur(length=2.0), (1, 2, 4, 4)),
    "sparse matrix": (LinearOperatorModule(MATRIX, dtype=torch.float64), (2, 6)),
    "sparse matrix, one row": (LinearOperatorModule(MATRIX, dtype=torch.float64), (1, 6)),
    "dense matrix": (LinearOperatorModule(MATRIX.toarray(), dtype=torch.float64), (2, 6)),
    "core operator": (LinearOperatorModule(operators.Integration(4)), (2, 4)),
    "scipy operator": (LinearOperatorModule(aslinearoperator(MATRIX)), (2, 6)),
    "functions": (LinearOperatorModule(lambda x: 3 * x.flip(1), lambda y: 3 * y.flip(1)), (2, 4)),
}


@pytest.mark.parametrize("name", DERIVATIVES)
def test_derivatives_in_both_modes_and_twice(name):
    operator, shape = DERIVATIVES[name]
    x = (0.2 * normal(*shape)).requires_grad_()
    assert torch.autograd.gradcheck(operator.A, x, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda x: operator.A(x) ** 2, x)
    if isinstance(operator, LinearForward):
        y = operator.A(x).detach().requires_grad_()
        assert torch.autograd.gradcheck(operator.A_adjoint, y, check_forward_ad=True)
        assert check_adjoint(operator, shape) < 1e-14


def test_derivatives_of_the_gated_blur():
    x = (0.4 * normal(1, 2, 17, 17)).requires_grad_()
    operator = SignalGatedBlur()
    direction = normal(1, 2, 17, 17, seed=1)
    (gradient,) = torch.autograd.grad(operator.A(x).square().sum(), x)
    step = 1e-5
    difference = [operator.A(x + sign * step * direction).square().sum() for sign in (1, -1)]
    expected = float(difference[0] - difference[1]) / (2 * step)
    assert float((gradient * direction).sum()) == pytest.approx(expected, rel=1e-7)


OPERATORS = [
    (Convolution(motion_blur_kernel(5.0, 20.0), "zero"), (1, 3, 16, 16)),
    (Upsampling(2), (1, 3, 8, 8)),
    (Downsampling(2), (1, 3, 8, 8)),
    (Integration(), (2, 16)),
    (ClippedHDR(), (2, 16)),
    (GammaMotionBlur(), (1, 3, 16, 16)),
    (SignalGatedBlur(), (1, 3, 20, 20)),
]


@pytest.mark.parametrize(("operator", "shape"), OPERATORS)
def test_autocast_and_half_precision_are_computed_in_float32(operator, shape):
    x = normal(*shape, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(operator.A(x), operator(x))
        y = operator.A(x)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y.double(), operator.A(x.double()), rtol=0, atol=1e-5)
    half = operator.A(x.bfloat16())
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, operator.A(x.bfloat16().float()).bfloat16())


@pytest.mark.parametrize(
    ("operator", "shape"),
    [
        pytest.param(*case, marks=[] if k == 0 else [pytest.mark.slow])
        for k, case in enumerate(OPERATORS)
    ],
)
def test_operators_compile_without_breaks(operator, shape):
    x = normal(*shape, dtype=torch.float32)
    compiled = torch.compile(operator, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), operator(x))


# --- maps from elsewhere ----------------------------------------------------------------------


class Physics:
    """A linear physics as deepinv has it: A, A_adjoint and keyword arguments."""

    def A(self, x, **_):
        return 2 * x[:, :1]

    def A_adjoint(self, y, **_):
        return torch.cat([2 * y, torch.zeros_like(y)], 1)


def test_anything_that_measures_is_a_forward_operator():
    linear = as_forward(Physics())
    assert check_adjoint(linear, (3, 2, 4), (3, 1, 4), rtol=1e-14) < 1e-14
    blur = Convolution(gaussian_kernel(1.0))
    assert as_forward(blur) is blur
    network = torch.nn.Linear(3, 2)
    wrapped = as_forward(network)
    assert not isinstance(wrapped, LinearForward)
    assert list(wrapped.parameters()) == list(network.parameters())
    x = normal(2, 3, dtype=torch.float32)
    assert torch.equal(wrapped.A(x), network(x))
    assert torch.equal(as_forward(torch.tanh).A(x), torch.tanh(x))
    nonlinear = as_forward(type("Nonlinear", (), {"A": staticmethod(torch.sin)})())
    assert torch.equal(nonlinear.A(x), torch.sin(x))
    assert not hasattr(nonlinear, "A_adjoint")
    for matrix in (MATRIX, MATRIX.toarray(), torch.tensor(MATRIX.toarray())):
        y = as_forward(matrix).A(torch.ones(1, 6))
        np.testing.assert_allclose(y.numpy(), MATRIX.sum(axis=1)[None], rtol=1e-6)
    with pytest.raises(TypeError, match=r"forward: A\(x\) is a int"):
        as_forward(lambda x: 1).A(x)


def test_a_matrix_with_shapes():
    x = normal(3, 2, 3)
    operator = LinearOperatorModule(
        MATRIX, input_shape=(2, 3), output_shape=(5, 1), dtype=torch.float64
    )
    expected = x.reshape(3, 6).numpy() @ MATRIX.toarray().T
    np.testing.assert_allclose(operator.A(x).numpy(), expected[..., None], rtol=1e-13)
    assert operator.A_adjoint(operator.A(x)).shape == x.shape


@pytest.mark.parametrize("device", DEVICES)
def test_modules_move_and_copy(device):
    for operator, shape in (
        (LinearOperatorModule(MATRIX), (2, 6)),
        (Convolution(gaussian_kernel(1.0)), (2, 9, 9)),
    ):
        moved = copy.deepcopy(operator).to(device)
        x = normal(*shape, dtype=torch.float32)
        torch.testing.assert_close(moved.A(x.to(device)).cpu(), operator.A(x))
        again = pickle.loads(pickle.dumps(operator))
        assert torch.equal(again.A(x), operator.A(x))
        assert not operator.state_dict()


def test_a_wrong_adjoint_is_found():
    wrong = LinearOperatorModule(lambda x: x.cumsum(1), lambda y: y.cumsum(1))
    with pytest.raises(AdjointError, match=r"is not the adjoint of A: .* allowed: 1e-06"):
        check_adjoint(wrong, (4, 8), rtol=1e-6)
    with pytest.raises(AssertionError) as found:
        check_adjoint(wrong, (4, 8), rtol=1e-6)
    defect = found.value.defect
    assert defect == check_adjoint(wrong, (4, 8)) > 1e-2
    assert pickle.loads(pickle.dumps(found.value)).defect == defect
    twice = LinearOperatorModule(lambda x: 2 * x, lambda y: y)
    assert check_adjoint(twice, (1, 100)) > 1e-3
    assert check_adjoint(LinearOperatorModule(lambda x: 0 * x, lambda y: 0 * y), (1, 3)) == 0.0


def test_pretrained_networks_are_read_without_code(tmp_path):
    source, network = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    torch.save({"params": source.state_dict()}, tmp_path / "weights.pt")
    forward = pretrained_forward(network, tmp_path / "weights.pt")
    x = normal(2, 3, dtype=torch.float32).requires_grad_()
    assert torch.equal(forward.A(x), source(x))
    assert not forward.training
    forward.A(x).sum().backward()
    assert x.grad is not None
    assert all(p.grad is None and not p.requires_grad for p in network.parameters())
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "other.pt")
    torch.save(source, tmp_path / "code.pt")
    (tmp_path / "broken.pt").write_bytes(b"weights")
    for name in ("other", "code", "broken"):
        with pytest.raises(
            ValueError, match=rf"weights: .*{name}.pt is not a state dict of Linear"
        ):
            pretrained_forward(torch.nn.Linear(3, 2), tmp_path / f"{name}.pt")
    with pytest.raises(FileNotFoundError, match=r"weights: no file .*none\.pt"):
        pretrained_forward(network, tmp_path / "none.pt")
    with pytest.raises(TypeError, match="network: function"):
        pretrained_forward(lambda x: x)


# --- noise ------------------------------------------------------------------------------------

LAWS = [
    GaussianNoise(0.3),
    UniformNoise(0.3),
    SpeckleNoise(0.3),
    PoissonNoise(40.0),
    SaltAndPepperNoise(0.2),
    MixtureNoise([GaussianNoise(0.1), PoissonNoise(9.0)]),
    MultiLevelGaussianNoise(),
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("law", LAWS, ids=lambda law: type(law).__name__)
@given(seed=st.integers(0, 2**40))
@settings(max_examples=10)
def test_the_generator_alone_decides(law, device, seed):
    y = normal(3, 2, 5).clamp(-1, 1)
    before = torch.random.get_rng_state()
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        given_y = y.to(device, dtype)
        first, second = (law(given_y, seeded(seed)) for _ in range(2))
        assert torch.equal(first, second)
        assert (first.dtype, first.device, first.shape) == (dtype, given_y.device, y.shape)
        assert torch.equal(first.cpu(), law(y.to(dtype), seeded(seed)))
    source = seeded(seed)
    assert not torch.equal(law(y, source), law(y, source))
    assert not torch.equal(law(y), law(y))  # fresh generators
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(y, normal(3, 2, 5).clamp(-1, 1))


@pytest.mark.parametrize(
    ("law", "variance"),
    [
        (GaussianNoise(0.3), lambda y: 0.09),
        (UniformNoise(0.3), lambda y: 0.03),
        (SpeckleNoise(0.3), lambda y: 0.09 * (y + 1) ** 2),
        (SpeckleNoise(0.3, low=0.25), lambda y: 0.09 * (y - 0.25) ** 2),
        (PoissonNoise(40.0), lambda y: (y + 1) * 2 / 40),
        (PoissonNoise(40.0, low=-2.0, high=2.0), lambda y: (y + 2) * 4 / 40),
    ],
)
def test_noise_has_its_mean_and_variance(law, variance):
    for value in (-0.5, 0.25, 1.0):
        y = torch.full((200_000,), value, dtype=torch.float64)
        drawn = law(y, seeded())
        expected = variance(value)
        scale = math.sqrt(max(expected, 1e-30) / len(y))
        assert float(drawn.mean()) == pytest.approx(value, abs=5 * scale + 1e-15)
        assert float(drawn.var()) == pytest.approx(expected, rel=0.02, abs=1e-15)


def test_poisson_counts_are_whole_and_its_gradient_that_of_the_mean():
    y = torch.rand((1000,), generator=seeded(), dtype=torch.float64).requires_grad_()
    drawn = PoissonNoise(7.0, low=0.0, high=1.0)(y, seeded())
    counts = drawn.detach() * 7
    torch.testing.assert_close(counts, counts.round(), rtol=0, atol=1e-9)
    drawn.sum().backward()
    assert torch.equal(y.grad, torch.ones_like(y))
    dark = PoissonNoise(7.0)(torch.full((9,), -1 - 1e-7), seeded())
    torch.testing.assert_close(dark, torch.full((9,), -1.0))


def test_salt_and_pepper_have_their_shares():
    y = torch.zeros(100_000, requires_grad=True)
    drawn = SaltAndPepperNoise(0.2, salt=0.25, low=-2.0, high=3.0)(y, seeded())
    shares = [float((drawn == value).double().mean()) for value in (3.0, -2.0, 0.0)]
    assert shares == pytest.approx([0.05, 0.15, 0.8], abs=5e-3)
    drawn.sum().backward()
    assert torch.equal(y.grad != 0, drawn == 0)


def test_a_mixture_gives_each_sample_one_law():
    y = torch.zeros(4000, 20)
    drawn = MixtureNoise([GaussianNoise(0.0), GaussianNoise(1.0)], [0.25, 0.75])(y, seeded())
    untouched = (drawn == 0).all(1)
    assert torch.equal(untouched, (drawn == 0).any(1))
    assert float(untouched.double().mean()) == pytest.approx(0.25, abs=0.03)


def test_levels_differ_from_sample_to_sample_and_are_returned():
    law = MultiLevelGaussianNoise()
    y = torch.zeros(4000, 1, 400)
    noisy, levels = law.draw(y, seeded())
    assert levels.shape == (4000,)
    torch.testing.assert_close(noisy.std((1, 2)), levels, rtol=0.2, atol=0)
    for level, share in zip(law.levels, (0.4, 0.3, 0.2, 0.1), strict=True):
        found = (levels == torch.tensor(level)).double().mean()
        assert float(found) == pytest.approx(share, abs=0.03)
    assert torch.equal(noisy, law(y, seeded()))
    given_levels = law.assign(1000, seeded())
    assert [int((given_levels == level).sum()) for level in law.levels] == [400, 300, 200, 100]
    assert not torch.equal(given_levels, given_levels.sort().values)
    assert torch.equal(given_levels, law.assign(1000, seeded()))
    again = law.with_levels(y, levels, seeded(1))
    torch.testing.assert_close(again.std((1, 2)), levels, rtol=0.2, atol=0)
    assert law.at(2) == GaussianNoise(0.15)
    assert [len(law.assign(count, seeded())) for count in (1, 2, 7)] == [1, 2, 7]


# --- bad input --------------------------------------------------------------------------------

IMAGE = torch.zeros(1, 3, 8, 8)
DOUBLE = LinearOperatorModule(MATRIX, dtype=torch.float64)
SHAPED = LinearOperatorModule(MATRIX, input_shape=(2, 3), output_shape=(5, 1))
POISSON, MIXED, LEVELS = PoissonNoise(5.0), LAWS[5], MultiLevelGaussianNoise()
ROWS = [
    (
        gaussian_kernel,
        {"width": 1.0},
        [
            ({"width": -1.0}, ValueError, "width: -1.0 is negative"),
            ({"width": NAN}, ValueError, "width: nan is not finite"),
            ({"size": 4}, ValueError, "size: 4 is even"),
            ({"size": 3.0}, TypeError, "size: 3.0 is not an integer"),
            ({"dimensions": 3}, ValueError, "dimensions: 3; allowed: 1, 2"),
        ],
    ),
    (
        anisotropic_gaussian_kernel,
        {"widths": (2.0, 1.0), "angle": 0.0},
        [
            ({"widths": 2.0}, ValueError, "widths: 2.0; allowed: two numbers"),
            ({"widths": (1.0, 2.0, 3.0)}, ValueError, "widths: .*allowed: two numbers"),
            ({"widths": (1.0, 0.0)}, ValueError, "widths: .*both must be > 0"),
            ({"widths": (1.0, -1.0)}, ValueError, "widths: -1.0 is negative"),
            ({"angle": NAN}, ValueError, "angle: nan"),
            ({"angle": math.pi / 3}, ValueError, "angle: 1.047.* is 60 degrees in radians"),
            ({"angle": 2 * math.pi}, ValueError, r"angle: 6.28.* radians; .*math.degrees\("),
        ],
    ),
    (
        motion_blur_kernel,
        {"length": 5.0},
        [
            ({"length": -1.0}, ValueError, "length: -1.0 is negative"),
            ({"decay": NAN}, ValueError, "decay: nan"),
            ({"angle": "up"}, TypeError, "angle: 'up'"),
            ({"angle": -math.pi / 4}, ValueError, "angle: -0.785.* is -45 degrees in radians"),
            ({"angle": math.radians(7.5)}, ValueError, "angle: 0.1309 is 7.5 degrees in radians"),
            ({"size": 5}, ValueError, "size: 5 does not hold a path of 5 pixels; .* 7"),
            ({"size": 8}, ValueError, "size: 8 is even"),
        ],
    ),
    (
        Convolution,
        {"kernel": [1.0]},
        [
            ({"kernel": [NAN]}, ValueError, "kernel: .*NaN"),
            ({"kernel": [1j]}, TypeError, "kernel: dtype complex"),
            ({"kernel": []}, ValueError, "kernel: .*non-empty"),
            ({"kernel": np.ones((1, 1, 1))}, ValueError, "kernel: shape .*1-D or 2-D"),
            ({"kernel": [1e200]}, ValueError, "kernel: the largest magnitude"),
            ({"padding": "same"}, ValueError, "padding: unknown value 'same'"),
        ],
    ),
    (
        Convolution(gaussian_kernel(1.0)).A,
        {"x": torch.zeros(1, 9, 9)},
        [
            ({"x": np.zeros((1, 9, 9))}, TypeError, "x: ndarray is not a torch.Tensor"),
            ({"x": torch.zeros(1, 9, 9).long()}, TypeError, "x: dtype torch.int64"),
            ({"x": torch.full((1, 9, 9), NAN)}, ValueError, "x: 81 entries are NaN"),
            ({"x": torch.zeros(1, 8, 9)}, ValueError, r"x: shape \(1, 8, 9\), but the kernel"),
            (
                {"x": torch.zeros(9, 9)},
                ValueError,
                r"x: shape \(9, 9\); needed: samples.* \(one image without a batch axis\? "
                r"x\[None\]\)",
            ),
        ],
    ),
    (
        Convolution([1.0]).A_adjoint,
        {"y": torch.zeros(1, 9)},
        [
            (
                {"y": torch.zeros(9)},
                ValueError,
                r"y: shape \(9,\); needed: samples.* \(one signal without a batch axis\? "
                r"y\[None\]\)",
            ),
            ({"y": torch.full((1, 9), NAN)}, ValueError, "y: 9 entries are NaN"),
        ],
    ),
    (
        Integration().A,
        {"x": torch.zeros(1, 3)},
        [
            ({"x": torch.zeros(1, 0)}, ValueError, "x: empty"),
            ({"x": torch.zeros(3)}, ValueError, r"x: shape \(3,\); .* x\[None\] for one sample"),
            ({"x": torch.tensor(3.0)}, ValueError, r"x: shape \(\); axis 0 counts samples"),
        ],
    ),
    (
        Integration().A_adjoint,
        {"y": torch.zeros(1, 3)},
        [
            ({"y": torch.zeros(3)}, ValueError, r"y: shape \(3,\); .* y\[None\] for one sample"),
        ],
    ),
    (
        Downsampling,
        {"factor": 4},
        [
            ({"factor": 0}, ValueError, "factor: 0 is below 1"),
            ({"factor": 2.0}, TypeError, "factor: 2.0"),
        ],
    ),
    (
        Downsampling().A,
        {"x": IMAGE},
        [
            ({"x": IMAGE[..., 1:]}, ValueError, r"x: shape .*; 4 must divide"),
            (
                {"x": IMAGE[0, 0]},
                ValueError,
                r"x: shape \(8, 8\); images are .*one image\? x\[None, None\]",
            ),
            ({"x": torch.zeros(1, 2, 8, 10)}, ValueError, r"x: shape .*; 4 must divide"),
        ],
    ),
    (
        Downsampling().A_adjoint,
        {"y": IMAGE},
        [
            ({"y": IMAGE[0, 0]}, ValueError, r"y: shape \(8, 8\); images are .*y\[None, None\]"),
        ],
    ),
    (Upsampling, {"factor": 4}, [({"factor": -1}, ValueError, "factor: -1 is below 1")]),
    (
        Upsampling().A,
        {"x": IMAGE},
        [
            ({"x": IMAGE[0, 0]}, ValueError, r"x: shape .*; images are .*x\[None, None\]"),
        ],
    ),
    (
        Upsampling().A_adjoint,
        {"y": IMAGE},
        [
            ({"y": IMAGE[..., 1:]}, ValueError, "y: shape .*; 4 must divide"),
            ({"y": IMAGE[0, 0]}, ValueError, r"y: shape .*; images are .*y\[None, None\]"),
        ],
    ),
    (ClippedHDR, {"gain": 2.0}, [({"gain": -2.0}, ValueError, "gain: -2.0 is negative")]),
    (
        GammaMotionBlur,
        {"gamma": 2.2},
        [
            ({"gamma": 0.0}, ValueError, "gamma: 0.0; allowed"),
            ({"length": -1.0}, ValueError, "length: -1.0"),
            ({"decay": NAN}, ValueError, "decay: nan"),
        ],
    ),
    (
        GammaMotionBlur().A,
        {"x": torch.zeros(1, 3, 9, 9)},
        [
            ({"x": IMAGE}, ValueError, "x: shape .*the kernel"),
            ({"x": torch.zeros(9, 9)}, ValueError, r"x: shape .*needed: samples.*x\[None\]"),
        ],
    ),
    (
        SignalGatedBlur,
        {"temperature": 0.1},
        [
            ({"temperature": 0.0}, ValueError, "temperature: 0.0; allowed"),
        ],
    ),
    (
        SignalGatedBlur().A,
        {"x": torch.zeros(1, 3, 17, 17)},
        [
            ({"x": IMAGE}, ValueError, "x: shape .*the kernel"),
            ({"x": torch.zeros(3, 17, 17)}, ValueError, r"x: shape .*one image\? x\[None\]"),
            ({"x": torch.zeros(17, 17)}, ValueError, r"x: shape .*images are .*x\[None, None\]"),
        ],
    ),
    (
        LinearOperatorModule,
        {"operator": MATRIX},
        [
            ({"operator": np.sin}, TypeError, "operator, adjoint: .*allowed: two functions"),
            ({"operator": 3}, TypeError, "operator, adjoint: 3"),
            ({"operator": MATRIX * NAN}, ValueError, "operator: entries are NaN"),
            ({"operator": np.ones(3)}, ValueError, "operator: a 2-D matrix"),
            ({"adjoint": np.sin}, ValueError, "adjoint: only a function needs one"),
            ({"input_shape": (2, 2)}, ValueError, r"input_shape: \(2, 2\) has 4 entries"),
            ({"output_shape": (0, 2)}, ValueError, "output_shape: 0 is below 1"),
            (
                {"operator": np.sin, "adjoint": np.sin, "input_shape": (1,)},
                ValueError,
                "input_shape: .* a function has its own",
            ),
            ({"dtype": torch.float16}, TypeError, "dtype: torch.float16; allowed"),
        ],
    ),
    (
        DOUBLE.A,
        {"x": torch.zeros(1, 6).double()},
        [
            ({"x": torch.zeros(1, 5).double()}, ValueError, r"x: shape \(1, 5\); needed: .*\(6,\)"),
            (
                {"x": torch.zeros(1, 6)},
                ValueError,
                "x: computed in .*32, but .* holds torch.float64",
            ),
            (
                {"x": torch.zeros(6).double()},
                ValueError,
                r"x: shape \(6,\); needed: .*one sample without a batch axis\? x\[None\]",
            ),
            ({"x": torch.zeros(2, 2, 3).double()}, ValueError, r"x: .*flattened\? x.flatten\(1\)"),
            ({"x": torch.zeros(6, 2).double()}, ValueError, r"x: .*axes swapped\? x.mT"),
        ],
    ),
    (
        SHAPED.A_adjoint,
        {"y": torch.zeros(2, 5, 1)},
        [
            ({"y": torch.zeros(5, 1)}, ValueError, r"y: shape \(5, 1\); needed: .* y\[None\]"),
            ({"y": torch.zeros(2, 1, 5)}, ValueError, r"y: shape .*axes swapped\? y.mT"),
            ({"y": torch.zeros(2, 5)}, ValueError, r"y: shape .*flatten\(1, \(5, 1\)\)"),
        ],
    ),
    (
        as_forward,
        {"forward": torch.sin},
        [
            ({"forward": 3}, TypeError, "forward: 3 has no method A"),
            ({"forward": Physics}, TypeError, "forward: .*Physics"),
        ],
    ),
    (
        check_adjoint,
        {"forward": Integration(), "shape_x": (1, 3)},
        [
            ({"forward": torch.sin}, TypeError, "forward: .* has no A_adjoint"),
            ({"shape_x": (1, 0)}, ValueError, "shape: 0 is below 1"),
            ({"shape_y": (1, 4)}, ValueError, r"shape_y: \(1, 4\), but A\(x\) has shape \(1, 3\)"),
            ({"rtol": -1.0}, ValueError, "rtol: -1.0 is negative"),
            (
                {"forward": LinearOperatorModule(lambda x: x * NAN, lambda y: y)},
                ValueError,
                r"y: 3 entries|A\(x\): 3 entries are NaN",
            ),
            (
                {"forward": LinearOperatorModule(lambda x: x, lambda y: y[:, :1])},
                ValueError,
                r"forward: A_adjoint\(y\) has shape \(1, 1\)",
            ),
        ],
    ),
    (GaussianNoise, {"level": 1.0}, [({"level": -1.0}, ValueError, "level: -1.0 is negative")]),
    (
        GaussianNoise(1.0),
        {"y": IMAGE},
        [
            ({"y": IMAGE * NAN}, ValueError, "y: 192 entries are NaN"),
            ({"y": 1.0}, TypeError, "y: float is not a torch.Tensor"),
            ({"generator": 0}, TypeError, "generator: 0; allowed: a torch.Generator"),
        ],
    ),
    (
        UniformNoise,
        {"half_width": 1.0},
        [
            ({"half_width": NAN}, ValueError, "half_width: nan"),
        ],
    ),
    (
        SpeckleNoise,
        {"level": 1.0},
        [
            ({"level": "1"}, TypeError, "level: '1'"),
            ({"low": NAN}, ValueError, "low: nan"),
        ],
    ),
    (
        PoissonNoise,
        {"photons": 1.0},
        [
            ({"photons": 0.0}, ValueError, "photons: 0; allowed"),
            ({"photons": 1e16}, ValueError, r"photons: 1e\+16; allowed"),
            ({"low": 1.0}, ValueError, "low, high: 1.0 and 1.0"),
        ],
    ),
    (POISSON, {"y": IMAGE}, [({"y": IMAGE - 1.1}, ValueError, "y: -1.1.* is below low = -1.0")]),
    (
        SaltAndPepperNoise,
        {"share": 0.5},
        [
            ({"share": 1.5}, ValueError, r"share: 1.5; allowed: a number in \[0, 1\]"),
            ({"salt": -0.5}, ValueError, "salt: -0.5 is negative"),
            ({"high": -2.0}, ValueError, "low, high: -1.0 and -2.0"),
        ],
    ),
    (
        MixtureNoise,
        {"laws": [POISSON]},
        [
            ({"laws": []}, ValueError, "laws: empty"),
            ({"laws": [torch.sin]}, TypeError, "laws: .* is not a Noise"),
            ({"weights": [0.5]}, ValueError, "weights: they sum to 0.5"),
            ({"weights": [0.5, 0.5]}, ValueError, "weights: shape"),
        ],
    ),
    (MIXED, {"y": IMAGE}, [({"y": torch.zeros(3)}, ValueError, r"y: shape \(3,\); axis 0")]),
    (
        MultiLevelGaussianNoise,
        {},
        [
            ({"levels": [-0.1, 1, 1, 1]}, ValueError, "levels: -0.1; allowed: numbers >= 0"),
            ({"levels": []}, ValueError, "levels: shape"),
            ({"levels": [0.1]}, ValueError, "proportions: 4 numbers, but there are 1 levels"),
            ({"proportions": [1, 1, 1, 0]}, ValueError, "proportions: 0.0; allowed: numbers > 0"),
        ],
    ),
    (LEVELS.draw, {"y": IMAGE}, [({"y": torch.zeros(3)}, ValueError, r"y: shape \(3,\)")]),
    (LEVELS.assign, {"count": 3}, [({"count": 0}, ValueError, "count: 0 is below 1")]),
    (
        LEVELS.with_levels,
        {"y": IMAGE, "levels": torch.ones(1)},
        [
            ({"levels": torch.ones(2)}, ValueError, "levels: 2 numbers .* each of 1 samples"),
            ({"levels": -torch.ones(1)}, ValueError, "levels: 1 numbers from -1.0"),
        ],
    ),
]


@pytest.mark.parametrize(
    ("function", "arguments", "error", "message"),
    [
        (function, {**good, **changes}, error, message)
        for function, good, rows in ROWS
        for changes, error, message in rows
    ],
)
def test_bad_input_is_refused_by_name(function, arguments, error, message):
    with pytest.raises(error, match=message):
        function(**arguments)


def test_the_same_arguments_without_the_fault_are_accepted():
    for function, good, _ in ROWS:
        assert function(**good) is not None


def test_one_image_is_told_from_a_batch():
    for value, index in ((IMAGE[0, 0], "[None, None]"), (IMAGE[0], "[None]")):
        with pytest.raises(ValueError, match=re.escape(f"(one image? x{index})")):
            check_images(value, "x")


def test_every_public_name_has_a_row():
    tested = {getattr(function, "__name__", type(function).__name__) for function, _, _ in ROWS}
    without_input = {"Forward", "LinearForward", "Noise", "AdjointError"}  # bases
    tested |= {"Integration", "pretrained_forward"}  # no arguments; above
    assert set(physics.__all__) <= tested | without_input
