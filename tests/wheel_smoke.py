"""The installed wheel alone, from any folder: ``python tests/wheel_smoke.py MEGABYTES``."""

import importlib.metadata
import sys
import sysconfig
from pathlib import Path

import numpy as np

import dro_core

SITE = Path(sysconfig.get_path("purelib"))
#: What needs which extra, and how a user meets it.
MISSING = {
    "transport": "dro_core.conditional_wasserstein(x, y, x, y + 1.0)",
    "reference": "from dro_core import reference; reference.fit_linear_sdp(x=x, y=y, radius=1.0)",
    "testing": "import dro_core.testing",
    "torch": "import dro_torch",
    "files": "from dro_core.cli.files import load_array; load_array('scan.h5')",
}


def size(folder):
    """Megabytes (10⁶ bytes) on disk."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file()) / 1e6


def refused(code):
    """What a user reads who does something for which an extra is missing."""
    rng = np.random.default_rng(0)
    x = np.repeat(rng.standard_normal((2, 3)), 4, axis=0)
    try:
        exec(code, {"dro_core": dro_core, "x": x, "y": rng.standard_normal((8, 3))})
    except ModuleNotFoundError as error:
        return str(error)
    return "nothing"


def main(limit):
    assert SITE in Path(dro_core.__file__).parents, dro_core.__file__
    assert importlib.metadata.version("structured-dro") == dro_core.__version__
    about = importlib.metadata.metadata("structured-dro")
    assert "](docs/" not in about.get_payload() + str(about["Description"])
    Path("scan.h5").write_bytes(b"")
    for extra, code in MISSING.items():
        message = refused(code)
        assert f"structured-dro[{extra}]" in message, (extra, message)
    x = np.array([[1.0], [-1.0]])
    found = dro_core.audit([[2.0]], x, x, radius=0.5, structures="y|x")
    assert found.holds
    assert found.structures["y|x"].upper == 4.0
    fit = dro_core.fit_linear(x=x, y=x, radius=0.5)
    assert fit.verify().holds()
    loaded = [name for name in ("torch", "cvxpy", "matplotlib", "ot") if name in sys.modules]
    assert not loaded, loaded
    whole = size(Path(sys.prefix))
    print(f"wheel of structured-dro {dro_core.__version__}: {whole:.0f} MB in all, works")
    assert whole <= limit, whole


if __name__ == "__main__":
    main(float(sys.argv[1]))
