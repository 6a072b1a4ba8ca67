"""The rules that find a label, such as `option2` or `true`, in a completion."""

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from kdstudy.answers.label_names import (
    NOUNS,
    RANKS,
    TRUTH,
    Spelling,
    are_truths,
    named_label,
    names_of,
    offered_labels,
    spelling_of,
)
from kdstudy.answers.option_text import option_said
from kdstudy.answers.statements import (
    CHOSEN,
    CORRECTED,
    DENIED,
    HEDGES,
    MAX_STATEMENTS,
    VERDICT,
    Rule,
    Statement,
    is_closed,
    is_supposed,
    sentence_start,
    statements,
)
from kdstudy.answers.turns import Answers, first_response, own_words

_PHRASE = re.compile(
    r"\b(?<!to )(?:answer|option|choice|solution|ending|response|statement|claim|conclusion"
    r"|verdict)s?\b(?!\s+(?:choices|format))[^.\n\d]{0,40}?"
    r"(?:\b(?:is|are|was|be|equals)\b|(?P<sign>[:=]))|" + CORRECTED,
    re.IGNORECASE,
)

_BEFORE = 60  # characters before a label in which a denial of it stands
_HEAD = re.compile(r"[\s*_`]*:")
_BETWEEN = re.compile(
    r"[\s/,|;&*_`'\"()\[\]{}]*(?:(?:and|or|vs\.?|versus)(?=[\W_]|$))?[\s*_`'\"(\[{]*"
)

_JOINED = re.compile(r"[,/&]|\b(?:and|or|vs|versus)\b", re.IGNORECASE)
_NEITHER = re.compile(r"\b(?:neither|nor)\b[\s*_`\"'(\[{]*$", re.IGNORECASE)

# How a statement or a text may begin.
_HEDGED = re.compile(rf"[\W_]*(?:{HEDGES}\W+)*", re.IGNORECASE)
_TRUTH_WORD = re.compile(
    rf"[\W_]*(?:(?:{HEDGES}|that|it\s+is|it's|an?(?:\s+\w+)?)\W+)*(yes|no|true|false)"
    r"(?=[\W_]*$|\s*[.,;:!)*—-]|\s+(?:because|since|as|for|but)\b)",
    re.IGNORECASE,
)
_CONCLUDED = re.compile(
    r"(?:^|(?<=[.!?])\s|(?<=[\s,;])(?=(?:so|thus|hence|therefore|say)\b))"
    r"[ \t*#>_-]*(?P<word>(?:conclusion|verdict|result|decision"
    r"|in\s+(?:conclusion|short|summary|sum)|overall|therefore|thus|so|hence|say"
    r"|to\s+(?:conclude|sum\s+up)|finally)\b"
    rf"[\s,:*_]*)?(?:{HEDGES}\W+)*(?P<truth>yes|no|true|false)(?=[\W_]*$|\s*[.,;:!)*—-])",
    re.IGNORECASE | re.MULTILINE,
)
_BARE_NUMBER = re.compile(
    rf"[\W_]*(?:the\s+)?(?:(?:{NOUNS})\b[\W_]*)?"
    rf"(?:(\d+)|((?-i:[A-E]))(?![\w'])|({'|'.join(RANKS)}|[1-5](?:st|nd|rd|th))"
    rf"(?:\s+(?:{NOUNS}|one))?)"
    r"(?=[\W_]*$|\s*(?:[):;\]}*]|[.,](?!\d))|\s+(?:because|since|as|which|with)\b)",
    re.IGNORECASE,
)
# "Some say it is true, but ..."
_REPORTED = re.compile(
    r"\b(?:some|many|most|few|people|others|they|critics)\s+(?:\w+\s+){0,2}"
    r"(?:say|think|believe|claim|argue|assume)\b(?:\s+(?:that|it|this|is|it's|the\s+answer))*"
    r"[\s,:*_`\"']*$",
    re.IGNORECASE,
)
_SEVERAL = re.compile(r"\W*(?:both|either|neither|all|none|any)\b", re.IGNORECASE)
_LIST_MARK = re.compile(r"\W*([1-9]|(?-i:[A-E]))[.):]\s+", re.IGNORECASE)
_SAID_TO_BE_RIGHT = re.compile(
    r"(?:^|[.\n])(?P<said>[^.\n]{1,300}?)\s+(?:is|seems|would be)\s+the\s+(?:most\s+)?(?:\w+\s+)?"
    r"(?:answer|option|choice|solution|ending)\b",
    re.IGNORECASE,
)


