"""Study -> DAG of stages with keys known before anything runs; pure once the outside is pinned."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdstudy import methods
from kdstudy.config import schema
from kdstudy.config.protocols import differences
from kdstudy.data import corpora
from kdstudy.data.chat import DATE
from kdstudy.errors import InputError
from kdstudy.evaluation import benchmarks, graders
from kdstudy.models.resolve import Resolved, resolve, told_apart
from kdstudy.models.vocabulary import may_be_same
from kdstudy.plan.fit import notes, require_fit, require_shared_vocabulary, require_usable
from kdstudy.plan.grid import budgets, distilled, own_sft
from kdstudy.plan.precision import settled
from kdstudy.records import System
from kdstudy.stage import Stage, pair_role

# Fields of `generation` that change speed, never the result.
_GENERATION_KNOBS = {"batch_size"}
# Training rows that a model is measured on before it is cut; ShortGPT takes as few tokens.
_CALIBRATION_ROWS = 64


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
        self.stages, self.systems = {}, {}
        self.base, self.data_dir = base, data_dir
        refs = (*study.students, *study.teachers)
        found = told_apart([resolve(r, base, pins, unreached) for r in refs])
        self.students, self.teachers = found[: len(study.students)], found[len(study.students) :]
        _require_distinct(self.students)
        self.study, self.said = settled(study, self.students, pins)
        self.source = corpora.locate(study.corpus, base, data_dir, pins)
        if (found := corpora.contents(self.source, pins)) is not None:
            require_usable(self.source, found, study)
        self.trained: dict[str, str] = {}  # system label -> key of its train stage
        self.generated: dict[str, dict[str, str]] = {}  # system label -> benchmark -> key
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
        self._corpus_and_benchmarks()
        kinds = [k for name, k in self.kinds.items() if self.graders[name].needs == "text"]
        for model in self._models():
            require_fit(self.study, model, kinds, student=model in self.students)
            self._measure(System(label=model.name, kind="base", model=model.name), model, None)
        for student in self.students:
            for teacher in self.teachers:
                require_shared_vocabulary(self.study, student, teacher)
        teachers = [(t, self._teacher(t, ref)) for t, ref in self._teacher_refs()]
        for seed in self.study.seeds:
            for student, ref in zip(self.students, self.study.students, strict=True):
                chosen = self.study.ablations.students
                ablated = chosen is None or not {ref.model, ref.called}.isdisjoint(chosen)
                self._student(student, teachers, seed, ablated)
        results = self._results()
        report = self._report(results)
        return Plan(
            study=self.study,
            stages=self.stages,
            systems=tuple(self.systems.values()),
            trained=self.trained,
            scored=self.scored,
            results=results,
            report=report,
            prompts={m.name: _prompts(self.study.template, m) for m in self._models()}
            | self._prompts_apart(),
            notes=self.said + tuple(n for m in self._models() for n in notes(self.study, m, kinds)),
        )

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

    def _add(
        self, kind: str, label: str, config: Any,
        inputs: Any = None, local: Any = None, aids: Any = None,
    ) -> str:  # fmt: skip
        stage = Stage(
            kind=kind,
            label=label,
            config=config,
            inputs=inputs or {},
            local=local or {},
            aids=aids or {},
        )
        self.stages.setdefault(stage.key, stage)
        return stage.key

    def _corpus_and_benchmarks(self) -> None:
        source, ref = self.source, self.study.corpus
        choice = ref.model_dump(include={"rows", "validation_rows", "seed", "columns"})
        # The same bytes are other rows as CSV than as TSV.
        pinned = {"name": source.name, "fingerprint": source.fingerprint, "kind": source.kind}
        config = {**pinned, **choice}
        local = {"source": dataclasses.asdict(source)}
        del local["source"]["columns"]
        self.corpus = self._add("corpus", source.name, config, local=local)
        for ref in self.study.benchmarks:
            name, kind, config, local = self._source(ref)
            config["limit"] = self.study.limit
            self.benchmarks[name] = self._add("benchmark", name, config, local=local)
            self.kinds[name], self.graders[name] = kind, self._grader(ref, name, config)
            inputs = {"corpus": self.corpus, "items": self.benchmarks[name]}
            label = f"{name} in {source.name}"
            self.audited[name] = self._add("contamination", label, {"benchmark": name}, inputs)

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

    def _teacher_refs(self) -> list[tuple[Resolved, schema.ModelRef]]:
        return list(zip(self.teachers, self.study.teachers, strict=True))

    def _teacher(self, model: Resolved, ref: schema.ModelRef) -> System:
        if not ref.finetune:
            self.systems[model.name] = dataclasses.replace(self.systems[model.name], kind="teacher")
            return self.systems[model.name]
        seed = self.study.seeds[0]
        system = System(
            label=f"{model.name}/teacher",
            kind="teacher",
            model=model.name,
            method="sft",
            seed=seed,
        )
        self._train(system, methods.Sft(), self.study.training_of_teachers, model)
        return system

    def _student(
        self,
        model: Resolved,
        teachers: list[tuple[Resolved, System]],
        seed: int,
        ablated: bool,
    ) -> None:
        tail = f"/seed={seed}" if len(self.study.seeds) > 1 else ""
        sft = System(
            label=f"{model.name}/sft{tail}", kind="sft", model=model.name, method="sft", seed=seed
        )
        self._train(sft, own_sft(self.study), self.study.train, model)
        for teacher_model, teacher in teachers:
            self._compare(sft.label, teacher.label)
            self._token_fidelity(sft, model, teacher, teacher_model)
            runs = distilled(self.study, model.name, teacher, seed, tail, ablated=ablated)
            for run in runs:
                system, method = run.system, run.method
                self._train(system, method, run.train, model, teacher_model)
                self._compare(system.label, system.teacher)
                self._compare(system.label, sft.label)
                self._token_fidelity(system, model, teacher, teacher_model)

    def _train(
        self,
        system: System,
        method: methods.Method,
        train: schema.Train,
        model: Resolved,
        teacher: Resolved | None = None,
    ) -> None:
        if method.epochs is not None:
            train = train.model_copy(update={"epochs": method.epochs})
        key = self._fit(system, method, train, model, teacher)
        self.trained[system.label] = key
        self._measure(system, model, key)

    def _fit(
        self, system: System, method: Any, train: schema.Train, model: Resolved,
        teacher: Resolved | None = None,
    ) -> str:  # fmt: skip
        config = {
            "method": method.model_dump(exclude=method.OF_TRAINING),
            "train": train.model_dump(exclude=schema.NO_RESULT),
            **self._format(),
            "seed": system.seed,
            "student": _identity(model),
        }
        if method.type in methods.ORIGINS:
            config["package"] = methods.ORIGINS[method.type]
        inputs, aids = {"corpus": self.corpus} | self._start(system, method, model), {}
        inputs |= self._cut(model, "student")
        models = {"student": _place(model)}
        if method.teacher_gives == "text":
            inputs["teacher_text"] = self._teacher_text(system, method, teacher)
        elif teacher is not None:
            config["teacher"] = _identity(teacher)
            models["teacher"] = teacher.local()
            if system.teacher in self.trained:
                inputs["teacher"] = self.trained[system.teacher]
            aids = self._teacher_cache(system, method, train, teacher)
        local = {
            "models": models,
            "train": train.model_dump(include=schema.NO_RESULT),
            "tracking": {"study": self.study.name, "label": system.label},
        }
        return self._add("train", system.label, config, inputs, local, aids)

    def _start(self, system: System, method: Any, model: Resolved) -> dict[str, str]:
        """Return the train stage whose weights a run goes on from, where it has one."""
        start = getattr(method, "start", "base")
        if start == "base":
            return {}
        tail = f"/seed={system.seed}" if len(self.study.seeds) > 1 else ""
        sft = f"{model.name}/sft{tail}"
        if start == "sft":
            return {"start": self.trained[sft]}
        own = dataclasses.replace(
            self.systems[sft], label=f"{model.name}/sft for {start.sft:g} epochs{tail}"
        )
        train = self.study.train.model_copy(update={"epochs": start.sft})
        return {"start": self._fit(own, methods.Sft(), train, model)}

    def _cut(self, model: Resolved, role: str) -> dict[str, str]:
        """Return the stage that cuts a model of that role, where it is to be cut."""
        if model.cut is None:
            return {}
        source = {"fingerprint": model.whole}
        if model.trust_remote_code:
            source["trust_remote_code"] = True
        local = {"models": {"source": model.local()}}
        inputs = {}
        if model.cut.measured:
            inputs["importance"] = self._importance(model, source, local)
        config = {"source": source, **model.cut.config()}
        return {f"cut:{role}": self._add("cut", model.name, config, inputs, local)}

    def _importance(self, model: Resolved, source: Any, local: Any) -> str:
        """Return the stage that measures a model on training rows before it is cut."""
        config = {
            "source": source,
            **self._format(),
            "max_length": self.study.train.max_length,
            "rows": _CALIBRATION_ROWS,
            "neurons": model.cut is not None and model.cut.intermediate is not None,
        }
        label = f"{(model.hub_id or model.folder or model.name).rpartition('/')[2]} before its cut"
        return self._add("importance", label, config, {"corpus": self.corpus}, local)

    def _teacher_cache(
        self, system: System, method: methods.Method, train: schema.Train, teacher: Resolved
    ) -> dict[str, str]:
        """Return the stage that caches the teacher on the corpus, where a run can use it."""
        # Text that the student writes at every step is never the corpus.
        if train.teacher_cache not in ("auto", "disk") or method.on_policy_share == 1:
            return {}
        config = {
            "teacher": _identity(teacher),
            **self._format(),
            "max_length": train.max_length,
            "loss_turns": train.loss_turns,
            "loss_tokens": train.loss_tokens,
            "precision": train.precision,
            "mode": train.teacher_cache,
        }
        trained = self.trained.get(system.teacher)
        inputs = {"corpus": self.corpus} | ({"teacher": trained} if trained else {})
        local = {
            "models": {"teacher": teacher.local()},
            "rows_per_pass": 2 * (train.micro_batch_size or train.batch_size),
        }
        label = f"{system.teacher} on corpus"
        return {"teacher_cache": self._add("teacher_cache", label, config, inputs, local)}

    def _teacher_text(self, system: System, method: methods.SeqKD, teacher: Any) -> str:
        generation = self.study.generation.model_copy(
            update={"temperature": method.sampling_temperature, "samples": 1, "top_p": 1.0}
        )
        trained = self.trained.get(system.teacher)
        return self._generate(
            "teacher_text", system.teacher, "corpus", self.corpus, teacher, trained, generation
        )

    def _generate(
        self, kind: str, label: str, items: str, items_key: str, model: Resolved,
        trained: str | None, generation: schema.Generation,
    ) -> str:  # fmt: skip
        config = {
            "model": _identity(model),
            "items": items,
            "generation": generation.model_dump(exclude=_GENERATION_KNOBS),
            **self._format(),
            "precision": self.study.train.precision,
        }
        inputs = {"items": items_key} | ({"trained": trained} if trained else {})
        inputs |= self._cut(model, "model")
        local = {"models": {"model": _place(model)}, "batch_size": generation.batch_size}
        return self._add(kind, f"{label} on {items}", config, inputs, local)

    def _likelihood(
        self, system: System, name: str, items: str, model: Resolved, trained: str | None
    ) -> str:
        """Return the stage that scores the options of a benchmark's items."""
        config = {
            "model": _identity(model),
            "items": name,
            "scoring": self.scoring[name],
            "precision": self.study.train.precision,
        }
        inputs = {"items": items} | ({"trained": trained} if trained else {})
        inputs |= self._cut(model, "model")
        local = {"models": {"model": _place(model)}}
        return self._add("likelihood", f"{system.label} on {name}", config, inputs, local)

    def _format(self) -> dict[str, Any]:
        """Return what decides how text becomes prompts; what `auto` means, a model's files say."""
        made = {"template": self.study.template, "template_date": DATE}
        given = self.study.template_arguments
        return made | ({"template_arguments": given} if given else {})

    def _measure(self, system: System, model: Resolved, trained: str | None) -> None:
        """Answer every benchmark and score."""
        texts, answers = self.study.text_generation, self.study.generation
        inputs = {f"items:{n}": k for n, k in self.benchmarks.items()}
        made = {}
        for name, items in self.benchmarks.items():
            if self.graders[name].needs == "options":
                made[name] = self._likelihood(system, name, items, model, trained)
                inputs[f"likelihoods:{name}"] = made[name]
                continue
            settings = texts if self.kinds[name] == "text" else answers
            made[name] = self._generate(
                "generate", system.label, name, items, model, trained, settings
            )
            inputs[f"generations:{name}"] = made[name]
        config: dict[str, Any] = {"rule": self.study.extraction}
        if "text" in self.kinds.values():
            config |= self._rouge()
        if self.scoring:
            config["scoring"] = self.scoring
        self.systems[system.label] = system
        self.generated[system.label] = made
        self.scored[system.label] = self._add("score", system.label, config, inputs)

    def _compare(self, label: str, reference: str) -> None:
        inputs = {"system": self.scored[label], "reference": self.scored[reference]}
        key = self._add("compare", f"{label} with {reference}", self._rouge(), inputs)
        self.pairs[label, reference] = key

    def _rouge(self) -> dict[str, str]:
        """Return what ROUGE-L takes for words; nothing where it is what it was in older keys."""
        chosen = self.study.rouge_tokenizer
        return {} if chosen == "rouge-score" else {"rouge_tokenizer": chosen}

    def _token_fidelity(
        self, system: System, model: Resolved, reference: System, reference_model: Resolved
    ) -> None:
        """Compare two systems of the main grid token by token, where they share a vocabulary."""
        if not self.study.token_rows or system.ablation:
            return
        if (model.name, reference_model.name) not in self.shared:
            return
        config = {
            "model": _identity(model),
            "reference_model": _identity(reference_model),
            **self._format(),
            "max_length": self.study.train.max_length,
            "loss_turns": self.study.train.loss_turns,
            "precision": self.study.train.precision,
            "rows": self.study.token_rows,
        }
        folders = {"system": self.trained.get(system.label)}
        folders["reference"] = self.trained.get(reference.label)
        inputs = {"corpus": self.corpus} | {k: v for k, v in folders.items() if v}
        inputs |= self._cut(model, "model")
        models = {"model": _place(model), "reference_model": reference_model.local()}
        label = f"{system.label} with {reference.label}"
        self.tokens[system.label, reference.label] = self._add(
            "token_fidelity", label, config, inputs, {"models": models}
        )

    def _results(self) -> str:
        config = {
            "study": self.study.name,
            "systems": [dataclasses.asdict(s) for s in self.systems.values()],
        }
        inputs = {f"items:{name}": key for name, key in self.benchmarks.items()}
        inputs |= {f"score:{label}": key for label, key in self.scored.items()}
        inputs |= {pair_role("pair", *pair): key for pair, key in self.pairs.items()}
        inputs |= {pair_role("tokens", *pair): key for pair, key in self.tokens.items()}
        inputs |= {f"contamination:{name}": key for name, key in self.audited.items()}
        first = next(iter(self.benchmarks))
        inputs |= {f"info:{label}": keys[first] for label, keys in self.generated.items()}
        return self._add("results", self.study.name, config, inputs)

    def _as_reported(self) -> dict[str, Any]:
        """Return the study without what changes no result and what older keys did not have."""
        plain = set() if self._rouge() else {"rouge_tokenizer"}
        found = self.study.model_dump(mode="json", exclude={"resources", *plain})
        for benchmark in found["benchmarks"]:
            if benchmark["scoring"] is None:
                del benchmark["scoring"]
        return found

    def _report(self, results: str) -> str:
        config = {
            "study": self._as_reported(),
            "protocol_differences": differences(self.study),
        }
        if said := budgets(self.study):
            trained = {key for key, stage in self.stages.items() if stage.kind == "train"}
            starts = sorted(trained.difference(self.trained.values()))
            config |= {"epochs": said, "only_starts": starts}
        if read := {m.name: m.origin for m in self._models() if m.origin}:
            config["origins"] = read
        if apart := self._prompts_apart():
            config["prompts_apart"] = apart
        aids = {key for stage in self.stages.values() for key in stage.aids.values()}
        inputs = {
            f"stage:{key} {stage.label}": key
            for key, stage in self.stages.items()
            if key not in {results, *aids}
        }
        return self._add("report", self.study.name, config, inputs | {"results": results})


def _identity(model: Resolved) -> dict[str, Any]:
    found = {"name": model.name, "fingerprint": model.fingerprint}
    # Only where it is on: what is recorded here is part of every key.
    return found | ({"trust_remote_code": True} if model.trust_remote_code else {})


def _place(model: Resolved) -> dict[str, Any]:
    """Return where a stage finds a model; a cut one lies in a stage that is its input."""
    local = model.local()
    if model.cut is None:
        return local
    nowhere = dict.fromkeys(("folder", "hub_id", "revision", "adapter", "gguf"))
    nowhere |= dict.fromkeys(("layers", "intermediate"))
    return local | nowhere | {"files": {}}


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
