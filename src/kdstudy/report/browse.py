"""The item browser's data: a seeded sample of items, with every system's text, as safe JSON."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from kdstudy.analyze.intervals import wilson
from kdstudy.records import System
from kdstudy.report.tables import interval

MAX_ITEMS = 40
MAX_CHARACTERS = 4000
"""One embedded text is cut here; `items.parquet` keeps all of it."""

BUDGET = 4_000_000
"""Characters of embedded text for all items: a page should open at once on a phone."""

LOW_FIDELITY, HIGH_FIDELITY = 30.0, 70.0
"""Sentence BLEU that the filters call low and high; the paper's Table 9 shows 13, 77 and 79."""

KINDS = {
    "all": "all items in the sample",
    "gained": "newly right",
    "lost": "newly wrong",
    "same-low": f"same answer, low fidelity (BLEU < {LOW_FIDELITY:g})",
    "wrong-faithful": f"wrong, yet faithful (BLEU ≥ {HIGH_FIDELITY:g})",
    "wrong-alike": "both wrong in the same way",
    "truncated": "truncated",
    "unparsed": "no answer found",
}
"""Filters of the browser; the paper's Table 9 is `same-low` and `wrong-faithful`."""


def browser_data(
    items: pd.DataFrame,
    pairs: pd.DataFrame,
    systems: Sequence[System],
    *,
    first: str = "",
    max_items: int = MAX_ITEMS,
    seed: int = 0,
) -> dict[str, Any]:
    """Return what the browser shows, as plain JSON types.

    Args:
        items: system, benchmark, example_id, sample, question, gold, completion, extracted,
            outcome, tokens.
        pairs: system, reference, benchmark, example_id, sample, agree, bleu.
        systems: The study's systems; each distilled one with texts becomes a choice.
        first: Label of the run that is shown first.
        max_items: Most items embedded per benchmark.
        seed: Seed of the sample.

    Returns:
        runs (distilled, SFT and teacher labels), items (with a text per system) and, in words,
        what was left out.
    """
    runs = sorted(_runs(systems, set(items.system)), key=lambda run: run["run"] != first)
    shown = list(dict.fromkeys(s for run in runs for s in run.values() if s))
    index = {label: i for i, label in enumerate(shown)}
    items = items[items.system.isin(shown)]
    limit = _affordable(items, max_items)
    chosen = _sample(items, limit, seed)
    found = _texts(items.merge(chosen, on=["benchmark", "example_id"]), index)
    _add_pairs(found, pairs.merge(chosen, on=["benchmark", "example_id"]), runs, index)
    return {
        "systems": shown,
        "runs": runs,
        "kinds": KINDS,
        "low": LOW_FIDELITY,
        "high": HIGH_FIDELITY,
        "items": [found[k] for k in sorted(found)],
        "note": " ".join([*_finding(items, pairs, runs[:1]), _note(items, chosen, seed)]),
    }


def _texts(kept: pd.DataFrame, index: dict[str, int]) -> dict[tuple, dict[str, Any]]:
    found: dict[tuple, dict[str, Any]] = {}
    for r in kept.itertuples():
        key = (r.benchmark, r.example_id, int(r.sample))
        if key not in found:
            found[key] = {
                "id": "item-" + "-".join(map(str, key)),
                "benchmark": r.benchmark,
                "question": _cut(r.question),
                "gold": _cut(r.gold),
                "texts": {},
                "pairs": {},
            }
        text = [_cut(r.completion), _cut(r.extracted), r.outcome, int(r.tokens)]
        found[key]["texts"][index[r.system]] = text
    return found


def _add_pairs(
    found: dict[tuple, dict[str, Any]],
    kept: pd.DataFrame,
    runs: Sequence[dict[str, str]],
    index: dict[str, int],
) -> None:
    wanted = {(run[role], run["teacher"]) for run in runs for role in ("run", "sft")}
    for r in kept.itertuples():
        item = found.get((r.benchmark, r.example_id, int(r.sample)))
        if item is not None and (r.system, r.reference) in wanted:
            key = f"{index[r.system]}>{index[r.reference]}"
            item["pairs"][key] = [bool(r.agree), round(float(r.bleu), 1)]


