"""Tasks of lm-evaluation-harness as benchmarks: the same requests, choices, texts and grades.

`python tests/test_harness_tasks.py`, with its 0.4.13 installed beside kdstudy, writes what the
harness itself finds on the tasks below anew.
"""

import json
import re
import sys
from pathlib import Path

import pytest
from harness_tasks import CHOICES, ROWS, SUMS, TASKS, write
from refusals import call
from study_folder import plan_of, write_folder

from kdstudy import evaluate
from kdstudy.config.refs import BenchmarkRef
from kdstudy.config.schema import Generation as Settings
from kdstudy.data.prompts import PromptFormat
from kdstudy.errors import InputError, StageError
from kdstudy.evaluation import benchmarks, graders
from kdstudy.evaluation.asking import Asking, Endings
from kdstudy.evaluation.benchmarks.base import Benchmark
from kdstudy.evaluation.benchmarks.harness import HarnessTask, label_of
from kdstudy.evaluation.generate import generate
from kdstudy.evaluation.likelihoods import of_benchmark
from kdstudy.evaluation.score import score
from kdstudy.measures import MEASURES
from kdstudy.measures.cell import cells_of
from kdstudy.models import zoo
from kdstudy.records import Example, Generation

RECORD = Path(__file__).parent / "golden" / "harness_tasks.json"

NEEDED = "lm_eval is not here: pip install 'kdstudy[harness]'"


def harness(folder: Path, scratch: Path) -> dict:
    """Return what the harness asks and finds, by task, in the order of documents."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    write(scratch)
    manager = TaskManager(include_path=str(scratch), include_defaults=False)
    model = HFLM(pretrained=str(folder), dtype="float32", device="cpu", batch_size=3)
    found = {}
    for name in TASKS:
        task = f"kdstudy_{name}"
        result = lm_eval.simple_evaluate(
            model=model, tasks=[task], task_manager=manager, log_samples=True, bootstrap_iters=0
        )
        rows = [{} for _ in ROWS[TASKS[name][0]]]
        for sample in result["samples"][task]:
            row = rows[sample["doc_id"]]
            row |= {"hash": sample["doc_hash"], "target": str(sample["target"])}
            row["arguments"] = [list(argument)[:2] for argument in sample["arguments"]]
            if "acc" in sample:
                row["logprobs"] = [float(one[0]) for one in sample["filtered_resps"]]
                row |= {k: float(sample[k]) for k in ("acc", "acc_norm") if k in sample}
            else:
                row["arguments"] = sample["arguments"][0][0]
                row["text"] = sample["resps"][0][0]
                row[sample["filter"]] = [sample["filtered_resps"][0], sample["exact_match"]]
        found[name] = rows
    return found


@pytest.fixture(scope="module")
def opened():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = zoo.path("zoo-xs")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
    return model, AutoTokenizer.from_pretrained(folder)


def recorded():
    return json.loads(RECORD.read_text(encoding="utf-8"))["found"]


def as_recorded(name: str) -> Benchmark:
    """Return a task's items as their record has them: what `HarnessTask` makes of the task."""
    examples = []
    for row, doc in zip(recorded()[name], ROWS[TASKS[name][0]], strict=True):
        if "logprobs" in row:
            texts = doc.get("options") or [pair[0] for pair in row["arguments"]]
            options = [[*pair, text] for pair, text in zip(row["arguments"], texts, strict=True)]
            answer, request = label_of(doc.get("label", doc.get("answer"))), {"options": options}
        else:
            answer, request = row["target"], {"prompt": row["arguments"]}
        request = json.dumps(request, ensure_ascii=False)
        made = {"id": row["hash"][:16], "answer": answer, "request": request}
        examples.append(Example(**made, instruction=doc.get("question", "a / b")))
    return Benchmark(name=name, version="1", kind="choice", chance=0.0, examples=tuple(examples))


def require_choices(whole: Benchmark, found: list, model, tokenizer) -> None:
    grader = graders.of_benchmark(None, whole)
    rows = of_benchmark(model, tokenizer, whole, grader)
    scores = score(rows, whole, "corrected", grader=grader)
    (cell,) = cells_of("x", scores).values()
    norm = MEASURES["acc_norm"].per_item(cell)
    for mine, theirs in zip(scores, found, strict=True):
        assert mine.option_logprobs == pytest.approx(theirs["logprobs"], abs=1e-4)
        assert mine.quality == theirs["acc"]
        right = norm[cell.ids.index(mine.example_id)]
        assert right == theirs.get("acc_norm", right)


