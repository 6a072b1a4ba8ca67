"""BLEU from per-item counts against sacrebleu on the texts."""

import math
import random
import time

import pytest
import sacrebleu

from kdstudy.errors import InputError
from kdstudy.evaluate.fidelity import corpus_bleu, fidelity, pair, signature
from kdstudy.records import Score

NASTY = [
    "",
    " ",
    "\n",
    "5",
    "a b",
    "The answer is 5.",
    "ünï ☃ １２",
    "x " * 300,
    "\ud800",
    "<&quot;>",
]
WORDS = ["so", "he", "has", "5", "apples", ",", "and", "3", "more", ".", "answer", "$8", "Tom's"]


def row(item: int, completion: str, **changes: object) -> Score:
    fields = {
        "benchmark": "toy",
        "example_id": f"{item:05d}",
        "sample": 0,
        "completion": completion,
        "extracted": "8",
        "rule": "number-corrected",
        "outcome": "correct",
        "quality": 1.0,
        "tokens": 1,
    }
    return Score(**{**fields, **changes})


def texts(seed: int, n: int, words: int = 40) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(0, words))) for _ in range(n)]


def rows(completions: list[str]) -> list[Score]:
    return [row(i, text) for i, text in enumerate(completions)]


@pytest.mark.parametrize("words", [2, 5, 40])
def test_bleu_equals_sacrebleus(words: int) -> None:
    hypotheses, references = texts(0, 60, words) + NASTY, texts(1, 60, words) + NASTY[::-1]
    pairs = pair(rows(hypotheses), rows(references))
    for found, hypothesis, reference in zip(pairs, hypotheses, references, strict=True):
        assert found.bleu == sacrebleu.sentence_bleu(hypothesis, [reference]).score
        assert len(found.counts) == 10
    oracle = sacrebleu.corpus_bleu(hypotheses, [references])
    assert corpus_bleu(p.counts for p in pairs) == pytest.approx(oracle.score, abs=1e-12)
    sums = [sum(column) for column in zip(*(p.counts for p in pairs), strict=True)]
    assert sums == [*oracle.counts, *oracle.totals, oracle.sys_len, oracle.ref_len]


def test_signatures_are_sacrebleus() -> None:
    bleu = sacrebleu.BLEU()
    bleu.corpus_score(["a"], [["a"]])
    assert signature() == str(bleu.get_signature())
    assert (
        signature()
        == f"nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:{sacrebleu.__version__}"
    )
    assert signature(sentence=True) == signature().replace("eff:no", "eff:yes")


def test_fidelity_of_identical_disjoint_and_no_texts() -> None:
    same = fidelity(
        pair(rows(["He has 5 big red apples"] * 2), rows(["He has 5 big red apples"] * 2))
    )
    assert (same.corpus_bleu, same.mean_sentence_bleu) == (pytest.approx(100), pytest.approx(100))
    apart = fidelity(pair(rows(["a b c d e"]), rows(["v w x y z"])))
    assert (apart.corpus_bleu, apart.mean_sentence_bleu, apart.n) == (0, 0, 1)
    nothing = fidelity([])
    assert math.isnan(nothing.corpus_bleu)
    assert math.isnan(nothing.mean_sentence_bleu)


def test_pairs_are_ordered_and_keep_who_is_who() -> None:
    a = [row(2, "a b"), row(1, "a b c", outcome="wrong", extracted="7"), row(1, "x", sample=1)]
    b = [row(1, "x", sample=1), row(1, "a"), row(2, "a b")]
    pairs = pair(a, b)
    assert [(p.example_id, p.sample) for p in pairs] == [("00001", 0), ("00001", 1), ("00002", 0)]
    assert (pairs[0].outcome_a, pairs[0].outcome_b, pairs[0].agree) == ("wrong", "correct", False)
    assert pairs[0].counts[-2:] == (3, 1)
    assert pairs[2].agree


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([row(1, "")], [row(2, "")], "2 items are in one of the two systems only"),
        ([row(1, "")], [], r"1 items .* the first is \('toy', '00001', 0\)"),
        ([row(1, "")], [row(1, "", sample=1)], "2 items"),
        ([row(1, ""), row(1, "")], [row(1, "")], "1 items are scored twice"),
        ([row(1, "")], [row(1, "", rule="number-reference")], "read by two rules"),
    ],
)
def test_systems_that_do_not_match_are_refused(a: list, b: list, message: str) -> None:
    with pytest.raises(InputError, match=message):
        pair(a, b)


def test_a_thousand_items_take_well_under_a_second() -> None:
    a, b = rows(texts(3, 1000, 100)), rows(texts(4, 1000, 100))
    start = time.perf_counter()
    fidelity(pair(a, b))
    assert time.perf_counter() - start < 2  # about 0.4 s; the rest is for a busy machine
