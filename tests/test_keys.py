"""Stage keys of whole studies, pinned: a refactor must leave every finished stage of a store valid.

A line of `golden/keys.txt` is a study, a kind of stage, how many there are, and the hash of their
labels and keys. After a change that is meant to move some (a stage's version, the shipped models,
the synthetic generator): `python tests/test_keys.py`, and say why in the commit.
"""

import contextlib
import dataclasses
import hashlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from study_folder import model_folder, plan_of, write_folder

import kdstudy
from kdstudy.config.read import read_study
from kdstudy.evaluation.kinds import LikelihoodConfig
from kdstudy.models.kinds import Named
from kdstudy.plan.plan import Plan, make_plan
from kdstudy.stage import Stage, kinds

GOLDEN = Path(__file__).parent / "golden" / "keys.txt"
METHODS = ["sft", "seqkd", "word_kd", {"type": "revkd", "start": "sft"}, "gkd", "onpolicy_revkl"]
FIXED = {"train": {"precision": "float32"}}


def demo(folder: Path) -> Plan:
    study = read_study(Path(kdstudy.__file__).parent / "studies" / "demo.yaml")
    train = study.train.model_copy(update={"precision": "float32"})
    return make_plan(study.model_copy(update={"train": train}), folder, None, {})


def paper_scale(folder: Path) -> Plan:
    """Two fine-tuned teachers, two students, every published method and ablation, three seeds."""
    made = {
        "temperature": {"methods": ["word_kd", "revkd"], "values": [1, 2, 5]},
        "noise": {"methods": ["word_kd"], "values": [0, 1, 2, 5]},
        "base_teacher": {"methods": ["word_kd"]},
    }
    methods = ["sft", "seqkd", "word_kd", "revkd", "gkd"]
    model_folder(folder / "other")
    return plan_of(
        write_folder(folder), teachers=["./big", "./other"], methods=methods, ablations=made,
        seeds=[0, 1, 2], **FIXED,
    )  # fmt: skip


def ablations(folder: Path) -> Plan:
    """Fields of a method and of training varied, for one of two students."""
    varied = [
        {"vary": "beta", "values": [0.1, 0.9], "methods": ["gkd"]},
        {"vary": "train.learning_rate", "values": [1e-3, 1e-4], "methods": ["word_kd", "seqkd"]},
    ]
    chosen = {"students": ["./small"], "vary": varied}
    return plan_of(
        write_folder(folder), methods=METHODS, ablations=chosen, teacher_train={"epochs": 7},
        **FIXED,
    )  # fmt: skip


def two_teachers(folder: Path) -> Plan:
    """One as it is and one fine-tuned; a cut student; free texts; all that a key may hold."""
    write_folder(folder)
    sizes = {"model_type": "qwen2", "num_hidden_layers": 4, "intermediate_size": 64}
    (folder / "big" / "config.json").write_text(json.dumps(sizes))
    (folder / "items.jsonl").write_text('{"question": "a", "references": ["b"]}\n')
    cut = {"model": "./big", "layers": 2, "by": "influence", "intermediate": 32}
    return plan_of(
        folder,
        students=[cut, {"model": "./small", "trust_remote_code": True}],
        teachers=[{"model": "./medium", "finetune": False}, "./big"],
        benchmarks=["synth_addsub", {"name": "own", "path": "items.jsonl", "kind": "text"}],
        methods=METHODS,
        ablations={},
        rouge_tokenizer="unicode",
        template="chat",
        template_arguments={"enable_thinking": False},
        limit=5,
        **FIXED,
    )


def likelihood(folder: Path) -> Plan:
    """A benchmark answered in text, and one whose options are scored."""
    write_folder(folder)
    row = {"question": "One?", "options": ["a", "b"], "answer": "B"}
    (folder / "choices.jsonl").write_text(json.dumps(row) + "\n")
    own = {"name": "own", "path": "choices.jsonl", "kind": "choice", "scoring": "likelihood"}
    return plan_of(folder, benchmarks=[own, "synth_addsub"], ablations={}, **FIXED)


