"""A trained model in one's hand: exported folders answer as the evaluated model did."""

import csv
import json
import os
import re
import shutil
from pathlib import Path

import forked
import pytest
import tiny_models as tiny
import torch
import yaml
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from study_folder import plan_of, write_folder
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from kdstudy.api import systems
from kdstudy.artifacts import Trained
from kdstudy.cli import exporting
from kdstudy.cli.studies import planned_study
from kdstudy.data.prompts import ALPACA
from kdstudy.errors import InputError, StageError
from kdstudy.models import export, load, zoo
from kdstudy.records import Example, Generation, read_records

STUDY = {
    "name": "hand",
    "teachers": [{"model": "zoo-s", "finetune": False}],
    "students": ["zoo-xs", {"model": "mine", "adapter": "given"}],
    "corpus": {"name": "synthetic", "rows": 48, "validation_rows": 8},
    "benchmarks": ["synth_addsub"],
    "limit": 12,
    "methods": ["sft", "word_kd"],
    "token_rows": 0,
    "train": {"epochs": 1, "batch_size": 8, "learning_rate": 2e-3, "max_length": 192,
              "evaluations": 1, "probe_rows": 0},
    "generation": {"max_new_tokens": 48},
}  # fmt: skip
STUDENT = "zoo-xs/word_kd/zoo-s"
pytestmark = pytest.mark.filterwarnings("ignore")


def kdstudy(folder, *arguments):
    return forked.kdstudy(*arguments, "--store", "store", cwd=folder)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A finished study; one student starts from a base with a user's adapter."""
    folder = tmp_path_factory.mktemp("study")
    shutil.copytree(zoo.path("zoo-xs"), folder / "mine")
    base = AutoModelForCausalLM.from_pretrained(folder / "mine", dtype=torch.float32)
    # On the embedding of a tied model: what a careless merge ruins.
    config = LoraConfig(r=2, target_modules=["embed_tokens", "up_proj"], task_type="CAUSAL_LM")
    given = get_peft_model(base, config)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in given.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.02 * torch.randn(parameter.shape))
    given.save_pretrained(folder / "given")
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY))
    before = kdstudy(folder, "models", "study.yaml", "--json")
    done = kdstudy(folder, "run", "study.yaml")
    assert done.returncode == 0, done.stderr
    return folder, before, done


def opened(folder):
    cwd = os.getcwd()
    os.chdir(folder)
    try:
        return planned_study(Path("study.yaml"), folder / "store", None)
    finally:
        os.chdir(cwd)


def listed(folder) -> dict[str, dict]:
    """What `models --json` says, by system."""
    found = json.loads(kdstudy(folder, "models", "study.yaml", "--json").stdout)
    return {row["system"]: row for row in found}


def of_mine(folder) -> str:
    """The label of the SFT run whose student has a user's adapter."""
    rows = listed(folder).values()
    return next(r["system"] for r in rows if r["model"].startswith("mine") and r["kind"] == "sft")


def stored(folder, label) -> dict[str, str]:
    """Prompt -> the text that the study's model wrote."""
    planned, store = opened(folder)
    stage = planned.stages[planned.scored[label]]
    roles = {role.split(":")[0]: store.get(key) for role, key in stage.inputs.items()}
    items = read_records(roles["items"] / "examples.parquet", Example)
    texts = read_records(roles["generations"] / "generations.parquet", Generation)
    by_id = {g.example_id: g.completion for g in texts}
    return {ALPACA.replace("{instruction}", e.instruction): by_id[e.id] for e in items}


def answers(model, tokenizer, prompts, **settings) -> list[str]:
    """What plain transformers writes, one prompt at a time."""
    texts = []
    for prompt in prompts:
        ids = tokenizer(prompt, return_tensors="pt")
        out = model.generate(**ids, **settings)[0][ids["input_ids"].shape[1] :]
        texts.append(tokenizer.decode(out, skip_special_tokens=True))
    return texts


def test_models_tells_what_is_there_before_and_after(study):
    folder, before, done = study
    early = json.loads(before.stdout)
    assert {r["path"] for r in early} == {None} and {r["accuracy"] for r in early} == {None}
    rows = {
        r["system"]: r for r in json.loads(kdstudy(folder, "models", "study.yaml", "--json").stdout)
    }
    assert len(rows) == len(early)
    row = rows[STUDENT]
    assert (row["method"], row["teacher"], row["seed"]) == ("word_kd", "zoo-s", 0)
    assert row["parameters"] == 84256, "as its card says"
    assert Path(row["path"], "adapter_model.safetensors").is_file()

    with (folder / "store" / "studies" / "hand" / "results.csv").open() as f:
        table = {
            (r["system"], r["benchmark"]): r for r in csv.DictReader(f) if r["metric"] == "accuracy"
        }
    for label, found in rows.items():
        assert found["accuracy"] == pytest.approx(float(table[label, "average"]["value"]))
        own, want = found["benchmarks"]["synth_addsub"], table[label, "synth_addsub"]
        assert [own[k] for k in ("value", "low", "high")] == pytest.approx(
            [float(want[k]) for k in ("value", "low", "high")]
        )
    shown = kdstudy(folder, "models", "study.yaml").stdout.splitlines()
    assert max(len(line) for line in shown if "/models/zoo/" not in line) <= 100
    assert any(re.match(r"    store/stages/[0-9a-f]{32}/adapter$", line) for line in shown)
    assert "kdstudy models study.yaml" in done.stderr


