"""What changed items cost: by hand, in worlds whose faults are known, in plans and in reports."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
from fake_study import analysed, fake_study
from fake_study import planned as planned_systems
from study_folder import plan_of, write_folder

from kdstudy.analysis.intervals import Bootstrap
from kdstudy.analysis.losses import distilled, least_known, over_items_and_seeds, statement
from kdstudy.analysis.measures import AVERAGE
from kdstudy.analysis.robustness import changes, varied_cells
from kdstudy.errors import InputError
from kdstudy.evaluation.kinds import GenerateConfig, ScoreConfig
from kdstudy.evaluation.variants import TEMPLATE
from kdstudy.measures.cell import cells_of
from kdstudy.measures.robustness import LOSSES
from kdstudy.records import Score, System
from kdstudy.report import loss_words as words
from kdstudy.report import statement as page
from kdstudy.report.data import ReportData
from kdstudy.report.sections import robustness
from kdstudy.report.sections import statement as section
from kdstudy.report.sheet import Sheet
from kdstudy.stage import kinds

FACTS = {f"math:{v}": {"original": "math", "variant": v} for v in LOSSES}


def score(i, right, benchmark="math", sample=0):
    return Score(
        benchmark=benchmark,
        example_id=f"{i:05d}",
        sample=sample,
        completion="",
        extracted="gold" if right else "other",
        rule="number-corrected",
        outcome="correct" if right else "wrong",
        quality=float(right),
        tokens=5,
    )


def rows(rights, benchmark="math", ids=None):
    return [score(i, r, benchmark) for i, r in zip(ids or range(len(rights)), rights, strict=True)]


def systems_of(students, seeds=()):
    base = [System(label=m, kind="base", model=m) for m in ("big", "small")]
    names = [f"{s}/seed={k}" for s in students for k in seeds] if seeds else students
    return [
        dataclasses.replace(base[0], kind="teacher"),
        base[1],
        *(
            System(label=n, kind="distilled", model="small", teachers=("big",), method="word_kd")
            for n in names
        ),
    ]


def cells(scores):
    return {label: cells_of(label, found) for label, found in scores.items()}


def table_of(scores, changed, names=None, boot=1000):
    """Return the statement of every system but the teacher `big` and the base `small`."""
    students = [label for label in scores if label not in ("big", "small")]
    whole = cells(scores)
    found = systems_of(students)
    return statement(
        distilled(found, names or {}),
        found,
        whole,
        chance={},
        varied=varied_cells(changed, whole, FACTS),
        bootstrap=Bootstrap(resamples=boot),
    )


def one(table, measure, system=None):
    found = table[(table.measure == measure) & (table.benchmark == AVERAGE)]
    found = found[found.system == system] if system else found
    (row,) = found.itertuples()
    return row


def test_five_items_by_hand():
    scores = {"big": rows([1, 1, 1, 1, 0]), "s": rows([1, 1, 1, 0, 0]), "small": rows([0] * 5)}
    ids = [0, 1, 3, 4]  # the third has no variant
    changed = {
        "big": rows([1, 1, 1, 0], "math:numbers", ids),
        "s": rows([0, 1, 0, 0], "math:numbers", ids),
        "small": rows([0, 0, 0, 1], "math:numbers", ids),
    }
    found = one(table_of(scores, changed), "robust_numbers")
    assert (found.student, found.reference, found.value) == (-0.25, 0.0, -0.25)
    assert (found.n, found.of, found.against, found.seeds) == (4, "math", "teacher", 1)
    varied = varied_cells(changed, cells(scores), FACTS)
    own = changes(varied, systems_of(["s"]), {}).set_index("system")
    assert list(own.loc["s", ["before", "after", "change", "n"]]) == [0.5, 0.25, -0.25, 4]
    assert list(own.loc["small", ["before", "after", "change", "n"]]) == [0.0, 0.25, 0.25, 4]
    # Nothing moves: (0 + 1) / 6 is the variance of four items and the two that are added.
    half = 1.959964 * np.sqrt(1 / 6 / 6)
    assert list(own.loc["big", ["change", "low", "high"]]) == pytest.approx([0, -half, half])


def test_draws_of_an_item_are_averaged_and_seeds_are_the_mean():
    def drawn(rights, benchmark="math"):
        return [
            score(i, r, benchmark, j) for i, item in enumerate(rights) for j, r in enumerate(item)
        ]

    scores = {"big": drawn([[1, 1], [1, 0], [0, 0]])}
    changed = {"big": drawn([[1, 1], [1, 0], [0, 0]], "math:names")}
    for seed, after in ((0, [[0, 1], [0, 0], [0, 0]]), (1, [[1, 1], [0, 0], [0, 0]])):
        scores[f"s/seed={seed}"] = drawn([[1, 1], [1, 0], [0, 1]])
        changed[f"s/seed={seed}"] = drawn(after, "math:names")
    names = {f"s/seed={k}": "s" for k in (0, 1)}
    found = one(table_of(scores, changed, names), "robust_names")
    assert found.student == pytest.approx(((0.5 - 2) / 3 + (1 - 2) / 3) / 2)
    assert (found.reference, found.seeds, found.n) == (0.0, 2, 3)
    # Over seeds: the sample standard deviation of -1/2 and -1/3.
    assert found.sd == pytest.approx(np.std([-0.5, -1 / 3], ddof=1))


def test_the_interval_is_that_of_items_drawn_again():
    """Against a bootstrap written out: the difference of the differences, items together."""
    rng = np.random.default_rng(0)
    n = 401
    parts = {k: rng.uniform(size=n) < p for k, p in zip("abcd", (0.9, 0.85, 0.8, 0.6), strict=True)}
    found = one(
        table_of(
            {"big": rows(parts["a"]), "s": rows(parts["c"])},
            {"big": rows(parts["b"], "math:template"), "s": rows(parts["d"], "math:template")},
            boot=4000,
        ),
        "robust_template",
    )
    per_item = (parts["d"] * 1.0 - parts["c"]) - (parts["b"] * 1.0 - parts["a"])
    again = per_item[np.random.default_rng(1).integers(0, n, (20000, n))].mean(axis=1)
    assert found.value == pytest.approx(per_item.mean())
    assert [found.low, found.high] == pytest.approx(np.quantile(again, [0.025, 0.975]), abs=0.006)


def test_a_variant_counts_in_no_other_line():
    rng = np.random.default_rng(3)
    scores = {
        k: rows(rng.uniform(size=60) < p) for k, p in (("big", 0.9), ("s", 0.6), ("small", 0))
    }
    changed = {
        k: [r for v in LOSSES for r in rows(rng.uniform(size=60) < 0.1, f"math:{v}")]
        for k in scores
    }
    without, table = table_of(scores, {}), table_of(scores, changed)
    ours = table.measure.str.startswith("robust_")
    assert set(table[ours].measure) == {loss.name for loss in LOSSES.values()}
    assert table[~ours].reset_index(drop=True).equals(without)
    assert not without.measure.str.startswith("robust_").any()


def test_an_item_of_nowhere_is_refused():
    scores = {"big": rows([1, 0]), "s": rows([1, 0])}
    with pytest.raises(InputError, match=r"big: math:names: item 00007 is none of the benchmark's"):
        table_of(scores, {"big": rows([1], "math:names", [7])})


# Worlds: one student has each fault, one has none.

ITEMS = 400
FAULTS = {
    "memorised numbers": "numbers",
    "knows one cast": "names",
    "is put off by a sentence": "irrelevant",
    "reads any number": "irrelevant_number",
    "knows one prompt": "template",
    "none": "",
}


def world(seed):
    """Return each line's verdict by student; teacher and students differ in skill, not in fault."""
    rng = np.random.default_rng(seed)
    ease = rng.uniform(0.4, 1, ITEMS)
    kept = rng.uniform(size=(len(LOSSES), ITEMS)) < 0.8  # not every item has every variant
    scores, changed = {}, {}
    for name in ("big", *FAULTS):
        right = rng.uniform(size=ITEMS) < ease * (1 if name == "big" else 0.85)
        scores[name], changed[name] = rows(right), []
        for variant, there in zip(LOSSES, kept, strict=True):
            again = rng.uniform(size=ITEMS) < ease * (1 if name == "big" else 0.85)
            after = np.where(rng.uniform(size=ITEMS) < 0.7, right, again)
            if FAULTS.get(name) == variant:
                after = after & (rng.uniform(size=ITEMS) < 0.75)
            ids = [int(i) for i in np.flatnonzero(there)]
            changed[name] += rows(after[ids], f"math:{variant}", ids)
    found = table_of(scores, changed, boot=300)
    found = found[found.measure.str.startswith("robust_") & (found.benchmark == AVERAGE)]
    return {(r.system, r.measure.removeprefix("robust_")): r for r in found.itertuples()}


