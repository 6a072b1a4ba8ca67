"""What a model that chooses by likelihood reads: a context, and each option that may follow it.

Words are those of lm-evaluation-harness (0.4.13) where it has a task for the set, at zero shots and
without a chat template, whatever prompt a study trains on: published numbers are measured so.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from kdstudy.answers.extract import options as lettered
from kdstudy.answers.turns import CHOICES_HEAD
from kdstudy.errors import InputError
from kdstudy.evaluation.benchmarks.base import Benchmark
from kdstudy.evaluation.benchmarks.harness import label_of
from kdstudy.records import Example

_NUMBERED = re.compile(r"([^\W\d_]+)(\d+)")
_FORMAT = re.compile(r"\s*\bAnswer format:\s*\S+\s*$")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


class Option(NamedTuple):
    """An option of an item.

    Attributes:
        label: What the benchmark's answers call it: a letter, or one of its labels.
        context: What is given.
        continuation: What is scored, a blank before it.
        text: What its length is counted in, as lm-evaluation-harness does: the option without that
            blank; where the context differs between options, the context.
    """

    label: str
    context: str
    continuation: str
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Wording:
    """How a set's questions and options are put.

    Attributes:
        task: The task of lm-evaluation-harness whose words these are; "" where none has them.
        lead: What the file puts before the question; it is left out.
        prompt: The context: `{question}` without its options, or `{whole}` with them.
        option: An option behind a blank: `{label}`, `{text}`.
        names: What is said in place of a label.
        blank: The options fill the question's `_`; what stands behind it is scored.
        clean: Applied to question and options.
    """

    task: str = ""
    lead: str = ""
    prompt: str = "Question: {question}\nAnswer:"
    option: str = "{text}"
    names: Mapping[str, str] | None = None
    blank: bool = False
    clean: Callable[[str], str] = str.strip


def _unmarked(text: str) -> str:
    """Return a text of HellaSwag without the marks of its source, as the harness has it."""
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")


def _begun(text: str) -> str:
    """Return a context of HellaSwag with its last, unfinished sentence in sentence case.

    The harness writes `ctx_b.capitalize()`; LLM-Adapters' rows join both parts, so that `ctx_b` is
    taken to be what stands behind the last end of a sentence.
    """
    *before, last = _SENTENCE_END.split(_unmarked(text))
    if last and last[0].islower() and last[-1] not in ".!?":
        last = last.capitalize()
    return " ".join((*before, last))


_ANSWER = "Please choose the correct answer to "
WORDINGS: dict[str, Wording] = {
    "arc_c": Wording(task="arc_challenge", lead=f"{_ANSWER}the question: "),
    "arc_e": Wording(task="arc_easy", lead=f"{_ANSWER}the question: "),
    "piqa": Wording(task="piqa", lead="Please choose the correct solution to the question: "),
    "obqa": Wording(task="openbookqa", lead=f"{_ANSWER}the question: ", prompt="{question}"),
    "siqa": Wording(task="social_iqa", lead=f"{_ANSWER}the question: ", prompt="Q: {question}\nA:"),
    "hellaswag": Wording(
        task="hellaswag",
        lead="Please choose the correct ending to complete the given sentence: ",
        prompt="{question}",
        clean=_unmarked,
    ),
    "winogrande": Wording(
        task="winogrande",
        lead=f"{_ANSWER}fill in the blank to complete the given sentence: ",
        prompt="{question}",
        blank=True,
    ),
    # Its passage is not in LLM-Adapters' rows.
    "boolq": Wording(
        lead="Please answer the following question with true or false, question: ",
        names={"false": "no", "true": "yes"},
    ),
    "aqua": Wording(
        task="agieval_aqua_rat",
        prompt="Q: {whole}\nA: Among A through E, the answer is",
        option="({label}) {text}",
    ),
}
"""By benchmark; `Wording()`, ARC's words, for every other."""


