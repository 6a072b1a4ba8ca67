"""The stages that make systems: corpus, cut, teacher's text and states, training.

A field that cannot change bytes goes to `local`, all others to a kind's `Config`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from kdstudy import artifacts, methods
from kdstudy.artifacts import by_number
from kdstudy.config import schema
from kdstudy.config.refs import Together
from kdstudy.data.chat import DATE
from kdstudy.data.corpora import Source as CorpusSource
from kdstudy.data.kinds import CorpusConfig
from kdstudy.distill.kinds import TeacherCacheConfig, TrainConfig
from kdstudy.errors import InputError
from kdstudy.evaluation.kinds import ChosenTextConfig, DraftLikelihoodConfig, GenerateConfig
from kdstudy.models.kinds import CutConfig, ImportanceConfig, Named, Source
from kdstudy.models.resolve import Resolved
from kdstudy.records import System
from kdstudy.stage import Config, Stage, kinds

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

    def __init__(
        self, study: schema.Study, source: CorpusSource, replay: CorpusSource | None = None
    ):
        """Begin with the stages of the study's corpus and of what is replayed beside it."""
        self.study = study
        self.by_key: dict[str, Stage] = {}
        self.corpus_name = source.name
        self.corpus = self._corpus("corpus", source, study.corpus)
        self.replay = None
        if replay is not None and study.replay is not None:
            self.corpus_name += f" and {replay.name}"
            self.replay = self._corpus("replay_corpus", replay, study.replay)

    def train(
        self,
        system: System,
        method: methods.Method,
        train: schema.Train,
        model: Resolved,
        teachers: Sequence[Subject] = (),
        start: Subject | None = None,
        several: Together | None = None,
        context: str = "",
    ) -> str:
        """Train a system from its model, or from where the train stage of `start` ended.

        Several teachers come with what says how they teach, one teacher perhaps with a context.
        """
        if not train.replay_weight:
            train = train.model_copy(update={"replay_towards": "text"})
        inputs = artifacts.CORPUS.at(self.corpus) | artifacts.START.at(start and start.trained)
        inputs |= self.cut(model, "student")
        writer = start if method.recipe().source == "start" else None
        inputs |= self._rollouts(writer, method)
        if train.replay_weight > 0:
            inputs |= artifacts.REPLAY.at(self.replay)
        models, aids, scored = {"student": place(model)}, {}, {}
        if method.teacher_gives == "text":
            base = System(label=model.name, kind="base", model=model.name)
            learner = start or Subject(system=base, model=model)
            inputs |= self._text_to_learn(teachers, method, learner)
        elif teachers:
            found = tuple(named(teacher.model) for teacher in teachers)
            scored = {"teacher": found[0]} if several is None else {"teachers": found}
            places = [place(teacher.model) for teacher in teachers]
            models |= {"teacher": places[0]} if several is None else by_number(places)
            trained = [teacher.trained for teacher in teachers]
            inputs |= _one_or_each(artifacts.TEACHER, artifacts.EACH_TEACHER, trained)
            if several is None:  # a cut one is the student before in a chain
                inputs |= self.cut(teachers[0].model, "teacher")
            told = (method, train, context, writer)
            caches = [self._teacher_cache(teacher, *told) for teacher in teachers]
            aids = _one_or_each(artifacts.TEACHER_CACHE, artifacts.EACH_TEACHER_CACHE, caches)
        config = TrainConfig(
            method=method.model_dump(exclude=method.OF_TRAINING),
            train=train.model_dump(exclude=train.NO_RESULT),
            **self.prompts(),
            seed=system.seed,
            student=named(model),
            **scored,
            together=_together(several) if several else {},
            context=context if scored else "",
            package=methods.ORIGINS.get(method.type, ""),
            replay_logged=train.replay_weight > 0,
            **({"extraction": self.study.extraction} if method.recipe().judging else {}),
        )
        local = {
            "models": models,
            "train": train.model_dump(include=train.NO_RESULT),
            "tracking": {"study": self.study.name, "label": system.label},
        }
        return self.add("train", system.label, config, inputs, local, aids)

    def written(
        self, kind: str, by: Subject, items: str, asked: dict[str, str],
        settings: schema.Generation, asking: Mapping[str, Any] | None = None,
        template: str | None = None,
    ) -> str:  # fmt: skip
        """Have a model answer what `asked` holds: questions (`generate`) or the corpus's prompts.

        Args:
            kind: `generate`, `teacher_text` or `attempts`.
            by: What writes.
            items: Name of the benchmark, or `corpus`.
            asked: The input that holds what is answered.
            settings: How.
            asking: What is asked beside the study's prompt: `Asking.config`.
            template: What it is asked in; None: the study's.
        """
        own = {} if template is None else {"template": template}
        config = GenerateConfig(
            model=named(by.model),
            items=items,
            generation=settings.model_dump(exclude=_GENERATION_KNOBS),
            **self.prompts() | own,
            precision=self.study.train.precision,
            asking=asking or {},
        )
        inputs = asked | artifacts.TRAINED.at(by.trained) | self.cut(by.model, "model")
        local = {"models": {"model": place(by.model)}, "batch_size": settings.batch_size}
        return self.add(kind, f"{by.label} on {items}", config, inputs, local)

    def cut(self, model: Resolved, name: str) -> dict[str, str]:
        """Return the stage that cuts a model, as the input of one that calls it `name`."""
        if model.cut is None:
            return {}
        source = Source(fingerprint=model.whole, trust_remote_code=model.trust_remote_code)
        local = {"models": {"source": model.local()}}
        inputs = {}
        if model.cut.measured:
            inputs = artifacts.IMPORTANCE.at(self._importance(model, source, local))
        config = CutConfig(source=source, **dataclasses.asdict(model.cut))
        return artifacts.CUT.at({name: self.add("cut", model.name, config, inputs, local)})

    def add(
        self, kind: str, label: str, config: Config,
        inputs: Mapping[str, str] | None = None, local: Mapping[str, Any] | None = None,
        aids: Mapping[str, str] | None = None,
    ) -> str:  # fmt: skip
        """Add a stage, as `Stage` takes it, unless it is there."""
        if type(config) is not kinds()[kind].config:
            raise TypeError(f"{kind}: {type(config).__name__} is another kind's configuration")
        stage = Stage(
            kind=kind,
            label=label,
            config=config.hashed(),
            inputs=inputs or {},
            local=local or {},
            aids=aids or {},
        )
        self.by_key.setdefault(stage.key, stage)
        return stage.key

    def _corpus(self, kind: str, source: CorpusSource, ref: schema.CorpusRef) -> str:
        choice = {"rows", "validation_rows", "seed", "columns"}
        config = CorpusConfig(
            name=source.name,
            fingerprint=source.fingerprint,
            kind=source.kind,
            **ref.model_dump(include=choice),
        )
        local = {"source": dataclasses.asdict(source)}
        del local["source"]["columns"]
        return self.add(kind, source.name, config, local=local)

    def _importance(self, model: Resolved, source: Source, local: Mapping[str, Any]) -> str:
        """Measure a model on training rows before it is cut."""
        config = ImportanceConfig(
            source=source,
            **self.prompts(),
            max_length=self.study.train.max_length,
            rows=_CALIBRATION_ROWS,
            neurons=model.cut is not None and model.cut.intermediate is not None,
        )
        label = f"{(model.hub_id or model.folder or model.name).rpartition('/')[2]} before its cut"
        return self.add("importance", label, config, artifacts.CORPUS.at(self.corpus), local)

    def _teacher_cache(
        self, teacher: Subject, method: methods.Method, train: schema.Train, context: str,
        writer: Subject | None,
    ) -> str | None:  # fmt: skip
        """Cache a teacher on the corpus, or on a start's text, where a run can use it."""
        # Text that the student writes at every step is never the corpus, and states of inner
        # layers are in no cache.
        if train.teacher_cache not in ("auto", "disk") or method.recipe().asks_anew:
            return None
        config = TeacherCacheConfig(
            teacher=named(teacher.model),
            **self.prompts(),
            max_length=train.max_length,
            loss_turns=train.loss_turns,
            loss_tokens=train.loss_tokens,
            precision=train.precision,
            mode=train.teacher_cache,
            context=context,
        )
        inputs = artifacts.CORPUS.at(self.corpus) | artifacts.TEACHER.at(teacher.trained)
        inputs |= self.cut(teacher.model, "teacher")
        inputs |= self._rollouts(writer, method)
        local = {
            "models": {"teacher": place(teacher.model)},
            "rows_per_pass": 2 * (train.micro_batch_size or train.batch_size),
        }
        read = f"text of {writer.label}" if writer else "corpus"
        label = f"{teacher.label} on {read}{' with its context' * bool(context)}"
        return self.add("teacher_cache", label, config, inputs, local)

    def _rollouts(self, writer: Subject | None, method: methods.Method) -> dict[str, str]:
        """Have a run's start answer the corpus's prompts, where it is to."""
        return artifacts.ROLLOUTS.at(self._text_of(writer, method) if writer else None)

    def _text_to_learn(
        self, teachers: Sequence[Subject], method: methods.Method, learner: Subject
    ) -> dict[str, str]:
        """Return the inputs that say what is learnt in the corpus's place by a run's start."""
        texts = [self._text_of(teacher, method) for teacher in teachers]
        if not (isinstance(method, methods.SeqKD) and method.chooses):
            return _one_or_each(artifacts.TEACHER_TEXT, artifacts.EACH_TEACHER_TEXT, texts)
        if len(teachers) > 1:
            raise InputError(
                f"{method.name}: {' and '.join(t.model.name for t in teachers)} teach together, "
                "and it chooses among the drafts of one teacher",
                remedy="list the teachers one by one, or leave out drafts, keep, otherwise, "
                "corpus_share and rows",
            )
        (teacher,), (drafts,) = teachers, texts
        inputs = artifacts.CORPUS.at(self.corpus) | artifacts.DRAFTS.at(drafts)
        if method.choose == "likeliest":
            likely = self._draft_likelihood(teacher, drafts)
            inputs |= artifacts.DRAFT_LIKELIHOODS.at(likely)
        label = f"{teacher.label} on corpus"
        if method.rows == "failed":
            inputs |= artifacts.ATTEMPTS.at(self._attempts(learner))
            label += f", for {learner.label}"
        config = ChosenTextConfig(
            keep=method.keep,
            choose=method.choose,
            otherwise=method.otherwise,
            corpus_share=method.corpus_share,
            least_kept=method.least_kept,
            labels=method.labels,
            rule=self.study.extraction,
            rows=method.rows,
        )
        return artifacts.CHOSEN_TEXT.at(self.add("chosen_text", label, config, inputs))

    def _draft_likelihood(self, teacher: Subject, drafts: str) -> str:
        """Have a teacher say how likely its drafts are."""
        config = DraftLikelihoodConfig(
            model=named(teacher.model), **self.prompts(), precision=self.study.train.precision
        )
        inputs = artifacts.PROMPTS.at(self.corpus) | artifacts.DRAFTS.at(drafts)
        inputs |= artifacts.TRAINED.at(teacher.trained) | self.cut(teacher.model, "model")
        local = {"models": {"model": place(teacher.model)}}
        return self.add("draft_likelihood", f"{teacher.label} on corpus", config, inputs, local)

    def _attempts(self, learner: Subject) -> str:
        """Have a student answer the corpus's training rows before it learns from its teacher."""
        greedy = {"temperature": 0.0, "samples": 1, "top_p": 1.0}
        settings = self.study.generation.model_copy(update=greedy)
        asked = artifacts.PROMPTS.at(self.corpus)
        return self.written("attempts", learner, "corpus", asked, settings)

    def _text_of(self, writer: Subject, method: Any) -> str:
        """Have a teacher, or a run's start, answer the corpus's prompts."""
        settings = self.study.generation.model_copy(
            update={
                "temperature": method.sampling_temperature,
                "samples": getattr(method, "drafts", 1),
                "top_p": 1.0,
            }
        )
        asked = artifacts.PROMPTS.at(self.corpus)
        return self.written("teacher_text", writer, "corpus", asked, settings)

    def prompts(self) -> dict[str, Any]:
        """Return what decides how text becomes prompts: the fields of `Prompted`."""
        study = self.study
        return {
            "template": study.template,
            "template_date": DATE,
            "template_arguments": study.template_arguments,
        }


