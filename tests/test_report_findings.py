"""The report's sentences: each against a table, or tests, whose answer is known."""

import dataclasses
import json
import math

import numpy as np
import pandas as pd
import pytest
from fake_study import analysed, fake_study, with_texts

from kdstudy.analysis.results import AVERAGE, COLUMNS, NUMBERS
from kdstudy.answers.repetition import repetition
from kdstudy.report import document, stages
from kdstudy.report.data import ReportData
from kdstudy.report.sections import (
    ablations,
    answer,
    collapse,
    contamination,
    depends,
    fidelity,
    generalization,
    instruct,
    methods,
)
from kdstudy.report.sections.answer import against_teacher
from kdstudy.report.sections.contamination import overlap_counts
from kdstudy.report.sections.examples import telling_items
from kdstudy.report.sections.warnings import warnings
from kdstudy.report.seeds import Seeds
from kdstudy.report.views import graded, texts
from kdstudy.stage import Work

BEST = "m/gkd"
TEACHER, SFT = "t/sft", "m/sft"


def row(system, metric, value, *, benchmark=AVERAGE, reference="", half=0.02, **more):
    """One row of a results table: kind, model, method and teacher follow from the label."""
    model, _, method = system.partition("/")
    kind = {"base": "base", "sft": "teacher" if model == "t" else "sft"}.get(method, "distilled")
    known = {
        "study": "made",
        "system": system,
        "kind": kind,
        "model": model,
        "parameters": {"m": 10, "s": 5, "t": 40}[model],
        "teacher": TEACHER if kind == "distilled" else "",
        "student": "" if model == "t" else model,
        "method": method,
        "ablation": "",
        "temperature": 1.0,
        "noise": 0.0,
        "seed": 0,
        "n": 300,
        "signature": "made|draws:1|",
    }
    ends = {"low": value - half, "high": value + half}
    where = {"benchmark": benchmark, "reference": reference, "metric": metric, "value": value}
    return known | ends | where | more


def made(*rows):
    return pd.DataFrame(rows, columns=COLUMNS).astype(NUMBERS)


def systems(tokens=20.0, repeated=0.01):
    """A best student at 80%, one at 70%, its SFT run at 75% and their teacher at 90%."""
    accuracy = {BEST: 0.80, "s/gkd": 0.70, SFT: 0.75, TEACHER: 0.90}
    rows = [row(s, "accuracy", v) for s, v in accuracy.items()]
    rows += [row(s, "accuracy", v, benchmark="sums") for s, v in accuracy.items()]
    rows += [row(s, "parse_rate", 0.99) for s in accuracy]
    rows += [row(s, "tokens", 20.0 if s != BEST else tokens) for s in accuracy]
    rows += [row(s, "repetition", 0.01 if s != BEST else repeated) for s in accuracy]
    rows += [
        row(BEST, "gain", 0.05, reference=SFT),
        row("s/gkd", "gain", -0.01, reference="s/sft"),
    ]
    return rows


def test_the_answer_says_what_was_gained_lost_and_spent():
    steps = row(BEST, "fidelity_steps", 0.61, reference=TEACHER)
    table = made(*systems(), steps)
    kept = pd.DataFrame(
        [(BEST, TEACHER, 300, 225, 45, 15)],
        columns=["system", "teacher", "items", "kept", "lost", "gained"],
    )
    said = answer.sentence(Seeds(table), [], kept, {BEST: 2.5, TEACHER: 9.0})
    for words in (
        "The best student is m/gkd: 80.0% (78.0 to 82.0) mean accuracy",
        "+5.0 points over its own SFT run (95% interval +3.0 to +7.0)",
        "it stays 10.0 points below its teacher, with 25% of its parameters.",
        "keeps 83.3% of the 270 items its teacher gets right (45 lost, 15 others gained)",
        "shares 61.0% (59.0 to 63.0) of its teacher's steps",
        "1,000 items take it 2.5 s, its teacher 9.0 s.",
        "Next is s/gkd at 70.0%.",
    ):
        assert words in said


