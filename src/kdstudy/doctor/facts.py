"""What the checks look at: plain facts about a study, its data, its models and the machine."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from kdstudy.config.schema import Study
from kdstudy.doctor.findings import Shown
from kdstudy.errors import InputError, KdstudyError
from kdstudy.models.checkpoint import NO_ROOM_NAMED, Room
from kdstudy.plan.plan import Plan
from kdstudy.stage import Stage

Role = Literal["teacher", "student"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Failure:
    """A call that failed.

    Attributes:
        part: What was being looked at.
        error: What is wrong. Where it is an InputError `run` would stop there too; `run` may not
            meet the others.
        check: Whose finding an InputError is.
        slow: It took too long.
    """

    part: str
    error: KdstudyError
    check: str = "study"
    slow: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdapterFacts:
    """A user's adapter: the base model that its file names, and why it does not fit, or None."""

    folder: str
    base: str
    refusal: InputError | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """A model, from its files; no weight of it has been read.

    Attributes:
        name: As in labels.
        architecture: What `run` calls it once it is opened.
        roles: What the study uses it as.
        here: Its files are on this machine.
        finetuned: A teacher that is trained on the corpus first; students always are.
        parameters: How many numbers its weights have.
        stored: Bytes of its weights on disk.
        itemsize: Bytes of a parameter as the study computes with it.
        width: Entries of its output layer.
        room: How long a text it can read.
        hidden: Width of its final hidden state.
        linear: (outputs, inputs) of each linear layer but the output layer, by module name.
        vocabulary: Token -> id.
        tokenizer_hash: Of all that decides how it turns text into ids, chat template included.
        eos: The tokenizer's end-of-sequence token.
        eos_id: Its id.
        ends: Ids that the model's own configuration says end a text.
        bos: Token that its tokenizer puts before every text; empty for none.
        chat: Its tokenizer has a chat template.
        replaced: The class of its tokenizer that contradicts tokenizer.json and is not followed.
        trusted: It runs Python code of its own.
        adapter: A user's adapter, or None.
    """

    name: str
    architecture: str = ""
    roles: tuple[Role, ...]
    here: bool = True
    finetuned: bool = True
    parameters: int = 0
    stored: int = 0
    itemsize: int = 4
    width: int = 0
    room: Room = NO_ROOM_NAMED
    hidden: int = 0
    linear: Mapping[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    vocabulary: Mapping[str, int] = dataclasses.field(default_factory=dict)
    tokenizer_hash: str = ""
    eos: str = ""
    eos_id: int = -1
    ends: tuple[int, ...] = ()
    bos: str = ""
    chat: bool = False
    replaced: str = ""
    trusted: bool = False
    adapter: AdapterFacts | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class CorpusFacts:
    """The corpus as `data.corpora` reads it.

    Attributes:
        name: What reports call it.
        path: Its file; "" where it is none.
        train, validation: Rows of each part.
        read: Rows in the source.
        dropped: How many rows have no text to use, by reason.
        repeated: Rows whose prompt and response stand in the source before.
        shortened: Conversations that were kept up to the assistant's last message.
        leaked: Validation rows whose question (but for case and punctuation) is trained on too.
    """

    name: str
    train: int
    validation: int
    read: int
    dropped: Mapping[str, int]
    repeated: int = 0
    shortened: int = 0
    leaked: int = 0
    path: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextFacts:
    """The corpus as one tokenizer reads it, and what it makes of the benchmarks' prompts.

    Attributes:
        models: Models that read alike.
        rows: Rows encoded; the first ones of the corpus's random order where it is long.
        cut: Rows that lose their end at `max_length`.
        dropped: Rows whose prompt leaves no room for a response.
        unknown: Tokens that stand for something the vocabulary lacks, and `tokens` of all.
        tokens: Tokens of all rows, and how many of them are scored.
        scored: Scored tokens of all rows.
        refused: Rows that the template cannot render as it stands, and `refusal`, what is said of
            the first.
        written: Rows with control tokens written out as text.
        prompt_mismatches: Prompts whose ids differ between training and evaluation.
        needed: The `max_length` at which 99% of the rows fit.
        longest: The one at which all do.
        lengths: Tokens of each row that is encoded, uncut.
        asked: Tokens of each of their prompts.
        prompts: Tokens of each prompt, per benchmark; of the first ones where it is long.
        parity: One prompt as training and as evaluation read it.
        masks: A few rows with what is scored.
    """

    models: tuple[str, ...]
    rows: int
    cut: int
    dropped: int
    unknown: int
    tokens: int
    scored: int
    refused: int = 0
    refusal: InputError | None = None
    written: int = 0
    prompt_mismatches: int = 0
    needed: int = 0
    longest: int = 0
    lengths: tuple[int, ...] = ()
    asked: tuple[int, ...] = ()
    prompts: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    parity: tuple[Shown, Shown] | None = None
    masks: tuple[Shown, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class AlignmentFacts:
    """Answers of the corpus as a student and a teacher of another tokenizer read them.

    Attributes:
        student, teacher: The models.
        rows: Rows that were aligned.
        share: Share of the text of both sides that is compared.
        spans: Spans that are compared, and `tokens`, how many of the student's they have.
        tokens: Of the student's, in these spans.
        refusal: What `run` says of them, or None.
        shown: A few rows.
    """

    student: str
    teacher: str
    rows: int
    share: float
    spans: int
    tokens: int
    refusal: InputError | None = None
    shown: tuple[Shown, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkFacts:
    """A benchmark, whether its file is here or not.

    Attributes:
        name: Its name.
        kind: `number`, `choice` or `text`.
        found: As in `benchmarks.Overview.found`; `own file` for a file that the study names.
        items: Items that the study uses; None where it is nowhere.
        note: What is wrong with it, or where it comes from.
        contaminated: Items whose question the corpus holds, at each of `audit.LEVELS`.
        foreign: Of texts, items whose references ROUGE-L's published tokenizer hardly reads.
    """

    name: str
    kind: str
    found: str
    items: int | None = None
    note: str = ""
    contaminated: Mapping[str, int] = dataclasses.field(default_factory=dict)
    foreign: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class MachineFacts:
    """What computes, and where results go.

    Attributes:
        device: `cpu`, or the GPU's name.
        cuda: There is a GPU.
        bfloat16: The device computes in bfloat16 at speed.
        free: Bytes free in the device's memory.
        store: The store's folder.
        disk: Bytes free there.
        downloads: What has to be downloaded first -> bytes, None where that is unknown.
        download_disk: Bytes free where downloads go.
    """

    device: str
    cuda: bool
    bfloat16: bool
    free: int
    store: str = ""
    disk: int = 0
    downloads: Mapping[str, int | None] = dataclasses.field(default_factory=dict)
    download_disk: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Speed:
    """What a probe of one model measured.

    Attributes:
        micro: Rows of a micro-batch as the study trains this model.
        train: Seconds per training row, forward and backward, cross-entropy.
        distil: The same with a teacher's cached states and KL(teacher || student), by teacher.
        forward: Seconds per row of a forward pass, as for validation and the teacher's cache.
        prompt: Seconds per prompt row read.
        token: Seconds per generated token.
        together: Rows that were decoded together.
        memory: Peak bytes of one micro-batch of the longest rows, weights included.
        load: Seconds to load it.
    """

    micro: int
    train: float
    forward: float
    prompt: float
    token: float
    together: int
    load: float
    memory: int | None = None
    distil: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Losses:
    """How well a model predicts some validation rows: sums over their responses.

    Attributes:
        nats: Cross-entropy of each row.
        characters: Characters of each row's scored text.
    """

    nats: tuple[float, ...]
    characters: tuple[int, ...]

    @property
    def per_character(self) -> float:
        """Nats per character, which models with other tokens can be compared in."""
        return sum(self.nats) / max(1, sum(self.characters))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Accuracy:
    """A system's mean accuracy over the benchmarks, from the store, as a fraction."""

    label: str
    kind: str
    model: str
    value: float
    items: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyFacts:
    """Everything the checks look at.

    Attributes:
        study: The study.
        path: Its file.
        data_dir: The folder of benchmark and corpus files that it is looked over with, or None.
        plan: Its plan; None where it cannot be planned (`failures` says why).
        todo: Stages that are missing.
        models, corpus, texts, benchmarks: What was found out; empty where that failed.
        alignments: Of pairs whose methods compare unlike tokenizers.
        machine: What computes.
        speeds: Probes by model name.
        unmeasured: Models whose probe did not finish in time, and about how many seconds it needs.
        losses: Probes by model name.
        accuracies: Of finished systems.
        failures: What could not be looked at.
    """

    study: Study
    path: Path = Path("STUDY.yaml")
    data_dir: Path | None = None
    plan: Plan | None = None
    todo: tuple[Stage, ...] = ()
    models: tuple[ModelFacts, ...] = ()
    corpus: CorpusFacts | None = None
    texts: tuple[TextFacts, ...] = ()
    alignments: tuple[AlignmentFacts, ...] = ()
    benchmarks: tuple[BenchmarkFacts, ...] = ()
    machine: MachineFacts | None = None
    speeds: Mapping[str, Speed] = dataclasses.field(default_factory=dict)
    unmeasured: Mapping[str, float] = dataclasses.field(default_factory=dict)
    losses: Mapping[str, Losses] = dataclasses.field(default_factory=dict)
    accuracies: tuple[Accuracy, ...] = ()
    failures: tuple[Failure, ...] = ()

    def model(self, name: str) -> ModelFacts | None:
        """Return a model's facts by name."""
        return next((m for m in self.models if m.name == name), None)

    def reader(self, name: str) -> TextFacts | None:
        """Return the corpus as a model reads it."""
        return next((t for t in self.texts if name in t.models), None)

    def teachers(self) -> list[ModelFacts]:
        """Return the teachers whose files are here."""
        return [m for m in self.models if "teacher" in m.roles and m.here]

    def students(self) -> list[ModelFacts]:
        """Return the students whose files are here."""
        return [m for m in self.models if "student" in m.roles and m.here]
