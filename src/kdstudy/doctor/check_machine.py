"""Checks of the plan, the machine, the store, and what the run will take."""

import math
import shlex
from collections.abc import Iterator

from kdstudy.config.protocols import differences
from kdstudy.distill.trackers import require_installed
from kdstudy.doctor import cost
from kdstudy.doctor.findings import Finding, many, size
from kdstudy.doctor.patient import MachineFacts, ModelFacts, Patient
from kdstudy.engine.view import duration
from kdstudy.errors import InputError

# Share of what is free that may be filled; the teacher cache has the same limit.
_SHARE = 0.8
# Seconds from which a run is a matter of days.
_LONG = 24 * 3600
# Seconds that a probe which did finish is allowed, once its model is loaded, when it is made again.
_PROBED = 10


def troubles(patient: Patient) -> Iterator[Finding]:
    """What could not be looked at, and why."""
    # The plan meets what a look of its own meets too: once is enough.
    for trouble in {t.what: t for t in patient.troubles}.values():
        if trouble.part.removeprefix("probe of ") in patient.unmeasured:
            continue
        refused = trouble.blame == "input"
        slow = trouble.blame == "slow"
        yield Finding(
            level="error" if refused else "warning",
            check="study" if refused else "doctor",
            what=f"{trouble.part}: {trouble.what}",
            why=trouble.why or ("" if refused else "what hangs on it could not be checked"),
            remedy=trouble.remedy
            or ("" if refused else "run doctor again on an idle machine" if slow else "")
            or ("" if refused else "look at the message; `run` may meet the same"),
        )
    for name, seconds in patient.unmeasured.items():
        yield Finding(
            level="warning",
            check="doctor",
            what=f"probe of {name}: not measured, needs about {duration(seconds)}",
            why="its losses, memory and seconds are not known",
            remedy=_more_time(patient),
            facts={"model": name, "seconds": seconds},
        )


def plan(patient: Patient) -> Iterator[Finding]:
    """The study can be planned, and what of it is missing."""
    if patient.plan is None:
        return
    yield Finding(
        level="ok",
        check="study",
        what=f"{many(len(patient.plan.stages), 'stage')}, {len(patient.todo)} of them to run"
        + (f"; unpinned: {', '.join(patient.plan.unreached)}" if patient.plan.unreached else ""),
    )
    for d in differences(patient.study):
        yield Finding(
            level="ok",
            check="study",
            what=f"differs from corrected: {d['field']} = {d['value']} (not {d['corrected']})",
            why=str(d["why"]),
        )
    for model in patient.models:
        if model.trusted:
            yield Finding(
                level="note",
                check="study",
                what=f"{model.name}: runs Python code that comes with the model",
                why="it can do whatever you can",
                remedy="set trust_remote_code only for code that you have read",
            )


def trackers(patient: Patient) -> Iterator[Finding]:
    """Trackers that the study reports to and that are not installed."""
    try:
        require_installed(patient.study.train.report_to, "train.report_to")
    except InputError as e:
        yield Finding(level="error", check="study", what=e.what, why=e.why, remedy=e.remedy)


def device(patient: Patient) -> Iterator[Finding]:
    """What computes, in which type, and whether it can."""
    machine, asked = patient.machine, patient.study.train.precision
    if machine is None:
        return
    engines = {patient.study.generation.engine, patient.study.text_generation.engine}
    if "vllm" in engines and not (machine.vllm and machine.cuda):
        lacks = "a GPU" if machine.vllm else "the package vllm"
        yield Finding(
            level="error",
            check="device",
            what=f"generation.engine is vllm, and {lacks} is not here",
            why="answers would not be generated, and nothing falls back on another engine",
            remedy="pip install 'kdstudy[vllm]' on a machine with a GPU, or engine: transformers",
        )
    written = (patient.plan and patient.plan.asked_precision) or asked
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


def memory(patient: Patient) -> Iterator[Finding]:
    """Every model, with the teacher beside it where it must be, fits into memory."""
    machine = patient.machine
    if machine is None:
        return
    here = [m for m in patient.models if m.here]
    live = cost.needs_live_teacher(patient)
    lines, worst = [f"{'model':<26}{'weights':>12}{'in training':>14}{'with teacher':>15}"], []
    for model in here:
        trains = "student" in model.roles or model.finetuned
        alone = cost.memory_needed(patient, model, None) if trains else 0
        teachers = patient.teachers() if live and "student" in model.roles else []
        beside = max((cost.memory_needed(patient, model, t) for t in teachers), default=0)
        weights = model.parameters * model.itemsize
        cells = [size(n) if n else "-" for n in (weights, alone, beside)]
        lines.append(f"{model.name[:25]:<26}{cells[0]:>12}{cells[1]:>14}{cells[2]:>15}")
        worst.append((max(weights, alone, beside), model))
    if worst:
        yield _memory(patient, *max(worst, key=lambda pair: pair[0]), tuple(lines))


