"""A study's grid: which distilled runs one student, teacher and seed have."""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kdstudy import methods
from kdstudy.config import schema
from kdstudy.config.ablations import Ablations, Vary
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
    runs = _Runs(student=student, teachers=teachers, seed=seed, tail=tail, mixture=mixture)
    train, varied = study.train, [v for v in study.ablations.vary if ablated]
    listed: dict[str, list[methods.Method]] = {}
    for method in study.methods:
        if method.type != "sft":
            listed.setdefault(method.type, []).append(method)
            runs.add(method, train, setting=_point(method, train, varied))
    for method in study.methods:
        runs.add_later_generations(method, train)
    if not ablated:
        return runs.found
    for field, method, value in _named(study.ablations, listed):
        sign = "tau" if field == "temperature" else "noise"
        changed = method.model_copy(update={field: float(value)})
        runs.add(changed, train, ablation=field, suffix=f"/{sign}={value:g}")
    for part in varied:
        for method in [m for name in part.methods for m in listed[name]]:
            for value in part.values:
                changed = part.changed(method, train, value)
                if changed != (method, train):
                    setting = f"{part.vary}={_short(value)}"
                    runs.add(*changed, ablation=part.vary, setting=setting, suffix=f"/{setting}")
    if study.ablations.base_teacher and runs.tuned != runs.plain:
        for method in [m for name in study.ablations.base_teacher.methods for m in listed[name]]:
            runs.add(method, train, ablation="base_teacher", suffix="/base-teacher", by=runs.plain)
    return runs.found


class _Runs:
    """The runs of one student under one teacher or several together, each label once."""

    def __init__(
        self, *, student: str, teachers: Sequence[System], seed: int, tail: str, mixture: str
    ):
        self.tuned = tuple(t.label for t in teachers)
        self.plain = tuple(t.model for t in teachers)
        self._student, self._seed, self._tail, self._mixture = student, seed, tail, mixture
        self._found: dict[str, Run] = {}

    @property
    def found(self) -> list[Run]:
        return list(self._found.values())

    def add(
        self, method: methods.Method, train: schema.Train, *, ablation: str = "",
        setting: str = "", suffix: str = "", by: tuple[str, ...] | None = None, after: str = "",
    ) -> str:  # fmt: skip
        """Add a run, unless there is one of its label; return the label."""
        label = self._label(method, suffix)
        system = System(
            label=label,
            kind="distilled",
            model=self._student,
            teachers=self.tuned if by is None else by,
            method=method.name,
            ablation=ablation,
            setting=setting,
            temperature=getattr(method, "temperature", 1.0),
            noise=getattr(method, "noise", 0.0),
            seed=self._seed,
            mixture=self._mixture,
            after=after,
        )
        self._found.setdefault(label, Run(system=system, method=method, train=train))
        return label

    def _label(self, method: methods.Method, suffix: str = "") -> str:
        taught = joined(self.plain, self._mixture)
        return f"{self._student}/{method.name}/{taught}{suffix}{self._tail}"

    def add_later_generations(self, method: methods.Method, train: schema.Train) -> None:
        """Add the runs of a chain after its first, each of which learns from the one before."""
        after = self._label(method)
        for number in range(2, getattr(method, CHAIN, 1) + 1):
            point = {"setting": f"{CHAIN}={number}", "suffix": f"/generation={number}"}
            after = self.add(method, train, ablation=CHAIN, after=after, **point)


def _point(method: methods.Method, train: schema.Train, varied: Sequence[Vary]) -> str:
    """Return where a run of the main grid stands on the curves that its method is part of."""
    says = {v.vary: v.current(method, train) for v in varied if method.type in v.methods}
    if getattr(method, CHAIN, 1) > 1:
        says = {CHAIN: 1} | says
    return "; ".join(f"{field}={_short(value)}" for field, value in says.items())


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
