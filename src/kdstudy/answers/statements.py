"""The spans of a completion that are presented as its answer, and what the words do to them.

A statement is a span behind "the answer is" or "Answer:", in a box or in `<answer>`, or behind
`####`. The last one counts, with three exceptions that `Statement` names: one that denies ("the
answer is not 5"), one that supposes ("if ... were asked, the answer would be 3100"), and one that
says that there is no answer, which is final.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal

Rule = Literal["reference", "corrected"]
RULES: tuple[Rule, ...] = ("reference", "corrected")

MAX_STATEMENT = 300
"""Characters of a statement that are read; an answer is no longer, and repetition stays cheap."""

MAX_STATEMENTS = 200
"""Statements that are looked at, from the end; a text with more repeats itself."""

HEDGES = (
    r"(?:(?:(?:most|very|quite|almost)\s+)?(?:probably|likely|possibly|certainly|definitely|clearly"
    r"|obviously|surely|simply|perhaps|maybe|indeed|actually|presumably|apparently|undoubtedly"
    r"|therefore|thus|then|hence|still|just|only|exactly|really|always|now)"
    r"|about|approximately|around|roughly|nearly|almost|close(?:st)?\s+to|for\s+sure"
    r"|in\s+fact|of\s+course|without\s+(?:a\s+)?doubt|I(?:'d)?\s+(?:think|believe|guess|say)"
    r"|to\s+be|going\s+to\s+be|given\s+(?:by|as)|equal\s+to|again)\b"
)
"""Words between "the answer is" and the answer that say how sure or exact it is."""

SENTENCE_END = re.compile(r"[.!?](?=\s)(?<![\w)]!(?=\s[-+=*/×·<>]))|\n")
"""The end of a sentence; "4! = 24" has none inside."""

CHOSEN = re.compile(
    r"\b(?:choose|chose|picks?|picked|select|selected|go with|going with|prefer"
    r"|(?:so|thus|hence|therefore)(?:,?\s+(?:it|this|that)(?:'s| is| must be| has to be))?)"
    r"[\s,:*_`\"'(\[{]*$",
    re.IGNORECASE,
)
"""What stands directly before a choice that is made."""

DENIED = re.compile(
    r"(?:\bnot|\bcannot|n't|\bneither|\bnor|\bthan|\binstead of|\bunlike)"
    r"(?:\s+(?:be|necessarily|likely|really|the|is|are|either|choose|pick|select|go\s+with|say"
    r"|recommend|call\s+it))?(?:\s+(?:the\s+)?(?:option|choice|answer))?[\s*_`\"'(\[{]*$",
    re.IGNORECASE,
)
"""What stands directly before a choice that is denied."""

CORRECTED = (
    r"(?:\b(?:wait|actually|sorry|oops)\b[\s,.!—-]{0,4}(?:(?:no|wait|sorry|actually)\b[\s,.!—-]{0,4})"
    r"{0,3}(?:(?:it|that)(?:'s|\s+(?:is|should\s+be|must\s+be))|should\s+be|make\s+(?:it|that)"
    r"|I\s+meant?)(?!\w)|\bcorrection\b[\s:,-]{0,4}(?:(?:it|that)(?:'s|\s+(?:is|should\s+be)))?)"
)
"""What takes an answer back and gives another: "no wait, it's", "correction:"."""

_VERB = r"\b(?:is|are|was|be|seems?|looks?|appears?|sounds?|makes?|fits?)\b"
VERDICT = re.compile(
    rf"[^.\n\d]{{0,40}}?(?:{_VERB}[^.\n\d]{{0,16}}?\b(?:(?P<wrong>not|no|never|incorrect|wrong|false"
    r"|less|worse|worst|unlikely|untrue|implausible|improbable|irrelevant|illogical|neither|too)"
    r"|correct|right"
    r"|best|better|answer|true|appropriate|likely|logical|plausible|sense)\b"
    r"|\b(?P<negated>(?:is|does|ca|wo|would|could)n't|cannot|(?:does|can|would|could|will) not)\b)",
    re.IGNORECASE,
)
"""What stands directly behind a choice and judges it; with group `wrong` or `negated`, as wrong."""

_LEAD_IN = re.compile(r"[ \t\r\n:*$_`]*")
_LINE_END = re.compile(r"[.!? \t*$]*+(?:\n|\Z)")
_HASHES = re.compile(r"(?<!#)####(?!#)[ \t]*(?P<value>[^\n]*)(?P<closed>\n?)")
_TAGGED = re.compile(r"<(?:final_)?answer>\s*(?P<value>[^<\n]*)(?P<closed><?)", re.IGNORECASE)
_BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{")
_DENIAL = re.compile(r"\W*(?:\b(?:not|cannot|never)\b|n't\b)", re.IGNORECASE)

_KNOWN = (
    r"(?:\w+ly\s+)?(?:determined?|determinable|answer(?:ed)?|calculated?|computed?|solved?|known?"
    r"|found|told|tell|said|say|decided?|concluded?|inferred|infer|established?|stated?|given"
    r"|specified|provided|defined|clear|possible|sufficient|enough)\b"
)
UNDETERMINED = re.compile(
    r"\b(?:cannot|can't|can\s+not|could\s+not|couldn't|unable\s+to|impossible\s+to|no\s+way\s+to"
    r"|not\s+possible\s+to)\s+(?:be\s+)?(?:\w+ly\s+)?"
    r"(?:determined?|answer(?:ed)?|calculated?|computed?|solved?|known|tell|say|concluded?|inferred"
    r"|established?)\b"
    r"|\b(?:(?:not|n't)\s+(?:\w+\s+)?enough|insufficient|inadequate"
    r"|(?:needs?|requires?|without)\s+(?:more|further|additional))\s+"
    r"(?:information|data|details|context)\b"
    r"|\b(?:information|data)\s+(?:is|are)\s+(?:\w+\s+)?(?:missing|insufficient|inadequate|needed)\b",
    re.IGNORECASE,
)
"""What says that a question has no answer that can be known."""

_NO_ANSWER = re.compile(
    rf"\W*(?:(?:{HEDGES}|there|is|a|an|the)\W+)*(?:"
    rf"(?:not|cannot\s+be|can't\s+be|can\s+not\s+be|could\s+not\s+be|impossible\s+to|unable\s+to"
    rf"|not\s+possible\s+to)\W*{_KNOWN}"
    r"|infinit(?:e(?:ly)?|y)\b|undefined\b|indeterminate\b|undetermined\b|ambiguous\b|unclear\b"
    r"|uncertain\b|unknowable\b|inconclusive\b|(?:data\s+)?inadequate\b|insufficient\b"
    r"|no\s+(?:\w+\s+)?(?:solutions?|answers?|way\s+to|information)\b|n/a\b|none\s+given\b"
    r"|does\s+not\s+exist\b|not\s+applicable\b)",
    re.IGNORECASE,
)
_UNKNOWN = re.compile(
    r"\W*(?:unknown|I\s+(?:do\s+not|don't|cannot|can't|am))\b[^\d]*\Z", re.IGNORECASE | re.DOTALL
)
_FILL_IN = re.compile(r"[\W_]*\Z|.{0,8}_{2,}")

_BEFORE = 200  # characters before a statement in which its condition stands
_CONDITION = re.compile(
    r"\b(?:if|unless|suppose|supposing|assuming|otherwise|provided|imagine|instead)\b"
    r"|(?:^|[:;])\W*(?:had|were|should|for|in|with|as|counting|without|using)\b",
    re.IGNORECASE,
)
_MODAL = re.compile(r"\b(?:would|could|might|'d)\b", re.IGNORECASE)
_CONTRARY = re.compile(r"\b(?:instead|had|were|asked|meant)\b", re.IGNORECASE)
_OTHER_QUESTION = re.compile(
    r"\b(?:question|problem|task|answer\w*|express\w*|report\w*|ask(?:ed|s|ing)?|meant|means?|interpret\w*|instead|otherwise"
    r"|wanted|wants|intended|considered|read|rather|unless|different\w*|other)\b",
    re.IGNORECASE,
)


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
        condition: The part of its sentence that puts it under a condition, as in "if the price were
            in cents, the answer would be"; empty for a plain statement.
        last: No text of any weight follows it.
    """

    start: int
    begin: int
    text: str
    closed: bool
    presented: str = ""
    opens: bool = False
    detached: bool = False
    condition: str = ""
    last: bool = False

    @property
    def denies(self) -> bool:
        """Says what the answer is not, as in "the answer cannot be" and "the answer is not"."""
        return bool(_DENIAL.search(self.presented) or _DENIAL.match(self.text))

    @property
    def gives_none(self) -> bool:
        """Says that there is no answer, as in "cannot be determined" or "infinitely many"."""
        said = self.text
        if re.search(r"\b(?:cannot|can't|not) be\W*$", self.presented, re.IGNORECASE):
            said = f"cannot be {said}"
        if _NO_ANSWER.match(said):
            return True
        return self.last and bool(_UNKNOWN.match(said))

    @property
    def of_another_question(self) -> bool:
        """Its condition changes what is asked: "if the question were about cents, ..."."""
        return is_of_another_question(self.condition)

    @property
    def blank(self) -> bool:
        """Nothing stands in it but a line to be filled in."""
        return bool(_FILL_IN.match(self.text))


