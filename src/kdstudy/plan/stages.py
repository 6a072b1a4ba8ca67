"""Each kind of stage as a plan makes it: what its key holds, what it reads, what it is told beside.

A field that cannot change bytes goes to `local`. What is optional is left out of `config` where it
is what it was before there was a choice: the keys of older stores stay valid.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from kdstudy import artifacts, methods
from kdstudy.config import schema
from kdstudy.data.chat import DATE
from kdstudy.data.corpora import Source
from kdstudy.models.resolve import Resolved
from kdstudy.records import System
from kdstudy.stage import Stage

# Fields of `generation` that change speed, never the result.
_GENERATION_KNOBS = {"batch_size"}
# Training rows that a model is measured on before it is cut; ShortGPT takes as few tokens.
_CALIBRATION_ROWS = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """A system as stages need it: its model, and the train stage that made it, if one did."""

    system: System
    model: Resolved
    trained: str | None = None

    @property
    def label(self) -> str:
        """The system's label."""
        return self.system.label


class Stages:
    """A study's stages, each added when something needs it; every method returns a key."""

    def __init__(self, study: schema.Study, source: Source):
        """Begin with the stage of the study's corpus."""
        self.study = study
        self.by_key: dict[str, Stage] = {}
        self.corpus_name = source.name
        self.corpus = self._corpus(source)

    def benchmark(self, name: str, config: Mapping[str, Any], local: Mapping[str, Any]) -> str:
        """Pin a benchmark's items; `config` and `local` say where they are from."""
        limited = {**config, "limit": self.study.limit}
        return self._add("benchmark", name, limited, local=local)

    def contamination(self, name: str, items: str) -> str:
        """Look for a benchmark's items in the corpus."""
        inputs = artifacts.CORPUS.at(self.corpus) | artifacts.ITEMS.at(items)
        label = f"{name} in {self.corpus_name}"
        return self._add("contamination", label, {"benchmark": name}, inputs)

    def train(
        self,
        system: System,
        method: methods.Method,
        train: schema.Train,
        model: Resolved,
        teachers: Sequence[Subject] = (),
        start: Subject | None = None,
    ) -> str:
        """Train a system from its model, or from where the train stage of `start` ended."""
        config = {
            "method": method.model_dump(exclude=method.OF_TRAINING),
            "train": train.model_dump(exclude=schema.NO_RESULT),
            **self._format(),
            "seed": system.seed,
            "student": _identity(model),
        }
        if method.type in methods.ORIGINS:
            config["package"] = methods.ORIGINS[method.type]
        inputs = artifacts.CORPUS.at(self.corpus) | artifacts.START.at(start and start.trained)
        inputs |= self._cut(model, "student")
        writer = start if method.recipe().source == "start" else None
        inputs |= self._rollouts(writer, method)
        models, aids = {"student": _place(model)}, {}
        for teacher in teachers:
            if method.teacher_gives == "text":
                inputs |= artifacts.TEACHER_TEXT.at(self._text_of(teacher, method))
                continue
            config["teacher"] = _identity(teacher.model)
            models["teacher"] = teacher.model.local()
            inputs |= artifacts.TEACHER.at(teacher.trained)
            cached = self._teacher_cache(teacher, method, train, writer)
            aids = artifacts.TEACHER_CACHE.at(cached)
        local = {
            "models": models,
            "train": train.model_dump(include=schema.NO_RESULT),
            "tracking": {"study": self.study.name, "label": system.label},
        }
        return self._add("train", system.label, config, inputs, local, aids)

    def generate(
        self, answering: Subject, name: str, items: str, settings: schema.Generation
    ) -> str:
        """Answer a benchmark."""
        return self._written("generate", answering, name, artifacts.ITEMS.at(items), settings)

    def likelihood(
        self, answering: Subject, name: str, items: str, scoring: Mapping[str, Any]
    ) -> str:
        """Score the options of a benchmark's items."""
        config = {
            "model": _identity(answering.model),
            "items": name,
            "scoring": scoring,
            "precision": self.study.train.precision,
        }
        inputs = artifacts.ITEMS.at(items) | artifacts.TRAINED.at(answering.trained)
        inputs |= self._cut(answering.model, "model")
        local = {"models": {"model": _place(answering.model)}}
        return self._add("likelihood", f"{answering.label} on {name}", config, inputs, local)

    def score(
        self,
        label: str,
        inputs: Mapping[str, str],
        scoring: Mapping[str, Any],
        *,
        any_texts: bool,
    ) -> str:
        """Grade a system's answers, in the usual way but where `scoring` says how."""
        config = {"rule": self.study.extraction} | (self.rouge if any_texts else {})
        config |= {"scoring": scoring} if scoring else {}
        return self._add("score", label, config, inputs)

    def compare(self, label: str, reference: str, system: str, other: str) -> str:
        """Compare a system with a reference, given the score stages of both."""
        inputs = artifacts.SYSTEM.at(system) | artifacts.REFERENCE.at(other)
        return self._add("compare", f"{label} with {reference}", self.rouge, inputs)

    def token_fidelity(self, one: Subject, reference: Subject) -> str:
        """Compare two systems token by token."""
        config = {
            "model": _identity(one.model),
            "reference_model": _identity(reference.model),
            **self._format(),
            "max_length": self.study.train.max_length,
            "loss_turns": self.study.train.loss_turns,
            "precision": self.study.train.precision,
            "rows": self.study.token_rows,
        }
        inputs = artifacts.CORPUS.at(self.corpus) | artifacts.TUNED_SYSTEM.at(one.trained)
        inputs |= artifacts.TUNED_REFERENCE.at(reference.trained)
        inputs |= self._cut(one.model, "model")
        models = {"model": _place(one.model), "reference_model": reference.model.local()}
        label = f"{one.label} with {reference.label}"
        return self._add("token_fidelity", label, config, inputs, {"models": models})

    def results(self, systems: Sequence[System], inputs: Mapping[str, str]) -> str:
        """Join all that was measured."""
        config = {"study": self.study.name, "systems": [s.row for s in systems]}
        return self._add("results", self.study.name, config, inputs)

    def report(self, config: Mapping[str, Any], results: str) -> str:
        """Write the page; it tells of every stage but the aids, which nobody may have built."""
        aids = {key for stage in self.by_key.values() for key in stage.aids.values()}
        told = {
            (key, stage.label): key
            for key, stage in self.by_key.items()
            if key not in {results, *aids}
        }
        inputs = artifacts.EACH_STAGE.at(told) | artifacts.RESULTS.at(results)
        return self._add(
            "report", self.study.name, {"study": self._as_reported(), **config}, inputs
        )

    def _as_reported(self) -> dict[str, Any]:
        """Return the study without what changes no result and what older keys did not have."""
        plain = set() if self.rouge else {"rouge_tokenizer"}
        found = self.study.model_dump(mode="json", exclude={"resources", *plain})
        for benchmark in found["benchmarks"]:
            if benchmark["scoring"] is None:
                del benchmark["scoring"]
        return found

    @property
    def rouge(self) -> dict[str, str]:
        """What ROUGE-L takes for words; nothing where it is what it was in older keys."""
        chosen = self.study.rouge_tokenizer
        return {} if chosen == "rouge-score" else {"rouge_tokenizer": chosen}

    def _add(
        self, kind: str, label: str, config: Mapping[str, Any],
        inputs: Mapping[str, str] | None = None, local: Mapping[str, Any] | None = None,
        aids: Mapping[str, str] | None = None,
    ) -> str:  # fmt: skip
        stage = Stage(
            kind=kind,
            label=label,
            config=config,
            inputs=inputs or {},
            local=local or {},
            aids=aids or {},
        )
        self.by_key.setdefault(stage.key, stage)
        return stage.key

    def _corpus(self, source: Source) -> str:
        choice = {"rows", "validation_rows", "seed", "columns"}
        # The same bytes are other rows as CSV than as TSV.
        pinned = {"name": source.name, "fingerprint": source.fingerprint, "kind": source.kind}
        config = {**pinned, **self.study.corpus.model_dump(include=choice)}
        local = {"source": dataclasses.asdict(source)}
        del local["source"]["columns"]
        return self._add("corpus", source.name, config, local=local)

    def _cut(self, model: Resolved, name: str) -> dict[str, str]:
        """Return the stage that cuts a model, as the input of one that calls it `name`."""
        if model.cut is None:
            return {}
        source = {"fingerprint": model.whole}
        if model.trust_remote_code:
            source["trust_remote_code"] = True
        local = {"models": {"source": model.local()}}
        inputs = {}
        if model.cut.measured:
            inputs = artifacts.IMPORTANCE.at(self._importance(model, source, local))
        config = {"source": source, **model.cut.config()}
        return artifacts.CUT.at({name: self._add("cut", model.name, config, inputs, local)})

    def _importance(self, model: Resolved, source: Any, local: Any) -> str:
        """Measure a model on training rows before it is cut."""
        config = {
            "source": source,
            **self._format(),
            "max_length": self.study.train.max_length,
            "rows": _CALIBRATION_ROWS,
            "neurons": model.cut is not None and model.cut.intermediate is not None,
        }
        label = f"{(model.hub_id or model.folder or model.name).rpartition('/')[2]} before its cut"
        return self._add("importance", label, config, artifacts.CORPUS.at(self.corpus), local)

    def _teacher_cache(
        self, teacher: Subject, method: methods.Method, train: schema.Train, writer: Subject | None
    ) -> str | None:
        """Cache a teacher on the corpus, or on a start's text, where a run can use it."""
        # Text that the student writes at every step is never the corpus, and states of inner
        # layers are in no cache.
        if train.teacher_cache not in ("auto", "disk") or method.recipe().asks_anew:
            return None
        config = {
            "teacher": _identity(teacher.model),
            **self._format(),
            "max_length": train.max_length,
            "loss_turns": train.loss_turns,
            "loss_tokens": train.loss_tokens,
            "precision": train.precision,
            "mode": train.teacher_cache,
        }
        inputs = artifacts.CORPUS.at(self.corpus) | artifacts.TEACHER.at(teacher.trained)
        inputs |= self._rollouts(writer, method)
        local = {
            "models": {"teacher": teacher.model.local()},
            "rows_per_pass": 2 * (train.micro_batch_size or train.batch_size),
        }
        read = f"text of {writer.label}" if writer else "corpus"
        return self._add("teacher_cache", f"{teacher.label} on {read}", config, inputs, local)

    def _rollouts(self, writer: Subject | None, method: methods.Method) -> dict[str, str]:
        """Have a run's start answer the corpus's prompts, where it is to."""
        return artifacts.ROLLOUTS.at(self._text_of(writer, method) if writer else None)

    def _text_of(self, writer: Subject, method: Any) -> str:
        """Have a teacher, or a run's start, answer the corpus's prompts."""
        settings = self.study.generation.model_copy(
            update={"temperature": method.sampling_temperature, "samples": 1, "top_p": 1.0}
        )
        asked = artifacts.PROMPTS.at(self.corpus)
        return self._written("teacher_text", writer, "corpus", asked, settings)

    def _written(
        self, kind: str, by: Subject, items: str, asked: dict[str, str], settings: schema.Generation
    ) -> str:
        config = {
            "model": _identity(by.model),
            "items": items,
            "generation": settings.model_dump(exclude=_GENERATION_KNOBS),
            **self._format(),
            "precision": self.study.train.precision,
        }
        inputs = asked | artifacts.TRAINED.at(by.trained) | self._cut(by.model, "model")
        local = {"models": {"model": _place(by.model)}, "batch_size": settings.batch_size}
        return self._add(kind, f"{by.label} on {items}", config, inputs, local)

    def _format(self) -> dict[str, Any]:
        """Return what decides how text becomes prompts; what `auto` means, a model's files say."""
        made = {"template": self.study.template, "template_date": DATE}
        given = self.study.template_arguments
        return made | ({"template_arguments": given} if given else {})


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
