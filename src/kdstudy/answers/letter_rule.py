"""The rules that find the letter, A to E, of an option in a completion."""

import re
from collections import deque
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, pairwise

from kdstudy.answers import numerals
from kdstudy.answers.label_names import RANKS
from kdstudy.answers.number_rule import (
    ASIDE,
    NOT_A_VALUE,
    PHRASE,
    PROSE,
    is_contrary,
    read_number,
    unstated_number,
)
from kdstudy.answers.option_text import option_said
from kdstudy.answers.quantities import QUESTIONS_CACHED, Asked, asked
from kdstudy.answers.statements import (
    DENIED,
    HEDGES,
    MAX_STATEMENTS,
    UNDETERMINED,
    VERDICT,
    Rule,
    Statement,
    condition_of,
    is_closed,
    is_of_another_question,
    sentence_end,
    sentence_start,
    statements,
)
from kdstudy.answers.turns import CHOICES_HEAD, Answers, first_response, own_words

_LETTERS = "ABCDE"
_OPTION = re.compile(r"\(([A-E])\)")
_NAME = r"(?:(?:options?|choices?|letters?|answers?|text|mathrm|mathbf|textbf)\W*)"
_HEDGED = re.compile(rf"\W*(?:{HEDGES}\W+)*", re.IGNORECASE)
_STATED_LETTER = re.compile(
    rf"\W*{_NAME}{{0,2}}"
    # "d = 5" is a variable.
    r"(?:(?P<letter>[B-Eb-e])(?![\w'^/]|\s*=)"
    # "A" is also an article, so it needs the end of the phrase behind it.
    r"|(?P<a>[Aa])(?=\W*$|\s*[).:,;*\]}\"]|\s+(?:because|since|which|with|as)\b|\s*[$₹]?\d"
    r"|\s+(?:-\s+|\()(?![A-Z]\b)))"
)
# "A, B, or C", "either A or B", "both (A) and (C)", "A/B".
_SEVERAL = re.compile(
    rf"\W*(?:(?:either|both|between|any of|one of)\W+)?{_NAME}{{0,2}}"
    rf"(?P<first>[A-E])(?=[\"'*)\s,/&])"
    rf"(?P<rest>(?:[\"'*)\s]*(?:,|/|&|\bor\b|\band\b)+[\"'*(\s]*(?:(?:or|and|maybe|perhaps|also"
    rf"|possibly)\b\W*)*{_NAME}?[A-E](?![\w'=^]))+)"
    r"(?!\)?\s*(?:=|[a-z]*(?:n't)\b|(?:is|are|was|were|has|have|would|can|cannot|do|does|gives?|fails?)\b))"
)
_OPENING_LETTER = re.compile(
    r"\W*(?:(?i:option|choice|letter)\W*)?([A-E])(?=\W*$|\s*[).:,;*\]}]|\s+-\s|\s+\()"
)
_BEFORE_BARE = (
    r"(?:^|[\n:,;(*\"'!?]|\.\s|\b(?:so|hence|thus|therefore|is|not|but|or|and|be|to|than|with|it's"
    r"|choose|pick|select|answer|then|nor|neither|either|both|like)\s)"
)
# Where none of these begins, no alternative is tried: most of a text is passed over by two checks.
# (?ai: rather than (?i:, in which "ſecond" is "second".
_FIRST_SIGNS = "A-EOoCcPpSsGgTtHhFf1-5"
_MENTION = re.compile(
    r"\((?<![A-Za-z\d]\()(?P<round>[A-Ea-e])\)"
    rf"|\b(?=[{_FIRST_SIGNS}])(?:"
    r"(?ai:option|choice)(?:\s+|:[\s*]*)\(?(?P<named>[A-E])\b"
    r"|(?ai:choose|chose|picks?|select|go with|going with)\s+(?:the\s+)?"
    r"[(\"'*]*(?P<picked>[A-E])\b"
    r"|(?ai:so|thus|hence|therefore)[,:]?\s+(?:(?i:it(?:'s|\s+is|\s+must\s+be))\s+)?"
    r"[(\"'*]*(?P<left>[A-E])(?=\W*\Z)"
    rf"|(?P<rank>(?ai:{'|'.join(RANKS)}|[1-5](?:st|nd|rd|th)))\s+(?i:option|choice|answer)\b"
    r"|(?<!['(°])(?P<bare>[A-E])(?:\)|\.(?=\s|$))"
    r"|(?<!['(°])(?P<judged>[A-E])(?=\s+is\s+(?:the\s+)?(?:\w+\s+)?(?:correct|right|answer)\b)"
    r")"
    r"|^[ \t*\"'`]*(?P<alone>[A-E])[ \t*\"'`]*$",
    re.MULTILINE,
)
_LONGEST_ALONE = 80  # characters of "I think it is most likely option C"
_ALONE = re.compile(
    rf"\W*(?:{HEDGES}\W+)*(?:(?:option|choice|answer)\W+)?(?-i:([A-E]))\W*", re.IGNORECASE
)
_IT_IS = re.compile(r"\W*(?:it|that|this)(?:'s|\s+is)\s+", re.IGNORECASE)
_ALLOWED_BEFORE = re.compile(rf"{_BEFORE_BARE}[\s*_\"'`]*$", re.IGNORECASE)
_BETWEEN = re.compile(
    rf"[\"'*)\].\s]*(?:,|/|&|\bor\b|\band\b|\bnor\b)+(?:\s*(?:or|and|nor)\b)?[\"'*(\s]*{_NAME}?",
    re.IGNORECASE,
)
_NOT_KNOWN = re.compile(r"\b(?:determined|inadequate|insufficient|not enough)\b", re.IGNORECASE)
_MOST_HEADS = 3  # choices in one statement; more are a list of the options
_OR = re.compile(
    r"(?<![\w'])(?P<other>[A-E])\)?,?\s*(?:\bor\b|\band\b|/|&)\s*(?:options?\s*)?[(\"']*$"
)
_LISTED_BEFORE = re.compile(r"(?:[A-E]\W*(?:,|\bor\b|\bnor\b)\W*)+$")
_BEFORE = 60  # characters before a mention in which a denial of it stands


