"""The verbs on files of rows: completions made anywhere, and training corpora."""

import csv
import dataclasses
import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdstudy.artifacts import Pairs, Scores
from kdstudy.cli import benchmark_options, score_output
from kdstudy.cli.options import (
    AsJson,
    Columns,
    DataDir,
    RougeName,
    RougeTokenizer,
    corpus_fields,
    note,
    print_json,
    room_for_a_line,
    wrapped,
)
from kdstudy.errors import InputError

if TYPE_CHECKING:
    from kdstudy.config.schema import BenchmarkRef
    from kdstudy.data.audit import Audit, Row
    from kdstudy.data.corpora import Source
    from kdstudy.evaluation.asking import Endings
    from kdstudy.evaluation.benchmarks import Benchmark
    from kdstudy.evaluation.completions import Account
    from kdstudy.evaluation.graders import Grader
    from kdstudy.records import Score


class RuleName(StrEnum):
    """How answers are found in completions."""

    corrected = "corrected"
    reference = "reference"


class LevelName(StrEnum):
    """How alike two questions must be to count as the same."""

    exact = "exact"
    normalised = "normalised"
    masked = "masked"


def score(
    generations: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help='{"id" or "question", "completion"} per line; "logprobs" for likelihoods.',
        ),
    ] = None,
    lm_eval: Annotated[
        Path | None,
        typer.Option(
            "--lm-eval",
            metavar="FILE",
            help="In place of generations: samples that `lm_eval --log_samples` graded.",
        ),
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="Of --lm-eval: the metric, 0 or 1 of an item.")
    ] = None,
    filter_: Annotated[
        str | None, typer.Option("--filter", help="Of --lm-eval: the filter; the first.")
    ] = None,
    against: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Another system's, such as the teacher's.")
    ] = None,
    benchmark: benchmark_options.Names = None,
    kind: benchmark_options.Kind = None,
    labels: benchmark_options.Labels = None,
    study: benchmark_options.OfStudy = None,
    scoring: benchmark_options.Scoring = None,
    stop: benchmark_options.Stop = None,
    thinking: benchmark_options.Thinking = None,
    rule: Annotated[
        RuleName, typer.Option(help="How answers are found and graded.")
    ] = RuleName.corrected,
    rouge_tokenizer: RougeTokenizer = RougeName.published,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for scores.parquet, pairs.parquet.")
    ] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Score completions made by any system; with --against, difference, agreement, fidelity."""
    if lm_eval is not None:
        score_output.require_alone(
            {"--generations": generations, "--scoring": scoring, "--stop": stop,
             "--thinking": thinking}
        )  # fmt: skip
        references = benchmark_options.chosen(benchmark, kind, labels, study)
        whole = (
            benchmark_options.load(benchmark_options.one(references, study), data_dir)
            if references
            else None
        )
        document, pairs, scores = score_output.of_logs(
            lm_eval, against, metric, filter_, whole, compared
        )
        _hand_over(document, scores, pairs, out, as_json=as_json)
        return
    if metric or filter_:
        raise InputError("--metric and --filter: are of --lm-eval", remedy="leave them out")
    if generations is None:
        raise InputError(
            "Missing option '--generations'", remedy="give a file of completions, or --lm-eval FILE"
        )
    from kdstudy.evaluation import benchmarks
    from kdstudy.evaluation.asking import endings_of
    from kdstudy.evaluation.completions import compare
    from kdstudy.evaluation.graders import of_benchmark

    asked = benchmark_options.chosen(
        benchmark, kind, labels, study, scoring, stop=stop, thinking=thinking
    )
    reference = benchmark_options.one(asked, study)
    source, words = benchmarks.meant(reference), rouge_tokenizer.value
    items = benchmark_options.items_of(source, data_dir)
    grader = of_benchmark(reference.scoring, items)
    task = source if isinstance(source, benchmarks.HarnessTask) else None
    endings = endings_of(reference, task)
    scores, found = _scored(generations, items, rule.value, words, grader, endings)
    document = {"benchmark": items.name, **found}
    pairs = None
    if against is not None:
        others, document["against"] = _scored(against, items, rule.value, words, grader, endings)
        mine, theirs, pairs = compare(scores, others, words)
        document |= compared(mine, theirs, pairs, items, words)
    _hand_over(document, scores, pairs, out, as_json=as_json)


def _hand_over(
    document: dict[str, Any], scores: Any, pairs: Any, out: Path | None, *, as_json: bool
) -> None:
    """Write and print what was scored."""
    if out is not None:
        _write_scores(out, scores, pairs, document["benchmark"], document["of"])
    if as_json:
        print_json(document)
    else:
        score_output.print_scored(document)


def audit(
    corpus: Annotated[
        str | None,
        typer.Option(
            metavar="DATA", help="A file, folder, known name or Hub data set; that of --study."
        ),
    ] = None,
    benchmark: benchmark_options.Names = None,
    kind: benchmark_options.Kind = None,
    labels: benchmark_options.Labels = None,
    study: benchmark_options.OfStudy = None,
    level: Annotated[
        LevelName, typer.Option(help="Rows this much like an item are not clean.")
    ] = LevelName.masked,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the clean rows, as the corpus is.")
    ] = None,
    listed: Annotated[
        Path | None,
        typer.Option("--list", metavar="FILE", help="Write the items found: CSV, JSONL."),
    ] = None,
    columns: Columns = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Count, per benchmark, the test items that a training corpus holds."""
    from kdstudy.data import audit as audits

    if listed is not None and listed.suffix not in (".csv", ".jsonl"):
        raise InputError(f"--list {listed}: must end in .csv or .jsonl")
    source = _source(corpus, columns, study, data_dir)
    rows, dropped = audits.read(source)
    asked = benchmark_options.chosen(benchmark, kind, labels, study)
    whole, absent = _wanted(asked, data_dir)
    tests = {name: found.examples for name, found in whole.items()}
    result = audits.audit([row.example for row in rows], tests, level.value)
    if out is not None:
        audits.write_rows(source, [rows[place] for place in result.clean], out)
    if listed is not None:
        _write_list(listed, result, rows, whole)
    facts = {"corpus": source.name, "rows": len(rows), "dropped": dropped, "level": level.value}
    found = {"benchmarks": result.counts, "clean_rows": len(result.clean), "not_at_hand": absent}
    if as_json:
        print_json(facts | found)
    else:
        _print_audit(facts | found)


