"""A folder's tokenizer gives the ids of its tokenizer.json, whatever class the folder names.

The right ids are those of the tokenizers library's own reader of that file.
"""

import json
import logging

import pytest
import tiny_models as tiny
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers.models import BPE, Unigram
from transformers import AutoTokenizer, GPT2Tokenizer, LlamaTokenizer

from kdstudy.config import schema
from kdstudy.errors import InputError
from kdstudy.models import load

TEXTS = [
    "I'll pay 12345 in 1999, WE'RE told\n\n  by 日本語 and 😀",
    " a1b22c333\t\r\n x  ",
    "<bos>turn\n<eos> e\u0301",
]
RULES = {
    "three digits": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "whole lines": r"[^\n]+|\n+",
    "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
}


def byte_level(rule: str, bos: bool = True) -> Tokenizer:
    """A byte-level BPE with merges that show where its rule splits."""
    made = Tokenizer(BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(RULES[rule]), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<bos>", "<eos>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    made.train_from_iterator(
        ["I'll go 12345 times in 1999, we're told\n\n  by a1b22c333"] * 9, trainer
    )
    if bos:
        made.post_processor = processors.TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", 0)]
        )
    return made


def folder(path, tokenizer: Tokenizer, kind: str = "", named: str = "", **settings):
    """A model folder as somebody else may have saved it."""
    tokenizer.save(str(path / "tokenizer.json"))
    config = {"bos_token": "<bos>", "eos_token": "<eos>"} | settings
    config |= {"tokenizer_class": named} if named else {}
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    if kind:
        (path / "config.json").write_text(json.dumps({"model_type": kind}))
    return path


def assert_as_filed(tokenizer, path) -> None:
    want = Tokenizer.from_file(str(path / "tokenizer.json"))
    for text in TEXTS:
        for special in (True, False):
            ids = tokenizer(text, add_special_tokens=special)["input_ids"]
            assert ids == want.encode(text, add_special_tokens=special).ids
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == want.decode(
            ids, skip_special_tokens=False
        )


@pytest.mark.parametrize("rule", ["three digits", "whole lines"])
@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("llama", "GPT2Tokenizer"), ("gpt2", ""), ("gpt_neox", "GPTNeoXTokenizerFast"),
        ("gemma2", "GemmaTokenizer"), ("qwen2", "LlamaTokenizerFast"), ("", "Qwen2Tokenizer"),
        ("opt", "CodeGenTokenizer"), ("bloom", "CohereTokenizerFast"),
        ("qwen2", "TokenizersBackend"),
        ("llama", "LlamaTokenizer"), ("mistral", "LlamaTokenizer"), ("cohere", ""),
    ],
)  # fmt: skip
def test_the_ids_are_the_files_whatever_class_is_named(tmp_path, kind, named, rule):
    folder(tmp_path, byte_level(rule), kind, named)
    assert_as_filed(load.load_tokenizer(tmp_path), tmp_path)


def test_sentencepiece_rules_of_the_file_are_followed_too(tmp_path):
    pieces = [("<unk>", 0.0), ("<bos>", 0.0), ("<eos>", 0.0), ("▁", -2.0)]
    pieces += [(c, -4.0) for c in "abcdefghijklmnopqrstuvwxyz0123456789"] + [("12", -3.0)]
    made = Tokenizer(Unigram(pieces, unk_id=0))
    made.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    made.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.Metaspace(),
    ])  # fmt: skip
    made.decoder = decoders.Metaspace()
    made.add_special_tokens(["<bos>", "<eos>"])
    folder(tmp_path, made, "", "T5Tokenizer", unk_token="<unk>", pad_token="<eos>")
    assert_as_filed(load.load_tokenizer(tmp_path), tmp_path)


def test_a_class_that_agrees_with_its_file_is_kept(tmp_path):
    made = byte_level("gpt2", bos=False)
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    for named, kind in (("GPT2Tokenizer", GPT2Tokenizer),):
        found = load.load_tokenizer(folder(tmp_path, made, "gpt2", named))
        assert type(found) is kind and not load.replaced_class(found)
        assert_as_filed(found, tmp_path)


def test_a_setting_beside_the_file_is_no_contradiction(tmp_path):
    made = byte_level("gpt2", bos=False)
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    folder(tmp_path, made, "gpt2", "GPT2Tokenizer", add_prefix_space=True)
    found = load.load_tokenizer(tmp_path)
    assert type(found) is GPT2Tokenizer
    assert found("go")["input_ids"] == made.encode(" go").ids
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    folder(tmp_path, made, "gpt2", "GPT2Tokenizer", add_prefix_space=True)
    found = load.load_tokenizer(tmp_path)
    assert load.replaced_class(found) == "GPT2Tokenizer"
    want = made.encode(" go, I'll").ids
    assert found("go, I'll")["input_ids"] == want, "the file's rules, the folder's setting"


