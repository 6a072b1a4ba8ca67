"""`rows: failed`: a student whose answers are known is asked first, and the counts are by hand."""

import dataclasses
import json
from collections import Counter
from pathlib import Path

import forked
import pytest
import scripted_models
import tiny_models as tiny
import torch
import yaml
from study_folder import plan_of, write_folder

from kdstudy.artifacts import Chosen, Generations
from kdstudy.data.chat import DATE
from kdstudy.distill import teacher_text
from kdstudy.errors import InputError, StageError
from kdstudy.evaluation import stages
from kdstudy.evaluation.drafts import answered, choose, chosen_text
from kdstudy.evaluation.kinds import ChosenTextConfig
from kdstudy.methods import SeqKD
from kdstudy.records import Example, Generation, read_records, write_records
from kdstudy.stage import Work

RULES = {
    "keep": "right", "choose": "first", "otherwise": "drop", "corpus_share": 0.0,
    "least_kept": 0.1, "labels": [], "rule": "corrected", "rows": "failed",
}  # fmt: skip
# What the student says behind a prompt that ends in a letter.
SAYS = dict(zip("abcdefghi", "123456789", strict=True))
# (last letter, gold answer) of seven training and three validation rows: the student answers
# rows 0, 3 and 5 of training right, and would answer every validation row right.
TRAIN = [("a", "1"), ("b", "7"), ("c", "9"), ("d", "4"), ("e", "1"), ("f", "6.0"), ("g", "2")]
VALIDATION = [("a", "1"), ("b", "2"), ("c", "3")]
KNOWN = {"t0", "t3", "t5"}


def example(name: str, letter: str, answer: str) -> Example:
    return Example(id=name, instruction=f"say {letter}", response=f"own {answer}.", answer=answer)


def rows_of(part: str, pairs) -> list[Example]:
    return [example(f"{part}{i}", *pair) for i, pair in enumerate(pairs)]


def text(row: str, said: str, sample: int = 0, stop: str = "eos") -> Generation:
    return Generation(
        benchmark="corpus", example_id=row, sample=sample, completion=said, stop=stop, tokens=2
    )


@pytest.fixture
def place(tmp_path) -> Path:
    (tmp_path / "corpus").mkdir()
    write_records(tmp_path / "corpus" / "train.parquet", rows_of("t", TRAIN), Example)
    write_records(tmp_path / "corpus" / "validation.parquet", rows_of("v", VALIDATION), Example)
    tiny.save(tmp_path / "student", scripted_models.scripted(SAYS))
    return tmp_path


def attempt(place: Path, out: str = "attempts") -> Work:
    (place / out).mkdir(exist_ok=True)
    folder = {"folder": str(place / "student"), "adapter": "", "hub_id": ""}
    work = Work(
        config={
            "model": {"name": "student", "fingerprint": "1"}, "items": "corpus",
            "generation": {
                "max_new_tokens": 5, "temperature": 0.0, "top_p": 1.0, "samples": 1, "seed": 0,
            },
            "template": "Q: {instruction}", "template_date": DATE, "precision": "float32",
        },
        inputs={"items": place / "corpus"},
        local={"models": {"model": folder | {"trust_remote_code": False}}, "batch_size": 2},
        out=place / out,
    )  # fmt: skip
    stages.attempts(work)
    return work


def chosen(place: Path, drafts, **fields) -> tuple[str, Chosen]:
    """Choose among drafts, by row; the student's answers are those of the stage."""
    for name in ("drafts", "chosen"):
        (place / name).mkdir(exist_ok=True)
    names = [e.id for e in rows_of("t", TRAIN) + rows_of("v", VALIDATION)]
    rows = [text(n, said, i) for n in names for i, said in enumerate(drafts(n))]
    write_records(place / "drafts" / "generations.parquet", rows, Generation)
    inputs = {name: place / name for name in ("corpus", "drafts", "attempts")}
    work = Work(config=RULES | fields, inputs=inputs, local={}, out=place / "chosen")
    return chosen_text(work), Chosen(place / "chosen")


