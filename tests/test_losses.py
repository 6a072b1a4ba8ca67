"""The loss statement's measures: by hand, by brute force, and in worlds whose losses are known."""

import dataclasses
import itertools
import math
from collections import Counter

import numpy as np
import pandas as pd
import pytest

from kdstudy.analysis.contrasts import Group, contrast
from kdstudy.analysis.intervals import Bootstrap
from kdstudy.analysis.losses import (
    ELSEWHERE,
    cells_of_items,
    courses,
    distilled,
    over_items_and_seeds,
    statement,
)
from kdstudy.analysis.other_domains import elsewhere
from kdstudy.analysis.results import AVERAGE
from kdstudy.answers.steps import steps
from kdstudy.errors import InputError
from kdstudy.measures import LOSSES, accuracy_kept, calibration, copied, coverage, risk_coverage
from kdstudy.measures.base import Loss, weighted_mean
from kdstudy.measures.cell import cells_of
from kdstudy.measures.confidence import Confidence, confidence
from kdstudy.measures.false_equations import holds, states_a_false_one
from kdstudy.measures.hacking import course
from kdstudy.measures.token_losses import TOKEN_LOSSES
from kdstudy.records import Score, System
from kdstudy.report import loss_words as words

OF = {loss.name: loss for loss in LOSSES}


def score(i, right, *, benchmark="math", sample=0, text="", answer=None):
    return Score(
        benchmark=benchmark,
        example_id=f"{i:05d}",
        sample=sample,
        completion=text,
        extracted=answer if answer is not None else ("gold" if right else "other"),
        rule="number-corrected",
        outcome="correct" if right else "wrong",
        quality=float(right),
        tokens=5,
    )


def choice(i, logprobs, target, benchmark="facts"):
    chosen = int(np.argmax(logprobs))
    return dataclasses.replace(
        score(i, chosen == target, benchmark=benchmark),
        rule="likelihood",
        tokens=0,
        option_logprobs=tuple(logprobs),
        option_characters=(1,) * len(logprobs),
        option_bytes=(1,) * len(logprobs),
        target=target,
    )


def cell(rows):
    return next(iter(cells_of("s", rows).values()))


def whole(loss, rows):
    """Return a loss of the items as they are."""
    found = cell(rows)
    return float(loss.of(found)(np.ones((1, len(found.ids))))[0])


def drawn(rights):
    """Return rows of items with several draws, given as rows of 0 and 1."""
    return [score(i, r, sample=j) for i, item in enumerate(rights) for j, r in enumerate(item)]


# Confidence 0.9, 0.9, 0.6, 0.6, 0.5 and right, wrong, right, wrong, wrong.
FIVE = [
    choice(i, np.log([p, 1 - p]), target)
    for i, (p, target) in enumerate([(0.9, 0), (0.9, 1), (0.6, 0), (0.6, 1), (0.5001, 1)])
]


def test_five_choices_by_hand():
    assert whole(OF["accuracy_kept"], FIVE) == pytest.approx(2 / 5)
    assert whole(OF["forgetting"], FIVE) == pytest.approx(2 / 5)
    claimed = (0.9 + 0.9 + 0.6 + 0.6 + 0.5001) / 5
    assert whole(OF["overconfidence"], FIVE) == pytest.approx(claimed - 2 / 5)
    # Three bins, as equal confidences share one: |1.8 - 1|, |1.2 - 1| and |0.5001 - 0| over 5.
    assert whole(OF["calibration_error"], FIVE) == pytest.approx((0.8 + 0.2 + 0.5001) / 5)


def area(order):
    """Return the mean error rate among the first k, over k."""
    return np.mean(np.cumsum(order) / np.arange(1, len(order) + 1))


