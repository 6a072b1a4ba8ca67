"""Sample logs of lm-evaluation-harness (`--log_samples`) as scores; nothing is graded anew.

A log has a row for each document and filter. An item's id is that of the same document in a
benchmark `{harness: TASK}`, so that both are paired.
"""

import dataclasses
import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdstudy.errors import InputError
from kdstudy.evaluation.benchmarks.base import Benchmark
from kdstudy.evaluation.benchmarks.harness import document_hash, label_of
from kdstudy.evaluation.completion_rows import objects
from kdstudy.records import Score

_NAMED = re.compile(r"samples_(.+)_\d{4}-\d\d-\d\dT[\d.-]+")
_NEEDED = ("doc_id", "doc", "target", "arguments", "filtered_resps")
_FIRST = ("acc", "exact_match")
_MOST_SHOWN = 3


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Log:
    """One log, read by one metric and one filter.

    Attributes:
        path: The file.
        benchmark: `harness-TASK`, after the file's name.
        scores: By the order of documents.
        documents: By `doc_id`, the hashes of document and target.
        prompts: By `doc_id`, the hash of the prompt.
        others: What else it could have been read by: `metric,filter`.
        chooses: Whether options were chosen by likelihood, and no text written.
    """

    path: Path
    benchmark: str
    scores: tuple[Score, ...]
    documents: Mapping[int, tuple[str, str]]
    prompts: Mapping[int, str]
    others: tuple[str, ...]
    chooses: bool


def read_log(path: Path, metric: str | None = None, name: str | None = None) -> Log:
    """Return the scores of a log.

    Args:
        path: JSON Lines, as `lm_eval --log_samples` writes them.
        metric: Which of the row's metrics, 0 or 1 of an item; None for `acc`, `exact_match` or the
            first.
        name: Which filter; None for the first in the file.

    Raises:
        InputError: It is no such log, has been changed (a hash is not that of what stands beside
            it), holds a document twice, or its metric is neither 0 nor 1.

    Of choices each option's log-probability and length are in the scores, unless lengths or right
    options of any cannot be told from the log: then a choice is told for `acc` alone.
    """
    rows = [(where, _row(row, where)) for where, row in objects(path)]
    if not rows:
        raise InputError(f"{path}: holds no samples")
    filters = list(dict.fromkeys(row["filter"] for _, row in rows))
    name = name or filters[0]
    if name not in filters:
        raise InputError(f"{path}: has no filter {name!r}", remedy=f"it has {', '.join(filters)}")
    metrics = _metrics(rows[0][1])
    metric = metric or next((m for m in _FIRST if m in metrics), metrics[0])
    chosen = [(where, row) for where, row in rows if row["filter"] == name]
    found = _NAMED.fullmatch(path.stem)
    benchmark = f"harness-{found[1] if found else path.stem}"
    seen: Counter[str] = Counter()
    scores, documents, prompts = [], {}, {}
    whole = all(_options(row) for _, row in chosen)
    for where, row in sorted(chosen, key=lambda pair: pair[1]["doc_id"]):
        number, told = row["doc_id"], row["doc_hash"]
        if number in documents:
            raise InputError(
                f"{where}: document {number} is there twice",
                why="an item counts once",
                remedy="give a log of one run",
            )
        documents[number], prompts[number] = (told, row["target_hash"]), row["prompt_hash"]
        seen[told] += 1
        item = told[:16] + (f"-{seen[told]}" if seen[told] > 1 else "")
        scores.append(_score(where, row, item, benchmark, metric, whole))
    others = [f"{m},{f}" for f in filters for m in metrics if (m, f) != (metric, name)]
    return Log(
        path=path,
        benchmark=benchmark,
        scores=tuple(scores),
        documents=documents,
        prompts=prompts,
        others=tuple(others),
        chooses=any(_logprobs(row) for _, row in chosen),
    )


def require_same_documents(one: Log, other: Log) -> int:
    """Refuse two logs of which a document with one number is not the same document.

    Returns:
        How many documents were asked in different prompts.

    Raises:
        InputError: Documents or targets differ, or none is in both.
    """
    both = sorted(one.documents.keys() & other.documents.keys())
    if not both:
        raise InputError(
            f"{one.path} and {other.path} have no document in common",
            remedy="give two logs of one task",
        )
    differ = [number for number in both if one.documents[number] != other.documents[number]]
    if differ:
        shown = ", ".join(map(str, differ[:_MOST_SHOWN]))
        raise InputError(
            f"{one.path} and {other.path}: {len(differ)} of {len(both)} documents with one number "
            f"are not the same, the first {shown}",
            why="their hashes of document or target differ: the data, or the task's version, did",
            remedy="evaluate both on one version of the task",
        )
    return sum(one.prompts[number] != other.prompts[number] for number in both)


def require_items(log: Log, benchmark: Benchmark) -> None:
    """Refuse a log with documents that a benchmark does not have, with an InputError."""
    known = {example.id for example in benchmark.examples}
    strange = [s.example_id for s in log.scores if s.example_id not in known]
    if strange:
        raise InputError(
            f"{log.path}: {len(strange)} of {len(log.scores)} documents are no items of "
            f"{benchmark.name}; the first has the hash {strange[0]}",
            why="a document's hash says which item it is",
            remedy="name the task that the log is of",
        )


