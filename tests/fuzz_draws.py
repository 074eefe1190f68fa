"""Random convex problems whose outcome is known by construction. Data only: numpy arrays of float64, by name.

A problem is drawn around a point with multipliers that solve it, then changed to be of a kind: `plain`; `weak` (bounds
that are active with a multiplier of zero); `fixed` (l == u, not zero); `dependent` (a row that repeats another, or of
zeros); `infeasible`; `unbounded`. Then its units are changed, by powers of two, so that no rounding spoils the kind.
"""

from typing import Any, NamedTuple

import numpy as np

SCALINGS = {"none": 0.4, "objective": 0.15, "rows": 0.15, "all rows": 0.1, "variables": 0.1, "columns": 0.1}


class Draw(NamedTuple):
    data: dict[str, Any]
    kind: str
    scaling: str
    power: int  # of ten, the largest unit

    @property
    def outcome(self) -> str:
        """The status that is right."""
        return {"infeasible": "PRIMAL_INFEASIBLE", "unbounded": "DUAL_INFEASIBLE"}.get(self.kind, "SOLVED")

    @property
    def is_required(self) -> bool:
        """Whether the right status must be found, and not only no wrong one: with the units of whole problem or of its
        rows anywhere within six orders of magnitude."""
        return self.scaling == "none" or (self.scaling != "columns" and abs(self.power) <= 6)


def units(rng, dtype, m: int, n: int) -> tuple[str, int, float, np.ndarray, np.ndarray]:
    """A scaling: its name, its power of ten, and the factors of the objective (a power of four), rows and variables."""
    scaling = str(rng.choice(list(SCALINGS), p=list(SCALINGS.values())))
    objective, rows, variables = 1.0, np.ones(m), np.ones(n)
    power = int(rng.integers(-10, 11))
    if dtype == np.float32 and scaling == "variables":
        power = int(np.clip(power, -6, 6))  # or the squares in P overflow
    unit = 4.0 ** round(power * np.log2(10) / 2)
    if scaling == "objective":
        objective = unit
    elif scaling == "rows":
        powers = rng.integers(-abs(power), abs(power) + 1, m)
        rows = 2.0 ** np.round(powers * np.log2(10))
    elif scaling == "all rows":
        rows = np.full(m, unit)
    elif scaling == "variables":
        variables = np.full(n, unit)
    elif scaling == "columns":
        power = int(np.clip(power, -3, 3))
        variables = 2.0 ** np.round(rng.integers(-abs(power), abs(power) + 1, n) * np.log2(10))
    return scaling, 0 if scaling == "none" else power, objective, rows, variables


def box_and_point(rng, n: int, inside: int | None) -> tuple[np.ndarray, ...]:
    """Bounds, a point between them with `inside` coordinates off the bounds (`None`: about half), and multipliers."""
    lower = rng.uniform(-1, 0, n) * (rng.random(n) < 0.5)
    upper = lower + rng.uniform(0.5, 2, n)
    y = lower + rng.uniform(0.1, 0.9, n) * (upper - lower)
    at = rng.random(n) < 0.5 if inside is None else rng.permutation(n) >= inside
    above = rng.random(n) < 0.4
    y = np.where(at, np.where(above, upper, lower), y)
    size = rng.uniform(0.1, 1, n) * at
    # The other bound of an active one does not matter, and may be infinite.
    none = at & (rng.random(n) < 0.4)
    upper, lower = np.where(none & ~above, np.inf, upper), np.where(none & above, -np.inf, lower)
    return lower, upper, y, size * ~above, size * above


def matrix_of_rows(rng, kind: str, m: int, n: int) -> np.ndarray:
    A = rng.normal(size=(m, n)) * np.where(rng.random((m, n)) < 0.1, 10, 1)
    if kind == "dependent" and m > 1:
        A[1] = A[0] * rng.choice([1, 2, -0.5, 0])
    return A


def make_infeasible(rng, A, b, lower, upper) -> None:
    """In place: the first row out of reach of the box, or the second at odds with the first."""
    gap = rng.uniform(0.05, 1)
    if len(A) > 1 and rng.random() < 0.5:
        A[1] = 2 * A[0]
        b[1] = 2 * b[0] + gap
        return
    A[0, ~np.isfinite(lower) | ~np.isfinite(upper)] = 0
    reach = A[0] * np.where(A[0] > 0, np.where(A[0] != 0, upper, 0), np.where(A[0] != 0, lower, 0))
    b[0] = np.sum(np.where(A[0] != 0, reach, 0)) + gap


def curvature(rng, shape: str, n: int) -> dict[str, np.ndarray]:
    """The Hessian: `none`, `diagonal` (entries of zero among them), `dense` (of full rank or not), `low rank`."""
    if shape == "none":
        return {}
    diagonal = rng.uniform(0.1, 2, n)
    if rng.random() < 0.5:
        diagonal[rng.random(n) < 0.25] = 0
    if shape == "diagonal":
        return {"P": diagonal}
    F = rng.normal(size=(n, 2 if shape == "low rank" else n - 2))
    if shape == "low rank":
        return {"diagonal": diagonal, "factor": F}
    return {"P": F @ F.T / n + (0.1 * np.eye(n) if rng.random() < 0.5 else 0)}


def hessian(data: dict[str, Any]) -> np.ndarray:
    """Written out, of whatever shape."""
    n = len(data["lower"])
    if "factor" in data:
        return np.diag(data["diagonal"]) + data["factor"] @ data["factor"].T
    P = data.get("P", np.zeros(n))
    return np.diag(P) if P.ndim == 1 else P


