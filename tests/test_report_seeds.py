"""Seeds are draws of one system: one row each with mean and spread, its runs one click below."""

import dataclasses
import statistics
from urllib.parse import parse_qsl

import numpy as np
import pandas as pd
import pytest
from fake_study import analysed, fake_study, planned, with_texts
from report_parts import all_figures, all_sheets

from kdstudy.analysis.results import AVERAGE
from kdstudy.report import document
from kdstudy.report.browse import rows_data
from kdstudy.report.compare import page
from kdstudy.report.compare.match import PAIR, StudyRows
from kdstudy.report.data import ReportData
from kdstudy.report.sections import fidelity
from kdstudy.report.seeds import Seeds, names_of, over_seeds
from kdstudy.report.terminal import summary

N = 20
ABLATIONS = {
    "temperature": {"methods": ["word_kd"], "values": [2]},
    "base_teacher": {"methods": ["word_kd"]},
}


def without(study, gone):
    """Return the study with some runs not finished."""
    return dataclasses.replace(
        study,
        scores={k: v for k, v in study.scores.items() if k not in gone},
        pairs={k: v for k, v in study.pairs.items() if not set(k) & set(gone)},
        tokens={k: v for k, v in study.tokens.items() if not set(k) & set(gone)},
    )


@pytest.fixture(scope="module")
def study():
    """One student, three seeds: the commonest design."""
    return fake_study(n=N, systems=planned(**ABLATIONS))


@pytest.fixture(scope="module")
def one(study):
    table, tests = analysed(study)
    rows = {"items": study.items, "systems": study.systems}
    return table, tests, all_sheets(table, tests, made=study.provenance, **rows)


@pytest.fixture(scope="module")
def half():
    """Two students with two seeds each; one SFT run and one distilled run are missing."""
    whole = fake_study(n=N, systems=planned(students=("zoo-xs", "zoo-s"), seeds=(0, 1)))
    table, tests = analysed(
        without(whole, {"zoo-s/sft/seed=1", "zoo-s/gkd/zoo-l/seed=0"}), partial=True
    )
    return table, all_sheets(table, tests)


def accuracies(table, stem, benchmark=AVERAGE, metric="accuracy"):
    """Return a system's values by seed, straight from the tidy table."""
    rows = table[(table.metric == metric) & (table.benchmark == benchmark)]
    rows = rows[rows.system.str.replace(r"/seed=\d+$", "", regex=True) == stem]
    return rows.set_index("seed").value.to_dict()


def csv_of(sheet, folder):
    sheet.save(folder)
    return pd.read_csv(folder / f"{sheet.name}.csv", dtype=str)


def test_a_system_is_one_row_with_mean_and_sample_standard_deviation(one, tmp_path):
    table, _, sheets = one
    frame = csv_of(sheets["table7"], tmp_path)
    assert len(frame) == 3 + 1 + 4 and not frame.duplicated(["Teacher", "Student", "Method"]).any()
    for method, stem in (("SFT", "zoo-s/sft"), ("gkd", "zoo-s/gkd/zoo-l")):
        (row,) = frame[(frame.Student == "zoo-s") & (frame.Method == method)].to_dict("records")
        for benchmark in ("choice", AVERAGE):
            values = [100 * v for v in accuracies(table, stem, benchmark).values()]
            assert len(values) == 3 == int(row["Seeds"])
            assert float(row[benchmark]) == pytest.approx(statistics.mean(values), abs=0.051)
            assert float(row[f"{benchmark} sd"]) == pytest.approx(
                statistics.stdev(values), abs=0.051
            )


def test_one_seed_has_no_standard_deviation(one, tmp_path):
    frame = csv_of(one[2]["table7"], tmp_path).set_index(["Student", "Method"])
    assert frame.loc[("zoo-l", "SFT"), "average sd"] == "–"
    assert frame.loc[("zoo-s", "base"), ["Seeds", "average sd"]].tolist() == ["1", "–"]
    text = "".join((tmp_path / f"table7.{end}").read_text("utf-8") for end in ("csv", "md", "tex"))
    assert "nan" not in text and "| 1 | " in text and "± –" in text
    single, tests = analysed(fake_study(n=8, systems=planned(seeds=(0,))))
    for sheet in all_sheets(single, tests).values():
        assert not sheet.spread and "Seeds" not in sheet.frame, sheet.name


