"""The stage `generate`: wrong adapters are errors, and vLLM is asked for what transformers is."""

import dataclasses
import json
import shutil
import sys
import types
from pathlib import Path

import pytest
import tiny_models as tiny
import torch
from safetensors.torch import load_file, save_file

from kdstudy.config import schema
from kdstudy.data.chat import DATE
from kdstudy.data.prompts import encode_prompt
from kdstudy.errors import InputError, StageError
from kdstudy.evaluation import benchmarks, stages, vllm
from kdstudy.models import load
from kdstudy.models.sample import seed_of
from kdstudy.records import Example, Generation, read_records, write_records
from kdstudy.stage import Work

EXAMPLES = [Example(id=f"i{i}", instruction="what is " + "x" * i + "?") for i in range(5)]
GENERATION = {"max_new_tokens": 6, "temperature": 0.0, "top_p": 1.0, "samples": 1, "seed": 3}


def adapted(seed=0, *, build=tiny.qwen, width=16, rank=2):
    """A model with an adapter that does something."""
    model = load.add_adapter(build(1, width=width), schema.Lora(r=rank), seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=generator)
    return model


@pytest.fixture
def work(tmp_path):
    (tmp_path / "items").mkdir()
    (tmp_path / "out").mkdir()
    write_records(tmp_path / "items" / "examples.parquet", EXAMPLES, Example)
    load.save(adapted(), tmp_path / "trained" / "adapter", tiny.tokenizer())
    folder = tiny.save(tmp_path / "base", tiny.qwen(1))
    local = {"folder": str(folder), "adapter": "", "hub_id": "", "trust_remote_code": False}
    config = {
        "model": {"name": "m", "fingerprint": "1"},
        "items": "toy",
        "generation": GENERATION,
        "template": tiny.TEMPLATE,
        "template_date": DATE,
        "precision": "float32",
    }
    return Work(
        config=config,
        inputs={"items": tmp_path / "items", "trained": tmp_path / "trained"},
        local={"models": {"model": local}, "batch_size": None},
        out=tmp_path / "out",
    )


def generate(work) -> None:
    """Run the stage as if under a new key: there is nothing to resume from."""
    shutil.rmtree(work.scratch)
    stages.generate(work)


def completions(work) -> list[str]:
    generate(work)
    rows = read_records(work.out / "generations.parquet", Generation)
    assert [row.example_id for row in rows] == [e.id for e in EXAMPLES]
    return [row.completion for row in rows]


def test_answers_are_those_of_the_trained_adapter(work, tmp_path):
    with_adapter = completions(work)
    del work.inputs["trained"]
    without = completions(work)
    assert with_adapter != without
    tiny.save(tmp_path / "merged" / "model", load.merge(adapted()))
    work.inputs["trained"] = tmp_path / "merged"
    assert completions(work) == with_adapter
    base = sum(p.numel() for p in tiny.qwen(1).parameters())
    assert json.loads((work.out / "model.json").read_text()) == {
        "parameters": base,
        "decoding": "shared",
    }


def replace_adapter(work, model):
    load.save(model, work.inputs["trained"] / "adapter", tiny.tokenizer())


def change_weights(work, change):
    path = work.inputs["trained"] / "adapter" / "adapter_model.safetensors"
    save_file(change(load_file(path)), path)


WRONG = {
    "another base's shapes": lambda w: replace_adapter(w, adapted(width=32)),
    "renamed keys": lambda w: change_weights(
        w, lambda t: {k.replace("layers.1", "layers.7"): v for k, v in t.items()}
    ),
    "a prefix in front": lambda w: change_weights(
        w, lambda t: {f"module.{k}": v for k, v in t.items()}
    ),
    "another rank than its config says": lambda w: change_weights(
        w, lambda t: load_other_rank(w.out.parent / "other")
    ),
    "half of it missing": lambda w: change_weights(
        w, lambda t: {k: v for k, v in t.items() if "lora_A" in k}
    ),
    "no weights": lambda w: change_weights(w, lambda t: {}),
}


def load_other_rank(folder):
    load.save(adapted(rank=4), folder, tiny.tokenizer())
    return load_file(folder / "adapter_model.safetensors")


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_adapter_is_an_error_before_anything_is_written(work, wrong):
    WRONG[wrong](work)
    with pytest.raises(InputError, match=r"did not load|does not fit"):
        generate(work)
    assert list(work.out.iterdir()) == []


def test_an_adapter_that_changes_nothing_is_what_was_trained(work):
    """Training may leave one: the answers are then rightly those of the base model."""
    change_weights(work, lambda t: {k: torch.zeros_like(v) for k, v in t.items()})
    zero = completions(work)
    del work.inputs["trained"]
    assert zero == completions(work)


