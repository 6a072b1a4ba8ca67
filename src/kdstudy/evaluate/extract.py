"""Named rules that find the final answer in a completion; pure text, never an exception.

`reference` does exactly what the published study's released code does: the text up to a second
`### Response:`, then the last number, or the first capital A-E anywhere. `corrected` reads what the
model states, never what it repeats from the question.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from kdstudy.evaluate import numerals

Rule = Literal["reference", "corrected"]
RULES: tuple[Rule, ...] = ("reference", "corrected")

REFERENCE_TOLERANCE = 0.001
"""Absolute difference that the released code allows between an answer and the gold, in floats."""

# A question's beginning counts as echoed from this many words and signs on (or when complete).
_MIN_ECHO = 10
_TOKEN = re.compile(r"\w+|[^\w\s]")
_CHOICES_HEAD = re.compile(r"answer choices\s*:", re.IGNORECASE)

_TURN = re.compile(
    r"###\s*(?:instruction|input|question|response|user)\b:?"
    r"|^\s*(?:question|instruction|human|user|q)\s*:"
    r"|(?<=[.!?)])\s+Question\s*:"
    r"|<\|(?:im_start|im_end|endoftext|eot_id)\|>|</s>"
    r"|Below is an instruction that describes",
    re.IGNORECASE | re.MULTILINE,
)

_PHRASE = re.compile(
    r"\b(?<!to )(?:answer|correct (?:option|choice))s?\b(?!\s+choices)[^.\n\d]{0,40}?"
    r"(?:\b(?:is|are|was|be|equals)\b|(?P<sign>[:=]))",
    re.IGNORECASE,
)
_MAX_STATEMENT = 300  # characters; an answer is no longer, and repetition stays cheap
_SENTENCE_END = re.compile(r"[.!?](?=\s)|\n")
_HASHES = re.compile(r"(?<!#)####(?!#)[ \t]*(?P<value>[^\n]*)(?P<closed>\n?)")
_BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{")
# "The answer is found by adding 5 and 3": what follows is no answer.
_NOT_A_VALUE = re.compile(
    r"\W*(?:found|obtained|calculated|computed|determined|given|worth|not"
    r"|the (?:sum|difference|product|quotient|ratio))\b",
    re.IGNORECASE,
)
# A heading ("#### Step 1") or an opening ("Answer: Tom has 5 ...") rather than a value.
_PROSE = re.compile(
    r"\W*(?!(?:option|choice|letter|about|approximately|text|math[a-z]+)\b)[A-Za-z]{2}",
    re.IGNORECASE,
)
_ORDINAL = re.compile(r"(?<=\d)(?:st|nd|rd|th)\b", re.IGNORECASE)
_ASIDE = re.compile(r"\b(?:because|since|as|so|but)\b|[,;]\s")

_LETTERS = "ABCDE"
_OPTION = re.compile(r"\(([A-E])\)")
_STATED_LETTER = re.compile(
    r"\W*(?:(?:option|choice|letter|answer|text|mathrm|mathbf|textbf)\W*){0,2}"
    # "d = 5" is a variable.
    r"(?:(?P<letter>[B-Eb-e])(?![\w'^/]|\s*=)"
    # "A" is also an article, so it needs the end of the phrase behind it.
    r"|(?P<a>[Aa])(?=\W*$|\s*[).:,;*\]}]|\s+(?:because|since|which|with|as)\b|\s*[$₹]?\d))"
)
_MENTION = re.compile(
    r"\((?P<round>[A-Ea-e])\)"
    r"|\b(?i:option|choice)\s+\(?(?P<named>[A-E])\b"
    r"|(?<![\w'(])(?P<bare>[A-E])(?:\)|\.(?=\s|$))"
    r"|^[\s*]*(?P<alone>[A-E])[\s*]*$",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class _Statement:
    """A span that a model presents as its answer; `closed` when more text follows its end."""

    start: int
    text: str
    closed: bool


def number(text: str, rule: Rule, question: str = "", *, cut: bool = False) -> str:
    """Return the number that a completion gives as its answer.

    Args:
        text: The completion.
        rule: `reference` takes the last `-?\\d+\\.?\\d*` once commas are removed. `corrected` takes
            the last stated answer ("answer is ...", "Answer: ..." closing its line, a boxed value,
            `####`), else the last number; of a statement with an equation, the result.
        question: The item's question, so that `corrected` can leave an echo of it out.
        cut: The token budget ended the text: `corrected` then accepts only a stated answer whose
            end is visible, since "The answer is 12" may have been about to say 125.

    Returns:
        Canonical spelling (see `numerals`), such as `-1234.5` or `2/3`; "" when there is none.
    """
    if rule == "reference":
        found = re.findall(r"-?\d+\.?\d*", _first_response(text).replace(",", ""))
        return numerals.decimal(found[-1]) if found else ""
    text = _own_words(text, question)
    stated = _last_stated(text, _result, cut)
    if stated or cut:
        return stated
    found = list(numerals.numerals(text))
    return found[-1].text if found else ""


def choice(text: str, rule: Rule, question: str = "", *, cut: bool = False) -> str:
    """Return the option letter, A to E, that a completion gives as its answer.

    Args:
        text: The completion.
        rule: `reference` takes the first capital A-E anywhere. `corrected` takes the last stated
            answer, as a letter or as the value of an option; else the last choice named as "(C)",
            "C.", "C)" or "option C" outside a list of all the options; else the option whose value
            is the last number.
        question: The item's question; its options are read from "Answer Choices: (A) ... (B) ...".
        cut: As in `number`.

    Returns:
        A letter, or "" when there is none or when more than one option has the stated value.
    """
    if rule == "reference":
        first = re.search("[A-E]", _first_response(text))
        return first[0] if first else ""
    offered = options(question)
    text = _own_words(text, question)
    stated = _last_stated(text, lambda span: _letter_or_value(span, offered), cut)
    if stated or cut:
        return stated
    text, letter = _last_mention(text, offered)
    found = list(numerals.numerals(text))
    return letter or (_option_of(found[-1].text, offered) if found else "")


def label(
    text: str, rule: Rule, labels: Sequence[str], question: str = "", *, cut: bool = False
) -> str:
    """Return the label, such as `option2` or `true`, that a completion gives as its answer.

    Args:
        text: The completion.
        rule: `reference` takes the first label anywhere.
        labels: What the answer may be, in lower case.
        question: The item's question.
        cut: As in `number`.

    Returns:
        A label, or "" when there is none.
    """
    first = re.search("|".join(labels), _first_response(text))
    return first[0] if first else ""


def options(question: str) -> dict[str, str]:
    """Return letter -> text of the options that a question lists after "Answer Choices:"."""
    heads = list(_CHOICES_HEAD.finditer(question))
    parts = _OPTION.split(question[heads[-1].end() :] if heads else question)
    return {letter: text.strip() for letter, text in zip(parts[1::2], parts[2::2], strict=True)}


def same_number(a: str, b: str, rule: Rule) -> bool:
    """Return whether two extracted numbers are the same answer under a rule; "" equals nothing."""
    if rule == "reference":
        x, y = numerals.value(a), numerals.value(b)
        found = x is not None and y is not None
        return found and abs(float(x) - float(y)) <= REFERENCE_TOLERANCE
    return numerals.equal(a, b) or numerals.equal(b, a)


def _first_response(text: str) -> str:
    return text.split("### Response:", 1)[0]


def _own_words(text: str, question: str) -> str:
    """Return the completion's first turn without the question it repeats, in one spelling."""
    text, question = numerals.plain(text), numerals.plain(question)
    head = _CHOICES_HEAD.search(question)
    for echo in (question, question[head.start() :] if head else ""):
        text = _without_echo(text, echo)
    turns = _TURN.split(text)
    first = next((i for i, turn in enumerate(turns) if turn.strip()), None)
    if first is None:
        return ""
    # A turn that another one follows has ended, which `cut` needs to know.
    return turns[first] + ("\n" if first + 1 < len(turns) else "")


