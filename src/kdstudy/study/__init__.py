"""What to do: study.yaml as types, and the plan of its stages. Never imports torch.

refs.py       what a study names: models, a corpus, benchmarks
resources.py  what stages ask of a cluster's nodes
schema.py     study.yaml as types: every default, every refusal
describe.py   its fields as tables to read: docs/study.md
protocols.py  the presets corrected and reference
read.py       YAML in; errors with file, line and field
trackers.py   whether they are here, and one of their runs per training
fit.py        whether its texts and tokenizers fit its models
grid.py       which distilled runs a study has
precision.py  what train.precision: auto is, settled once in a store
plan.py       Study -> DAG of stages with keys
stages.py     the kinds of stage, and what a stage is handed
"""
