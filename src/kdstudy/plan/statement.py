"""The stages that ask models something more for the loss statement: none unless a study says so."""

from collections.abc import Iterator

from kdstudy import artifacts
from kdstudy.errors import InputError
from kdstudy.evaluation.kinds import MemorisedConfig, OwnTextConfig, ReasoningConfig
from kdstudy.plan.measuring import Measuring, Written
from kdstudy.plan.stages import Stages, Subject, named, place


def ask_more(stages: Stages, measured: Measuring) -> None:
    """Add what `statement` of the study asks for, of the main grid's distilled systems.

    Raises:
        InputError: No benchmark can be asked so.
    """
    if stages.study.statement.own_text_items:
        _own_texts(stages, measured)
    if stages.study.statement.reasoning_items:
        _reasonings(stages, measured)
    if stages.study.statement.memory_rows:
        for subject in {one.label: one for one, _ in _pairs(measured)}.values():
            _memorised(stages, subject)


def _pairs(measured: Measuring) -> Iterator[tuple[Subject, Subject]]:
    """Yield the systems that the loss statement is of, each with each of its teachers."""
    for subject in list(measured.subjects.values()):
        if subject.system.kind == "distilled" and not subject.system.ablation:
            for teacher in subject.system.teachers:
                yield subject, measured.subjects[teacher]


def _own_texts(stages: Stages, measured: Measuring) -> None:
    found = [w for w in measured.written if not w.asking.endings.thinking]
    if not found:
        raise InputError(
            "statement.own_text_items: no benchmark is answered in text without thoughts",
            why="what is read is an answer that a student wrote itself",
            remedy="add such a benchmark, or leave it out",
        )
    for one, teacher in _pairs(measured):
        if measured.share_words(one, teacher):
            for benchmark in found:
                _own_text(stages, measured, one, teacher, benchmark)


def _own_text(
    stages: Stages, measured: Measuring, one: Subject, teacher: Subject, asked: Written
) -> None:
    config = OwnTextConfig(
        model=named(one.model),
        reference_model=named(teacher.model),
        **stages.prompts(),
        items=asked.name,
        rows=stages.study.statement.own_text_items,
        precision=stages.study.train.precision,
        asking=asked.asking.config(),
    )
    inputs = artifacts.ITEMS.at(asked.items)
    inputs |= artifacts.OWN_ANSWERS.at(measured.answers(one, asked.name))
    inputs |= artifacts.REFERENCE_ANSWERS.at(measured.answers(teacher, asked.name))
    inputs |= artifacts.TUNED_SYSTEM.at(one.trained)
    inputs |= artifacts.TUNED_REFERENCE.at(teacher.trained)
    inputs |= stages.cut(one.model, "model")
    models = {"model": place(one.model), "reference_model": teacher.model.local()}
    label = f"{one.label} with {teacher.label} on {asked.name}"
    stages.add("own_text", label, config, inputs, {"models": models})


def _reasonings(stages: Stages, measured: Measuring) -> None:
    found = [
        w
        for w in measured.written
        if w.kind == "number" and not w.asking.endings.thinking and not w.of_task
    ]
    if not found:
        raise InputError(
            "statement.reasoning_items: no benchmark asks for numbers that are written without "
            "thoughts and graded by kdstudy",
            why="the result of an equation is changed in an answer",
            remedy="add such a benchmark, such as gsm8k, or leave it out",
        )
    asked = {s.label: s for pair in _pairs(measured) for s in pair}
    for subject in asked.values():
        for benchmark in found:
            _reasoning(stages, measured, subject, benchmark)


def _reasoning(stages: Stages, measured: Measuring, subject: Subject, asked: Written) -> None:
    study = stages.study
    config = ReasoningConfig(
        model=named(subject.model),
        items=asked.name,
        generation={"max_new_tokens": study.generation.max_new_tokens},
        **stages.prompts(),
        precision=study.train.precision,
        asking=asked.asking.config(),
        rows=study.statement.reasoning_items,
        rule=study.extraction,
        scoring=asked.scoring,
    )
    inputs = artifacts.ITEMS.at(asked.items)
    inputs |= artifacts.OWN_ANSWERS.at(measured.answers(subject, asked.name))
    inputs |= artifacts.TRAINED.at(subject.trained) | stages.cut(subject.model, "model")
    local = {
        "models": {"model": place(subject.model)},
        "batch_size": study.generation.batch_size,
    }
    stages.add("reasoning", f"{subject.label} on {asked.name}", config, inputs, local)


def _memorised(stages: Stages, subject: Subject) -> None:
    asked, train = stages.study.statement, stages.study.train
    config = MemorisedConfig(
        model=named(subject.model),
        reference_model=named(subject.model),
        **stages.prompts(),
        max_length=train.max_length,
        loss_turns=train.loss_turns,
        precision=train.precision,
        rows=asked.memory_rows,
        start=asked.memory_start,
        tokens=asked.memory_tokens,
    )
    inputs = artifacts.CORPUS.at(stages.corpus) | artifacts.TUNED_SYSTEM.at(subject.trained)
    for name in ("model", "reference_model"):
        inputs |= stages.cut(subject.model, name)
    models = dict.fromkeys(("model", "reference_model"), place(subject.model))
    stages.add("memorised", subject.label, config, inputs, {"models": models})
