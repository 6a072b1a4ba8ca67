"""Which option a text names by the option's own words."""

import re
from itertools import islice

_WORD = re.compile(r"\w+|[-+/%$<>=]")
_ARTICLES = ("a", "an", "the")
_OPTION_ENDS = re.compile(
    r"[\W_]*$|\s*[.,](?!\d)|\s*[;:!?)\]}*\"\n]|\s+(?:because|since|as|so|but|which)\b"
)


def option_said(span: str, offered: dict[str, str], *, whole: bool = False) -> str:
    """Return the label of the one option whose text a span begins with, or is, words compared."""
    hits: dict[str, int] = {}
    first = first_words(span, 2)[:1]
    for name, option in offered.items():
        if not first or [w for w, _ in first_words(option, 2)[:1]] != [w for w, _ in first]:
            continue
        words = first_words(option)
        said = first_words(span, len(words) + 1)[: len(words)]
        if [w for w, _ in said] != [w for w, _ in words]:
            continue
        rest = span[said[-1][1] :]
        if _OPTION_ENDS.match(rest) and not (whole and _WORD.search(rest)):
            hits[name] = len(words)
    best = [name for name, size in hits.items() if size == max(hits.values())]
    return best[0] if len(best) == 1 else ""


def first_words(text: str, limit: int | None = None) -> list[tuple[str, int]]:
    """Return the first words of a text without a leading article, and where each ends."""
    found = [(match[0].casefold(), match.end()) for match in islice(_WORD.finditer(text), limit)]
    return found[1:] if len(found) > 1 and found[0][0] in _ARTICLES else found
