"""What models read of items, as the item browser holds it: once per item, whoever was asked.

A prompt is a frame, which most items of a benchmark share (template, exemplars), around a body,
which mostly is the question that the page has anyway.
"""

import collections
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kdstudy.records import Prompt

MAX_FRAME = 40_000
"""Characters of a frame that a page holds: there are few of them."""

ItemKey = tuple[str, str]
"""Benchmark and example id."""
Frame = tuple[str, str]
"""What stands before a body, and behind it."""
NO_FRAME: Frame = ("", "")


@dataclass
class Asked:
    """Prompts in parts.

    Attributes:
        frames: All of them, `NO_FRAME` first.
        framed: Which frame a model's prompts of a benchmark have; model "" for every model.
        bodies: Of items whose body is not their question, by the number in `framed`: the number of
            the frame that it fits, that one or `NO_FRAME`'s, and the body.
        options: Of items whose options are scored: label, what is given, and what is scored.
    """

    frames: list[Frame] = field(default_factory=lambda: [NO_FRAME])
    framed: dict[tuple[str, str], int] = field(default_factory=dict)
    bodies: dict[ItemKey, dict[int, tuple[int, str]]] = field(default_factory=dict)
    options: dict[ItemKey, list[tuple[str, str, str]]] = field(default_factory=dict)

    def of_systems(self, benchmarks: Iterable[str], models: Sequence[str]) -> dict[str, list[int]]:
        """Return the frame's number of each system, whose models these are; -1 for none known."""
        return {
            name: [self.framed.get((name, m), self.framed.get((name, ""), -1)) for m in models]
            for name in benchmarks
        }

    def cost(self, item: ItemKey) -> int:
        """Return about how many characters of JSON an item takes more for its prompt."""
        bodies = sum(len(body) + 20 for _, body in self.bodies.get(item, {}).values())
        return bodies + sum(sum(map(len, o)) + 12 for o in self.options.get(item, ()))

    def of_item(self, item: ItemKey, cut: Any) -> dict[str, Any]:
        """Return what an item has beside its question; texts go through `cut`."""
        found: dict[str, Any] = {}
        if bodies := self.bodies.get(item):
            found["asked"] = {k: [number, cut(body)] for k, (number, body) in bodies.items()}
        if options := self.options.get(item):
            found["options"] = [[label, cut(given), cut(said)] for label, given, said in options]
        return found

    def shown(self) -> list[Frame]:
        """Return the frames, the inside of very long ones left out."""
        return [(_without_middle(before), _without_middle(after)) for before, after in self.frames]


def in_parts(prompts: Iterable[Prompt], questions: Mapping[ItemKey, str]) -> Asked:
    """Return prompts in parts; `frame + body + frame` is the prompt, whatever was shared.

    Args:
        prompts: What models read; items that `questions` lacks are left out.
        questions: As the page shows them.
    """
    groups: dict[tuple[str, str], list[Prompt]] = collections.defaultdict(list)
    for prompt in prompts:
        if (prompt.benchmark, prompt.example_id) in questions:
            groups[prompt.benchmark, prompt.model].append(prompt)
    found, numbers = Asked(), {}
    for key, rows in groups.items():
        said = (key[0], *((p.example_id, p.text) for p in rows))
        # Models that read the same share a number; others may differ in some items alone.
        number = found.framed[key] = numbers.setdefault(said, len(found.frames))
        if number < len(found.frames):
            continue
        own = [questions[p.benchmark, p.example_id].strip() for p in rows]
        frame = _frame([p.text for p in rows], own)
        found.frames.append(frame)
        for prompt, question in zip(rows, own, strict=True):
            item = prompt.benchmark, prompt.example_id
            if (part := _body(prompt.text, question, frame, number)) is not None:
                found.bodies.setdefault(item, {})[number] = part
            if prompt.scored:
                told = zip(prompt.labels, prompt.given, prompt.scored, strict=True)
                found.options[item] = [*told]
    return found


def _frame(texts: Sequence[str], questions: Sequence[str]) -> Frame:
    """Return what most texts have around their question, or else what all begin and end with."""
    around = collections.Counter(
        (text[:at], text[at + len(question) :])
        for text, question in zip(texts, questions, strict=True)
        if question and (at := text.rfind(question)) >= 0
    )
    frame, count = around.most_common(1)[0] if around else (NO_FRAME, 0)
    if 2 * count >= len(texts):
        return frame
    first, last = min(texts), max(texts)
    before = first[: _same(first, last)]
    before = before[: before.rfind("\n") + 1]
    tails = [text[len(before) :][::-1] for text in texts]
    after = min(tails)[: _same(min(tails), max(tails))][::-1]
    return before, after[after.find("\n") :] if "\n" in after else ""


def _body(text: str, question: str, frame: Frame, number: int) -> tuple[int, str] | None:
    """Return the number of a text's frame and its body; None where the question is the body."""
    before, after = frame
    if text == before + question + after:
        return None
    fits = text.startswith(before) and text.endswith(after)
    if fits and len(text) >= len(before) + len(after):
        return number, text[len(before) : len(text) - len(after)]
    return 0, text


def _same(one: str, other: str) -> int:
    """Return how many characters two texts begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def _without_middle(text: str) -> str:
    if len(text) <= MAX_FRAME:
        return text
    half = MAX_FRAME // 2
    return f"{text[:half]}\n[{len(text) - 2 * half:,} characters left out here]\n{text[-half:]}"
