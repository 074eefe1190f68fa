"""Pictures of a solve: its convergence, its active set, its prices. Needs matplotlib, which is imported when used.

Every function draws into `ax`, a `matplotlib.axes.Axes`, or into a new figure where that is `None`, and returns it.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.flatten_util import ravel_pytree

from kkt_solvers._derivative import active_bounds
from kkt_solvers._solve import flat_dual
from kkt_solvers.conditions.multipliers import Point, complete_dual
from kkt_solvers.data.flatten import flatten
from kkt_solvers.data.problem import Problem
from kkt_solvers.data.solution import Solution

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["History", "active_set", "bound_prices", "convergence", "equality_prices"]

LOWER, FREE, UPPER, BOX = "#1b6ca8", "#444444", "#d95f02", "#bbbbbb"


class History:
    """What `solve(problem, progress=history)` reports, an iteration a row.

    `rows` is a list of `(iteration, objective, residual)`, `residual` being the largest relative KKT residual. Make
    one and empty it with `history.rows.clear()` between solves: for a new one the solve is compiled anew.

    >>> import kkt_solvers as kkt
    >>> history = kkt.plot.History()
    >>> problem = kkt.Problem(kkt.Quadratic([[2.0, 1.0], [1.0, 2.0]], [-3.0, 0.0]), kkt.Sum(1.0), kkt.Box(0.0, 2.0))
    >>> solution = kkt.solve(problem, progress=history)
    >>> len(history.rows) > 1 and history.rows[-1][2] < 1e-5
    True
    """

    def __init__(self) -> None:
        self.rows: list[tuple[int, float, float]] = []

    def __call__(self, iteration: Any, objective: Any, residual: Any) -> None:
        self.rows.append((int(iteration), float(objective), float(residual)))


def convergence(
    history: History | Iterable[tuple[Any, Any, Any]], ax: "Axes | None" = None, *, tol: Any = None, label: Any = None
) -> "Axes":
    """The largest relative KKT residual over the iterations.

    Arguments:
        history: a `History`, or rows `(iteration, objective, residual)` in any order.
        ax: where to draw.
        tol: the tolerance asked for, drawn as a line.
        label: of the curve, for a legend.

    Raises `ValueError` for a history without rows: a solver of your own reports nothing.
    """
    rows = sorted(history.rows if isinstance(history, History) else history, key=lambda row: row[0])
    if not rows:
        raise ValueError("history has no rows: pass it to solve(problem, progress=history) first")
    ax = _axes(ax)
    iterations, _, residuals = np.asarray(rows, float).T
    ax.semilogy(iterations, residuals, marker="o", markersize=3, label=label)
    if tol is not None:
        ax.axhline(tol, color=BOX, linestyle="--", zorder=0)
    ax.set_xlabel("iteration")
    ax.set_ylabel("largest relative KKT residual")
    ax.grid(alpha=0.3)
    return ax


def active_set(problem: Problem, solution: Solution, ax: "Axes | None" = None) -> "Axes":
    """Each coordinate inside its box, coloured by whether a bound holds it: as the derivative sees it.

    Arguments:
        problem, solution: a `Problem` and what `solve` or `differentiable` returned for it; one instance, not a batch.
        ax: where to draw.

    >>> import jax, kkt_solvers as kkt
    >>> problem = kkt.Problem(kkt.Quadratic([1.0, 1.0, 1.0], [-0.2, -3.0, 2.0]), box=kkt.Box(0.0, 1.0))
    >>> ax = kkt.plot.active_set(problem, kkt.solve(problem))
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['free: 1', 'at its lower bound: 1', 'at its upper bound: 1']
    """
    flat, primal, _ = flatten(problem, solution.primal)
    dual = complete_dual(flat, primal, flat_dual(flat, solution.dual))
    point = Point(primal, dual.equality, dual.lower, dual.upper, jax.numpy.ones((), primal.dtype))
    at_lower, at_upper = active_bounds(flat, point)
    n = primal.size - flat.slacks
    at_lower, at_upper, y, lower, upper = (
        np.asarray(part)[:n] for part in (at_lower, at_upper, primal, flat.box.lower, flat.box.upper)
    )
    ax, where, finite = _axes(ax), np.arange(n), np.isfinite(lower) & np.isfinite(upper)
    ax.vlines(where[finite], lower[finite], upper[finite], color=BOX, linewidth=1, zorder=0)
    for mask, colour, marker, name in (
        (~(at_lower | at_upper), FREE, "o", "free"),
        (at_lower, LOWER, "^", "at its lower bound"),
        (at_upper, UPPER, "v", "at its upper bound"),
    ):
        ax.scatter(where[mask], y[mask], s=22, color=colour, marker=marker, label=f"{name}: {mask.sum()}")
    ax.set_xlabel("coordinate")
    ax.set_ylabel("primal")
    ax.legend()
    return ax


def equality_prices(solution: Solution, ax: "Axes | None" = None) -> "Axes":
    """What one more unit of each right-hand side costs, `d f* / d b = -nu`, as bars.

    Arguments:
        solution: one instance, not a batch.
        ax: where to draw.

    Raises `ValueError` for a problem without equality.
    """
    prices = -_vector(solution.dual.equality)
    if prices.size == 0:
        raise ValueError("solution has no equality multipliers: the problem has no equality")
    ax = _axes(ax)
    ax.bar(np.arange(prices.size), prices, color=FREE)
    ax.axhline(0, color=BOX, linewidth=1)
    ax.set_xlabel("equality")
    ax.set_ylabel("price: change of the optimal value by unit")
    return ax


def bound_prices(solution: Solution, ax: "Axes | None" = None) -> "Axes":
    """What moving each bound up by a unit costs, `d f* / d l = zl` and `d f* / d u = -zu`, as bars.

    Arguments:
        solution: one instance, not a batch.
        ax: where to draw.
    """
    ax, lower, upper = _axes(ax), _vector(solution.dual.lower), _vector(solution.dual.upper)
    where = np.arange(lower.size)
    ax.bar(where, lower, color=LOWER, label="lower bound")
    ax.bar(where, -upper, color=UPPER, label="upper bound")
    ax.axhline(0, color=BOX, linewidth=1)
    ax.set_xlabel("coordinate")
    ax.set_ylabel("price: change of the optimal value by unit")
    ax.legend()
    return ax


def _vector(tree: Any) -> np.ndarray:
    return np.asarray(ravel_pytree(tree)[0])


def _axes(ax: "Axes | None") -> "Axes":
    if ax is not None:
        return ax
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError("kkt_solvers.plot needs matplotlib: pip install matplotlib") from error
    return pyplot.subplots(layout="constrained")[1]
