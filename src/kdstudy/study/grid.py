"""A study's grid: which distilled runs one student, teacher and seed have."""

from kdstudy.records import System
from kdstudy.study import schema


def distilled(
    study: schema.Study, student: str, teacher: System, seed: int, tail: str, *, ablated: bool
) -> list[tuple[System, schema.Method]]:
    """Return the runs of one student under one teacher: the methods, then the ablations.

    Args:
        study: The study.
        student: The student model's name in labels.
        teacher: The teacher as the study uses it.
        seed: Training seed.
        tail: What every label ends in, such as `/seed=1`.
        ablated: Whether the ablations are for this student.
    """
    found: dict[str, tuple[System, schema.Method]] = {}

    def add(
        method: schema.Method, ablation: str = "", suffix: str = "", by: str = teacher.label
    ) -> None:
        label = f"{student}/{method.type}/{teacher.model}{suffix}{tail}"
        system = System(
            label=label,
            kind="distilled",
            model=student,
            teacher=by,
            method=method.type,
            ablation=ablation,
            temperature=getattr(method, "temperature", 1.0),
            noise=getattr(method, "noise", 0.0),
            seed=seed,
        )
        found.setdefault(label, (system, method))

    methods = {m.type: m for m in study.methods if m.type != "sft"}
    for method in methods.values():
        add(method)
    ablations = study.ablations
    if not ablated:
        return list(found.values())
    for field, part in (("temperature", ablations.temperature), ("noise", ablations.noise)):
        for m, value in (
            [(methods[m], v) for m in part.methods for v in part.values] if part else []
        ):
            if value != getattr(m, field):
                changed = m.model_copy(update={field: float(value)})
                sign = "tau" if field == "temperature" else "noise"
                add(changed, field, f"/{sign}={value:g}")
    if ablations.base_teacher and teacher.label != teacher.model:
        for m in ablations.base_teacher.methods:
            add(methods[m], "base_teacher", "/base-teacher", by=teacher.model)
    return list(found.values())