def test_special_tokens_template_and_settings_stay(tmp_path):
    folder(
        tmp_path, byte_level("three digits"), "llama", "GPT2Tokenizer",
        chat_template="{{ messages[0]['content'] }}", model_max_length=77, pad_token="<bos>",
        additional_special_tokens=["<end of turn>"],
    )  # fmt: skip
    found, theirs = load.load_tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert load.replaced_class(found) == type(theirs).__name__ == "GPT2Tokenizer"
    added = theirs.special_tokens_map.pop("unk_token")
    assert added not in byte_level("three digits").get_vocab(), "the class's own default"
    names = ("bos_token", "eos_token", "pad_token_id", "chat_template", "model_max_length")
    for name in (*names, "extra_special_tokens"):
        assert getattr(found, name) == getattr(theirs, name), name
    assert len(found("<end of turn>", add_special_tokens=False)["input_ids"]) == 1


def test_what_is_the_classs_own_default_stays_where_the_file_has_it(tmp_path):
    made = byte_level("three digits", bos=False)
    made.add_special_tokens(["<|endoftext|>"])
    folder(tmp_path, made, "gpt2", "GPT2Tokenizer")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    found = load.load_tokenizer(tmp_path)
    assert load.replaced_class(found) and found.eos_token == "<|endoftext|>"
    assert len(found) == made.get_vocab_size(), "no token is new"
    byte_level("three digits", bos=False).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(InputError, match="no end-of-sequence token"):
        load.load_tokenizer(tmp_path)


def test_it_is_said_once(tmp_path, caplog):
    folder(tmp_path, byte_level("three digits"), "llama", "GPT2Tokenizer")
    for _ in range(2):
        load.load_tokenizer(tmp_path)
    (said,) = caplog.messages
    assert "GPT2Tokenizer" in said and "tokenizer.json" in said


def test_another_file_of_the_same_name_is_read_anew(tmp_path):
    for rule in ("three digits", "whole lines", "three digits"):
        folder(tmp_path, byte_level(rule), "llama", "GPT2Tokenizer")
        assert_as_filed(load.load_tokenizer(tmp_path), tmp_path)


def test_a_broken_file_is_refused(tmp_path):
    folder(tmp_path, byte_level("gpt2"), "llama", "PreTrainedTokenizerFast")
    (tmp_path / "tokenizer.json").write_text('{"model": {}}')
    with pytest.raises(InputError, match="its tokenizer cannot be loaded"):
        load.load_tokenizer(tmp_path)


@pytest.mark.parametrize("whole", [True, False])
def test_a_saved_folder_reads_alike_or_a_warning_says_otherwise(tmp_path, caplog, whole):
    caplog.set_level(logging.WARNING)
    for build in (tiny.qwen, tiny.llama):
        caplog.clear()
        home, out = tmp_path / build.__name__, tmp_path / f"{build.__name__}-out"
        home.mkdir()
        folder(home, byte_level("three digits"), "", "GPT2Tokenizer")
        model, tokenizer = build(0, vocabulary=400), load.load_tokenizer(home)
        if not whole:
            lora = schema.Lora(target_modules=["q_proj"])
            model = load.add_adapter(model, lora, 0)
        load.save(model, out, tokenizer, base="org/base")
        again = AutoTokenizer.from_pretrained(out)
        alike = all(again(text)["input_ids"] == tokenizer(text)["input_ids"] for text in TEXTS)
        said = any("AutoTokenizer" in message for message in caplog.messages)
        assert said is not alike
        assert said is bool(load.read_otherwise(tokenizer, out))
        assert alike or (whole and build is tiny.qwen), "transformers reads qwen2 its own way"
        ours = load.load_tokenizer(out)
        assert [ours(text)["input_ids"] for text in TEXTS] == [
            tokenizer(text)["input_ids"] for text in TEXTS
        ]


def test_published_llama_classes_agree_with_files_of_their_rules(tmp_path):
    vocabulary = {t: i for i, t in enumerate(["<unk>", "<bos>", "<eos>", "▁", *"abc123", "▁a"])}
    made = LlamaTokenizer(
        vocab=vocabulary, merges=[("▁", "a")], bos_token="<bos>", eos_token="<eos>"
    )
    made.save_pretrained(tmp_path)
    found = load.load_tokenizer(tmp_path)
    assert type(found) is LlamaTokenizer and not load.replaced_class(found)
