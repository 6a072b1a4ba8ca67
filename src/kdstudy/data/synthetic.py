"""Synthetic arithmetic word problems with worked answers.

The generator joins hand-written question templates (`templates.txt`) with word lists
(`words.txt`). Everything is drawn from a seeded `random.Random`, so equal seeds give equal
problems on every platform. Every question belongs to exactly one split, given by a hash of its
normalised text, so problems drawn from different splits can never coincide.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from random import Random

from kdstudy.data.synthetic_wording import (
    CONTEXT_SHARE,
    DISTRACTORS,
    Scene,
    Template,
    assemble,
    between,
    choose,
    contexts,
    fill,
    fitting_question,
    pick,
    slots,
    stems,
    templates,
)

SPLITS = ("pretrain", "train", "test")
STUDY_STYLE = "study"
PRETRAIN_STYLES = ("chain", "sentence", "so", "words", "expression", "tight", "short")
ANSWER_ENDINGS = (
    "The answer is {}.",
    "Answer: {}",
    "#### {}",
    "So the answer is {}.",
    "The final answer is {}.",
    "Therefore the answer is {}.",
)
_OPERATION_WORDS = {
    "+": ("Add", "and", "adding"),
    "-": ("Take", "minus", "subtracting"),
    "*": ("Multiply", "by", "multiplying"),
    "/": ("Divide", "by", "dividing"),
}
_DECIMAL_FLAGS = frozenset(("dec", "money", "frac"))


@dataclass(frozen=True)
class Problem:
    """One word problem.

    Attributes:
        question: The problem as a reader sees it.
        rationale: The worked solution, ending in a stated answer.
        answer: The result as text: an integer, or a decimal without trailing zeros.
        operations: Number of arithmetic steps (1 to 3).
        kind: Template name, followed by "+extra" when an unused number was added.
    """

    question: str
    rationale: str
    answer: str
    operations: int
    kind: str


def split_of(question: str) -> str:
    """Return the split ("pretrain", "train" or "test") that a question belongs to.

    Case and white space do not matter, so two spellings of one question share a split.
    """
    digest = hashlib.sha256(normalise(question).encode()).digest()
    share = int.from_bytes(digest[:8], "big") % 10
    return SPLITS[max(0, share - 7)]


def normalise(question: str) -> str:
    """Return the question lower-cased, with every run of white space as one blank."""
    return " ".join(question.lower().split())


def number_text(value: int, scale: int = 1) -> str:
    """Return value / scale without trailing zeros; `scale` is a power of ten."""
    if value % scale == 0:
        return str(value // scale)
    digits = len(str(scale)) - 1
    sign = "-" if value < 0 else ""
    whole, part = divmod(abs(value), scale)
    return f"{sign}{whole}.{part:0{digits}d}".rstrip("0")


def _draw_number(rng: Random, name: str, options: Sequence[str], decimal: bool) -> int:
    roll = rng.random()
    if name in "km":
        return between(rng, 2, 10) if roll < 0.85 else between(rng, 2, 20)
    if decimal and "frac" in options:
        return pick(rng, (100, 125, 200, 250, 300, 375, 400, 500, 600, 625))
    if decimal and "money=1" in options:
        return 10 * between(rng, 50, 2000 if roll < 0.8 else 9999)
    if decimal:
        step = 250 if roll < 0.2 else 100
        return step * between(rng, 1, (20 if roll < 0.6 else 200) * 100 // step)
    if "huge" in options:
        return between(rng, 100, 999 if roll < 0.4 else 9999 if roll < 0.9 else 30000)
    if "mul" in options and name not in "xy":
        return between(rng, 2, 12 if roll < 0.6 else 50)
    if "big" in options and roll < 0.15:
        return between(rng, 100, 999)
    return between(rng, 2, 20 if roll < 0.35 else 100)


def _solve(template: Template, values: dict[str, int]) -> list[tuple[int, str, int, int]] | None:
    """Return (left, operator, right, result) per step, or None for unusable numbers."""
    equations = []
    for left_name, op, right_name, target, _ in template.steps:
        left = int(left_name) if left_name.isdigit() else values[left_name]
        right = int(right_name) if right_name.isdigit() else values[right_name]
        if op == "/" and (left % right or left // right < 2):
            return None
        result = {
            "+": left + right,
            "-": left - right,
            "*": left * right,
            "/": left // max(right, 1),
        }[op]
        if result < 1 or (op == "*" and result > 999):
            return None
        values[target] = result
        equations.append((left, op, right, result))
    return equations


def _draw_values(
    rng: Random, template: Template, names: Sequence[str]
) -> tuple[dict[str, int], list[tuple[int, str, int, int]], int]:
    flags = {option.split("=")[0] for option in template.options}
    decimal = bool(flags & _DECIMAL_FLAGS) and rng.random() < (0.5 if "money" in flags else 0.65)
    decimal = decimal or "frac" in flags
    while True:
        values = {name: _draw_number(rng, name, template.options, decimal) for name in names}
        if decimal and "x" in values:
            values["x"] = values["x"] // 1000 * 1000 + 1000
        equations = _solve(template, values)
        if equations is not None and not ("frac" in flags and equations[-1][3] >= 1000):
            return values, equations, 1000 if decimal else 1


def _expression(template: Template, equations: list[tuple[int, str, int, int]], scale: int) -> str:
    """Return one bracketed expression for the whole solution."""
    built: dict[str, str] = {}
    for (left, op, right, target, _), (a, _, b, _) in zip(template.steps, equations, strict=True):
        first = built.get(left, number_text(a, scale))
        second = built.get(right, number_text(b, scale))
        built[target] = f"({first} {op} {second})"
    return built[template.steps[-1][3]][1:-1]


def _step_text(style: str, equation: str, what: str, parts: tuple[str, str, str, str]) -> str:
    left, op, right, result = parts
    if style == STUDY_STYLE:
        return f"{{lead}} {what}: {equation}."
    if style == "sentence":
        return f"{what[0].upper()}{what[1:]}: {equation}."
    if style == "so":
        return f"{equation}, so {what} = {result}." if op in "+*" else f"{equation}."
    if style == "words":
        verb, link, _ = _OPERATION_WORDS[op]
        return f"{verb} {left} {link} {right}: {equation}."
    if style == "tight":
        return equation.replace(" ", "") + "."
    return f"{equation}."


def _rationale(
    rng: Random,
    style: str,
    template: Template,
    equations: list[tuple[int, str, int, int]],
    scale: int,
    whats: list[str],
) -> str:
    texts = []
    for index, ((left, op, right, result), what) in enumerate(zip(equations, whats, strict=True)):
        parts = (*(number_text(left, scale), op), *(number_text(v, scale) for v in (right, result)))
        equation = f"{parts[0]} {op} {parts[2]} = {parts[3]}"
        text = _step_text(style, equation, what, parts)
        lead = "Work out" if index == 0 else "Then work out"
        texts.append(text.format(lead=lead) if style == STUDY_STYLE else text)
    answer = number_text(equations[-1][3], scale)
    if style == STUDY_STYLE:
        return f"{' '.join(texts)} The answer is {answer}."
    if style == "expression":
        texts.insert(0, f"We need {_expression(template, equations, scale)}.")
    if style == "short":
        return f"{', '.join(text[:-1] for text in texts)}. {answer}"
    return f"{' '.join(texts)} {pick(rng, ANSWER_ENDINGS).format(answer)}"


def _make(rng: Random, template: Template, style: str, extra: bool, invented: float) -> Problem:
    setup = choose(rng, pick(rng, template.setups))
    question = fitting_question(rng, template, setup)
    extra = extra and not template.distracts
    sentences = setup.split(" / ")
    if rng.random() < CONTEXT_SHARE:
        sentences.insert(0, pick(rng, contexts()))
    if extra:
        line = choose(rng, pick(rng, DISTRACTORS))
        sentences.insert(between(rng, 1, len(sentences)), line)
    used = slots(" ".join([*sentences, question]))
    names = [name for name in ("abcdkmxy") if name in used or _needed(template, name)]
    values, equations, scale = _draw_values(rng, template, names)
    cents = "money=1" in template.options and scale > 1 and rng.random() < 0.6
    numbers = {}
    for name in names:
        text = number_text(values[name], scale)
        if cents and name != "x" and "." in text:
            text = f"{text.split('.')[0]}.{text.split('.')[1]:0<2}"
        numbers[name] = text
    if "huge" in template.options and rng.random() < 0.2:
        numbers = {name: f"{int(text):,}" for name, text in numbers.items()}
    scene = Scene(rng, template.options, invented)
    filled = [fill(scene, sentence, numbers) for sentence in sentences]
    asked = fill(scene, question, numbers)
    people = [scene.chosen[key] for key in "ABCDE" if key in scene.chosen]
    text = assemble(rng, filled, asked, people)
    known = stems(" ".join([*sentences, question]))
    whats = [_what(scene, step[4], known) for step in template.steps]
    rationale = _rationale(rng, style, template, equations, scale, whats)
    kind = template.kind + ("+extra" if extra else "")
    return Problem(text, rationale, number_text(equations[-1][3], scale), len(equations), kind)


def _needed(template: Template, name: str) -> bool:
    return any(name in step[:3:2] for step in template.steps)


def _what(scene: Scene, text: str, known: set[str]) -> str:
    """Fill the description of a step, or a neutral one when it names unknown things."""
    if not stems(text) <= known:
        return "the next number"
    # The mark in front keeps the first letter small.
    return fill(scene, "_" + text, {})[1:]


def problems(
    split: str,
    seed: int,
    *,
    style: str | Sequence[str] = STUDY_STYLE,
    keep: Callable[[Template], bool] | None = None,
    extra: float = 0.08,
    invented: float = 0.0,
) -> Iterator[Problem]:
    """Yield endless problems of one split, without repeats.

    Args:
        split: "pretrain", "train" or "test".
        seed: Seed of the whole sequence.
        style: Wording of the solutions, or several to draw from.
        keep: Chooses the templates to use; all of them by default.
        extra: Share of problems that get a sentence with an unused number.
        invented: Share of problems in which made-up words stand for many nouns and names, so
            that a reader learns not to depend on the word lists.

    Yields:
        Problems whose normalised questions all differ and all belong to `split`.

    Raises:
        ValueError: On an unknown split or style, or when no template is kept.
    """
    styles = (style,) if isinstance(style, str) else tuple(style)
    unknown = [name for name in styles if name not in (STUDY_STYLE, *PRETRAIN_STYLES)]
    if split not in SPLITS or unknown or not styles:
        raise ValueError(f"unknown split or style: {split!r}, {unknown or styles!r}")
    by_steps: dict[int, list[Template]] = {}
    for template in templates():
        if keep is None or keep(template):
            by_steps.setdefault(len(template.steps), []).append(template)
    if not by_steps:
        raise ValueError("no template is kept")
    # One-step wording carries most of the breadth, so it gets the largest share.
    weighted = [steps for steps in sorted(by_steps) for _ in range({1: 10, 2: 7, 3: 3}[steps])]
    rng = Random(f"kdstudy/{split}/{seed}")
    seen: set[str] = set()
    while True:
        template = pick(rng, by_steps[pick(rng, weighted)])
        problem = _make(rng, template, pick(rng, styles), rng.random() < extra, invented)
        key = normalise(problem.question)
        if key not in seen and split_of(problem.question) == split:
            seen.add(key)
            yield problem


def take(source: Iterator[Problem], count: int) -> list[Problem]:
    """Return the next `count` problems of an endless source."""
    return [next(source) for _ in range(count)]


def to_row(problem: Problem) -> dict[str, str]:
    """Return a problem as an LLM-Adapters row: instruction, input (empty), output, answer."""
    return {
        "instruction": problem.question,
        "input": "",
        "output": problem.rationale,
        "answer": problem.answer,
    }


def corpus_rows(
    n: int, seed: int = 0, style: str | Sequence[str] = STUDY_STYLE
) -> list[dict[str, str]]:
    """Return `n` fine-tuning rows of one to three steps, from split "train".

    Args:
        n: How many.
        seed: Of the draw.
        style: Wording of the worked answers, or several to draw from.
    """
    return [to_row(problem) for problem in take(problems("train", seed, style=style), n)]


@dataclass(frozen=True)
class Benchmark:
    """What a synthetic benchmark draws from: which templates, and how many distractors."""

    description: str
    keep: Callable[[Template], bool]
    extra: float


def _integers(template: Template) -> bool:
    return not _DECIMAL_FLAGS & {option.split("=")[0] for option in template.options}


BENCHMARKS: dict[str, Benchmark] = {
    "synth_addsub": Benchmark(
        "one step, addition or subtraction",
        lambda t: t.operators in ("+", "-") and not t.distracts,
        0.0,
    ),
    "synth_multiarith": Benchmark(
        "two steps, all four operations",
        lambda t: len(t.steps) == 2 and not t.distracts and _integers(t),
        0.0,
    ),
    "synth_svamp": Benchmark(
        "one or two steps and a number that is not needed",
        lambda t: len(t.steps) <= 2 and _integers(t),
        1.0,
    ),
    "synth_threestep": Benchmark(
        "three steps, all four operations",
        lambda t: len(t.steps) == 3 and not t.distracts,
        0.0,
    ),
}


def benchmark_rows(name: str, n: int = 300, seed: int = 0) -> list[dict[str, str]]:
    """Return `n` rows of a synthetic benchmark, from split "test".

    Args:
        name: A key of `BENCHMARKS`.
        n: Number of rows.
        seed: Seed of the draw.

    Raises:
        KeyError: On an unknown benchmark name.
    """
    benchmark = BENCHMARKS[name]
    source = problems("test", seed, keep=benchmark.keep, extra=benchmark.extra)
    return [to_row(problem) for problem in take(source, n)]


@cache
def fingerprint() -> str:
    """Return a hash of everything that rows depend on beside n and seed: the code and its lists.

    A plan needs to know whether rows have changed without drawing them.
    """
    digest = hashlib.sha256()
    code = ("synthetic.py", "synthetic_wording.py")
    for name in (*code, "contexts.txt", "templates.txt", "words.txt"):
        digest.update(resources.files("kdstudy.data").joinpath(name).read_bytes())
    return digest.hexdigest()
