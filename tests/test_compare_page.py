"""The page of two studies: what the store holds becomes sentences, tables and figures."""

import dataclasses
import json
import re

import forked
import pandas as pd
import pytest
import yaml
from fake_study import fake_study
from scipy import stats
from study_folder import STUDY, write_folder

from kdstudy.analysis.intervals import Bootstrap
from kdstudy.analysis.results import collect
from kdstudy.artifacts import EACH_GENERATIONS, EACH_ITEMS, Generations, Scores
from kdstudy.config.read import read_study
from kdstudy.engine.build import Unseen, build_stage
from kdstudy.engine.store import Store
from kdstudy.plan.plan import make_plan
from kdstudy.records import Score
from kdstudy.report.compare import words
from kdstudy.report.compare.differences import compare
from kdstudy.report.compare.match import StudyRows
from kdstudy.report.compare.page import write
from kdstudy.stage import kinds

BETTER, WORSE = "zoo-m/gkd/zoo-l-sft", "zoo-s/revkd/zoo-l-sft"


def rows(name, scores, fake, **more):
    """Return an invented study as `compare` reads it."""
    table = collect(
        fake.systems,
        scores,
        fake.pairs,
        fake.parameters,
        name,
        partial=True,
        bootstrap=Bootstrap(resamples=20),
    )
    items = pd.DataFrame(
        [dataclasses.asdict(r) | {"system": s, "gold": "7"} for s, p in scores.items() for r in p]
    )
    more = {"study": fake.provenance["study"]} | more
    return StudyRows(name=name, systems=fake.systems, table=table, items=items, **more)


def turned(scores, outcome, every):
    """Return scores in which every such item has this outcome."""
    return [
        dataclasses.replace(r, outcome=outcome, quality=float(outcome == "correct"))
        if i % every == 0
        else r
        for i, r in enumerate(scores)
    ]


@pytest.fixture(scope="module")
def sides():
    fake = fake_study(n=40)
    after = dict(fake.scores)
    after[BETTER] = turned(after[BETTER], "correct", 2)
    after[WORSE] = turned(after[WORSE], "unparsed", 2)
    runs = {(s, b): f"{s}{b}" for s in after for b in ("choice", "one_step", "two_step")}
    first = fake.provenance["study"] | {"extraction": "corrected"}
    own = {k: v + "B" if k[0] in (BETTER, WORSE) else v for k, v in runs.items()}
    second = fake.provenance["study"] | {"seeds": [6, 7], "extraction": "reference"}
    a = rows("first", fake.scores, fake, runs=runs, study=first)
    b = rows("<b>second</b>", after, fake, runs=own, study=second, models={"zoo-s": "1"})
    return dataclasses.replace(a, models={"zoo-s": "2"}), b


@pytest.fixture(scope="module")
def made(sides, tmp_path_factory):
    path = write(tmp_path_factory.mktemp("compare"), *sides)
    return path, pd.read_csv(path.parent / "compare.csv", keep_default_na=False, na_values=[""])


def test_measures_without_a_test_are_each_studys_own(sides):
    table = compare(*sides)
    plain = table[(table.system_a == WORSE) & (table.how == "plain")]
    assert set(plain.metric) == {"parse_rate", "agreement", "bleu_corpus"}
    key = ["benchmark", "reference", "metric"]
    for side, own in zip("ab", sides, strict=True):
        known = own.table[own.table.system == WORSE].set_index(key).value
        for row in plain.itertuples():
            expected = known[row.benchmark, row.reference, row.metric]
            assert getattr(row, side) == pytest.approx(expected), row
    parsed = plain[(plain.metric == "parse_rate") & (plain.benchmark == "average")].iloc[0]
    assert parsed.difference == pytest.approx(-0.5)


def test_sentences_say_what_the_table_says(sides):
    table = compare(*sides)
    said = words.findings(table)
    (tested,) = said["tested"]
    mean = table[(table.metric == "accuracy") & (table.benchmark == "average")]
    best = mean.loc[mean.difference.idxmax()]
    assert best.system_a == BETTER
    assert tested.startswith("Of 2 systems with a run of its own in each study, 1 had a higher")
    assert f"Largest rise: {BETTER}, {100 * best.a:.1f}% to {100 * best.b:.1f}%" in tested
    assert f"Largest fall: {WORSE}" in tested
    parse = next(s for s in said["plain"] if "answers found" in s)
    assert f"−50.0 to +0.0 points, most for {WORSE} (100.0% to 50.0%)" in parse
    same = words.findings(compare(sides[0], sides[0]))["tested"]
    assert "one and the same finished run" in same[0]


