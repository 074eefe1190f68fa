"""Maximum entropy with moment constraints [jaynes1957].

    min_p  sum_i p_i log(p_i / prior_i)    s.t.  1'p = 1,   features p = moments,   p >= 0.

The solution is the exponential family `p_i ~ prior_i exp(-nu'features_i)`, with `nu` the multipliers of the moments.
"""

from typing import Any

import jax
import jax.numpy as jnp

from kkt_solvers import Affine, Box, Problem, Separable, solve
from kkt_solvers.numerics.arrays import cast, float_dtype, floating
from kkt_solvers.problems import _checks
from kkt_solvers.problems._entropy import gibbs, negative_entropy


def MaximumEntropy(features: Any, moments: Any, prior: Any = None) -> Problem:
    """The distribution of largest entropy with given moments as a `Problem`. Its first equality is the sum, the others
    are the moments.

    Arguments:
        features: of each of n outcomes, shape `(m, n)`.
        moments: their expected values, `(m,)`.
        prior: nonnegative weights of the outcomes, `(n,)`; the entropy is relative to them. Default: all equal.

    Raises `ValueError` for shapes that do not fit, a negative prior, and a moment that is not strictly between the
    least and the largest value of its feature. Where no distribution has all of the moments the status says so.

    >>> from kkt_solvers.problems import MaximumEntropy
    >>> MaximumEntropy([[1.0, 2.0, 3.0]], [2.5]).equality.A.tolist()
    [[1.0, 1.0, 1.0], [1.0, 2.0, 3.0]]
    """
    features = _checks.matrix_of(features, "features", "a row for each moment and a column for each outcome")
    m, n = features.shape
    moments = floating(moments, "moments")
    if moments.shape != (m,):
        raise ValueError(f"moments must have shape ({m},), one for each row of features, got {moments.shape}")
    prior = jnp.ones(n, features.dtype) if prior is None else _checks.vector(prior, "prior", "weights")
    if prior.shape != (n,):
        raise ValueError(f"prior must have shape ({n},), one for each column of features, got {prior.shape}")
    features, moments, prior = cast((features, moments, prior), float_dtype(features, moments, prior))
    message = "prior must be nonnegative, and not all zero"
    prior = _checks.where_valid(prior, message, lambda xp, prior: (prior >= 0) & (xp.max(prior, initial=0) > 0))
    message = "moments must lie strictly between the least and the largest value of their feature"
    moments = _checks.where_valid(moments, message, _between, features)
    # A common factor of the prior changes the multiplier of the sum alone.
    log_prior = jnp.log(prior / jnp.sum(prior))
    A = jnp.concatenate([jnp.ones((1, n), features.dtype), features])
    b = jnp.concatenate([jnp.ones(1, features.dtype), moments])
    return Problem(Separable(negative_entropy, log_prior, gibbs), Affine(A, b), Box(0.0))


def maximum_entropy(features: Any, moments: Any, prior: Any = None) -> jax.Array:
    """The distribution of largest entropy with given moments.

    Arguments: as for `MaximumEntropy`, and `moments` may be a batch, `(..., m)`.

    Returns the probabilities, `(..., n)`; NaN in a row whose moments no distribution has.

    >>> from kkt_solvers.problems import maximum_entropy
    >>> maximum_entropy([[1.0, 2.0, 3.0]], [[2.0], [2.5]]).tolist()
    [[0.333, 0.333, 0.333], [0.116, 0.268, 0.616]]

    Source: [jaynes1957].
    """
    features = _checks.matrix_of(features, "features", "a row for each moment and a column for each outcome")
    moments = _checks.rows(moments, "moments", "features")

    def one(moments: jax.Array) -> jax.Array:
        return _checks.solved(solve(MaximumEntropy(features, moments, prior)))

    return jnp.vectorize(one, signature="(m)->(n)")(moments)


def _between(xp: Any, moments: Any, features: Any) -> Any:
    return (xp.min(features, axis=1) < moments) & (moments < xp.max(features, axis=1))
