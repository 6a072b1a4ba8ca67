"""The stages `benchmark`, `teacher_text`, `generate`, `score`, `compare` and `token_fidelity`."""

import contextlib
import dataclasses
import functools
import json
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdstudy.config.schema import RougeTokenizer
from kdstudy.data.corpora import places
from kdstudy.data.prompts import PromptFormat, called, row_of
from kdstudy.errors import InputError, StageError
from kdstudy.evaluation import benchmarks, graders
from kdstudy.evaluation.fidelity import pair
from kdstudy.evaluation.score import score as grade
from kdstudy.evaluation.score import summary
from kdstudy.records import (
    Example,
    Generation,
    OptionLikelihoods,
    PairScore,
    Score,
    content_id,
    read_records,
    write_records,
)
from kdstudy.stage import Work

EXAMPLES = "examples.parquet"
GENERATIONS = "generations.parquet"
LIKELIHOODS = "likelihoods.parquet"
SCORES = "scores.parquet"
PAIRS = "pairs.parquet"
BENCHMARK = "benchmark.json"
MODEL = "model.json"
TOKENS = "tokens.parquet"
TOKEN_SUMMARY = "tokens.json"


def benchmark(work: Work) -> str:
    """Pin a benchmark's items: `examples.parquet` and `benchmark.json`.

    Config: `name`, `limit` (how many items to use, None for all) and, of a file of the user's own,
    `kind` and `labels`. Local: `data_dir`, or `path` of that file.
    """
    whole = _load(work)
    found = whole
    if work.config["limit"] is not None:
        chosen = limited(whole.examples, work.config["limit"])
        found = dataclasses.replace(whole, examples=tuple(chosen))
    write_records(work.out / EXAMPLES, found.examples, Example)
    # False: the file is not the published one; None: there is none to compare with.
    published = None if "path" in work.local else _as_published(work.config)
    facts = benchmark_facts(found, len(whole.examples)) | {"published": published}
    (work.out / BENCHMARK).write_text(json.dumps(facts, indent=1))
    guess = (
        "" if found.kind == "text" else f", majority answer right on {100 * found.majority:.1f}%"
    )
    of = "" if facts["n"] == facts["of"] else f" of {len(whole.examples)}"
    return f"{len(found.examples)}{of} items{guess}"


def benchmark_facts(found: benchmarks.Benchmark, of: int) -> dict[str, Any]:
    """Return what is to be known of a benchmark, or of some of its `of` items, beside the items."""
    return {
        "name": found.name,
        "version": found.version,
        "kind": found.kind,
        "labels": found.labels,
        "n": len(found.examples),
        "of": of,
        "chance": found.chance,
        "majority": None if found.kind == "text" else found.majority,
        "repeated": found.repeated,
        "conflicting": found.conflicting,
    }


def generate(work: Work) -> str:
    """Answer every item of a benchmark: `generations.parquet` and `model.json`."""
    return _generate(work, read_records(work.inputs["items"] / EXAMPLES, Example))


def teacher_text(work: Work) -> str:
    """Answer every prompt of the corpus, for sequence-level distillation.

    Raises:
        InputError: Rows are text without a prompt.
    """
    corpus = work.inputs["items"]
    examples = [
        example
        for name in ("train.parquet", "validation.parquet")
        for example in read_records(corpus / name, Example)
    ]
    unprompted = sum(not (example.instruction or example.chat) for example in examples)
    if unprompted:
        raise InputError(
            f"{unprompted} of {len(examples)} corpus rows are text without a prompt",
            why="seqkd has the teacher answer prompts",
            remedy="give rows with a prompt, or take another method",
        )
    return _generate(work, examples, places(corpus))