@pytest.mark.parametrize("seed", range(5))
def test_the_excess_area_is_the_mean_over_all_orders_of_equal_confidences(seed):
    rng = np.random.default_rng(seed)
    claimed = rng.choice([0.5, 0.7, 0.9], 7)
    right = rng.integers(0, 2, 7).astype(float)
    orders = (
        p
        for p in itertools.permutations(range(7))
        if all(claimed[a] >= claimed[b] for a, b in itertools.pairwise(p))
    )
    found = np.mean([area([1 - right[i] for i in p]) for p in orders])
    best = min(area(order) for order in itertools.permutations(1 - right))
    excess = risk_coverage.excess(Confidence(claimed, right))(np.ones((1, 7)))[0]
    assert excess == pytest.approx(found - best, abs=1e-9)


def test_the_share_of_the_commonest_draw_is_what_a_system_claims():
    answers = [("7", "7", "8"), ("1", "2", "3"), ("4", "4", "4")]
    rows = [
        score(i, a == "7", sample=j, answer=a)
        for i, item in enumerate(answers)
        for j, a in enumerate(item)
    ]
    found = confidence(cell(rows))
    assert found.claimed == pytest.approx([2 / 3, 1 / 3, 1.0])
    assert found.right == pytest.approx([1.0, 0.0, 0.0])
    assert not OF["overconfidence"].defined_on(cell(drawn([[1, 0], [0, 0]])))


def test_coverage_is_that_of_all_sets_of_k_draws():
    rights = [[1, 0, 0, 0, 0], [0] * 5, [1, 1, 0, 0, 1], [1] * 5, [0, 0, 1, 1, 0]]
    sets = [itertools.combinations(item, 4) for item in rights]
    wanted = np.mean([np.mean([any(s) for s in found]) for found in sets])
    assert coverage.widest(cell(drawn(rights))) == 4
    assert whole(OF["coverage_kept"], drawn(rights)) == pytest.approx(wanted)
    assert coverage.LOSS.floor(cell(drawn(rights)), 0.25) == pytest.approx(1 - 0.75**4)


TEXTS = (
    ("3 + 4 = 7. So 7.", True, False),
    ("3 + 4 = 8, then 8 - 1 = 7.", True, True),
    ("It is 7.", True, None),
    ("3 + 4 = 9.", False, True),
    ("72 / 7 = 10.29, about 10.", True, False),
)


def test_right_answers_that_state_a_false_equation_by_hand():
    assert [states_a_false_one(text) for text, _, _ in TEXTS] == [f for *_, f in TEXTS]
    rows = [score(i, right, text=text) for i, (text, right, _) in enumerate(TEXTS)]
    assert whole(OF["false_equations"], rows) == pytest.approx(1 / 3)  # of three that are checked


@pytest.mark.parametrize(
    ("text", "true"),
    [
        ("20% of 50 = 10", True),
        ("2/3 of 30 = 20", True),
        ("10 / 3 = 3", True),  # to a whole number
        ("10 / 3 = 4", True),
        ("10 / 3 = 5", False),
        ("10 / 3 = 3.3", True),
        ("10 / 3 = 3.4", False),
        ("2 ^ 3 = 8", True),
        ("5 - 8 = -3", True),
        ("5 - 8 = 3", False),
        ("(48 - 42) / 2 = 3", True),
        ("4 * 5 * 2 = 20 * 2 = 40", True),
        ("1,000 + 24 = 1,024", True),
    ],
)
def test_an_equation_holds_where_arithmetic_says_so(text, true):
    told = [holds(step) for step in steps(text)]
    assert told and all(told) == true


def test_a_result_in_percent_is_not_called_false():
    for text in ("25 / 100 = 25%", "He got 18 / 20 = 90% right.", "1 - 0.4 = 60%"):
        assert [holds(step) for step in steps(text)] == [None], text
    assert [holds(step) for step in steps("25 / 100 = 26")] == [False]


