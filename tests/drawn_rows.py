"""Synthetic rows, drawn before processes are forked from one that has them (see `forked`)."""

from kdstudy.data.corpora import synthetic_rows
from kdstudy.evaluation import benchmarks

synthetic_rows("synthetic")
for name in ("synth_addsub", "synth_multiarith"):
    benchmarks.load(name)
