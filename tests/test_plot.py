"""The pictures show the numbers of the solution."""

import jax
import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot

import kkt_solvers as kkt
from kkt_solvers import plot

PROBLEM = kkt.Problem(
    kkt.Quadratic([[2.0, 0.5, 0.0], [0.5, 2.0, 0.0], [0.0, 0.0, 1.0]], [-4.0, 2.0, 0.0]),
    kkt.Affine([[1.0, 1.0, 1.0]], [1.2]),
    kkt.Box(0.0, 1.0),
)


@pytest.fixture(autouse=True)
def on_paper():
    matplotlib.use("Agg")
    yield
    pyplot.close("all")


def heights(bars):
    return [bar.get_height() for bar in bars]


def test_pictures_of_a_quadratic_program():
    history = plot.History()
    solution = kkt.solve(PROBLEM, progress=history)
    np.testing.assert_allclose(solution.primal, [1.0, 0.0, 0.2], atol=1e-5)

    # Rows that come out of order, as a device may send them, are drawn in order.
    ax = plot.convergence(reversed(history.rows), tol=1e-5, label="interior point")
    x, residuals = ax.lines[0].get_data()
    assert list(x) == list(range(len(history.rows)))
    assert ax.get_yscale() == "log"
    assert residuals[-1] <= 1e-5 < residuals[0]
    assert ax.lines[1].get_ydata()[0] == 1e-5
    assert plot.convergence(history, ax) is ax

    ax = plot.active_set(PROBLEM, solution)
    drawn = [collection.get_offsets().tolist() for collection in ax.collections[1:]]
    np.testing.assert_allclose(np.ravel(drawn), [2, 0.2, 1, 0, 0, 1], atol=1e-5)  # free, at lower, at upper

    # By hand: grad f = (-2, 2.5, 0.2), so nu = -0.2, zl = 2.3 at y_1 and zu = 2.2 at y_0.
    np.testing.assert_allclose(heights(plot.equality_prices(solution).patches), [0.2], atol=1e-5)
    np.testing.assert_allclose(heights(plot.bound_prices(solution).patches), [0, 2.3, 0, -2.2, 0, 0], atol=1e-4)


def test_what_cannot_be_drawn():
    free = kkt.solve(kkt.Problem(kkt.Quadratic([1.0], [1.0])))
    with pytest.raises(ValueError, match="no equality"):
        plot.equality_prices(free)
    with pytest.raises(ValueError, match="progress=history"):
        plot.convergence(plot.History())


def test_an_unbounded_pytree():
    def distance(y):
        return (y["a"] - 1.0) ** 2 + jax.numpy.sum((y["b"] + 2.0) ** 2)

    start = {"a": 0.0, "b": jax.numpy.zeros(2)}
    problem = kkt.Problem(distance, box=kkt.Box({"a": -np.inf, "b": 0.0}))
    ax = plot.active_set(problem, kkt.solve(problem, start))
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "free: 1",
        "at its lower bound: 2",
        "at its upper bound: 0",
    ]