def texts_of(whole: Benchmark, stop: tuple[str, ...], model, tokenizer) -> dict[str, Generation]:
    how = Asking(shots_as="bare", endings=Endings(stop=stop))
    items = [(whole.name, how.put(e)) for e in whole.examples]
    made, settings = how.format(PromptFormat()), Settings(max_new_tokens=24)
    batches = generate(model, tokenizer, items, made, settings, endings=how.endings)
    return {row.example_id: row for batch in batches for row in batch}


@pytest.mark.parametrize("name", ["plain", "few", "described", "blanks"])
def test_choices_are_those_that_were_recorded_of_the_harness(opened, name):
    require_choices(as_recorded(name), recorded()[name], *opened)


@pytest.mark.parametrize("name", ["sums", "sums_few"])
def test_texts_are_those_that_were_recorded_of_the_harness(opened, name):
    whole = as_recorded(name)
    texts = texts_of(whole, ("Question:", "."), *opened)
    said = [texts[e.id].completion for e in whole.examples]
    assert said == [row["text"] for row in recorded()[name]]


@pytest.mark.parametrize("name", TASKS)
def test_items_are_the_requests_of_the_harness(tmp_path, name):
    pytest.importorskip("lm_eval", reason=NEEDED)
    made = HarnessTask(name, str(write(tmp_path, name))).load(None)
    wanted = as_recorded(name)
    for field in ("id", "answer", "request"):
        assert [getattr(e, field) for e in made.examples] == [
            getattr(e, field) for e in wanted.examples
        ]
    shown = [e.instruction for e in made.examples]
    if name != "blanks":
        assert shown == [row["question"] for row in ROWS[TASKS[name][0]]]


def test_the_harness_itself_finds_the_same(tmp_path, opened):
    pytest.importorskip("lm_eval", reason=NEEDED)
    found = harness(zoo.path("zoo-xs"), tmp_path)
    rights = 0
    for name in TASKS:
        task = HarnessTask(name, str(tmp_path / f"{name}.yaml"))
        whole = task.load(None)
        if task.chooses:
            require_choices(whole, found[name], *opened)
            continue
        texts = texts_of(whole, task.stop, *opened)
        for filter_ in set(found[name][0]) & {"last", "whole"}:
            grader = graders.of_benchmark({"type": "harness", "filter": filter_}, whole)
            scores = score(texts.values(), whole, "corrected", grader=grader)
            for mine, theirs in zip(scores, found[name], strict=True):
                assert mine.completion == theirs["text"]
                answer, right = theirs[filter_]
                assert (mine.extracted or "[invalid]", mine.quality) == (answer, float(right))
                assert mine.rule == f"harness-exact_match,{filter_}"
                rights += right
    assert rights


def test_shots_of_a_study_take_the_place_of_the_tasks(tmp_path):
    pytest.importorskip("lm_eval", reason=NEEDED)
    path = str(write(tmp_path, "few"))
    none = benchmarks.meant(BenchmarkRef.model_validate({"harness": path, "shots": 0}))
    two = HarnessTask("few", path)
    asked = [json.loads(e.request)["options"][0][0] for e in none.load(None).examples]
    assert asked == [f"Question: {row['question']}\nAnswer:" for row in CHOICES]
    assert none.fingerprint() != two.fingerprint() == HarnessTask("few", path).fingerprint()
    moved = tmp_path / "moved"
    moved.mkdir()
    assert HarnessTask("few", str(write(moved, "few"))).fingerprint() == two.fingerprint()


@pytest.mark.parametrize(
    ("name", "more", "wanted"),
    [
        ("plain", "output_type: loglikelihood_rolling\n",
         "no benchmark of a study.*type loglikelihood_rolling"),
        ("plain", "output_type: loglikelihood\n", "type loglikelihood"),
        ("sums", "repeats: 3\n", "asks every item 3 times"),
        ("sums", "unsafe_code: true\n", r"runs the code that a model writes \(unsafe_code\)"),
        ("plain", 'doc_to_target: "{{[0, 1]}}"\n', "cannot load|no one right option"),
        ("plain", "doc_to_target: \"nothing\"\n", "document 0 has no one right option"),
        ("plain", "dataset_kwargs: {data_files: {test: nowhere.jsonl}}\n",
         r"lm-evaluation-harness cannot load .*plain\.yaml"),
        ("plain", "task: 5\n", "names no task"),
        ("plain", "task: [\n", "is not YAML"),
    ],
)  # fmt: skip
def test_tasks_that_are_no_benchmarks_are_refused(tmp_path, monkeypatch, name, more, wanted):
    pytest.importorskip("lm_eval", reason=NEEDED)
    monkeypatch.delenv("HF_ALLOW_CODE_EVAL", raising=False)
    with pytest.raises(InputError) as told:
        HarnessTask("mine", str(write(tmp_path, name, more))).load(None)
    assert re.search(wanted, f"{told.value.what} {told.value.why}")


