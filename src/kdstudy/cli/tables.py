"""The verbs on files of rows: completions made anywhere, and training corpora."""

import csv
import dataclasses
import json
import math
import warnings
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdstudy.cli.options import AsJson, DataDir, note, print_json
from kdstudy.errors import InputError

if TYPE_CHECKING:
    from kdstudy.data.audit import Audit, Row
    from kdstudy.data.corpora import Source
    from kdstudy.evaluate.benchmarks import Benchmark
    from kdstudy.evaluate.completions import Account
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
    benchmark: Annotated[str, typer.Option(help="`kdstudy ls benchmarks` names them.")],
    generations: Annotated[
        Path, typer.Option(metavar="FILE", help='{"id" or "question", "completion"} per line.')
    ],
    against: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Another system's, such as the teacher's.")
    ] = None,
    rule: Annotated[
        RuleName, typer.Option(help="How answers are found and graded.")
    ] = RuleName.corrected,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for scores.parquet, pairs.parquet.")
    ] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Score completions made by any system; with --against, agreement and fidelity as well."""
    from kdstudy.evaluate.completions import compare

    items = _load(benchmark, data_dir)
    scores, found = _scored(generations, items, rule.value)
    document = {"benchmark": items.name, **found}
    pairs = None
    if against is not None:
        others, document["against"] = _scored(against, items, rule.value)
        mine, theirs, pairs = compare(scores, others)
        document |= _compared(mine, theirs, pairs, text=items.kind == "text")
    if out is not None:
        _write_scores(out, scores, pairs)
    if as_json:
        print_json(document)
    else:
        _print_scored(document, len(items.examples))


def audit(
    corpus: Annotated[str, typer.Option(metavar="FILE", help="A corpus: file or known name.")],
    benchmarks: Annotated[
        str | None, typer.Option(help="Names, with commas between; all at hand if left out.")
    ] = None,
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
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Count, per benchmark, the test items that a training corpus holds."""
    from kdstudy.data import audit as audits

    if listed is not None and listed.suffix not in (".csv", ".jsonl"):
        raise InputError(f"--list {listed}: must end in .csv or .jsonl")
    source = _source(corpus, data_dir)
    rows, dropped = audits.read(source)
    sets, absent = _wanted(benchmarks, data_dir)
    tests = {name: found.examples for name, found in sets.items()}
    result = audits.audit([row.example for row in rows], tests, level.value)
    if out is not None:
        audits.write_rows(source, [rows[place] for place in result.clean], out)
    if listed is not None:
        _write_list(listed, result, rows, sets)
    facts = {"corpus": source.name, "rows": len(rows), "dropped": dropped, "level": level.value}
    found = {"benchmarks": result.counts, "clean_rows": len(result.clean), "not_at_hand": absent}
    if as_json:
        print_json(facts | found)
    else:
        _print_audit(facts | found)


def _load(name: str, data_dir: Path | None) -> "Benchmark":
    from kdstudy.evaluate import benchmarks

    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always", benchmarks.EditedBenchmark)
        loaded = benchmarks.load(name, data_dir)
    for warning in heard:
        note(f"note: {warning.message}")
    return loaded


def _scored(path: Path, benchmark: "Benchmark", rule: Any) -> tuple[list["Score"], dict[str, Any]]:
    """Return a file's scores, and what they come to."""
    from kdstudy.evaluate.completions import grade, read
    from kdstudy.evaluate.score import summary

    generations, account = read(path, benchmark)
    scores = grade(generations, benchmark, rule)
    _note(path, account, len(benchmark.examples))
    low, high = _interval(scores, text=benchmark.kind == "text")
    return scores, {
        **summary(scores),
        "low": low,
        "high": high,
        "rule": scores[0].rule.partition("-")[2],
        "rows": dataclasses.asdict(account),
    }


def _interval(scores: Sequence["Score"], *, text: bool) -> tuple[float, float]:
    """Return a 95% interval over items: Wilson of the accuracy, bootstrap of the mean ROUGE-L."""
    import numpy as np

    from kdstudy.analyze.intervals import DEFAULT_BOOTSTRAP, wilson

    items: dict[str, list[float]] = {}
    for row in scores:
        items.setdefault(row.example_id, []).append(row.quality)
    if not text:
        return wilson(sum(row.quality for row in scores) / len(scores), len(items))
    if len(items) < 2:
        return math.nan, math.nan
    values = np.array([sum(quality) / len(quality) for quality in items.values()])
    means = DEFAULT_BOOTSTRAP.weights(len(values)) @ values / len(values)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def _compared(mine: Any, theirs: Any, pairs: Any, *, text: bool) -> dict[str, Any]:
    from kdstudy.evaluate.agreement import agreement, chance
    from kdstudy.evaluate.fidelity import fidelity

    same = None if text else dataclasses.asdict(agreement(pairs, chance(mine, theirs)))
    return {
        "compared": len(pairs),
        "agreement": same,
        "fidelity": dataclasses.asdict(fidelity(pairs)),
    }


def _note(path: Path, account: "Account", items: int) -> None:
    """Say what the rates leave out."""
    for row in account.left_out:
        note(f"note: {row}")
    more = account.doubled + account.unknown - len(account.left_out)
    if more:
        note(f"note: and {more} more rows of {path}")
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


