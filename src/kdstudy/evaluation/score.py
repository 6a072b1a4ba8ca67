"""Generations against a benchmark: every item is exactly one of four outcomes."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from kdstudy.answers.extract import Rule
from kdstudy.config.schema import RougeTokenizer
from kdstudy.errors import InputError
from kdstudy.evaluation.benchmarks.base import Benchmark
from kdstudy.evaluation.graders import Grader, Reading, usual
from kdstudy.evaluation.graders.filters import FILTERS
from kdstudy.records import OUTCOMES, Generation, OptionLikelihoods, Score


def score(
    generations: Iterable[Generation] | Iterable[OptionLikelihoods],
    benchmark: Benchmark,
    rule: Rule,
    rouge_tokenizer: RougeTokenizer = "rouge-score",
    grader: Grader | None = None,
    thinking: str = "",
) -> list[Score]:
    """Return one score per generation, in benchmark order, then by sample.

    A completion that the token budget ended (`stop == "length"`) is graded like any other under
    `reference`. Under `corrected` it is `truncated`, with no answer, unless the text states its
    answer ("answer is", boxed, `####`) and goes on after that statement: then the cut took nothing
    that matters. A last number alone never counts, since the reasoning was not over. A free text is
    the same under both rules: `truncated` when cut, else `unparsed` when empty, else `rated`.

    Args:
        generations: Every item of the benchmark exactly once per sample number; of a grader that
            needs options their likelihoods.
        benchmark: The items.
        rule: `reference` or `corrected`.
        rouge_tokenizer: What ROUGE-L of free texts takes for words.
        grader: What grades them; None for what is usual with such answers.
        thinking: The mark that ends a thought, before which nothing is an answer; "": none does.

    Raises:
        InputError: Generations are missing, repeated, or of something else than this benchmark.
    """
    rows = {(g.example_id, g.sample): g for g in _checked(list(generations), benchmark)}
    samples = sorted({sample for _, sample in rows})
    grader = grader or usual(benchmark.kind, benchmark.labels)
    reading = Reading(rule=rule, rouge_tokenizer=rouge_tokenizer, thinking=thinking)
    return [
        grader.score(rows[example.id, sample], example, benchmark, reading)
        for example in benchmark.examples
        for sample in samples
    ]


def summary(scores: Sequence[Score]) -> dict[str, Any]:
    """Return the counts and rates of some scores; rates are fractions, NaN when there are none.

    Returns:
        Of free texts `n`, `rouge_l` (their mean quality), `truncated_rate` and `outcomes`. Of
        choices by likelihood `n`, `accuracy`, `acc_norm`, `acc_bytes` and `outcomes`. Of
        anything else `n`; `accuracy` (truncated counts as wrong); `accuracy_completed` (over rows
        that are not truncated); `parse_rate` (rows with an answer, right or wrong);
        `truncated_rate`; `outcomes` (rows per outcome); accuracy `by_filter` where published
        filters grade, and mean `thought_tokens` where thoughts are told apart.
    """
    counts = Counter(score.outcome for score in scores)
    n, correct = len(scores), counts["correct"]
    if scores and all(s.is_text for s in scores):
        return {
            "n": n,
            "rouge_l": sum(s.quality for s in scores) / n,
            "truncated_rate": _share(counts["truncated"], n),
            "outcomes": {o: counts[o] for o in ("rated", "unparsed", "truncated")},
        }
    if scores and all(s.option_logprobs for s in scores):
        return {
            "n": n,
            "accuracy": correct / n,
            "acc_norm": sum(normed_right(s, s.option_characters) for s in scores) / n,
            "acc_bytes": sum(normed_right(s, s.option_bytes) for s in scores) / n,
            "outcomes": {o: counts[o] for o in ("correct", "wrong")},
        }
    published = {}
    if scores and all(score.by_filter for score in scores):
        right = zip(*(score.by_filter for score in scores), strict=True)
        published = {name: sum(part) / n for name, part in zip(FILTERS, right, strict=True)}
        published = {"by_filter": published}
    if scores and all(score.thought >= 0 for score in scores):
        published["thought_tokens"] = sum(score.thought for score in scores) / n
    return {
        "n": n,
        "accuracy": _share(correct, n),
        "accuracy_completed": _share(correct, n - counts["truncated"]),
        "parse_rate": _share(correct + counts["wrong"], n),
        "truncated_rate": _share(counts["truncated"], n),
        "outcomes": {outcome: counts[outcome] for outcome in OUTCOMES},
        **published,
    }


def normed_right(score: Score, lengths: Sequence[int]) -> bool:
    """Return whether a choice by log-probability over length is right; of equals the first is."""
    normed = [value / n for value, n in zip(score.option_logprobs, lengths, strict=True)]
    return normed.index(max(normed)) == score.target


def _checked(rows: list[Any], benchmark: Benchmark) -> list[Any]:
    """Return the rows if they are this benchmark's items, each exactly once per sample."""
    ids = [example.id for example in benchmark.examples]
    known = set(ids)
    strangers = [
        g.example_id for g in rows if g.benchmark != benchmark.name or g.example_id not in known
    ]
    _refuse(strangers, benchmark, "generations are not of its items")
    counts = Counter((g.example_id, g.sample) for g in rows)
    _refuse([i for (i, _), n in counts.items() if n > 1], benchmark, "items are repeated")
    samples = sorted({g.sample for g in rows}) or [0]
    missing = [i for i in ids for sample in samples if (i, sample) not in counts]
    _refuse(missing, benchmark, f"of {len(ids) * len(samples)} generations are missing")
    return rows


def _refuse(ids: list[str], benchmark: Benchmark, problem: str) -> None:
    if ids:
        raise InputError(
            f"{benchmark.name}: {len(ids)} {problem}; the first is {ids[0]}",
            why="every item must be there exactly once per sample, or the rates mean nothing",
            remedy="generate again for the whole benchmark",
        )


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
