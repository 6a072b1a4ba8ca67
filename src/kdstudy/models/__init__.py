"""What learns: models found, checked, opened, cut, sampled from and saved.

resolve.py      name -> zoo folder, local folder or pinned Hub commit
hub.py          that commit: remembered, asked for, or found in the cache
fetch.py        a model's files: which are read, hashed, downloaded, unchanged
checkpoint.py   what kind of checkpoint files are; kinds that cannot be used
gguf_file.py    GGUF files: found, imported once, known by their bytes
from_gguf.py    one as a folder: numbers, words, template; or refused
load.py         load and check; the door to the next three
tokenizer.py    a folder's tokenizer, held against its own tokenizer.json
adapters.py     PEFT adapters: made, put on, merged, or refused
save.py         written, put back, and held against what is in memory
export.py       a trained model as a folder for others
layers.py       what of a model is kept, and which layers
importance.py   what each layer changes, and each neuron adds, on training rows
cut.py          a model with some of its layers, and a configuration that says so
narrow.py       the same of the neurons of its MLPs
kinds.py        what its stages are told: importance, cut
stages.py       the stages importance and cut
parts.py        a causal LM as body and head
vocabulary.py   whether tokenizers and models speak of the same tokens
packing.py      rows of unlike length through a body, without padding
branching.py   texts that go on in several ways: what they begin with is read once
dropout.py     dropout whose mask costs a CPU less
heads.py        a head without its body; the width two heads share
sample.py       one batch sampler, for training and evaluation
decoding.py     its forward passes: shared prompts once, finished rows dropped
selfcheck.py    which way of decoding gives a model's own logits, tried when it is opened
writing.py      a model as it writes fastest: its adapter merged, in a copy where it is trained
precision.py    which type a machine trains a model in faster
memory.py       memory that is free, and rows that fit
zoo/            four tiny pretrained models with their cards
  __init__.py   names, folders, cards
  documents.py  their pretraining text
  cards.py      their cards as text
  make.py       the script that made them
"""
