"""The rules that find the number that a completion gives as its answer.

`corrected` looks, in the completion's own turn, for the last statement that gives a number. A
statement that says that there is no answer leaves the text unparsed. Without a statement the last
sentence with numbers answers: by the one number that the question does not give, else by the last;
what is denied, operands and ordinals are left out.
"""

import re
from collections.abc import Iterable

from kdstudy.answers import numerals
from kdstudy.answers.number_words import number_words
from kdstudy.answers.quantities import ORDINAL, Asked, Quantity, asked, quantities, spelled
from kdstudy.answers.sentences import counted, in_words, the_answer
from kdstudy.answers.statements import (
    CORRECTED,
    MAX_STATEMENT,
    UNDETERMINED,
    Rule,
    Statement,
    condition_of,
    is_of_another_question,
    sentence_end,
    sentence_start,
    statements,
)
from kdstudy.answers.turns import Answers, first_response, own_words

PHRASE = re.compile(
    r"\b(?<!to )(?:answer|correct (?:option|choice)|final (?:result|solution))s?\b(?!\s+choices)"
    r"[^.\n\d]{0,40}?(?:\b(?:is|are|was|be|equals)\b|(?P<sign>[:=]))|" + CORRECTED,
    re.IGNORECASE,
)
# "The answer is found by adding 5 and 3": what follows is no answer.
NOT_A_VALUE = re.compile(
    r"\W*(?:found|obtained|calculated|computed|determined|given|worth"
    r"|the (?:sum|difference|product|quotient|ratio))\b",
    re.IGNORECASE,
)
# A heading ("#### Step 1") or an opening ("Answer: Tom has 5 ...") rather than a value.
PROSE = re.compile(
    r"\W*(?!(?:option|choice|letter|about|approximately|text|math[a-z]+)\b)[A-Za-z]{2}",
    re.IGNORECASE,
)
_DENIED = re.compile(
    r"(?:\bnot|\bcannot be|n't|\brather than|\binstead of)[\s(*$€£¥₹-]*$", re.IGNORECASE
)
_DENIAL_WIDTH = 24  # characters before a value in which a denial of it stands
_RANK = re.compile(r"\W*(?:(?:in|on|at|the)\s+)*(\d+)(?:st|nd|rd|th)\b", re.IGNORECASE)
ASIDE = re.compile(r"\b(?:because|since|as|so|but)\b|[,;]\s")
# "12 000", but not the "5 100" of "5 100-dollar bills".
_SPACED = re.compile(r"(?<![\d.,/])\d{1,3}(?: \d{3})+(?![\d/-])")
# "either 8 or 9", "more than 9"
_RANGE = re.compile(
    r"\W*(?:strictly\s+)?(?:(?:more|less|fewer|greater|larger|smaller|higher|lower)\s+than"
    r"|between|somewhere|anywhere)\b",
    re.IGNORECASE,
)
_OR = re.compile(r"[ ]?\w*[ ]*,? or (?:maybe |perhaps |possibly |even )?[$€£₹]?", re.IGNORECASE)
_MAY = re.compile(r"\b(?:may|might)\b", re.IGNORECASE)
_POLITE = re.compile(
    r"\W*(?:let me know|feel free|please|i hope|hope this|if you (?:have|need|want|would))\b",
    re.IGNORECASE,
)
_BRIEF = 8  # words of a text that is an answer in words and nothing else
_FACTORS = frozenset({7, 12, 24, 36, 60, 100, 1000, 3600})  # of one unit and another
_FIELD = re.compile(r"[\"']?\s*:\s*[\"']")


