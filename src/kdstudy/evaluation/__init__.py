"""How a model is measured: benchmarks, completions, extraction, scores.

benchmarks/         test sets by name
  __init__.py       the registry
  base.py           what a benchmark is
  rows.py           rows of a file -> checked items
  files.py          files: data folder, cache, pinned download
  math.py           six mathematical sets
  commonsense.py    eight commonsense sets
  instruct.py       five instruction sets
  synthetic.py      four synthetic sets
  own.py            a user's file or package
  harness.py        tasks of lm-evaluation-harness
  overview.py       items, chance, licence and place of one, for `ls benchmarks`
graders/            what becomes of answers: right, wrong, a score; a file a grader
  __init__.py       the registry
  base.py           what a grader is
  number.py         numbers
  letter.py         letters of options
  filters.py        what GSM8K's published filters have in common
  strict.py         the number behind ####
  flexible.py       the last number
  label.py          labels of options
  text.py           free texts
  likelihood.py     the likeliest option
  harness.py        texts by a harness task's own filters
variants/           the same items asked in ways that must not matter
  __init__.py       numbers, names, irrelevant sentences, another prompt
  base.py           what changes an item, and why one is left out
  equation.py       an item's equation over the numbers of its text
  numbers.py        other numbers, and the answer that they give
  names.py          other first names
  irrelevant.py     a true sentence that does not matter
  stages.py         the stage variant
options.py          what is asked of a model that chooses by likelihood
likelihoods.py      log-probabilities of options, contexts read once; of whole texts
asking.py           exemplars before items, where answers end
generate.py         completions, resumable, blind to batch make-up
vllm.py             vLLM in place of our sampler
tokens.py           two models token by token on held-out text: agreement, KL, calibration
two_models.py       two models of one stage, opened
own_text.py         the same on what each answered, by position: own_text
reasoning.py        whether answers follow a changed result: reasoning
memorised.py        training rows continued word for word: memorised
completion_rows.py  files of completions, however made, as rows
completions.py      those rows matched with a benchmark's items and graded
harness_logs.py     what lm-evaluation-harness logged, as scores
score.py            every item once, graded; counts and rates
agreement.py        same answer, its bounds and kappa
fidelity.py         how alike reasoning texts are: BLEU, ROUGE-L, steps
rouge.py            ROUGE-L of a text with its references
kinds.py            what its stages are told
drafts.py           which of a teacher's drafts are learnt: draft_likelihood, chosen_text
shown.py            what models read of items, as text, for people: the stage prompts
stages.py           its stages, from benchmark to compare and token_fidelity
"""
