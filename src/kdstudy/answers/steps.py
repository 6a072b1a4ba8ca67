"""The steps of a reasoning text, and how far two texts take the same ones in the same order."""

import math
import re
from collections.abc import Iterator, Sequence

from rapidfuzz.distance import LCSseq

from kdstudy.answers import numerals
from kdstudy.answers.arithmetic import Step
from kdstudy.answers.equations import NUMBER, canonical, equations

SIGNATURE = "steps|f1-lcs|equations else quantities|version:1"
"""Names the measure; its number rises whenever a text would be read or compared otherwise."""

_LATEX = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\div(?![a-z])", " / "),
        (r"\\(?:text|mathrm|mathbf|textbf|mbox|boxed|fbox)\s*\{([^{}]*)\}", r" \1 "),
        # A fraction of single numbers is `numerals.plain`'s; of expressions it needs brackets.
        (
            r"\\[dtc]?frac\s*\{(?=[^{}]*[^{}\d.,])([^{}]*)\}\s*\{([^{}]*)\}"
            r"|\\[dtc]?frac\s*\{([^{}]*)\}\s*\{(?=[^{}]*[^{}\d.,])([^{}]*)\}",
            r"(\1\3)/(\2\4)",
        ),
    )
)
# Each rule with a text that is there wherever it applies.
_MARKUP = tuple(
    (trigger, re.compile(pattern, re.MULTILINE), replacement)
    for trigger, pattern, replacement in (
        ("<", r"</?[A-Za-z][^<>\n]{0,20}>", ""),
        ("<<", r"<<|>>", " "),
        ("|", r"\|", " "),
        ("**", r"(?<!\d)\*\*|\*\*(?!\d)", ""),  # bold; 2**3 stays
        ("__", "__", ""),
        ("tep", r"\b[Ss]tep\s*#?\d+\b", "\n"),
        ("", r"^[ \t]*(?:\d{1,2}[.)]|[-*•])(?=\s)|(?<=[.!?:;])\s+\d[.)](?=\s+[A-Za-z])", "\n"),
        ("(", r"\((?=[^()]*[A-Za-z]{2})[^()\d=+*/]*\)", " "),  # a note: (for the tower)
        ("", r"[$€£¥₹&]", ""),
    )
)
_DIGIT = re.compile(r"\d")
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
_CONCLUDES = re.compile(
    r"\b(?:so|therefore|thus|hence|then|total|altogether|in all|left|remain(?:s|ing|der)?|means?"
    r"|makes?|gives?|leaves?|gets?|equals?|sum|difference|product|result(?:s|ing)?|need(?:s|ed)?)\b|=",
    re.IGNORECASE,
)
_ANSWER = re.compile(r"\banswer\b|####", re.IGNORECASE)


def steps(text: str) -> tuple[Step, ...]:
    """Return what a reasoning text works out, in the order in which it first says so.

    A step is an operation on numbers and the result the text gives for it, whatever the wording:
    `33 blocks - 13 blocks = 20`, `33 minus 13 is 20`, `subtracting 13 from 33 gives 20` and
    `x = 33 - 13 ... x = 20` are one and the same. Of `5 * 3 + 2 = 17` the inner operation counts
    too, with its exact result. `2 + 3 = 5 + 1 = 6` is two steps, `4 * 5 * 2 = 20 * 2 = 40` are two
    that come to 40. Repeating a step adds nothing. See `arithmetic.expression` for the spelling.

    A text without any equation is read for the quantities that it concludes: in each statement
    with a word such as "so", "total" or "left", the numbers after it, else the last one before it.
    Questions and the statement of the final answer do not count: the first state no result, and
    the second is what agreement compares. Such a step has no expression.

    Not read: numbers in words, equations with an unknown among the operands (185 + x = 310),
    results that the text never states. Told apart: 5 + 3 + 2 = 10 in one go and 5 + 3 = 8,
    8 + 2 = 10, since only the second states the 8.
    """
    if not _DIGIT.search(text):
        return ()
    text = _clean(text)
    found = list(dict.fromkeys(equations(text)))
    return tuple(found or dict.fromkeys(Step("", number) for number in _quantities(text)))


def similarity(a: Sequence[Step], b: Sequence[Step]) -> float:
    """Return how far two texts take the same steps in the same order, as a fraction.

    It is the F1 of the longest common subsequence: twice its length over the sum of the lengths.
    If one side has quantities only, results are compared with results.

    Returns:
        NaN when neither has a step, 0 when only one has.
    """
    if not (a or b):
        return math.nan
    if any(steps and not steps[0].expression for steps in (a, b)):
        a, b = ([step.result for step in steps] for steps in (a, b))
    return 2 * LCSseq.similarity(a, b) / (len(a) + len(b))


def _clean(text: str) -> str:
    """Return the text in `numerals`' one spelling, without markup, list markers and currency."""
    if "\\" in text:
        for pattern, replacement in _LATEX:
            text = pattern.sub(replacement, text)
    text = numerals.plain(text)
    for trigger, pattern, replacement in _MARKUP:
        if trigger in text:
            text = pattern.sub(replacement, text)
    return text


def _quantities(text: str) -> Iterator[str]:
    for sentence in _SENTENCE.split(text):
        cue = _CONCLUDES.search(sentence)
        if not cue or sentence.rstrip().endswith("?") or _ANSWER.search(sentence):
            continue
        numbers = [(m.start(), canonical(m[0])) for m in NUMBER.finditer(sentence)]
        after = [number for place, number in numbers if place > cue.start()]
        yield from filter(None, after or [number for _, number in numbers[-1:]])