def test_cautions_name_what_could_mislead(sides):
    a, b = sides
    part = dataclasses.replace(b, items=b.items[b.items.system != "zoo-s/sft"])
    said = " ".join(words.cautions(a, part, compare(a, part)))
    for text in (
        f"<b>second</b> is not finished: {len(b.systems) - 1} of {len(b.systems)} systems",
        "zoo-s stands for other files",
        "other rules (corrected in A, reference in B)",
        "another training seed",
    ):
        assert text in said


def test_the_page_is_safe_and_whole(made):
    text = made[0].read_text(encoding="utf-8")
    assert "<script" not in text and "<b>" not in text and "&lt;b&gt;second" in text
    assert "default-src 'none'" in text
    addresses = set(re.findall(r"https?://[^\"'\s<)]+", text))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    ids = re.findall(r'\sid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', text)) <= set(ids)
    for section in re.findall(r"<section.*?</section>", text, re.S):
        assert re.search(r'<p class="finding">[^<]*\.', section)


def test_tables_and_figures_lie_beside_the_page(made):
    folder = made[0].parent
    for name in ("averages", "benchmarks", "measures", "study-files"):
        assert {p.suffix for p in (folder / "tables").glob(f"{name}.*")} == {".csv", ".md", ".tex"}
    names = {p.name for p in (folder / "figures").iterdir()}
    stems = ("accuracy-averages", "accuracy-benchmarks")
    assert names == {f"{s}.{kind}" for s in stems for kind in ("svg", "pdf")}


def test_dots_stand_where_the_table_says(made):
    svg = (made[0].parent / "figures" / "accuracy-averages.svg").read_text(encoding="utf-8")
    own = made[1][(made[1].metric == "accuracy") & (made[1].benchmark == "average")]
    own = own[own.how != "same run"].set_index("system_a").difference
    places = {
        system: float(x)
        for x, system in re.findall(
            r"translate\(([\d.]+),[\d.]+\)[^>]*><title>([^ ]+) on average", svg
        )
    }
    assert places.keys() == set(own.index) == {BETTER, WORSE}
    zero = re.search(r'transform="translate\(([\d.]+),0\)"[^>]*stroke-width="1"', svg)
    assert (places[BETTER] - float(zero[1])) / (places[WORSE] - float(zero[1])) == pytest.approx(
        own[BETTER] / own[WORSE], rel=0.02
    )


def stub_train(work):
    """Stand in for training: note the share of items that its model will get right."""
    method, student = work.config["method"]["type"], work.config["student"]["name"]
    tuned = 0.9 if student == "big" else 0.5
    share = tuned if method == "sft" else 0.6 + work.config["train"]["learning_rate"]
    return note(work.out / "share.json", share)


def stub_generate(work):
    """Stand in for generation: hand on that share, 0.1 for an untrained model."""
    trained = work.inputs.get("trained")
    share = json.loads((trained / "share.json").read_text()) if trained else 0.1
    note(work.out / "share.json", share)
    Generations(work.out).model.write({"parameters": 1000})
    return ""


def stub_score(work):
    """Stand in for grading: the first items are right, as many as the share says."""
    scores = []
    written = work.each(EACH_GENERATIONS)
    for benchmark, items in work.each(EACH_ITEMS).items():
        examples = items.examples.read()
        share = json.loads((written[benchmark].folder / "share.json").read_text())
        right = share * len(examples)
        for i, example in enumerate(examples):
            ok = i < round(right)
            score = Score(
                benchmark=benchmark,
                example_id=example.id,
                sample=0,
                completion="",
                extracted="",
                rule="number-corrected",
                outcome="correct" if ok else "wrong",
                quality=float(ok),
                tokens=1,
            )
            scores.append(score)
    Scores(work.out).rows.write(scores)
    return ""


def note(path, value):
    path.write_text(json.dumps(value))
    return ""


