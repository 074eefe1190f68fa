"""Every verb of `problems` and `projections`: how to draw its arguments, how to call it, and what its result must hold.

`draw(rng, rows)` gives arguments with a leading axis of rows, in float64; `call` takes them, in any dtype, with that
axis; `violation` compares in numpy what came back, in float64, with the arguments: one number a row, relative to the
sizes of what should be equal, and NaN where the result is. Every row drawn has a solution.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

import kkt_solvers as kkt
from kkt_solvers import problems, projections


class Verb(NamedTuple):
    name: str
    draw: Callable[[np.random.Generator, int], dict[str, np.ndarray]]
    call: Callable[..., Any]
    violation: Callable[..., np.ndarray]
    unsolved: float = 0.0  # the part of rows that rounding may leave unsolved in float32, and so NaN


# --------------------------------------------------------------------------------------------- what must hold
def sum_to(y, total, weights=1.0):
    """How far `weights'y` is from `total`, a row."""
    terms = np.sum(np.abs(weights * y), -1) + np.abs(total)
    return np.abs(np.sum(weights * y, -1) - total) / np.where(terms > 0, terms, 1.0)


def inside(y, lower, upper):
    lower, upper = np.broadcast_to(lower, y.shape), np.broadcast_to(upper, y.shape)
    size = np.maximum(np.max(np.abs(y), -1, keepdims=True), 1e-300)
    return np.max(np.maximum(lower - y, y - upper) / size, -1, initial=0) + 0 * np.sum(y, -1)


def worst(*violations):
    return np.max(np.stack(violations), 0)  # NaN where one is


def equal(y, z):
    return np.max(np.abs(y - z), -1) / np.maximum(np.max(np.abs(z), -1), 1.0)


# ------------------------------------------------------------------------------------------------------ scores
N = 12


def scores(rng, rows, *, ends=True):
    """With ties, of all spreads, and with infinities."""
    x = rng.normal(size=(rows, N)) * 10.0 ** rng.uniform(-2, 2, size=(rows, 1))
    x[::3] = np.round(x[::3])
    if ends:
        x[1::4][rng.random((len(x[1::4]), N)) < 0.2] = -np.inf
    return x


def budget(rng, most):
    """Between none and all, ends included."""
    part = rng.choice([0.0, 1e-3, 0.1, 0.5, 0.9, 0.999, 1.0], size=most.shape)
    return part * most


def draw_lml(rng, rows):
    x, mask = scores(rng, rows), rng.random((rows, N)) < 0.8
    x[2::8, 0] = np.inf
    mask[2::8, 0] = True
    weights = np.where(np.arange(rows)[:, None] % 2, 1.0, np.exp(rng.normal(size=(rows, N))))
    allowed = mask & (x > -np.inf)
    least = np.sum(weights * (allowed & (x == np.inf)), 1)
    k = np.maximum(budget(rng, np.sum(weights * allowed, 1)), least)
    return {"x": x, "k": k, "where": mask, "weights": weights}


def violation_lml(y, x, k, where, weights):
    allowed = where & (x > -np.inf)
    never = np.max(np.where(allowed, 0.0, np.abs(y)), 1)
    always = np.max(np.where(allowed & (x == np.inf) & (k > 0)[:, None], 1 - y, 0.0), 1)
    return worst(sum_to(y, k, weights), inside(y, 0.0, 1.0), never, always)


def violation_log_lml(found, x, k, where, weights):
    y, rest = np.exp(found[0]), np.exp(found[1])
    return worst(violation_lml(y, x, k, where, weights), equal(y + rest, np.ones_like(y)))


def draw_top_k(rng, rows):
    x = scores(rng, rows)
    return {"x": x, "k": budget(rng, np.sum(x > -np.inf, 1).astype(float))}


def violation_top_k(y, x, k):
    never = np.max(np.where(x == -np.inf, np.abs(y), 0.0), 1)
    return worst(sum_to(y, k), inside(y, 0.0, 1.0), never)


def violation_hard(y, x):
    chosen, count = y == 1, np.minimum(3, np.sum(x > -np.inf, 1))
    smallest = np.min(np.where(chosen, x, np.inf), 1)
    largest = np.max(np.where(chosen, -np.inf, x), 1)
    wrong = (np.sum(chosen, 1) != count) | np.any((y != 0) & (y != 1), 1) | (smallest < largest)
    return wrong + 0.0


def draw_targets(rng, rows):
    drawn = draw_top_k(rng, rows)
    x = np.where(drawn["x"] == -np.inf, 0.0, drawn["x"])
    return {"x": x, "targets": (np.argsort(np.argsort(rng.random(x.shape))) < 3) + 0.0}


def violation_loss(loss, **_):
    return np.maximum(-loss, 0)  # finite, and not negative


# ------------------------------------------------------------------------------------------------- projections
def draw_projection(rng, rows):
    """A box around a point that meets the sum, some variables fixed, some bounds infinite."""
    y, v = rng.normal(size=(rows, N)), 3 * rng.normal(size=(rows, N))
    gaps = rng.exponential(size=(2, rows, N)) * (rng.random((2, rows, N)) < 0.8)
    lower, upper = y - gaps[0], y + gaps[1]
    lower[0::2][rng.random(lower[0::2].shape) < 0.3] = -np.inf
    upper[0::3][rng.random(upper[0::3].shape) < 0.3] = np.inf
    weights = rng.normal(size=(rows, N))
    return {"v": v, "weights": weights, "total": np.sum(weights * y, 1), "lower": lower, "upper": upper, "inner": y}


def violation_euclidean(y, v, weights, total, lower, upper, inner):
    # No point of the set, `inner` for one, lies on the other side of the plane through y: (v - y)'(z - y) <= 0.
    slope, step = v - y, inner - y
    beyond = np.sum(slope * step, 1) / np.sum(np.abs(slope * step), 1)
    moved = np.sum(np.abs(step), 1) > 1e-4
    return worst(sum_to(y, total, weights), inside(y, lower, upper), np.where(moved, np.maximum(beyond, 0) * 1e-2, 0))


def draw_simplex(rng, rows):
    return {"v": scores(rng, rows, ends=False), "total": 10.0 ** rng.uniform(-2, 2, size=rows)}


def draw_entropic(rng, rows):
    v, upper = np.exp(2 * rng.normal(size=(rows, N))), rng.uniform(0.1, 2, size=(rows, N))
    v[rng.random(v.shape) < 0.1] = 0.0
    v[:, 0], weights = 1.0, rng.uniform(0.5, 2, size=(rows, N))
    most = np.sum(weights * upper * (v > 0), 1)
    return {"v": v, "weights": weights, "total": rng.uniform(0.01, 0.99, size=rows) * most, "upper": upper}


def violation_entropic(y, v, weights, total, upper):
    never = np.max(np.where(v == 0, np.abs(y), 0.0), 1)
    return worst(sum_to(y, total, weights), inside(y, 0.0, upper), never)


def draw_binary(rng, rows):
    total = N * rng.choice([1e-3, 0.1, 0.5, 0.9, 0.999], size=rows)
    return {"v": rng.uniform(0.01, 0.99, size=(rows, N)), "total": total}


# --------------------------------------------------------------------------------------------------- transport
A, B = 4, 3


def masses(rng, rows):
    return rng.dirichlet(np.ones(A), size=rows) + 1e-3, rng.dirichlet(np.ones(B), size=rows) + 1e-3 * A / B


def draw_transport(rng, rows):
    source, target = masses(rng, rows)
    return {"V": rng.uniform(size=(rows, A, B)), "rows": source, "columns": target}


def violation_transport(Y, V, rows, columns):
    flat = np.reshape(Y, (len(Y), -1))
    return worst(equal(np.sum(Y, 2), rows), equal(np.sum(Y, 1), columns), inside(flat, 0.0, np.inf))


def draw_clouds(rng, rows):
    return {"x": rng.normal(size=(rows, A, 2)), "y": rng.normal(size=(rows, B, 2))}


# ------------------------------------------------------------------------------------------------- the gallery
def draw_moments(rng, rows):
    p = rng.dirichlet(np.ones(N), size=rows)
    return {"features": rng.normal(size=(rows, 3, N)), "p": 0.9 * p + 0.1 / N}


def violation_moments(found, features, p):
    moments = np.einsum("rmn,rn->rm", features, found), np.einsum("rmn,rn->rm", features, p)
    return worst(sum_to(found, 1.0), inside(found, 0.0, 1.0), equal(*moments))


def draw_channels(rng, rows):
    upper = rng.uniform(0.1, 2, size=(rows, N))
    return {
        "noise": 10.0 ** rng.uniform(-2, 2, size=(rows, N)),
        "power": rng.choice([0.0, 1e-3, 0.3, 0.9, 0.999], size=rows) * np.sum(upper, 1),
        "upper": upper,
    }


def draw_channel(rng, rows):
    T = np.moveaxis(rng.dirichlet(np.ones(A), size=(rows, B)), 1, 2)
    T[::5, 0] = 0  # an output that does not occur
    return {"transition": T / np.sum(T, 1, keepdims=True)}


def violation_channel(found, transition):
    T, (capacity, inputs) = transition, found
    with np.errstate(all="ignore"):
        outputs = np.einsum("roi,ri->ro", T, inputs)[:, :, None]
        divergence = np.sum(np.where(T > 0, T * np.log2(T / outputs), 0.0), 1)  # [cover2006]: at most the capacity
    return worst(sum_to(inputs, 1.0), inside(inputs, 0.0, 1.0), np.abs(np.max(divergence, 1) - capacity) * 1e-3)


def draw_portfolio(rng, rows):
    return {
        "mean": rng.normal(size=(rows, N)) / 10,
        "factor": rng.normal(size=(rows, N, N)) / 5,
        "upper": rng.uniform(0.15, 0.5, size=(rows, N)),
        "holdings": rng.dirichlet(np.ones(N), size=rows),
        "turnover": rng.uniform(0.01, 1, size=rows),
    }


def covariance(factor):
    return factor @ factor.T


def violation_portfolio(w, upper, **_):
    return worst(sum_to(w, 1.0), inside(w, 0.0, upper))


def violation_risk(w, factor, holdings, **_):
    risk, limit = (np.linalg.norm(np.einsum("rij,ri->rj", factor, v), axis=-1) for v in (w, holdings))
    return worst(sum_to(w, 1.0), inside(w, 0.0, np.inf), np.maximum(risk / (1.2 * limit) - 1, 0) + 0 * risk)


def draw_step(rng, rows):
    radius = np.exp(rng.normal(size=rows))
    return {"gradient": rng.normal(size=(rows, N)), "factor": rng.normal(size=(rows, N, N)), "radius": radius}


def area(need):
    """The sides of the smallest sum of a rectangle whose area is `need`: both are its root."""
    sides = jnp.eye(2, dtype=need.dtype)
    most = problems.Posynomial(need[None], -jnp.ones((1, 2), need.dtype))
    return problems.Posynomial(jnp.ones(2, need.dtype), sides), [most]


def violation_quadratic(y, gradient, factor, radius):
    size = np.sum(np.einsum("rij,ri->rj", factor, y) ** 2, -1) / 2
    matrix = np.abs(np.einsum("rij,rkj->rik", factor, factor))
    terms = np.einsum("ri,rik,rk->r", np.abs(y), matrix, np.abs(y)) / 2 + radius
    return np.maximum(size - radius, 0) / terms


def violation_robust(b, X, y, upper):
    # The gradient of |X b - y| + |(b, 1)|.
    residual, size = np.einsum("rnp,rp->rn", X, b) - y, np.sqrt(1 + np.sum(b**2, 1, keepdims=True))
    residual /= np.linalg.norm(residual, axis=1, keepdims=True)
    terms = np.einsum("rnp,rn->rp", np.abs(X), np.abs(residual))
    return np.max(np.abs(np.einsum("rnp,rn->rp", X, residual) + b / size) / terms, 1)


FIRST = np.arange(N)[None] < N // 2


def violation_fair(b, X, y, upper):
    margins = signs(y) * np.einsum("rnp,rp->rn", X, b)
    return np.maximum(np.mean(np.logaddexp(0, -margins)[:, FIRST[0]], 1) / 0.7 - 1, 0)


def draw_flows(rng, rows):
    routing = (rng.random((rows, A, N)) < 0.3) + 0.0
    routing[:, np.arange(N) % A, np.arange(N)] = 1
    return {"routing": routing, "capacity": 10.0 ** rng.uniform(-1, 1, size=(rows, A))}


def violation_flows(found, routing, capacity):
    rates, prices = found
    used = np.einsum("rln,rn->rl", routing, rates) / capacity
    paid = rates * np.einsum("rln,rl->rn", routing, prices)
    return worst(np.max(np.maximum(used - 1, 0), 1), np.max(np.abs(paid - 1), 1) * 1e-1, inside(prices, 0.0, np.inf))


def violation_design(w, points):
    M = np.einsum("rnp,rn,rnq->rpq", points, w, points)
    with np.errstate(all="ignore"):
        variances = np.einsum("rnp,rpn->rn", points, np.linalg.solve(M, np.moveaxis(points, 1, 2)))
    beyond = np.maximum(np.max(variances, 1) / B - 1, 0)  # [kiefer1960]: none
    return worst(sum_to(w, 1.0), inside(w, 0.0, 1.0), beyond * 1e-2)


def violation_rebalancing(w, holdings, turnover, **_):
    traded = np.sum(np.abs(w - holdings), 1)
    return worst(sum_to(w, 1.0), inside(w, 0.0, np.inf), np.maximum(traded - turnover, 0))


def draw_regression(rng, rows):
    X = rng.normal(size=(rows, N, B))
    y = np.sum(X, 2) + rng.normal(size=(rows, N))
    y[:, 0], y[:, 1] = np.abs(y[:, 0]), -np.abs(y[:, 1])  # labels of either sign
    return {"X": X, "y": y, "upper": rng.uniform(0.5, 2, size=(rows, B))}


def signs_of(y):
    return jax.numpy.where(y > 0, 1.0, -1.0).astype(y.dtype)


def signs(y):
    return np.where(y > 0, 1.0, -1.0)


def violation_isotonic(fit, y, **_):
    falls = np.max(np.maximum(fit[:, :-1] - fit[:, 1:], 0), 1) / np.max(np.abs(y), 1)
    # Beside the data: where they cancel, the fit is as small as their rounding.
    return worst(falls, np.abs(np.sum(fit - y, 1)) / np.sum(np.abs(y), 1))


def violation_quantile(b, X, y, upper):
    on = np.sum(np.abs(y - np.einsum("rnp,rp->rn", X, b)) < 1e-3, 1) + np.sum(np.abs(b - upper) < 1e-3, 1)
    # A vertex has as many observations and bounds as coefficients; on an edge of solutions the least loss is the test.
    excess = [0.0 if on[row] >= B else excess_loss(b[row], X[row], y[row], upper[row]) for row in range(len(y))]
    return worst(inside(b, -np.inf, upper), np.asarray(excess))


def excess_loss(b, X, y, upper):
    """How much larger the quantile loss is than HiGHS's, which writes it with the parts of the residual."""
    (m, p), tau = X.shape, 0.3
    q = np.concatenate([np.zeros(p), np.full(m, tau), np.full(m, 1 - tau)])
    A, bounds = np.hstack([X, np.eye(m), -np.eye(m)]), [(None, end) for end in upper] + [(0, None)] * (2 * m)
    least = scipy.optimize.linprog(q, A_eq=A, b_eq=y, bounds=bounds, method="highs").fun
    rest = y - X @ b
    return (np.sum(np.maximum(tau * rest, (tau - 1) * rest)) - least) / np.sum(np.abs(y))


