"""Fixtures for every test; doctests and pages run in float32, as a newcomer's session does."""

import os
import tempfile
from importlib.metadata import version

# Most of the suite's time is compile time, and most of that goes into machine code that runs once. So the program that
# XLA compiles is the same but for two passes over loops, which take a third of the time that is left, and the machine
# code is hardly optimised. With KKT_OPTIMISED=1 in the environment all is compiled as for a user, six times slower.
if not os.environ.get("KKT_OPTIMISED"):
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    if version("jaxlib").startswith("0.10."):  # a flag that another version does not know would end the process
        passes = "while-loop-invariant-code-motion,simplify-while-loops"
        flags = "--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1"
        os.environ.setdefault("XLA_FLAGS", " ".join([*flags, f"--xla_disable_hlo_passes={passes}"]))
# The workers and the processes of the pages find what another one has compiled. The folder goes at the end.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _compiled = tempfile.TemporaryDirectory(prefix="kkt_solvers_")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _compiled.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"

import jax
import numpy as np
import pytest


@pytest.fixture(autouse=True, scope="module")
def _compiled_code_goes():
    """A process may map only so many pieces of memory, and compiled code takes several for each function."""
    yield
    jax.clear_caches()


@pytest.fixture(autouse=True, scope="session")
def _solutions_are_graded():
    """`kkt.solve`, wherever it is called by that name on values that can be seen, has its `SOLVED` checked: see
    `grading`. One wrapper for the session, as compiled code is found again by the identity of the function."""
    import grading

    import kkt_solvers as kkt

    original, kkt.solve = kkt.solve, grading.graded(kkt.solve)
    yield
    kkt.solve = original


@pytest.fixture
def x64():
    """Double precision for one test."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    """Either precision, with JAX's switch set to match."""
    jax.config.update("jax_enable_x64", request.param == "float64")
    yield np.dtype(request.param)
    jax.config.update("jax_enable_x64", False)


@pytest.fixture
def rng():
    return np.random.default_rng(0)