@pytest.mark.parametrize("merge", [False, True])
def test_an_exported_model_writes_in_plain_transformers_what_the_study_measured(
    study, tmp_path, merge
):
    folder, *_ = study
    out = tmp_path / "hand"
    more = ["--merge"] if merge else []
    done = kdstudy(folder, "export", "study.yaml", STUDENT, "--out", out, *more)
    assert done.returncode == 0, done.stderr
    assert "10 of 10 texts" in done.stderr and done.stdout == f"{out}\n"
    if merge:
        model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
        settings = {}
    else:
        base = AutoModelForCausalLM.from_pretrained(zoo.path("zoo-xs"), dtype=torch.float32)
        model = PeftModel.from_pretrained(base, out)
        settings = {"generation_config": GenerationConfig.from_pretrained(out)}
        config = json.loads((out / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == "zoo-xs"
    want = stored(folder, STUDENT)
    assert answers(model, AutoTokenizer.from_pretrained(out), want, **settings) == [*want.values()]
    for file in out.iterdir():
        assert str(folder).encode() not in file.read_bytes()
        assert str(Path(zoo.path("zoo-xs")).parent).encode() not in file.read_bytes()


def test_the_card_holds_the_measured_numbers(study, tmp_path):
    folder, *_ = study
    done = kdstudy(folder, "export", "study.yaml", STUDENT, "--out", tmp_path / "hand", "--merge")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "hand" / "README.md").read_text()
    header = yaml.safe_load(text.split("---\n")[1])
    assert header["library_name"] == "transformers"
    assert {"kdstudy", "distillation", "word_kd"} <= set(header["tags"])
    rows = {
        r["system"]: r for r in json.loads(kdstudy(folder, "models", "study.yaml", "--json").stdout)
    }
    own = rows[STUDENT]["benchmarks"]["synth_addsub"]
    (result,) = header["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == round(100 * own["value"], 2)
    numbers = f"{100 * own['value']:.1f} | [{100 * own['low']:.1f}, {100 * own['high']:.1f}] | 12 |"
    assert numbers in text and own["signature"].replace("|", "; ") in text
    for said in ("training seed | 0", "`zoo-s`", "### Response:", "10 of 10 texts", '"hand"'):
        assert said in text


def test_the_loss_statement_is_written_and_is_in_the_card(study, tmp_path):
    folder, _, _ = study
    done = kdstudy(folder, "statement", "study.yaml", "--system", STUDENT, "--out", tmp_path / "s")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "s" / "statement.html")
    text = (tmp_path / "s" / "statement.md").read_text("utf-8")
    assert f"### {STUDENT}" in text and STUDENT in done.stderr
    exported = kdstudy(folder, "export", "study.yaml", STUDENT, "--out", tmp_path / "out")
    assert exported.returncode == 0, exported.stderr
    assert text.strip() in (tmp_path / "out" / "README.md").read_text("utf-8")
    assert (folder / "store" / "studies" / "hand" / "statement").exists() is False
    whole = kdstudy(folder, "statement", "study.yaml")
    assert whole.stdout.strip().endswith("studies/hand/statement/statement.html")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--system", "zoo-xs/gkd"], "the study has no such model"),
        (["--elsewhere", "piqa"], "piqa: the study does not measure it"),
        (["--system", "zoo-xs/sft"], "no distilled student has been measured"),
    ],
)
def test_a_statement_of_nothing_is_refused(study, arguments, said, tmp_path):
    folder, _, _ = study
    done = kdstudy(folder, "statement", "study.yaml", "--out", tmp_path / "s", *arguments)
    assert done.returncode == 2 and said in done.stderr, done.stderr
    assert not (tmp_path / "s").exists()


def test_both_adapters_are_in_what_is_merged_and_one_alone_is_refused(study, tmp_path):
    folder, *_ = study
    label = of_mine(folder)
    done = kdstudy(folder, "export", "study.yaml", label, "--out", tmp_path / "one")
    assert done.returncode == 2 and "--merge" in done.stderr and "given" in done.stderr
    assert not (tmp_path / "one").exists() and not list(tmp_path.iterdir()), "nothing is left"
    done = kdstudy(folder, "export", "study.yaml", label, "--out", tmp_path / "both", "--merge")
    assert done.returncode == 0, done.stderr
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "both", dtype=torch.float32)
    want = stored(folder, label)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "both")
    assert answers(model, tokenizer, want) == [*want.values()]
    assert not torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)


