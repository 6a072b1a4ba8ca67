"""Doing it: once, anywhere, whatever dies. Never imports torch.

execute.py  what is missing and why; in which order it is built
build.py    one stage built, anywhere; failures as one clear line
store.py    key -> folder: lease, build, verify, publish by rename
lease.py    who builds what, and who is dead
log.py      what happened to a stage, a line of JSON at a time
machine.py  versions, hardware, and the most memory that a stage took
view.py     what a person sees while it runs
watch.py    how the stages in a store stand
jobs.py     several processes of one machine that share a study's stages
ranks.py    one study over several processes: who leads, who joins
cluster.py  stages on a Ray cluster: sent out, watched, sent again if lost
nodes.py    its nodes: reached, asked what they have and whether they fit
worker.py   a stage on such a node
"""
