"""BLEU from per-item counts against sacrebleu on the texts; means, and Table 9 as queries."""

import math
import random
import time

import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from kdstudy.errors import InputError
from kdstudy.evaluation.fidelity import (
    corpus_bleu,
    fidelity,
    pair,
    signature,
)
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
    "a-\nb - \n c-<skipped>\nd",
    "1.5, .5 ,5 5,, ..5 1,000.",
    "y" * 100 + "," + "z" * 100,
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


@given(
    st.text(alphabet="ab5.,-&<>;\n\t \xa0\u3000数", max_size=40),
    st.text(alphabet="ab5.,-&<>;\n\t \xa0\u3000数", max_size=40),
)
def test_bleu_of_any_text_equals_sacrebleus(hypothesis: str, reference: str) -> None:
    oracle = sacrebleu.sentence_bleu(hypothesis, [reference])
    found = pair(rows([hypothesis]), rows([reference]))[0]
    assert found.bleu == oracle.score
    assert found.counts == (*oracle.counts, *oracle.totals, oracle.sys_len, oracle.ref_len)


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
    assert math.isnan(nothing.rouge_l) and math.isnan(nothing.steps)
    assert (nothing.n, nothing.n_steps) == (0, 0)


def test_means_over_items_and_given_the_same_answer() -> None:
    a = ["5 + 3 = 8. 8 * 2 = 16.", "5 + 3 = 8.", "So it is, I think.", "He has 5 big apples."]
    b = ["5 plus 3 is 8. 8 times 2 is 16.", "5 + 3 = 9.", "Well, so it is.", "5 * 2 = 10"]
    outcomes = ["correct", "wrong", "correct", "wrong"]
    pairs = pair(
        [row(i, t, outcome=o) for i, (t, o) in enumerate(zip(a, outcomes, strict=True))], rows(b)
    )
    assert [p.steps for p in pairs] == [1, 0, pytest.approx(math.nan, nan_ok=True), 0]
    found = fidelity(pairs)
    assert (found.n, found.n_steps, found.steps) == (4, 3, pytest.approx(1 / 3))
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    rouge = [scorer.score(y, x)["rougeL"].fmeasure for x, y in zip(a, b, strict=True)]
    assert found.rouge_l == pytest.approx(sum(rouge) / 4)
    assert "rouge" in found.rouge_signature and "steps" in found.steps_signature
    alike = fidelity([p for p in pairs if p.agree])
    assert (alike.n, alike.n_steps, alike.steps) == (2, 1, 1)
    oracle = sacrebleu.corpus_bleu([a[0], a[2]], [[b[0], b[2]]])
    assert alike.corpus_bleu == pytest.approx(oracle.score)


def test_free_texts_never_agree() -> None:
    free = {"extracted": "", "rule": "text-rouge_l", "outcome": "rated", "quality": 0.4}
    found = pair([row(1, "the same", **free)], [row(1, "the same", **free)])[0]
    assert (found.agree, found.rouge_l) == (False, 1)


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
    start = time.process_time()
    fidelity(pair(a, b))
    assert time.process_time() - start < 2  # about 0.4 s; the rest is for a busy machine