def test_every_table_of_systems_has_one_row_per_system(one):
    sheets = one[2]
    for name in ("systems", "cost", "flow", "collapse", "ablations", "kept"):
        systems = sheets[name].frame.System
        assert not systems.duplicated().any() and not systems.str.contains("seed").any(), name
    for name in ("pairs", "likeness", "tokens", "apart"):
        frame = sheets[name].frame
        key = [c for c in ("System", "Against", "Teacher", "Benchmark") if c in frame]
        assert not frame.duplicated(key).any() and not frame.System.str.contains("seed").any(), name


def test_the_runs_lie_under_their_system_with_their_own_numbers(one):
    table, _, sheets = one
    sheet = sheets["systems"]
    column = list(sheet.frame.columns).index("Accuracy")
    entry = next(e for e in sheet.entries if e.cells[0].text == "zoo-s/gkd/zoo-l")
    assert [cells[0].text for cells in entry.runs] == ["seed 0", "seed 1", "seed 2"]
    for (seed, value), cells in zip(
        accuracies(table, "zoo-s/gkd/zoo-l").items(), entry.runs, strict=True
    ):
        assert float(cells[column].text.rstrip("%")) == pytest.approx(100 * value, abs=0.051)
        assert cells[column].ends and not cells[column].sd
        assert dict(parse_qsl(cells[column].href))["#rows?system"] == f"zoo-s/gkd/zoo-l/seed={seed}"
    teacher = next(e for e in sheet.entries if e.cells[0].text == "zoo-l/teacher")
    assert teacher.runs == []


def test_a_mean_opens_the_rows_of_all_its_runs(one):
    table, _, sheets = one
    data = rows_data(table, names_of(table))
    seen = 0
    for sheet in (sheets["systems"], sheets["pairs"], sheets["tokens"], sheets["flow"]):
        for entry in sheet.entries:
            for cell in entry.cells:
                kind, _, query = cell.href.partition("?")
                wanted = dict(parse_qsl(query))
                if kind != "#rows" or "metric" not in wanted:
                    continue
                rows = table
                for column, value in wanted.items():
                    codes = data[column].get("systems", {}).get(value)
                    values = data[column]["values"]
                    fits = [values[i] for i in codes] if codes else [value]
                    rows = rows[rows[column].isin(fits)]
                assert len(rows) == max(1, len(entry.runs)), (sheet.name, cell)
                number = float(cell.text.rstrip("%").replace("−", "-"))
                mean = rows.value.mean()
                assert min(abs(number - mean), abs(number - 100 * mean)) < 0.0501
                seen += 1
    assert seen > 100


def test_a_gain_is_the_difference_of_the_two_rows_that_a_reader_sees(half, tmp_path):
    table, sheets = half
    means = over_seeds(table)
    gain = means[(means.metric == "gain") & (means.benchmark == AVERAGE)].set_index("system")
    for student, methods in (("zoo-xs", ("gkd", "revkd")), ("zoo-s", ("revkd", "seqkd"))):
        before = np.mean(list(accuracies(table, f"{student}/sft").values()))
        for method in methods:
            stem = f"{student}/{method}/zoo-l"
            after = np.mean(list(accuracies(table, stem).values()))
            assert gain.value[stem] == pytest.approx(after - before, abs=1e-12)
            assert gain.low[stem] < gain.value[stem] < gain.high[stem]
    # Of zoo-s one seed alone has an SFT run: its gains have no spread.
    assert np.isnan(gain.sd["zoo-s/revkd/zoo-l"]) and gain.sd["zoo-xs/revkd/zoo-l"] > 0
    rows = csv_of(sheets["systems"], tmp_path).set_index("System")
    assert rows.loc["zoo-s/revkd/zoo-l", ["Seeds", "Gain over SFT sd"]].tolist() == ["2", "–"]


def test_half_finished_systems_say_how_many_seeds_they_have(half, tmp_path):
    table, sheets = half
    frame = csv_of(sheets["table7"], tmp_path).set_index(["Student", "Method"])
    assert (
        frame.Seeds.to_dict() | {("zoo-s", "SFT"): "1", ("zoo-s", "gkd"): "1"}
        == frame.Seeds.to_dict()
    )
    assert frame.loc[("zoo-s", "gkd"), "average sd"] == "–"
    assert frame.loc[("zoo-xs", "gkd"), "Seeds"] == "2"
    for sheet in sheets.values():
        for entry in sheet.entries:
            assert "nan" not in " ".join(f"{c.printed()} {c.sd}" for c in entry.cells)
    only = names_of(table)
    assert only["zoo-s/gkd/zoo-l/seed=1"] == "zoo-s/gkd/zoo-l/seed=1"  # no other seed is there


