"""The stages that measure systems: benchmarks, answers, grades, comparisons, results, report."""

import dataclasses
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdstudy import artifacts
from kdstudy.analysis.kinds import ResultsConfig
from kdstudy.compared_pairs import compared_pairs
from kdstudy.config import schema
from kdstudy.config.protocols import differences
from kdstudy.data.kinds import ContaminationConfig
from kdstudy.evaluation import benchmarks, graders
from kdstudy.evaluation.asking import Asking, asking
from kdstudy.evaluation.kinds import (
    BenchmarkConfig,
    CompareConfig,
    LikelihoodConfig,
    PromptsConfig,
    ScoreConfig,
    TokenFidelityConfig,
)
from kdstudy.models.vocabulary import may_be_same
from kdstudy.plan.grid import CHAIN, budgets
from kdstudy.plan.stages import Stages, Subject, named, place
from kdstudy.plan.varying import Variation, variations
from kdstudy.records import Example, System
from kdstudy.report.kinds import ReportConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Written:
    """A benchmark that is answered in text.

    Attributes:
        kind: What its answers are.
        items: The key of its items.
        asking: How it is asked.
        scoring: Its grader where that is not the usual one, as keys have it.
        of_task: A task of lm-evaluation-harness grades it.
    """

    name: str
    kind: str
    items: str
    asking: Asking
    scoring: Mapping[str, Any]
    of_task: bool


