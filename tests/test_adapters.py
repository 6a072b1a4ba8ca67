"""Adapters of drawn kinds: saved, loaded and merged as PEFT's own classes would have them."""

import json
import random

import pytest
import tiny_models as tiny
import torch
from drawn_adapters import drawn, loud
from library_runs import weights
from peft import (
    AdaLoraConfig,
    AutoPeftModelForCausalLM,
    LoraConfig,
    PeftModel,
    PolyConfig,
    get_peft_model,
)
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Gemma3Config,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
)

from kdstudy.config import schema
from kdstudy.errors import InputError, StageError
from kdstudy.models import load, parts

pytestmark = pytest.mark.filterwarnings("ignore")


def logits(model) -> torch.Tensor:
    """Of a row that ends in the vocabulary's last token."""
    ids = torch.tensor([[5, 6, 7, 8, 9, 53, model.get_input_embeddings().weight.shape[0] - 1]])
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits


@pytest.mark.parametrize("seed", range(30))
def test_a_drawn_adapter_is_saved_loaded_and_merged_as_trained(tmp_path, seed):
    rng = random.Random(seed)
    build = rng.choice([tiny.qwen, tiny.llama])  # tied, untied
    base = tiny.save(tmp_path / "base", build(seed))
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    tokenizer = tiny.tokenizer("!" if seed % 4 == 0 else "")
    if seed % 4 == 0:
        torch.manual_seed(seed)
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    name = rng.choice(["default", "default", "student"])
    trained = loud(get_peft_model(model, drawn(rng), adapter_name=name), seed)
    want = logits(trained)

    load.save(trained, tmp_path / "ours", tokenizer, base=str(base))
    theirs = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "ours", dtype=torch.float32)
    torch.testing.assert_close(logits(theirs), want)
    folders = [tmp_path / "ours"]
    lost = {"embed_tokens", "lm_head"} & set(trained.peft_config[name].target_modules)
    if len(tokenizer) == tiny.VOCABULARY or not lost:  # else PEFT leaves a resized layer out
        trained.save_pretrained(tmp_path / "peft")
        folders.append(tmp_path / "peft" / ("" if name == "default" else name))
    for folder in folders:
        ours = load.load_model(base, adapter=folder, precision="float32").cpu()
        torch.testing.assert_close(logits(ours), want)
        merged = load.merge(ours)
        torch.testing.assert_close(logits(merged), want, rtol=1e-4, atol=1e-3)
    load.save(merged, tmp_path / "merged", tokenizer)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    torch.testing.assert_close(logits(again), want, rtol=1e-4, atol=1e-3)
    load.require_same(trained, tmp_path / "ours", lambda: theirs)


def test_an_embedding_adapter_of_a_tied_model_writes_what_peft_writes(tmp_path):
    """The head keeps the published weights; a merge into the shared matrix would change both."""
    base = tiny.save(tmp_path / "base", tiny.qwen(0))
    config = LoraConfig(r=2, target_modules=["embed_tokens"], task_type="CAUSAL_LM")
    trained = loud(get_peft_model(tiny.qwen(0), config), 3)
    trained.save_pretrained(tmp_path / "given")
    place = {"folder": str(base), "adapter": str(tmp_path / "given"), "hub_id": None}
    opened = load.open_model(place | {"revision": None, "trust_remote_code": False}, "float32")
    torch.testing.assert_close(logits(opened), logits(trained), rtol=1e-4, atol=1e-4)
    shared = get_peft_model(tiny.qwen(0), config)
    shared.load_state_dict(trained.state_dict())
    assert (logits(shared.merge_and_unload()) - logits(trained)).abs().max() > 1, "PEFT's own merge"