def test_repeated_training_text_is_counted_as_sets_of_words_would():
    rng = np.random.default_rng(0)
    vocabulary = [f"w{i}" for i in range(3)]

    def text(n):
        return " ".join(rng.choice(vocabulary, n))

    def runs(words):
        return [tuple(words[i : i + 8]) for i in range(len(words) - 7)]

    trained = [text(400) for _ in range(8)]
    known = {run for t in trained for run in runs(t.split())}
    texts = [*(text(30) for _ in range(4)), "too short"]
    loss = copied.loss(trained)
    shares = [np.mean([r in known for r in runs(t.split())]) for t in texts[:4]]
    assert min(shares) > 0 and max(shares) < 1
    rows = [score(i, True, text=t.upper()) for i, t in enumerate(texts)]
    assert whole(loss, rows) == pytest.approx(np.mean(shares))  # of texts that have a run
    assert math.isnan(whole(loss, [score(0, True, text="too short")]))
    other = [score(0, True, text="new " + trained[0])]
    assert whole(loss, other) == pytest.approx(1 - 1 / len(runs(other[0].completion.split())))


def test_a_weight_is_how_often_an_item_is_there():
    """What a bootstrap draws: the same items, some several times, some not at all."""
    rng = np.random.default_rng(1)
    n = 30
    logits = np.round(rng.normal(size=(n, 3)), 1)
    rows = [choice(i, x - np.log(np.exp(x).sum()), int(t)) for i, (x, t) in enumerate(
        zip(logits, rng.integers(0, 3, n), strict=True)
    )]  # fmt: skip
    texts = [score(i, TEXTS[i % 5][1], text=TEXTS[i % 5][0]) for i in range(n)]
    weights = rng.integers(0, 4, n)
    places = np.repeat(np.arange(n), weights)
    for loss, of in (
        *((OF[name], rows) for name in ("accuracy_kept", "overconfidence", "risk_coverage")),
        (OF["false_equations"], texts),
    ):
        again = [dataclasses.replace(of[i], example_id=f"{k:05d}") for k, i in enumerate(places)]
        found = loss.of(cell(of))(weights[None].astype(float))[0]
        assert found == pytest.approx(whole(loss, again)), loss.name


def test_tokens_by_hand():
    bins = {"confidence": [0.9, 1.2], "hits": [1, 1], "tokens": [1, 2]}
    rows = pd.DataFrame(
        [
            {"tokens": 3, "ce_student": 3.0, "ce_teacher": 1.5, "kl_teacher_student": 0.6}
            | {"kl_student_teacher": 0.9, **{f"student_{k}": v for k, v in bins.items()}}
            | {f"teacher_{k}": [0, x] for k, x in zip(bins, (2.0, 2, 3), strict=True)}
        ]
    )
    found = {
        loss.name: (loss.student(rows)[0], loss.teacher and loss.teacher(rows)[0])
        for loss in TOKEN_LOSSES
    }
    assert found["token_overconfidence"] == pytest.approx((0.1, 0.0))
    assert found["likelihood_lost"] == (3.0, 1.5)
    assert found["recall_lost"] == (0.6, None) and found["precision_lost"] == (0.9, None)


def curve(teacher, truth):
    points = zip(teacher, truth, strict=True)
    return [
        {"step": 10 * i, "eval_loss": a, "eval_cross_entropy": b} for i, (a, b) in enumerate(points)
    ]


def test_hacking_is_closer_to_the_teacher_and_further_from_the_truth():
    hacked = course(curve([1.0, 0.5, 0.4, 0.3], [2.0, 1.0, 1.1, 1.2]))
    assert (hacked.step, hacked.last) == (10, 30)
    assert (hacked.teacher, hacked.truth) == pytest.approx((-0.4, 0.2))
    assert hacked.hacked
    learns = course(curve([1.0, 0.5, 0.4, 0.3], [2.0, 1.0, 0.9, 0.8]))
    overfits = course(curve([1.0, 0.5, 0.6, 0.7], [2.0, 1.0, 1.1, 1.2]))
    noise = course(curve([1.0, 0.5, 0.499, 0.498], [2.0, 1.0, 1.001, 1.002]))
    assert not (learns.hacked or overfits.hacked or noise.hacked)
    assert course(curve([1.0, 0.5, 0.4], [2.0, 1.0, 1.2])) is None