def _scored(
    path: Path,
    benchmark: "Benchmark",
    rule: Any,
    words: Any,
    grader: "Grader",
    endings: "Endings",
) -> tuple[list["Score"], dict[str, Any]]:
    """Return a file's scores, and what they come to."""
    from kdstudy.analysis.scores import Graded, levels
    from kdstudy.evaluation.completions import grade, read
    from kdstudy.evaluation.score import summary

    generations, account = read(path, benchmark, grader, endings)
    scores = grade(generations, benchmark, rule, words, grader, endings.thinking)
    _note(path, account, len(benchmark.examples))
    (level,) = levels(Graded(system=str(path), scores=scores))
    return scores, {
        **summary(scores),
        "items": level.n,
        "of": len(benchmark.examples),
        "low": level.low,
        "high": level.high,
        "rule": scores[0].rule.partition("-")[2],
        "rows": dataclasses.asdict(account),
    }


def compared(mine: Any, theirs: Any, pairs: Any, items: "Benchmark", words: Any) -> dict[str, Any]:
    """Return what two systems on one benchmark come to: difference, agreement, fidelity."""
    from kdstudy.analysis.scores import Graded, against_first
    from kdstudy.evaluation.agreement import agreement, chance
    from kdstudy.evaluation.fidelity import fidelity

    text = items.kind == "text"
    same = None if text else dataclasses.asdict(agreement(pairs, chance(mine, theirs)))
    whole = {items.name: len(items.examples) or len(mine)}
    first = Graded(system="the other", scores=theirs, items=whole)
    (test,) = against_first([first, Graded(system="this system", scores=mine, items=whole)])
    kept = ("estimate", "low", "high", "p", "n", "signature", "sentence")
    return {
        "compared": len(pairs),
        "difference": {name: getattr(test, name) for name in kept},
        "agreement": same,
        "fidelity": None if mine[0].option_logprobs else dataclasses.asdict(fidelity(pairs, words)),
    }


def _note(path: Path, account: "Account", items: int) -> None:
    """Say what the rates leave out."""
    for row in account.left_out:
        note(f"note: {row}")
    more = account.doubled + account.ambiguous + account.unknown - len(account.left_out)
    if more:
        note(f"note: and {more} more rows of {path}")
    if account.alike:
        note(
            f"note: {path}: {account.alike} of {account.matched} rows matched by wording alike: "
            "their questions differ from the items' in case, spacing or final punctuation, or lack "
            "options or context"
        )
    if account.missing:
        typer.echo(
            f"note: {path}: {account.missing} answers to the {items} items are missing; every rate "
            f"is over the {account.matched} that are there",
            err=True,
        )
    if account.unstated:
        typer.echo(
            f'note: {path}: {account.unstated} rows have no "stop"; they count as ended, so none '
            "of them is truncated",
            err=True,
        )


