"""What to do: a study as stages whose keys are known before anything runs.

plan.py       Study -> DAG of stages with keys: who is trained on what
stages.py     the stages that make systems
measuring.py  the stages that measure and compare them, results and report
varying.py    variants of benchmarks
statement.py  the stages that the loss statement asks for beyond that
grid.py       which distilled runs a study has
fit.py        whether its texts and tokenizers fit its models
precision.py  what train.precision: auto is, settled once in a store
"""
