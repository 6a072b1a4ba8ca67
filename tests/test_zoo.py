"""The shipped models: they load anywhere, are what their cards say, and size matters."""

import hashlib
import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from kdstudy.data.synthetic import BENCHMARKS, benchmark_rows
from kdstudy.models import zoo
from kdstudy.models.zoo import make
from kdstudy.models.zoo.documents import PROMPT, documents

NAMES = ["zoo-xs", "zoo-s", "zoo-m", "zoo-l"]
NASTY = [
    "plain words",
    "  leading,  double and trailing blanks  ",
    "tabs\t, returns\r\n and \n\n\nlines\u2028\u00a0",
    "naïve Ångström ½ ‘quotes’ — … €5",
    "日本語 العربية עברית हिन्दी 한국어",
    "👩‍👩‍👧‍👦 🏳️‍🌈 \u200d\ufeff",
    "\x00\x01\x7f control",
    "12345 3.14159 -7 ٣٤ 1,000",
    "Ġ Ċ <|not special|> \\n",
]


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(zoo.path("zoo-s"))


@pytest.fixture(scope="module")
def models():
    return {
        name: AutoModelForCausalLM.from_pretrained(zoo.path(name), dtype=torch.float32).eval()
        for name in NAMES
    }


def test_names_are_sorted_by_size_and_unknown_names_are_refused():
    assert zoo.names() == NAMES
    sizes = [zoo.card(name)["parameters"] for name in zoo.names()]
    assert sizes == sorted(sizes)
    for wrong in ("zoo-xxl", "..", "", "zoo-s/../zoo-m"):
        with pytest.raises(KeyError, match="zoo-xs, zoo-s, zoo-m, zoo-l"):
            zoo.path(wrong)


