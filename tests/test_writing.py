"""Texts of a model with an adapter: written by a merged copy, and nothing that is trained moves."""

import logging
import random

import pytest
import tiny_models as tiny
import torch
from drawn_adapters import drawn, loud
from peft import LoraConfig, get_peft_model

from kdstudy.models import parts, writing
from kdstudy.models.sample import sample

pytestmark = pytest.mark.filterwarnings("ignore")
PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14, 15], [20, 21]]
NARROW, WIDE = torch.bfloat16, torch.float32


def adapted(seed, dtype=WIDE, *, width=20, size=0.3, dropout=0.25):
    """A student in the middle of its training; `size` is that of its adapter's second factor."""
    model = tiny.qwen(seed, width=width).to(dtype)
    config = LoraConfig(
        r=3, lora_alpha=7, lora_dropout=dropout, target_modules=["q_proj", "up_proj", "down_proj"]
    )
    torch.manual_seed(seed)
    model = get_peft_model(model, config)
    for name, p in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=size)
    return model.train()


def bits(model):
    """All weights, which of them are trained, and each layer's mode."""
    weights = {n: (p.detach().clone(), p.requires_grad) for n, p in model.named_parameters()}
    return weights, {n: m.training for n, m in model.named_modules()}, dict(model.named_buffers())


def assert_untouched(model, before):
    weights, modes, buffers = bits(model)
    assert modes == before[1] and weights.keys() == before[0].keys()
    for name, (value, trained) in weights.items():
        assert torch.equal(value, before[0][name][0]) and trained == before[0][name][1], name
    assert all(torch.equal(value, before[2][name]) for name, value in buffers.items())


def texts(model, temperature=0.0):
    return sample(
        model, PROMPTS, max_new_tokens=15, temperature=temperature, seeds=range(len(PROMPTS)),
        eos_ids=[tiny.EOS], pad_id=0,
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(12))
def test_whatever_the_adapter_nothing_that_is_trained_moves(seed):
    rng = random.Random(seed)
    dtype = rng.choice([WIDE, NARROW])
    torch.manual_seed(seed)
    model = loud(get_peft_model(tiny.qwen(seed).to(dtype), drawn(rng)), seed).train()
    before = bits(model)
    with writing.writing(model) as writer:
        texts(writer)
    assert_untouched(model, before)


@pytest.mark.parametrize("dtype", [WIDE, NARROW])
@pytest.mark.parametrize("frozen", ["lora_A", "lora_B"])
def test_a_factor_that_is_frozen_stays_frozen(dtype, frozen):
    """LoRA-FA trains one factor alone; PEFT frees both where it turns an adapter off and on."""
    model = adapted(4, dtype)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name and frozen not in name)
    before = bits(model)
    with writing.writing(model) as writer:
        texts(writer)
    assert_untouched(model, before)


@pytest.mark.parametrize("dtype", [WIDE, NARROW])
def test_what_follows_in_training_is_what_would_have_been(dtype):
    ends = []
    for looks in (False, True):
        model = adapted(3, dtype)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
        torch.manual_seed(0)
        for step in range(3):
            if looks:
                with writing.writing(model) as writer:
                    texts(writer, temperature=1.0)
            ids = torch.tensor([[5 + step, 6, 7, 8, 9]])
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        ends.append({n: p.detach().clone() for n, p in model.named_parameters()})
    assert all(torch.equal(ends[0][name], value) for name, value in ends[1].items())


@pytest.mark.parametrize("seed", range(4))
def test_in_float32_the_copy_writes_what_the_adapter_in_place_writes(seed):
    model = adapted(seed)
    with writing.writing(model) as writer:
        assert writer is not model and not any("lora" in n for n, _ in writer.named_parameters())
        found, drawn_texts = texts(writer), texts(writer, temperature=1.0)
    model.eval()
    assert (found, drawn_texts) == (texts(model), texts(model, temperature=1.0))


def test_each_time_the_weights_are_those_of_the_moment():
    model = adapted(1)
    for size in (0.1, 0.7):
        for name, p in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.constant_(p, size)
        with writing.writing(model) as writer:
            layer = parts.plain(model).model.layers[1].mlp.down_proj
            a, b = (m["default"].weight.double() for m in (layer.lora_A, layer.lora_B))
            want = layer.weight.double() + 7 / 3 * b @ a
            got = writer.model.layers[1].mlp.down_proj.weight
            torch.testing.assert_close(got.double(), want, rtol=1e-6, atol=1e-6)
            # What no adapter changes is the student's own memory.
            assert writer.model.embed_tokens.weight is parts.plain(model).model.embed_tokens.weight


def test_in_bfloat16_a_weight_is_rounded_once():
    model = adapted(2, NARROW, width=28)
    with writing.writing(model) as writer:
        layer = parts.plain(model).model.layers[0].self_attn.q_proj
        a, b = (m["default"].weight.float() for m in (layer.lora_A, layer.lora_B))
        want = (layer.weight.float() + 7 / 3 * (b @ a)).bfloat16()
        assert torch.equal(writer.model.layers[0].self_attn.q_proj.weight, want)


def test_an_update_that_rounding_would_swallow_stays_in_place_and_is_told_once(caplog):
    small, large = adapted(4, NARROW, size=1e-4), adapted(4, NARROW, size=0.3)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            with writing.writing(small) as writer:
                assert writer is small and not small.training
            with writing.writing(large) as writer:
                assert writer is not large
    assert caplog.text.count("merged weights are rounded") == 1 and "bfloat16" in caplog.text


def test_a_model_that_only_writes_is_merged_or_opened_again_in_words():
    opened = []

    def opening(size):
        opened.append(adapted(5, NARROW, size=size).eval())
        return opened[-1]

    model, why = writing.opened_to_write(lambda: opening(0.3))
    assert not why and not any("lora" in name for name, _ in model.named_parameters())
    model, why = writing.opened_to_write(lambda: opening(1e-4))
    assert "rounded" in why and model is opened[-1] is not opened[-2]
    want = adapted(5, NARROW, size=1e-4)
    for (_, a), (_, b) in zip(model.named_parameters(), want.named_parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_plain_model_writes_itself():
    model = tiny.qwen(0).train()
    with writing.writing(model) as writer:
        assert writer is model and not model.training
    assert model.training
    assert writing.opened_to_write(lambda: model) == (model, "")