@pytest.mark.parametrize("build", [tiny.qwen, tiny.llama])
def test_trained_tokens_are_saved_and_loaded(tmp_path, build):
    base = tiny.save(tmp_path / "base", build(0))
    config = LoraConfig(
        r=2, target_modules=["q_proj"], trainable_token_indices=[9, 53], task_type="CAUSAL_LM"
    )
    trained = loud(get_peft_model(build(0), config), 0)
    load.save(trained, tmp_path / "ours", tiny.tokenizer(), base=str(base))
    ours = load.load_model(base, adapter=tmp_path / "ours", precision="float32")
    torch.testing.assert_close(logits(ours), logits(trained))
    torch.testing.assert_close(logits(load.merge(ours)), logits(trained), rtol=1e-4, atol=1e-4)


def gpt2(seed: int = 0) -> GPT2LMHeadModel:
    config = GPT2Config(
        vocab_size=tiny.VOCABULARY, n_embd=16, n_layer=2, n_head=2, n_positions=128,
        bos_token_id=None, eos_token_id=tiny.EOS,
    )  # fmt: skip
    return tiny._seeded(GPT2LMHeadModel, config, seed, 2.0)


def test_gpt2s_layers_are_found_trained_and_merged(tmp_path):
    base = tiny.save(tmp_path / "base", gpt2())
    assert load.linear_layers(gpt2())["transformer.h.0.attn.c_attn"] == (48, 16)
    lora = schema.Lora(r=2, dropout=0, target_modules=["c_attn", "c_fc"])
    trained = loud(load.add_adapter(gpt2(), lora, 0), 0)
    assert not torch.equal(logits(trained), logits(gpt2()))
    load.save(trained, tmp_path / "ours", tiny.tokenizer(), base=str(base))
    assert json.loads((tmp_path / "ours" / "adapter_config.json").read_text())["fan_in_fan_out"]
    theirs = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "ours", dtype=torch.float32)
    assert torch.equal(logits(theirs), logits(trained))
    torch.testing.assert_close(logits(load.merge(theirs)), logits(trained), rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError, match=r"(?s)q_proj.*its linear layers are c_attn, c_fc, c_proj"):
        load.add_adapter(gpt2(), schema.Lora(target_modules=["q_proj"]), 0)


@pytest.mark.parametrize(
    ("config", "names"),
    [
        (LoraConfig(target_modules=["q_proj"], alora_invocation_tokens=[5, 6]), "aLoRA"),
        (AdaLoraConfig(target_modules=["q_proj"], total_step=20), "ADALORA"),
        (PolyConfig(target_modules=["q_proj"], r=2), "POLY"),
    ],
)
def test_what_works_through_pefts_own_forward_is_refused_by_name(make, place, config, names):
    config.task_type = "CAUSAL_LM"
    with pytest.raises(InputError, match=f"of type {names}"):
        make(peft=config, method="sft")


def test_an_adapter_of_such_a_kind_is_no_model_of_a_study_either(tmp_path):
    base = tiny.save(tmp_path / "base", tiny.qwen(0))
    config = AdaLoraConfig(target_modules=["q_proj"], total_step=20, task_type="CAUSAL_LM")
    get_peft_model(tiny.qwen(0), config).save_pretrained(tmp_path / "given")
    with pytest.raises(InputError, match="ADALORA"):
        load.load_model(base, adapter=tmp_path / "given")


def peft_student(place, *names: str) -> PeftModel:
    """The last of these adapters is the active one."""
    model = AutoModelForCausalLM.from_pretrained(place / "student", dtype=torch.float32)
    for seed, name in enumerate(names):
        torch.manual_seed(seed)
        config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
        if seed == 0:
            model = get_peft_model(model, config, adapter_name=name)
        else:
            model.add_adapter(name, config)
    model.set_adapter(names[-1])
    return model