def label(
    text: str, rule: Rule, labels: Sequence[str], question: str = "", *, cut: bool = False
) -> str:
    """Return the label, such as `option2` or `true`, that a completion gives as its answer.

    Args:
        text: The completion.
        rule: `reference` takes the first label anywhere, inside a word too, in lower case only; of
            labels `answer1`, `answer2`, ... it looks for `answer1` to `answer5` whatever the item
            offers, as the released code does. Without any the answer is "", never a correct one.
            `corrected` takes the last stated answer: "the answer is Option 2", "**Solution 1** is
            correct", "so ending3", "Answer: 2", "The answer is yes", or the text of the one option
            that has it. Without a statement it takes how the text begins ("Yes, ...", a line with
            nothing but "2" or an option's text), else the first label that it names outside a list
            of all of them. A label that is denied ("not option1 but option2") or judged wrong
            ("option1 is incorrect") is no answer; in a statement with several, the first counts.
        labels: What the answer may be, in lower case.
        question: The item's question, of which an echo is left out. `corrected` accepts only the
            labels that it lists as "Option1: ...", if it lists any.
        cut: As in `extract.number`.

    Returns:
        A label, or "" when there is none.
    """
    spelling = spelling_of(tuple(labels))
    if rule == "reference":
        first = spelling.released.search(first_response(text))
        return first[0] if first else ""
    offered = offered_labels(question, spelling.labels)
    text = own_words(text, question, lambda plain: _answers(plain, spelling, offered))
    mentions = _mentions(text, spelling, offered)
    stated = _last_stated(text, mentions, offered, cut=cut)
    return stated or "" if stated is not None or cut else _unstated(text, mentions, offered)


@dataclass(frozen=True, slots=True)
class _Mention:
    """A label named in a text: `refused` when denied, judged wrong or part of a list.

    `joined` is the "or", "and" or the like that joins the next one to it.
    """

    start: int
    label: str
    refused: bool
    stated: bool
    closed: bool
    joined: str = ""


def _mentions(text: str, spelling: Spelling, offered: dict[str, str]) -> list[_Mention]:
    """Return the first and the last of the offered labels that a text names, in order."""
    found = [m for m in spelling.free.finditer(text) if named_label(m, spelling) in offered]
    if len(found) > 2 * MAX_STATEMENTS:
        found = found[:MAX_STATEMENTS] + found[-MAX_STATEMENTS:]
    names = [named_label(match, spelling) for match in found]
    listed = _listed(text, found, names, offered)
    opposite = dict(zip(offered, reversed(offered), strict=True)) if are_truths(offered) else {}
    mentions = []
    gaps = [text[a.end() : b.start()] for a, b in pairwise(found)] + [""] * bool(found)
    for match, name, gap in zip(found, names, gaps, strict=True):
        joint = _JOINED.search(gap) if _BETWEEN.fullmatch(gap) else None
        joined = joint[0].lower() if joint else ""
        mention = _judged(text, match, name, opposite.get(name, ""))
        mentions.append(
            replace(mention, joined=joined, refused=mention.refused or match.start() in listed)
        )
    return _together(mentions)


