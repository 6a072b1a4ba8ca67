"""The stage `report`, and the report of a study that is not finished."""

import json
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from kdstudy.analysis.results import read_csv
from kdstudy.analysis.stages import ITEMS, PAIR_ITEMS, RESULTS, SYSTEMS, TESTS, results
from kdstudy.analysis.verdict import Test
from kdstudy.evaluation.stages import BENCHMARK
from kdstudy.models.layers import CUT
from kdstudy.records import System
from kdstudy.report import document
from kdstudy.stage import Work

if TYPE_CHECKING:
    from kdstudy.engine.store import Store
    from kdstudy.plan.plan import Plan


def report(work: Work) -> str:
    """Write the report: `report.html`, `results.csv`, `tables/`, `figures/`."""
    source = work.inputs["results"]
    tests = [Test(**row) for row in json.loads((source / TESTS).read_text())]
    systems = [System(**row) for row in json.loads((source / SYSTEMS).read_text())]
    path = document.write(
        work.out,
        table=read_csv(source / RESULTS),
        items=pd.read_parquet(source / ITEMS),
        pairs=pd.read_parquet(source / PAIR_ITEMS),
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


def _provenance(work: Work) -> dict[str, Any]:
    """Gather how it was made from the manifests of the stages."""
    stages, trained, benchmarks, aids, cuts = [], {}, {}, {}, {}
    corpus: dict[str, Any] = {}
    environments = []
    for name, folder in work.inputs_of("stage"):
        manifest = json.loads((folder / "manifest.json").read_text())
        # Another study may have built the stage, and calls it otherwise.
        manifest["label"] = name.partition(" ")[2] or manifest["label"]
        environments.append(manifest["environment"])
        keys = ("key", "kind", "label", "seconds", "started", "summary")
        # Older manifests have no pace, and their seconds hold the start-up: no speed is known.
        pace = {"pace": manifest.get("pace", {})}
        stages.append({k: manifest[k] for k in keys} | {"status": "done"} | pace)
        # Manifests written before there were aids have none.
        aids |= {aid["key"]: aid | {"status": "done"} for aid in manifest.get("aids", {}).values()}
        if manifest["kind"] == "corpus":
            corpus = json.loads((folder / "corpus.json").read_text())
        elif manifest["kind"] == "benchmark":
            facts = json.loads((folder / BENCHMARK).read_text())
            benchmarks[facts["name"]] = facts
        elif manifest["kind"] == "cut":
            cuts[manifest["label"]] = _cut(json.loads((folder / CUT).read_text()))
        elif manifest["kind"] == "train":
            trained[manifest["key"]] = (folder, manifest)
    return {
        "study": work.config["study"],
        "protocol_differences": work.config["protocol_differences"],
        "epochs": work.config.get("epochs", {}),
        "origins": work.config.get("origins", {}),
        "cuts": cuts,
        "prompts_apart": work.config.get("prompts_apart", {}),
        "stages": [*stages, *aids.values(), *work.local.get("missing", [])],
        "corpus": corpus,
        "benchmarks": benchmarks,
        "training": [
            _training(folder, manifest, trained)
            for folder, manifest in trained.values()
            if manifest["key"] not in work.config.get("only_starts", ())
        ],
        "versions": _merged(e["versions"] for e in environments),
        "hardware": _merged(e["hardware"] for e in environments),
    }


def _cut(facts: Mapping[str, Any]) -> str:
    """Say which layers of a model are gone, how many neurons, and by which measurement."""
    gone = sorted(set(range(facts["of"])) - set(facts["kept"]))
    said = [f"without layers {', '.join(map(str, gone))} of {facts['of']}"] * bool(gone)
    if "intermediate" in facts:
        said.append(
            f"{facts['intermediate']:,} of {facts['intermediate_before']:,} neurons of each MLP"
        )
    if "measured" in facts:
        measured = facts["measured"]
        said.append(f"measured on {measured['rows']} training rows, {measured['tokens']:,} tokens")
        if gone and measured["by"] == "influence":
            influence = measured["influence"]
            most, least = max(influence[i] for i in gone), min(influence[i] for i in facts["kept"])
            said.append(f"block influence up to {most:.3f} gone, from {least:.3f} on kept")
    share = facts["parameters"] / facts["parameters_before"]
    return ", ".join([*said, f"{share:.0%} of the parameters"])


def _merged(facts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return facts by name; of stages that were built in several places, all that differ."""
    values: dict[str, dict[Any, None]] = {}
    for fact in facts:
        for name, value in fact.items():
            values.setdefault(name, {})[value] = None
    return {name: " and ".join(str(v) for v in found if v != "") for name, found in values.items()}


def _training(
    folder: Path, manifest: Mapping[str, Any], trained: Mapping[str, tuple[Path, Any]]
) -> dict[str, Any]:
    """Return what is told of a run; its time holds that of the run that it started from."""
    facts = json.loads((folder / "training.json").read_text())
    seconds = _spent(manifest)
    _, start = trained.get(manifest["inputs"].get("start"), (None, None))
    return {
        "system": manifest["label"],
        "seconds": seconds + (_spent(start) if start else 0.0),
        "peak_memory_gib": manifest.get("peak_memory_gib"),
        "tokens_per_second": facts["tokens"] / seconds if seconds else 0.0,
        **facts,
    }


def _spent(manifest: Mapping[str, Any]) -> float:
    return manifest["seconds"] + manifest.get("earlier_seconds", 0.0)
