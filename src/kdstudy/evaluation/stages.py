"""The stages `benchmark`, `teacher_text`, `generate`, `score`, `compare` and `token_fidelity`."""

import contextlib
import dataclasses
import functools
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdstudy.artifacts import (
    CORPUS,
    EACH_GENERATIONS,
    EACH_ITEMS,
    EACH_LIKELIHOODS,
    ITEMS,
    PROMPTS,
    REFERENCE,
    SYSTEM,
    TRAINED,
    TUNED_REFERENCE,
    TUNED_SYSTEM,
    Generations,
    Items,
    Likelihoods,
    Pairs,
    Role,
    Scores,
    Tokens,
    Trained,
)
from kdstudy.data.prompts import called, row_of
from kdstudy.errors import InputError, StageError
from kdstudy.evaluation import benchmarks, graders
from kdstudy.evaluation.asking import Asking
from kdstudy.evaluation.fidelity import pair
from kdstudy.evaluation.kinds import (
    BenchmarkConfig,
    CompareConfig,
    GenerateConfig,
    LikelihoodConfig,
    ScoreConfig,
    TokenFidelityConfig,
)
from kdstudy.evaluation.score import score as grade
from kdstudy.evaluation.score import summary
from kdstudy.records import Example, PairScore, Score, content_id
from kdstudy.stage import Work


def benchmark(work: Work) -> str:
    """Pin a benchmark: its `Items`.

    Config: `BenchmarkConfig`. Local: `data_dir`; or `path` of that file; or `task` and `shots` of
    lm-evaluation-harness.
    """
    config = BenchmarkConfig.of(work.config)
    whole = _load(work, config)
    found = dataclasses.replace(whole, examples=tuple(limited(whole.examples, config.limit)))
    made = Items(work.out)
    made.examples.write(found.examples)
    # False: the file is not the published one; None: there is none to compare with.
    known = "data_dir" in work.local
    published = benchmarks.published(config.name, config.fingerprint) if known else None
    facts = benchmark_facts(found, len(whole.examples)) | {"published": published}
    made.facts.write(facts)
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
    """Answer every item of a benchmark: `Generations`.

    Config: `GenerateConfig`.

    Raises:
        InputError: An exemplar is one of the items.
    """
    config = GenerateConfig.of(work.config)
    items, asking = work.read(ITEMS).examples.read(), Asking.of(config.asking)
    asking.require_apart(config.items, items)
    return _generate(work, [asking.put(item) for item in items], asking=asking)


def teacher_text(work: Work) -> str:
    """Answer every prompt of the corpus, for a student to learn from: `Generations`.

    Raises:
        InputError: Rows are text without a prompt.
    """
    corpus = work.read(PROMPTS)
    examples = corpus.all_rows()
    unprompted = sum(not (example.instruction or example.chat) for example in examples)
    if unprompted:
        raise InputError(
            f"{unprompted} of {len(examples)} corpus rows are text without a prompt",
            why="seqkd has the teacher answer prompts, offline_opd the student before its run",
            remedy="give rows with a prompt, or take another method",
        )
    return _generate(work, examples, corpus.places)


def likelihood(work: Work) -> str:
    """Score the options of a benchmark's items: `Likelihoods`.

    Config: `LikelihoodConfig`. Inputs: `ITEMS`, and `TRAINED` as for `generate`.

    Raises:
        InputError: Options cannot be told from a question, or the model cannot score them.
    """
    from kdstudy.evaluation.likelihoods import of_benchmark
    from kdstudy.models import parts
    from kdstudy.models.load import open_model, open_tokenizer
    from kdstudy.models.writing import opened_to_write

    config = LikelihoodConfig.of(work.config)
    items, local = pinned(work.read(ITEMS)), work.model("model")
    grader, trained = graders.of_config(config.scoring, items), work.find(TRAINED)
    model, unmerged = opened_to_write(lambda: open_model(local, config.precision, trained))
    journal = work.scratch / "likelihoods.jsonl"
    rows = of_benchmark(model, open_tokenizer(local), items, grader, work.progress, journal)
    made = Likelihoods(work.out)
    made.rows.write(rows)
    facts = {"parameters": parts.count(model)} | ({"unmerged": unmerged} if unmerged else {})
    made.model.write(facts)
    count = sum(len(row.tokens) for row in rows)
    return f"{len(rows)} items, {count} options, {sum(sum(row.tokens) for row in rows)} tokens"


