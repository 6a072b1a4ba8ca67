"""Completions that any system made: matched with a benchmark's items, accounted for, graded."""

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

from kdstudy.answers.extract import Rule
from kdstudy.config.schema import RougeTokenizer
from kdstudy.errors import InputError
from kdstudy.evaluation.asking import Endings
from kdstudy.evaluation.benchmarks.base import Benchmark, Stated
from kdstudy.evaluation.completion_rows import Answer, answers
from kdstudy.evaluation.fidelity import pair
from kdstudy.evaluation.graders import Grader
from kdstudy.evaluation.score import score
from kdstudy.records import Generation, OptionLikelihoods, PairScore, Score

_WHOLE = Endings()
_SHOWN = 5  # rows of each kind left out that are named
_END = ".?!…。？！"  # marks that end a sentence


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    """What became of a file's rows.

    Attributes:
        matched: Rows that answer an item; these are scored.
        alike: Those of them whose question is not the item's to the letter: it differs in case,
            spacing or the marks that end a sentence, or lacks the item's options or context.
        missing: Answers that are not there: items times samples, less `matched`.
        doubled: Rows left out because an earlier row answers the same item and sample.
        ambiguous: Rows left out because several items could be meant, which differ in no more than
            that, and neither the row's text nor its id says which.
        unknown: Rows left out because no item has their id or question, or because the item with
            their id has another question.
        unstated: Matched rows that do not say how they ended; they count as ended.
        left_out: The first rows of each kind that is left out, in words, with their lines.
    """

    matched: int
    alike: int
    missing: int
    doubled: int
    ambiguous: int
    unknown: int
    unstated: int
    left_out: tuple[str, ...]


def read(
    path: Path,
    benchmark: Benchmark,
    grader: Grader | None = None,
    endings: Endings = _WHOLE,
) -> tuple[list[Generation] | list[OptionLikelihoods], Account]:
    """Return the completions of a benchmark's items, in the file's order, and an account.

    Of a grader that needs options they are their likelihoods. Texts are cut before a stop string of
    `endings`, and count as ended there.

    A row belongs to the item with its id; else to the item with its question: the same text, or
    the same but for case, spacing and the marks that end a sentence, or but for what the benchmark
    appends (options, context). An id of the benchmark file's own tells items with equal questions
    apart. A row that has an item's id and another question belongs to no item. Rows for a
    question that the benchmark repeats belong to the repetitions in order of appearance.

    Raises:
        InputError: The file cannot be read, a row is malformed (its line is named) or of another
            benchmark, or no row matches.
    """
    items = _Items(benchmark)
    found: list[Any] = []
    left_out: dict[str, list[str]] = {"doubled": [], "ambiguous": [], "unknown": []}
    unstated = alike = 0
    options = grader is not None and grader.needs == "options"
    for row in answers(path, benchmark.name, options=options):
        item, how = items.claim(row)
        if not item:
            left_out[how].append(_named(row))
            continue
        alike += how == "alike"
        unstated += not row.stop
        if options:
            found.append(_likelihood(row, benchmark.name, item))
        else:
            found.append(_generation(row, benchmark.name, item, endings))
    if not found:
        _refuse(path, benchmark.name, {kind: len(rows) for kind, rows in left_out.items()})
    samples = {g.sample for g in found}
    account = Account(
        matched=len(found),
        alike=alike,
        missing=len(benchmark.examples) * len(samples) - len(found),
        **{kind: len(rows) for kind, rows in left_out.items()},
        unstated=unstated,
        left_out=tuple(f"{kind}: {w}" for kind, rows in left_out.items() for w in rows[:_SHOWN]),
    )
    return found, account