def _judged(text: str, match: re.Match[str], name: str, opposite: str) -> _Mention:
    """Return a label with what the words round it say of it; `opposite` for truths only."""
    before = text[max(0, match.start() - _BEFORE) : match.start()]
    denied, reported = bool(DENIED.search(before)), bool(_REPORTED.search(before))
    verdict = None if opposite else VERDICT.match(text, match.end())
    wrong = verdict is not None and bool(verdict["wrong"] or verdict["negated"])
    if opposite:
        begin = sentence_start(text, match.start())
        supposed = not before.rstrip().endswith((":", "=")) and is_supposed(
            text, begin, match.end()
        )
    else:
        supposed = verdict is not None and is_supposed(text, match.start(), verdict.end())
    neither = denied and bool(_NEITHER.search(before))
    return _Mention(
        start=match.start(),
        # "It is not true" says that it is false; "not option1" names no other option.
        label=opposite if denied and opposite else name,
        refused=wrong or supposed or neither or reported or (denied and not opposite),
        stated=bool(verdict or CHOSEN.search(before)),
        closed=is_closed(text, match.end()),
    )


def _together(mentions: list[_Mention]) -> list[_Mention]:
    """Return mentions with what is said of one of "option1 and option2" said of both."""
    for i, (first, second) in enumerate(pairwise(mentions)):
        # "not option1 or option2"
        if first.joined and first.refused and not first.stated:
            mentions[i + 1] = replace(second, refused=True)
    told = mentions[-1:]
    for mention in reversed(mentions[:-1]):
        behind = told[-1]
        if mention.joined and behind.refused and behind.stated:
            mention = replace(mention, refused=True)
        elif mention.joined and behind.stated and mention.label != behind.label:
            told[-1] = replace(behind, label="")
        told.append(mention)
    return told[::-1]


def _listed(
    text: str, found: list[re.Match[str]], names: list[str], offered: dict[str, str]
) -> set[int]:
    """Return where the labels begin that stand in a list of all that are offered.

    Such a list is "option1 or option2", "Option1: ... Option2: ...", or any with slashes.
    """
    width, starts = len(offered), set()
    joined = [bool(_BETWEEN.fullmatch(text, a.end(), b.start())) for a, b in pairwise(found)]
    heads = [bool(_HEAD.match(text, match.end())) for match in found]
    for i, match in enumerate(found[1:]):
        if joined[i] and "/" in text[found[i].end() : match.start()]:
            starts |= {found[i].start(), match.start()}
    for i in range(len(found) - width + 1):
        whole = width > 1 and set(names[i : i + width]) == set(offered)
        if whole and (all(joined[i : i + width - 1]) or all(heads[i : i + width])):
            starts |= {match.start() for match in found[i : i + width]}
    return starts


def _answers(text: str, spelling: Spelling, offered: dict[str, str]) -> Answers:
    end = len(text)
    mentions = _mentions(text, spelling, offered)
    stated = [m.start for m in mentions if m.stated and not m.refused]
    for statement in statements(text, _PHRASE, cut=False):
        answer = _read(statement, text, mentions, offered)
        stated += [] if answer is None else [answer[0]]
    line = text.lstrip().partition("\n")[0]
    named = [m.start for m in mentions]
    named += [0] if _unnamed(line, line, offered, whole=True) else []
    return Answers(min(stated, default=end), min(named, default=end))


def _last_stated(
    text: str, mentions: list[_Mention], offered: dict[str, str], *, cut: bool
) -> str | None:
    """Return the last stated label, "" where none or several are stated, None without any."""
    judged = [
        (m.start, m.label) for m in mentions if m.stated and not m.refused and (m.closed or not cut)
    ]
    judged += [
        (start, label)
        for start, marked, label in _concluded(text, offered)
        if marked and (is_closed(text, start) or not cut)
    ]
    best = max(judged, default=None)
    for statement in statements(text, _PHRASE, cut=cut):
        answer = None
        if not (statement.of_another_question or (statement.condition and best)):
            answer = _read(statement, text, mentions, offered)
        if answer is not None:
            return max(best or answer, answer)[1]
    return best[1] if best else None


