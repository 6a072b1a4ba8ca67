"""The claims of the paper and the page about them."""

import dataclasses
import html.parser
import itertools
import math
import re
from pathlib import Path

import pytest

from kdstudy.analysis.verdict import Test
from kdstudy.errors import InputError
from kdstudy.paper import published
from kdstudy.paper.claims import claims
from kdstudy.paper.evidence import (
    FALLS,
    IN_PART,
    STANDS,
    UNKNOWN,
    Claim,
    Evidence,
    survivors,
)
from kdstudy.paper.page import html as write_page
from kdstudy.paper.page import page

NASTY = '<script>alert("x")</script> & <b onmouseover=1>'


@pytest.fixture(scope="module")
def evidence():
    return Evidence()


@pytest.fixture(scope="module")
def judged(evidence):
    return {c.key: c for c in claims(evidence)}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_page(tmp_path_factory.mktemp("page") / "paper.html").read_text()


class Loads(html.parser.HTMLParser):
    """Collects everything a browser would fetch, run or jump to."""

    def __init__(self):
        super().__init__()
        self.fetched, self.scripts, self.ids, self.jumps = [], 0, [], []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.scripts += tag == "script"
        self.scripts += sum(name.startswith("on") for name in values)
        self.ids += [values["id"]] if "id" in values else []
        if tag == "a":
            self.jumps.append(values["href"])
        elif tag != "use":
            self.fetched += [v for k, v in attrs if k in ("src", "href", "xlink:href", "data")]


def test_the_page_asks_no_server_and_runs_nothing(written):
    seen = Loads()
    seen.feed(written)
    assert all(url.startswith(("data:", "#")) for url in seen.fetched)
    assert seen.scripts == 0
    assert not re.search(r"url\(\s*['\"]?(?!#)", written) and "@import" not in written
    assert "default-src 'none'" in written


def test_every_link_has_a_target_and_every_anchor_is_unique(written):
    seen = Loads()
    seen.feed(written)
    assert len(seen.ids) == len(set(seen.ids))
    assert {jump.removeprefix("#") for jump in seen.jumps} <= set(seen.ids)


def test_the_page_leads_with_the_counts_and_marks_cells_in_words(written):
    assert "126 of 132 statistics" in written and "124 of 132 pairs" in written
    assert written.count(">same</span>") == 124
    assert written.count(">p twice rounded</span>") == 2
    assert written.count(">lost</span>") == 6


def test_text_is_escaped(evidence, judged):
    claim = Claim(
        key="nasty",
        says=NASTY,
        where=NASTY,
        printed=NASTY,
        recomputed=[NASTY],
        sound=[NASTY],
        verdict=STANDS,
        because=NASTY,
    )
    text = page(evidence.replays, [claim])
    assert "<script" not in text and "<b on" not in text
    assert text.count("&lt;script&gt;") >= 6


def test_a_page_that_cannot_be_written_is_a_users_error(tmp_path):
    with pytest.raises(InputError, match="cannot write"):
        write_page(tmp_path / "nowhere" / "paper.html")


def test_claims_are_complete_and_their_verdicts_known(judged):
    assert 8 <= len(judged) <= 14
    for claim in judged.values():
        assert claim.verdict in (STANDS, IN_PART, FALLS, UNKNOWN)
        words = [*claim.recomputed, *claim.sound, claim.printed, claim.because, claim.where]
        assert words and all(words)
        assert not re.search(r"\bnan\b|\binf\b|= None", " ".join(words)), claim.key
    assert set(dataclasses.asdict(judged["size"])) >= {"says", "verdict", "because"}


def test_the_peak_gain_is_the_one_in_print(judged):
    """86.33 less 64.00, both in Table 7: GKD, Llama-8B to Llama-1B on MultiArith."""
    assert f"+{86.33 - 64.00:.1f} on MultiArith" in " ".join(judged["up-to-ten"].recomputed)


