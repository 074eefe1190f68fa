"""Every code block of every page runs, and the tutorials run."""

import re
import runpy
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted(path.relative_to(ROOT) for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_python_blocks(page):
    names = {"__name__": "__page__"}
    for language, code in BLOCK.findall((ROOT / page).read_text()):
        # Shell blocks are the two commands of the README: CI runs one, `test_digits` the script of the other.
        assert language in ("python", "text") or (language == "sh" and page == Path("README.md")), code
        if language == "python":
            exec(compile(code, str(page), "exec"), names)


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent == Path()], ids=str)
def test_links_to_files(page):
    text = BLOCK.sub("", (ROOT / page).read_text())
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]
    assert [target for target in targets if target and not (ROOT / target).exists()] == []


def test_the_readme_has_two_commands():
    commands = [code for language, code in BLOCK.findall((ROOT / "README.md").read_text()) if language == "sh"]
    assert [command.rstrip().rpartition("&& ")[2] for command in commands] == [
        ".venv/bin/python docs/tutorials/digits.py",
        ".venv/bin/python -m pytest -n 2",
    ]


def test_digits(tmp_path, capsys):
    main = runpy.run_path(str(ROOT / "docs/tutorials/digits.py"))["main"]
    main(["--epochs", "1", "--seeds", "1", "--output", str(tmp_path / "digits.png")])
    printed = capsys.readouterr().out
    row = r"^{} +\| +\d+\.\d+ +\| +\d+\.\d+ +\| +\d+\.\d+$"
    for model in ("softmax", "LML"):
        assert len(re.findall(row.format(model), printed, re.MULTILINE)) == 2, model  # one table for each task
    assert (tmp_path / "digits.png").stat().st_size > 10_000


APART = {"digits", "subset"}  # which have tests of their own, below
SLOW = {"qp_layer", "learned_limits"}  # which test_site runs, with all others
TUTORIALS = sorted({path.stem for path in ROOT.glob("docs/tutorials/*.py")} - APART - SLOW)


@pytest.mark.parametrize("name", TUTORIALS)
def test_tutorial(name, monkeypatch):
    from matplotlib import pyplot

    pyplot.switch_backend("Agg")
    monkeypatch.setattr(pyplot, "show", lambda: None)
    runpy.run_path(str(ROOT / f"docs/tutorials/{name}.py"), run_name="__main__")
    assert pyplot.get_fignums()
    pyplot.close("all")
    jax.config.update("jax_enable_x64", False)


def test_subset(tmp_path, capsys):
    main = runpy.run_path(str(ROOT / "docs/tutorials/subset.py"))["main"]
    main(seeds=2, output=tmp_path / "subset.png")
    assert re.search(r"^LML +\| +9\d\.\d+ ± +\d+\.\d+ +\|", capsys.readouterr().out, re.MULTILINE)
    assert (tmp_path / "subset.png").stat().st_size > 10_000


def test_the_lml_benchmark_runs(capsys):
    main = runpy.run_path(str(ROOT / "docs/benchmarks/lml.py"))["main"]
    main(["--small", "--repeats", "1"])
    assert re.search(r"^ +128 x 1000 +\| +5 \| +\d+\.\d+ \| +\d+\.\d+ \|", capsys.readouterr().out, re.MULTILINE)
