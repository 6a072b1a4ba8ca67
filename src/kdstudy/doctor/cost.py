"""What the missing stages take: seconds and bytes, from a probe's measurements and the plan."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from kdstudy.doctor.patient import ModelFacts, Patient
from kdstudy.stage import Stage

ESTIMATED = (
    *("importance", "cut", "train", "teacher_cache", "teacher_text", "generate"),
    "token_fidelity",
)
"""Kinds of stage that run a model; the others take seconds and are not estimated."""
_FLOAT32 = 4
# AdamW keeps two numbers for each that it trains; a checkpoint holds all three.
_CHECKPOINT = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
    """What the missing stages of one kind take.

    Attributes:
        kind: The kind of stage.
        stages: How many are missing, and `unknown` of them for which nothing was measured.
        seconds: With answers as long as the corpus's.
        most: With every answer as long as its token budget.
        disk: Bytes that they leave.
    """

    kind: str
    stages: int = 0
    unknown: int = 0
    seconds: float = 0.0
    most: float = 0.0
    disk: int = 0


def costs(patient: Patient) -> list[Cost]:
    """Return the cost of what is missing, by kind of stage, in the plan's order."""
    found: dict[str, Cost] = {}
    for stage in patient.todo:
        if stage.kind not in ESTIMATED:
            continue
        before = found.get(stage.kind, Cost(kind=stage.kind))
        times = [_seconds(patient, stage, long) for long in (False, True)]
        known = None not in times
        found[stage.kind] = dataclasses.replace(
            before,
            stages=before.stages + 1,
            unknown=before.unknown + (not known),
            seconds=before.seconds + (times[0] or 0.0),
            most=before.most + (times[1] or 0.0),
            disk=before.disk + _disk(patient, stage),
        )
    return list(found.values())


def training_disk(patient: Patient) -> int:
    """Return the most bytes that a train stage holds for a while: all its checkpoints."""
    trains = [s for s in patient.todo if s.kind == "train"]
    copies = _CHECKPOINT * patient.study.train.evaluations
    return max((copies * _trained(patient, s) for s in trains), default=0)


def memory_needed(patient: Patient, student: ModelFacts, teacher: ModelFacts | None) -> int:
    """Return the bytes of training a model, with a teacher beside it.

    Where a probe measured the peak it is that; else weights, gradients and AdamW's numbers alone,
    which is less than the truth.
    """
    speed = patient.speeds.get(student.name)
    if speed and speed.memory:
        own = speed.memory
    elif patient.study.train.lora is None:
        own = student.parameters * _FLOAT32 * (1 + _CHECKPOINT)
    else:
        own = student.parameters * student.itemsize
        own += lora_numbers(patient, student) * _FLOAT32 * (1 + _CHECKPOINT)
    return own + (teacher.parameters * teacher.itemsize if teacher else 0)


def needs_live_teacher(patient: Patient) -> bool:
    """Whether some run asks a teacher about text that nobody could cache."""
    off = patient.study.train.teacher_cache == "off"
    methods = [m for m in patient.study.methods if m.teacher_gives == "distribution"]
    return any(off or m.on_policy_share for m in methods)


def lora_numbers(patient: Patient, model: ModelFacts) -> int:
    """Return how many numbers the study's LoRA adapter has on a model."""
    lora = patient.study.train.lora
    targets = set(lora.target_modules) if lora else set()
    shapes = [s for name, s in model.linear.items() if name.rsplit(".", 1)[-1] in targets]
    return sum(lora.r * (out + into) for out, into in shapes) if lora else 0


def cache_bytes(patient: Patient, teacher: ModelFacts) -> int:
    """Return the bytes of a teacher's final hidden states on the corpus."""
    text = patient.reader(teacher.name)
    if text is None or patient.corpus is None or not text.rows:
        return 0
    tokens = text.scored / text.rows * (patient.corpus.train + patient.corpus.validation)
    return round(tokens * teacher.hidden * teacher.itemsize)


def _seconds(patient: Patient, stage: Stage, long: bool) -> float | None:
    estimate = {
        "importance": _importance,
        "cut": _cut,
        "train": _train,
        "teacher_cache": _cache,
        "teacher_text": _write,
        "generate": _write,
        "token_fidelity": _tokens,
    }[stage.kind]
    return estimate(patient, stage, long)


def _train(patient: Patient, stage: Stage, long: bool) -> float | None:
    config, corpus = stage.config, patient.corpus
    speed = patient.speeds.get(config["student"]["name"])
    text = patient.reader(config["student"]["name"])
    if speed is None or text is None or corpus is None or not text.rows:
        return None
    row, evaluated = speed.train, speed.forward
    if "teacher" in config:
        teacher = patient.speeds.get(config["teacher"]["name"])
        if teacher is None:
            return None
        live = config["method"].get("lmbda", 0.0)
        if patient.study.train.teacher_cache == "off":
            live, evaluated = 1.0, evaluated + teacher.forward
        row = speed.distil.get(config["teacher"]["name"], speed.train) + live * teacher.forward
    # A student reads and writes a step's prompts before it trains on what it wrote.
    budget = patient.study.train.max_length - _mean(text.tokens - text.scored, text.rows)
    answer = max(0.0, budget) if long else _mean(text.scored, text.rows)
    row += config["method"].get("lmbda", 0.0) * (speed.prompt + answer * speed.token)
    fit = 1 - text.dropped / text.rows
    evaluations = config["train"]["evaluations"] * corpus.validation * evaluated
    return speed.load + fit * (corpus.train * config["train"]["epochs"] * row + evaluations)


