"""What a completion says of its own, and the spans in it that are presented as the answer."""

import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, islice
from typing import Literal

from kdstudy.evaluate import numerals

Rule = Literal["reference", "corrected"]
RULES: tuple[Rule, ...] = ("reference", "corrected")

MAX_STATEMENT = 300
"""Characters of a statement that are read; an answer is no longer, and repetition stays cheap."""

MAX_STATEMENTS = 200
"""Statements that are looked at, from the end; a text with more repeats itself."""

QUESTIONS_CACHED = 16384
"""Questions whose parts are kept; the largest benchmark has 10,042."""

CHOICES_HEAD = re.compile(r"answer choices\s*:", re.IGNORECASE)
"""What stands before the options of a question whose options have letters."""

# A question's beginning counts as echoed from this many words and signs on (or when complete).
_MIN_ECHO = 10
_TOKEN = re.compile(r"\w+|[^\w\s]")

_TURN = re.compile(
    r"###\s*(?:instruction|input|question|response|user)\b:?"
    r"|^[ \t]*(?:question|instruction|human|user|q)\s*:"
    r"|(?<=[.!?)])\s+Question\s*:"
    r"|<\|(?:im_start|im_end|endoftext|eot_id)\|>|</s>"
    r"|Below is an instruction that describes",
    re.IGNORECASE | re.MULTILINE,
)

