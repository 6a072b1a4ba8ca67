"""What is measured of answers: a file each, and the registry that tables and pages ask.

Every module here with a `MEASURE` is one, with `MEASURES` several, and so is what an installed
package names under the entry point group `kdstudy.measures`. Measures that are no mean over items
(corpus BLEU, agreement and its bounds, calibration, gains) are computed in `analysis.measures`;
their units are here too.

base.py            what a measure is
units.py           what numbers are counted in, and how they are printed
cell.py            one system's answers to one benchmark as arrays
accuracy.py        items answered right
acc_norm.py        by likelihood per character, and per byte
by_filter.py       by the filters that GSM8K is published with
parse_rate.py      answers that were found
truncated_rate.py  texts that were cut
tokens.py          their length
thought_tokens.py  how much of it comes before the end of a thought
repetition.py      how much they repeat themselves
distinct.py        how varied their words are
rouge_l.py         free texts against their references
pass_at_k.py       items of which one of k draws is right
majority.py        the answer that most draws of an item give
spread.py          how many answers an item's draws give, and their entropy

Lines of the loss statement (`LOSSES`), a student beside its teacher or its base:

accuracy_kept.py   accuracy and ROUGE-L, as a share of the teacher's
coverage.py        pass@k, as a share of the teacher's
forgetting.py      accuracy beside the base's, where nobody trained and where somebody did
confidence.py      how sure a system is of its answers
overconfidence.py  how much more often it claims to be right than it is
calibration.py     how far confidence is from accuracy
option_kl.py       how far probabilities of options are from the teacher's
risk_coverage.py   whether the answers that it is sure of are the right ones
false_equations.py right answers for wrong reasons
robustness.py      accuracy on items that are changed in ways that must not matter
copied.py          training text that it repeats
token_losses.py    fit and distances, token by token on held-out text
hacking.py         closer to the teacher, further from the truth

Lines for which models are asked again (`probes.PROBES`):

probe.py           what such a line is
probes.py          all of them, in their order
own_text.py        further from the teacher on text of its own
reasoning.py       whether the final answer follows the reasoning
memorised.py       training rows continued word for word
"""

import importlib
import pkgutil

from kdstudy.errors import InputError
from kdstudy.measures import (
    accuracy_kept,
    calibration,
    coverage,
    false_equations,
    forgetting,
    option_kl,
    overconfidence,
    risk_coverage,
)
from kdstudy.measures.base import Measure, PairMeasure
from kdstudy.measures.units import Unit
from kdstudy.plugins import plugins

_OTHERS = {
    Unit.SHARE: (
        *("accuracy_completed", "accuracy_clean", "accuracy_renumbered", "accuracy_contaminated"),
        *("kept_right", "newly_right", "newly_wrong", "still_wrong"),
        *("agreement", "agreement_both_wrong", "agreement_lower_bound", "agreement_upper_bound"),
        *("fidelity_steps", "steps_same_answer", "token_top1", "token_ece", "token_ece_teacher"),
    ),
    Unit.POINTS: (
        *("gain", "gain_clean", "gain_renumbered", "gain_contaminated", "rouge_l_gain"),
        "agreement_change",
    ),
    Unit.HUNDRED: ("fidelity_rouge_l",),
    Unit.SCORE: ("bleu_corpus", "bleu_sentence", "bleu_same_answer"),
    Unit.NATS: (
        *("token_kl_teacher_student", "token_kl_student_teacher"),
        *("token_cross_entropy", "token_cross_entropy_teacher"),
    ),
    Unit.NUMBER: ("kappa",),
}


def _found() -> dict[str, Measure | PairMeasure]:
    measures: dict[str, Measure | PairMeasure] = {}
    taken = {name for names in _OTHERS.values() for name in names}
    shipped = (
        importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__)
    )
    found = [
        ("kdstudy", measure)
        for m in shipped
        for measure in getattr(m, "MEASURES", [m.MEASURE] if hasattr(m, "MEASURE") else [])
    ]
    found += [(p.origin, p.found) for p in plugins("kdstudy.measures", "measure")]
    for origin, measure in found:
        if not isinstance(measure, Measure | PairMeasure):
            raise InputError(f"{origin}: is no kdstudy.measures.Measure or PairMeasure")
        if measure.name in measures.keys() | taken:
            raise InputError(f"{origin}: there is a measure {measure.name} already")
        measures[measure.name] = measure
    return measures


MEASURES = _found()
UNITS = {name: unit for unit, names in _OTHERS.items() for name in names}
UNITS |= {name: measure.unit for name, measure in MEASURES.items()}
"""The unit of every `metric` of results.csv."""

LOSSES = (
    *(
        *accuracy_kept.LOSSES,
        coverage.LOSS,
        *forgetting.LOSSES,
        overconfidence.LOSS,
        calibration.LOSS,
    ),
    *(risk_coverage.LOSS, option_kl.LOSS, false_equations.LOSS),
)
"""Lines of the loss statement, in its order.

Those of variants (`robustness.LOSSES`), `copied.loss` and `token_losses` come after them.
"""