def violation_svm(found, X, y, **_):
    labels = signs(y)
    a = labels * found[0]
    return worst(sum_to(a, 0.0, labels), inside(a, 0.0, 2.0))


def kernel(X):
    return problems.rbf(X, X, 0.5)


DYNAMICS = np.array([[1.0, 0.1], [0.0, 1.0]]), np.array([[0.0], [0.1]])
HORIZON = 6


def controller(dtype):
    dynamics = (part.astype(dtype) for part in DYNAMICS)
    costs = np.eye(2, dtype=dtype), 0.1 * np.eye(1, dtype=dtype)
    return problems.Regulator(*dynamics, *costs, HORIZON, inputs=kkt.Box(-1.0, 1.0))


def violation_plan(found, state):
    inputs, states = found
    before = np.concatenate([state[:, None], states[:, :-1]], 1)
    expected = before @ DYNAMICS[0].T + inputs @ DYNAMICS[1].T
    return worst(equal(states.reshape(len(state), -1), expected.reshape(len(state), -1)), inside(inputs[..., 0], -1, 1))


def draw_dispatch(rng, rows):
    upper = rng.uniform(0.5, 2, size=(rows, N))
    return {
        "demand": rng.choice([0.01, 0.3, 0.9, 0.999], size=rows) * np.sum(upper, 1),
        "quadratic": 10.0 ** rng.uniform(-2, 1, size=(rows, N)),
        "linear": rng.normal(size=(rows, N)),
        "upper": upper,
    }