def _memory(patient: Patient, need: int, model: ModelFacts, lines: tuple[str, ...]) -> Finding:
    free = patient.machine.free if patient.machine else 0
    measured = model.name in patient.speeds and patient.speeds[model.name].memory
    how = "measured" if measured else "weights alone, the truth is more"
    what = f"{model.name} needs most: {size(need)} ({how}), {size(free)} are free"
    facts = {"needed": need, "free": free, "model": model.name}
    if need <= _SHARE * free:
        return Finding(level="ok", check="memory", what=what, lines=lines, facts=facts)
    return Finding(
        level="error" if need > free else "warning",
        check="memory",
        what=what,
        why="a run that needs more memory than there is stops, at the latest on its longest rows",
        remedy="lower train.micro_batch_size, choose a smaller model or set train.lora; or use "
        "a machine with more memory",
        lines=lines,
        facts=facts,
    )


def time(patient: Patient) -> Iterator[Finding]:
    """How long the missing stages take."""
    found = cost.costs(patient)
    if not found:
        if patient.plan is not None and not patient.todo:
            what = "nothing to run: every stage is finished"
            yield Finding(level="ok", check="time", what=what)
        return
    total, most = sum(c.seconds for c in found), sum(c.most for c in found)
    unknown, stages = sum(c.unknown for c in found), sum(c.stages for c in found)
    others = len(patient.todo) - stages
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
        why=_unknown(patient) if unknown else "it is long for one sitting" if long else "",
        remedy=_to_know(patient) if unknown
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


def _unknown(patient: Patient) -> str:
    """Return why no time can be given for some stages."""
    absent = [m.name for m in patient.models if not m.here]
    reasons = [f"not measured in time: {', '.join(patient.unmeasured)}"] * bool(patient.unmeasured)
    reasons += [f"not here: {', '.join(absent)}"] * bool(absent)
    return "; ".join(reasons) or "what they need was not measured: see the findings above"


def _to_know(patient: Patient) -> str:
    """Return what would tell the time of stages that is not known."""
    if patient.unmeasured:
        return _more_time(patient)
    return "run doctor again when that is mended"


def _more_time(patient: Patient) -> str:
    """Return the command that gives every probe the time to finish, in tens of seconds."""
    again = sum(s.load + _PROBED for s in patient.speeds.values())
    seconds = 10 * math.ceil((sum(patient.unmeasured.values()) + again) / 10)
    words = ["kdstudy", "doctor", patient.path, "--probe-seconds", seconds]
    words += ["--data-dir", patient.data_dir] if patient.data_dir else []
    return f"give the probes more time: {shlex.join(map(str, words))}"


def disk(patient: Patient) -> Iterator[Finding]:
    """The store can be written and has room for what the run leaves."""
    machine = patient.machine
    if machine is None:
        return
    if machine.unwritable:
        yield Finding(
            level="error",
            check="store",
            what=f"{machine.store}: cannot be written ({machine.unwritable})",
            why="finished stages would have nowhere to go",
            remedy="give another folder with --store DIR or KDSTUDY_STORE",
        )
        return
    yield _disk(patient, machine)


def _disk(patient: Patient, machine: MachineFacts) -> Finding:
    found = cost.costs(patient)
    caches = sum(c.disk for c in found if c.kind == "teacher_cache")
    rest = sum(c.disk for c in found if c.kind != "teacher_cache") + cost.training_disk(patient)
    what = f"{machine.store}: {size(machine.disk)} free, what the run needs is not known"
    if patient.plan is not None:
        what = (
            f"{machine.store}: {size(machine.disk)} free, about {size(rest + caches)} needed, "
            f"{size(caches)} of it teacher cache"
        )
    facts = {"free": machine.disk, "needed": rest, "cache": caches}
    must = rest + (caches if patient.study.train.teacher_cache == "disk" else 0)
    level, why, remedy = "ok", "", ""
    if must > _SHARE * machine.disk:
        level, why = "error", "the run would stop with a full disk"
        remedy = "free some space, give another --store, or lower train.evaluations, which says "
        remedy += "how many checkpoints a run keeps"
    elif caches > _SHARE * (machine.disk - rest):
        level, remedy = "note", "free some space, or give another --store"
        why = "the cache does not fit on disk; teachers are kept in memory, or run again for each "
        why += "student: slower, with the same result"
    return Finding(level=level, check="store", what=what, why=why, remedy=remedy, facts=facts)


def downloads(patient: Patient) -> Iterator[Finding]:
    """What must be downloaded, and whether it can be."""
    machine = patient.machine
    if machine is None or not machine.downloads:
        return
    names = ", ".join(f"{n} ({size(b) if b else 'size unknown'})" for n, b in
                      machine.downloads.items())  # fmt: skip
    needed = sum(b or 0 for b in machine.downloads.values())
    if machine.unreachable:
        yield Finding(
            level="error",
            check="downloads",
            what=f"{names}: not here, and the Hub cannot be reached ({machine.unreachable})",
            why="the run would stop at the first of them",
            remedy="bring the network up, or download them before and set HF_HOME to them",
        )
    elif needed > _SHARE * machine.download_disk:
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