STUBS = {
    "train": "stub_train",
    "teacher_text": "stub_generate",
    "generate": "stub_generate",
    "score": "stub_score",
}


def build(folder, name, rate, skip=()):
    """Run a study up to its scores, with stand-ins for everything that needs a model."""
    path = folder / f"{name}.yaml"
    fields = {k: v for k, v in STUDY.items() if k != "ablations"} | {"limit": 50, "name": name}
    path.write_text(yaml.safe_dump(fields | {"train": {"learning_rate": rate}}))
    plan = make_plan(read_study(path), folder, None, {})
    store = Store(folder / "store")
    for stage in plan.stages.values():
        if stage.kind in ("corpus", "benchmark", *STUBS) and (stage.kind, stage.label) not in skip:
            build_stage(dataclasses.replace(stage, aids={}), store, Unseen())


def kdstudy(folder, *arguments):
    return forked.kdstudy(*arguments, "--store", "store", cwd=folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = write_folder(tmp_path_factory.mktemp("two"))
    with pytest.MonkeyPatch.context() as patch:
        for kind, name in STUBS.items():
            stub = dataclasses.replace(kinds()[kind], entry=f"{__name__}:{name}")
            patch.setitem(kinds(), kind, stub)
        build(folder, "slow", 0.0001)
        build(folder, "fast", 0.3, skip={("score", "medium/gkd/big"), ("score", "big/teacher")})
    return folder


def test_the_verb_sets_two_unfinished_studies_side_by_side(folder):
    done = kdstudy(folder, "report", "slow.yaml", "fast.yaml")
    assert done.returncode == 0, done.stderr
    out = folder / "store" / "studies" / "slow-vs-fast"
    assert done.stdout.strip() == str(out / "compare.html")
    table = pd.read_csv(out / "compare.csv").set_index(["system_a", "benchmark"])
    table = table[table.metric == "accuracy"]
    # Distilled: 30 of 50 items right in A, the same and 15 more in B.
    row = table.loc["small/revkd/big", "synth_addsub"]
    assert (row.a, row.b, row.n, row.better, row.worse) == (0.6, 0.9, 50, 15, 0)
    assert row.p == pytest.approx(stats.binomtest(15, 15, 0.5).pvalue)
    pooled = table.loc["small/revkd/big", "average"].p
    assert pooled == pytest.approx(stats.binomtest(30, 30, 0.5).pvalue)
    # A base model was measured once for both studies; SFT runs differ in learning rate.
    assert table.loc["small", "synth_addsub"].how == "same run"
    assert table.loc["small/sft", "synth_addsub"].how == "paired"
    differs = pd.read_csv(out / "tables" / "study-files.csv")
    assert differs.to_numpy().tolist() == [["train.learning_rate", 0.0001, 0.3]]
    alone = pd.read_csv(out / "tables" / "unmatched.csv").set_index("Name")
    assert set(alone.index) == {"medium/gkd/big", "big/teacher"}
    assert set(alone.Why) == {"not finished in fast"}
    assert "fast is not finished" in (out / "compare.html").read_text(encoding="utf-8")


def test_a_study_beside_itself_by_the_verb(folder):
    (folder / "here" / "tables").mkdir(parents=True)
    (folder / "here" / "tables" / "unmatched.csv").write_text("of an earlier comparison")
    done = kdstudy(folder, "report", "slow.yaml", "slow.yaml", "--out", "here")
    assert done.returncode == 0, done.stderr
    assert not (folder / "here" / "tables" / "unmatched.csv").exists()
    table = pd.read_csv(folder / "here" / "compare.csv")
    assert (table.difference == 0).all()
    assert set(table.how) == {"same run", "plain"} and table.p.isna().all()
    text = (folder / "here" / "compare.html").read_text(encoding="utf-8")
    assert "slow (A) and slow (B)" in text and "0 by construction" in text


def test_a_study_that_never_ran_is_refused(folder):
    (folder / "never.yaml").write_text(
        (folder / "slow.yaml").read_text().replace("0.0001", "0.5").replace("slow", "never")
        + "generation: {max_new_tokens: 9}\n"
    )
    done = kdstudy(folder, "report", "slow.yaml", "never.yaml", "--out", "no")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "never: no system is measured yet" in done.stderr
    assert not (folder / "no").exists()