def grid():
    return problems.Network(3, [0, 1], 0.01, [10.0, 30.0], 0.0, 100.0, [0, 1, 0], [1, 2, 2], 500.0, limit=40.0)


def violation_grid(found, demand):
    generation, flow = found[0], found[1]
    return worst(sum_to(generation, np.sum(demand, 1)), inside(generation, 0.0, 100.0), inside(flow, -40.0, 40.0))


FORMULA = np.array([[1.0, 2.0, 0.0, 0.0, 1.0], [0.0, 0.0, 1.0, 2.0, 1.0]])  # A, A2, B, B2, AB


def draw_mixture(rng, rows):
    return {"gibbs": 5 * rng.normal(size=(rows, 5)), "abundance": rng.uniform(0.1, 2, size=(rows, 2))}


def violation_mixture(found, gibbs, abundance):
    amounts = found[0]
    return worst(equal(amounts @ FORMULA.T, abundance), inside(amounts, 0.0, np.inf))


map_rows = jax.vmap
LML = {"draw": draw_lml}
TOP_K = {"draw": draw_top_k, "violation": violation_top_k}
REGRESSION = {"draw": draw_regression}

VERBS = [
    Verb("lml", call=lambda x, k, where, weights: problems.lml(x, k, where=where, weights=weights),
         violation=violation_lml, **LML),
    Verb("log_lml", call=lambda x, k, where, weights: problems.log_lml(x, k, where=where, weights=weights),
         violation=violation_log_lml, **LML),
    Verb("lml_loss", draw_targets, lambda x, targets: problems.lml_loss(x, targets.argmax(1), 3),
         violation_loss),
    Verb("lml_binary_cross_entropy", draw_targets,
         lambda x, targets: problems.lml_binary_cross_entropy(x, targets, 3), violation_loss),
    Verb("lml_fenchel_young_loss", draw_targets,
         lambda x, targets: problems.lml_fenchel_young_loss(x, targets, 3), violation_loss),
    Verb("soft_top_k", call=problems.soft_top_k, **TOP_K),
    Verb("entropic_top_k", call=problems.entropic_top_k, **TOP_K),
    Verb("sparsemax", lambda rng, rows: {"x": scores(rng, rows)}, problems.sparsemax,
         lambda y, x: violation_top_k(y, x, 1.0)),
    Verb("hard_top_k", lambda rng, rows: {"x": scores(rng, rows)}, lambda x: problems.hard_top_k(x, 3),
         violation_hard),
    Verb("straight_through_top_k", lambda rng, rows: {"x": scores(rng, rows)},
         lambda x: problems.straight_through_top_k(x, 3), violation_hard),
    Verb("euclidean", draw_projection,
         map_rows(lambda v, weights, total, lower, upper, inner: projections.euclidean(
             v, total, weights=weights, lower=lower, upper=upper)), violation_euclidean),
    Verb("simplex", draw_simplex, map_rows(lambda v, total: projections.simplex(v, total)),
         lambda y, v, total: worst(sum_to(y, total), inside(y, 0.0, np.inf))),
    Verb("entropic", draw_entropic,
         map_rows(lambda v, weights, total, upper: projections.entropic(v, total, weights=weights, upper=upper)),
         violation_entropic),
    Verb("binary_entropic", draw_binary, map_rows(projections.binary_entropic),
         lambda y, v, total: worst(sum_to(y, total), inside(y, 0.0, 1.0))),
    Verb("transport", draw_transport, map_rows(projections.transport), violation_transport),
    Verb("entropic_transport", draw_transport, map_rows(projections.entropic_transport), violation_transport),
    Verb("projections.optimal_transport", draw_transport,
         map_rows(lambda V, rows, columns: projections.optimal_transport(V, rows, columns, 0.1)), violation_transport),
    Verb("optimal_transport", draw_transport,
         lambda V, rows, columns: problems.optimal_transport(V, rows, columns, 0.1).plan, violation_transport),
    Verb("sinkhorn_divergence", draw_clouds, lambda x, y: problems.sinkhorn_divergence(x, y, 0.5),
         lambda value, **_: np.maximum(-value, 0)),
    Verb("maximum_entropy", draw_moments,
         map_rows(lambda features, p: problems.maximum_entropy(features, features @ p)), violation_moments),
    Verb("water_filling", draw_channels, problems.water_filling,
         lambda p, noise, power, upper: worst(sum_to(p, power), inside(p, 0.0, upper))),
    Verb("channel_capacity", draw_channel,
         map_rows(lambda transition: problems.channel_capacity(transition)), violation_channel),
    Verb("portfolio", draw_portfolio,
         map_rows(lambda mean, factor, upper, holdings, turnover: problems.portfolio(
             mean, covariance(factor), upper=upper)), violation_portfolio),
    Verb("risk_limited", draw_portfolio,
         map_rows(lambda mean, factor, upper, holdings, turnover: problems.risk_limited(
             mean, covariance(factor), 1.2 * jnp.sqrt(jnp.sum((factor.T @ holdings) ** 2)))), violation_risk),
    Verb("trust_region", draw_step,
         map_rows(lambda gradient, factor, radius: problems.trust_region(gradient, covariance(factor), radius)),
         lambda p, gradient, factor, radius: np.maximum(np.linalg.norm(p, axis=-1) / radius - 1, 0) + 0 * p[:, 0]),
    Verb("geometric_program", lambda rng, rows: {"need": np.exp(rng.normal(size=rows))},
         map_rows(lambda need: problems.geometric_program(*area(need))),
         lambda x, need: equal(x, np.sqrt(need)[:, None] * np.ones(2))),
    Verb("qcqp", draw_step,
         map_rows(lambda gradient, factor, radius: problems.qcqp(
             jnp.ones_like(gradient), gradient, covariance(factor)[None], jnp.zeros_like(gradient)[None],
             radius[None])), violation_quadratic),
    Verb("robust_least_squares", call=map_rows(lambda X, y, upper: problems.robust_least_squares(X, y, 1.0)),
         violation=violation_robust, **REGRESSION),
    Verb("fair_logistic_regression",
         call=map_rows(lambda X, y, upper: problems.fair_logistic_regression(X, signs_of(y), FIRST, 0.7, ridge=0.1)),
         violation=violation_fair, **REGRESSION),
    Verb("network_utility", draw_flows, map_rows(lambda routing, capacity: problems.network_utility(routing, capacity)),
         violation_flows),
    Verb("optimal_design", lambda rng, rows: {"points": rng.normal(size=(rows, N, B))},
         map_rows(lambda points: problems.optimal_design(points)), violation_design),
    Verb("total_variation",
         lambda rng, rows: {"x": rng.normal(size=(rows, N)), "strength": rng.uniform(0.1, 3, size=rows)},
         map_rows(lambda x, strength: problems.total_variation(x, strength)),
         lambda y, x, strength: worst(  # the sum may be small beside its terms
             sum_to(np.concatenate([y, -x], -1), 0.0),
             inside(y, np.min(x, -1, keepdims=True), np.max(x, -1, keepdims=True)))),
    Verb("rebalance", draw_portfolio,
         map_rows(lambda mean, factor, upper, holdings, turnover: problems.rebalance(
             mean, covariance(factor), holdings, turnover)), violation_rebalancing),
    Verb("bounded_least_squares",
         call=map_rows(lambda X, y, upper: problems.bounded_least_squares(X, y, 0.0, upper, equality=kkt.Sum(1.0))),
         violation=lambda b, X, y, upper: worst(sum_to(b, 1.0), inside(b, 0.0, upper)), **REGRESSION),
    Verb("logistic_regression",
         call=map_rows(lambda X, y, upper: problems.logistic_regression(X, signs_of(y), upper=upper, ridge=0.1)),
         violation=lambda b, X, y, upper: inside(b, -np.inf, upper), **REGRESSION),
    Verb("isotonic_regression", call=map_rows(lambda X, y, upper: problems.isotonic_regression(y)),
         violation=violation_isotonic, **REGRESSION),
    Verb("quantile_regression",
         call=map_rows(lambda X, y, upper: problems.quantile_regression(X, y, 0.3, upper=upper)),
         violation=violation_quantile, unsolved=1e-3, **REGRESSION),  # on an edge of solutions
    Verb("svm", call=map_rows(lambda X, y, upper: problems.svm(kernel(X), signs_of(y), 2.0)),
         violation=violation_svm, **REGRESSION),
    Verb("one_class_svm", call=map_rows(lambda X, y, upper: problems.one_class_svm(kernel(X), 0.5)),
         violation=lambda found, **_: worst(sum_to(found[0], 1.0), inside(found[0], 0.0, 2 / N)), **REGRESSION),
    Verb("predictive_control", lambda rng, rows: {"state": 2 * rng.normal(size=(rows, 2))},
         lambda state: problems.predictive_control(controller(state.dtype), state), violation_plan),
    Verb("economic_dispatch", draw_dispatch,
         map_rows(lambda demand, quadratic, linear, upper: problems.economic_dispatch(
             demand, quadratic, linear, 0.0, upper).generation),
         lambda y, demand, quadratic, linear, upper: worst(sum_to(y, demand), inside(y, 0.0, upper))),
    Verb("optimal_power_flow", lambda rng, rows: {"demand": rng.uniform(0, 20, size=(rows, 3))},
         lambda demand: problems.optimal_power_flow(grid(), demand), violation_grid),
    Verb("chemical_equilibrium", draw_mixture,
         lambda gibbs, abundance: problems.chemical_equilibrium(gibbs, FORMULA.astype(gibbs.dtype), abundance),
         violation_mixture),
]  # fmt: skip
