"""Frozen rows that cross stage borders, and the one way to write and read them."""

import dataclasses
import hashlib
import json
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from kdstudy.errors import InputError

Outcome = Literal["correct", "wrong", "unparsed", "truncated", "rated"]
OUTCOMES: tuple[Outcome, ...] = ("correct", "wrong", "unparsed", "truncated")
"""Outcomes of an item that has a right answer. A free text is `rated` instead of right or wrong."""

Overlap = Literal["exact", "normalised", "masked", "none"]
OVERLAPS: tuple[Overlap, ...] = ("exact", "normalised", "masked", "none")
"""How a test item's question occurs in a training corpus: as it is, but for case, spacing and
punctuation, but for its numbers as well, or not at all."""


def content_id(*parts: str) -> str:
    """Return a 16-digit hexadecimal id of the texts: equal content, equal id, everywhere."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode()
        # The length before each part keeps ("ab", "c") and ("a", "bc") apart.
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:16]


def _optional(default: Any) -> Any:
    """Return a field that a file has only where a row has another value than the default."""
    return dataclasses.field(default=default, metadata={"optional": True})


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One row of a corpus or of a benchmark.

    Attributes:
        id: `content_id` of instruction (and response, in training rows); repeats get `-2`, `-3`.
        instruction: The question as text, before any template.
        context: What the instruction is about, where the data keep it apart (Alpaca's `input`).
        response: The text to learn; empty for a test item.
        answer: The gold answer as the data states it; empty when there is none.
        references: Texts that a free-text answer is compared with; empty for other items.
        chat: A conversation as JSON, {"messages": [...], "tools": [...]}, up to the assistant's
            last message (see `data.conversations.as_text`); then instruction and response are the
            last texts of user and assistant. Empty for other rows. A row with neither instruction
            nor chat is text without a prompt.
        tag: What its row's column of that name says (`columns: {tag: ...}`): which of several
            teachers it learns from.
        request: Of an item of lm-evaluation-harness what it asks, as JSON: {"options": [[context,
            continuation, option], ...]} or {"prompt": text}. Empty for other items.
    """

    id: str
    instruction: str
    context: str = ""
    response: str = ""
    answer: str = ""
    references: tuple[str, ...] = ()
    chat: str = ""
    tag: str = _optional("")
    request: str = _optional("")

    @property
    def question(self) -> str:
        """Instruction and context as one text."""
        return f"{self.instruction}\n\n{self.context}" if self.context else self.instruction


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Generation:
    """What one system wrote for one item.

    Attributes:
        benchmark: Benchmark name, or a corpus's name for teacher text.
        example_id: `Example.id`.
        sample: 0 for greedy decoding, else the number of the draw.
        completion: The text, without the end-of-sequence token.
        stop: `eos` when the model or a stop string ended it, `length` when the token budget did.
        tokens: Number of generated tokens, those of the end included.
        thought: How many of them a thought takes, its mark included; all where it is not closed; -1
            where nobody tells thoughts apart.
    """

    benchmark: str
    example_id: str
    sample: int
    completion: str
    stop: Literal["eos", "length"]
    tokens: int
    thought: int = _optional(-1)

    @property
    def written(self) -> tuple[str, Literal["ended", "cut"]]:
        """The text as it can be learnt, and whether the model ended it."""
        if self.stop == "eos":
            return self.completion, "ended"
        # A budget may end inside a character, which no tokenizer would give back.
        return self.completion.rstrip("\ufffd"), "cut"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class DraftLikelihood:
    """How likely the model that wrote a draft finds it.

    Attributes:
        example_id: `Example.id` of the row that it answers.
        sample: Number of the draft.
        logprob: Log-probability in nats at temperature 1, a sum over its tokens.
        tokens: How many these are, the end-of-sequence token included where it wrote one.
    """

    example_id: str
    sample: int
    logprob: float
    tokens: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ChosenText:
    """What a student learns in a corpus row's place.

    Attributes:
        example_id: `Example.id`.
        source: `teacher`: the draft below; `corpus`: the row as it is; `known`: likewise, because
            the student answers it right already; `none`: the row is left out.
        kept: How many of the row's drafts could be learnt.
        sample: Number of the draft that is; -1 for none.
        completion: Its text, as in `Generation`; like `stop` and `tokens`.
    """

    example_id: str
    source: Literal["teacher", "corpus", "known", "none"]
    kept: int
    sample: int = -1
    completion: str = ""
    stop: Literal["eos", "length"] = "eos"
    tokens: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class OptionLikelihoods:
    """How likely one system finds each option of one item.

    Attributes:
        logprobs: Log P(option | context) in nats, a sum over its tokens, in the item's order.
        tokens: How many tokens each is; empty where nobody says it.
        sample: 0: nothing is drawn.
    """

    benchmark: str
    example_id: str
    logprobs: tuple[float, ...]
    tokens: tuple[int, ...] = ()
    sample: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """What a model reads of one item before it answers, as text.

    Attributes:
        model: Short name of the model; "" where every model reads the same.
        text: Exemplars, template and question, the tokenizer's own beginning included; of options
            that are scored what the texts of all begin with.
        labels: Of options that are scored, what each is called.
        given: What each has before the part that is scored, behind `text`: "" but where options
            fill a blank.
        scored: The part of each whose log-probability counts.
    """

    benchmark: str
    example_id: str
    model: str
    text: str
    labels: tuple[str, ...] = _optional(())
    given: tuple[str, ...] = _optional(())
    scored: tuple[str, ...] = _optional(())


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """One graded generation with exactly one outcome; or one choice by likelihood.

    Attributes:
        extracted: The answer found in the completion, in canonical form; empty when none was found.
        rule: Name of the rule, such as `number-corrected`.
        outcome: One of `OUTCOMES`; of a free text `rated`, `truncated`, or `unparsed` (empty).
        quality: 1 when correct, else 0; of a free text its ROUGE-L with the closest reference, as
            a fraction, whether it was cut or not.
        tokens: Tokens of the completion; of a choice by likelihood 0: nothing was written, and
            `completion` is the text of the option with the highest log-probability.
        option_logprobs: Of a choice by likelihood, each option's log-probability in nats.
        option_characters: Length of each option in characters, for `acc_norm`.
        option_bytes: In bytes of UTF-8, for `acc_bytes`.
        target: Which option is right, from 0; -1 where a text was generated.
        thought: As in `Generation`.
        by_filter: Of a grader of published filters, whether the answer is right (1) or not (0) by
            each of `graders.filters.FILTERS`.
    """

    benchmark: str
    example_id: str
    sample: int
    completion: str
    extracted: str
    rule: str
    outcome: Outcome
    quality: float
    tokens: int
    option_logprobs: tuple[float, ...] = _optional(())
    option_characters: tuple[int, ...] = _optional(())
    option_bytes: tuple[int, ...] = _optional(())
    target: int = _optional(-1)
    thought: int = _optional(-1)
    by_filter: tuple[int, ...] = _optional(())

    @property
    def is_text(self) -> bool:
        """Whether it is a free text, which is neither right nor wrong."""
        return is_text(self.rule)


