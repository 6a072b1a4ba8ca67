"""Synthetic rows, drawn before processes are forked from one that has them (see `forked`)."""

from kdstudy.data.corpora import synthetic_rows

synthetic_rows("synthetic")