def flatten_direction(data: dict[str, Any], i: int, j: int) -> None:
    """In place: nothing changes along `e_i + e_j`, neither slope nor rows."""
    if "A" in data:
        data["A"][:, j] = -data["A"][:, i]
    for name in ("factor", "G"):
        if name in data:
            part = data[name] if name == "factor" else data[name].T
            part[j] = -part[i]
    if "factor" in data:
        data["diagonal"][[i, j]] = 0
    elif "P" in data and data["P"].ndim == 1:
        data["P"][[i, j]] = 0
    elif "P" in data:
        P = data["P"]
        P[j], P[:, j] = -P[i], -P[:, i]
        P[j, j], P[i, j], P[j, i] = P[i, i], -P[i, i], -P[i, i]


def quadratic(rng, dtype, shape: str, m: int, n: int, kinds: tuple[str, ...], p: int = 0) -> Draw:
    """`min y'Py/2 + q'y  s.t.  A y = b, l <= y <= u`, and `G y <= h` with `p` rows."""
    kind = str(rng.choice(kinds))
    lower, upper, y, zl, zu = box_and_point(rng, n, max(m - (kind == "dependent"), 0) if shape == "none" else None)
    data = curvature(rng, shape, n)
    A = matrix_of_rows(rng, kind, m, n)
    if m == 1:
        A = A * (rng.random(n) < rng.choice([0.7, 1])) if rng.random() < 0.7 else np.ones((1, n))
    inner = np.flatnonzero((zl == 0) & (zu == 0))
    if inner.size and rng.random() < 0.5:
        lower[inner[0]], upper[inner[0]] = -np.inf, np.inf
    if kind == "weak":
        idle = (zl + zu > 0) & (rng.random(n) < 0.5)
        zl, zu = np.where(idle, 0, zl), np.where(idle, 0, zu)
        lower, upper = np.where(idle & np.isinf(lower), y - 1, lower), np.where(idle & np.isinf(upper), y + 1, upper)
    if kind == "fixed":
        y[:2] = rng.uniform(0.3, 0.9, 2)
        lower[:2], upper[:2] = y[:2], y[:2]
    if kind == "unbounded":
        zl[-2:], zu[-2:], upper[-2:] = 0, 0, np.inf
        lower[-2:] = np.where(np.isfinite(lower[-2:]), lower[-2:], 0)
        y[-2:] = lower[-2:] + 1
    data |= {"A": A, "lower": lower, "upper": upper}
    if p:
        data["G"] = rng.normal(size=(p, n))
    if kind == "unbounded":
        flatten_direction(data, n - 1, n - 2)
    data |= {"b": A @ y, "q": -(hessian(data) @ y + A.T @ rng.normal(size=m) - zl + zu)}
    if p:
        active = rng.random(p) < 0.4
        data["h"] = data["G"] @ y + np.where(active, 0, rng.uniform(0.1, 1, p))
        data["h"][~active & (rng.random(p) < 0.2)] = np.inf
        data["q"] -= data["G"].T @ (active * rng.uniform(0.1, 1, p) * (kind != "weak"))
    if kind == "unbounded":
        data["q"][-2] = -data["q"][-1] - rng.choice([0.25, 1.0])
    if kind == "infeasible":
        make_infeasible(rng, data["A"], data["b"], lower, upper)
    return scaled(rng, dtype, data, kind)


def scaled(rng, dtype, data: dict[str, Any], kind: str) -> Draw:
    """The same problem in other units, all that is named in `data`."""
    n = len(data["lower"])
    scaling, power, s, r, v = units(rng, dtype, len(data["b"]), n)
    data["A"], data["b"] = data["A"] * r[:, None] / v, data["b"] * r
    data["lower"], data["upper"] = data["lower"] * v, data["upper"] * v
    if "G" in data:
        data["G"] = data["G"] / v
    if "q" in data and "unit" not in data:
        data["q"] = data["q"] * s / v
    if "factor" in data:
        data["diagonal"], data["factor"] = data["diagonal"] * s / v**2, data["factor"] * np.sqrt(s) / v[:, None]
    elif "P" in data:
        data["P"] = data["P"] * s / (v**2 if data["P"].ndim == 1 else np.outer(v, v))
    if "unit" in data:  # of an objective given as a function, unit[0] f(y / unit[1:])
        data["unit"] = np.append(s, v)
    return Draw(data, kind, scaling, power)


def smooth(
    rng, dtype, parts: dict[str, tuple[int, ...]], m: int, n: int, kinds: tuple[str, ...], positive=False
) -> Draw:
    """A feasible (or infeasible) set, and normal `parts` of a general objective, by name and shape."""
    kind = str(rng.choice(kinds))
    lower, upper, y, _, _ = box_and_point(rng, n, None)
    if positive:
        lower, upper = np.zeros(n), np.where(rng.random(n) < 0.5, np.inf, rng.uniform(1, 2, n))
        y = rng.uniform(0.2, 0.8, n)
    A = np.abs(matrix_of_rows(rng, kind, m, n)) if positive and m == 1 else matrix_of_rows(rng, kind, m, n)
    if kind == "fixed":
        y[:2] = rng.uniform(0.3, 0.9, 2)
        lower[:2], upper[:2] = y[:2], y[:2]
    data = {"A": A, "b": A @ y, "lower": lower, "upper": upper, "unit": np.ones(n + 1)}
    data |= {name: rng.normal(size=shape) for name, shape in parts.items()}
    if kind == "infeasible":
        make_infeasible(rng, data["A"], data["b"], lower, upper)
    return scaled(rng, dtype, data, kind)