def choice(text: str, rule: Rule, question: str = "", *, cut: bool = False) -> str:
    """Return the option letter, A to E, that a completion gives as its answer.

    Args:
        text: The completion.
        rule: `reference` takes the first capital A-E anywhere. `corrected` takes the last stated
            answer, as a letter, as the text or as the value of an option; else the last choice
            named as "(C)", "C.", "C)" or "option C" outside a list of all the options, neither
            denied nor judged wrong; else the option whose value is the last number. A statement
            that names several choices names none.
        question: The item's question; its options are read from "Answer Choices: (A) ... (B) ...".
        cut: As in `number_rule.number`.

    Returns:
        A letter, or "" when there is none or when more than one option has the stated value.
    """
    if rule == "reference":
        first = re.search("[A-E]", first_response(text))
        return first[0] if first else ""
    offered = _offered(question)
    text = own_words(text, question, lambda plain: _answers(plain, offered))
    rest, mentions = _mentions(text, offered)
    stated = _last_stated(text, mentions, offered, cut=cut)
    if stated is not None or cut:
        return stated or ""
    return _unstated(text, rest, mentions, offered)


def options(question: str) -> dict[str, str]:
    """Return letter -> text of the options that a question lists after "Answer Choices:"."""
    return dict(_offered(question).texts)


@dataclass(frozen=True, slots=True)
class _Offered:
    """A question's options.

    Attributes:
        texts: Letter -> text.
        said: The same texts as `numerals.plain`.
        numbers: Letter -> number where the text holds just one.
        asked: What the question says without its options.
    """

    texts: dict[str, str]
    said: dict[str, str]
    numbers: dict[str, str]
    asked: Asked

    @property
    def letters(self) -> list[str]:
        return list(self.texts or _LETTERS)


@lru_cache(maxsize=QUESTIONS_CACHED)
def _offered(question: str) -> _Offered:
    heads = list(CHOICES_HEAD.finditer(question))
    parts = _OPTION.split(question[heads[-1].end() :] if heads else question)
    pairs = zip(parts[1::2], parts[2::2], strict=True)
    texts = {letter: text.strip() for letter, text in pairs}
    said = {letter: numerals.plain(text) for letter, text in texts.items()}
    found = {letter: list(numerals.numerals(text)) for letter, text in said.items()}
    numbers = {k: values[0].text for k, values in found.items() if len(values) == 1}
    return _Offered(texts, said, numbers, asked(question[: heads[-1].start()] if heads else ""))


@dataclass(frozen=True, slots=True)
class _Mention:
    """A choice named in a text: `letter` is "" when several are named at once.

    `refused` when denied or judged wrong, `stated` when judged right.
    """

    start: int
    letter: str
    refused: bool = False
    stated: bool = False
    closed: bool = False