def test_what_a_system_keeps_is_told_of_items_not_of_items_times_seeds():
    # 13 items that the teacher has right, three seeds: 10, 11 and 12 of them are kept.
    both = [row(s, m, v) for s, m, v in ((TEACHER, "accuracy", 0.9), (BEST, "accuracy", 0.8))]
    runs = [r | {"system": f"{BEST}/seed={i}", "seed": i} for i in range(3) for r in both[1:]]
    kept = pd.DataFrame(
        [(f"{BEST}/seed={i}", TEACHER, 20, k, 13 - k, i) for i, k in enumerate((10, 11, 12))],
        columns=["system", "teacher", "items", "kept", "lost", "gained"],
    )
    said = answer.sentence(Seeds(made(both[0], *runs)), [], kept)
    expected = "keeps 84.6% of the 13 items its teacher gets right (2.0 lost, 1.0 others gained, "
    assert expected + "mean of 3 seeds)" in said and "39" not in said


def test_generalization_counts_runs_by_their_intervals():
    rows = [row(f"{s}/{m}", "gain", v, reference=f"{s}/sft") for s, m, v in (
        ("m", "gkd", 0.05), ("m", "revkd", 0.01), ("s", "gkd", -0.05), ("s", "revkd", 0.03),
    )]  # fmt: skip
    said = generalization.sentence(Seeds(made(*rows)), [])
    assert "2 of 4 distilled runs beat" in said and "1 fell below it, and 1 cannot" in said


def test_nothing_measured_is_said_as_such():
    nothing = made()
    seeds = Seeds(nothing)
    assert "nothing to recommend" in answer.sentence(seeds, [])
    assert "No distilled run" in generalization.sentence(seeds, [])
    assert fidelity.sentences(seeds, [])[0].startswith("0 students")
    assert depends.sentence([]).startswith("Too few runs")
    assert "none can be compared" in methods.sentence([])
    assert instruct.sentence(seeds.means) == "" and ablations.sentences(seeds.means) == []
    assert "0 alarms" in collapse.sentence(nothing, [], [])
    assert warnings(ReportData(table=nothing)) == []


def test_fidelity_says_each_measure_that_is_there_and_no_other():
    pair = {"reference": TEACHER}
    rows = [
        row(BEST, "agreement", 0.82, **pair),
        row(SFT, "agreement", 0.74, **pair),
        row(BEST, "agreement", 0.88, reference=SFT),
        row(BEST, "agreement_lower_bound", 0.70, **pair),
        row(BEST, "agreement_upper_bound", 0.90, **pair),
        row(BEST, "agreement_both_wrong", 0.31, **pair),
        row(BEST, "agreement_change", 0.08, **pair),
        row("s/gkd", "agreement_change", -0.01, **pair),
    ]
    said = fidelity.sentences(Seeds(made(*systems(), *rows)), [])
    assert said == [
        "m/gkd gives its teacher's answer on 82.0% (80.0 to 84.0) of items, its SFT run did on "
        "74.0% (72.0 to 76.0); its accuracy alone forces 70% and allows 90%.",
        "From SFT to distilled, agreement with the teacher changes by +3.5 points on average: it "
        "rises in 1 of 2 runs, falls in 0, and cannot be told in 1.",
        "With its own SFT run it agrees on 88.0% (86.0 to 90.0) of items.",
        "Where both are wrong, where nothing forces them to agree, they give the same wrong "
        "answer on 31.0% (29.0 to 33.0) of items.",
    ]
    held = {"reference": TEACHER, "benchmark": "held_out", "n": 50}
    more = [
        row(BEST, "bleu_corpus", 41.0, half=2.0, **pair),
        row(BEST, "bleu_same_answer", 52.0, half=3.0, **pair),
        row(BEST, "steps_same_answer", 0.66, **pair),
        row(BEST, "token_top1", 0.93, **held),
        row(BEST, "token_kl_teacher_student", 0.21, **held),
        row(BEST, "token_kl_student_teacher", 0.25, **held),
        row(BEST, "token_ece", 0.06, half=0.01, **held),
        row(BEST, "token_ece_teacher", 0.03, half=0.01, **held),
    ]
    text, tokens = fidelity.sentences(Seeds(made(*systems(), *rows, *more)), [])[-2:]
    assert "BLEU with the teacher's text is 41.0 (39.0 to 43.0)" in text
    assert "sentence BLEU is 52.0 (49.0 to 55.0) and 66.0% (64.0 to 68.0) of steps" in text
    assert "on 50 held-out texts" in tokens and "first at 93.0% (91.0 to 95.0)" in tokens
    assert "0.210 (0.190 to 0.230) nats and KL(student, teacher) 0.250" in tokens
    assert "off by 6.0% (5.0 to 7.0)" in tokens and tokens.endswith("the teacher's by 3.0%.")