def statements(text: str, phrase: re.Pattern[str], *, cut: bool) -> Iterator[Statement]:
    r"""Yield what a text presents as its answer, from the last to the first.

    Those under a condition come behind all others: they answer only where nothing else does.

    Args:
        text: `own_words` of a completion.
        phrase: What presents an answer, besides `\boxed{}` and `####`; its group `sign` is the
            colon or the equals sign where one ends it.
        cut: The token budget ended the text; then only closed statements are yielded.
    """
    marks = list(phrase.finditer(text))
    if "\\" in text or "####" in text or "nswer>" in text:
        marks += [*_BOXED.finditer(text), *_HASHES.finditer(text), *_TAGGED.finditer(text)]
        marks.sort(key=re.Match.start)
    supposed = []
    for mark in islice(reversed(marks), MAX_STATEMENTS):
        found = _statement(text, mark)
        if found is None or found.blank or (cut and not found.closed):
            continue
        if found.condition:
            supposed.append(found)
        else:
            yield found
    yield from supposed


def is_closed(text: str, begin: int) -> bool:
    """Return whether the sentence that `begin` stands in ends before the text does."""
    limit = begin + MAX_STATEMENT
    return bool(SENTENCE_END.search(text, begin, limit + 1)) or len(text) > limit


def sentence_start(text: str, place: int) -> int:
    """Return where the sentence begins that stands at a place; at most `MAX_STATEMENT` before."""
    begin = max(0, place - MAX_STATEMENT)
    ends = [match.end() for match in SENTENCE_END.finditer(text, begin, place)]
    return ends[-1] if ends else begin


