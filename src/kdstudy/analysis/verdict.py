"""One test's result, and how its numbers are printed."""

import dataclasses
import math
from typing import Literal


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Test:
    """One test of one study; what cannot be estimated is NaN and the sentence says why.

    Attributes:
        table: "1" to "5" as in the paper, "paired" (per item against SFT), "methods" (per item
            between methods) or "within" (correlations inside students); from `analysis.analyze`
            also "gain", "matched", "correlation", "bounds", "seeds", "collapse" and "power".
        name: What was computed.
        subject: What it was computed for: a system, a method, `a - b`, or a factor.
        scope: A benchmark, or "average".
        statistic: t, F, rho or r; the number of discordant items for McNemar.
        estimate: Effect: mean gain, difference or correlation; eta squared for an ANOVA.
        low: Lower end of the effect's 95% interval.
        high: Upper end.
        p: p-value as computed.
        p_adjusted: p after Holm's correction within the family; NaN where none is declared.
        q: p after Benjamini and Hochberg's (1995) within the family; NaN where none is declared.
        family: The tests that are corrected together; "" where none is declared.
        n: Rows or items behind it.
        clusters: Independent units behind the rows: students, or items.
        signature: Every choice that could change the numbers.
        sentence: The result in one plain English sentence.
        verdict: Of `a - b` in the table "methods": whether a is `better` or `worse`, the two are
            `equivalent`, or neither can be told (`undecided`); "" elsewhere and without a p.
    """

    __test__ = False  # not a test case, whatever its name suggests to pytest

    table: str
    name: str
    subject: str
    scope: str
    statistic: float
    estimate: float
    low: float
    high: float
    p: float
    p_adjusted: float = math.nan
    q: float = math.nan
    family: str = ""
    n: int
    clusters: int
    signature: str
    sentence: str
    verdict: Literal["", "better", "worse", "equivalent", "undecided"] = ""


def format_p(p: float) -> str:
    """Return a p-value as a report prints it: 0.0312, 4.1e-08, 1; a dash where there is none."""
    if math.isnan(p):
        return "–"
    return f"{p:.1e}" if 0 < p < 0.0001 else f"{p:.4f}".rstrip("0").rstrip(".")


def points(x: float, sign: bool = True) -> str:
    """Return a difference of fractions in percentage points, such as +3.4 or −0.2."""
    text = f"{100 * x:+.1f}" if sign else f"{100 * x:.1f}"
    return text.replace("-", "−")


def signed(x: float) -> str:
    """Return a correlation with its sign and a true minus."""
    return f"{x:+.2f}".replace("-", "−")


def empty(shared: dict, sentence: str, **effect: float) -> Test:
    """Return a test that could not be made: NaN, and a sentence that says why."""
    nothing = dict.fromkeys(("statistic", "estimate", "low", "high", "p"), math.nan)
    return Test(**(shared | nothing | effect), sentence=sentence)
