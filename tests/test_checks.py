"""The checks that are not tests: lint, format, types, and what the wheel holds."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    "command",
    [
        ("ruff", "check", "."),
        ("ruff", "format", "--check", "."),
        ("pyright", "--pythonpath", sys.executable),
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_check(command):
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_wheel_holds_every_module(tmp_path):
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if name.endswith((".py", "py.typed"))}
    modules = {path for path in (ROOT / "kkt_solvers").rglob("*.py") if "problems" not in path.parts}
    expected = {str(path.relative_to(ROOT)) for path in modules}
    expected |= {f"kkt_solvers/problems/{path.name}" for path in (ROOT / "problems").glob("*.py")}
    assert held == expected | {"kkt_solvers/py.typed"}


def test_jaxopt_is_imported_only_when_used():
    code = """
import sys
import kkt_solvers as kkt
from kkt_solvers.problems import LML, lml
lml([1.0, 2.0], 1)
optional = {"jaxopt", "flax", "optax", "sklearn", "matplotlib", "equinox"}
assert not optional & set(sys.modules), optional & set(sys.modules)
kkt.solve(LML([1.0, 2.0], 1), solver=kkt.ProjectedGradient())
assert "jaxopt" in sys.modules
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
