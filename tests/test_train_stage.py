"""The train stage from files to files, for every method."""

import json

import pytest
import tiny_models as tiny
import torch
from peft import PeftModel
from safetensors.torch import load_file
from train_stage import TRAIN, examples, furnish, local, work
from transformers import AutoModelForCausalLM

from kdstudy import methods
from kdstudy.artifacts import Trained
from kdstudy.config import schema
from kdstudy.distill import stages
from kdstudy.errors import InputError, StageError
from kdstudy.models import load
from kdstudy.records import Example, Generation, write_records
from kdstudy.stage import Work

IDS = torch.tensor([[5, 6, 7, 8, 9]])


@pytest.fixture
def place(tmp_path):
    """A folder with a student, a teacher and a corpus."""
    return furnish(tmp_path)


def write_teacher_text(place, change=None):
    """Text a teacher might have written: every answer is `seven`."""
    rows = [
        Generation(
            benchmark="corpus", example_id=e.id, sample=0, completion="seven", stop="eos", tokens=6
        )
        for e in examples(40, 0) + examples(8, 1)
    ]
    (place / "text").mkdir(exist_ok=True)
    write_records(
        place / "text" / "generations.parquet", change(rows) if change else rows, Generation
    )
    return place / "text"


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


METHODS = [methods.Sft(), methods.WordKD(temperature=2), methods.RevKD(noise=1), methods.GKD()]


@pytest.mark.parametrize("method", METHODS)
def test_a_student_is_made_from_files_to_files(place, method, capfd):
    done = work(place, "out", method)
    line = stages.train(done)
    assert line.startswith("5 steps, best validation loss")
    assert capfd.readouterr() == ("", "")
    assert sorted(p.name for p in done.out.iterdir()) == ["adapter", "scratch", "training.json"]
    facts = json.loads((done.out / "training.json").read_text())
    assert facts["rows"] == 40 and facts["validation_rows"] == 8
    assert facts["steps"] == 5 and facts["truncated"] == facts["dropped"] == 0
    assert [row["step"] for row in facts["curve"]] == [3, 5]
    assert 0 < facts["trainable"] < facts["parameters"] and 0 <= facts["padding_share"] < 1
    base = AutoModelForCausalLM.from_pretrained(place / "student", dtype=torch.float32)
    peft = PeftModel.from_pretrained(base, done.out / "adapter").eval()
    ours = load.open_model(local(place / "student"), "float32", Trained(done.out)).cpu()
    assert torch.equal(logits(ours), logits(peft))
    assert not torch.equal(logits(ours), logits(peft.unload()))
    again = work(place, "again", method)
    stages.train(again)
    for file in (
        "training.json",
        "adapter/adapter_model.safetensors",
        "adapter/adapter_config.json",
    ):
        assert (done.out / file).read_bytes() == (again.out / file).read_bytes(), file


@pytest.mark.parametrize("lora", [TRAIN.lora, None])
def test_a_stage_that_dies_between_its_last_step_and_its_end_is_finished(place, monkeypatch, lora):
    # 40 rows x 1.3 in batches of 7: seven steps, of which an epoch has six.
    train = TRAIN.model_copy(update={"epochs": 1.3, "batch_size": 7, "lora": lora})
    whole = work(place, "whole", methods.GKD(), train)
    stages.train(whole)

    def die(*_):
        raise KeyboardInterrupt

    cut = work(place, "cut", methods.GKD(), train)
    with monkeypatch.context() as patch:
        patch.setattr(stages.DistillTrainer, "_load_best_model", die)
        with pytest.raises(KeyboardInterrupt):
            stages.train(cut)
    assert not (cut.out / "training.json").exists()
    assert (cut.scratch / "checkpoints" / "checkpoint-7").is_dir()
    stages.train(cut)
    for file in whole.out.rglob("*"):
        if file.is_file() and "scratch" not in file.parts:
            assert (cut.out / file.relative_to(whole.out)).read_bytes() == file.read_bytes(), file


def test_the_trained_teacher_is_used_when_there_is_one(place):
    taught = work(place, "taught", methods.Sft())
    itself = {**taught.local, "models": {"student": taught.local["models"]["teacher"]}}
    stages.train(Work(config=taught.config, inputs=taught.inputs, local=itself, out=taught.out))
    losses = []
    for out, inputs in (("base", {}), ("tuned", {"teacher": taught.out})):
        stages.train(work(place, out, methods.WordKD(), **inputs))
        losses.append(json.loads((place / out / "training.json").read_text())["best_loss"])
    assert losses[0] != losses[1]


def test_full_fine_tuning_writes_a_whole_model(place):
    done = work(place, "out", methods.WordKD(), TRAIN.model_copy(update={"lora": None}))
    stages.train(done)
    facts = json.loads((done.out / "training.json").read_text())
    assert facts["trainable"] == facts["parameters"]
    plain = AutoModelForCausalLM.from_pretrained(done.out / "model", dtype=torch.float32).eval()
    ours = load.open_model(local(place / "student"), "float32", Trained(done.out)).cpu()
    assert torch.equal(logits(ours), logits(plain))