def _answers(text: str, offered: _Offered) -> Answers:
    end = len(text)
    found = [s.begin for s in statements(text, PHRASE, cut=False) if _read(s, offered) is not None]
    _, mentions = _mentions(text, offered)
    found += [m.start for m in mentions if m.stated and not m.refused]
    # Not `mentions`: what stands before another task's list of options may be an answer.
    named = (m.start() for m in _MENTION.finditer(text) if _letter(m) in offered.letters)
    return Answers(min(found, default=end), next(named, end))


def _last_stated(
    text: str, mentions: list[_Mention], offered: _Offered, *, cut: bool
) -> str | None:
    """Return the last stated letter, "" where none or several are stated, None without any."""
    judged = [m for m in mentions if m.stated and not m.refused and (m.closed or not cut)]
    best = (judged[-1].start, judged[-1].letter) if judged else None
    for statement in statements(text, PHRASE, cut=cut):
        answer = None if statement.condition and best else _read(statement, offered)
        if answer is not None:
            return max(best or (-1, ""), (statement.begin, answer))[1]
    return best[1] if best else None


def _read(statement: Statement, offered: _Offered) -> str | None:
    """Return the letter that a statement gives, "" for none or several, None if it says nothing."""
    if statement.condition and is_contrary(statement, offered.asked):
        return None
    body = _HEDGED.sub("", statement.text, count=1)
    if not statement.denies:
        heads = {_letter(m) for m in _MENTION.finditer(body)}
        several = _several(body, offered) or len(heads & set(offered.letters)) > _MOST_HEADS
        if several:
            return ""
        letter = _leading_letter(statement, body, offered)
        letter = letter or option_said(body, offered.said, whole=statement.opens)
        if letter:
            return letter
    if statement.gives_none:
        return _undetermined_option(offered)
    if statement.opens or statement.denies or NOT_A_VALUE.match(body):
        return None
    if statement.detached and PROSE.match(body):
        return None
    return _value_of(body, offered) or None


def _several(body: str, offered: _Offered) -> bool:
    found = _SEVERAL.match(body)
    if not found:
        return False
    named = {found["first"], *re.findall(r"(?<![\w'])[A-E](?![\w'])", found["rest"])}
    return len(named & set(offered.letters)) > 1


def _leading_letter(statement: Statement, body: str, offered: _Offered) -> str:
    if statement.opens:
        # "Answer: C. The others are too small" opens a reasoning, and still answers.
        match = _OPENING_LETTER.match(body)
        letter = match[1] if match else ""
    else:
        match = _STATED_LETTER.match(body)
        letter = (match["letter"] or match["a"]).upper() if match else ""
    if not match:
        # "A eight": the letter and its own option.
        match = re.match(r"\W*([A-E])\s+", body)
        own = match and option_said(body[match.end() :], {match[1]: offered.said.get(match[1], "")})
        letter = own or ""
    if letter not in offered.letters:
        return ""
    # Not in "E, it can't be A" and "B because A is too long", which judge A.
    verdict = VERDICT.match(ASIDE.split(body[match.end() :], maxsplit=1)[0])
    return "" if verdict and (verdict["wrong"] or verdict["negated"]) else letter


def _value_of(span: str, offered: _Offered) -> str:
    for part in (ASIDE.split(span, maxsplit=1)[0], span):
        bracketed = [m for m in _OPTION.findall(part) if m in offered.letters]
        value = read_number(part, offered.asked)
        answer = bracketed[-1] if bracketed else _option_of(value, offered)
        if answer:
            return answer
    return ""


def _undetermined_option(offered: _Offered) -> str:
    """Return the option that says that there is no answer, "" without one."""
    hits = [letter for letter, text in offered.said.items() if _NOT_KNOWN.search(text)]
    return hits[0] if len(hits) == 1 else ""


def _mentions(text: str, offered: _Offered) -> tuple[str, list[_Mention]]:
    """Return the text after its last list of all options, and the choices named outside one."""
    letters = offered.letters
    matches = deque(_MENTION.finditer(text), maxlen=MAX_STATEMENTS)
    found = [m for m in matches if _letter(m) in letters and _is_a_name(text, m)]
    names = [_letter(m) for m in found]
    width, rest = len(letters), text
    for i in range(len(names) - width, -1, -1):
        if names[i : i + width] == letters:
            listed = numerals.plain(offered.texts.get(letters[-1], ""))
            rest = text[found[i + width - 1].end() :].lstrip().removeprefix(listed)
            found = found[i + width :]
            break
    return rest, [mention for group in _groups(text, found) for mention in _judged(text, group)]


