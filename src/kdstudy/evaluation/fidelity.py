"""How closely one system's reasoning follows another's: in words (BLEU, ROUGE-L) and in steps."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from sacrebleu.metrics import BLEU

from kdstudy.answers import steps
from kdstudy.config.schema import RougeTokenizer
from kdstudy.errors import InputError
from kdstudy.evaluation import rouge
from kdstudy.evaluation.agreement import agree
from kdstudy.records import PairScore, Score

LOW_BLEU, HIGH_BLEU = 30.0, 70.0
"""Sentence BLEU, 0-100, below which and from which on a text counts as unlike and as alike."""

LOW_STEPS, HIGH_STEPS = 0.3, 0.7
"""The same for shared steps, as a fraction."""

_ORDER = 4
FOUR_GRAMS = 2 * _ORDER - 1
"""Where `PairScore.counts` says how many 4-grams the first system's text holds."""
_MAX_WORD = 64  # longer runs are degenerate text: not kept in the cache
_SENTENCE, _CORPUS = BLEU(effective_order=True), BLEU()
_Key = tuple[str, str, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fidelity:
    """Likeness of the first system's texts to the second's over n items, NaN over none.

    Attributes:
        corpus_bleu: BLEU, 0-100, of all texts together; `signature` is sacrebleu's for it. NaN
            where no text of the first system holds four words: it would be 0 of equal texts too.
        mean_sentence_bleu: Mean over items; `sentence_signature` is sacrebleu's for each.
        rouge_l: Mean ROUGE-L F1 over items, as a fraction; see `rouge.rouge_l`.
        steps: Mean share of reasoning steps that the two have in common, in order, as a fraction,
            over the `n_steps` items where one of them states any; see `steps.similarity`.
    """

    corpus_bleu: float
    mean_sentence_bleu: float
    rouge_l: float
    steps: float
    n: int
    n_steps: int
    signature: str
    sentence_signature: str
    rouge_signature: str
    steps_signature: str


def pair(
    scores_a: Sequence[Score],
    scores_b: Sequence[Score],
    rouge_tokenizer: RougeTokenizer = "rouge-score",
) -> list[PairScore]:
    """Return the agreement and the likeness of two systems item by item.

    Args:
        scores_a: The system whose text is the hypothesis, such as the student.
        scores_b: The system whose text is the reference, such as the teacher.
        rouge_tokenizer: What ROUGE-L takes for words.

    Returns:
        Rows by (benchmark, example_id, sample). BLEU and ROUGE-L of an empty text, with anything,
        are 0; `steps` is `steps.similarity`.

    Raises:
        InputError: The two do not hold the same items, hold one twice, or were read by two rules.
    """
    a, b = _by_item(scores_a), _by_item(scores_b)
    _check_same_items(a, b)
    return [_pair(a[key], b[key], rouge_tokenizer) for key in sorted(a)]


def corpus_bleu(counts: Iterable[Sequence[int]]) -> float:
    """Return corpus BLEU, 0-100, from the `PairScore.counts` of its items; NaN without items."""
    sums = [sum(column) for column in zip(*counts, strict=True)]
    return _bleu(sums, _CORPUS) if sums else math.nan


def fidelity(
    pairs: Sequence[PairScore], rouge_tokenizer: RougeTokenizer = "rouge-score"
) -> Fidelity:
    """Return the likeness of two systems' texts over some pairs, made with that tokenizer.

    Fidelity given the same answer is that of the pairs that agree:
    `fidelity([p for p in pairs if p.agree])`.
    """
    stated = [p.steps for p in pairs if not math.isnan(p.steps)]
    long = any(p.counts[FOUR_GRAMS] for p in pairs)
    return Fidelity(
        corpus_bleu=corpus_bleu(p.counts for p in pairs) if long else math.nan,
        mean_sentence_bleu=_mean([p.bleu for p in pairs]),
        rouge_l=_mean([p.rouge_l for p in pairs]),
        steps=_mean(stated),
        n=len(pairs),
        n_steps=len(stated),
        signature=signature(),
        sentence_signature=signature(sentence=True),
        rouge_signature=rouge.signature(rouge_tokenizer),
        steps_signature=steps.SIGNATURE,
    )


def signature(*, sentence: bool = False) -> str:
    """Return sacrebleu's signature of corpus BLEU or of sentence BLEU (effective order)."""
    bleu = BLEU(effective_order=sentence)
    bleu.corpus_score([""], [[""]])  # sacrebleu knows the number of references only after a use
    return str(bleu.get_signature())


def _pair(a: Score, b: Score, rouge_tokenizer: RougeTokenizer) -> PairScore:
    counts = _counts(_words(a.completion), _words(b.completion))
    return PairScore(
        benchmark=a.benchmark,
        example_id=a.example_id,
        sample=a.sample,
        agree=agree(a, b),
        outcome_a=a.outcome,
        outcome_b=b.outcome,
        bleu=_bleu(counts, _SENTENCE),
        rouge_l=rouge.rouge_l(a.completion, [b.completion], rouge_tokenizer),
        steps=steps.similarity(steps.steps(a.completion), steps.steps(b.completion)),
        counts=counts,
    )


def _bleu(counts: Sequence[int], bleu: BLEU) -> float:
    return bleu.compute_bleu(
        correct=list(counts[:_ORDER]),
        total=list(counts[_ORDER : 2 * _ORDER]),
        sys_len=counts[-2],
        ref_len=counts[-1],
        smooth_method=bleu.smooth_method,
        effective_order=bleu.effective_order,
    ).score


def _counts(hypothesis: list[str], reference: list[str]) -> tuple[int, ...]:
    """Return sacrebleu's statistics of a pair, as `PairScore.counts` has them."""
    correct = [0] * _ORDER
    for order in range(_ORDER):
        found = _grams(hypothesis, order).get
        matches = 0
        for gram, count in _grams(reference, order).items():
            if mine := found(gram):
                matches += mine if mine < count else count
        correct[order] = matches
        if not matches:
            break  # longer runs have none either
    total = [max(0, len(hypothesis) - i) for i in range(_ORDER)]
    return (*correct, *total, len(hypothesis), len(reference))


def _grams(words: list[str], order: int) -> Counter[tuple[str, ...]]:
    """Return how often each run of `order` + 1 words occurs."""
    return Counter(zip(*(words[i:] for i in range(order + 1)), strict=False))


def _words(text: str) -> list[str]:
    """Return sacrebleu's tokens of a text (13a), word by word: most words were met before."""
    text = text.rstrip()
    if "-\n" in text or "<skipped>" in text:  # the two marks that reach beyond a word
        return _SENTENCE.tokenizer(text).split()
    tokens: list[str] = []
    for word in text.split():
        tokens += _word(word) if len(word) <= _MAX_WORD else _SENTENCE.tokenizer(word).split()
    return tokens


@lru_cache(maxsize=2**16)
def _word(word: str) -> tuple[str, ...]:
    return tuple(_SENTENCE.tokenizer(word).split())


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
            why="agreement and fidelity compare two answers to the same item",
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


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
