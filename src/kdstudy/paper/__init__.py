"""The published study, replayed. Never imports torch.

published.py  its printed and released numbers as tables
replay.py     Tables 1-5 again, cell by cell
evidence.py   what a claim is judged by
gains.py      claims about gains and methods
depends.py    claims about teacher, size, agreement, fidelity
ablations.py  claims about temperature, teachers, noise
claims.py     all claims
pictures.py   its figures
page.py       one self-contained HTML
"""