def test_only_a_loss_that_is_a_distance_to_the_teacher_has_a_course():
    bad = curve([1.0, 0.5, 0.4, 0.3], [2.0, 1.0, 1.1, 1.2])
    systems = [
        System(label=m, kind="distilled", model="m", teachers=("t",), method=m)
        for m in ("word_kd", "gkd-from-sft", "seqkd")
    ]
    systems.append(System(label="sft", kind="sft", model="m", method="sft"))
    training = [{"system": s.label, "curve": bad} for s in systems]
    assert set(courses(training, systems, {})) == {"word_kd", "gkd-from-sft"}


# Intervals.


def replicates(runs, bootstrap):
    weights = np.vstack([np.ones(runs.shape[1]), bootstrap.weights(runs.shape[1])])
    return np.array([weighted_mean(run)(weights) for run in runs])


@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
@pytest.mark.parametrize("spread", [0.0, 0.08])
def test_a_difference_has_the_interval_of_a_contrast_over_items_and_seeds(seeds, spread):
    rng = np.random.default_rng(seeds)
    n, boot = 300, Bootstrap(resamples=4000)
    ease = rng.uniform(size=n)
    levels = 0.6 + spread * rng.normal(size=seeds)
    runs = np.array([(rng.uniform(size=n) * 0.5 + ease * 0.5 < p).astype(float) for p in levels])
    changes = runs - (ease < 0.7)
    value, low, high, sd = over_items_and_seeds(replicates(changes, boot), n - 1)
    wanted = contrast([Group(1.0, [{"b": change} for change in changes])])
    assert value == pytest.approx(wanted.estimate)
    width = wanted.high - wanted.low
    assert (low, high) == pytest.approx((wanted.low, wanted.high), abs=0.04 * width)
    assert math.isnan(sd) if seeds == 1 else sd == pytest.approx(changes.mean(1).std(ddof=1))


def test_draws_that_are_all_alike_are_no_certainty():
    value, low, high, _ = over_items_and_seeds(np.ones((1, 101)), 50)
    assert value == 1 and math.isnan(low) and math.isnan(high)


def system(label, kind="distilled", model="small", seed=0, **more):
    given = {"method": "word_kd", "teachers": ("big",)} if kind == "distilled" else {}
    return System(label=label, kind=kind, model=model, seed=seed, **{**given, **more})


def table_of(scores, names=None, boot=300, **more):
    """Return the statement of systems by label: `big` the teacher, `small` the base."""
    systems = [system("big", "teacher", "big"), system("small", "base")]
    systems += [system(label) for label in scores if label not in ("big", "small")]
    cells = {label: cells_of(label, rows) for label, rows in scores.items()}
    given = {"chance": {}, "bootstrap": Bootstrap(resamples=boot), **more}
    return statement(distilled(systems, names or {}), systems, cells, **given)


def one(table, measure, benchmark=AVERAGE, name=None):
    rows = table[(table.measure == measure) & (table.benchmark == benchmark)]
    rows = rows if name is None else rows[rows.system == name]
    (row,) = rows.itertuples()
    return row


def test_five_items_kept_by_hand():
    big = [score(i, i < 4) for i in range(5)]
    small = [score(i, i in (0, 4)) for i in range(5)]
    row = one(table_of({"big": big, "s": small}), "accuracy_kept")
    assert (row.student, row.reference, row.value, row.n) == (0.4, 0.8, 0.5, 5)
    row = one(table_of({"big": big, "s": small}, chance={"math": 0.25}), "accuracy_kept")
    assert row.value == pytest.approx((0.4 - 0.25) / (0.8 - 0.25)) and row.floor == 0.25


def test_the_ratios_interval_holds_the_truth_as_often_as_it_says():
    """Student and teacher answer the same items, so their errors go together."""
    rng = np.random.default_rng(5)
    held, n, worlds = 0, 150, 200
    for _ in range(worlds):
        ease = rng.uniform(size=n)
        big = [score(i, r) for i, r in enumerate(rng.uniform(size=n) < 0.4 + 0.5 * ease)]
        small = [score(i, r) for i, r in enumerate(rng.uniform(size=n) < 0.2 + 0.5 * ease)]
        row = one(table_of({"big": big, "s": small}), "accuracy_kept")
        held += row.low <= 0.45 / 0.65 <= row.high
    assert 0.90 <= held / worlds <= 0.99


