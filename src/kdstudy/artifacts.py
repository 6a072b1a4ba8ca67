"""What finished stages hold, and what those that read them call them: files and roles, named once.

A stage writes `Scores(work.out).rows.write(...)`; one that has `SYSTEM` among its inputs reads
`work.read(SYSTEM).rows.read()`. A role is part of a stage's key: renaming one rebuilds stages.
"""

import dataclasses
import json
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from kdstudy.records import (
    ChosenText,
    Contamination,
    DraftLikelihood,
    Example,
    Generation,
    MemoryRow,
    OptionLikelihoods,
    OwnTextRow,
    PairScore,
    Prompt,
    ReasoningRow,
    Record,
    Score,
    TokenRow,
    read_records,
    write_records,
)

if TYPE_CHECKING:
    import pandas as pd

MANIFEST = "manifest.json"
"""Name of the file in which the store says how a finished stage was built."""


Part = TypeVar("Part", bound="File")


@dataclasses.dataclass(frozen=True)
class File:
    """A file of an artifact: declared by its name, found in the artifact's folder."""

    name: str
    folder: Path = dataclasses.field(default=Path(), kw_only=True)

    @property
    def path(self) -> Path:
        """Where it lies."""
        return self.folder / self.name

    def __get__(self: Part, artifact: "Artifact | None", owner: type) -> Part:
        """Return the file in the folder of the artifact that it is asked of."""
        return self if artifact is None else dataclasses.replace(self, folder=artifact.folder)


@dataclasses.dataclass(frozen=True)
class Rows(File, Generic[Record]):
    """A Parquet file of records."""

    kind: type[Record]

    def read(self) -> list[Record]:
        """Return the rows; raises as `read_records` does."""
        return read_records(self.path, self.kind)

    def write(self, rows: Iterable[Record], facts: Mapping[str, Any] | None = None) -> None:
        """Write the rows; `facts` as for `write_records`."""
        write_records(self.path, rows, self.kind, facts)


@dataclasses.dataclass(frozen=True)
class Json(File):
    """A JSON file."""

    def read(self) -> Any:
        """Return what it holds."""
        return json.loads(self.path.read_text(encoding="utf-8"))

    def write(self, value: Any) -> None:
        """Write it: the same value, the same bytes."""
        self.path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


@dataclasses.dataclass(frozen=True)
class Table(File):
    """A Parquet file of a data frame."""

    def read(self, columns: list[str] | None = None) -> "pd.DataFrame":
        """Return the frame, or some of its columns."""
        import pandas as pd

        return pd.read_parquet(self.path, columns=columns)

    def write(self, frame: "pd.DataFrame") -> None:
        """Write the frame without its index."""
        frame.to_parquet(self.path, index=False)


class Place:
    """The path of a file or folder of an artifact that another room reads and writes."""

    def __init__(self, name: str):
        self.name = name

    def __get__(self, artifact: "Artifact | None", owner: type) -> Path:
        """Return the path in the folder of the artifact that it is asked of."""
        return Path(self.name) if artifact is None else artifact.folder / self.name


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """How a finished stage was built; what the store alone needs is left out.

    Attributes:
        key: Its key.
        kind: Its kind.
        label: What the study that built it called it.
        inputs: Keys of its inputs by role.
        started: Unix time.
        seconds: Of the try that finished it, `earlier_seconds` those of tries before.
        summary: The line that it ended with.
        environment: `versions` and `hardware`, each by name.
        pace: How many units it finished in how many seconds; empty where that is not known.
        aids: Manifests of the aids it was built with, by role.
        peak_memory_gib: Of the process that built it; None where it is not known.
    """

    key: str
    kind: str
    label: str
    inputs: Mapping[str, str]
    started: float
    seconds: float
    summary: str
    environment: Mapping[str, Any]
    # Older manifests lack these.
    pace: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    aids: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    earlier_seconds: float = 0.0
    peak_memory_gib: float | None = None