def test_a_task_that_runs_code_of_a_model_needs_a_word(tmp_path, monkeypatch):
    pytest.importorskip("lm_eval", reason=NEEDED)
    monkeypatch.setenv("HF_ALLOW_CODE_EVAL", "1")
    path = write(tmp_path, "sums", "unsafe_code: true\n")
    assert len(HarnessTask("mine", str(path)).load(None).examples) == len(SUMS)


@pytest.mark.parametrize(
    ("name", "scoring", "wanted"),
    [
        ("plain", "letter", "scoring: letter does not grade this task"),
        ("plain", "harness", "scoring: harness does not grade this task"),
        ("sums", "likelihood", "scoring: likelihood does not grade this task"),
        ("sums", {"type": "harness", "filter": "none"}, "the task has no filter 'none'"),
        ("sums", {"type": "harness", "metric": "bleu"}, "the task has no metric 'bleu'"),
    ],
)
def test_a_task_says_itself_how_it_is_graded(tmp_path, name, scoring, wanted):
    pytest.importorskip("lm_eval", reason=NEEDED)
    whole = HarnessTask("mine", str(write(tmp_path, name))).load(None)
    with pytest.raises(InputError, match=wanted):
        graders.of_benchmark(scoring, whole)


def test_a_metric_that_is_no_right_or_wrong_is_refused(tmp_path):
    pytest.importorskip("lm_eval", reason=NEEDED)
    whole = HarnessTask("mine", str(write(tmp_path, "sums"))).load(None)
    whole = whole.__class__(
        **{f: getattr(whole, f) for f in ("name", "version", "kind", "chance", "examples")},
        graded=lambda item, text, name: (text, {"f1": 0.5}, "last"),
    )
    with pytest.raises(InputError, match=r"its metric f1 is 0\.5"):
        graders.of_benchmark(None, whole)


def test_a_study_of_tasks_runs_to_its_report(tmp_path):
    """In the harness's absence nothing is planned, and that is said."""
    pytest.importorskip("lm_eval", reason=NEEDED)
    write(tmp_path)
    found = evaluate(
        "zoo-xs",
        [{"harness": str(tmp_path / "few.yaml")}, {"harness": str(tmp_path / "sums.yaml")}],
        store=tmp_path / "store",
        max_new_tokens=24,
    )
    theirs = recorded()
    few, sums = (found.metrics[name] for name in ("harness-few", "harness-sums"))
    assert few["accuracy"] == sum(row["acc"] for row in theirs["few"]) / len(theirs["few"])
    assert sums["accuracy"] == sum(row["last"][1] for row in theirs["sums"]) / len(SUMS)
    assert (few["chance"], sums["chance"]) == (
        pytest.approx((1 / 3 + 1 / 4 + 1 / 2 + 1 / 6) / 4),
        0,
    )
    said = call("eval", "--model", "zoo-xs", "--benchmark", tmp_path / "few.yaml", "--store",
                tmp_path / "store", "--json")  # fmt: skip
    assert json.loads(said.out)["benchmarks"]["harness-few"]["accuracy"] == few["accuracy"]
    rows = found.items[found.items.benchmark == "harness-sums"]
    lines = [{"id": r.example_id, "completion": r.completion} for r in rows.itertuples()]
    (tmp_path / "said.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    again = call("score", "--benchmark", tmp_path / "sums.yaml", "--generations",
                 tmp_path / "said.jsonl", "--json")  # fmt: skip
    assert json.loads(again.out)["accuracy"] == sums["accuracy"]


