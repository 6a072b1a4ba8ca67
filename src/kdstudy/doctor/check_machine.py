"""Checks of the plan, the machine, the store, and what the run will take."""

import math
import shlex
from collections.abc import Iterator

from kdstudy.config.protocols import differences
from kdstudy.distill.trackers import require_installed
from kdstudy.doctor import cost
from kdstudy.doctor.facts import Failure, MachineFacts, ModelFacts, StudyFacts
from kdstudy.doctor.findings import Finding, finding_of, many, refused, size
from kdstudy.engine.view import duration
from kdstudy.errors import InputError

# Share of what is free that may be filled.
_SHARE = 0.8
# Seconds from which a run is a matter of days.
_LONG = 24 * 3600
# Seconds that a probe which did finish is allowed, once its model is loaded, when it is made again.
_PROBED = 10


def failures(facts: StudyFacts) -> Iterator[Finding]:
    """What could not be looked at, and why."""
    # The plan meets what a call of its own meets too: the first is enough.
    first: dict[str, Failure] = {}
    for failure in facts.failures:
        first.setdefault(failure.error.what, failure)
    for failure in first.values():
        if failure.part.removeprefix("probe of ") in facts.unmeasured:
            continue
        error = failure.error
        if isinstance(error, InputError):
            yield finding_of(error, failure.check)
            continue
        yield Finding(
            level="warning",
            check="doctor",
            what=f"{failure.part}: {error.what}",
            why=error.why or "what hangs on it could not be checked",
            remedy=error.remedy
            or ("run doctor again on an idle machine" if failure.slow else "")
            or "look at the message; `run` may meet the same",
        )
    for name, seconds in facts.unmeasured.items():
        yield Finding(
            level="warning",
            check="doctor",
            what=f"probe of {name}: not measured, needs about {duration(seconds)}",
            why="its losses, memory and seconds are not known",
            remedy=_more_time(facts),
            facts={"model": name, "seconds": seconds},
        )


def plan(facts: StudyFacts) -> Iterator[Finding]:
    """The study can be planned, and what of it is missing."""
    if facts.plan is None:
        return
    yield Finding(
        level="ok",
        check="study",
        what=f"{many(len(facts.plan.stages), 'stage')}, {len(facts.todo)} of them to run"
        + (f"; unpinned: {', '.join(facts.plan.unreached)}" if facts.plan.unreached else ""),
    )
    for d in differences(facts.study):
        yield Finding(
            level="ok",
            check="study",
            what=f"differs from corrected: {d['field']} = {d['value']} (not {d['corrected']})",
            why=str(d["why"]),
        )
    for model in facts.models:
        if model.trusted:
            yield Finding(
                level="note",
                check="study",
                what=f"{model.name}: runs Python code that comes with the model",
                why="it can do whatever you can",
                remedy="set trust_remote_code only for code that you have read",
            )


def trackers(facts: StudyFacts) -> Iterator[Finding]:
    """Trackers that the study reports to and that are not installed."""
    error = refused(require_installed, facts.study.train.report_to, "train.report_to")
    if error:
        yield finding_of(error)


def device(facts: StudyFacts) -> Iterator[Finding]:
    """What computes, in which type, and whether it can."""
    machine, asked = facts.machine, facts.study.train.precision
    if machine is None:
        return
    written = (facts.plan and facts.plan.asked_precision) or asked
    # What auto settled on was measured.
    native = machine.bfloat16 or written != "bfloat16"
    used = "bfloat16" if asked == "bfloat16" or (asked == "auto" and machine.bfloat16) else asked
    used = "float32" if used == "auto" else used
    what = f"{machine.device}, {size(machine.free)} free, computes in {used}"
    if not native:
        yield Finding(
            level="warning",
            check="device",
            what=what,
            why="this device has no fast bfloat16: small models run many times slower in it",
            remedy="set train.precision to auto, which takes what is faster here",
        )
    elif machine.bfloat16 and used == "float32":
        yield Finding(
            level="note",
            check="device",
            what=what,
            why="the GPU computes in bfloat16 at several times the speed and half the memory",
            remedy="write train.precision: bfloat16: this store settled auto without this GPU"
            if written == "auto"
            else "set train.precision to auto, unless float32 is what you want to study",
        )
    else:
        yield Finding(level="ok", check="device", what=what)


def memory(facts: StudyFacts) -> Iterator[Finding]:
    """Every model, with the teacher beside it where it must be, fits into memory."""
    machine = facts.machine
    if machine is None:
        return
    here = [m for m in facts.models if m.here]
    live = cost.needs_live_teacher(facts)
    lines, worst = [f"{'model':<26}{'weights':>12}{'in training':>14}{'with teacher':>15}"], []
    for model in here:
        trains = "student" in model.roles or model.finetuned
        alone = cost.memory_needed(facts, model) if trains else 0
        teachers = cost.teachers_beside(facts) if live and "student" in model.roles else []
        beside = max((cost.memory_needed(facts, model, t) for t in teachers), default=0)
        weights = model.parameters * model.itemsize
        cells = [size(n) if n else "-" for n in (weights, alone, beside)]
        lines.append(f"{model.name[:25]:<26}{cells[0]:>12}{cells[1]:>14}{cells[2]:>15}")
        worst.append((max(weights, alone, beside), model))
    if worst:
        yield _memory(facts, *max(worst, key=lambda pair: pair[0]), tuple(lines))