def asked(benchmark: Benchmark, example: Example, wording: Wording | None = None) -> list[Option]:
    """Return an item's options, in its order; those of a harness task are as its requests are.

    Args:
        benchmark: Its benchmark, of choices.
        example: The item.
        wording: How it is put; None for the set's own.

    Raises:
        InputError: Its options cannot be told from the question.
    """
    if example.request:
        found = json.loads(example.request)["options"]
        return [Option(label_of(i), *option) for i, option in enumerate(found)]
    wording = wording or WORDINGS.get(benchmark.name, Wording())
    question, passage, texts = _apart(example, benchmark.labels)
    if example.answer not in texts:
        raise InputError(
            f"{benchmark.name} {example.id}: its answer is {example.answer}, and the options that "
            f"its question lists are {', '.join(texts) or '(none)'}",
            why="each option is scored, and the gold one must be among them",
            remedy='list them as "Answer Choices: (A) ... (B) ..." or "Option1: ... Option2: ..."',
        )
    question = question.removeprefix(wording.lead)
    question = _begun(question) if wording.clean is _unmarked else wording.clean(question)
    names = wording.names or {}
    said = {label: wording.clean(text or names.get(label, label)) for label, text in texts.items()}
    if wording.blank:
        return _filled(benchmark, example, question, said)
    context = wording.prompt.replace("{whole}", example.question).replace("{question}", question)
    context = f"{passage}\n{context}" if passage else context
    shown = {k: wording.option.format(label=k, text=text) for k, text in said.items()}
    return [Option(label, context, f" {text}", text) for label, text in shown.items()]


def _filled(
    benchmark: Benchmark, example: Example, sentence: str, said: Mapping[str, str]
) -> list[Option]:
    """Return options by partial evaluation: each fills the blank, and the rest is scored."""
    before, blank, behind = sentence.partition("_")
    if not blank or not behind.strip():
        raise InputError(
            f"{benchmark.name} {example.id}: has no blank (_) with text behind it",
            why="options that fill a blank are told apart by what follows it",
            remedy="choose another wording, or leave scoring out",
        )
    behind = f" {behind.strip()}"
    return [Option(label, before + text, behind, before + text) for label, text in said.items()]


def _apart(example: Example, labels: tuple[str, ...]) -> tuple[str, str, dict[str, str]]:
    """Return question and context without the list of options; label -> text, "" if not listed."""
    numbered = bool(labels) and all(map(_NUMBERED.fullmatch, labels))

    def split(text: str) -> tuple[str, dict[str, str]]:
        if not labels:
            return _lettered(text)
        return _numbered(text, labels) if numbered else _named(text, labels)

    question, texts = split(example.instruction)
    passage, behind = split(example.context) if example.context else ("", {})
    # A list of options stands at the end, behind the context where there is one.
    return question, passage, behind or texts


def _lettered(text: str) -> tuple[str, dict[str, str]]:
    heads = list(CHOICES_HEAD.finditer(text))
    return (text[: heads[-1].start()].rstrip(), lettered(text)) if heads else (text, {})


def _numbered(text: str, labels: tuple[str, ...]) -> tuple[str, dict[str, str]]:
    """Return what `Answer1: ... Answer2: ...` lists, and what stands before."""
    body = _FORMAT.sub("", text)
    stem = _NUMBERED.fullmatch(labels[0])[1]
    marks = list(re.finditer(rf"\b{stem}\s?(\d+)\s*:", body, re.IGNORECASE))
    if not marks or [int(m[1]) for m in marks] != list(range(1, len(marks) + 1)):
        return text, {}
    ends = [*(m.start() for m in marks[1:]), len(body)]
    texts = [body[m.end() : end].strip() for m, end in zip(marks, ends, strict=True)]
    named = zip(labels, texts, strict=False)
    return body[: marks[0].start()].rstrip(), dict(named)


def _named(text: str, labels: tuple[str, ...]) -> tuple[str, dict[str, str]]:
    """Return the labels themselves; those that `Answer format: yes/no` names, where it does."""
    stated = _FORMAT.search(text)
    offered = stated[0].rpartition(":")[2].strip().split("/") if stated else labels
    return _FORMAT.sub("", text), dict.fromkeys(offered, "")