def safe_json(data: Any) -> str:
    """Return JSON that cannot end or open a tag: `<`, `>` and `&` are written as escapes."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _runs(systems: Sequence[System], known: set[str]) -> list[dict[str, str]]:
    sft = {s.model: s.label for s in reversed(systems) if s.kind == "sft" and s.label in known}
    same_seed = {(s.model, s.seed): s.label for s in systems if s.kind == "sft"}
    return [
        {
            "run": s.label,
            "teacher": s.teacher if s.teacher in known else "",
            "sft": same_seed.get((s.model, s.seed), sft.get(s.model, "")),
        }
        for s in sorted(systems, key=lambda s: bool(s.ablation))
        if s.kind == "distilled" and s.label in known
    ]


def _affordable(items: pd.DataFrame, max_items: int) -> int:
    """Return how many items per benchmark fit the budget, at least three."""
    if items.empty:
        return max_items
    size = items.completion.str.len().clip(upper=MAX_CHARACTERS).sum()
    count = max(1, len(items[["benchmark", "example_id"]].drop_duplicates()))
    fits = int(BUDGET / max(1.0, size / count) / items.benchmark.nunique())
    return max(3, min(max_items, fits))


def _sample(items: pd.DataFrame, limit: int, seed: int) -> pd.DataFrame:
    parts = []
    for benchmark, rows in items.groupby("benchmark", sort=True):
        ids = np.unique(rows.example_id.to_numpy(str))
        rng = np.random.default_rng([seed, len(ids)])
        chosen = rng.choice(ids, size=min(limit, len(ids)), replace=False)
        parts.append(pd.DataFrame({"benchmark": benchmark, "example_id": chosen}))
    nothing = pd.DataFrame({"benchmark": [], "example_id": []}, dtype=object)
    return pd.concat(parts) if parts else nothing


def _cut(text: str) -> str:
    clean = text.replace("\x00", "\ufffd")
    if len(clean) <= MAX_CHARACTERS:
        return clean
    return (
        f"{clean[:MAX_CHARACTERS]}\n[cut here: {len(clean):,} characters in all, see items.parquet]"
    )


def _finding(items: pd.DataFrame, pairs: pd.DataFrame, runs: Sequence[dict[str, str]]) -> list[str]:
    """Say, over all items, how text and answer part company in the run shown first."""
    for run in runs:
        key = ["benchmark", "example_id", "sample"]
        both = pairs[(pairs.system == run["run"]) & (pairs.reference == run["teacher"])]
        both = both.merge(items[items.system == run["run"]], on=[*key, "system"])
        same, wrong = both[both.agree.astype(bool)], both[both.outcome != "correct"]
        if len(same) and len(wrong):
            low = _share(float((same.bleu < LOW_FIDELITY).mean()), len(same))
            faithful = _share(float((wrong.bleu >= HIGH_FIDELITY).mean()), len(wrong))
            return [
                f"Where {run['run']} gives its teacher's answer, {low} of its texts follow "
                f"another path (BLEU under {LOW_FIDELITY:g}); where it is wrong, {faithful} stay "
                f"faithful to the teacher's text (BLEU {HIGH_FIDELITY:g} or more)."
            ]
    return []


def _share(share: float, n: int) -> str:
    return interval("accuracy", share, *wilson(share, n))


def _note(items: pd.DataFrame, chosen: pd.DataFrame, seed: int) -> str:
    total = len(items[["benchmark", "example_id"]].drop_duplicates())
    if len(chosen) == total:
        return f"All {total:,} items are here."
    return (
        f"{len(chosen):,} of {total:,} items are here, drawn at random per benchmark (seed {seed}) "
        "to keep this file small; items.parquet holds every row."
    )
