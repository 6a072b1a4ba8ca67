"""Study -> DAG of stages with keys known before anything runs; pure once the outside is pinned."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdstudy import artifacts, methods
from kdstudy.config import schema
from kdstudy.config.protocols import differences
from kdstudy.data import corpora
from kdstudy.errors import InputError
from kdstudy.evaluation import benchmarks, graders
from kdstudy.models.resolve import Resolved, resolve, told_apart
from kdstudy.models.vocabulary import may_be_same
from kdstudy.plan.fit import (
    notes,
    require_fit,
    require_layers,
    require_shared_vocabulary,
    require_usable,
)
from kdstudy.plan.grid import Run, budgets, distilled, own_seqkd, own_sft
from kdstudy.plan.precision import settled
from kdstudy.plan.stages import Stages, Subject
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


class _Planner:
    def __init__(
        self, study: schema.Study, base: Path, data_dir: Path | None, pins: dict[str, str],
        unreached: dict[str, str] | None,
    ):  # fmt: skip
        self.base, self.data_dir = base, data_dir
        refs = (*study.students, *study.teachers)
        found = told_apart([resolve(r, base, pins, unreached) for r in refs])
        self.students, self.teachers = found[: len(study.students)], found[len(study.students) :]
        _require_distinct(self.students)
        self.study, self.said = settled(study, self.students, pins)
        source = corpora.locate(study.corpus, base, data_dir, pins)
        if (found := corpora.contents(source, pins)) is not None:
            require_usable(source, found, study)
        self.stages = Stages(self.study, source)
        self.subjects: dict[str, Subject] = {}  # by system label
        self.answered: dict[str, dict[str, str]] = {}  # system label -> benchmark -> key
        self.scored: dict[str, str] = {}  # system label -> key of its score stage
        self.pairs: dict[tuple[str, str], str] = {}
        self.tokens: dict[tuple[str, str], str] = {}
        pairs = [(s, t) for s in self.students for t in self.teachers]
        # Once a pair: they are long.
        self.shared = {
            (s.name, t.name) for s, t in pairs if may_be_same(s.vocabulary, t.vocabulary)
        }
        self.benchmarks: dict[str, str] = {}  # name -> key of its items
        self.kinds: dict[str, str] = {}
        self.graders: dict[str, graders.Grader] = {}
        self.scoring: dict[str, dict[str, Any]] = {}  # name -> what is not usual with its kind
        self.audited: dict[str, str] = {}  # name -> key of its contamination stage

    def plan(self) -> Plan:
        for ref in self.study.benchmarks:
            self._benchmark(ref)
        kinds = [k for name, k in self.kinds.items() if self.graders[name].needs == "text"]
        for model in self._models():
            require_fit(self.study, model, kinds, student=model in self.students)
            base = System(label=model.name, kind="base", model=model.name)
            self._measure(Subject(system=base, model=model))
        for student in self.students:
            for teacher in self.teachers:
                require_shared_vocabulary(self.study, student, teacher)
        refs = zip(self.teachers, self.study.teachers, strict=True)
        # What a run learns from: one teacher, or several together.
        teachers = [(self._teacher(model, ref),) for model, ref in refs]
        for seed in self.study.seeds:
            for student, ref in zip(self.students, self.study.students, strict=True):
                chosen = self.study.ablations.students
                ablated = chosen is None or not {ref.model, ref.called}.isdisjoint(chosen)
                self._student(student, teachers, seed, ablated)
        results = self._results()
        return Plan(
            study=self.study,
            stages=self.stages.by_key,
            systems=self._systems(),
            trained=self._trained(),
            scored=self.scored,
            results=results,
            report=self._report(results),
            prompts={m.name: _prompts(self.study.template, m) for m in self._models()}
            | self._prompts_apart(),
            notes=self.said + tuple(n for m in self._models() for n in notes(self.study, m, kinds)),
        )

    def _systems(self) -> tuple[System, ...]:
        return tuple(subject.system for subject in self.subjects.values())

    def _trained(self) -> dict[str, str]:
        return {label: s.trained for label, s in self.subjects.items() if s.trained is not None}

    def _prompts_apart(self) -> dict[str, str]:
        """Return, by pair, that a student and its teacher are asked in different prompts."""
        if self.study.template != "auto":
            return {}
        names = {True: "chat", False: "alpaca"}
        return {
            f"{s.name} and {t.name} differ": f"{names[s.chat]} and {names[t.chat]}; word-level "
            "methods score the teacher on the student's prompt, seqkd asks it in its own (write "
            "template: alpaca for one prompt)"
            for s in self.students
            for t in self.teachers
            if None not in (s.chat, t.chat) and s.chat != t.chat
        }

    def _benchmark(self, ref: schema.BenchmarkRef) -> None:
        name, kind, config, local = self._source(ref)
        self.benchmarks[name] = self.stages.benchmark(name, config, local)
        self.kinds[name], self.graders[name] = kind, self._grader(ref, name, config)
        self.audited[name] = self.stages.contamination(name, self.benchmarks[name])

    def _source(self, ref: schema.BenchmarkRef) -> tuple[str, str, dict, dict]:
        """Return a benchmark's name, kind, and what its stage's key and its stage need to know."""
        if ref.path is None:
            name = benchmarks.canonical(ref.name)
            config = {"name": name, "fingerprint": benchmarks.fingerprint(name, self.data_dir)}
            local = {"data_dir": str(self.data_dir.absolute()) if self.data_dir else None}
            return name, benchmarks.kind(name), config, local
        path = Path(os.path.abspath(self.base / Path(ref.path).expanduser()))
        own = {"name": ref.name, "kind": ref.kind, "labels": tuple(ref.labels)}
        source = benchmarks.from_file(path=path, **own)
        source.load(None)  # a malformed row is met here, not once its stage runs
        fingerprint, local = source.fingerprint(None), {"path": str(path)}
        return ref.name, ref.kind or "", own | {"fingerprint": fingerprint}, local

    def _grader(
        self, ref: schema.BenchmarkRef, name: str, config: dict[str, Any]
    ) -> graders.Grader:
        """Return what grades a benchmark; of a user's file, tried on every item."""
        labels = config["labels"] if ref.path else benchmarks.labels(name)
        kind = ref.kind if ref.path else benchmarks.kind(name)
        grader = graders.chosen(ref.scoring, name, kind, labels)
        if grader != graders.usual(kind, labels):
            self.scoring[name] = graders.as_config(grader)
        if ref.path and grader.needs == "options":
            path = self.base / Path(ref.path).expanduser()
            grader.require(benchmarks.from_file(name, path, kind, labels).load(None))
        return grader

    def _models(self) -> list[Resolved]:
        return list({m.name: m for m in (*self.students, *self.teachers)}.values())

    def _teacher(self, model: Resolved, ref: schema.ModelRef) -> Subject:
        if not ref.finetune:
            base = self.subjects[model.name]
            own = dataclasses.replace(base.system, kind="teacher")
            self.subjects[model.name] = dataclasses.replace(base, system=own)
            return self.subjects[model.name]
        system = System(
            label=f"{model.name}/teacher",
            kind="teacher",
            model=model.name,
            method="sft",
            seed=self.study.seeds[0],
        )
        return self._train(system, methods.Sft(), self.study.training_of_teachers, model)

    def _student(
        self, model: Resolved, teachers: Sequence[tuple[Subject, ...]], seed: int, ablated: bool
    ) -> None:
        tail = f"/seed={seed}" if len(self.study.seeds) > 1 else ""
        sft = System(
            label=f"{model.name}/sft{tail}", kind="sft", model=model.name, method="sft", seed=seed
        )
        before = self._train(sft, own_sft(self.study), self.study.train, model)
        for group in teachers:
            for teacher in group:
                self._compare(before, teacher)
                self._token_fidelity(before, teacher)
            by = [teacher.system for teacher in group]
            for run in distilled(self.study, model.name, by, seed, tail, ablated=ablated):
                start = self._start(run, before, tail)
                subject = self._train(run.system, run.method, run.train, model, start)
                for label in run.system.teachers:
                    self._compare(subject, self.subjects[label])
                self._compare(subject, before)
                for teacher in group:
                    self._token_fidelity(subject, teacher)

    def _train(
        self, system: System, method: methods.Method, train: schema.Train, model: Resolved,
        start: Subject | None = None,
    ) -> Subject:  # fmt: skip
        if method.epochs is not None:
            train = train.model_copy(update={"epochs": method.epochs})
        teachers = [self.subjects[label] for label in system.teachers]
        require_layers(method, model, [t.model for t in teachers])
        key = self.stages.train(system, method, train, model, teachers, start)
        subject = Subject(system=system, model=model, trained=key)
        self._measure(subject)
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
        teachers = [self.subjects[label] for label in run.system.teachers]
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

    def _measure(self, subject: Subject) -> None:
        """Answer every benchmark and score."""
        texts, answers = self.study.text_generation, self.study.generation
        written, likely = {}, {}
        for name, items in self.benchmarks.items():
            if self.graders[name].needs == "options":
                likely[name] = self.stages.likelihood(subject, name, items, self.scoring[name])
                continue
            settings = texts if self.kinds[name] == "text" else answers
            written[name] = self.stages.generate(subject, name, items, settings)
        self.subjects[subject.label] = subject
        self.answered[subject.label] = written | likely
        inputs = artifacts.EACH_ITEMS.at(self.benchmarks)
        inputs |= artifacts.EACH_GENERATIONS.at(written) | artifacts.EACH_LIKELIHOODS.at(likely)
        self.scored[subject.label] = self.stages.score(
            subject.label, inputs, self.scoring, any_texts="text" in self.kinds.values()
        )

    def _compare(self, subject: Subject, reference: Subject) -> None:
        pair = subject.label, reference.label
        self.pairs[pair] = self.stages.compare(*pair, *(self.scored[label] for label in pair))

    def _token_fidelity(self, subject: Subject, reference: Subject) -> None:
        """Compare two systems of the main grid token by token, where they share a vocabulary."""
        if not self.study.token_rows or subject.system.ablation:
            return
        if (subject.model.name, reference.model.name) in self.shared:
            key = self.stages.token_fidelity(subject, reference)
            self.tokens[subject.label, reference.label] = key

    def _results(self) -> str:
        first = next(iter(self.benchmarks))
        writers = {label: keys[first] for label, keys in self.answered.items()}
        inputs = {
            **artifacts.EACH_ITEMS.at(self.benchmarks),
            **artifacts.EACH_SCORES.at(self.scored),
            **artifacts.EACH_PAIR.at(self.pairs),
            **artifacts.EACH_TOKENS.at(self.tokens),
            **artifacts.EACH_CONTAMINATION.at(self.audited),
            **artifacts.EACH_WRITER.at(writers),
        }
        return self.stages.results(self._systems(), inputs)

    def _report(self, results: str) -> str:
        config: dict[str, Any] = {"protocol_differences": differences(self.study)}
        if said := budgets(self.study):
            trained = {key for key, s in self.stages.by_key.items() if s.kind == "train"}
            starts = sorted(trained.difference(self._trained().values()))
            config |= {"epochs": said, "only_starts": starts}
        if read := {m.name: m.origin for m in self._models() if m.origin}:
            config["origins"] = read
        if apart := self._prompts_apart():
            config["prompts_apart"] = apart
        return self.stages.report(config, results)


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
