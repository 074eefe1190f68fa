"""How the tutorials are run when the site is built."""

from pathlib import Path

import jax
from sphinx_gallery.scrapers import figure_rst

ORDER = [
    "lml_in_five_minutes",
    "own_problem",
    "certificates",
    "differentiate_anything",
    "no_derivative",
    "output_layers",
    "constrained_layer",
    "qp_layer",
    "learned_limits",
    "safety_filter",
    "hyperparameters",
    "backtest",
    "batches",
    "many_machines",
    "from_jaxopt",
    "own_solver",
    "subset",
    "digits",
]


class Order:
    """The order in which to read them; those that are not named come last."""

    def __init__(self, folder):
        del folder

    def __call__(self, filename):
        name = Path(filename).stem
        return (ORDER.index(name) if name in ORDER else len(ORDER), name)


def single_precision(gallery_conf, filename):
    """No tutorial sees the precision that another one asked for."""
    del gallery_conf, filename
    jax.config.update("jax_enable_x64", False)


def arguments(gallery_conf, script_vars):
    """The digits are run in full, for fewer repetitions show no clear difference."""
    del gallery_conf
    return ["--output", "digits.png"] if Path(script_vars["src_file"]).stem == "digits" else []


def saved_pictures(block, block_vars, gallery_conf):
    """The picture that a script has saved beside itself."""
    del block
    source = Path(block_vars["src_file"]).with_suffix(".png")
    if not source.exists():
        return ""
    target = Path(next(block_vars["image_path_iterator"]))
    source.replace(target)
    return figure_rst([str(target)], gallery_conf["src_dir"])