def _memory(facts: StudyFacts, need: int, model: ModelFacts, lines: tuple[str, ...]) -> Finding:
    free = facts.machine.free if facts.machine else 0
    measured = model.name in facts.speeds and facts.speeds[model.name].memory
    how = "measured" if measured else "weights alone, the truth is more"
    what = f"{model.name} needs most: {size(need)} ({how}), {size(free)} are free"
    numbers = {"needed": need, "free": free, "model": model.name}
    if need <= _SHARE * free:
        return Finding(level="ok", check="memory", what=what, lines=lines, facts=numbers)
    return Finding(
        level="error" if need > free else "warning",
        check="memory",
        what=what,
        why="a run that needs more memory than there is stops, at the latest on its longest rows",
        remedy="lower train.micro_batch_size, choose a smaller model or set train.lora; or use "
        "a machine with more memory",
        lines=lines,
        facts=numbers,
    )


def time(facts: StudyFacts) -> Iterator[Finding]:
    """How long the missing stages take."""
    found = cost.costs(facts)
    if not found:
        if facts.plan is not None and not facts.todo:
            what = "nothing to run: every stage is finished"
            yield Finding(level="ok", check="time", what=what)
        return
    total, most = sum(c.seconds for c in found), sum(c.most for c in found)
    unknown, stages = sum(c.unknown for c in found), sum(c.stages for c in found)
    others = len(facts.todo) - stages
    what = f"about {duration(total)}, at most {duration(most)} with answers of full length"
    if unknown == stages:
        what = f"no estimate: {unknown} of {stages} stages unknown"
    elif unknown:
        what = f"{unknown} of {stages} stages unknown; the other {stages - unknown} take {what}"
    how = "" if unknown == stages else "measured on a probe; "
    long = not unknown and total > _LONG
    yield Finding(
        level="note" if unknown or long else "ok",
        check="time",
        what=f"{what} ({how}{others} further stages of seconds each are not in it)",
        why=_unknown(facts) if unknown else "it is long for one sitting" if long else "",
        remedy=_to_know(facts) if unknown
        else "nothing is lost when it is interrupted" if long else "",
        lines=cost.table(found, duration),
        facts={
            "seconds": None if unknown == stages else total,
            "most": None if unknown == stages else most,
            "stages": stages,
            "unknown": unknown,
            "kinds": cost.as_facts(found),
        },
    )  # fmt: skip


def _unknown(facts: StudyFacts) -> str:
    """Return why no time can be given for some stages."""
    absent = [m.name for m in facts.models if not m.here]
    reasons = [f"not measured in time: {', '.join(facts.unmeasured)}"] * bool(facts.unmeasured)
    reasons += [f"not here: {', '.join(absent)}"] * bool(absent)
    return "; ".join(reasons) or "what they need was not measured: see the findings above"


def _to_know(facts: StudyFacts) -> str:
    """Return what would tell the time of stages that is not known."""
    if facts.unmeasured:
        return _more_time(facts)
    return "run doctor again when that is mended"


def _more_time(facts: StudyFacts) -> str:
    """Return the command that gives every probe the time to finish, in tens of seconds."""
    again = sum(s.load + _PROBED for s in facts.speeds.values())
    seconds = 10 * math.ceil((sum(facts.unmeasured.values()) + again) / 10)
    words = ["kdstudy", "doctor", facts.path, "--probe-seconds", seconds]
    words += ["--data-dir", facts.data_dir] if facts.data_dir else []
    return f"give the probes more time: {shlex.join(map(str, words))}"


def disk(facts: StudyFacts) -> Iterator[Finding]:
    """The store can be written and has room for what the run leaves."""
    machine = facts.machine
    if machine is not None and not any(f.check == "store" for f in facts.failures):
        yield _disk(facts, machine)


def _disk(facts: StudyFacts, machine: MachineFacts) -> Finding:
    from kdstudy.distill.placement import require_fits, room_on_disk

    found = cost.costs(facts)
    caches = sum(c.disk for c in found if c.kind == "teacher_cache")
    rest = sum(c.disk for c in found if c.kind != "teacher_cache") + cost.training_disk(facts)
    what = f"{machine.store}: {size(machine.disk)} free, what the run needs is not known"
    if facts.plan is not None:
        what = (
            f"{machine.store}: {size(machine.disk)} free, about {size(rest + caches)} needed, "
            f"{size(caches)} of it teacher cache"
        )
    numbers = {"free": machine.disk, "needed": rest, "cache": caches}
    room = room_on_disk(caches, machine.disk - rest, machine.store)
    if facts.study.train.teacher_cache == "disk" and (error := refused(require_fits, room)):
        return finding_of(error, "store", facts=numbers)
    level, why, remedy = "ok", "", ""
    if rest > _SHARE * machine.disk:
        level, why = "error", "the run would stop with a full disk"
        remedy = "free some space, give another --store, or lower train.evaluations, which says "
        remedy += "how many checkpoints a run keeps"
    elif not room.enough:
        level, remedy = "note", "free some space, or give another --store"
        why = "the cache does not fit on disk; teachers are kept in memory, or run again for each "
        why += "student: slower, with the same result"
    return Finding(level=level, check="store", what=what, why=why, remedy=remedy, facts=numbers)


def downloads(facts: StudyFacts) -> Iterator[Finding]:
    """What must be downloaded, and whether it can be."""
    machine = facts.machine
    if machine is None or not machine.downloads:
        return
    names = ", ".join(f"{n} ({size(b) if b else 'size unknown'})" for n, b in
                      machine.downloads.items())  # fmt: skip
    needed = sum(b or 0 for b in machine.downloads.values())
    if needed > _SHARE * machine.download_disk:
        yield Finding(
            level="error",
            check="downloads",
            what=f"{names}: {size(needed)} to download, {size(machine.download_disk)} free",
            why="the download would fill the disk",
            remedy="set HF_HOME to a folder on a larger disk",
        )
    else:
        yield Finding(
            level="note",
            check="downloads",
            what=f"to download first: {names}",
            why="nothing about these models could be checked yet",
            remedy="run doctor again when they are here",
        )