def is_text(rule: str) -> bool:
    """Return whether a rule (`Score.rule`) rates free texts."""
    return rule.startswith("text-")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PairScore:
    """Two systems on one item.

    Attributes:
        agree: Both gave the same final answer (two missing answers do not agree).
        bleu: Sentence BLEU (0-100) of the first system's text against the second's.
        rouge_l: ROUGE-L F1 of the two texts, as a fraction.
        steps: How far the two take the same steps in the same order, as a fraction (see
            `fidelity.pair`); NaN when neither text states a step.
        counts: sacrebleu's sufficient statistics of the pair: correct n-grams 1-4, total n-grams
            1-4, hypothesis length, reference length; their sum over items gives corpus BLEU.
    """

    benchmark: str
    example_id: str
    sample: int
    agree: bool
    outcome_a: Outcome
    outcome_b: Outcome
    bleu: float
    rouge_l: float
    steps: float
    counts: tuple[int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TokenRow:
    """Sums over the response tokens of one row; T is the reference's distribution, S the system's.

    A model's bins hold, for each bin of its likeliest token's probability (`tokens.BINS`): how many
    tokens, the sum of those probabilities, and how often that token is the text's.

    Attributes:
        example_id: `Example.id`.
        tokens: Number of tokens.
        agree: Tokens whose likeliest token is the same for both.
        kl_teacher_student: Sum of KL(T || S).
        kl_student_teacher: Sum of KL(S || T).
        ce_teacher: Sum of -log T of the text's token.
        ce_student: Sum of -log S of it.
    """

    example_id: str
    tokens: int
    agree: int
    kl_teacher_student: float
    kl_student_teacher: float
    ce_teacher: float
    ce_student: float
    teacher_tokens: tuple[int, ...]
    teacher_confidence: tuple[float, ...]
    teacher_hits: tuple[int, ...]
    student_tokens: tuple[int, ...]
    student_confidence: tuple[float, ...]
    student_hits: tuple[int, ...]


POSITION_BINS = (8, 16, 32, 64, 128)
"""Last positions of the bins of `OwnTextRow`, from 1; the bin behind them is open."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class OwnTextRow:
    """A system and its reference on what each of them answered to one item, position by position.

    Sums are over the positions that both texts have, one number for each of `POSITION_BINS`: so the
    two texts have as many tokens in every bin. `own_` is on the system's text, `reference_` on its
    reference's; T is the reference's distribution, S the system's.

    Attributes:
        own_length: Tokens of the system's text, that of its end included.
        reference_length: Of its reference's.
        tokens: How many positions both have.
        own_kl_student_teacher: Sum of KL(S || T), in nats.
        own_kl_teacher_student: Sum of KL(T || S).
        own_ce_student: Sum of -log S of the text's token.
        own_ce_teacher: Sum of -log T of it.
    """

    benchmark: str
    example_id: str
    own_length: int
    reference_length: int
    tokens: tuple[int, ...]
    own_kl_student_teacher: tuple[float, ...]
    own_kl_teacher_student: tuple[float, ...]
    own_ce_student: tuple[float, ...]
    own_ce_teacher: tuple[float, ...]
    reference_kl_student_teacher: tuple[float, ...]
    reference_kl_teacher_student: tuple[float, ...]
    reference_ce_student: tuple[float, ...]
    reference_ce_teacher: tuple[float, ...]


Continued = Literal[
    "followed", "kept", "no answer", "unstable", "number went on", "no equation", "not right"
]
"""What became of an answer in which one result was changed: its final answer is another one, or the
same, or none. Nothing can be said where the model does not come to its answer from the unchanged
beginning either, where it wrote further digits, where no equation's result stands in the answer
again, or where the answer was not right."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ReasoningRow:
    """A system's own answer to one item, gone on with after one result was changed.

    Attributes:
        outcome: What became of it.
        result: The result that was changed; empty where none was.
        put: What stood in its place.
        completion: The whole text, with what the model wrote behind that; empty where none was.
        extracted: The answer found in it.
    """

    benchmark: str
    example_id: str
    outcome: Continued
    result: str = ""
    put: str = ""
    completion: str = ""
    extracted: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MemoryRow:
    """Whether a corpus row's response is continued word for word.

    Attributes:
        trained: It is a training row; else a held-out one.
        own: The system continues it.
        base: Its model before training does.
    """

    example_id: str
    trained: bool
    own: bool
    base: bool


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Contamination:
    """Whether a training corpus holds a test item's question.

    Attributes:
        overlap: The closest kind of occurrence.
        row: `Example.id` of one corpus row that matches so; empty when none does.
    """

    benchmark: str
    example_id: str
    overlap: Overlap
    row: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class System:
    """One model that a study measures.

    Attributes:
        label: Unique and readable, such as `zoo-s/word_kd/zoo-l/tau=2`; the tables' key.
        kind: `base` (as published), `teacher` (fine-tuned or as it is), `sft` or `distilled`.
        model: Short name of the base model.
        teachers: Labels of the teacher systems; empty unless distilled.
        method: `sft`, `seqkd`, `word_kd`, `revkd`, `gkd`, `gkd-from-sft`; empty for a base model.
        ablation: Which ablation the run belongs to: `temperature`, `noise`, `base_teacher`, or
            the field that is varied, such as `train.learning_rate`; empty in the main grid.
        setting: What varied fields are in this run: `beta=0.5; train.lora.r=8` in the main grid,
            the ablation's own alone in a run of it; empty where no field is varied.
        temperature: Loss temperature.
        noise: Scale of the Gaussian noise on the teacher's logits.
        seed: Training seed.
        mixture: How several teachers teach it, where that is not the arithmetic mixture with equal
            weights: `geometric`, `arithmetic, weights 0.7 0.3`, `by tag`.
        after: Label of the run before it in a born-again chain, which taught it; `teachers` are
            then those of the chain's first run.
    """

    label: str
    kind: Literal["base", "teacher", "sft", "distilled"]
    model: str
    teachers: tuple[str, ...] = ()
    method: str = ""
    ablation: str = ""
    setting: str = ""
    temperature: float = 1.0
    noise: float = 0.0
    seed: int = 0
    mixture: str = _optional("")
    after: str = _optional("")

    @property
    def taught_by(self) -> str:
        """Its teachers as one text, as tables have it; empty unless distilled."""
        return joined(self.teachers, self.mixture)

    @property
    def own_teachers(self) -> tuple[str, ...]:
        """Who taught it: its teachers, or in a chain the run before it."""
        return (self.after,) if self.after else self.teachers

    @property
    def row(self) -> dict[str, Any]:
        """Its fields as JSON has them: `teacher`, a label or none, or a list of several."""
        fields = dataclasses.asdict(self)
        labels = fields.pop("teachers")
        for name in ("mixture", "after"):
            if not fields[name]:
                del fields[name]
        return fields | {"teacher": [*labels] if len(labels) > 1 else "".join(labels)}

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "System":
        """Return the system that has this `row`."""
        fields = dict(row)
        given = fields.pop("teacher")
        labels = [given] if isinstance(given, str) else given
        return cls(**fields, teachers=tuple(label for label in labels if label))


_AND, _HOW = " + ", " ["


def joined(names: Iterable[str], mixture: str = "") -> str:
    """Return what several teachers together are called, and how they are mixed if that is said."""
    return _AND.join(names) + (f"{_HOW}{mixture}]" if mixture else "")


def parted(teachers: str) -> list[str]:
    """Return the names of a text that `joined` made; of none, none."""
    names = teachers.split(_AND) if teachers else []
    return [*names[:-1], names[-1].partition(_HOW)[0]] if len(names) > 1 else names


def renamed(teachers: str, name: Callable[[str], str]) -> str:
    """Return a text that `joined` made with other names in it."""
    if not teachers:
        return name(teachers)
    parts = parted(teachers)
    return _AND.join(map(name, parts)) + teachers[len(_AND.join(parts)) :]


Record = TypeVar(
    "Record",
    Example,
    Generation,
    OptionLikelihoods,
    Prompt,
    Score,
    PairScore,
    TokenRow,
    OwnTextRow,
    ReasoningRow,
    MemoryRow,
    Contamination,
    System,
)


_FACTS = b"kdstudy"


def write_records(
    path: Path, rows: Iterable[Record], kind: type[Record], facts: Mapping[str, Any] | None = None
) -> int:
    """Write rows as one Parquet file and return how many there were.

    Args:
        path: The file.
        rows: What to write.
        kind: What they are.
        facts: What `read_facts` gives back: what the rows are of, where a reader cannot know it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = list(rows)
    fields = [f for f in dataclasses.fields(kind) if f.name in columns(kind, rows)]
    schema = pa.schema([(f.name, _arrow_type(f.type)) for f in fields])
    if facts is not None:
        schema = schema.with_metadata({_FACTS: json.dumps(facts).encode()})
    table = pa.Table.from_pylist([dataclasses.asdict(row) for row in rows], schema=schema)
    pq.write_table(table, path)
    return table.num_rows


def columns(kind: type[Record], rows: Iterable[Record]) -> list[str]:
    """Return the fields that a table of rows has: optional ones where a row says something."""
    rows = list(rows)
    return [
        f.name
        for f in dataclasses.fields(kind)
        if not f.metadata.get("optional") or any(getattr(r, f.name) != f.default for r in rows)
    ]


def read_records(path: Path, kind: type[Record]) -> list[Record]:
    """Read rows that `write_records` wrote.

    Raises:
        InputError: The file is missing or does not hold such rows.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, partitioning=None)
        _check_columns(table, kind)
        return [kind(**_tuples(row)) for row in table.to_pylist()]
    except (OSError, TypeError, ValueError, pa.ArrowException) as e:
        why = (str(e).splitlines() or [""])[0][:200]
        raise InputError(f"{path}: does not hold {kind.__name__} rows ({why})") from e


def read_facts(path: Path) -> dict[str, Any]:
    """Return the facts that `write_records` put beside rows that were read; {} of other files."""
    import pyarrow.parquet as pq

    stored = (pq.read_schema(path).metadata or {}).get(_FACTS)
    return json.loads(stored) if stored else {}


def _check_columns(table: Any, kind: type) -> None:
    """Refuse cells that are empty or of another type than the record's, with a TypeError.

    Columns that are missing or unknown the record itself refuses.
    """
    import pyarrow as pa

    wanted = {f.name: _arrow_type(f.type) for f in dataclasses.fields(kind)}
    for column in table.schema:
        plain = pa.string() if pa.types.is_large_string(column.type) else column.type
        if plain != wanted.get(column.name, plain):
            raise TypeError(f"{column.name} holds {column.type}, not {wanted[column.name]}")
        if table[column.name].null_count:
            raise TypeError(f"{column.name} has empty cells")


def _arrow_type(annotation: Any) -> Any:
    import pyarrow as pa

    scalars = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    if annotation in scalars:
        return scalars[annotation]
    if typing.get_origin(annotation) is tuple:
        return pa.list_(scalars[typing.get_args(annotation)[0]])
    return pa.string()


def _tuples(row: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}
