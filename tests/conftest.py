"""Fixtures for every test; doctests and pages run in float32, as a newcomer's session does."""

import jax
import numpy as np
import pytest

jax.config.update("jax_compilation_cache_dir", None)


@pytest.fixture
def x64():
    """Double precision for one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    """Either precision, with JAX's switch set to match."""
    with jax.enable_x64(request.param == "float64"):
        yield np.dtype(request.param)


@pytest.fixture
def rng():
    return np.random.default_rng(0)
