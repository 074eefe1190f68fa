"""The plain text of formulas becomes LaTeX and MathML, and code stays code."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def formulas(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "extensions"))
    import formulas

    return formulas


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A'nu = zl - zu", r"A^{\top}\nu = z_l - z_u"),
        ("sum_i zl_i (y_i - l_i) >= 1e-9", r"\sum_{i} z_{li} (y_{i} - l_{i}) \ge 10^{-9}"),
        ("phi'(y_i) / w_i <= 2.5e3", r"\phi'(y_{i}) / w_{i} \le 2.5 \cdot 10^{3}"),
        ("d f* / d b = -nu", r"d f^{\star} / d b = -\nu"),
        ("{y : A (H + D)^{-1} A'nu}", r"\{y : A (H + D)^{-1} A^{\top}\nu \}"),
        ("<cost, Y> + |grad f'y|", r"\langle \mathrm{cost},\; Y\rangle + |\nabla f^{\top}y|"),
        ("J(y0) x_(t+1) dy_held", r"J(y_{0}) x_{t+1} dy_{\mathrm{held}}"),
    ],
)
def test_latex(formulas, text, expected):
    assert re.sub(r" +(?=_)| +(?= )| $", "", formulas.latex(text)) == expected


@pytest.mark.parametrize(
    ("text", "reads"),
    [
        ("y = sigmoid(x - nu)", True),
        ("argmin |y - v|^2 / 2  s.t.  weights'y = total", True),
        ("n + m", True),
        ("A y", True),
        ("lam, zl, zu >= 0", True),
        ("y = lml(x, k)", False),
        ("f(y, *args)", False),
        ("(m, n)", False),
        ("total=1", False),
        ("lower <= y <= upper", False),
        ("y[0] <= 1.0", False),
        ("kkt.solve(problem)", False),
        ("A must be a matrix; pass equality=lambda y: A(y) - b", False),
        ("k", False),
    ],
)
def test_what_is_a_formula(formulas, text, reads):
    assert formulas.is_formula(text) == reads


def test_blocks(formulas):
    (array,) = formulas.blocks("minimise  f(y)    convex\n          A y = b  m rows\n")
    assert array == (
        r"\begin{array}{lll} \text{minimise} & f(y) & \text{convex} \\  & A y = b & m\text{ rows} \end{array}"
    )
    (matrix,) = formulas.blocks("[ H  A' ] [ x ]     [ r ]\n[ A  0  ] [ z ] = - [ s ]")
    body = r"\begin{bmatrix} H & A^{\top} \\ A & 0 \end{bmatrix}\begin{bmatrix} x \\ z \end{bmatrix}"
    assert matrix == body + r"= -\begin{bmatrix} r \\ s \end{bmatrix}"
    assert formulas.blocks("OMP_NUM_THREADS=1 python docs/benchmarks/lml.py") is None
    assert list(formulas.pieces("A y = b, y >= 0")) == ["A y", "= b,", "y", ">= 0"]


def test_every_formula_of_the_pages_becomes_mathml(formulas):
    count = 0
    for page in [*ROOT.glob("docs/*.md"), *ROOT.glob("kkt_solvers/**/*.py")]:
        text = page.read_text()
        spans = re.findall(r"`+([^`\n]+)`+", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
        found = [formulas.latex(span) for span in spans if formulas.is_formula(span)]
        for block in re.findall(r"^```text\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            found += formulas.blocks(block) or []
        for formula in found:
            root = ET.fromstring(formulas.to_mathml(formula))
            assert "\\" not in "".join(root.itertext()), (page, formula)
        count += len(found)
    assert count > 300
