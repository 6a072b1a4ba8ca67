"""study.yaml as types: every field, every default, every refusal."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from kdstudy.config.ablations import Ablations, require_listed
from kdstudy.config.refs import BenchmarkRef, CorpusRef, ModelRef, Together
from kdstudy.config.resources import Resources
from kdstudy.config.statement import Statement
from kdstudy.config.teachers import are_several, called, loaded, members, require_sense
from kdstudy.fields import TAGS, Strict, refuse_repeats
from kdstudy.methods import GKD, METHODS, AnyMethod, RevKD, SeqKD, Sft, WordKD, short_form

_LARGEST = 2**32
TEMPLATES = ("auto", "alpaca", "chat", "reference")
"""Templates that have a name."""
TAKEN = {
    *("conversation", "messages", "tools", "documents", "chat_template", "add_generation_prompt"),
    *("continue_final_message", "tokenize", "padding", "truncation", "max_length", "return_dict"),
    *("return_tensors", "return_assistant_tokens_mask", "tokenizer_kwargs", "strftime_now"),
    "sanitize_control_tokens",
}
"""Arguments of `apply_chat_template` that are not the template's."""


Tracker = Literal[
    *("azure_ml", "clearml", "codecarbon", "comet_ml", "dagshub", "dvclive", "flyte", "kubeflow"),
    *("mlflow", "neptune", "swanlab", "tensorboard", "trackio", "wandb"),
]
"""What transformers.Trainer can report to."""
RougeTokenizer = Literal["rouge-score", "unicode"]
"""What ROUGE-L takes for words."""

_REPLAY = "train.replay_weight"


class Lora(Strict):
    """Low-rank adapters (PEFT)."""

    r: int = Field(default=8, ge=1)
    """Rank."""
    alpha: int = Field(default=16, ge=1)
    """Scale numerator."""
    dropout: float = Field(default=0.05, ge=0, lt=1)
    """Dropout on the adapter's input."""
    target_modules: list[str] = Field(
        default=["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"], min_length=1
    )
    """Names of the linear layers that get an adapter (the paper's: no o_proj, no gate_proj)."""