def _together(several: Together) -> dict[str, Any]:
    """Return how several teachers teach: a teacher's number by tag, or a mixture."""
    if several.route is not None:
        numbers = {ref.model: number for number, ref in enumerate(several.together)}
        return {"route": {tag: numbers[model] for tag, model in several.route.items()}}
    return {"mixture": several.mixture or "arithmetic", "weights": several.shares}


def _one_or_each(
    one: artifacts.Role, each: artifacts.Roles, stages: Sequence[str | None]
) -> dict[str, str]:
    """Return the stages of a run's teachers as inputs: of one, or of several by number."""
    if len(stages) == 1:
        return one.at(stages[0])
    there = {number: stage for number, stage in by_number(stages).items() if stage is not None}
    return each.at(there)


def named(model: Resolved) -> Named:
    """Return a model as keys have it."""
    return Named(
        name=model.name,
        fingerprint=model.fingerprint,
        trust_remote_code=model.trust_remote_code,
    )


def place(model: Resolved) -> dict[str, Any]:
    """Return where a stage finds a model; a cut one lies in a stage that is its input."""
    local = model.local()
    if model.cut is None:
        return local
    nowhere = dict.fromkeys(("folder", "hub_id", "revision", "adapter", "gguf"))
    nowhere |= dict.fromkeys(("layers", "intermediate"))
    return local | nowhere | {"files": {}}
