"""The API reference: a page for each public module, made of its docstrings.

Docstrings are written in Markdown, as they are read in an editor; here they become reStructuredText. A name in
backticks links to its entry, and a `[key]` to the bibliography. A public name without docstring or without entry, and
a key that the bibliography lacks, are warnings, which fail the build.
"""

import enum
import importlib
import inspect
import pkgutil
import re
import types
from pathlib import Path

from sphinx.util import logging

log = logging.getLogger(__name__)
PACKAGE, GALLERY = "kkt_solvers", "kkt_solvers.problems"
# The floors below what users call, and the rooms of a solver: private, though their files have plain names.
PRIVATE = re.compile(r"\._|\.(numerics|data|systems|conditions|interior_point)\b")
KEY = re.compile(r"\[([a-z]+\d{4})\]")


# ---------------------------------------------------------------------------------------- what is public
def public_modules():
    """The package and everything in it that is not private."""
    package = importlib.import_module(PACKAGE)
    found = [package]
    for module in pkgutil.walk_packages(package.__path__, f"{PACKAGE}."):
        if not PRIVATE.search(module.name):
            found.append(importlib.import_module(module.name))
    return found


def public_names(module):
    """Its `__all__`; without one, what it defines and does not hide."""
    if hasattr(module, "__all__"):
        names = module.__all__
    else:
        names = [
            name
            for name, value in vars(module).items()
            if name[0] != "_" and getattr(value, "__module__", None) == module.__name__
        ]
    return [name for name in names if not isinstance(getattr(module, name), types.ModuleType)]


def entries():
    """`{module name: {full name: object}}`: every object once, under the shortest name, on the page of its own module.

    What lies in a file of the gallery is on the gallery's page, also what is not handed on from there.
    """
    modules = sorted(public_modules(), key=lambda module: module.__name__.count("."))
    shortest, pages = {}, {}
    for module in modules:
        for name in public_names(module):
            value = getattr(module, name)
            full = shortest.setdefault(id(value), f"{module.__name__}.{name}")
            page = GALLERY if module.__name__.startswith(GALLERY) else module.__name__
            if page != PACKAGE:  # imported higher up for convenience: it stays with its kin
                pages.get(PACKAGE, {}).pop(full, None)
            pages.setdefault(page, {})[full] = value
    return {module: names for module, names in pages.items() if names}


def write_pages(app):
    """Before Sphinx looks for pages."""
    app.reference_entries = entries()
    app.reference_names = {}
    for names in app.reference_entries.values():
        for full in names:
            for short in (full, full.removeprefix(f"{PACKAGE}."), full.rpartition(".")[2]):
                app.reference_names[short] = full
    inventory = (Path(app.srcdir) / "inventory.txt").read_text()
    app.foreign_names = set(re.findall(r"(?<= )[a-z]+(?:\.\w+)+(?=[ \n])", inventory))
    app.reference_keys = set(re.findall(r"^\| (\w+) \|", (Path(app.srcdir) / "references.md").read_text(), re.M))
    folder = Path(app.srcdir) / "reference"
    folder.mkdir(exist_ok=True)
    pages = {"index": _index(app.reference_entries)}
    pages |= {module: _page(app, module, names) for module, names in app.reference_entries.items()}
    for old in folder.glob("*.rst"):
        if old.stem not in pages:
            old.unlink()
    for name, text in pages.items():
        path = folder / f"{name}.rst"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def _index(modules):
    lines = ["API reference", "=============", "", ".. toctree::", "   :maxdepth: 1", ""]
    return "\n".join([*lines, *(f"   {module}" for module in modules), ""])


def _page(app, module, names):
    lines = [*_head(module, "="), ".. list-table::", "   :widths: 30 70", ""]
    for full, value in names.items():
        first = " ".join((inspect.getdoc(value) or "").partition("\n\n")[0].split())
        short = full.removeprefix(f"{module}.")
        lines += [f"   * - :py:obj:`{short} <{full}>`", f"     - {_inline(app, full, first)}"]
    lines += [""]
    files = sorted({value.__module__ for value in names.values()}) if module == GALLERY else [None]
    for file in files:
        if file is not None:
            lines += _head(file, "-")
        for full, value in names.items():
            if file in (None, value.__module__):
                lines += _entry(full, value)
    return "\n".join(lines)


def _head(module, underline):
    return [module, underline * len(module), "", f".. automodule:: {module}", "   :no-index:", ""]


