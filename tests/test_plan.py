"""The plan: which stages there are, and which of them a change touches."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from study_folder import model_folder, plan_of, write_folder

import kdstudy
from kdstudy.config.read import read_study
from kdstudy.errors import InputError
from kdstudy.plan.plan import make_plan
from kdstudy.stage import Stage


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path)


def stages(plan, kind):
    return {s.label: s for s in plan.stages.values() if s.kind == kind}


def changed(before, after):
    """Return (kind, label) of what `after` would build again."""
    return {(s.kind, s.label) for key, s in after.stages.items() if key not in before.stages}


def test_the_key_of_a_stage_is_pinned():
    # printf of the canonical JSON, through sha256sum. A changed digest makes every store rebuild.
    stage = Stage(
        kind="score", label="x", config={"rule": "corrected"}, inputs={"a": "k1", "b": "k2"}
    )
    assert stage.key == "398d48ccaa7115a13094dff7ba28259b"


def test_roles_are_part_of_the_key():
    one = Stage(kind="compare", label="x", config={}, inputs={"system": "a", "reference": "b"})
    other = Stage(kind="compare", label="x", config={}, inputs={"system": "b", "reference": "a"})
    assert one.key != other.key


def test_every_run_of_the_study_is_there_once(folder):
    trained = stages(plan_of(folder), "train")
    methods = ("sft", "seqkd", "word_kd", "revkd", "gkd")
    expected = {"big/teacher"}
    for student in ("small", "medium"):
        expected |= {f"{student}/{m}{'/big' if m != 'sft' else ''}" for m in methods}
        expected |= {f"{student}/word_kd/big/{x}" for x in ("tau=2", "noise=1", "base-teacher")}
    assert set(trained) == expected
    # One teacher text serves both students.
    assert len(stages(plan_of(folder), "teacher_text")) == 1


def test_stages_come_after_what_they_need(folder):
    seen = set()
    for key, stage in plan_of(folder).stages.items():
        assert {*stage.inputs.values(), *stage.aids.values()} <= seen
        assert stage.key == key
        seen.add(key)


def test_a_methods_temperature_touches_that_run_and_what_hangs_on_it(folder):
    before = plan_of(folder, ablations={})
    methods = ["sft", "seqkd", {"type": "word_kd", "temperature": 2}, "revkd", "gkd"]
    after = plan_of(folder, ablations={}, methods=methods)
    runs = {"small/word_kd/big", "medium/word_kd/big"}
    expected = {("train", r) for r in runs} | {("score", r) for r in runs}
    expected |= {
        ("generate", f"{r} on {b}") for r in runs for b in ("synth_addsub", "synth_multiarith")
    }
    expected |= {
        ("compare", f"{r} with {other}")
        for r in runs
        for other in ("big/teacher", r.split("/")[0] + "/sft")
    }
    expected |= {("token_fidelity", f"{r} with big/teacher") for r in runs}
    expected |= {("results", "t"), ("report", "t")}
    assert changed(before, after) == expected


def test_a_benchmark_of_ones_own_is_known_by_its_bytes_not_its_place(folder):
    def planned(path, **more):
        own = {"name": "mine", "path": path, "kind": "number", **more}
        return plan_of(folder, benchmarks=["synth_addsub", own])

    row = '{"question": "1 + 1?", "answer": "2"}\n'
    (folder / "mine.jsonl").write_text(row)
    (folder / "elsewhere.jsonl").write_text(row)
    before = planned("mine.jsonl")
    assert stages(before, "benchmark")["mine"].local["path"] == str(folder / "mine.jsonl")
    assert changed(before, planned("elsewhere.jsonl")) == {("report", "t")}  # it quotes the study
    (folder / "elsewhere.jsonl").write_text(row.replace("2", "3"))
    assert ("benchmark", "mine") in changed(before, planned("elsewhere.jsonl"))
    assert ("benchmark", "mine") in changed(before, planned("mine.jsonl", kind="text"))


def test_texts_are_drawn_and_answers_are_greedy(folder):
    own = {"name": "mine", "path": "mine.jsonl", "kind": "text"}
    (folder / "mine.jsonl").write_text('{"question": "Write.", "references": ["It."]}\n')
    plan = plan_of(folder, benchmarks=["synth_addsub", own])
    settings = {
        s.config["items"]: s.config["generation"]
        for s in plan.stages.values()
        if s.kind == "generate"
    }
    assert (settings["mine"]["temperature"], settings["mine"]["samples"]) == (1.0, 5)
    assert (settings["synth_addsub"]["temperature"], settings["synth_addsub"]["samples"]) == (0, 1)


def test_tokens_are_compared_in_the_main_grid_and_not_without_rows(folder):
    labels = set(stages(plan_of(folder), "token_fidelity"))
    assert "small/sft with big/teacher" in labels
    assert not any("tau=" in label or "noise=" in label for label in labels)
    assert not stages(plan_of(folder, token_rows=0), "token_fidelity")


def test_a_benchmark_more_trains_nothing_again(folder):
    more = plan_of(folder, benchmarks=["synth_addsub", "synth_multiarith", "synth_svamp"])
    kinds = {kind for kind, _ in changed(plan_of(folder), more)}
    assert kinds == {
        *("benchmark", "contamination", "generate", "score", "compare", "prompts"),
        *("results", "report"),
    }
    again = {s for s in changed(plan_of(folder), more) if s[0] == "generate"}
    assert all(label.endswith("synth_svamp") for _, label in again)


@pytest.mark.parametrize(
    "fields",
    [
        {"train": {"micro_batch_size": 2}},
        {"train": {"report_to": ["tensorboard"]}},
        {"train": {"on_alarm": "stop"}},
        {"train": {"teacher_cache": "off"}},
        {"train": {"teacher_cache": "memory"}},
        {"train": {"teacher_cache": "disk"}},
        {"generation": {"batch_size": 7}},
    ],
)
def test_knobs_that_change_no_result_train_and_generate_nothing_again(folder, fields):
    kinds = {kind for kind, _ in changed(plan_of(folder), plan_of(folder, **fields))}
    assert kinds <= {"report", "teacher_cache"}


def test_no_lora_is_written_as_null_or_as_false(folder):
    off, null = (plan_of(folder, train={"lora": value}) for value in (False, None))
    assert off.study.train.lora is None and set(off.stages) == set(null.stages)
    assert ("train", "small/sft") in changed(plan_of(folder), off)


def test_a_models_own_code_is_on_record_and_part_of_the_key_where_it_may_run(folder):
    trusted = {"model": "big", "trust_remote_code": True}
    off, on = plan_of(folder), plan_of(folder, teachers=[trusted])
    assert not any("trust_remote_code" in json.dumps(s.config) for k, s in off.stages.items()
                   if k != off.report)  # fmt: skip
    said = {"name": "big", "fingerprint": off.stages[off.trained["big/teacher"]].config["student"]
            ["fingerprint"], "trust_remote_code": True}  # fmt: skip
    assert on.stages[on.trained["big/teacher"]].config["student"] == said
    assert on.stages[on.trained["small/word_kd/big"]].config["teacher"] == said
    assert stages(on, "generate")["big on synth_addsub"].config["model"] == said
    again = {label for kind, label in changed(off, on) if kind == "train"}
    assert again == {label for label in on.trained if not label.endswith("/sft")}


def test_all_runs_that_learn_from_a_teachers_distribution_share_its_cache(folder):
    methods = ["sft", "seqkd", "word_kd", "revkd", "gkd", "onpolicy_revkl"]
    plan = plan_of(folder, seeds=[0, 1], methods=methods)
    caches = stages(plan, "teacher_cache")
    assert set(caches) == {"big/teacher on corpus", "big on corpus"}
    tuned, base = caches["big/teacher on corpus"], caches["big on corpus"]
    assert tuned.inputs["teacher"] == plan.trained["big/teacher"] and "teacher" not in base.inputs
    for label, key in plan.trained.items():
        expected = {"teacher_cache": base.key if "base-teacher" in label else tuned.key}
        # Text that the student always writes itself is in no cache.
        alone = {"teacher", "sft", "seqkd", "onpolicy_revkl"} & set(label.split("/"))
        assert plan.stages[key].aids == ({} if alone else expected), label


def test_a_cache_is_nobodys_input_and_is_left_out_where_it_is_not_wanted(folder):
    plan = plan_of(folder)
    caches = {s.key for s in stages(plan, "teacher_cache").values()}
    assert not any(caches & set(s.inputs.values()) for s in plan.stages.values())
    for mode in ("off", False, "memory"):  # YAML reads a bare `off` as false
        without = plan_of(folder, train={"teacher_cache": mode})
        assert not stages(without, "teacher_cache")
        assert not any(s.aids for s in without.stages.values())


def test_other_bytes_in_a_model_or_corpus_are_another_study(folder):
    before = plan_of(folder)
    (folder / "small" / "model.safetensors").write_bytes(b"other")
    touched = changed(before, plan_of(folder))
    assert ("train", "small/sft") in touched
    assert ("train", "medium/sft") not in touched
    assert ("train", "big/teacher") not in touched
    with (folder / "rows.jsonl").open("a") as f:
        f.write(json.dumps({"prompt": "q", "completion": "a"}) + "\n")
    assert ("train", "medium/sft") in changed(before, plan_of(folder))


def test_moving_the_folder_changes_no_key(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("moved")
    write_folder(elsewhere)
    assert set(plan_of(folder).stages) == set(plan_of(elsewhere).stages)


def test_unchanged_weights_are_hashed_once(folder):
    pins = {}
    plan_of(folder, pins)
    known = dict(pins)
    # What the memory says is believed as long as path, size and time are the same.
    for key in pins:
        if "small/model.safetensors" in key:
            pins[key] = "0" * 64
    assert set(plan_of(folder, pins).stages) != set(plan_of(folder, known).stages)


def test_vocabularies_that_differ_are_refused_where_distributions_are_compared(folder):
    model_folder(folder / "stranger", vocabulary="xyz")
    named = r"small and stranger have .* 'a' is 0 .*\n.*word_kd, revkd, gkd.*\n.*seqkd"
    with pytest.raises(InputError, match=named):
        plan_of(folder, teachers=["./stranger"], ablations={})
    plan_of(folder, teachers=["./stranger"], methods=["sft", "seqkd"], ablations={})


def test_a_teacher_used_as_it_is_has_no_training(folder):
    plan = plan_of(folder, teachers=[{"model": "./big", "finetune": False}], ablations={})
    assert "big/teacher" not in plan.trained
    assert "teacher" not in plan.stages[plan.trained["small/word_kd/big"]].inputs
    assert {s.kind for s in plan.systems if s.label == "big"} == {"teacher"}


def test_a_default_that_is_written_out_changes_no_key(folder):
    # YAML's 4 and a default of 4 are one number; JSON would write 4.0 and 4.
    written = plan_of(folder, train={"epochs": 4, "weight_decay": 0, "learning_rate": 3e-4})
    assert set(written.stages) == set(plan_of(folder, train={}).stages)


def test_teachers_may_be_trained_otherwise_than_students(folder):
    plain = stages(plan_of(folder), "train")
    trained = stages(plan_of(folder, teacher_train={"epochs": 7, "learning_rate": 1e-5}), "train")
    assert trained["big/teacher"].config["train"] == plain["big/teacher"].config["train"] | {
        "epochs": 7.0, "learning_rate": 1e-5,
    }  # fmt: skip
    assert trained["small/sft"].key == plain["small/sft"].key
    assert trained["small/word_kd/big"].config == plain["small/word_kd/big"].config
    same = plan_of(folder, teacher_train={"epochs": plain["big/teacher"].config["train"]["epochs"]})
    assert stages(same, "train")["small/word_kd/big"].key == plain["small/word_kd/big"].key


def test_seeds_repeat_students_and_share_the_teacher(folder):
    plan = plan_of(folder, seeds=[0, 1], ablations={})
    assert {"small/gkd/big/seed=0", "small/gkd/big/seed=1"} <= set(plan.trained)
    teachers = {
        plan.stages[plan.trained[f"small/gkd/big/seed={s}"]].inputs["teacher"] for s in (0, 1)
    }
    assert len(teachers) == 1


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"students": ["./gone"]}, "gone: no such folder"),
        ({"corpus": {"path": "gone.jsonl", "validation_rows": 2}}, "gone.jsonl: no such file"),
        ({"corpus": "wikipedia"}, "unknown name 'wikipedia'"),
        ({"benchmarks": ["gsm9k"]}, "did you mean gsm8k"),
        ({"benchmarks": ["unni"]}, "KDSTUDY_DATA"),
    ],
)
def test_what_is_not_there_is_named(folder, fields, expected):
    with pytest.raises(InputError, match=expected):
        plan_of(folder, **fields)


def test_a_folder_without_weights_or_config_is_refused(folder):
    (folder / "small" / "model.safetensors").unlink()
    with pytest.raises(InputError, match="holds no weights"):
        plan_of(folder)
    (folder / "small" / "config.json").unlink()
    with pytest.raises(InputError, match=r"holds no config\.json"):
        plan_of(folder)


@pytest.mark.parametrize("name", ["qwen-math", "reference-math"])
def test_the_shipped_hub_studies_plan_once_their_models_are_pinned(tmp_path, name):
    files = ["train/math_10k.json"]
    files += [
        f"{b}/test.json" for b in ("gsm8k", "svamp", "multiarith", "addsub", "aqua", "singleeq")
    ]
    for file in files:
        (tmp_path / "math" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "math" / file).write_text("[]")
    rows = [{"instruction": f"{i} + 1?", "input": "", "output": f"{i + 1}"} for i in range(2)]
    (tmp_path / "math" / files[0]).write_text(json.dumps(rows))
    study = read_study(Path(kdstudy.__file__).parent / "studies" / f"{name}.yaml")
    models = {ref.model for ref in (*study.teachers, *study.students)}
    plan = make_plan(study, tmp_path, tmp_path, {f"{m}@main": "0" * 40 for m in models})
    pairs = len(study.teachers) * len(study.students)
    runs = [s for s in plan.systems if s.kind == "distilled" and not s.ablation]
    assert len(runs) == pairs * (len(study.methods) - 1) * len(study.seeds)


def test_planning_imports_no_torch():
    code = (
        "import sys, kdstudy.cli, kdstudy.plan.plan, kdstudy.engine.execute, kdstudy.engine.view,"
        "kdstudy.config.read, kdstudy.evaluation.stages;"
        "sys.exit(bool({'torch', 'transformers', 'pandas', 'datasets'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_words_of_rouge_are_in_a_key_only_where_they_are_not_the_published_ones(folder):
    before = plan_of(folder)
    assert plan_of(folder, rouge_tokenizer="rouge-score").stages.keys() == before.stages.keys()
    others = {kind for kind, _ in changed(before, plan_of(folder, rouge_tokenizer="unicode"))}
    assert others == {"compare", "results", "report"}, "no benchmark is of free texts"
    (folder / "items.jsonl").write_text('{"question": "a", "references": ["b"]}\n')
    own = {"benchmarks": [{"name": "own", "path": "items.jsonl", "kind": "text"}]}
    after = changed(plan_of(folder, **own), plan_of(folder, rouge_tokenizer="unicode", **own))
    assert {kind for kind, _ in after} == {"score", "compare", "results", "report"}
