"""Checks of the corpus, of what the tokenizers make of it, and of the benchmarks."""

import shlex
from collections.abc import Iterator
from pathlib import Path

from kdstudy.data import files
from kdstudy.doctor.facts import StudyFacts, TextFacts
from kdstudy.doctor.findings import Finding, finding_of, many, refused

# Shares of rows below which a flaw is worth a note and no more.
_FEW = 0.01


def parity(facts: StudyFacts) -> Iterator[Finding]:
    """Prompt ids are the same in training and in evaluation."""
    for text in facts.texts:
        names = ", ".join(text.models)
        if text.prompt_mismatches:
            yield Finding(
                level="error",
                check="parity",
                what=f"{names}: {text.prompt_mismatches} of {text.rows} prompts have other ids in "
                "evaluation than in training",
                why="a student is then asked in words that it was never trained on",
                remedy="use a template whose text does not depend on what follows it",
                texts=text.parity or (),
            )
        elif text.parity:
            yield Finding(
                level="ok",
                check="parity",
                what=f"{names}: prompts have the same ids in training and in evaluation "
                f"({many(text.rows, 'row')} compared)",
                texts=text.parity,
            )


def contract(facts: StudyFacts) -> Iterator[Finding]:
    """Every row is what its template makes of it, and writes no control token of its own."""
    for text in facts.texts:
        names = ", ".join(text.models)
        if text.refusal is not None:
            of = f"{names}: `run` refuses {text.refused} of {many(text.rows, 'row')}; the first"
            yield finding_of(text.refusal, "contract", of=of)
        elif text.rows:
            yield Finding(
                level="ok",
                check="contract",
                what=f"{names}: prompt and answer are what the template makes of the whole row "
                f"({many(text.rows, 'row')})",
            )
        if text.written:
            yield Finding(
                level="note",
                check="contract",
                what=f"{names}: {text.written} of {many(text.rows, 'row')} write control tokens "
                "out",
                why="they are read as text, not as tokens; only the template writes those",
                remedy="nothing, if they are text; else give such rows as messages, or with "
                "template: '{instruction}'",
            )


def masks(facts: StudyFacts) -> Iterator[Finding]:
    """What the loss sees, shown on three rows."""
    for text in facts.texts:
        if not text.masks:
            continue
        ends = any(s.part == "scored" for shown in text.masks for s in shown.spans)
        yield Finding(
            level="ok" if ends else "error",
            check="masks",
            what=f"{', '.join(text.models)}: {text.scored:,} of {text.tokens:,} tokens are scored "
            f"(train.loss_tokens: {facts.study.train.loss_tokens})",
            why="" if ends else "nothing of these rows would be learnt",
            remedy="" if ends else "raise train.max_length",
            texts=text.masks,
        )


def truncation(facts: StudyFacts) -> Iterator[Finding]:
    """How many rows do not fit in max_length."""
    for text in facts.texts:
        yield _truncation(facts, text)


def _truncation(facts: StudyFacts, text: TextFacts) -> Finding:
    from kdstudy.distill.rows import Counts, require_enough

    limit, most = facts.study.train.max_length, facts.study.train.max_truncated_share
    lost = text.cut + text.dropped
    counts = Counts(kept=text.rows - text.dropped, truncated=text.cut, dropped=text.dropped)
    names = ", ".join(text.models)
    numbers = {"models": text.models, "rows": text.rows, "cut": text.cut, "dropped": text.dropped,
             "needed": text.needed, "longest": text.longest}  # fmt: skip
    if not lost:
        what = f"{names}: all {text.rows:,} rows fit in max_length {limit}"
        return Finding(level="ok", check="truncation", what=what, facts=numbers)
    if error := refused(require_enough, {"train": counts}, limit, most):
        remedy = f"{error.remedy} ({_room(text, limit, most)})"
        return finding_of(error, "truncation", of=names, remedy=remedy, facts=numbers)
    many_lost = lost > _FEW * text.rows
    return Finding(
        level="warning" if many_lost else "note",
        check="truncation",
        what=f"{names}: {100 * lost / text.rows:.1f}% of {text.rows:,} rows do not fit in "
        f"max_length {limit}: {text.cut} are cut, {text.dropped} have no room for a response",
        why="a row without its end does not teach how an answer ends",
        remedy=("" if many_lost else "nothing, or ") + _room(text, limit, most),
        facts=numbers,
    )


def _room(text: TextFacts, limit: int, most: float) -> str:
    """Return which max_length to set: never one in which fewer rows fit than now."""
    enough = text.needed > limit and most >= _FEW
    length = text.needed if enough else text.longest
    share = "99% of the rows" if enough else "all rows"
    return f"set train.max_length to {length}, in which {share} fit"


def unknown(facts: StudyFacts) -> Iterator[Finding]:
    """Tokens that stand for what the vocabulary lacks."""
    for text in facts.texts:
        if text.unknown:
            share = text.unknown / max(1, text.tokens)
            yield Finding(
                level="warning" if share > _FEW else "note",
                check="unknown",
                what=f"{', '.join(text.models)}: {text.unknown:,} of {text.tokens:,} tokens stand "
                "for characters or words that the vocabulary lacks",
                why="what they were cannot be read, learnt or written",
                remedy="choose models whose tokenizer knows this text",
            )