class Train(Strict):
    """How every model of the study is trained; for teachers see `teacher_train`."""

    LATER: ClassVar[frozenset[str]] = frozenset({"replay_weight", "replay_rows", "replay_towards"})
    NO_RESULT: ClassVar[frozenset[str]] = frozenset(
        {"micro_batch_size", "report_to", "max_truncated_share", "teacher_cache", "on_alarm"}
    )
    """Fields that change speed or records, never the result."""

    epochs: float = Field(default=4.0, gt=0)
    """Passes over the corpus."""
    batch_size: int = Field(default=16, ge=1)
    """Rows per optimizer step, over all devices."""
    micro_batch_size: int | None = Field(default=None, ge=1)
    """Most rows per forward pass; null chooses. Changes memory and speed, not the result."""
    learning_rate: float = Field(default=3e-4, gt=0)
    """Peak learning rate of AdamW."""
    warmup_steps: int = Field(default=100, ge=0)
    """Steps of linear warm-up, at most a tenth of the run."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """What the learning rate does after the warm-up."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's weight decay."""
    max_length: int = Field(default=256, ge=8)
    """Tokens of prompt and response together; longer rows are cut, counted and reported."""
    max_truncated_share: float = Field(default=0.1, ge=0, le=1)
    """Refuse to train when a larger share of rows is cut at max_length."""
    evaluations: int = Field(default=10, ge=1)
    """How often, evenly spread, the validation loss is measured and a checkpoint kept."""
    select_by: Literal["method_loss", "cross_entropy"] = "method_loss"
    """Which validation loss chooses the checkpoint."""
    loss_tokens: Literal["response", "all", "positions"] = "response"
    """Score the response's tokens; the prompt's as well (`train_on_inputs`); or every position,
    the one after the end included, where a divergence needs no target."""
    loss_turns: Literal["all", "last"] = "all"
    """Of a conversation: learn every turn of the assistant, or the last alone."""
    normalisation: Literal["tokens", "sequences", "micro_batches"] = "tokens"
    """`tokens`: the step's sum over its tokens. `sequences`: mean per sequence, then over rows.
    `micro_batches`: mean over each `normalisation_group` rows' tokens, then over groups."""
    normalisation_group: int = Field(default=4, ge=1)
    """Rows of such a group; the released code's micro-batch is 4."""
    replay_weight: float = Field(default=0.0, ge=0)
    """Students, sft among them: weight of the mean cross-entropy on rows of the study's `replay`,
    added to every step's loss whatever the method, against forgetting. 0: none."""
    replay_rows: int | None = Field(default=None, ge=1)
    """Rows of it that a step reads beside its own; null: a quarter of batch_size."""
    replay_towards: Literal["text", "base"] = "text"
    """What they are held to. `text`: their own, by cross-entropy. `base`: what the student's model
    said of them before anything trained it, by KL(base || student), which costs another pass over
    these rows and, without `lora`, a second copy of the model in memory."""
    lora: Lora | None = Lora()
    """Adapters; null or false trains all weights."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto`: bfloat16 on a GPU that has it; on a CPU float32, or bfloat16 where every student was
    measured to train 1.25 times as fast in it. The machine that first plans decides, the store
    keeps that, and other machines follow."""
    teacher_cache: Literal["auto", "memory", "disk", "off"] = "auto"
    """Where a teacher's final hidden states on the corpus are kept, so that its body runs once.
    `disk`: for all runs. `memory`: for each run. `auto`: disk where it fits, else memory, else off.
    Changes speed and memory, not the result."""
    probe_rows: int = Field(default=8, ge=0)
    """Validation rows that the student answers before training and at every evaluation, to see
    whether it collapses; 0: none. Changes what is recorded, not what is trained."""
    on_alarm: Literal["flag", "stop"] = "flag"
    """When those answers look collapsed (length, repetition, no end, no answer): `flag` says so in
    the run's line and in the report; `stop` ends a run that does so at two evaluations in a row."""
    report_to: list[Tracker] = []
    """Trackers, through transformers.Trainer."""

    @property
    def replayed(self) -> int:
        """Rows of general text that a step reads."""
        if self.replay_weight == 0:
            return 0
        return self.replay_rows or max(1, self.batch_size // 4)

    @field_validator("teacher_cache", mode="before")
    @classmethod
    def _yaml_off(cls, value: Any) -> Any:
        # `false` is what people write who think of YAML 1.1, where a bare `off` means it.
        return "off" if value is False else value

    @field_validator("lora", mode="before")
    @classmethod
    def _without_lora(cls, value: Any) -> Any:
        return None if value is False else value


class TeacherTrain(Strict):
    """Where the fine-tuning of teachers differs from `train`; what is null is as there."""

    epochs: float | None = Field(default=None, gt=0)
    """Passes over the corpus."""
    learning_rate: float | None = Field(default=None, gt=0)
    """Peak learning rate of AdamW."""


class Generation(Strict):
    """How benchmark answers are generated."""

    max_new_tokens: int = Field(default=256, ge=1)
    """Token budget; a completion that reaches it is `truncated`."""
    temperature: float = Field(default=0.0, ge=0)
    """0 is greedy decoding; the paper sampled at 1."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Nucleus; 1 keeps everything."""
    samples: int = Field(default=1, ge=1)
    """Draws per item; needs a temperature above 0. With more than one, results have pass@k
    (unbiased, k up to the draws), majority votes, distinct answers and their entropy."""
    seed: int = 0
    """Seed of the draws; each item's draw depends on it and on the item alone."""
    batch_size: int | None = Field(default=None, ge=1)
    """Rows decoded together; null finds as many as memory holds. Changes speed and memory."""
    engine: Literal["transformers", "vllm"] = "transformers"
    """What decodes. vLLM needs its package and a GPU, and rounds otherwise than transformers."""

    @model_validator(mode="after")
    def _draws_need_sampling(self) -> Generation:
        if self.samples > 1 and self.temperature == 0:
            raise ValueError(
                f"samples: {self.samples} greedy drafts are {self.samples} equal texts; "
                "set temperature above 0 or samples to 1"
            )
        return self


class Study(Strict):
    """One study: what `kdstudy run` does."""

    LATER: ClassVar[frozenset[str]] = frozenset({"replay"})

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """Names the output folder: letters, digits, dot, dash, underscore."""
    protocol: Literal["corrected", "reference"] = "corrected"
    """Preset of the fields below; every field it sets can be set here too."""
    teachers: list[
        Annotated[
            Annotated[ModelRef, Tag(TAGS[0])] | Annotated[Together, Tag(TAGS[1])],
            Discriminator(lambda value: TAGS[are_several(value)]),
        ]
    ] = []
    """Models to learn from, one after the other: each student learns from each. A list among them,
    `[zoo-l, zoo-m]`, is several that a run has together. May be left out only when `methods` is
    [sft]."""
    students: list[ModelRef] = Field(min_length=1)
    """Models that learn."""
    corpus: CorpusRef
    """What teachers and students are trained on."""
    replay: CorpusRef | None = None
    """General text that students read beside the corpus, so that they forget less of what it does
    not teach; `train.replay_weight` says how much it counts. Looked through for test items as the
    corpus is."""
    benchmarks: list[BenchmarkRef] = Field(min_length=1)
    """What every system is measured on: names (`kdstudy ls benchmarks`), or files of one's own."""
    limit: int | None = Field(default=None, ge=1)
    """Measure on this many items of each benchmark, for a quick first run; which ones depends on
    the items' content alone. null means all."""
    methods: list[AnyMethod] = [Sft(), SeqKD(), WordKD(), RevKD(), GKD()]
    """How students are made. `sft` is always run: gains are measured against it."""
    ablations: Ablations = Ablations()
    """Temperature, noise, task-unaware teacher, or any field; `[{vary: ...}, ...]` for short."""
    seeds: list[Annotated[int, Field(ge=0, lt=_LARGEST)]] = Field(default=[0], min_length=1)
    """Training seeds of the students; teachers use the first."""
    template: str = "auto"
    """`auto` (the tokenizer's chat template where it has one, else Alpaca's prompt), `alpaca`,
    `chat` (the tokenizer's own), `reference`, or a text with {instruction} in it."""
    template_arguments: dict[str, Any] = {}
    """What chat templates are handed, in training and evaluation: `{enable_thinking: false}`."""
    train: Train = Train()
    """Training."""
    teacher_train: TeacherTrain = TeacherTrain()
    """Where teachers are fine-tuned otherwise: {epochs: 6, learning_rate: 2e-4}."""
    generation: Generation = Generation()
    """Decoding of answers."""
    text_generation: Generation = Generation(temperature=1.0, samples=5)
    """Decoding for instruction-following sets (MiniLLM's: five draws at temperature 1)."""
    token_rows: int = Field(default=100, ge=0)
    """Validation rows on which students are compared with their teacher token by token; 0: none."""
    statement: Statement = Statement()
    """What the loss statement measures beyond that, with the models asked again. Nothing of it is
    measured unless it is asked for here."""
    extraction: Literal["corrected", "reference"] = "corrected"
    """Which rules find the answer in a completion."""
    rouge_tokenizer: RougeTokenizer = "rouge-score"
    """What ROUGE-L takes for words. `rouge-score`, the published measure, knows a-z and 0-9 alone;
    `unicode` knows every script: each Chinese or Japanese character, runs of other letters."""
    resources: Resources = Resources()
    """What stages ask of a cluster's nodes (`--executor ray`). Changes no result."""

    @property
    def training_of_teachers(self) -> Train:
        """How teachers are fine-tuned."""
        own = self.teacher_train.model_dump(exclude_none=True)
        none = {"replay_weight": 0.0, "replay_rows": None, "replay_towards": "text"}
        return self.train.model_copy(update={**none, **own})

    @property
    def teacher_models(self) -> list[ModelRef]:
        """Every teacher, once, those that teach together too."""
        found = [ref for entry in self.teachers for ref in members(entry)]
        return list({loaded(ref): ref for ref in found}.values())

    @property
    def several(self) -> list[Together]:
        """The teachers that teach together."""
        return [entry for entry in self.teachers if isinstance(entry, Together)]

    @field_validator("methods", mode="before")
    @classmethod
    def _short_methods(cls, value: Any) -> Any:
        if not isinstance(value, list):
            return value
        for m in map(short_form, value):
            kind = m.get("type") if isinstance(m, dict) else None
            if isinstance(kind, str) and kind not in METHODS:
                near = difflib.get_close_matches(kind.lower(), METHODS, n=1)
                hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(METHODS)}"
                raise ValueError(f"unknown method '{kind}'; {hint}")
        return [short_form(m) for m in value]

    @field_validator("ablations", mode="before")
    @classmethod
    def _short_ablations(cls, value: Any) -> Any:
        if not isinstance(value, list):
            return value
        named, rest = {}, []
        for part in value:  # the paper's two fields have figures and tests of their own
            field = part.get("vary") if isinstance(part, dict) else None
            if field in ("temperature", "noise") and field not in named:
                named[field] = {k: v for k, v in part.items() if k != "vary"}
            else:
                rest.append(part)
        return named | {"vary": rest}

    @field_validator("template")
    @classmethod
    def _known_template(cls, value: str) -> str:
        if value not in TEMPLATES and "{instruction}" not in value:
            raise ValueError(
                f"'{value}' is no template; write {', '.join(TEMPLATES)}, or a text with "
                "{instruction} in it"
            )
        return value

    @field_validator("template_arguments")
    @classmethod
    def _known_arguments(cls, value: dict[str, Any]) -> dict[str, Any]:
        taken = [k for k in value if k in TAKEN]
        if taken:
            raise ValueError(f"{', '.join(taken)} is not the study's to set; leave it out")
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as e:
            raise ValueError(f"holds what is neither text, number, list nor table ({e})") from e
        return value

    @model_validator(mode="after")
    def _makes_sense(self) -> Study:
        refuse_repeats("methods", [m.name for m in self.methods])
        refuse_repeats("seeds", self.seeds)
        # As `benchmarks.canonical` has it, which the schema must not import.
        bare = [re.sub(r"[-_\s]", "", b.name.casefold()) for b in self.benchmarks]
        refuse_repeats("benchmarks", bare)
        turns = [
            b.name for b in self.benchmarks if b.shots and b.shots_as == "turns" and not b.harness
        ]
        if turns and self.template not in ("auto", "chat", "alpaca"):
            raise ValueError(
                f"benchmarks: {turns[0]}: template has no place for shots_as: turns; write "
                "shots_as: text, or template: auto"
            )
        same = [b.name for b in self.benchmarks if b.variant_template == self.template]
        if same:
            raise ValueError(
                f"benchmarks: {same[0]}: variant_template is the study's template; write another"
            )
        refuse_repeats("teachers", [called(t) for t in self.teachers])
        refuse_repeats("students", [loaded(s) for s in self.students])
        refuse_repeats("students", [s.name for s in self.students if s.name])
        if not self.teachers and {m.type for m in self.methods} != {"sft"}:
            raise ValueError(
                "teachers: is empty, and every method but sft learns from one; add one"
            )
        require_sense(self)
        inner = [m.type for m in self.methods if m.recipe().layers is not None]
        if inner and self.train.teacher_cache in ("disk", "memory"):
            raise ValueError(
                f"train.teacher_cache: {self.train.teacher_cache} holds final states, and "
                f"{', '.join(inner)} reads other layers (layers); write auto, with which that "
                "method's teacher runs beside its student"
            )
        require_listed(self)
        self._replay_makes_sense()
        if self.statement.asked and not self.teachers:
            raise ValueError(
                f"statement.{self.statement.asked[0]}: there is no teacher beside whom a student "
                "could be set; add one to teachers, or leave it out"
            )
        for field, number in _numbers(self.model_dump()):
            if not abs(number) < _LARGEST:
                raise ValueError(f"{field}: {number:g} is no number that a run could use")
        return self

    def _replay_makes_sense(self) -> None:
        varied = [v for part in self.ablations.vary for v in part.values if part.vary == _REPLAY]
        weighed = self.train.replay_weight > 0 or any(varied)
        if weighed and self.replay is None:
            raise ValueError(
                f"{_REPLAY}: there is no text to replay; name it (replay: {{path: general.jsonl}})"
            )
        if self.train.replay_towards == "base" and not weighed:
            raise ValueError(
                f"train.replay_towards: {_REPLAY} is 0, so that nothing is replayed; set it, such "
                "as to 0.5, or leave replay_towards out"
            )
        if self.replay is not None and not weighed:
            raise ValueError(
                f"replay: {_REPLAY} is 0, so that nothing would read it; set it, such as to 0.5"
            )


def _numbers(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Yield every number with its field's name."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _numbers(part, f"{path}.{key}".lstrip("."))
    elif isinstance(value, list):
        for i, part in enumerate(value):
            yield from _numbers(part, f"{path}[{i}]")
    elif isinstance(value, int | float):
        yield path, value
