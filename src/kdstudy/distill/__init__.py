"""How a student is made: the trainer, its loss, its teacher.

trainer.py           DistillTrainer: transformers.Trainer with a global denominator
resumable.py         what it saves, and goes on from as if it had never stopped
config.py            DistillConfig: transformers.TrainingArguments and the method's fields
arguments.py         fields of TrainingArguments that are refused, or do nothing
assemble.py          its student and teacher, from names or loaded models
rows.py              a corpus, or a dataset in TRL's formats -> training rows
teacher_text.py      the teacher's text in the corpus's place, and what was chosen of its drafts
batches.py           rows -> tensors; the one place that shifts, weighs and counts
model.py             student and loss as one module
fused.py             hidden states x head -> loss and gradient, chunk by chunk
mass_order.py        masses in order, and their distance by rank
span_loss.py         the same over unlike vocabularies, span by span
teacher.py           the live teacher
aligned.py           a teacher with another tokenizer
several_teachers.py  several teachers of one run: mixtures, and one for each row
replay.py            general text mixed into every step, against forgetting
token_selection.py   the tokens of a row that are charged, where not all are
token_difficulty.py  easy tokens and hard ones, by the teacher's doubts
means.py             what is logged beside the loss
policy_gradient.py   what tokens that the student drew bring, for a policy gradient
noise.py             noise on a teacher's logits, a function of seed and entry
compiled.py          torch.compile where it pays, and the way around it
cache.py             the teacher's hidden states, exact, on disk or in memory
placement.py         a run's teacher: from the cache, or live
hub.py               a student on the Hub: its card, and uploads without pickles
evaluating.py        what it is asked to measure
validation.py        what a student is measured on while it trains
pacing.py            what a token is charged at a step, where that moves
nan_guard.py         stops a run before a loss or gradient that is not finite reaches the weights
sample_monitor.py    samples of the student during training, and alarms of collapse
checkpoints.py       which checkpoint a run goes on from, and whether it can
interrupt.py         a signal ends the run after its step, with a checkpoint
onpolicy.py          the responses that the student writes while it trains
epochs.py            which rows a device takes at which step
sharded.py           FSDP2: what is refused, what must be whole, checkpoints
schedule.py          a study's training in transformers' words
kinds.py             what its stages are told: train, teacher_cache
stages.py            the stages train and teacher_cache
trackers.py          whether they are here, and one of their runs per training
"""
