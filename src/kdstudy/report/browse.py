"""What the report's two browsers show, as safe JSON: items with their texts, and result rows."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from kdstudy.analysis.intervals import wilson
from kdstudy.answers.steps import steps
from kdstudy.evaluation.fidelity import HIGH_BLEU, LOW_BLEU
from kdstudy.records import Prompt, System
from kdstudy.report.asked import Asked, ItemKey, in_parts
from kdstudy.report.item_filters import CODE, FREE, KEY, KINDS, Measured, kinds_of, measure
from kdstudy.report.views import interval

MAX_ITEMS = 2000
MAX_CHARACTERS = 4000
"""One embedded text is cut here; `items.parquet` keeps all of it."""

BUDGET = 16_000_000
"""Bytes of JSON for all items: with figures, tables and result rows the page stays under 25 MB."""

PER_KIND, STRATIFIED_RUNS = 20, 3
"""So many items of each kind, for so many runs and per benchmark, are drawn before all others."""

_BYTES_PER_OPTION = 6
_BYTES_PER_TEXT, _BYTES_PER_PAIR, _BYTES_PER_ITEM = 60, 40, 160  # keys, quotes, steps, numbers


def browser_data(
    items: pd.DataFrame,
    pairs: pd.DataFrame,
    systems: Sequence[System],
    *,
    first: str = "",
    max_items: int = MAX_ITEMS,
    budget: int = BUDGET,
    seed: int = 0,
    prompts: Sequence[Prompt] = (),
) -> dict[str, Any]:
    """Return what the item browser shows, as plain JSON types.

    Every filter is decided here, for every row; the page only looks it up. When not everything
    fits, items are drawn at random per benchmark, rare kinds of the first runs before others.

    Args:
        items: system, benchmark, example_id, sample, question, gold, overlap ("" where nobody
            looked), completion, extracted, outcome, quality, tokens; `option_logprobs` and `target`
            where there are choices by likelihood.
        pairs: system, reference, benchmark, example_id, sample, agree, bleu, rouge_l, steps.
        systems: The study's systems; each distilled one with texts becomes a choice.
        first: Label of the run that is shown first.
        max_items: Most items embedded per benchmark.
        budget: About the most bytes of JSON for the items; one is there whatever its size.
        seed: Seed of the sample.
        prompts: What models read of the items.

    Returns:
        `systems` (labels), `frames` and `framed` (which of them each system's prompts have, by
        benchmark: `asked.Asked`), `runs` (labels of distilled, SFT, teacher), `kinds` (those that
        could be told, with names), `items` (each with its texts and their steps by system,
        comparisons by pair, `asked` and `options` (`Asked.of_item`), and `kinds`: per run a bit
        mask over `kinds`, -1 without a text), `counts` (by benchmark and run: items, then items of
        each kind, over all rows), `free` (benchmarks without right and wrong) and, in words, `note`
        and `counted`.
    """
    known = measure(items, pairs, systems, first)
    found = kinds_of(known)
    kinds = np.stack([*found.values()], axis=-1)
    there = known.outcomes("run") >= 0
    asked = in_parts(prompts, _questions(known))
    chosen = _sample(known, kinds, _costs(known, asked), max_items, budget, seed)
    masks = np.where(there, kinds @ (1 << np.arange(kinds.shape[-1])), -1)
    free = set(known.items.benchmark[known.items.outcome == FREE])
    model = {s.label: s.model for s in systems}
    return {
        "systems": list(known.index),
        "frames": asked.shown(),
        "framed": asked.of_systems(
            sorted(set(known.keys.benchmark)), [model.get(label, "") for label in known.index]
        ),
        "runs": list(known.runs),
        "kinds": {kind: KINDS[kind] for kind in found},
        "free": sorted(free),
        "counts": _counts(known, kinds, there),
        "items": _embedded(known, masks, chosen, free, asked),
        "note": " ".join([*_finding(known), _note(known, chosen, seed)]),
        "counted": _counted(known, found, there, chosen),
    }


def rows_data(table: pd.DataFrame, names: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return every row of the results table as columns, as plain JSON types.

    Args:
        table: From `results.collect`.
        names: The system that each run is a draw of, by its label (`results.names_of`).

    Returns:
        For system, benchmark, metric, reference and signature the `values` that occur and a code
        per row in `codes`; for value, low and high six digits per row, None where missing; and n.
        For system and reference also `systems`: the codes of the runs of each system with several.
    """
    found: dict[str, Any] = {}
    for column in ("system", "benchmark", "metric", "reference", "signature"):
        codes, values = pd.factorize(table[column].fillna("").astype(str), sort=True)
        found[column] = {"values": list(values), "codes": codes.tolist()}
        if column in ("system", "reference"):
            systems: dict[str, list[int]] = {}
            for code, run in enumerate(values):
                systems.setdefault((names or {}).get(run, run), []).append(code)
            several = {name: own for name, own in systems.items() if len(own) > 1}
            found[column]["systems"] = several
    for column in ("value", "low", "high"):
        numbers = table[column].to_numpy(float).tolist()
        found[column] = [float(f"{x:.6g}") if math.isfinite(x) else None for x in numbers]
    found["n"] = [None if pd.isna(n) else int(n) for n in table.n.tolist()]
    return found