class StandIn:
    """What `generate` uses of vLLM: records what it is asked, answers from a script."""

    def __init__(self, answers):
        self.llms, self.calls, self.answers = [], [], answers
        self.package = types.ModuleType("vllm")
        self.package.LLM = self._llm
        self.package.SamplingParams = lambda **fields: types.SimpleNamespace(**fields)
        request = types.ModuleType("vllm.lora.request")
        request.LoRARequest = lambda *given: given
        self.modules = {"vllm": self.package, "vllm.lora.request": request}

    def _llm(self, **fields):
        self.llms.append(fields)
        return types.SimpleNamespace(generate=self._generate)

    def _generate(self, prompts, parameters, *, use_tqdm, lora_request):
        self.calls.append((prompts, parameters, lora_request))
        done = [types.SimpleNamespace(**self.answers(p["prompt_token_ids"])) for p in prompts]
        return [types.SimpleNamespace(outputs=[output]) for output in done]


def ended(ids, reason="stop"):
    return {"token_ids": ids, "finish_reason": reason, "stop_reason": None}


@pytest.fixture
def install(monkeypatch):
    def put(answers=lambda prompt: ended([40, 41, tiny.EOS])):
        stand_in = StandIn(answers)
        for name, found in stand_in.modules.items():
            monkeypatch.setitem(sys.modules, name, found)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        return stand_in

    return put


def by_vllm(work, **more):
    generation = GENERATION | {"engine": "vllm"} | more
    return dataclasses.replace(work, config={**work.config, "generation": generation})


def test_vllm_is_given_the_training_prompts_as_ids_and_the_same_limits(work, install):
    stand_in = install()
    assert completions(by_vllm(work)) == [tiny.tokenizer().decode([40, 41])] * 5
    prompts = [encode_prompt(tiny.tokenizer(), tiny.TEMPLATE, e.instruction) for e in EXAMPLES]
    ((asked, parameters, request),) = stand_in.calls
    assert [tuple(p["prompt_token_ids"]) for p in asked] == prompts[::-1], "longest first"
    assert request[2] == str(work.inputs["trained"] / "adapter")
    for p in parameters:
        assert (p.temperature, p.top_p, p.max_tokens, p.seed) == (0.0, 1.0, 6, None)
        assert p.stop_token_ids == [tiny.EOS] and p.detokenize is False
    (llm,) = stand_in.llms
    assert llm["model"] == work.local["models"]["model"]["folder"]
    assert llm["max_model_len"] == max(map(len, prompts)) + 6
    assert (llm["dtype"], llm["trust_remote_code"]) == ("float32", False)
    assert (llm["enable_lora"], llm["max_lora_rank"]) == (True, 8)


def test_vllm_draws_from_the_seeds_of_the_examples(work, install):
    stand_in = install()
    work = by_vllm(work, temperature=0.7, samples=2, top_p=0.9)
    generate(work)
    ((_, parameters, _),) = stand_in.calls
    want = [seed_of(3, e.id, n) for e in EXAMPLES[::-1] for n in (0, 1)]
    assert [p.seed for p in parameters] == want
    assert {(p.temperature, p.top_p) for p in parameters} == {(0.7, 0.9)}


def test_vllms_texts_end_where_ours_do(work, install):
    answers = {10: [40, tiny.EOS, 41, 42], 11: [40, 41, 42, 43, 44, 45]}
    install(lambda p: ended(answers[10 + len(p) % 2], ["stop", "length"][len(p) % 2]))
    generate(by_vllm(work))
    rows = read_records(work.out / "generations.parquet", Generation)
    assert {(r.stop, r.tokens) for r in rows} == {("eos", 2), ("length", 6)}
    install(lambda p: ended([40], "abort"))
    with pytest.raises(StageError, match="another reason: abort"):
        generate(by_vllm(work))


def test_vllm_gets_the_merged_folder_of_full_fine_tuning_or_of_a_users_adapter(
    work, install, tmp_path
):
    tiny.save(tmp_path / "tuned" / "model", tiny.qwen(4))
    load.save(adapted(seed=9), tmp_path / "users", tiny.tokenizer())
    want, merged = load.merge(adapted(seed=9)).state_dict(), {}
    stand_in = install()
    full = dataclasses.replace(work, inputs={**work.inputs, "trained": tmp_path / "tuned"})
    generate(by_vllm(full))
    assert stand_in.llms[-1]["model"] == str(tmp_path / "tuned" / "model")
    assert "enable_lora" not in stand_in.llms[-1] and stand_in.calls[-1][2] is None

    def read(**fields):
        merged.update(load.load_model(Path(fields["model"]), precision="float32").state_dict())
        return stand_in._llm(**fields)

    stand_in.package.LLM = read
    work.local["models"]["model"]["adapter"] = str(tmp_path / "users")
    generate(by_vllm(work))
    assert all(torch.equal(want[name], value) for name, value in merged.items())
    assert stand_in.calls[-1][2][2] == str(work.inputs["trained"] / "adapter")