def _write_scores(out: Path, scores: Any, pairs: Any) -> None:
    from kdstudy.evaluate.stages import PAIRS, SCORES
    from kdstudy.records import PairScore, Score, write_records

    try:
        out.mkdir(parents=True, exist_ok=True)
        write_records(out / SCORES, scores, Score)
        if pairs is not None:
            write_records(out / PAIRS, pairs, PairScore)
    except OSError as e:
        raise InputError(f"--out {out}: cannot be written ({e.strerror})") from e


def _print_scored(document: dict[str, Any], items: int) -> None:
    typer.echo(f"{document['benchmark']}, {items} items, rule {document['rule']}")
    _print_system(document)
    if "against" not in document:
        return
    typer.echo("against")
    _print_system(document["against"])
    typer.echo(f"the two on the {document['compared']} answers that both have")
    same, close = document["agreement"], document["fidelity"]
    if same is not None:
        _line(
            "agreement",
            f"{_percent(same['rate'])}, kappa {_kappa(same['kappa'])}; the accuracies allow "
            f"{_percent(same['lower'])} to {_percent(same['upper'])}",
        )
        _line("both wrong", f"{_percent(same['both_wrong_rate'])} of {same['both_wrong_n']} alike")
    _line("BLEU", f"{close['corpus_bleu']:.1f} corpus, {close['mean_sentence_bleu']:.1f} sentences")
    for field, label in (("rouge_l", "ROUGE-L"), ("steps", "steps")):
        if field in close:
            _line(label, _percent(close[field]))


def _print_system(found: dict[str, Any]) -> None:
    rows, text = found["rows"], "rouge_l" in found
    counts = ("matched", "missing", "doubled", "unknown")
    _line("rows", ", ".join(f"{rows[name]} {name}" for name in counts))
    interval = f"[{100 * found['low']:.1f}, {100 * found['high']:.1f}]"
    value = found["rouge_l" if text else "accuracy"]
    _line("ROUGE-L" if text else "accuracy", f"{_percent(value)} {interval} of {found['n']}")
    if not text:
        _line("completed", f"{_percent(found['accuracy_completed'])} of those not truncated")
        _line("parsed", _percent(found["parse_rate"]))
    _line("outcomes", ", ".join(f"{n} {name}" for name, n in found["outcomes"].items()))


def _line(label: str, text: str) -> None:
    typer.echo(f"  {label:<10}  {text}")


def _kappa(kappa: float) -> str:
    """Return kappa, which is undefined where both give one and the same answer to every item."""
    return "undefined" if math.isnan(kappa) else f"{kappa:.2f}"


def _percent(share: float) -> str:
    return "undefined" if math.isnan(share) else f"{100 * share:.1f}%"


def _source(corpus: str, data_dir: Path | None) -> "Source":
    from kdstudy.data.corpora import locate, names
    from kdstudy.study.schema import CorpusRef

    if _is_file(corpus):
        ref = CorpusRef(path=corpus)
    elif corpus in names():
        ref = CorpusRef(name=corpus)
    else:
        raise InputError(
            f"--corpus {corpus}: no such file, and no corpus of that name",
            remedy=f"give a path, or one of {', '.join(names())}",
        )
    return locate(ref, Path(), data_dir, {})


def _is_file(text: str) -> bool:
    try:
        return Path(text).expanduser().is_file()
    except (OSError, RuntimeError):  # too long for a path, or ~somebody who has no home
        return False


def _wanted(
    asked: str | None, data_dir: Path | None
) -> tuple[dict[str, "Benchmark"], dict[str, str]]:
    """Return the benchmarks to look at by name, and why others are not at hand."""
    from kdstudy.evaluate import benchmarks

    if asked is not None:
        names = list(dict.fromkeys(benchmarks.canonical(n) for n in asked.split(",") if n.strip()))
        if not names:
            raise InputError("--benchmarks: names none", remedy="leave it out for all at hand")
        return {name: _load(name, data_dir) for name in names}, {}
    sets, absent = {}, {}
    for name in benchmarks.names():
        known = benchmarks.overview(name, data_dir)
        if known.items is None:
            absent[name] = known.note or known.found
        else:
            sets[name] = _load(name, data_dir)
    return sets, absent


def _write_list(
    path: Path, result: "Audit", rows: Sequence["Row"], sets: dict[str, "Benchmark"]
) -> None:
    asked = {(b.name, e.id): e.question for b in sets.values() for e in b.examples}
    trained = {row.example.id: row.example.question for row in rows}
    table = [
        {
            "benchmark": match.benchmark,
            "example_id": match.example_id,
            "overlap": match.overlap,
            "row": int(match.row),
            "question": asked[match.benchmark, match.example_id],
            "row_question": trained[match.row],
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
    typer.echo(
        f"{document['corpus']} holds questions of {held} of {len(counts)} benchmarks; "
        f"{document['clean_rows']} of its {document['rows']} rows are clean: no item matches them "
        f"({document['level']})."
    )
    if document["dropped"]:
        note(f"note: {document['dropped']} rows without text were left out")
