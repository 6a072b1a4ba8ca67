"""A study's grid: which distilled runs one student, teacher and seed have."""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kdstudy import methods
from kdstudy.config import schema
from kdstudy.config.ablations import Ablations
from kdstudy.errors import InputError
from kdstudy.fields import Strict
from kdstudy.records import System, joined

CHAIN = "generations"
"""The field of a born-again chain; its later generations are shown as an ablation over it."""


def own_sft(study: schema.Study) -> methods.Sft:
    """Return how students are fine-tuned without a teacher, listed or not."""
    return next((m for m in study.methods if m.type == "sft"), methods.Sft())


def own_seqkd(study: schema.Study) -> methods.SeqKD:
    """Return how students learn from a teacher's text before a method that starts there.

    Raises:
        InputError: The study lists several such runs, or a chain of them.
    """
    listed = [m for m in study.methods if isinstance(m, methods.SeqKD)]
    if len(listed) > 1 or any(m.generations > 1 for m in listed):
        raise InputError(
            "methods: a method starts from the seqkd run, and there are several: "
            f"{', '.join(m.name for m in listed)}{' with generations' * (len(listed) == 1)}",
            remedy="leave one seqkd with generations: 1, or write start: sft",
        )
    return listed[0] if listed else methods.SeqKD()


def epochs(study: schema.Study, method: methods.Method) -> tuple[float, ...]:
    """Return a method's passes over the corpus: those of its start, if it has one, and its own."""
    own = study.train.epochs if method.epochs is None else method.epochs
    start = getattr(method, "start", "base")
    if start == "base":
        return (own,)
    if start == "sft":
        return (*epochs(study, own_sft(study)), own)
    if start == "seqkd":
        return (*epochs(study, own_seqkd(study)), own)
    return (start.sft, own)


def budgets(study: schema.Study) -> dict[str, str]:
    """Return what is to be said of each method's epochs, by its name; {} where all have as many."""
    methods = list({m.name: m for m in (own_sft(study), *study.methods)}.values())
    spent = {m.name: epochs(study, m) for m in methods}
    starts = {m.name: getattr(m, "start", "base") for m in methods}
    if len(set(spent.values())) == 1:
        return {}
    said = {}
    for name, parts in spent.items():
        text = f"{' + '.join(f'{e:g}' for e in parts)} epoch{'s' * (parts != (1,))}"
        before = "seqkd" if starts[name] == "seqkd" else "sft"
        said[name] = f"starts from the {before} run: {text}" if len(parts) > 1 else text
        if sum(parts) != sum(spent["sft"]):
            said[name] += f", {sum(parts) / sum(spent['sft']):.2g} times those of sft"
    return said


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """A distilled run: what it is called, its method, and how it is trained."""

    system: System
    method: methods.Method
    train: schema.Train


def distilled(
    study: schema.Study,
    student: str,
    teachers: Sequence[System],
    seed: int,
    tail: str,
    *,
    ablated: bool,
    mixture: str = "",
) -> list[Run]:
    """Return the runs of one student under one teacher or several together.

    The methods come first, then the ablations and the later generations of born-again chains.

    Args:
        study: The study.
        student: The student model's name in labels.
        teachers: What a run learns from, as the study uses it: a teacher, or several together.
        seed: Training seed.
        tail: What every label ends in, such as `/seed=1`.
        ablated: Whether the ablations are for this student.
        mixture: How several teachers teach (`System.mixture`).
    """
    found: dict[str, Run] = {}
    tuned = tuple(t.label for t in teachers)
    plain = tuple(t.model for t in teachers)

    def add(
        method: methods.Method, train: schema.Train, *, ablation: str = "", setting: str = "",
        suffix: str = "", by: tuple[str, ...] = tuned, after: str = "",
    ) -> str:  # fmt: skip
        label = f"{student}/{method.name}/{joined(plain, mixture)}{suffix}{tail}"
        system = System(
            label=label,
            kind="distilled",
            model=student,
            teachers=by,
            method=method.name,
            ablation=ablation,
            setting=setting,
            temperature=getattr(method, "temperature", 1.0),
            noise=getattr(method, "noise", 0.0),
            seed=seed,
            mixture=mixture,
            after=after,
        )
        found.setdefault(label, Run(system=system, method=method, train=train))
        return label

    train, varied = study.train, study.ablations.vary
    listed: dict[str, list[methods.Method]] = {}
    last: dict[str, str] = {}  # label of a chain's last run so far, by the method's name
    for method in study.methods:
        if method.type != "sft":
            listed.setdefault(method.type, []).append(method)
            own = [v for v in varied if ablated and method.type in v.methods]
            says = {v.vary: v.current(method, train) for v in own}
            if getattr(method, CHAIN, 1) > 1:
                says = {CHAIN: 1} | says
            setting = "; ".join(f"{k}={_short(v)}" for k, v in says.items())
            last[method.name] = add(method, train, setting=setting)
    for method in study.methods:
        for number in range(2, getattr(method, CHAIN, 1) + 1):
            point = {"setting": f"{CHAIN}={number}", "suffix": f"/generation={number}"}
            after = last[method.name]
            last[method.name] = add(method, train, ablation=CHAIN, after=after, **point)
    if not ablated:
        return list(found.values())
    for field, method, value in _named(study.ablations, listed):
        sign = "tau" if field == "temperature" else "noise"
        changed = method.model_copy(update={field: float(value)})
        add(changed, train, ablation=field, suffix=f"/{sign}={value:g}")
    for part in varied:
        for method in [m for name in part.methods for m in listed[name]]:
            for value in part.values:
                changed = part.changed(method, train, value)
                if changed != (method, train):
                    setting = f"{part.vary}={_short(value)}"
                    add(*changed, ablation=part.vary, setting=setting, suffix=f"/{setting}")
    if study.ablations.base_teacher and tuned != plain:
        for m in [m for name in study.ablations.base_teacher.methods for m in listed[name]]:
            add(m, train, ablation="base_teacher", suffix="/base-teacher", by=plain)
    return list(found.values())


def _named(
    ablations: Ablations, listed: Mapping[str, list[methods.Method]]
) -> Iterator[tuple[str, methods.Method, float]]:
    """Yield field, method and value of the paper's two curves, but for the main grid's points."""
    for field, part in (("temperature", ablations.temperature), ("noise", ablations.noise)):
        for method in [m for name in part.methods for m in listed[name]] if part else []:
            yield from ((field, method, v) for v in part.values if v != getattr(method, field))


def _short(value: Any) -> str:
    """Return a value as study.yaml has it, on one line and without slashes, which labels end at."""
    if isinstance(value, Strict):
        value = value.model_dump(mode="json")
    text = f"{value:g}" if type(value) is float else json.dumps(value, ensure_ascii=False)
    return text.strip('"').replace("/", "-").replace(";", ",")