@pytest.mark.parametrize(("lost", "certain"), [(1, False), (3, False), (4, False), (7, True)])
def test_three_items_that_turn_one_way_are_three_coins(lost, certain):
    """By the exact test p is 1 for one, 1/4 for three, 1/8 for four and 1/64 for seven."""
    right = [1] * 24 + [0] * 6
    scores = {"big": right, "small": right, "s": [0] * lost + right[lost:]}
    scores = {name: [score(i, r) for i, r in enumerate(rows)] for name, rows in scores.items()}
    table = table_of(scores)
    for measure in ("accuracy_kept", "over_base"):
        row = one(table, measure)
        assert (row.high < (1 if OF[measure].how == "kept" else 0)) == certain, measure


@pytest.mark.parametrize(("n", "share"), [(31, 0.1), (90, 0.03), (400, 0.01)])
def test_few_items_that_turn_by_chance_are_seldom_called_a_loss(n, share):
    """Student, base and teacher are of one strength; each item turns either way alike."""
    rng, worlds, called = np.random.default_rng(n), 150, Counter()
    for _ in range(worlds):
        was = rng.uniform(size=n) < 0.5
        rows = {name: was ^ (rng.uniform(size=n) < share) for name in ("big", "small", "s")}
        found = {name: [score(i, r) for i, r in enumerate(right)] for name, right in rows.items()}
        table = table_of(found, boot=120)
        called += Counter(
            measure
            for measure in ("accuracy_kept", "over_base")
            if words.verdict(one(table, measure)) in (words.LOST, words.GAINED)
        )
    assert max(called.values(), default=0) / worlds <= 0.05 + 2 * (0.05 * 0.95 / worlds) ** 0.5


def test_seeds_widen_the_interval_and_are_averaged():
    rng = np.random.default_rng(0)
    n = 300
    big = [score(i, r) for i, r in enumerate(rng.uniform(size=n) < 0.8)]
    runs = {
        f"s/seed={k}": [score(i, r) for i, r in enumerate(rng.uniform(size=n) < p)]
        for k, p in enumerate((0.45, 0.6, 0.75))
    }
    names = dict.fromkeys(runs, "s")
    together = one(table_of({"big": big, **runs}, names), "accuracy_kept")
    alone = [
        one(table_of({"big": big, label: rows}), "accuracy_kept") for label, rows in runs.items()
    ]
    assert together.value == pytest.approx(np.mean([r.value for r in alone]))
    assert together.sd == pytest.approx(np.std([r.value for r in alone], ddof=1))
    assert together.seeds == 3
    assert together.high - together.low > 2 * np.mean([r.high - r.low for r in alone])


def test_a_teacher_at_the_floor_has_nothing_to_keep_and_the_reason_is_said():
    big = [score(i, i % 4 == 0) for i in range(80)]
    small = [score(i, i % 5 == 0) for i in range(80)]
    found = table_of({"big": big, "s": small}, chance={"math": 0.25})
    row = one(found, "accuracy_kept")
    assert math.isnan(row.value) and math.isnan(row.low) and "guessing" in row.why
    none = table_of({"big": [score(i, False) for i in range(9)], "s": small[:9]})
    assert one(none, "accuracy_kept").why == "the teacher is not above 0"
    told = words.sentences(none, {})
    assert told[0] == ("What s kept of accuracy cannot be said: the teacher is not above 0.")


def test_benchmarks_of_one_size_are_drawn_apart():
    """Else the mean of two would have the interval of one."""
    rng = np.random.default_rng(2)

    def rows(p):
        right = rng.uniform(size=(2, 200)) < p
        return [
            score(i, r, benchmark=b)
            for b, part in zip(("a", "b"), right, strict=True)
            for i, r in enumerate(part)
        ]

    found = table_of({"big": rows(0.8), "s": rows(0.5)}, boot=1000)
    both, each = one(found, "accuracy_kept"), one(found, "accuracy_kept", "a")
    ratio = (both.high - both.low) / (each.high - each.low)
    assert ratio == pytest.approx(1 / math.sqrt(2), abs=0.12)
    assert (both.of, both.n) == ("a, b", 400)


