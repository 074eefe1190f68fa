"""The site builds without a warning, its links lead somewhere, and a browser shows its pages whole."""

import html.parser
import os
import shutil
import subprocess
import sys
import urllib.parse
from pathlib import Path

import browser
import pytest

ROOT = Path(__file__).parent.parent
GENERATED = ("_build", "auto_tutorials", "reference", "__pycache__")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built pages: every tutorial has run."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(ROOT / "docs", folder / "docs", ignore=shutil.ignore_patterns(*GENERATED))
    for page in ROOT.glob("*.md"):
        shutil.copy(page, folder)
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "docs", "html"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "html"


class Page(html.parser.HTMLParser):
    """What a page refers to, and what in it can be referred to."""

    def __init__(self, path):
        super().__init__()
        self.targets, self.names = [], set()
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.names |= {attributes[key] for key in ("id", "name") if attributes.get(key)}
        self.targets += [attributes[key] for key in ("href", "src") if attributes.get(key)]


def broken_links(folder):
    """`page -> target` for every target inside the site that is not there."""
    pages = {path: Page(path) for path in folder.rglob("*.html")}
    broken = []
    for path, page in pages.items():
        for target in page.targets:
            parts = urllib.parse.urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            where = (path.parent / urllib.parse.unquote(parts.path)).resolve() if parts.path else path
            name = urllib.parse.unquote(parts.fragment)
            if not where.exists() or (name and where in pages and name not in pages[where].names):
                broken.append(f"{path.relative_to(folder)} -> {target}")
    return broken


def test_a_broken_link_is_found(tmp_path):
    (tmp_path / "a.html").write_text(
        '<a href="b.html#here">, <a href="b.html#there">, <img src="c.png">, <a href="#x">'
    )
    (tmp_path / "b.html").write_text('<p id="here">, <a href="https://example.org/nowhere">')
    assert broken_links(tmp_path) == ["a.html -> b.html#there", "a.html -> c.png", "a.html -> #x"]


def test_public_names_have_docstrings(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "extensions"))
    import reference

    pages = reference.entries()
    assert {"kkt_solvers", "kkt_solvers.solvers", "kkt_solvers.problems", "kkt_solvers.plot"} <= set(pages)
    assert "kkt_solvers.InteriorPoint" in pages["kkt_solvers.solvers"]  # with its kin, by its shortest name
    assert reference.undocumented(pages) == []
    assert reference.undocumented({"page": {"silent": lambda: None}}) == ["silent"]


@pytest.mark.slow
def test_links(site):
    assert len(list(site.glob("auto_tutorials/*.html"))) == len(list((ROOT / "docs/tutorials").glob("*.py"))) + 1
    assert broken_links(site) == []


@pytest.mark.slow
def test_pages_in_a_browser(site, tmp_path):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    assert browser.visit(chromium, site, tmp_path) == []


@pytest.mark.slow
def test_the_browser_sees_faults(tmp_path):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    folder, profile = tmp_path / "html", tmp_path / "profile"
    folder.mkdir()
    profile.mkdir()
    wide = "<article><pre style='width: 800px'>wide</pre></article>"
    (folder / "page.html").write_text(
        f"<!doctype html><body>{wide}<img src='gone.png'><script>undefined_name()</script>"
    )
    faults = "\n".join(browser.visit(chromium, folder, profile))
    assert "page.html at 390 px: beyond the edge" in faults
    assert "page.html at 1280 px: beyond the edge" not in faults
    assert "missing image" in faults
    assert "undefined_name is not defined" in faults
