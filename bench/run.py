"""Benches: each a ratio against a named peer, both measured in this run.

python bench/run.py decode [--json] [--repeats 3]

python bench/run.py gpu [--tiny] [--out FILE]

`gpu` proves in one command that all is right on one GPU, and measures it; see gpu.py. Any other
bench is a module beside this one and an entry of `BENCHES`. Its `run(repeats)` first checks that
both sides compute the same thing and returns one row for each case.
"""

import argparse
import importlib
import json
import sys

BENCHES = (
    *("step", "head", "noise", "methods", "sweep", "decode", "epoch"),
    *("score", "evaluate", "likelihood", "store", "cluster"),
)


def main() -> None:
    """Run one bench and print its table or JSON; `gpu` has options of its own."""
    if sys.argv[1:2] == ["gpu"]:
        sys.exit(importlib.import_module("gpu").main(sys.argv[2:]))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=BENCHES)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    # Imported by name, so that a bench whose peer is not installed does not break the others.
    rows = importlib.import_module(arguments.name).run(arguments.repeats)
    if arguments.json:
        for row in rows:
            print(json.dumps(row))
        return
    for row in rows:
        print("; ".join(f"{key} {_readable(value)}" for key, value in row.items()))


def _readable(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:,.4g}"


if __name__ == "__main__":
    main()
