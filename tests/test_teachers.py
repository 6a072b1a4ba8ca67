"""A run learns from a tuple of teachers: what it is called, compared with, and stored as."""

import dataclasses
import json

import pandas as pd
import pytest
from study_folder import model_folder, plan_of, write_folder

from kdstudy.analysis.results import with_teacher
from kdstudy.artifacts import Corpus
from kdstudy.compared_pairs import compared_pairs
from kdstudy.data.formats import to_example
from kdstudy.distill.hub import Origin, card
from kdstudy.errors import InputError
from kdstudy.plan.grid import distilled
from kdstudy.records import System, joined, parted, renamed

A, B = (System(label=f"{m}/teacher", kind="teacher", model=m, method="sft") for m in "ab")
SFT = System(label="s/sft", kind="sft", model="s", method="sft")


def test_one_teacher_is_stored_as_older_stores_have_it():
    one = System(label="s/gkd/a", kind="distilled", model="s", teachers=("a/teacher",))
    old = {"label": "s/gkd/a", "kind": "distilled", "model": "s", "teacher": "a/teacher"}
    rest = {"method": "", "ablation": "", "setting": "", "temperature": 1.0, "noise": 0.0}
    assert one.row == old | rest | {"seed": 0}
    assert System.of(old) == one
    assert A.row["teacher"] == "" and System.of(A.row) == A


def test_several_teachers_come_back_in_their_order():
    both = System(label="x", kind="distilled", model="s", teachers=("b/teacher", "a/teacher"))
    assert System.of(json.loads(json.dumps(both.row))) == both
    assert both.taught_by == "b/teacher + a/teacher"
    assert parted(both.taught_by) == [*both.teachers] and parted("") == []


def test_the_runs_of_teachers_together_name_all_of_them(tmp_path):
    study = plan_of(write_folder(tmp_path)).study
    runs = distilled(study, "s", [A, B], 0, "", ablated=True)
    labels = {run.system.label: run.system.teachers for run in runs}
    assert labels["s/gkd/a + b"] == ("a/teacher", "b/teacher")
    assert labels["s/word_kd/a + b/base-teacher"] == ("a", "b")
    assert {run.system.label.split("/")[2] for run in runs} == {joined("ab")}


def together(folder, *entries, methods=("sft", "word_kd"), **fields):
    """Return a plan's train stages of students that teachers teach, by label."""
    plan = plan_of(
        folder,
        teachers=[*entries],
        students=["./small"],
        methods=[*methods],
        ablations={},
        **fields,
    )
    stages = plan.stages
    return plan, {s: stages[key] for s, key in plan.trained.items() if s.count("/") > 1}


BOTH = ["./big", "./medium"]


def test_a_pair_shares_teachers_and_caches_with_runs_of_one(tmp_path):
    plan, runs = together(write_folder(tmp_path), "./big", BOTH)
    one, pair = runs["small/word_kd/big"], runs["small/word_kd/big + medium"]
    trained = plan.trained
    assert one.inputs["teacher"] == trained["big/teacher"]
    assert {k: v for k, v in pair.inputs.items() if k != "corpus"} == {
        "teacher:0": trained["big/teacher"], "teacher:1": trained["medium/teacher"],
    }  # fmt: skip
    assert pair.aids["teacher_cache:0"] == one.aids["teacher_cache"]
    assert plan.stages[pair.aids["teacher_cache:1"]].label == "medium/teacher on corpus"
    assert [t["name"] for t in pair.config["teachers"]] == ["big", "medium"]
    assert pair.config["together"] == {"mixture": "arithmetic", "weights": (0.5, 0.5)}
    assert "teacher" not in pair.config and "teachers" not in one.config
    assert sum(s.kind == "teacher_cache" for s in plan.stages.values()) == 2


def test_only_a_weights_share_counts_and_each_mixture_has_a_name(tmp_path):
    write_folder(tmp_path)
    named = {
        "": {"weights": [2, 2]},
        " [geometric]": {"mixture": "geometric", "weights": "equal"},
        " [arithmetic, weights 0.75 0.25]": {"weights": [3, 1]},
        " [geometric, weights per row]": {"mixture": "geometric", "weights": "per_row"},
    }
    _, runs = together(tmp_path, *({"together": BOTH} | fields for fields in named.values()))
    assert [*runs] == [f"small/word_kd/big + medium{name}" for name in named]
    assert len({run.key for run in runs.values()}) == 4
    _, again = together(tmp_path, {"together": BOTH, "weights": [0.3, 0.1]}, BOTH)
    for name in ("", " [arithmetic, weights 0.75 0.25]"):
        label = f"small/word_kd/big + medium{name}"
        assert again[label].key == runs[label].key
    assert runs[label].config["together"]["weights"] == (0.75, 0.25)