def _importance(patient: Patient, stage: Stage, long: bool) -> float | None:
    """Return the seconds of a model's passes over rows; of one that is cut of it where need be."""
    stages = patient.plan.stages.values() if patient.plan else ()
    source = stage.config["source"]["fingerprint"]
    named = [s.config.get(role) for s in stages for role in ("teacher", "model")]
    names = [m["name"] for m in named if m and m["fingerprint"] == source]
    names += [s.label for s in stages if s.inputs.get("importance") == stage.key]
    speed = next((patient.speeds[name] for name in names if name in patient.speeds), None)
    if speed is None or patient.corpus is None:
        return None
    return speed.load + min(stage.config["rows"], patient.corpus.train) * speed.forward


def _cut(patient: Patient, stage: Stage, long: bool) -> float | None:
    """Return the seconds of loading a model twice: to cut it, and to look at what was written."""
    speed = patient.speeds.get(stage.label)
    return None if speed is None else 2 * speed.load


def _cache(patient: Patient, stage: Stage, long: bool) -> float | None:
    speed = patient.speeds.get(stage.config["teacher"]["name"])
    if speed is None or patient.corpus is None:
        return None
    return speed.load + (patient.corpus.train + patient.corpus.validation) * speed.forward


def _write(patient: Patient, stage: Stage, long: bool) -> float | None:
    speed = patient.speeds.get(stage.config["model"]["name"])
    answers, length = _answers(patient, stage, long)
    if speed is None or answers is None:
        return None
    return speed.load + answers * (speed.prompt + length * speed.token)


def _answers(patient: Patient, stage: Stage, long: bool = False) -> tuple[int | None, float]:
    """Return how many answers a stage writes, and of how many tokens."""
    config = stage.config
    text = patient.reader(config["model"]["name"])
    items = {b.name: b.items for b in patient.benchmarks}
    if patient.corpus is not None:
        items["corpus"] = patient.corpus.train + patient.corpus.validation
    count = items.get(config["items"])
    budget = config["generation"]["max_new_tokens"]
    if count is None or text is None:
        return None, budget
    # A model that was not trained on the corpus knows nothing of how long its answers are.
    trained = "trained" in stage.inputs
    likely = min(budget, _mean(text.scored, text.rows)) if trained else budget
    return count * config["generation"]["samples"], budget if long else likely


def _tokens(patient: Patient, stage: Stage, long: bool) -> float | None:
    found = [patient.speeds.get(stage.config[m]["name"]) for m in ("model", "reference_model")]
    if None in found or patient.corpus is None:
        return None
    rows = min(stage.config["rows"], patient.corpus.validation)
    return sum(speed.load + rows * speed.forward for speed in found if speed)


def _disk(patient: Patient, stage: Stage) -> int:
    if stage.kind == "train":
        return _trained(patient, stage)
    if stage.kind == "cut":
        model = patient.model(stage.label)
        return model.stored if model else 0
    if stage.kind == "teacher_cache":
        teacher = patient.model(stage.config["teacher"]["name"])
        return cache_bytes(patient, teacher) if teacher else 0
    if stage.kind in ("teacher_text", "generate"):
        answers, length = _answers(patient, stage)
        return round((answers or 0) * length * 4)  # about four characters a token
    return 0


def _trained(patient: Patient, stage: Stage) -> int:
    model = patient.model(stage.config["student"]["name"])
    if model is None:
        return 0
    full = patient.study.train.lora is None
    return _FLOAT32 * (model.parameters if full else lora_numbers(patient, model))


def _mean(total: float, count: int) -> float:
    return total / count if count else 0.0


def table(found: Sequence[Cost], say: Any) -> tuple[str, ...]:
    """Return the costs as lines.

    Args:
        found: By kind of stage.
        say: Turns seconds into words.
    """
    head = f"{'stages':<15}{'missing':>8}{'likely':>18}{'at most':>18}{'disk':>12}"
    rows = []
    for c in found:
        over = "" if not c.unknown else "over "
        times = [
            "unknown" if c.unknown == c.stages else over + say(seconds)
            for seconds in (c.seconds, c.most)
        ]
        cells = f"{times[0]:>18}{times[1]:>18}{c.disk / 2**20:>8.1f} MiB"
        rows.append(f"{c.kind:<15}{c.stages:>8}{cells}")
    return (head, *rows)


def as_facts(found: Sequence[Cost]) -> Mapping[str, Any]:
    """Return the costs as a document."""
    return {c.kind: {k: v for k, v in dataclasses.asdict(c).items() if k != "kind"} for c in found}