def number(text: str, rule: Rule, question: str = "", *, cut: bool = False) -> str:
    """Return the number that a completion gives as its answer.

    Args:
        text: The completion.
        rule: `reference` takes the last `-?\\d+\\.?\\d*` once commas are removed. `corrected` takes
            the last stated answer ("answer is ...", "Answer: ..." closing its line, a boxed value,
            `####`), else the number that the last sentence with numbers adds to the question; of
            an equation, the result. See the module.
        question: The item's question. `corrected` leaves an echo of it out, takes its numbers for
            no answer where the sentence holds another one, and reads in it which unit or rank is
            asked for and how thousands and decimals are written.
        cut: The token budget ended the text: `corrected` then accepts only a stated answer whose
            end is visible, since "The answer is 12" may have been about to say 125.

    Returns:
        Canonical spelling (see `numerals`), such as `-1234.5` or `2/3`; "" when there is none.
    """
    if rule == "reference":
        found = re.findall(r"-?\d+\.?\d*", first_response(text).replace(",", ""))
        return numerals.decimal(found[-1]) if found else ""
    given = asked(question)
    words = own_words(text, question, lambda plain: _answers(plain, given))
    text = spelled(words, given)
    stated = _stated(text, given, cut=cut)
    if stated is not None or cut:
        return stated or ""
    return unstated_number(text, given)


def _answers(text: str, given: Asked) -> Answers:
    stated = [s.begin for s in statements(text, PHRASE, cut=False) if _value(s, given) is not None]
    first = next(numerals.numerals(text), None)
    return Answers(min(stated, default=len(text)), first.start if first else len(text))


def _stated(text: str, given: Asked, *, cut: bool) -> str | None:
    """Return the last stated answer, "" if it is that there is none, None without a statement."""
    last: tuple[Statement, str] | None = None
    for statement in statements(text, PHRASE, cut=cut):
        value = _value(statement, given)
        if value is None:
            continue
        if last is None:
            if not value:
                return ""
            last = (statement, value)
        elif value and _in_another_unit(last, (statement, value), given):
            return value
        else:
            break
    return last[1] if last else None


def _value(statement: Statement, given: Asked) -> str | None:
    """Return the number that a statement gives, "" if it says there is none, None if neither."""
    if statement.condition and is_contrary(statement, given):
        return None
    if statement.gives_none:
        return ""
    if statement.opens or statement.denies or NOT_A_VALUE.match(statement.text):
        return None
    span = _SPACED.sub(lambda match: match[0].replace(" ", ""), statement.text)
    field = bool(_FIELD.search(statement.presented + span[:1]))
    if field or (not statement.presented and not statement.detached):
        # A field of JSON and a box hold the answer and nothing else.
        span = re.split(r"[\"']\s*(?=[,}\n]|$)", span.lstrip("\"' "), maxsplit=1)[0]
        answer = read_number(span, given, whole_sentence=field and bool(PROSE.match(span)))
        says = re.search(r"[A-Za-z]{3}", re.sub(r"\\[a-z]+", "", span))
        return answer or ("" if says and statement.last else None)
    if statement.detached and PROSE.match(span):
        return None if re.search(r"\d", span) else in_words(span, given) or None
    return read_number(span, given, apart=statement.detached) or None


def is_contrary(statement: Statement, given: Asked) -> bool:
    """Return whether a condition is none of this question: it has numbers that are not given."""
    return _is_novel(statement.condition, given) or statement.of_another_question


def _is_novel(condition: str, given: Asked) -> bool:
    named = numerals.numerals(condition)
    return bool(given.numbers) and any(n.text not in given.numbers for n in named)


def supposes(sentence: str, given: Asked) -> bool:
    """Return whether a sentence says what would be if something else were asked or given."""
    condition = condition_of(sentence)
    return bool(condition) and (_is_novel(condition, given) or is_of_another_question(condition))


def _offers_several(text: str, found: list[Quantity]) -> bool:
    """Return whether a text ends with a choice of numbers: "8 or 9", but not "0.5 or 1/2"."""
    if len(found) < 2:
        return False
    a, b = found[-2:]
    if not _OR.fullmatch(text[a.end : b.start]) or a.result or b.result:
        return False
    x, y = numerals.value(a.text), numerals.value(b.text)
    same = not x or not y or x == y or max(x / y, y / x) in _FACTORS
    return not same and not numerals.equal(a.text, b.text)