ROUTE = {"together": BOTH, "route": {"sum": "./big", "product": "./medium", "quotient": "./big"}}


def tagged(folder, *tags):
    write_folder(folder)
    rows = [
        {"prompt": f"What is {i} and {i}?", "completion": f"{i}", "topic": tags[i % len(tags)]}
        for i in range(12)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"path": "rows.jsonl", "validation_rows": 2, "columns": {"tag": "topic"}}


def test_a_route_goes_by_tags_and_may_teach_by_text(tmp_path):
    corpus = tagged(tmp_path, *ROUTE["route"])
    plan, runs = together(tmp_path, ROUTE, methods=["sft", "seqkd", "gkd"], corpus=corpus)
    run = runs["small/gkd/big + medium [by tag]"]
    assert run.config["together"] == {"route": {"sum": 0, "product": 1, "quotient": 0}}
    text = runs["small/seqkd/big + medium [by tag]"]
    assert {plan.stages[v].label for k, v in text.inputs.items() if k.startswith("teacher_t")} == {
        "big/teacher on corpus", "medium/teacher on corpus",
    }  # fmt: skip
    (system,) = [s for s in plan.systems if s.label == run.label]
    assert system.taught_by == "big/teacher + medium/teacher [by tag]"
    assert System.of(json.loads(json.dumps(system.row))) == system
    assert parted(system.taught_by) == [*system.teachers]
    assert renamed(system.taught_by, str.upper) == "BIG/TEACHER + MEDIUM/TEACHER [by tag]"


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        (("sum", "logic"), r"rows, row 2: no teacher for its tag 'logic'"),
        (("sum", "product"), r"the tag 'quotient', which no row of the corpus has"),
        (("sum", ""), r"rows.jsonl, line 2: its tag is empty \(column topic\)"),
        (("sum", None), r"rows.jsonl, line 2: its tag is empty"),
        (("sum", [1]), r"rows.jsonl, line 2: its tag is a list"),
    ],
)
def test_a_tag_without_a_teacher_is_refused_with_its_row(tmp_path, tags, said):
    corpus = tagged(tmp_path, *tags)
    with pytest.raises(InputError, match=said):
        together(tmp_path, ROUTE, corpus=corpus)


def test_a_column_of_tags_that_no_row_has_is_refused(tmp_path):
    corpus = tagged(tmp_path, "sum") | {"columns": {"tag": "topics"}}
    with pytest.raises(InputError, match="has no column topics"):
        together(tmp_path, ROUTE, corpus=corpus)


def test_teachers_of_unlike_vocabularies_do_not_teach_together(tmp_path):
    write_folder(tmp_path)
    model_folder(tmp_path / "foreign", vocabulary="xyz")
    said = "big and foreign teach together and have different tokenizers"
    with pytest.raises(InputError, match=said):
        together(tmp_path, ["./big", "./foreign"])


def test_tags_are_read_where_they_are_asked_for_alone(tmp_path):
    row = {"prompt": "a", "completion": "b", "tag": "x", "topic": 3}
    assert to_example(row, "here")[0].tag == ""
    assert to_example(row, "here", {"tag": "topic"})[0].tag == "3"
    columns = {"tag": "tag", "prompt": "topic"}
    found, _ = to_example(row | {"topic": "q"}, "here", columns)
    assert (found.tag, found.instruction) == ("x", "q")
    plain = Corpus(tmp_path)
    plain.train.write([to_example(row, "here")[0]])
    assert "tag" not in plain.train.path.read_bytes().decode("latin-1")


def test_a_run_is_compared_with_each_of_its_teachers_and_so_is_its_sft_run():
    run = System(label="r", kind="distilled", model="s", teachers=("a/teacher", "b/teacher"))
    expected = {("r", "a/teacher"), ("r", "b/teacher"), ("r", "s/sft")}
    expected |= {("s/sft", "a/teacher"), ("s/sft", "b/teacher")}
    assert set(compared_pairs([A, B, SFT, run])) == expected
    ablated = dataclasses.replace(run, ablation="noise")
    assert set(compared_pairs([A, B, SFT, ablated])) == {
        ("r", "a/teacher"), ("r", "b/teacher"), ("r", "s/sft"),
    }  # fmt: skip


