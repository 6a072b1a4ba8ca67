"""A big study planned, listed and found finished, as whole processes; the peer is GNU make.

make looks at the same graph of as many finished files: it compares times, where kdstudy compares
sizes, times and keys, and says why a stage is missing.
"""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import yaml
from measure import interleaved

from kdstudy.config.read import read_study
from kdstudy.engine.store import Store
from kdstudy.plan.plan import Plan, make_plan

STUDY = {
    "name": "big",
    "teachers": ["zoo-l"],
    "students": ["zoo-xs", "zoo-s", "zoo-m"],
    "corpus": {"name": "synthetic", "rows": 200, "validation_rows": 20},
    "methods": ["sft", "seqkd", "word_kd", "revkd", "gkd"],
    "benchmarks": ["synth_addsub", "synth_svamp"],
    "limit": 20,
}
# Seeds, of 102 stages each and a few more.
PLANNED, FINISHED, LISTED = 49, 5, 98


def run(repeats: int) -> list[dict[str, float | str]]:
    """Return a row per verb: seconds of the whole process, and of make's."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = [
            _row("plan, nothing finished", folder, PLANNED, ("plan",), False, repeats),
            _row("plan, all finished", folder, PLANNED, ("plan",), True, repeats),
            _row("run, all finished", folder, FINISHED, ("run",), True, repeats),
        ]
        return [*rows, _row("ls runs", folder, LISTED, ("ls", "runs"), True, repeats)]


def _row(
    what: str, folder: Path, seeds: int, verb: Sequence[str], finished: bool, repeats: int
) -> dict[str, float | str]:
    place = folder / what.replace(" ", "-")
    place.mkdir()
    file = place / "study.yaml"
    file.write_text(yaml.safe_dump(STUDY | {"seeds": list(range(seeds))}))
    plan = make_plan(read_study(file), place, None, {})
    store = Store(place / "store")
    if finished:
        for stage in plan.stages.values():
            _finish(stage, store, plan)
    _makefile(place, plan, finished)
    ours = [sys.executable, "-m", "kdstudy", *verb]
    ours += [str(file)] if verb[0] != "ls" else []
    ours += ["--store", str(store.root)]
    peer = ["make", "--no-print-directory", "-n", "-C", str(place)]
    timed = interleaved(lambda: _call(peer), lambda: _call(ours), repeats)
    return {
        "case": f"{what}, {len(plan.stages)} stages",
        "kdstudy_seconds": timed.ours,
        "make_seconds": timed.peer,
        "ratio": timed.ratio,
    }


def _finish(stage, store: Store, plan: Plan) -> None:
    """Publish a stage that holds next to nothing."""

    def fill(out: Path) -> str:
        if stage.kind == "report":
            (out / "results.csv").write_text("benchmark,ablation,metric,system,value,low,high\n")
        (out / "made.txt").write_text(stage.label)
        return "made"

    facts = {"kind": stage.kind, "version": 1, "label": stage.label}
    facts |= {"config": dict(stage.config), "inputs": dict(stage.inputs)}
    store.build(stage.key, lambda: facts, fill)


def _makefile(place: Path, plan: Plan, finished: bool) -> None:
    rules = [f"all: {plan.report}.made"]
    for key, stage in plan.stages.items():
        needs = " ".join(f"{k}.made" for k in stage.inputs.values())
        rules.append(f"{key}.made: {needs}\n\ttouch $@")
        if finished:
            (place / f"{key}.made").write_text(stage.label)
    (place / "Makefile").write_text("\n".join(rules) + "\n")


def _call(command: Sequence[str]) -> int:
    subprocess.run(command, check=True, capture_output=True)
    return 1
