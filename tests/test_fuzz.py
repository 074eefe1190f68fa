"""Thousands of random problems of every family: what a status claims is checked in numpy, by `certificates`.

Problem `i` of a family is drawn from the seed `(SEED, family, i)` alone, whatever else runs: `reproduce` builds it.
"""

import zlib

import certificates
import jax
import numpy as np
import pytest
from fuzz_families import FAMILIES, curvature

import kkt_solvers as kkt

SEED = 18
BY_NAME = {family.name: family for family in FAMILIES}

# A hundred times the tolerances of the solvers: the norms of the library and those of `certificates` may differ by a
# factor like the number of terms, a wrong answer by far more.
TOLERANCE = {"float32": 1e-3, "float64": 1e-6}
# A ray is rounded data times rounded multipliers: the root of the machine precision, with some room.
RAY = {"float32": 1e-2, "float64": 1e-6}


def drawn(family, dtype, i):
    """Problem `i`, its data rounded to `dtype`."""
    draw = family.draw(np.random.default_rng([SEED, zlib.crc32(family.name.encode()), i]), np.dtype(dtype).type)
    return draw._replace(data={name: np.asarray(value, dtype) for name, value in draw.data.items()})


def reproduce(name, dtype, i):
    """The solution of one problem on its own, and how it was drawn: for a violation that a table names."""
    with jax.enable_x64(dtype == "float64"):
        draw = drawn(BY_NAME[name], dtype, i)
        return jax.jit(BY_NAME[name].solve)(draw.data), draw


def stacked(draws):
    return {name: np.stack([draw.data[name] for draw in draws]) for name in draws[0].data}


def status_name(status):
    """Statuses that this file does not know are no claim."""
    return kkt.Status(int(status)).name


def certified(family, data, solution, status, dtype, tol=None):
    """What is wrong with a claim: a list of short texts, empty if nothing is."""
    tol = TOLERANCE[dtype] if tol is None else tol
    data = {name: np.asarray(value, np.float64) for name, value in data.items()}
    dual = solution.dual
    nu = certificates.vector(dual.equality)
    multipliers = certificates.Multipliers(nu, certificates.vector(dual.lower), certificates.vector(dual.upper))
    at = family.conditions(data, certificates.vector(solution.primal))
    if dual.inequality is not None:
        at, multipliers = certificates.with_slacks(
            at, multipliers, data["G"], data["h"], dual.inequality, ray=status == "DUAL_INFEASIBLE"
        )
    if status == "SOLVED":
        found = certificates.residuals(at, multipliers, tol)
        return [f"{name} {value:.0e}" for name, value in found.items() if not value <= tol]
    if status == "PRIMAL_INFEASIBLE":
        why = certificates.is_proof_of_infeasibility(at, multipliers, RAY[dtype])
        return [why] * bool(why) + ["the objective is not inf"] * bool(solution.objective != np.inf)
    if status == "DUAL_INFEASIBLE":
        P, q = curvature(data), data["q"]
        if dual.inequality is not None:
            n, extended = len(q), np.zeros((at.y.size, at.y.size))
            extended[:n, :n] = P
            P, q = extended, np.append(q, np.zeros(at.y.size - n))
        why = certificates.is_proof_of_unboundedness(at, P, q, RAY[dtype])
        return [why] * bool(why) + ["the objective is not -inf"] * bool(solution.objective != -np.inf)
    if status == "INVALID":
        return [] if np.all(np.isnan(at.y)) else ["the point is not NaN"]
    return []


def judged(family, draw, solution, dtype):
    """The status, and what is wrong, if anything: first wrong claims, then right ones not made."""
    status = status_name(solution.status)
    wrong = certified(family, draw.data, solution, status, dtype)
    if wrong:
        return status, f"{status} but " + ", ".join(wrong)
    if status == "DUAL_INFEASIBLE" and draw.outcome == "PRIMAL_INFEASIBLE":
        return draw.outcome, ""  # a proved ray of an empty set: a linear program may have both proofs
    if status in ("PRIMAL_INFEASIBLE", "DUAL_INFEASIBLE", "INVALID") and status != draw.outcome:
        return status, f"{status}, not {draw.outcome}"
    if status == "SOLVED" and draw.outcome != "SOLVED":
        # Residuals are measured beside the largest term. In float32 and units that differ by a million, a slope that
        # makes a program unbounded may be less than the rounding of another one: nobody can tell then.
        told_apart = dtype == "float64" or certified(family, draw.data, solution, status, dtype, 4 * 2.0**-23)
        return status, f"{status} for {draw.outcome}" if told_apart else ""
    if status != draw.outcome and draw.is_required and (family.proves or draw.outcome == "SOLVED"):
        # In float32 rounding may end a solve beside the tolerance.
        ended = draw.outcome == "SOLVED" and dtype == "float32" and status in ("INACCURATE", "MAX_ITERATIONS")
        if not (ended and not certified(family, draw.data, solution, "SOLVED", dtype)):
            return status, f"{status} for {draw.outcome}"
    return status, ""


def survey(family, dtype, count):
    """Solve `count` problems in one batch. Returns a row of the table and the violations."""
    with jax.enable_x64(dtype == "float64"):
        draws = [drawn(family, dtype, i) for i in range(count)]
        solutions = jax.device_get(jax.jit(jax.vmap(family.solve))(stacked(draws)))
    outcomes, violations = [], []
    for i, draw in enumerate(draws):
        status, wrong = judged(family, draw, jax.tree.map(lambda leaf, i=i: leaf[i], solutions), dtype)
        outcomes.append(status == draw.outcome and not wrong)
        if wrong:
            violations.append((i, draw.kind, draw.scaling, draw.power, wrong))
    row = f"{family.name:32} {dtype:8} {count:6} {sum(outcomes):8} {len(violations):9}"
    return row, violations


HEAD = f"{'family':32} {'dtype':8} {'tried':>6} {'as drawn':>8} {'violated':>9}"


def report(surveys, shown=5):
    """Print the table, row by row, with the first violations of each, and return how many there are in all."""
    print(f"\nseed {SEED}\n{HEAD}")
    total = 0
    for row, violations in surveys:
        total += len(violations)
        print(row, flush=True)
        for i, kind, scaling, power, wrong in violations[:shown]:
            print(f"    {i}: {kind}, {scaling} 1e{power}: {wrong}")
    return total


QUICK = [("QP, dense", "float32"), ("power 1.5", "float64")]


@pytest.mark.parametrize(("name", "dtype"), QUICK)
def test_some_problems(name, dtype):
    assert report([survey(BY_NAME[name], dtype, 40)]) == 0


@pytest.mark.slow
def test_five_thousand_problems():
    count = 5000 // (2 * len(FAMILIES)) + 1
    assert report(survey(family, dtype, count) for family in FAMILIES for dtype in TOLERANCE) == 0
