"""Whether answers follow a changed result: by hand, by scripted writers, on the zoo, in worlds."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import tiny_models as tiny
from scipy import stats
from study_folder import plan_of, write_folder

from kdstudy.analysis.intervals import Bootstrap
from kdstudy.analysis.measures import AVERAGE
from kdstudy.analysis.probed import probed
from kdstudy.answers.corrupt import corrupted, goes_on_in_number
from kdstudy.answers.steps import steps
from kdstudy.artifacts import Reasoning
from kdstudy.config import schema
from kdstudy.data import synthetic
from kdstudy.data.chat import DATE
from kdstudy.errors import InputError
from kdstudy.evaluation import generate as writing
from kdstudy.evaluation.reasoning import reasoning
from kdstudy.measures.reasoning import beside
from kdstudy.models.sample import Sampled
from kdstudy.records import Example, Generation, ReasoningRow, System, write_records
from kdstudy.report import loss_words, probes
from kdstudy.stage import Work

SUM = "3 + 4 = 7. Then 7 * 2 = 14. The answer is 14."


@pytest.mark.parametrize(
    ("text", "before"),
    [
        # The result of either equation: each stands again behind it.
        (SUM, {"3 + 4 = ", "3 + 4 = 7. Then 7 * 2 = "}),
        ("33 minus 13 is 20. 20 times 2 gives 40.\nIt is 40.",
         {"33 minus 13 is ", "33 minus 13 is 20. 20 times 2 gives "}),
        ("48/2 = <<48/2=24>>24. 24+48 = <<24+48=72>>72\n#### 72",
         {"48/2 = <<48/2=", "48/2 = <<48/2=24>>24. 24+48 = <<24+48="}),
        ("2 + 3 = 5 + 1 = 6, so 5 and 6.", {"2 + 3 = ", "2 + 3 = 5 + 1 = "}),
        ("1,200 + 34 = 1,234. It is 1234.", {"1,200 + 34 = "}),
        # Nothing follows from a result that is not used again, nor from one that is false.
        ("3 + 4 = 7 apples.", set()),
        ("3 + 4 = 8. So 8.", set()),
        ("There are 7 of 7.", set()),
        ("", set()),
    ],
)  # fmt: skip
def test_which_results_may_be_changed_by_hand(text, before):
    found = [corrupted(text, "", str(seed)) for seed in range(40)]
    assert {change.before for change in found if change} == before
    assert all(change is not None for change in found) or not before


NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")


def numbers(text):
    return {float(n.replace(",", "")) for n in NUMBER.findall(text)}


@pytest.mark.parametrize("seed", ["0", "1"])
def test_worked_answers_of_a_corpus_have_one_false_equation_afterwards(seed):
    rows = [(r["output"], r["instruction"]) for r in synthetic.corpus_rows(80)]
    found = {(a, q): c for a, q in rows if (c := corrupted(a, q, seed))}
    earlier = 0
    for (text, question), change in found.items():
        assert change == corrupted(text, question, seed)
        assert text.startswith(change.untouched)
        assert len(change.put) == len(change.result)
        assert sum(a != b for a, b in zip(change.put, change.result, strict=True)) == 1
        put, result = (float(n.replace(",", "")) for n in (change.put, change.result))
        assert put not in numbers(text) | numbers(question)
        rest = text[len(change.untouched) :]
        assert result in numbers(rest)
        known, new = steps(change.untouched), steps(change.begun)
        assert len(known) == len(new) and known != new
        earlier += len(numbers(rest)) > 1
    assert len(found) > 0.5 * len(rows)
    # Not the last equation's result alone is changed, and not the first one's.
    assert 0.1 * len(found) < earlier < 0.9 * len(found)
    assert any(corrupted(*text, seed + "x") != change for text, change in found.items())


def test_what_makes_a_number_another_one():
    assert all(map(goes_on_in_number, ("5", ".5", ",000 x")))
    assert not any(map(goes_on_in_number, ("", ".", ". 5", " 5", ", 6", "x5")))


ITEMS = [Example(id=f"i{n}", instruction=f"what is {n}", answer=str(2 * n)) for n in range(3, 27)]


def answer(n):
    return f"{n - 1} + 1 = {n}. so {n} * 2 = {2 * n}. the answer is {2 * n}."


def work_of(folder, items, answers, **config):
    for name, kind, rows in (
        ("items/examples", Example, items),
        ("own/generations", Generation, answers),
    ):
        path = folder / f"{name}.parquet"
        path.parent.mkdir(parents=True)
        write_records(path, rows, kind)
    facts = {"name": "own", "version": "1", "kind": "number", "chance": 0.0, "labels": []}
    (folder / "items" / "benchmark.json").write_text(
        json.dumps(facts | {"kind": config.pop("kind", "number")})
    )
    (folder / "out").mkdir()
    tiny.save(folder / "model", tiny.qwen(1))
    local = {
        "folder": str(folder / "model"), "adapter": "", "hub_id": "", "trust_remote_code": False,
    }  # fmt: skip
    return Work(
        config={
            **{"model": {"name": "m", "fingerprint": "1"}, "items": "own", "rows": 99},
            **{"template": tiny.TEMPLATE, "template_date": DATE, "precision": "float32"},
            **{"generation": {"max_new_tokens": 100}, "rule": "corrected"},
            **config,
        },
        inputs={"items": folder / "items", "own_answers": folder / "own"},
        local={"models": {"model": local}, "batch_size": 5},
        out=folder / "out",
    )


def generation(name, text, stop="eos"):
    return Generation(
        benchmark="own", example_id=name, sample=0, completion=text, stop=stop, tokens=len(text)
    )


def follower(question, begun):
    """What somebody writes who goes on by what stands there."""
    stated = re.findall(r"= (\d+)", begun)
    end = int(stated[-1]) * (2 if len(stated) == 1 else 1)
    return (f". so {stated[0]} * 2 = {end}" if len(stated) == 1 else "") + f". the answer is {end}."


def ignorer(question, begun):
    """What somebody writes who knew the answer all along."""
    return f". so it is. the answer is {2 * int(question)}."


def scripted(monkeypatch, write):
    """Have `write(question, begun)` write in the model's place, and note what it was handed."""
    tokenizer, seen = tiny.tokenizer(), []

    def sample(model, prompts, *, max_new_tokens, temperature, **_):
        assert temperature == 0
        texts = []
        for prompt, budget in zip(prompts, max_new_tokens, strict=True):
            said = tokenizer.decode(prompt)
            question, begun = re.fullmatch(r"Q: what is (\d+)\nA: (.*)", said, re.S).groups()
            seen.append((begun, budget))
            ids = (*tokenizer(write(question, begun), add_special_tokens=False)["input_ids"],)
            texts.append(Sampled((*ids, tiny.EOS), "eos"))
        return texts

    monkeypatch.setattr(writing, "sample", sample)
    return seen


