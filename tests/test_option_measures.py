"""Measures over the options of choices by likelihood: calibration and distance from the teacher."""

import dataclasses
import itertools
import math

import numpy as np
import pandas as pd
import pytest
from fake_study import analysed, fake_study, planned, with_choices

from kdstudy.analysis.intervals import Bootstrap
from kdstudy.analysis.losses import distilled, statement
from kdstudy.analysis.measures import own_rows, paired_rows
from kdstudy.analysis.results import AVERAGE
from kdstudy.errors import InputError
from kdstudy.measures.cell import cells_of
from kdstudy.records import Score, System
from kdstudy.report.data import ReportData
from kdstudy.report.sections import ablations, fidelity, measures
from kdstudy.report.sections import statement as told
from kdstudy.report.seeds import Seeds

FEW = planned(students=("zoo-xs",), seeds=(0,), methods=("sft", "gkd"))


def choice(i, logprobs, target=0):
    chosen = int(np.argmax(logprobs))
    return Score(
        benchmark="facts", example_id=f"{i:05d}", sample=0, completion="",
        extracted="ABCDE"[chosen], rule="choice-likelihood",
        outcome="correct" if chosen == target else "wrong",
        quality=float(chosen == target), tokens=0, option_logprobs=tuple(map(float, logprobs)),
        option_characters=(1,) * len(logprobs), option_bytes=(1,) * len(logprobs), target=target,
    )  # fmt: skip


def cell(rows):
    return cells_of("s", rows)["facts"]


def kl(student, teacher, boot=200):
    """Return the row of the measure for rows of log-probabilities."""
    cells = (cell([choice(i, x) for i, x in enumerate(rows)]) for rows in (student, teacher))
    (row,) = paired_rows(*cells, Bootstrap(resamples=boot))
    return row


def ece(rows, boot=200):
    found = {r["metric"]: r for r in own_rows({"facts": cell(rows)}, {}, Bootstrap(resamples=boot))}
    return found["option_ece"]


def brute_kl(student, teacher):
    """KL(teacher, student) in plain floats, option by option."""
    shares = []
    for logprobs in (teacher, student):
        likely = [math.exp(x) for x in logprobs]
        shares.append([x / math.fsum(likely) for x in likely])
    return math.fsum(p * math.log(p / q) for p, q in zip(*shares, strict=True) if p)


def test_five_items_by_hand():
    """KL of (1/2, 1/2) from (1/4, 3/4) is ln(2 / sqrt 3); of equals and of one option alone 0."""
    teacher = [(1, 1), (1, 1, 2), (3, 3), (1, 3), (2, 0)]
    student = [(1, 3), (1, 1, 2), (5, 5), (3, 3), (1, 1)]
    wanted = [
        math.log(2 / math.sqrt(3)),
        0.0,
        0.0,
        0.25 * math.log(0.5) + 0.75 * math.log(1.5),
        math.log(2),
    ]
    with np.errstate(divide="ignore"):
        logs = [[np.log(np.array(x, float)) - 7 for x in rows] for rows in (student, teacher)]
    found = kl(*logs)
    assert found["value"] == pytest.approx(sum(wanted) / 5) and found["n"] == 5
    assert found["metric"] == "option_kl" and 0 <= found["low"] < found["value"] < found["high"]


@pytest.mark.parametrize("seed", range(3))
def test_divergences_of_items_of_any_number_of_options_are_those_of_plain_floats(seed):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, 6, 37)
    # Sums of many tokens: far below 0, tens of nats apart.
    student, teacher = ([rng.normal(-90, 9, size=k) for k in sizes] for _ in range(2))
    wanted = np.mean([brute_kl(s, t) for s, t in zip(student, teacher, strict=True)])
    assert kl(student, teacher)["value"] == pytest.approx(wanted, rel=1e-12)
    assert kl(teacher, student)["value"] != pytest.approx(wanted)
    assert kl(teacher, teacher)["value"] == 0.0


