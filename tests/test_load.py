"""Loading, saving and the refusals: nothing is ever used in another model's name."""

import json

import pytest
import tiny_models as tiny
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BertConfig, BertModel, T5Config

from kdstudy.config import schema
from kdstudy.errors import InputError
from kdstudy.models import heads, load, parts

LORA = schema.Lora(r=4, alpha=8, dropout=0.5)
IDS = torch.tensor([[5, 6, 7, 8, 9]])


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def adapted(seed: int = 0, build=tiny.qwen, width: int = 16) -> PeftModel:
    """A model with an adapter that does something."""
    model = load.add_adapter(build(0, width=width), LORA, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model.eval()


@pytest.fixture
def base(tmp_path):
    return tiny.save(tmp_path / "base", tiny.qwen(0))


@pytest.fixture
def adapter(tmp_path):
    load.save(adapted(), tmp_path / "adapter", tiny.tokenizer(), base="org/base")
    return tmp_path / "adapter"


def test_a_model_loads_in_eval_mode_in_float32_on_a_cpu(base):
    model = load.load_model(base)
    assert not any(m.training for m in model.modules())
    if not torch.cuda.is_available():
        assert model.dtype == torch.float32
    assert load.load_model(base, precision="bfloat16").dtype == torch.bfloat16


@pytest.mark.parametrize("build", [tiny.qwen, tiny.llama])
def test_an_adapter_gives_the_same_logits_here_in_plain_peft_and_merged(tmp_path, build):
    model = adapted(build=build)
    base = tiny.save(tmp_path / "base", build(0))
    load.save(model, tmp_path / "adapter", tiny.tokenizer(), base="org/base")
    want = logits(model)
    ours = load.load_model(base, adapter=tmp_path / "adapter", precision="float32").cpu()
    assert torch.equal(logits(ours), want), "dropout is off and every weight is there"
    peft = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), tmp_path / "adapter"
    ).eval()
    assert torch.equal(logits(peft), want)
    merged = load.merge(ours)
    torch.testing.assert_close(logits(merged), want, rtol=1e-4, atol=1e-4)
    load.save(merged, tmp_path / "merged", tiny.tokenizer())
    again = load.load_model(tmp_path / "merged", precision="float32").cpu()
    assert torch.equal(logits(again), logits(merged))


def test_an_adapters_files_do_not_depend_on_the_order_of_a_set(tmp_path):
    load.save(load.add_adapter(tiny.qwen(0), schema.Lora(), 0), tmp_path, tiny.tokenizer())
    named = json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"]
    assert named == sorted(named) and len(named) > 2


def test_transformers_alone_loads_the_adapter_when_its_base_is_known(tmp_path, base):
    load.save(adapted(), tmp_path / "adapter", tiny.tokenizer(), base=str(base))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "adapter", dtype=torch.float32).eval()
    assert torch.equal(logits(model), logits(adapted()))


def test_saved_folders_name_no_private_path(tmp_path, base):
    private = str(tmp_path).encode()
    trained = load.add_adapter(load.load_model(base), LORA, 0)
    load.save(trained, tmp_path / "out" / "adapter", tiny.tokenizer(), base="org/base")
    load.save(load.load_model(base), tmp_path / "out" / "model", tiny.tokenizer())
    files = [p for p in (tmp_path / "out").rglob("*") if p.is_file()]
    assert len(files) > 6
    for file in files:
        assert private not in file.read_bytes(), file.name
        assert file.suffix not in (".bin", ".pt", ".pth")
    config = json.loads((tmp_path / "out" / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "org/base"


def rewrite(folder, change) -> None:
    path = folder / "adapter_model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path)


def test_an_adapter_with_a_missing_weight_is_refused(base, adapter):
    rewrite(adapter, lambda w: w.pop(min(w)))
    with pytest.raises(InputError, match=r"did not load.*is not in the file"):
        load.load_model(base, adapter=adapter)


def test_an_adapter_with_a_weight_the_model_lacks_is_refused(base, adapter):
    rewrite(
        adapter, lambda w: w.update({min(w).replace("layers.0", "layers.9"): torch.zeros(4, 32)})
    )
    with pytest.raises(InputError, match=r"layers\.9.*is not a weight of the model"):
        load.load_model(base, adapter=adapter)


def test_a_swapped_in_adapter_is_noticed(tmp_path, base, adapter, monkeypatch):
    load.save(adapted(seed=7), tmp_path / "other", tiny.tokenizer())
    real = PeftModel.from_pretrained
    monkeypatch.setattr(
        PeftModel,
        "from_pretrained",
        lambda model, folder, **more: real(model, tmp_path / "other", **more),
    )
    with pytest.raises(InputError, match="differs between file and model"):
        load.load_model(base, adapter=adapter)


def test_an_adapter_for_other_shapes_is_refused(tmp_path, base):
    load.save(adapted(width=32), tmp_path / "wide", tiny.tokenizer())
    with pytest.raises(InputError, match="does not fit this model"):
        load.load_model(base, adapter=tmp_path / "wide")


def test_what_is_no_adapter_is_refused(tmp_path, base, adapter):
    with pytest.raises(InputError, match=r"has no adapter_config\.json"):
        load.load_model(base, adapter=tmp_path)
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match=r"has no adapter_model\.safetensors"):
        load.load_model(base, adapter=adapter)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"peft_type": "LORA", "r"', "adapter_config.json cannot be used .it is not JSON"),
        ("", "it is not JSON"),
        ("[1]", "it is no JSON object"),
        ('{"r": 4}', "adapter_config.json names no peft_type"),
    ],
)
def test_an_adapters_configuration_that_is_cut_short_is_no_other_base(base, adapter, text, said):
    (adapter / "adapter_config.json").write_text(text)
    with pytest.raises(InputError, match=said) as refused:
        load.load_model(base, adapter=adapter)
    assert "base model" not in str(refused.value)


