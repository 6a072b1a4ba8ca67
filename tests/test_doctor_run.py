"""Of a study that `run` refuses, `doctor` says what `run` says: the same error, word for word."""

import json
import shutil
from pathlib import Path

import architectures
import peft
import pytest
import tiny_models as tiny
import yaml
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from kdstudy.api import building, studies
from kdstudy.config.read import read_study
from kdstudy.doctor.checks import check
from kdstudy.doctor.gather import gather
from kdstudy.engine.store import Store
from kdstudy.errors import KdstudyError
from kdstudy.plan.plan import make_plan

STUDY = {
    "name": "t",
    "students": ["./small"],
    "teachers": [],
    "methods": ["sft"],
    "corpus": {"path": "rows.jsonl", "validation_rows": 4},
    "benchmarks": [{"name": "own", "path": "items.jsonl", "kind": "number"}],
    "template": "Q: {instruction}\nA: ",
    "train": {"epochs": 1, "max_length": 64, "batch_size": 8, "evaluations": 1, "lora": None},
    "generation": {"max_new_tokens": 4},
}
TAUGHT = {"teachers": [{"model": "./big", "finetune": False}], "methods": ["sft", "word_kd"]}
LORA = {"target_modules": ["wq"]}


@pytest.fixture
def folder(tmp_path):
    tiny.save(tmp_path / "big", tiny.qwen(1))
    tiny.save(tmp_path / "small", tiny.qwen(2))
    rows = [{"prompt": f"what is {i}?", "completion": f"it is {i * i}."} for i in range(20)]
    items = [{"question": f"and {i} plus {i}?", "answer": str(i + i)} for i in range(4)]
    for name, some in (("rows", rows), ("items", items)):
        lines = "".join(json.dumps(row) + "\n" for row in some)
        (tmp_path / f"{name}.jsonl").write_text(lines)
    return tmp_path


def train(**fields):
    return {"train": STUDY["train"] | fields}


