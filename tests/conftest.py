"""Shared settings: properties are reproducible.

``HYPOTHESIS_PROFILE=search pytest --hypothesis-seed=N`` looks for new counter-examples instead.
"""

import os
import signal

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

# a shell that starts the suite in the background has Ctrl-C ignored, for its children too
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile(
    "structured-dro",
    derandomize=True,
    deadline=None,
    max_examples=100,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "search",
    parent=settings.get_profile("structured-dro"),
    derandomize=False,
    max_examples=300,
    database=None,
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "structured-dro"))


@pytest.fixture
def rng():
    return np.random.default_rng(20240229)


@pytest.fixture(autouse=True, scope="session")
def figures_keep_the_rules():
    """Whatever a test lets an experiment draw, it is a figure that can be read on a page."""
    try:
        from validation import figures
    except ModuleNotFoundError:  # the packages alone
        yield
        return
    save = figures.save

    def checked(path, figure):
        save(path, figure)
        found = figures.faults(figure)  # afterwards: it lays the figure out once more
        assert not found, f"{path.name}: " + "; ".join(found)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "save", checked)
        yield


try:
    import torch
except ModuleNotFoundError:
    pass
else:
    torch.set_num_threads(1)
