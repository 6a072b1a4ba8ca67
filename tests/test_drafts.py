"""Which of a teacher's drafts is learnt: choices by hand, likelihoods in float64, a whole study."""

import dataclasses
import json
from collections import Counter

import forked
import pytest
import tiny_models as tiny
import torch
import yaml
from study_folder import plan_of, write_folder
from train_stage import examples, furnish, work

from kdstudy.artifacts import Chosen, DraftLikelihoods
from kdstudy.data.prompts import row_of
from kdstudy.distill import stages
from kdstudy.errors import InputError, StageError
from kdstudy.evaluation.drafts import account, choose, chosen_text
from kdstudy.evaluation.kinds import ChosenTextConfig
from kdstudy.evaluation.likelihoods import of_texts
from kdstudy.methods import SeqKD
from kdstudy.records import Example, Generation, write_records
from kdstudy.stage import Work

RULES = {
    "keep": "right", "choose": "first", "otherwise": "drop", "corpus_share": 0.0,
    "least_kept": 0.1, "labels": [], "rule": "corrected",
}  # fmt: skip


def draft(row: str, sample: int, text: str, stop: str = "eos") -> Generation:
    return Generation(
        benchmark="corpus", example_id=row, sample=sample, completion=text, stop=stop, tokens=3
    )


def example(row: str, answer: str) -> Example:
    return Example(id=row, instruction="How many?", response="The answer is 0.", answer=answer)


def made(answer: str, texts: list, likely=None, **fields):
    """Return what is chosen of one row."""
    texts = [t if isinstance(t, tuple) else (t, "eos") for t in texts]
    drafts = {"a": [draft("a", i, *text) for i, text in enumerate(texts)]}
    config = ChosenTextConfig(**RULES | fields)
    likely = likely and {("a", i): value for i, value in enumerate(likely)}
    (found,) = choose([example("a", answer)], drafts, config, likely)
    return found.source, found.sample, found.kept


@pytest.mark.parametrize(
    ("answer", "texts", "fields", "expected"),
    [
        ("7", ["so it is 6.", "The answer is 7.", "7"], {}, ("teacher", 1, 2)),
        # As graders have it: a gold number is met however it is spelled.
        ("1234.0", ["The answer is 1,234."], {}, ("teacher", 0, 1)),
        ("7", ["The answer is 8.", ""], {}, ("none", -1, 0)),
        ("7", ["The answer is 8.", ""], {"otherwise": "corpus"}, ("corpus", -1, 0)),
        ("7", [" \n", "The answer is 8."], {"keep": "all"}, ("teacher", 1, 1)),
        ("B", ["I choose A.", "The answer is (B)."], {}, ("teacher", 1, 1)),
        ("true", ["false", "true"], {"labels": ["true", "false"]}, ("teacher", 1, 1)),
        # A cut draft is right where it states its answer, and comes behind those that end.
        ("7", [("3 + 4 = 7", "length"), "7"], {}, ("teacher", 1, 1)),
        ("7", [("The answer is 7. And", "length"), "7"], {}, ("teacher", 1, 2)),
        ("", ["anything"], {"keep": "all"}, ("teacher", 0, 1)),
        ("7", ["7"], {"corpus_share": 0.6}, ("corpus", -1, 1)),
    ],
)
def test_what_is_learnt_of_a_row_by_hand(answer, texts, fields, expected):
    assert made(answer, texts, **fields) == expected


def test_the_likeliest_is_of_the_kept_ones_by_the_mean_of_its_tokens():
    texts = ["The answer is 8.", "7", "The answer is 7.", ("The answer is 7. So", "length")]
    likely = [-0.1, -2.0, -1.0, -0.5]
    assert made("7", texts, likely, choose="likeliest") == ("teacher", 2, 3)
    assert made("7", texts, likely, choose="likeliest", keep="all") == ("teacher", 0, 4)
    assert made("7", texts) == ("teacher", 1, 3)


