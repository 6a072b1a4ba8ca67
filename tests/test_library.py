"""DistillTrainer as a library: datasets, models, methods and teachers as TRL's users give them."""

import copy
import math

import pytest
import tiny_models as tiny
import torch
from datasets import Dataset, DatasetDict
from hub_stand_in import COMMIT, hub
from library_runs import LORA, MESSAGES, ROWS, SPLIT, logits, losses, weights
from peft import LoraConfig, PeftModel, PrefixTuningConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    TrainingArguments,
)

from kdstudy import DistillConfig, DistillTrainer
from kdstudy.data.prompts import encode_prompt
from kdstudy.distill.rows import encode_dataset
from kdstudy.errors import InputError

# Datasets.


@pytest.mark.parametrize("data", [ROWS, SPLIT, MESSAGES], ids=["texts", "prompts", "messages"])
@pytest.mark.parametrize("kind", [list, Dataset.from_list])
def test_every_format_becomes_prompt_completion_and_end(make, data, kind):
    trainer = make(data=kind(data))
    tokenizer = trainer.processing_class
    text = ROWS[5]["prompt"] if data is ROWS else f"u: {ROWS[5]['prompt']}\na: "
    row = trainer.rows[5]
    assert tokenizer.decode(row.ids[: row.prompt_length]) == text
    assert tokenizer.decode(row.ids[row.prompt_length :]) == ROWS[5]["completion"] + "</s>"
    trainer.train()
    assert all(map(math.isfinite, losses(trainer)))


def test_rows_that_do_not_fit_are_counted_and_too_many_are_refused(make, caplog):
    long = {"prompt": "3" * 70, "completion": "7"}
    cut = {"prompt": "3", "completion": "7" * 70}
    trainer = make(data=[long, cut, *ROWS], eval_dataset=ROWS[:3])
    text = trainer.text["train_dataset"]
    assert (text.dropped, text.truncated, len(trainer.rows)) == (1, 1, len(ROWS) + 1)
    assert text.numbers == tuple(range(1, len(ROWS) + 2))
    assert "train_dataset: 1 rows were cut at max_length 64, 1 had no room" in caplog.text
    with pytest.raises(InputError, match=r"4 of 6 train_dataset rows do not fit in max_length 64"):
        make(data=[long, long, cut, cut, *ROWS[:2]])
    assert make(data=[long, long, cut, cut, *ROWS[:2]], max_truncated_share=1.0)
    with pytest.raises(InputError, match="eval_dataset rows do not fit"):
        make(eval_dataset=[cut, *ROWS[:3]])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([{"words": "Q: 1?"}], r"row 0 has words \(str\)[\s\S]*say what yours are called"),
        ([ROWS[0], {"prompt": "1?", "completion": None}], r"row 1 has prompt .*NoneType"),
        ([{"prompt": "1?", "completion": SPLIT[0]["completion"]}], "both texts or both lists"),
        ([{"messages": MESSAGES[0]["messages"][:1]}], "by user, not the assistant"),
        ([{"messages": MESSAGES[0]["messages"][1:]}], "nothing precedes its only message"),
        ([{"messages": []}], "row 0 has messages"),
        (["Q: 1?"], "row 0 is a str"),
        ("rows.jsonl", "the dataset is a str, not rows"),
        (DatasetDict(train=Dataset.from_list(ROWS)), "DatasetDict of train, not rows[^§]*split"),
        ([], "none of the 0 train_dataset rows"),
    ],
)
def test_other_data_is_refused_by_row_and_reason(make, data, words):
    with pytest.raises(InputError, match=words):
        make(data=data)


def test_messages_need_a_chat_template(make):
    with pytest.raises(InputError, match=r"no chat template[\s\S]*set tokenizer.chat_template"):
        make(data=MESSAGES, processing_class=tiny.tokenizer())


# Models.


def test_a_name_and_an_object_give_the_same_run(make, place):
    student = AutoModelForCausalLM.from_pretrained(place / "student", dtype="float32")
    teacher = AutoModelForCausalLM.from_pretrained(place / "teacher", dtype="float32")
    trainers = [
        make(),
        make(place / "student", place / "teacher"),
        make(copy.deepcopy(student), teacher),
        make(student, teacher, processing_class=tiny.tokenizer()),
    ]
    for trainer in trainers:
        trainer.train()
    first = weights(trainers[0])
    assert first
    for trainer in trainers[1:]:
        assert all(torch.equal(v, first[k]) for k, v in weights(trainer).items())


