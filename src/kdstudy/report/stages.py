"""The stage `report`, and the report of a study that is not finished."""

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdstudy.analysis.results import read_csv
from kdstudy.analysis.stages import results
from kdstudy.analysis.verdict import Test
from kdstudy.artifacts import (
    EACH_STAGE,
    RESULTS,
    START,
    Corpus,
    CutModel,
    Items,
    Manifest,
    Prompts,
    ReplayCorpus,
    Tokens,
    Trained,
    VariantItems,
    VariantScores,
)
from kdstudy.records import System
from kdstudy.report import document, probes
from kdstudy.report.data import ReportData
from kdstudy.report.kinds import ReportConfig
from kdstudy.stage import Work, kinds

if TYPE_CHECKING:
    from kdstudy.engine.store import Store
    from kdstudy.plan.plan import Plan


def report(work: Work) -> str:
    """Write the report: `report.html`, `results.csv`, `tables/`, `figures/`."""
    path = document.write(work.out, **_read(work))
    return f"{path.stat().st_size / 2**20:.1f} MiB"


def report_from_store(plan: "Plan", store: "Store", out: Path) -> None:
    """Write the report of whatever is finished into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    with _finished(plan, store) as inputs:
        report(_of_report(plan, store, inputs, out))


def data_from_store(plan: "Plan", store: "Store", **chosen: Sequence[str]) -> ReportData:
    """Return what a report of whatever is finished is made from.

    Args:
        plan: The study.
        store: What is finished.
        chosen: `elsewhere` and `students` of `ReportData`.
    """
    with _finished(plan, store) as inputs:
        read = _read(_of_report(plan, store, inputs, Path()))
    made = read.pop("provenance")
    return ReportData(**read, made=made, **chosen)


@contextlib.contextmanager
def _finished(plan: "Plan", store: "Store") -> Iterator[dict[str, Path]]:
    """Give the inputs of the report that are there, with results of what is finished."""

    def there(key: str) -> dict[str, Path]:
        inputs = plan.stages[key].inputs
        return {role: path for role, k in inputs.items() if (path := store.get(k)) is not None}

    if (whole := store.get(plan.results)) is not None:
        yield there(plan.report) | RESULTS.at(whole)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        config = plan.stages[plan.results].config
        inputs = there(plan.results)
        results(Work(config=config, inputs=inputs, local={"partial": True}, out=folder))
        yield there(plan.report) | RESULTS.at(folder)


def _of_report(plan: "Plan", store: "Store", inputs: Mapping[str, Path], out: Path) -> Work:
    # What the report itself would read: an aid that nobody built is not missing.
    expected = plan.stages[plan.report].inputs.values()
    missing = [
        {"key": key, "kind": s.kind, "label": s.label, "status": "missing"}
        for key, s in ((key, plan.stages[key]) for key in expected if key != plan.results)
        if store.get(key) is None
    ]
    config = plan.stages[plan.report].config
    return Work(config=config, inputs=inputs, local={"missing": missing}, out=out)


def _read(work: Work) -> dict[str, Any]:
    """Return everything that `document.write` takes."""
    found = work.read(RESULTS)
    systems = [System.of(row) for row in found.systems.read()]
    return {
        "table": read_csv(found.table),
        "items": found.items.read(),
        "pairs": found.pairs.read(),
        "systems": systems,
        "tests": [Test(**row) for row in found.tests.read()],
        "provenance": _provenance(work),
        **_texts_and_tokens(work, systems),
    }


def _texts_and_tokens(work: Work, systems: Sequence[System]) -> dict[str, Any]:
    """Return what a report reads beside results: responses, token sums, variants, prompts..."""
    pairs = {f"{s.label} with {t}": (s.label, t) for s in systems for t in s.teachers}
    read: dict[str, Any] = {"tokens": {}, "responses": None, "variants": {}, "prompts": ()}
    others = []
    for (_, label), found in work.each(EACH_STAGE).items():
        match kinds()[found.manifest.kind].writes(found.folder):
            case ReplayCorpus():
                pass  # nobody asks whether general text comes back
            case Corpus() as opened:
                read["responses"] = [row.response for row in opened.train.read()]
            case Tokens() as opened if label in pairs:
                read["tokens"][pairs[label]] = opened.table.read()
            case VariantScores() as opened:
                read["variants"][label] = opened.rows.read()
            case Prompts() as opened:
                read["prompts"] = opened.rows.read()
            case opened:
                others.append((label, opened))
    return read | {"probes": probes.found(others, systems)}


def _provenance(work: Work) -> dict[str, Any]:
    """Gather how it was made from the manifests of the stages."""
    stages, trained, benchmarks, aids, cuts = [], {}, {}, {}, {}
    corpus: dict[str, Any] = {}
    replay: dict[str, Any] = {}
    variants: dict[str, Any] = {}
    environments, config = [], ReportConfig.of(work.config)
    for (_, label), found in work.each(EACH_STAGE).items():
        manifest = found.manifest
        # Another study may have built the stage, and calls it otherwise.
        manifest = dataclasses.replace(manifest, label=label or manifest.label)
        environments.append(manifest.environment)
        # Without a pace the seconds hold the start-up: no speed is known.
        keys = ("key", "kind", "label", "seconds", "started", "summary", "pace")
        stages.append({k: getattr(manifest, k) for k in keys} | {"status": "done"})
        aids |= {aid["key"]: aid | {"status": "done"} for aid in manifest.aids.values()}
        match kinds()[manifest.kind].writes(found.folder):
            case ReplayCorpus() as opened:
                replay = opened.account.read()
            case Corpus() as opened:
                corpus = opened.account.read()
            case VariantItems() as opened:
                facts = opened.facts.read()
                variants[facts["name"]] = facts
            case Items() as opened:
                facts = opened.facts.read()
                benchmarks[facts["name"]] = facts
            case CutModel() as opened:
                cuts[manifest.label] = _cut(opened.facts.read())
            case Trained() as opened:
                trained[manifest.key] = (opened, manifest)
    return {
        "study": config.study,
        "protocol_differences": config.protocol_differences,
        "epochs": config.epochs,
        "origins": config.origins,
        "cuts": cuts,
        "prompts_apart": config.prompts_apart,
        "stages": [*stages, *aids.values(), *work.local.get("missing", [])],
        "corpus": corpus,
        **({"replay": replay} if replay else {}),
        "benchmarks": benchmarks,
        **({"variants": variants} if variants else {}),
        "training": [
            _training(opened, manifest, trained)
            for opened, manifest in trained.values()
            if manifest.key not in (config.only_starts or ())
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
    opened: Trained, manifest: Manifest, trained: Mapping[str, tuple[Trained, Manifest]]
) -> dict[str, Any]:
    """Return what is told of a run; its time holds that of the run that it started from."""
    facts = opened.facts.read()
    seconds = _spent(manifest)
    _, start = trained.get(START.find(manifest.inputs) or "", (None, None))
    return {
        "system": manifest.label,
        "seconds": seconds + (_spent(start) if start else 0.0),
        "peak_memory_gib": manifest.peak_memory_gib,
        "tokens_per_second": facts["tokens"] / seconds if seconds else 0.0,
        **facts,
    }


def _spent(manifest: Manifest) -> float:
    return manifest.seconds + manifest.earlier_seconds
