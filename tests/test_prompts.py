"""One template, one way to ids, for training and for evaluation."""

import json
import os
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from kdstudy.data.prompts import ALPACA, REFERENCE, encode, encode_prompt, render
from kdstudy.errors import InputError

DATA = Path(os.environ.get("KDSTUDY_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="module")
def tokenizer():
    """Bytes as tokens, and an end-of-sequence token."""
    vocab = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    raw = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|eos|>")


def test_the_prompt_has_the_same_ids_in_training_and_evaluation(tokenizer):
    for response in ("7", " 7", "\n7", "The answer is 7."):
        row = encode(tokenizer, "alpaca", "3 + 4?", response, 256)
        assert row.ids[: row.prompt_length] == encode_prompt(tokenizer, "alpaca", "3 + 4?")


def test_the_response_is_the_text_and_one_end_token(tokenizer):
    row = encode(tokenizer, "alpaca", "3 + 4?", "It is 7.", 256)
    assert tokenizer.decode(row.ids[row.prompt_length : -1]) == "It is 7."
    assert row.ids[-1] == tokenizer.eos_token_id
    assert not row.truncated


def test_a_row_that_is_too_long_is_cut_and_says_so(tokenizer):
    whole = encode(tokenizer, "{instruction}", "ab", "cdefg", 8)
    assert (len(whole.ids), whole.truncated) == (8, False)
    cut = encode(tokenizer, "{instruction}", "ab", "cdefgh", 8)
    assert (len(cut.ids), cut.truncated) == (8, True)
    assert tokenizer.eos_token_id not in cut.ids


def test_a_prompt_that_leaves_no_room_is_no_row(tokenizer):
    assert encode(tokenizer, "{instruction}", "abcdefgh", "x", 8) is None


def test_braces_in_a_question_are_text():
    assert render("Q: {instruction}\n", "What is {x} in {instruction}?") == (
        "Q: What is {x} in {instruction}?\n"
    )


def test_the_templates_as_the_study_states_them():
    assert ALPACA.endswith("### Instruction:\n{instruction}\n\n### Response:\n")
    # The released code's evaluation prompt: 16-space indents, and 16 blanks at the very end.
    assert REFERENCE.endswith("### Response:\n" + " " * 16)


def test_chat_without_a_chat_template_is_refused(tokenizer):
    with pytest.raises(InputError, match="no chat template"):
        encode_prompt(tokenizer, "chat", "hi")


def test_chat_uses_the_tokenizers_own_template(tokenizer):
    tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}:"
    try:
        ids = encode_prompt(tokenizer, "chat", "hi")
    finally:
        tokenizer.chat_template = None
    assert tokenizer.decode(ids) == "<user>hi:"


@pytest.mark.parametrize(
    ("folder", "other"), [("dolly", 0), ("self-inst", 0), ("vicuna", 0), ("sinst_11_", 104)]
)
def test_alpaca_is_minillms_prompt(folder, other):
    # The files carry the prompts that MiniLLM uses; 104 of S-NI's rows have white space at an end.
    path = DATA / "instruct" / folder / "test.jsonl"
    if not path.is_file():
        pytest.skip(f"{path} is not here: set KDSTUDY_DATA")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    made = [
        render("alpaca", r["instruction"].strip(), context=r.get("input", "").strip()) for r in rows
    ]
    differ = [(m, r["prompt"]) for m, r in zip(made, rows, strict=True) if m != r["prompt"]]
    assert len(differ) == other
    assert all("".join(m.split()) == "".join(p.split()) for m, p in differ)