@pytest.mark.parametrize("answer", ["", "seven", "$7", "true"])
def test_a_row_whose_answer_no_rule_reads_is_refused(answer):
    with pytest.raises(InputError, match=r"corpus row a has (no answer|the answer)"):
        made(answer, ["7"], labels=["yes", "no"])


def test_a_larger_share_of_the_corpus_holds_the_rows_of_a_smaller_one():
    rows = [example(str(i), "7") for i in range(40)]
    drafts = {e.id: [draft(e.id, 0, "7")] for e in rows}
    given = []
    for share in (0, 0.25, 0.5):
        config = ChosenTextConfig(**RULES | {"corpus_share": share})
        found = choose(rows, drafts, config)
        given.append({r.example_id for r in found if r.source == "corpus"})
        assert [r.example_id for r in found] == [e.id for e in rows]
        assert account(found, 40)["corpus"] == 40 * share
    assert given[0] < given[1] < given[2]


def test_the_likelihood_of_a_draft_is_that_of_a_dense_pass_in_float64():
    model, tokenizer = tiny.qwen(3, scale=1.0).eval(), tiny.tokenizer()
    texts = [("it is 3", "ended"), ("it is", "cut"), ("it is 12345", "ended")] * 12
    rows = [
        row_of(tokenizer, tiny.TEMPLATE, e, 10**9, written=text)
        for e, text in zip(examples(36, 0), texts, strict=True)
    ]
    found = of_texts(model, rows)
    model.double()
    for row, ours in zip(rows, found, strict=True):
        ids = torch.tensor([row.ids])
        with torch.no_grad():
            logs = model(input_ids=ids).logits[0].log_softmax(-1)
        theirs = sum(logs[i - 1, row.ids[i]].item() for i in row.scored)
        assert logs.dtype == torch.float64 and ours == pytest.approx(theirs, rel=1e-5)
    assert rows[0].ids[-1] == tokenizer.eos_token_id != rows[1].ids[-1]


def put(place, drafts, answers="7"):
    """Write a corpus with answers and a teacher's drafts, and return them as inputs."""
    for part, number, seed in (("train", 40, 0), ("validation", 8, 1)):
        rows = [dataclasses.replace(e, answer=answers) for e in examples(number, seed)]
        write_records(place / "corpus" / f"{part}.parquet", rows, Example)
    (place / "drafts").mkdir(exist_ok=True)
    names = [e.id for e in examples(40, 0) + examples(8, 1)]
    rows = [draft(n, i, text) for n in names for i, text in enumerate(drafts(n))]
    write_records(place / "drafts" / "generations.parquet", rows, Generation)
    return {"corpus": place / "corpus", "drafts": place / "drafts"}


def chosen(place, inputs, **fields):
    (place / "chosen").mkdir(exist_ok=True)
    found = Work(config=RULES | fields, inputs=inputs, local={}, out=place / "chosen")
    return chosen_text(found), Chosen(place / "chosen")


def test_a_student_learns_what_was_chosen_and_the_counts_are_told(tmp_path):
    place = furnish(tmp_path)
    # Of 40 rows 30 have a right draft, the second; of 8 validation rows 6.
    right = lambda name: int(name.rpartition("-")[2]) % 4 > 0  # noqa: E731
    inputs = put(place, lambda n: ["no 8", "so 7" if right(n) else "no 6"])
    line, made = chosen(place, inputs)
    assert line == (
        "36 of 96 drafts are right; 36 of 48 rows (75.0%) have such a draft; learnt: the "
        "teacher's text of 36 rows, the corpus's of 0; 12 left out"
    )
    done = work(place, "out", SeqKD(sampling_temperature=1, drafts=2, keep="right"),
                chosen_text=made.folder)  # fmt: skip
    assert ", 75.0% of rows with a draft that is kept" in stages.train(done)
    facts = json.loads((done.out / "training.json").read_text())
    assert (facts["rows"], facts["validation_rows"], facts["dropped"]) == (30, 6, 0)
    assert facts["teacher_text"] == made.facts.read()
    assert facts["teacher_text"]["train"]["left_out"] == 10
    # The texts themselves: what the trainer is handed.
    found = stages._text(done, tiny.tokenizer(), tiny.TEMPLATE, 40, stages.teacher_text.read(done))
    says = [tiny.tokenizer().decode(r.ids[r.prompt_length :]) for r in found["train"].rows]
    assert Counter(says) == {"so 7</s>": 30}
    _, made = chosen(place, inputs, otherwise="corpus")
    found = stages._text(done, tiny.tokenizer(), tiny.TEMPLATE, 40, stages.teacher_text.read(done))
    own = [e.response for e in examples(40, 0) if not right(e.id)]
    says = [tiny.tokenizer().decode(r.ids[r.prompt_length :]) for r in found["train"].rows]
    assert Counter(says) == Counter({"so 7</s>": 30}) + Counter(f"{text}</s>" for text in own)