def _row(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return a row whose hashes are those of what stands in it."""
    missing = [field for field in _NEEDED if field not in row]
    if missing or not isinstance(row["doc_id"], int) or not _metrics(row):
        raise InputError(
            f"{where}: is no sample of lm-evaluation-harness"
            + (f"; it has no {missing[0]}" if missing else ""),
            remedy="give a file samples_TASK_DATE.jsonl of `lm_eval --log_samples`",
        )
    arguments = _arguments(row["arguments"], where)
    hashes = {
        "doc_hash": document_hash(row["doc"]),
        "target_hash": _hash(str(row["target"])),
        "prompt_hash": _hash(str(arguments[0][0])),
    }
    for field, own in hashes.items():
        # Older versions write none.
        if row.get(field, own) != own:
            what = field.partition("_")[0]
            raise InputError(
                f"{where}: {field} is not that of its {what}",
                why="the log was changed after it was written, or joined from others",
                remedy="give the file as lm_eval wrote it",
            )
    return {"filter": "none", **row, **hashes, "arguments": arguments}


def _metrics(row: Mapping[str, Any]) -> list[str]:
    """Return the names of a row's metrics; older versions do not list them."""
    listed = row.get("metrics")
    names = listed if isinstance(listed, list) else [*_FIRST, "acc_norm"]
    return [name for name in names if isinstance(name, str) and name in row]


def _arguments(given: Any, where: str) -> list[list[Any]]:
    """Return the arguments of a row's requests, in whichever form a version writes them."""
    found = [*given.values()] if isinstance(given, dict) else given
    try:
        found = [[*one.values()] if isinstance(one, dict) else [*one] for one in found]
        if found and all(found):
            return found
    except TypeError:
        pass
    raise InputError(f"{where}: its arguments are none of a request", remedy="give another file")


def _score(
    where: str, row: Mapping[str, Any], item: str, benchmark: str, metric: str, whole: bool
) -> Score:
    value = row.get(metric)
    if not isinstance(value, int | float) or value not in (0, 1):
        raise InputError(
            f"{where}: its {metric} is {value!r:.40}, neither 0 nor 1",
            why="an item is right or wrong",
            remedy=f"choose another metric: --metric with one of {', '.join(_metrics(row))}",
        )
    logprobs, rule, options = _logprobs(row), f"harness-{metric},{row['filter']}", {}
    if logprobs:
        options = _options(row) if whole else {}
        best = _choices({"option_logprobs": logprobs, **options}).get(metric)
        answer = "" if best is None else label_of(best)
        text = str(row["arguments"][_largest(logprobs)][-1]).strip()
        rule = "choice-likelihood" if metric == "acc" else rule
    else:
        resps = row.get("resps") or [[""]]
        text = resps[0][0] if isinstance(resps[0], list) else str(resps[0])
        answer = str(row["filtered_resps"][0])
    missing = not logprobs and answer in ("", "[invalid]")
    return Score(
        benchmark=benchmark,
        example_id=item,
        sample=0,
        completion=text,
        extracted="" if missing else answer,
        rule=rule,
        outcome="correct" if value else "unparsed" if missing else "wrong",
        quality=float(value),
        tokens=0,
        **options,
    )


def _logprobs(row: Mapping[str, Any]) -> list[float]:
    """Return the options' log-probabilities of a row that chose, [] of one that wrote."""
    filtered = row["filtered_resps"]
    try:
        found = [float(one[0]) for one in filtered if isinstance(one, list) and len(one) == 2]
    except ValueError:
        return []
    # Behind the options come those without their context.
    return found[: len(found) // 2] if "acc_mutual_info" in row else found


def _options(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a `Score`'s fields of options; {} where the log does not tell all of them.

    It has no list of the options: they are the continuations without the blanks before them. Where
    what follows from these is not the metrics that the log has, they are something else.
    """
    logprobs = _logprobs(row)
    texts = [str(one[-1]).lstrip() for one in row["arguments"][: len(logprobs)]]
    if len(set(texts)) < len(logprobs) or not logprobs or not all(texts):
        return {}  # where contexts are what differs, they are the options
    told = str(row["target"]).strip()
    targets = {i for i, text in enumerate(texts) if told in (str(i), text.strip())}
    found = {
        "option_logprobs": tuple(logprobs),
        "option_characters": tuple(map(len, texts)),
        "option_bytes": tuple(len(text.encode()) for text in texts),
    }
    chosen = {name: i for name, i in _choices(found).items() if name in row}
    fit = [t for t in targets if all((i == t) == row[name] for name, i in chosen.items())]
    return {**found, "target": fit[0]} if len(fit) == 1 else {}


def _choices(options: Mapping[str, Any]) -> dict[str, int]:
    """Return which option is chosen, by metric, as far as lengths are there."""
    logprobs = options["option_logprobs"]
    found = {"acc": _largest(logprobs)}
    for metric, field in (("acc_norm", "option_characters"), ("acc_bytes", "option_bytes")):
        if field in options:
            normed = [value / n for value, n in zip(logprobs, options[field], strict=True)]
            found[metric] = _largest(normed)
    return found


def _largest(values: Sequence[float]) -> int:
    """Return the place of the first of the largest."""
    return values.index(max(values))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
