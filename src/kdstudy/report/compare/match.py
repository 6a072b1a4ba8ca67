"""What two studies share and what they do not: systems, benchmarks, items, study files."""

import dataclasses
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

import pandas as pd

from kdstudy.errors import InputError
from kdstudy.records import System, is_text

KEY = (
    *("kind", "model", "teacher", "method", "ablation", "setting", "temperature", "noise"),
    "seed",
)
"""What makes two runs of two studies the same run; protocol and training may differ."""

PAIR = ["system", "reference", "benchmark", "example_id", "sample", "agree"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyRows:
    """What one study measured, finished or not.

    Attributes:
        name: What the study is called beside the other one.
        study: The study file as data, every default included.
        systems: Every system that the study plans.
        table: From `results.collect`.
        items: Graded answers: columns system, benchmark, example_id, sample, quality, rule, gold.
        runs: Key of the finished generation and its grading, by (system, benchmark): equal keys
            are one and the same measurement.
        models: Fingerprint of each model's files, by its short name.
        pairs: Which answers of two systems are the same: columns system, reference, benchmark,
            example_id, sample, agree.
    """

    name: str
    study: Mapping[str, Any]
    systems: Sequence[System]
    table: pd.DataFrame
    items: pd.DataFrame
    runs: Mapping[tuple[str, str], str] = dataclasses.field(default_factory=dict)
    models: Mapping[str, str] = dataclasses.field(default_factory=dict)
    pairs: pd.DataFrame = dataclasses.field(default_factory=lambda: pd.DataFrame(columns=PAIR))

    @property
    def measured(self) -> list[System]:
        """The systems that have graded answers."""
        there = set(self.items.system)
        return [s for s in self.systems if s.label in there]


def study_differences(a: StudyRows, b: StudyRows) -> pd.DataFrame:
    """Return the fields in which two study files differ, defaults included: field, a, b.

    Methods, models and benchmarks are told apart by name, not by place. The studies' names do not
    count. What one study lacks is an empty text.
    """
    rows = _fields("", dict(a.study) | {"name": ""}, dict(b.study) | {"name": ""})
    return pd.DataFrame(rows, columns=["field", "a", "b"])


def unmatched(a: StudyRows, b: StudyRows) -> pd.DataFrame:
    """Return what could not be set side by side: study (a, b or both), what, name, why."""
    rows = [
        *_alone("a", a, b),
        *_alone("b", b, a),
        *_benchmarks_alone("a", a, b),
        *_benchmarks_alone("b", b, a),
        *_items_alone(a, b),
    ]
    return pd.DataFrame(rows, columns=["study", "what", "name", "why"])


def other_models(a: StudyRows, b: StudyRows) -> list[str]:
    """Return the models that have one name and different files in the two studies."""
    return sorted(m for m in a.models.keys() & b.models.keys() if a.models[m] != b.models[m])


def key_of(system: System) -> tuple:
    """Return what a system is matched by: its values of `KEY`."""
    # A run of the main grid says what its study varies, which the other study may not vary.
    bare = system if system.ablation else dataclasses.replace(system, setting="")
    return tuple(_field(bare, name) for name in KEY)


def _field(system: System, name: str) -> Any:
    return system.taught_by if name == "teacher" else getattr(system, name)


def pairs(a: StudyRows, b: StudyRows) -> list[tuple[System, System]]:
    """Return the systems that are measured in both studies, in the order of study A.

    Raises:
        InputError: There is none.
    """
    there = {key_of(s): s for s in b.measured}
    found = [(s, there[key_of(s)]) for s in a.measured if key_of(s) in there]
    if found:
        return found
    empty = [s.name for s in (a, b) if not s.measured]
    if empty:
        why = f"{' and '.join(empty)}: no system is measured yet"
        raise InputError(
            "there is nothing to set side by side", why=why, remedy="run the study: kdstudy run"
        )
    first = a.measured[0]
    raise InputError(
        f"{a.name} and {b.name} have no system in common",
        why=f"systems match by {', '.join(KEY)}; of {first.label}: {_nearest(first, b)}",
        remedy="compare two studies that share a model, trained with the same method and seed",
    )


def draws(found: Sequence[tuple[System, System]]) -> list[list[tuple[System, System]]]:
    """Return matched runs, those together that differ by their seed alone."""
    groups: dict[tuple, list[tuple[System, System]]] = {}
    for x, y in found:
        groups.setdefault(key_of(x)[:-1], []).append((x, y))
    return list(groups.values())


def refuse_benchmarks(a: StudyRows, b: StudyRows) -> NoReturn:
    """Raise the InputError of two studies without a common benchmark."""
    names = [set(s.items.benchmark) for s in (a, b)]
    listed = [", ".join(sorted(n)) for n in names]
    kinds = " (free texts in one, answers in the other)" if names[0] & names[1] else ""
    raise InputError(
        f"{a.name} and {b.name} have no benchmark in common",
        why=f"{a.name} has {listed[0]}; {b.name} has {listed[1]}{kinds}",
        remedy="add one benchmark to both study files",
    )


def _fields(path: str, old: Any, new: Any) -> list[dict[str, str]]:
    old, new = _by_name(old), _by_name(new)
    if isinstance(old, dict) and isinstance(new, dict):
        names = [*old, *(k for k in new if k not in old)]
        parts = [
            _fields(f"{path}.{k}".lstrip("."), old.get(k, ...), new.get(k, ...)) for k in names
        ]
        return list(itertools.chain.from_iterable(parts))
    if old == new:
        return []
    return [{"field": path, "a": _written(old), "b": _written(new)}]


def _by_name(value: Any) -> Any:
    """Return a list of named entries as a dictionary, anything else as it is."""
    if not (isinstance(value, list) and value and all(isinstance(v, dict) for v in value)):
        return value
    names = [next((str(v[k]) for k in ("type", "model", "name") if v.get(k)), "") for v in value]
    told = all(names) and len(set(names)) == len(names)
    return dict(zip(names, value, strict=True)) if told else value


def _written(value: Any) -> str:
    if value is ...:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _alone(side: str, own: StudyRows, other: StudyRows) -> Iterator[dict[str, str]]:
    """Yield the systems that are not measured in both; those that both plan only from side a."""
    here, there = ({key_of(s) for s in x.measured} for x in (own, other))
    planned = {key_of(s) for s in other.systems}
    for system in own.systems:
        key = key_of(system)
        row = {"study": side, "what": "system", "name": system.label}
        lacking = [x.name for x, done in ((own, here), (other, there)) if key not in done]
        if key in planned and lacking and side == "a":
            yield row | {"study": "both", "why": f"not finished in {' and '.join(lacking)}"}
        elif key not in planned:
            unfinished = "not finished; " if key not in here else ""
            yield row | {"why": unfinished + _nearest(system, other)}


def _nearest(system: System, other: StudyRows) -> str:
    """Say in what the most similar system of the other study differs."""

    def apart(s: System) -> list[str]:
        return [k for k, x, y in zip(KEY, key_of(s), key_of(system), strict=True) if x != y]

    near = min(other.systems, key=lambda s: len(apart(s)), default=None)
    if near is None or len(apart(near)) > 3:
        return f"{other.name} has nothing like it"
    changed = ", ".join(
        f"{k} {_value(near, k)} instead of {_value(system, k)}" for k in apart(near)
    )
    return f"closest in {other.name}: {near.label} ({changed})"


def _value(system: System, field: str) -> str:
    value = _field(system, field)
    return "none" if value == "" else str(value)


def _benchmarks_alone(side: str, own: StudyRows, other: StudyRows) -> Iterator[dict[str, str]]:
    mine, theirs = (
        s.items.assign(text=s.items.rule.map(is_text)).groupby("benchmark").text.any()
        for s in (own, other)
    )
    for name, text in mine.items():
        row = {"study": side, "what": "benchmark", "name": str(name)}
        if name not in theirs.index:
            yield row | {"why": f"not measured in {other.name}"}
        elif theirs[name] != text and side == "a":
            why = "free texts in one study, answers in the other"
            yield row | {"study": "both", "why": why}


def _items_alone(a: StudyRows, b: StudyRows) -> Iterator[dict[str, str]]:
    """Yield, per benchmark that both have, the items that only one has or that changed gold."""
    facts = [
        s.items.drop_duplicates(["benchmark", "example_id"]).set_index(["benchmark", "example_id"])
        for s in (a, b)
    ]
    gold = [f.gold.sort_index() for f in facts]
    names = [set(g.index.get_level_values("benchmark")) for g in gold]
    for benchmark in sorted(names[0] & names[1]):
        old, new = (g.loc[benchmark] for g in gold)
        common = old.index.intersection(new.index)
        changed = int((old[common] != new[common]).sum())
        for side, mine, other in (("a", old, b.name), ("b", new, a.name)):
            if missing := len(mine) - len(common):
                count = f"{missing:,} of {len(mine):,} items of {benchmark}"
                why = f"not among the items of {other}"
                yield {"study": side, "what": "items", "name": count, "why": why}
        if changed:
            count = f"{changed:,} items of {benchmark}"
            why = "the two studies have different gold answers"
            yield {"study": "both", "what": "items", "name": count, "why": why}
