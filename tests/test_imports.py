"""What importing costs, and what a missing optional dependency says."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "cvxpy", "matplotlib", "ot", "hypothesis", "pandas", "tqdm")


def run(code):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )


def test_importing_the_core_loads_nothing_heavy():
    code = f"import sys, dro_core; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = run(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_using_the_core_loads_nothing_heavy():
    code = (
        "import sys, numpy as np, dro_core, dro_core.reference\n"
        "x = np.eye(3)\n"
        "dro_core.worst_case_risk(x, x, x, 1.0).verify()\n"
        "dro_core.finite_worst_case(x, 1 - x, 0.5).verify()\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = run(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("module", "missing", "hint"),
    [
        ("dro_torch", "torch", "structured-dro[torch]"),
        ("dro_core.testing", "hypothesis", "structured-dro[testing]"),
    ],
)
def test_a_missing_extra_says_how_to_get_it(module, missing, hint):
    done = run(f"import sys; sys.modules[{missing!r}] = None\nimport {module}")
    assert done.returncode == 1
    assert "ModuleNotFoundError" in done.stderr
    assert hint in done.stderr
