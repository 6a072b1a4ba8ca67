"""Measures: their registry, their units, and a new one seen in every part of the report."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from fake_study import analysed, fake_study, planned, with_texts

from kdstudy.analysis.results import AVERAGE
from kdstudy.errors import InputError
from kdstudy.measures import MEASURES, UNITS, Measure, PairMeasure
from kdstudy.measures.distinct import distinct_2
from kdstudy.measures.units import Unit, size, text
from kdstudy.report import document
from kdstudy.report.sections import measures
from kdstudy.report.seeds import Seeds

FEW = planned(students=("zoo-xs", "zoo-s"), seeds=(0,), methods=("sft", "gkd"))


@pytest.mark.parametrize(
    ("unit", "value", "wanted"),
    [
        (Unit.SHARE, 0.5804, "58.0%"),
        (Unit.POINTS, -0.0123, "−1.2"),
        (Unit.POINTS, 0.0123, "+1.2"),
        (Unit.HUNDRED, 0.314, "31.4"),
        (Unit.SCORE, 31.44, "31.4"),
        (Unit.COUNT, 48.26, "48.3"),
        (Unit.NATS, 0.0713, "0.071"),
        (Unit.NUMBER, -0.254, "−0.25"),
        (Unit.SHARE, float("nan"), "–"),
        (Unit.SHARE, None, "–"),
    ],
)
def test_a_number_is_printed_in_its_unit(unit, value, wanted):
    assert text(unit, value) == wanted


def test_a_standard_deviation_has_no_sign_and_no_percent():
    assert [size(u, 0.0456) for u in (Unit.SHARE, Unit.POINTS, Unit.NATS)] == [
        "4.6",
        "4.6",
        "0.046",
    ]


def test_every_metric_of_a_study_has_a_unit():
    table, _ = analysed(fake_study(n=30))
    assert set(table.metric) <= UNITS.keys()


@pytest.mark.parametrize(
    ("words", "wanted"),
    [("a b c", 1.0), ("a b a b", 2 / 3), ("a a a a a", 0.25), ("one", 1.0), ("", 1.0)],
)
def test_distinct_pairs_by_hand(words, wanted):
    assert distinct_2(words) == pytest.approx(wanted)


WORDS = Measure(
    name="words",
    unit=Unit.COUNT,
    column="Words per text",
    note="Words per text: the mean.",
    per_item=lambda cell: np.array(
        [[len(t.split()) for t in item] for item in cell.completions]
    ).mean(axis=1),
)
LONGER = PairMeasure(
    name="longer",
    unit=Unit.SHARE,
    column="Longer",
    note="Longer: the share of items on which the system's text has more tokens.",
    per_item=lambda mine, other: (mine.tokens > other.tokens).mean(axis=1),
)


@pytest.fixture
def added(monkeypatch):
    """Two measures of somebody's own, as a package would add them."""
    for measure in (WORDS, LONGER):
        monkeypatch.setitem(MEASURES, measure.name, measure)
        monkeypatch.setitem(UNITS, measure.name, measure.unit)


def test_a_new_measure_is_in_results_table_figure_and_sentence(added, tmp_path):
    study = fake_study(n=20, systems=FEW)
    table, tests = analysed(study)
    label = next(s.label for s in study.systems if s.kind == "distilled")
    scores = pd.DataFrame([dataclasses.asdict(s) for s in study.scores[label]])
    scores = scores[~scores.rule.str.startswith("text-")]
    for benchmark, part in scores.groupby("benchmark"):
        words = part.assign(words=part.completion.str.split().map(len))
        want = words.groupby("example_id").words.mean()
        (row,) = table[
            (table.system == label) & (table.metric == "words") & (table.benchmark == benchmark)
        ].itertuples()
        assert row.value == pytest.approx(want.mean())
        assert row.low < row.value < row.high
    path = document.write(
        tmp_path,
        table=table,
        items=study.items,
        pairs=study.pair_items,
        systems=study.systems,
        tests=tests,
        provenance=study.provenance,
    )
    assert (tmp_path / "figures" / "measure-words.svg").exists()
    sheet = pd.read_csv(tmp_path / "tables" / "measures.csv")
    assert "Words per text" in sheet.columns
    assert "Longer" in pd.read_csv(tmp_path / "tables" / "likeness.csv").columns
    said = measures.sentences(Seeds(table, tests).means)
    assert any(s.startswith("Words per text: from ") for s in said)
    assert "Words per text: the mean" in path.read_text()


def test_a_measure_of_pairs_is_there_for_each_compared_pair(added):
    study = fake_study(n=20, systems=FEW)
    table, _ = analysed(study)
    rows = table[(table.metric == "longer") & (table.benchmark != AVERAGE)]
    agreed = table[(table.metric == "agreement") & (table.benchmark != AVERAGE)]
    key = ["system", "reference"]
    assert set(map(tuple, rows[key].values)) == set(map(tuple, agreed[key].values))
    first = rows.iloc[0]

    def tokens(label):
        found = [s for s in study.scores[label] if s.benchmark == first.benchmark]
        return np.array([s.tokens for s in sorted(found, key=lambda s: (s.example_id, s.sample))])

    assert first.value == pytest.approx((tokens(first.system) > tokens(first.reference)).mean())


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (lambda cell: np.zeros((len(cell.ids), 2)), "one finite number per item"),
        (lambda cell: np.full(len(cell.ids), np.nan), "one finite number per item"),
        (lambda cell: np.full(len(cell.ids), 1.5), "from 0 to 1"),
    ],
)
def test_a_measure_that_gives_no_number_of_its_unit_is_refused(monkeypatch, values, words):
    wrong = dataclasses.replace(MEASURES["repetition"], name="wrong", per_item=values)
    monkeypatch.setitem(MEASURES, "wrong", wrong)
    with pytest.raises(InputError, match="measure wrong") as error:
        analysed(fake_study(n=6))
    assert words in str(error.value)


def test_a_free_text_has_no_accuracy_and_an_answer_no_rouge():
    study = with_texts(fake_study(n=30), n=10)
    table, _ = analysed(study)
    texts = {s.benchmark for rows in study.scores.values() for s in rows if s.rule[:5] == "text-"}
    found = {m: set(table[table.metric == m].benchmark) - {AVERAGE} for m in MEASURES}
    assert texts
    assert found["rouge_l"] == texts
    assert not (found["accuracy"] | found["parse_rate"]) & texts
    assert texts < found["tokens"]