def test_the_student_answers_training_rows_alone_as_a_model_of_that_script_does(place):
    made = Generations(attempt(place).out).rows.read()
    assert [(g.example_id, g.completion, g.stop) for g in made] == [
        (f"t{i}", SAYS[letter], "eos") for i, (letter, _) in enumerate(TRAIN)
    ]
    # Another program's greedy answers of the same model.
    model, tokenizer = scripted_models.scripted(SAYS), tiny.tokenizer()
    for row, found in zip(rows_of("t", TRAIN), made, strict=True):
        ids = tokenizer(f"Q: {row.instruction}", return_tensors="pt").input_ids
        out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False,
                             max_new_tokens=5, pad_token_id=2)  # fmt: skip
        assert tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True) == (
            found.completion
        )


def test_an_interrupted_attempt_goes_on_where_it_stopped(place):
    whole = attempt(place)
    want = Generations(whole.out).rows.path.read_bytes()
    journal = next(whole.scratch.glob("*.jsonl"))
    lines = journal.read_text().splitlines(keepends=True)
    assert len(lines) == 7
    again = place / "again"
    again.mkdir()
    work = Work(config=whole.config, inputs=whole.inputs, local=whole.local, out=again)
    work.scratch.mkdir(parents=True, exist_ok=True)
    (work.scratch / journal.name).write_text("".join(lines[:3]) + lines[3][:20])
    left = []
    work = dataclasses.replace(work, progress=lambda done, total, what: left.append(total - done))
    stages.attempts(work)
    assert Generations(again).rows.path.read_bytes() == want
    assert left == [2, 0]  # of the four that were not finished, two a batch


def test_rows_that_it_fails_are_rewritten_and_the_others_kept_counts_by_hand(place):
    attempt(place)
    right = {f"{p}{i}": gold for p, rows in (("t", TRAIN), ("v", VALIDATION))
             for i, (_, gold) in enumerate(rows)}  # fmt: skip
    # The teacher has two drafts of each row; of t4 and v1 none is right.
    hopeless = {"t4", "v1"}

    def drafts(name):
        return ["so 77", "so 88" if name in hopeless else f"so {right[name]}"]

    line, made = chosen(place, drafts)
    by_row = {row.example_id: (row.source, row.sample, row.kept) for row in made.rows.read()}
    assert by_row == {
        "t0": ("known", -1, 1), "t1": ("teacher", 1, 1), "t2": ("teacher", 1, 1),
        "t3": ("known", -1, 1), "t4": ("none", -1, 0), "t5": ("known", -1, 1),
        "t6": ("teacher", 1, 1),
        # Validation rows are as under rows: all, whatever the student would have answered.
        "v0": ("teacher", 1, 1), "v1": ("none", -1, 0), "v2": ("teacher", 1, 1),
    }  # fmt: skip
    assert made.facts.read()["train"] == {
        "rows": 7, "drafts": 14, "kept": 6, "with_draft": 6, "teacher": 3, "corpus": 3,
        "left_out": 1, "failed": 4, "failed_with_draft": 3,
    }  # fmt: skip
    assert line == (
        "8 of 20 drafts are right; 8 of 10 rows (80.0%) have such a draft; learnt: the teacher's "
        "text of 5 rows, the corpus's of 3; 2 left out; the student fails 4 of 7 training rows "
        "(57.1%), 3 of which have a draft that is kept and 3 are rewritten"
    )
    # What a run is handed: the corpus's own text where the student was right.
    read = teacher_text.read(Work(config={}, inputs={"chosen_text": made.folder}, local={},
                                  out=place))  # fmt: skip
    assert {name for name, made in read.texts.items() if made is None} == KNOWN
    assert read.left_out == {"t4", "v1"}
    assert read.said == (
        ", 80.0% of rows with a draft that is kept, 57.1% of training rows failed at first, "
        "42.9% rewritten"
    )
    _, made = chosen(place, drafts, otherwise="corpus")
    assert Counter(row.source for row in made.rows.read()) == {
        "known": 3,
        "teacher": 5,
        "corpus": 2,
    }
    assert made.facts.read()["train"]["corpus"] == 4


