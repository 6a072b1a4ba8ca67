"""What people look at: figures, tables, sentences, pages. Never imports torch.

data.py             what a report is made from, and what several sections read
probes.py           what models were asked again, for the loss statement
views.py            views of the table that figures, tables and sentences share
seeds.py            one row per system: its seeds averaged, the runs below
plot.py             the look of figures; Altair -> SVG and PDF
dots.py             figures of dots with intervals, by student, method and benchmark
sheet.py            one printed table: cells, links to rows, CSV, Markdown, LaTeX
tables_of_tests.py  tests in words and in tables
loss_words.py       the loss statement in words
latex.py            any text as LaTeX that compiles
terminal.py         the systems as a table for a terminal
browse.py           what the browsers of items and of result rows show
asked.py            prompts in parts, as the item browser holds them
item_filters.py     the item browser's filters, decided for every row
blocks.py           sections of sentences, tables and figures as one self-contained HTML
page/               its template, style and scripts
sections/           a file a section: its sentences, its figures, its tables
  __init__.py       their order
  __init__.py       all of them, in the order of the page
  answer.py         which student to ship
  warnings.py       what to know before relying on it
  statement.py      what was kept and what was lost
  robustness.py     the same items changed in ways that must not matter
  own_text.py       how far a student is from its teacher on its own text
  cost.py           size, time and memory
  generalization.py accuracy, and gains over SFT
  fidelity.py       how alike student and teacher are
  examples.py       items where answer and reasoning part company
  depends.py        what the gain goes with
  methods.py        methods compared
  instruct.py       free texts
  ablations.py      temperature, noise, an untuned teacher, any field
  collapse.py       alarms
  measures.py       measures without a section of their own
  contamination.py  test items in the corpus
  text.py           the item browser
  provenance.py     how the study was made
document.py         the report of one study
statement.py        the loss statement as a page of its own, and for a model card
compare/            two studies side by side
  match.py          what they share, what they do not, and why
  cells.py          one benchmark of both: shared items, interval, p
  differences.py    how far B is from A, system by system
  words.py          its sentences and tables
  figures.py        its figures
  page.py           from the store to its sections
kinds.py            what its stage is told
stages.py           the stage report
"""
