"""What every extra is for, in a few seconds: ``python tests/extras.py EXTRA``.

Run by `tests/matrix.sh extras` in an environment with that extra alone, and its oldest versions.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent


def problem():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((20, 3))
    return np.eye(3), x, x + 0.1 * rng.standard_normal((20, 3))


def transport():
    from dro_core import conditional_wasserstein, unbalanced_ot

    x, y = np.repeat(np.eye(2), 5, axis=0), np.random.default_rng(0).random((2, 10, 3))
    assert conditional_wasserstein(x, y[0], x, y[1]).verify().holds()
    assert conditional_wasserstein(x, y[0], x, y[1], method="sinkhorn", epsilon=0.1).value > 0
    cost = np.random.default_rng(1).random((6, 9))
    for divergence in ("kl", ("kl", "balanced")):
        assert unbalanced_ot(cost, np.ones(6), np.ones(9), divergence).verify().holds()
    even = unbalanced_ot(cost, np.ones(6) / 6, np.ones(9) / 9, "balanced")
    assert even.verify().holds()


def plot():
    import matplotlib as mpl

    mpl.use("Agg")
    from dro_core import worst_case_curve, worst_case_risk

    for found in (worst_case_risk(*problem(), 1.0), worst_case_curve(*problem(), [0.1, 0.2])):
        found.plot().figure.canvas.draw()


def reference():
    from dro_core import fit_linear, reference, worst_case_risk

    B, x, y = problem()
    fit = reference.fit_linear_sdp(x=x, y=y, radius=0.2, weight_x=np.inf)
    assert np.isclose(fit.value, fit_linear(x=x, y=y, radius=0.2).risk, rtol=1e-4)
    value = reference.worst_case_risk_sdp(B, x, y, 0.2, "y|x").risk
    assert np.isclose(value, worst_case_risk(B, x, y, 0.2).risk, rtol=1e-4)
    loss, cost = np.random.default_rng(0).random((2, 4, 5))
    programmes = (reference.finite_worst_case_highs, reference.finite_worst_case_cvxpy)
    first, second = (programme(loss, cost, 0.9).risk for programme in programmes)
    assert np.isclose(first, second, rtol=1e-6)
    assert reference.wasserstein_pot(x, y) > 0


def validation():
    with tempfile.TemporaryDirectory() as out:
        small = ("size=16", "samples=12", "points=7", "modes=5")
        command = [sys.executable, "-m", "validation", "section5", "--out", out]
        for setting in small:
            command += ["--set", setting]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def torch():
    import torch

    import dro_torch

    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    network = torch.nn.Linear(3, 3)
    loss = dro_torch.EntropicDROLoss(epsilon=0.1, samples=2)(network, x, x, 30.0)
    loss.backward()
    assert dro_torch.certify(network, x, x, 0.5, steps=2).holds()
    phase = dro_torch.training.reconstruction_phase(network, dro_torch.WassersteinDROLoss(), 9.0)
    trained = dro_torch.training.fit(phase, lambda step: (torch.arange(8), x, x), 2, seed=0)
    assert trained.step == 2


def metrics():
    import torch

    from dro_torch.metrics import EfficientNetLite0, kid

    images = torch.rand(6, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    features = EfficientNetLite0()(images)
    assert features.shape == (6, 1280)
    assert kid(features, features, 6) < 1e-3


def files():
    import h5py
    from PIL import Image

    from dro_core.cli.files import load_array

    with tempfile.TemporaryDirectory() as folder:
        values = np.arange(12.0).reshape(3, 4)
        with h5py.File(Path(folder) / "a.h5", "w") as file:
            file["a"] = values
        assert np.array_equal(load_array(Path(folder) / "a.h5"), values)
        Image.fromarray(values.astype(np.uint8)).save(Path(folder) / "a.png")
        assert load_array(Path(folder) / "a.png").size == 12
    import pydicom  # noqa: F401


def testing():
    from hypothesis import given, settings

    from dro_core.testing import check_weak_duality, laws, problems

    @settings(max_examples=5, database=None)
    @given(problems().flatmap(lambda p: laws(p).map(lambda law: (p, law))))
    def claim(case):
        check_weak_duality(1e9 * (1 + case[0].fidelity), *case)

    claim()


def docs():
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "sphinx", "-W", "-q", "-b", "html"]
        subprocess.run([*command, str(ROOT / "docs"), out], check=True)


#: Extra -> what it is for. (`test` and `dev` are for this project itself.)
TRIES = {
    f.__name__: f
    for f in (transport, plot, reference, validation, torch, metrics, files, testing, docs)
}


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    TRIES[sys.argv[1]]()
    print(f"extra {sys.argv[1]}: works")