def test_every_draft_that_is_not_empty_may_be_learnt_where_a_row_failed(place):
    attempt(place)
    _, made = chosen(place, lambda n: ["", "whatever"], keep="all")
    sources = {row.example_id: (row.source, row.sample) for row in made.rows.read()}
    assert {n for n, (source, _) in sources.items() if source == "known"} == KNOWN
    assert set(sources.values()) == {("known", -1), ("teacher", 1)}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_rows_that_failed_learn_what_they_learn_without_the_question(seed):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda n: torch.randint(0, n, (1,), generator=generator).item()  # noqa: E731
    rows = [example(f"r{i}", "a", str(draw(3))) for i in range(37)]
    drafts = {e.id: [text(e.id, str(draw(3)), i) for i in range(3)] for e in rows}
    attempts = {e.id: text(e.id, str(draw(3))) for e in rows}
    fields = RULES | {"corpus_share": 0.3}
    failed, every = (ChosenTextConfig(**fields | {"rows": r}) for r in ("failed", "all"))
    known = answered(rows, attempts, failed)
    assert known == {e.id for e in rows if attempts[e.id].completion == e.answer}
    ours, plain = choose(rows, drafts, failed, None, known), choose(rows, drafts, every)
    for row, mine, theirs in zip(rows, ours, plain, strict=True):
        assert mine.source == "known" if row.id in known else mine == theirs


def test_answers_are_graded_as_drafts_are(place):
    config = ChosenTextConfig(**RULES)
    rows = [example(n, "a", "7") for n in "abcd"]
    said = {"a": text("a", "The answer is 7.0"), "b": text("b", ""), "c": text("c", "so 8"),
            "d": text("d", "3 + 4 = 7", stop="length")}  # fmt: skip
    assert answered(rows, said, config) == {"a"}
    with pytest.raises(InputError, match="corpus row a has no answer"):
        answered([example("a", "a", "")], said, config)


def test_a_student_that_fails_no_row_and_a_teacher_that_fails_them_too_are_refused(place):
    attempt(place)
    hard = lambda n: ["no", "5000"]  # noqa: E731
    with pytest.raises(
        StageError, match=r"0 of 4 training rows that the student fails \(0.0%\) have a draft"
    ):
        chosen(place, hard, otherwise="corpus")
    # Of all rows three quarters have one: those that nobody needs.
    easy = lambda n: [{"a": "1", "d": "4", "f": "6"}.get(TRAIN[int(n[1])][0], "no")]  # noqa: E731
    with pytest.raises(StageError, match="0 of 4 training rows that the student fails"):
        chosen(place, easy, otherwise="corpus")
    assert chosen(place, hard, otherwise="corpus", least_kept=0)
    every = [text(f"t{i}", gold) for i, (_, gold) in enumerate(TRAIN)]
    Generations(place / "attempts").rows.write(every)
    right = lambda n: [(TRAIN if n[0] == "t" else VALIDATION)[int(n[1])][1]]  # noqa: E731
    with pytest.raises(StageError, match="the student fails none of the 7 training rows"):
        chosen(place, right)
    _, made = chosen(place, right, least_kept=0)
    assert made.facts.read()["train"]["failed"] == 0


FAILED = {"type": "seqkd", "rows": "failed"}