def read_number(
    span: str, given: Asked, *, whole_sentence: bool = False, apart: bool = False
) -> str:
    """Return the answer in a statement's span; what follows "because" or a comma comes second."""
    for part in (ASIDE.split(span, maxsplit=1)[0], span):
        found = quantities(part, given)
        if found and not whole_sentence:
            several = len(found) == 2 and _offers_several(part, found)
            if several or _RANGE.match(part):
                return ""
        if found:
            return the_answer(part, found, given, whole_sentence=whole_sentence, apart=apart)
    rank = _RANK.match(span)
    return rank[1] if rank else in_words(span, given)


def _in_another_unit(
    last: tuple[Statement, str], before: tuple[Statement, str], given: Asked
) -> bool:
    """Return whether the last statement repeats the one before in a unit that is not asked for."""
    a, b = (numerals.value(value) for _, value in (last, before))
    if not a or not b or max(a / b, b / a) not in _FACTORS:
        return False
    theirs, ours = (_units_of(statement, given) for statement, _ in (last, before))
    wanted = given.units | ({"%"} if given.percent else set())
    wanted |= {"fraction"} if given.fraction else set()
    return bool(ours & wanted) and not theirs & wanted


def _units_of(statement: Statement, given: Asked) -> set[str]:
    said = f"{statement.presented} {statement.text}".lower()
    units = {quantity.unit for quantity in quantities(statement.text, given)}
    units |= {word.removesuffix("s") for word in re.findall(r"[a-z]+", said)}
    units |= {"%"} if "percent" in said else set()
    return units | ({"fraction"} if "/" in said else set())


def unstated_number(text: str, given: Asked) -> str:
    """Return the number of the last sentence with numbers, or of words behind it."""
    spare = ""
    places: Iterable[int] = (number.start for number in numerals.backwards(text))
    if given.place:
        places = sorted([*places, *(m.start() for m in ORDINAL.finditer(text))], reverse=True)
    limit, place = len(text), None
    for place in places:
        if place < limit:
            begin, end = sentence_start(text, place), sentence_end(text, place)
            answer = _in_sentence(text, begin, end, limit, given)
            if answer is not None and not _MAY.search(text, begin, end):
                return answer
            # "In 5 years there may be 20" answers only where nothing else does.
            spare = spare or answer or ""
            limit = begin
    return spare if place is not None else _in_words_alone(text, given)


def _in_sentence(text: str, begin: int, end: int, limit: int, given: Asked) -> str | None:
    """Return the answer in a sentence or in words behind it; None where there is neither."""
    sentence, behind = text[begin:end], text[end : min(limit, end + 2 * MAX_STATEMENT)]
    found = [q for q in quantities(sentence, given) if not _is_denied(text, begin + q.start)]
    known = {quantity.text for quantity in found} <= given.numbers
    if UNDETERMINED.search(behind) or (known and UNDETERMINED.search(sentence)):
        return ""
    words = [word.text for word in counted(behind, given)]
    if words:
        return words[-1]
    if supposes(sentence, given) or (begin > 0 and _POLITE.match(sentence)):
        return None
    if _offers_several(sentence, found):
        return ""
    return the_answer(sentence, found, given, whole_sentence=True) or None


def _in_words_alone(text: str, given: Asked) -> str:
    tail = text[-2 * MAX_STATEMENT :]
    if UNDETERMINED.search(tail):
        return ""
    words = [word.text for word in counted(tail, given)]
    if words or len(tail.split()) > _BRIEF:
        return words[-1] if words else ""
    alone = [word.text for word in number_words(tail)]
    return in_words(tail, given) or (alone[0] if len(alone) == 1 and alone != ["1"] else "")


def _is_denied(text: str, start: int) -> bool:
    return bool(_DENIED.search(text[max(0, start - _DENIAL_WIDTH) : start]))
