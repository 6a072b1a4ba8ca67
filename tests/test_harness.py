"""Choice by likelihood against lm-evaluation-harness: words, log-probabilities, choices.

`python tests/test_harness.py`, with its 0.4.13 installed beside kdstudy, writes what it finds anew.
Items are invented, in the two forms that both programs read; the harness runs its own task files.
"""

import json
from pathlib import Path

import pytest
import torch

from kdstudy.evaluation import benchmarks
from kdstudy.evaluation.graders import chosen
from kdstudy.evaluation.likelihoods import of_benchmark
from kdstudy.evaluation.options import asked
from kdstudy.evaluation.score import score
from kdstudy.models import zoo

RECORD = Path(__file__).parent / "golden" / "harness.json"
ANSWER = "Please choose the correct answer to the question: "


def _numbered(lead, question, stem, texts, answer, between=" "):
    listed = between.join(f"{stem}{n}: {text}" for n, text in enumerate(texts, 1))
    name = stem.lower()
    names = "/".join(f"{name}{n}" for n in range(1, len(texts) + 1))
    whole = f"{lead}{question}\n\n{listed}\n\nAnswer format: {names}"
    return {"instruction": whole, "answer": f"{name}{answer}"}


def _arc(question, texts, answer):
    names = list("ABCDE")[: len(texts)]
    doc = {"choices": {"text": texts, "label": names}, "answerKey": names[answer - 1]}
    return _numbered(ANSWER, question, "Answer", texts, answer), doc | {"question": question}


def _obqa(question, texts, answer):
    row, doc = _arc(question, texts, answer)
    return row, {"question_stem": doc.pop("question"), **doc}


def _piqa(goal, texts, answer):
    lead = "Please choose the correct solution to the question: "
    doc = {"goal": goal, "sol1": texts[0], "sol2": texts[1], "label": answer - 1}
    return _numbered(lead, goal, "Solution", texts, answer, "\n\n"), doc


def _siqa(context, question, texts, answer):
    doc = dict(zip(("answerA", "answerB", "answerC"), texts, strict=True))
    doc |= {"context": context, "question": question, "label": str(answer)}
    return _numbered(ANSWER, f"{context} {question}", "Answer", texts, answer), doc


def _hellaswag(activity, ctx_a, ctx_b, texts, answer):
    lead = "Please choose the correct ending to complete the given sentence: "
    ctx = f"{ctx_a} {ctx_b}".strip()
    doc = {"activity_label": activity, "ctx_a": ctx_a, "ctx_b": ctx_b}
    doc |= {"endings": texts, "label": str(answer - 1)}
    return _numbered(lead, f"{activity}: {ctx}", "Ending", texts, answer), doc


def _winogrande(sentence, texts, answer):
    lead = "Please choose the correct answer to fill in the blank to complete the given sentence: "
    doc = {"sentence": sentence, "option1": texts[0], "option2": texts[1], "answer": str(answer)}
    return _numbered(lead, sentence, "Option", texts, answer), doc


TASKS = {
    "arc_e": ("arc/arc_easy.yaml", [
        _arc("Which of these is a metal?", ["wood", "iron", "wool", "salt water"], 2),
        _arc("How many legs has a spider?", ["8", "6", "4"], 1),
    ]),
    "arc_c": ("arc/arc_challenge.yaml", [
        _arc("A cup of 20 grams holds 5 grams of tea. What is the mass of both?",
             ["15 grams", "20 grams", "25 grams", "100 grams"], 3),
        _arc("Which is a unit of time?", ["meter", "hour", "gram", "mile", "acre"], 2),
    ]),
    "obqa": ("openbookqa/openbookqa.yaml", [
        _obqa("A plant that has no water will", ["grow", "dry out", "sing", "melt"], 2),
        _obqa("The sun is", ["a star", "a planet", "the moon", "a café"], 1),
    ]),
    "piqa": ("piqa/piqa.yaml", [
        _piqa("Open a jar.", ["Turn the lid.", "Turn the lid 3 times to the right, then stop."], 1),
        _piqa("To dry a shirt", ["put it in water for an hour", "hang it up"], 2),
    ]),
    "siqa": ("siqa/siqa.yaml", [
        _siqa("Kim gave Ann 5 apples.", "How would Ann feel?", ["thankful", "angry", "7"], 1),
        _siqa("Tom lost his 2 keys.", "What will Tom do next?", ["eat", "look for them", "x"], 2),
    ]),
    "hellaswag": ("hellaswag/hellaswag.yaml", [
        _hellaswag("Cooking", "A man cuts an onion.", "he",
                   ["puts it in a pan.", "paints it [substeps] blue.", "flies.", "is a car."], 1),
        _hellaswag("Counting to ten", "[header] How to count [title] Begin with 1. Go on.", "",
                   ["Say 2.", "Say 12 and then 1.", "Stop.", "Sleep for 8 hours."], 1),
    ]),
    "winogrande": ("winogrande/default.yaml", [
        _winogrande("Ann had more apples than Tom, so _ gave 2 of them away.", ["Ann", "Tom"], 1),
        _winogrande("The box did not fit in the bag as _ was too small.", ["it", "the bag"], 2),
    ]),
}  # fmt: skip


