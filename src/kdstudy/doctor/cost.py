"""What the missing stages take: seconds and bytes, from a probe's measurements and the plan."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from kdstudy.artifacts import DRAFTS, IMPORTANCE, TRAINED
from kdstudy.distill.kinds import TeacherCacheConfig, TrainConfig
from kdstudy.doctor.facts import ModelFacts, StudyFacts
from kdstudy.evaluation.kinds import (
    DraftLikelihoodConfig,
    GenerateConfig,
    LikelihoodConfig,
    MemorisedConfig,
    OwnTextConfig,
    ReasoningConfig,
    TokenFidelityConfig,
)
from kdstudy.models.kinds import ImportanceConfig, named_in
from kdstudy.stage import Stage, kinds

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


def costs(facts: StudyFacts) -> list[Cost]:
    """Return the cost of what is missing, by kind of stage, in the plan's order."""
    found: dict[str, Cost] = {}
    for stage in facts.todo:
        if not kinds()[stage.kind].needs_model:
            continue  # it takes seconds
        before = found.get(stage.kind, Cost(kind=stage.kind))
        times = [_seconds(facts, stage, long) for long in (False, True)]
        known = None not in times
        found[stage.kind] = dataclasses.replace(
            before,
            stages=before.stages + 1,
            unknown=before.unknown + (not known),
            seconds=before.seconds + (times[0] or 0.0),
            most=before.most + (times[1] or 0.0),
            disk=before.disk + _disk(facts, stage),
        )
    return list(found.values())


def training_disk(facts: StudyFacts) -> int:
    """Return the most bytes that a train stage holds for a while: all its checkpoints."""
    trains = [s for s in facts.todo if s.kind == "train"]
    copies = _CHECKPOINT * facts.study.train.evaluations
    return max((copies * _trained(facts, s) for s in trains), default=0)


def memory_needed(
    facts: StudyFacts, student: ModelFacts, teachers: Sequence[ModelFacts] = ()
) -> int:
    """Return the bytes of training a model, with teachers beside it.

    Where a probe measured the peak it is that; else weights, gradients and AdamW's numbers alone,
    which is less than the truth.
    """
    speed = facts.speeds.get(student.name)
    if speed and speed.memory:
        own = speed.memory
    elif facts.study.train.lora is None:
        own = student.parameters * _FLOAT32 * (1 + _CHECKPOINT)
    else:
        own = student.parameters * student.itemsize
        own += lora_numbers(facts, student) * _FLOAT32 * (1 + _CHECKPOINT)
    held = facts.study.train.lora is None and facts.study.train.replay_towards == "base"
    if held and "student" in student.roles:
        own += student.parameters * _FLOAT32  # a copy of what it was (`replay.Base`)
    return own + sum(teacher.parameters * teacher.itemsize for teacher in teachers)


def teachers_beside(facts: StudyFacts) -> list[list[ModelFacts]]:
    """Return which teachers a run may have in memory together: each, and those of one run."""
    stages = [s for s in facts.plan.stages.values() if s.kind == "train"] if facts.plan else []
    together = [TrainConfig.of(stage.config).teachers for stage in stages]
    groups = [[facts.model(named.name) for named in teachers] for teachers in together if teachers]
    return [[t] for t in facts.teachers()] + [[t for t in group if t] for group in groups]


def needs_live_teacher(facts: StudyFacts) -> bool:
    """Whether some run asks a teacher about text that nobody could cache."""
    off = facts.study.train.teacher_cache == "off"
    methods = [m for m in facts.study.methods if m.teacher_gives in ("distribution", "spans")]
    return any(off or m.on_policy_share or m.recipe().asks_anew for m in methods)


def lora_numbers(facts: StudyFacts, model: ModelFacts) -> int:
    """Return how many numbers the study's LoRA adapter has on a model."""
    lora = facts.study.train.lora
    targets = set(lora.target_modules) if lora else set()
    shapes = [s for name, s in model.linear.items() if name.rsplit(".", 1)[-1] in targets]
    return sum(lora.r * (out + into) for out, into in shapes) if lora else 0


def cache_bytes(facts: StudyFacts, teacher: ModelFacts) -> int:
    """Return the bytes of a teacher's final hidden states on the corpus."""
    text = facts.reader(teacher.name)
    if text is None or facts.corpus is None or not text.rows:
        return 0
    tokens = text.scored / text.rows * (facts.corpus.train + facts.corpus.validation)
    return round(tokens * teacher.hidden * teacher.itemsize)