@pytest.mark.parametrize(
    ("signs", "words"),
    [
        ({}, "None of 4 trained systems raises an alarm"),
        ({"tokens": 41.0}, "texts are 2.0 times as long"),
        ({"tokens": 9.0}, "texts are 0.5 times as long"),
        ({"repeated": 0.4}, "40.0% of 4-grams repeat"),
    ],
)
def test_alarms_name_the_run_and_what_the_mean_is_without_it(signs, words):
    table = made(*systems(**signs))
    raised = collapse.alarms(ReportData(table=table))
    said = collapse.sentence(table, [], raised)
    assert words in said
    if signs:
        assert [a.system for a in raised] == [BEST] and "1 of 4 trained systems raises" in said
        assert "mean gain of 2 runs is +2.0 points with them and −1.0 without" in said
        assert BEST in " ".join(warnings(ReportData(table=table), raised))


def test_an_alarm_while_training_is_among_a_systems_reasons():
    def point(step, *alarms):
        return {"step": step, "alarms": list(alarms)}

    training = [
        {"system": SFT, "probe": [point(0), point(9)]},
        {
            "system": BEST,
            "probe": [point(0), point(4, "x"), point(9, "repetition 0.45"), point(12)],
        },
        {"system": "s/gkd", "probe": [point(0), point(9, "texts of 3 tokens")]},
        {"system": "old"},
    ]
    table = made(*systems(repeated=0.4))
    raised = collapse.alarms(ReportData(table=table, made={"training": training}))
    said = "\n".join(warnings(ReportData(table=table), raised))
    assert f"{BEST} may have collapsed" in said
    assert "40.0% of 4-grams repeat, while training: repetition 0.45 at step 9." in said
    assert "s/gkd may have collapsed" in said and "texts of 3 tokens at step 9." in said
    assert f"{SFT} may" not in said and "old" not in said


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("", 0.0),
        ("one two three", 0.0),
        ("a b c d e f g", 0.0),
        ("a b c d a b c d", 1 / 5),  # abcd bcda cdab dabc abcd
        ("the " * 40, 36 / 37),
    ],
)
def test_repetition_is_the_share_of_four_grams_seen_before(text, share):
    assert repetition(text) == pytest.approx(share)


def test_repetition_is_what_counting_one_by_one_gives():
    rng = np.random.default_rng(0)
    for _ in range(50):
        words = [str(w) for w in rng.integers(0, 3, size=rng.integers(4, 60))]
        seen, repeats = [], 0
        for i in range(len(words) - 3):
            gram = words[i : i + 4]
            repeats += gram in seen
            seen.append(gram)
        assert repetition(" ".join(words)) == pytest.approx(repeats / len(seen))


ITEMS = [  # teacher right, student right
    *[(True, True)] * 5,
    *[(True, False)] * 2,
    *[(False, True)] * 1,
    *[(False, False)] * 4,
]


def item_rows(system, rights, **more):
    columns = {"benchmark": "sums", "sample": 0, "gold": "1", "extracted": "1", "tokens": 3}
    return [
        columns
        | {
            "system": system,
            "example_id": f"{i:02d}",
            "outcome": "correct" if right else "wrong",
            "completion": f"{system} {i}",
            "question": f"Q{i}",
            "overlap": "exact" if i == 0 else "masked" if i == 1 else "none",
        }
        | more
        for i, right in enumerate(rights)
    ]


@pytest.fixture
def compared(study):
    both = zip(*ITEMS, strict=True)
    items = pd.DataFrame(
        [r for s, x in zip((TEACHER, BEST), both, strict=True) for r in item_rows(s, x)]
    )
    found = dataclasses.replace(study.systems[-1], label=BEST, teachers=(TEACHER,), ablation="")
    return items, found


def test_kept_lost_and_gained_items_are_counted(compared):
    items, system = compared
    kept = against_teacher(items, [system], ["sums"])
    assert kept.to_dict("records") == [
        {"system": BEST, "teacher": TEACHER, "items": 12, "kept": 5, "lost": 2, "gained": 1}
    ]
    assert against_teacher(items, [system], []).empty
    assert against_teacher(items.iloc[:0], [system], ["sums"]).empty


def test_overlaps_count_an_item_once_whatever_the_systems(compared):
    items, _ = compared
    counts = overlap_counts(items)
    assert counts.loc["sums"].to_dict() == {
        "exact": 1, "normalised": 0, "masked": 1, "none": 10, "items": 12,
    }  # fmt: skip
    assert overlap_counts(items.assign(overlap="")).empty
    said = " ".join(warnings(ReportData(table=made()), [], counts))
    assert "The training corpus holds test items: 1 of 12 on sums" in said


