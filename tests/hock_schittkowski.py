"""The convex ones of the problems of Hock and Schittkowski with inequalities, and their published optima."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np


class Published(NamedTuple):
    """A problem with its start, the published value of its optimum, and to what precision that is given."""

    f: Any
    g: Any
    lower: Any
    upper: Any
    start: Any
    value: float
    precision: float = 1e-8
    A: Any = ()
    b: Any = ()


def _hs43(x):
    return jnp.stack([
        x @ x + x[0] - x[1] + x[2] - x[3] - 8,
        x[0] ** 2 + 2 * x[1] ** 2 + x[2] ** 2 + 2 * x[3] ** 2 - x[0] - x[3] - 10,
        2 * x[0] ** 2 + x[1] ** 2 + x[2] ** 2 + 2 * x[0] - x[1] - x[3] - 5,
    ])  # fmt: skip


def _hs76(x):
    return x[0] + 2 * x[1] + x[2] + x[3] - 5, 3 * x[0] + x[1] + 2 * x[2] - x[3] - 4, 1.5 - x[1] - 4 * x[2]


def _hs100_objective(x):
    first = (x[0] - 10) ** 2 + 5 * (x[1] - 12) ** 2 + x[2] ** 4 + 3 * (x[3] - 11) ** 2
    return first + 10 * x[4] ** 6 + 7 * x[5] ** 2 + x[6] ** 4 - 4 * x[5] * x[6] - 10 * x[5] - 8 * x[6]


def _hs100(x):
    return jnp.stack([
        2 * x[0] ** 2 + 3 * x[1] ** 4 + x[2] + 4 * x[3] ** 2 + 5 * x[4] - 127,
        7 * x[0] + 3 * x[1] + 10 * x[2] ** 2 + x[3] - x[4] - 282,
        23 * x[0] + x[1] ** 2 + 6 * x[5] ** 2 - 8 * x[6] - 196,
        4 * x[0] ** 2 + x[1] ** 2 - 3 * x[0] * x[1] + 2 * x[2] ** 2 + 5 * x[5] - 11 * x[6],
    ])  # fmt: skip


def _hs113_objective(x):
    first = x[0] ** 2 + x[1] ** 2 + x[0] * x[1] - 14 * x[0] - 16 * x[1] + (x[2] - 10) ** 2 + 4 * (x[3] - 5) ** 2
    second = (x[4] - 3) ** 2 + 2 * (x[5] - 1) ** 2 + 5 * x[6] ** 2 + 7 * (x[7] - 11) ** 2
    return first + second + 2 * (x[8] - 10) ** 2 + (x[9] - 7) ** 2 + 45


def _hs113(x):
    return jnp.stack([
        -105 + 4 * x[0] + 5 * x[1] - 3 * x[6] + 9 * x[7],
        10 * x[0] - 8 * x[1] - 17 * x[6] + 2 * x[7],
        -8 * x[0] + 2 * x[1] + 5 * x[8] - 2 * x[9] - 12,
        3 * (x[0] - 2) ** 2 + 4 * (x[1] - 3) ** 2 + 2 * x[2] ** 2 - 7 * x[3] - 120,
        5 * x[0] ** 2 + 8 * x[1] + (x[2] - 6) ** 2 - 2 * x[3] - 40,
        0.5 * (x[0] - 8) ** 2 + 2 * (x[1] - 4) ** 2 + 3 * x[4] ** 2 - x[5] - 30,
        x[0] ** 2 + 2 * (x[1] - 2) ** 2 - 2 * x[0] * x[1] + 14 * x[4] - 6 * x[5],
        -3 * x[0] + 6 * x[1] + 12 * (x[8] - 8) ** 2 - 7 * x[9],
    ])  # fmt: skip


_HS86 = (
    np.array([-15.0, -27, -36, -18, -12]),
    np.array(
        [[30, -20, -10, 32, -10], [-20, 39, -6, -31, 32], [-10, -6, 10, -6, -10], [32, -31, -6, 39, -20],
         [-10, 32, -10, -20, 30.0]]
    ),
    np.array([4.0, 8, 10, 6, 2]),
    np.array(
        [[-16, 2, 0, 1, 0], [0, -2, 0, 4, 2], [-3.5, 0, 2, 0, 0], [0, -2, 0, -4, -1], [0, -9, -2, 1, -2.8],
         [2, 0, -4, 0, 0], [-1, -1, -1, -1, -1], [-1, -2, -3, -2, -1], [1, 2, 3, 4, 5], [1, 1, 1, 1, 1.0]]
    ),
    np.array([-40, -2, -0.25, -4, -4, -1, -40, -60, 5, 1.0]),
)  # fmt: skip
_HS268 = (
    np.array(
        [[-74, 80, 18, -11, -4], [14, -69, 21, 28, 0], [66, -72, -5, 7, 1], [-12, 66, -30, -23, 3],
         [3, 8, -7, -4, 1], [4, -12, 4, 4, 0.0]]
    ),
    np.array([51, -61, -56, 69, 10, -12.0]),
    np.array(
        [[1, 1, 1, 1, 1], [-10, -10, 3, -5, -4], [8, -1, 2, 5, -3], [-8, 1, -2, -5, 3], [4, 2, -3, 5, -1.0]]
    ),
    np.array([5.0, -20, 40, -11, 30]),
)  # fmt: skip

_HS14 = {"A": [[1.0, -2.0]], "b": [-1.0]}


def exponentials(x):
    return jnp.exp(x[0]) - x[1], jnp.exp(x[1]) - x[2]


def distance(x):
    return (x[0] - 2) ** 2 + (x[1] - 1) ** 2


PUBLISHED = {
    "HS4": Published(
        lambda x: (x[0] + 1) ** 3 / 3 + x[1],
        lambda x: jnp.stack([1 - x[0], -x[1]]), -0.5, np.inf, [1.125, 0.125], 8 / 3,
    ),
    "HS10": Published(
        lambda x: x[0] - x[1],
        lambda x: 3 * x[0] ** 2 - 2 * x[0] * x[1] + x[1] ** 2 - 1, -np.inf, np.inf, [-10, 10], -1.0,
    ),
    "HS11": Published(
        lambda x: (x[0] - 5) ** 2 + x[1] ** 2 - 25,
        lambda x: x[0] ** 2 - x[1], -np.inf, np.inf, [4.9, 0.1], -8.498464223,
    ),
    "HS12": Published(
        lambda x: 0.5 * x[0] ** 2 + x[1] ** 2 - x[0] * x[1] - 7 * x[0] - 7 * x[1],
        lambda x: 4 * x[0] ** 2 + x[1] ** 2 - 25, -np.inf, np.inf, [0, 0], -30.0,
    ),
    "HS14": Published(
        distance, lambda x: 0.25 * x[0] ** 2 + x[1] ** 2 - 1, -np.inf, np.inf, [2, 2], 9 - 2.875 * 7**0.5, **_HS14
    ),
    "HS21": Published(
        lambda x: 0.01 * x[0] ** 2 + x[1] ** 2 - 100,
        lambda x: 10 - 10 * x[0] + x[1], [2, -50], [50, 50], [-1, -1], -99.96,
    ),
    "HS22": Published(
        distance, lambda x: (x[0] + x[1] - 2, x[0] ** 2 - x[1]), -np.inf, np.inf, [2, 2], 1.0
    ),
    "HS34": Published(lambda x: -x[0], exponentials, 0, [100, 100, 10], [0, 1.05, 2.9], -np.log(np.log(10))),
    "HS35": Published(
        lambda x: 9 - 8 * x[0] - 6 * x[1] - 4 * x[2] + 2 * x[0] ** 2 + 2 * x[1] ** 2 + x[2] ** 2
        + 2 * x[0] * x[1] + 2 * x[0] * x[2],
        lambda x: x[0] + x[1] + 2 * x[2] - 3, 0, np.inf, [0.5, 0.5, 0.5], 1 / 9,
    ),
    "HS43": Published(
        lambda x: x[0] ** 2 + x[1] ** 2 + 2 * x[2] ** 2 + x[3] ** 2 - 5 * x[0] - 5 * x[1] - 21 * x[2] + 7 * x[3],
        _hs43, -np.inf, np.inf, [0, 0, 0, 0], -44.0,
    ),
    "HS64": Published(
        lambda x: 5 * x[0] + 50000 / x[0] + 20 * x[1] + 72000 / x[1] + 10 * x[2] + 144000 / x[2],
        lambda x: 4 / x[0] + 32 / x[1] + 120 / x[2] - 1, 1e-5, np.inf, [1, 1, 1], 6299.842428,
    ),
    "HS65": Published(
        lambda x: (x[0] - x[1]) ** 2 + (x[0] + x[1] - 10) ** 2 / 9 + (x[2] - 5) ** 2,
        lambda x: x @ x - 48, [-4.5, -4.5, -5], [4.5, 4.5, 5], [-5, 5, 0], 0.9535288567,
    ),
    "HS66": Published(
        lambda x: 0.2 * x[2] - 0.8 * x[0], exponentials, 0, [100, 100, 10], [0, 1.05, 2.9], 0.5181632741
    ),
    "HS76": Published(
        lambda x: x[0] ** 2 + 0.5 * x[1] ** 2 + x[2] ** 2 + 0.5 * x[3] ** 2 - x[0] * x[2] + x[2] * x[3]
        - x[0] - 3 * x[1] + x[2] - x[3],
        _hs76, 0, np.inf, [0.5] * 4, -4.681818181,
    ),
    "HS86": Published(
        lambda x: _HS86[0] @ x + x @ _HS86[1] @ x + _HS86[2] @ x**3,
        lambda x: _HS86[4] - _HS86[3] @ x, 0, np.inf, [0, 0, 0, 0, 1], -32.34867897,
    ),
    "HS100": Published(_hs100_objective, _hs100, -np.inf, np.inf, [1, 2, 0, 4, 0, 1, 1], 680.6300573),
    "HS113": Published(_hs113_objective, _hs113, -np.inf, np.inf, [2, 3, 5, 5, 1, 2, 7, 3, 6, 10], 24.3062091),
    "HS215": Published(lambda x: x[1], lambda x: x[0] ** 2 - x[1], [0, -np.inf], np.inf, [1, 1], 0.0),
    "HS224": Published(
        lambda x: 2 * x[0] ** 2 + x[1] ** 2 - 48 * x[0] - 40 * x[1],
        lambda x: (-x[0] - 3 * x[1], x[0] + 3 * x[1] - 18, -x[0] - x[1], x[0] + x[1] - 8), 0, 6, [0.1, 0.1], -304.0,
    ),
    "HS227": Published(
        distance, lambda x: (x[0] ** 2 - x[1], x[1] ** 2 - x[0]), -np.inf, np.inf, [0.5, 0.5], 1.0
    ),
    "HS268": Published(
        lambda x: (_HS268[0] @ x - _HS268[1]) @ (_HS268[0] @ x - _HS268[1]),
        lambda x: _HS268[2] @ x - _HS268[3], -np.inf, np.inf, [1] * 5, 0.0, 1e-6,
    ),
    "HS323": Published(
        lambda x: x[0] ** 2 + x[1] ** 2 - 4 * x[0] + 4,
        lambda x: (x[1] - x[0] - 2, x[0] ** 2 - x[1] + 1), 0, np.inf, [0, 1], 3.79894, 1e-5,
    ),
}  # fmt: skip
