"""ROUGE-L against rouge-score's own, on real and on random texts."""

import json
import os
import random
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from kdstudy.evaluation.rouge import is_latin, rouge_l, signature

DATA = Path(os.environ.get("KDSTUDY_DATA") or Path(__file__).parents[2] / "shared" / "data")
SCORER = RougeScorer(["rougeL"], use_stemmer=True)

# Words whose stems meet, short words that are not stemmed, and what is no word at all.
WORDS = [
    *("run", "runs", "running", "Runner", "relational", "conditional", "cats", "cat", "a", "the"),
    *("agreed", "agreement", "1,000", "1000", "10.5", "don't", "-", "x_1", "naïve", "İ", "数学"),
]


def theirs(text: str, references: list[str]) -> float:
    return max((SCORER.score(r, text)["rougeL"].fmeasure for r in references), default=0.0)


def test_equals_rouge_scores_own_on_random_texts() -> None:
    rng = random.Random(0)
    for _ in range(300):
        text, *references = (
            " ".join(rng.choices(WORDS, k=rng.randint(0, 40))) for _ in range(rng.randint(1, 4))
        )
        assert rouge_l(text, references) == pytest.approx(theirs(text, references), abs=1e-12)


@given(st.text(max_size=60), st.text(max_size=60))
def test_equals_rouge_scores_own_on_any_text(text: str, reference: str) -> None:
    assert rouge_l(text, [reference]) == pytest.approx(theirs(text, [reference]), abs=1e-12)


def test_equals_rouge_scores_own_on_real_texts() -> None:
    path = DATA / "instruct" / "dolly" / "test.jsonl"
    if not path.is_file():
        pytest.skip(f"needs {path}; set KDSTUDY_DATA")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()][:150]
    texts = [t if isinstance(t := row["output"], str) else t[0] for row in rows]
    for text, first, second in zip(texts, texts[1:], texts[2:], strict=False):
        references = [first[:400], second[:400]]
        assert rouge_l(text[:400], references) == pytest.approx(
            theirs(text[:400], references), abs=1e-12
        )


def test_by_hand() -> None:
    # Longest common subsequence "the cat mat", 3 words, of 3 and of 6.
    assert rouge_l("the cat mat", ["The cats sat on the mat."]) == pytest.approx(2 * 3 / 9)
    assert rouge_l("same text", ["other", "Same, text!", ""]) == 1
    assert rouge_l("", ["a"]) == rouge_l("a", [""]) == rouge_l("a", []) == rouge_l("", [""]) == 0


def test_a_million_characters_do_not_hang() -> None:
    rng = random.Random(1)
    long = " ".join(rng.choices(WORDS, k=170_000))
    assert len(long) > 900_000
    start = time.process_time()
    assert 0 < rouge_l(long, ["the cat sat on the mat " * 20]) < 1
    assert rouge_l("a" * 1_000_000, ["b" * 1_000_000]) == 0
    assert time.process_time() - start < 20  # about 1 s; the rest is for a busy machine


def test_the_signature_names_the_package_and_the_stemmer() -> None:
    assert f"version:{version('rouge-score')}" in signature()
    assert "stem:porter" in signature()


def test_nltk_is_not_loaded_before_a_text_is_measured() -> None:
    code = "import sys, kdstudy.evaluation.rouge; print('nltk' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


BY_HAND = [
    # Characters in order in both, of those of each side: (text, reference, common, words, words)
    ("我喜欢吃苹果", "我喜欢吃苹果", 6, 6, 6),
    ("他吃了一个苹果。", "他昨天吃苹果", 4, 7, 6),
    ("東京タワーへ行く", "京都タワーへ行った", 6, 8, 9),
    ("Привет, МИР!", "мир привет", 1, 2, 2),
    ("Straße  gesperrt", "STRASSE war gesperrt", 2, 2, 3),
    ("다시 만나서 반갑습니다", "만나서 정말 반갑습니다", 2, 3, 3),
    ("हिन्दी भाषा", "हिन्दी की भाषा", 2, 2, 3),
    ("مرحبا بالعالم", "مرحبا", 1, 2, 1),
    ("GPT-4用了１２个token", "gpt 4 用 12 个 tokens", 5, 7, 6),
    ("cafe\u0301 au lait", "caf\u00e9 au lait", 3, 3, 3),
    ("running", "runs", 0, 1, 1),
    ("!? 😀", "!? 😀", 0, 0, 0),
]


@pytest.mark.parametrize(("text", "reference", "common", "mine", "other"), BY_HAND)
def test_words_of_every_script_by_hand(text, reference, common, mine, other) -> None:
    expected = 2 * common / (mine + other) if common else 0.0
    assert rouge_l(text, [reference], "unicode") == pytest.approx(expected)
    assert rouge_l(reference, ["", text], "unicode") == pytest.approx(expected)


class _Characters:
    """A tokenizer in rouge-score's form for text that is Han characters and nothing else."""

    def tokenize(self, text: str) -> list[str]:
        return [c for c in text if c.isalpha()]


@given(
    st.text(alphabet="天地玄黄宇宙洪荒，。 ", max_size=30),
    st.text(alphabet="天地玄黄宇宙，。 ", max_size=30),
)
def test_equals_rouge_scores_own_lcs_over_characters(text: str, reference: str) -> None:
    scorer = RougeScorer(["rougeL"], tokenizer=_Characters())
    theirs = scorer.score(reference, text)["rougeL"].fmeasure
    assert rouge_l(text, [reference], "unicode") == pytest.approx(theirs, abs=1e-12)


@given(st.text(max_size=40), st.text(max_size=40))
def test_any_text_is_wholly_like_itself_and_a_share_of_another(text: str, other: str) -> None:
    assert rouge_l(text, [text], "unicode") in (0.0, 1.0)
    assert 0 <= rouge_l(text, [other], "unicode") <= 1
    assert rouge_l(text, [other], "unicode") == rouge_l(other, [text], "unicode")


def test_the_published_measure_sees_nothing_of_other_scripts_and_a_text_of_them_is_told() -> None:
    assert rouge_l("我喜欢吃苹果", ["我喜欢吃苹果"]) == 0
    assert not is_latin("我喜欢吃苹果 3 个") and not is_latin("Привет, world")
    assert is_latin("Der Übersetzer kam spät") and is_latin("12 + 5") and is_latin("😀")


def test_the_signature_names_the_words() -> None:
    assert "tok:unicode" in signature("unicode") and "stem" not in signature("unicode")
