"""Chemical equilibrium of an ideal gas mixture [white1958].

At given temperature and pressure the amounts `n` of the species are those of the least Gibbs energy, in units of RT,

    min_n  sum_i n_i (gibbs_i + log pressure + log(n_i / sum n))    s.t.  formula n = abundance,   n >= 0,

with `gibbs` the standard Gibbs energies by RT, and as many atoms of each element as there are. The reactions need not
be known. The solution is, down to the rarest species, `n_i / sum n = exp(formula_i'potential - gibbs_i) / pressure`,
with minus the multipliers as the chemical potentials of the elements.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kkt_solvers import Affine, Box, Dual, InteriorPoint, Problem, Status, solve
from kkt_solvers.conditions.residuals import default_tolerance, residuals
from kkt_solvers.data.entropy import xlogx
from kkt_solvers.data.objectives import Smooth
from kkt_solvers.data.problem import FlatProblem
from kkt_solvers.numerics import lapack
from kkt_solvers.numerics.arrays import float_dtype, floating, full_precision
from kkt_solvers.problems import _checks

_NEWTON = 10  # steps


def ChemicalEquilibrium(gibbs: Any, formula: Any, abundance: Any, pressure: Any = 1.0) -> Problem:
    """Chemical equilibrium as a `Problem`, in the amounts of the species.

    Arguments:
        gibbs: standard Gibbs energies at the temperature, by RT, shape `(species,)`: see `standard_gibbs`.
        formula: atoms of each element in each species, shape `(elements, species)`; a row of charges may have any sign.
        abundance: of each element, shape `(elements,)`, in any unit of amount.
        pressure: in units of the standard pressure, a scalar.

    Raises `ValueError` for shapes that do not fit, an element that is absent and a pressure that is not positive.
    With many rare species pass `solver=ElementPotentials()` to `solve`, as `chemical_equilibrium` does.

    >>> import kkt_solvers as kkt
    >>> from kkt_solvers.problems import ChemicalEquilibrium
    >>> solution = kkt.solve(ChemicalEquilibrium([0.0, -2.0], [[1.0, 2.0]], [1.0]))  # A and A2
    >>> solution.primal.tolist()
    [0.181, 0.410]
    """
    gibbs, formula = floating(gibbs, "gibbs"), floating(formula, "formula")
    abundance, pressure = floating(abundance, "abundance"), _checks.scalar(pressure, "pressure")
    if gibbs.ndim != 1:
        raise ValueError(f"gibbs must be a vector, got shape {gibbs.shape}; chemical_equilibrium takes batches")
    if formula.shape != (*abundance.shape, gibbs.size):
        raise ValueError(
            f"formula must have shape (elements, species), here {(*abundance.shape, gibbs.size)}, got {formula.shape}"
        )
    formula, abundance, pressure = _possible(formula, abundance, pressure)
    energies = gibbs + jnp.log(pressure)
    return Problem(_gibbs_energy, Affine(formula, abundance), Box(jnp.zeros_like(energies)), (energies,))


@dataclass(frozen=True)
class ElementPotentials:
    """The solver of this problem: `InteriorPoint`, then Newton's method on the potentials of the elements and the
    total amount [gordon1994], in which the rarest species are no harder than the others. Kept where it is better.

    With `n_i = total exp(formula_i'potential - energy_i)` it solves `formula n = abundance` and `sum n = total`.
    """

    def run(self, problem: FlatProblem, init: jax.Array) -> tuple[jax.Array, Dual, jax.Array, jax.Array]:
        objective = problem.objective
        if not isinstance(objective, Smooth):
            raise TypeError("ElementPotentials solves a ChemicalEquilibrium; InteriorPoint takes other problems")
        first, dual, iterations, claim = InteriorPoint().run(problem, init)
        energies, formula, zero = objective.args[0], problem.rows.dense(), jnp.zeros_like(init)

        def amounts(state: jax.Array) -> jax.Array:
            return jnp.exp(state[:-1] @ formula - energies + state[-1])

        def step(_: int, state: jax.Array) -> jax.Array:
            n, total = amounts(state), jnp.exp(state[-1])
            rest = jnp.append(problem.equality.target - formula @ n, total - jnp.sum(n))
            corner = (jnp.sum(n) - total)[None, None]
            J = jnp.block([[(formula * n) @ formula.T, (formula @ n)[:, None]], [(formula @ n)[None], corner]])
            # Elements may be dependent: the least of the steps.
            return state + jnp.clip(lapack.pinv(J) @ rest, -2, 2)

        state = jax.lax.fori_loop(0, _NEWTON, step, jnp.append(-dual.equality, jnp.log(jnp.sum(first))))
        least = 2 * jnp.finfo(init.dtype).tiny  # what is rarer is held there by a multiplier
        y = jnp.maximum(amounts(state), least)
        slope = objective.gradient(y) - state[:-1] @ formula
        other = Dual(-state[:-1], jnp.where(y == least, jnp.maximum(slope, 0), zero), zero)
        better = residuals(problem, y, other).largest < residuals(problem, first, dual).largest
        solved = residuals(problem, y, other).largest <= default_tolerance(y.dtype)
        y, dual = jax.tree.map(lambda a, b: jnp.where(better, a, b), (y, other), (first, dual))
        return y, dual, iterations + _NEWTON, jnp.where(better & solved, Status.SOLVED, claim)


class Equilibrium(NamedTuple):
    """The `amounts` of the species and their mole `fractions`, of shape `(..., species)`, and the `potentials` of the
    elements by RT, `(..., elements)`."""

    amounts: jax.Array
    fractions: jax.Array
    potentials: jax.Array


@full_precision
def chemical_equilibrium(gibbs: Any, formula: Any, abundance: Any, pressure: Any = 1.0) -> Equilibrium:
    """What a mixture of gases becomes when all reactions have come to rest.

    Arguments: as for `ChemicalEquilibrium`; `gibbs` of shape `(..., species)`, `abundance` `(..., elements)` and
    `pressure` `(...)` may have leading axes, that broadcast.

    Returns an `Equilibrium`, with small relative errors also in the rarest species; NaN where no amounts have that
    abundance. Through `standard_gibbs` it has a derivative in the temperature. Raises `ValueError` as
    `ChemicalEquilibrium` does.

    >>> from kkt_solvers.problems import chemical_equilibrium
    >>> chemical_equilibrium([0.0, -2.0], [[1.0, 2.0]], [1.0]).fractions.tolist()
    [0.306, 0.694]
    """
    gibbs, formula = floating(gibbs, "gibbs"), floating(formula, "formula")
    abundance, pressure = floating(abundance, "abundance"), floating(pressure, "pressure")
    shape = (*abundance.shape[-1:], *gibbs.shape[-1:])
    if len(shape) < 2 or formula.shape != shape:
        raise ValueError(f"formula must have shape (elements, species), here {shape}, got {formula.shape}")
    formula, abundance, pressure = _possible(formula, abundance, pressure)
    dtype = float_dtype(gibbs, formula, abundance, pressure)
    gibbs, formula, abundance, pressure = (value.astype(dtype) for value in (gibbs, formula, abundance, pressure))

    def one(gibbs: jax.Array, abundance: jax.Array, pressure: jax.Array) -> tuple[jax.Array, ...]:
        # Neither the unit of amount nor the zero of each element's energy is part of the problem.
        amount, zero = jnp.sum(jnp.abs(abundance)), jax.lax.stop_gradient(jnp.linalg.lstsq(formula.T, gibbs)[0])
        problem = ChemicalEquilibrium(gibbs - zero @ formula, formula, abundance / amount, pressure)
        solution = solve(problem, solver=ElementPotentials())
        potentials = zero - solution.dual.equality
        fractions = jnp.exp(potentials @ formula - gibbs - jnp.log(pressure))
        return _checks.solved(solution, (amount * jnp.sum(solution.primal) * fractions, fractions, potentials))

    return Equilibrium(*jnp.vectorize(one, signature="(n),(m),()->(n),(n),(m)")(gibbs, abundance, pressure))


def standard_gibbs(coefficients: Any, temperature: Any) -> jax.Array:
    """Standard Gibbs energies by RT from NASA's polynomials of seven coefficients [mcbride1993].

    Arguments:
        coefficients: shape `(species, 15)`: the temperature at which two ranges meet, the seven coefficients above
            it, the seven below; what Cantera has as `species.thermo.coeffs`.
        temperature: in kelvin, shape `(...)`.

    Returns the energies, `(..., species)`. The enthalpies by RT are `-temperature` times their derivative in it.

    >>> from kkt_solvers.problems import standard_gibbs
    >>> argon = [1000.0] + 2 * [2.5, 0.0, 0.0, 0.0, 0.0, -745.375, 4.366]
    >>> standard_gibbs([argon], 300.0)
    Array([-18.6], dtype=float32)
    """
    coefficients, T = floating(coefficients, "coefficients"), floating(temperature, "temperature")[..., None]
    if coefficients.ndim != 2 or coefficients.shape[1] != 15:
        raise ValueError(f"coefficients must have shape (species, 15), got {coefficients.shape}")
    T = _checks.where_valid(T, "temperature must be positive: it is in kelvin", lambda xp, T: T > 0)
    high = T[..., None] > coefficients[:, :1]
    a = jnp.moveaxis(jnp.where(high, coefficients[:, 1:8], coefficients[:, 8:]), -1, 0)
    powers = a[1] * T / 2 + a[2] * T**2 / 6 + a[3] * T**3 / 12 + a[4] * T**4 / 20
    return a[0] * (1 - jnp.log(T)) - powers + a[5] / T - a[6]


def _gibbs_energy(n: jax.Array, energies: jax.Array) -> jax.Array:
    return jnp.sum(energies * n + xlogx(n)) - xlogx(jnp.sum(n))


def _possible(formula: jax.Array, abundance: jax.Array, pressure: jax.Array) -> tuple[jax.Array, ...]:
    def held(xp: Any, formula: Any) -> Any:
        return xp.any(formula != 0, axis=1, keepdims=True)

    def present(xp: Any, abundance: Any, formula: Any) -> Any:
        return xp.any(formula < 0, axis=1) | (abundance > 0)

    formula = _checks.where_valid(formula, "formula has an element that no species holds", held)
    message = "abundance must be positive: leave out an element that is absent, and the species with it"
    abundance = _checks.where_valid(abundance, message, present, formula)
    message = "pressure must be positive, in units of the standard pressure"
    return formula, abundance, _checks.where_valid(pressure, message, lambda xp, pressure: pressure > 0)
