"""A study's grid: which distilled runs one student, teacher and seed have."""

from kdstudy.records import System
from kdstudy.study import schema


def own_sft(study: schema.Study) -> schema.Sft:
    """Return how students are fine-tuned without a teacher, listed or not."""
    return next((m for m in study.methods if m.type == "sft"), schema.Sft())


def epochs(study: schema.Study, method: schema.Method) -> tuple[float, ...]:
    """Return a method's passes over the corpus: those of its start, if it has one, and its own."""
    own = study.train.epochs if method.epochs is None else method.epochs
    start = getattr(method, "start", "base")
    if start == "base":
        return (own,)
    if start == "sft":
        return (*epochs(study, own_sft(study)), own)
    return (start.sft, own)


def budgets(study: schema.Study) -> dict[str, str]:
    """Return what is to be said of each method's epochs, by its name; {} where all have as many."""
    methods = list({m.name: m for m in (own_sft(study), *study.methods)}.values())
    spent = {m.name: epochs(study, m) for m in methods}
    if len(set(spent.values())) == 1:
        return {}
    said = {}
    for name, parts in spent.items():
        text = f"{' + '.join(f'{e:g}' for e in parts)} epoch{'s' * (parts != (1,))}"
        said[name] = f"starts from the sft run: {text}" if len(parts) > 1 else text
        if sum(parts) != sum(spent["sft"]):
            said[name] += f", {sum(parts) / sum(spent['sft']):.2g} times those of sft"
    return said


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
        label = f"{student}/{method.name}/{teacher.model}{suffix}{tail}"
        system = System(
            label=label,
            kind="distilled",
            model=student,
            teacher=by,
            method=method.name,
            ablation=ablation,
            temperature=getattr(method, "temperature", 1.0),
            noise=getattr(method, "noise", 0.0),
            seed=seed,
        )
        found.setdefault(label, (system, method))

    methods: dict[str, list[schema.Method]] = {}
    for method in study.methods:
        if method.type != "sft":
            methods.setdefault(method.type, []).append(method)
            add(method)
    ablations = study.ablations
    if not ablated:
        return list(found.values())
    for field, part in (("temperature", ablations.temperature), ("noise", ablations.noise)):
        for m, value in (
            [(m, v) for name in part.methods for m in methods[name] for v in part.values]
            if part
            else []
        ):
            if value != getattr(m, field):
                changed = m.model_copy(update={field: float(value)})
                sign = "tau" if field == "temperature" else "noise"
                add(changed, field, f"/{sign}={value:g}")
    if ablations.base_teacher and teacher.label != teacher.model:
        for m in [m for name in ablations.base_teacher.methods for m in methods[name]]:
            add(m, "base_teacher", "/base-teacher", by=teacher.model)
    return list(found.values())
