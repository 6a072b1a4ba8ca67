"""A process of a launch whose training is made up: what `test_ranks.py` runs.

python launched.py OUT CASE
"""

import os
import sys
import time
from pathlib import Path

from kdstudy.cli import main
from kdstudy.engine import ranks
from kdstudy.errors import StageError
from kdstudy.stage import Kind, Stage, Work, kinds

OUT, CASE = Path(sys.argv[1]), sys.argv[2]
RANK = int(os.environ["RANK"])


def train(work: Work) -> str:
    """Stand in for a stage that trains."""
    text = f"{work.config['n']} {work.inputs['corpus'].name} {work.local['x']}"
    (work.out / f"rank-{RANK}").write_text(text)
    with (work.out / f"calls-{RANK}").open("a") as calls:
        calls.write(f"{work.config['n']} ")
    if CASE == "all fail":
        raise StageError("no convergence", why="it is so", remedy="pray")
    if CASE == "second fails" and RANK == 1:
        raise StageError("no convergence", why="it is so", remedy="pray")
    if CASE == "second breaks" and RANK == 1:
        raise ZeroDivisionError("by zero")
    return f"done by {RANK}"


class Entry(Kind):
    """A kind whose function is here."""

    def function(self):
        return train


def command(**_) -> None:
    """Stand in for a verb: stages that train, and others between them."""
    for n in (1, 2):
        time.sleep(1)
        one = Stage(kind="train", label="student", config={})
        work = Work(config={"n": n}, inputs={"corpus": OUT / "in"}, local={"x": None}, out=OUT)
        print(ranks.call(one, work))
        print(ranks.call(Stage(kind="score", label="student", config={}), work))


if __name__ == "__main__":
    kinds().update({"train": Entry(entry="", distributed=True), "score": Entry(entry="")})
    sys.modules["kdstudy.cli"].app = command
    main()