class Measuring:
    """What is measured of which systems; the stages of it are added as systems come.

    Attributes:
        subjects: What is measured, by system label.
        scored: Key of each one's score stage.
    """

    def __init__(self, stages: Stages, base: Path, data_dir: Path | None):
        """Begin with the study's benchmarks.

        Raises:
            InputError: One cannot be found or read, or cannot be graded as the study says.
        """
        self.study, self.stages = stages.study, stages
        self.subjects: dict[str, Subject] = {}
        self.scored: dict[str, str] = {}
        self._base, self._data_dir = base, data_dir
        self._answered: dict[str, dict[str, str]] = {}  # system label -> benchmark -> key
        self._pairs: dict[tuple[str, str], str] = {}
        self._tokens: dict[tuple[str, str], str] = {}
        self._shared: dict[tuple[str, str], bool] = {}  # by names of two models
        self._benchmarks: dict[str, str] = {}  # name -> key of its items
        self._kinds: dict[str, str] = {}
        self._graders: dict[str, graders.Grader] = {}
        self._scoring: dict[str, dict[str, Any]] = {}  # name -> what is not usual with its kind
        self._asking: dict[str, Asking] = {}
        self._tasks: dict[str, dict[str, Any]] = {}  # name -> where what grades its texts is
        self._audited: dict[str, str] = {}  # name -> key of its contamination stage
        self._variants: dict[str, Variation] = {}  # name -> its items and how they are asked
        for ref in self.study.benchmarks:
            self._benchmark(ref)

    @property
    def kinds_of_text(self) -> list[str]:
        """Kinds of the benchmarks that are answered in text."""
        return [k for name, k in self._kinds.items() if self._graders[name].needs == "text"]

    @property
    def written(self) -> list[Written]:
        """The benchmarks that are answered in text."""
        return [
            Written(
                name=name,
                kind=self._kinds[name],
                items=items,
                asking=self._asking[name],
                scoring=self._scoring.get(name, {}),
                of_task=name in self._tasks,
            )
            for name, items in self._benchmarks.items()
            if self._graders[name].needs == "text"
        ]

    @property
    def systems(self) -> tuple[System, ...]:
        """What is measured."""
        return tuple(subject.system for subject in self.subjects.values())

    def add(self, subject: Subject) -> None:
        """Answer every benchmark and score."""
        written, likely = {}, {}
        for name, items in self._benchmarks.items():
            if self._graders[name].needs == "options":
                likely[name] = self._likelihood(subject, name, items)
            else:
                written[name] = self._generate(subject, name, items)
        self.subjects[subject.label] = subject
        self._answered[subject.label] = written | likely
        inputs = artifacts.EACH_ITEMS.at(self._benchmarks)
        inputs |= artifacts.EACH_GENERATIONS.at(written) | artifacts.EACH_LIKELIHOODS.at(likely)
        any_texts = "text" in self._kinds.values()
        config = ScoreConfig(
            rule=self.study.extraction,
            scoring=self._scoring,
            thinking={n: a.endings.thinking for n, a in self._asking.items() if a.endings.thinking},
            **({"rouge_tokenizer": self.study.rouge_tokenizer} if any_texts else {}),
        )
        local = {"tasks": self._tasks} if self._tasks else None
        self.scored[subject.label] = self.stages.add("score", subject.label, config, inputs, local)
        if not subject.system.ablation:
            self._vary(subject)

    def compare(self, subjects: Sequence[Subject]) -> None:
        """Compare text by text; with teachers also token by token, as far as words are shared."""
        found = compared_pairs([s.system for s in subjects])
        new = [pair for pair in found if pair not in self._pairs]
        for pair in new:
            self._pairs[pair] = self._compare(*pair)
        for pair in new if self.study.token_rows else ():
            subject, reference = (self.subjects[label] for label in pair)
            main = not subject.system.ablation and reference.system.kind != "sft"
            if main and self.share_words(subject, reference):
                self._tokens[pair] = self._token_fidelity(subject, reference)

    def answers(self, subject: Subject, benchmark: str) -> str:
        """Return the key of what a system answered to a benchmark."""
        return self._answered[subject.label][benchmark]

    def share_words(self, one: Subject, other: Subject) -> bool:
        """Return whether two systems' models may have the same tokens."""
        names = one.model.name, other.model.name
        if names not in self._shared:  # once a pair: vocabularies are long
            self._shared[names] = may_be_same(one.model.vocabulary, other.model.vocabulary)
        return self._shared[names]

    def results(self) -> str:
        """Join all that was measured."""
        first = next(iter(self._benchmarks))
        writers = {label: keys[first] for label, keys in self._answered.items()}
        inputs = {
            **artifacts.EACH_ITEMS.at(self._benchmarks),
            **artifacts.EACH_SCORES.at(self.scored),
            **artifacts.EACH_PAIR.at(self._pairs),
            **artifacts.EACH_TOKENS.at(self._tokens),
            **artifacts.EACH_CONTAMINATION.at(self._audited),
            **artifacts.EACH_WRITER.at(writers),
        }
        config = ResultsConfig(study=self.study.name, systems=[s.row for s in self.systems])
        return self.stages.add("results", self.study.name, config, inputs)

    def report(
        self, results: str, starts: Sequence[str], origins: Mapping[str, str],
        prompts_apart: Mapping[str, str],
    ) -> str:  # fmt: skip
        """Write the page; it tells of every stage but the aids, which nobody may have built.

        Args:
            results: Key of the results stage.
            starts: Keys of the train stages that others start from and no system is.
            origins: As in `ReportConfig`, like `prompts_apart`.
            prompts_apart: See there.
        """
        by_key = self.stages.by_key
        aids = {key for stage in by_key.values() for key in stage.aids.values()}
        self._prompts()
        told = {
            (key, stage.label): key for key, stage in by_key.items() if key not in {results, *aids}
        }
        inputs = artifacts.EACH_STAGE.at(told) | artifacts.RESULTS.at(results)
        said = budgets(self.study)
        config = ReportConfig(
            study=self._as_reported(),
            protocol_differences=differences(self.study),
            epochs=said,
            only_starts=starts if said else None,
            origins=origins,
            prompts_apart=prompts_apart,
        )
        return self.stages.add("report", self.study.name, config, inputs)

    def _prompts(self) -> str:
        """Keep what every model reads of every item, for people to look at."""
        models = {s.model.name: s.model for s in self.subjects.values()}
        config = PromptsConfig(
            **self.stages.prompts(),
            models=tuple(map(named, models.values())),
            asking={n: how for n, a in self._asking.items() if (how := a.config())},
            scoring={n: self._scoring[n] for n, g in self._graders.items() if g.needs == "options"},
        )
        inputs = artifacts.EACH_ITEMS.at(self._benchmarks)
        for name, model in models.items():
            inputs |= self.stages.cut(model, name)
        local = {"models": {name: place(model) for name, model in models.items()}}
        return self.stages.add("prompts", self.study.name, config, inputs, local)

    def _as_reported(self) -> dict[str, Any]:
        """Return the study without what changes no result and what older keys did not have."""
        plain = {"rouge_tokenizer"} if self.study.rouge_tokenizer == "rouge-score" else set()
        plain |= set() if self.study.statement.asked else {"statement"}
        found = self.study.model_dump(mode="json", exclude={"resources", *plain})
        for benchmark, ref in zip(found["benchmarks"], self.study.benchmarks, strict=True):
            for field in {*benchmark} - {"name", "path", "kind", "labels"}:
                if getattr(ref, field) == type(ref).model_fields[field].default:
                    del benchmark[field]
        for method in found["methods"]:
            if method.get(CHAIN) == 1:
                del method[CHAIN]
        refs = [r for t in found["teachers"] for r in t.get("together", [t])]
        for ref in (*refs, *found["students"]):
            if ref["context"] is None:
                del ref["context"]
        return found

    def _benchmark(self, ref: schema.BenchmarkRef) -> None:
        if ref.harness is not None:
            name = self._harness_task(ref)
        else:
            config, local = self._source(ref)
            name = config.name
            self._benchmarks[name] = self.stages.add("benchmark", name, config, local=local)
            labels = benchmarks.labels(name) if config.labels is None else tuple(config.labels)
            self._kinds[name] = benchmarks.kind(name) if config.kind is None else config.kind
            self._graders[name] = self._grader(ref, name, labels)
            self._asking[name] = asking(ref, self._base, self._data_dir)
            if self._asking[name].shots:
                self._asking[name].require_apart(name, self._at_hand(ref))
            grader = self._graders[name]
            told = (config, local, self._kinds[name], grader.needs)
            self._variants |= variations(self.stages, ref, *told)
        inputs = artifacts.CORPUS.at(self.stages.corpus) | artifacts.REPLAY.at(self.stages.replay)
        inputs |= artifacts.ITEMS.at(self._benchmarks[name])
        self._audited[name] = self.stages.add(
            "contamination",
            f"{name} in {self.stages.corpus_name}",
            ContaminationConfig(benchmark=name),
            inputs,
        )

    def _source(self, ref: schema.BenchmarkRef) -> tuple[BenchmarkConfig, dict[str, Any]]:
        """Return what a benchmark's key and its stage need to know."""
        limit = self.study.limit
        if ref.path is None:
            name = benchmarks.canonical(ref.name)
            fingerprint = benchmarks.fingerprint(name, self._data_dir)
            local = {"data_dir": str(self._data_dir.absolute()) if self._data_dir else None}
            return BenchmarkConfig(name=name, fingerprint=fingerprint, limit=limit), local
        path = Path(os.path.abspath(self._base / Path(ref.path).expanduser()))
        own = {"name": ref.name, "kind": ref.kind, "labels": tuple(ref.labels)}
        source = benchmarks.from_file(path=path, **own)
        source.load(None)  # a malformed row is met here, not once its stage runs
        config = BenchmarkConfig(**own, fingerprint=source.fingerprint(None), limit=limit)
        return config, {"path": str(path)}

    def _harness_task(self, ref: schema.BenchmarkRef) -> str:
        """Pin a task of lm-evaluation-harness, and return its name."""
        task, name = benchmarks.harness_task(ref, self._base), ref.name
        whole, local = task.load(None), {"task": task.task, "shots": task.shots}
        config = BenchmarkConfig(
            name=name,
            fingerprint=task.fingerprint(None),
            limit=self.study.limit,
            kind=whole.kind,
            labels=(),
        )
        self._benchmarks[name] = self.stages.add("benchmark", name, config, local=local)
        self._kinds[name] = whole.kind
        self._graders[name] = graders.of_benchmark(ref.scoring, whole)
        self._scoring[name] = graders.as_config(self._graders[name])
        self._asking[name] = asking(ref, task=task)
        if whole.graded is not None:
            self._tasks[name] = {**local, "fingerprint": config.fingerprint}
        return name

    def _at_hand(self, ref: schema.BenchmarkRef) -> Sequence[Example]:
        """Return a benchmark's items; none where its stage will download them, and look again."""
        if ref.path is None and benchmarks.overview(ref.name, self._data_dir).items is None:
            return ()
        path = ref.path and str(self._base / Path(ref.path).expanduser())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", benchmarks.EditedBenchmark)
            source = benchmarks.meant(ref.model_copy(update={"path": path}))
            return source.load(self._data_dir).examples

    def _grader(
        self, ref: schema.BenchmarkRef, name: str, labels: tuple[str, ...]
    ) -> graders.Grader:
        """Return what grades a benchmark; of a user's file, tried on every item."""
        kind = self._kinds[name]
        grader = graders.chosen(ref.scoring, name, kind, labels)
        if grader != graders.usual(kind, labels):
            self._scoring[name] = graders.as_config(grader)
        if ref.path and grader.needs == "options":
            path = self._base / Path(ref.path).expanduser()
            grader.require(benchmarks.from_file(name, path, kind, labels).load(None))
        return grader

    def _generate(self, subject: Subject, name: str, items: str) -> str:
        """Answer a benchmark."""
        text = self._kinds[name] == "text"
        settings = self.study.text_generation if text else self.study.generation
        asked, how = artifacts.ITEMS.at(items), self._asking[name].config()
        return self.stages.written("generate", subject, name, asked, settings, how)

    def _vary(self, subject: Subject) -> None:
        """Answer the variants, and grade them apart: they are in no table of results."""
        written = {}
        for name, found in self._variants.items():
            asked, how = artifacts.ITEMS.at(found.items), self._asking[found.original].config()
            settings = self.study.generation
            written[name] = self.stages.written(
                "generate", subject, name, asked, settings, how, found.template
            )
        if not written:
            return
        originals = {name: found.original for name, found in self._variants.items()}
        thinking = {n: self._asking[of].endings.thinking for n, of in originals.items()}
        config = ScoreConfig(
            rule=self.study.extraction,
            scoring={n: self._scoring[of] for n, of in originals.items() if of in self._scoring},
            thinking={n: mark for n, mark in thinking.items() if mark},
        )
        inputs = artifacts.EACH_ITEMS.at({n: v.items for n, v in self._variants.items()})
        inputs |= artifacts.EACH_GENERATIONS.at(written)
        self.stages.add("score_variants", subject.label, config, inputs)

    def _likelihood(self, subject: Subject, name: str, items: str) -> str:
        """Score the options of a benchmark's items."""
        config = LikelihoodConfig(
            model=named(subject.model),
            items=name,
            scoring=self._scoring[name],
            precision=self.study.train.precision,
        )
        inputs = artifacts.ITEMS.at(items) | artifacts.TRAINED.at(subject.trained)
        inputs |= self.stages.cut(subject.model, "model")
        local = {"models": {"model": place(subject.model)}}
        return self.stages.add("likelihood", f"{subject.label} on {name}", config, inputs, local)

    def _compare(self, label: str, reference: str) -> str:
        """Compare a system with a reference, text by text."""
        inputs = artifacts.SYSTEM.at(self.scored[label])
        inputs |= artifacts.REFERENCE.at(self.scored[reference])
        config = CompareConfig(rouge_tokenizer=self.study.rouge_tokenizer)
        return self.stages.add("compare", f"{label} with {reference}", config, inputs)

    def _token_fidelity(self, one: Subject, reference: Subject) -> str:
        """Compare two systems token by token."""
        config = TokenFidelityConfig(
            model=named(one.model),
            reference_model=named(reference.model),
            **self.stages.prompts(),
            max_length=self.study.train.max_length,
            loss_turns=self.study.train.loss_turns,
            precision=self.study.train.precision,
            rows=self.study.token_rows,
        )
        inputs = artifacts.CORPUS.at(self.stages.corpus) | artifacts.TUNED_SYSTEM.at(one.trained)
        inputs |= artifacts.TUNED_REFERENCE.at(reference.trained)
        inputs |= self.stages.cut(one.model, "model")
        models = {"model": place(one.model), "reference_model": reference.model.local()}
        label = f"{one.label} with {reference.label}"
        return self.stages.add("token_fidelity", label, config, inputs, {"models": models})
