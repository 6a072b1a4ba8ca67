"""Arithmetic expressions as single operations, in one spelling, with exact values."""

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from kdstudy.answers import numerals

Exact = int | Fraction

_MAX_DEPTH = 30  # brackets and signs in one expression; Python's stack has an end
_MAX_BITS = 1024  # a power beyond it is no step of a calculation, and could take for ever


class Step(NamedTuple):
    """One thing that a text works out.

    Attributes:
        expression: One operation on numbers in `numerals`' spelling, operands in one order, such
            as `13+33`, `33-13`, `28*4` or `30*2/3`; "" for a quantity stated without its equation.
        result: What the text says it comes to, right or wrong.
    """

    expression: str
    result: str


@dataclass(frozen=True, slots=True)
class Expression:
    """An expression as the single operations that it is made of.

    Attributes:
        inner: The operations whose results the text leaves unsaid, with their exact results.
        last: The operation that gives the value of the whole.
        value: The exact value.
    """

    inner: tuple[Step, ...]
    last: str
    value: Exact

    def value_is(self, number: str) -> bool:
        """Return whether a number in canonical spelling is exactly the value."""
        return number == _spelled(self.value)

    def steps(self, result: str) -> tuple[Step, ...]:
        """Return the operations in order, the last one with the result that the text states.

        A correctly rounded result is spelled as the exact one: rounding is a matter of notation.
        """
        exact = _spelled(self.value)
        if result != exact and "." in result:
            rounded = numerals.equal(result, exact) or numerals.rounds_to(
                Fraction(self.value), result
            )
            result = exact if rounded else result
        return (*self.inner, Step(self.last, result))


@lru_cache(maxsize=2**14)
def expression(tokens: tuple[str, ...]) -> Expression | None:
    """Return the expression that some tokens spell.

    The operands of one sum or one product have no order; differences are sums of negative terms,
    quotients products of inverse factors, and factors 1 are left out. Brackets stay: (66 - 9) + 7
    is two operations, 66 - 9 + 7 is one.

    Args:
        tokens: Numbers in canonical spelling, `%` behind one that is a percentage, `+ - * / ^` and
            brackets, which need not be balanced.

    Returns:
        None when the tokens are no operation: a lone number, a division by zero, a huge power.
    """
    reader = _Reader(tokens)
    try:
        whole = reader.read()
    except (ArithmeticError, IndexError, ValueError):
        return None
    if reader.place < len(tokens) or not whole.operation:
        return None
    return Expression(tuple(reader.inner), whole.text, whole.value)


class _Part(NamedTuple):
    text: str
    value: Exact
    operation: bool = False


class _Reader:
    """Recursive descent over the tokens; `inner` collects the operations below the top one."""

    def __init__(self, tokens: tuple[str, ...]) -> None:
        self.tokens = tokens
        self.place = 0
        self.depth = 0
        self.inner: list[Step] = []

    def read(self) -> _Part:
        terms = [(1, self._product())]
        while self._peek() in ("+", "-"):
            sign = 1 if self._take() == "+" else -1
            terms.append((sign, self._product()))
        if len(terms) == 1:
            return terms[0][1]
        signed = [(sign, *self._operand(part)) for sign, part in terms]
        plus = sorted(text for sign, text, value in signed if (sign * value) >= 0)
        minus = sorted(text for sign, text, value in signed if (sign * value) < 0)
        text = "+".join(t.removeprefix("-") for t in plus)
        text += "".join("-" + t.removeprefix("-") for t in minus)
        return _Part(text, sum(s * v for s, _, v in signed), True)

    def _product(self) -> _Part:
        factors = [("*", self._power())]
        while self._peek() in ("*", "/"):
            factors.append((self._take(), self._power()))
        if len(factors) == 1:
            return factors[0][1]
        read = [(sign, *self._factor(part)) for sign, part in factors]
        value: Exact = 1
        for sign, _, factor in read:
            value = value * factor if sign == "*" else _divided(value, factor)
        if len(read) > 2 or read[1][0] == "*":
            telling = [factor for factor in read if factor[1] != "1"]
            read = telling if len(telling) > 1 and "*" in {t[0] for t in telling} else read
        over = sorted(text for sign, text, _ in read if sign == "*")
        under = sorted(text for sign, text, _ in read if sign == "/")
        return _Part("*".join(over) + "".join(f"/{text}" for text in under), value, True)

    def _power(self) -> _Part:
        base = self._atom()
        if self._peek() != "^":
            return base
        self._take()
        (text, value), (exponent, power) = self._factor(base), self._factor(self._atom())
        size = max(value.numerator.bit_length(), value.denominator.bit_length())
        if power.denominator != 1 or abs(power) * size > _MAX_BITS:
            raise OverflowError
        return _Part(f"{text}^{exponent}", Fraction(value) ** int(power), True)

    def _atom(self) -> _Part:
        token = self._take()
        if token not in ("-", "("):
            return _Part(token, _value(token.removesuffix("%")))
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise OverflowError
        if token == "-":
            text, value = self._operand(self._atom())
            return _Part(text[1:] if text[0] == "-" else f"-{text}", -value)
        part = self.read()
        if self._peek() == ")":
            self._take()
        return part

    def _operand(self, part: _Part) -> tuple[str, Exact]:
        """Return an operand's spelling and value; what it is worked out from becomes a step."""
        if not part.operation:
            return part.text.removesuffix("%"), part.value
        spelling = _spelled(part.value)
        if spelling != part.text:  # 2/3 is a number as much as a division
            self.inner.append(Step(part.text, spelling))
        return spelling, part.value

    def _factor(self, part: _Part) -> tuple[str, Exact]:
        """Return a factor's spelling and value: 20% of something is 0.2 times it."""
        if part.text.endswith("%"):
            value = _divided(part.value, 100)
            return _bracketed(_spelled(value)), value
        text, value = self._operand(part)
        return _bracketed(text), value

    def _peek(self) -> str:
        return self.tokens[self.place] if self.place < len(self.tokens) else ""

    def _take(self) -> str:
        self.place += 1
        return self.tokens[self.place - 1]


def _bracketed(number: str) -> str:
    return f"({number})" if "/" in number else number  # 1/(5/12) is not 1/5/12


@lru_cache(maxsize=2**14)
def _value(number: str) -> Exact:
    return int(number) if number.isdecimal() else Fraction(number)


def _divided(a: Exact, b: Exact) -> Exact:
    quotient = Fraction(a) / b
    return quotient.numerator if quotient.denominator == 1 else quotient


@lru_cache(maxsize=2**14)
def _spelled(value: Exact) -> str:
    if value.denominator == 1:
        return str(value.numerator)
    found = list(numerals.numerals(f"{value.numerator}/{value.denominator}"))
    if len(found) != 1:
        raise OverflowError  # more digits than `numerals` reads
    return found[0].text