def test_an_option_that_only_the_student_rules_out_is_infinitely_far():
    finite, none = (-1.0, -2.0), (-1.0, -math.inf)
    found = kl([none, finite], [finite, finite])
    assert found["value"] == math.inf and math.isnan(found["low"]) and math.isnan(found["high"])
    assert math.isfinite(kl([finite, finite], [none, finite])["value"])


def test_other_options_are_refused():
    with pytest.raises(InputError, match="other options of one benchmark"):
        kl([(-1.0, -2.0), (-1.0, -2.0)], [(-1.0, -2.0), (-1.0, -2.0, -3.0)])


def test_the_interval_of_a_divergence_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)

    def items(n):
        teacher = rng.normal(size=(n, 3))
        return teacher + 0.5 * rng.normal(size=(n, 3)), teacher

    truth = kl(*items(40_000), boot=2)["value"]
    held = sum(r["low"] <= truth <= r["high"] for r in (kl(*items(120)) for _ in range(200)))
    assert 0.90 <= held / 200 <= 0.99


def brute_ece(p, right):
    """Ten bins of as many items, by rank; p has no equals."""
    order, n = sorted(range(len(p)), key=p.__getitem__), len(p)
    ends = [math.ceil(n * k / 10) for k in range(11)]
    bins = [order[a:b] for a, b in itertools.pairwise(ends)]
    return math.fsum(abs(math.fsum(p[i] - right[i] for i in part)) for part in bins) / n


@pytest.mark.parametrize(("seed", "n"), [(0, 37), (1, 200), (2, 11), (3, 503)])
def test_the_calibration_error_is_that_of_ten_bins_by_rank(seed, n):
    rng = np.random.default_rng(seed)
    logits = [rng.normal(size=k) for k in rng.integers(2, 6, n)]
    targets = [int(rng.integers(len(x))) for x in logits]
    rows = [choice(i, x - 40, t) for i, (x, t) in enumerate(zip(logits, targets, strict=True))]
    claimed = [max(math.exp(y) for y in x) / math.fsum(math.exp(y) for y in x) for x in logits]
    right = [float(x.argmax() == t) for x, t in zip(logits, targets, strict=True)]
    found = ece(rows)
    assert found["value"] == pytest.approx(brute_ece(claimed, right), rel=1e-12)
    assert found["n"] == n and found["signature"].startswith("option_ece|bins:10")


def test_the_calibration_errors_interval_holds_what_such_items_give_on_average():
    """As often as it says, or nearly: an error made of distances leans one way."""
    rng = np.random.default_rng(3)

    def rows(n):
        logits = rng.normal(size=(n, 4))
        p = np.exp(0.5 * logits)
        p = p / p.sum(axis=1, keepdims=True)
        target = (p.cumsum(axis=1) > rng.uniform(size=(n, 1))).argmax(axis=1)
        return [choice(i, x, int(t)) for i, (x, t) in enumerate(zip(logits, target, strict=True))]

    found = [ece(rows(300)) for _ in range(150)]
    mean = np.mean([r["value"] for r in found])
    assert 0.88 <= np.mean([r["low"] <= mean <= r["high"] for r in found]) <= 0.99


def world(rng, n, student_scale, noise):
    teacher = 1.5 * rng.normal(size=(n, 4))
    p = np.exp(teacher) / np.exp(teacher).sum(axis=1, keepdims=True)
    target = (p.cumsum(axis=1) > rng.uniform(size=(n, 1))).argmax(axis=1)
    student = student_scale * teacher + noise * rng.normal(size=(n, 4))
    return {
        label: [choice(i, x, int(t)) for i, (x, t) in enumerate(zip(logits, target, strict=True))]
        for label, logits in (("big", teacher), ("s", student))
    }


def lost(scores):
    systems = [
        System(label="big", kind="teacher", model="big"),
        System(label="s", kind="distilled", model="small", method="word_kd", teachers=("big",)),
    ]
    cells = {label: cells_of(label, rows) for label, rows in scores.items()}
    found = statement(
        distilled(systems, {}), systems, cells, chance={}, bootstrap=Bootstrap(resamples=300)
    )
    (row,) = found[found.measure == "options_lost"].itertuples()
    return row