def _entry(full, value):
    if not inspect.isclass(value):
        return [f".. {'autofunction' if callable(value) else 'autodata'}:: {full}", ""]
    members = ["   :members:", *["   :undoc-members:"] * issubclass(value, enum.Enum)]
    if hasattr(value, "_fields"):  # of a named tuple, which are told by its docstring
        members.append(f"   :exclude-members: {', '.join(value._fields)}")
    return [f".. autoclass:: {full}", *members, ""]


def undocumented(pages):
    """The names without a docstring of their own."""
    found = []
    for names in pages.values():
        for full, value in names.items():
            own = vars(value).get("__doc__") if inspect.isclass(value) else getattr(value, "__doc__", None)
            generated = inspect.isclass(value) and (own or "").startswith(f"{value.__name__}(")  # by dataclass
            if not own or generated:
                found.append(full)
    return found


def check(app, env):
    """Every public name has a docstring and an entry."""
    for full in undocumented(app.reference_entries):
        log.warning("public name without a docstring: %s", full)
    documented = env.domaindata["py"]["objects"]
    for names in app.reference_entries.values():
        for full in names.keys() - documented.keys():
            log.warning("public name without an entry in the reference: %s", full)


# -------------------------------------------------------------------------- Markdown to reStructuredText
def convert(app, what, name, value, options, lines):
    """A docstring, in place."""
    del value, options
    lines[:] = list(_blocks(lines, lambda text: _inline(app, name, text)))
    if what in ("property", "attribute"):
        lines[:0] = ["..", ""]  # a comment: napoleon takes what stands before a colon in the first line for a type


def _inline(app, name, text):
    def outside(part):
        part = re.sub(r"([|\\])", r"\\\1", part)
        return KEY.sub(lambda match: _citation(app, name, match[1]), part)

    def code(part):
        target = app.reference_names.get(part.removeprefix("kkt."))
        if target and target != name:
            return f":py:obj:`{part} <{target}>`"
        return f":py:obj:`{part}`" if part in app.foreign_names else f"``{part}``"

    parts = text.split("`")
    return "".join(code(part) if index % 2 else outside(part) for index, part in enumerate(parts))


def _citation(app, name, key):
    if key not in app.reference_keys:
        log.warning("%s cites [%s], which docs/references.md lacks", name, key)
    return f"`[{key}] <../references.html#{key}>`__"


def _blocks(lines, inline):
    """Tables become list tables, indented blocks literal ones; doctests stay as they are."""
    index, indent_before, pending = 0, 0, ""
    while index < len(lines):
        line = lines[index]
        text, indent = line.strip(), len(line) - len(line.lstrip())
        after_blank = index > 0 and not lines[index - 1].strip()
        if text.startswith(">>>"):
            while index < len(lines) and lines[index].strip():
                yield lines[index]
                index += 1
            continue
        if text.startswith("|") and text.endswith("|"):
            rows = []
            while index < len(lines) and lines[index].strip().startswith("|"):
                rows.append([cell.strip() for cell in _cells(lines[index].strip())])
                index += 1
            yield from _table(rows, " " * indent, inline)
            indent_before = indent
            continue
        if text and after_blank and indent > indent_before and not text.startswith("- "):
            yield from (" " * indent_before + "::", "")
            while index < len(lines) and (not lines[index].strip() or lines[index].startswith(" " * indent)):
                yield lines[index]
                index += 1
            continue
        if text:
            indent_before = indent
            # A code span may run over the end of a line.
            pending = f"{pending}\n{line}" if pending else line
            if pending.count("`") % 2 == 0:
                yield from inline(pending).split("\n")
                pending = ""
        else:
            yield line
        index += 1


def _cells(row):
    """Split at the bars outside code."""
    parts = re.split(r"(`[^`]*`)", row.strip("|"))
    return "".join(part if part.startswith("`") else part.replace("|", "\0") for part in parts).split("\0")


def _table(rows, margin, inline):
    head, body = rows[0], rows[2:]
    yield ""
    yield f"{margin}.. list-table::"
    if any(head):
        yield f"{margin}   :header-rows: 1"
        body = [head, *body]
    yield ""
    for row in body:
        for column, cell in enumerate(row):
            yield f"{margin}   {'* -' if column == 0 else '  -'} {inline(cell)}"
    yield ""


def anchor_keys(app, docname, content):
    """Each key of the bibliography is an address."""
    del app
    if docname == "references":
        content[0] = re.sub(r"^\| (\w+\d{4}) \|", r'| <span id="\1">\1</span> |', content[0], flags=re.MULTILINE)


def setup(app):
    app.connect("builder-inited", write_pages)
    app.connect("autodoc-process-docstring", convert, priority=400)  # before napoleon
    app.connect("source-read", anchor_keys)
    app.connect("env-check-consistency", check)
    return {"parallel_read_safe": True}