def _without_echo(text: str, question: str) -> str:
    """Return the text without copies of the question, complete or broken off, from its first word.

    Spacing, case and the number of repetitions do not matter.
    """
    asked = [token.casefold() for token in _TOKEN.findall(question)]
    if len(asked) < 3:
        return text
    spans = [(m.start(), m.end(), m[0].casefold()) for m in _TOKEN.finditer(text)]
    words = [word for _, _, word in spans]
    kept, end, i = [], 0, 0
    while i < len(words):
        run = _common_run(words, i, asked)
        only_echo = run == len(words) and run >= 3
        if run >= min(_MIN_ECHO, len(asked)) or only_echo:
            kept.append(text[end : spans[i][0]])
            end = spans[i + run - 1][1]
        i += run if end > spans[i][0] else 1
    return " ".join([*kept, text[end:]])


def _common_run(words: list[str], start: int, asked: list[str]) -> int:
    """Return how many words from `start` on are the question's first ones."""
    longest = min(len(words) - start, len(asked))
    return next((n for n in range(longest) if words[start + n] != asked[n]), longest)


def _last_stated(text: str, read: Callable[[str], str], cut: bool) -> str:
    for statement in sorted(_statements(text), key=lambda s: s.start, reverse=True):
        answer = read(statement.text) if statement.closed or not cut else ""
        if answer:
            return answer
    return ""


