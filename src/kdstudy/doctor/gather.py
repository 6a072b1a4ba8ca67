"""Look a study over: everything that the checks need, each call under a time limit."""

import dataclasses
import itertools
import os
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdstudy.artifacts import Scores
from kdstudy.config.read import read_study
from kdstudy.config.schema import BenchmarkRef, Study
from kdstudy.data import audit, corpora
from kdstudy.doctor import alignment, machine, models, text
from kdstudy.doctor.facts import (
    Accuracy,
    AlignmentFacts,
    BenchmarkFacts,
    CorpusFacts,
    MachineFacts,
    ModelFacts,
    StudyFacts,
    TextFacts,
)
from kdstudy.doctor.timeouts import TimeLimit
from kdstudy.engine.execute import missing
from kdstudy.engine.store import Store, require_writable
from kdstudy.evaluation import benchmarks
from kdstudy.evaluation.asking import Asking, asking
from kdstudy.evaluation.rouge import is_latin
from kdstudy.evaluation.stages import limited, mean_of_benchmarks
from kdstudy.models.hub import require_reachable
from kdstudy.models.kinds import named_in
from kdstudy.models.resolve import Resolved, resolve, told_apart
from kdstudy.plan.plan import Plan, make_plan
from kdstudy.records import Example

SECONDS = 50.0
"""Most seconds that all looks may take; what is not done by then is a finding."""
# A model that takes more of the free memory than this is not loaded.
_SHARE = 0.8
# Seconds that a probe which did not finish is taken to need at least: it loads a model.
_LEAST = 5.0


def gather(
    path: Path,
    store: Path,
    data_dir: Path | None,
    seconds: float = SECONDS,
    probe_seconds: float | None = None,
) -> StudyFacts:
    """Return all that can be found out about a study without running it.

    Nothing is downloaded but a corpus that is a Hub data set, nothing is trained, and nothing is
    written but a store's memory of hashes.

    Args:
        path: The study file.
        store: The store's folder, there or not.
        data_dir: Folder of benchmark and corpus files, or None.
        seconds: Most seconds for all of it.
        probe_seconds: Most seconds for the probes of models instead of what the other looks leave.

    Raises:
        InputError: The study file cannot be read.
    """
    study = read_study(path)
    root = Path(os.path.expanduser(store)).absolute()
    looks = _Gathering(study, path.absolute().parent, root, data_dir, TimeLimit(seconds))
    found = looks.facts(probe_seconds)
    return dataclasses.replace(found, path=path, data_dir=data_dir)


@dataclasses.dataclass
class _Model:
    """A model of the study on the way to its facts."""

    resolved: Resolved
    roles: tuple[str, ...]
    finetuned: bool
    absent: bool = False
    facts: ModelFacts | None = None
    tokenizer: Any = None