def test_the_sign_flip_of_six_students_by_hand(evidence, judged):
    """p over all 64 sign patterns of the students' mean gains at temperature 1, two-sided."""
    rows = evidence.tau1
    rows = rows[(rows.benchmark == "math") & (rows.task != published.AVERAGE)]
    means = rows.groupby(["student", "teacher", "method"]).gain.mean().groupby("student").mean()
    flipped = [
        abs(sum(s * g for s, g in zip(signs, means, strict=True)))
        for signs in itertools.product((1, -1), repeat=6)
    ]
    p = sum(f >= abs(means.sum()) - 1e-9 for f in flipped) / 64
    assert f"p = {p:.4f}" in " ".join(judged["significant"].sound)


def test_the_method_claim_falls_on_matched_runs(evidence, judged):
    """RevKD beats SeqKD on all 11 math pairs at temperature 1: a sign test gives 2 / 2^11."""
    rows = evidence.tau1
    rows = rows[(rows.benchmark == "math") & (rows.task == published.AVERAGE)]
    wide = rows.pivot(index=["teacher", "student"], columns="method", values="gain")
    assert (wide.RevKD > wide.SeqKD).all() and len(wide) == 11
    assert judged["methods-equal"].verdict == FALLS


def test_what_was_never_released_cannot_be_told(judged):
    assert judged["fidelity"].verdict == UNKNOWN
    assert judged["noise"].verdict == UNKNOWN


def test_agreement_rises_with_size_and_with_the_gain(judged):
    assert judged["agreement-size"].verdict == FALLS
    assert "11 of 11" in " ".join(judged["agreement-size"].recomputed)
    assert "Qwen-7B's" in " ".join(judged["agreement-size"].recomputed)
    assert judged["agreement"].verdict == FALLS


def test_collapsed_runs_are_found_by_their_worst_task(evidence):
    """RevKD at temperature 1 with Qwen-7B and Qwen-3B; 0.44% on PiQA is no student."""
    rows = evidence.tau1[evidence.tau1.collapsed]
    assert set(rows.benchmark) == {"commonsense"}
    worst = evidence.tau1.loc[evidence.tau1.score.idxmin()]
    assert worst.collapsed and worst.score == pytest.approx(0.44)
    assert (rows.groupby(["teacher", "student", "method"]).size() == 9).all()


def test_agreement_is_given_to_the_run_it_was_measured_on(evidence):
    rows = evidence.sound("commonsense")
    known = rows[rows.agreement.notna()]
    assert set(known.method) == {"RevKD"}
    assert known[["teacher", "student"]].drop_duplicates().shape[0] == 10
    low = known.score + known.teacher_score - 1
    high = 1 - (known.score - known.teacher_score).abs()
    assert ((known.agreement >= low - 2e-4) & (known.agreement <= high + 2e-4)).all()


def test_holm_inside_one_question():
    """Holm by hand: 0.01 <= 0.05/3 holds, 0.03 > 0.05/2 stops; NaN does not count."""

    def test(p):
        numbers = dict.fromkeys(("statistic", "estimate", "low", "high"), 0.0)
        named = dict.fromkeys(("table", "name", "subject", "scope", "signature", "sentence"), "")
        return Test(**numbers, **named, p=p, n=3, clusters=3)

    assert [t.p for t in survivors([test(p) for p in (0.03, 0.01, math.nan, 0.04)])] == [0.01]
    assert survivors([test(math.nan)]) == []


def test_the_docs_page_says_what_is_computed(evidence, judged):
    text = (Path(__file__).resolve().parents[1] / "docs" / "paper.md").read_text()
    table = text[text.index("| claim |") : text.index("The verdicts are rules")].strip()
    said = [line.split(" | ")[1] for line in table.splitlines()[2:]]
    short = {IN_PART: "in part", FALLS: "does not stand", UNKNOWN: "cannot be told"}
    assert said == [short[c.verdict] for c in judged.values()]
    for aggregation, flips in re.findall(r"`--aggregation (\w+)`.*\| (\w+) \|\n", text):
        found = len(evidence.replays[aggregation]["summary"]["conclusion_flips"])
        assert str(found or "none") == flips