def test_contamination_sets_clean_items_apart(compared):
    counts = overlap_counts(compared[0])
    where = {"reference": SFT, "benchmark": "sums"}
    rows = [row(BEST, "gain", 0.05, **where), row(BEST, "gain_clean", 0.02, **where)]
    said = contamination.sentence(made(*rows), counts)
    assert "Of 12 test items the training corpus holds 1 and another 1 with other" in said
    assert "On the clean items of this benchmark the mean gain over SFT of one run is +2.0" in said
    assert "on all items of this benchmark +5.0" in said
    assert "No benchmark was searched" in contamination.sentence(made(), counts.iloc[:0])


def test_telling_items_are_wrong_and_faithful_or_right_by_another_path(compared):
    items, _ = compared
    bleu = [99, 10, 50, 50, 50, 80, 95, 50, 50, 50, 75, 20]
    pairs = pd.DataFrame(
        [
            {"system": BEST, "reference": TEACHER, "benchmark": "sums", "example_id": f"{i:02d}"}
            | {"sample": 0, "agree": i < 5, "bleu": b, "rouge_l": 0.5, "steps": math.nan}
            for i, b in enumerate(bleu)
        ]
    )
    found = telling_items(items, pairs, BEST, TEACHER)
    assert [(e["kind"], e["bleu"], e["question"]) for e in found] == [
        ("wrong-faithful", "95.0", "Q6"),
        ("wrong-faithful", "80.0", "Q5"),
        ("same-low", "10.0", "Q1"),
    ]
    assert found[0]["student"] == "m/gkd 6" and found[0]["teacher"] == "t/sft 6"


@pytest.fixture(scope="module")
def study():
    return fake_study(n=30)


@pytest.fixture(scope="module")
def analysed_study(study):
    return analysed(study)


def test_free_texts_have_a_sentence_of_their_own_and_leak_nowhere(study, analysed_study):
    table, tests = analysed(with_texts(study, n=10))
    assert texts(table) == ["follow"] and "follow" not in graded(table)
    scores = table[(table.metric == "rouge_l") & (table.benchmark == "follow")]
    best = scores.loc[scores.value.idxmax()]
    said = instruct.sentence(Seeds(table).means)
    assert best.system in said and f"{100 * best.value:.1f} (" in said
    note = " Free-text tasks are left out, ROUGE-L is no accuracy: follow."
    plain, without = analysed_study
    for say in (answer.sentence, generalization.sentence):
        expected = say(Seeds(plain, without), without)
        assert say(Seeds(table, tests), tests).replace(note, "") == expected


def test_the_answer_names_the_best_student_and_its_interval(analysed_study):
    table, tests = analysed_study
    mean = table[(table.benchmark == "average") & (table.metric == "accuracy")]
    grid = mean[(mean.kind == "distilled") & (mean.ablation == "")]
    best = grid.loc[grid.value.idxmax()]
    sentence = answer.sentence(Seeds(table, tests), tests)
    assert best.system in sentence and f"{100 * best.value:.1f}%" in sentence
    assert f"{100 * best.low:.1f} to {100 * best.high:.1f}" in sentence


def test_an_undecided_gain_is_called_undecided(study):
    scores = dict(study.scores)
    for s in study.systems:
        if s.kind == "distilled" and not s.ablation:
            scores[s.label] = scores[f"{s.model}/sft"]
    same = dataclasses.replace(study, scores=scores, pairs={})
    table, tests = analysed(same, partial=True)
    assert "cannot tell from no change" in answer.sentence(Seeds(table, tests), tests)
    assert "0 of 12 distilled runs beat" in generalization.sentence(Seeds(table, tests), tests)


def test_the_lead_is_over_students_and_the_pooled_test_is_called_the_papers(analysed_study):
    table, tests = analysed_study
    said = generalization.sentence(Seeds(table, tests), tests)
    assert said.startswith("Over 3 students (12 cells)") and "students as units" in said
    assert "The paper's test, which takes the 12 runs as independent" in said