def _seconds(facts: StudyFacts, stage: Stage, long: bool) -> float | None:
    estimate = {
        "importance": _importance,
        "cut": _cut,
        "train": _train,
        "teacher_cache": _cache,
        "teacher_text": _write,
        "attempts": _write,
        "draft_likelihood": _read_drafts,
        "generate": _write,
        "likelihood": _choose,
        "token_fidelity": _tokens,
        "own_text": _own_text,
        "reasoning": _go_on,
        "memorised": _read_rows,
    }.get(stage.kind)
    return None if estimate is None else estimate(facts, stage, long)


def _train(facts: StudyFacts, stage: Stage, long: bool) -> float | None:
    config, corpus = TrainConfig.of(stage.config), facts.corpus
    speed = facts.speeds.get(config.student.name)
    text = facts.reader(config.student.name)
    if speed is None or text is None or corpus is None or not text.rows:
        return None
    row, evaluated = speed.train, speed.forward
    if named := config.teachers or (config.teacher and (config.teacher,)):
        teachers = [facts.speeds.get(teacher.name) for teacher in named]
        if None in teachers:
            return None
        # With a route a row has one of them.
        share = 1 / len(named) if "route" in config.together else 1.0
        forward = share * sum(teacher.forward for teacher in teachers if teacher)
        live = config.method.get("lmbda", 0.0)
        # A cache holds no states of inner layers.
        if facts.study.train.teacher_cache == "off" or "layers" in config.method:
            live, evaluated = 1.0, evaluated + forward
        steps = [speed.distil.get(teacher.name, speed.train) for teacher in named]
        row += share * sum(step - speed.train for step in steps) + live * forward
    row += facts.study.train.replayed / facts.study.train.batch_size * speed.train
    # A student reads and writes a step's prompts before it trains on what it wrote.
    budget = facts.study.train.max_length - _mean(text.tokens - text.scored, text.rows)
    answer = max(0.0, budget) if long else _mean(text.scored, text.rows)
    row += config.method.get("lmbda", 0.0) * (speed.prompt + answer * speed.token)
    fit = 1 - text.dropped / text.rows
    evaluations = config.train["evaluations"] * corpus.validation * evaluated
    return speed.load + fit * (corpus.train * config.train["epochs"] * row + evaluations)


def _importance(facts: StudyFacts, stage: Stage, long: bool) -> float | None:
    """Return the seconds of a model's passes over rows; of one that is cut of it where need be."""
    stages = facts.plan.stages.values() if facts.plan else ()
    config = ImportanceConfig.of(stage.config)
    named = [m for s in stages for m in named_in(s)]
    names = [m.name for m in named if m.fingerprint == config.source.fingerprint]
    names += [s.label for s in stages if IMPORTANCE.find(s.inputs) == stage.key]
    speed = next((facts.speeds[name] for name in names if name in facts.speeds), None)
    if speed is None or facts.corpus is None:
        return None
    return speed.load + min(config.rows, facts.corpus.train) * speed.forward


def _cut(facts: StudyFacts, stage: Stage, long: bool) -> float | None:
    """Return the seconds of loading a model twice: to cut it, and to look at what was written."""
    speed = facts.speeds.get(stage.label)
    return None if speed is None else 2 * speed.load


def _cache(facts: StudyFacts, stage: Stage, long: bool) -> float | None:
    speed = facts.speeds.get(TeacherCacheConfig.of(stage.config).teacher.name)
    if speed is None or facts.corpus is None:
        return None
    return speed.load + (facts.corpus.train + facts.corpus.validation) * speed.forward


def _write(facts: StudyFacts, stage: Stage, long: bool) -> float | None:
    speed = facts.speeds.get(GenerateConfig.of(stage.config).model.name)
    answers, length = _answers(facts, stage, long)
    if speed is None or answers is None:
        return None
    return speed.load + answers * (speed.prompt + length * speed.token)


def _read_drafts(facts: StudyFacts, stage: Stage, long: bool) -> float | None:
    """Return the seconds of a teacher's passes over what it wrote."""
    speed = facts.speeds.get(DraftLikelihoodConfig.of(stage.config).model.name)
    stages = facts.plan.stages if facts.plan else {}
    drafts = stages.get(DRAFTS.find(stage.inputs) or "")
    count = _answers(facts, drafts)[0] if drafts else None
    return None if speed is None or count is None else speed.load + count * speed.forward


