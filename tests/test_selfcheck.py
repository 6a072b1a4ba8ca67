"""Decoding of architectures that count, pad and cache in their own ways, against recomputation."""

import architectures
import pytest
import tiny_models as tiny
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from kdstudy.errors import InputError
from kdstudy.models import memory, parts, selfcheck
from kdstudy.models.sample import sample

PROMPTS = [[5, 6, 7, 8, 9], [5, 6, 7, 8, 9, *range(10, 45)], [5, 6, 7, 8], [30]]
BUDGETS = [9, 4, 12, 7]


def recomputed(model, prompt, budget):
    """Greedy text by a plain loop: the whole text again at every step."""
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(budget):
            logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits
            ids.append(int(logits[0, -1].argmax()))
    return ids[len(prompt) :]


def assert_right(model):
    found = sample(model, PROMPTS, max_new_tokens=BUDGETS, temperature=0, eos_ids=[], pad_id=0)
    for prompt, budget, text in zip(PROMPTS, BUDGETS, found, strict=True):
        assert list(text.ids) == recomputed(model, prompt, budget)


WAYS = {
    **dict.fromkeys(("qwen2", "llama", "gemma2", "gpt2", "opt", "bloom"), "shared"),
    **dict.fromkeys(("gpt_neo", "mpt", "falcon"), "padded"),
    **dict.fromkeys(("qwen3_next", "jamba", "falcon_h1", "lfm3"), "kept"),
    **dict.fromkeys(("mamba", "mamba2", "rwkv", "openai-gpt"), "alone"),
}


@pytest.mark.parametrize("kind", WAYS)
def test_a_text_is_that_of_recomputation_whatever_its_neighbours(kind):
    model = architectures.build(kind)
    assert_right(model)
    # The way matters for speed; a library that learns more may make it a faster one.
    assert selfcheck.HOWS.index(selfcheck.decoding(model)) <= selfcheck.HOWS.index(WAYS[kind])
    assert memory.bytes_per_row(model, 40, 20) > 0


def test_a_window_longer_than_the_trials_usual_spread_is_looked_beyond():
    model = architectures.build("gpt_neo", window_size=100, max_position_embeddings=256)
    prompts = [[5, 6, 7, 8, 9], [5, 6, 7, 8, *range(8, 58), *range(8, 58), *range(8, 58)]]
    found = sample(model, prompts, max_new_tokens=5, temperature=0, eos_ids=[], pad_id=0)
    for prompt, text in zip(prompts, found, strict=True):
        assert list(text.ids) == recomputed(model, prompt, 5)


def test_half_precision_is_not_mistaken_for_a_fault():
    model = tiny.qwen(0, scale=1.5).to(torch.bfloat16)
    assert selfcheck.decoding(model) == "shared"


def looks_ahead():
    model = tiny.llama(0)
    for layer in model.model.layers:
        layer.self_attn.is_causal = False
        real = layer.self_attn.forward
        layer.self_attn.forward = lambda *a, real=real, **k: real(
            *a, **{**k, "attention_mask": None}
        )
    return model


def both_ways():
    config = Gemma3TextConfig(
        vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=2, head_dim=8,
        num_attention_heads=4, num_key_value_heads=2, use_bidirectional_attention=True,
    )  # fmt: skip
    return tiny._seeded(Gemma3ForCausalLM, config, 0, 3.0)


@pytest.mark.parametrize("build", [looks_ahead, both_ways, lambda: architectures.build("bert")])
def test_a_model_that_looks_ahead_is_refused_for_training_and_for_answers(build):
    model = build()
    with pytest.raises(InputError, match="a later token changes an earlier one"):
        parts.require_known_head(model)
    with pytest.raises(InputError, match="a later token changes an earlier one"):
        sample(model, PROMPTS, max_new_tokens=3, temperature=0, eos_ids=[], pad_id=0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", architectures.kinds())
def test_every_architecture_is_decoded_right_or_refused(kind):
    try:
        model = architectures.build(kind)
    except Exception as e:
        pytest.skip(f"cannot be built small: {type(e).__name__}")
    try:
        selfcheck.decoding(model)
    except InputError:
        return
    assert_right(model)


def test_what_a_model_has_no_positions_or_embeddings_for_is_refused():
    learned = architectures.build("gpt2")  # 128 positions, 61 tokens
    fits = {"max_new_tokens": 100, "temperature": 0, "eos_ids": [], "pad_id": 0}
    (text,) = sample(learned, [[5] * 28], **fits)
    assert len(text.ids) == 100
    with pytest.raises(InputError, match="129 tokens is longer than the model's 128 positions"):
        sample(learned, [[5] * 29], **fits)
    with pytest.raises(InputError, match="token 61 is none of the model's 61"):
        sample(learned, [[5, 61]], **fits)
    offset = architectures.build("opt")  # its table is larger by 2, and uses them up
    with pytest.raises(InputError, match="model's 128 positions"):
        sample(offset, [[5] * 29], **fits)
    for kind in ("codegen", "gptj", "ctrl", "mpt", "biogpt", "openai-gpt"):
        fixed = architectures.build(
            kind, max_seq_len=128
        )  # computed once, or one for each distance
        with pytest.raises(InputError, match="129 tokens is longer than the model's 128 positions"):
            sample(fixed, [[5] * 29], **fits)
    rotary = architectures.build("llama")  # positions are computed
    assert len(sample(rotary, [[5] * 29], **fits)[0].ids) == 100


@pytest.mark.slow
@pytest.mark.parametrize("kind", architectures.kinds())
def test_every_architecture_reads_beyond_its_positions_or_refuses(kind):
    """Nothing of a library is met by whoever gives a text that is too long."""
    names = ("max_position_embeddings", "n_positions", "n_ctx")
    try:
        model = architectures.build(kind, **dict.fromkeys(names, 24))
        selfcheck.decoding(model)
    except Exception as e:
        pytest.skip(f"cannot be built small, or is refused: {type(e).__name__}")
    try:
        parts.require_room(model, 40, 5)
    except InputError:
        return
    with torch.no_grad():
        assert model(input_ids=torch.full((1, 40), 5), use_cache=False).logits.shape[1] == 40
