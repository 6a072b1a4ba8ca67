"""The head alone, read from every kind of checkpoint, against the whole model's."""

from pathlib import Path
from types import SimpleNamespace

import architectures
import pytest
import tiny_models as tiny
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import Gemma2Config, Gemma2ForCausalLM

from kdstudy.artifacts import Trained
from kdstudy.errors import InputError
from kdstudy.models import heads, load, parts


def saved(folder: Path, model) -> dict:
    tiny.save(folder, model)
    return place(folder)


def place(folder: Path, adapter: Path | None = None) -> dict:
    return {
        "folder": str(folder), "adapter": adapter and str(adapter), "hub_id": None,
        "revision": None, "trust_remote_code": False,
    }  # fmt: skip


def same_head(local: dict, precision: str = "float32", finished: Trained | None = None) -> None:
    whole = parts.head(load.open_model(local, precision, finished))
    got = heads.load_head(local, precision, finished)
    assert got.weight.dtype == whole.weight.dtype == load.dtype(precision)
    assert torch.equal(got.weight, whole.weight)
    assert (got.bias is None) == (whole.bias is None)
    assert got.bias is None or torch.equal(got.bias, whole.bias)
    assert (got.scale, got.softcap) == (whole.scale, whole.softcap)


def gemma(seed: int = 0):
    config = Gemma2Config(
        vocab_size=tiny.VOCABULARY, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=8, final_logit_softcapping=7.0,
    )  # fmt: skip
    return tiny._seeded(Gemma2ForCausalLM, config, seed, 4.0)


@pytest.fixture
def no_body(monkeypatch):
    """Loading a whole model where only its head is wanted fails the test."""
    true = load.open_model

    def refuse(*_):
        raise AssertionError("the whole model was loaded")

    def check(*arguments):
        expected = parts.head(true(*arguments))
        with monkeypatch.context() as patched:
            patched.setattr(load, "open_model", refuse)
            patched.setattr(load, "load_model", refuse)
            got = heads.load_head(*arguments)
        assert torch.equal(got.weight, expected.weight)

    return check


@pytest.mark.parametrize("build", [tiny.qwen, tiny.llama, gemma])
@pytest.mark.parametrize("stored", [torch.float32, torch.float16])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_head_alone_is_the_whole_models_head(tmp_path, no_body, build, stored, precision):
    local = saved(tmp_path, build(3).to(stored))
    same_head(local, precision)
    no_body(local, precision)


def test_the_head_of_a_sharded_checkpoint(tmp_path, no_body):
    tiny.tokenizer().save_pretrained(tmp_path)
    tiny.llama(3).save_pretrained(tmp_path, max_shard_size="4KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    same_head(place(tmp_path))
    no_body(place(tmp_path), "float32")


def test_a_head_stored_beside_the_embedding_it_should_be_tied_to(tmp_path):
    local = saved(tmp_path, tiny.qwen(0))
    weights = load_file(tmp_path / "model.safetensors")
    weights["lm_head.weight"] = 2 * weights["model.embed_tokens.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    same_head(local)
    assert torch.equal(heads.load_head(local, "float32").weight, weights["lm_head.weight"])


def adapter(folder: Path, model, **config) -> Path:
    """A PEFT adapter whose every weight is loud."""
    adapted = get_peft_model(model, LoraConfig(r=2, task_type="CAUSAL_LM", **config))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * (1 + len(name) % 3))
    adapted.save_pretrained(folder, save_embedding_layers=False)
    return folder


def test_an_adapter_of_the_body_leaves_the_head_in_its_file(tmp_path, no_body):
    local = saved(tmp_path / "base", tiny.llama(0))
    given = adapter(tmp_path / "given", tiny.llama(0), target_modules=["q_proj", "down_proj"])
    finished = Trained(tmp_path / "finished")
    adapter(finished.adapter, tiny.llama(0), target_modules=["v_proj"])
    for arguments in (
        (place(tmp_path / "base", given), "float32", None),
        (local, "float32", finished),
        (place(tmp_path / "base", given), "float32", finished),
    ):
        same_head(*arguments)
        no_body(*arguments)


@pytest.mark.parametrize(
    ("build", "config"),
    [
        (tiny.llama, {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
        (tiny.llama, {"target_modules": ["lm_head"]}),
    ],
)
def test_an_adapter_of_the_head_is_in_the_head(tmp_path, build, config):
    saved(tmp_path / "base", build(0))
    local = place(tmp_path / "base", adapter(tmp_path / "given", build(0), **config))
    same_head(local)
    changed = heads.load_head(local, "float32").weight
    assert not torch.equal(changed, heads.load_head(place(tmp_path / "base"), "float32").weight)


def test_an_adapter_of_the_embedding_leaves_the_head_that_is_tied_to_it(tmp_path):
    saved(tmp_path / "base", tiny.qwen(0))
    given = adapter(tmp_path / "given", tiny.qwen(0), target_modules=["embed_tokens"])
    local = place(tmp_path / "base", given)
    same_head(local)
    # PEFT's own forward pass applies the adapter to the embedding alone.
    assert torch.equal(heads.load_head(local, "float32").weight, tiny.qwen(0).lm_head.weight)


def test_the_head_of_a_fully_finetuned_model_is_the_new_one(tmp_path, no_body):
    local = saved(tmp_path / "base", tiny.qwen(0))
    saved(tmp_path / "finished" / "model", tiny.qwen(5))
    same_head(local, "float32", Trained(tmp_path / "finished"))
    no_body(local, "float32", Trained(tmp_path / "finished"))
    got = heads.load_head(local, "float32", Trained(tmp_path / "finished"))
    assert torch.equal(got.weight, parts.head(tiny.qwen(5)).weight)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("llama4_text", {"num_hidden_layers": 4, "interleave_moe_layer_step": 2}),
        ("recurrent_gemma", {"num_hidden_layers": 3, "lru_width": 32, "logits_soft_cap": 2.0}),
    ],
)
def test_a_body_and_a_soft_cap_of_another_name_are_known(kind, fields):
    model = architectures.build(kind, **fields)
    parts.require_known_head(model)


def test_a_model_whose_body_cannot_be_asked_is_refused_in_words():
    model = architectures.build("llama")
    model.model.forward = lambda **_: (None,)
    model.forward = lambda input_ids, use_cache: SimpleNamespace(
        logits=torch.zeros(*input_ids.shape, architectures.VOCABULARY)
    )
    with pytest.raises(InputError, match="cannot be asked for apart from its logits"):
        parts.require_known_head(model)
