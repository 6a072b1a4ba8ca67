"""Tables as LaTeX: every text is printed as it is, and every table compiles."""

import shutil
import subprocess
import unicodedata

import pytest
from fake_study import analysed, fake_study, planned, with_texts

from kdstudy.report import document
from kdstudy.report.latex import escape
from kdstudy.report.sheet import Cell, Sheet

HOSTILE = [
    "st_u%d&ent#1 {x} $y$ ~ ^ \\end{tabular}",
    "[8pt] starts like a row's argument",
    "* a star after a row's end",
    "τ = 2, σ ≥ 0.5, Δ −3 ± 1, a → b, x ≠ y … “quoted” – and — so, 10 °C, ½",
    "Zoë Łukasz Ångström naïve façade čeština Weiß œuvre ı ï Ï Ǆ",
    "中文的问题 和 emoji 🙂, שלום, привет",
    "--flag `tick` ``two'' ,,low ?`no !`no <b> | pipe",
    "nul\x00 bell\x07 escape\x1b[31m line\u2028end \u202eright",
]
PAGE = r"""\documentclass{article}
\usepackage{booktabs}
\begin{document}
%s
\end{document}
"""


needs_tex = pytest.mark.skipif(
    shutil.which("pdflatex") is None,
    reason="pdflatex is not installed: Debian has it in texlive-latex-recommended",
)


def compiled(folder, tables):
    """Compile tables as a paper would hold them; return what pdfLaTeX said and the text it set."""
    inputs = "\n".join(rf"\input{{{path.name}}}\clearpage" for path in tables)
    for path in tables:
        if path.parent != folder:
            shutil.copy(path, folder)
    (folder / "page.tex").write_text(PAGE % inputs, encoding="utf-8")
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "page.tex"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")


def test_signs_keep_their_meaning_in_a_caption_as_in_a_cell(tmp_path):
    sheet = Sheet.of("x", "100% of m/word_kd & τ", [{"τ_1": Cell("50%", sd="1.2")}], note="n")
    sheet.save(tmp_path)
    latex = (tmp_path / "x.tex").read_text(encoding="utf-8")
    assert r"\caption{100\% of m/word\_kd \& $\tau$. Mean $\pm$" in latex
    assert "$\\tau$\\_1 \\\\" in latex and r"50\% $\pm$ 1.2" in latex


@pytest.mark.parametrize("text", HOSTILE)
def test_what_is_left_is_ascii_with_every_command_closed(text):
    written = escape(text)
    assert written.isascii() and "\n" not in written
    bare = written.replace("\\{", "").replace("\\}", "")
    assert bare.count("{") == bare.count("}")


def test_letters_without_a_sign_in_latex_are_counted_not_dropped():
    assert escape("a 中文 b") == "a {[}2 characters{]} b"
    assert escape("x🙂") == "x{[}1 character{]}"
    assert escape("é") == r"\'{e}" == escape(unicodedata.normalize("NFD", "é"))


@needs_tex
def test_hostile_texts_compile_in_every_place(tmp_path):
    rows = [{"Name": Cell(a, sd="0.1"), b: b, "n": "1"} for a in HOSTILE for b in HOSTILE]
    for i, text in enumerate(HOSTILE):
        Sheet.of(f"t{i}", text, [{"A": text, text: text}]).save(tmp_path)
    Sheet.of("all", "All", rows, labels=2).save(tmp_path)
    done = compiled(tmp_path, [*sorted(tmp_path.glob("t*.tex")), tmp_path / "all.tex"])
    assert done.returncode == 0, done.stdout[-3000:]


@needs_tex
def test_every_table_of_a_report_compiles(tmp_path):
    systems = planned(
        students=("zoo-xs", "zoo-s"),
        seeds=(0, 1),
        temperature={"methods": ["word_kd"], "values": [2]},
        noise={"methods": ["word_kd"], "values": [1]},
    )
    study = with_texts(fake_study(n=12, systems=systems), n=5)
    table, tests = analysed(study)
    items = study.items.assign(
        question=[HOSTILE[i % len(HOSTILE)] for i in range(len(study.items))]
    )
    document.write(
        tmp_path,
        table=table,
        items=items,
        pairs=study.pair_items,
        systems=study.systems,
        tests=tests,
        provenance=study.provenance,
    )
    tables = sorted((tmp_path / "tables").glob("*.tex"))
    assert len(tables) > 15
    done = compiled(tmp_path, tables)
    assert done.returncode == 0, done.stdout[-3000:]
