"""Functions that close over traced values, turned into pytrees that carry them."""

import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.core

from kkt_solvers.numerics.pytree import pytree


@pytree(static=("jaxpr", "structure"))
@dataclass(frozen=True, eq=False)
class Closed:
    """A traced function and the values that it closed over, which are leaves and so can be differentiated."""

    closed_over: list[Any]
    jaxpr: Any
    structure: Any

    def __call__(self, *args: Any) -> Any:
        out = jax.core.eval_jaxpr(self.jaxpr, self.closed_over, *jax.tree.leaves(args))
        return jax.tree.unflatten(self.structure, out)


def hoist(function: Any, *args: Any) -> Any:
    """`function` itself, or, where it closes over tracers, a `Closed` copy of it for arguments like `args`.

    A rule of differentiation may not refer to tracers of an outer transformation; as leaves of a pytree they are
    ordinary inputs, and `jax.grad` through a lambda over a tracer just works.
    """
    if isinstance(function, types.FunctionType) and function.__closure__ is None:
        return function  # Nothing can be closed over; spare the trace.
    traced, shape = jax.make_jaxpr(function, return_shape=True)(*args)
    if not any(isinstance(value, jax.core.Tracer) for value in traced.consts):
        return function
    return Closed(list(traced.consts), traced.jaxpr, jax.tree.structure(shape))


def elementwise_derivative(function: Callable[..., jax.Array], y: jax.Array, *args: Any) -> jax.Array:
    """The derivative in `y` of a function that acts on every entry of `y` alone."""
    return jax.jvp(lambda y: function(y, *args), (y,), (jax.numpy.ones_like(y),))[1]
