"""Geometric programs against Clarabel (exponential cones), and their sensitivities in percent."""

import clarabel
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references

import kkt_solvers as kkt
from kkt_solvers.problems import GeometricProgram, Posynomial, geometric_program


def box(wall, floor, slimmest=0.5, widest=2.0):
    """The box of the largest volume, of height, width and depth x, within an area of its walls and one of its floor
    [boyd2007, section 2.3]. Its ceiling is a tenth as dear as its floor."""
    volume = Posynomial(jnp.ones(1), jnp.array([[-1.0, -1.0, -1.0]]))
    return volume, [
        Posynomial(jnp.array([2.0, 2.0, 0.1]) / wall, jnp.array([[1.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])),
        Posynomial(jnp.ones(1) / floor, jnp.array([[0.0, 1.0, 1.0]])),
        Posynomial(jnp.ones(1) * slimmest, jnp.array([[-1.0, 1.0, 0.0]])),  # slimmest <= height / width <= widest
        Posynomial(jnp.ones(1) / widest, jnp.array([[1.0, -1.0, 0.0]])),
        Posynomial(jnp.ones(1) * 1.25, jnp.array([[0.0, 1.0, -1.0]])),  # the depth is at least 1.25 widths
    ]


def reference(objective, inequalities):
    """Clarabel's: `log sum exp(u_k) <= t` is `sum v_k <= 1`, `(u_k - t, 1, v_k)` in the exponential cone. Variables
    `y`, the value of the objective, and a `v` for each term."""
    n, posynomials = objective.exponents.shape[1], [objective, *inequalities]
    terms = sum(len(each.coefficients) for each in posynomials)
    size, at, blocks = n + 1 + terms, n + 1, []
    for i, each in enumerate(posynomials):
        row = np.zeros((1, size))
        row[0, at : at + len(each.coefficients)] = 1
        blocks.append((row, [1.0], clarabel.NonnegativeConeT(1)))
        for c, a in zip(each.coefficients, each.exponents, strict=True):
            A = np.zeros((3, size))
            A[0, :n], A[0, n], A[2, at] = -np.asarray(a), float(i == 0), -1.0
            blocks.append((A, [np.log(c), 1.0, 0.0], clarabel.ExponentialConeT()))
            at += 1
    x, _ = references.cone_program(None, np.eye(size)[n], *blocks)
    return np.exp(x[:n]), x[n]


def test_a_box_and_its_sensitivity(x64):
    areas = np.array([200.0, 60.0])

    def sides(areas):
        solution = kkt.solve(GeometricProgram(*box(*areas)))
        return jnp.exp(solution.primal), (solution.primal, solution.dual.inequality, solution.status)

    jacobian, (y, prices, status) = jax.jit(jax.jacobian(sides, has_aux=True))(areas)
    assert status == kkt.Status.SOLVED
    x, _ = reference(*box(*areas))
    np.testing.assert_allclose(np.exp(y), x, rtol=1e-6)
    h = 1e-3
    for k, step in enumerate(h * np.eye(2)):
        (up, more), (down, less) = reference(*box(*(areas + step))), reference(*box(*(areas - step)))
        np.testing.assert_allclose(jacobian[:, k], (up - down) / (2 * h), rtol=1e-4, atol=1e-5)
        # One percent more of an area is `price` percent more of the volume.
        np.testing.assert_allclose(prices[k], -(more - less) / (2 * h) * areas[k], rtol=1e-4, atol=1e-6)
    assert min(prices[:2]) > 0.1


def test_equalities_and_derivatives_of_all_data(rng, x64):
    # min x1 + c x2, with x1 x2 = 4 and nothing else: x1 = 2 sqrt(c), x2 = 2 / sqrt(c).
    def program(c, need):
        cost = Posynomial(jnp.stack([jnp.ones_like(c), c]), jnp.eye(2))
        return geometric_program(cost, equalities=[Posynomial(need[None], jnp.array([[-1.0, -1.0]]))])

    c, need = np.array([4.0, 9.0]), np.array([4.0, 4.0])
    x, by_c = jax.jit(jax.vmap(lambda c, need: (program(c, need), jax.jacobian(program)(c, need))))(c, need)
    np.testing.assert_allclose(x, np.c_[2 * np.sqrt(c), 2 / np.sqrt(c)], rtol=1e-8)
    np.testing.assert_allclose(by_c, np.c_[1 / np.sqrt(c), -1 / c**1.5], rtol=1e-7)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: GeometricProgram(Posynomial([1.0, -1.0], np.eye(2))), "coefficients of objective must be positive"),
        (lambda: GeometricProgram(Posynomial([1.0], np.eye(2))), "exponents of objective must have shape"),
        (lambda: GeometricProgram(Posynomial([1.0], [1.0])), "exponents of objective must be a matrix"),
        (
            lambda: GeometricProgram(Posynomial([1.0], [[1.0]]), [Posynomial([1.0], [[1.0, 2.0]])]),
            r"exponents of inequalities\[0\] must have shape \(1, 1\)",
        ),
        (
            lambda: GeometricProgram(Posynomial([1.0], [[1.0]]), (), [Posynomial([1.0, 1.0], [[1.0], [2.0]])]),
            r"equalities\[0\] must be a monomial",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
