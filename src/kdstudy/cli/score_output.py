"""What `score` prints, and how it reads sample logs of lm-evaluation-harness."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from kdstudy.cli.options import note, part, room_for_a_line, wrapped
from kdstudy.errors import InputError

if TYPE_CHECKING:
    from kdstudy.evaluation.benchmarks import Benchmark
    from kdstudy.records import Score


def require_alone(options: Mapping[str, Any]) -> None:
    """Refuse options, by name, that are of texts which are to be graded."""
    for option, value in options.items():
        if value:
            raise InputError(
                f"{option}: is of texts to grade, and --lm-eval has samples that are graded",
                remedy="leave one of the two out",
            )


def of_logs(
    path: Path,
    against: Path | None,
    metric: str | None,
    name: str | None,
    whole: "Benchmark | None",
    compared: Callable[..., dict[str, Any]],
) -> tuple[dict[str, Any], Any, "list[Score]"]:
    """Return what logs come to as `score` prints it, their pairs, and the first one's scores.

    Args:
        path: The log.
        against: Another system's, or None.
        metric: As `read_log` takes it.
        name: The filter, as `read_log` takes it.
        whole: The benchmark whose items they must be of, or None.
        compared: Says what two systems come to.
    """
    from kdstudy.evaluation.benchmarks import Benchmark
    from kdstudy.evaluation.completions import compare
    from kdstudy.evaluation.harness_logs import read_log, require_items, require_same_documents

    found = [read_log(p, metric, name) for p in (path, against) if p is not None]
    for log in found if whole else ():
        require_items(log, whole)
    items = whole or Benchmark(
        name=found[0].benchmark, version="", kind="choice", chance=0.0, examples=()
    )
    of = len(items.examples) or max(len(log.scores) for log in found)
    scores = [[dataclasses.replace(s, benchmark=items.name) for s in log.scores] for log in found]
    document, pairs = {"benchmark": items.name, **_logged(scores[0], of)}, None
    if found[0].others:
        note(f"note: {path}: read by {scores[0][0].rule}; it has {', '.join(found[0].others)} too")
    if against is not None:
        prompts = require_same_documents(*found)
        if prompts:
            note(f"note: {prompts} documents were asked in different prompts")
        mine, theirs, pairs = compare(*scores)
        document["against"] = _logged(scores[1], of)
        document |= compared(mine, theirs, pairs, items, "rouge-score")
        if any(log.chooses for log in found):
            document["fidelity"] = None  # nothing was written
            if not all(score.extracted for score in (*mine, *theirs)):
                note(f"note: {scores[0][0].rule}: the logs do not tell which options it chose")
                document["agreement"] = pairs = None
    return document, pairs, scores[0]


def _logged(scores: "list[Score]", of: int) -> dict[str, Any]:
    from kdstudy.analysis.scores import Graded, levels
    from kdstudy.evaluation.completions import Account
    from kdstudy.evaluation.score import summary

    (level,) = levels(Graded(system="log", scores=scores))
    rows: dict[str, Any] = dict.fromkeys((f.name for f in dataclasses.fields(Account)), 0)
    rows |= {"matched": len(scores), "missing": of - len(scores), "left_out": []}
    kept = {k: v for k, v in summary(scores).items() if k in ("n", "accuracy", "outcomes")}
    return kept | {
        "items": level.n,
        "of": of,
        "low": level.low,
        "high": level.high,
        "rule": scores[0].rule.partition("-")[2],
        "rows": rows,
    }


def print_scored(document: Mapping[str, Any]) -> None:
    """Print what `score` found."""
    typer.echo(f"{document['benchmark']}, {document['of']:,} items, rule {document['rule']}")
    _print_system(document)
    if "against" not in document:
        return
    typer.echo("against")
    _print_system(document["against"])
    typer.echo(f"the two on the {document['compared']} answers that both have")
    _line("difference", document["difference"]["sentence"].partition(": ")[2])
    same, close = document["agreement"], document["fidelity"]
    if same is not None:
        _line(
            "agreement",
            f"{_percent(same['rate'])}, kappa {_kappa(same['kappa'])}; the accuracies allow "
            f"{_percent(same['lower'])} to {_percent(same['upper'])}",
        )
        _line("both wrong", f"{_percent(same['both_wrong_rate'])} of {same['both_wrong_n']} alike")
    if close is None:  # nothing was written
        return
    whole, sentences = close["corpus_bleu"], close["mean_sentence_bleu"]
    whole = "undefined" if math.isnan(whole) else f"{whole:.1f}"
    _line("BLEU", f"{whole} corpus, {sentences:.1f} sentences")
    for field, label in (("rouge_l", "ROUGE-L"), ("steps", "steps")):
        if field in close:
            _line(label, _percent(close[field]))


def _print_system(found: Mapping[str, Any]) -> None:
    rows, text = found["rows"], "rouge_l" in found
    counts = ("matched", "missing", "doubled", "ambiguous", "unknown")
    alike = f" ({rows['alike']} by wording alike)" if rows["alike"] else ""
    said = [f"{rows[name]} {name}" for name in counts if rows[name] or name != "ambiguous"]
    _line("rows", f"{said[0]}{alike}, {', '.join(said[1:])}")
    interval = f"[{100 * found['low']:.1f}, {100 * found['high']:.1f}]"
    interval = "(no interval)" if math.isnan(found["low"]) else interval
    value = found["rouge_l" if text else "accuracy"]
    there = part(found["items"], found["of"])
    drawn = f" ({found['n']:,} answers)" if found["n"] != found["items"] else ""
    _line(
        "ROUGE-L" if text else "accuracy",
        f"{_percent(value)} {interval} of {there} items{drawn}",
    )
    for name in ("acc_norm", "acc_bytes"):
        if name in found:
            _line(name, _percent(found[name]))
    if "by_filter" in found:
        said = (f"{name} {_percent(value)}" for name, value in found["by_filter"].items())
        _line("by filter", ", ".join(said))
    if "parse_rate" in found:
        ended = found["n"] - found["outcomes"]["truncated"]
        _line(
            "completed", f"{_percent(found['accuracy_completed'])} of the {ended:,} not truncated"
        )
        _line("parsed", _percent(found["parse_rate"]))
    _line("outcomes", ", ".join(f"{n} {name}" for name, n in found["outcomes"].items()))


def _line(label: str, text: str) -> None:
    typer.echo(wrapped(f"  {label:<10}  {text}", room_for_a_line()))


def _kappa(kappa: float) -> str:
    """Return kappa, which is undefined where both give one and the same answer to every item."""
    return "undefined" if math.isnan(kappa) else f"{kappa:.2f}"


def _percent(share: float) -> str:
    return "undefined" if math.isnan(share) else f"{100 * share:.1f}%"
