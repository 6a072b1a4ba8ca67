"""ROUGE-L of a text with its references."""

from collections.abc import Sequence

from rapidfuzz.distance import LCSseq
from rouge_score.tokenizers import DefaultTokenizer

_TOKENIZER = DefaultTokenizer(use_stemmer=True)


def rouge_l(text: str, references: Sequence[str]) -> float:
    """Return ROUGE-L F1 (Lin 2004), stemmed, with the closest reference, as a fraction."""
    return max((_f1(text, reference) for reference in references), default=0.0)


def _f1(text: str, reference: str) -> float:
    a, b = _TOKENIZER.tokenize(text), _TOKENIZER.tokenize(reference)
    return 2 * LCSseq.similarity(a, b) / (len(a) + len(b)) if a and b else 0.0