def safe_json(data: Any) -> str:
    """Return JSON that cannot end or open a tag: `<`, `>` and `&` are written as escapes."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _counts(known: Measured, kinds: np.ndarray, there: np.ndarray) -> dict[str, list[list[int]]]:
    counted = np.concatenate([there[..., None], kinds], axis=-1)
    by_benchmark = known.keys.groupby("benchmark", sort=True).indices
    return {str(b): counted[rows].sum(axis=0).tolist() for b, rows in by_benchmark.items()}


def _sample(
    known: Measured,
    kinds: np.ndarray,
    costs: np.ndarray,
    max_items: int,
    budget: int,
    seed: int,
) -> np.ndarray:
    """Return the rows of the items to embed, sorted.

    Each item stands for the rarest kind that it is of, "none" being one, and the kinds take turns,
    as the benchmarks do, until each had `PER_KIND` or the budget is spent.
    """
    if known.keys.empty:
        return np.zeros(0, dtype=int)
    strata = kinds[:, :STRATIFIED_RUNS].reshape(len(known.keys), -1)
    strata = strata[:, np.argsort(strata.sum(axis=0), kind="stable")]
    stratum = np.where(strata.any(axis=1), strata.argmax(axis=1), strata.shape[1])
    luck = np.random.default_rng(seed).permutation(len(known.keys))
    order = known.keys.assign(stratum=stratum, luck=luck, cost=costs).sort_values("luck")
    turn = order.groupby(["benchmark", "stratum"]).cumcount()
    order["turn"] = turn.where(turn < PER_KIND, PER_KIND + order.luck)
    order = order.sort_values(["turn", "luck"])
    order["place"] = order.groupby("benchmark").cumcount()
    order = order[order.place < max_items].sort_values(["place", "benchmark"])
    fits = max(1, int((order.cost.cumsum() <= budget).sum()))
    return np.sort(order.index[:fits].to_numpy())


def _questions(known: Measured) -> dict[ItemKey, str]:
    keys = zip(known.keys.benchmark, known.keys.example_id, strict=True)
    return dict(zip(keys, known.asked().question, strict=True))


def _costs(known: Measured, prompted: Asked) -> np.ndarray:
    """Return about how many bytes of JSON each item takes."""
    if known.keys.empty:
        return np.zeros(0)
    row, column = np.nonzero(known.place >= 0)
    texts = known.items.completion.to_numpy()[known.place[row, column]]
    size = [len(safe_json(text[:MAX_CHARACTERS])) for text in texts]
    total = np.bincount(row, weights=size, minlength=len(known.keys))
    total += _BYTES_PER_TEXT * (known.place >= 0).sum(axis=1)
    for places in known.pair_place.values():
        total += _BYTES_PER_PAIR * (places >= 0)
    asked = known.asked()
    both = zip(asked.question, asked.gold, strict=True)
    total += [len(safe_json(_cut(question) + _cut(gold))) for question, gold in both]
    keys = zip(known.keys.benchmark, known.keys.example_id, strict=True)
    total += [prompted.cost(key) for key in keys]
    if "option_logprobs" in known.items:
        options = known.items.option_logprobs.map(len).to_numpy()
        own = np.bincount(row, options[known.place[row, column]], minlength=len(total))
        total += _BYTES_PER_OPTION * own
    return total + _BYTES_PER_ITEM + 4 * len(known.runs)


def _embedded(
    known: Measured, masks: np.ndarray, chosen: np.ndarray, free: set[str], prompted: Asked
) -> list[dict[str, Any]]:
    texts, compared = _texts(known, chosen, free), _comparisons(known, chosen)
    asked = known.asked().iloc[chosen]
    columns = zip(
        *(known.keys.loc[chosen, c] for c in KEY),
        *(asked[c] for c in ("question", "gold", "overlap")),
        masks[chosen].tolist(),
        strict=True,
    )
    return [
        {
            "id": f"item-{benchmark}-{example}-{int(sample)}",
            "benchmark": benchmark,
            "question": _cut(question),
            "gold": _cut(gold),
            "overlap": overlap,
            "kinds": mask,
            "texts": texts[i],
            "pairs": compared[i],
            **prompted.of_item((benchmark, example), _cut),
        }
        for i, (benchmark, example, sample, question, gold, overlap, mask) in enumerate(columns)
    ]


def _texts(known: Measured, chosen: np.ndarray, free: set[str]) -> list[dict[int, list[Any]]]:
    """Return, per item, each system's text, answer, outcome, tokens, quality (0-100) and steps.

    Of a choice by likelihood the probabilities of its options follow, and which is right.
    """
    found: list[dict[int, list[Any]]] = [{} for _ in chosen]
    row, column = np.nonzero(known.place[chosen] >= 0)
    texts = known.items.iloc[known.place[chosen][row, column]]
    names = ("benchmark", "completion", "extracted", "outcome", "tokens", "quality")
    values = (texts[name].tolist() for name in names)
    for i, system, benchmark, text, answer, outcome, tokens, quality in zip(
        row.tolist(), column.tolist(), *values, strict=True
    ):
        rated = benchmark in free
        taken = "" if rated else _steps(text[:MAX_CHARACTERS])
        score = _rounded(100 * quality, 1) if rated else None
        found[i][system] = [_cut(text), _cut(answer), outcome, int(tokens), score, taken]
    for i, system, logprobs, target in _choices(texts, row, column):
        found[i][system] += [[round(p, 3) for p in _shares(logprobs)], int(target)]
    return found


def _choices(
    texts: pd.DataFrame, row: np.ndarray, column: np.ndarray
) -> Iterator[tuple[int, int, Sequence[float], int]]:
    """Yield item, system, log-probabilities and the right option of choices by likelihood."""
    if "option_logprobs" not in texts:
        return
    columns = zip(row.tolist(), column.tolist(), texts.option_logprobs, texts.target, strict=True)
    yield from (choice for choice in columns if len(choice[2]))


def _shares(logprobs: Sequence[float]) -> list[float]:
    likely = np.exp(np.asarray(logprobs, dtype=float) - max(logprobs))
    return (likely / likely.sum()).tolist()


def _steps(text: str) -> str:
    """Return the steps as `13+33=46 46-2=44`; one without an expression begins with `=`."""
    return " ".join(f"{step.expression}={step.result}" for step in steps(text))


def _comparisons(known: Measured, chosen: np.ndarray) -> list[dict[str, list[Any]]]:
    """Return, per item and pair, agreement, BLEU, ROUGE-L (0-100) and the share of steps."""
    found: list[dict[str, list[Any]]] = [{} for _ in chosen]
    agree, bleu, rouge, shared = (
        known.pairs[c].tolist() for c in ("agree", "bleu", "rouge_l", "steps")
    )
    for (a, b), places in known.pair_place.items():
        key = f"{known.index[a]}>{known.index[b]}"
        for i, p in enumerate(places[chosen].tolist()):
            if p >= 0:
                alike = _rounded(bleu[p], 1), _rounded(100 * rouge[p], 1), _rounded(shared[p], 3)
                found[i][key] = [bool(agree[p]), *alike]
    return found


def _rounded(value: float, digits: int) -> float | None:
    return None if math.isnan(value) else round(float(value), digits)


def _cut(text: str) -> str:
    clean = text[:MAX_CHARACTERS].replace("\x00", "\ufffd")
    if len(clean) == len(text):
        return clean
    return f"{clean}\n[cut here: {len(text):,} characters in all, see items.parquet]"


def _finding(known: Measured) -> list[str]:
    """Say, over all items, how text and answer part company in the run shown first."""
    if not known.runs:
        return []
    own = known.outcomes("run")[:, 0]
    agree, bleu = known.with_teacher("agree")[:, 0], known.with_teacher("bleu")[:, 0]
    same = bleu[(agree == 1) & (own >= 0)]
    wrong = bleu[(own == CODE["wrong"]) & ~np.isnan(bleu)]
    if not (len(same) and len(wrong)):
        return []
    low = _share(float((same < LOW_BLEU).mean()), len(same))
    faithful = _share(float((wrong >= HIGH_BLEU).mean()), len(wrong))
    return [
        f"Where {known.runs[0]['run']} gives its teacher's answer, {low} of its texts follow "
        f"another path (BLEU under {LOW_BLEU:g}); where its answer is wrong, {faithful} stay "
        f"faithful to the teacher's text (BLEU {HIGH_BLEU:g} or more)."
    ]


def _share(share: float, n: int) -> str:
    return interval("accuracy", share, *wilson(share, n))


def _note(known: Measured, chosen: np.ndarray, seed: int) -> str:
    total, unit = len(known.keys), _unit(known)
    if len(chosen) == total:
        return f"All {total:,} {unit} are here."
    return (
        f"{len(chosen):,} of {total:,} {unit} are here, drawn at random per benchmark (seed "
        f"{seed}) to keep this file small, up to {PER_KIND} of each kind below before all others; "
        "items.parquet holds every row."
    )


def _counted(
    known: Measured, kinds: Mapping[str, np.ndarray], there: np.ndarray, chosen: np.ndarray
) -> str:
    """Say how many of the first run's items are of each kind, and how many of those are here."""
    if not known.runs:
        return ""
    parts = []
    for kind, found in kinds.items():
        total, here = int(found[:, 0].sum()), int(found[chosen, 0].sum())
        parts.append(f"{total:,} {KINDS[kind]}" + (f" ({here:,} here)" if here < total else ""))
    own = int(there[:, 0].sum())
    return f"Of the {own:,} {_unit(known)} of {known.runs[0]['run']}: {'; '.join(parts)}."


def _unit(known: Measured) -> str:
    return "items" if known.keys["sample"].nunique() < 2 else "answers to items"