def test_the_statement_has_the_distance_with_its_interval():
    scores = world(np.random.default_rng(0), 201, 0.5, 0.3)
    row = lost(scores)
    wanted = np.mean([brute_kl(s.option_logprobs, t.option_logprobs)
                      for s, t in zip(scores["s"], scores["big"], strict=True)])  # fmt: skip
    assert row.value == row.student == pytest.approx(wanted)
    assert row.against == "" and math.isnan(row.reference) and row.n == 201
    assert row.low < row.value < row.high
    same = lost({"big": scores["big"], "s": scores["big"]})
    assert same.value == 0 and math.isnan(same.low)


def test_a_ruled_out_option_in_the_statement_is_no_small_loss():
    scores = world(np.random.default_rng(0), 20, 0.5, 0.3)
    first, *others = scores["s"]
    dead = dataclasses.replace(first, option_logprobs=(-1.0, -1.0, -1.0, -math.inf))
    row = lost(scores | {"s": [dead, *others]})
    assert row.value == math.inf and math.isnan(row.low)


@pytest.fixture(scope="module")
def study():
    return with_choices(fake_study(n=20, systems=FEW), n=40)


def test_results_have_both_and_their_means_are_over_choices_by_likelihood(study):
    table, _ = analysed(study)
    run = next(s for s in study.systems if s.kind == "distilled")
    own = table[(table.system == run.label) & (table.metric == "option_ece")]
    assert set(own.benchmark) == {"facts", AVERAGE} and own.value.nunique() == 1
    found = table[(table.system == run.label) & (table.metric == "option_kl")]
    assert set(found.reference) == {run.teachers[0], "zoo-xs/sft"}
    scores = [
        {r.example_id: r for r in study.scores[label] if r.benchmark == "facts"}
        for label in (run.label, run.teachers[0])
    ]
    wanted = np.mean([brute_kl(s.option_logprobs, scores[1][i].option_logprobs)
                      for i, s in scores[0].items()])  # fmt: skip
    with_teacher = found[found.reference == run.teachers[0]]
    assert with_teacher.value.tolist() == pytest.approx([wanted, wanted])
    assert set(with_teacher.n) == {40}


def test_the_report_has_a_column_of_each_where_choices_are_by_likelihood(study):
    table, tests = analysed(study)
    seeds = Seeds(table, tests)
    pairs, without = fidelity.pairs_sheet(seeds), analysed(fake_study(n=20, systems=FEW))
    assert "KL over options" in pairs.columns and "nats per item" in pairs.note
    assert "KL over options" not in fidelity.likeness_sheet(seeds).columns
    assert "KL over options" not in fidelity.pairs_sheet(Seeds(*without)).columns
    assert "Calibration error" in measures.measures_sheet(seeds).columns
    data = ReportData(table=table, tests=tests, items=study.items, pairs=study.pair_items,
                      systems=study.systems, made=study.provenance)  # fmt: skip
    (sentences,) = told.statements(data).values()
    (said,) = [s for s in sentences if "options" in s and "KL" in s]
    assert said.startswith("Its probabilities of the options of 40 items are 0.")
    figure = told.figure(data)
    assert "nats per item" in set(pd.DataFrame(figure.data["rows"]).unit)


def test_an_ablation_has_a_figure_where_some_benchmarks_have_nothing_to_parse():
    table, tests = analysed(with_choices(fake_study(n=12), n=15))
    figure = ablations.curve(Seeds(table, tests), "temperature")
    assert set(figure.data) == {"accuracy"} and "parse rate" not in figure.title
    plain, tests = analysed(fake_study(n=12))
    figure = ablations.curve(Seeds(plain, tests), "temperature")
    assert set(figure.data) == {"accuracy", "parsed"} and "parse rate" in figure.title
