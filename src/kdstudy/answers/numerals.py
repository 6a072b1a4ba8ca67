"""Numbers in running text: finding them, their one canonical spelling, and when two are equal.

The canonical spelling of a number is ASCII without thousands separators and without needless
zeros: `-1234.5`; a value with no finite decimal expansion is a fraction in lowest terms: `2/3`.
Equal values therefore have equal spellings.
"""

import re
import unicodedata
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

FLOAT_NOISE = Fraction(1, 10**6)
"""Relative difference below which two numbers are the same."""

REPEATING_TOLERANCE = Fraction(1, 10**3)
"""Relative difference allowed when the gold has no short decimal form, such as 2/3."""

_SHORT_PLACES = 4  # a gold with at most this many decimals is exact; a longer one stands for a/b
_MAX_DIGITS = 300  # longer runs are degenerate text; also keeps int() under its conversion limit
_MAX_PLACES = 30

_LOOKALIKES = {
    **{chr(0xFF01 + i): chr(0x21 + i) for i in range(94)},  # fullwidth ASCII
    **dict.fromkeys("−﹣‐‑–", "-"),
    **dict.fromkeys("\u2044\u2215", "/"),
    "—": " ",
    "٫": ".",
    "٬": ",",
    "≈": "=",
}
_CURRENCY = r"[$€£¥₹]"


def _point_for_comma(match: re.Match[str]) -> str:
    if re.match(r"[\d.,]", match.string[match.start() - 1 : match.start()]):
        return match[0]
    return match[0].replace(".", "").replace(",", ".")


def _without_points(match: re.Match[str]) -> str:
    return match[0].replace(".", "")


_THIN_SPACES = re.compile(r"(?<=\d)[\u00a0\u2009\u202f](?=\d{3}(?!\d))")  # 1 000
# (what a text must hold, pattern, replacement): most texts need hardly a pattern at all.
_REWRITES = tuple(
    (needed, re.compile(pattern), replacement)
    for needed, pattern, replacement in (
        ("'", r"(?<=\d)'(?=\d{3}(?!\d))", ""),  # 1'000
        ("{,}", r"(?<=\d)\{,\}(?=\d{3}(?!\d))", ","),  # LaTeX 1{,}000
        # LaTeX 1\,000 and 16,\!386
        ("\\", r"(?<=\d)(?:\{?,\}?)?(?:\\[,!;:])+(?:\{?,\}?)?(?=\d{3}(?!\d))", ","),
        # 1.234,50: points and a comma in these places can only be the continental spelling.
        (",", r"\d{1,3}(?:\.\d{3}){1,12},\d\d?(?!\d|[.,]\d)", _point_for_comma),
        # 1.234.567: two such points or more are no decimal points.
        (".", r"(?<![\d.,])[1-9]\d{0,2}(?:\.\d{3}){2,12}(?![\d.,]?\d)", _without_points),
        ("\\", r"\\approx(?![A-Za-z])", "="),
        ("\\", r"(?<=\d)\s*(?=\\[dtc]?frac(?![A-Za-z]))", " "),  # 2\frac{1}{2}: a mixed number
        ("\\", r"\\[dtc]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}", r"\1/\2"),
        ("\\", r"\\[dtc]?frac\s*(\d)\s*(\d)", r"\1/\2"),
        ("^", r"(?<=[A-Za-z}])\s?\^\s*\{?-?\d+\}?", ""),  # cm^2: a unit's exponent is no number
        ("\\", r"\\([$%#])", r"\1"),
        ("\\", r"\\(?:left|right)(?![a-z])|\\[()\[\],;:! ]", " "),
        ("\\", r"\\(?:times|cdot|div)(?![a-z])", " * "),
        ("\\", r"\\q?quad(?![a-z])", " "),
        ("Rs", r"(?<![A-Za-z])Rs\.?\s?(?=\d)", "₹"),
    )
)

# The number of groups is bounded to keep "11,11,11,..." from being read anew from every comma.
_WHOLE = r"(?:\d{1,3}(?:,\d{3}){1,12}(?!\d)|\d{1,2}(?:,\d{2}){1,12},\d{3}(?!\d)|\d+)"
_DECIMAL = rf"(?>{_WHOLE}(?:\.\d+)?|(?<![\w.])\.\d+)"
_NUMERAL = re.compile(
    # Not inside a word or an index (CO2, x_1, x_{1}) and not the tail of 1.2.3.
    r"(?<![A-Za-z\d])(?<![A-Za-z\d]_)(?<!_\{)(?<!\d\.)"
    rf"(?:(?>(?P<units>\d+)[ ]+(?P<part>\d+)/(?P<of>\d+))(?![\d./])"
    rf"|(?P<top>{_DECIMAL})\s*/\s*{_CURRENCY}?(?P<bottom>{_DECIMAL})"
    rf"|(?P<plain>{_DECIMAL})(?P<power>(?>[eE][+-]?\d{{1,2}})(?!\w))?(?!(?i:st|nd|rd|th)\b))",
    re.ASCII,
)
_SIGN = re.compile(rf"-(?P<gap>[ \t]*)(?:{_CURRENCY}\s?)?$")


@dataclass(frozen=True, slots=True)
class Numeral:
    """A number found in a text: its canonical spelling and where its digits start and end."""

    text: str
    start: int
    end: int


def plain(text: str) -> str:
    """Return the text with one spelling for digits, minus signs, fractions and LaTeX markup."""
    if not text.isascii():
        foreign = {char for char in set(text) if not char.isascii()}
        text = text.translate({ord(char): _one_spelling(char) for char in foreign})
        text = _THIN_SPACES.sub("", text)
    for needed, pattern, replacement in _REWRITES:
        if needed in text:
            text = pattern.sub(replacement, text)
    return text


