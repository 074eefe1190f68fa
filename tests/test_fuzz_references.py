"""Statuses and values of random problems against Clarabel and HiGHS, in float64."""

import clarabel
import fuzz_draws
import jax
import numpy as np
import pytest
import scipy.optimize
import scipy.sparse as sp
from test_fuzz import BY_NAME, drawn, stacked, status_name


def of_clarabel(d):
    """Status, in our words, and value."""
    n = len(d["q"])
    low, high, eye = np.isfinite(d["lower"]), np.isfinite(d["upper"]), np.eye(n)
    A = sp.csc_matrix(np.vstack([d["A"], -eye[low], eye[high]]))
    b = np.concatenate([d["b"], -d["lower"][low], d["upper"][high]])
    cones = [clarabel.ZeroConeT(len(d["b"])), clarabel.NonnegativeConeT(int(low.sum() + high.sum()))]
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    P = sp.triu(sp.csc_matrix(fuzz_draws.hessian(d))).tocsc()
    answer = clarabel.DefaultSolver(P, d["q"], A, b, cones, settings).solve()
    words = {"Solved": "SOLVED", "PrimalInfeasible": "PRIMAL_INFEASIBLE", "DualInfeasible": "DUAL_INFEASIBLE"}
    return words.get(str(answer.status), ""), answer.obj_val


def of_highs(d):
    bounds = np.stack([d["lower"], d["upper"]], 1)
    answer = scipy.optimize.linprog(d["q"], A_eq=d["A"], b_eq=d["b"], bounds=bounds, method="highs")
    return {0: "SOLVED", 2: "PRIMAL_INFEASIBLE", 3: "DUAL_INFEASIBLE"}.get(answer.status, ""), answer.fun


REFERENCES = [("QP, dense", of_clarabel), ("QP, diagonal", of_clarabel), ("LP", of_highs)]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "reference"), REFERENCES)
def test_statuses_and_values(name, reference, x64):
    family, compared, wrong = BY_NAME[name], 0, []
    draws = [drawn(family, "float64", i) for i in range(300)]
    solutions = jax.device_get(jax.jit(jax.vmap(family.solve))(stacked(draws)))
    for i, draw in enumerate(draws):
        if draw.scaling != "none":  # where the references fail too
            continue
        d, ours = draw.data, status_name(solutions.status[i])
        theirs, value = reference(d)
        compared += theirs != ""
        # A program may be infeasible and have a ray of descent as well: either proof will do.
        neither = "SOLVED" not in (ours, theirs)
        if theirs and ours != theirs and not neither:
            wrong.append((i, draw.kind, f"{ours}, the reference says {theirs}"))
        elif ours == theirs == "SOLVED":
            terms = np.abs(d["q"]) @ np.abs(solutions.primal[i]) + abs(value)
            if not abs(solutions.objective[i] - value) <= 1e-6 * terms:
                wrong.append((i, draw.kind, f"value {solutions.objective[i]}, the reference says {value}"))
    print(f"\n{name}: {compared} compared, {len(wrong)} violated", *wrong[:5], sep="\n    ")
    assert compared > 80
    assert not wrong