def test_what_is_no_causal_lm_is_refused(tmp_path, base):
    with pytest.raises(InputError, match="no such model folder"):
        load.load_model(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"no config\.json"):
        load.load_model(tmp_path)
    T5Config().save_pretrained(tmp_path / "t5")
    save_file({"x": torch.zeros(1)}, tmp_path / "t5" / "model.safetensors")
    with pytest.raises(InputError, match="t5 is not a causal language model"):
        load.load_model(tmp_path / "t5")
    (base / "model.safetensors").unlink()
    with pytest.raises(InputError, match="weights"):
        load.load_model(base)


def test_weights_that_would_be_random_are_refused(tmp_path, base):
    weights = load_file(base / "model.safetensors")
    weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"no weights for model\.layers\.1\.mlp\.up_proj"):
        load.load_model(base)


def test_an_encoder_is_refused(tmp_path):
    BertModel(
        BertConfig(
            vocab_size=20,
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            intermediate_size=8,
        )
    ).save_pretrained(tmp_path)
    with pytest.raises(InputError):
        load.load_model(tmp_path)


def test_unknown_target_modules_are_refused_with_the_known_ones():
    with pytest.raises(InputError, match=r"(?s)w_proj.*down_proj, gate_proj, k_proj, o_proj"):
        load.add_adapter(tiny.qwen(0), schema.Lora(target_modules=["q_proj", "w_proj"]), 0)


def test_an_adapters_start_depends_on_its_seed_alone():
    torch.manual_seed(1)
    first = load.add_adapter(tiny.qwen(0), LORA, 5).state_dict()
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), after), "the global random state is left alone"
    again, other = (load.add_adapter(tiny.qwen(0), LORA, s).state_dict() for s in (5, 6))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)
    trainable = [
        n for n, p in load.add_adapter(tiny.qwen(0), LORA, 5).named_parameters() if p.requires_grad
    ]
    assert trainable and all("lora_" in name for name in trainable)


@pytest.mark.parametrize("build", [tiny.qwen, tiny.llama])
def test_a_folders_tokenizer_splits_text_as_its_file_says(tmp_path, build):
    text = "it is 12 + 3?\n(a):\n\nb"
    loaded = load.load_tokenizer(tiny.save(tmp_path, build(0)))
    assert loaded(text)["input_ids"] == tiny.tokenizer()(text)["input_ids"]
    assert loaded.decode(loaded(text)["input_ids"]) == text


def test_a_missing_padding_token_changes_no_vocabulary(tmp_path):
    tiny.tokenizer(eos_token="</s>").save_pretrained(tmp_path)
    tok = load.load_tokenizer(tmp_path)
    assert tok.pad_token_id == tok.eos_token_id == tiny.EOS
    assert tok.get_vocab() == tiny.tokenizer().get_vocab()


def test_a_tokenizer_that_cannot_end_is_refused(tmp_path):
    tiny.tokenizer(pad_token="<pad>").save_pretrained(tmp_path)
    with pytest.raises(InputError, match="no end-of-sequence token"):
        load.load_tokenizer(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="tokenizer cannot be loaded"):
        load.load_tokenizer(tmp_path / "empty")


def test_the_common_width_is_the_narrower_models(base):
    tok = tiny.tokenizer()
    narrow, wide = parts.head(tiny.qwen(0)), parts.head(tiny.widen(tiny.llama(0), 9))
    assert heads.common_width(tok, tok, narrow, wide) == tiny.VOCABULARY
    assert heads.common_width(tok, tok, wide, narrow) == tiny.VOCABULARY
    assert heads.common_width(tok, tok, parts.head(adapted()), wide) == tiny.VOCABULARY


def test_other_tokenizers_are_refused_with_the_first_difference():
    both = parts.head(tiny.qwen(0)), parts.head(tiny.qwen(1))
    with pytest.raises(InputError, match=rf"'!' is {tiny.VOCABULARY} for the student and missing"):
        heads.common_width(tiny.tokenizer("!"), tiny.tokenizer(), *both)
    with pytest.raises(
        InputError, match=rf"'!' is {tiny.VOCABULARY} for the student and {tiny.VOCABULARY + 1} for"
    ):
        heads.common_width(tiny.tokenizer("!%"), tiny.tokenizer("%!"), *both)
    with pytest.raises(
        InputError,
        match=f"has {tiny.VOCABULARY + 1} tokens, the model embeddings for {tiny.VOCABULARY}",
    ):
        heads.common_width(tiny.tokenizer("!"), tiny.tokenizer("!"), *both)


def test_an_end_token_that_the_model_lacks_is_refused():
    """As training and doctor do: no text could end in it."""
    tokenizer = tiny.tokenizer(eos_token="<the end>")
    assert tokenizer.eos_token_id >= tiny.VOCABULARY
    with pytest.raises(InputError, match=f"token {tokenizer.eos_token_id} is none of the model's"):
        load.eos_ids(tiny.qwen(0), tokenizer)


def test_every_way_to_end_is_known():
    model = tiny.qwen(0)
    model.generation_config.eos_token_id = [7, tiny.EOS]
    assert load.eos_ids(model, tiny.tokenizer()) == (tiny.EOS, 7)
    assert load.eos_ids(load.add_adapter(model, LORA, 0), tiny.tokenizer()) == (tiny.EOS, 7)