def planned(folder, *listed, answers=str, **fields):
    rows = [{"prompt": f"{i}?", "completion": f"{i}", "answer": answers(i)} for i in range(11)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    known = {"ablations": {}, "students": ["./small"]} | fields
    return plan_of(folder, methods=["sft", *listed], **known)


def found(plan, kind):
    return [s for s in plan.stages.values() if s.kind == kind]


def test_what_cannot_be_is_refused_when_the_study_is_planned(tmp_path):
    folder = write_folder(tmp_path)
    with pytest.raises(InputError, match="11 of 11 rows have no answer, and seqkd rewrites the"):
        planned(folder, FAILED, answers=lambda i: "")
    with pytest.raises(InputError, match="11 of 11 answers are neither a number nor a capital"):
        planned(folder, FAILED, answers=lambda i: "yes")
    assert planned(folder, FAILED | {"labels": ["yes", "no"]}, answers=lambda i: "yes")
    with pytest.raises(InputError, match="'all' or 'failed'"):
        planned(folder, {"type": "seqkd", "rows": "wrong"})
    with pytest.raises(InputError, match="they need keep: right, or rows: failed"):
        planned(folder, {"type": "seqkd", "labels": ["yes"]})
    varied = {"vary": [{"vary": "rows", "values": ["failed"], "methods": ["seqkd"]}]}
    with pytest.raises(InputError, match="11 of 11 rows have no answer"):
        planned(folder, "seqkd", answers=lambda i: "", ablations=varied)


def test_one_attempt_serves_all_runs_of_a_start_and_moves_no_other_key(tmp_path):
    folder = write_folder(tmp_path)
    drafts = {"type": "seqkd", "keep": "right", "sampling_temperature": 1, "drafts": 2}
    varied = {"vary": [{"vary": "keep", "values": ["all"], "methods": ["seqkd"]}]}
    both = {"students": ["./small", "./medium"], "seeds": [0, 1, 2], "ablations": varied}
    before = planned(folder, drafts, **both)
    plan = planned(folder, drafts | {"rows": "failed"}, **both)
    asked = found(plan, "attempts")
    # By student: as it starts it has no seed, and what is kept of drafts is not its affair.
    assert sorted(s.label for s in asked) == ["medium on corpus", "small on corpus"]
    assert all(set(s.inputs) == {"items"} for s in asked)
    assert all(s.config["generation"]["temperature"] == 0 for s in asked)
    assert [s.key for s in found(plan, "teacher_text")] == [
        s.key for s in found(before, "teacher_text")
    ]
    moved = {s.kind for key, s in before.stages.items() if key not in plan.stages}
    assert {"chosen_text", "train"} <= moved and "teacher_text" not in moved
    assert len(found(plan, "chosen_text")) == 4  # two students, two choices
    started = planned(folder, drafts | {"rows": "failed", "start": "sft"}, **both)
    asked = found(started, "attempts")
    sft = {s.key for s in found(started, "train") if "/sft" in s.label}
    assert len(asked) == 6 and {s.inputs["trained"] for s in asked} == sft
    config = found(planned(folder, drafts), "train")[-1].config["method"]
    assert "rows" not in config and "rows" in SeqKD.LATER


def test_a_study_runs_and_says_how_many_failed(tmp_path):
    for name, says in (("small", SAYS), ("big", SAYS | {"b": "7", "c": "9", "g": "2"})):
        tiny.save(tmp_path / name, scripted_models.scripted(says))
    rows = [
        {"prompt": f"say {i} {letter}", "completion": f"own {gold}", "answer": gold}
        for i in range(3)
        for letter, gold in TRAIN
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    items = [{"question": f"say {i} a", "answer": "1"} for i in range(4)]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in items))
    study = {
        "name": "failed",
        "teachers": [{"model": "./big", "finetune": False}],
        "students": ["./small"],
        "corpus": {"path": "rows.jsonl", "validation_rows": 5},
        "benchmarks": [{"name": "own", "path": "own.jsonl", "kind": "number"}],
        "methods": ["sft", {"type": "seqkd", "rows": "failed", "keep": "right"}],
        "template": "Q: {instruction}",
        "token_rows": 0,
        "train": {"epochs": 1, "batch_size": 4, "max_length": 64, "evaluations": 1},
        "generation": {"max_new_tokens": 6},
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    done = forked.kdstudy("run", "study.yaml", "--store", "store", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    manifests = (tmp_path / "store" / "stages").glob("*/manifest.json")
    folders = {json.loads(path.read_text())["kind"]: path.parent for path in manifests}
    corpus = folders["corpus"]
    train, kept_apart = (
        {e.id: e for e in read_records(corpus / f"{part}.parquet", Example)}
        for part in ("train", "validation")
    )
    asked = {g.example_id for g in Generations(folders["attempts"]).rows.read()}
    assert asked == set(train) and not asked & set(kept_apart)
    letters = Counter(e.instruction[-1] for e in train.values())
    facts = Chosen(folders["chosen_text"]).facts.read()["train"]
    known = sum(letters[c] for c in "adf")
    assert facts["failed"] == len(train) - known == 16 - known
    assert facts["teacher"] == sum(letters[c] for c in "bcg")
    assert facts["left_out"] == letters["e"] and facts["corpus"] == known
    share = 100 * facts["failed"] / 16
    assert f"{share:.1f}% of training rows failed at first" in done.stderr
    report = (folders["report"] / "report.html").read_text()
    assert f"As it started the student failed {facts['failed']} of 16 training rows" in report