def harness(folder: Path, dtype: str, scratch: Path) -> dict:
    """Return what lm-evaluation-harness finds, by task: arguments, log-probabilities, choices."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    tasks = Path(lm_eval.__file__).parent / "tasks"
    for name, (file, pairs) in TASKS.items():
        docs = scratch / f"{name}.jsonl"
        docs.write_text("".join(json.dumps(doc) + "\n" for _, doc in pairs))
        more = "\ninclude: {}\ntask: kdstudy_{}\ndataset_path: json\ndataset_name: null\n"
        more += "training_split: null\nvalidation_split: null\ntest_split: test\ntag: null\n"
        more += "dataset_kwargs: {{data_files: {{test: {}}}}}\n"
        more += "metric_list: [{{metric: acc}}, {{metric: acc_norm}}, {{metric: acc_bytes}}]\n"
        (scratch / f"{name}.yaml").write_text(more.format(tasks / file, name, docs))
    manager = TaskManager(include_path=str(scratch), include_defaults=False)
    model = HFLM(pretrained=str(folder), dtype=dtype, device="cpu", batch_size=3)
    found = {}
    for name in TASKS:
        task = f"kdstudy_{name}"
        result = lm_eval.simple_evaluate(
            model=model, tasks=[task], task_manager=manager, log_samples=True, bootstrap_iters=0
        )
        samples = sorted(result["samples"][task], key=lambda s: s["doc_id"])
        found[name] = [
            {
                "arguments": [list(argument) for argument in sample["arguments"]],
                "logprobs": [float(one[0]) for one in sample["filtered_resps"]],
                **{metric: sample[metric] for metric in ("acc", "acc_norm", "acc_bytes")},
            }
            for sample in samples
        ]
    return found


def require_alike(found: dict, precision: torch.dtype, tolerance: float) -> None:
    """Assert that kdstudy's words, log-probabilities and choices are those of the harness."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = zoo.path("zoo-s")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=precision).eval()
    for name, (_, pairs) in TASKS.items():
        labels = benchmarks.labels(name)
        whole = benchmarks.from_rows(name, [row for row, _ in pairs], "choice", labels=labels)
        grader = chosen("likelihood", name, "choice", labels)
        rows = of_benchmark(model, tokenizer, whole, grader)
        scores = score(rows, whole, "corrected", grader=grader)
        for example, mine, theirs in zip(whole.examples, scores, found[name], strict=True):
            options = asked(whole, example)
            assert [[o.context, o.continuation] for o in options] == theirs["arguments"]
            assert mine.option_logprobs == pytest.approx(theirs["logprobs"], abs=tolerance)
            assert float(mine.outcome == "correct") == theirs["acc"]
        for metric, right in rights(scores).items():
            assert right == [theirs[metric] for theirs in found[name]], (name, metric)


def rights(scores):
    from kdstudy.measures import MEASURES
    from kdstudy.measures.cell import cells_of

    (cell,) = cells_of("zoo-s", scores).values()
    order = [cell.ids.index(s.example_id) for s in scores]
    return {m: MEASURES[m].per_item(cell)[order].tolist() for m in ("acc_norm", "acc_bytes")}


def test_what_was_recorded_of_the_harness_is_found():
    """Its sums are of a float64 model, whose norms round to float32 all the same."""
    require_alike(json.loads(RECORD.read_text())["found"], torch.float64, 1e-6)


def test_single_precision_is_within_a_tenthousandth_of_it():
    require_alike(json.loads(RECORD.read_text())["found"], torch.float32, 1e-4)


def test_the_harness_itself_finds_the_same(tmp_path):
    pytest.importorskip("lm_eval")
    require_alike(harness(zoo.path("zoo-s"), "float32", tmp_path), torch.float32, 1e-4)


if __name__ == "__main__":
    import tempfile
    from importlib.metadata import version

    with tempfile.TemporaryDirectory() as scratch:
        recorded = harness(zoo.path("zoo-s"), "float64", Path(scratch))
    whole = {"lm_eval": version("lm_eval"), "model": "zoo-s", "found": recorded}
    RECORD.write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n")