def test_an_object_from_the_hub_brings_its_tokenizer(make, place, tmp_path, monkeypatch):
    with hub("org/student", place / "student") as (endpoint, _):
        student = AutoModelForCausalLM.from_pretrained(place / "student", dtype="float32")
        # What from_pretrained("org/student") leaves; the endpoint is fixed when transformers loads.
        student.config._name_or_path, student.config._commit_hash = "org/student", COMMIT
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        url = "{endpoint}/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(
            "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
            url.replace("{endpoint}", endpoint),
        )
        trainer = make(student, peft=LORA)
    assert trainer.processing_class.get_vocab() == tiny.tokenizer().get_vocab()
    trainer.save_model(tmp_path / "saved")
    text = (tmp_path / "saved" / "adapter_config.json").read_text()
    assert '"base_model_name_or_path": "org/student"' in text


def test_a_model_without_origin_needs_a_tokenizer(make):
    with pytest.raises(InputError, match=r"processing_class: nothing says[\s\S]*give the tok"):
        make(tiny.qwen(0))
    with pytest.raises(InputError, match=r"teacher_model: nothing says[\s\S]*that folder's name"):
        make(teacher=tiny.qwen(0))
    with pytest.raises(InputError, match="no end-of-sequence token"):
        make(tiny.qwen(0), processing_class=tiny.tokenizer(pad_token="<pad>"))


def test_zoo_names(make):
    rows = [{"prompt": "Q: 3 apples and 4 apples?\nA:", "completion": " 7"}] * 8
    trainer = make("zoo-xs", "zoo-s", data=rows, max_steps=2, method="gkd", lmbda=0.5)
    trainer.train()
    assert trainer.state.global_step == 2 and trainer.tokens > 0


@pytest.mark.parametrize("peft", [None, LORA], ids=["full", "lora"])
def test_what_is_saved_loads_in_plain_libraries(make, place, tmp_path, peft):
    trainer = make(peft=peft)
    trainer.train()
    trainer.save_model(tmp_path / "saved")
    saved = {p.name for p in (tmp_path / "saved").iterdir()}
    assert (
        not [n for n in saved if n.endswith((".bin", ".pt", ".pth"))] and "counts.json" not in saved
    )
    if peft is None:
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", dtype="float32")
    else:
        base = AutoModelForCausalLM.from_pretrained(place / "student", dtype="float32")
        before = logits(base)
        model = PeftModel.from_pretrained(base, tmp_path / "saved")
        assert not torch.equal(before, logits(model))
    assert torch.equal(logits(model), logits(trainer.student))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert tokenizer.get_vocab() == trainer.processing_class.get_vocab()


def test_an_adapter_goes_on_from_where_it_was_saved(make, place, tmp_path):
    first = make(peft=LORA)
    first.train()
    first.save_model(tmp_path / "saved")
    base = AutoModelForCausalLM.from_pretrained(place / "student", dtype="float32")
    with pytest.raises(InputError, match=r"no parameter that is trained[\s\S]*is_trainable=True"):
        make(PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "saved"))
    again = make(PeftModel.from_pretrained(base, tmp_path / "saved", is_trainable=True))
    assert torch.equal(logits(again.student), logits(first.student))
    again.train()
    with pytest.raises(InputError, match="has an adapter already"):
        make(again.student, peft=LORA)


def test_adapters_that_the_loss_cannot_see_are_refused(make):
    head = LoraConfig(target_modules=["q_proj", "lm_head"])
    with pytest.raises(InputError, match=r"output layer is [\s\S]*modules_to_save"):
        make(peft=head)
    prefix = PrefixTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM")
    with pytest.raises(InputError, match=r"PREFIX_TUNING[\s\S]*LoraConfig"):
        make(peft=prefix)


def test_a_peft_config_is_not_used_up_and_the_seed_decides_the_adapter(make):
    config = copy.deepcopy(LORA)
    ends = [weights(make(peft=config, seed=seed)) for seed in (1, 1, 2)]
    assert config.base_model_name_or_path is None
    a = next(name for name in ends[0] if "lora_A" in name)
    assert torch.equal(ends[0][a], ends[1][a]) and not torch.equal(ends[0][a], ends[2][a])


def test_an_adapter_of_the_users_own_is_taken_as_it_is(make, place):
    base = AutoModelForCausalLM.from_pretrained(place / "student", dtype="float32")
    model = get_peft_model(base, LORA)
    trainer = make(model)
    trainer.train()
    assert trainer.student is model


# Methods and teachers.


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"method": "wordkd"}, r"no method 'wordkd'[\s\S]*sft, word_kd, revkd"),
        ({"method": "word_kd", "beta": 0.5}, r"word_kd has no beta[\s\S]*temperature"),
        ({"method": "sft", "temperature": 2.0}, "sft has no temperature"),
        ({"method": "gkd", "beta": 1.0}, "write revkd"),
        ({"method": "gkd", "lmbda": 1.5}, "lmbda"),
        ({"method": "seqkd"}, r"teacher wrote[\s\S]*method sft"),
    ],
)
def test_methods_that_make_no_sense_are_refused(make, fields, words):
    with pytest.raises(InputError, match=words):
        make(**fields)


