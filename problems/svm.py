"""Support vector machines, by their dual [cortes1995].

    min_a  a'Q a / 2 - 1'a    s.t.  labels'a = 0,   0 <= a <= C,        Q = labels labels' * kernel

The decision function is `sum_i labels_i a_i kernel(x_i, x) + intercept`, and the intercept is the multiplier of the
equality: a free `a_i` is stationary where the decision function at `x_i` is `labels_i`. So coefficients and intercept
are differentiable, in C and in the kernel: both are tuned by gradient [chapelle2002].

One class only, the support of a distribution [scholkopf2001]:

    min_a  a'K a / 2          s.t.  1'a = 1,   0 <= a <= 1 / (nu n)
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kkt_solvers import Box, LowRank, Problem, Quadratic, Sum, solve
from kkt_solvers.numerics.arrays import cast, float_dtype, floating, full_precision
from kkt_solvers.problems import _checks


class DecisionFunction(NamedTuple):
    """`kernel(new, old) @ coefficients + intercept`, whose sign is the class."""

    coefficients: jax.Array
    intercept: jax.Array

    @full_precision
    def __call__(self, kernel: Any) -> jax.Array:
        """The decision for each row of `kernel`, of shape `(new, old)`."""
        return kernel @ self.coefficients + self.intercept


def SVM(kernel: Any, labels: Any, C: Any = 1.0) -> Problem:
    """The dual of the support vector machine as a `Problem`.

    Arguments:
        kernel: of the training points, `(n, n)`, symmetric and positive semidefinite; or a `LowRank`, such as
            `LowRank(jnp.zeros(n), X)` for the linear kernel `X X'` of few features.
        labels: `(n,)`, each +1 or -1.
        C: the bound of the multipliers, positive: a scalar, or `(n,)` for one each (class weights).

    Raises `ValueError` for a kernel that is not square or does not fit the labels, for labels other than +1 and -1 or
    all the same, and for a `C` that is not positive.

    >>> from kkt_solvers.problems import SVM
    >>> SVM([[1.0, 0.5], [0.5, 1.0]], [1, -1]).objective.P.tolist()
    [[1.0, -0.5], [-0.5, 1.0]]
    """
    labels = _checks.vector(labels, "labels", "classes, +1 or -1")
    n = labels.size
    K, C = _kernel(kernel, n, "labels"), _checks.like(C, (n,), "C", "labels")
    dtype = float_dtype(K, C)
    K, C, labels = cast((K, C, labels), dtype)
    C = _checks.where_valid(C, f"C must be positive, got {C}", lambda xp, C: C > 0)
    message = "labels must be +1 and -1, with both present; map the two classes to them"
    labels = _checks.where_valid(
        labels, message, lambda xp, labels: (abs(labels) == 1) & xp.any(labels == 1) & xp.any(labels == -1)
    )
    column = labels[:, None]  # whose squares are one
    Q = LowRank(K.diagonal, column * K.factor) if isinstance(K, LowRank) else column * K * labels
    return Problem(Quadratic(Q, -jnp.ones(n, dtype)), Sum(jnp.zeros((), dtype), labels), Box(0.0, C))


def svm(kernel: Any, labels: Any, C: Any = 1.0) -> DecisionFunction:
    """Train a support vector machine: its `DecisionFunction`, of coefficients `labels * a` and an intercept.

    Arguments: as for `SVM`. Batches go through `jax.vmap`. NaN where the problem was not solved.

    >>> from kkt_solvers.problems import rbf, svm
    >>> X, labels = jnp.array([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [1.0, 0.0]]), jnp.array([1.0, 1.0, -1.0, -1.0])
    >>> decide = svm(rbf(X, X, 1.0), labels, 10.0)
    >>> decide(rbf(X, X, 1.0)).tolist()
    [1.00, 1.00, -1.00, -1.00]

    Source: [cortes1995].
    """
    solution = solve(SVM(kernel, labels, C))
    labels = jnp.asarray(labels).astype(solution.primal.dtype)
    return _checks.solved(solution, DecisionFunction(labels * solution.primal, solution.dual.equality))


def OneClassSVM(kernel: Any, nu: Any = 0.5) -> Problem:
    """The dual of the one-class machine as a `Problem`.

    Arguments:
        kernel: of the sample, as for `SVM`.
        nu: the largest part of the sample that may lie outside, in (0, 1], a scalar.

    Raises `ValueError` for a kernel that is not square and a `nu` outside (0, 1].

    >>> from kkt_solvers.problems import OneClassSVM
    >>> OneClassSVM([[1.0, 0.5], [0.5, 1.0]], 0.5).box.upper.item()
    1.0
    """
    K = _kernel(kernel, None, "kernel")
    n, nu = K.shape[0], _checks.scalar(nu, "nu")
    nu = _checks.where_valid(nu, f"nu must lie in (0, 1], got {nu}", lambda xp, nu: (nu > 0) & (nu <= 1))
    return Problem(Quadratic(K, jnp.zeros(n, float_dtype(K))), Sum(1.0), Box(0.0, 1 / (nu * n)))


def one_class_svm(kernel: Any, nu: Any = 0.5) -> DecisionFunction:
    """Estimate the support of a distribution: a `DecisionFunction`, nonnegative inside.

    Arguments: as for `OneClassSVM`. The coefficients sum to one. (scikit-learn's sum to `nu n`, and its decision is
    `nu n` times this one.)

    >>> from kkt_solvers.problems import one_class_svm, rbf
    >>> sample = jnp.array([[0.0], [0.1], [0.2], [5.0]])  # of which half is taken to be inside
    >>> one_class_svm(rbf(sample, sample, 1.0), 0.5)(rbf(jnp.array([[0.1], [3.0]]), sample, 1.0)).tolist()
    [0.00, -0.49]

    Source: [scholkopf2001].
    """
    solution = solve(OneClassSVM(kernel, nu))
    return _checks.solved(solution, DecisionFunction(solution.primal, solution.dual.equality))


@full_precision
def rbf(X: Any, Z: Any, gamma: Any) -> jax.Array:
    """The Gaussian kernel, `exp(-gamma |x - z|^2)`, of shape `(rows of X, rows of Z)`.

    >>> from kkt_solvers.problems import rbf
    >>> rbf([[0.0], [1.0]], [[0.0]], 1.0).tolist()
    [[1.000], [0.368]]
    """
    X, Z = _checks.matrix_of(X, "X", "a point in each row"), _checks.matrix_of(Z, "Z", "a point in each row")
    if X.shape[1] != Z.shape[1]:
        raise ValueError(f"X and Z must have as many columns, features, as each other; got {X.shape} and {Z.shape}")
    # Distances from a common centre cancel less.
    centre = jnp.mean(X, axis=0)
    X, Z = X - centre, Z - centre
    squares = jnp.sum(X * X, axis=1)[:, None] + jnp.sum(Z * Z, axis=1) - 2 * X @ Z.T
    message = f"gamma must be nonnegative, got {gamma}"
    gamma = _checks.where_valid(_checks.scalar(gamma, "gamma"), message, lambda xp, gamma: gamma >= 0)
    return jnp.exp(-gamma * jnp.maximum(squares, 0.0))


def _kernel(kernel: Any, n: int | None, name: str) -> Any:
    K = kernel if isinstance(kernel, LowRank) else floating(kernel, "kernel")
    if len(K.shape) != 2 or K.shape[0] != K.shape[1]:
        raise ValueError(f"kernel must be square, of the training points with themselves, got shape {K.shape}")
    if n is not None and K.shape[0] != n:
        raise ValueError(f"kernel must have shape ({n}, {n}) to go with {name}, got {K.shape}")
    return K if isinstance(K, LowRank) else _checks.symmetric(K, "kernel")