class _Gathering:
    def __init__(
        self, study: Study, base: Path, root: Path, data_dir: Path | None, limit: TimeLimit
    ):
        self.study, self.base, self.root, self.data_dir = study, base, root, data_dir
        self.limit = limit
        self.models: list[_Model] = []
        self.rows: tuple[Sequence[Example], Sequence[Example]] = ((), ())
        self.places: Mapping[str, str] = {}
        self.items: dict[str, Sequence[Example]] = {}
        self.asking: dict[str, Asking] = {}

    def facts(self, probe_seconds: float | None = None) -> StudyFacts:
        call = self.limit.call
        # Before any shorter limit: an import that is interrupted leaves half a module behind.
        call("libraries", SECONDS, _import_libraries)
        with tempfile.TemporaryDirectory() as scratch:
            # A store that is not there yet holds nothing; it is not made here.
            there = (self.root / "stages").is_dir()
            self.store = Store(self.root if there else Path(scratch))
            self.pins = call("store", 5, self.store.pins) or {}
            plan = call("plan", 30, self._plan)
            self.study = plan.study if plan else self.study  # with its precision settled
            todo: Any = ()
            if plan:
                todo = call("store", 20, lambda: missing(plan.stages, [plan.report], self.store)[0])
            accuracies = call("results", 10, lambda: self._accuracies(plan)) if plan else ()
        corpus = call("corpus", 30, self._corpus)
        found = [call(f"benchmark {b.name}", 15, lambda b=b: self._benchmark(b), "benchmarks")
                 for b in self.study.benchmarks]  # fmt: skip
        known = [b for b in found if b]
        held = call("contamination", 15, self._contamination) or {}
        self._resolve(plan)
        device = self._machine()
        texts, aligned = self._texts(), self._alignments()
        facts = StudyFacts(
            study=self.study,
            plan=plan,
            todo=tuple(todo or ()),
            models=tuple(self._facts()),
            corpus=corpus,
            texts=tuple(texts),
            alignments=tuple(aligned),
            benchmarks=tuple(
                dataclasses.replace(b, contaminated=held.get(b.name, {})) for b in known
            ),
            machine=device,
            accuracies=tuple(accuracies or ()),
        )
        clock = self.limit if probe_seconds is None else TimeLimit(probe_seconds)
        facts = self._probed(facts, clock)
        failures = dict.fromkeys((*self.limit.failures, *clock.failures))
        return dataclasses.replace(facts, failures=tuple(failures))

    def _plan(self) -> Plan:
        plan = make_plan(self.study, self.base, self.data_dir, self.pins, unreached={})
        if self.store.root == self.root.resolve():
            self.limit.call("store", 5, lambda: self.store.remember(self.pins))
        return plan

    def _accuracies(self, plan: Plan) -> list[Accuracy]:
        found = []
        for system in plan.systems:
            folder = self.store.get(plan.scored[system.label])
            if folder is None or system.kind == "distilled":
                continue
            rows = Scores(folder).rows.read()
            rows = [r for r in rows if r.outcome != "rated" and not r.is_text]
            if rows:
                mean = mean_of_benchmarks(rows, "accuracy")[0]["accuracy"]
                named = {"label": system.label, "kind": system.kind, "model": system.model}
                found.append(Accuracy(**named, value=mean, items=len(rows)))
        return found

    def _corpus(self) -> CorpusFacts:
        ref = self.study.corpus
        source = corpora.locate(ref, self.base, self.data_dir, self.pins)
        data = corpora.load(
            source, rows=ref.rows, validation_rows=ref.validation_rows, seed=ref.seed
        )
        self.rows, self.places = (data.train, data.validation), data.places
        within = audit.overlaps(data.train, data.validation)
        return CorpusFacts(
            name=source.name,
            path=source.path or "",
            train=len(data.train),
            validation=len(data.validation),
            read=data.read,
            dropped=data.dropped,
            repeated=data.repeated,
            shortened=data.shortened,
            leaked=sum(overlap in ("exact", "normalised") for _, overlap, _ in within),
        )

    def _benchmark(self, ref: BenchmarkRef) -> BenchmarkFacts:
        if ref.harness is not None:
            task = benchmarks.harness_task(ref, self.base)
            whole = task.load(None)
            self.items[ref.name] = whole.examples
            self.asking[ref.name] = asking(ref, task=task)
            return self._benchmark_facts(ref.name, whole.kind, "lm-evaluation-harness")
        if ref.path is not None:
            path = self.base / Path(ref.path).expanduser()
            source = benchmarks.from_file(ref.name, path, ref.kind, ref.labels)
            self.items[ref.name] = source.load(None).examples
            self.asking[ref.name] = asking(ref, self.base)
            return self._benchmark_facts(ref.name, ref.kind, "own file")
        known = benchmarks.overview(ref.name, self.data_dir)
        if known.found == "nowhere":
            # Refuses what cannot be downloaded either.
            benchmarks.fingerprint(known.name, self.data_dir)
        if known.found not in ("nowhere", "cache, damaged"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", benchmarks.EditedBenchmark)  # `found` says so
                self.items[known.name] = benchmarks.load(known.name, self.data_dir).examples
        self.asking[known.name] = asking(ref, self.base, self.data_dir)
        return self._benchmark_facts(known.name, known.kind, known.found, known.note)

    def _benchmark_facts(
        self, name: str, kind: str | None, found: str, note: str = ""
    ) -> BenchmarkFacts:
        used = limited(self.items.get(name, ()), self.study.limit)
        return BenchmarkFacts(
            name=name,
            kind=kind or "",
            found=found,
            items=len(used) if name in self.items else None,
            note=note,
            foreign=sum(bool(e.references) and not all(map(is_latin, e.references)) for e in used),
        )

    def _contamination(self) -> Mapping[str, Mapping[str, int]]:
        rows = [*self.rows[0], *self.rows[1]]
        return audit.audit(rows, self.items).counts if rows else {}

    def _resolve(self, plan: Plan | None) -> None:
        """Find the models, one by one: one that is missing does not hide the others."""
        named = _names(plan) if plan else {}
        by_bytes: dict[str, _Model] = {}
        refs = [("teacher", r) for r in self.study.teacher_models]
        for role, ref in [*refs, *(("student", r) for r in self.study.students)]:
            found = self.limit.call(
                f"{role} {ref.model}", 30, lambda r=ref: resolve(r, self.base, self.pins)
            )
            if found is None:
                continue
            found = dataclasses.replace(found, name=named.get(found.fingerprint, found.name))
            model = by_bytes.setdefault(found.fingerprint, _Model(found, (), True))
            model.roles = (*model.roles, role)
            if role == "teacher":
                model.finetuned = ref.finetune
        self.models = list(by_bytes.values())
        told = told_apart([model.resolved for model in self.models])
        for model, resolved in zip(self.models, told, strict=True):
            model.resolved = resolved
        for model in self.models:
            self.limit.call(f"model {model.resolved.name}", 15, lambda m=model: self._open(m))

    def _open(self, model: _Model) -> None:
        from kdstudy.models import load

        folder = models.folder_of(model.resolved)
        model.absent = folder is None
        if folder is None:
            return
        precision = self.study.train.precision
        model.facts = models.facts(model.resolved, folder, model.roles, model.finetuned, precision)
        model.tokenizer = load.load_tokenizer(folder, model.resolved.trust_remote_code)

    def _machine(self) -> MachineFacts | None:
        call, absent = self.limit.call, [m.resolved for m in self.models if m.absent]
        call("store", 5, lambda: require_writable(self.root), "store")
        call("vllm", SECONDS, self._require_engine, "device")
        call("Hub", 15, lambda: require_reachable([m.local() for m in absent]), "downloads")
        reached = not any(f.check == "downloads" for f in self.limit.failures)
        return call("machine", 20, lambda: machine.machine(self.root, absent if reached else ()))

    def _require_engine(self) -> None:
        from kdstudy.evaluation import vllm

        if "vllm" in {self.study.generation.engine, self.study.text_generation.engine}:
            vllm.require_usable()

    def _facts(self) -> list[ModelFacts]:
        absent = [
            ModelFacts(name=m.resolved.name, roles=m.roles, here=False)
            for m in self.models
            if m.absent
        ]
        return [m.facts for m in self.models if m.facts] + absent

    def _texts(self) -> list[TextFacts]:
        groups: dict[str, list[_Model]] = defaultdict(list)
        for model in self.models:
            if model.facts and self.rows[0]:
                groups[model.facts.tokenizer_hash].append(model)
        found = []
        for group in groups.values():
            names = [m.resolved.name for m in group]
            read = self.limit.call(
                f"text as {', '.join(names)} read it", 20,
                lambda g=group, n=names: self._text(g[0].tokenizer, n),
            )  # fmt: skip
            found += [read] if read else []
        return found

    def _text(self, tokenizer: Any, names: Sequence[str]) -> TextFacts:
        items = {name: limited(some, self.study.limit) for name, some in self.items.items()}
        rows, places = self.rows[0], self.places
        return text.read(self.study, tokenizer, names, rows, items, places, self.asking)

    def _alignments(self) -> list[AlignmentFacts]:
        """Align students and teachers, where a method compares what both cut alike."""
        if not any(m.teacher_gives == "spans" for m in self.study.methods) or not self.rows[0]:
            return []
        students, teachers = (
            [m for m in self.models if m.facts and role in m.roles]
            for role in ("student", "teacher")
        )
        found = []
        for student, teacher in itertools.product(students, teachers):
            named = [(m.resolved.name, m.tokenizer) for m in (student, teacher)]
            read = self.limit.call(
                f"alignment of {named[0][0]} and {named[1][0]}", 20,
                lambda n=named: alignment.read(self.study, *n, self.rows[0], self.places),
                "alignment",
            )  # fmt: skip
            found += [read] if read else []
        return found

    def _probed(self, facts: StudyFacts, clock: TimeLimit) -> StudyFacts:
        """Measure every model that fits into memory, the teachers first."""
        from kdstudy.doctor.probe import Measured

        share = _SHARE * facts.machine.free if facts.machine else 0
        fit = [
            m
            for m in sorted(self.models, key=lambda m: "teacher" not in m.roles)
            if m.facts
            and facts.reader(m.facts.name)
            # The check of memory says what is too large.
            and m.facts.parameters * m.facts.itemsize <= share
        ]
        found: dict[str, Measured] = {}
        unmeasured: dict[str, float] = {}
        for number, model in enumerate(fit):
            name = model.resolved.name
            taught = {n: f.states for n, f in found.items() if f.states and self._alike(model, n)}
            found[name] = Measured()
            # Time that was asked for is for whoever needs it; what is left over is shared.
            asked = clock is not self.limit
            limit = clock.left if asked else 2 * clock.left / (len(fit) - number + 1)
            clock.call(
                f"probe of {name}", limit,
                lambda m=model, t=taught, f=found[name]: self._probe(m, t, f),
            )  # fmt: skip
            if found[name].speed is None and clock.failures[-1].slow:
                unmeasured[name] = self._needs(facts, model, max(0.0, limit))
        return dataclasses.replace(
            facts,
            speeds={name: f.speed for name, f in found.items() if f.speed},
            losses={name: f.losses for name, f in found.items() if f.losses},
            unmeasured=unmeasured,
        )

    def _needs(self, facts: StudyFacts, model: _Model, had: float) -> float:
        """Return about how many seconds a probe needs that did not finish in what it had."""
        from kdstudy.doctor import probe

        ours, read = model.facts, facts.reader(model.resolved.name)
        assert ours and read, "only such models are probed"
        teachers = sum(self._alike(model, m.resolved.name) for m in self.models)
        mean = read.tokens / max(1, read.rows)
        needs = probe.seconds_needed(self.study, ours.parameters, mean, teachers)
        return max(_LEAST, 1.5 * had, needs)

    def _alike(self, model: _Model, teacher: str) -> bool:
        theirs = next(m.facts for m in self.models if m.resolved.name == teacher)
        ours = model.facts
        return bool(
            ours and theirs and "teacher" in theirs.roles and ours.name != theirs.name
            and ours.tokenizer_hash == theirs.tokenizer_hash
        )  # fmt: skip

    def _probe(self, model: _Model, taught: Mapping[str, Any], found: Any) -> None:
        from kdstudy.distill.rows import require_enough
        from kdstudy.doctor import probe

        probe.forget()
        some = {"train": self.rows[0][: text.ROWS], "validation": self.rows[1][: probe.LOSS_ROWS]}
        read = {n: text.encoded(self.study, model.tokenizer, rows) for n, rows in some.items()}
        counts = {name: found.counts for name, found in read.items()}
        require_enough(counts, self.study.train.max_length, 1.0)
        items = [(e, self.asking.get(name)) for name, some in self.items.items() for e in some]
        asked = items or [(e, None) for e in self.rows[1]]
        some = asked[:: max(1, len(asked) // 128)]
        prompts = [
            text.prompt(self.study, model.tokenizer, e, asking=how or Asking()) for e, how in some
        ]
        subject = probe.Subject(
            local=model.resolved.local(),
            tokenizer=model.tokenizer,
            rows=read["train"].rows,
            held_out=read["validation"].rows,
            prompts=prompts,
            trains="student" in model.roles or model.finetuned,
            teaches="teacher" in model.roles,
            teachers=taught,
        )
        probe.probe(self.study, subject, found)
        if model.resolved.cut and model.resolved.cut.measured:
            found.losses = None  # of another cut of this size


def _import_libraries() -> None:
    from kdstudy.doctor import probe

    probe.warm_up()


def _names(plan: Plan) -> dict[str, str]:
    """Return what the plan calls each model, by fingerprint."""
    return {m.fingerprint: m.name for stage in plan.stages.values() for m in named_in(stage)}
