"""A completion's own words: one turn of a conversation, without the question that it repeats.

What ends the turn, in order of certainty:

- A mark of a chat format or of the Alpaca prompt always does.
- A heading that opens another task (`Question:`, `## Problem 2`, `Example 3:`) does so behind a
  stated answer. Without one it does so only where what precedes it is an answer and what it asks
  cannot be this item's question: models restate the question under such a heading, too.
"""

import re
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, islice
from typing import NamedTuple

from kdstudy.answers import numerals
from kdstudy.answers.quantities import QUESTIONS_CACHED, asked

CHOICES_HEAD = re.compile(r"answer choices\s*:", re.IGNORECASE)
"""What stands before the options of a question whose options have letters."""

# A question's beginning counts as echoed from this many words and signs on (or when complete).
_MIN_ECHO = 10
_TOKEN = re.compile(r"\w+|[^\w\s]")

_MAX_HEADINGS = 200
_ASKED_WIDTH = 300  # characters behind a heading in which its question stands
_BARE_WORDS = 5  # words of an answer without any reasoning, such as "So it is 5 apples"

_SPECIAL = r"<\|[a-z_]{2,20}\|>|</?s>|<eos>|<(?:start|end)_of_turn>|\[/?INST\]"
_ROLES = r"system|user|human|assistant|model|gpt|ai"
_TURN = re.compile(
    r"###\s*(?:instruction|input|response|user|human|assistant)\b:?"
    r"|^[ \t]*(?:human|user)\s*:|(?:^|(?<=[.!?}$\d]))[ \t]*(?:user|assistant)[ \t]*$"
    rf"|{_SPECIAL}|Below is an instruction that describes",
    re.IGNORECASE | re.MULTILINE,
)
_ROLE = re.compile(
    r"(?:<\|im_start\|>|<\|start_header_id\|>|<start_of_turn>|<\|(?=[a-z]+\|>)|\[(?=/?INST)"
    rf"|(?:^[ \t]*|(?<=\s))###[ \t]*|^[ \t]*)(?P<role>{_ROLES}|/?INST)"
    r"(?:\|>|<\|end_header_id\|>|\]|[ \t]*:|[ \t]*$)",
    re.IGNORECASE | re.MULTILINE,
)
_ANSWERING = ("assistant", "model", "gpt", "ai", "/inst")

_TASK = r"(?:question|problem|example|exercise|instruction|task|query|prompt|puzzle|riddle|quiz)s?"
_HEADING = re.compile(
    r"(?:^[ \t>]*(?P<mark>[#*_\[-]+[ \t]*)?|(?<=[.!?)])[ \t]+(?=\w+[ \t]*\d*:))"
    r"(?:(?:the|an?|next|new|another|similar|additional|follow-?up|bonus|practice|extra|sample"
    r"|second|third|word|math|your|here(?:'s| is))[ \t]+){0,4}"
    rf"(?P<name>{_TASK}|Q)(?P<number>[ \t]*(?:no\.?|number|#)?[ \t]*\d+)?"
    r"[ \t*_\]]*(?::|[.)](?=\s)|(?P<bare>$))[*_]*",
    re.IGNORECASE | re.MULTILINE,
)
_NOT_BARE = re.compile(r"\b(?:step|part|first|let)\b|:\s*$", re.IGNORECASE)


# Words of any question.
_ASKING_WORDS = """
what which when where many much there does have will were this that with each they from would could
should whom whose total altogether more
"""
_ASKING = frozenset(_ASKING_WORDS.split())
_ROLE_SIGNS = ("user", "human", "system", "inst")
_TURN_SIGNS = ("###", "human", "user", "assistant", "<", "[", "below is an")
_TASK_SIGNS = (
    *("question", "problem", "example", "exercise", "instruction", "task", "quer", "prompt"),
    *("puzzle", "riddle", "quiz", "q:", "q.", "q ", "q*", "q1", "q2", "q3"),
)


class Answers(NamedTuple):
    """Where a text first answers: by a statement, and in any way; its length where it does not."""

    stated: int
    named: int


Reader = Callable[[str], Answers]


def first_response(text: str) -> str:
    """Return the text up to a second `### Response:`; the prompt held the first one."""
    return text.split("### Response:", 1)[0]