def test_each_line_speaks_for_its_own_fault_and_for_no_other():
    worlds = [world(seed) for seed in range(20)]
    said = [{key: words.verdict(row) for key, row in w.items()} for w in worlds]
    lost = Counter(key for w in said for key, v in w.items() if v == words.LOST)
    moved = Counter(key for w in said for key, v in w.items() if v in (words.LOST, words.GAINED))
    own = {(fault, variant) for fault, variant in FAULTS.items() if variant}
    assert set(said[0]) == {(fault, variant) for fault in FAULTS for variant in LOSSES}
    for key in own:
        assert lost[key] >= 19, key
    silent = [key for key in said[0] if key not in own]
    share = sum(moved[key] for key in silent) / len(silent) / len(worlds)
    assert share <= 0.08  # 500 tests at 5%: 0.05 + 3 standard errors
    assert sum(lost[key] for key in silent) / len(silent) / len(worlds) <= 0.05


@pytest.mark.parametrize(("n", "share"), [(30, 0.05), (30, 0.1), (100, 0.02), (400, 0.01)])
def test_few_items_that_move_by_chance_prove_nothing(n, share):
    """Each item's answer may turn either way; a bootstrap alone is surer than it may be."""
    rng, worlds = np.random.default_rng(n), 400
    wrong = alone = 0
    for _ in range(worlds):
        turned = rng.uniform(size=(2, n)) < share
        was = rng.uniform(size=(2, n)) < 0.5
        moves = np.where(turned, np.where(was, -1.0, 1.0), 0.0)
        moves = moves[0] - moves[1]
        again = moves[rng.integers(0, n, (200, n))].mean(axis=1)
        found = np.append(moves.mean(), again)[None]
        _, low, high, _ = over_items_and_seeds(found, n - 1, least_known([moves], pairs=2))
        wrong += low > 0 or high < 0
        _, low, high, _ = over_items_and_seeds(found, n - 1)
        alone += low > 0 or high < 0
    assert wrong / worlds <= 0.05 + 2 * (0.05 * 0.95 / worlds) ** 0.5
    assert wrong < alone