def test_two_teachers_keep_their_systems_apart():
    systems = planned(teachers=("zoo-l", "zoo-m"), seeds=(0, 1), methods=("sft", "gkd"))
    table, tests = analysed(fake_study(n=N, systems=systems))
    frame = all_sheets(table, tests)["table7"].frame
    rows = frame[frame.Student == "zoo-s"][["Teacher", "Method", "Seeds"]]
    assert rows.to_numpy().tolist() == [
        ["–", "base", "1"],
        ["–", "SFT", "2"],
        ["zoo-l", "gkd", "2"],
        ["zoo-m", "gkd", "2"],
    ]
    said = summary(Seeds(table))
    assert "agrees with zoo-l" in said and "agrees with zoo-m" in said
    figure = all_figures(table, tests)["accuracy"].data["rows"]
    assert set(figure.group) == {"zoo-s ← zoo-l", "zoo-s ← zoo-m"}


@pytest.mark.parametrize("teachers", [("zoo-l",), ()])
def test_plain_fine_tuning_alone_makes_tables_too(teachers):
    systems = planned(teachers=teachers, methods=("sft",))
    table, tests = analysed(fake_study(n=N, systems=systems))
    sheets = all_sheets(table, tests)
    frame = sheets["systems"].frame.set_index("System")
    assert frame.loc["zoo-s/sft", "Seeds"] == "3"
    said = summary(Seeds(table))
    assert said.splitlines()[-1].startswith("zoo-s/sft") and "over SFT" not in said


def test_texts_alone_are_averaged_over_seeds(tmp_path):
    mixed = with_texts(fake_study(n=4, systems=planned(methods=("sft", "gkd"))), n=10)
    scores = {k: [r for r in v if r.benchmark == "follow"] for k, v in mixed.scores.items()}
    pairs = {k: [r for r in v if r.benchmark == "follow"] for k, v in mixed.pairs.items()}
    table, tests = analysed(
        dataclasses.replace(mixed, scores=scores, pairs=pairs, overlaps={}, tokens={})
    )
    frame = csv_of(all_sheets(table, tests)["instruct"], tmp_path).set_index("System")
    values = [100 * v for v in accuracies(table, "zoo-s/gkd/zoo-l", "follow", "rouge_l").values()]
    row = frame.loc["zoo-s/gkd/zoo-l"]
    assert float(row["ROUGE-L"].split(" ")[0]) == pytest.approx(statistics.mean(values), abs=0.051)
    assert float(row["ROUGE-L sd"]) == pytest.approx(statistics.stdev(values), abs=0.051)
    assert "ROUGE-L ± sd" in summary(Seeds(table))


def test_figures_draw_the_mean_large_and_each_seed_small(one):
    table, tests, _ = one
    figures = all_figures(table, tests)
    rows = figures["accuracy"].data["rows"]
    rows = rows[(rows.method == "gkd") & (rows.benchmark == AVERAGE)]
    values = accuracies(table, "zoo-s/gkd/zoo-l")
    assert sorted(rows[rows.part == "seed"].value) == pytest.approx(sorted(values.values()))
    (mean,) = rows[rows.part == "mean"].value
    assert mean == pytest.approx(statistics.mean(values.values()))
    svg = figures["accuracy"].svg()
    assert svg.count("zoo-s/gkd/zoo-l/seed=1 on average") == 1 and "mean of 3 seeds" in svg
    # SFT beside the task-unaware teacher is the mean of its seeds, not the first of them.
    line = figures["base-teacher"].data["rows"]
    line = line[(line.benchmark == AVERAGE) & (line.part == "mean")].sft_line
    sft = accuracies(table, "zoo-s/sft")
    assert len(set(sft.values())) > 1
    assert list(line) == pytest.approx([statistics.mean(sft.values())] * len(line))


def test_no_best_student_is_chosen_among_seeds(study, one):
    table = one[0].copy()
    lucky = (table.system == "zoo-s/seqkd/zoo-l/seed=2") & (table.metric == "accuracy")
    poor = table.system.str.startswith("zoo-s/seqkd/zoo-l") & (table.metric == "accuracy")
    table.loc[poor, "value"] = 0.01
    table.loc[lucky, "value"] = 0.9
    best = max(
        (m for m in ("seqkd", "word_kd", "revkd", "gkd")),
        key=lambda m: np.mean(list(accuracies(table, f"zoo-s/{m}/zoo-l").values())),
    )
    assert best != "seqkd"
    said = fidelity.sentences(Seeds(table), [])[0]
    assert said.startswith(f"zoo-s/{best}/zoo-l gives its teacher's answer")
    assert "over 3 seeds" in said
    run, teacher = ReportData(table=table).first
    assert (run, teacher) == (f"zoo-s/{best}/zoo-l/seed=0", "zoo-l/teacher")