def test_folders_are_small_and_hold_no_pickle():
    files = [file for name in NAMES for file in zoo.path(name).rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 12e6
    assert {file.suffix for file in files} == {".json", ".safetensors", ".md"}
    assert all(file.stat().st_mode & 0o044 == 0o044 for file in files), "readable by everyone"


@pytest.mark.parametrize("name", NAMES)
def test_models_load_in_plain_transformers_and_match_their_cards(name, models):
    card, model = zoo.card(name), models[name]
    assert sum(p.numel() for p in model.parameters()) == card["parameters"]
    assert model.config.model_type == "qwen2"
    assert model.config.tie_word_embeddings
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.config.vocab_size == card["vocabulary"]
    assert card["name"] == name
    assert set(card["accuracy"]) == set(BENCHMARKS), "training is over and was measured"
    with safe_open(zoo.path(name) / "model.safetensors", framework="pt") as stored:
        dtypes = {stored.get_slice(key).get_dtype() for key in stored.keys()}  # noqa: SIM118
    assert dtypes == {"F16"}
    readme = (zoo.path(name) / "README.md").read_text(encoding="utf-8")
    assert f"{card['parameters']:,} parameters" in readme
    assert f"{card['held_out_loss']:.4f}" in readme


def test_all_models_share_one_tokenizer(tokenizer):
    files = [(zoo.path(name) / "tokenizer.json").read_bytes() for name in NAMES]
    assert len({hashlib.sha256(file).hexdigest() for file in files}) == 1
    assert len(tokenizer) == 2048
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|endoftext|>", "<|pad|>")
    assert tokenizer.bos_token is None
    for name in NAMES:
        config = json.loads((zoo.path(name) / "config.json").read_text(encoding="utf-8"))
        assert config["eos_token_id"] == tokenizer.eos_token_id
        assert config["pad_token_id"] == tokenizer.pad_token_id


@pytest.mark.parametrize("text", NASTY)
def test_the_tokenizer_gives_any_text_back(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert tokenizer.eos_token_id not in ids
    assert tokenizer.pad_token_id not in ids


def test_only_the_normal_form_of_text_can_change(tokenizer):
    """Every Qwen2 tokenizer composes accents; nothing else may be lost."""
    assert tokenizer.decode(tokenizer("cafe\u0301 \u212b")["input_ids"]) == "caf\u00e9 \u00c5"


def test_digits_stand_alone_and_nothing_is_added(tokenizer):
    ids = tokenizer("Tom has 1250 pens.")["input_ids"]
    assert [tokenizer.decode([i]) for i in ids if tokenizer.decode([i]).isdigit()] == list("1250")
    assert tokenizer("")["input_ids"] == []
    assert tokenizer("a<|endoftext|>")["input_ids"][-1] == tokenizer.eos_token_id
    assert len(tokenizer(PROMPT.format(instruction=""))["input_ids"]) <= 32


@torch.no_grad()
def test_held_out_loss_falls_with_size(tokenizer, models):
    tokens = make.token_stream(tokenizer, documents(77, "test"), 6000)[:6000]
    losses = [make.held_out_loss(models[name], tokens, given_weight=0.0) for name in NAMES]
    assert losses[0] > losses[1] > losses[2] > losses[3]


def test_the_largest_model_solves_what_the_smallest_cannot(tokenizer, models):
    rows = benchmark_rows("synth_addsub", 60, seed=77)
    right = {name: make.accuracy(models[name], tokenizer, rows, 64) for name in ("zoo-xs", "zoo-l")}
    assert right["zoo-l"] > right["zoo-xs"] + 0.3


def test_generation_stops_by_itself(tokenizer, models):
    question = "Tom has 12 apples. He gave 5 of them to Ann. How many apples does Tom have left?"
    inputs = tokenizer(PROMPT.format(instruction=question), return_tensors="pt")
    output = models["zoo-l"].generate(**inputs, max_new_tokens=80)[0]
    assert output[-1] == tokenizer.eos_token_id
    assert make.last_number(tokenizer.decode(output, skip_special_tokens=True)) == 7


def test_token_stream_marks_worked_text(tokenizer):
    pieces = [["Q: 1 + 1? A:", " 1 + 1 = 2."], ["", "3 + 4 = 7"]]
    stream = make.token_stream(tokenizer, iter(pieces), 10)
    ids, worked = stream & (make.WORKED - 1), stream >= make.WORKED
    assert tokenizer.decode(ids) == "Q: 1 + 1? A: 1 + 1 = 2.<|endoftext|>3 + 4 = 7<|endoftext|>"
    assert tokenizer.decode(ids[~worked]) == "Q: 1 + 1? A:"


def test_given_text_can_be_left_out_of_the_loss(tokenizer, models):
    batch = torch.tensor([tokenizer("one two three four five")["input_ids"]])
    model = models["zoo-xs"]
    whole = make.next_token_loss(model, batch + make.WORKED, 0.0)
    assert torch.isclose(make.next_token_loss(model, batch, 1.0), whole)
    partly = batch.clone()
    partly[:, -1] += make.WORKED
    last = -model(batch).logits[0, -2].log_softmax(-1)[batch[0, -1]]
    assert torch.isclose(make.next_token_loss(model, partly, 0.0), last, atol=1e-5)


def test_every_pass_reads_every_window_once():
    recipe = make.Recipe(8, 1, 1, 1, 8, 1e-3, 1, windows=2, window=3)
    stream = np.arange(40, dtype=np.uint16)
    source = make.batches(stream, recipe, seed=0)
    seen = torch.cat([next(source) for _ in range(5)])
    assert sorted(seen.flatten().tolist()) == list(range(40))
    assert all((row.diff() == 1).all() for row in seen)


def test_the_rate_warms_up_and_ends_at_zero():
    rates = [make.rate_at(progress / 1000) for progress in range(1001)]
    assert rates[0] == 0
    assert rates[-1] == 0
    assert max(rates) == pytest.approx(1.0)
    assert rates[30:] == sorted(rates[30:], reverse=True)


def test_a_grown_model_computes_what_its_base_did(tokenizer):
    base = make.new_model(make.Recipe(16, 2, 2, 1, 32, 1e-3, 1), tokenizer, seed=0)
    grown = make.new_model(make.Recipe(16, 4, 2, 1, 32, 1e-3, 1), tokenizer, seed=1)
    make.grow(grown, base)
    ids = torch.arange(40)[None]
    assert torch.allclose(base(ids).logits, grown(ids).logits, atol=1e-6)
    uneven = make.new_model(make.Recipe(16, 3, 2, 1, 32, 1e-3, 1), tokenizer, seed=1)
    with pytest.raises(ValueError, match="multiple"):
        make.grow(uneven, base)


def test_a_short_training_learns_and_saves(tokenizer, tmp_path):
    recipe = make.Recipe(16, 1, 2, 1, 32, 1e-2, 1.5 / 60, windows=4, window=64)
    stream = make.token_stream(tokenizer, documents(0), 5000)[:5000]
    model = make.new_model(recipe, tokenizer, seed=0)
    before = make.held_out_loss(model, stream, 1.0)
    saved = []
    counts = make.train(model, stream, recipe, 0, saved.append, checkpoint_minutes=0.5 / 60)
    assert make.held_out_loss(model, stream, 1.0) < before
    assert counts["tokens"] == counts["steps"] * 256 > 0
    assert saved, "a checkpoint was taken on the way"
    facts = {**zoo.card("zoo-s"), "accuracy": None}
    make.save(model, tokenizer, tmp_path / "m", facts)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    assert again.dtype == torch.float16
    assert "unfinished checkpoint" in (tmp_path / "m" / "README.md").read_text(encoding="utf-8")
