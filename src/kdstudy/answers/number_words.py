"""Numbers written in English words: `thirty-five`, `two hundred and four`, `two and a half`."""

import re
from collections.abc import Iterator
from fractions import Fraction

from kdstudy.answers import numerals
from kdstudy.answers.numerals import Numeral

_SMALL = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
sixteen seventeen eighteen nineteen
"""
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_RANKS = "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth"
_SCALES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9}
_PARTS = {"half": 2, "halves": 2, "thirds": 3, "quarter": 4, "quarters": 4, "fourths": 4}
_PARTS |= {"fifths": 5, "sixths": 6, "eighths": 8, "tenths": 10}
_ONE_OF = {"third": 3, "fourth": 4, "fifth": 5, "sixth": 6, "eighth": 8, "tenth": 10}
_VALUES = {word: n for n, word in enumerate(_SMALL.split())}
_VALUES |= {word: 10 * n for n, word in enumerate(_TENS.split(), start=2)}
_ORDINALS = _RANKS.split()

_WORD = rf"(?:{'|'.join(sorted(_VALUES, key=len, reverse=True))})"
_SCALE = rf"(?:{'|'.join(_SCALES)})"
_PART = rf"(?:{'|'.join(sorted(_PARTS, key=len, reverse=True))})"
_JOIN = r"(?:\s?-\s?|\s+(?:and\s+)?)"
# At most so many words: a longer run of them is no number.
_NUMBER = re.compile(
    # The first letters come first: most words are passed over by them alone.
    rf"(?<![\w-])(?=[aefhnoqstz])(?:one[\s-](?P<one_of>{'|'.join(_ONE_OF)})\b|(?:an?\s+{_SCALE}|{_WORD})\b"
    rf"(?:(?!\s+and\s+{_WORD}\s+{_PART}\b){_JOIN}(?:{_WORD}|{_SCALE})\b){{0,12}}(?:[\s-]+and\s+(?P<more>an?|{_WORD})\s+(?P<size>{_PART})\b"
    rf"|[\s-]+(?P<part>{_PART})\b)?"
    rf"|(?:an?\s+)?(?P<alone>half|quarter)\b)(?![\w-])",
    re.IGNORECASE,
)
_ORDINAL = re.compile(rf"(?<![\w-])({'|'.join(_ORDINALS)})(?![\w-])", re.IGNORECASE)


def number_words(text: str) -> Iterator[Numeral]:
    """Yield the numbers that a text spells in words, each in canonical spelling, in order.

    Fractions are read where they cannot be ordinals: `half`, `two thirds`, `three and a quarter`.
    A run of words that is no number, such as `two three`, is left out.
    """
    for match in _NUMBER.finditer(text):
        value = _value(match)
        if value is not None:
            (spelled,) = numerals.numerals(f"{value.numerator}/{value.denominator}")
            yield Numeral(spelled.text, match.start(), match.end())


def ordinal_words(text: str) -> Iterator[Numeral]:
    """Yield `first` to `twelfth` as numbers."""
    for match in _ORDINAL.finditer(text):
        yield Numeral(str(_ORDINALS.index(match[1].lower()) + 1), match.start(), match.end())


def _value(match: re.Match[str]) -> Fraction | None:
    if match["alone"]:
        return Fraction(1, _PARTS[match["alone"].lower()])
    if match["one_of"]:
        return Fraction(1, _ONE_OF[match["one_of"].lower()])
    words = re.findall(r"[a-z]+", match[0].lower())
    extra = Fraction(0)
    if match["more"]:
        count = _VALUES.get(match["more"].lower(), 1)
        words, extra = words[:-3], Fraction(count, _PARTS[match["size"].lower()])
    size = _PARTS[match["part"].lower()] if match["part"] else 1
    whole = _whole([word for word in words if word in _VALUES or word in _SCALES])
    return None if whole is None else Fraction(whole, size) + extra


def _whole(words: list[str]) -> int | None:
    """Return the value of words in the order in which English puts them, else None."""
    total, group, room = 0, 0, 1000
    ceiling = 10**12
    for word in words:
        scale = _SCALES.get(word)
        if scale is None:
            value = _VALUES[word]
            # Behind "twenty" there is room for 1 to 9, behind "hundred" for 1 to 99.
            if value >= room or (value == 0 and len(words) > 1):
                return None
            group += value
            room = 10 if value >= 20 else 0
        elif scale == 100:
            if group >= 100 or (group == 0 and words[0] != word):
                return None
            group, room = (group or 1) * 100, 100
        else:
            if scale >= ceiling:
                return None
            total, group, room, ceiling = total + (group or 1) * scale, 0, 1000, scale
    return total + group