def test_a_narrower_type_is_written_and_its_differences_are_counted(study, tmp_path):
    folder, *_ = study
    done = kdstudy(
        folder, "export", "study.yaml", STUDENT, "--out", tmp_path / "half", "--merge",
        "--dtype", "bfloat16",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    weights = load_file(tmp_path / "half" / "model.safetensors")
    assert {w.dtype for w in weights.values()} == {torch.bfloat16}
    said = re.search(r"(\d+) of 10 texts", done.stderr)
    assert said and said[0] in (tmp_path / "half" / "README.md").read_text()


def test_what_cannot_be_exported_is_refused_in_words(study, tmp_path):
    folder, *_ = study
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    for arguments, expected in (
        (["zoo-s", "--out", tmp_path / "o"], "zoo-s: was not trained here; it is the model in"),
        (["zoo-xs/wordkd/zoo-s", "--out", tmp_path / "o"], f"did you mean {STUDENT}"),
        (["zoo-xs/", "--out", tmp_path / "o"], "means 2 models: zoo-xs/sft, zoo-xs/word_kd/zoo-s"),
        ([STUDENT, "--out", tmp_path / "full"], "full: is not empty"),
        ([STUDENT, "--out", tmp_path / "o", "--dtype", "float16"], "add --merge"),
    ):
        done = kdstudy(folder, "export", "study.yaml", *arguments)
        assert done.returncode == 2 and expected in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
    assert {p.name for p in tmp_path.iterdir()} == {"full"}


def test_a_written_model_that_answers_otherwise_is_an_error(study, tmp_path, monkeypatch):
    folder, *_ = study
    planned, store = opened(folder)
    chosen = next(s for s in planned.systems if s.label == STUDENT)
    true = export.write

    def damage(*arguments, **more):
        true(*arguments, **more)
        file = tmp_path / "model.safetensors"
        weights = load_file(file)
        weights["model.norm.weight"] *= -1
        save_file(weights, file, {"format": "pt"})

    monkeypatch.setattr(export, "write", damage)
    with pytest.raises(StageError, match="otherwise than the model that was evaluated"):
        exporting.hand_over(
            exporting.trained(planned, store, chosen), tmp_path, "x", merge=True, store=store
        )


def test_a_name_that_means_several_seeds_is_refused_with_the_list(tmp_path):
    labels = [s.label for s in plan_of(write_folder(tmp_path), seeds=[0, 1]).systems]
    with pytest.raises(InputError, match=r"means 2 models: small/sft/seed=0, small/sft/seed=1"):
        systems.chosen("small/sft", labels)
    assert systems.chosen("small/sft/seed=1", labels) == "small/sft/seed=1"
    assert systems.chosen("small/seqkd/big/seed=0", labels) == "small/seqkd/big/seed=0"


def test_a_student_that_was_trained_whole_is_written_with_its_ends(tmp_path):
    """The taught end comes first, the base's further ends stay, its sampling does not."""
    base = tiny.qwen(0)
    base.generation_config.eos_token_id = [tiny.EOS, 7]
    base.generation_config.update(do_sample=True, temperature=0.7, repetition_penalty=1.3)
    tiny.save(tmp_path / "base", base, tiny.tokenizer(eos_token="Q", pad_token="<pad>"))
    tokenizer = load.load_tokenizer(tmp_path / "base")
    student = tiny.qwen(5)
    student.generation_config.eos_token_id = [tiny.EOS, 7]
    load.save(student, tmp_path / "stage" / "model", tokenizer)
    local = {"folder": str(tmp_path / "base"), "adapter": None, "hub_id": None}
    local |= {"revision": None, "trust_remote_code": False}
    decoding = {"max_new_tokens": 9, "temperature": 0.0, "top_p": 1.0}
    export.write(
        local, Trained(tmp_path / "stage"), tmp_path / "out", merge=False, precision="float16",
        decoding=decoding,
    )  # fmt: skip
    read = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert read["eos_token_id"] == [tokenizer.eos_token_id, tiny.EOS, 7]
    assert (read["max_new_tokens"], read["do_sample"]) == (9, False)
    assert not {"temperature", "repetition_penalty"} & read.keys()
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert again.dtype == torch.float16
    for name, value in again.state_dict().items():
        assert torch.equal(value, student.state_dict()[name].half()), name


def test_an_adapter_names_its_base_by_hub_id_and_commit(tmp_path):
    load.save(
        get_peft_model(tiny.qwen(0), LoraConfig(target_modules=["q_proj"])),
        tmp_path, tiny.tokenizer(), base="/home/me/models/secret",
    )  # fmt: skip
    export.name_base(tmp_path, {"hub_id": "org/base", "folder": None, "revision": "abc"})
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("org/base", "abc")
    export.name_base(
        tmp_path, {"hub_id": None, "folder": "/home/me/models/secret", "revision": None}
    )
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("secret", None)


def test_a_licence_is_read_from_the_bases_card(tmp_path):
    assert export.licence(tmp_path) is None
    for text, want in (
        ("---\nlicense: apache-2.0\ntags: [a]\n---\n# x\n", "apache-2.0"),
        ("# no header\n---\nlicense: mit\n---\n", None),
        ("---\nlicense: [a\n---\n", None),
        ("---\n- 3\n---\n", None),
    ):
        (tmp_path / "README.md").write_text(text)
        assert export.licence(tmp_path) == want
