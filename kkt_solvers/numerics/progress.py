"""Reports from inside compiled solver loops. Without a listener nothing is compiled in."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

import jax

Listener = Callable[[Any, Any, Any], Any]

_listener: contextvars.ContextVar[Listener | None] = contextvars.ContextVar("listener", default=None)


@contextlib.contextmanager
def listening(listener: Listener | None) -> Iterator[None]:
    """While a solver is traced in here, its reports go to `listener`."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def is_heard() -> bool:
    """Whether anybody listens: what is only computed for a report need not be else."""
    return _listener.get() is not None


def report(iteration: jax.Array, objective: jax.Array, residual: jax.Array) -> None:
    """To be called by a solver: `iteration` is zero for the starting point; `residual` the largest KKT residual."""
    listener = _listener.get()
    if listener is not None:
        jax.debug.callback(listener, iteration, objective, residual)


def print_row(iteration: Any, objective: Any, residual: Any) -> None:
    """One row of the live table; tqdm writes it so that progress bars stay whole."""
    from tqdm import tqdm

    if iteration == 0:
        tqdm.write(f"{'iteration':>9}  {'objective':>16}  {'largest residual':>16}")
    tqdm.write(f"{int(iteration):>9}  {float(objective):>16.8e}  {float(residual):>16.1e}")


def listener_of(progress: Any) -> Listener | None:
    """`progress` as `solve` takes it: a boolean or a function."""
    if progress is False or progress is None:
        return None
    if progress is True:
        try:
            import tqdm  # noqa: F401 - told here, and not from inside a compiled loop
        except ImportError as error:
            raise ImportError("progress=True needs tqdm: pip install tqdm, or pass a function of your own") from error
        return print_row
    if not callable(progress):
        raise TypeError(f"progress must be True, False or a function, got {type(progress).__name__}")
    return progress
