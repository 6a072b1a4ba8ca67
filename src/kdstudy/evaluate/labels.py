"""The rules that find a label, such as `option2` or `true`, in a completion."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, pairwise

from kdstudy.evaluate import numerals
from kdstudy.evaluate.statements import (
    MAX_STATEMENTS,
    QUESTIONS_CACHED,
    Rule,
    Statement,
    first_response,
    is_closed,
    own_words,
    statements,
)

_PHRASE = re.compile(
    r"\b(?<!to )(?:answer|option|choice|solution|ending|response|statement|claim)s?\b"
    r"(?!\s+(?:choices|format))[^.\n\d]{0,40}?(?:\b(?:is|are|was|be|equals)\b|(?P<sign>[:=]))",
    re.IGNORECASE,
)
_NUMBERED = re.compile(r"([^\W\d_]+)(\d+)")
_TRUTH = {"true": True, "yes": True, "false": False, "no": False}

# What stands directly before or behind a label and says what the text thinks of it.
_BEFORE = 60  # characters
_DENIED = re.compile(
    r"(?:\bnot|\bcannot|n't|\bneither|\bnor|\bthan|\binstead of|\bunlike)"
    r"(?:\s+(?:be|necessarily|likely|really))?[\s*_`\"'(\[{]*$",
    re.IGNORECASE,
)
_CHOSEN = re.compile(
    r"\b(?:choose|chose|picks?|picked|select|selected|go with|going with|prefer"
    r"|(?:so|thus|hence|therefore)(?:,?\s+(?:it|this|that)(?:'s| is| must be| has to be))?)"
    r"[\s,:*_`\"'(\[{]*$",
    re.IGNORECASE,
)
_VERB = r"\b(?:is|are|was|be|seems?|looks?|appears?|sounds?|makes?|fits?)\b"
_VERDICT = re.compile(
    rf"[^.\n\d]{{0,40}}?(?:{_VERB}[^.\n\d]{{0,16}}?\b(?:(?P<wrong>not|no|never|incorrect|wrong|false"
    r"|less|worse|worst|unlikely|untrue|implausible|improbable|irrelevant|illogical)|correct|right"
    r"|best|better|answer|true|appropriate|likely|logical|plausible|sense)\b"
    r"|\b(?P<negated>(?:is|does|ca|wo|would|could)n't|cannot|(?:does|can|would|could|will) not)\b)",
    re.IGNORECASE,
)
_HEAD = re.compile(r"[\s*_`]*:")
_BETWEEN = re.compile(
    r"[\s/,|;&*_`'\"()\[\]{}]*(?:(?:and|or|vs\.?|versus)(?=[\W_]|$))?[\s*_`'\"(\[{]*"
)

# How a statement or a text may begin.
_TRUTH_WORD = re.compile(r"[\W_]*(yes|no|true|false)(?=[\W_]*$|\s*[.,;:!)*—-])", re.IGNORECASE)
_BARE_NUMBER = re.compile(
    r"[\W_]*(?:(?:number|no|option|choice|answer|solution|ending)\b[\W_]*)?(\d+)"
    r"(?=[\W_]*$|\s*(?:[):;\]}*]|,(?!\d))|\s+(?:because|since|as|which|with)\b)",
    re.IGNORECASE,
)
_FORMAT = re.compile(r"\banswer format\s*:", re.IGNORECASE)
_WORD = re.compile(r"\w+|[-+/%$<>=]")
_ARTICLES = ("a", "an", "the")
_OPTION_ENDS = re.compile(
    r"[\W_]*$|\s*[.,](?!\d)|\s*[;:!?)\]}*\"\n]|\s+(?:because|since|as|so|but|which)\b"
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
    spelling = _spelling(tuple(labels))
    if rule == "reference":
        first = spelling.released.search(first_response(text))
        return first[0] if first else ""
    offered = _offered(question, spelling.labels)
    text = own_words(text, question)
    mentions = _mentions(text, spelling, offered)
    stated = _last_stated(text, mentions, offered, cut=cut)
    if stated or cut:
        return stated
    line = text.lstrip().partition("\n")[0]
    named = (mention.label for mention in mentions if not mention.refused)
    return _unnamed(line, line, offered, whole=True) or next(named, "")


@dataclass(frozen=True, slots=True)
class _Spelling:
    """How a benchmark's labels are written.

    Attributes:
        labels: The labels.
        stem: What stands before the number; empty unless labels are a word and a number each.
        released: Where the released code finds one.
        free: Where one is named in free text.
        names: What `free` finds, in lower case -> label.
    """

    labels: tuple[str, ...]
    stem: str
    released: re.Pattern[str]
    free: re.Pattern[str]
    names: dict[str, str]


@lru_cache(maxsize=64)
def _spelling(labels: tuple[str, ...]) -> _Spelling:
    parts = [_NUMBERED.fullmatch(label) for label in labels]
    stems = {part[1] for part in parts if part}
    truths = {_TRUTH.get(label): label for label in labels}
    known = labels
    if all(parts) and len(stems) == 1:
        (stem,) = stems
        free = rf"(?<![^\W_]){stem}[ \t*_`#-]{{0,3}}[(\[{{]?(\d+)(?![\d%]|\.\d)"
        names = {part[2]: label for part, label in zip(parts, labels, strict=True)}
        if stem == "answer":
            known = tuple(f"answer{n}" for n in range(1, 6))
    elif None not in truths:
        # Yes and no answer only as the beginning of a statement: "there is no evidence".
        stem, free = "", r"(?<![^\W_])(true|false)(?![^\W_])"
        names = {word: truths[_TRUTH[word]] for word in ("true", "false") if _TRUTH[word] in truths}
    else:
        longest = sorted(map(re.escape, labels), key=len, reverse=True)
        stem, free = "", rf"(?<![^\W_])({'|'.join(longest)})(?![^\W_])"
        names = {label.lower(): label for label in labels}
    released = re.compile("|".join(map(re.escape, known)))
    return _Spelling(labels, stem, released, re.compile(free, re.IGNORECASE), names)


@lru_cache(maxsize=QUESTIONS_CACHED)
def _offered(question: str, labels: tuple[str, ...]) -> dict[str, str]:
    """Return label -> text of the options that a question lists; all labels when it lists none."""
    spelling = _spelling(labels)
    if spelling.stem:
        options = _FORMAT.split(numerals.plain(question))[0]
        parts = re.split(rf"\b{spelling.stem}\s?(\d+)\s*:", options, flags=re.IGNORECASE)
        listed = zip(parts[1::2], parts[2::2], strict=True)
        found = {spelling.names.get(n, ""): text.strip() for n, text in listed}
        found.pop("", None)
        if found:
            return found
    return dict.fromkeys(labels, "")


@dataclass(frozen=True, slots=True)
class _Mention:
    """A label named in a text: `refused` when denied, judged wrong or part of a list."""

    start: int
    label: str
    refused: bool
    stated: bool
    closed: bool


def _mentions(text: str, spelling: _Spelling, offered: dict[str, str]) -> list[_Mention]:
    """Return the first and the last of the offered labels that a text names, in order."""
    found = [m for m in spelling.free.finditer(text) if spelling.names.get(m[1].lower()) in offered]
    if len(found) > 2 * MAX_STATEMENTS:
        found = found[:MAX_STATEMENTS] + found[-MAX_STATEMENTS:]
    names = [spelling.names[match[1].lower()] for match in found]
    listed = _listed(text, found, names, offered)
    opposite = dict(zip(offered, reversed(offered), strict=True)) if _are_truths(offered) else {}
    mentions = []
    for match, name in zip(found, names, strict=True):
        before = text[max(0, match.start() - _BEFORE) : match.start()]
        denied = bool(_DENIED.search(before))
        verdict = None if opposite else _VERDICT.match(text, match.end())
        wrong = verdict is not None and bool(verdict["wrong"] or verdict["negated"])
        mentions.append(
            _Mention(
                start=match.start(),
                # "It is not true" says that it is false; "not option1" names no other option.
                label=opposite.get(name, name) if denied else name,
                refused=match.start() in listed or wrong or (denied and not opposite),
                stated=bool(verdict or _CHOSEN.search(before)),
                closed=is_closed(text, match.end()),
            )
        )
    return mentions


def _are_truths(labels: Iterable[str]) -> bool:
    return all(label in _TRUTH for label in labels)


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


def _last_stated(text: str, mentions: list[_Mention], offered: dict[str, str], *, cut: bool) -> str:
    judged = [m for m in mentions if m.stated and not m.refused and (m.closed or not cut)]
    best = (judged[-1].start, judged[-1].label) if judged else (-1, "")
    for statement in statements(text, _PHRASE, cut=cut):
        answer = _read(statement, text, mentions, offered)
        if answer:
            return max(best, answer)[1]
    return best[1]


def _read(
    statement: Statement, text: str, mentions: list[_Mention], offered: dict[str, str]
) -> tuple[int, str] | None:
    """Return where a statement names its answer, and the answer."""
    end = statement.begin + len(statement.text)
    if not statement.denies:
        longest = max(map(len, offered.values()), default=0)
        said = text[statement.begin : max(end, statement.begin + 2 * longest + 20)]
        answer = _unnamed(statement.text, said, offered)
        if answer:
            return statement.begin, answer
    for mention in mentions:
        if statement.begin <= mention.start < end and not mention.refused:
            return mention.start, mention.label
    return None


def _unnamed(span: str, said: str, offered: dict[str, str], *, whole: bool = False) -> str:
    """Return the label that a text gives as "2", as "yes", or by its option's text.

    Args:
        span: The text up to the end of a sentence or line.
        said: The same and more: an option may have more than one sentence.
        offered: Label -> text.
        whole: A number or an option must be all of the span, since "1." may open a list of steps.
    """
    found = {_opening(span, offered, whole=whole), _option_said(said, offered, whole=whole)} - {""}
    # "2" may be the number of an option and the text of another: then it is neither.
    return found.pop() if len(found) == 1 else ""


def _opening(span: str, offered: dict[str, str], *, whole: bool) -> str:
    if _are_truths(offered):
        word = _TRUTH_WORD.match(span)
        truth = _TRUTH[word[1].lower()] if word else None
        return next((label for label in offered if _TRUTH[label] is truth), "")
    number = _BARE_NUMBER.match(span)
    if not number or (whole and re.search(r"[^\W_]", span[number.end() :])):
        return ""
    return next((label for label in offered if _number_of(label) == number[1]), "")


def _number_of(label: str) -> str:
    numbered = _NUMBERED.fullmatch(label)
    return numbered[2] if numbered else ""


def _option_said(span: str, offered: dict[str, str], *, whole: bool = False) -> str:
    """Return the label of the one option whose text a span begins with, or is, words compared."""
    hits: dict[str, int] = {}
    first = _words(span, 2)[:1]
    for name, option in offered.items():
        if not first or [w for w, _ in _words(option, 2)[:1]] != [w for w, _ in first]:
            continue
        words = _words(option)
        said = _words(span, len(words) + 1)[: len(words)]
        if [w for w, _ in said] != [w for w, _ in words]:
            continue
        rest = span[said[-1][1] :]
        if _OPTION_ENDS.match(rest) and not (whole and _WORD.search(rest)):
            hits[name] = len(words)
    best = [name for name, size in hits.items() if size == max(hits.values())]
    return best[0] if len(best) == 1 else ""


def _words(text: str, limit: int | None = None) -> list[tuple[str, int]]:
    """Return the first words of a text without a leading article, and where each ends."""
    found = [(match[0].casefold(), match.end()) for match in islice(_WORD.finditer(text), limit)]
    return found[1:] if len(found) > 1 and found[0][0] in _ARTICLES else found
