"""What to do: a study as stages whose keys are known before anything runs.

plan.py       Study -> DAG of stages with keys: who is trained, measured and compared
stages.py     each kind of stage: its config, inputs, and what it is told beside
grid.py       which distilled runs a study has
fit.py        whether its texts and tokenizers fit its models
precision.py  what train.precision: auto is, settled once in a store
"""
