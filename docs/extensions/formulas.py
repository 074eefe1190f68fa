"""Formulas as formulas: the plain text of docstrings and pages, typeset where the site is built.

The source stays readable in a terminal: `argmin_y -x'y - H_b(y)  s.t.  w'y = k`. A code span or a literal block that
reads like that becomes LaTeX here, and MathML by latex2mathml, which browsers show without a script and without a
network. What does not read like a formula stays code.
"""

import re

from docutils import nodes
from latex2mathml.converter import convert as to_mathml

_GREEK = ["nu", "mu", "phi", "psi", "tau", "rho", "sigma", "theta", "gamma", "delta", "Omega"]
NAMES = {name: f"\\{name} " for name in [*_GREEK, "min", "max", "log", "exp", "sum", "prod"]}
NAMES |= {name: rf"\operatorname{{{name}}}" for name in ("argmin", "argmax", "diag", "sigmoid", "clip", "KL")}
NAMES |= {"epsilon": r"\varepsilon ", "eps": r"\varepsilon ", "lam": r"\lambda ", "grad": r"\nabla ", "inf": r"\infty "}
NAMES |= {"zl": "z_l", "zu": "z_u"}
NAMES |= {f"d{name}": f"d{NAMES[name]}" for name in ("nu", "lam", "zl", "zu")}
FUNCTIONS = {"f", "g", "phi", "psi"}  # f' is a derivative, A' a transpose
SIGNS = {"<=": r"\le ", ">=": r"\ge ", "->": r"\to ", "..": r"\dots ", "<": r"\lt ", ">": r"\gt ", ",": ",\\;"}
SIGNS |= {"{": r"\{", "}": r"\}", "s.t.": r"\text{s.t.}\quad ", "⟨": r"\langle ", "⟩": r"\rangle "}

TOKEN = re.compile(
    r"(?P<script>[_^](?:\{[^{}]*\}|\([^()]*\)|-?[A-Za-z0-9]+))|(?P<index>(?<=[A-Za-z])\d+)"
    r"|(?P<sign>s\.t\.|<=|>=|->|\.+|[-+/=<>⟨⟩(){},:;|\[\]])"
    r"|(?P<number>\d+(?:\.\d+)?(?:e-?\d+)?)|(?P<name>[A-Za-z]+)|(?P<prime>'+)|(?P<star>\*)|(?P<space>\s+)"
)
SHORT = {"of", "to", "in", "is", "or", "if", "on", "as", "at", "by", "no"}  # words of two letters, not products
# A word of a sentence beside a formula, with its spaces.
WORD = re.compile(rf"((?: ?(?<![\w'_])(?!(?:{'|'.join(NAMES)})\b)(?:[A-Za-z]{{3,}}|{'|'.join(SHORT)})(?![\w'_(]) ?)+)")
# What neither code nor a sentence has: transposes, powers, sums over an index.
CERTAIN = re.compile(r"\w'\(?\w|\w\^|[_^]\{|\bsum_|s\.t\.|\bargm")
OPERATION = re.compile(r"[\w)}|'*] (?=[\w(|])| (?:[-+=<>/]|<=|>=) |\w'|^\|.*\|$|^[A-Z]_[a-z]$")
SYMBOL = re.compile(rf"-?(?:[A-Za-z]|{'|'.join(_GREEK)}|lam|zl|zu|epsilon)(?:_[a-z]|\d|\*)?")
CODE = re.compile(r"^\((?:[^()]+,)+[^()]*\)$|\w=\w|==|\*\*|[(, ]\*\w|->|[A-Za-z]\.[A-Za-z]{2}|\[\w|\.\.\.|\.$")


def is_formula(text):
    """Whether a code span is mathematics rather than Python."""
    tokens = list(TOKEN.finditer(text))
    if CODE.search(text) or sum(len(token.group()) for token in tokens) != len(text):
        return False
    words = [token.group() for token in tokens if token.lastgroup == "name"]
    plain = all((len(word) < 3 and word not in SHORT) or word in NAMES for word in words)
    return bool(CERTAIN.search(text) or (plain and OPERATION.search(text)))