def own_words(text: str, question: str, read: Reader) -> str:
    """Return the completion's turn without the question it repeats, `numerals.plain`.

    Copies of the question from its first word, or of its "Answer Choices:" part, are left out,
    complete or broken off; spacing, case and the number of repetitions do not matter. Of a
    transcript, which begins with the prompt, the turn is the assistant's behind the question, or
    the last one where the question is not found.

    Args:
        text: The completion.
        question: The item's question.
        read: Finds the answers of a `numerals.plain` text.
    """
    text = _answering_turn(numerals.plain(text), question)
    for echo in _echoes(question):
        squeezed = _squeezed(text)
        if echo.whole.startswith(squeezed) and len(_first_words(text, 3)) == 3:
            return ""
        if echo.head in squeezed:
            text = _without(text, echo.text)
    return _before_another_task(_first_turn(text), question, read)


def _answering_turn(text: str, question: str) -> str:
    if not _holds(text, _ROLE_SIGNS):
        return text
    first = _ROLE.search(text)
    if not first or text[: first.start()].strip() or first["role"].lower() in _ANSWERING:
        return text
    begins = [m.end() for m in _ROLE.finditer(text) if m["role"].lower() in _ANSWERING]
    if not begins:
        return text
    end = " ".join(numerals.plain(question).split())[-40:].casefold()
    # The same number of characters: a blank for any white space, no change of length by case.
    flat = re.sub(r"\s", " ", text).lower()
    asked = flat.rfind(end) if end and len(flat) == len(text) else -1
    behind = [begin for begin in begins if asked >= 0 and begin > asked]
    return text[(behind or begins[-1:])[0] :]


def _holds(text: str, signs: tuple[str, ...]) -> bool:
    """Return whether a text holds one of some words: most texts need no slower look."""
    lower = text.lower()
    return any(sign in lower for sign in signs)


def _first_turn(text: str) -> str:
    if not _holds(text, _TURN_SIGNS):
        return text if text.strip() else ""
    start = 0
    for turn in _TURN.finditer(text):
        first = text[start : turn.start()]
        if first.strip():
            # A turn that another one follows has ended, which `closed` needs to know.
            return first + "\n"
        start = turn.end()
    return text[start:] if text[start:].strip() else ""


def _before_another_task(text: str, question: str, read: Reader) -> str:
    if not _holds(text, _TASK_SIGNS):
        return text
    headings = [m for m in islice(_HEADING.finditer(text), _MAX_HEADINGS) if _opens_a_task(m)]
    if not headings:
        return text
    answers = read(text)
    for heading in headings:
        before = text[: heading.start()]
        if not before.strip() or answers.named >= len(before):
            continue
        asks = _asks(text, heading.end())
        novel = _is_novel(asks, question) or "(A)" in text[heading.end() :][:_ASKED_WIDTH]
        if answers.stated < len(before):
            # "Q2: ..." goes on with this item more often than not.
            ends = novel or not (heading["number"] and heading["name"].lower()[0] == "q")
        else:
            ends = novel or (_is_bare(before) and not _is_own(asks, question))
        if ends:
            return before + "\n"
    return text


def _opens_a_task(heading: re.Match[str]) -> bool:
    # A line with nothing but the word needs markup or a number to be a heading.
    return heading["bare"] is None or bool(heading["mark"] or heading["number"])


def _asks(text: str, begin: int) -> str:
    """Return what stands behind a heading up to a question mark or the end of its line."""
    behind = text[begin : begin + _ASKED_WIDTH].lstrip()
    mark = behind.find("?")
    paragraph = behind.partition("\n\n")[0]
    return behind[: mark + 1] if 0 <= mark < len(paragraph) else behind.partition("\n")[0]


def _is_novel(asks: str, question: str) -> bool:
    """Return whether a question holds a number that the item's does not."""
    known = asked(question).numbers
    return any(number.text not in known for number in numerals.numerals(asks))


def _is_own(asks: str, question: str) -> bool:
    """Return whether half of the telling words of what is asked are the item's own."""
    words = {w for w in re.findall(r"\w+", asks.casefold()) if len(w) > 3 or w.isdigit()}
    words -= _ASKING
    own = words & set(re.findall(r"\w+", question.casefold()))
    return bool(words) and 2 * len(own) >= len(words)


def _is_bare(text: str) -> bool:
    """Return whether a text is an answer and nothing else."""
    text = text.strip()
    return len(text.split()) <= _BARE_WORDS and "\n" not in text and not _NOT_BARE.search(text)


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
