"""The gallery's problems by the tools of their fields. Each function takes the arguments of the case of `gallery.py`
that has its name, and gives the name of the tool and a function that solves the same problem with it."""

import cantera
import clarabel
import field_cones
import jax
import jax.numpy as jnp
import numpy as np
import pypower.api as pypower
import scipy.optimize
import scipy.sparse as sp
import sklearn.isotonic
from jaxopt.projection import projection_box_section
from ott.geometry import geometry
from ott.solvers import linear
from scipy.optimize._trustregion_exact import IterativeSubproblem
from sklearn.svm import SVC, OneClassSVM


def trust_region(gradient, hessian, radius):
    """The subproblem solver of SciPy's `trust-exact`; by default the radius is met to 10 percent."""

    def step():
        subproblem = IterativeSubproblem(
            np.zeros(len(gradient)), lambda x: 0.0, lambda x: gradient, lambda x: hessian, k_easy=1e-9, k_hard=1e-9
        )
        return subproblem.solve(radius)[0]

    return "SciPy `trust-exact`, to 1e-9", step


def optimal_design(points, gap=1e-6):
    def multiplicative():
        p, w = points.shape[1], np.full(len(points), 1 / len(points))
        while True:
            variances = np.einsum("ij,ji->i", points, np.linalg.solve((points.T * w) @ points, points.T))
            if variances.max() <= p * (1 + gap):  # that far from the best determinant, at most
                return w
            w = w * variances / p

    return "NumPy, multiplicative, to 1e-6", multiplicative


def by_clarabel(P, q, A, b, lower, upper):
    """The quadratic program `y'Py/2 + q'y, A y = b, lower <= y <= upper`, sparse, to 1e-9."""
    n = len(q)
    lower, upper = np.broadcast_to(lower, n), np.broadcast_to(upper, n)
    low, high, eye = np.isfinite(lower), np.isfinite(upper), sp.eye(n, format="csr")
    rows = sp.vstack([sp.csr_matrix(A), -eye[low], eye[high]], format="csc")
    right = np.concatenate([b, -lower[low], upper[high]])
    cones = [clarabel.ZeroConeT(len(b)), clarabel.NonnegativeConeT(int(low.sum() + high.sum()))]
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-9
    P = sp.triu(sp.csc_matrix(P)).tocsc()
    return "Clarabel", lambda: clarabel.DefaultSolver(P, np.asarray(q), rows, right, cones, settings).solve()


def with_factors(mean, specific, loadings, risk_aversion, upper):
    n, factors = loadings.shape
    P = sp.diags(risk_aversion * np.concatenate([specific, np.ones(factors)]))
    A = sp.bmat([[np.ones((1, n)), None], [loadings.T, -sp.eye(factors)]])
    b = np.append(1.0, np.zeros(factors))
    lower = np.concatenate([np.zeros(n), np.full(factors, -np.inf)])
    upper = np.concatenate([np.full(n, upper), np.full(factors, np.inf)])
    return by_clarabel(P, np.append(-mean, np.zeros(factors)), A, b, lower, upper)


def portfolio(mean, specific, loadings):
    return with_factors(mean, specific, loadings, 5.0, 0.02)


def rebalance(mean, specific, loadings, holdings):
    """With the weights, the factors, buys, sales and the turnover that is left as variables."""
    n, factors = loadings.shape
    P = sp.diags(np.concatenate([5 * specific, np.full(factors, 5.0), np.zeros(2 * n + 1)]))
    q = np.concatenate([-mean, np.zeros(factors), np.full(2 * n, 0.002), [0.0]])
    one, eye = np.ones((1, n)), sp.eye(n)
    A = sp.bmat(
        [
            [one, None, None, None, None],
            [loadings.T, -sp.eye(factors), None, None, None],
            [eye, None, -eye, eye, None],
            [None, None, one, one, np.ones((1, 1))],
        ]
    )
    b = np.concatenate([[1.0], np.zeros(factors), holdings, [0.5]])
    lower = np.concatenate([np.zeros(n), np.full(factors, -np.inf), np.zeros(2 * n + 1)])
    upper = np.concatenate([np.full(n, 0.02), np.full(factors + 2 * n + 1, np.inf)])
    return by_clarabel(P, q, A, b, lower, upper)


def soft_top_k(x, k=100.0):
    zero, one = jnp.zeros(len(x)), jnp.ones(len(x))
    compiled = jax.jit(lambda x: projection_box_section(x, (zero, one, one, jnp.asarray(k))))
    return "jaxopt box section", lambda: jax.block_until_ready(compiled(x))


def entropic_top_k(x, k=100):
    def chosen():
        ordered = np.sort(x)[::-1]
        rest = np.cumsum(np.exp(ordered[::-1]))[::-1][:k]
        factor = (k - np.arange(k)) / rest  # where the j largest are 1
        first = np.argmax(factor * np.exp(ordered[:k]) <= 1)
        return np.minimum(factor[first] * np.exp(x), 1)

    return "NumPy, sorting", chosen


def svm(C, X, y):
    return "scikit-learn, tol 1e-9", lambda: SVC(C=C, gamma=0.1, tol=1e-9).fit(X, y)


def one_class_svm(gamma, X):
    return "scikit-learn, tol 1e-9", lambda: OneClassSVM(gamma=gamma, nu=0.1, tol=1e-9).fit(X)


def water_filling(noise):
    def levels():
        ordered = np.sort(noise)
        level = (1e5 + np.cumsum(ordered)) / np.arange(1, len(noise) + 1)
        return np.maximum(level[np.sum(level > ordered) - 1] - noise, 0)

    return "NumPy, sorting", levels