def test_the_terminal_lists_teachers_bases_sft_and_distilled_with_agreement(one):
    table = one[0]
    lines = summary(Seeds(table)).splitlines()
    assert [line.split()[0] for line in lines[1:5]] == [
        "zoo-l/teacher",
        "zoo-s",
        "zoo-l",
        "zoo-s/sft",
    ]
    pair = accuracies(table, "zoo-s/sft", metric="agreement")
    rows = table[(table.metric == "agreement") & (table.reference == "zoo-l/teacher")]
    rows = rows[(rows.kind == "sft") & (rows.benchmark == AVERAGE)]
    assert len(rows) == len(pair) == 3
    mean, sd = 100 * rows.value.mean(), 100 * statistics.stdev(rows.value)
    assert lines[4].endswith(f"{mean:.1f}% ± {sd:.1f}")
    gains = accuracies(table, "zoo-s/gkd/zoo-l", metric="gain")
    (gkd,) = [line for line in lines if line.startswith("zoo-s/gkd/zoo-l ")]
    assert f"{100 * statistics.mean(gains.values()):+.1f} ± ".replace("-", "−") in gkd


def test_runs_with_one_seed_are_two_systems_whatever_their_fields_say(one):
    table = one[0]
    twin = table[table.system == "zoo-s/gkd/zoo-l/seed=0"].assign(
        system="zoo-s@v2/gkd/zoo-l/seed=0"
    )
    names = names_of(pd.concat([table, twin], ignore_index=True))
    assert names["zoo-s@v2/gkd/zoo-l/seed=0"] == "zoo-s@v2/gkd/zoo-l/seed=0"
    assert {names[f"zoo-s/gkd/zoo-l/seed={i}"] for i in range(3)} == {"zoo-s/gkd/zoo-l"}


def test_results_csv_has_a_row_per_run_and_the_page_a_row_per_system(study, one, tmp_path):
    table, tests, _ = one
    path = document.write(
        tmp_path,
        table=table,
        items=study.items,
        pairs=study.pair_items,
        systems=study.systems,
        tests=tests,
        provenance=study.provenance,
        max_items=3,
    )
    kept = pd.read_csv(tmp_path / "results.csv")
    assert len(kept) == len(table) and "zoo-s/gkd/zoo-l/seed=2" in set(kept.system)
    text = path.read_text("utf-8")
    assert text.count('<tr class="run" hidden>') > 50
    assert (tmp_path / "summary.txt").read_text("utf-8") == summary(Seeds(table))


def test_two_studies_side_by_side_have_a_row_per_system(study, one, tmp_path):
    table, _, _ = one
    keep = [
        "zoo-l/teacher",
        *(f"zoo-s/{m}/seed={i}" for m in ("sft", "gkd/zoo-l") for i in range(3)),
    ]
    columns = ["system", "benchmark", "example_id", "sample", "quality", "rule", "gold"]
    items = study.items.assign(rule="number-corrected")
    items = items[items.system.isin(keep)][columns]
    # Study B gets the first item of every benchmark right, whatever A did.
    better = items.example_id.str.endswith("-0000")
    rows = [
        StudyRows(
            name=name,
            study={},
            systems=study.systems,
            table=table,
            items=items.assign(
                quality=items.quality.where(~better, 1.0) if name == "b" else items.quality
            ),
            pairs=study.pair_items[PAIR],
        )
        for name in ("a", "b")
    ]
    page.write(tmp_path, *rows)
    frame = pd.read_csv(tmp_path / "tables" / "averages.csv", dtype=str)
    assert sorted(frame.System) == ["zoo-l/teacher", "zoo-s/gkd/zoo-l", "zoo-s/sft"]
    assert frame.set_index("System").Seeds.to_dict()["zoo-s/sft"] == "3"
    values = [100 * v for v in accuracies(table, "zoo-s/sft").values()]
    row = frame.set_index("System").loc["zoo-s/sft"]
    assert float(row.A.rstrip("%")) == pytest.approx(statistics.mean(values), abs=0.051)
    assert float(row["A sd"]) == pytest.approx(statistics.stdev(values), abs=0.051)
    same = pd.read_csv(tmp_path / "tables" / "same-answer.csv", dtype=str)
    assert not same.duplicated(["System", "Against", "Benchmark"]).any()
    assert set(same["B − A"]) == {"+0.0"}
    text = (tmp_path / "compare.html").read_text("utf-8")
    assert "up to 3 training seeds" in text and "ticks: single seeds" in text
    assert "of the paper" not in text