def _unstated(text: str, mentions: list[_Mention], offered: dict[str, str]) -> str:
    """Return the label of a text without a statement; see `label`."""
    line = text.lstrip().partition("\n")[0]
    right = _SAID_TO_BE_RIGHT.search(text)
    first = _unnamed(line, line, offered, whole=True) or (
        option_said(right["said"], offered, whole=True) if right else ""
    )
    concluded = [name for _, _, name in _concluded(text, offered)]
    if first or concluded:
        return first or concluded[-1]
    named = [mention for mention in mentions if not mention.refused]
    if len(named) > 1 and named[0].joined and named[0].label != named[1].label:
        return ""
    return named[0].label if named else ""


def _concluded(text: str, offered: dict[str, str]) -> list[tuple[int, bool, str]]:
    """Return where a line or sentence begins with yes or no, whether as a conclusion, and which."""
    if not are_truths(offered):
        return []
    found = []
    for match in deque(_CONCLUDED.finditer(text), maxlen=MAX_STATEMENTS):
        if _REPORTED.search(text[max(0, match.start("truth") - _BEFORE) : match.start("truth")]):
            continue
        truth = TRUTH[match["truth"].lower()]
        label = next((label for label in offered if TRUTH[label] is truth), "")
        found += [(match.start("truth"), bool(match["word"]), label)] if label else []
    return found


def _read(
    statement: Statement, text: str, mentions: list[_Mention], offered: dict[str, str]
) -> tuple[int, str] | None:
    """Return where a statement names its answer, and the answer; "" for none or for several."""
    end = statement.begin + len(statement.text)
    body = _HEDGED.sub("", statement.text, count=1)
    if not statement.denies:
        longest = max(map(len, offered.values()), default=0)
        begin = end - len(body)
        said = text[begin : max(end, begin + 2 * longest + 20)]
        answer = _unnamed(body, said, offered)
        if answer:
            return statement.begin, answer
    inside = [m for m in mentions if statement.begin <= m.start < end]
    named = [m for m in inside if not m.refused]
    if _SEVERAL.match(body) and len({m.label for m in inside}) != 1:
        return statement.begin, ""
    if len(named) > 1 and named[0].label != named[1].label and named[0].joined:
        return statement.begin, ""
    if named:
        return named[0].start, named[0].label
    return (statement.begin, "") if statement.gives_none else None


def _unnamed(span: str, said: str, offered: dict[str, str], *, whole: bool = False) -> str:
    """Return the label that a text gives as "2", as "yes", or by its option's text.

    Args:
        span: The text up to the end of a sentence or line.
        said: The same and more: an option may have more than one sentence.
        offered: Label -> text.
        whole: A number or an option must be all of the span, since "1." may open a list of steps.
    """
    found = {_opening(span, offered, whole=whole), option_said(said, offered, whole=whole)} - {""}
    listed = _LIST_MARK.match(said)
    if listed and not found:
        # "2. Maria": the number of an option, and its text
        own = {k: v for k, v in offered.items() if listed[1].lower() in names_of(k)}
        return option_said(said[listed.end() :], own, whole=whole)
    # "2" may be the number of an option and the text of another: then it is neither.
    return found.pop() if len(found) == 1 else ""


def _opening(span: str, offered: dict[str, str], *, whole: bool) -> str:
    if are_truths(offered):
        word = _TRUTH_WORD.match(span)
        truth = TRUTH[word[1].lower()] if word else None
        return next((label for label in offered if TRUTH[label] is truth), "")
    found = _BARE_NUMBER.match(span)
    bare = found and not re.search(r"[(\[]", found[0])
    if not found or (
        whole and (not (found[1] or bare) or re.search(r"[^\W_]", span[found.end() :]))
    ):
        return ""
    name = (found[1] or found[2] or found[3]).lower()
    return next((label for label in offered if name in names_of(label)), "")