def score(work: Work) -> str:
    """Grade one system on every benchmark: `Scores`."""
    answers: dict[str, Generations | Likelihoods] = work.each(EACH_GENERATIONS)
    answers |= work.each(EACH_LIKELIHOODS)
    config = ScoreConfig.of(work.config)
    rows: list[Score] = []
    for name, items in work.each(EACH_ITEMS).items():
        found = pinned(items)
        if name in work.local.get("tasks", {}):
            told = work.local["tasks"][name]
            task = benchmarks.HarnessTask(name, told["task"], told["shots"])
            found = task.with_grader(found, told["fingerprint"])
        grader = graders.of_config(config.scoring.get(name), found)
        given, mark = answers[name].rows.read(), config.thinking.get(name, "")
        rows += grade(given, found, config.rule, config.rouge_tokenizer, grader, mark)
    Scores(work.out).rows.write(rows)
    chosen = [row for row in rows if row.option_logprobs]
    texts = [row for row in rows if row.is_text]
    answers = [row for row in rows if not (row.option_logprobs or row.is_text)]
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
    """Compare two systems item by item: `Pairs`."""
    system, reference = (work.read(role).rows.read() for role in (SYSTEM, REFERENCE))
    rows = pair(system, reference, CompareConfig.of(work.config).rouge_tokenizer)
    Pairs(work.out).rows.write(rows)
    return _agreed(rows, {s.benchmark for s in system if s.is_text})


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
    """Compare two systems token by token on validation rows: `Tokens`.

    Config: `TokenFidelityConfig`. Inputs: `CORPUS`, and `TUNED_SYSTEM` and `TUNED_REFERENCE`,
    finished train stages; without one the model is used as it is. Local: `models` {role:
    `resolve.Resolved.local`}.

    Raises:
        InputError: The two have different tokenizers, or no row has room for a response.
    """
    from kdstudy.evaluation import tokens

    config = TokenFidelityConfig.of(work.config)
    student, tokenizer = _opened(work, "model", config.precision, TUNED_SYSTEM)
    teacher, theirs = _opened(work, "reference_model", config.precision, TUNED_REFERENCE)
    width = _common_width(tokenizer, theirs, student, teacher)
    rows, dropped = _validation(work, config, tokenizer)
    found = tokens.compare(student, teacher, rows, width, work.progress)
    made = Tokens(work.out)
    made.rows.write(found)
    facts = tokens.summary(found)
    facts |= {
        "dropped": dropped,
        "truncated": sum(text.truncated for _, text in rows),
        "width": width,
        "signature": tokens.SIGNATURE,
    }
    made.summary.write(facts)
    return (
        f"{facts['tokens']} tokens of {facts['rows']} rows: same top token "
        f"{100 * facts['top1_agreement']:.1f}%, KL(T||S) {facts['kl_teacher_student']:.4f}, "
        f"KL(S||T) {facts['kl_student_teacher']:.4f} nats"
    )


def _load(work: Work, config: BenchmarkConfig) -> benchmarks.Benchmark:
    name, local = config.name, work.local
    if "task" in local:
        source = benchmarks.HarnessTask(name, **local)
        fingerprint, load, folder = source.fingerprint, source.load, None
    elif "path" in local:
        source = benchmarks.from_file(name, Path(local["path"]), config.kind, config.labels)
        fingerprint, load = source.fingerprint, source.load
        folder = None
    else:
        folder = Path(local["data_dir"]) if local["data_dir"] else None
        fingerprint = functools.partial(benchmarks.fingerprint, name)
        load = functools.partial(benchmarks.load, name)
        benchmarks.fetch(name, folder, lambda done, of: work.progress(done, of or done, "bytes"))
    if fingerprint(folder) != config.fingerprint:
        raise StageError(
            f"{name}: its file has changed since the study was planned",
            remedy="run the study again: it will be planned with the file as it is now",
        )
    with warnings.catch_warnings():
        # Said when the study is planned; here `published` records it.
        warnings.simplefilter("ignore", benchmarks.EditedBenchmark)
        return load(folder)


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


def pinned(items: Items) -> benchmarks.Benchmark:
    """Return the benchmark as its stage pinned it: the data folder may be gone by now."""
    facts = items.facts.read()
    known = {k: facts[k] for k in ("name", "version", "kind", "chance")}
    known["labels"] = tuple(facts["labels"])
    return benchmarks.Benchmark(**known, examples=tuple(items.examples.read()))


_AS_IT_IS = Asking()
_SLOWER = {
    "padded": "; decoded with padding on the left: its attention counts columns",
    "kept": "; finished rows stayed in their batch: its cache cannot drop them",
    "alone": "; decoded row by row without a cache: nothing faster gives its own logits",
}


def _generate(
    work: Work,
    examples: list[Example],
    known: Mapping[str, str] | None = None,
    asking: Asking = _AS_IT_IS,
) -> str:
    from kdstudy.config import schema
    from kdstudy.evaluation.generate import generate_to
    from kdstudy.models.load import open_tokenizer

    config = GenerateConfig.of(work.config)
    settings = schema.Generation(**config.generation, batch_size=work.local["batch_size"])
    with _answering(work, config.precision, settings.engine) as (model, facts):
        generate_to(
            work.out,
            work.scratch,
            model,
            open_tokenizer(work.model("model")),
            [(config.items, example) for example in examples],
            asking.format(config.format()),
            settings,
            endings=asking.endings,
            progress=work.progress,
            places=known,
        )
    made = Generations(work.out)
    made.model.write(facts)
    rows = made.rows.read()
    tokens = sum(g.tokens for g in rows)
    cut = sum(g.stop == "length" for g in rows)
    slow = _SLOWER.get(facts.get("decoding", ""), "")
    if "unmerged" in facts:
        slow += f"; the adapter stayed in place: {facts['unmerged']}"
    return f"{len(rows)} texts, {tokens} tokens, {cut} cut at the limit{slow}"


@contextlib.contextmanager
def _answering(work: Work, precision: str, engine: str) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Give what writes the answers, and its facts: parameters without adapter, how it decodes."""
    from kdstudy.evaluation import vllm
    from kdstudy.models import parts, selfcheck
    from kdstudy.models.load import open_model
    from kdstudy.models.writing import opened_to_write

    local, trained = work.model("model"), work.find(TRAINED)
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


def _opened(work: Work, model: str, precision: str, role: Role[Trained]) -> tuple[Any, Any]:
    """Return a model of a `token_fidelity` stage, ready to be asked, and its tokenizer."""
    from kdstudy.models.load import open_model, open_tokenizer, ready_to_answer

    local = work.model(model)
    opened = open_model(local, precision, work.find(role))
    return ready_to_answer(opened), open_tokenizer(local)


def _validation(
    work: Work, config: TokenFidelityConfig, tokenizer: Any
) -> tuple[list[tuple[str, Any]], int]:
    """Return validation rows by id, encoded as for training, and how many leave no response."""
    made, limit = config.format(config.loss_turns), config.max_length
    corpus = work.read(CORPUS)
    examples, known = corpus.validation.read()[: config.rows], corpus.places
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
