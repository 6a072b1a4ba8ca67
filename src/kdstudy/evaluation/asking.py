"""How items of a benchmark are asked beside the study's prompt, and where an answer ends.

Few shots: exemplars that are answered stand before every item. Words are those of
lm-evaluation-harness (0.4.13): two blank-separated texts per exemplar, an empty line between them.
Never imports torch.
"""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kdstudy.config.refs import BenchmarkRef, ShotsAs
from kdstudy.data import files, formats
from kdstudy.data.audit import normalised
from kdstudy.data.prompts import BARE, PromptFormat
from kdstudy.errors import InputError
from kdstudy.evaluation import benchmarks
from kdstudy.evaluation.benchmarks.harness import HarnessTask
from kdstudy.records import Example

_WORDED = "Question: {question}\nAnswer:"


class Shot(NamedTuple):
    """An exemplar: a question and the text that answers it."""

    question: str
    answer: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Endings:
    """Where an answer ends, and where it begins.

    Attributes:
        stop: Texts that end it; it is cut before the first of them, behind the thought if there is
            one.
        thinking: The mark that ends a thought; "" where models do not think. What stands before the
            last one is no answer.
    """

    stop: tuple[str, ...] = ()
    thinking: str = ""

    def cut(self, text: str) -> int | None:
        """Return where the earliest stop string begins, None where there is none."""
        start = 0
        if self.thinking:
            thought = text.find(self.thinking)
            if thought < 0:
                return None
            start = thought + len(self.thinking)
        found = [at for at in (text.find(stop, start) for stop in self.stop) if at >= 0]
        return min(found, default=None)


def said(text: str, thinking: str) -> str | None:
    """Return what a text says behind its thought, None where the thought is not closed.

    Args:
        text: A completion.
        thinking: The mark that ends a thought; "": there is none, and all of it is said.
    """
    if not thinking:
        return text
    _, mark, answer = text.rpartition(thinking)
    return answer.lstrip() if mark else None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Asking:
    """What a study says of asking one benchmark.

    Attributes:
        shots: Exemplars, in the order in which they stand before an item.
        shots_as: `turns` of a conversation; one `text` in the study's prompt; `bare`: that text
            alone.
        question: How a question is put, with `{question}`.
        endings: Where answers end.
    """

    shots: tuple[Shot, ...] = ()
    shots_as: ShotsAs = "turns"
    question: str = "{question}"
    endings: Endings = Endings()

    @classmethod
    def of(cls, config: Mapping[str, Any] | None) -> "Asking":
        """Return what `config` wrote into a stage's key."""
        if not config:
            return cls()
        fields = dict(config)
        ends = Endings(stop=tuple(fields.pop("stop", ())), thinking=fields.pop("thinking", ""))
        shots = tuple(Shot(*shot) for shot in fields.pop("shots", ()))
        return cls(shots=shots, endings=ends, **fields)

    def config(self) -> dict[str, Any]:
        """Return it for a stage's key; {} where a study says nothing."""
        found: dict[str, Any] = {}
        if self.shots:
            found = {"shots": [[*shot] for shot in self.shots], "question": self.question}
        if self.shots or self.shots_as != "turns":
            found["shots_as"] = self.shots_as
        found |= {"stop": [*self.endings.stop]} if self.endings.stop else {}
        return found | ({"thinking": self.endings.thinking} if self.endings.thinking else {})

    def require_apart(self, name: str, items: Sequence[Example]) -> None:
        """Refuse exemplars that are test items, but for case, spacing and punctuation.

        Raises:
            InputError: One is; it is named.
        """
        asked = {key: item.id for item in items if (key := normalised(item.question))}
        for number, shot in enumerate(self.shots, start=1):
            if (item := asked.get(normalised(shot.question))) is not None:
                raise InputError(
                    f"{name}: exemplar {number} is its test item {item}: "
                    f"{' '.join(shot.question.split())[:60]!r}",
                    why="an answer would stand in the prompt of the item that it is asked for",
                    remedy="take exemplars from training rows",
                )

    def put(self, item: Example) -> Example:
        """Return an item with the exemplars before it; one of the harness as it asks it."""
        if item.request:
            prompt = json.loads(item.request)["prompt"]
            return dataclasses.replace(item, instruction=prompt, context="")
        if not self.shots:
            return item
        if self.shots_as == "turns":
            turns = [
                *((self._worded(q), a) for q, a in self.shots),
                (self._worded(item.question), ""),
            ]
            messages = [
                {"role": role, "content": text}
                for turn in turns
                for role, text in zip(("user", "assistant"), turn, strict=True)
            ]
            return dataclasses.replace(item, chat=json.dumps({"messages": messages}))
        shown = [f"{self._worded(q)} {a}" for q, a in self.shots]
        text = "\n\n".join([*shown, self._worded(item.question)])
        return dataclasses.replace(item, instruction=text, context="")

    def format(self, made: PromptFormat) -> PromptFormat:
        """Return the study's prompt, or none around a text that stands alone."""
        bare = self.shots_as == "bare"
        return dataclasses.replace(made, template=BARE) if bare else made

    def _worded(self, question: str) -> str:
        return self.question.replace("{question}", question)