def test_three_items_that_move_one_way_are_three_coins():
    """By the exact test p is 1/4 for three, 1/8 for four and 1/32 for six."""
    for lost, certain in ((1, False), (3, False), (4, False), (6, True)):
        scores = {"big": rows([1] * 30), "s": rows([1] * 30)}
        after = rows([0] * lost + [1] * (30 - lost), "math:names")
        varied = varied_cells({"s": after}, cells(scores), FACTS)
        row = changes(varied, systems_of(["s"]), {}).iloc[0]
        assert (row.high < 0) == certain, lost


def test_the_interval_holds_the_truth_as_often_as_it_says():
    """The student's fault costs it a quarter of what it gets right: 0.25 * 0.85 * 0.7."""
    held = tries = 0
    for seed in range(15):
        for (fault, variant), row in world(100 + seed).items():
            truth = -0.25 * 0.85 * 0.7 if FAULTS[fault] == variant else 0.0
            held += row.low <= truth <= row.high
            tries += 1
    assert 0.92 <= held / tries <= 0.975


def test_a_student_that_falls_less_than_its_teacher_has_no_loss():
    scores = {"big": rows([1] * 40), "s": rows([1] * 40)}
    changed = {
        "big": rows([1] * 20 + [0] * 20, "math:names"),
        "s": rows([1] * 40, "math:names"),
    }
    table = table_of(scores, changed)
    assert words.verdict(one(table, "robust_names")) == words.KEPT
    worse = table_of(scores, {"big": changed["s"], "s": changed["big"]})
    assert words.verdict(one(worse, "robust_names")) == words.LOST
    told = words.sentences(worse, {})[0]
    assert "loses 50.0 points more than its teacher by other names" in told


# In a plan.

SMALL = {"ablations": {}, "train": {"precision": "float32"}}
EVERY = ["numbers", "names", "irrelevant", "irrelevant_number", "template"]


def planned(folder, **benchmark):
    benchmarks = [{"name": "synth_addsub", **benchmark}, "synth_multiarith"]
    return plan_of(folder, benchmarks=benchmarks, train={"precision": "float32"})