def test_what_is_missing_is_left_out():
    big, small = ([score(i, r) for i, r in enumerate(x)] for x in ((1, 1, 0, 1), (1, 0, 0, 1)))
    assert set(table_of({"big": big, "s": small}).measure) == {"accuracy_kept"}
    assert table_of({"big": big}).empty and table_of({"s": small}).empty
    table = table_of({"big": big, "s": big, "small": small})
    assert set(table.measure) == {"accuracy_kept", "over_base"}
    assert one(table, "over_base").value == 0.25
    found = table_of({"big": big, "s": small, "small": small}, elsewhere=["math"])
    assert set(zip(found.measure, found.benchmark, strict=True)) == {
        ("accuracy_kept", ELSEWHERE),
        ("forgetting", ELSEWHERE),
    }


def test_who_lost_everything_is_said_to_have():
    right, wrong = ([score(i, r) for i in range(300)] for r in (True, False))
    half = [score(i, i % 2 == 0) for i in range(300)]
    table = table_of({"big": half, "s": wrong, "small": right}, elsewhere={"math"})
    row = one(table, "accuracy_kept", ELSEWHERE)
    assert row.value == 0 and math.isnan(row.low) and words.verdict(row) == words.LOST
    row = one(table, "forgetting", ELSEWHERE)
    assert row.value == -1 and words.verdict(row) == words.LOST
    told = [said for said in words.sentences(table, {}) if said]
    assert "forgets 100.0 points elsewhere" in told[0] and "nan" not in " ".join(told)
    assert not any(said.startswith("Cannot be told") for said in told)
    few = table_of({"big": right[:3], "s": right[:3]})
    assert words.verdict(one(few, "accuracy_kept")) == words.UNKNOWN


def test_other_items_are_refused():
    big, other = ([score(i, True) for i in range(first, first + 5)] for first in (0, 3))
    with pytest.raises(InputError, match="other items of math"):
        table_of({"big": big, "s": other})


def test_what_filters_say_comes_back_from_a_file(tmp_path):
    rows = [dataclasses.replace(score(i, i < 2), by_filter=(1, 0, 1)) for i in range(3)]
    frame = pd.DataFrame([dataclasses.asdict(r) | {"system": "s"} for r in rows])
    frame.to_parquet(tmp_path / "items.parquet")
    found = cells_of_items(pd.read_parquet(tmp_path / "items.parquet"), ["s"])["s"]["math"]
    wanted = cells_of("s", rows)["math"]
    assert np.array_equal(found.by_filter, wanted.by_filter)


def test_items_of_a_study_are_cells_again():
    rows = [*FIVE, *drawn([[1, 0], [0, 0]])]
    frame = pd.DataFrame([dataclasses.asdict(r) | {"system": "s"} for r in rows])
    found = cells_of_items(frame, ["s"])["s"]
    wanted = cells_of("s", rows)
    assert found.keys() == wanted.keys()
    for name, part in wanted.items():
        assert np.array_equal(part.outcomes, found[name].outcomes)
        assert (part.options is None) == (found[name].options is None)
    assert found["facts"].options.logprobs == pytest.approx(wanted["facts"].options.logprobs)
    assert cells_of_items(frame, []) == {}
    assert cells_of_items(frame.drop(columns="rule"), ["s"]) == {}


@pytest.mark.parametrize(
    ("corpus", "wanted"),
    [
        ("synthetic_varied", {"arc_e", "dolly"}),
        ("math10k", {"arc_e", "dolly"}),
        ("dolly", {"arc_e", "synth_svamp", "gsm8k"}),
        ("commonsense15k", {"dolly", "synth_svamp", "gsm8k"}),
        ("mine", set()),
    ],
)
def test_benchmarks_of_another_domain_are_those_nobody_trained_for(corpus, wanted):
    measured = ["arc_e", "dolly", "synth_svamp", "gsm8k", "my_own"]
    assert elsewhere(corpus, measured) == wanted
    assert elsewhere(corpus, measured, ["my_own"]) == {"my_own"}
    with pytest.raises(InputError, match="piqa: the study does not measure it"):
        elsewhere(corpus, measured, ["piqa"])


