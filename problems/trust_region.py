"""The step of a trust-region method [more1983].

    min_p  gradient'p + p'B p / 2        s.t.  |p| <= radius

The constraint is written as `(p'p - radius^2) / 2 <= 0`, so its multiplier `lam` is the shift of the optimality
conditions, `(B + lam I) p = -gradient`.

A matrix `B` with a negative eigenvalue is allowed. A solution then lies on the sphere, where `B + c I` in place of `B`
changes the objective by a constant. With `-c` the least eigenvalue the problem is convex, and its multiplier is
`lam - c` [flippo1996].
"""

from typing import Any

import jax
import jax.numpy as jnp

from kkt_solvers import Problem, Quadratic, solve
from kkt_solvers.numerics import lapack
from kkt_solvers.numerics.arrays import cast, float_dtype, floating
from kkt_solvers.problems import _checks


def TrustRegion(gradient: Any, hessian: Any, radius: Any) -> Problem:
    """The trust-region step as a convex `Problem`.

    Arguments:
        gradient: shape `(n,)`.
        hessian: `(n, n)`, symmetric, or `(n,)` if diagonal; its eigenvalues may have any signs.
        radius: positive, a scalar.

    The problem has `hessian + c I`, with `c >= 0` the smallest that makes it positive semidefinite.

    Raises `ValueError` for shapes that do not fit, a matrix that is not symmetric and a radius that is not positive.

    >>> import kkt_solvers as kkt
    >>> from kkt_solvers.problems import TrustRegion
    >>> solution = kkt.solve(TrustRegion([3.0, 4.0], [1.0, 1.0], 1.0))
    >>> solution.primal.tolist(), solution.dual.inequality.tolist()
    ([-0.60, -0.80], 4.00)
    """
    gradient, B, radius = _arguments(gradient, hessian, radius)
    c = _shift(B)
    B = B + (c * jnp.eye(len(B), dtype=B.dtype) if B.ndim == 2 else c)
    return Problem(Quadratic(B, gradient), args=(radius,), inequality=_outside)


def trust_region(gradient: Any, hessian: Any, radius: Any) -> jax.Array:
    """The step that is best within a radius, `(n,)`, differentiable in every argument.

    Arguments: as for `TrustRegion`. Batches go through `jax.vmap`. NaN where the problem was not solved, and in the
    hard case: the gradient is orthogonal to the eigenvectors of a negative least eigenvalue and the radius is large, so
    that there are several solutions.

    >>> from kkt_solvers.problems import trust_region
    >>> trust_region([-1.0, 0.0], [[-1.0, 0.0], [0.0, 2.0]], 0.5).tolist()
    [0.500, 0.000]

    Source: [more1983].
    """
    gradient, B, radius = _arguments(gradient, hessian, radius)
    solution = solve(TrustRegion(gradient, B, radius))
    step = _checks.solved(solution)
    # Inside the sphere the shifted problem has the solution of the original one only if the shift is zero.
    inside = jnp.linalg.norm(step) < radius * (1 - jnp.sqrt(jnp.finfo(step.dtype).eps))
    return step * jnp.where((_shift(B) > 0) & inside, jnp.nan, 1.0).astype(step.dtype)


def _outside(p: jax.Array, radius: jax.Array) -> jax.Array:
    return (jnp.vdot(p, p) - radius**2) / 2


@jax.jit  # so that compiled code is found again
def _shift(B: jax.Array) -> jax.Array:
    """How much makes the matrix positive semidefinite. A constant: on the sphere the step does not depend on it."""
    B = jax.lax.stop_gradient(B)
    values = lapack.eigvalsh(B) if B.ndim == 2 else B
    least, largest = jnp.min(values), jnp.max(jnp.abs(values))
    rounding = len(B) * jnp.finfo(B.dtype).eps * largest
    return jnp.where(least < -rounding, rounding - least, 0.0)


def _arguments(gradient: Any, hessian: Any, radius: Any) -> Any:
    gradient = _checks.vector(gradient, "gradient", "slopes")
    n, B, radius = gradient.size, floating(hessian, "hessian"), _checks.scalar(radius, "radius")
    if B.shape not in ((n, n), (n,)):
        raise ValueError(f"hessian must be square, ({n}, {n}), to go with gradient, or ({n},), got {B.shape}")
    gradient, B, radius = cast((gradient, B, radius), float_dtype(gradient, B, radius))
    radius = _checks.where_valid(radius, f"radius must be positive, got {radius}", lambda xp, radius: radius > 0)
    return gradient, _checks.symmetric(B, "hessian") if B.ndim == 2 else B, radius