@dataclasses.dataclass(frozen=True)
class Artifact:
    """A stage's folder; each kind of stage has a type that names what is in it."""

    folder: Path

    @property
    def manifest(self) -> Manifest:
        """How it was built; a folder that no store published has none."""
        found = Json(MANIFEST, folder=self.folder).read()
        return Manifest(
            **{f.name: found[f.name] for f in dataclasses.fields(Manifest) if f.name in found}
        )


class Corpus(Artifact):
    """The rows to learn from and to validate on."""

    train = Rows("train.parquet", Example)
    """Rows to learn from."""
    validation = Rows("validation.parquet", Example)
    """Rows that choose checkpoints."""
    account = Json("corpus.json")
    """What became of every row of the file: counts."""
    places_file = Json("places.json")
    """Where each row stands in its file, by id."""

    def part(self, name: Literal["train", "validation"]) -> Rows[Example]:
        """Return one of the two splits."""
        return {"train": self.train, "validation": self.validation}[name]

    def all_rows(self) -> list[Example]:
        """Return the rows of both splits."""
        return [*self.train.read(), *self.validation.read()]

    @property
    def places(self) -> dict[str, str]:
        """Where rows stand in their file, by id; {} of corpora that were built before this was."""
        file = self.places_file
        return file.read() if file.path.is_file() else {}


class ReplayCorpus(Corpus):
    """General text that students read beside the corpus."""


class Items(Artifact):
    """A benchmark as it was pinned."""

    examples = Rows("examples.parquet", Example)
    """Its items."""
    facts = Json("benchmark.json")
    """What there is to know beside the items: `stages.benchmark_facts`, and `published`."""


class VariantItems(Items):
    """The items of a benchmark, changed in ways that must not matter, under their own ids.

    Its facts have `original`, `variant` and `left_out` as well: how many items by why.
    """


class Contaminations(Artifact):
    """What a corpus holds of a benchmark."""

    rows = Rows("contamination.parquet", Contamination)
    """A row per item."""


class Importance(Artifact):
    """What a model's layers and neurons do to training rows."""

    facts = Json("importance.json")
    """`rows`, `tokens`, and `influence` of each layer."""
    neurons = Place("neurons.safetensors")
    """Safetensors: `layer.0` and so on, a number per neuron; where MLPs were measured."""


class CutModel(Artifact):
    """A model cut out of another."""

    model = Place("model")
    """The model's folder, as transformers saves one."""
    facts = Json("cut.json")
    """What was kept, by which measurement, and `parameters` before and after."""


class Trained(Artifact):
    """A trained student: a LoRA adapter on its base, or a whole model."""

    adapter = Place("adapter")
    """The adapter's folder, whether there is one or not."""
    model = Place("model")
    """The whole model's folder, whether there is one or not."""
    facts = Json("training.json")
    """Sizes, rows, steps, losses and the curve of its training."""

    @property
    def whole(self) -> bool:
        """Whether it is a whole model."""
        return self.model.is_dir()

    @property
    def weights(self) -> Path:
        """The folder that is there: the adapter's or the whole model's."""
        return self.model if self.whole else self.adapter


class TeacherCache(Artifact):
    """A teacher's states on the corpus, or why they are not there."""

    placement = Json("placement.json")
    """`where` the states of each run are (`disk`, `memory`, `off`), and sizes."""


class Answers(Artifact):
    """What a model answered: `Generations` or `Likelihoods`."""

    model = Json("model.json")
    """Facts of the model: `parameters` without adapter; of one that wrote, how it decodes."""


class Generations(Answers):
    """What a model wrote for the items of a benchmark, or for the prompts of a corpus."""

    rows = Rows("generations.parquet", Generation)
    """A row per text, in the order of the items."""


class Likelihoods(Answers):
    """How likely a model finds the options of a benchmark's items."""

    rows = Rows("likelihoods.parquet", OptionLikelihoods)
    """A row per item."""