@pytest.mark.parametrize("names", [("student",), ("default", "second"), ("one", "two")])
def test_a_named_adapter_is_saved_resumed_and_loaded(make, place, tmp_path, names):
    settings = {"method": "sft", "save_strategy": "steps", "save_steps": 2}
    whole = make(peft_student(place, *names), to="whole", **settings)
    whole.train()
    half = make(peft_student(place, *names), to="half", **settings)
    half.train()
    again = make(peft_student(place, *names), to="half", **settings)
    again.train(resume_from_checkpoint=str(tmp_path / "half" / "checkpoint-2"))
    assert weights(whole).keys() == weights(again).keys()
    for name, value in weights(whole).items():
        assert f".{names[-1]}." in name
        torch.testing.assert_close(weights(again)[name], value)
    whole.save_model(str(tmp_path / "saved"))
    theirs = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "saved", dtype=torch.float32)
    torch.testing.assert_close(logits(theirs), logits(whole.student))


def test_two_active_adapters_are_refused(make, place):
    model = peft_student(place, "one", "two")
    model.base_model.set_adapter(["one", "two"])
    with pytest.raises(InputError, match=r"2 active adapters \(one, two\)"):
        make(model, method="sft")


def test_new_rows_of_the_vocabulary_are_in_the_adapters_file(make, place, tmp_path):
    student = AutoModelForCausalLM.from_pretrained(place / "student", dtype=torch.float32)
    tokenizer = tiny.tokenizer("!")
    tokenizer.chat_template = None
    student.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    trainer = make(student, method="sft", peft=config, processing_class=tokenizer)
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    theirs = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "saved", dtype=torch.float32)
    torch.testing.assert_close(logits(theirs), logits(trainer.student))


def test_a_base_that_was_changed_in_memory_is_an_error_when_its_adapter_is_saved(
    make, place, tmp_path
):
    student = AutoModelForCausalLM.from_pretrained(place / "student", dtype=torch.float32)
    with torch.no_grad():
        student.model.layers[0].mlp.up_proj.weight.mul_(1.5)
    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    trainer = make(student, method="sft", peft=config)
    trainer.train()
    with pytest.raises(StageError, match="loaded again it is another model"):
        trainer.save_model(str(tmp_path / "saved"))


@pytest.mark.parametrize("start", [1, [1, 4]])
def test_the_end_that_was_taught_is_in_a_whole_students_configurations(
    make, place, tmp_path, start
):
    """What transformers.Trainer writes for the same: the taught one first, the old one kept."""
    student = AutoModelForCausalLM.from_pretrained(place / "student", dtype=torch.float32)
    student.config.eos_token_id = student.generation_config.eos_token_id = start
    tokenizer = tiny.tokenizer(eos_token="Q", pad_token="<pad>")
    end = tokenizer.eos_token_id
    trainer = make(student, method="sft", processing_class=tokenizer)
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    old = start if isinstance(start, list) else [start]
    read = {
        name: json.loads((tmp_path / "saved" / name).read_text())["eos_token_id"]
        for name in ("config.json", "generation_config.json")
    }
    assert read["generation_config.json"] == [end, *old]
    assert read["config.json"] == ([end, *old] if isinstance(start, list) else end)
    config = AutoConfig.from_pretrained(tmp_path / "saved")
    assert config.pad_token_id == tokenizer.pad_token_id


def test_a_multimodal_folder_gives_its_language_model(tmp_path):
    text = Gemma3TextConfig(
        vocab_size=tiny.VOCABULARY, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=8, eos_token_id=tiny.EOS,
        bos_token_id=None, pad_token_id=2,
    )  # fmt: skip
    vision = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "image_size": 28, "patch_size": 14,
    }  # fmt: skip
    config = Gemma3Config(
        text_config=text.to_dict(), vision_config=vision, mm_tokens_per_image=4,
        image_token_index=50, boi_token_index=51, eoi_token_index=52,
    )  # fmt: skip
    torch.manual_seed(0)
    whole = AutoModelForCausalLM.from_config(config).eval()
    tiny.save(tmp_path / "both", whole)
    model = load.load_model(tmp_path / "both", precision="float32")
    assert torch.equal(logits(model), logits(whole))
    assert model.config.model_type == "gemma3_text"
    parts.require_known_head(model)
    load.save(model, tmp_path / "text", tiny.tokenizer())
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "text", dtype=torch.float32)
    assert torch.equal(logits(again), logits(whole))
