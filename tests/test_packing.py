"""Rows together without padding: as each by itself, in float64, under attention by hand.

What is right is what one row at a time gives under two products, a softmax and a mask written here
(transformers' own `eager` takes its softmax in float32).
"""

import copy

import architectures
import pytest
import tiny_models as tiny
import torch
from transformers import AttentionInterface

from kdstudy import methods
from kdstudy.config import schema
from kdstudy.data.prompts import Encoded
from kdstudy.distill import batches
from kdstudy.distill.model import DistillModel
from kdstudy.distill.teacher import LiveTeacher
from kdstudy.models import load, packing, parts

CASES = {
    "unlike": (7, 1, 30, 2, 2, 17),
    "one token": (1,),
    "one row": (12,),
    "alike": (5, 5, 5),
    "single tokens": (1, 1, 1),
}
METHODS = [
    methods.Sft(),
    methods.WordKD(temperature=2.0, hard_label_weight=0.3),
    methods.RevKD(),
    methods.GKD(beta=0.3),
    methods.SkewKL(),
]
ROWS = [
    Encoded(row.ids[:n], min(2, n - 1))
    for row, n in zip(tiny.rows(6), (12, 2, 20, 7, 7, 3), strict=True)
]


def by_hand(module, query, key, value, attention_mask, scaling=None, **settings):
    groups, length = query.shape[1] // key.shape[1], query.shape[2]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = torch.einsum("bhqd,bhkd->bhqk", query, key) * scaling
    ahead = torch.arange(length)[:, None] < torch.arange(length)
    weights = scores.masked_fill(ahead, -torch.inf).softmax(-1)
    return torch.einsum("bhqk,bhkd->bqhd", weights, value), None


AttentionInterface.register("by_hand", by_hand)


def attending_by_hand(model):
    other = copy.deepcopy(model)
    parts.plain(other).set_attn_implementation("by_hand")
    return other


def drawn(vocabulary: int, lengths) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(vocabulary, (sum(lengths),), generator=generator)


def apart(model, ids, lengths) -> torch.Tensor:
    body = parts.body(parts.plain(model))
    each = [body(input_ids=row[None], use_cache=False) for row in ids.split(lengths)]
    return torch.cat([out.last_hidden_state[0] for out in each])


@pytest.mark.parametrize("lengths", CASES.values(), ids=CASES)
@pytest.mark.parametrize("side_by_side", [False, True])
@pytest.mark.parametrize("build", [tiny.qwen, tiny.llama])
def test_logits_are_those_of_each_row_by_itself(monkeypatch, build, side_by_side, lengths):
    if side_by_side:  # as on a GPU
        monkeypatch.setattr(packing, "_row_by_row", packing._side_by_side)
    model = build(0).double()
    ids = drawn(tiny.VOCABULARY, lengths)
    want = parts.head(model).logits(apart(attending_by_hand(model), ids, lengths))
    assert packing.enable(model) and packing.enable(model)  # the second time it is known
    places = torch.arange(len(ids)).flip(0)
    got = parts.head(model).logits(packing.scored_hidden(model, ids, lengths, places))
    torch.testing.assert_close(got, want.flip(0), rtol=0, atol=1e-10)


def test_a_padded_model_gives_the_same():
    model, lengths = tiny.qwen(0).double(), CASES["unlike"]
    ids = drawn(tiny.VOCABULARY, lengths)
    want = apart(attending_by_hand(model), ids, lengths)
    got = packing.scored_hidden(model, ids, lengths, torch.arange(len(ids)))
    torch.testing.assert_close(got, want, rtol=0, atol=1e-10)
    assert not packing.enabled(model) and packing.positions(model, lengths) == 6 * 30


def gradients(module: DistillModel, cut: list[list[Encoded]]) -> dict[str, torch.Tensor]:
    """Return the loss and what it does to every trained weight, over micro-batches."""
    module.zero_grad()
    total = torch.zeros((), dtype=torch.float64)
    for rows in cut:
        batch = batches.collate(rows, batches.Weighing(), torch.device("cpu"))
        (loss,) = module(batch, num_items_in_batch=37)
        loss.backward()
        total += loss.detach()
    trained = {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}
    return {"the loss": total, **trained}