def shots(folder: Path) -> Plan:
    """Exemplars, stop strings, thoughts and a published filter."""
    write_folder(folder)
    rows = [{"question": f"What is {i} and {i}?", "answer": f"#### {2 * i}"} for i in (1, 2)]
    (folder / "shots.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    few = {"name": "synth_addsub", "shots": 2, "exemplars": "shots.jsonl", "stop": ["What"]}
    thinks = {"name": "synth_svamp", "thinking": True, "scoring": "strict"}
    return plan_of(folder, benchmarks=[few, thinks], ablations={}, **FIXED)


def variants(folder: Path) -> Plan:
    """Items asked again in every way that must not matter."""
    every = ["numbers", "names", "irrelevant", "irrelevant_number", "template"]
    return plan_of(
        write_folder(folder), benchmarks=[{"name": "synth_addsub", "variants": every}],
        ablations={}, **FIXED,
    )  # fmt: skip


def drafts(folder: Path) -> Plan:
    """A choice among a teacher's drafts, and general text that is replayed."""
    write_folder(folder)
    rows = [{"prompt": f"{i}?", "completion": f"{i}", "answer": str(i)} for i in range(10)]
    for name, lines in (("rows", rows), ("general", rows[::-1])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in lines))
    chosen = {"type": "seqkd", "drafts": 2, "sampling_temperature": 1, "choose": "likeliest"}
    return plan_of(
        folder, methods=["sft", chosen], ablations={}, replay={"path": "general.jsonl"},
        train={"precision": "float32", "replay_weight": 0.5},
    )  # fmt: skip


def failed(folder: Path) -> Plan:
    """A teacher that rewrites what its student fails, as it comes and after sft."""
    write_folder(folder)
    rows = [{"prompt": f"{i}?", "completion": f"{i}", "answer": str(i)} for i in range(10)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    asked = [
        {"type": "seqkd", "rows": "failed"},
        {"type": "seqkd", "rows": "failed", "start": "sft"},
    ]
    return plan_of(folder, methods=["sft", *asked], ablations={}, **FIXED)


def asked_again(folder: Path) -> Plan:
    """What the loss statement measures beyond the rest."""
    asked = {"own_text_items": 20, "reasoning_items": 30, "memory_rows": 9}
    return plan_of(write_folder(folder), statement=asked, ablations={}, **FIXED)


STUDIES: dict[str, Callable[[Path], Plan]] = {
    "demo": demo,
    "paper_scale": paper_scale,
    "ablations": ablations,
    "two_teachers": two_teachers,
    "likelihood": likelihood,
    "shots": shots,
    "drafts": drafts,
    "failed": failed,
    "variants": variants,
    "asked_again": asked_again,
}


def pinned(stage: Stage) -> str:
    """Return a stage's key; of a report, which quotes the whole study, that of what it reads."""
    return dataclasses.replace(stage, config={}).key if stage.kind == "report" else stage.key


def lines(name: str, folder: Path) -> list[str]:
    kinds: dict[str, list[str]] = {}
    for stage in STUDIES[name](folder).stages.values():
        kinds.setdefault(stage.kind, []).append(f"{stage.label} {pinned(stage)}")
    return [f"{name} {kind} {len(found)} {_digest(found)}" for kind, found in sorted(kinds.items())]


def _digest(found: list[str]) -> str:
    return hashlib.sha256("\n".join(sorted(found)).encode()).hexdigest()


def test_the_keys_of_whole_studies_are_the_golden_ones(tmp_path):
    want = GOLDEN.read_text().splitlines()
    for name in STUDIES:
        (tmp_path / name).mkdir()
        assert lines(name, tmp_path / name) == [w for w in want if w.split()[0] == name]


def test_the_pinned_studies_have_every_kind_of_stage():
    assert {line.split()[1] for line in GOLDEN.read_text().splitlines()} == set(kinds())


@pytest.mark.parametrize(
    "name",
    ["paper_scale", "two_teachers", "likelihood", "drafts", "failed", "variants", "asked_again"],
)
def test_a_stage_reads_what_its_key_hashes_and_no_other_name(tmp_path, name):
    for stage in {s.kind: s for s in STUDIES[name](tmp_path).stages.values()}.values():
        told = json.loads(json.dumps(stage.config))  # as a manifest or another process has it
        config = kinds()[stage.kind].config
        assert json.loads(json.dumps(config.of(told).hashed())) == told
        with pytest.raises(TypeError, match="unexpected keyword argument 'sead'"):
            config.of(told | {"sead": 1})
        for field in dataclasses.fields(config):
            needed = {field.default, field.default_factory} == {dataclasses.MISSING}
            with pytest.raises(TypeError) if needed else contextlib.nullcontext():
                config.of({k: v for k, v in told.items() if k != field.name})


def test_a_field_with_a_default_is_in_no_key_until_it_has_another_value():
    model = Named(name="a", fingerprint="1")
    assert model.hashed() == {"name": "a", "fingerprint": "1"}
    own = dataclasses.replace(model, trust_remote_code=True)
    assert own.hashed() == model.hashed() | {"trust_remote_code": True}
    said = LikelihoodConfig(model=own, items="b", scoring={}, precision="float32").hashed()
    assert said["model"] == own.hashed() and LikelihoodConfig.of(said).model == own


if __name__ == "__main__":
    found = []
    for name in STUDIES:
        with tempfile.TemporaryDirectory() as folder:
            found += lines(name, Path(folder))
    GOLDEN.write_text("\n".join(found) + "\n")