def grade(
    generations: Sequence[Generation] | Sequence[OptionLikelihoods],
    benchmark: Benchmark,
    rule: Rule,
    rouge_tokenizer: RougeTokenizer = "rouge-score",
    grader: Grader | None = None,
    thinking: str = "",
) -> list[Score]:
    """Return the scores of the items that are there, in benchmark order, then by sample.

    Args:
        generations: From `read`.
        benchmark: Their benchmark.
        rule: `reference` or `corrected`.
        rouge_tokenizer: What ROUGE-L of free texts takes for words.
        grader: As in `read`; None for what is usual with such answers.
        thinking: As `score` takes it.
    """
    samples: defaultdict[int, dict[str, Any]] = defaultdict(dict)
    for generation in generations:
        samples[generation.sample][generation.example_id] = generation
    scores = []
    for rows in samples.values():
        there = tuple(e for e in benchmark.examples if e.id in rows)
        some = dataclasses.replace(benchmark, examples=there)
        scores += score(rows.values(), some, rule, rouge_tokenizer, grader, thinking)
    place = {example.id: i for i, example in enumerate(benchmark.examples)}
    return sorted(scores, key=lambda s: (place[s.example_id], s.sample))


def compare(
    scores_a: Sequence[Score],
    scores_b: Sequence[Score],
    rouge_tokenizer: RougeTokenizer = "rouge-score",
) -> tuple[list[Score], list[Score], list[PairScore]]:
    """Return the scores of the items that both systems answered, of each, and their comparison.

    Raises:
        InputError: The two have no item in common, other samples, or were read by two rules.
    """
    samples_a, samples_b = ({s.sample for s in scores} for scores in (scores_a, scores_b))
    if samples_a != samples_b:
        raise InputError(
            "the two systems have different samples: "
            f"{_listed(samples_a)} against {_listed(samples_b)}",
            why="a comparison is between two answers to one item",
            remedy='give both the same "sample" numbers',
        )
    keys_a, keys_b = ({(s.example_id, s.sample) for s in scores} for scores in (scores_a, scores_b))
    both = keys_a & keys_b
    if not both:
        raise InputError("the two systems have no item in common")
    a, b = ([s for s in x if (s.example_id, s.sample) in both] for x in (scores_a, scores_b))
    return a, b, pair(a, b, rouge_tokenizer)


_Left = Literal["doubled", "ambiguous", "unknown"]


class _Items:
    """A benchmark's items by id and by question, and which of them are answered."""

    def __init__(self, benchmark: Benchmark):
        self._questions = {example.id: example.question for example in benchmark.examples}
        self._own: defaultdict[str, list[str]] = defaultdict(list)
        self._exact: defaultdict[str, list[str]] = defaultdict(list)
        # From the closest to the widest: the whole question, then without what was appended.
        self._alike: tuple[defaultdict[str, list[str]], ...] = (
            defaultdict(list), defaultdict(list),
        )  # fmt: skip
        self._taken: set[tuple[str, int]] = set()
        for example in benchmark.examples:
            stated = benchmark.stated.get(example.id, Stated("", example.instruction))
            if stated.id:
                self._own[stated.id].append(example.id)
            self._exact[example.question.strip()].append(example.id)
            self._alike[0][_wording(example.question)].append(example.id)
            self._alike[1][_wording(stated.question)].append(example.id)

    def claim(self, row: Answer) -> tuple[str, Literal["exact", "alike"] | _Left]:
        """Return the item that a row answers and how it was found; "" and why there is none.

        An item is given away once per sample.
        """
        items, how = self._meant(row)
        for item in items:
            if (item, row.sample) not in self._taken:
                self._taken.add((item, row.sample))
                return item, how
        return "", "doubled" if items else how

    def _meant(self, row: Answer) -> tuple[list[str], Literal["exact", "alike"] | _Left]:
        """Return the items that a row can mean, and how; none, and why.

        Several items are meant together only where the benchmark repeats one question.
        """
        ours = [i for i in row.ids if i in self._questions][:1]
        if ours:
            return self._agreed(ours, row.question)
        own = [item for i in row.ids for item in self._own.get(i, ())]
        asked = row.question.strip()
        found = self._exact.get(asked, []) if asked else []
        if found:
            return [item for item in found if item in own] or found, "exact"
        for index in self._alike if asked else ():
            found = index.get(_wording(asked), [])
            found = [item for item in found if item in own] or found
            if len({self._questions[item] for item in found}) > 1:
                return [], "ambiguous"
            if found:
                return found, "alike"
        if len({self._questions[item] for item in own}) > 1:
            return [], "ambiguous"
        return self._agreed(own, asked) if own else ([], "unknown")

    def _agreed(
        self, items: list[str], asked: str
    ) -> tuple[list[str], Literal["exact", "alike"] | _Left]:
        """Return the items that an id names; none where the row asks something else.

        A row without a question is taken at its id's word, as is a prompt in which the item's
        question stands as it is and ends a line or a turn.
        """
        asked = asked.strip()
        wording = _wording(asked)
        if not asked or any(_holds(asked, self._questions[item].strip()) for item in items):
            return items, "exact"
        if any(item in index.get(wording, ()) for index in self._alike for item in items):
            return items, "alike"
        return [], "unknown"