def _choose(facts: StudyFacts, stage: Stage, long: bool) -> float | None:
    """Return the seconds of reading questions with their options: about two prompts an item."""
    config = LikelihoodConfig.of(stage.config)
    speed = facts.speeds.get(config.model.name)
    count = {b.name: b.items for b in facts.benchmarks}.get(config.items)
    return None if speed is None or count is None else speed.load + count * 2 * speed.prompt


def _answers(facts: StudyFacts, stage: Stage, long: bool = False) -> tuple[int | None, float]:
    """Return how many answers a stage writes, and of how many tokens."""
    config = GenerateConfig.of(stage.config)
    text = facts.reader(config.model.name)
    items = {b.name: b.items for b in facts.benchmarks}
    if facts.corpus is not None:
        validation = 0 if stage.kind == "attempts" else facts.corpus.validation
        items["corpus"] = facts.corpus.train + validation
    # A variant of a benchmark, `svamp:numbers`, has at most as many.
    count = items.get(config.items.partition(":")[0])
    budget = config.generation["max_new_tokens"]
    if count is None or text is None:
        return None, budget
    # A model that was not trained on the corpus knows nothing of how long its answers are.
    trained = TRAINED.find(stage.inputs) is not None
    likely = min(budget, _mean(text.scored, text.rows)) if trained else budget
    return count * config.generation["samples"], budget if long else likely


def _tokens(facts: StudyFacts, stage: Stage, long: bool) -> float | None:
    config = TokenFidelityConfig.of(stage.config)
    found = [facts.speeds.get(m.name) for m in (config.model, config.reference_model)]
    if None in found or facts.corpus is None:
        return None
    rows = min(config.rows, facts.corpus.validation)
    return sum(speed.load + rows * speed.forward for speed in found if speed)


def _own_text(facts: StudyFacts, stage: Stage, long: bool) -> float | None:
    """Return the seconds of both models' passes over both answers to each item."""
    config = OwnTextConfig.of(stage.config)
    found = [facts.speeds.get(m.name) for m in (config.model, config.reference_model)]
    count = {b.name: b.items for b in facts.benchmarks}.get(config.items)
    if None in found or count is None:
        return None
    return sum(s.load + 2 * min(config.rows, count) * s.forward for s in found if s)


def _go_on(facts: StudyFacts, stage: Stage, long: bool) -> float | None:
    """Return the seconds of writing half of each answer twice, as if all could be gone on with."""
    config = ReasoningConfig.of(stage.config)
    speed = facts.speeds.get(config.model.name)
    count = {b.name: b.items for b in facts.benchmarks}.get(config.items)
    text = facts.reader(config.model.name)
    if speed is None or count is None or text is None:
        return None
    length = config.generation["max_new_tokens"] if long else _mean(text.scored, text.rows)
    half = speed.prompt + length / 2 * speed.token
    return speed.load + 2 * min(config.rows, count) * half


def _read_rows(facts: StudyFacts, stage: Stage, long: bool) -> float | None:
    """Return the seconds of a model's two passes, trained and not, over corpus rows."""
    config = MemorisedConfig.of(stage.config)
    speed = facts.speeds.get(config.model.name)
    if speed is None or facts.corpus is None:
        return None
    rows = sum(min(config.rows, n) for n in (facts.corpus.train, facts.corpus.validation))
    return 2 * (speed.load + rows * speed.forward)


def _disk(facts: StudyFacts, stage: Stage) -> int:
    if stage.kind == "train":
        return _trained(facts, stage)
    if stage.kind == "cut":
        model = facts.model(stage.label)
        return model.stored if model else 0
    if stage.kind == "teacher_cache":
        teacher = facts.model(TeacherCacheConfig.of(stage.config).teacher.name)
        return cache_bytes(facts, teacher) if teacher else 0
    if stage.kind in ("teacher_text", "attempts", "generate"):
        answers, length = _answers(facts, stage)
        return round((answers or 0) * length * 4)  # about four characters a token
    return 0


def _trained(facts: StudyFacts, stage: Stage) -> int:
    model = facts.model(TrainConfig.of(stage.config).student.name)
    if model is None:
        return 0
    full = facts.study.train.lora is None
    return _FLOAT32 * (model.parameters if full else lora_numbers(facts, model))


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
