"""A study's teachers, alone and together: which are named, and what makes no sense of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kdstudy.config.refs import ModelRef, Together
from kdstudy.data.formats import TAG

if TYPE_CHECKING:
    from kdstudy.config.schema import Study


def are_several(value: Any) -> bool:
    """Whether an entry of `teachers`, read or as it is written, is several that teach together."""
    return isinstance(value, list | Together) or (
        isinstance(value, dict) and bool({"together", "route", "mixture", "weights"} & {*value})
    )


def members(entry: ModelRef | Together) -> list[ModelRef]:
    """Return the teachers that an entry of `teachers` names."""
    return entry.together if isinstance(entry, Together) else [entry]


def loaded(ref: ModelRef) -> str:
    """Return what of a reference says which weights it stands for."""
    revision = f"@{ref.revision}" if ref.revision else ""
    cut = f" cut to {ref.cut.mark}" if ref.cut else ""
    return ref.model + revision + (f" with {ref.adapter}" if ref.adapter else "") + cut


def called(entry: ModelRef | Together) -> str:
    """Return what no two entries of `teachers` may have in common."""
    names = " + ".join(sorted(map(loaded, members(entry))))
    how = entry.called if isinstance(entry, Together) else ""
    return f"{names} ({how})" if how else names


def require_sense(study: Study) -> None:
    """Refuse teachers that contradict each other, or that a method of the study cannot use.

    Raises:
        ValueError: Says which, and what to write.
    """
    for i, entry in enumerate(study.teachers):
        for ref in members(entry):
            _require_whole(ref, f"teachers[{i}]")
    _refuse_two_ways(study)
    for entry in study.teachers:
        if isinstance(entry, Together):
            _require_usable(study, entry)
        if not isinstance(entry, Together) or entry.route is not None:
            for ref in members(entry):
                _refuse_idle(study, ref)
    _require_readable_contexts(study)


def _require_whole(ref: ModelRef, at: str) -> None:
    if ref.cut is not None:
        field = "intermediate" if ref.cut.layers is None else "layers"
        raise ValueError(
            f"{at}.{field}: students are cut, teachers are used whole; to have a cut model teach, "
            "save it and give its folder"
        )


def _refuse_two_ways(study: Study) -> None:
    for ref in study.teacher_models:
        named = [r for entry in study.teachers for r in members(entry) if loaded(r) == loaded(ref)]
        if any(other != ref for other in named):
            raise ValueError(
                f"teachers: {ref.model} is written in two ways; a teacher is fine-tuned once: "
                "write its fields alike wherever it teaches"
            )


def _require_usable(study: Study, several: Together) -> None:
    """Refuse teachers together that a method cannot learn from, or a route without tags."""
    names = ", ".join(ref.model for ref in several.together)
    for m in study.methods:
        if m.teacher_gives == "text" and several.route is None:
            raise ValueError(
                f"teachers: {names} together: {m.type} learns a text, which one teacher writes; "
                "give them a route, list them one by one, or take the method out"
            )
        if m.teacher_gives == "distribution" and m.recipe().extra is not None:
            raise ValueError(
                f"teachers: {names} together: {m.type} learns one teacher's hidden states; list "
                "them one by one, or take the method out"
            )
    if several.route is not None and TAG not in study.corpus.columns:
        raise ValueError(
            "teachers: a route goes by tags; say which column of the corpus holds them: "
            "corpus: {..., columns: {tag: topic}}"
        )


def _refuse_idle(study: Study, ref: ModelRef) -> None:
    """Refuse a student that learns from itself as it is: there is nothing to learn.

    From itself fine-tuned it learns (a born-again network), from its own text too; a start from sft
    or a share of labels takes it away from what its base then holds it to, and what it is told it
    did not know.
    """
    own = [s for s in study.students if loaded(s) == loaded(ref)]
    if not own or ref.context is not None:
        return
    ablation = study.ablations.base_teacher
    again = ablation.methods if ablation else []
    for m in study.methods:
        if m.learns_nothing_at_first and (not ref.finetune or m.type in again):
            where = "ablations.base_teacher: " if ref.finetune else ""
            raise ValueError(
                f"{where}{ref.model} is its own teacher, as it is: the divergence of {m.type} "
                "would start at zero and stay there; have the teacher fine-tuned (finetune: true), "
                "give the method a start (start: sft) or a hard_label_weight, or choose another"
            )


def _require_readable_contexts(study: Study) -> None:
    """Refuse a context that nobody could read, or that would be learnt as a text."""
    for ref in study.students:
        if ref.context is not None:
            raise ValueError(
                f"students: {ref.model} has a context; it is what a teacher is told and its "
                "student is not: give it to the teacher"
            )
    told = [ref for ref in study.teacher_models if ref.context is not None]
    if not told:
        return
    if any(ref.context is not None for several in study.several for ref in several.together):
        raise ValueError(
            "teachers: one of several together has a context; list it alone: a mixture is of "
            "distributions after one prompt"
        )
    if study.train.loss_tokens != "response":
        raise ValueError(
            f"train.loss_tokens: {study.train.loss_tokens} scores tokens of the prompt, and a "
            "teacher with a context has another prompt; write response"
        )
    texts = [m.type for m in study.methods if m.teacher_gives == "text"]
    if texts:
        raise ValueError(
            f"teachers: {told[0].model} has a context, and {', '.join(texts)} learns a text that "
            "the teacher writes: told the answer it would copy it; take the method out"
        )
