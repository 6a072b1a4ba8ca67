"""What models read of items: the stage that keeps it, and the page that holds it once per item."""

import json

import numpy as np
import pytest
import tiny_models as tiny
from chat_models import TEMPLATES
from fake_study import fake_study, planned, prompts_of, with_choices

from kdstudy.artifacts import Items, Prompts
from kdstudy.data.chat import DATE
from kdstudy.data.prompts import encode_prompt
from kdstudy.evaluation import shown
from kdstudy.evaluation.asking import Asking, Shot
from kdstudy.evaluation.benchmarks import from_rows
from kdstudy.evaluation.graders import as_config, chosen
from kdstudy.evaluation.stages import benchmark_facts
from kdstudy.records import Prompt
from kdstudy.report import asked, browse
from kdstudy.report.asked import in_parts
from kdstudy.stage import Work

FEW = planned(students=("zoo-xs",), seeds=(0,), methods=("sft", "gkd"))


def whole(parts, benchmark, name, model, question):
    """Put a prompt together as the page does."""
    frame = parts.framed[benchmark, model]
    number, body = parts.bodies.get((benchmark, name), {}).get(frame, (frame, question.strip()))
    before, after = parts.frames[number]
    return before + body + after


def drawn(rng, kind, model):
    """Return questions and prompts of nine items, in a shape that a study may have."""
    letters = list("ab <&\n{}é")
    questions = {f"i{k}": "".join(rng.choice(letters, 12)) + str(k) for k in range(9)}
    head = f"Q: {model} how many?\nA: 3\n\n"
    texts = {
        "framed": {i: f"{head}Q: {q.strip()}\nA:" for i, q in questions.items()},
        "one unlike": {
            i: "odd" if i == "i4" else f"{head}{q.strip()}\nA:" for i, q in questions.items()
        },
        "none": {i: f"{head}Q: {q.strip()[::-1]} ?\nA:" for i, q in questions.items()},
        "nothing shared": {i: q.strip()[::-1] for i, q in questions.items()},
        "empty": dict.fromkeys(questions, ""),
        "alike": dict.fromkeys(questions, f"{head}the same"),
    }[kind]
    return questions, texts


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "kind", ["framed", "one unlike", "none", "nothing shared", "empty", "alike"]
)
def test_parts_put_together_are_the_prompt(kind, seed):
    rng = np.random.default_rng(seed)
    questions, _ = drawn(rng, kind, "a")
    told = {("b", i): q for i, q in questions.items()}
    prompts = []
    for model in ("a", "longer", "a again"):
        _, texts = drawn(np.random.default_rng(seed), kind, model.split()[0])
        prompts += [
            Prompt(benchmark="b", example_id=i, model=model, text=t) for i, t in texts.items()
        ]
    parts = in_parts(prompts, told)
    for p in prompts:
        assert whole(parts, "b", p.example_id, p.model, told["b", p.example_id]) == p.text
    assert parts.framed["b", "a"] == parts.framed["b", "a again"]
    if kind == "framed":
        assert not parts.bodies


def test_a_models_own_body_is_its_own():
    """Two models with one frame that read one item differently."""
    told = {("b", f"i{k}"): f"question {k}" for k in range(5)}
    prompts = [
        Prompt(
            benchmark="b", example_id=i, model=m,
            text=f"<{'other' if (m, i) == ('two', 'i2') else q}>",
        )
        for m in ("one", "two")
        for (_, i), q in told.items()
    ]  # fmt: skip
    parts = in_parts(prompts, told)
    for p in prompts:
        assert whole(parts, "b", p.example_id, p.model, told["b", p.example_id]) == p.text


def test_a_long_frame_is_cut_in_the_middle_and_says_so():
    texts = [f"begins {'x' * 100_000} ends {q}" for q in ("q1", "q2")]
    prompts = [
        Prompt(benchmark="b", example_id=q[1], model="m", text=t)
        for q, t in zip(("q1", "q2"), texts, strict=True)
    ]
    (_, (before, after)) = in_parts(prompts, {("b", "1"): "q1", ("b", "2"): "q2"}).shown()
    assert len(before) < asked.MAX_FRAME + 100 and after == ""
    assert before.startswith("begins x") and before.endswith("x ends ")
    assert "characters left out here]" in before


