"""Shared settings: properties are reproducible, and no test may touch the global random state."""

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "structured-dro",
    derandomize=True,
    deadline=None,
    max_examples=100,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("structured-dro")


@pytest.fixture
def rng():
    return np.random.default_rng(20240229)
