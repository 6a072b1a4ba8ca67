"""Families of models beside those that most tests use: decoded, trained, saved and loaded again.

The right texts are those of transformers' own `generate`, one prompt at a time; the right logits
those of the model in memory, after loading what was saved as a user would.
"""

import json

import architectures
import pytest
import tiny_models as tiny
import torch
from library_runs import ROWS
from peft import AutoPeftModelForCausalLM, LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from kdstudy import DistillConfig, DistillTrainer
from kdstudy.models import load
from kdstudy.models.sample import sample

pytestmark = pytest.mark.filterwarnings("ignore")

PROMPTS = [[5, 6, 7, 8, 9, 11, 12], [5, 6, 7, 8, *range(40, 56)], [33, 34]]
BUDGET = 10
WINDOW = {"sliding_window": 6}
FAMILIES = {
    **{"codegen": {}, "opt": {"do_layer_norm_before": False, "word_embed_proj_dim": 16}},
    **{"mixtral": WINDOW, "cohere": {"logit_scale": 0.25}, "bloom": {}, "gptj": {}, "xglm": {}},
    **{"biogpt": {}, "olmo2": {}, "phi": {"qk_layernorm": True}, "starcoder2": WINDOW},
    "stablelm": {"use_parallel_residual": True, "qk_layernorm": True},
    "granite": {"logits_scaling": 2.0, "embedding_multiplier": 3.0, "residual_multiplier": 0.5},
    **{"gpt_bigcode": {"multi_query": False}, "gpt_neox": {}, "persimmon": {}, "glm4": {}},
    **{"cohere2": WINDOW | {"num_hidden_layers": 4}, "gemma2": WINDOW, "phi3": WINDOW},
    "falcon": {"alibi": False, "new_decoder_architecture": True, "num_kv_heads": 2},
    **{"gpt_oss": WINDOW, "exaone4": WINDOW | {"num_hidden_layers": 4}, "ctrl": {}},
    "recurrent_gemma": {"num_hidden_layers": 3, "lru_width": 32, "attention_window_size": 8},
    "gemma3_text": WINDOW | {"num_hidden_layers": 6},
}
FAST = ("codegen", "opt", "mixtral", "cohere")  # tables, projections, windows, scaled logits


def marked(fast, every=FAMILIES):
    return [k if k in fast else pytest.param(k, marks=pytest.mark.slow) for k in every]


@pytest.mark.parametrize("kind", marked(FAST))
def test_greedy_texts_are_those_of_generate_whatever_the_batch(kind):
    model = architectures.build(kind, **FAMILIES[kind])
    whole = []
    for prompt in PROMPTS:
        ids = torch.tensor([prompt])
        settings = {"do_sample": False, "eos_token_id": None, "pad_token_id": 2}
        made = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=BUDGET, **settings
        )
        whole.append(made[0, len(prompt) :].tolist())
    end = whole[0][4]  # ends one row before the others
    for ends in ([], [end]):
        want = [t[: t.index(end) + 1] if ends and end in t else t for t in whole]
        settings = {"max_new_tokens": BUDGET, "temperature": 0, "eos_ids": ends, "pad_id": 2}
        assert [list(t.ids) for t in sample(model, PROMPTS, **settings)] == want
        assert [list(sample(model, [p], **settings)[0].ids) for p in PROMPTS] == want


def name_of(model, layer) -> str:
    return next(n for n, m in model.named_modules() if m is layer).rsplit(".", 1)[-1]


def logits(model) -> torch.Tensor:
    last = model.get_input_embeddings().weight.shape[0] - 1
    with torch.no_grad():
        return model.eval()(input_ids=torch.tensor([[5, 6, 7, 8, 9, 53, last]])).logits


def trained(model, folder, tokenizer, peft=None):
    """Return the student after three steps of sft, saved in `folder`."""
    args = DistillConfig(
        output_dir=str(folder / "run"), method="sft", max_length=64, max_steps=3, use_cpu=True,
        learning_rate=1e-2, disable_tqdm=True, save_strategy="no", report_to=[],
    )  # fmt: skip
    given = {"train_dataset": ROWS, "processing_class": tokenizer, "peft_config": peft}
    trainer = DistillTrainer(model, args=args, **given)
    before = {n: p.detach().clone() for n, p in trainer.student.named_parameters()}
    trainer.train()
    assert any(not torch.equal(before[n], p) for n, p in trainer.student.named_parameters())
    trainer.save_model(str(folder / "saved"))
    return trainer.student


ADAPTERS = {
    "plain": {},
    "resized": {},
    "named": {},
    "dora": {"use_dora": True},
    "rslora": {"use_rslora": True},
    "on the embedding": {},
    "head saved": {},
    "embedding saved": {},
}


@pytest.mark.parametrize("kind", marked(("cohere",)))
@pytest.mark.parametrize("case", marked(("resized", "on the embedding"), ADAPTERS))
def test_an_adapter_is_saved_loaded_and_merged_as_it_was_trained(tmp_path, kind, case):
    built = architectures.build(kind, **FAMILIES[kind] | {"vocab_size": tiny.VOCABULARY})
    base = tiny.save(tmp_path / "base", built)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    layers = sorted({name.rsplit(".", 1)[-1] for name in load.linear_layers(model)})[:3]
    first = name_of(model, model.get_input_embeddings())
    last = name_of(model, model.get_output_embeddings())
    layers += [first] if case == "on the embedding" else []
    saved = {"head saved": [last], "embedding saved": [first]}.get(case)
    config = LoraConfig(
        r=2, target_modules=layers, task_type="CAUSAL_LM", modules_to_save=saved, **ADAPTERS[case]
    )
    tokenizer = tiny.tokenizer("!%" if case == "resized" else "")
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    if case == "named":
        model, config = get_peft_model(model, config, adapter_name="student"), None
    want = logits(trained(model, tmp_path, tokenizer, config))
    theirs = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "saved", dtype=torch.float32)
    torch.testing.assert_close(logits(theirs), want)
    ours = load.load_model(base, adapter=tmp_path / "saved", precision="float32").cpu()
    torch.testing.assert_close(logits(ours), want)
    load.save(load.merge(ours), tmp_path / "merged", tokenizer)
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    torch.testing.assert_close(logits(whole), want, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("kind", marked(("codegen",)))
def test_a_whole_student_is_saved_with_the_end_it_was_taught(tmp_path, kind):
    model = architectures.build(kind, **FAMILIES[kind] | {"vocab_size": tiny.VOCABULARY})
    tokenizer = tiny.tokenizer(eos_token="Q", pad_token="<pad>")
    want = logits(trained(model, tmp_path, tokenizer))
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", dtype=torch.float32)
    torch.testing.assert_close(logits(again), want)
    settings = json.loads((tmp_path / "saved" / "generation_config.json").read_text())
    ends = settings["eos_token_id"]
    assert (ends[0] if isinstance(ends, list) else ends) == tokenizer.eos_token_id
