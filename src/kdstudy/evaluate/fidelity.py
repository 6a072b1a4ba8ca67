"""How closely one system's reasoning follows another's: BLEU from per-item counts (sacrebleu)."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sacrebleu.metrics import BLEU

from kdstudy.errors import InputError
from kdstudy.evaluate.agreement import agree
from kdstudy.evaluate.rouge import rouge_l
from kdstudy.records import PairScore, Score

_ORDER = 4
_Key = tuple[str, str, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fidelity:
    """BLEU of the first system's texts against the second's over n items, 0-100, NaN over none.

    Attributes:
        corpus_bleu: BLEU of all texts together; `signature` is sacrebleu's for it.
        mean_sentence_bleu: Mean over items; `sentence_signature` is sacrebleu's for each.
    """

    corpus_bleu: float
    mean_sentence_bleu: float
    n: int
    signature: str
    sentence_signature: str


def pair(scores_a: Sequence[Score], scores_b: Sequence[Score]) -> list[PairScore]:
    """Return the agreement and the BLEU statistics of two systems item by item.

    Args:
        scores_a: The system whose text is the hypothesis, such as the student.
        scores_b: The system whose text is the reference, such as the teacher.

    Returns:
        Rows by (benchmark, example_id, sample). BLEU of an empty text, with anything, is 0.

    Raises:
        InputError: The two do not hold the same items, hold one twice, or were read by two rules.
    """
    a, b = _by_item(scores_a), _by_item(scores_b)
    _check_same_items(a, b)
    bleu = BLEU(effective_order=True)
    return [_pair(a[key], b[key], bleu) for key in sorted(a)]


def corpus_bleu(counts: Iterable[Sequence[int]]) -> float:
    """Return corpus BLEU, 0-100, from the `PairScore.counts` of its items; NaN without items."""
    sums = [sum(column) for column in zip(*counts, strict=True)]
    if not sums:
        return math.nan
    return BLEU.compute_bleu(
        correct=sums[:_ORDER],
        total=sums[_ORDER : 2 * _ORDER],
        sys_len=sums[-2],
        ref_len=sums[-1],
        smooth_method="exp",
    ).score


def fidelity(pairs: Sequence[PairScore]) -> Fidelity:
    """Return corpus BLEU, mean sentence BLEU and their signatures over some pairs."""
    return Fidelity(
        corpus_bleu=corpus_bleu(p.counts for p in pairs),
        mean_sentence_bleu=sum(p.bleu for p in pairs) / len(pairs) if pairs else math.nan,
        n=len(pairs),
        signature=signature(),
        sentence_signature=signature(sentence=True),
    )


def signature(*, sentence: bool = False) -> str:
    """Return sacrebleu's signature of corpus BLEU or of sentence BLEU (effective order)."""
    bleu = BLEU(effective_order=sentence)
    bleu.corpus_score([""], [[""]])  # sacrebleu knows the number of references only after a use
    return str(bleu.get_signature())


def _pair(a: Score, b: Score, bleu: BLEU) -> PairScore:
    found = bleu.sentence_score(a.completion, [b.completion])
    return PairScore(
        benchmark=a.benchmark,
        example_id=a.example_id,
        sample=a.sample,
        agree=agree(a, b),
        outcome_a=a.outcome,
        outcome_b=b.outcome,
        bleu=found.score,
        rouge_l=rouge_l(a.completion, [b.completion]),
        steps=math.nan,
        counts=(*found.counts, *found.totals, found.sys_len, found.ref_len),
    )


def _by_item(scores: Sequence[Score]) -> dict[_Key, Score]:
    items = {(s.benchmark, s.example_id, s.sample): s for s in scores}
    if len(items) != len(scores):
        raise InputError(f"{len(scores) - len(items)} items are scored twice in one system")
    return items


def _check_same_items(a: dict[_Key, Score], b: dict[_Key, Score]) -> None:
    apart = sorted(a.keys() ^ b.keys())
    if apart:
        raise InputError(
            f"{len(apart)} items are in one of the two systems only; the first is {apart[0]}",
            why="agreement and BLEU compare two answers to the same item",
            remedy="score both systems on the same benchmark with the same number of samples",
        )
    mixed = [key for key in sorted(a) if a[key].rule != b[key].rule]
    if mixed:
        first = mixed[0]
        raise InputError(
            f"{len(mixed)} items were read by two rules: {first} by {a[first].rule} and "
            f"{b[first].rule}",
            remedy="score both systems with the same rule",
        )
