"""The experiment on Lipschitz layers: what it certifies is what was trained."""

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn.utils import parametrize  # noqa: E402

from dro_torch import lipschitz_upper  # noqa: E402
from validation import certify_layers  # noqa: E402


class Halved(nn.Module):
    """A parametrisation as other libraries have them."""

    def forward(self, weight):
        return weight / 2


class Circular(nn.Conv2d):
    """A convolution of a class of its own, for which there is no rule."""


@pytest.mark.parametrize("mode", ["zeros", "circular"])
def test_others_convolutions_become_those_that_have_rules(mode):
    torch.manual_seed(0)
    network = nn.Sequential(
        Circular(1, 4, 3, padding=1, padding_mode=mode), nn.ReLU(), nn.Conv2d(4, 1, 3, padding=1)
    )
    parametrize.register_parametrization(network[0], "weight", Halved())
    x = torch.randn(3, 1, 6, 6)
    before = network(x)
    with pytest.raises(TypeError, match="no Lipschitz constant is known"):
        lipschitz_upper(network, (1, 6, 6))
    fixed = certify_layers.plainly(network)
    torch.testing.assert_close(fixed(x), before)
    assert float(lipschitz_upper(fixed, (1, 6, 6))) > 0
    assert not any(p.requires_grad for p in fixed.parameters())


@pytest.mark.slow
def test_the_experiment_runs_small(tmp_path, capsys):
    small = {"images": 10, "steps": 3, "ascent": 1}
    try:
        checks = certify_layers.run(certify_layers.Config(**small), tmp_path)
    except (FileNotFoundError, ValueError) as error:
        pytest.skip(f"needs MNIST: {error}")
    assert checks[0].holds
    assert (tmp_path / "certify_layers.csv").read_text().count("\n") >= 6
    assert "step / plain" in capsys.readouterr().out