def _write_scores(out: Path, scores: Any, pairs: Any, name: str, of: int) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        facts = {"items": {name: of}}
        Scores(out).rows.write(scores, facts=facts)
        if pairs is not None:
            Pairs(out).rows.write(pairs)
    except OSError as e:
        raise InputError(f"--out {out}: cannot be written ({e.strerror})") from e


def _source(
    corpus: str | None, columns: str | None, study: Path | None, data_dir: Path | None
) -> "Source":
    from pydantic import ValidationError

    from kdstudy.config.read import read_study
    from kdstudy.config.schema import CorpusRef
    from kdstudy.data.corpora import locate

    if corpus is None:
        if study is None:
            raise InputError(
                "Missing option '--corpus'", remedy="give a file or a name, or --study STUDY.yaml"
            )
        return locate(read_study(study).corpus, study.absolute().parent, data_dir, {})
    fields = corpus_fields("--corpus", corpus, columns)
    try:
        return locate(CorpusRef(**fields), Path(), data_dir, {})
    except ValidationError as e:
        said = e.errors()[0]["msg"].removeprefix("Value error, ")
        raise InputError(f"--corpus {corpus}: {said}") from e


def _wanted(
    asked: Sequence["BenchmarkRef"], data_dir: Path | None
) -> tuple[dict[str, "Benchmark"], dict[str, str]]:
    """Return the benchmarks to look at by name, and why others are not at hand.

    Where none is asked for these are all that a name is enough for.
    """
    from kdstudy.config.schema import BenchmarkRef
    from kdstudy.evaluation import benchmarks

    if asked:
        return {ref.name: benchmark_options.load(ref, data_dir) for ref in asked}, {}
    found, absent = {}, {}
    for name in benchmarks.names():
        known = benchmarks.overview(name, data_dir)
        if known.items is None:
            absent[name] = known.note or known.found
        else:
            found[name] = benchmark_options.load(BenchmarkRef(name=name), data_dir)
    return found, absent


def _write_list(
    path: Path, result: "Audit", rows: Sequence["Row"], tests: dict[str, "Benchmark"]
) -> None:
    from kdstudy.data.audit import matched

    asked = {(b.name, e.id): e for b in tests.values() for e in b.examples}
    trained = {row.example.id: row.example for row in rows}
    table = [
        {
            "benchmark": match.benchmark,
            "example_id": match.example_id,
            "overlap": match.overlap,
            "row": int(match.row),
            "question": asked[match.benchmark, match.example_id].question,
            "row_question": matched(trained[match.row], asked[match.benchmark, match.example_id]),
        }
        for match in result.matches
    ]
    fields = ["benchmark", "example_id", "overlap", "row", "question", "row_question"]
    try:
        with path.open("w", encoding="utf-8", newline="") as f:
            if path.suffix == ".csv":
                writer = csv.DictWriter(f, fields)
                writer.writeheader()
                writer.writerows(table)
            else:
                f.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in table)
    except OSError as e:
        raise InputError(f"--list {path}: cannot be written ({e.strerror})") from e


def _print_audit(document: dict[str, Any]) -> None:
    counts = document["benchmarks"]
    for name, why in document["not_at_hand"].items():
        note(f"note: {name} is not at hand: {why}")
    width = max(map(len, ["benchmark", *counts]))
    typer.echo(f"{'benchmark':<{width}}  items  exact  normalised  masked")
    for name, n in counts.items():
        typer.echo(
            f"{name:<{width}}  {n['items']:>5}  {n['exact']:>5}  {n['normalised']:>10}  "
            f"{n['masked']:>6}"
        )
    held = sum(n["normalised"] > 0 for n in counts.values())
    said = (
        f"{document['corpus']} holds questions of {held} of {len(counts)} benchmarks; "
        f"{document['clean_rows']} of its {document['rows']} rows are clean: no item matches them "
        f"({document['level']})."
    )
    typer.echo(wrapped(said, room_for_a_line()))
    note(
        "exact: the same question; normalised: the same but for case, spacing and punctuation; "
        "masked: the same but for these and its numbers"
    )
    if document["dropped"]:
        note(f"note: {document['dropped']} rows without text were left out")
