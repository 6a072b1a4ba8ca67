"""Has the student write a few texts while it trains, and says when they look collapsed."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from accelerate.utils import broadcast_object_list
from transformers import PreTrainedTokenizerBase, TrainerCallback

from kdstudy.analysis.collapse import (
    LENGTH_FACTOR,
    Reader,
    Signs,
    Text,
    departures,
    reader,
    signs,
)
from kdstudy.data.prompts import Encoded, PromptFormat
from kdstudy.distill.model import DistillModel
from kdstudy.distill.rows import encode_rows
from kdstudy.errors import StageError
from kdstudy.models import load, parts
from kdstudy.models.sample import Sampled, sample
from kdstudy.models.writing import writing
from kdstudy.records import Example, Generation

Point = dict[str, Any]

_PROBE = "probe"
_AMONG = 4
_MEASURED = ("tokens", "cut", "repetition", "parsed")


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """A corpus row that the student is asked: what it is taught there, and how to read it."""

    encoded: Encoded
    read: Reader | None

    @property
    def prompt(self) -> tuple[int, ...]:
        """Ids of the question."""
        return self.encoded.ids[: self.encoded.prompt_length]

    @property
    def taught(self) -> tuple[int, ...]:
        """Ids of the text that is to be learnt."""
        return self.encoded.ids[self.encoded.prompt_length :]


def choose(
    examples: Iterable[Example],
    tokenizer: PreTrainedTokenizerBase,
    template: str | PromptFormat,
    max_length: int,
    teacher_text: Mapping[str, Generation | None] | None,
    most: int,
) -> list[Row]:
    """Return at most `most` rows: the shortest of four times as many that end within `max_length`.

    The shortest, because the longest text alone decides how long a probe takes. Arguments are
    otherwise those of `rows.encode_rows`.
    """
    found: list[Row] = []
    for example in examples:
        if len(found) == _AMONG * most:
            break
        made = encode_rows([example], tokenizer, template, max_length, teacher_text)
        whole = made.rows and not made.truncated and not made.unended
        if whole and made.rows[0].prompt_length:  # a text without a prompt asks nothing
            found.append(Row(made.rows[0], reader(example)))
    return sorted(found, key=lambda row: len(row.taught))[:most]


class SampleMonitor(TrainerCallback):
    """Measures greedy texts before training and at every evaluation.

    A sign is an alarm when it departs from the corpus's own texts of the same rows and from what
    the student wrote at some earlier look: one that cannot stop yet, or writes half as much from
    the start, has not collapsed. What is found stands in the trainer's log history, so that a
    checkpoint holds it.

    Args:
        rows: What to ask.
        tokenizer: The student's.
        stop: Raise when two evaluations in a row raise an alarm.

    Attributes:
        expected: What the corpus's texts of these rows show; None without rows.
    """

    def __init__(self, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, stop: bool):
        self._rows, self._tokenizer, self._stop = rows, tokenizer, stop
        taught = [Sampled(row.taught, "eos") for row in rows]
        self.expected = self._signs(taught) if rows else None
        # A text that is twice as long as the longest has said enough.
        self._budget = math.ceil(LENGTH_FACTOR * max((len(t.ids) for t in taught), default=0))

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not points(state.log_history):
            self._look(state, kwargs["model"])
        self._judge(state)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._look(state, kwargs["model"])

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # Not before: with the checkpoint, a run that is told to go on goes on from here.
        self._judge(state)

    def _look(self, state: Any, model: DistillModel) -> None:
        if self.expected is None:
            return
        with model.layout.whole() as student:
            now = self._signs(_write(student, self._rows, self._tokenizer, self._budget))
        before = points(state.log_history)
        point = {"step": state.global_step, **numbers(now), "alarms": self._alarms(now, before)}
        # Devices may round differently, and must agree on whether to stop.
        (point,) = broadcast_object_list([point])
        state.log_history.append({"step": state.global_step, _PROBE: point})

    def _signs(self, written: Sequence[Sampled]) -> Signs:
        return signs(
            [
                Text(
                    text=self._tokenizer.decode(text.ids, skip_special_tokens=True),
                    tokens=len(text.ids),
                    cut=text.stop == "length",
                    read=row.read,
                )
                for row, text in zip(self._rows, written, strict=True)
            ]
        )

    def _alarms(self, now: Signs, before: Sequence[Point]) -> list[str]:
        lost = {sign for point in before for sign in departures(now, self._at(point))}
        return [words for sign, words in departures(now, self.expected).items() if sign in lost]

    def _at(self, point: Point) -> Signs:
        return Signs(texts=len(self._rows), **{name: point[name] for name in _MEASURED})

    def _judge(self, state: Any) -> None:
        last = points(state.log_history)[-2:]
        if not self._stop or len(last) < 2 or not all(point["alarms"] for point in last):
            return
        seen = "; ".join(f"at step {p['step']} {', '.join(p['alarms'])}" for p in last)
        raise StageError(
            f"step {last[-1]['step']}: the student's texts look collapsed",
            why=f"on {len(self._rows)} validation rows, {seen}; its checkpoints are kept",
            remedy="lower the learning rate, or try another method or temperature; to go on from "
            "the last checkpoint all the same, write train: {on_alarm: flag}",
        )


def points(history: Iterable[Mapping[str, Any]]) -> list[Point]:
    """Return what a probe has found so far, from `TrainerState.log_history`."""
    found = [entry[_PROBE] for entry in history if _PROBE in entry]
    # A checkpoint keeps them in the order of the alphabet.
    return [{name: point[name] for name in ("step", *_MEASURED, "alarms")} for point in found]


def summary(found: Sequence[Point]) -> str:
    """Return a run's alarms as the end of its summary line; "" where there are none."""
    raised = [point for point in found if point["alarms"]]
    if not raised:
        return ""
    last = f"at step {raised[-1]['step']} {', '.join(raised[-1]['alarms'])}"
    return f"; ALARM at {len(raised)} of {len(found) - 1} evaluations, {last}"


def numbers(found: Signs) -> dict[str, float | None]:
    """Return what was measured, as a point has it."""
    return {name: getattr(found, name) for name in _MEASURED}


def _write(
    student: parts.Model, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, budget: int
) -> list[Sampled]:
    """Return the student's greedy texts; every device writes all of them."""
    room = parts.room(parts.plain(student)).most or math.inf
    ends = load.eos_ids(student, tokenizer)
    with writing(student) as writer:
        return sample(
            writer,
            [row.prompt for row in rows],
            max_new_tokens=[min(budget, max(1, room - len(row.prompt))) for row in rows],
            temperature=0.0,
            eos_ids=ends,
            pad_id=0,
        )