def likelihood(work: Work) -> str:
    """Score the options of a benchmark's items: `likelihoods.parquet` and `model.json`.

    Config: `model` {name, fingerprint}, `items` (the benchmark's name), `scoring`
    (`graders.as_config`) and `precision`. Inputs: `items`, and `trained` as for `generate`.

    Raises:
        InputError: Options cannot be told from a question, or the model cannot score them.
    """
    from kdstudy.evaluation.likelihoods import of_benchmark
    from kdstudy.models import parts
    from kdstudy.models.load import open_model, open_tokenizer
    from kdstudy.models.writing import opened_to_write

    items, local = _pinned(work.inputs["items"]), work.model("model")
    grader = graders.of_config(work.config["scoring"], items)
    precision, trained = work.config["precision"], work.inputs.get("trained")
    model, unmerged = opened_to_write(lambda: open_model(local, precision, trained))
    rows = of_benchmark(model, open_tokenizer(local), items, grader, work.progress)
    write_records(work.out / LIKELIHOODS, rows, OptionLikelihoods)
    facts = {"parameters": parts.count(model)} | ({"unmerged": unmerged} if unmerged else {})
    (work.out / MODEL).write_text(json.dumps(facts))
    count = sum(len(row.tokens) for row in rows)
    return f"{len(rows)} items, {count} options, {sum(sum(row.tokens) for row in rows)} tokens"


def score(work: Work) -> str:
    """Grade one system on every benchmark: `scores.parquet`."""
    rows: list[Score] = []
    files = {
        "generations": (GENERATIONS, Generation),
        "likelihoods": (LIKELIHOODS, OptionLikelihoods),
    }
    for role, folder in work.inputs.items():
        kind, _, name = role.partition(":")
        if kind not in files:
            continue
        items, (file, record) = _pinned(work.inputs[f"items:{name}"]), files[kind]
        grader = graders.of_config(work.config.get("scoring", {}).get(name), items)
        answers = read_records(folder / file, record)
        rows += grade(answers, items, work.config["rule"], _rouge(work), grader)
    write_records(work.out / SCORES, rows, Score)
    chosen = [row for row in rows if row.option_logprobs]
    texts = [row for row in rows if row.rule.startswith("text-")]
    answers = [row for row in rows if not (row.option_logprobs or row.rule.startswith("text-"))]
    parts = []
    if chosen:
        facts, of = mean_of_benchmarks(chosen, "accuracy", "acc_norm")
        parts.append(
            f"accuracy by likelihood {100 * facts['accuracy']:.1f}%{of}, "
            f"acc_norm {100 * facts['acc_norm']:.1f}%"
        )
    if answers:
        facts, of = mean_of_benchmarks(answers, "accuracy", "parse_rate", "truncated_rate")
        parts.append(
            f"accuracy {100 * facts['accuracy']:.1f}%{of}, "
            f"parsed {100 * facts['parse_rate']:.1f}%, "
            f"truncated {100 * facts['truncated_rate']:.1f}%"
        )
    if texts:
        facts, of = mean_of_benchmarks(texts, "rouge_l", "truncated_rate")
        parts.append(
            f"ROUGE-L {100 * facts['rouge_l']:.1f}{of}, "
            f"{100 * facts['truncated_rate']:.1f}% of texts cut"
        )
    return "; ".join(parts)


def mean_of_benchmarks(rows: list[Score], *names: str) -> tuple[dict[str, float], str]:
    """Return means over benchmarks, each of the same weight as in every table, and their words."""
    parts: dict[str, list[Score]] = {}
    for row in rows:
        parts.setdefault(row.benchmark, []).append(row)
    found = [summary(part) for part in parts.values()]
    means = {name: sum(facts[name] for facts in found) / len(found) for name in names}
    return means, f" (mean of {len(found)} benchmarks)" if len(found) > 1 else ""


def compare(work: Work) -> str:
    """Compare two systems item by item: `pairs.parquet`."""
    system, reference = (
        read_records(work.inputs[role] / SCORES, Score) for role in ("system", "reference")
    )
    rows = pair(system, reference, _rouge(work))
    write_records(work.out / PAIRS, rows, PairScore)
    return _agreed(rows, {s.benchmark for s in system if s.rule.startswith("text-")})


