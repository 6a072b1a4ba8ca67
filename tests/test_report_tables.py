"""The report's tables: their numbers, their links to rows, their files, and sizes of all kinds."""

import dataclasses
from urllib.parse import parse_qsl

import numpy as np
import pandas as pd
import pytest
from fake_study import analysed, fake_study, with_texts
from made_table import AGREEMENTS, GAINS, made_table
from report_parts import all_figures, all_sheets
from scipy import stats as scipy_stats

from kdstudy.analysis.results import AVERAGE, COLUMNS, NUMBERS
from kdstudy.analysis.stats import run_tests
from kdstudy.report import document
from kdstudy.report.plot import ACROSS
from kdstudy.report.sections import depends, methods
from kdstudy.report.sheet import PAGE_ROWS, Cell, Sheet, items_link, rows_link


@pytest.fixture(scope="module")
def study():
    return fake_study(n=30)


@pytest.fixture(scope="module")
def made(study, tmp_path_factory):
    mixed = with_texts(study, n=10)
    table, tests = analysed(mixed)
    path = document.write(
        tmp_path_factory.mktemp("report"),
        table=table,
        items=mixed.items,
        pairs=mixed.pair_items,
        systems=mixed.systems,
        tests=tests,
        provenance=mixed.provenance,
    )
    return path, table, tests


@pytest.fixture(scope="module")
def sheets(study, made):
    _, table, tests = made
    rows = {"items": study.items, "systems": study.systems}
    return all_sheets(table, tests, made=study.provenance, **rows)


def links(sheet):
    return [(c.printed(), c.href) for e in sheet.entries for c in e.cells if c.href]


def test_every_link_leads_to_rows_that_hold_its_number(sheets, made, study):
    table = made[1]
    runs = {s.label for s in study.systems if s.kind == "distilled"}
    places = {
        (column, value): {*at}
        for column in ("system", "benchmark", "metric", "reference")
        for value, at in table.groupby(column).indices.items()
    }
    seen = 0
    for sheet in sheets.values():
        for text, href in links(sheet):
            kind, _, query = href.partition("?")
            wanted = dict(parse_qsl(query, strict_parsing=True))
            if kind == "#items":
                assert wanted["run"] in runs
                continue
            assert kind == "#rows"
            rows = set.intersection(*(places[pair] for pair in wanted.items()))
            assert rows, (sheet.name, href)
            digits = text.lstrip("+−").split(" ")[0].rstrip("%")
            if len(wanted) >= 3 and len(rows) == 1 and digits.replace(".", "").isdigit():
                value = abs(table.value.iloc[rows.pop()])
                near = [abs(float(digits) - x) < 0.06 for x in (value, 100 * value)]
                assert any(near), (sheet.name, text, href, value)
                seen += 1
    assert seen > 1000


def test_addresses_are_written_as_the_browsers_read_them():
    assert rows_link(system="a b/c&d", metric="gain") == "#rows?system=a%20b%2Fc%26d&metric=gain"
    assert items_link(run="x=1/y", kind="lost") == "#items?run=x%3D1%2Fy&kind=lost"


def test_each_of_the_papers_tables_is_there_under_its_number(made):
    folder = made[0].parent / "tables"
    for n in (1, 2, 3, 4, 5, 6, 7, 9):
        assert {p.suffix for p in folder.glob(f"table{n}.*")} == {".csv", ".md", ".tex"}, n
    text = made[0].read_text(encoding="utf-8")
    for n in (1, 2, 3, 4, 5, 6, 9):
        assert f"Table {n} of the paper, for this study" in text
        latex = (folder / f"table{n}.tex").read_text("utf-8")
        assert f"Table {n} of the paper, for this study" in latex and "\\toprule" in latex
    assert "Tables 7 and 8 of the paper, for this study" in text
    for numbers in ("1 and 7", "3, 8 and 10", "4, 9 and 11"):
        assert f"Figures {numbers} of the paper, for this study" in text


def test_table_6_counts_rows_of_the_corpus_and_the_benchmarks(sheets):
    frame = sheets["table6"].frame.set_index("Data set")
    assert frame.loc["zoo-words"].tolist() == ["1,774", "100", "–"]
    assert frame.loc["choice"].tolist() == ["–", "–", "30"]


def test_overlaps_and_results_apart_are_those_of_the_items(sheets, study, made):
    held = study.items.drop_duplicates(["benchmark", "example_id"])
    counts = held[held.benchmark == "two_step"].overlap.value_counts()
    frame = sheets["contamination"].frame.set_index("Benchmark")
    assert set(frame.index) == {"one_step", "two_step"}
    assert frame.loc["two_step", "As it is"] == str(counts.get("exact", 0))
    assert frame.loc["two_step", "With other numbers"] == str(counts.get("masked", 0))
    rows = study.items[(study.items.system == "zoo-m/sft") & (study.items.benchmark == "two_step")]
    clean = rows[rows.overlap == "none"]
    apart = sheets["apart"].frame
    own = apart[(apart.System == "zoo-m/sft") & (apart.Benchmark == "two_step")].iloc[0]
    share = 100 * (clean.outcome == "correct").mean()
    assert float(own["Accuracy, clean"].rstrip("%")) == pytest.approx(share, abs=0.051)


def test_free_texts_stand_in_their_own_table_only(sheets, made):
    frame = sheets["instruct"].frame
    assert set(frame.Benchmark) == {"follow"} and len(frame) == 30
    assert "follow" not in sheets["table7"].frame.columns
    assert "follow" not in set(sheets["paired"].frame.Benchmark)
    assert "Instruction following" in made[0].read_text(encoding="utf-8")


