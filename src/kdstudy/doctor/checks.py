"""All checks, in the order in which a person reads them."""

from collections.abc import Callable, Iterable, Sequence

from kdstudy.doctor import check_machine, check_models, check_text
from kdstudy.doctor.facts import StudyFacts
from kdstudy.doctor.findings import Finding

Check = Callable[[StudyFacts], Iterable[Finding]]

CHECKS: tuple[Check, ...] = (
    check_machine.plan,
    check_machine.failures,
    check_models.tokenizer,
    check_models.vocabulary,
    check_models.alignment,
    check_models.endings,
    check_models.template,
    check_text.parity,
    check_text.contract,
    check_text.masks,
    check_text.truncation,
    check_models.positions,
    check_text.unknown,
    check_text.rows,
    check_text.contamination,
    check_text.scripts,
    check_text.benchmarks,
    check_models.adapters,
    check_models.teacher,
    check_models.consistency,
    check_machine.trackers,
    check_machine.device,
    check_machine.memory,
    check_machine.disk,
    check_machine.downloads,
    check_machine.time,
)


def check(facts: StudyFacts, checks: Sequence[Check] = CHECKS) -> list[Finding]:
    """Return what the checks find; one that crashes is a finding itself.

    Args:
        facts: What they look at.
        checks: Which, in order.
    """
    found: list[Finding] = []
    for each in checks:
        try:
            found += each(facts)
        # A check that fails must not take the others' findings with it.
        except Exception as e:
            line = (str(e).splitlines() or [""])[0]
            found.append(
                Finding(
                    level="warning",
                    check="doctor",
                    what=f"the check {each.__name__} failed ({type(e).__name__}: {line})",
                    why="what it looks at is not known to be right",
                    remedy="this is not your input's fault: please report it",
                )
            )
    return found
