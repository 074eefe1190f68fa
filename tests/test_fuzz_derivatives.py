"""Directional derivatives of random nondegenerate solutions: forward mode against differences, reverse against forward.

The problems are those of `test_fuzz`, of the kinds that have a derivative, in units as drawn.
"""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fuzz_families import FAMILIES
from test_fuzz import BY_NAME, SEED, drawn, stacked

import kkt_solvers as kkt

STEP = 1e-5
# Central differences: a relative error of the order of STEP^2 over the square of the margin, and that of two solutions,
# about 1e-11, over STEP.
DIFFERENCE = 1e-4
# No bound may become active or inactive within the step; a system at rounding level has no derivative.
MARGIN, PIVOT = 1e-3, {"float64": 1e-7, "float32": 1e-3}
TRANSPOSE = {"float64": 1e-8, "float32": 2e-3}


def in_family_units(draw):
    return draw.kind in ("plain", "fixed") and draw.scaling == "none"


def direction(rng, data):
    """Random, but infinite bounds stay infinite, fixed variables fixed, Hessians semidefinite and the units what they
    are."""
    step = {name: rng.normal(size=value.shape) * np.isfinite(value) for name, value in data.items()}
    if "P" in step and step["P"].ndim == 2:
        P = data["P"].astype(float)
        step["P"] = P @ (step["P"] + step["P"].T) @ P  # semidefinite for small steps, of whatever rank P is
    step["upper"] = np.where(data["lower"] == data["upper"], step["lower"], step["upper"])
    if "unit" in step:
        step["unit"] *= 0
    if "diagonal" in step or ("P" in step and step["P"].ndim == 1):  # a diagonal entry of zero must not become negative
        name = "diagonal" if "diagonal" in step else "P"
        step[name] *= data[name] > 0
    return {name: np.asarray(step[name], value.dtype) for name, value in data.items()}


def derivatives(family, dtype, count):
    """How many were compared, and what is wrong: index, name of the check, relative error."""

    def primal(d):
        return family.solve(d).primal

    def everything(d, t, weights):
        solution = family.solve(d)
        tangent = jax.jvp(primal, (d,), (t,))[1]
        gradient = jax.vjp(primal, d)[1](weights)[0]
        report = kkt.degeneracy(family.problem(d), solution)
        return solution.status, solution.primal, tangent, gradient, jnp.min(report.margin), report.smallest_pivot

    with jax.enable_x64(dtype == "float64"):
        draws, i = {}, 0
        while len(draws) < count:
            draw = drawn(family, dtype, i)
            if in_family_units(draw):
                draws[i] = draw
            i += 1
        rng = np.random.default_rng([SEED, zlib.crc32(family.name.encode())])
        data = stacked(list(draws.values()))
        steps = [direction(rng, draw.data) for draw in draws.values()]
        t = {name: np.stack([step[name] for step in steps]) for name in data}
        weights = rng.normal(size=data["lower"].shape).astype(dtype)
        run, moved = jax.jit(jax.vmap(everything)), []
        status, _, tangent, gradient, margin, pivot = jax.device_get(run(data, t, weights))
        for sign in (1, -1) if dtype == "float64" else ():
            there = {name: value + sign * STEP * t[name] for name, value in data.items()}
            moved.append(np.asarray(run(there, t, weights)[1]))
    smooth = (status == kkt.Status.SOLVED) & (margin > MARGIN) & (pivot > PIVOT[dtype])
    wrong = []
    for k, i in enumerate(draws):
        if not smooth[k]:
            continue
        along = np.float64(weights[k]) @ np.float64(tangent[k])
        parts = [np.float64(t[name][k]) * np.float64(gradient[name][k]) for name in data]
        size = np.abs(weights[k]) @ np.abs(tangent[k]) + sum(np.nansum(np.abs(part)) for part in parts)
        checks = {"reverse": (abs(along - sum(np.sum(part) for part in parts)) / size, TRANSPOSE[dtype])}
        if moved:
            expected = (moved[0][k] - moved[1][k]) / (2 * STEP)
            error = np.max(np.abs(tangent[k] - expected)) / max(np.max(np.abs(expected)), 1e-3)
            checks["difference"] = error, DIFFERENCE
        wrong += [(i, name, float(error)) for name, (error, bound) in checks.items() if not error <= bound]
    return int(np.sum(smooth)), wrong


def report(name, dtype, compared, wrong):
    print(f"{name:32} {dtype:8} {compared:6} {len(wrong):9}", flush=True)
    for i, check, error in wrong[:5]:
        print(f"    {i}: {check} off by {error:.0e}")
    return len(wrong)


HEAD = f"\nseed {SEED}\n{'family':32} {'dtype':8} {'tried':>6} {'violated':>9}"


def test_some_derivatives():
    print(HEAD)
    compared, wrong = derivatives(BY_NAME["QP, diagonal"], "float64", 30)
    assert compared > 10
    assert report("QP, diagonal", "float64", compared, wrong) == 0


@pytest.mark.slow
def test_five_hundred_derivatives():
    print(HEAD)
    total = violated = 0
    for number, family in enumerate(family for family in FAMILIES if family.problem is not None):
        # In float32 for a third of the families: most of the time goes into compiling.
        for dtype, count in (("float64", 50), ("float32", 50))[: 2 if number % 3 == 0 else 1]:
            compared, wrong = derivatives(family, dtype, count)
            violated += report(family.name, dtype, compared, wrong)
            total += compared * (dtype == "float64")
            jax.clear_caches()
    assert total >= 500
    assert violated == 0