def test_a_choice_of_one_draft_trains_the_same_bytes_as_that_draft(tmp_path):
    place = furnish(tmp_path)
    inputs = put(place, lambda n: ["no 8", "so 7"])
    _, made = chosen(place, inputs)
    stages.train(work(place, "ours", SeqKD(), chosen_text=made.folder))
    put(place, lambda n: ["so 7"])
    stages.train(work(place, "plain", SeqKD(), teacher_text=place / "drafts"))
    file = "adapter/adapter_model.safetensors"
    assert (place / "ours" / file).read_bytes() == (place / "plain" / file).read_bytes()


def test_too_few_rows_are_refused_with_the_numbers(tmp_path):
    place = furnish(tmp_path)
    few = put(place, lambda n: ["7" if n in ("0-1", "0-2", "1-1") else "8"])
    with pytest.raises(StageError, match=r"3 of 48 rows \(6.2%\) have a draft that is kept"):
        chosen(place, few)
    assert chosen(place, few, least_kept=0.05)[0].startswith("3 of 48 drafts are right")
    none = put(place, lambda n: ["7" if n.startswith("0") else "8"])
    with pytest.raises(StageError, match="none of the 8 validation rows has a draft"):
        chosen(place, none)
    assert chosen(place, none, otherwise="corpus")[1].facts.read()["validation"]["corpus"] == 8


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"drafts": 4}, "drafts: 4 greedy drafts are 4 equal texts"),
        ({"drafts": 0}, "greater than or equal to 1"),
        ({"choose": "likeliest"}, "of one draft there is nothing to choose"),
        ({"labels": ["yes"]}, "they need keep: right"),
        ({"keep": "best"}, "'all' or 'right'"),
        ({"corpus_share": 1}, "less than 1"),
        ({"least_kept": 2}, "less than or equal to 1"),
    ],
)
def test_fields_that_make_no_sense_are_refused(tmp_path, fields, said):
    with pytest.raises(InputError, match=said):
        plan_of(write_folder(tmp_path), methods=["sft", {"type": "seqkd", **fields}], ablations={})


RIGHT = {"type": "seqkd", "keep": "right", "sampling_temperature": 1, "drafts": 4}


