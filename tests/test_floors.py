"""The house has floors: a module imports from its own floor and those below it only, and in no circle."""

import ast
from pathlib import Path

import kkt_solvers

ROOT = Path(kkt_solvers.__file__).parent
FLOORS = (
    {"numerics"},
    {"data"},
    {"systems"},
    {"conditions"},
    {"_derivative", "_smoothing", "solvers", "linear"},
    {"_solve"},
    {"_degeneracy", "_qp", "plot", "projections"},
    {"__init__"},
    {"problems"},
)


def name_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported():
    """Every module, by its dotted name in the package, and those of the package that it imports at the top."""
    paths = {name_of(path): path for path in [*ROOT.rglob("*.py"), *(ROOT / "problems").glob("*.py")]}
    found = {name: set() for name in paths}
    for name, path in paths.items():
        for node in ast.parse(path.read_text()).body:
            if not isinstance(node, ast.ImportFrom) or (node.module or "").split(".")[0] != "kkt_solvers":
                continue
            module = node.module.removeprefix("kkt_solvers").removeprefix(".")
            inner = {f"{module}.{alias.name}".removeprefix(".") for alias in node.names}
            found[name] |= inner & paths.keys() or {module or "__init__"}
    return found


def floor(name):
    return next(i for i, names in enumerate(FLOORS) if name.split(".")[0] in names)


def test_imports_go_down():
    found = imported()
    assert [(name, other) for name in found for other in found[name] if floor(other) > floor(name)] == []


def test_no_circle_of_imports():
    modules = imported()
    while leaves := [name for name, others in modules.items() if not others & modules.keys() - {name}]:
        for name in leaves:
            del modules[name]
    assert modules == {}
