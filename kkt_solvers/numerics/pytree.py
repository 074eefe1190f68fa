"""Frozen dataclasses as pytrees whose callables may be plain functions or pytrees themselves."""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import jax
from jax.tree_util import GetAttrKey

T = TypeVar("T", bound=type)


def _is_leaf(value: Any) -> bool:
    """A plain function is one opaque leaf; a callable pytree (an equinox module, a `Partial`) is not."""
    return value is not None and jax.tree_util.all_leaves([value])


def pytree(*, callables: tuple[str, ...] = (), static: tuple[str, ...] = ()) -> Callable[[T], T]:
    """Register a dataclass as a pytree.

    Fields named in `static` are compared and hashed, never traced. Fields named in `callables` are static when
    they hold a plain function and children when they hold a pytree, so that arrays inside a callable are leaves.
    Unflattening does not call the constructor: leaves may be tracers, `None`, or anything else JAX puts there.
    """

    def register(cls: T) -> T:
        names = tuple(field.name for field in dataclasses.fields(cls) if field.name not in static)

        def flatten_with_keys(node: Any):
            opaque = tuple(
                getattr(node, name) if name in callables and _is_leaf(getattr(node, name)) else None for name in names
            )
            children = [
                (GetAttrKey(name), None if hidden is not None else getattr(node, name))
                for name, hidden in zip(names, opaque, strict=True)
            ]
            return children, (opaque, tuple(getattr(node, name) for name in static))

        def unflatten(aux: Any, children: Any):
            node = object.__new__(cls)
            for name, hidden, child in zip(names, aux[0], children, strict=True):
                object.__setattr__(node, name, child if hidden is None else hidden)
            for name, value in zip(static, aux[1], strict=True):
                object.__setattr__(node, name, value)
            return node

        jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten)
        return cls

    return register