def latex(text):
    """A formula in plain text, as LaTeX."""
    text = re.sub(r"<([\w ]+, \w+)>", r"⟨\1⟩", re.sub(r"\bz([lu])_(\w)\b", r"z_(\1\2)", text))
    out, base, before = [], "", ""
    for token in TOKEN.finditer(text):
        kind, part = token.lastgroup, token.group()
        if kind == "script":
            out.append(f"{part[0]}{{{_script(part[1:])}}}")
        elif kind == "name":
            before, base = base, part
            out.append(NAMES.get(part) or (part if len(part) < 3 else rf"\mathrm{{{part}}}"))
        elif kind == "index":
            out.append(f"_{{{part}}}")
        elif kind == "prime":
            derivative = base in FUNCTIONS and before != "grad"
            if derivative:
                out[-1] = out[-1].rstrip()
            out.append(part if derivative else r"^{\top}")
        elif kind == "number":
            mantissa, _, power = part.partition("e")
            out.append(f"{mantissa} \\cdot 10^{{{power}}}".removeprefix("1 \\cdot ") if power else part)
        elif kind == "star":
            out.append(r"\cdot " if text[token.start() - 1] == " " else r"^{\star}")
        elif kind == "space":
            words = out and out[-1].startswith(r"\mathrm") and text[token.end() : token.end() + 1].isalpha()
            out.append(r"\quad " if len(part) > 1 else r"\ " if words else " ")
        else:
            out.append(SIGNS.get(part, part))
    return "".join(out)


def _script(text):
    inner = text[1:-1] if text[0] in "{(" else text
    return rf"\mathrm{{{inner}}}" if len(inner) > 2 and inner.isalpha() and inner not in NAMES else latex(inner)


def pieces(text):
    """A formula in a line, split where the line may break: after commas, before relations and `s.t.`."""
    depth, begin = 0, 0
    for index, sign in enumerate(text):
        depth += (sign in "({[") - (sign in ")}]")
        if (
            sign == " "
            and depth == 0
            and (text[index - 1] == "," or re.match(r" +(?:[<>]?=|[<>]|s\.t\.) ", text[index:]))
        ):
            yield text[begin:index].strip()
            begin = index
    yield text[begin:].strip()


# ----------------------------------------------------------------------------------------------- blocks
def blocks(text):
    """A literal block as LaTeX, an array for each paragraph; `None` if it is something else."""
    lines = text.strip("\n").split("\n")
    readable = all(not CODE.search(line[:-1]) and not TOKEN.sub("", line).strip() for line in lines)
    if not readable or not any(re.search(r" [<>]=? | = |'\w|\]", line) for line in lines):
        return None
    paragraphs = [part.split("\n") for part in re.split(r"\n\s*\n", "\n".join(lines))]
    return [_matrices(part) if part[0].lstrip().startswith("[") else _array(part) for part in paragraphs]


def _array(lines):
    rows = [[_cell(cell) for cell in re.split(r"\s{2,}", line.rstrip())] for line in lines]
    width = max(len(row) for row in rows)
    body = r" \\ ".join(r" & ".join(row) for row in rows)
    return rf"\begin{{array}}{{{'l' * width}}} {body} \end{{array}}"


def _cell(text):
    parts = WORD.split(text)
    return "".join(rf"\text{{{part}}}" if index % 2 else latex(part) for index, part in enumerate(parts))


def _matrices(lines):
    """Lines such as `[ A  B ] [ x ] = [ b ]`, each of which is a row of every matrix."""
    rows = [re.split(r"\[ (.*?) \]", line) for line in lines]
    out = ""
    for column, parts in enumerate(zip(*rows, strict=True)):
        if column % 2:
            body = r" \\ ".join(" & ".join(map(latex, re.split(r"\s{2,}", part.strip()))) for part in parts)
            out += rf"\begin{{bmatrix}} {body} \end{{bmatrix}}"
        else:
            out += latex(max((part.strip() for part in parts), key=len))
    return out


# ----------------------------------------------------------------------------------------------- Sphinx
def typeset(app, doctree):
    """Code spans and literal blocks that are formulas, in place; beside a formula, single symbols too."""
    del app
    for reads in (is_formula, SYMBOL.fullmatch):
        for node in list(doctree.findall(nodes.literal)):
            text = " ".join(node.astext().split())
            named = isinstance(node.parent, nodes.title) or "xref" in node["classes"]
            alone = reads is not is_formula and not any(node.parent.findall(nodes.math))
            if not (named or alone) and reads(text):
                parts = [[nodes.math(part, "{}" + latex(part)), nodes.Text("\u200b")] for part in pieces(text)]
                node.parent.replace(node, [part for pair in parts for part in pair][:-1])
    for node in list(doctree.findall(nodes.literal_block)):
        if node.get("language", "default") in ("text", "none", "default") and (found := blocks(node.astext())):
            node.parent.replace(node, [nodes.math_block(part, part, nowrap=False, number=None) for part in found])


def inline(self, node):
    self.body.append(to_mathml(node.astext()))
    raise nodes.SkipNode


def display(self, node):
    self.body.append(f'<div class="formula">{to_mathml(node.astext(), display="block")}</div>')
    raise nodes.SkipNode


def setup(app):
    app.connect("doctree-read", typeset)
    app.add_html_math_renderer("mathml", (inline, None), (display, None))
    return {"parallel_read_safe": True}
