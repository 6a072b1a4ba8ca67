"""The paper's claims, one by one: the print, the replay, sound tests, a verdict."""

from kdstudy.paper.ablations import ablation_claims
from kdstudy.paper.depends import dependence_claims
from kdstudy.paper.evidence import Claim, Evidence
from kdstudy.paper.gains import gain_claims


def claims(evidence: Evidence | None = None) -> list[Claim]:
    """Return the claims of the abstract and Section 5 with what becomes of them.

    Args:
        evidence: To share its numbers with other readers; computed anew without.
    """
    evidence = evidence or Evidence()
    return [*gain_claims(evidence), *dependence_claims(evidence), *ablation_claims(evidence)]
