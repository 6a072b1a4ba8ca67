"""The report of few students, benchmarks or seeds: nothing twice, no dashes, no start-up time."""

import pandas as pd
import pytest
from fake_study import analysed, fake_study, planned
from report_parts import all_figures, all_sheets, only

from kdstudy.analysis.results import AVERAGE
from kdstudy.cli.options import wrapped
from kdstudy.engine.build import Pace
from kdstudy.evaluation.stages import _agreed, mean_of_benchmarks
from kdstudy.records import PairScore, Score
from kdstudy.report.data import ReportData
from kdstudy.report.sections.collapse import Alarm, by_system
from kdstudy.report.sections.cost import seconds_of
from kdstudy.report.sections.warnings import warnings
from kdstudy.report.seeds import names_of
from kdstudy.report.sheet import Sheet

ONE = ("zoo-s",)


@pytest.fixture(scope="module", params=[(0, 1, 2), (0,)], ids=["three seeds", "one seed"])
def few(request):
    """Return a study of one student, one teacher and one benchmark."""
    systems = planned(students=ONE, seeds=request.param, methods=("sft", "word_kd", "gkd"))
    table, tests = analysed(only(fake_study(n=40, systems=systems), "two_step"))
    assert {"two_step", AVERAGE} <= set(table.benchmark) and tests
    return table, tests


def test_no_table_has_a_row_or_a_column_of_dashes(few):
    for sheet in all_sheets(*few).values():
        values = sheet.frame.iloc[:, sheet.labels :]
        empty = values.isin(["–", ""])
        # A column may be of the single runs, which the page shows below their system.
        runs = [run[sheet.labels :] for e in sheet.entries for run in e.runs]
        of_runs = [
            any(run[i].text not in ("–", "") for run in runs) for i in range(values.shape[1])
        ]
        nothing = [c for c, run in zip(values, of_runs, strict=True) if empty[c].all() and not run]
        assert not nothing, (sheet.name, nothing)
        counts = [c for c in ("Units", "Rows", "Items", "Students", "Seeds") if c in values]
        rows = empty.drop(columns=counts).all(axis=1)
        if len(values.columns) == 0:
            assert sheet.name.removeprefix("table").isdigit() and "cannot" in sheet.note
            continue
        assert not rows.any(), (sheet.name, sheet.frame[rows].to_dict("records"))


def test_tests_without_a_result_are_named_once_in_place_of_their_rows(few):
    sheet = all_sheets(*few).get("gain")
    if sheet is not None:
        assert len(sheet.frame) < 12
        assert "cluster-robust" in sheet.note


def test_one_benchmark_has_no_average_beside_it(few):
    for name, sheet in all_sheets(*few).items():
        cells = sheet.frame.iloc[:, : sheet.labels].to_numpy().tolist()
        if any("two_step" in row for row in cells):
            assert not any(AVERAGE in row for row in cells), name
        assert not {"two_step", AVERAGE} <= set(sheet.frame.columns), name


def test_one_benchmark_is_one_small_multiple_that_fits_a_phone(few, tmp_path):
    svg = all_figures(*few)["accuracy"].save(tmp_path)
    assert ">two_step<" in svg and ">average<" not in svg
    natural = float(svg.split("--natural:")[1].split("px")[0])
    assert natural <= 388  # 420 pixels less the page's margins


def test_long_lines_break_between_words_and_keep_their_indent():
    text = "a note\n  difference  −41.7 points, 95% interval /a/path/that/is/very/long\nend"
    assert wrapped(text, 30).split("\n") == [
        "a note",
        "  difference  −41.7 points,",
        "    95% interval",
        "    /a/path/that/is/very/long",
        "end",
    ]
    assert wrapped(text, 200) == text


def test_a_column_with_one_number_stays():
    rows = [{"a": "x", "b": "–", "c": "–"}, {"a": "y", "b": "3", "c": "–"}]
    assert list(Sheet.of("t", "T", rows).frame.columns) == ["a", "b"]


def test_the_pace_leaves_out_what_came_before_the_first_report(monkeypatch):
    now = iter([107.0, 111.0, 113.0])
    monkeypatch.setattr("kdstudy.engine.build.time.monotonic", lambda: next(now))
    pace = Pace()
    assert pace.facts() == {}
    pace.told(5, "generation")
    assert pace.facts() == {}
    pace.told(9, "generation")
    pace.told(17, "generation")
    assert pace.facts() == {"done": 12, "unit": "generation", "seconds": 6.0}


