"""The stage `results`."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from kdstudy.analysis.results import collect, write_csv
from kdstudy.analysis.stats import study_tests
from kdstudy.data.stages import CONTAMINATION
from kdstudy.evaluation.stages import BENCHMARK, EXAMPLES, MODEL, PAIRS, SCORES, TOKENS
from kdstudy.records import Contamination, Example, PairScore, Score, System, columns, read_records
from kdstudy.stage import Work

RESULTS = "results.csv"
ITEMS, PAIR_ITEMS, TESTS, SYSTEMS = "items.parquet", "pairs.parquet", "tests.json", "systems.json"


def results(work: Work) -> str:
    """Join what was measured: `results.csv`, and the rows behind it."""
    systems = [System(**s) for s in work.config["systems"]]
    scores = {
        label: read_records(folder / SCORES, Score) for label, folder in work.inputs_of("score")
    }
    pairs = {
        pair: read_records(folder / PAIRS, PairScore) for pair, folder in work.pairs_of("pair")
    }
    model_of = {s.label: s.model for s in systems}
    parameters = {
        model_of[label]: json.loads((folder / MODEL).read_text())["parameters"]
        for label, folder in work.inputs_of("info")
    }
    examples = {
        name: read_records(folder / EXAMPLES, Example) for name, folder in work.inputs_of("items")
    }
    overlaps = {
        name: {r.example_id: r.overlap for r in read_records(folder / CONTAMINATION, Contamination)}
        for name, folder in work.inputs_of("contamination")
    }
    chance = {
        name: json.loads((folder / BENCHMARK).read_text())["chance"]
        for name, folder in work.inputs_of("items")
    }
    tokens = {pair: pd.read_parquet(folder / TOKENS) for pair, folder in work.pairs_of("tokens")}
    table = collect(
        systems,
        scores,
        pairs,
        parameters,
        work.config["study"],
        overlaps=overlaps,
        tokens=tokens,
        chance=chance,
        partial=work.local.get("partial", False),
    )
    tests = study_tests(table, systems, scores, chance, pairs, tokens)
    write_csv(table, work.out / RESULTS)
    item_rows(scores, examples, overlaps).to_parquet(work.out / ITEMS, index=False)
    _pair_rows(pairs).to_parquet(work.out / PAIR_ITEMS, index=False)
    _write_json(work.out / TESTS, [dataclasses.asdict(t) for t in tests])
    _write_json(work.out / SYSTEMS, work.config["systems"])
    return f"{len(scores)} systems, {len(table)} results, {len(tests)} tests"


def item_rows(
    scores: Mapping[str, Sequence[Score]],
    examples: Mapping[str, Sequence[Example]],
    overlaps: Mapping[str, Mapping[str, str]],
) -> pd.DataFrame:
    """Return graded answers as a table: a `Score` with its system, overlap, question and answer.

    Args:
        scores: By system.
        examples: Items by benchmark.
        overlaps: How an item occurs in the corpus, by benchmark and item; "" where it is not known.
    """
    items = {(name, e.id): e for name, rows in examples.items() for e in rows}
    rows = []
    for label, graded in scores.items():
        for s in graded:
            item = items[s.benchmark, s.example_id]
            row = dataclasses.asdict(s) | {"system": label}
            row["overlap"] = overlaps.get(s.benchmark, {}).get(s.example_id, "")
            rows.append(row | {"question": item.question, "gold": item.answer})
    known = columns(Score, (s for graded in scores.values() for s in graded))
    return pd.DataFrame(rows, columns=[*known, "system", "overlap", "question", "gold"])


def _pair_rows(pairs: Mapping[tuple[str, ...], list[PairScore]]) -> pd.DataFrame:
    keep = ("benchmark", "example_id", "sample", "agree", "bleu", "rouge_l", "steps")
    rows = [
        {"system": system, "reference": reference} | {k: getattr(p, k) for k in keep}
        for (system, reference), found in pairs.items()
        for p in found
    ]
    return pd.DataFrame(rows, columns=["system", "reference", *keep])


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False), encoding="utf-8")