def test_the_page_holds_shares_of_options_and_every_prompt():
    study = with_choices(fake_study(n=12, systems=FEW), n=15)
    prompts = prompts_of(study)
    data = browse.browser_data(study.items, study.pair_items, study.systems, prompts=prompts)
    json.loads(browse.safe_json(data))
    scores = {
        (label, r.benchmark, r.example_id): r for label, rows in study.scores.items() for r in rows
    }
    known = {(p.benchmark, p.example_id, p.model): p for p in prompts}
    model = {s.label: s.model for s in study.systems}
    seen = 0
    for item in data["items"]:
        for place, cell in item["texts"].items():
            label = data["systems"][place]
            name = item["id"].removeprefix(f"item-{item['benchmark']}-").removesuffix("-0")
            score = scores[label, item["benchmark"], name]
            frame = data["framed"][item["benchmark"]][place]
            number, body = item.get("asked", {}).get(frame, (frame, item["question"].strip()))
            before, after = data["frames"][number]
            prompt = (
                known.get((item["benchmark"], name, model[label]))
                or known[item["benchmark"], name, ""]
            )
            assert before + body + after == prompt.text
            if not score.option_logprobs:
                assert len(cell) == 6 and "options" not in item
                continue
            likely = [np.exp(x) for x in score.option_logprobs]
            assert cell[6] == pytest.approx([x / sum(likely) for x in likely], abs=6e-4)
            assert cell[7] == score.target
            assert [o[0] for o in item["options"]] == list(prompt.labels)
            assert [o[2] for o in item["options"]] == list(prompt.scored)
            seen += 1
    assert seen == 15 * 3


def test_without_prompts_there_is_none_to_show():
    study = with_choices(fake_study(n=12, systems=FEW), n=15)
    data = browse.browser_data(study.items, study.pair_items, study.systems)
    assert data["frames"] == [("", "")]
    assert all(set(of) == {-1} for of in data["framed"].values())


def pinned(folder, found):
    folder.mkdir(parents=True)
    Items(folder).examples.write(found.examples)
    Items(folder).facts.write(benchmark_facts(found, len(found.examples)))
    return folder


@pytest.fixture
def made(tmp_path):
    """Run the stage of three benchmarks: few shots, options, and options that fill a blank."""
    numbers = [{"question": f"{i} + 1?", "answer": str(i + 1)} for i in range(3)]
    choices = [{"question": "Two?", "options": ["éé", "xyz", "u"], "answer": "A"}]
    blanks = [
        {"question": "The cup is in the _ today. Option1: cup board Option2: cup bin",
         "answer": "option1"}
    ]  # fmt: skip
    sets = {
        "sums": from_rows("sums", numbers, "number"),
        "mine": from_rows("mine", choices, "choice"),
        "blank": from_rows("blank", blanks, "choice", labels=("option1", "option2")),
    }
    graders = {
        "mine": chosen("likelihood", "mine", "choice", ()),
        "blank": chosen(
            {"type": "likelihood", "wording": "winogrande"}, "blank", "choice",
            ("option1", "option2"),
        ),
    }  # fmt: skip
    asking = Asking(shots=(Shot("0 + 0?", "0"),))
    folders = {"plain": tiny.save(tmp_path / "plain", tiny.qwen(1))}
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = TEMPLATES["chatml"]
    folders["chat"] = tiny.save(tmp_path / "chat", tiny.qwen(1))
    tokenizer.save_pretrained(folders["chat"])
    (tmp_path / "out").mkdir()
    work = Work(
        config={
            "models": [{"name": n, "fingerprint": n} for n in folders],
            "template": "auto",
            "template_date": DATE,
            "asking": {"sums": asking.config()},
            "scoring": {name: as_config(grader) for name, grader in graders.items()},
        },
        inputs={f"items:{n}": pinned(tmp_path / "items" / n, found) for n, found in sets.items()},
        local={
            "models": {
                name: {"folder": str(f), "adapter": "", "hub_id": "", "trust_remote_code": False}
                for name, f in folders.items()
            }
        },
        out=tmp_path / "out",
    )
    assert shown.prompts(work) == "8 prompts of 2 models"
    rows = Prompts(work.out).rows.read()
    return sets, asking, folders, {(p.benchmark, p.example_id, p.model): p for p in rows}


def test_a_kept_prompt_is_what_the_model_is_given(made):
    from kdstudy.data.prompts import PromptFormat
    from kdstudy.data.prompts import asked as question_of
    from kdstudy.models.load import load_tokenizer

    sets, asking, folders, rows = made
    for example in sets["sums"].examples:
        for name, folder in folders.items():
            tokenizer = load_tokenizer(folder, False)
            question, _ = question_of(asking.put(example))
            ids = encode_prompt(tokenizer, PromptFormat(), **question)
            text = rows["sums", example.id, name].text
            assert tokenizer(text, add_special_tokens=False)["input_ids"] == list(ids)
            assert text.count("0 + 0?") == 1 and example.instruction in text


def test_options_are_kept_as_they_are_scored(made):
    sets, _, _, rows = made
    (choice,), (blank,) = sets["mine"].examples, sets["blank"].examples
    found = rows["mine", choice.id, ""]
    assert found.text.endswith("Answer:") and found.given == ("", "", "")
    assert (found.labels, found.scored) == (("A", "B", "C"), (" éé", " xyz", " u"))
    found = rows["blank", blank.id, ""]
    assert found.text == "The cup is in the cup "
    assert (found.given, found.scored) == (("board", "bin"), (" today.", " today."))
