"""What to conclude: the results table and every statistical test. Never imports torch.

csv_rows.py      a CSV file as text cells under the lines they begin on
results.py       one tidy table: results.csv
measures.py      its rows: what is measured of a system or a pair
intervals.py     Wilson and bootstrap intervals
stats.py         every test of a study
paired.py        paired tests per item: one run against its SFT run
flips.py         flips of items' changes: exact p-values
contrasts.py     differences over items and seeds of fixed students
methods.py       methods against SFT and each other, by item and seed
seeds.py         the same from seeds alone, where items are not known
items.py         anybody's graded items -> paired tests
scores.py        graded completions of systems -> how good, and paired tests
runs.py          any results table as runs: one row per run and task
cells.py         runs with seeds averaged, and the average over tasks
analysis.py      every study-level test of a table of runs
collapse.py      signs of collapse in texts, and the limits of alarms
clustered.py     does it gain? students as units
mixed.py         the same from a mixed model
matched.py       do methods differ? matched cells
correlations.py  what the gain goes with, between and inside students
diagnostics.py   forced agreement, seeds, collapse, power
pooled.py        the paper's tests, every run for itself
families.py      Holm and BH within a declared family
fidelity_gaps.py systems that score alike and are unlike in fidelity
losses.py        what each student kept and lost, as one table
robustness.py    answers to changed items beside those to the same items as they are
probed.py        its lines for which models were asked again
other_domains.py which benchmarks nobody trained for
verdict.py       one test's result, and how its numbers are printed
kinds.py         what its stage is told: results
stages.py        the stage results
"""
