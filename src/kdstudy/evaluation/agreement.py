"""How often two systems give the same final answer, and how often they would by accident."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from kdstudy.answers.extract import same_number
from kdstudy.errors import InputError
from kdstudy.records import PairScore, Score

_Item = tuple[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """Agreement of two systems over n items; every rate is a fraction, NaN over no items.

    Attributes:
        rate: Share of items with the same final answer.
        n: Number of items.
        kappa: Cohen's kappa over the answers themselves (Cohen 1960): (rate - c) / (1 - c), where
            c is the agreement of two systems that draw from these answer distributions
            independently of the item. NaN when c was not given or is 1.
        lower: Least agreement that the two accuracies allow, max(0, acc_a + acc_b - 1): where both
            are right they agree.
        upper: Most agreement that they allow, 1 - |acc_a - acc_b|: where one is right they differ.
        both_wrong_rate: Agreement among the items that neither got right.
        both_wrong_n: Number of those items.
    """

    rate: float
    n: int
    kappa: float
    lower: float
    upper: float
    both_wrong_rate: float
    both_wrong_n: int


def agree(a: Score, b: Score) -> bool:
    """Return whether two scores of one item have the same final answer.

    Two right answers agree and a right and a wrong one do not, whatever the tolerance makes of the
    texts (0.67 and 0.667 are both right for 2/3): the bounds of `Agreement` rest on this. Two wrong
    answers agree when they are equal under their rule. Where one is missing there is no agreement.
    """
    right = (a.outcome == "correct") + (b.outcome == "correct")
    if right or not (a.extracted and b.extracted):
        return right == 2
    kind, _, rule = a.rule.partition("-")
    if kind != "number":
        return a.extracted == b.extracted
    return same_number(
        a.extracted, b.extracted, "reference" if rule == "reference" else "corrected"
    )


def chance(scores_a: Sequence[Score], scores_b: Sequence[Score]) -> float:
    """Return the agreement expected by accident: the sum over answers of p_a(answer) p_b(answer).

    The answers are the extracted ones, over all the given items of ONE benchmark. Kappa over
    right/wrong labels would instead call two systems that are wrong in different ways alike. A
    missing answer agrees with nothing, here as in the rate. NaN when either has no scores.
    """
    if not scores_a or not scores_b:
        return math.nan
    a, b = (Counter(s.extracted for s in scores) for scores in (scores_a, scores_b))
    total = sum(count * b[answer] for answer, count in a.items() if answer)
    return total / (len(scores_a) * len(scores_b))


def agreement(pairs: Sequence[PairScore], chance: float = math.nan) -> Agreement:
    """Return the agreement over some pairs.

    Args:
        pairs: From `fidelity.pair`.
        chance: From `chance`, on the same scores; without it kappa is NaN.
    """
    n = len(pairs)
    rate = _mean([p.agree for p in pairs])
    acc_a = _mean([p.outcome_a == "correct" for p in pairs])
    acc_b = _mean([p.outcome_b == "correct" for p in pairs])
    wrong = [p.agree for p in pairs if "correct" not in (p.outcome_a, p.outcome_b)]
    return Agreement(
        rate=rate,
        n=n,
        kappa=(rate - chance) / (1 - chance) if chance != 1 else math.nan,
        lower=max(0.0, acc_a + acc_b - 1) if n else math.nan,
        upper=1 - abs(acc_a - acc_b),
        both_wrong_rate=_mean(wrong),
        both_wrong_n=len(wrong),
    )


def changes(before: Sequence[PairScore], after: Sequence[PairScore]) -> dict[_Item, float]:
    """Return how agreement with one reference changes from one system to another, per item.

    Args:
        before: A system, such as the SFT student, paired with the reference.
        after: Another one, such as the distilled student, paired with the same reference.

    Returns:
        For each (benchmark, example_id), sorted, the share of draws on which `after` agrees minus
        that of `before`: with one draw 1 (newly agrees), 0 or -1. Their mean is the change of the
        rate, and a paired interval comes from resampling them.

    Raises:
        InputError: The two do not cover the same items and draws, or cover one twice.
    """
    old, new = (_agreed(pairs) for pairs in (before, after))
    apart = sorted(old.keys() ^ new.keys())
    if apart:
        raise InputError(
            f"{len(apart)} items are in one of the two comparisons only; the first is {apart[0]}",
            why="a change is one of the same item",
            remedy="compare both systems with the reference on the same items and draws",
        )
    moved: dict[_Item, list[int]] = {}
    for benchmark, example_id, sample in sorted(old):
        key = (benchmark, example_id, sample)
        moved.setdefault((benchmark, example_id), []).append(new[key] - old[key])
    return {item: sum(draws) / len(draws) for item, draws in moved.items()}


def _agreed(pairs: Sequence[PairScore]) -> dict[tuple[str, str, int], bool]:
    found = {(p.benchmark, p.example_id, p.sample): p.agree for p in pairs}
    if len(found) != len(pairs):
        raise InputError(f"{len(pairs) - len(found)} items are compared twice")
    return found


def _mean(values: Sequence[bool]) -> float:
    return sum(values) / len(values) if values else math.nan