# Worlds whose losses are known.

ITEMS = 400
FAULTS = {
    "none": set(),
    "weak": {("accuracy_kept", AVERAGE), ("coverage_kept", AVERAGE), ("over_base", AVERAGE)},
    "narrow": {("coverage_kept", AVERAGE)},
    "forgets": {("accuracy_kept", ELSEWHERE), ("forgetting", ELSEWHERE)},
    "overconfident": {("overconfidence", AVERAGE), ("calibration_error", AVERAGE)},
    "disordered": {("risk_coverage", AVERAGE), ("calibration_error", AVERAGE)},
    "false": {("false_equations", AVERAGE)},
    "copies": {("copied", AVERAGE)},
}
TRAINED = ["this sentence stands in the rows that the student was trained with today"]


def math_rows(rng, ease, fault):
    """Two draws an item, right as often as it is easy; a narrow student gives one answer twice."""
    p = ease - 0.25 if fault == "weak" else ease
    right = rng.uniform(size=(ITEMS, 2)) < p[:, None]
    if fault == "narrow":
        right[:, 1] = right[:, 0]
    rows = []
    for i, item in enumerate(right):
        for j, r in enumerate(item):
            text = f"{i} + 1 = {i + 1 + (fault == 'false' and rng.uniform() < 0.2)}. "
            text += TRAINED[0] if fault == "copies" and rng.uniform() < 0.3 else "w1 w2 w3 w4 w5"
            rows.append(score(i, r, sample=j, text=text))
    return rows


def fact_rows(rng, logits, fault):
    """Options drawn from the system's own probabilities, so that it is calibrated as made."""
    logits = logits + 0.3 * rng.normal(size=logits.shape)
    if fault == "forgets":
        logits[rng.uniform(size=ITEMS) < 0.4] *= 0.05
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    target = (p.cumsum(axis=1) > rng.uniform(size=(ITEMS, 1))).argmax(axis=1)
    said = np.log(p)
    if fault == "overconfident":
        said = 3 * said
    if fault == "disordered":  # the confidences of other items, for the same choices
        said = -np.sort(-said[rng.permutation(ITEMS)], axis=1)
        order = np.argsort(np.argsort(-p, axis=1), axis=1)
        said = np.take_along_axis(said, order, axis=1)
    return [choice(i, x, int(t)) for i, (x, t) in enumerate(zip(said, target, strict=True))]


def world(seed):
    """Return every summary's verdict by student: one has each fault, one has none."""
    rng = np.random.default_rng(seed)
    ease, logits = rng.uniform(0.3, 1, ITEMS), 1.5 * rng.normal(size=(ITEMS, 4))
    scores = {
        name: [*math_rows(rng, ease, name), *fact_rows(rng, logits, name)]
        for name in ("big", "small", *FAULTS)
    }
    more = {"elsewhere": ["facts"], "responses": TRAINED, "chance": {"facts": 0.25}}
    found = table_of(scores, boot=200, **more)
    found = found[found.benchmark.isin([AVERAGE, ELSEWHERE]) & (found.against != "")]
    return {(r.system, (r.measure, r.benchmark)): words.verdict(r) for r in found.itertuples()}


def test_each_measure_sees_its_own_loss_and_not_the_others():
    worlds = [world(seed) for seed in range(10)]
    lines = {line for _, line in worlds[0]}
    assert lines == set().union(*FAULTS.values())
    lost = Counter(key for w in worlds for key, said in w.items() if said == words.LOST)
    for fault, own in FAULTS.items():
        for line in own:
            assert lost[fault, line] >= 8, (fault, line, lost[fault, line])
    silent = [(fault, line) for fault, own in FAULTS.items() for line in lines - own]
    assert max(lost[key] for key in silent) <= 3
    assert sum(lost[key] for key in silent) <= 0.05 * len(silent) * len(worlds)