def asking(
    ref: BenchmarkRef,
    base: Path = Path(),
    data_dir: Path | None = None,
    task: HarnessTask | None = None,
) -> Asking:
    """Return what a study says of asking a benchmark, its exemplars read.

    Args:
        ref: The benchmark.
        base: Folder that relative paths start from.
        data_dir: Folder of benchmark files.
        task: The task of lm-evaluation-harness that it is, if it is one.

    Raises:
        InputError: Exemplars are nowhere, too few, or no question and answer; or the study says how
            texts end, and the task has none written.
    """
    endings = endings_of(ref, task)
    if task is not None:
        return _of_task(ref, task, endings)
    if not ref.shots:
        return Asking(endings=endings)
    default = "{question}" if ref.shots_as == "turns" else _WORDED
    return Asking(
        shots=tuple(_shots(ref, base, data_dir)),
        shots_as=ref.shots_as,
        question=ref.question or default,
        endings=endings,
    )


def endings_of(ref: BenchmarkRef, task: HarnessTask | None = None) -> Endings:
    """Return where a benchmark's answers end; of a task by its own stop strings as well."""
    own = () if task is None or task.chooses else task.stop
    return Endings(stop=(*own, *ref.stop), thinking=ref.thinking or "")


def _of_task(ref: BenchmarkRef, task: HarnessTask, endings: Endings) -> Asking:
    if not task.chooses:
        return Asking(shots_as="text" if ref.shots_as == "text" else "bare", endings=endings)
    if endings != Endings() or ref.shots_as != "turns":
        raise InputError(
            f"{ref.name}: stop, thinking and shots_as are of generated answers",
            why="the task scores options by likelihood",
            remedy="leave them out",
        )
    return Asking()


def _shots(ref: BenchmarkRef, base: Path, data_dir: Path | None) -> list[Shot]:
    """Return the first of the exemplars that there are."""
    if ref.exemplars is not None:
        path = Path(os.path.abspath(base / Path(ref.exemplars).expanduser()))
        rows, where = files.read(path, formats.COLUMNS), str(path)
    else:
        rows, where = benchmarks.training_rows(ref, data_dir)
    found: list[Shot] = []
    for place, raw in rows:
        if len(found) == ref.shots:
            break
        example, reason = formats.to_example(raw, place)
        if example is None:
            raise InputError(f"{place}: {reason}", remedy="leave the row out of the exemplars")
        found.append(_shot(example, place))
    if len(found) < (ref.shots or 0):
        raise InputError(
            f"{ref.name}: shots: {ref.shots}, and {where} has {len(found)} exemplars",
            remedy="lower shots, or give more rows",
        )
    return found


def _shot(example: Example, place: str) -> Shot:
    turns = len(json.loads(example.chat)["messages"]) if example.chat else 2
    if turns != 2 or not example.question.strip():
        raise InputError(
            f"{place}: is no exemplar, which has one question and its answer",
            remedy='give rows with "question" and "answer", or any form of docs/data.md with a '
            "prompt",
        )
    return Shot(example.question.strip(), example.response.strip())