_SENTENCE_END = re.compile(r"[.!?](?=\s)|\n")
_LEAD_IN = re.compile(r"[ \t\r\n:*$_`]*")
_LINE_END = re.compile(r"[.!? \t*$]*+(?:\n|\Z)")
_HASHES = re.compile(r"(?<!#)####(?!#)[ \t]*(?P<value>[^\n]*)(?P<closed>\n?)")
_BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{")
_DENIAL = re.compile(r"\W*(?:\b(?:not|cannot|never)\b|n't\b)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Statement:
    """A span that a completion presents as its answer.

    Attributes:
        start: Where the words begin that present it.
        begin: Where the span itself begins.
        text: The span, at most `MAX_STATEMENT` characters.
        closed: More text follows its end.
        presented: The words themselves, such as "answer is"; empty for a box or `####`.
        opens: A colon presents it and the line goes on after its sentence: it may be the beginning
            of a reasoning, as in "Answer: 5 + 3 = 8. He eats 2 ...".
        detached: A sign or a line break rather than a verb joins it to the words.
    """

    start: int
    begin: int
    text: str
    closed: bool
    presented: str = ""
    opens: bool = False
    detached: bool = False

    @property
    def denies(self) -> bool:
        """Says what the answer is not, as in "the answer cannot be" and "the answer is not"."""
        return bool(_DENIAL.search(self.presented) or _DENIAL.match(self.text))


def first_response(text: str) -> str:
    """Return the text up to a second `### Response:`; the prompt held the first one."""
    return text.split("### Response:", 1)[0]


def own_words(text: str, question: str) -> str:
    """Return the completion's first turn without the question it repeats, `numerals.plain`.

    Copies of the question from its first word, or of its "Answer Choices:" part, are left out,
    complete or broken off; spacing, case and the number of repetitions do not matter.
    """
    text = numerals.plain(text)
    for echo in _echoes(question):
        squeezed = _squeezed(text)
        if echo.whole.startswith(squeezed) and len(_first_words(text, 3)) == 3:
            return ""
        if echo.head in squeezed:
            text = _without(text, echo.text)
    start = 0
    for turn in _TURN.finditer(text):
        first = text[start : turn.start()]
        if first.strip():
            # A turn that another one follows has ended, which `closed` needs to know.
            return first + "\n"
        start = turn.end()
    return text[start:] if text[start:].strip() else ""


def statements(text: str, phrase: re.Pattern[str], *, cut: bool) -> Iterator[Statement]:
    r"""Yield what a text presents as its answer, from the last to the first.

    Args:
        text: `own_words` of a completion.
        phrase: What presents an answer, besides `\boxed{}` and `####`; its group `sign` is the
            colon or the equals sign where one ends it.
        cut: The token budget ended the text; then only closed statements are yielded.
    """
    marks = list(phrase.finditer(text))
    if "\\" in text or "####" in text:
        marks += [*_BOXED.finditer(text), *_HASHES.finditer(text)]
        marks.sort(key=re.Match.start)
    for mark in islice(reversed(marks), MAX_STATEMENTS):
        if mark.re is _HASHES:
            value, closed = mark["value"][:MAX_STATEMENT], bool(mark["closed"])
            found = Statement(mark.start(), mark.start("value"), value, closed, detached=True)
        else:
            found = _in_box(text, mark) if mark.re is _BOXED else _after_phrase(text, mark)
        if found and (found.closed or not cut):
            yield found


def is_closed(text: str, begin: int) -> bool:
    """Return whether the sentence that `begin` stands in ends before the text does."""
    limit = begin + MAX_STATEMENT
    return bool(_SENTENCE_END.search(text, begin, limit + 1)) or len(text) > limit


def _after_phrase(text: str, match: re.Match[str]) -> Statement:
    begin = _LEAD_IN.match(text, match.end()).end()
    limit = begin + MAX_STATEMENT
    stop = _SENTENCE_END.search(text, begin, limit + 1)
    sign = match["sign"]
    return Statement(
        start=match.start(),
        begin=begin,
        text=text[begin : stop.start() if stop else limit],
        closed=bool(stop) or len(text) > limit,
        presented=match[0],
        opens=bool(sign) and not _LINE_END.match(text, stop.start() if stop else limit),
        detached=bool(sign) or "\n" in text[match.end() : begin],
    )


def _in_box(text: str, match: re.Match[str]) -> Statement | None:
    depth, begin = 1, match.end()
    for i, char in enumerate(text[begin : begin + MAX_STATEMENT], start=begin):
        depth += (char == "{") - (char == "}")
        if depth == 0:
            return Statement(match.start(), begin, text[begin:i], closed=True)
    return None


@dataclass(frozen=True, slots=True)
class _Echo:
    """A text that a completion may repeat; `head` and `whole` are without blanks, in one case."""

    text: str
    head: str
    whole: str


@lru_cache(maxsize=QUESTIONS_CACHED)
def _echoes(question: str) -> tuple[_Echo, ...]:
    question = numerals.plain(question)
    head = CHOICES_HEAD.search(question)
    found = []
    for text in (question, question[head.start() :] if head else ""):
        words = _first_words(text, _MIN_ECHO)
        if len(words) >= 3:
            found.append(_Echo(text, _squeezed("".join(words)), _squeezed(text)))
    return tuple(found)


def _first_words(text: str, limit: int) -> list[str]:
    return [match[0] for match in islice(_TOKEN.finditer(text), limit)]


def _squeezed(text: str) -> str:
    return "".join(text.casefold().split())


def _without(text: str, asked: str) -> str:
    """Return the text without copies of `asked`, in time that grows linearly with the text."""
    asked_words = [token.casefold() for token in _TOKEN.findall(asked)]
    spans = [match.span() for match in _TOKEN.finditer(text)]
    words = [text[start:end].casefold() for start, end in spans]
    # One space before every word: `places[i]` is where word i stands in `joined`.
    joined = "".join(f" {word}" for word in words) + " "
    places = list(accumulate((len(word) + 1 for word in words), initial=0))
    head = "".join(f" {word}" for word in asked_words[:_MIN_ECHO]) + " "
    kept, end, place = [], 0, joined.find(head)
    while place >= 0:
        first = bisect_left(places, place)
        run = _common_run(words, first, asked_words)
        kept.append(text[end : spans[first][0]])
        end = spans[first + run - 1][1]
        place = joined.find(head, places[first + run])
    return " ".join([*kept, text[end:]])


def _common_run(words: list[str], start: int, asked: list[str]) -> int:
    """Return how many words from `start` on are the question's first ones."""
    longest = min(len(words) - start, len(asked))
    return next((n for n in range(longest) if words[start + n] != asked[n]), longest)