class Prompts(Artifact):
    """What every model of a study reads of every item."""

    rows = Rows("prompts.parquet", Prompt)
    """A row per item and model; per item alone where options are scored."""


class DraftLikelihoods(Artifact):
    """How likely a teacher finds the drafts that it wrote for the prompts of a corpus."""

    rows = Rows("likelihoods.parquet", DraftLikelihood)
    """A row per draft, in the order of the drafts."""


class Chosen(Artifact):
    """Which of a teacher's drafts a student learns."""

    rows = Rows("chosen.parquet", ChosenText)
    """A row per corpus row."""
    facts = Json("chosen.json")
    """Counts: see `evaluation.drafts.account`."""


class Scores(Artifact):
    """A system's graded texts, of every benchmark."""

    rows = Rows("scores.parquet", Score)
    """A row per text."""


class VariantScores(Scores):
    """A system's graded texts, of every variant of a benchmark."""


class Pairs(Artifact):
    """Two systems, text by text."""

    rows = Rows("pairs.parquet", PairScore)
    """A row per text that both have."""


class Tokens(Artifact):
    """Two systems, token by token on validation rows."""

    rows = Rows("tokens.parquet", TokenRow)
    """A row per validation row: sums over its tokens."""
    table = Table("tokens.parquet")
    """The same as a frame."""
    summary = Json("tokens.json")
    """Means over tokens, and how they were taken."""


class OwnText(Artifact):
    """Two systems, token by token on what each answered to a benchmark."""

    rows = Rows("own_text.parquet", OwnTextRow)
    """A row per item: sums by position."""
    table = Table("own_text.parquet")
    """The same as a frame."""
    facts = Json("own_text.json")
    """Counts of texts, and how numbers were taken."""


class Reasoning(Artifact):
    """A system's own right answers, gone on with after one result was changed."""

    rows = Rows("reasoning.parquet", ReasoningRow)
    """A row per item, whether it could be asked so or not."""
    table = Table("reasoning.parquet")
    """The same as a frame."""


class Memorised(Artifact):
    """Which corpus rows a system and its base continue word for word."""

    rows = Rows("memorised.parquet", MemoryRow)
    """A row per corpus row that is long enough."""
    table = Table("memorised.parquet")
    """The same as a frame."""


class Results(Artifact):
    """All that a study measured."""

    table = Place("results.csv")
    """`results.csv`, which `analysis.results` reads and writes."""
    items = Table("items.parquet")
    """A row per graded text, with its question and gold answer."""
    pairs = Table("pairs.parquet")
    """A row per text of two systems."""
    tests = Json("tests.json")
    """The fields of each `analysis.verdict.Test`."""
    systems = Json("systems.json")
    """Each `System.row`."""


class Report(Artifact):
    """The page and all that lies beside it."""


Found = TypeVar("Found", bound=Artifact)
Name = TypeVar("Name", bound=Hashable)
Value = TypeVar("Value")


@dataclasses.dataclass(frozen=True)
class Role(Generic[Found]):
    """What a stage calls one of its upstreams, and what it finds there."""

    name: str
    artifact: type[Found]

    def at(self, stage: Value | None) -> dict[str, Value]:
        """Return a stage (its key, or its folder) as an input; none for None."""
        return {} if stage is None else {self.name: stage}

    def find(self, inputs: Mapping[str, Value]) -> Value | None:
        """Return what inputs have under this role (a key, or a folder), or None."""
        return inputs.get(self.name)


@dataclasses.dataclass(frozen=True)
class Roles(Generic[Name, Found]):
    """What a stage calls several upstreams of one type, told apart by names."""

    name: str
    artifact: type[Found]

    def at(self, stages: Mapping[Name, Value]) -> dict[str, Value]:
        """Return stages (their keys, or their folders) as inputs."""
        return {f"{self.name}:{self._written(name)}": stage for name, stage in stages.items()}

    def find(self, inputs: Mapping[str, Value]) -> dict[Name, Value]:
        """Return what inputs have under these roles (keys, or folders), by name."""
        start = f"{self.name}:"
        return {
            self._read(role.removeprefix(start)): value
            for role, value in inputs.items()
            if role.startswith(start)
        }

    def _written(self, name: Any) -> str:
        return name

    def _read(self, text: str) -> Any:
        return text