def test_completions_made_elsewhere_end_where_the_task_ends_them(tmp_path):
    """The task's last number behind its stop string would be 99."""
    pytest.importorskip("lm_eval", reason=NEEDED)
    path = write(tmp_path, "sums")
    ids = [e.id for e in HarnessTask("mine", str(path)).load(None).examples]
    lines = [
        {"id": i, "completion": f"{row['answer']} Question: is it 99"}
        for i, row in zip(ids, SUMS, strict=True)
    ]
    (tmp_path / "said.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    asked = ("score", "--benchmark", path, "--generations", tmp_path / "said.jsonl", "--json")
    assert json.loads(call(*asked).out)["accuracy"] == 1


CODE = """
def right(text, answer):
    return text == answer

def process_results(doc, results):
    return {"exact_match": float(right(results[0], doc["answer"]))}
"""


def test_a_task_that_changed_after_it_was_planned_grades_nothing(tmp_path):
    pytest.importorskip("lm_eval", reason=NEEDED)
    task = HarnessTask("mine", str(write(tmp_path, "sums")))
    before, told = task.load(None), task.fingerprint()
    assert task.with_grader(before, told).graded
    changes = ("num_fewshot: 1\n", "doc_to_target: '{{question}}'\n", "generation_kwargs: {}\n")
    for more in changes:
        after = HarnessTask("mine", str(write(tmp_path, "sums", more)))
        with pytest.raises(StageError, match="has changed since the study was planned"):
            after.with_grader(before, told)


def test_what_a_tasks_function_calls_and_the_harnesss_version_are_in_its_fingerprint(
    tmp_path, monkeypatch
):
    pytest.importorskip("lm_eval", reason=NEEDED)
    found = []
    for folder, code in (("a", CODE), ("b", CODE), ("c", CODE.replace("==", "in"))):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "utils.py").write_text(code)
        more = "process_results: !function utils.process_results\n"
        path = write(tmp_path / folder, "sums", more)
        found.append(HarnessTask("mine", str(path)).fingerprint())
    assert found[0] == found[1] != found[2]
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.4.99")
    assert HarnessTask("mine", str(path)).fingerprint() != found[2]


def test_a_plan_pins_a_tasks_items(tmp_path):
    pytest.importorskip("lm_eval", reason=NEEDED)
    write_folder(tmp_path)
    write(tmp_path)
    tasks = [{"harness": "few.yaml"}, {"harness": "sums.yaml", "shots_as": "text", "name": "s"}]
    plan = plan_of(tmp_path, benchmarks=tasks, ablations={})
    kinds = {(s.kind, s.config["items"]) for s in plan.stages.values() if "items" in s.config}
    assert kinds >= {("likelihood", "harness-few"), ("generate", "s")}
    (asked,) = {
        json.dumps(s.config["asking"]) for s in plan.stages.values() if s.kind == "generate"
    }
    assert json.loads(asked) == {"shots_as": "text", "stop": ["Question:", "."]}
    with pytest.raises(InputError, match="stop, thinking and shots_as are of generated answers"):
        plan_of(tmp_path, benchmarks=[{"harness": "few.yaml", "stop": ["a"]}], ablations={})


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"path": "x.jsonl", "kind": "number"}, "give harness or path, not both"),
        ({"exemplars": "x.jsonl"}, "exemplars and words of a task are its own"),
        ({"question": "{question}"}, "exemplars and words of a task are its own"),
        ({"shots_as": "turns"}, "a task's prompt is one text"),
    ],
)
def test_fields_that_a_task_has_itself_are_refused(fields, wanted):
    with pytest.raises(ValueError, match=wanted):
        BenchmarkRef.model_validate({"harness": "arc_easy", **fields})


@pytest.mark.parametrize(
    ("task", "wanted"),
    [("mmlu", "mmlu is a group of tasks"), ("no_such", "has no task no_such")],
)
def test_names_that_are_no_task_are_refused(task, wanted):
    pytest.importorskip("lm_eval", reason=NEEDED)
    with pytest.raises(InputError, match=wanted):
        HarnessTask("mine", task).load(None)


def test_a_task_needs_the_harness_and_a_name_of_its_own(tmp_path, monkeypatch):
    assert BenchmarkRef.model_validate({"harness": "a/arc_easy.yaml"}).name == "harness-arc_easy"
    with pytest.raises(InputError, match="piqa: is the name of a known benchmark"):
        benchmarks.meant(BenchmarkRef(name="piqa", harness="piqa"))
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    with pytest.raises(InputError) as told:
        plan_of(write_folder(tmp_path), benchmarks=[{"harness": "arc_easy"}], ablations={})
    assert "lm-evaluation-harness cannot be imported" in told.value.what
    assert told.value.remedy == "pip install 'kdstudy[harness]'"


if __name__ == "__main__":
    import tempfile
    from importlib.metadata import version

    with tempfile.TemporaryDirectory() as scratch:
        made = harness(zoo.path("zoo-xs"), Path(scratch))
    whole = {"lm_eval": version("lm_eval"), "model": "zoo-xs", "found": made}
    RECORD.write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