def test_variants_move_no_key_and_are_in_no_result(tmp_path):
    write_folder(tmp_path)
    plain, varied = planned(tmp_path), planned(tmp_path, variants=EVERY)
    assert set(plain.stages) - {plain.report} <= set(varied.stages)
    assert plain.results == varied.results and plain.scored == varied.scored
    assert plain.report != varied.report
    new = [varied.stages[k] for k in varied.stages if k not in plain.stages and k != varied.report]
    main = [s for s in varied.systems if not s.ablation]
    assert Counter(s.kind for s in new) == {
        "variant": 5,
        "generate": 5 * len(main),
        "score_variants": len(main),
    }
    read = set(varied.stages[varied.report].inputs.values())
    assert {s.key for s in new} <= read  # the report does


def test_a_variant_is_asked_and_graded_as_its_benchmark_is(tmp_path):
    write_folder(tmp_path)
    study = planned(
        tmp_path, variants=EVERY, thinking=True, stop=["What"], scoring="flexible",
        variant_template="Q: {instruction}\nA:",
    )  # fmt: skip
    own = {
        GenerateConfig.of(s.config).items: GenerateConfig.of(s.config)
        for s in study.stages.values()
        if s.kind == "generate" and s.label.startswith("small on ")
    }
    original = own["synth_addsub"]
    for variant in EVERY:
        found = own[f"synth_addsub:{variant}"]
        template = "Q: {instruction}\nA:" if variant == "template" else original.template
        assert dataclasses.replace(original, items=found.items, template=template) == found
    graded = [s for s in study.stages.values() if s.kind == "score_variants"]
    for stage in graded:
        config = ScoreConfig.of(stage.config)
        assert set(config.thinking.values()) == {"</think>"} and len(config.thinking) == 5
        main = ScoreConfig.of(study.stages[study.scored[stage.label]].config)
        assert set(config.scoring) == {f"synth_addsub:{v}" for v in EVERY}
        assert all(g == main.scoring["synth_addsub"] for g in config.scoring.values())
    default = planned(tmp_path, variants=["template"])
    templates = {
        GenerateConfig.of(s.config).template
        for s in default.stages.values()
        if s.kind == "generate" and ":template" in s.label
    }
    assert templates == {TEMPLATE}


@pytest.mark.parametrize(
    ("benchmark", "why"),
    [
        ({"variants": ["numbers", "numbers"]}, "listed twice"),
        ({"variants": ["colours"]}, "numbers"),
        ({"variant_template": "{instruction}"}, "write it under variants"),
        ({"variants": ["template"], "variant_template": "Q"}, "no {instruction}"),
        ({"variants": ["template"], "variant_template": "auto {instruction}", "x": 1}, "x"),
        ({"variants": ["template"], "shots": 2}, "write shots_as: text"),
        ({"variants": ["names"], "scoring": "likelihood"}, "right or wrong"),
        ({"name": "gsm", "harness": "gsm8k", "variants": ["names"]}, "its own"),
        (
            {"name": "o", "path": "o.jsonl", "kind": "text", "variants": ["names"]},
            "right or wrong",
        ),
        ({"name": "o", "path": "o.jsonl", "kind": "choice", "variants": ["names"]}, "are numbers"),
        ({"name": "dolly", "variants": ["names"]}, "rated"),
    ],
)
def test_what_cannot_be_varied_is_refused(tmp_path, benchmark, why):
    write_folder(tmp_path)
    row = '{"question": "One?", "options": ["a", "b"], "answer": "B", "references": ["b"]}\n'
    (tmp_path / "o.jsonl").write_text(row)
    with pytest.raises(InputError, match=why):
        plan_of(tmp_path, benchmarks=[{"name": "synth_addsub", **benchmark}], **SMALL)


def test_the_prompt_of_a_choice_can_be_changed(tmp_path):
    write_folder(tmp_path)
    row = '{"question": "One?", "options": ["a", "b"], "answer": "B"}\n'
    (tmp_path / "o.jsonl").write_text(row)
    own = {"name": "o", "path": "o.jsonl", "kind": "choice", "variants": ["template"]}
    study = plan_of(tmp_path, benchmarks=[own], **SMALL)
    assert sum(s.kind == "variant" for s in study.stages.values()) == 1