def channel_capacity(T, gap=1e-8):
    def blahut_arimoto():
        x, entropies = np.full(T.shape[1], 1 / T.shape[1]), np.sum(T * np.log(T), axis=0)
        while True:
            divergences = entropies - np.log(T @ x) @ T
            grown = x * np.exp(divergences)
            # The capacity lies between the logarithm of this sum and the largest divergence.
            total = grown.sum()
            if divergences.max() - np.log(total) <= gap:
                return x
            x = grown / total

    return "NumPy, Blahut-Arimoto", blahut_arimoto


def maximum_entropy(features, moments):
    """The dual: the logarithm of the partition function, by Newton's method in a trust region."""

    def family(dual):
        exponent = -dual @ features
        largest = exponent.max()
        p = np.exp(exponent - largest)
        total = p.sum()
        return p / total, np.log(total) + largest

    def value_and_slope(dual):
        p, log_partition = family(dual)
        return log_partition + dual @ moments, moments - features @ p

    def curvature(dual):
        p, _ = family(dual)
        mean = features @ p
        return (features * p) @ features.T - np.outer(mean, mean)

    def fitted():
        start, options = np.zeros(len(moments)), {"gtol": 1e-9}
        found = scipy.optimize.minimize(
            value_and_slope, start, jac=True, hess=curvature, method="trust-exact", options=options
        )
        return family(found.x)[0]

    return "SciPy trust-exact", fitted


def bounded_least_squares(y, X):
    return "SciPy lsq_linear", lambda: scipy.optimize.lsq_linear(X, y, (0.0, 0.5), tol=1e-10)


def logistic_regression(X, labels):
    def loss(b):
        margin = labels * (X @ b)
        return np.logaddexp(0, -margin).sum(), -X.T @ (labels / (1 + np.exp(margin)))

    options = {"ftol": 1e-15, "gtol": 1e-9}
    start, bounds = np.zeros(X.shape[1]), [(-0.1, 0.1)] * X.shape[1]
    run = scipy.optimize.minimize
    return "SciPy L-BFGS-B", lambda: run(loss, start, jac=True, bounds=bounds, method="L-BFGS-B", options=options)


def isotonic_regression(y):
    return "scikit-learn", lambda: sklearn.isotonic.isotonic_regression(y)


def total_variation(x, strength=1.0):
    """With the values, rises and falls as variables."""
    n, m = len(x), len(x) - 1
    differences = sp.diags([-1.0, 1.0], [0, 1], shape=(m, n))
    P = sp.diags(np.concatenate([np.ones(n), np.zeros(2 * m)]))
    q = np.concatenate([-x, np.full(2 * m, strength)])
    lower = np.concatenate([np.full(n, -np.inf), np.zeros(2 * m)])
    return by_clarabel(P, q, sp.hstack([differences, -sp.eye(m), sp.eye(m)]), np.zeros(m), lower, np.inf)


def quantile_regression(y, X, tau=0.9):
    A, q = sp.csc_matrix(X.T), -y
    return "HiGHS", lambda: scipy.optimize.linprog(q, A_eq=A, b_eq=np.zeros(X.shape[1]), bounds=(tau - 1, tau))


def economic_dispatch(demand, quadratic, linear_costs, lower, upper):
    return by_clarabel(
        sp.diags(np.asarray(quadratic)),
        np.asarray(linear_costs),
        np.ones((1, len(lower))),
        [float(demand)],
        np.asarray(lower),
        np.asarray(upper),
    )


def optimal_power_flow(demand, network):
    options = pypower.ppoption(VERBOSE=0, OUT_ALL=0)
    return "pypower", lambda: pypower.rundcopf(pypower.case300(), options)


def predictive_control(state, regulator):
    from kkt_solvers.problems import PredictiveControl

    problem = PredictiveControl(regulator, state)
    values, at = problem.equality.A.coordinates()
    A = sp.coo_matrix((np.asarray(values), np.asarray(at).T), shape=problem.equality.A.shape)
    bounds = np.asarray(problem.box.lower), np.asarray(problem.box.upper)
    P = sp.block_diag(np.asarray(problem.objective.P.blocks))
    return by_clarabel(P, np.asarray(problem.objective.q), A, np.asarray(problem.equality.b), *bounds)


def optimal_transport(cost, source, target, epsilon):
    def plan(cost):
        of = geometry.Geometry(cost, epsilon=epsilon, scale_cost=1.0)
        return linear.solve(of, jnp.asarray(source), jnp.asarray(target), threshold=1e-9, max_iterations=100_000).matrix

    compiled = jax.jit(plan)
    return "ott-jax, 1e-9", lambda: jax.block_until_ready(compiled(cost))


def chemical_equilibrium(*_):
    gas = cantera.Solution("gri30.yaml")

    def balance():
        gas.TPX = 2000.0, gas.reference_pressure, "CH4:1, O2:2.2, N2:8, AR:0.1"
        gas.equilibrate("TP", rtol=1e-12)

    return "Cantera", balance


TOOLS = (
    *field_cones.TOOLS,
    soft_top_k,
    entropic_top_k,
    portfolio,
    rebalance,
    trust_region,
    optimal_design,
    svm,
    one_class_svm,
    water_filling,
    channel_capacity,
    maximum_entropy,
    bounded_least_squares,
    logistic_regression,
    isotonic_regression,
    total_variation,
    quantile_regression,
    economic_dispatch,
    optimal_power_flow,
    predictive_control,
    optimal_transport,
    chemical_equilibrium,
)