def sentence_end(text: str, place: int) -> int:
    """Return where the sentence ends that stands at a place; at most `MAX_STATEMENT` behind."""
    limit = place + MAX_STATEMENT
    stop = SENTENCE_END.search(text, place, limit + 1)
    return stop.start() if stop else min(limit, len(text))


def condition_of(sentence: str) -> str:
    """Return the part of a sentence that says "if ..." of what it says would be, "" without."""
    modal = _MODAL.search(sentence)
    found = _CONDITION.search(sentence) if modal else None
    if not modal or not found:
        return ""
    return sentence[: modal.start()] if found.start() < modal.start() else sentence[found.start() :]


def is_of_another_question(condition: str) -> bool:
    """Return whether a condition changes what is asked: "if the question were about cents"."""
    return bool(_OTHER_QUESTION.search(condition))


def is_supposed(text: str, begin: int, end: int) -> bool:
    """Return whether what is said from `begin` to `end` is under a condition: "would, if ..."."""
    sentence = text[sentence_start(text, begin) : sentence_end(text, end)]
    return bool(_MODAL.search(text, begin, end) and _CONDITION.search(sentence))


def _statement(text: str, mark: re.Match[str]) -> Statement | None:
    if mark.re is _HASHES or mark.re is _TAGGED:
        value, closed = mark["value"][:MAX_STATEMENT], bool(mark["closed"])
        return Statement(
            mark.start(),
            mark.start("value"),
            value,
            closed,
            detached=True,
            last=not text[mark.end("value") :].strip(),
        )
    return _in_box(text, mark) if mark.re is _BOXED else _after_phrase(text, mark)


def _after_phrase(text: str, match: re.Match[str]) -> Statement:
    begin = _LEAD_IN.match(text, match.end()).end()
    limit = begin + MAX_STATEMENT
    stop = SENTENCE_END.search(text, begin, limit + 1)
    sign = match["sign"]
    span = text[begin : stop.start() if stop else limit]
    return Statement(
        start=match.start(),
        begin=begin,
        text=span,
        closed=bool(stop) or len(text) > limit,
        presented=match[0],
        opens=bool(sign) and not _LINE_END.match(text, stop.start() if stop else limit),
        detached=bool(sign) or "\n" in text[match.end() : begin],
        condition=_condition(text, match, span),
        last=not text[stop.end() if stop else limit :].strip(),
    )


def _condition(text: str, match: re.Match[str], span: str) -> str:
    """Return what puts a statement under a condition, before it or behind, "" for a plain one."""
    modal = bool(_MODAL.search(match[0]))
    before = text[max(sentence_start(text, match.start()), match.start() - _BEFORE) : match.start()]
    found = _CONDITION.search(before)
    if found and (modal or _CONTRARY.search(before, found.start())):
        return before
    behind = re.search(r"\b(?:if|unless)\b", span) if modal else None
    return span[behind.start() :] if behind else ""


def _supposed(text: str, place: int) -> str:
    """Return what stands before a place in its sentence where it says what would be, if."""
    before = text[max(sentence_start(text, place), place - _BEFORE) : place]
    return before if _MODAL.search(before) and _CONDITION.search(before) else ""


def _in_box(text: str, match: re.Match[str]) -> Statement | None:
    depth, begin = 1, match.end()
    for i, char in enumerate(text[begin : begin + MAX_STATEMENT], start=begin):
        depth += (char == "{") - (char == "}")
        if depth == 0:
            last = not text[i + 1 :].strip("$ \n.*")
            return Statement(
                match.start(),
                begin,
                text[begin:i],
                closed=True,
                condition=_supposed(text, match.start()),
                last=last,
            )
    return None
