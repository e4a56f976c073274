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


try:
    import torch
except ModuleNotFoundError:
    pass
else:
    torch.set_num_threads(1)
