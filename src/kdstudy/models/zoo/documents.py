"""The pretraining text of the zoo: word problems, drills and worked lists."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from kdstudy.data.synthetic import PRETRAIN_STYLES, Problem, number_text, problems

PROMPT = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n"
)
_WORD_SHARE = 0.86
_INVENTED_SHARE = 0.2


def documents(seed: int, split: str = "pretrain") -> Iterator[list[str]]:
    """Yield endless pretraining documents.

    Args:
        seed: Seed of the whole sequence.
        split: Split the word problems come from ("pretrain" to train; another to measure).

    Yields:
        The document's pieces: given text and worked text in turn, the given text first. The
        document is their concatenation, without an end-of-text mark.
    """
    rng = Random(f"kdstudy/documents/{split}/{seed}")
    source = problems(split, seed, style=PRETRAIN_STYLES, invented=_INVENTED_SHARE)
    while True:
        yield _problem_document(rng, source) if rng.random() < _WORD_SHARE else ["", _drill(rng)]


def _problem_document(rng: Random, source: Iterator[Problem]) -> list[str]:
    problem = next(source)
    roll = rng.random()
    if roll < 0.36:
        return [PROMPT.format(instruction=problem.question), problem.rationale]
    if roll < 0.62:
        return [f"Question: {problem.question}\nAnswer:", f" {problem.rationale}"]
    if roll < 0.78:
        return [f"Q: {problem.question} A:", f" {problem.rationale}"]
    if roll < 0.94:
        return [problem.question, f" {problem.rationale}"]
    second = next(source)
    return [
        f"1. {problem.question}\n",
        problem.rationale,
        f"\n\n2. {second.question}\n",
        second.rationale,
    ]


def _between(rng: Random, low: int, high: int) -> int:
    return low + int(rng.random() * (high - low + 1))


def _equation(rng: Random) -> tuple[str, str]:
    """Return the two sides of a true equation of one step."""
    op = "+-*/"[int(rng.random() * 4)]
    if op in "+-":
        top = (20, 100, 1000, 10000)[int(rng.random() * 3.4)]
        scale = (1, 1, 1, 10, 100)[int(rng.random() * 5)]
        left, right = _between(rng, 1, top * scale), _between(rng, 1, top * scale)
        if op == "-":
            left, right = max(left, right), min(left, right)
        result = left + right if op == "+" else left - right
        sides = (number_text(left, scale), number_text(right, scale))
        return f"{sides[0]} {op} {sides[1]}", number_text(result, scale)
    small = _between(rng, 2, 12)
    large = _between(rng, 2, 12 if rng.random() < 0.6 else 100)
    if op == "*":
        pair = (small, large) if rng.random() < 0.5 else (large, small)
        return f"{pair[0]} * {pair[1]}", str(small * large)
    return f"{small * large} / {small}", str(large)


def _chain(rng: Random) -> str:
    total = _between(rng, 2, 100)
    parts = []
    for _ in range(_between(rng, 2, 3)):
        step = _between(rng, 1, 50)
        op = "-" if total > step and rng.random() < 0.5 else "+"
        result = total - step if op == "-" else total + step
        parts.append(f"{total} {op} {step} = {result}")
        total = result
    return ", ".join(parts)


def _drill(rng: Random) -> str:
    lines = []
    for _ in range(_between(rng, 3, 8)):
        roll = rng.random()
        left, right = _equation(rng)
        if roll < 0.1:
            lines.append(_chain(rng))
        elif roll < 0.2:
            lines.append(f"What is {left}? The answer is {right}.")
        elif roll < 0.3:
            lines.append(f"{left}={right}".replace(" ", ""))
        else:
            lines.append(f"{left} = {right}")
    return ("\n", ", ", " ; ")[int(rng.random() * 3)].join(lines)
