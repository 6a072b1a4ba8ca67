"""The loss statement as a section of the report, as a page and as Markdown."""

import dataclasses

import pandas as pd
import pytest
from fake_study import analysed, fake_study, planned, with_texts
from report_parts import Words, all_figures, all_sheets, only

from kdstudy.analysis.losses import COLUMNS, ELSEWHERE
from kdstudy.analysis.measures import AVERAGE, HELD_OUT
from kdstudy.errors import InputError
from kdstudy.report import statement as page
from kdstudy.report.data import ReportData
from kdstudy.report.sections import statement

TOO_NEAR = [
    {"step": 10 * i, "eval_loss": 1.0 / (i + 1), "eval_cross_entropy": 1.0 + 0.1 * abs(i - 2)}
    for i in range(6)
]


def data_of(study, **more):
    table, tests = analysed(study)
    return ReportData(
        table=table,
        tests=tests,
        items=study.items,
        pairs=study.pair_items,
        systems=study.systems,
        made=study.provenance,
        **{"tokens": study.tokens, **more},
    )


@pytest.fixture(scope="module")
def whole():
    """A study with free texts, a corpus whose responses are known, and a run that hacks."""
    study = with_texts(fake_study(n=30), n=12)
    run = {"system": "zoo-m/word_kd/zoo-l-sft", "curve": TOO_NEAR}
    made = study.provenance | {"training": [*study.provenance["training"], run]}
    study = dataclasses.replace(study, provenance=made)
    texts = study.items[study.items.benchmark != "follow"].completion.iloc[:40]
    return data_of(study, responses=[*texts], elsewhere=["choice"])


@pytest.fixture(scope="module", params=[(0, 1, 2), (0,)], ids=["three seeds", "one seed"])
def few(request):
    """One student, one method, one benchmark."""
    systems = planned(students=("zoo-s",), seeds=request.param, methods=("sft", "word_kd"))
    study = only(fake_study(n=40, systems=systems), "two_step")
    items = study.items[study.items.benchmark == "two_step"]
    return data_of(dataclasses.replace(study, items=items))


def test_every_student_of_the_main_grid_has_its_lines(whole):
    found = whole.losses
    grid = [s for s in whole.systems if s.kind == "distilled" and not s.ablation]
    assert list(dict.fromkeys(found.system)) == [s.label for s in grid]
    summed = found[found.benchmark.isin([AVERAGE, ELSEWHERE, HELD_OUT])]
    assert set(zip(summed.measure, summed.benchmark, strict=True)) == {
        ("accuracy_kept", AVERAGE),
        ("accuracy_kept", ELSEWHERE),
        ("text_kept", AVERAGE),
        ("forgetting", ELSEWHERE),
        ("over_base", AVERAGE),
        ("false_equations", AVERAGE),
        ("copied", AVERAGE),
        *((m, HELD_OUT) for m in ("token_overconfidence", "likelihood_lost")),
        *((m, HELD_OUT) for m in ("recall_lost", "precision_lost")),
    }


def test_its_accuracies_are_those_of_the_results(whole):
    known = whole.table[whole.table.metric == "accuracy"].set_index(["system", "benchmark"]).value
    rows = whole.losses[whole.losses.measure == "accuracy_kept"]
    for r in rows[~rows.benchmark.isin([AVERAGE, ELSEWHERE])].itertuples():
        assert r.student == pytest.approx(known[r.system, r.benchmark])
        assert r.reference == pytest.approx(known[r.teacher, r.benchmark])
    forgotten = whole.losses[whole.losses.measure == "forgetting"]
    for r in forgotten.itertuples():
        base = known[f"{r.system.split('/')[0]}/base", "choice"]
        assert (r.of, r.value) == ("choice", pytest.approx(r.student - base))


def test_the_best_student_comes_first_and_the_hacking_run_is_named(whole):
    best, *_ = statement.statements(whole)
    ranked = whole.seeds.means[
        (whole.seeds.means.metric == "accuracy") & (whole.seeds.means.kind == "distilled")
        & (whole.seeds.means.ablation == "") & (whole.seeds.means.benchmark == AVERAGE)
    ]  # fmt: skip
    assert best[0] == ranked.sort_values("value").system.iloc[-1]
    said = {k[0]: " ".join(told) for k, told in statement.statements(whole).items()}
    assert {name for name, told in said.items() if "Teacher hacking" in told} == {
        "zoo-m/word_kd/zoo-l-sft"
    }
    assert all("gives its teacher's answer on" in told for told in said.values())
    assert "hacking" in " ".join(statement.notes(whole))


def test_a_small_study_has_no_dashes_and_no_averages(few):
    parts = {"table": few.table, "tests": few.tests, "items": few.items, "systems": few.systems}
    parts |= {"made": few.made, "pairs": few.pairs, "tokens": few.tokens}
    sheet = all_sheets(**parts)["statement"]
    assert list(sheet.columns) == [
        *("What", "On", "Student", "Compared with", "Kept, or change", "In words", "n")
    ]
    assert AVERAGE not in sheet.frame.to_numpy()
    assert set(sheet.frame.On) == {"two_step", "held-out text"}
    assert "statement" in all_figures(**parts)
    ((first, *more),) = statement.statements(few).values()
    assert first.startswith("zoo-s/word_kd/zoo-l keeps ") and "–" not in first
    seeds = few.losses.seeds.max()
    over = "40 items and 3 seeds." if seeds == 3 else "40 items of one run: another seed"
    assert over in more[-1]