def planned(folder, method, answers=lambda i: str(i), **fields):
    rows = [{"prompt": f"{i}?", "completion": f"{i}", "answer": answers(i)} for i in range(10)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return plan_of(folder, methods=["sft", method], ablations={}, students=["./small"], **fields)


def test_a_corpus_without_answers_is_refused_when_the_study_is_planned(tmp_path):
    folder = write_folder(tmp_path)
    with pytest.raises(InputError, match="10 of 10 rows have no answer, and seqkd keeps"):
        plan_of(folder, methods=["sft", RIGHT], ablations={})
    with pytest.raises(InputError, match="3 of 10 rows have no answer"):
        planned(folder, RIGHT, lambda i: str(i) if i > 2 else "")
    with pytest.raises(InputError, match="2 of 10 answers are neither a number nor a capital"):
        planned(folder, RIGHT, lambda i: ("b", "$1")[i] if i < 2 else "1/2")
    assert planned(folder, RIGHT | {"labels": [True, False]}, lambda i: "true")
    varied = [{"vary": "keep", "values": ["all", "right"], "methods": ["seqkd"]}]
    with pytest.raises(InputError, match="10 of 10 rows have no answer"):
        plan_of(write_folder(tmp_path / "b"), methods=["sft", "seqkd"], ablations=varied)


def test_stages_are_added_for_what_is_chosen_alone(tmp_path):
    folder = write_folder(tmp_path)

    def kinds(method):
        stages = planned(folder, method).stages.values()
        return Counter(s.kind for s in stages), {s.kind: s for s in stages}

    plain, of_plain = kinds("seqkd")
    assert not {"chosen_text", "draft_likelihood"} & plain.keys()
    right, of_right = kinds(RIGHT)
    assert right - plain == {"chosen_text": 1}
    assert of_right["teacher_text"].config["generation"]["samples"] == 4
    likely, _ = kinds(RIGHT | {"choose": "likeliest"})
    assert likely - right == {"draft_likelihood": 1}
    # Drafts and their likelihoods know nothing of what is kept of them.
    _, of_all = kinds(RIGHT | {"keep": "all", "corpus_share": 0.5})
    assert of_all["teacher_text"].key == of_right["teacher_text"].key
    assert of_all["chosen_text"].key != of_right["chosen_text"].key
    method = of_plain["train"].config["method"]
    assert not SeqKD.LATER & of_plain["train"].config["method"].keys(), method


def test_a_study_runs_from_drafts_to_the_report(tmp_path):
    study = {
        "name": "drafts",
        "teachers": [{"model": "zoo-s", "finetune": False}],
        "students": ["zoo-xs"],
        "corpus": {"name": "synthetic", "rows": 24, "validation_rows": 6},
        "benchmarks": ["synth_addsub"],
        "limit": 4,
        "methods": [
            "sft",
            RIGHT | {"drafts": 2, "choose": "likeliest", "otherwise": "corpus", "least_kept": 0},
        ],
        "token_rows": 0,
        "train": {"epochs": 1, "batch_size": 6, "max_length": 192, "evaluations": 1},
        "generation": {"max_new_tokens": 48},
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    done = forked.kdstudy("run", "study.yaml", "--store", "store", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = (tmp_path / "store" / "stages").glob("*/manifest.json")
    folders = {json.loads(path.read_text())["kind"]: path.parent for path in found}
    facts = Chosen(folders["chosen_text"]).facts.read()["all"]
    assert facts["rows"] == 24 and facts["drafts"] == 48 and facts["left_out"] == 0
    assert facts["teacher"] + facts["corpus"] == 24 and facts["teacher"] == facts["with_draft"]
    likely = DraftLikelihoods(folders["draft_likelihood"]).rows.read()
    assert len(likely) == 48 and all(row.logprob < 0 for row in likely)
    assert "with a draft that is kept" in done.stderr
    report = (folders["report"] / "report.html").read_text()
    assert "learns the teacher's text of" in report.replace("&#39;", "'")


def test_drafts_of_teachers_together_are_refused_in_words(tmp_path):
    rows = [{"prompt": f"{i}?", "completion": f"{i}", "topic": "ab"[i % 2]} for i in range(10)]
    folder = write_folder(tmp_path)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    together = {"together": ["./big", "./medium"], "route": {"a": "./big", "b": "./medium"}}
    corpus = {"path": "rows.jsonl", "columns": {"tag": "topic"}}
    known = {"teachers": [together], "students": ["./small"], "corpus": corpus, "ablations": {}}
    assert plan_of(folder, methods=["sft", "seqkd"], **known)
    drafts = {"type": "seqkd", "drafts": 2, "sampling_temperature": 1}
    with pytest.raises(InputError, match="chooses among the drafts of one teacher"):
        plan_of(folder, methods=["sft", drafts], **known)