class PairRoles(Roles[tuple[str, str], Found]):
    """Roles whose names are two labels, which may hold any sign."""

    def _written(self, name: Any) -> str:
        return json.dumps([*name], ensure_ascii=False)

    def _read(self, text: str) -> Any:
        return tuple(json.loads(text))


class StageRoles(Roles[tuple[str, str], Found]):
    """Roles whose names are a stage's key and its label."""

    def _written(self, name: Any) -> str:
        return " ".join(name)

    def _read(self, text: str) -> Any:
        key, _, label = text.partition(" ")
        return key, label


def by_number(values: Iterable[Value]) -> dict[str, Value]:
    """Return what belongs to a run's several teachers, by their number as a text, from 0."""
    return {str(number): value for number, value in enumerate(values)}


CORPUS, REPLAY = Role("corpus", Corpus), Role("replay", ReplayCorpus)
# A benchmark, of `generate` and `contamination`; the corpus whose prompts `teacher_text` and
# `attempts` answer.
ITEMS, PROMPTS = Role("items", Items), Role("items", Corpus)
IMPORTANCE = Role("importance", Importance)
CUT = Roles[str, CutModel]("cut", CutModel)
"""By what a stage calls the model: `student`, `model`."""
# Of `train` and `teacher_cache`; of what writes texts; of `token_fidelity`.
TEACHER, START = Role("teacher", Trained), Role("start", Trained)
TRAINED = Role("trained", Trained)
TUNED_SYSTEM, TUNED_REFERENCE = Role("system", Trained), Role("reference", Trained)
# What the two answered, of `own_text`; the first also of `reasoning`.
OWN_ANSWERS = Role("own_answers", Generations)
REFERENCE_ANSWERS = Role("reference_answers", Generations)
TEACHER_TEXT = Role("teacher_text", Generations)
# What a run's start wrote, of `train` and `teacher_cache`.
ROLLOUTS = Role("rollouts", Generations)
# Of what chooses among several texts of a teacher; what it chose, of `train`.
DRAFTS, DRAFT_LIKELIHOODS = Role("drafts", Generations), Role("likelihoods", DraftLikelihoods)
# What a student answers to the corpus's training rows before it learns from its teacher.
ATTEMPTS = Role("attempts", Generations)
CHOSEN_TEXT = Role("chosen_text", Chosen)
TEACHER_CACHE = Role("teacher_cache", TeacherCache)
# The same of a `train` stage with several teachers, as `by_number` has them.
EACH_TEACHER = Roles[str, Trained]("teacher", Trained)
EACH_TEACHER_TEXT = Roles[str, Generations]("teacher_text", Generations)
EACH_TEACHER_CACHE = Roles[str, TeacherCache]("teacher_cache", TeacherCache)
# Of `compare`.
SYSTEM, REFERENCE = Role("system", Scores), Role("reference", Scores)
# By benchmark, of `score` and `results`.
EACH_ITEMS = Roles[str, Items]("items", Items)
EACH_GENERATIONS = Roles[str, Generations]("generations", Generations)
EACH_LIKELIHOODS = Roles[str, Likelihoods]("likelihoods", Likelihoods)
EACH_CONTAMINATION = Roles[str, Contaminations]("contamination", Contaminations)
# By system, or by system and reference, of `results`.
EACH_SCORES = Roles[str, Scores]("score", Scores)
EACH_WRITER = Roles[str, Answers]("info", Answers)
EACH_PAIR = PairRoles("pair", Pairs)
EACH_TOKENS = PairRoles("tokens", Tokens)
# Of `report`.
RESULTS = Role("results", Results)
EACH_STAGE = StageRoles("stage", Artifact)
