"""The one place that knows jaxopt. It is imported only when a solver that stands on it runs, and used forward only:
the derivative is ours, so its loops are never unrolled and never differentiated implicitly."""

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", category=DeprecationWarning)  # jaxopt announces that it is no longer maintained.
    import jaxopt


def bisect(
    residual: Callable[..., jax.Array], low: jax.Array, high: jax.Array, data: tuple[Any, ...], max_iterations: int
) -> tuple[jax.Array, jax.Array]:
    """The root of the nondecreasing `residual(s, *data)` in `[low, high]`.

    jaxopt's bracket is a field, which must not depend on data. So its unknown is the part t of the way through the
    bracket, in [0, 1], and the real bracket is an argument.
    """

    def of_part(t: jax.Array, low: jax.Array, high: jax.Array, data: tuple[Any, ...]) -> jax.Array:
        return residual(low + t * (high - low), *data)

    solver = jaxopt.Bisection(
        optimality_fun=of_part,
        lower=0.0,
        upper=1.0,
        maxiter=max_iterations,
        tol=0.0,
        check_bracket=False,
        implicit_diff_solve=None,
        unroll=False,
    )
    part, state = solver.run(None, low, high, data)
    return low + part * (high - low), state.iter_num.astype(jnp.int32)


def projected_gradient(
    fun: Callable[..., jax.Array],
    projection: Callable[..., jax.Array],
    init: jax.Array,
    projection_data: Any,
    data: tuple[Any, ...],
    *,
    max_iterations: int,
    tol: float,
    acceleration: bool,
) -> tuple[jax.Array, jax.Array]:
    """`jaxopt.ProjectedGradient` on `fun(y, *data)`; returns the last iterate and the number of iterations."""
    solver = jaxopt.ProjectedGradient(
        fun=fun,
        projection=projection,
        maxiter=max_iterations,
        maxls=40,
        tol=tol,
        acceleration=acceleration,
        implicit_diff=False,
        unroll=False,
    )
    y, state = solver.run(init, projection_data, *data)
    return y, state.iter_num.astype(jnp.int32)


def mirror_descent(
    fun: Callable[..., jax.Array],
    projection_grad: Callable[..., jax.Array],
    init: jax.Array,
    projection_data: Any,
    data: tuple[Any, ...],
    *,
    max_iterations: int,
    tol: float,
) -> tuple[jax.Array, jax.Array]:
    """`jaxopt.MirrorDescent` on `fun(y, *data)` with unit steps; a step size belongs into `projection_data`."""
    solver = jaxopt.MirrorDescent(
        fun=fun,
        projection_grad=projection_grad,
        stepsize=1.0,
        maxiter=max_iterations,
        tol=tol,
        implicit_diff=False,
        unroll=False,
    )
    y, state = solver.run(init, projection_data, *data)
    return y, state.iter_num.astype(jnp.int32)