def test_a_row_of_a_table_is_with_a_teacher_whichever_it_is():
    rows = [("a + b", "b", True), ("a + b", "s/sft", False), ("a", "b", False), ("", "", False)]
    table = pd.DataFrame(rows, columns=["teacher", "reference", "expected"], index=[7, 3, 5, 1])
    pd.testing.assert_series_equal(with_teacher(table), table.expected, check_names=False)


@pytest.mark.parametrize(
    ("teachers", "said"),
    [
        ((), "by the method `gkd`."),
        (("a",), "by the method `gkd` from the teacher `a`."),
        (("a", "b"), "by the method `gkd` from the teachers `a` and `b`."),
    ],
)
def test_a_card_names_every_teacher(teachers, said):
    origin = Origin(base="org/base", teachers=teachers, method={"method": "gkd"}, adapter=False)
    assert said in card(origin, "label", "repo", {}, [], [], license=None)


CHAIN = {"type": "word_kd", "generations": 3, "start": "sft"}


def test_each_generation_learns_from_the_one_before_in_a_stage_of_its_own(tmp_path):
    write_folder(tmp_path)
    plan, runs = together(tmp_path, "./big", methods=["sft", CHAIN], seeds=[0, 1])
    for seed in (0, 1):
        name, tail = "small/word_kd-from-sft/big", f"/seed={seed}"
        labels = [f"{name}{part}{tail}" for part in ("", "/generation=2", "/generation=3")]
        taught_by = [runs[label].inputs["teacher"] for label in labels]
        assert taught_by == [plan.trained[s] for s in ("big/teacher", labels[0], labels[1])]
        for label, teacher in zip(labels[1:], ("small", "small"), strict=True):
            run = runs[label]
            assert run.config["teacher"]["name"] == teacher == run.config["student"]["name"]
            assert run.inputs["start"] == plan.trained[f"small/sft{tail}"]
            cache = plan.stages[run.aids["teacher_cache"]]
            assert cache.inputs["teacher"] == run.inputs["teacher"]
        systems = [next(s for s in plan.systems if s.label == label) for label in labels]
        assert {s.taught_by for s in systems} == {"big/teacher"}
        assert [s.ablation for s in systems] == ["", "generations", "generations"]
        assert [s.setting for s in systems] == [f"generations={n}" for n in (1, 2, 3)]
        assert [s.own_teachers for s in systems] == [("big/teacher",), *((x,) for x in labels[:2])]
        assert [System.of(json.loads(json.dumps(s.row))) for s in systems] == systems
    # What a chain is does not change its first run, nor how long it is the others.
    _, plain = together(
        tmp_path, "./big", methods=["sft", CHAIN | {"generations": 1}], seeds=[0, 1]
    )
    _, shorter = together(
        tmp_path, "./big", methods=["sft", CHAIN | {"generations": 2}], seeds=[0, 1]
    )
    for label, run in (plain | shorter).items():
        assert runs[label].key == run.key


def test_a_born_again_network_learns_from_its_own_fine_tuning(tmp_path):
    write_folder(tmp_path)
    chain = [{"type": "word_kd", "generations": 2}, "seqkd"]
    plan, runs = together(tmp_path, "./small", methods=["sft", *chain])
    assert runs["small/word_kd/small"].inputs["teacher"] == plan.trained["small/teacher"]
    # The teacher is the student's own sft run, which is trained once.
    assert plan.trained["small/teacher"] == plan.trained["small/sft"]
    own = runs["small/word_kd/small/generation=2"].inputs["teacher"]
    assert own == plan.trained["small/word_kd/small"]


@pytest.mark.parametrize(
    "method", [{"start": "sft"}, {"hard_label_weight": 0.5}, {"noise": 1.0}, {"start": {"sft": 2}}]
)
def test_a_students_own_base_teaches_what_has_left_it(tmp_path, method):
    base = {"model": "./small", "finetune": False}
    method = {"type": "word_kd"} | method
    plan, runs = together(write_folder(tmp_path), base, methods=["sft", method])
    (run,) = runs.values()
    assert "teacher" not in run.inputs and run.config["teacher"] == run.config["student"]
    assert {s.kind for s in plan.systems if s.label == "small"} == {"teacher"}
    with pytest.raises(InputError, match="is its own teacher, as it is"):
        together(tmp_path, base, methods=["sft", "word_kd"])


