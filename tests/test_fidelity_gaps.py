"""Systems that score alike and are unlike in fidelity: found where they are, and only there."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from kdstudy.analysis.fidelity_gaps import AGREEMENT, ALIKE, KL, unlike_tests
from kdstudy.records import PairScore, System

TEACHER = "t/teacher"


def system(method: str, seed: int, **more) -> System:
    kind = "sft" if method == "sft" else "distilled"
    facts = {"kind": kind, "model": "s", "method": method, "seed": seed}
    if kind == "distilled":
        facts["teachers"] = (TEACHER,)
    return System(label=f"s/{method}/seed={seed}", **(facts | more))


def compared(right, agrees, benchmark="b", outcome=None) -> list[PairScore]:
    return [
        PairScore(
            benchmark=benchmark,
            example_id=f"{i:05}",
            sample=0,
            agree=bool(a),
            outcome_a=outcome or ("correct" if r else "wrong"),
            outcome_b="wrong",
            bleu=0.0,
            rouge_l=0.0,
            steps=math.nan,
            counts=(0,) * 10,
        )
        for i, (r, a) in enumerate(zip(right, agrees, strict=True))
    ]


def study(draw, methods, seeds, rng):
    """Return systems, pairs and names; `draw(method, rng)` gives a run's right and agrees."""
    systems = [system(m, s) for m in methods for s in seeds]
    pairs = {(s.label, TEACHER): compared(*draw(s.method, rng)) for s in systems}
    return systems, pairs, {s.label: f"s/{s.method}" for s in systems}


def test_the_difference_and_its_p_are_those_of_a_paired_test_on_items():
    rng = np.random.default_rng(5)
    right = rng.random(731) < 0.4
    agrees = {"a": rng.random(731) < 0.55, "sft": rng.random(731) < 0.4}
    (found,) = unlike_tests(*_two(right, agrees))
    change = agrees["a"].astype(float) - agrees["sft"]
    assert found.subject == "s/a − s/sft" and found.scope == AGREEMENT
    assert found.estimate == pytest.approx(change.mean())
    up, down = (change > 0).sum(), (change < 0).sum()
    mid = 2 * stats.binom.sf(max(up, down), up + down, 0.5)
    mid += stats.binom.pmf(max(up, down), up + down, 0.5)
    assert found.p == pytest.approx(mid, rel=0.05)
    assert "unlike in fidelity" in found.sentence


def _two(right, agrees):
    systems = [system(m, 0) for m in agrees]
    pairs = {(s.label, TEACHER): compared(right, agrees[s.method]) for s in systems}
    return systems, pairs, {}, {s.label: f"s/{s.method}" for s in systems}


@pytest.mark.parametrize("items, gap", [(397, 0.2), (61, 0.0)])
def test_systems_that_differ_in_accuracy_or_cannot_be_told_alike_are_left_out(items, gap):
    rng = np.random.default_rng(1)

    def draw(method, rng):
        level = 0.4 + gap * (method == "a")
        return rng.random(items) < level, rng.random(items) < (0.9 if method == "a" else 0.1)

    systems, pairs, names = study(draw, ["a", "sft"], [0], rng)
    assert unlike_tests(systems, pairs, {}, names) == []


def test_text_that_is_rated_and_ablations_and_other_teachers_do_not_count():
    right = np.arange(503) % 3 == 0
    agrees = {"a": np.arange(503) % 2 == 0, "sft": np.arange(503) % 7 == 0}
    systems, pairs, tokens, names = _two(right, agrees)
    base = unlike_tests(systems, pairs, tokens, names)
    extra = system("a", 0, ablation="noise")
    extra = System(**{**_facts(extra), "label": "s/a/noise"})
    other = System(label="x", kind="teacher", model="x")
    more = pairs | {
        (extra.label, TEACHER): compared(right, ~agrees["a"]),
        (systems[1].label, "x"): compared(right, agrees["a"]),
    }
    rated = {k: v + compared([0] * 9, [1] * 9, "texts", "rated") for k, v in more.items()}
    again = unlike_tests([*systems, extra, other], rated, tokens, names)
    assert again == base and len(base) == 1


def _facts(s: System) -> dict:
    return {f: getattr(s, f) for f in s.__dataclass_fields__}


def test_kl_is_the_mean_over_tokens_whatever_the_rows_lengths():
    rng = np.random.default_rng(3)
    right = rng.random(997) < 0.5
    systems, pairs, _, names = _two(right, {"a": right, "sft": right})
    lengths = rng.integers(1, 90, 37)
    # Texts differ far more than the systems do on one text.
    hard = rng.gamma(2, 0.2, 37)
    sums = {m: lengths * (hard + rng.gamma(3, s, 37)) for m, s in (("a", 0.01), ("sft", 0.02))}
    tokens = {
        (s.label, TEACHER): pd.DataFrame(
            {
                "example_id": [f"r{i:03}" for i in range(37)],
                "tokens": lengths,
                "kl_teacher_student": sums[s.method],
            }
        ).sample(frac=1, random_state=k)
        for k, s in enumerate(systems)
    }
    (found,) = [t for t in unlike_tests(systems, pairs, tokens, names) if t.scope == KL]
    expected = (sums["a"].sum() - sums["sft"].sum()) / lengths.sum()
    assert found.estimate == pytest.approx(expected) and found.p_adjusted < 0.05
    # Rows are paired whatever order they are kept in: the error is that of their differences.
    change = (sums["a"] - sums["sft"]) * 37 / lengths.sum()
    error = stats.norm.ppf(0.975) * change.std(ddof=1) / np.sqrt(37)
    assert found.high - found.low == pytest.approx(2 * error, rel=0.1)
    assert "nats a token" in found.sentence


@pytest.mark.parametrize("seeds", [1, 3])
def test_where_fidelity_is_the_same_it_is_called_unlike_as_seldom_as_stated(seeds):
    """Five methods draw alike: Holm over their ten pairs is wrong in 5% of studies at most."""
    rng = np.random.default_rng(seeds)
    wrong = 0
    for _ in range(60):
        difficulty = rng.random(400)

        def draw(method, rng, hard=difficulty):
            right = rng.random(400) < hard
            return right, right | (rng.random(400) < 0.2)

        systems, pairs, names = study(draw, ["sft", *"abcd"], range(seeds), rng)
        found = unlike_tests(systems, pairs, {}, names)
        wrong += any(t.p_adjusted < 0.05 for t in found)
        assert all(ALIKE > 0 and t.table == "unlike" for t in found)
    assert wrong <= 8  # P(more than 8 of 60 at 5%) is 0.3%


def test_systems_that_never_differ_in_accuracy_are_alike_and_their_levels_are_said():
    right = np.arange(601) < 13
    rng = np.random.default_rng(8)
    (found,) = unlike_tests(*_two(right, {"a": rng.random(601) < 0.5, "sft": right}))
    assert "(2.2% and 2.2%, 90% interval" in found.sentence


def test_a_name_may_hold_the_sign_that_stands_between_two():
    right = np.arange(503) % 3 == 0
    systems, pairs, tokens, names = _two(right, {"a": np.arange(503) % 2 == 0, "sft": right})
    names = {label: f"s − 3 layers/{name}" for label, name in names.items()}
    (found,) = unlike_tests(systems, pairs, tokens, names)
    assert found.sentence.startswith("s − 3 layers/s/a and s − 3 layers/s/sft are alike")
