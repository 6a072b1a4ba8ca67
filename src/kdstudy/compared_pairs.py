"""Which systems of a study are compared: the one place, for its plan, its tables and its tests."""

from collections.abc import Sequence

from kdstudy.errors import InputError
from kdstudy.records import System


def compared_pairs(systems: Sequence[System]) -> list[tuple[str, str]]:
    """Return the pairs a study compares: SFT-teacher, distilled-teacher and distilled-SFT.

    The SFT student is compared with the teachers of the main grid only (paper, Figures 3 and 4);
    where nothing is distilled, with every fine-tuned teacher.
    """
    wanted: dict[tuple[str, str], None] = {}
    for system in systems:
        if system.kind != "distilled":
            continue
        wanted |= dict.fromkeys((system.label, teacher) for teacher in system.teachers)
        if sft := own_sft(system, systems):
            wanted[system.label, sft.label] = None
            if not system.ablation:
                wanted |= dict.fromkeys((sft.label, teacher) for teacher in system.teachers)
    if not wanted:
        of = {kind: [s.label for s in systems if s.kind == kind] for kind in ("sft", "teacher")}
        wanted = dict.fromkeys((s, t) for s in of["sft"] for t in of["teacher"])
    return list(wanted)


def own_sft(system: System, systems: Sequence[System]) -> System | None:
    """Return the SFT run that a distilled system is compared with item by item.

    That of its student and seed, else the first seed of its student's. Means over seeds are
    compared with the mean over all of SFT's (`contrasts`, `report.seeds`).

    Raises:
        InputError: Two SFT runs of a student have one seed.
    """
    if system.kind != "distilled":
        return None
    fits = [s for s in systems if s.kind == "sft" and s.model == system.model]
    found = [s for s in fits if s.seed == system.seed]
    if not found and fits:
        first = min(s.seed for s in fits)
        found = [s for s in fits if s.seed == first]
    if len(found) > 1:
        raise InputError(
            f"{system.label}: {len(found)} SFT runs could be its baseline",
            remedy="give each SFT run of a student its own seed",
        )
    return found[0] if found else None
