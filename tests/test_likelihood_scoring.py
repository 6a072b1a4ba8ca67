"""Choice by likelihood in scores, measures, files, plans and verbs."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from kdstudy import evaluate
from kdstudy.config.schema import Study
from kdstudy.errors import InputError
from kdstudy.evaluation import completions
from kdstudy.evaluation.benchmarks import from_rows
from kdstudy.evaluation.fidelity import pair
from kdstudy.evaluation.graders import chosen
from kdstudy.evaluation.score import score, summary
from kdstudy.measures import MEASURES, Measure
from kdstudy.measures.cell import cells_of
from kdstudy.plan.plan import make_plan
from kdstudy.records import Generation, OptionLikelihoods, Score, read_records, write_records

ROWS = [
    {"question": "One?", "options": ["a", "bbbb"], "answer": "B"},
    {"question": "Two?", "options": ["éé", "xyz", "u"], "answer": "A"},
    {"question": "Three?", "options": ["1", "2"], "answer": "A"},
]
ITEMS = from_rows("mine", ROWS, "choice")
GRADER = chosen("likelihood", "mine", "choice", ())
SAID = [(-2.0, -4.0), (-3.0, -4.2, -2.9), (-1.0, -1.0)]


def rows(said=SAID):
    return [
        OptionLikelihoods(benchmark="mine", example_id=e.id, logprobs=values)
        for e, values in zip(ITEMS.examples, said, strict=True)
    ]


def graded(said=SAID):
    return score(rows(said), ITEMS, "corrected", grader=GRADER)


def test_the_three_accuracies_by_hand():
    """Sums: A (wrong), C (wrong), A of equals (right).

    Per character: -2, -1 (right); -1.5, -1.4, -2.9 (B, wrong); -1, -1 (right). Per byte the second
    is -0.75, -1.4, -2.9 (right): an é has two.
    """
    scores = graded()
    assert [s.extracted for s in scores] == ["A", "C", "A"]
    assert [s.outcome for s in scores] == ["wrong", "wrong", "correct"]
    assert [s.completion for s in scores] == ["a", "u", "1"]
    assert {s.rule for s in scores} == {"choice-likelihood"}
    assert [s.target for s in scores] == [1, 0, 0]
    found = summary(scores)
    assert found["outcomes"] == {"correct": 1, "wrong": 2}
    wanted = {"accuracy": 1 / 3, "acc_norm": 2 / 3, "acc_bytes": 1.0}
    assert {name: found[name] for name in wanted} == pytest.approx(wanted)
    (cell,) = cells_of("x", scores).values()
    for name, value in wanted.items():
        assert MEASURES[name].per_item(cell).mean() == pytest.approx(value)


def test_option_probabilities_are_for_measures_to_read():
    (cell,) = cells_of("x", graded()).values()
    place = cell.ids.index(ITEMS.examples[0].id)
    wanted = np.exp([-2.0, -4.0]) / np.exp([-2.0, -4.0]).sum()
    assert cell.options.probabilities[place] == pytest.approx([*wanted, 0.0])
    assert cell.options.probabilities.sum(axis=1) == pytest.approx(1.0)


def test_nothing_is_measured_of_texts_that_nobody_wrote():
    (cell,) = cells_of("x", graded()).values()
    own = {m.name for m in MEASURES.values() if isinstance(m, Measure) and m.defined_on(cell)}
    assert own == {"accuracy", "acc_norm", "acc_bytes", "option_ece"}
    texts = [dataclasses.replace(s, option_logprobs=()) for s in graded()]
    (cell,) = cells_of("x", texts).values()
    own = {m.name for m in MEASURES.values() if isinstance(m, Measure) and m.defined_on(cell)}
    assert {"accuracy", "parse_rate", "tokens"} <= own
    assert not own & {"acc_norm", "acc_bytes", "option_ece"}


def test_a_choice_and_an_answer_are_not_compared():
    texts = [
        Generation(
            benchmark="mine", example_id=e.id, sample=0, completion="A", stop="eos", tokens=1
        )
        for e in ITEMS.examples
    ]
    with pytest.raises(InputError, match="items were read by two rules"):
        pair(graded(), score(texts, ITEMS, "corrected"))


def test_scores_keep_the_options_and_other_files_stay_as_they_were(tmp_path):
    scores = graded()
    write_records(tmp_path / "a.parquet", scores, Score)
    assert read_records(tmp_path / "a.parquet", Score) == scores
    text = dataclasses.replace(
        scores[0], option_logprobs=(), option_characters=(), option_bytes=(), target=-1
    )
    write_records(tmp_path / "b.parquet", [text], Score)
    assert read_records(tmp_path / "b.parquet", Score) == [text]
    old = ["benchmark", "example_id", "sample", "completion", "extracted", "rule", "outcome"]
    assert pq.read_schema(tmp_path / "b.parquet").names == [*old, "quality", "tokens"]


def test_other_numbers_of_options_are_refused():
    with pytest.raises(InputError, match=r"has 2 options \(A, B\), and 3 log-probabilities"):
        graded([(-1.0, -2.0, -3.0), *SAID[1:]])


@pytest.mark.parametrize(
    "values", [(float("nan"), -1.0), (-1.0, float("nan")), (-math.inf, -math.inf), (math.inf, -1.0)]
)
def test_log_probabilities_that_order_nothing_are_refused(values):
    with pytest.raises(InputError, match=r"mine .*: log-probabilities .* choose nothing"):
        graded([values, *SAID[1:]])


def test_an_impossible_option_is_never_chosen():
    first, *_ = graded([(-math.inf, -900.0), *SAID[1:]])
    assert first.extracted == "B"


def study(tmp_path, **more):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(ROWS))
    own = {"name": "mine", "path": str(path), "kind": "choice", **more}
    return Study(
        name="s", students=["zoo-xs"], corpus="synthetic", methods=["sft"],
        benchmarks=[own, "synth_addsub"],
    )  # fmt: skip


def keys(plan, *kinds):
    return {k: s for k, s in plan.stages.items() if s.kind in kinds}


def test_a_plan_scores_options_in_a_stage_of_its_own(tmp_path):
    plain, choice = (
        make_plan(study(tmp_path, **more), tmp_path, None, {})
        for more in ({}, {"scoring": "likelihood"})
    )
    assert not keys(plain, "likelihood")
    (base, trained) = keys(choice, "likelihood").values()
    assert base.config["scoring"] == {"fields": {"type": "likelihood", "wording": None}}
    assert "template" not in base.config
    assert trained.inputs["trained"] == choice.trained["zoo-xs/sft"]
    assert keys(plain, "train", "benchmark", "contamination").keys() == (
        keys(choice, "train", "benchmark", "contamination").keys()
    )
    usual = make_plan(study(tmp_path, scoring="letter"), tmp_path, None, {})
    assert keys(usual, "score", "generate").keys() == keys(plain, "score", "generate").keys()


def test_what_a_study_does_not_say_stands_in_no_key(tmp_path):
    plan = make_plan(study(tmp_path), tmp_path, None, {})
    said = [json.dumps([s.config, dict(s.inputs)]) for s in plan.stages.values()]
    assert not [text for text in said if "scoring" in text or "likelihood" in text]


@pytest.mark.parametrize(
    ("more", "wanted"),
    [
        (
            {"kind": "number"},
            "likelihood is for benchmarks of choices, and its answers are numbers",
        ),
        ({"kind": "text"}, "and its answers are free texts"),
    ],
)
def test_a_benchmark_without_options_is_refused_when_it_is_planned(tmp_path, more, wanted):
    path = tmp_path / "mine.json"
    asked = study(tmp_path, scoring="likelihood", **more)
    path.write_text(json.dumps([{"question": "2?", "answer": 2, "references": ["2"]}]))
    with pytest.raises(InputError, match=wanted):
        make_plan(asked, tmp_path, None, {})


def test_a_loaded_model_and_one_by_name_choose_alike_and_it_is_left_as_it_is(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from kdstudy.models import zoo

    path = tmp_path / "mine.json"
    path.write_text(json.dumps(ROWS))
    own = {"name": "mine", "path": str(path), "kind": "choice", "scoring": "likelihood"}
    named = evaluate("zoo-xs", own, store=tmp_path / "store")
    folder = zoo.path("zoo-xs")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    before = model.config._attn_implementation
    loaded = evaluate(model, own, tokenizer=AutoTokenizer.from_pretrained(folder))
    assert model.config._attn_implementation == before
    for a, b in zip(named.items.option_logprobs, loaded.items.option_logprobs, strict=True):
        assert list(a) == pytest.approx(list(b), abs=1e-5)
    assert named.metrics["mine"]["acc_norm"] == loaded.metrics["mine"]["acc_norm"]
    assert named.metrics["mine"]["rule"] == "choice-likelihood"
    named.save(tmp_path / "out")
    kept = read_records(tmp_path / "out" / "scores.parquet", Score)
    assert [len(s.option_logprobs) for s in kept] == [2, 3, 2]


def test_log_probabilities_made_anywhere_are_graded(tmp_path):
    path = tmp_path / "rows.jsonl"
    asked = [{"question": e.question, "logprobs": list(v)} for e, v in
             zip(ITEMS.examples, SAID, strict=True)]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in asked))
    found, account = completions.read(path, ITEMS, GRADER)
    assert (account.matched, account.missing, account.unstated) == (3, 0, 0)
    assert completions.grade(found, ITEMS, "corrected", grader=GRADER) == graded()
    write_records(tmp_path / "rows.parquet", rows(), OptionLikelihoods)
    again, _ = completions.read(tmp_path / "rows.parquet", ITEMS, GRADER)
    assert completions.grade(again, ITEMS, "corrected", grader=GRADER) == graded()


@pytest.mark.parametrize(
    "given", [{"completion": "A"}, {"logprobs": []}, {"logprobs": [0.3, -1]}, {"logprobs": ["-1"]}]
)
def test_rows_without_log_probabilities_are_refused_with_their_line(tmp_path, given):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"question": ITEMS.examples[0].question, **given}) + "\n")
    with pytest.raises(InputError, match=r'rows\.jsonl, line 1: has no "logprobs"'):
        completions.read(Path(path), ITEMS, GRADER)
