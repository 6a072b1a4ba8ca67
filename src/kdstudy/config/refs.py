"""What a study names: models, a corpus, benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from kdstudy.config.cuts import By, Cut
from kdstudy.data.formats import check_columns
from kdstudy.fields import TAGS, Strict

_LONGEST_PART = 255  # bytes of a file's name; more is an error on every common file system


def _usable_path(value: str) -> str:
    """Refuse what no file system takes, so that nobody meets its error later."""
    if "\0" in value or any(len(p.encode()) > _LONGEST_PART for p in value.split("/")):
        raise ValueError(f"no file or model can be called '{value[:60]}'")
    if len(value.encode()) > 8 * _LONGEST_PART:
        raise ValueError(f"no path is as long as '{value[:60]}...'")
    try:
        Path(value).expanduser()
    except RuntimeError as e:
        raise ValueError(f"'{value}' names the home folder of nobody; write the path out") from e
    return value


PathText = Annotated[str, AfterValidator(_usable_path)]


class ModelRef(Strict):
    """A causal LM: a shipped zoo name, a local folder or GGUF file, or a Hub id."""

    model: PathText = Field(min_length=1)
    """`zoo-l`, `./my-model`, `./my-model.Q8_0.gguf`, or `Qwen/Qwen2.5-7B`."""
    gguf: PathText | None = None
    """Of a Hub model or a folder that holds GGUF files: which one. Its weights are dequantised."""
    revision: str | None = None
    """Hub branch, tag or commit; the commit it stands for is pinned in the store and recorded."""
    adapter: PathText | None = None
    """Folder of a PEFT adapter to put on the model before anything else."""
    finetune: bool = True
    """Teachers only: fine-tune on the corpus first, as the paper does."""
    context: str | None = None
    """Teachers only: what the teacher reads in the instruction's place, a text with {instruction}
    and {response} in it, the row's own answer (SDFT, OPSD). The student never reads it."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Off unless you have read that code."""
    layers: (
        Annotated[
            Annotated[int, Field(ge=2), Tag(TAGS[0])]
            | Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1), Tag(TAGS[1])],
            Discriminator(lambda value: TAGS[isinstance(value, list)]),
        ]
        | None
    ) = None
    """Students only: cut the model to so many of its layers, which `by` chooses; or to those of a
    list, [0, 1, 2, 5], counted from 0. Null keeps all."""
    by: By = "spacing"
    """How a number of layers is chosen. `spacing`: evenly, the first and the last among them.
    `influence`: those that change their input most on rows of the corpus's training split."""
    intermediate: int | None = Field(default=None, ge=1)
    """Students only: so many neurons of each layer's MLP, those that add most to the layer's output
    on rows of the training split. Null keeps all."""
    name: str | None = Field(default=None, pattern=r"^[^/\s][^/\r\n]{0,63}$")
    """Of a cut student: what labels and tables call it, else such as `zoo-l[6 layers]`."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        if isinstance(value, dict) and "name" in value and "model" not in value:
            raise ValueError(
                f"write {{model: {value['name']}}}; name is what a cut student is called"
            )
        return {"model": value} if isinstance(value, str) else value

    @field_validator("context")
    @classmethod
    def _tells_more(cls, value: str | None) -> str | None:
        missing = [p for p in ("{instruction}", "{response}") if p not in (value or p)]
        if missing:
            raise ValueError(f"context: has no {' and no '.join(missing)} in it; write it in")
        return value

    @field_validator("layers")
    @classmethod
    def _in_order(cls, value: Any) -> Any:
        if isinstance(value, list) and value != sorted(set(value)):
            raise ValueError(
                f"layers keep their order, and each is kept once; write {sorted(set(value))}"
            )
        return value

    @model_validator(mode="after")
    def _one_file(self) -> ModelRef:
        if self.gguf is not None and not self.gguf.lower().endswith(".gguf"):
            raise ValueError(f"gguf: {self.gguf} is no GGUF file's name")
        if self.gguf is not None and self.model.lower().endswith(".gguf"):
            raise ValueError(f"gguf: model names a file already, {self.model}; leave gguf out")
        return self

    @model_validator(mode="after")
    def _named_if_cut(self) -> ModelRef:
        if self.by == "influence" and not isinstance(self.layers, int):
            raise ValueError("by: influence chooses layers; give their number as layers")
        if self.name is not None and self.cut is None:
            raise ValueError("name: is what a cut student is called; give layers as well")
        return self

    @property
    def cut(self) -> Cut | None:
        """What is kept of the model; None for all of it."""
        if self.layers is None and self.intermediate is None:
            return None
        layers = tuple(self.layers) if isinstance(self.layers, list) else self.layers
        return Cut(layers=layers, by=self.by, intermediate=self.intermediate)

    @property
    def called(self) -> str:
        """What a study's other fields call it."""
        return self.name or self.model + (self.cut.called if self.cut else "")


