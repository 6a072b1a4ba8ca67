"""What a plan refuses or says of texts and tokenizers that a model has no room for."""

import json

import pytest
from study_folder import plan_of, write_folder

from kdstudy.errors import InputError
from kdstudy.models import checkpoint, precision

TABLE = {"model_type": "gpt2", "n_positions": 200}
ROTARY = {"model_type": "llama", "max_position_embeddings": 200}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    # Measuring takes seconds a shape, and is not what these plans are about.
    monkeypatch.setattr(precision, "gain", lambda folder: None)
    return write_folder(tmp_path)


def configure(folder, **fields):
    (folder / "config.json").write_text(json.dumps(fields))


@pytest.mark.parametrize("kind", ["opt", "gpt2", "gpt_neo", "gptj", "codegen", "biogpt"])
def test_a_budget_that_fills_a_table_of_positions_is_refused(folder, kind):
    configure(folder / "medium", model_type=kind, max_position_embeddings=200)
    with pytest.raises(
        InputError, match=r"generation\.max_new_tokens: 256 .* 200 positions of med"
    ):
        plan_of(folder)
    with pytest.raises(InputError, match="200 leaves no room for a prompt"):
        plan_of(folder, generation={"max_new_tokens": 200})
    planned = plan_of(folder, generation={"max_new_tokens": 199}, methods=["sft", "word_kd"])
    (note,) = planned.notes
    assert "train.max_length: 256" in note and "medium" in note and "200" in note


def test_texts_have_a_budget_of_their_own(folder):
    configure(folder / "small", **TABLE)
    (folder / "items.jsonl").write_text('{"question": "a", "references": ["b"]}\n')
    own = [{"name": "own", "path": "items.jsonl", "kind": "text"}]
    with pytest.raises(InputError, match=r"text_generation\.max_new_tokens: 256"):
        plan_of(folder, benchmarks=own, methods=["sft", "word_kd"])
    with pytest.raises(InputError, match=r"^generation\.max_new_tokens: 256"):
        plan_of(folder, benchmarks=own, text_generation={"max_new_tokens": 8})  # seqkd's teacher


def test_what_a_student_samples_fills_max_length(folder):
    configure(folder / "small", **TABLE)
    short = {"generation": {"max_new_tokens": 8}}
    with pytest.raises(InputError, match=r"train\.max_length: 256 .* 200 positions of small") as e:
        plan_of(folder, **short)
    assert "gkd" in str(e.value.why)
    assert (
        plan_of(folder, methods=["gkd", "word_kd"], train={"max_length": 200}, **short).notes == ()
    )
    configure(folder / "small", model_type="qwen2")
    configure(folder / "big", **TABLE)
    assert plan_of(folder, **short).notes, "a teacher samples nothing"


def test_rotary_positions_are_said_and_not_refused(folder):
    configure(folder / "small", **ROTARY)
    planned = plan_of(folder)
    assert [note.split(":")[0] for note in planned.notes] == [
        "train.max_length", "generation.max_new_tokens",
    ]  # fmt: skip
    configure(folder / "small", **ROTARY, rope_scaling={"rope_type": "linear", "factor": 2.0})
    assert plan_of(folder).notes == (), "400 positions are enough for both"


@pytest.mark.parametrize(
    ("config", "most"),
    [
        (ROTARY, 200),
        (ROTARY | {"rope_scaling": {"type": "dynamic", "factor": 1.5}}, 300),
        # Llama 3.1: the configuration names what the scaling reaches, and more.
        ({"max_position_embeddings": 131072, "rope_parameters": {
            "rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192}},
         131072),
        # Qwen 2.5 with YaRN as its card says: 32,768 positions scaled by 4.
        ({"max_position_embeddings": 32768, "rope_scaling": {
            "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}}, 131072),
        # Phi 3: long and short factors by dimension, and the reach by name.
        ({"max_position_embeddings": 131072, "original_max_position_embeddings": 4096,
          "rope_scaling": {"type": "longrope", "long_factor": [1.0], "short_factor": [1.0]}},
         131072),
        # Gemma 3: one rule for each kind of layer.
        ({"max_position_embeddings": 1000, "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}}, 8000),
        ({"text_config": ROTARY, "max_position_embeddings": 7}, 200),
        ({"model_type": "falcon", "alibi": True, "max_position_embeddings": 200}, None),
        ({"model_type": "bloom"}, None),
    ],
)  # fmt: skip
def test_the_room_that_a_configuration_names(config, most):
    found = checkpoint.room(config)
    assert (found.most, found.fixed) == (most, False)


@pytest.mark.parametrize("methods", [["sft"], ["sft", "seqkd"]])
def test_a_tokenizer_larger_than_the_embedding_is_refused_for_every_method(folder, methods):
    for name in ("big", "small", "medium"):
        configure(folder / name, model_type="qwen2", vocab_size=3)
    given = {"methods": methods, "ablations": {}, "teachers": ["./big"]}
    plan_of(folder, **given)
    tokenizer = json.loads((folder / "small" / "tokenizer.json").read_text())
    tokenizer["added_tokens"] = [{"content": "<new>", "id": 3}]
    (folder / "small" / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(
        InputError, match=r"small: its tokenizer has 4 tokens, the model emb.* for 3"
    ):
        plan_of(folder, **given)
