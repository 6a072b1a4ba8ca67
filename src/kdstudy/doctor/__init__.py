"""Preflight of a study. What `run` would refuse, its own checks find here; what only a preflight
can tell (seconds, memory, losses) is measured, and what `run` would not refuse is warned of. Torch
is imported when something is opened, at module level only by the probe.

findings.py       what a check says: level, what, why, what to do; an error of `run` as that
facts.py          the plain facts that checks look at
gather.py         a study -> those facts, each call under a time limit
timeouts.py       a call that fails or hangs becomes a finding
models.py         a model's facts from its files
alignment.py      where two tokenizers' answers meet
text.py           the corpus as a tokenizer reads it: cuts, masks, prompts
probe.py          seconds, memory and losses, measured on a few rows
machine.py        device, store, downloads
cost.py           seconds and bytes of the missing stages
checks.py         all checks in order; one that crashes is a finding
check_text.py     those of corpus, masks and benchmarks
check_models.py   those of vocabularies, endings, adapters, teachers
check_machine.py  those of plan, device, memory, disk, time
view.py           findings in 80 columns, and as a document
"""