@pytest.mark.parametrize("lora", [TRAIN.lora, None])
def test_bfloat16_keeps_trained_weights_in_float32(place, lora):
    done = work(
        place,
        "out",
        methods.WordKD(),
        TRAIN.model_copy(update={"precision": "bfloat16", "lora": lora}),
    )
    stages.train(done)
    (file,) = done.out.glob("*/*model.safetensors")
    assert {w.dtype for w in load_file(file).values()} == {torch.float32}
    opened = load.open_model(local(place / "student"), "bfloat16", Trained(done.out))
    assert opened.dtype == torch.bfloat16
    curve = json.loads((done.out / "training.json").read_text())["curve"]
    assert curve[-1]["eval_loss"] < curve[0]["eval_loss"]


def test_a_users_adapter_is_part_of_the_student(place):
    given = load.add_adapter(tiny.qwen(0, scale=1.0), schema.Lora(r=2), 0)
    with torch.no_grad():
        for name, parameter in given.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.1)
    load.save(given, place / "given", tiny.tokenizer())
    curves = []
    for out, adapter in (("without", None), ("with", place / "given")):
        stages.train(work(place, out, methods.Sft(), adapter=adapter))
        curves.append(json.loads((place / out / "training.json").read_text())["curve"])
    assert curves[0][0]["loss"] != curves[1][0]["loss"]


def test_seqkd_learns_the_teachers_text_and_still_reports_the_corpus(place):
    slow = TRAIN.model_copy(update={"epochs": 12})
    done = work(place, "out", methods.SeqKD(), slow, teacher_text=write_teacher_text(place))
    stages.train(done)
    curve = json.loads((done.out / "training.json").read_text())["curve"]
    assert curve[-1]["eval_loss"] < curve[0]["eval_loss"]
    assert curve[-1]["eval_cross_entropy"] > curve[-1]["eval_loss"]


def test_teacher_text_is_dropped_when_empty_and_kept_open_when_cut(place):
    rows = [Example(id=str(i), instruction="1 + 1?", response="it is 2") for i in range(3)]
    written = {
        name: Generation(
            benchmark="corpus", example_id=name, sample=0, completion=text, stop=stop, tokens=3
        )
        for name, text, stop in [("0", "two", "eos"), ("1", " \n", "eos"), ("2", "tw", "length")]
    }
    made = stages.encode_rows(rows, tiny.tokenizer(), tiny.TEMPLATE, 40, written)
    assert (len(made.rows), made.truncated, made.unended, made.dropped) == (2, 0, 1, 1)
    decode = tiny.tokenizer().decode
    responses = [decode(row.ids[row.prompt_length :]) for row in made.rows]
    assert responses == ["two</s>", "tw"]
    with pytest.raises(StageError, match="no row for corpus row 0"):
        stages.encode_rows(rows, tiny.tokenizer(), tiny.TEMPLATE, 40, {})


def test_two_texts_for_one_row_are_refused(place):
    text = write_teacher_text(place, lambda rows: [*rows, rows[0]])
    with pytest.raises(StageError, match="two texts for corpus row 0-0"):
        stages.train(work(place, "out", methods.SeqKD(), teacher_text=text))


def test_too_many_rows_that_do_not_fit_are_refused_with_the_numbers(place):
    short = TRAIN.model_copy(update={"max_length": 18})
    with pytest.raises(InputError, match=r"(?s)40 of 40 train rows do not fit in max_length 18"):
        stages.train(work(place, "out", methods.Sft(), short))
    accepted = short.model_copy(update={"max_truncated_share": 1.0})
    stages.train(work(place, "accepted", methods.Sft(), accepted))
    facts = json.loads((place / "accepted" / "training.json").read_text())
    assert facts["truncated"] == 48
    none = TRAIN.model_copy(update={"max_length": 8, "max_truncated_share": 1.0})
    with pytest.raises(InputError, match="none of the 40 train rows leaves room"):
        stages.train(work(place, "none", methods.Sft(), none))


def test_a_teacher_with_another_tokenizer_is_refused(place):
    tiny.tokenizer("!").save_pretrained(place / "teacher")
    with pytest.raises(InputError, match="different tokenizers"):
        stages.train(work(place, "out", methods.WordKD()))


def test_with_a_route_each_row_has_its_own_teachers_text(place, monkeypatch):
    import dataclasses

    tags, seen = ("even", "odd"), []
    for part, seed, count in (("train", 0, 40), ("validation", 1, 8)):
        rows = [
            dataclasses.replace(row, tag=tags[i % 2]) for i, row in enumerate(examples(count, seed))
        ]
        write_records(place / "corpus" / f"{part}.parquet", rows, Example)
    texts = {}
    for number, word in enumerate(("seven", "eight")):
        folder = write_teacher_text(
            place, lambda rows, w=word: [dataclasses.replace(r, completion=w) for r in rows]
        )
        texts[f"teacher_text:{number}"] = folder.rename(place / f"text{number}")
    done = work(place, "out", methods.SeqKD(), **texts)
    how = {"together": {"route": {"even": 1, "odd": 0}}}
    done = dataclasses.replace(done, config=done.config | how)
    own = stages.encode_rows

    def watched(examples, *rest):
        seen.extend((e.tag, rest[3][e.id].completion) for e in examples if rest[3])
        return own(examples, *rest)

    monkeypatch.setattr(stages, "encode_rows", watched)
    stages.train(done)
    assert len(seen) == 48 and {*seen} == {("even", "eight"), ("odd", "seven")}