def test_the_studys_own_template_is_no_variant(tmp_path):
    write_folder(tmp_path)
    own = {"name": "synth_addsub", "variants": ["template"], "variant_template": "Q {instruction}"}
    with pytest.raises(InputError, match="is the study's template"):
        plan_of(tmp_path, benchmarks=[own], template="Q {instruction}")


def test_what_grades_variants_leaves_what_no_table_takes_for_scores():
    assert kinds()["score_variants"].writes is not kinds()["score"].writes


# In a report.


@pytest.fixture(scope="module")
def told():
    """A study of which every system answered two variants of one benchmark, and one without."""
    systems = planned_systems(students=("zoo-s",), seeds=(0, 1), methods=("sft", "word_kd"))
    study = fake_study(n=40, systems=systems)
    table, tests = analysed(study)
    rng = np.random.default_rng(5)
    variants = {}
    for system in study.systems:
        if system.ablation:
            continue
        own = [s for s in study.scores[system.label] if s.benchmark == "two_step"]
        for variant, keep in (("numbers", 0.6), ("names", 1.0)):
            variants.setdefault(system.label, []).extend(
                dataclasses.replace(
                    s, benchmark=f"two_step:{variant}",
                    outcome=s.outcome if rng.uniform() < keep else "wrong",
                )
                for s in own[:30]
            )  # fmt: skip
    facts = {
        f"two_step:{v}": {
            "name": f"two_step:{v}", "original": "two_step", "variant": v, "n": 30, "of": 40,
            "left_out": {"no equation that gives its answer": 10},
        }
        for v in ("numbers", "names")
    }  # fmt: skip
    given = {
        "table": table, "tests": tests, "items": study.items, "pairs": study.pair_items,
        "systems": study.systems, "tokens": study.tokens,
    }  # fmt: skip
    plain = ReportData(**given, made=study.provenance)
    made = study.provenance | {"variants": facts}
    return plain, ReportData(**given, made=made, variants=variants)


def test_a_study_without_variants_says_nothing_of_them(told):
    plain, varied = told
    assert robustness.blocks(plain) == [] and plain.robustness.empty
    assert not plain.losses.measure.str.startswith("robust_").any()
    ours = varied.losses.measure.str.startswith("robust_")
    assert varied.losses[~ours].reset_index(drop=True).equals(plain.losses)
    assert varied.seeds.means.equals(plain.seeds.means)
    assert varied.benchmarks == plain.benchmarks


def test_the_report_has_a_row_per_system_and_says_what_was_left_out(told):
    _, varied = told
    sheet = section.section(varied).parts(Sheet)["robustness"]
    main = [s for s in varied.systems if not s.ablation]
    assert len(sheet.entries) == 2 * len({varied.seeds.names[s.label] for s in main})
    assert robustness.taken(varied) == (
        "Items that have a variant: other numbers on two_step 30 of 40 (left out: 10 no equation "
        "that gives its answer); other names on two_step 30 of 40 (left out: 10 no equation that "
        "gives its answer)."
    )
    shown = {e.cells[2].text: e.cells[3].text for e in sheet.entries[: len(main)]}
    label = next(s.label for s in main if s.kind == "teacher")
    right = [s for s in varied.variants[label] if s.benchmark == "two_step:names"]
    share = sum(s.outcome == "correct" for s in right) / 30
    assert shown[label] == f"{100 * share:.1f}%"


def test_the_statements_page_and_markdown_have_it(told, tmp_path):
    plain, varied = told
    page.write(tmp_path / "with", varied, "t")
    page.write(tmp_path / "without", plain, "t")
    for name in ("statement.html", "statement.md"):
        assert "Accuracy, other numbers" in (tmp_path / "with" / name).read_text()
        assert "Accuracy, other numbers" not in (tmp_path / "without" / name).read_text()
    assert (tmp_path / "with" / "tables" / "robustness.csv").is_file()
    assert not (tmp_path / "without" / "tables" / "robustness.csv").exists()
    alone = dataclasses.replace(varied, students=(varied.losses.system.iloc[0],))
    assert set(alone.robustness.kind) == {"distilled", "teacher", "base"}
    assert (alone.robustness.kind == "distilled").sum() == 2


def test_every_line_says_what_it_costs_and_what_it_cannot_tell(told):
    _, varied = told
    of = ("Accuracy, other numbers", "Accuracy, other names")
    notes = [n for n in section.notes(varied) if n.startswith(of)]
    assert len(notes) == 2
    assert all("It takes the variant" in n and "It cannot tell" in n for n in notes)
