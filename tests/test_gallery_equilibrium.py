"""Equilibrium of burnt methane against Cantera (1e-8), and a published composition (1e-5, in float32)."""

import cantera
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kkt_solvers.problems import ChemicalEquilibrium, chemical_equilibrium, standard_gibbs

_SPECIES = cantera.Solution("gri30.yaml").species()  # 53
_NAMES = [species.name for species in _SPECIES]
_MIXTURE = "CH4:1, O2:2.2, N2:8.3, AR:0.1"


def gas(temperature, pressure=1.0):
    gas = cantera.Solution("gri30.yaml")
    gas.TPX = temperature, pressure * gas.reference_pressure, _MIXTURE
    return gas


def rest(temperature, pressure=1.0):
    burnt = gas(temperature, pressure)
    burnt.equilibrate("TP", rtol=1e-11)
    return burnt.X


_COEFFICIENTS = np.array([species.thermo.coeffs for species in _SPECIES])
_FORMULA = np.array(
    [[species.composition.get(element, 0) for species in _SPECIES] for element in ("C", "H", "O", "N", "Ar")]
)
_ABUNDANCE = _FORMULA @ gas(300.0).X


@jax.jit
def burnt(temperature, pressure):
    """Fractions and enthalpy by R of the burnt gas, and their slopes in the temperature."""

    def at(temperature):
        gibbs, slope = jax.jvp(lambda T: standard_gibbs(_COEFFICIENTS, T), (temperature,), (1.0,))
        amounts, fractions, _ = chemical_equilibrium(gibbs, _FORMULA, _ABUNDANCE, pressure)
        return fractions, -(temperature**2) * slope @ amounts

    return jax.jvp(at, (temperature,), (1.0,))


@pytest.mark.parametrize("pressure", [1.0, 20.0])
def test_fractions_and_their_slopes_against_cantera(pressure, x64):
    for temperature in (1000.0, 1500.0, 2500.0):
        (fractions, _), (slope, _) = burnt(temperature, pressure)
        expected = rest(temperature, pressure)
        np.testing.assert_allclose(fractions, expected, atol=1e-8)
        np.testing.assert_allclose(fractions, expected, rtol=1e-6)  # the rarest is of 1e-100
        h = 1e-3 * temperature
        wanted = (np.log(rest(temperature + h, pressure)) - np.log(rest(temperature - h, pressure))) / (2 * h)
        np.testing.assert_allclose(slope / fractions, wanted, rtol=1e-3, atol=1e-8)
        # Van 't Hoff: the constant of CO2 = CO + O2 / 2 grows by the heat of the reaction, by R T^2.
        reaction = np.zeros(len(_NAMES))
        reaction[[_NAMES.index(name) for name in ("CO2", "CO", "O2")]] = -1, 1, 0.5
        heat = reaction @ gas(temperature).standard_enthalpies_RT
        np.testing.assert_allclose(reaction @ (slope / fractions), heat / temperature, rtol=1e-9)


def test_the_temperature_of_a_flame_by_newtons_method(x64):
    cold, hot = gas(298.15), gas(298.15)
    enthalpy = cold.enthalpy_mole / cantera.gas_constant
    hot.equilibrate("HP", rtol=1e-11)
    temperature = 1800.0
    for _ in range(8):
        (_, value), (_, slope) = burnt(temperature, 1.0)
        temperature = temperature - (value - enthalpy) / slope
    np.testing.assert_allclose(temperature, hot.T, rtol=1e-7)
    assert 2000 < temperature < 2300


def test_the_published_composition_in_float32():
    # Hydrazine and oxygen at 3500 K and 51 atm; the pressure is in the energies, the amounts in moles of hydrogen.
    energies = [-6.089, -17.164, -34.054, -5.914, -24.721, -14.986, -24.100, -10.708, -26.662, -22.179]
    formula = [[1, 2, 2, 0, 0, 1, 0, 0, 0, 1], [0, 0, 0, 1, 2, 1, 1, 0, 0, 0], [0, 0, 1, 0, 0, 0, 1, 1, 2, 1]]
    published = [0.040668, 0.147730, 0.783153, 0.001414, 0.485247, 0.000693, 0.027399, 0.017947, 0.037314, 0.096872]
    energies, formula, abundance = (np.array(value, np.float32) for value in (energies, formula, [2.0, 1.0, 1.0]))
    both = chemical_equilibrium(energies, formula, np.stack([abundance, 1e4 * abundance]))
    assert both.amounts.dtype == np.float32
    np.testing.assert_allclose(both.amounts[0], published, atol=1e-5)
    np.testing.assert_allclose(both.amounts[1], 1e4 * both.amounts[0], rtol=1e-5)
    np.testing.assert_allclose(formula @ both.amounts[0], abundance, rtol=5e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"abundance": [0.0]}, "abundance must be positive: leave out an element"),
        ({"formula": [[0.0, 0.0]]}, "formula has an element that no species holds"),
        ({"formula": [[1.0, 2.0, 3.0]]}, r"formula must have shape \(elements, species\), here \(1, 2\)"),
        ({"pressure": 0.0}, "pressure must be positive"),
    ],
)
def test_bad_input(change, message):
    for verb in (ChemicalEquilibrium, chemical_equilibrium):
        with pytest.raises(ValueError, match=message):
            verb(**{"gibbs": [0.0, -2.0], "formula": [[1.0, 2.0]], "abundance": [1.0], **change})


def test_bad_batches_and_coefficients():
    with pytest.raises(ValueError, match="chemical_equilibrium takes batches"):
        ChemicalEquilibrium(jnp.zeros((3, 2)), [[1.0, 2.0]], [1.0])
    with pytest.raises(ValueError, match=r"coefficients must have shape \(species, 15\)"):
        standard_gibbs(np.ones((2, 7)), 300.0)
    with pytest.raises(ValueError, match="temperature must be positive"):
        standard_gibbs(_COEFFICIENTS, [300.0, 0.0])