def _agreed(rows: list[PairScore], texts: set[str]) -> str:
    """Say how often the answers are the same: the mean over benchmarks that have answers."""
    parts: dict[str, list[bool]] = {}
    for row in rows:
        if row.benchmark not in texts:
            parts.setdefault(row.benchmark, []).append(row.agree)
    if not parts:
        return f"{len(rows)} pairs of texts, which have no answers to agree on"
    shares = [sum(part) / len(part) for part in parts.values()]
    of = f" (mean of {len(shares)} benchmarks)" if len(shares) > 1 else ""
    return f"same answer on {100 * sum(shares) / len(shares):.1f}%{of}"


def token_fidelity(work: Work) -> str:
    """Compare two systems token by token on validation rows: `tokens.parquet`, `tokens.json`.

    Config: `model` and `reference_model` {name, fingerprint}, `template` and what goes with it as
    for `train`, `max_length`, `loss_turns`, `precision`, and `rows`, how many validation rows to
    read (None for all). Inputs: `corpus`, and `system` and `reference`, finished train stages;
    without one the model is used as it is. Local: `models` {role: `resolve.Resolved.local`}.

    Raises:
        InputError: The two have different tokenizers, or no row has room for a response.
    """
    from kdstudy.evaluation import tokens

    student, tokenizer = _opened(work, "model", "system")
    teacher, theirs = _opened(work, "reference_model", "reference")
    width = _common_width(tokenizer, theirs, student, teacher)
    rows, dropped = _validation(work, tokenizer)
    found = tokens.compare(student, teacher, rows, width, work.progress)
    write_records(work.out / TOKENS, found, tokens.TokenRow)
    facts = tokens.summary(found)
    facts |= {
        "dropped": dropped,
        "truncated": sum(text.truncated for _, text in rows),
        "width": width,
        "signature": tokens.SIGNATURE,
    }
    (work.out / TOKEN_SUMMARY).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return (
        f"{facts['tokens']} tokens of {facts['rows']} rows: same top token "
        f"{100 * facts['top1_agreement']:.1f}%, KL(T||S) {facts['kl_teacher_student']:.4f}, "
        f"KL(S||T) {facts['kl_student_teacher']:.4f} nats"
    )


def _rouge(work: Work) -> RougeTokenizer:
    return work.config.get("rouge_tokenizer", "rouge-score")


def _load(work: Work) -> benchmarks.Benchmark:
    config, local = work.config, work.local
    if "path" in local:
        source = benchmarks.from_file(
            config["name"], Path(local["path"]), config["kind"], config["labels"]
        )
        fingerprint, load = source.fingerprint, source.load
        folder = None
    else:
        name, folder = config["name"], Path(local["data_dir"]) if local["data_dir"] else None
        fingerprint = functools.partial(benchmarks.fingerprint, name)
        load = functools.partial(benchmarks.load, name)
        benchmarks.fetch(name, folder, lambda done, of: work.progress(done, of or done, "bytes"))
    if fingerprint(folder) != config["fingerprint"]:
        raise StageError(
            f"{config['name']}: its file has changed since the study was planned",
            remedy="run the study again: it will be planned with the file as it is now",
        )
    with warnings.catch_warnings():
        # Said when the study is planned; here `published` records it.
        warnings.simplefilter("ignore", benchmarks.EditedBenchmark)
        return load(folder)


def _as_published(config: Mapping[str, Any]) -> bool | None:
    return benchmarks.published(config["name"], config["fingerprint"])


def limited(examples: Sequence[Example], limit: int | None) -> list[Example]:
    """Return a choice of items that depends on their content alone, in their order.

    Args:
        examples: A benchmark's items.
        limit: How many to choose; None for all.
    """
    if limit is None:
        return [*examples]
    drawn = sorted(examples, key=lambda e: content_id("limit", e.id))[:limit]
    chosen = {example.id for example in drawn}
    return [example for example in examples if example.id in chosen]


def _pinned(folder: Path) -> benchmarks.Benchmark:
    """Return the benchmark as its stage pinned it: the data folder may be gone by now."""
    facts = json.loads((folder / BENCHMARK).read_text())
    known = {k: facts[k] for k in ("name", "version", "kind", "chance")}
    known["labels"] = tuple(facts["labels"])
    examples = tuple(read_records(folder / EXAMPLES, Example))
    return benchmarks.Benchmark(**known, examples=examples)