def outcomes(work):
    line = reasoning(work)
    return Reasoning(work.out).rows.read(), line


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_share_of_scripted_followers_is_found(tmp_path, monkeypatch, share):
    """Some writers follow what stands there, the others know the answer: the truth is known."""

    def write(question, begun):
        return (follower if int(question) % 24 < 24 * share else ignorer)(question, begun)

    seen = scripted(monkeypatch, write)
    answers = [generation(e.id, answer(int(e.answer) // 2)) for e in ITEMS]
    rows, line = outcomes(work_of(tmp_path, ITEMS, answers))
    assert [r.example_id for r in rows] == [e.id for e in ITEMS]
    told = [r.outcome for r in rows]
    assert set(told) <= {"followed", "kept"} and told.count("followed") == round(24 * share)
    assert f"{round(24 * share)} follow it" in line and len(seen) == 2 * len(ITEMS)
    for (begun, budget), r in zip(
        sorted(seen[24:]), sorted(rows, key=lambda r: r.completion), strict=True
    ):
        assert r.completion.startswith(begun) and begun.endswith(r.put)
        assert budget == 100 - len(begun)
    plain = {begun for begun, _ in seen[:24]}
    assert all(any(a.completion.startswith(b) for a in answers) for b in plain)


def test_what_nothing_can_be_said_of(tmp_path, monkeypatch):
    texts = {
        "wrong": "7 + 1 = 8. so 8 * 2 = 18. the answer is 18.",
        "states none": "the answer is {}.",
        "goes on": answer(5), "silent": answer(6), "lost": answer(7), "follows": answer(8),
    }  # fmt: skip
    items = [
        Example(id=name, instruction=f"what is {n}", answer=str(2 * n))
        for n, name in enumerate(texts, 3)
    ]
    answers = [generation(e.id, texts[e.id].format(e.answer)) for e in items]

    def write(question, begun):
        plain = any(a.completion.startswith(begun) for a in answers)
        name = items[int(question) - 3].id
        if name == "lost":
            return " and on."
        if plain:
            return follower(question, begun)
        return {"goes on": "0. the answer is 4.", "silent": ". who knows"}.get(
            name, follower(question, begun)
        )

    scripted(monkeypatch, write)
    rows, line = outcomes(work_of(tmp_path, items, answers))
    assert {r.example_id: r.outcome for r in rows} == {
        "wrong": "not right", "states none": "no equation", "goes on": "number went on",
        "silent": "no answer", "lost": "unstable", "follows": "followed",
    }  # fmt: skip
    assert "1 follow it (100.0%); not told of: 1 no answer, 1 no equation" in line


def test_where_no_answer_is_right_no_model_is_opened(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "generate_to", None)
    rows, _ = outcomes(work_of(tmp_path, ITEMS, [generation(e.id, "0") for e in ITEMS]))
    assert {r.outcome for r in rows} == {"not right"} and len(rows) == len(ITEMS)


@pytest.mark.parametrize("config", [{"kind": "text"}, {"asking": {"thinking": "</t>"}}])
def test_what_is_no_worked_answer_is_refused(tmp_path, config):
    with pytest.raises(InputError, match="own: its answers cannot be gone on with"):
        reasoning(work_of(tmp_path, ITEMS, [], **config))


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_model_goes_on_from_any_beginning_of_its_answer_as_it_wrote_it(seed, batch_size):
    """The oracle is the whole greedy answer: behind a part of it nothing else is the likeliest."""
    model, tokenizer = tiny.qwen(seed, scale=3.0), tiny.tokenizer()
    items = [("own", e) for e in ITEMS[:7]]
    settings = schema.Generation(max_new_tokens=23, batch_size=batch_size)

    def written(begun=None):
        batches = writing.generate(model, tokenizer, items, tiny.TEMPLATE, settings, begun=begun)
        return {g.example_id: g for batch in batches for g in batch}

    whole = written()
    for cut in (1, 4, 11, 22):
        begun = {name: g.completion[:cut] for name, g in whole.items() if g.tokens > cut}
        again = written(begun)
        assert {n: (again[n].completion, again[n].stop, again[n].tokens) for n in whole} == {
            n: (g.completion, g.stop, g.tokens) for n, g in whole.items()
        }
    assert begun and max(g.tokens for g in whole.values()) == 23


TOLD = ("followed", "kept", "no answer", "unstable", "no equation", "not right")


def invented(rng, n, follows, told=0.7):
    """Outcomes of which a share can be told of, and of those a share follows."""
    return pd.DataFrame(
        {
            "example_id": [f"{i:03d}" for i in range(n)],
            "outcome": [
                ("followed" if rng.random() < follows else "kept")
                if rng.random() < told
                else rng.choice(TOLD[2:])
                for _ in range(n)
            ],
        }
    )


def group(runs=1):
    systems = [
        System(label=f"s/kd/seed={i}", kind="distilled", model="s", teachers=("t",), method="gkd")
        for i in range(runs)
    ]
    return {("s/kd", "t"): systems}


def test_the_line_is_of_the_items_that_both_can_be_told_of():
    own = pd.DataFrame(
        {"example_id": [*"abcde"], "outcome": ["followed", "kept", "kept", "no answer", "followed"]}
    )
    theirs = pd.DataFrame(
        {
            "example_id": [*"edcba"],
            "outcome": ["followed", "followed", "not right", "followed", "followed"],
        }
    )
    frames = {"reasoning": {("s/kd/seed=0", "t"): {"own": beside(own, theirs)}}}
    (row,) = probed(group(), frames).itertuples()
    # Of a, b and e: the student follows in two, the teacher in all.
    assert (row.student, row.reference, row.n) == (pytest.approx(2 / 3), 1.0, 3)
    assert row.value == pytest.approx(-1 / 3) and row.benchmark == AVERAGE


def test_in_worlds_whose_shares_are_known_the_interval_holds_the_difference():
    inside, lost = [], []
    for seed in range(80):
        rng = np.random.default_rng(seed)
        frames = {
            (f"s/kd/seed={i}", "t"): {
                "own": beside(invented(rng, 150, 0.6), invented(rng, 150, 0.9))
            }
            for i in range(1)
        }
        (row,) = probed(group(), {"reasoning": frames}, Bootstrap(resamples=300)).itertuples()
        inside.append(row.low <= -0.3 <= row.high)
        lost.append(loss_words.verdict(row) == loss_words.LOST)
    assert np.mean(inside) > 0.88 and np.mean(lost) > 0.9


@pytest.mark.parametrize("changed", [4, 5, 6, 9])
def test_of_few_items_a_loss_is_told_where_mcnemars_exact_test_tells_it(changed):
    own = ["kept"] * changed + ["followed"] * (40 - changed)
    frame = pd.DataFrame({"example_id": range(40), "own": own, "reference": "followed"})
    (row,) = probed(group(), {"reasoning": {("s/kd/seed=0", "t"): {"own": frame}}}).itertuples()
    told = loss_words.verdict(row) == loss_words.LOST
    assert told == (stats.binomtest(0, changed).pvalue < 0.05)
    assert row.value == pytest.approx(-changed / 40)


def test_students_that_lost_nothing_are_not_told_to_have():
    told = []
    for seed in range(150):
        rng = np.random.default_rng(1000 + seed)
        frame = beside(invented(rng, 25, 0.9), invented(rng, 25, 0.9))
        (row,) = probed(
            group(), {"reasoning": {("s/kd/seed=0", "t"): {"own": frame}}}, Bootstrap(resamples=300)
        ).itertuples()
        told.append(loss_words.verdict(row) in (loss_words.LOST, loss_words.GAINED))
    assert np.mean(told) <= 0.05


def test_a_report_sets_each_student_beside_its_teacher(tmp_path):
    rng = np.random.default_rng(0)
    opened = []
    for label in ("s/kd/seed=0", "t", "s/kd/seed=1"):
        for benchmark in ("one", "two"):
            folder = tmp_path / f"{len(opened)}"
            folder.mkdir()
            rows = [
                ReasoningRow(benchmark=benchmark, example_id=r.example_id, outcome=r.outcome)
                for r in invented(rng, 40, 0.5).itertuples()
            ]
            Reasoning(folder).rows.write(rows)
            opened.append((f"{label} on {benchmark}", Reasoning(folder)))
    (systems,) = group(2).values()
    found = probes.found(opened, systems)
    assert {pair: [*b] for pair, b in found["reasoning"].items()} == {
        ("s/kd/seed=0", "t"): ["one", "two"], ("s/kd/seed=1", "t"): ["one", "two"],
    }  # fmt: skip
    table = probed(group(2), found)
    assert [*table.benchmark] == [AVERAGE, "one", "two"] and set(table.seeds) == {2}
    assert "reasoning" not in probes.found(opened[:2], systems)


def stages(plan):
    return {key: stage for key, stage in plan.stages.items() if stage.kind == "reasoning"}


def test_only_a_study_that_asks_has_its_stages(tmp_path):
    folder = write_folder(tmp_path)
    plain, asked = plan_of(folder), plan_of(folder, statement={"reasoning_items": 5})
    systems = {s.label for s in plain.systems if s.kind == "distilled" and not s.ablation}
    assert {s.label for s in stages(asked).values()} == {
        f"{label} on {b}"
        for label in (*systems, "big/teacher")
        for b in ("synth_addsub", "synth_multiarith")
    }
    assert plain.stages.keys() - asked.stages.keys() == {plain.report}
    assert asked.stages.keys() - plain.stages.keys() == {asked.report, *stages(asked)}
    (folder / "items.jsonl").write_text('{"question": "a", "references": ["b"]}\n')
    own = {"name": "own", "path": "items.jsonl", "kind": "text"}
    with pytest.raises(InputError, match=r"statement\.reasoning_items: no benchmark asks for num"):
        plan_of(folder, statement={"reasoning_items": 5}, benchmarks=[own])