def numerals(text: str) -> Iterator[Numeral]:
    """Yield the numbers of a `plain` text in order.

    Ordinals (3rd), digits inside words (CO2) and division by zero are no numbers; percent and
    currency signs are dropped; 2/3, 2 1/2, .5, 1,234 and 1e3 are single numbers.
    """
    return _read(text, _NUMERAL.finditer(text))


def backwards(text: str) -> Iterator[Numeral]:
    """Yield the last of what `numerals` yields, from the last on; at most a hundred."""
    return _read(text, reversed(deque(_NUMERAL.finditer(text), maxlen=100)))


def decimal(digits: str) -> str:
    """Return the canonical spelling of any script's digits, as in -012.50; "" if far too long."""
    sign, digits = digits.startswith("-"), digits.lstrip("-").replace(",", "")
    if not digits.isascii():
        digits = "".join(map(_one_spelling, digits))
    whole, _, places = digits.partition(".")
    whole, places = whole.lstrip("0") or "0", places[:_MAX_PLACES].rstrip("0")
    if len(whole) > _MAX_DIGITS:
        return ""
    spelling = f"{whole}.{places}" if places else whole
    return f"-{spelling}" if sign and spelling != "0" else spelling


@lru_cache(maxsize=4096)
def value(number: str) -> Fraction | None:
    """Return the exact value of a canonical or float-like spelling, None if it is not a number."""
    # Fraction("1e999999999") would be computed, for hours.
    if len(number) > 2 * _MAX_DIGITS or re.search(r"[eE][+-]?\d{4}", number):
        return None
    try:
        found = Fraction(number)
    except (ValueError, ZeroDivisionError):
        return None
    return found if abs(found) < 10**_MAX_DIGITS else None


def equal(answer: str, gold: str) -> bool:
    """Return whether an answer is the gold number, both as spelled by this module or as a float.

    A whole or short gold (at most 4 decimals) must be met exactly, up to 1e-6 relative for float
    noise: 1e-3 would take 1001 for 1000 and 23.66 for 23.65. A gold that goes on, such as
    0.6666666666666666, also accepts answers within 1e-3 relative, and the gold correctly rounded to
    the decimals that the answer shows, if those are at least one and the answer has at least two
    significant digits: 0.67 and 2/3, not 0.7.
    """
    a, g = value(answer), value(gold)
    if a is None or g is None:
        return False
    if a == g:
        return True
    gap = abs(a - g)
    if gap <= FLOAT_NOISE * abs(g):
        return True
    if abs(g - round(g, _SHORT_PLACES)) <= FLOAT_NOISE * abs(g):
        return False
    return gap <= REPEATING_TOLERANCE * abs(g) or rounds_to(g, answer)


def rounds_to(exact: Fraction, shown: str) -> bool:
    """Return whether `shown`, of one decimal and two digits or more, is `exact` rounded."""
    places = len(shown.partition(".")[2])
    digits = shown.replace(".", "").lstrip("-0")
    if "/" in shown or places == 0 or len(digits) < 2:
        return False
    return abs(Fraction(shown) - exact) <= Fraction(1, 2 * 10**places)


def _read(text: str, matches: Iterable[re.Match[str]]) -> Iterator[Numeral]:
    for match in matches:
        spelling = _spelling(match)
        if spelling:
            minus = spelling != "0" and _is_negative(text, match.start())
            yield Numeral("-" * minus + spelling, match.start(), match.end())


def _one_spelling(char: str) -> str:
    char = _LOOKALIKES.get(char, char)
    digit = unicodedata.decimal(char, None)
    if digit is not None:
        return str(digit)
    if unicodedata.decomposition(char).startswith("<fraction>"):
        return " " + unicodedata.normalize("NFKC", char).replace("\u2044", "/")
    return char


def _spelling(match: re.Match[str]) -> str:
    if len(match[0]) > _MAX_DIGITS:
        return ""
    if match["plain"] and not match["power"]:
        return decimal("0" + match["plain"])
    digits = {name: Fraction((text or "0").replace(",", "")) for name, text in _parts(match)}
    if match["plain"]:
        return _ratio(digits["plain"] * Fraction("1" + match["power"]))
    bottom = digits["of"] if match["units"] else digits["bottom"]
    top = digits["part"] if match["units"] else digits["top"]
    return _ratio(digits["units"] + top / bottom) if bottom else ""


def _parts(match: re.Match[str]) -> list[tuple[str, str | None]]:
    return [(name, match[name]) for name in ("units", "part", "of", "top", "bottom", "plain")]


def _ratio(number: Fraction) -> str:
    """Return the canonical spelling of an unsigned rational number."""
    rest, places = number.denominator, 0
    for prime in (2, 5):
        count = 0
        while rest % prime == 0:
            rest, count = rest // prime, count + 1
        places = max(places, count)
    if rest > 1:
        return str(number)
    digits = str(number.numerator * 10**places // number.denominator).zfill(places + 1)
    return decimal(f"{digits[:-places]}.{digits[-places:]}" if places else digits)


def _is_negative(text: str, start: int) -> bool:
    """Return whether the number at `start` has a minus sign: no hyphen, range or subtraction."""
    sign = _SIGN.search(text, max(0, start - 8), start)
    if not sign:
        return False
    before = text[max(0, sign.start() - 8) : sign.start()]
    if sign["gap"]:
        return before.rstrip(" \t").endswith("=")
    if re.search(r"[A-Za-z\d)%\-_\]}]$", before):
        return False
    return not re.search(r"[\d)%][ \t]+$", before)
