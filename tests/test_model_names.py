"""Models whose names are alike, or odd: each runs as itself, and each is measured."""

import json
import shutil

import forked
import pandas as pd
import pytest
import torch
import yaml
from study_folder import model_folder, plan_of, write_folder

from kdstudy.config.read import read_study
from kdstudy.config.schema import Lora
from kdstudy.engine.store import Store
from kdstudy.errors import InputError
from kdstudy.models import load, zoo
from kdstudy.plan.plan import make_plan

STUDY = {
    "name": "names",
    "students": ["zoo-xs"],
    "corpus": {"name": "synthetic", "rows": 30, "validation_rows": 7},
    "benchmarks": ["synth_addsub"],
    "limit": 5,
    "methods": ["sft", "word_kd"],
    "train": {"epochs": 1, "batch_size": 8, "max_length": 192, "evaluations": 1, "probe_rows": 0},
    "generation": {"max_new_tokens": 24},
    "token_rows": 5,
}


def adapter(folder):
    """An adapter that makes zoo-xs another model."""
    model = load.load_model(zoo.path("zoo-xs"), precision="float32")
    model = load.add_adapter(model, Lora(target_modules=["q_proj", "v_proj"]), seed=0)
    generator = torch.Generator().manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data = 0.3 * torch.randn(weight.shape, generator=generator)
    load.save(model, folder / "fit", load.load_tokenizer(zoo.path("zoo-xs")), base="zoo-xs")


def run(folder, **fields):
    """Run a study and return its table, its train stages by method, and its token comparisons."""
    folder.mkdir(exist_ok=True)
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY | fields))
    done = forked.kdstudy("run", "study.yaml", "--store", "store", cwd=folder)
    assert done.returncode == 0, done.stderr
    store = Store(folder / "store")
    plan = make_plan(read_study(folder / "study.yaml"), folder, None, store.pins())
    trained = {
        stage.config["method"]["type"]: json.loads(
            (store.get(stage.key) / "training.json").read_text()
        )
        for stage in plan.stages.values()
        if stage.kind == "train"
    }
    table = pd.read_csv(store.output("names") / "results.csv")
    tokens = [
        json.loads((store.get(stage.key) / "tokens.json").read_text())
        for stage in plan.stages.values()
        if stage.kind == "token_fidelity"
    ]
    return table, trained, tokens


def test_a_student_and_its_teacher_on_one_base_are_two_models(tmp_path):
    """The control has the teacher's base in another folder, whose name holds what names may."""
    adapter(tmp_path)
    odd = tmp_path / "o|t: 50% #1 & so [x]"
    shutil.copytree(zoo.path("zoo-xs"), odd)
    fit = {"adapter": str(tmp_path / "fit"), "finetune": False}
    table, trained, tokens = run(tmp_path / "one", teachers=[{"model": "zoo-xs", **fit}])
    control, *expected = run(tmp_path / "two", teachers=[{"model": str(odd), **fit}])
    assert [trained, tokens] == expected
    assert trained["word_kd"]["curve"][0]["loss"] > 0.1  # 0.00003 where the student is its teacher
    assert tokens[0]["top1_agreement"] < 1
    for found, teacher in ((table, "zoo-xs+fit"), (control, odd.name + "+fit")):
        assert set(found.system) == {
            *("zoo-xs", teacher, "zoo-xs/sft", f"zoo-xs/word_kd/{teacher}"),
        }
    assert list(table.sort_values(["kind", "metric"]).value) == pytest.approx(
        list(control.sort_values(["kind", "metric"]).value), nan_ok=True
    )


def test_two_revisions_of_a_student_are_two_students(tmp_path):
    write_folder(tmp_path)
    pins = {"org/small@main": "a" * 40, "org/small@v2": "b" * 40}
    students = [{"model": "org/small"}, {"model": "org/small", "revision": "v2"}]
    plan = plan_of(tmp_path, pins, students=students, ablations={})
    bases = [s.label for s in plan.systems if s.kind == "base"]
    assert bases == ["org/small@" + 12 * "a", "org/small@" + 12 * "b", "big"]
    for stage in plan.stages.values():
        if stage.kind == "train" and "teacher" in stage.config and stage.config["seed"] == 0:
            named = stage.config["student"]["fingerprint"].rpartition("@")[2]
            assert stage.local["models"]["student"]["revision"] == named


def test_every_stage_is_handed_the_models_that_its_key_names(tmp_path):
    """Whatever the names are: what is loaded has the fingerprint that the key holds."""
    write_folder(tmp_path)
    for place in ("a/m", "b/m"):
        model_folder(tmp_path / place)
        (tmp_path / place / "model.safetensors").write_text(place)
    plan = plan_of(tmp_path, students=["./a/m", "./small"], teachers=["./b/m", "./big"])
    fingerprint = {}
    for stage in plan.stages.values():
        for role, local in stage.local.get("models", {}).items():
            folder = local["folder"]
            several = {m["name"]: m for m in stage.config.get("models", ())}  # of `prompts`
            named = (several or stage.config)[role]["fingerprint"]
            assert fingerprint.setdefault(folder, named) == named
    assert len(fingerprint) == len(set(fingerprint.values())) == 4
    assert len({s.label for s in plan.systems}) == len(plan.systems)


def test_one_model_with_two_adapters_may_be_two_teachers(tmp_path):
    write_folder(tmp_path)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text(json.dumps({"of": name}))
    teachers = [{"model": "./big", "adapter": a} for a in ("one", "two")]
    plan = plan_of(tmp_path, teachers=teachers)
    assert {s.label for s in plan.systems if s.kind == "teacher"} == {
        *("big+one/teacher", "big+two/teacher"),
    }
    with pytest.raises(InputError, match="listed twice"):
        plan_of(tmp_path, teachers=[teachers[0], teachers[0]])


def test_ablations_of_chosen_students_reach_models_from_the_hub(tmp_path):
    write_folder(tmp_path)
    pins = {"org/small@main": "a" * 40}
    ablations = {"noise": {"methods": ["word_kd"], "values": [0, 1]}, "students": ["org/small"]}
    plan = plan_of(tmp_path, pins, students=["org/small", "./medium"], ablations=ablations)
    noisy = [s.model for s in plan.systems if s.ablation == "noise"]
    assert noisy == ["small"]
