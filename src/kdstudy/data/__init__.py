"""What to learn from: corpora, prompts, tokens.

corpora.py            training sets: find, pin, read, check, split
formats.py            a row in any layout -> example; the one reader
conversations.py      messages, ShareGPT's too, with their tools
files.py              files of rows, whatever their type, read row by row
rewrite.py            some rows of a file, written again as they are
prompts.py            example -> ids and response mask, in training and evaluation alike
chat.py               a conversation as a chat template renders it: prompts, turns, their ends
contract.py           what a rendered conversation must hold, and how a row is refused
spelling.py           token -> bytes, and which tokens two vocabularies share
alignment.py          two tokenizations of one text, cut where both have a border
tokenise.py           text -> ids, at the start of a row and behind other text
synthetic.py          seeded word problems: the demo's corpus and benchmarks
synthetic_wording.py  their templates and word lists
download.py           one pinned file: resumed, checked, renamed
audit.py              contamination: test items that a corpus holds
kinds.py              what its stages are told: corpus, contamination
stages.py             the stages corpus and contamination
"""
