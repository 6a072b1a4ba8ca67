"""Named rules that find the final answer in a completion; pure text, never an exception.

`reference` does exactly what the published study's released code does: the text up to a second
`### Response:`, then the last number, or the first capital A-E anywhere. `corrected` reads what the
model states, never what it repeats from the question.
"""

import re
from collections import deque
from dataclasses import dataclass
from functools import lru_cache

from kdstudy.evaluate import numerals
from kdstudy.evaluate.labels import label
from kdstudy.evaluate.statements import (
    CHOICES_HEAD,
    MAX_STATEMENTS,
    QUESTIONS_CACHED,
    RULES,
    Rule,
    Statement,
    first_response,
    own_words,
    statements,
)

__all__ = ["RULES", "Rule", "choice", "label", "number", "options", "same_number"]

REFERENCE_TOLERANCE = 0.001
"""Absolute difference that the released code allows between an answer and the gold, in floats."""

_PHRASE = re.compile(
    r"\b(?<!to )(?:answer|correct (?:option|choice))s?\b(?!\s+choices)[^.\n\d]{0,40}?"
    r"(?:\b(?:is|are|was|be|equals)\b|(?P<sign>[:=]))",
    re.IGNORECASE,
)
# "The answer is found by adding 5 and 3": what follows is no answer.
_NOT_A_VALUE = re.compile(
    r"\W*(?:found|obtained|calculated|computed|determined|given|worth"
    r"|the (?:sum|difference|product|quotient|ratio))\b",
    re.IGNORECASE,
)
# A heading ("#### Step 1") or an opening ("Answer: Tom has 5 ...") rather than a value.
_PROSE = re.compile(
    r"\W*(?!(?:option|choice|letter|about|approximately|text|math[a-z]+)\b)[A-Za-z]{2}",
    re.IGNORECASE,
)
_DENIED = re.compile(
    r"(?:\bnot|\bcannot be|n't|\brather than|\binstead of)[\s(*$€£¥₹-]*$", re.IGNORECASE
)
_DENIAL_WIDTH = 24  # characters before a value in which a denial of it stands
_ORDINAL = re.compile(r"(?<=\d)(?:st|nd|rd|th)\b", re.IGNORECASE)
_ASIDE = re.compile(r"\b(?:because|since|as|so|but)\b|[,;]\s")
# "12 000", but not the "5 100" of "5 100-dollar bills".
_SPACED = re.compile(r"(?<![\d.,/])\d{1,3}(?: \d{3})+(?![\d/-])")

_LETTERS = "ABCDE"
_OPTION = re.compile(r"\(([A-E])\)")
_STATED_LETTER = re.compile(
    r"\W*(?:(?:option|choice|letter|answer|text|mathrm|mathbf|textbf)\W*){0,2}"
    # "d = 5" is a variable.
    r"(?:(?P<letter>[B-Eb-e])(?![\w'^/]|\s*=)"
    # "A" is also an article, so it needs the end of the phrase behind it.
    r"|(?P<a>[Aa])(?=\W*$|\s*[).:,;*\]}]|\s+(?:because|since|which|with|as)\b|\s*[$₹]?\d))"
)
_OPENING_LETTER = re.compile(r"\W*(?:(?i:option|choice|letter)\W*)?([A-E])(?=\W*$|\s*[).:,;*\]}])")
_MENTION = re.compile(
    r"\((?P<round>[A-Ea-e])\)"
    r"|\b(?i:option|choice)(?:\s+|:[\s*]*)\(?(?P<named>[A-E])\b"
    r"|(?<![\w'(])(?P<bare>[A-E])(?:\)|\.(?=\s|$))"
    r"|^[ \t*]*(?P<alone>[A-E])[ \t*]*$",
    re.MULTILINE,
)


def number(text: str, rule: Rule, question: str = "", *, cut: bool = False) -> str:
    """Return the number that a completion gives as its answer.

    Args:
        text: The completion.
        rule: `reference` takes the last `-?\\d+\\.?\\d*` once commas are removed. `corrected` takes
            the last stated answer ("answer is ...", "Answer: ..." closing its line, a boxed value,
            `####`), else the last number that is not denied ("6, not 5"); of a statement with an
            equation, the result.
        question: The item's question, so that `corrected` can leave an echo of it out.
        cut: The token budget ended the text: `corrected` then accepts only a stated answer whose
            end is visible, since "The answer is 12" may have been about to say 125.

    Returns:
        Canonical spelling (see `numerals`), such as `-1234.5` or `2/3`; "" when there is none.
    """
    if rule == "reference":
        found = re.findall(r"-?\d+\.?\d*", first_response(text).replace(",", ""))
        return numerals.decimal(found[-1]) if found else ""
    text = own_words(text, question)
    for statement in statements(text, _PHRASE, cut=cut):
        answer = _result(statement.text) if _gives_a_value(statement) else ""
        if answer:
            return answer
    return "" if cut else _last_number(text)