def test_token_rows_are_one_per_pair_and_no_benchmark(sheets, study):
    frame = sheets["tokens"].frame
    assert len(frame) == len(study.tokens) == 12 and set(frame.Texts) == {"20"}
    assert "held_out" not in sheets["table7"].frame.columns
    assert not any("held_out" in set(s.frame.get("Benchmark", [])) for s in sheets.values())


def test_a_long_table_is_cut_on_the_page_and_whole_in_its_files(tmp_path):
    rows = [{"A": f"row {i}", "B": Cell(str(i), "#rows?system=x")} for i in range(PAGE_ROWS + 7)]
    sheet = Sheet.of("long", "Long", rows)
    sheet.save(tmp_path)
    assert len(list(sheet.on_page())) == PAGE_ROWS and sheet.left_out == 7
    assert len(pd.read_csv(tmp_path / "long.csv")) == PAGE_ROWS + 7
    assert "#rows" not in (tmp_path / "long.md").read_text()


def test_a_table_of_texts_keeps_one_line_per_row(tmp_path):
    sheet = Sheet.of("x", "X", [{"A": "one\n\ntwo | three", "B": "50% & $x_1$ \\end{tabular}"}])
    sheet.save(tmp_path)
    assert "| one two \\| three | 50%" in (tmp_path / "x.md").read_text()
    latex = (tmp_path / "x.tex").read_text()
    assert "50\\% \\& \\$x\\_1\\$" in latex and latex.count("\\end{tabular}") == 1


def test_dependence_is_told_by_unit_of_evidence():
    tests = run_tests(made_table())
    said = depends.sentence(tests)
    size, agreement = (
        f"{scipy_stats.spearmanr(GAINS, x).statistic:+.2f}".replace("-", "−")
        for x in (np.repeat([1, 2, 3], 4), AGREEMENTS)
    )
    means = [np.repeat(np.reshape(x, (3, 4)).mean(axis=1), 4) for x in (GAINS, AGREEMENTS)]
    inside = np.corrcoef(np.subtract(GAINS, means[0]), np.subtract(AGREEMENTS, means[1]))[0, 1]
    assert said.startswith(
        f"Strongest over all runs: gain and student size on average: rho = {size}"
    )
    assert f"gain against agreement with the teacher is {agreement} over all runs" in said
    assert f"but {inside:+.2f}" in said and "Not estimable here: teacher accuracy." in said
    frame = all_sheets(made_table(), tests)["depends"].frame
    own = frame[frame["Gain against"] == "agreement with the teacher"].set_index("Over")
    assert own.loc["all runs (the paper's)", "Correlation"] == agreement
    assert own.loc["inside students", "Correlation"] == f"{inside:+.2f}"


def test_methods_are_told_over_items_and_over_students(made):
    tests = made[2]
    said = methods.sentence(tests)
    verdicts = [t for t in tests if t.table == "methods" and t.scope == AVERAGE]
    better = sum("is better than" in t.sentence for t in verdicts)
    assert better == sum(t.verdict in ("better", "worse") for t in verdicts)
    assert (
        f"Of {len(verdicts)} pairs of methods, SFT among them, these items tell {better} apart"
        in said
    )
    pairs = [t for t in tests if t.name == "matched difference" and t.scope == AVERAGE]
    differ = sum(t.p_adjusted < 0.05 for t in pairs)
    assert f"With the 3 students as units, {differ} of {len(pairs)} pairs differ (Holm)" in said


def test_many_benchmarks_wrap_and_keep_every_number(made):
    _, table, _ = made
    plain = table[table.benchmark.isin(["choice", AVERAGE])]
    more = [plain[plain.benchmark == "choice"].assign(benchmark=f"b{i:02d}") for i in range(12)]
    wide = pd.concat([plain, *more], ignore_index=True)
    figures = all_figures(wide)
    svg = figures["accuracy"].svg()
    assert svg.count("zoo-s/gkd/zoo-l-sft on ") >= 14
    assert float(svg.split("max-width:")[1].split("px")[0]) < 1200  # readable without shrinking
    assert figures["accuracy"].data["rows"].column.nunique() == 14 > ACROSS


@pytest.mark.parametrize("n", [0, 1, 2])
def test_a_study_that_has_hardly_begun_still_makes_a_page(study, tmp_path, n):
    labels = ["zoo-l/sft", "zoo-s/sft"][:n]
    some = dataclasses.replace(
        study, scores={k: study.scores[k] for k in labels}, pairs={}, tokens={}
    )
    table, tests = analysed(some, partial=True)
    path = document.write(tmp_path, table=table, systems=study.systems, tests=tests)
    text = path.read_text(encoding="utf-8")
    assert f"{n} of 30 runs finished" in text and "nothing to recommend" in text


def test_only_free_texts_make_a_page_too(study, tmp_path):
    mixed = with_texts(study, n=10)
    scores = {k: [r for r in v if r.benchmark == "follow"] for k, v in mixed.scores.items()}
    pairs = {k: [r for r in v if r.benchmark == "follow"] for k, v in mixed.pairs.items()}
    only = dataclasses.replace(mixed, scores=scores, pairs=pairs, overlaps={}, tokens={})
    table, tests = analysed(only)
    assert tests == []
    items = mixed.items[mixed.items.benchmark == "follow"]
    pairs = mixed.pair_items[mixed.pair_items.benchmark == "follow"]
    path = document.write(
        tmp_path, table=table, items=items, pairs=pairs, systems=study.systems, tests=tests
    )
    text = path.read_text(encoding="utf-8")
    assert "The texts closest to the references" in text and "30 of 30" in text


def test_an_empty_table_has_no_sheet_and_no_figure():
    empty = pd.DataFrame(columns=COLUMNS).astype(NUMBERS)
    assert all_sheets(empty, []) == {} and all_figures(empty) == {}