def test_a_wrong_adapter_never_reaches_vllm(work, install):
    stand_in = install()
    WRONG["renamed keys"](work)
    with pytest.raises(InputError, match="did not load"):
        generate(by_vllm(work))
    assert stand_in.llms == []


def test_without_vllm_or_a_gpu_nothing_else_answers_in_its_name(work, install, monkeypatch):
    with monkeypatch.context() as missing:
        missing.setitem(sys.modules, "vllm", None)
        with pytest.raises(InputError, match=r"(?s)cannot be imported.*kdstudy\[vllm\]"):
            generate(by_vllm(work))
    stand_in = install()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(InputError, match=r"(?s)no CUDA device.*transformers"):
        generate(by_vllm(work))
    assert stand_in.llms == [] and list(work.out.iterdir()) == []


def test_a_model_that_vllm_refuses_is_one_clear_line(work, install):
    stand_in = install()

    def refuse(**fields):
        raise ValueError("max_model_len (900) is greater than the model's\nlong story")

    stand_in.package.LLM = refuse
    with pytest.raises(StageError, match=r"vLLM cannot run this model \(max_model_len \(900\)"):
        generate(by_vllm(work))


def test_an_adapters_rank_is_rounded_up_to_one_that_vllm_has(tmp_path):
    for given, want in ((1, 8), (8, 8), (9, 16), (64, 64), (65, 128)):
        text = json.dumps({"r": 1, "rank_pattern": {"q_proj": given}})
        (tmp_path / "adapter_config.json").write_text(text)
        assert vllm._rank(tmp_path) == want


def pinned(tmp_path, limit, path=None):
    out = tmp_path / f"pinned-{limit}"
    out.mkdir()
    config, local = {"name": "synth_svamp", "limit": limit}, {"data_dir": None}
    config["fingerprint"] = benchmarks.fingerprint("synth_svamp")
    if path:
        config = {"name": "mine", "kind": "choice", "labels": ("yes", "no"), "limit": limit}
        source = benchmarks.from_file("mine", path, "choice", ("yes", "no"))
        config["fingerprint"] = source.fingerprint(None)
        local = {"path": str(path)}
    line = stages.benchmark(Work(config=config, inputs={}, local=local, out=out))
    rows = read_records(out / "examples.parquet", Example)
    return line, rows, json.loads((out / "benchmark.json").read_text())


def test_a_limit_takes_a_fixed_choice_of_the_items_in_file_order(tmp_path):
    _, everything, _ = pinned(tmp_path, None)
    line, some, facts = pinned(tmp_path, 40)
    _, more, _ = pinned(tmp_path, 90)
    assert (facts["n"], facts["of"]) == (40, 300) and line.startswith("40 of 300 items")
    assert [e for e in everything if e in some] == some
    assert {e.id for e in some} < {e.id for e in more}, "a larger choice holds the smaller one"
    places = [everything.index(e) for e in some]
    assert 100 < sum(places) / 40 < 200, "not the first of the file"
    line, _, facts = pinned(tmp_path, 1000)
    assert facts["n"] == facts["of"] == 300 and line.startswith("300 items")


def test_a_users_own_file_is_pinned_under_its_name(tmp_path):
    rows = [{"question": f"is {i} even?", "answer": ["yes", "no"][i % 2]} for i in range(6)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    _, found, facts = pinned(tmp_path, 4, tmp_path / "mine.jsonl")
    assert (facts["name"], facts["kind"], facts["n"], facts["of"]) == ("mine", "choice", 4, 6)
    assert facts["labels"] == ["yes", "no"] and facts["chance"] == 0.5
    assert {e.answer for e in found} <= {"yes", "no"}


def test_a_benchmark_that_changed_after_planning_is_refused(tmp_path):
    (tmp_path / "mine.jsonl").write_text('{"question": "1 + 1?", "answer": "2"}\n')
    config = {
        "name": "mine",
        "kind": "number",
        "labels": (),
        "limit": None,
        "fingerprint": "0" * 64,
    }
    work = Work(
        config=config, inputs={}, local={"path": str(tmp_path / "mine.jsonl")}, out=tmp_path
    )
    with pytest.raises(StageError, match="has changed since the study was planned"):
        stages.benchmark(work)
