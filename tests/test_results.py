"""The tidy table: its numbers against scipy and sacrebleu, its refusals, and its bytes."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from fake_study import METHODS, STUDENTS, fake_study
from sacrebleu.metrics import BLEU
from scipy import stats

from kdstudy.analysis import results
from kdstudy.analysis.analysis import analyze
from kdstudy.analysis.intervals import Bootstrap, difference, mover, wilson
from kdstudy.analysis.results import AVERAGE, collect, write_csv
from kdstudy.analysis.runs import read_runs
from kdstudy.analysis.stats import study_tests
from kdstudy.compared_pairs import compared_pairs, own_sft
from kdstudy.errors import InputError


def gather(study, **changes):
    parts = {k: getattr(study, k) for k in ("systems", "scores", "pairs", "parameters")}
    options = {"bootstrap": Bootstrap(resamples=100)}
    options |= {k: v for k, v in changes.items() if k not in parts}
    return collect(*(changes.get(k, v) for k, v in parts.items()), study.name, **options)


@pytest.fixture(scope="module")
def study():
    return fake_study(n=40, ablations=False)


@pytest.fixture(scope="module")
def table(study):
    return gather(study)


def cell(table, system, benchmark, metric, reference=None):
    rows = table[(table.system == system) & (table.benchmark == benchmark)]
    rows = rows[rows.metric == metric]
    rows = rows if reference is None else rows[rows.reference == reference]
    assert len(rows) == 1
    return rows.iloc[0]


def test_accuracy_is_the_share_of_correct_items_with_scipys_wilson_interval(study, table):
    rows = [s for s in study.scores["zoo-s/sft"] if s.benchmark == "two_step"]
    right = sum(s.outcome == "correct" for s in rows)
    found = cell(table, "zoo-s/sft", "two_step", "accuracy")
    interval = stats.binomtest(right, len(rows)).proportion_ci(method="wilson")
    assert found.value == pytest.approx(right / len(rows))
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.n == len(rows) == 40


def test_truncated_items_count_as_wrong_but_not_among_the_completed(study, table):
    rows = [s for s in study.scores["zoo-m/base"] if s.benchmark == "one_step"]
    right, cut = (sum(s.outcome == o for s in rows) for o in ("correct", "truncated"))
    assert cut > 0
    found = cell(table, "zoo-m/base", "one_step", "accuracy_completed")
    assert found.value == pytest.approx(right / (len(rows) - cut))
    assert found.n == len(rows) - cut
    parsed = cell(table, "zoo-m/base", "one_step", "parse_rate")
    graded = sum(s.outcome in ("correct", "wrong") for s in rows)
    assert parsed.value == pytest.approx(graded / len(rows))


def test_the_flow_adds_up_to_both_accuracies_and_to_the_gain(table):
    label = "zoo-s/gkd/zoo-l-sft"
    for benchmark in ("choice", AVERAGE):
        kept, won, lost, still = (
            cell(table, label, benchmark, m).value
            for m in ("kept_right", "newly_right", "newly_wrong", "still_wrong")
        )
        assert kept + won + lost + still == pytest.approx(1)
        after = cell(table, label, benchmark, "accuracy").value
        before = cell(table, "zoo-s/sft", benchmark, "accuracy").value
        assert kept + won == pytest.approx(after)
        assert kept + lost == pytest.approx(before)
        assert cell(table, label, benchmark, "gain").value == pytest.approx(after - before)


def test_corpus_bleu_is_sacrebleus_over_the_texts(study, table):
    label, teacher = "zoo-s/gkd/zoo-l-sft", "zoo-l/sft"
    texts = {
        name: [s.completion for s in study.scores[name] if s.benchmark == "choice"]
        for name in (label, teacher)
    }
    expected = BLEU().corpus_score(texts[label], [texts[teacher]]).score
    found = cell(table, label, "choice", "bleu_corpus", teacher)
    assert found.value == pytest.approx(expected)
    assert found.low < found.value < found.high
    assert "nrefs" in found.signature and "seed:0" in found.signature


def test_agreement_lies_within_its_mechanical_bounds(table):
    wide = table.pivot_table(
        index=["system", "reference", "benchmark"], columns="metric", values="value"
    ).dropna(subset="agreement")
    assert len(wide) == (len(STUDENTS) * (1 + 2 * len(METHODS))) * 4
    assert (wide.agreement >= wide.agreement_lower_bound - 1e-12).all()
    assert (wide.agreement <= wide.agreement_upper_bound + 1e-12).all()


def test_the_three_relations_are_there_and_no_other(table):
    pairs = set(table[table.metric == "agreement"][["system", "reference"]].itertuples(index=False))
    relations = {(a.split("/")[1], b) for a, b in pairs if a.startswith("zoo-xs/")}
    expected = {("sft", "zoo-l/sft")}
    for method in METHODS:
        expected |= {(method, "zoo-l/sft"), (method, "zoo-xs/sft")}
    assert relations == expected


def test_average_is_the_unweighted_mean_and_narrower_than_its_parts(table):
    parts = [cell(table, "zoo-m/sft", b, "accuracy") for b in ("choice", "one_step", "two_step")]
    mean = cell(table, "zoo-m/sft", AVERAGE, "accuracy")
    assert mean.value == pytest.approx(np.mean([p.value for p in parts]))
    assert mean.high - mean.low < min(p.high - p.low for p in parts if 0.1 < p.value < 0.9)
    assert mean.n == 120


def test_mover_agrees_with_the_normal_interval_for_symmetric_parts():
    errors = np.array([0.02, 0.03, 0.05])
    values = np.array([0.5, 0.6, 0.7])
    mean, low, high = mover(values, values - 1.96 * errors, values + 1.96 * errors)
    exact = 1.96 * np.sqrt((errors**2).sum()) / 3
    assert (mean, low, high) == pytest.approx((0.6, 0.6 - exact, 0.6 + exact))


def test_mover_keeps_a_width_at_the_edge():
    _, low, high = mover([1.0, 1.0], *zip(wilson(1.0, 50), wilson(1.0, 50), strict=True))
    assert low < 0.96 and high == pytest.approx(1.0)


def test_paired_bootstrap_covers_as_scipys_does():
    change = np.array([1] * 30 + [-1] * 10 + [0] * 160, dtype=float)
    value, low, high = difference(change, Bootstrap())
    expected = stats.bootstrap(
        (change,), np.mean, n_resamples=9999, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert value == pytest.approx(0.1)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.012)


def test_no_change_is_not_certainty():
    value, low, high = difference(np.zeros(100), Bootstrap())
    bound = stats.binomtest(0, 100).proportion_ci(method="exact").high
    assert value == 0
    assert (low, high) == pytest.approx((-bound, bound))


def test_one_item_has_no_interval():
    value, low, high = difference(np.array([1.0]), Bootstrap())
    assert value == 1 and np.isnan(low) and np.isnan(high)


@pytest.mark.parametrize("seed", [0, 7])
def test_a_seed_gives_the_same_bytes_again_and_another_seed_others(study, tmp_path, seed):
    files = []
    for name, used in (("a", seed), ("b", seed), ("c", seed + 1)):
        files.append(tmp_path / name)
        results.write_csv(gather(study, bootstrap=Bootstrap(used, 100)), files[-1])
    a, b, c = (f.read_bytes() for f in files)
    assert a == b
    assert a != c


def test_the_order_of_the_inputs_does_not_matter(study, table):
    shuffled = {k: list(reversed(v)) for k, v in reversed(study.scores.items())}
    pairs = {k: list(reversed(v)) for k, v in reversed(study.pairs.items())}
    again = gather(study, systems=study.systems[::-1], scores=shuffled, pairs=pairs)
    pd.testing.assert_frame_equal(table, again)


def test_reading_back_what_was_written(study, table, tmp_path):
    results.write_csv(table, tmp_path / "results.csv")
    again = results.read_csv(tmp_path / "results.csv")
    pd.testing.assert_frame_equal(table, again, rtol=1e-9, check_dtype=False)
    assert str(again.n.dtype) == "Int64" and (again.ablation == "").all()
    with pytest.raises(InputError, match="not a table"):
        results.read_csv(tmp_path / "nothing.csv")


def test_a_table_from_before_ablations_varied_any_field_is_read(table, tmp_path):
    """It had no column `setting`; a table that lacks another column is refused as before."""
    results.write_csv(table, tmp_path / "new.csv")
    lines = pd.read_csv(tmp_path / "new.csv", dtype=str, keep_default_na=False)
    lines.drop(columns="setting").to_csv(tmp_path / "old.csv", index=False)
    pd.testing.assert_frame_equal(
        results.read_csv(tmp_path / "old.csv"), results.read_csv(tmp_path / "new.csv")
    )
    lines.drop(columns="ablation").to_csv(tmp_path / "torn.csv", index=False)
    with pytest.raises(InputError, match="is not a table of results"):
        results.read_csv(tmp_path / "torn.csv")


def without(mapping, key):
    return {k: v for k, v in mapping.items() if k != key}


def test_a_missing_system_is_an_error_unless_partial(study):
    label = "zoo-s/gkd/zoo-l-sft"
    scores = without(study.scores, label)
    with pytest.raises(InputError, match=f"{label}: no scores on"):
        gather(study, scores=scores)
    partial = gather(study, scores=scores, partial=True)
    assert label not in set(partial.system)
    assert "zoo-s/revkd/zoo-l-sft" in set(partial.system)


def test_a_missing_pair_is_an_error_unless_partial(study):
    key = ("zoo-s/sft", "zoo-l/sft")
    pairs = without(study.pairs, key)
    with pytest.raises(InputError, match="never compared"):
        gather(study, pairs=pairs)
    partial = gather(study, pairs=pairs, partial=True)
    own = partial[(partial.system == key[0]) & (partial.metric == "agreement")]
    assert own.empty


def test_a_partial_system_gets_no_average(study):
    scores = study.scores | {
        "zoo-s/sft": [s for s in study.scores["zoo-s/sft"] if s.benchmark != "choice"]
    }
    table = gather(study, scores=scores, pairs={}, partial=True)
    assert AVERAGE not in set(table[table.system == "zoo-s/sft"].benchmark)


def test_doubled_and_ragged_items_are_errors(study):
    rows = study.scores["zoo-s/sft"]
    with pytest.raises(InputError, match="scored twice"):
        gather(study, scores=study.scores | {"zoo-s/sft": [*rows, rows[0]]})
    with pytest.raises(InputError, match="other items than elsewhere"):
        gather(study, scores=study.scores | {"zoo-s/sft": rows[1:]})
    extra = dataclasses.replace(rows[0], sample=1)
    with pytest.raises(InputError, match="different numbers of draws"):
        gather(study, scores=study.scores | {"zoo-s/sft": [*rows, extra]})


def test_pairs_must_cover_every_item_once(study):
    key = ("zoo-s/sft", "zoo-l/sft")
    with pytest.raises(InputError, match="do not cover each scored item once"):
        gather(study, pairs=study.pairs | {key: [*study.pairs[key], study.pairs[key][0]]})


def test_unknown_and_doubled_labels_are_errors(study):
    with pytest.raises(InputError, match="which is no system"):
        gather(study, scores=study.scores | {"stranger": []})
    with pytest.raises(InputError, match="two systems are called"):
        gather(study, systems=[*study.systems, study.systems[0]])


def test_draws_of_one_item_are_one_item(study):
    def doubled(rows):
        return [dataclasses.replace(r, sample=s) for r in rows for s in (0, 1)]

    table = gather(
        study,
        scores={k: doubled(v) for k, v in study.scores.items()},
        pairs={k: doubled(v) for k, v in study.pairs.items()},
    )
    single = gather(study)
    for metric in ("accuracy", "gain", "agreement", "bleu_corpus"):
        a, b = (t[t.metric == metric][["value", "low", "high"]].to_numpy() for t in (table, single))
        np.testing.assert_allclose(a, b, rtol=1e-6)
    both = table[table.metric.isin(set(single.metric))]
    assert (both.n.dropna().to_numpy() == single.n.dropna().to_numpy()).all()


@pytest.mark.parametrize("step", [1.0, -1.0, 0.4])
def test_items_that_all_change_alike_leave_doubt_about_the_others(step):
    value, low, high = difference(np.full(20, step), Bootstrap())
    share = 0.025 ** (1 / 20)  # Clopper and Pearson: 20 of 20
    assert value == step
    assert sorted([low, high]) == pytest.approx(sorted([step * share, step]))


def test_what_is_zero_but_for_rounding_is_written_as_zero(table, tmp_path):
    near = table.assign(low=-3.47e-18, high=-0.0, value=table.value)
    write_csv(near, tmp_path / "results.csv")
    lines = (tmp_path / "results.csv").read_text().splitlines()
    low = lines[0].split(",").index("low")
    assert {tuple(line.split(",")[low : low + 2]) for line in lines[1:]} == {("0", "0")}


def test_plain_fine_tuning_alone_is_still_compared_with_its_teacher(study):
    systems = [s for s in study.systems if s.kind in ("sft", "teacher")]
    labels = {s.label for s in systems}
    scores = {k: v for k, v in study.scores.items() if k in labels}
    pairs = {k: v for k, v in study.pairs.items() if set(k) <= labels}
    students = {s.label for s in systems if s.kind == "sft"}
    teachers = {s.label for s in systems if s.kind == "teacher"}
    assert set(compared_pairs(systems)) == {(s, t) for s in students for t in teachers}
    alone = gather(study, systems=systems, scores=scores, pairs=pairs)
    rows = alone[(alone.metric == "agreement") & (alone.benchmark != AVERAGE)]
    found = set(zip(rows.system, rows.reference, strict=True))
    assert found == set(compared_pairs(systems))


def test_an_sft_run_of_another_seed_serves_where_there_is_none_of_the_same(study):
    kd = next(s for s in study.systems if s.kind == "distilled")
    sft = next(s for s in study.systems if s.kind == "sft" and s.model == kd.model)
    others = [dataclasses.replace(sft, label=f"{sft.label}/{i}", seed=i) for i in (7, 3)]
    assert own_sft(dataclasses.replace(kd, seed=5), others).label == f"{sft.label}/3"
    assert own_sft(dataclasses.replace(kd, seed=7), others).label == f"{sft.label}/7"
    with pytest.raises(InputError, match="2 SFT runs could be"):
        own_sft(kd, [dataclasses.replace(sft, label=x) for x in "ab"])


def test_chance_is_told_on_by_the_table_so_that_collapse_is_one_sentence(study, tmp_path):
    chance = dict.fromkeys({s.benchmark for rows in study.scores.values() for s in rows}, 0.9)
    table = gather(study, chance=chance)
    write_csv(table, tmp_path / "results.csv")
    again = analyze(read_runs(tmp_path / "results.csv"))
    first = study_tests(table, study.systems, study.scores, chance)
    said, told = (
        [t.sentence for t in tests if t.table == "collapse" and t.scope == AVERAGE]
        for tests in (first, again)
    )
    assert said == told and "runs collapsed on average (under chance" in said[0]
    unknown = analyze(read_runs_of(gather(study), tmp_path))
    said = next(t.sentence for t in unknown if t.table == "collapse")
    assert "what chance gives is not known here" in said


def read_runs_of(table, folder):
    write_csv(table, folder / "plain.csv")
    return read_runs(folder / "plain.csv")