def _generation(row: Answer, benchmark: str, item: str, endings: Endings) -> Generation:
    at = endings.cut(row.completion)
    cut = at is not None
    return Generation(
        benchmark=benchmark,
        example_id=item,
        sample=row.sample,
        completion=row.completion[:at],
        stop="eos" if cut else row.stop or "eos",
        # The file counts tokens of the whole text; of a part of it nobody knows them.
        tokens=0 if cut else row.tokens,
        thought=-1 if cut else row.thought,
    )


def _likelihood(row: Answer, benchmark: str, item: str) -> OptionLikelihoods:
    if row.sample:
        raise InputError(
            f"{row.where}: is draw {row.sample} of an item",
            why="log-probabilities of options are not drawn",
            remedy="give one row for each item",
        )
    return OptionLikelihoods(benchmark=benchmark, example_id=item, logprobs=row.logprobs)


def _refuse(path: Path, benchmark: str, rows: dict[str, int]) -> NoReturn:
    if not any(rows.values()):
        raise InputError(f"{path}: holds no completions")
    if rows["ambiguous"] and not rows["unknown"]:
        raise InputError(
            f"{path}: no row matches one item of {benchmark}",
            why=f"{rows['ambiguous']} rows could each mean several items, whose questions differ "
            "in case, spacing, final punctuation or context alone",
            remedy="give each row the item's question as it stands there, or its id",
        )
    raise InputError(
        f"{path}: no row matches an item of {benchmark}",
        why=f"{rows['unknown']} rows have ids or questions that it does not have, or an item's id "
        "with another question",
        remedy="name the right benchmark, or give each row the item's question as it stands there",
    )


def _holds(prompt: str, question: str) -> bool:
    """Return whether a prompt holds a question, behind which a line or a turn ends."""
    behind = prompt.rpartition(question)[2].lstrip(" ")
    return question in prompt and behind[:1] in ("", "\n", "<", "[")


def _wording(question: str) -> str:
    """Return a key that questions share which differ in case, spacing or the ends of sentences.

    Narrower than what `data.audit` calls the same: an answer to another question must not count.
    """
    text = " ".join(filter(None, map(_unended, question.casefold().split())))
    for mark in ",;:":
        text = text.replace(f" {mark}", mark)
    return text


def _unended(word: str) -> str:
    """Return a word without the marks that end a sentence; "5!" is a factorial and stays."""
    bare = word.rstrip(_END)
    factorial = "!" in word[len(bare) :] and (bare[-1:].isdigit() or bare.endswith(")"))
    return word.rstrip(_END.replace("!", "")) if factorial else bare


def _named(row: Answer) -> str:
    said = row.ids[0] if row.ids else " ".join(row.question.split())
    return f"{row.where}: {said[:60]}"


def _listed(samples: set[int]) -> str:
    return ", ".join(map(str, sorted(samples)))
