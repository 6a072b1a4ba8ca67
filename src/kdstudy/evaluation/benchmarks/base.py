"""What a benchmark is."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from kdstudy.records import Example

Kind = Literal["number", "choice", "text"]
KINDS: tuple[Kind, ...] = ("number", "choice", "text")


class Stated(NamedTuple):
    """What a file says of an item, by which rows made elsewhere may name it.

    Attributes:
        id: The file's own id; "" where it has none.
        question: The question before options were appended and a context was put behind it.
    """

    id: str
    question: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Benchmark:
    """A test set with its answers; `graders` read and grade what systems answer.

    Attributes:
        name: Registered name, such as `gsm8k`.
        version: Changes whenever the same file would be read or graded differently.
        kind: `number`, `choice` or `text`: a free text that is rated, never right or wrong.
        labels: What a choice's answer may be, such as `("option1", "option2")`; empty for letters
            that stand before the options.
        chance: Expected accuracy of guessing, as a fraction; 0 for numbers and texts.
        examples: The items in file order; ids are unique.
        stated: What the file itself says of an item, by `Example.id`.
        worked: What the file shows of how an item's answer is found, by `Example.id`: an equation,
            or a worked answer that may be wrong; of use only where it comes to the gold answer.
        graded: Of a task of lm-evaluation-harness that has texts written, what grades one: given an
            item's id, the text and a filter's name or None, what the filter finds, the task's
            metrics, and the filter's name.
    """

    name: str
    version: str
    kind: Kind
    labels: tuple[str, ...] = ()
    chance: float
    examples: tuple[Example, ...]
    stated: Mapping[str, Stated] = field(default_factory=dict)
    worked: Mapping[str, str] = field(default_factory=dict)
    graded: Callable[[str, str, str | None], tuple[str, dict[str, Any], str]] | None = None

    @property
    def majority(self) -> float:
        """Accuracy, as a fraction, of always giving the commonest gold answer; NaN for texts."""
        if self.kind == "text":
            return math.nan
        golds = Counter(self._gold(example) for example in self.examples)
        return max(golds.values()) / len(self.examples)

    @property
    def repeated(self) -> int:
        """Items whose question stands in the set before; they are kept."""
        return len(self.examples) - len(self._golds())

    @property
    def conflicting(self) -> int:
        """Questions that the set asks more than once with different gold answers; 0 for texts."""
        return sum(len(golds) > 1 for golds in self._golds().values())

    def _golds(self) -> dict[tuple[str, str], set[object]]:
        golds = defaultdict(set)
        for example in self.examples:
            golds[example.instruction, example.context].add(self._gold(example))
        return golds

    def _gold(self, example: Example) -> object:
        if self.kind == "text":
            return None
        return float(example.answer) if self.kind == "number" else example.answer


@runtime_checkable
class Source(Protocol):
    """Where a benchmark comes from. Any class with these members can be one."""

    name: str
    kind: Kind

    def fingerprint(self, data_dir: Path | None) -> str:
        """Return a hash of the content: equal hash, equal items. A plan asks for it every time."""
        ...

    def load(self, data_dir: Path | None) -> Benchmark:
        """Return the benchmark, under the source's name."""
        ...
