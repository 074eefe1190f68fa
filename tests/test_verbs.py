"""Every verb on many random rows, its own constraints checked in numpy; and none compiles anew on every call."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import pytest
from verb_families import VERBS

import kkt_solvers

# Relative, and of the sums that come out of it.
SMALL = {"float32": 2e-5, "float64": 1e-7}


def checked(verb, dtype, rows):
    rng = np.random.default_rng(0)
    with jax.enable_x64(dtype == "float64"):
        drawn = {name: value.astype(value.dtype if value.dtype == bool else dtype)
                 for name, value in verb.draw(rng, rows).items()}  # fmt: skip
        found = jax.tree.map(lambda leaf: np.asarray(leaf, float), jax.device_get(jax.jit(verb.call)(**drawn)))
        wanted = {name: value if value.dtype == bool else value.astype(float) for name, value in drawn.items()}
        violation = np.asarray(verb.violation(found, **wanted), float)
        jax.clear_caches()
    assert violation.shape == (rows,)
    wrong, unsolved = ~(violation <= SMALL[dtype]), np.isnan(violation)
    if dtype == "float32" and np.mean(unsolved) <= verb.unsolved:
        wrong &= ~unsolved
    first = int(np.argmax(wrong))
    print(f"{verb.name:30} {dtype} {rows:6} rows, {np.sum(wrong)} violated, largest {np.nanmax(violation):.1e}")
    assert not wrong.any(), f"{np.sum(wrong)} of {rows}, first {first}: {violation[first]}"


def test_every_verb_is_here():
    not_solved = {"rbf", "standard_gibbs", "receding_horizon"}
    verbs = {name for name in kkt_solvers.problems.__all__ if name[0].islower()} - not_solved
    assert verbs <= {verb.name for verb in VERBS}


FAST = "lml", "soft_top_k", "simplex", "entropic", "euclidean"


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb.name in FAST], ids=lambda verb: verb.name)
def test_a_thousand_rows(verb):
    checked(verb, "float32", 1000)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_ten_thousand_rows(verb, dtype):
    checked(verb, dtype, 10_000)


compiled = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, *_, **__: compiled.append(event) if "backend_compile" in event else None
)


def compiles_no_more(verb):
    """Nothing on the third call, forward and gradient."""
    drawn = {name: jnp.asarray(value, None if value.dtype == bool else jnp.float32)
             for name, value in verb.draw(np.random.default_rng(0), 2).items()}  # fmt: skip
    first = next(iter(drawn))

    def loss(value):
        found = jax.tree.leaves(verb.call(**drawn | {first: value}))
        return sum(jnp.sum(jnp.where(jnp.isfinite(leaf), leaf, 0)) for leaf in found)

    for count in range(3):
        before = len(compiled)
        jax.block_until_ready((verb.call(**drawn), jax.grad(loss)(drawn[first])))
        if count == 0:
            assert len(compiled) > before  # the counter counts
    assert len(compiled) == before


@pytest.mark.parametrize("name", ["lml", "soft_top_k", "isotonic_regression", "total_variation"])
def test_no_compiling_on_the_third_call(name):
    compiles_no_more(next(verb for verb in VERBS if verb.name == name))


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_no_verb_compiles_on_the_third_call(verb):
    compiles_no_more(verb)


SCORED = {verb.name: verb for verb in VERBS if verb.name in ("lml", "soft_top_k", "entropic_top_k", "hard_top_k")}


@pytest.mark.slow
@pytest.mark.parametrize("name", SCORED)
@hypothesis.settings(max_examples=25, deadline=None, derandomize=True, database=None)
@hypothesis.given(shape=st.lists(st.integers(0, 4), min_size=1, max_size=3), seed=st.integers(0, 99))
def test_shapes(name, shape, seed):
    """Any number of rows and of entries, none among them: the shape stays, and each row has its sum."""
    choose = getattr(kkt_solvers.problems, name)
    k = min(2, shape[-1])
    y = choose(np.random.default_rng(seed).normal(size=shape).astype(np.float32), k)
    assert y.shape == tuple(shape)
    np.testing.assert_allclose(np.sum(y, -1), np.full(shape[:-1], k), atol=1e-5)
