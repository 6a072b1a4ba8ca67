"""study.yaml as types: every field, default and refusal, and the file read into them.

schema.py     study.yaml as types: every default, every refusal
refs.py       what a study names: models, a corpus, benchmarks
teachers.py   its teachers, alone and together: what makes no sense of them
ablations.py  runs beside the main grid: what a study varies
cuts.py       what a study keeps of a model that it cuts a student out of
statement.py  what the loss statement measures beyond what is there
resources.py  what stages ask of a cluster's nodes
protocols.py  the presets corrected and reference
read.py       YAML in; errors with file, line and field
describe.py   its fields as tables to read: docs/study.md
"""