def choice(text: str, rule: Rule, question: str = "", *, cut: bool = False) -> str:
    """Return the option letter, A to E, that a completion gives as its answer.

    Args:
        text: The completion.
        rule: `reference` takes the first capital A-E anywhere. `corrected` takes the last stated
            answer, as a letter or as the value of an option; else the last choice named as "(C)",
            "C.", "C)" or "option C" outside a list of all the options and not denied; else the
            option whose value is the last number.
        question: The item's question; its options are read from "Answer Choices: (A) ... (B) ...".
        cut: As in `number`.

    Returns:
        A letter, or "" when there is none or when more than one option has the stated value.
    """
    if rule == "reference":
        first = re.search("[A-E]", first_response(text))
        return first[0] if first else ""
    offered = _offered(question)
    text = own_words(text, question)
    for statement in statements(text, _PHRASE, cut=cut):
        answer = _stated_choice(statement, offered)
        if answer:
            return answer
    if cut:
        return ""
    text, letter = _last_mention(text, offered)
    return letter or _option_of(_last_number(text), offered)


def options(question: str) -> dict[str, str]:
    """Return letter -> text of the options that a question lists after "Answer Choices:"."""
    return dict(_offered(question).texts)


def same_number(a: str, b: str, rule: Rule) -> bool:
    """Return whether two extracted numbers are the same answer under a rule; "" equals nothing."""
    if rule == "reference":
        x, y = numerals.value(a), numerals.value(b)
        found = x is not None and y is not None
        return found and abs(float(x) - float(y)) <= REFERENCE_TOLERANCE
    return numerals.equal(a, b) or numerals.equal(b, a)


@dataclass(frozen=True, slots=True)
class _Offered:
    """A question's options: letter -> text, and letter -> number where the text holds just one."""

    texts: dict[str, str]
    numbers: dict[str, str]

    @property
    def letters(self) -> list[str]:
        return list(self.texts or _LETTERS)


@lru_cache(maxsize=QUESTIONS_CACHED)
def _offered(question: str) -> _Offered:
    heads = list(CHOICES_HEAD.finditer(question))
    parts = _OPTION.split(question[heads[-1].end() :] if heads else question)
    pairs = zip(parts[1::2], parts[2::2], strict=True)
    texts = {letter: text.strip() for letter, text in pairs}
    found = {k: list(numerals.numerals(numerals.plain(text))) for k, text in texts.items()}
    return _Offered(texts, {k: values[0].text for k, values in found.items() if len(values) == 1})


def _gives_a_value(statement: Statement) -> bool:
    if statement.opens or statement.denies or _NOT_A_VALUE.match(statement.text):
        return False
    return not (statement.detached and _PROSE.match(statement.text))


def _last_number(text: str) -> str:
    for found in numerals.backwards(text):
        if not _is_denied(text, found.start):
            return found.text
    return ""


def _is_denied(text: str, start: int) -> bool:
    return bool(_DENIED.search(text[max(0, start - _DENIAL_WIDTH) : start]))


def _result(span: str) -> str:
    """Return the first number of a statement, or what its equation comes to."""
    span = _SPACED.sub(lambda match: match[0].replace(" ", ""), span)
    # "He came 5th" counts nothing, but "The answer is 5th" does answer: hence the last attempt.
    for part in (_ASIDE.split(span, maxsplit=1)[0], span, _ORDINAL.sub("", span)):
        found = list(numerals.numerals(part))
        after = [n for n in found if n.start > part.rfind("=")]
        if found:
            return (after or found)[0].text
    return ""


def _stated_choice(statement: Statement, offered: _Offered) -> str:
    span = statement.text
    if not _gives_a_value(statement):
        # "Answer: C. The others are too small" opens a reasoning, and still answers.
        first = _OPENING_LETTER.match(span) if statement.opens else None
        return first[1] if first and first[1] in offered.letters else ""
    match = _STATED_LETTER.match(span)
    letter = (match["letter"] or match["a"]).upper() if match else ""
    if letter and letter in offered.letters:
        return letter
    for part in (_ASIDE.split(span, maxsplit=1)[0], span):
        bracketed = [m for m in _OPTION.findall(part) if m in offered.letters]
        answer = bracketed[-1] if bracketed else _option_of(_result(part), offered)
        if answer:
            return answer
    return ""


def _last_mention(text: str, offered: _Offered) -> tuple[str, str]:
    """Return the text after its last list of all options, and the last choice named outside one."""
    letters = offered.letters
    matches = deque(_MENTION.finditer(text), maxlen=MAX_STATEMENTS)
    found = [(m.start(), m.end(), m[m.lastgroup].upper()) for m in matches]
    found = [mention for mention in found if mention[2] in letters]
    names = [letter for _, _, letter in found]
    width, rest = len(letters), text
    for i in range(len(names) - width, -1, -1):
        if names[i : i + width] == letters:
            listed = numerals.plain(offered.texts.get(letters[-1], ""))
            rest = text[found[i + width - 1][1] :].lstrip().removeprefix(listed)
            found = found[i + width :]
            break
    named = [letter for start, _, letter in found if not _is_denied(text, start)]
    return rest, named[-1] if named else ""


def _option_of(answer: str, offered: _Offered) -> str:
    """Return the one option that has this value: exactly, else with one of the two rounded."""
    for matches in (numerals.equal, _rounds):
        hits = [letter for letter, value in offered.numbers.items() if matches(answer, value)]
        if hits:
            return hits[0] if len(hits) == 1 else ""
    return ""


def _rounds(answer: str, listed: str) -> bool:
    a, b = numerals.value(answer), numerals.value(listed)
    if a is None or b is None:
        return False
    return numerals.rounds_to(a, listed) or numerals.rounds_to(b, answer)
