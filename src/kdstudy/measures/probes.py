"""The lines of the loss statement for which models were asked again, in its order."""

from kdstudy.measures import memorised, own_text, reasoning
from kdstudy.measures.probe import Probe

PROBES: tuple[Probe, ...] = (own_text.PROBE, reasoning.PROBE, memorised.PROBE)
