"""The stages `benchmark`, `teacher_text`, `generate`, `score` and `compare`."""

import json
from pathlib import Path

from kdstudy.evaluate import benchmarks
from kdstudy.evaluate.fidelity import pair
from kdstudy.evaluate.score import score as grade
from kdstudy.evaluate.score import summary
from kdstudy.records import (
    Example,
    Generation,
    PairScore,
    Score,
    read_records,
    write_records,
)
from kdstudy.study.stages import Work

EXAMPLES = "examples.parquet"
GENERATIONS = "generations.parquet"
SCORES = "scores.parquet"
PAIRS = "pairs.parquet"
BENCHMARK = "benchmark.json"
MODEL = "model.json"


def benchmark(work: Work) -> str:
    """Pin a benchmark's items: `examples.parquet` and `benchmark.json`."""
    found = _load(work)
    write_records(work.out / EXAMPLES, found.examples, Example)
    facts = {
        "name": found.name,
        "version": found.version,
        "kind": found.kind,
        "labels": found.labels,
        "n": len(found.examples),
        "chance": found.chance,
        "majority": None if found.kind == "text" else found.majority,
    }
    (work.out / BENCHMARK).write_text(json.dumps(facts, indent=1))
    guess = (
        "" if found.kind == "text" else f", majority answer right on {100 * found.majority:.1f}%"
    )
    return f"{len(found.examples)} items{guess}"


def generate(work: Work) -> str:
    """Answer every item of a benchmark: `generations.parquet` and `model.json`."""
    return _generate(work, read_records(work.inputs["items"] / EXAMPLES, Example))


def teacher_text(work: Work) -> str:
    """Answer every prompt of the corpus, for sequence-level distillation."""
    corpus = work.inputs["items"]
    parts = [
        read_records(corpus / name, Example) for name in ("train.parquet", "validation.parquet")
    ]
    return _generate(work, [example for part in parts for example in part])


def score(work: Work) -> str:
    """Grade one system on every benchmark: `scores.parquet`."""
    rows: list[Score] = []
    for role, folder in work.inputs.items():
        kind, _, name = role.partition(":")
        if kind != "generations":
            continue
        items = _pinned(work.inputs[f"items:{name}"])
        answers = read_records(folder / GENERATIONS, Generation)
        rows += grade(answers, items, work.config["rule"])
    write_records(work.out / SCORES, rows, Score)
    texts = [row for row in rows if row.rule.startswith("text-")]
    answers = [row for row in rows if not row.rule.startswith("text-")]
    parts = []
    if answers:
        facts = summary(answers)
        parts.append(
            f"accuracy {100 * facts['accuracy']:.1f}%, parsed {100 * facts['parse_rate']:.1f}%, "
            f"truncated {100 * facts['truncated_rate']:.1f}%"
        )
    if texts:
        facts = summary(texts)
        parts.append(
            f"ROUGE-L {100 * facts['rouge_l']:.1f}, "
            f"{100 * facts['truncated_rate']:.1f}% of texts cut"
        )
    return "; ".join(parts)


def compare(work: Work) -> str:
    """Compare two systems item by item: `pairs.parquet`."""
    system, reference = (
        read_records(work.inputs[role] / SCORES, Score) for role in ("system", "reference")
    )
    rows = pair(system, reference)
    write_records(work.out / PAIRS, rows, PairScore)
    agree = sum(r.agree for r in rows) / len(rows)
    return f"same answer on {100 * agree:.1f}%"


def _load(work: Work) -> benchmarks.Benchmark:
    folder = work.local["data_dir"]
    return benchmarks.load(work.config["name"], Path(folder) if folder else None)


def _pinned(folder: Path) -> benchmarks.Benchmark:
    """Return the benchmark as its stage pinned it: the data folder may be gone by now."""
    facts = json.loads((folder / BENCHMARK).read_text())
    known = {k: facts[k] for k in ("name", "version", "kind", "chance")}
    known["labels"] = tuple(facts["labels"])
    examples = tuple(read_records(folder / EXAMPLES, Example))
    return benchmarks.Benchmark(**known, examples=examples)


def _generate(work: Work, examples: list[Example]) -> str:
    from kdstudy.evaluate.generate import generate_to
    from kdstudy.models.load import open_model, open_tokenizer, ready_to_answer
    from kdstudy.study import schema

    local = work.local["models"][work.config["model"]["name"]]
    model = open_model(local, work.config["precision"], work.inputs.get("trained"))
    model, parameters = ready_to_answer(model)
    path = generate_to(
        work.out,
        model,
        open_tokenizer(local),
        [(work.config["items"], example) for example in examples],
        work.config["template"],
        schema.Generation(**work.config["generation"], batch_size=work.local["batch_size"]),
        progress=work.progress,
    )
    (work.out / MODEL).write_text(json.dumps({"parameters": parameters}))
    made = read_records(path, Generation)
    tokens = sum(g.tokens for g in made)
    cut = sum(g.stop == "length" for g in made)
    return f"{len(made)} texts, {tokens} tokens, {cut} cut at the limit"
