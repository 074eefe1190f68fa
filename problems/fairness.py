"""Logistic regression that is bad for no group: bounded group loss [agarwal2019].

    min_b  sum_i loss_i(b) + ridge |b|^2 / 2        s.t.  A b = c,   lower <= b <= upper,

           sum_i members_gi loss_i(b) / sum_i members_gi <= limit_g        the mean loss of each group

with `loss_i(b) = log(1 + exp(-labels_i x_i'b))`. Each limit is a smooth convex inequality. Its multiplier is the price
of fairness: how much less all observations would lose together, if the limit of the mean were one higher.
"""

from typing import Any

import jax
import jax.numpy as jnp

from kkt_solvers import Affine, Problem, Sum, solve
from kkt_solvers.numerics.arrays import cast, floating, full_precision
from kkt_solvers.problems import _checks
from kkt_solvers.problems.regression import LogisticRegression, _logistic_losses


def FairLogisticRegression(
    X: Any,
    labels: Any,
    members: Any,
    limit: Any,
    lower: Any = -jnp.inf,
    upper: Any = jnp.inf,
    *,
    equality: Affine | Sum | None = None,
    ridge: Any = 0.0,
) -> Problem:
    """Logistic regression with a limit of the mean loss of each group as a `Problem` in the coefficients.

    Arguments:
        X, labels, lower, upper, equality, ridge: as for `LogisticRegression`.
        members: shape `(groups, m)`, one where an observation belongs to a group and zero elsewhere, or any nonnegative
            weights. Groups may overlap, and a group without a limit needs no row.
        limit: of the mean loss, positive and finite, a scalar or `(groups,)`. A coin's loss is log 2.

    `dual.inequality` is the prices of the limits, `(groups,)`.

    Raises `ValueError` as `LogisticRegression` does, and for members that are negative, a group without members and a
    limit out of range. Limits that no coefficients meet end in the status `PRIMAL_INFEASIBLE`.

    >>> import kkt_solvers as kkt
    >>> from kkt_solvers.problems import FairLogisticRegression
    >>> X, labels, minority = [[1.0], [1.0], [1.0], [1.0]], [1, 1, 1, -1], [[0.0, 0.0, 0.0, 1.0]]
    >>> solution = kkt.solve(FairLogisticRegression(X, labels, minority, jnp.log(2.0)))
    >>> solution.primal.tolist(), solution.dual.inequality.tolist()
    ([0.00], [2.00])
    """
    base = LogisticRegression(X, labels, lower, upper, equality=equality, ridge=ridge)
    X = base.args[0]
    members = floating(members, "members")
    if members.ndim != 2 or members.shape[1] != len(X):
        raise ValueError(f"members must have shape (groups, {len(X)}), a column for each row of X, got {members.shape}")
    members = _checks.where_valid(members, "members must be nonnegative", lambda xp, members: members >= 0)
    message = "members must have an observation in each group; leave out the rows of zeros"
    members = _checks.where_valid(members, message, lambda xp, members: xp.any(members > 0, axis=1, keepdims=True))
    limit = _checks.like(limit, members.shape[:1], "limit", "the rows of members")
    message = f"limit must be positive and finite, got {limit}; a group without a limit needs no row of members"
    limit = _checks.where_valid(limit, message, lambda xp, limit: (limit > 0) & (limit < xp.inf))
    members, limit = cast((members, limit), X.dtype)
    return Problem(base.objective, base.equality, base.box, (*base.args, members, limit), _beyond)


def fair_logistic_regression(
    X: Any,
    labels: Any,
    members: Any,
    limit: Any,
    lower: Any = -jnp.inf,
    upper: Any = jnp.inf,
    *,
    equality: Affine | Sum | None = None,
    ridge: Any = 0.0,
) -> jax.Array:
    """The coefficients of logistic regression with a limit of the mean loss of each group, `(p,)`, differentiable in
    every argument but the labels.

    Arguments: as for `FairLogisticRegression`. Batches go through `jax.vmap`. NaN where no coefficients meet
    the limits.

    >>> from kkt_solvers.problems import fair_logistic_regression
    >>> X, labels, minority = [[1.0], [1.0], [1.0], [1.0]], [1, 1, 1, -1], [[0.0, 0.0, 0.0, 1.0]]
    >>> fair_logistic_regression(X, labels, minority, [1.0]).tolist()  # log(e - 1), where the minority loses one
    [0.541]

    Source: [agarwal2019].
    """
    options = {"equality": equality, "ridge": ridge}
    return _checks.solved(solve(FairLogisticRegression(X, labels, members, limit, lower, upper, **options)))


@full_precision
def _beyond(b: jax.Array, X: jax.Array, labels: jax.Array, ridge: Any, members: Any, limit: Any) -> jax.Array:
    """By how much the mean loss of each group exceeds its limit."""
    return members @ _logistic_losses(b, X, labels) / jnp.sum(members, axis=1) - limit