def test_a_students_own_base_is_no_idle_teacher_beside_another(tmp_path):
    own = {"model": "./small", "finetune": False}
    _, runs = together(write_folder(tmp_path), ["./big", own])
    assert [t["name"] for t in runs["small/word_kd/big + small"].config["teachers"]] == [
        "big", "small",
    ]  # fmt: skip
    route = {"together": ["./big", own], "route": {"a": "./big", "b": "./small"}}
    corpus = {"path": "rows.jsonl", "validation_rows": 2, "columns": {"tag": "topic"}}
    with pytest.raises(InputError, match="is its own teacher, as it is"):
        together(tmp_path, route, corpus=corpus)


def test_a_cut_student_teaches_its_next_generation(tmp_path):
    write_folder(tmp_path)
    sizes = {"model_type": "qwen2", "num_hidden_layers": 4, "intermediate_size": 64}
    (tmp_path / "big" / "config.json").write_text(json.dumps(sizes))
    plan = plan_of(
        tmp_path, teachers=["./medium"], students=[{"model": "./big", "layers": 2}],
        methods=["sft", {"type": "gkd", "generations": 2}], ablations={},
    )  # fmt: skip
    run = plan.stages[plan.trained["big[2 layers]/gkd/medium/generation=2"]]
    assert run.inputs["cut:teacher"] == run.inputs["cut:student"]
    cache = plan.stages[run.aids["teacher_cache"]]
    assert cache.inputs["cut:teacher"] == run.inputs["cut:student"]
    assert run.local["models"]["teacher"]["folder"] is None


def test_mixed_teachers_begin_a_chain(tmp_path):
    method = {"type": "word_kd", "generations": 2}
    plan, runs = together(write_folder(tmp_path), BOTH, methods=["sft", method])
    later = runs["small/word_kd/big + medium/generation=2"]
    assert later.inputs["teacher"] == plan.trained["small/word_kd/big + medium"]
    assert "together" not in later.config


CONTEXT = "{instruction}\n\nA worked answer:\n{response}\n\nNow answer in your own words."
TOLD = {"model": "./small", "finetune": False, "context": CONTEXT}


def test_a_context_is_the_teachers_alone_and_has_a_cache_of_its_own(tmp_path):
    base = {"model": "./big", "finetune": False}
    write_folder(tmp_path)
    _, plain = together(tmp_path, base)
    plan, runs = together(tmp_path, base | {"context": CONTEXT})
    one, told = plain["small/word_kd/big"], runs["small/word_kd/big"]
    assert told.config == one.config | {"context": CONTEXT}
    cache = plan.stages[told.aids["teacher_cache"]]
    assert cache.config["context"] == CONTEXT
    assert cache.key != one.aids["teacher_cache"]
    assert plan.stages[plan.trained["small/sft"]].config.get("context") is None
    # Who is told more can teach itself, as it is.
    _, runs = together(tmp_path, TOLD, methods=["sft", "gkd"])
    assert runs["small/gkd/small"].config["context"] == CONTEXT


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"teachers": [TOLD | {"context": "{instruction}"}]}, r"context: has no \{response\} in"),
        ({"teachers": [TOLD | {"context": "x"}]}, r"no \{instruction\} and no \{response\}"),
        ({"teachers": ["./big"], "students": [TOLD]}, "students: ./small has a context"),
        ({"teachers": [["./big", TOLD]], "students": ["./medium"]}, "several together has a cont"),
        ({"teachers": [TOLD], "train": {"loss_tokens": "all"}}, "all scores tokens of the prompt"),
        ({"teachers": [TOLD], "methods": ["seqkd"]}, "seqkd learns a text that the teacher writes"),
    ],
)
def test_a_context_that_nobody_could_read_is_refused(tmp_path, fields, said):
    given = {"methods": ["gkd"], "students": ["./small"], "ablations": {}} | fields
    with pytest.raises(InputError, match=said):
        plan_of(write_folder(tmp_path), **given)