def rows(facts: StudyFacts) -> Iterator[Finding]:
    """Empty, repeated and leaked rows of the corpus."""
    corpus = facts.corpus
    if corpus is None:
        return
    lost = sum(corpus.dropped.values())
    if lost:
        reasons = ", ".join(f"{n} {reason}" for reason, n in corpus.dropped.items())
        yield Finding(
            level="warning" if lost > _FEW * corpus.read else "note",
            check="rows",
            what=f"{corpus.name}: {lost} of {corpus.read:,} rows are left out ({reasons})",
            why="they hold nothing to learn",
            remedy="look whether their fields are read as you mean them",
        )
    if corpus.shortened:
        yield Finding(
            level="note",
            check="rows",
            what=f"{corpus.name}: {corpus.shortened} of {corpus.read:,} conversations go on after "
            "the assistant's last message; what follows it is left out",
            why="nobody answers it, so nothing in it could be learnt",
            remedy="nothing, unless an answer was lost",
        )
    if corpus.repeated:
        yield Finding(
            level="warning" if corpus.repeated > _FEW * corpus.read else "note",
            check="rows",
            what=f"{corpus.name}: {corpus.repeated} of {corpus.read:,} rows repeat an earlier one",
            why="they weigh more than others, and a copy may stand among the validation rows",
            remedy="remove the copies, unless you mean them",
        )
    if corpus.leaked:
        yield Finding(
            level="warning",
            check="rows",
            what=f"{corpus.leaked} of {corpus.validation} validation rows ask what a training row "
            "asks",
            why="checkpoints are chosen on validation rows; these reward learning by heart",
            remedy="remove rows that ask the same, then split again",
        )
    if not (lost or corpus.repeated or corpus.leaked):
        yield Finding(
            level="ok",
            check="rows",
            what=f"{corpus.name}: {corpus.train:,} rows to learn from, {corpus.validation:,} to "
            "validate; none empty or repeated",
        )


def contamination(facts: StudyFacts) -> Iterator[Finding]:
    """Test items that the corpus holds."""
    known = [b for b in facts.benchmarks if b.contaminated]
    clean = [b.name for b in known if not b.contaminated["masked"]]
    for b in known:
        held, masked, of = (b.contaminated[k] for k in ("normalised", "masked", "items"))
        if not masked:
            continue
        yield Finding(
            level="warning" if held else "note",
            check="contamination",
            what=f"{b.name}: the corpus holds the questions of {held} of {of:,} items, of "
            f"{masked - held} more with other numbers",
            why="a model that has seen a question may know its answer by heart"
            if held
            else "the same wording with other numbers makes a test easier",
            remedy=f"see them, or get the corpus without them: {_audit(facts, b.name)}",
            facts={"benchmark": b.name, **b.contaminated},
        )
    if clean:
        what = f"the corpus holds no question of {', '.join(clean)}"
        yield Finding(level="ok", check="contamination", what=what)


def _audit(facts: StudyFacts, benchmark: str) -> str:
    """Return the command that lists a benchmark's items in the corpus and writes it without them.

    It names the study, which knows where corpus and benchmark are: their paths start there.
    """
    words = ["kdstudy", "audit", "--study", facts.path, "--benchmark", benchmark]
    words += ["--list", "items.csv", "--out", _clean_name(facts)]
    words += ["--data-dir", facts.data_dir] if facts.data_dir else []
    return shlex.join(map(str, words))


def _clean_name(facts: StudyFacts) -> str:
    """Return a name that says the type of the corpus, in which its clean rows are written."""
    path = facts.corpus.path if facts.corpus else ""
    return f"clean{files.named(Path(path)).suffix if path else '.jsonl'}"


def scripts(facts: StudyFacts) -> Iterator[Finding]:
    """ROUGE-L reads the scripts that free texts are written in."""
    for b in facts.benchmarks:
        if b.foreign and facts.study.rouge_tokenizer == "rouge-score":
            yield Finding(
                level="warning" if 2 * b.foreign > (b.items or 0) else "note",
                check="scripts",
                what=f"{b.name}: the references of {b.foreign} of {many(b.items or 0, 'item')} are "
                "mostly in other letters than a-z",
                why="the published words of ROUGE-L are of a-z and 0-9: of such texts it sees "
                "nothing, or names and numbers alone",
                remedy="set rouge_tokenizer: unicode; scores then compare with no published ones",
            )


def benchmarks(facts: StudyFacts) -> Iterator[Finding]:
    """Benchmark files at hand, and as published."""
    whole = []
    for b in facts.benchmarks:
        if b.found == "data folder, edited":
            yield Finding(
                level="warning",
                check="benchmarks",
                what=f"{b.name}: the file in the data folder is not the published one",
                why="scores on it compare with no others",
                remedy="remove it so that the published file is downloaded, or rename the set",
            )
        elif b.items is None:
            yield Finding(
                level="note",
                check="benchmarks",
                what=f"{b.name}: is not here ({b.found}); {b.note}",
                why="the run needs the network when it gets there",
                remedy="nothing, or download it before on a machine with a network",
            )
        else:
            whole.append(f"{b.name} ({b.items:,})")
    if whole:
        yield Finding(level="ok", check="benchmarks", what=f"at hand: {', '.join(whole)}")
