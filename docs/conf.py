"""The site. Build it with `sphinx-build -W docs docs/_build/html`.

It needs no network: what is linked in other projects' documentation is listed in `inventory.txt`.
"""

import os
import sys
import zlib
from pathlib import Path

import kkt_solvers

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "extensions"))
os.environ.setdefault("MPLBACKEND", "Agg")

project = "kkt_solvers"
author = "the kkt_solvers authors"
project_copyright = f"{author}, Apache-2.0"
release = version = kkt_solvers.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.intersphinx",
    "myst_parser",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
    "formulas",
    "reference",
]
exclude_patterns = ["_build", "tutorials", "benchmarks", "extensions", "inventory.txt"]
nitpicky = True
suppress_warnings = ["config.cache"]  # the settings of the gallery are functions

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

autodoc_typehints = "none"  # docstrings tell shapes and dtypes, which the annotations do not know
autodoc_inherit_docstrings = False
napoleon_use_rtype = False

html_math_renderer = "mathml"
html_theme = "furo"
html_title = "kkt_solvers"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#1b6ca8", "color-brand-content": "#1b6ca8"},
    "dark_css_variables": {"color-brand-primary": "#6cb4ee", "color-brand-content": "#6cb4ee"},
}
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True

sphinx_gallery_conf = {
    "examples_dirs": "tutorials",
    "gallery_dirs": "auto_tutorials",
    "filename_pattern": r"\.py$",
    "within_subsection_order": "gallery.Order",
    "image_scrapers": ("matplotlib", "gallery.saved_pictures"),
    "reset_argv": "gallery.arguments",
    "reset_modules": ("matplotlib", "gallery.single_precision"),
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_signature": False,
    "write_computation_times": False,
    "min_reported_time": 1e9,
}


def _inventories():
    """`intersphinx_mapping`, with an inventory of our own for each project."""
    lines, bases = {}, {}
    for line in (HERE / "inventory.txt").read_text().splitlines():
        if line.startswith("#"):
            continue
        name, base, role, page, targets = (part.strip() for part in line.split("|"))
        bases[name] = base + "/"
        lines.setdefault(name, []).extend(
            f"{target} py:{role} 1 {page.replace('$', target)} -\n" for target in targets.split()
        )
    folder = HERE / "_build" / "inventories"
    folder.mkdir(parents=True, exist_ok=True)
    for name, entries in lines.items():
        head = ("Sphinx inventory version 2", f"Project: {name}", "Version: ", "The remainder of this file is zlib.")
        text = "".join(f"# {line}\n" for line in head)
        (folder / f"{name}.inv").write_bytes(text.encode() + zlib.compress("".join(entries).encode()))
    return {name: (base, str(folder / f"{name}.inv")) for name, base in bases.items()}


intersphinx_mapping = _inventories()
