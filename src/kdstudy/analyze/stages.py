"""The stages `results` and `report`, and the report of a study that is not finished."""

import dataclasses
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from kdstudy.analyze import report as page
from kdstudy.analyze.results import collect, read_csv, write_csv
from kdstudy.analyze.stats import Test, study_tests
from kdstudy.data.stages import CONTAMINATION
from kdstudy.evaluate.stages import BENCHMARK, EXAMPLES, MODEL, PAIRS, SCORES, TOKENS
from kdstudy.records import Contamination, Example, PairScore, Score, System, read_records
from kdstudy.study.stages import Work

if TYPE_CHECKING:
    from kdstudy.study.plan import Plan
    from kdstudy.study.store import Store

RESULTS = "results.csv"
_ITEMS, _PAIRS, _TESTS, _SYSTEMS = "items.parquet", "pairs.parquet", "tests.json", "systems.json"


def results(work: Work) -> str:
    """Join what was measured: `results.csv`, and the rows behind it."""
    systems = [System(**s) for s in work.config["systems"]]
    scores = {label: read_records(folder / SCORES, Score) for label, folder in _role(work, "score")}
    pairs = {
        tuple(label.split("|")): read_records(folder / PAIRS, PairScore)
        for label, folder in _role(work, "pair")
    }
    model_of = {s.label: s.model for s in systems}
    parameters = {
        model_of[label]: json.loads((folder / MODEL).read_text())["parameters"]
        for label, folder in _role(work, "info")
    }
    examples = {
        name: read_records(folder / EXAMPLES, Example) for name, folder in _role(work, "items")
    }
    overlaps = {
        name: {r.example_id: r.overlap for r in read_records(folder / CONTAMINATION, Contamination)}
        for name, folder in _role(work, "contamination")
    }
    table = collect(
        systems,
        scores,
        pairs,
        parameters,
        work.config["study"],
        overlaps=overlaps,
        tokens={
            tuple(label.split("|")): pd.read_parquet(folder / TOKENS)
            for label, folder in _role(work, "tokens")
        },
        partial=work.local.get("partial", False),
    )
    tests = study_tests(table, systems, scores)
    write_csv(table, work.out / RESULTS)
    _item_rows(scores, examples, overlaps).to_parquet(work.out / _ITEMS, index=False)
    _pair_rows(pairs).to_parquet(work.out / _PAIRS, index=False)
    _write_json(work.out / _TESTS, [dataclasses.asdict(t) for t in tests])
    _write_json(work.out / _SYSTEMS, work.config["systems"])
    return f"{len(scores)} systems, {len(table)} results, {len(tests)} tests"


def report(work: Work) -> str:
    """Write the report: `report.html`, `results.csv`, `tables/`, `figures/`."""
    source = work.inputs["results"]
    tests = [Test(**row) for row in json.loads((source / _TESTS).read_text())]
    systems = [System(**row) for row in json.loads((source / _SYSTEMS).read_text())]
    path = page.write(
        work.out,
        table=read_csv(source / RESULTS),
        items=pd.read_parquet(source / _ITEMS),
        pairs=pd.read_parquet(source / _PAIRS),
        systems=systems,
        tests=tests,
        provenance=_provenance(work),
    )
    return f"{path.stat().st_size / 2**20:.1f} MiB"


def report_from_store(plan: "Plan", store: "Store", out: Path) -> None:
    """Write the report of whatever is finished into `out`."""

    def there(key: str) -> dict[str, Path]:
        inputs = plan.stages[key].inputs
        return {role: path for role, k in inputs.items() if (path := store.get(k)) is not None}

    out.mkdir(parents=True, exist_ok=True)
    # What the report itself would read: an aid that nobody built is not missing.
    expected = plan.stages[plan.report].inputs.values()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        config = plan.stages[plan.results].config
        inputs = there(plan.results)
        results(Work(config=config, inputs=inputs, local={"partial": True}, out=folder))
        missing = [
            {"key": key, "kind": s.kind, "label": s.label, "status": "missing"}
            for key, s in ((key, plan.stages[key]) for key in expected if key != plan.results)
            if store.get(key) is None
        ]
        report(
            Work(
                config=plan.stages[plan.report].config,
                inputs=there(plan.report) | {"results": folder},
                local={"missing": missing},
                out=out,
            )
        )


def _role(work: Work, role: str) -> list[tuple[str, Path]]:
    found = []
    for name, folder in work.inputs.items():
        kind, _, rest = name.partition(":")
        if kind == role:
            found.append((rest, folder))
    return found


def _item_rows(
    scores: Mapping[str, list[Score]],
    examples: Mapping[str, list[Example]],
    overlaps: Mapping[str, Mapping[str, str]],
) -> pd.DataFrame:
    items = {(name, e.id): e for name, rows in examples.items() for e in rows}
    rows = []
    for label, graded in scores.items():
        for s in graded:
            item = items[s.benchmark, s.example_id]
            row = dataclasses.asdict(s) | {"system": label}
            row["overlap"] = overlaps.get(s.benchmark, {}).get(s.example_id, "")
            rows.append(row | {"question": item.question, "gold": item.answer})
    columns = [*Score.__dataclass_fields__, "system", "overlap", "question", "gold"]
    return pd.DataFrame(rows, columns=columns)


def _pair_rows(pairs: Mapping[tuple[str, ...], list[PairScore]]) -> pd.DataFrame:
    keep = ("benchmark", "example_id", "sample", "agree", "bleu", "rouge_l", "steps")
    rows = [
        {"system": system, "reference": reference} | {k: getattr(p, k) for k in keep}
        for (system, reference), found in pairs.items()
        for p in found
    ]
    return pd.DataFrame(rows, columns=["system", "reference", *keep])


def _provenance(work: Work) -> dict[str, Any]:
    """Gather how it was made from the manifests of the stages."""
    stages, training, benchmarks, aids = [], [], {}, {}
    corpus: dict[str, Any] = {}
    environment: dict[str, Any] = {}
    for _, folder in _role(work, "stage"):
        manifest = json.loads((folder / "manifest.json").read_text())
        environment = manifest["environment"]
        keys = ("key", "kind", "label", "seconds", "started", "summary")
        stages.append({k: manifest[k] for k in keys} | {"status": "done"})
        # Manifests written before there were aids have none.
        aids |= {aid["key"]: aid | {"status": "done"} for aid in manifest.get("aids", {}).values()}
        if manifest["kind"] == "corpus":
            corpus = json.loads((folder / "corpus.json").read_text())
        elif manifest["kind"] == "benchmark":
            facts = json.loads((folder / BENCHMARK).read_text())
            benchmarks[facts["name"]] = facts
        elif manifest["kind"] == "train":
            training.append(_training(folder, manifest))
    return {
        "study": work.config["study"],
        "protocol_differences": work.config["protocol_differences"],
        "stages": [*stages, *aids.values(), *work.local.get("missing", [])],
        "corpus": corpus,
        "benchmarks": benchmarks,
        "training": training,
        **environment,
    }


def _training(folder: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    facts = json.loads((folder / "training.json").read_text())
    seconds = manifest["seconds"]
    return {
        "system": manifest["label"],
        "seconds": seconds,
        "tokens_per_second": facts["tokens"] / seconds if seconds else 0.0,
        **facts,
    }


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False), encoding="utf-8")