_SLOWER = {
    "padded": "; decoded with padding on the left: its attention counts columns",
    "kept": "; finished rows stayed in their batch: its cache cannot drop them",
    "alone": "; decoded row by row without a cache: nothing faster gives its own logits",
}


def _generate(work: Work, examples: list[Example], known: Mapping[str, str] | None = None) -> str:
    from kdstudy.config import schema
    from kdstudy.evaluation.generate import generate_to
    from kdstudy.models.load import open_tokenizer

    settings = schema.Generation(**work.config["generation"], batch_size=work.local["batch_size"])
    with _answering(work, settings.engine) as (model, facts):
        path = generate_to(
            work.out,
            work.scratch,
            model,
            open_tokenizer(work.model("model")),
            [(work.config["items"], example) for example in examples],
            PromptFormat.of(work.config),
            settings,
            progress=work.progress,
            places=known,
        )
    (work.out / MODEL).write_text(json.dumps(facts))
    made = read_records(path, Generation)
    tokens = sum(g.tokens for g in made)
    cut = sum(g.stop == "length" for g in made)
    slow = _SLOWER.get(facts.get("decoding", ""), "")
    if "unmerged" in facts:
        slow += f"; the adapter stayed in place: {facts['unmerged']}"
    return f"{len(made)} texts, {tokens} tokens, {cut} cut at the limit{slow}"


@contextlib.contextmanager
def _answering(work: Work, engine: str) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Give what writes the answers, and its facts: parameters without adapter, how it decodes."""
    from kdstudy.evaluation import vllm
    from kdstudy.models import parts, selfcheck
    from kdstudy.models.load import open_model
    from kdstudy.models.writing import opened_to_write

    local = work.model("model")
    precision, trained = work.config["precision"], work.inputs.get("trained")
    if engine == "transformers":
        model, unmerged = opened_to_write(lambda: open_model(local, precision, trained))
        facts = {"parameters": parts.count(model), "decoding": selfcheck.decoding(model)}
        yield model, facts | ({"unmerged": unmerged} if unmerged else {})
        return
    with tempfile.TemporaryDirectory() as scratch:
        writer, parameters = vllm.prepare(local, precision, trained, Path(scratch))
        try:
            yield writer, {"parameters": parameters}
        finally:
            writer.close()


def _opened(work: Work, model: str, role: str) -> tuple[Any, Any]:
    """Return a model of a `token_fidelity` stage, ready to be asked, and its tokenizer."""
    from kdstudy.models.load import open_model, open_tokenizer, ready_to_answer

    local = work.model(model)
    opened = open_model(local, work.config["precision"], work.inputs.get(role))
    return ready_to_answer(opened), open_tokenizer(local)


def _validation(work: Work, tokenizer: Any) -> tuple[list[tuple[str, Any]], int]:
    """Return validation rows by id, encoded as for training, and how many leave no response."""
    made, limit = PromptFormat.of(work.config), work.config["max_length"]
    examples = read_records(work.inputs["corpus"] / "validation.parquet", Example)
    examples = examples[: work.config["rows"]]
    known = places(work.inputs["corpus"])
    texts = [row_of(tokenizer, made, e, limit, where=called(e, known)) for e in examples]
    rows = [(e.id, text) for e, text in zip(examples, texts, strict=True) if text is not None]
    if not rows:
        raise InputError(
            f"no validation row leaves room for a response in {limit} tokens",
            remedy="raise train.max_length",
        )
    return rows, len(examples) - len(rows)


def _common_width(tokenizer: Any, theirs: Any, student: Any, teacher: Any) -> int:
    from kdstudy.models import heads, parts

    try:
        return heads.common_width(tokenizer, theirs, parts.head(student), parts.head(teacher))
    except InputError as e:
        raise InputError(
            f"token-level fidelity is not defined: {e.what}", why=e.why, remedy="set token_rows: 0"
        ) from e