# In words.


def line(measure, value, low, high, benchmark=AVERAGE, **more):
    loss = words.LINES[measure]
    against = loss.against if isinstance(loss, Loss) else "teacher" if loss.teacher else ""
    row = {"system": "s", "teacher": "t", "measure": measure, "benchmark": benchmark}
    row |= {"against": against, "student": 0.5, "reference": 0.6, "floor": 0.0}
    row |= {"value": value, "low": low, "high": high, "sd": math.nan, "seeds": 3, "n": 900}
    return row | {"alike": False, "of": "a, b", "why": ""} | more


def test_one_sentence_sums_up():
    rows = [
        line("accuracy_kept", 0.94, 0.91, 0.97),
        line("coverage_kept", 0.61, 0.52, 0.7),
        line("overconfidence", 0.06, 0.04, 0.08, student=0.12, reference=0.06),
        line("forgetting", -0.031, -0.052, -0.012, ELSEWHERE),
    ]
    assert words.sentences(pd.DataFrame(rows), {})[0] == (
        "s keeps 94% of its teacher's accuracy (91 to 97), 61% of its coverage (52 to 70), forgets "
        "3.1 points elsewhere (1.2 to 5.2) and is about twice as overconfident (+12.0 points, its "
        "teacher +6.0)."
    )


def test_what_the_items_cannot_tell_is_said_and_not_summed_up():
    rows = [
        line("accuracy_kept", 0.97, 0.93, 1.01),
        line("false_equations", 0.01, -0.01, 0.03),
        line("calibration_error", -0.02, -0.03, -0.01),
    ]
    first, *more = (said for said in words.sentences(pd.DataFrame(rows), {}) if said)
    assert first == "s keeps 97% of its teacher's accuracy (93 to 101)."
    assert more == [
        "Cannot be told from no change with so many items: accuracy and false equations in right "
        "answers.",
        "Better than what it is compared with: calibration error (−2.0, −3.0 to −1.0).",
        "Brackets are 95% intervals over up to 900 items and 3 seeds.",
    ]


def test_a_student_that_claims_less_too_little_has_lost_nothing():
    def told(student, reference):
        of = {"student": student, "reference": reference}
        change = student - reference
        row = line("overconfidence", change, change - 0.01, change + 0.01, **of)
        (found,) = pd.DataFrame([row]).itertuples()
        return words.verdict(found)

    assert told(-0.02, -0.10) == words.KEPT
    assert told(0.05, -0.10) == words.KEPT
    assert told(0.15, -0.10) == told(0.15, 0.10) == words.LOST
    assert told(0.02, 0.10) == words.GAINED
    assert told(-0.10, 0.02) == told(-0.05, -0.01) == words.KEPT


def test_hacking_is_told_with_its_steps():
    bad = course(curve([1.0, 0.5, 0.4, 0.3], [2.0, 1.0, 1.1, 1.2]))
    good = course(curve([1.0, 0.5, 0.4, 0.3], [2.0, 1.0, 0.9, 0.8]))
    rows = pd.DataFrame([line("accuracy_kept", 0.9, 0.8, 0.95)])
    told = [s for s in words.sentences(rows, {"s/seed=0": bad, "s/seed=1": good}) if "hack" in s]
    assert told == [
        "Teacher hacking in 1 of 2 runs: from step 10 to 30 of s/seed=0 the distance to the "
        "teacher still falls by 40% while the cross-entropy of the validation text rises by 20%."
    ]
    assert not [s for s in words.sentences(rows, {"s/seed=1": good}) if "hack" in s]


def test_every_line_says_what_it_cannot_tell():
    for loss in words.LINES.values():
        assert loss.note.endswith(".") and loss.cannot and loss.cost and loss.title
    assert accuracy_kept.LOSSES[0].name in words.LINES and calibration.BINS == 10