@pytest.mark.parametrize(
    "checkpointing", [None, False, True], ids=["kept", "recomputed", "reentrant"]
)
@pytest.mark.parametrize("lora", [False, True], ids=["all weights", "lora"])
@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.type)
def test_gradients_of_every_method_are_those_of_rows_apart(method, lora, checkpointing):
    student, teacher = tiny.qwen(0).double(), tiny.qwen(1, width=24).double()
    if lora:
        student = load.add_adapter(student, schema.Lora(dropout=0.0), seed=1)
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(0)
            for name, p in student.named_parameters():
                if "lora_" in name:
                    p.data = torch.randn_like(p, dtype=torch.float64) / 4

    def module(model) -> DistillModel:
        built = method.recipe()
        live = LiveTeacher(copy.deepcopy(teacher), tiny.VOCABULARY) if built.needs_teacher else None
        made = DistillModel(model, built, live)
        if checkpointing is not None:
            settings = {"use_reentrant": checkpointing}
            made.gradient_checkpointing_enable(gradient_checkpointing_kwargs=settings)
        return made.train()

    other = module(copy.deepcopy(student))
    models = [other.student, *([other.teacher.model] if other.teacher else [])]
    for model in models:
        parts.plain(model).set_attn_implementation("by_hand")
    want = gradients(other, [[row] for row in ROWS])
    packed = module(student)
    assert packing.enabled(packed.student)
    got = gradients(packed, [ROWS])
    assert got.keys() == want.keys() and len(want) > 10
    for name, value in want.items():
        torch.testing.assert_close(got[name], value, rtol=1e-9, atol=1e-11, msg=name)


WINDOW = {"sliding_window": 6}
PACKED = {
    **{"gpt2": {}, "opt": {}, "phi": {}, "cohere": {"logit_scale": 0.25}, "olmo2": {}, "qwen3": {}},
    **{"gpt_neox": {}, "granite": {}, "phi3": {"sliding_window": None}, "deepseek_v3": {}},
    "mixtral": {"sliding_window": None},
}
# Windows, caps, sinks, slopes by column, recurrences, a choice of keys.
PADDED = {
    **{
        "mixtral": WINDOW,
        "phi3": WINDOW,
        "starcoder2": WINDOW,
        "gemma2": WINDOW,
        "mistral": WINDOW,
    },
    **{"gpt_oss": WINDOW, "bloom": {}, "gpt_neo": {}, "mamba": {}, "falcon_h1": {}, "jamba": {}},
    **{"qwen3_next": {}, "recurrent_gemma": {"num_hidden_layers": 3}, "llama4_text": {}},
    "minimax_m3_vl_text": {},
}


@pytest.mark.parametrize("kind", PACKED)
def test_a_family_that_packs_does_so_beyond_the_trials_lengths(kind):
    model = architectures.build(kind, **PACKED[kind])
    lengths = (3, 90, 1, 51, 90)
    ids = drawn(61, lengths)
    with torch.no_grad():
        want = apart(model, ids, lengths)
        assert packing.enable(model)
        got = packing.scored_hidden(model, ids, lengths, torch.arange(len(ids)))
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", PADDED)
def test_a_family_whose_tokens_mix_otherwise_is_padded(kind):
    model = architectures.build(kind, **PADDED[kind])
    before = model.config._attn_implementation
    assert not packing.enable(model)
    assert model.config._attn_implementation == before != packing.ATTENTION


def test_a_model_that_mixes_tokens_in_secret_is_padded():
    model = tiny.qwen(0)
    layer = model.model.layers[1].mlp
    forward = layer.forward
    layer.forward = lambda x: forward(x) + 0.1 * torch.nn.functional.pad(x, (0, 0, 1, 0))[:, :-1]
    parts.require_known_head(model)  # it is causal, and its head its own
    assert not packing.enable(model) and model.config._attn_implementation == "sdpa"


def test_a_model_that_ignores_positions_is_padded():
    model = architectures.build("gpt2")
    forward = model.transformer.forward
    model.transformer.forward = lambda *a, position_ids=None, **k: forward(*a, **k)
    assert not packing.enable(model)


def test_attention_that_knows_of_no_rows_fails_on_them():
    model = tiny.qwen(0)
    packing.enable(model)
    parts.plain(model).set_attn_implementation("sdpa")
    with pytest.raises(RuntimeError):
        packing.packed_hidden(model, torch.arange(9), (4, 5))


def test_enabling_leaves_the_mode_the_random_state_and_what_is_saved(tmp_path):
    model, plain = tiny.qwen(0).train(), tiny.qwen(0)
    before = torch.get_rng_state()
    assert packing.enable(model) and model.training
    assert torch.equal(torch.get_rng_state(), before)
    tiny.save(tmp_path, model)
    assert packing.ATTENTION not in (tmp_path / "config.json").read_text()
    model.eval()
    ids = torch.tensor([[0, 0, 5, 6, 7], [9, 8, 7, 6, 5]])
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    asked = {"attention_mask": mask, "do_sample": False, "max_new_tokens": 6, "pad_token_id": 2}
    assert torch.equal(model.generate(ids, **asked), plain.generate(ids, **asked))
