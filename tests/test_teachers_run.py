"""Studies with several teachers, a chain and a privileged context, on the shipped models."""

import csv
import json

import forked
import pytest
import yaml

from kdstudy.data import corpora

CONTEXT = "{instruction}\n\nA worked answer:\n{response}\n\nAnswer in your own words."
BASE = {"model": "zoo-s", "finetune": False}
OTHER = {"model": "zoo-m", "finetune": False}
STUDY = {
    "name": "taught",
    "teachers": [
        {"together": [BASE, OTHER], "mixture": "geometric", "weights": "per_row"},
        {"together": [BASE, OTHER], "route": {"even": "zoo-s", "odd": "zoo-m"}},
        {"model": "zoo-xs", "finetune": False, "context": CONTEXT},
    ],
    "students": ["zoo-xs"],
    "corpus": {"path": "rows.jsonl", "validation_rows": 8, "columns": {"tag": "topic"}},
    "benchmarks": ["synth_addsub"],
    "limit": 9,
    "methods": ["sft", {"type": "gkd", "generations": 2}],
    "token_rows": 4,
    "train": {"epochs": 1, "batch_size": 8, "learning_rate": 2e-3, "max_length": 192,
              "evaluations": 1, "probe_rows": 0, "precision": "float32"},
    "generation": {"max_new_tokens": 24},
}  # fmt: skip
PAIR = "zoo-s + zoo-m"


def kdstudy(folder, *arguments):
    done = forked.kdstudy(*arguments, "--store", "store", cwd=folder)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("taught")
    rows = corpora.synthetic_rows("synthetic")[:32]
    tagged = [row | {"topic": ("even", "odd")[i % 2]} for i, row in enumerate(rows)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tagged))
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY))
    kdstudy(folder, "run", "study.yaml")
    return folder


def test_each_way_of_teaching_has_its_rows(finished):
    table = (finished / "store" / "studies" / "taught" / "results.csv").read_text()
    rows = [r for r in csv.DictReader(table.splitlines()) if r["kind"] == "distilled"]
    taught = {(r["teacher"], r["setting"]): r["ablation"] for r in rows}
    names = (f"{PAIR} [geometric, weights per row]", f"{PAIR} [by tag]", "zoo-xs")
    assert taught == {
        (name, f"generations={n}"): "" if n == 1 else "generations"
        for name in names
        for n in (1, 2)
    }
    agreed = {(r["system"], r["reference"]) for r in rows if r["metric"] == "agreement"}
    for name in names[:2]:
        assert {(f"zoo-xs/gkd/{name}", t) for t in ("zoo-s", "zoo-m", "zoo-xs/sft")} <= agreed


def test_the_report_has_a_line_for_each_of_a_runs_teachers(finished):
    page = (finished / "store" / "studies" / "taught" / "report.html").read_text()
    start = page.index("Items that students kept, lost and gained")
    kept = page[start : page.index("</table>", start)]
    assert kept.count(f"zoo-xs/gkd/{PAIR} [by tag]") >= 2
    assert all(f">{teacher}<" in kept for teacher in ("zoo-s", "zoo-m", "zoo-xs"))


def test_models_and_cards_name_who_taught(finished, tmp_path):
    told = kdstudy(finished, "models", "study.yaml", "--json")
    by = {row["system"]: row["teacher"] for row in json.loads(told.stdout)}
    assert by[f"zoo-xs/gkd/{PAIR} [by tag]"] == f"{PAIR} [by tag]"
    assert by["zoo-xs/gkd/zoo-xs/generation=2"] == "zoo-xs/gkd/zoo-xs"
    for system, said in (
        (f"zoo-xs/gkd/{PAIR} [by tag]", "teachers `zoo-s` and `zoo-m`"),
        ("zoo-xs/gkd/zoo-xs/generation=2", "teacher `zoo-xs/gkd/zoo-xs`"),
    ):
        out = tmp_path / system[-3:].strip("]=")
        kdstudy(finished, "export", "study.yaml", system, "--out", out)
        assert said in (out / "README.md").read_text()
