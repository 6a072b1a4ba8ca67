"""What the verbs do, as functions that return and never print; `kdstudy` exports them lazily.

studies.py     run_study: a study planned, run, and its results as tables
systems.py     what is known of each model of a study, and where it lies
evaluating.py  evaluate: a model's answers to benchmarks, scored
comparing.py   compare, analyze: paired differences, and every test of a table
documents.py   JSON in which what cannot be computed is null
building.py    what is missing of a plan, built
"""