def _statements(text: str) -> list[_Statement]:
    found = [_after_phrase(text, match) for match in _PHRASE.finditer(text)]
    found += [_in_box(text, match) for match in _BOXED.finditer(text)]
    for match in _HASHES.finditer(text):
        if not _PROSE.match(match["value"]):
            found.append(_Statement(match.start(), match["value"], bool(match["closed"])))
    return [statement for statement in found if statement]


def _after_phrase(text: str, match: re.Match[str]) -> _Statement | None:
    rest = text[match.end() :]
    start = match.end() + len(rest) - len(rest.lstrip(" \t\r\n:*$_`"))
    stop = _SENTENCE_END.search(text, start)
    span = text[start : stop.start() if stop else len(text)][:_MAX_STATEMENT]
    # "Answer: 5 + 3 = 8. He eats 2 ..." opens the reasoning; it states only when it closes a line.
    line_goes_on = stop and text[stop.start() :].lstrip(".!? \t*$")[:1] not in ("", "\n")
    if match["sign"] and line_goes_on:
        return None
    detached = match["sign"] or "\n" in text[match.end() : start]
    if _NOT_A_VALUE.match(span) or (detached and _PROSE.match(span)):
        return None
    return _Statement(match.start(), span, stop is not None)


def _in_box(text: str, match: re.Match[str]) -> _Statement | None:
    depth = 1
    for i in range(match.end(), min(len(text), match.end() + _MAX_STATEMENT)):
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if depth == 0:
            return _Statement(match.start(), text[match.end() : i], closed=True)
    return None


def _result(span: str) -> str:
    """Return the first number of a statement, or what its equation comes to."""
    # "He came 5th" counts nothing, but "The answer is 5th" does answer: hence the last attempt.
    for part in (_ASIDE.split(span, maxsplit=1)[0], span, _ORDINAL.sub("", span)):
        found = list(numerals.numerals(part))
        after = [n for n in found if n.start > part.rfind("=")]
        if found:
            return (after or found)[0].text
    return ""


def _letter_or_value(span: str, offered: dict[str, str]) -> str:
    match = _STATED_LETTER.match(span)
    letter = (match["letter"] or match["a"]).upper() if match else ""
    if letter and letter in (offered or _LETTERS):
        return letter
    for part in (_ASIDE.split(span, maxsplit=1)[0], span):
        bracketed = [m for m in _OPTION.findall(part) if m in (offered or _LETTERS)]
        answer = bracketed[-1] if bracketed else _option_of(_result(part), offered)
        if answer:
            return answer
    return ""


def _last_mention(text: str, offered: dict[str, str]) -> tuple[str, str]:
    """Return the text after its last list of all options, and the last choice named outside one."""
    letters = list(offered or _LETTERS)
    mentions = [(m.end(), m[m.lastgroup].upper()) for m in _MENTION.finditer(text)]
    mentions = [mention for mention in mentions if mention[1] in letters]
    names = [letter for _, letter in mentions]
    width = len(letters)
    for i in range(len(names) - width, -1, -1):
        if names[i : i + width] == letters:
            listed = numerals.plain(offered.get(letters[-1], ""))
            after = text[mentions[i + width - 1][0] :].lstrip().removeprefix(listed)
            return after, names[-1] if len(names) > i + width else ""
    return text, names[-1] if names else ""


def _option_of(answer: str, offered: dict[str, str]) -> str:
    """Return the one option that has this value: exactly, else with one of the two rounded."""
    values = {letter: list(numerals.numerals(numerals.plain(t))) for letter, t in offered.items()}
    single = {letter: found[0].text for letter, found in values.items() if len(found) == 1}
    for matches in (numerals.equal, _rounds):
        hits = [letter for letter, value in single.items() if matches(answer, value)]
        if hits:
            return hits[0] if len(hits) == 1 else ""
    return ""


def _rounds(answer: str, listed: str) -> bool:
    a, b = numerals.value(answer), numerals.value(listed)
    if a is None or b is None:
        return False
    return numerals.rounds_to(a, listed) or numerals.rounds_to(b, answer)