def _letter(match: re.Match[str]) -> str:
    """Return the letter that a mention names, by itself or as "the third option"."""
    said = match[match.lastgroup or 0]
    if match.lastgroup != "rank":
        return said.upper()
    rank = RANKS.index(said.lower()) if said.lower() in RANKS else int(said[0]) - 1
    return _LETTERS[rank]


def _is_a_name(text: str, match: re.Match[str]) -> bool:
    """Return whether a bare letter names a choice: "So C." does, "vitamin C." does not."""
    if match.lastgroup not in ("bare", "judged"):
        return True
    before = text[max(0, match.start() - 20) : match.start()]
    return not before.strip() or bool(_ALLOWED_BEFORE.search(before))


def _groups(text: str, found: list[re.Match[str]]) -> list[list[re.Match[str]]]:
    groups = [found[:1]] if found else []
    for a, b in pairwise(found):
        if _BETWEEN.fullmatch(text, a.end(), b.start()):
            groups[-1].append(b)
        else:
            groups.append([b])
    return groups


def _judged(text: str, group: list[re.Match[str]]) -> list[_Mention]:
    """Return choices that are named together: as one that names none where several stand."""
    first, last = group[0], group[-1]
    before = text[max(0, first.start() - _BEFORE) : first.start()]
    # "it can't be A or B"
    denied = bool(DENIED.search(_LISTED_BEFORE.sub("", before)))
    verdict = VERDICT.match(text, last.end())
    wrong = bool(verdict and (verdict["wrong"] or verdict["negated"]))
    names = {_letter(match) for match in group}
    other = _OR.search(before)
    names |= {other["other"]} if other else set()
    stated = bool(verdict) or first.lastgroup in ("picked", "judged", "left")
    elsewhere = is_of_another_question(condition_of(_sentence(text, first)))
    return [
        _Mention(
            start=first.start(),
            letter=names.pop() if len(names) == 1 else "",
            refused=denied or wrong or elsewhere,
            stated=stated and not wrong,
            closed=is_closed(text, last.end()),
        )
    ]


def _unstated(text: str, rest: str, mentions: list[_Mention], offered: _Offered) -> str:
    whole = _whole(text, offered)
    if whole and ("\n" not in text.strip() or _names_no_other(text, whole)):
        return whole
    named = [mention for mention in mentions if not mention.refused]
    if named:
        return named[-1].letter
    said = _said_last(rest, offered)
    if said or UNDETERMINED.search(rest[-600:]):
        return said or _undetermined_option(offered)
    return _option_of(unstated_number(rest, offered.asked), offered)


def _names_no_other(text: str, letter: str) -> bool:
    return all(_letter(m) == letter for m in islice(_MENTION.finditer(text), MAX_STATEMENTS))


def _whole(text: str, offered: _Offered) -> str:
    """Return the letter of a text that begins with it and its option, or is an option's text."""
    line = text.strip().partition("\n")[0]
    alone = re.fullmatch(r"\W*([A-Ea-e])\W*", text)
    # Not of any length: what is no letter could be divided between its parts in many ways.
    alone = alone or (len(text) <= _LONGEST_ALONE and _ALONE.fullmatch(text))
    if alone and alone[1].upper() in offered.letters:
        return alone[1].upper()
    match = _OPENING_LETTER.match(line)
    if match and match[1] in offered.texts and match[1] in offered.letters:
        behind = line[match.end() :].lstrip(" ).:,;*]}-(")
        if option_said(behind, {match[1]: offered.said[match[1]]}):
            return match[1]
    told = _IT_IS.match(line)
    return option_said(line[told.end() :] if told else line, offered.said, whole=True)


def _sentence(text: str, match: re.Match[str]) -> str:
    return text[sentence_start(text, match.start()) : sentence_end(text, match.end())]


def _said_last(text: str, offered: _Offered) -> str:
    """Return the option of two words or more that the last sentence ends with."""
    last = text.rstrip(" .!\n*\"'").rpartition("\n")[2].rpartition(". ")[2].casefold()
    hits = [
        letter
        for letter, option in offered.said.items()
        if len(option.split()) > 1 and last.endswith(option.casefold().strip(" ."))
    ]
    return hits[0] if len(hits) == 1 else ""


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