def test_warnings_name_what_went_wrong(study, analysed_study):
    table, _ = analysed_study
    data = ReportData(table=table, systems=study.systems, made=study.provenance)
    raised = collapse.alarms(data)
    said = " ".join(warnings(data, raised, overlap_counts(study.items)))
    for words in ("noise=5", "length limit", "One training seed", "Few items", "96 same question"):
        assert words in said
    held = study.items.drop_duplicates(["benchmark", "example_id"])
    held = held[held.overlap.isin(["exact", "normalised"])].benchmark.value_counts()
    assert f"{held['one_step']} of 30 on one_step" in said and "on choice" not in said


def test_a_teacher_that_cannot_teach_is_a_warning(study):
    swapped = study.scores | {"zoo-l/sft": study.scores["zoo-xs/base"]}
    bad = dataclasses.replace(study, scores=swapped, pairs={})
    table, _ = analysed(bad, partial=True)
    said = " ".join(warnings(ReportData(table=table, systems=study.systems)))
    assert "zoo-l/sft is not better after fine-tuning" in said
    assert "no better than the SFT student zoo-m/sft" in said


def test_plain_fine_tuning_that_beats_every_distilled_student_is_the_answer(analysed_study):
    table = analysed_study[0].copy()
    table.loc[(table.kind == "sft") & (table.metric == "accuracy"), "value"] = 0.999
    said = answer.sentence(Seeds(table), analysed_study[1])
    assert said.startswith("The best student is ")
    assert "fine-tuned without a teacher: 99.9%" in said
    assert "The best distilled one is " in said


def test_stages_built_with_other_versions_or_elsewhere_are_told(tmp_path):
    def stage(name, versions, gpu):
        facts = {"key": name, "kind": "score", "label": name, "seconds": 1, "started": 0}
        hardware = {"cores": 2, "gpu": gpu}
        facts |= {"summary": "", "environment": {"versions": versions, "hardware": hardware}}
        facts |= {"inputs": {}}
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(json.dumps(facts))
        return f"stage:{name}", tmp_path / name

    made_with = ({"torch": "2.12"}, {"torch": "2.13", "peft": "0.21"}, {"torch": "2.13"})
    inputs = dict(map(stage, "abc", made_with, ("", "H200", "H200")))
    work = Work(
        config={"study": {}, "protocol_differences": []}, inputs=inputs, local={}, out=tmp_path
    )
    found = stages._provenance(work)
    assert found["versions"] == {"torch": "2.12 and 2.13", "peft": "0.21"}
    assert found["hardware"] == {"cores": "2", "gpu": "H200"}
    (said,) = warnings(ReportData(table=made(*systems()), made=found))[-1:]
    assert "different versions (torch 2.12 and 2.13)" in said
    found["versions"] = {"torch": "2.13"}
    assert "versions" not in " ".join(warnings(ReportData(table=made(*systems()), made=found)))


def test_runs_have_this_studys_names_and_the_time_of_what_they_started_from(tmp_path):
    """Three runs of three seconds: one that another study built, a start, a run from it."""

    def stage(key, label, **inputs):
        facts = {"key": key, "kind": "train", "label": "as another study calls it", "seconds": 3}
        facts |= {"started": 0, "summary": "", "environment": {"versions": {}, "hardware": {}}}
        (tmp_path / key).mkdir()
        (tmp_path / key / "manifest.json").write_text(json.dumps(facts | {"inputs": inputs}))
        (tmp_path / key / "training.json").write_text(json.dumps({"tokens": 60}))
        return f"stage:{key} {label}", tmp_path / key

    inputs = dict(
        [
            stage("a", "small/sft/seed=0"),
            stage("b", "small/sft for 2 epochs"),
            stage("c", "small/gkd-from-sft/big", start="b"),
        ]
    )
    config = {"study": {}, "protocol_differences": [], "only_starts": ["b"]}
    config |= {"epochs": {"gkd-from-sft": "starts from the sft run: 2 + 4 epochs"}}
    config |= {"origins": {"big": "weights dequantised from Q4_1"}}
    found = stages._provenance(Work(config=config, inputs=inputs, local={}, out=tmp_path))
    told = [(r["system"], r["seconds"], r["tokens_per_second"]) for r in found["training"]]
    assert told == [("small/sft/seed=0", 3, 20), ("small/gkd-from-sft/big", 6, 20)]
    assert [s["label"] for s in found["stages"]] == [role.split(" ", 1)[1] for role in inputs]
    facts = dict(document.facts(ReportData(table=made(*systems()), made=found)))
    assert found["origins"] == {"big": "weights dequantised from Q4_1"}
    assert facts["epochs"] == "gkd-from-sft: starts from the sft run: 2 + 4 epochs"