def edit(path: Path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def another_tokenizer(folder):
    tiny.save(folder / "big", tiny.qwen(1, vocabulary=tiny.VOCABULARY + 1), tiny.tokenizer("é"))


def positions(folder, most):
    sizes = {"n_positions": most, "max_position_embeddings": most}
    tiny.save(folder / "small", architectures.build("gpt2", vocab_size=tiny.VOCABULARY, **sizes))


def adapter(folder, width):
    """An adapter of a model of that width."""
    model = tiny.qwen(3, width=width)
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    peft.get_peft_model(model, config).save_pretrained(folder / "adapter")


def deeper(folder):
    """An adapter of a model with more layers."""
    adapter(folder, 16)
    path = folder / "adapter" / "adapter_model.safetensors"
    save_file({k.replace(".1.", ".9."): v for k, v in load_file(path).items()}, path)


def append(path: Path, text: str):
    path.write_text(path.read_text() + text)


def template(folder, text):
    edit(folder / "small" / "tokenizer_config.json", chat_template=text)


REFUSING = (
    "{% for m in messages %}{% if 'what is 1' in m.content %}{{ raise_exception('no') }}{% endif %}"
    "{{ m.content }}{% endfor %}"
)
BROKEN = {
    "no such folder": (lambda f: shutil.rmtree(f / "small"), {}),
    "another tokenizer": (another_tokenizer, TAUGHT),
    "more tokens than embeddings": (
        lambda f: tiny.save(f / "small", tiny.qwen(2), tiny.tokenizer("é")), {}),
    "a quantised model": (
        lambda f: edit(f / "small" / "config.json", quantization_config={"quant_method": "gptq"}),
        {}),
    "weights that are missing": (lambda f: (f / "small" / "model.safetensors").unlink(), {}),
    "no end-of-sequence token": (
        lambda f: tiny.save(f / "small", tiny.qwen(2), tiny.tokenizer(pad_token="<pad>")), {}),
    "a row that is not JSON": (lambda f: append(f / "rows.jsonl", "{\n"), {}),
    "an empty corpus": (lambda f: (f / "rows.jsonl").write_text(""), {}),
    "nothing left to train on": (None, {"corpus": {"path": "rows.jsonl", "validation_rows": 20}}),
    "text without prompts": (
        lambda f: (f / "rows.jsonl").write_text('{"text": "a"}\n' * 20),
        TAUGHT | {"methods": ["sft", "seqkd"]}),
    "an item that is not one": (lambda f: append(f / "items.jsonl", "[]\n"), {}),
    "no room for a prompt": (lambda f: positions(f, 4), {}),
    "rows beyond the positions": (lambda f: positions(f, 27), {}),
    "rows that are cut": (None, train(max_length=26)),
    "rows that leave no room": (None, train(max_length=8)),
    "layers that are not there": (None, train(lora=LORA)),
    "an adapter of another shape": (
        lambda f: adapter(f, 24), {"students": [{"model": "./small", "adapter": "./adapter"}]}),
    "an adapter of another depth": (
        deeper, {"students": [{"model": "./small", "adapter": "./adapter"}]}),
    "no chat template": (None, {"template": "chat"}),
    "a template that refuses all": (
        lambda f: template(f, "{{ raise_exception('no') }}"), {"template": "chat"}),
    "a template that refuses rows": (lambda f: template(f, REFUSING), {"template": "chat"}),
    "no tracker": (None, train(report_to=["dvclive"])),
    "a model that cannot be had": (None, {"students": [{"model": "a/b", "revision": "0" * 40}]}),
    "no vLLM": (None, {"generation": {"engine": "vllm"}}),
}  # fmt: skip


def run(folder: Path, store: Path, data: Path | None = None) -> KdstudyError:
    """Return what `run` raises, without the name of the study or the stage before it."""
    with pytest.raises(KdstudyError) as caught:
        opened, path = Store(store), folder / "study.yaml"
        planned = make_plan(read_study(path), folder, data, {})
        studies.require_trackers(planned)
        building.build(planned, planned.report, opened)
    cause = caught.value.__cause__
    return cause if isinstance(cause, KdstudyError) else caught.value


def doctor(folder: Path, store: Path, data: Path | None = None):
    return [f for f in check(gather(folder / "study.yaml", store, data)) if f.level == "error"]


def same(finding, error: KdstudyError) -> bool:
    # A length in which the rows would fit stands behind the remedy: only doctor has counted.
    words = finding.remedy.startswith(error.remedy) and finding.why == error.why
    return words and error.what in finding.what


@pytest.mark.parametrize("name", BROKEN)
def test_doctor_says_what_run_raises(folder, name, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    spoil, fields = BROKEN[name]
    if spoil:
        spoil(folder)
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY | fields))
    found = doctor(folder, folder / "store")
    error = run(folder, folder / "store")
    assert [f for f in found if same(f, error)], f"run: {error}\ndoctor: {found}"


def test_doctor_says_of_a_known_benchmarks_file_what_run_raises(folder):
    place = folder / "data" / "math" / "gsm8k"
    place.mkdir(parents=True)
    (place / "test.json").write_text('[{"question": "q"}]')
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY | {"benchmarks": ["gsm8k"]}))
    where = (folder, folder / "store", folder / "data")
    (found,) = doctor(*where)
    assert same(found, run(*where)) and found.check == "benchmarks"


def test_doctor_says_of_a_store_what_run_raises(folder):
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY))
    for store in (folder / "rows.jsonl", folder / "rows.jsonl" / "store"):
        (found,) = doctor(folder, store)
        assert same(found, run(folder, store)) and found.check == "store"


@pytest.mark.parametrize(("base", "levels"), [("small", ["ok"]), ("org/medium", ["warning"])])
def test_an_adapter_is_doubted_where_it_names_another_base(folder, base, levels):
    adapter(folder, 16)
    edit(folder / "adapter" / "adapter_config.json", base_model_name_or_path=base)
    students = [{"model": "./small", "adapter": "./adapter"}]
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY | {"students": students}))
    found = check(gather(folder / "study.yaml", folder / "store", None))
    assert [f.level for f in found if f.check == "adapters"] == levels


def test_a_study_without_a_fault_has_no_errors(folder):
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY))
    assert not doctor(folder, folder / "store")