def test_a_teacher_that_cannot_teach_is_refused(make, place, tmp_path):
    config = DistillConfig(output_dir=str(tmp_path), use_cpu=True)
    with pytest.raises(InputError, match=r"word_kd needs a teacher[\s\S]*teacher_model"):
        DistillTrainer(str(place / "student"), args=config, train_dataset=ROWS)
    tiny.save(tmp_path / "other", tiny.qwen(1), tiny.tokenizer(extra="X"))
    with pytest.raises(InputError, match=r"'X' is missing for the student and 54[\s\S]*do: "):
        make(teacher=str(tmp_path / "other"))
    model = AutoModelForCausalLM.from_pretrained(place / "student", dtype="float32")
    with pytest.raises(InputError, match="same object"):
        make(model, model, peft=LORA)
    with pytest.raises(InputError, match=r"args: is a TrainingArguments[\s\S]*DistillConfig"):
        DistillTrainer(
            str(place / "student"), args=TrainingArguments(str(tmp_path)), train_dataset=ROWS
        )


@pytest.mark.parametrize(
    "fields",
    [{"method": "word_kd"}, {"method": "gkd"}, {"bf16": True}, {"bf16": True, "peft": LORA}],
)
def test_the_cache_changes_no_loss(make, place, fields):
    curves = []
    for cache in ("memory", "off"):
        trainer = make(
            # In float32, whatever the student computes in.
            teacher=AutoModelForCausalLM.from_pretrained(place / "teacher", dtype="float32"),
            teacher_cache=cache, logging_steps=1, max_steps=8, **fields,
            eval_dataset=ROWS[:5], eval_strategy="steps", eval_steps=4,
        )  # fmt: skip
        trainer.train()
        evaluated = [e["eval_loss"] for e in trainer.state.log_history if "eval_loss" in e]
        curves.append(losses(trainer) + evaluated)
    assert len(curves[0]) == 10
    assert curves[0] == pytest.approx(curves[1], abs=1e-6, rel=1e-6)


def test_a_named_teacher_is_freed_when_it_is_cached(make):
    assert not hasattr(make().model.teacher.live, "model")
    assert hasattr(make(method="gkd").model.teacher.live, "model"), "it reads sampled text"


@pytest.mark.parametrize("special", [{}, {"bos_token": "<unk>"}])
def test_a_text_without_a_prompt_is_nothing_to_answer(tmp_path, special):
    tokenizer = tiny.tokenizer(eos_token="</s>", pad_token="<pad>", **special)
    made = {"model": tiny.qwen(1), "teacher_model": tiny.qwen(2), "processing_class": tokenizer}
    rows = [{"text": "abc"}, {"prompt": "a", "completion": "b"}]
    config = {"output_dir": str(tmp_path), "method": "gkd", "report_to": "none", "use_cpu": True}
    with pytest.raises(InputError, match="row 0 is text without a prompt"):
        DistillTrainer(**made, args=DistillConfig(**config, lmbda=0.5), train_dataset=rows)


def test_an_instruction_is_asked_as_in_a_study_and_a_prompt_is_taken_as_it_is():
    tokenizer = tiny.tokenizer()
    asked = [
        ({"instruction": "Add", "input": "1 2", "output": "3"}, "Add", "1 2"),
        ({"question": "Add", "answer": "3"}, "Add", ""),
    ]
    for row, instruction, context in asked:
        (made,) = encode_dataset([row], tokenizer, 400).rows
        want = encode_prompt(tokenizer, "alpaca", instruction, context=context)
        assert made.ids[: made.prompt_length] == want
    (bare,) = encode_dataset([{"prompt": "Add", "completion": "3"}], tokenizer, 400).rows
    assert tokenizer.decode(bare.ids) == "Add3</s>"


def test_a_model_of_ones_own_code_is_saved(make, tmp_path):
    class OwnConfig(LlamaConfig):
        model_type = "own_llama"

    class OwnForCausalLM(LlamaForCausalLM):
        config_class = OwnConfig

    base = tiny.llama(1)
    config = OwnConfig(**{k: v for k, v in base.config.to_dict().items() if k != "model_type"})
    trainer = make(model=OwnForCausalLM(config).eval(), processing_class=tiny.tokenizer())
    trainer.save_model(str(tmp_path / "own"))
    assert (tmp_path / "own" / "model.safetensors").is_file()


def test_a_tokenizer_larger_than_the_student_is_refused_for_sft_too(make):
    with pytest.raises(InputError, match="more tokens than the model has embeddings"):
        make(
            model=tiny.qwen(1),
            data=[{"prompt": "a", "completion": "ÄÖ"}],
            method="sft",
            processing_class=tiny.tokenizer("ÄÖ"),
        )
