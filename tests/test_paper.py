"""The replay of the published Tables 1-5: its counts, its exceptions, its numbers.

Outside oracles: the print itself, and the statistics worked out here from the released files with
textbook formulas (no scipy test functions), as the description of the tables has them.
"""

import csv
import json
import math
import statistics
from collections import defaultdict
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path

import pytest
from scipy import special

from kdstudy.errors import InputError
from kdstudy.paper import published
from kdstudy.paper.replay import DIFFERS, FLIPS, LOST, MATCH, TWICE, replay

ROOT = Path(__file__).resolve().parents[1]
FILES = ROOT / "src" / "kdstudy" / "paper" / "numbers"
SHARED = Path(__file__).resolve().parents[2] / "shared" / "paper"
TASKS = {
    "math": ["GSM8K", "SVAMP", "MultiArith", "SingleEq", "AddSub", "AQuA"],
    "commonsense": [
        *("Hellaswag", "BoolQ", "SiQA", "PiQA", "ARC-e", "ARC-c", "Winogrande", "OBQA"),
    ],
}


def rows(name, folder=FILES):
    with (folder / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def replays():
    return {a: replay(a) for a in ("max", "tau1", "printed")}


def cell(replayed, table, panel, row, task):
    found = [
        c
        for c in replayed["cells"]
        if (c["table"], c["panel"], c["row"], c["task"]) == (table, panel, row, task)
    ]
    assert len(found) == 1
    return found[0]


def gains(benchmark, task, temperatures=("1.0", "2.0", "5.0")):
    """(teacher, student, method) -> best accuracy of the task less the student's SFT accuracy."""
    best, base = defaultdict(float), {}
    for r in rows("runs"):
        if (r["benchmark"], r["task"]) != (benchmark, task):
            continue
        if r["kind"] == "sft":
            base[r["student"]] = float(r["accuracy"])
        elif r["kind"] == "kd_temperature" and r["temperature"] in temperatures:
            key = (r["teacher"], r["student"], r["method"])
            best[key] = max(best[key], float(r["accuracy"]))
    return {k: v - base[k[1]] for k, v in best.items()}, base


def t_greater(values):
    t = statistics.mean(values) / (statistics.stdev(values) / math.sqrt(len(values)))
    return t, 1 - special.stdtr(len(values) - 1, t)


def ranks(values):
    ordered = sorted(values)
    first = {v: ordered.index(v) for v in values}
    return [first[v] + (ordered.count(v) + 1) / 2 for v in values]


def spearman(x, y):
    rho = statistics.correlation(ranks(x), ranks(y))
    freedom = len(x) - 2
    t = abs(rho) * math.sqrt(freedom / (1 - rho**2))
    return rho, 2 * (1 - special.stdtr(freedom, t))


def test_as_the_paper_did_it_126_statistics_and_124_pairs_come_out(replays):
    summary = replays["max"]["summary"]
    assert summary["cells"] == 132
    assert summary["statistics_match"] == 126
    assert summary["statistic_and_p_match"] == 124
    assert "126 of 132" in summary["sentence"] and "124 of 132" in summary["sentence"]


def test_the_exceptions_are_named_for_what_they_are(replays):
    by_verdict = defaultdict(list)
    for c in replays["max"]["cells"]:
        by_verdict[c["verdict"]].append(c)
    assert {v: len(c) for v, c in by_verdict.items()} == {MATCH: 124, TWICE: 2, LOST: 6}
    assert {(c["table"], c["panel"], c["task"]) for c in by_verdict[TWICE]} == {
        ("1", "b", "Average"),
        ("3", "b", "Winogrande"),
    }
    assert {(c["table"], c["task"]) for c in by_verdict[LOST]} == {("5", t) for t in TASKS["math"]}
    assert all(c["recomputed"]["statistic"] is None and c["note"] for c in by_verdict[LOST])
    flag = cell(replays["max"], "3", "b", "Spearman rank", "Winogrande")
    assert replays["max"]["summary"]["wrong_bold_flag"] == ["Table 3b, Spearman rank, Winogrande"]
    assert flag["printed"]["significant"] and flag["recomputed"]["p"] > 0.05
    assert "flag is wrong" in flag["note"] and "0.0505 to 0.05 to 0.0" in flag["note"]


def test_rounding_twice_explains_every_printed_p(replays):
    """Half to even, by decimal arithmetic here: 0.745 -> 0.75 -> 0.8, 0.0505 -> 0.05 -> 0.0."""
    for c in replays["max"]["cells"]:
        if c["verdict"] == LOST:
            continue
        once = Decimal(c["recomputed"]["p"]).quantize(Decimal("0.01"), ROUND_HALF_EVEN)
        twice = once.quantize(Decimal("0.1"), ROUND_HALF_EVEN)
        assert float(twice) == c["printed"]["p"], c


def test_t_tests_against_the_formula(replays):
    found = cell(replays["max"], "1", "a", "t-test all methods", "GSM8K")["recomputed"]
    t, p = t_greater(list(gains("math", "GSM8K")[0].values()))
    assert found["statistic"] == pytest.approx(t, rel=1e-9)
    assert found["p"] == pytest.approx(p, rel=1e-4)
    found = cell(replays["tau1"], "1", "b", "t-test RevKD", "BoolQ")["recomputed"]
    own = [g for k, g in gains("commonsense", "BoolQ", ("1.0",))[0].items() if k[2] == "RevKD"]
    assert len(own) == 11
    t, p = t_greater(own)
    assert (found["statistic"], found["p"]) == pytest.approx((t, p), rel=1e-6)


def test_anova_against_sums_of_squares(replays):
    groups = defaultdict(list)
    for key, gain in gains("math", "SVAMP")[0].items():
        groups[key[2]].append(gain)
    values = [g for group in groups.values() for g in group]
    inside = sum((g - statistics.mean(v)) ** 2 for v in groups.values() for g in v)
    between = sum((g - statistics.mean(values)) ** 2 for g in values) - inside
    f = (between / 2) / (inside / 30)
    found = cell(replays["max"], "1", "a", "ANOVA all methods", "SVAMP")["recomputed"]
    assert found["statistic"] == pytest.approx(f, rel=1e-9)
    assert found["p"] == pytest.approx(special.fdtrc(2, 30, f), rel=1e-9)


def test_correlations_against_ranks(replays):
    gained, base = gains("commonsense", "ARC-e")
    keys = list(gained)
    sizes = [float(k[1].split("-")[1].rstrip("B")) for k in keys]
    found = cell(replays["max"], "3", "b", "Spearman rank", "ARC-e")["recomputed"]
    expected = spearman([gained[k] for k in keys], sizes)
    assert (found["statistic"], found["p"]) == pytest.approx(expected, rel=1e-4)
    teachers = [base[k[0]] for k in keys]
    found = cell(replays["max"], "2", "b", "Spearman rank", "ARC-e")["recomputed"]
    expected = spearman([gained[k] for k in keys], teachers)
    assert (found["statistic"], found["p"]) == pytest.approx(expected, rel=1e-4)


def test_agreement_correlation_uses_the_counts(replays):
    agree = {
        (r["teacher"], r["student"]): int(r["n_agree"]) / int(r["n_items"])
        for r in rows("agreement")
        if (r["task"], r["comparison"]) == ("MultiArith", "student_KD~teacher")
    }
    gained, _ = gains("math", "MultiArith")
    found = cell(replays["max"], "4", "a", "Spearman rank", "MultiArith")["recomputed"]
    expected = spearman(list(gained.values()), [agree[k[:2]] for k in gained])
    assert (found["statistic"], found["p"]) == pytest.approx(expected, rel=1e-3)


def test_printed_averages_are_reproduced_where_the_run_is_the_printed_one():
    """All 82 averages of Tables 7 and 8, from the accuracies of the same tables."""
    printed = {tuple(list(r.values())[:4]): r for r in rows("accuracy_printed_average")}
    sums = defaultdict(float)
    for r in rows("accuracy"):
        sums[tuple(list(r.values())[:4])] += float(r["accuracy"])
    assert len(printed) == 82 and set(printed) == set(sums)
    for key, total in sums.items():
        mean = round(total / len(TASKS[key[0]]), 2)
        assert mean == float(printed[key]["printed_average"]), key


def test_the_four_undeclared_temperatures_are_found():
    found = published.undeclared_temperatures()
    named = {(r.teacher, r.student, r.method): r.temperature for r in found.itertuples()}
    assert named == {
        ("Qwen-3B", "Qwen-1.5B", "RevKD"): 2,
        ("Qwen-7B", "Qwen-0.5B", "RevKD"): 2,
        ("Qwen-7B", "Qwen-1.5B", "RevKD"): 5,
        ("Qwen-7B", "Qwen-3B", "RevKD"): 2,
    }
    assert set(found.benchmark) == {"commonsense"}


def test_agreements_belong_to_one_revkd_run_by_their_bounds():
    runs = published.agreement_runs()
    usual = runs[(runs.temperature == 1) & (runs.method == "RevKD")]
    odd = usual[usual.outside > 0]
    assert len(usual) == 22
    assert odd[["teacher", "student"]].to_numpy().tolist() == [["Qwen-7B", "Qwen-0.5B"]]
    for method in ("SeqKD", "GKD"):
        other = runs[(runs.temperature == 1) & (runs.method == method)]
        assert (other.outside > 1).sum() >= 5


def test_other_aggregations_say_what_changes(replays):
    for aggregation in ("tau1", "printed"):
        summary = replays[aggregation]["summary"]
        cells = replays[aggregation]["cells"]
        flips = [c for c in cells if c["verdict"] == FLIPS]
        assert 0 < len(flips) == len(summary["conclusion_flips"])
        assert len(summary["differs"]) == sum(c["verdict"] in (DIFFERS, FLIPS) for c in cells)
        for c in flips:
            assert c["printed"]["significant"] != c["recomputed"]["significant"]
            assert c["recomputed"]["significant"] == (c["recomputed"]["p"] < 0.05)
    gkd = [c for c in replays["tau1"]["cells"] if c["row"] == "t-test GKD"]
    assert {c["verdict"] for c in gkd} == {MATCH}, "GKD was only run at temperature 1"


def test_a_replay_is_json_without_nan(replays):
    for replayed in replays.values():
        assert json.loads(json.dumps(replayed, allow_nan=False)) == replayed


def test_an_unknown_aggregation_is_refused():
    with pytest.raises(InputError, match="unknown aggregation") as error:
        replay("best")
    assert "max, tau1, printed" in str(error.value)


def test_rows_and_tasks_are_spelled_as_published(replays):
    spelled = [tuple(list(r.values())[:4]) for r in rows("expected_tables")]
    found = [(c["table"], c["panel"], c["row"], c["task"]) for c in replays["max"]["cells"]]
    assert found == spelled


@pytest.mark.parametrize("name", ["expected_tables", "accuracy", "accuracy_printed_average"])
def test_the_packaged_facts_are_the_shared_ones(name):
    if not SHARED.is_dir():
        pytest.skip(f"needs {SHARED}, the published numbers that the package's were taken from")
    own, shared = rows(name), rows(name, SHARED)
    assert [{k: r[k] for k in shared[0]} for r in own] == shared


def test_the_packaged_facts_are_small():
    assert sum(f.stat().st_size for f in FILES.iterdir()) < 250_000
