"""The stage `results`."""

import dataclasses
from collections.abc import Mapping, Sequence

import pandas as pd

from kdstudy.analysis.kinds import ResultsConfig
from kdstudy.analysis.results import collect, write_csv
from kdstudy.analysis.stats import study_tests
from kdstudy.artifacts import (
    EACH_CONTAMINATION,
    EACH_ITEMS,
    EACH_PAIR,
    EACH_SCORES,
    EACH_TOKENS,
    EACH_WRITER,
    Results,
)
from kdstudy.records import Example, PairScore, Score, System, columns
from kdstudy.stage import Work


def results(work: Work) -> str:
    """Join what was measured: `Results`, the table and the rows behind it."""
    config = ResultsConfig.of(work.config)
    systems = [System.of(row) for row in config.systems]
    scores = {label: found.rows.read() for label, found in work.each(EACH_SCORES).items()}
    pairs = {pair: found.rows.read() for pair, found in work.each(EACH_PAIR).items()}
    tokens = {pair: found.table.read() for pair, found in work.each(EACH_TOKENS).items()}
    items, overlaps = work.each(EACH_ITEMS), {}
    examples = {name: found.examples.read() for name, found in items.items()}
    chance = {name: found.facts.read()["chance"] for name, found in items.items()}
    for name, found in work.each(EACH_CONTAMINATION).items():
        overlaps[name] = {row.example_id: row.overlap for row in found.rows.read()}
    model_of = {s.label: s.model for s in systems}
    parameters = {
        model_of[label]: found.model.read()["parameters"]
        for label, found in work.each(EACH_WRITER).items()
    }
    table = collect(
        systems,
        scores,
        pairs,
        parameters,
        config.study,
        overlaps=overlaps,
        tokens=tokens,
        chance=chance,
        partial=work.local.get("partial", False),
    )
    tests = study_tests(table, systems, scores, chance, pairs, tokens)
    made = Results(work.out)
    write_csv(table, made.table)
    made.items.write(item_rows(scores, examples, overlaps))
    made.pairs.write(_pair_rows(pairs))
    made.tests.write([dataclasses.asdict(t) for t in tests])
    made.systems.write([*config.systems])
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
