"""Study -> DAG of stages with keys known before anything runs; pure once the outside is pinned."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from kdstudy import methods
from kdstudy.config import schema
from kdstudy.config.refs import Together
from kdstudy.config.teachers import members
from kdstudy.data import corpora
from kdstudy.errors import InputError
from kdstudy.models.resolve import Resolved, resolve, told_apart
from kdstudy.plan.fit import (
    notes,
    require_alignable,
    require_fit,
    require_layers,
    require_one_vocabulary,
    require_other,
    require_own_text,
    require_routes,
    require_shared_vocabulary,
    require_usable,
)
from kdstudy.plan.grid import Run, distilled, own_seqkd, own_sft
from kdstudy.plan.measuring import Measuring
from kdstudy.plan.precision import settled
from kdstudy.plan.stages import Stages, Subject
from kdstudy.plan.statement import ask_more
from kdstudy.records import System, joined
from kdstudy.stage import Stage


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """A study's work.

    Attributes:
        stages: All stages by key, each after those it needs.
        systems: What they measure.
        trained: Key of the train stage, by system label.
        scored: Key of the score stage, by system label.
        results: Key of the results stage.
        report: Key of the report stage.
        prompts: Which template each model is asked in, and why, by its name; by pair, that the two
            differ.
        unreached: Why models are not pinned, by what the study calls them; then nothing can run.
        notes: What `auto` precision is, and what fits the models only as long as no text is too
            long, in sentences.
        asked_precision: `train.precision` as it was written; `study` has it settled.
    """

    study: schema.Study
    stages: Mapping[str, Stage]
    systems: tuple[System, ...]
    trained: Mapping[str, str]
    scored: Mapping[str, str]
    results: str
    report: str
    prompts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    unreached: Mapping[str, str] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    asked_precision: str = ""


def make_plan(
    study: schema.Study,
    base: Path,
    data_dir: Path | None,
    pins: dict[str, str],
    unreached: dict[str, str] | None = None,
) -> Plan:
    """Plan a study.

    Args:
        study: The study.
        base: Folder that relative paths in it start from.
        data_dir: Folder of benchmark and corpus files, or None.
        pins: The store's memory of Hub commits and file hashes; read and added to.
        unreached: As `resolve` takes it: where given, models that cannot be reached are planned
            with, to be looked at. None: they are refused.

    Raises:
        InputError: A model, corpus or benchmark cannot be found or cannot be used together.
    """
    plan = _Planner(study, base, data_dir, pins, unreached).plan()
    asked = study.train.precision
    return dataclasses.replace(plan, unreached=unreached or {}, asked_precision=asked)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Taught:
    """What runs learn from: one teacher and what it is told, or several together and how."""

    by: tuple[Subject, ...]
    several: Together | None
    context: str

    @property
    def mixture(self) -> str:
        """How several teach, in words."""
        return self.several.called if self.several else ""


class _Planner:
    def __init__(
        self, study: schema.Study, base: Path, data_dir: Path | None, pins: dict[str, str],
        unreached: dict[str, str] | None,
    ):  # fmt: skip
        refs = (*study.students, *study.teacher_models)
        found = told_apart([resolve(r, base, pins, unreached) for r in refs])
        self.students, self.teachers = found[: len(study.students)], found[len(study.students) :]
        _require_distinct(self.students)
        self.study, self.said = settled(study, self.students, pins)
        source = corpora.locate(study.corpus, base, data_dir, pins)
        if (found := corpora.contents(source, pins)) is not None:
            require_usable(source, found, study)
            require_routes(source, found, study)
        replay = None
        if study.replay is not None:
            replay = corpora.locate(study.replay, base, data_dir, pins)
            require_other(source, replay, corpora.contents(replay, pins), study.replay)
        self.stages = Stages(self.study, source, replay)
        self.measured = Measuring(self.stages, base, data_dir)

    def plan(self) -> Plan:
        kinds = self.measured.kinds_of_text
        for model in self._models():
            require_fit(self.study, model, kinds, student=model in self.students)
            base = System(label=model.name, kind="base", model=model.name)
            self.measured.add(Subject(system=base, model=model))
        refs = self.study.teacher_models
        for several in self.study.several:
            models = [self.teachers[refs.index(ref)] for ref in several.together]
            require_one_vocabulary(self.study, models)
        for student in self.students:
            for teacher in self.teachers:
                require_shared_vocabulary(self.study, student, teacher)
        ready = [self._teacher(m, ref) for m, ref in zip(self.teachers, refs, strict=True)]
        teachers = [
            Taught(
                by=tuple(ready[refs.index(ref)] for ref in members(entry)),
                several=entry if isinstance(entry, Together) else None,
                context=members(entry)[0].context or "",
            )
            for entry in self.study.teachers
        ]
        for seed in self.study.seeds:
            for student, ref in zip(self.students, self.study.students, strict=True):
                chosen = self.study.ablations.students
                ablated = chosen is None or not {ref.model, ref.called}.isdisjoint(chosen)
                self._student(student, teachers, seed, ablated)
        ask_more(self.stages, self.measured)
        results, trained = self.measured.results(), self._trained()
        return Plan(
            study=self.study,
            stages=self.stages.by_key,
            systems=self.measured.systems,
            trained=trained,
            scored=self.measured.scored,
            results=results,
            report=self._report(results, trained.values()),
            prompts={m.name: _prompts(self.study.template, m) for m in self._models()}
            | self._prompts_apart(),
            notes=self.said + tuple(n for m in self._models() for n in notes(self.study, m, kinds)),
        )

    def _trained(self) -> dict[str, str]:
        subjects = self.measured.subjects.items()
        return {label: s.trained for label, s in subjects if s.trained is not None}

    def _prompts_apart(self) -> dict[str, str]:
        """Return, by pair, that a student and its teacher are asked in different prompts."""
        if self.study.template != "auto":
            return {}
        names = {True: "chat", False: "alpaca"}
        own = [m.type for m in self.study.methods if m.teacher_gives == "spans"]
        asks = f"{', '.join(['seqkd', *own])} ask it " if own else "seqkd asks it "
        return {
            f"{s.name} and {t.name} differ": f"{names[s.chat]} and {names[t.chat]}; word-level "
            f"methods score the teacher on the student's prompt, {asks}in its own (write "
            "template: alpaca for one prompt)"
            for s in self.students
            for t in self.teachers
            if None not in (s.chat, t.chat) and s.chat != t.chat
        }

    def _models(self) -> list[Resolved]:
        return list({m.name: m for m in (*self.students, *self.teachers)}.values())

    def _teacher(self, model: Resolved, ref: schema.ModelRef) -> Subject:
        if not ref.finetune:
            base = self.measured.subjects[model.name]
            own = dataclasses.replace(base.system, kind="teacher")
            self.measured.subjects[model.name] = dataclasses.replace(base, system=own)
            return self.measured.subjects[model.name]
        system = System(
            label=f"{model.name}/teacher",
            kind="teacher",
            model=model.name,
            method="sft",
            seed=self.study.seeds[0],
        )
        return self._train(system, methods.Sft(), self.study.training_of_teachers, model)

    def _student(
        self, model: Resolved, teachers: Sequence[Taught], seed: int, ablated: bool
    ) -> None:
        tail = f"/seed={seed}" if len(self.study.seeds) > 1 else ""
        sft = System(
            label=f"{model.name}/sft{tail}", kind="sft", model=model.name, method="sft", seed=seed
        )
        before = self._train(sft, own_sft(self.study), self.study.train, model)
        for group in teachers:
            self.measured.compare([before, *group.by])
            by = [teacher.system for teacher in group.by]
            made = {"ablated": ablated, "mixture": group.mixture}
            for run in distilled(self.study, model.name, by, seed, tail, **made):
                start = self._start(run, before, tail)
                own = (run.system, run.method, run.train, model, start)
                several = None if run.system.after else group.several
                subject = self._train(*own, several, group.context)
                self.measured.compare([subject, before])

    def _train(
        self, system: System, method: methods.Method, train: schema.Train, model: Resolved,
        start: Subject | None = None, several: Together | None = None, context: str = "",
    ) -> Subject:  # fmt: skip
        if method.epochs is not None:
            train = train.model_copy(update={"epochs": method.epochs})
        teachers = [self.measured.subjects[label] for label in system.own_teachers]
        told = {"several": several is not None, "context": bool(context)}
        require_alignable(system.label, method, train, **told)
        require_own_text(system.label, method, **told, chained=bool(system.after))
        require_layers(method, model, [t.model for t in teachers])
        key = self.stages.train(system, method, train, model, teachers, start, several, context)
        subject = Subject(system=system, model=model, trained=key)
        self.measured.add(subject)
        return subject

    def _start(self, run: Run, sft: Subject, tail: str) -> Subject | None:
        """Return the system whose weights a run goes on from, where it has one."""
        start = getattr(run.method, "start", "base")
        if start == "base":
            return None
        if start == "sft":
            return sft
        if start == "seqkd":
            return self._taught_start(run, sft, tail)
        label = f"{sft.model.name}/sft for {start.sft:g} epochs{tail}"
        own = dataclasses.replace(sft.system, label=label)
        train = self.study.train.model_copy(update={"epochs": start.sft})
        trained = self.stages.train(own, methods.Sft(), train, sft.model)
        return Subject(system=own, model=sft.model, trained=trained)

    def _taught_start(self, run: Run, sft: Subject, tail: str) -> Subject:
        """Return a seqkd run from a run's own teachers: the study's, where it lists one."""
        before = dataclasses.replace(run, method=own_seqkd(self.study), train=self.study.train)
        teachers = [self.measured.subjects[label] for label in run.system.teachers]
        label = f"{sft.model.name}/{before.method.name}/{joined([t.model.name for t in teachers])}"
        if run.system.ablation == "base_teacher":
            label += "/base-teacher"
        own = dataclasses.replace(run.system, label=label + tail, method=before.method.name)
        train = before.train
        if before.method.epochs is not None:
            train = train.model_copy(update={"epochs": before.method.epochs})
        start = self._start(before, sft, tail)
        trained = self.stages.train(own, before.method, train, sft.model, teachers, start)
        return Subject(system=own, model=sft.model, trained=trained)

    def _report(self, results: str, systems: Collection[str]) -> str:
        trained = {key for key, s in self.stages.by_key.items() if s.kind == "train"}
        origins = {m.name: m.origin for m in self._models() if m.origin}
        starts = sorted(trained.difference(systems))
        return self.measured.report(results, starts, origins, self._prompts_apart())


def _require_distinct(students: list[Resolved]) -> None:
    """Refuse two students that are cut alike, however that is written."""
    seen: dict[tuple[str, tuple[int, ...], int | None], str] = {}
    for student in students:
        if student.kept is None or student.cut is None:
            continue
        key = student.whole, tuple(student.kept), student.cut.intermediate
        if key in seen:
            raise InputError(
                f"students: {seen[key]} and {student.name} are cut alike, to layers "
                f"{', '.join(map(str, student.kept))}",
                remedy="list one of them",
            )
        seen[key] = student.name


def _prompts(template: str, model: Resolved) -> str:
    """Return the template that a model is asked in, and why."""
    if template != "auto":
        return f"{' '.join(template.split())[:40]} (template)"
    if model.chat is None:
        return "its chat template if it has one, else alpaca (auto; it is not here yet)"
    if model.chat:
        return "chat (auto: its tokenizer has a chat template)"
    return "alpaca (auto: its tokenizer has no chat template)"
