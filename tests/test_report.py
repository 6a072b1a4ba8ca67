"""The report: self-contained, safe with hostile text, honest in words, and whole when partial."""

import dataclasses
import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pandas as pd
import pytest
from fake_study import STUDENTS, analysed, fake_study, items_frame
from hostile_report import HOSTILE
from report_parts import all_figures, all_sheets
from scipy import stats

from kdstudy.analysis.results import COLUMNS, NUMBERS
from kdstudy.analysis.stats import study_tests
from kdstudy.errors import InputError
from kdstudy.report import document
from kdstudy.report.browse import MAX_CHARACTERS, browser_data, safe_json
from kdstudy.report.data import ITEM_COLUMNS
from kdstudy.report.plot import PALETTE, colours
from kdstudy.report.sections import cost
from kdstudy.report.views import with_sft


class Page(HTMLParser):
    """Collects what a browser would run, load or link to."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts, self.references, self.ids = [], [], [], []
        self.handlers = []
        self.inside = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        self.handlers += [name for name in attrs if name.startswith("on")]
        self.references += [attrs[k] for k in ("src", "href", "xlink:href", "action") if k in attrs]
        if "id" in attrs:
            self.ids.append(attrs["id"])
        if tag == "script":
            self.inside = attrs
            self.scripts.append([attrs, ""])

    def handle_endtag(self, tag):
        self.inside = None if tag == "script" else self.inside

    def handle_data(self, data):
        if self.inside is not None:
            self.scripts[-1][1] += data


@pytest.fixture(scope="module")
def study():
    return fake_study(n=30)


@pytest.fixture(scope="module")
def made(study, tmp_path_factory):
    table, tests = analysed(study)
    out = tmp_path_factory.mktemp("report")
    path = document.write(
        out,
        table=table,
        items=study.items,
        pairs=study.pair_items,
        systems=study.systems,
        tests=tests,
        provenance=study.provenance,
        max_items=5,
    )
    return path, table, tests


@pytest.fixture(scope="module")
def page(made):
    return Page(made[0].read_text(encoding="utf-8"))


def test_the_file_needs_nothing_from_outside(made, page):
    text = made[0].read_text(encoding="utf-8")
    assert all(r.startswith(("#", "data:,")) for r in page.references)
    assert not [tag for tag, _ in page.tags if tag in ("iframe", "object", "embed", "img", "base")]
    assert "@import" not in text and not re.search(r"url\((?!#)", text)
    addresses = set(re.findall(r"https?://[^\"'\s<)]+", text))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


def test_only_the_pages_own_script_may_run(page):
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv"))
    assert "default-src 'none'" in policy and "unsafe-inline" not in policy.split("script-src")[1]
    assert page.handlers == []
    kinds = [attrs.get("type", "text/javascript") for attrs, _ in page.scripts]
    assert kinds == ["application/json", "text/javascript"]


def test_sections_come_in_the_order_of_the_law_and_open_with_a_finding(made):
    text = made[0].read_text(encoding="utf-8")
    sections = re.findall(
        r'<section id="(\w+)".*?</h2>\s*<p class="finding"[^>]*>(.*?)</p>', text, re.S
    )
    assert [name for name, _ in sections] == [
        *("answer", "statement", "generalization", "fidelity", "depends"),
        *("methods", "ablations", "collapse", "contamination", "text", "made"),
    ]
    for _, sentence in sections:
        assert sentence.strip().endswith(".") and re.search(r"\d", sentence)


def test_ids_are_unique_and_every_link_has_a_target(page):
    assert len(page.ids) == len(set(page.ids))
    inside = {r[1:] for r in page.references if r.startswith("#") and "?" not in r}
    assert inside <= set(page.ids) | {"rows", "items"}


def test_every_figure_is_a_labelled_image_in_the_pages_colours(made):
    folder = made[0].parent / "figures"
    names = {p.stem for p in folder.glob("*.svg")}
    assert names == {p.stem for p in folder.glob("*.pdf")}
    assert names == {
        *(
            "accuracy",
            "gains",
            "flow",
            "scale",
            "pace",
            "agreement",
            "agreement-accuracy",
            "fidelity",
        ),
        *("depends", "methods", "temperature", "noise", "base-teacher", "training", "steps"),
        *("measure-distinct_2", "statement"),
    }
    for path in folder.glob("*.svg"):
        root = ElementTree.fromstring(path.read_text(encoding="utf-8"))
        assert root.get("role") == "img"
        labels = root.get("aria-labelledby").split()
        found = {e.get("id"): e.text for e in root.iter() if e.get("id") in labels}
        assert len(found) == 2 and all(found.values())
        assert "currentColor" in path.read_text(encoding="utf-8")
    assert all(p.read_bytes().startswith(b"%PDF-") for p in folder.glob("*.pdf"))


def test_dots_stand_where_the_table_says(made):
    _, table, tests = made
    svg = all_figures(table, tests)["accuracy"].svg()
    row = table[(table.system == "zoo-s/gkd/zoo-l-sft") & (table.metric == "accuracy")]
    value = row[row.benchmark == "choice"].value.item()
    dots = {
        name: (float(percent), float(x))
        for x, name, percent in re.findall(
            r"translate\(([\d.]+),[\d.]+\)[^>]*><title>([^ ]+) on choice: ([\d.]+)%", svg
        )
    }
    assert dots["zoo-s/gkd/zoo-l-sft"][0] == pytest.approx(100 * value, abs=0.051)
    percents, places = zip(*dots.values(), strict=True)
    assert len(dots) == 15
    fit = stats.linregress(percents, places)
    assert fit.rvalue == pytest.approx(1, abs=1e-3)
    assert fit.intercept == pytest.approx(0, abs=0.6)  # the axis starts at zero, uncut


def test_several_teachers_seeds_and_benchmarks_fit_in_every_figure_and_table(made):
    _, table, _ = made
    main = table[(table.kind == "distilled") & (table.ablation == "")]
    swap = {"zoo-l/sft": "zoo-xl/sft"}
    more = [
        table,
        main.assign(seed=7, system=main.system + "/seed=7"),
        main.assign(
            teacher="zoo-xl/sft", system=main.system + "/xl", reference=main.reference.replace(swap)
        ),
        table[table.system == "zoo-l/sft"].assign(system="zoo-xl/sft", model="zoo-xl"),
        table[(table.kind == "sft") & (table.reference != "")].assign(reference="zoo-xl/sft"),
    ]
    wide = pd.concat(more, ignore_index=True)
    wide = pd.concat([wide, wide[wide.benchmark == "choice"].assign(benchmark="another")])
    tests = study_tests(wide)
    for figure in all_figures(wide, tests).values():
        assert figure.svg().count("<title>") > 3
    groups = with_sft(wide, "accuracy").groupby("group").method
    assert set(groups.groups) == {f"{s} ← {t}" for s in STUDENTS for t in ("zoo-l", "zoo-xl")}
    assert all("sft" in set(methods) for _, methods in groups)
    frame = all_sheets(wide, tests)["table7"].frame
    assert {"zoo-l", "zoo-xl"} <= set(frame.Teacher) and "another" in frame
    gkd = frame[(frame.Student == "zoo-s") & (frame.Method == "gkd")].set_index("Teacher")
    assert gkd.Seeds.to_dict() == {"zoo-l": "2", "zoo-xl": "1"}


def test_a_method_keeps_its_colour_whatever_stands_beside_it():
    alone = colours(["gkd"])
    beside = colours(["sft", "my_method", "gkd", "seqkd"])
    assert alone.range == [PALETTE["gkd"]]
    assert dict(zip(beside.domain, beside.range, strict=True))["gkd"] == PALETTE["gkd"]
    assert len(set(beside.range)) == 4


def test_tables_are_written_in_three_formats(made):
    folder = made[0].parent / "tables"
    for number in range(1, 6):
        assert {p.suffix for p in folder.glob(f"table{number}.*")} == {".csv", ".md", ".tex"}
    frame = pd.read_csv(folder / "table7.csv")
    assert list(frame.columns) == [
        *("Teacher", "Student", "Method", "choice", "one_step", "two_step", "average"),
    ]
    own = made[1][(made[1].system == "zoo-m/revkd/zoo-l-sft") & (made[1].metric == "accuracy")]
    printed = frame[(frame.Student == "zoo-m") & (frame.Method == "revkd")].iloc[0]
    for row in own.itertuples():
        assert float(printed[row.benchmark]) == pytest.approx(100 * row.value, abs=0.051)
    latex = (folder / "table7.tex").read_text(encoding="utf-8")
    assert "\\toprule" in latex and "one\\_step" in latex


def test_two_reports_of_one_study_hold_the_same_bytes(study, made, tmp_path):
    table, tests = analysed(dataclasses.replace(study))  # once more
    again = document.write(
        tmp_path,
        table=table,
        items=study.items,
        pairs=study.pair_items,
        systems=study.systems,
        tests=tests,
        provenance=study.provenance,
        max_items=5,
    )
    for name in ("report.html", "results.csv", "tables/table1.tex", "figures/accuracy.svg"):
        assert (again.parent / name).read_bytes() == (made[0].parent / name).read_bytes()


def test_hostile_text_stays_text(study, made, tmp_path):
    _, table, tests = made
    scores = dict(study.scores)
    label = "zoo-s/gkd/zoo-l-sft"
    texts = [text for name, text in HOSTILE.items() if name != "surrogate"]
    scores[label] = [
        dataclasses.replace(row, completion=texts[i % len(texts)])
        for i, row in enumerate(scores[label])
    ]
    questions = {}
    for row in study.items.drop_duplicates(["benchmark", "example_id"]).itertuples():
        entry = {"id": row.example_id, "question": HOSTILE["closing"], "gold": HOSTILE["script"]}
        questions.setdefault(row.benchmark, []).append(entry)
    few = {label, "zoo-s/sft", "zoo-l/sft"}
    items = items_frame({k: v for k, v in scores.items() if k in few}, questions, {})
    provenance = study.provenance | {"study_text": HOSTILE["closing"], "versions": {"<b>": "</dd>"}}
    path = document.write(
        tmp_path,
        table=table[table.system.isin(few)].assign(study=HOSTILE["closing"]),
        items=items,
        pairs=study.pair_items,
        systems=study.systems,
        tests=tests,
        provenance=provenance,
    )
    page = Page(path.read_text(encoding="utf-8"))
    assert len(page.scripts) == 2
    assert not [tag for tag, _ in page.tags if tag in ("img", "i", "b")]
    assert page.handlers == []
    embedded = json.loads(page.scripts[0][1])
    shown = embedded["items"][0]
    assert shown["question"] == HOSTILE["closing"] and shown["gold"] == HOSTILE["script"]
    index = embedded["systems"].index(label)
    completions = {item["texts"][str(index)][0] for item in embedded["items"]}
    for name in ("script", "closing", "entity", "bidi", "separators"):
        assert HOSTILE[name] in completions
    assert "before\ufffdafter" in completions
    long = next(c for c in completions if c.startswith("xxx"))
    assert len(long) < MAX_CHARACTERS + 100 and "100,000 characters" in long
    assert path.stat().st_size < 3_000_000


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_json_never_opens_or_closes_a_tag_and_comes_back_whole(text):
    written = safe_json({"text": text})
    assert not set("<>&\u2028\u2029\x00") & set(written)
    assert json.loads(written)["text"] == text


def test_the_browser_samples_items_and_says_so(study):
    data = browser_data(study.items, study.pair_items, study.systems, max_items=5)
    assert len(data["items"]) == 15
    assert "15 of 90 items are here" in data["note"] and "items.parquet" in data["note"]
    again = browser_data(study.items, study.pair_items, study.systems, max_items=5)
    other = browser_data(study.items, study.pair_items, study.systems, max_items=5, seed=1)
    assert data == again != other
    everything = browser_data(study.items, study.pair_items, study.systems, max_items=99)
    assert everything["note"].endswith("All 90 items are here.")


def test_cost_is_the_time_of_all_benchmarks_over_all_items(study, made):
    spent = sum(
        s["seconds"]
        for s in study.provenance["stages"]
        if s["kind"] == "generate" and s["label"].startswith("zoo-m/sft on ")
    )
    frame = pd.read_csv(made[0].parent / "tables" / "systems.csv").set_index("System")
    assert float(frame.loc["zoo-m/sft", "s/1,000"]) == pytest.approx(1000 * spent / 90, abs=0.051)


def test_the_front_holds_what_no_other_beats_in_both():
    rows = pd.DataFrame(
        [("slow and best", 9.0, 0.9), ("slow", 9.0, 0.8), ("fast", 1.0, 0.3), ("as good", 2.0, 0.3),
         ("beaten", 3.0, 0.2), ("between", 4.0, 0.5), ("fast and worse", 1.0, 0.1)],
        columns=["system", "seconds", "value"],
    )  # fmt: skip
    assert list(cost.undominated(rows).system) == ["fast", "between", "slow and best"]


def test_all_rows_are_kept_beside_the_page(study, made):
    kept = pd.read_parquet(made[0].parent / "items.parquet")
    pd.testing.assert_frame_equal(kept, study.items[ITEM_COLUMNS], check_dtype=False)


def test_a_partial_study_reads_well(study, tmp_path):
    done = {"zoo-l/base", "zoo-l/sft", "zoo-s/sft", "zoo-s/gkd/zoo-l-sft"}
    some = dataclasses.replace(
        study,
        scores={k: v for k, v in study.scores.items() if k in done},
        pairs={k: v for k, v in study.pairs.items() if set(k) <= done},
    )
    table, tests = analysed(some, partial=True)
    path = document.write(tmp_path, table=table, systems=study.systems, tests=tests)
    text = path.read_text(encoding="utf-8")
    assert "4 of 30 runs finished" in text
    assert "no finished ablation" in text
    assert "Of 1 pairs of methods, SFT among them" in text
    assert "nothing to browse" in text
    assert "nan" not in re.sub(r"<(style|script).*?</\1>", "", text, flags=re.S).lower()


def test_an_empty_study_still_makes_a_page(study, tmp_path):
    table = pd.DataFrame(columns=COLUMNS).astype(NUMBERS)
    path = document.write(tmp_path, table=table, systems=study.systems)
    text = path.read_text(encoding="utf-8")
    assert "0 of 30 runs finished" in text and "nothing to recommend" in text


def test_missing_columns_are_named(study, made, tmp_path):
    with pytest.raises(InputError, match="items: column gold is missing"):
        document.write(tmp_path, table=made[1], items=study.items.drop(columns="gold"))


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """How a study was made, as its page tells it, where weights and prompts are not as usual."""
    said = "weights dequantised from Q4_1, Q8_0 (big<i>.gguf, sha256 0123456789ab)"
    apart = {"small and big<i> differ": "alpaca and chat; seqkd asks it in its own"}
    path = document.write(
        tmp_path_factory.mktemp("told"),
        table=pd.DataFrame(columns=COLUMNS).astype(NUMBERS),
        provenance={"origins": {"big": said}, "prompts_apart": apart},
    )
    return path.read_text(encoding="utf-8").partition('id="made"')[2]


def test_weights_that_are_not_the_published_ones_are_named(made, told):
    assert "Not as published" not in made[0].read_text(encoding="utf-8")
    said = "big, weights dequantised from Q4_1, Q8_0 (big&lt;i&gt;.gguf, sha256 0123456789ab)"
    assert f"Not as published: {said}" in told


def test_a_pair_that_is_asked_in_different_prompts_is_named(made, told):
    assert "The prompts of" not in made[0].read_text(encoding="utf-8")
    assert "The prompts of small and big&lt;i&gt; differ: alpaca and chat; seqkd" in told