class Together(Strict):
    """Several teachers that a run has together; `[a, b]` stands for `{together: [a, b]}`."""

    together: list[ModelRef] = Field(min_length=2)
    """The teachers: of one vocabulary, each fine-tuned once, whatever other runs it teaches."""
    mixture: Literal["arithmetic", "geometric"] | None = None
    """What a token is learnt from: `arithmetic`, the weighted mean of their distributions (null
    stands for it); `geometric`, the softmax of the weighted mean of their logits."""
    weights: (
        Annotated[
            Annotated[list[Annotated[float, Field(gt=0)]], Tag(TAGS[0])]
            | Annotated[Literal["equal", "per_row"], Tag(TAGS[1])],
            Discriminator(lambda value: TAGS[not isinstance(value, list)]),
        ]
        | None
    ) = None
    """A number for each, in their order, of which the share counts; `equal` (null stands for it);
    or `per_row`: the softmax over teachers of minus their mean cross-entropy on the row's text."""
    route: dict[str, str] | None = None
    """In place of a mixture: which teacher a row learns from, by its tag (`columns: {tag: ...}` of
    the corpus), {algebra: zoo-l, geometry: zoo-m}; every tag and every teacher must be there."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"together": value} if isinstance(value, list) else value

    @model_validator(mode="after")
    def _one_way(self) -> Together:
        names = [t.model for t in self.together]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"together: {', '.join(twice)} is listed twice; list each once")
        if self.route is not None:
            self._route_makes_sense(names)
        elif isinstance(self.weights, list) and len(self.weights) != len(names):
            raise ValueError(
                f"weights: {len(self.weights)} numbers for {len(names)} teachers; give one for each"
            )
        return self

    def _route_makes_sense(self, names: list[str]) -> None:
        if self.mixture is not None or self.weights is not None:
            raise ValueError(
                "route: gives each row one teacher, and mixture and weights give it all of them; "
                "write one or the other"
            )
        unknown = sorted(set(self.route.values()) - set(names))
        if unknown:
            raise ValueError(
                f"route: {', '.join(unknown)} is not among together ({', '.join(names)})"
            )
        idle = [n for n in names if n not in self.route.values()]
        if idle:
            raise ValueError(f"route: no tag goes to {', '.join(idle)}; name one, or take it out")

    @property
    def shares(self) -> tuple[float, ...] | None:
        """The weights, which sum to 1; None where each row has its own."""
        if self.weights == "per_row":
            return None
        given = self.weights if isinstance(self.weights, list) else [1.0] * len(self.together)
        # Of 0.3 and 0.1 what it is of 3 and 1.
        return tuple(round(w / sum(given), 12) for w in given)

    @property
    def called(self) -> str:
        """How it is done, in words; "" for the arithmetic mixture with equal weights."""
        if self.route is not None:
            return "by tag"
        how = self.mixture or "arithmetic"
        if self.shares is None:
            return f"{how}, weights per row"
        if len(set(self.shares)) > 1:
            return f"{how}, weights {' '.join(f'{w:.3g}' for w in self.shares)}"
        return "" if how == "arithmetic" else how


class CorpusRef(Strict):
    """The training set: exactly one of `name`, `path` and `dataset`."""

    name: str | None = None
    """A corpus kdstudy knows: `synthetic` (word problems, their worked answers in one wording),
    `synthetic_varied` (in seven), or `math_standin` and the like under the data folder."""
    path: PathText | None = None
    """A file of rows, JSON Lines, JSON, CSV, TSV or Parquet, also .gz and .zst; or a folder of such
    files. A row has messages, prompt and completion, conversations, instruction and output,
    question and answer, or text."""
    dataset: str | None = None
    """A Hugging Face dataset id; its rows are like a file's."""
    config: str | None = None
    """Which configuration (subset) of the dataset, where it has several."""
    revision: str | None = None
    """Dataset commit, branch or tag; pinned and recorded."""
    split: str = "train"
    """Split of the dataset."""
    columns: dict[str, str] = {}
    """What the data call a column that kdstudy reads: {prompt: question, completion: answer}."""
    rows: int | None = Field(default=None, ge=2)
    """Use a seeded random choice of this many rows; null means all."""
    validation_rows: int | None = Field(default=None, ge=1)
    """Rows split off at random; checkpoints are chosen on them, never on a benchmark. Null means a
    tenth of the rows, 500 at most."""
    seed: int = 6
    """Seed of the split and of the choice of rows (the paper's is 6)."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_source(self) -> CorpusRef:
        given = [k for k in ("name", "path", "dataset") if getattr(self, k) is not None]
        if len(given) != 1:
            raise ValueError(
                f"give exactly one of name, path and dataset (given: {', '.join(given) or 'none'})"
            )
        if self.config is not None and self.dataset is None:
            raise ValueError("config: belongs to a dataset; give dataset as well")
        check_columns(self.columns)
        if None not in (self.rows, self.validation_rows) and self.rows <= self.validation_rows:
            raise ValueError(
                f"rows: {self.rows} leaves nothing to train on after validation_rows: "
                f"{self.validation_rows}; raise rows or lower validation_rows"
            )
        return self


ShotsAs = Literal["turns", "text", "bare"]
Variant = Literal["numbers", "names", "irrelevant", "irrelevant_number", "template"]
"""Ways to ask an item otherwise that must not matter."""
THOUGHT_END = "</think>"
"""What ends a thought where a study says no more than that models think."""


class BenchmarkRef(Strict):
    """A test set: one that kdstudy knows by name, a file of one's own, or a task of the harness."""

    name: str = Field(min_length=1)
    """`gsm8k` and so on (`kdstudy ls benchmarks`); of a file or a task, what reports call it; of a
    task `harness-TASK` if left out."""
    harness: PathText | None = None
    """A task of lm-evaluation-harness, by name or by its YAML file: its words, few shots and stop
    strings. Options are scored by likelihood, texts by the task's own filters (`[harness]`)."""
    path: PathText | None = None
    """JSON Lines or a JSON list of {question, answer}, of {question, references} for texts."""
    kind: Literal["number", "choice", "text"] | None = None
    """Of a file: what its answers are. A text is rated by ROUGE-L with its references."""
    labels: list[str] = []
    """Of a file of choices: what the answers may be, such as [yes, no]; empty for letters."""
    scoring: str | dict[str, Any] | None = None
    """What grades its answers: null, what is usual with their kind; `likelihood`, for choices: no
    text is generated, the likeliest option is the answer (docs/scoring.md); a grader of a package
    of your own, or a table of its fields. Of numbers `strict` (the number behind `####`) and
    `flexible` (the last number), as lm-evaluation-harness grades GSM8K."""
    shots: int | None = Field(default=None, ge=0, le=100)
    """So many exemplars, questions with their answers, stand before every item. Null: none, and of
    a task of the harness as many as it says."""
    exemplars: PathText | None = None
    """A file of exemplars in any form of docs/data.md; its first rows are taken. Null: train.jsonl
    or train.json beside the set's own file, and training rows of synthetic sets."""
    shots_as: ShotsAs = "turns"
    """`turns`: exemplars are earlier turns of the conversation. `text`: they and the item are one
    text in the study's prompt. `bare`: that text alone, as base models are measured."""
    question: str | None = None
    """With shots, how a question is put: `{question}`, the default of turns, or such as the default
    elsewhere, "Question: {question}\\nAnswer:"."""
    stop: list[Annotated[str, Field(min_length=1)]] = []
    """Texts that end an answer, such as ["Question:"]; it is cut before the first of them and
    counts as ended. Behind the thought, where models think."""
    thinking: Annotated[str, Field(min_length=1)] | None = None
    """What ends a model's thought; true means `</think>`. What stands before it is no answer, its
    length is reported, and a thought without an end has no answer."""

    variants: list[Variant] = []
    """Ask its items again in ways that must not matter, for the loss statement: other `numbers`
    (the answer recomputed by the item's equation), other `names`, an `irrelevant` sentence, one
    with a number in it (`irrelevant_number`), another prompt `template`. Of answers that are
    numbers; `template` of choices too. Items that cannot be changed for certain are left out and
    counted."""
    variant_template: str | None = None
    """What the variant `template` asks in: a text with {instruction} in it; null: Alpaca's prompt
    in other words."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("harness") and "name" not in value:
            return {**value, "name": f"harness-{Path(str(value['harness'])).stem}"}
        return {"name": value} if isinstance(value, str) else value

    @field_validator("thinking", mode="before")
    @classmethod
    def _usual_mark(cls, value: Any) -> Any:
        return {True: THOUGHT_END, False: None}[value] if isinstance(value, bool) else value

    @field_validator("question")
    @classmethod
    def _has_a_place(cls, value: str | None) -> str | None:
        if value is not None and "{question}" not in value:
            raise ValueError("question: has no {question}, where an item's own would stand")
        return value

    @field_validator("variant_template")
    @classmethod
    def _asks_the_question(cls, value: str | None) -> str | None:
        if value is not None and "{instruction}" not in value:
            raise ValueError(
                "variant_template: has no {instruction}, where the question would stand"
            )
        return value

    @field_validator("labels", mode="before")
    @classmethod
    def _truth_values_are_labels(cls, value: Any) -> Any:
        if not isinstance(value, list):
            return value
        return [str(v).lower() if isinstance(v, bool) else v for v in value]

    @model_validator(mode="after")
    def _file_or_name(self) -> BenchmarkRef:
        if self.path is None and (self.kind or self.labels):
            raise ValueError(f"{self.name}: kind and labels belong to a file; give path as well")
        if self.path is not None and self.kind is None:
            raise ValueError(f"{self.name}: path needs kind: number, choice or text")
        if self.labels and self.kind != "choice":
            raise ValueError(f"{self.name}: labels belong to kind: choice")
        return self

    @model_validator(mode="after")
    def _task_alone(self) -> BenchmarkRef:
        if self.harness is None:
            return self
        if self.path is not None:
            raise ValueError(f"{self.name}: give harness or path, not both")
        given = [f for f in ("exemplars", "question") if getattr(self, f) is not None]
        if given:
            raise ValueError(
                f"{self.name}: {given[0]}: exemplars and words of a task are its own; leave it out"
            )
        if self.shots_as == "turns" and "shots_as" in self.model_fields_set:
            raise ValueError(
                f"{self.name}: shots_as: a task's prompt is one text; write bare, or text for the "
                "study's prompt around it"
            )
        return self

    @model_validator(mode="after")
    def _shots_or_none(self) -> BenchmarkRef:
        if self.harness is not None:
            return self
        more = {"exemplars", "shots_as", "question"} & self.model_fields_set
        given = [f for f in sorted(more) if getattr(self, f) != type(self).model_fields[f].default]
        if given and not self.shots:
            raise ValueError(f"{self.name}: {given[0]} is of few-shot prompts; give shots as well")
        if self.shots and self.path is not None and self.exemplars is None:
            raise ValueError(
                f"{self.name}: shots of a file of your own need exemplars: a file of other rows"
            )
        kind = self.scoring.get("type") if isinstance(self.scoring, dict) else self.scoring
        written = [f for f in ("shots", "stop", "thinking") if getattr(self, f)]
        if kind == "likelihood" and written:
            raise ValueError(
                f"{self.name}: {written[0]} is of generated answers, and scoring: likelihood "
                "generates none; leave one of the two out"
            )
        return self

    @model_validator(mode="after")
    def _can_vary(self) -> BenchmarkRef:
        if self.variant_template is not None and "template" not in self.variants:
            raise ValueError(
                f"{self.name}: variant_template is of the variant template; write it under variants"
            )
        if not self.variants:
            return self
        twice = sorted({v for v in self.variants if self.variants.count(v) > 1})
        if twice:
            raise ValueError(f"{self.name}: variants: {twice[0]} is listed twice; list each once")
        if self.harness is not None:
            raise ValueError(
                f"{self.name}: variants: the words of a harness task are its own; take variants of "
                "a file of its items"
            )
        if self.scoring == "likelihood" or self.kind == "text":
            raise ValueError(
                f"{self.name}: variants are of written answers that are right or wrong; leave them "
                "out"
            )
        if "template" in self.variants and self.shots and self.shots_as != "text":
            raise ValueError(
                f"{self.name}: variants: with shots_as: {self.shots_as} there is no prompt around "
                "the text for template to change; write shots_as: text"
            )
        return self