def test_a_page_of_its_own_needs_nothing_else(whole, tmp_path):
    path = page.write(tmp_path / "new", whole, "zoo-demo")
    html = path.read_text("utf-8")
    told = statement.statements(whole)
    sections = Words(html).sections
    assert len(sections) == len(told) + 2
    summed = " ".join(sections["sum"]["text"])
    assert all(first in summed for first, *_ in told.values())
    assert sections["sum"]["figures"] == ["statement"]
    assert [s["tables"] for name, s in sections.items() if name.startswith("student")] == [
        [f"statement-{i}"] for i in range(len(told))
    ]
    assert "<script" not in html and 'href="#rows' not in html
    assert "http" not in html.replace("http://www.w3.org", "").replace("http-equiv", "")
    written = pd.read_csv(path.parent / "statement.csv")
    assert list(written.columns) == COLUMNS and len(written) == len(whole.losses)
    assert written.value.to_numpy() == pytest.approx(whole.losses.value.to_numpy(), nan_ok=True)
    for folder, name in (("tables", "statement-0.tex"), ("figures", "statement.pdf")):
        assert (path.parent / folder / name).is_file()


def test_markdown_for_a_card_is_of_one_student(whole, tmp_path):
    label = "zoo-s/gkd/zoo-l-sft"
    one = dataclasses.replace(whole, students=(label,))
    assert set(one.losses.system) == {label}
    text = page.markdown(one)
    ((first, *_),) = statement.statements(one).values()
    assert text.startswith(f"## What was kept and what was lost\n\n### {label}\n\n{first}\n\n- ")
    assert text.count("| What | On |") == 1 and text.count("\n### ") == 2
    all_of_it = page.write(tmp_path, whole, "zoo-demo").parent / "statement.md"
    assert first in all_of_it.read_text("utf-8")


def test_a_seed_of_a_student_can_be_told_of_alone():
    systems = planned(students=("zoo-s",), seeds=(0, 1), methods=("sft", "word_kd"))
    data = data_of(fake_study(n=30, systems=systems))
    (name,) = set(data.losses.system)
    runs = [s.label for s in systems if s.kind == "distilled"]
    each = [dataclasses.replace(data, students=(run,)).losses for run in runs]
    mean = data.losses[data.losses.measure == "accuracy_kept"].value.to_numpy()
    singles = [t[t.measure == "accuracy_kept"].value.to_numpy() for t in each]
    assert sum(singles) / 2 == pytest.approx(mean)
    assert [set(t.system) for t in each] == [{run} for run in runs] and name not in runs
    assert set(each[0].seeds) == {1} and set(data.losses.seeds) == {2}
    for students in ((), (name,), (runs[0],)):
        (told,) = statement.statements(dataclasses.replace(data, students=students)).values()
        assert "gives its teacher's answer on" in told[1]


def test_a_student_of_several_teachers_is_set_beside_each():
    systems = planned(students=("zoo-s",), seeds=(0,), methods=("sft", "word_kd"))
    teacher = next(s for s in systems if s.kind == "teacher")
    second = dataclasses.replace(teacher, label="zoo-l/other", seed=9)
    systems = tuple(
        dataclasses.replace(s, teachers=(teacher.label, second.label)) if s.teachers else s
        for s in systems
    )
    data = data_of(fake_study(n=30, systems=(second, *systems)), tokens={})
    assert set(data.losses.teacher) == {teacher.label, second.label}
    told = statement.statements(data)
    assert [k[1] for k in told] == [teacher.label, second.label]
    assert all(said[0].startswith(f"Against {k[1]}: ") for k, said in told.items())
    assert "Teacher" in statement.sheet(data.losses, data).columns


def test_a_study_that_has_measured_nothing_yet_has_no_section(whole, tmp_path):
    nothing = dataclasses.replace(whole, items=whole.items.iloc[:0], tokens={})
    assert nothing.losses.empty and not statement.section(nothing).filled().blocks
    with pytest.raises(InputError, match="no distilled student has been measured beside its"):
        page.write(tmp_path / "none", nothing, "zoo-demo")
    assert not (tmp_path / "none").exists()


def test_a_students_name_is_text_on_the_page(whole, tmp_path):
    name = "<img src=x onerror=document.title='run'>|`"
    run = "zoo-s/gkd/zoo-l-sft"

    def renamed(frame):
        return frame.replace({c: {run: name} for c in ("system", "reference") if c in frame})

    data = dataclasses.replace(
        whole,
        table=renamed(whole.table),
        items=renamed(whole.items),
        pairs=renamed(whole.pairs),
        systems=[
            dataclasses.replace(s, label=name) if s.label == run else s for s in whole.systems
        ],
        tests=(),
        students=(name,),
    )
    html = page.write(tmp_path, data, "<b>study</b>").read_text("utf-8")
    assert "&lt;img src=x" in html and "<img" not in html and "<b>" not in html