@pytest.mark.parametrize(
    ("pace", "seconds"),
    [
        ({"pace": {"done": 30, "unit": "generation", "seconds": 0.6}}, 20.0),
        ({"pace": {"done": 15, "unit": "generation", "seconds": 0.6}}, 40.0),  # resumed half way
        ({"pace": {}}, None),
        ({}, 500.0),
    ],
)
def test_seconds_per_item_are_those_of_the_pace(pace, seconds):
    table = pd.DataFrame({"system": ["s"], "metric": "accuracy", "benchmark": "two_step", "n": 30})
    stage = {"kind": "generate", "label": "s on two_step", "seconds": 15.0, **pace}
    found = seconds_of(ReportData(table=table, made={"stages": [stage]}))
    assert found == ({} if seconds is None else {"s": pytest.approx(seconds)})


def test_several_draws_of_an_item_take_their_time():
    table = pd.DataFrame({"system": ["s"], "metric": "rouge_l", "benchmark": "b", "n": 10})
    pace = {"done": 50, "unit": "generation", "seconds": 2.0}
    made = {
        "stages": [{"kind": "generate", "label": "s on b", "seconds": 9.0, "pace": pace}],
        "study": {"generation": {"samples": 1}, "text_generation": {"samples": 5}},
    }
    assert seconds_of(ReportData(table=table, made=made)) == {"s": pytest.approx(200.0)}


def graded(benchmark, *outcomes):
    return [
        Score(
            benchmark=benchmark,
            example_id=str(i),
            sample=0,
            completion="",
            extracted="1",
            rule="number-corrected",
            outcome=outcome,
            quality=float(outcome == "correct"),
            tokens=1,
        )
        for i, outcome in enumerate(outcomes)
    ]


def test_the_line_of_scoring_is_the_tablesmean_of_benchmarks():
    rows = graded("a", "correct") + graded("b", "wrong", "wrong", "correct", "truncated")
    facts, words = mean_of_benchmarks(rows, "accuracy", "truncated_rate")
    assert facts == {"accuracy": pytest.approx(0.625), "truncated_rate": pytest.approx(0.125)}
    assert words == " (mean of 2 benchmarks)"
    assert mean_of_benchmarks(rows[1:], "accuracy") == ({"accuracy": 0.25}, "")


def test_the_line_of_comparing_is_the_tables_mean_and_knows_no_agreement_of_texts():
    def pairs(benchmark, *agree):
        nothing = {"bleu": 0.0, "rouge_l": 0.0, "steps": 0.0, "counts": ()}
        return [
            PairScore(
                benchmark=benchmark,
                example_id=str(i),
                sample=0,
                agree=same,
                outcome_a="wrong",
                outcome_b="wrong",
                **nothing,
            )
            for i, same in enumerate(agree)
        ]

    rows = pairs("a", True) + pairs("b", False, False, True, False) + pairs("t", False)
    assert _agreed(rows, {"t"}) == "same answer on 62.5% (mean of 2 benchmarks)"
    assert _agreed(rows[:1], set()) == "same answer on 100.0%"
    assert "no answers to agree on" in _agreed(rows[-1:], {"t"})


def test_alarms_of_several_seeds_are_one_line_with_the_seeds():
    systems = planned(students=ONE, seeds=(0, 1, 4), methods=("sft", "gkd"))
    table, _ = analysed(fake_study(n=10, systems=systems))
    raised = [
        Alarm("zoo-s/gkd/zoo-l/seed=0", ("12.0% of texts ran into the length limit",)),
        Alarm("zoo-s/gkd/zoo-l/seed=4", ("31.0% of 4-grams repeat",)),
        Alarm("zoo-l/sft", ("odd",)),
    ]
    assert {a.system for a in raised} <= set(table.system) | {"zoo-l/sft"}
    assert by_system(raised, names_of(table)) == [
        (
            "zoo-s/gkd/zoo-l (seeds 0, 4 of its 3 seeds)",
            "seed 0: 12.0% of texts ran into the length limit; seed 4: 31.0% of 4-grams repeat",
        ),
        ("zoo-l/sft", "odd"),
    ]
    lines = [w for w in warnings(ReportData(table=table), raised) if "may have collapsed" in w]
    assert len(lines) == 2


def test_one_reason_of_several_seeds_is_said_once():
    names = {f"a/seed={i}": "a" for i in range(3)}
    raised = [Alarm(run, ("cut",)) for run in names]
    assert by_system(raised, names) == [("a (seeds 0, 1, 2 of its 3 seeds)", "cut")]
