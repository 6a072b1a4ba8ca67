"""What people look at: figures, tables, sentences, pages. Never imports torch.

findings.py         its sentences on systems, tests and ablations
likeness.py         its sentences on how alike student and teacher are
alarms.py           alarms of collapse, and the warnings at the top
items.py            what item rows say beyond the table: kept, lost, overlaps, examples
views.py            views of the table that figures and tables share
seeds.py            one row per system: its seeds averaged, the runs below
figures.py          every figure
flow.py             the figure of items won and lost
curves.py           figures with a continuous axis
plot.py             their look; Altair -> SVG and PDF
sheet.py            one printed table: cells, links to rows, CSV, Markdown, LaTeX
latex.py            any text as LaTeX that compiles
terminal.py         the systems as a table for a terminal
tables.py           every table; those about systems
tables_of_tests.py  the paper's Tables 1-5 for this study, and the sound tests
tables_of_texts.py  agreement, fidelity, tokens, ROUGE-L, Table 9
tables_of_data.py   sizes, contamination, alarms
browse.py           what the browsers of items and of result rows show
kinds.py            the item browser's filters, decided for every row
document.py         one self-contained HTML
page/               its template, style and scripts
compare/            two studies side by side
  match.py          what they share, what they do not, and why
  cells.py          one benchmark of both: shared items, interval, p
  differences.py    how far B is from A, system by system
  words.py          its sentences and tables
  figures.py        its figures
  page.py           from the store to one self-contained HTML
stages.py           the stage report
"""
