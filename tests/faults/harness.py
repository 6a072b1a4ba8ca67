"""A small study, run in processes of its own that are made to fail, and what must hold after.

Processes are forked from a server that has imported everything and started no thread, so that a
run costs the study's own work and starts within a tenth of a second.
"""

import contextlib
import dataclasses
import fnmatch
import hashlib
import json
import os
import shutil
import sys
import time
from collections import Counter
from pathlib import Path

import yaml
from forked import fork, settle
from strikes import Strike

# No number divides another: 46 rows in batches of 6, 9 steps of which the second epoch has one,
# 11 and 53 texts in batches of 4.
STUDY = {
    "name": "small",
    "teachers": ["zoo-s"],
    "students": ["zoo-xs"],
    "corpus": {"path": "rows.jsonl", "validation_rows": 7},
    "benchmarks": ["synth_addsub"],
    "limit": 11,
    "methods": ["sft", "seqkd", "word_kd", "gkd"],
    "train": {"epochs": 1.2, "batch_size": 6, "max_length": 160, "evaluations": 2,
              "teacher_cache": "disk", "precision": "float32", "probe_rows": 2},
    "generation": {"max_new_tokens": 24, "batch_size": 4},
}  # fmt: skip

# The most that is done again after a death, by unit of progress: a checkpoint's steps, a batch's
# texts, a shard's rows (53 rows make four shards).
INTERVAL = {"step": 5, "generation": 4, "row": 14}
_FIRST = {"step": 1, "generation": 4, "row": 0}  # what a process has done when it first tells
_SHARD_BYTES = 2**16

# What says when it was made, how long that took, or what was free then; and vl-convert writes a
# PDF's fonts in any order.
_TIMED = (
    *("report.html", "tables/cost.*", "tables/systems.*", "figures/*.pdf", "figures/pace.svg"),
    "placement.json",
)


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code (-9: killed), what it printed, and how long it ran."""

    code: int
    text: str
    seconds: float


class Bed:
    """A folder with the study and its store."""

    def __init__(self, folder: Path, **fields):
        self.folder, self.store = folder, folder / "store"
        folder.mkdir(exist_ok=True)
        rows = (
            {"prompt": f"Ann has {a} pens and buys {b}. How many now?",
             "completion": f"{a} + {b} = {a + b}. The answer is {a + b}."}
            for a in range(3, 11)
            for b in range(12, 19)
            if (a, b) < (10, 16)
        )  # fmt: skip
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        self.write(**fields)

    def write(self, **fields) -> None:
        (self.folder / "study.yaml").write_text(yaml.safe_dump(STUDY | fields))

    def copy(self, folder: Path) -> "Bed":
        """Return a copy, times of files included."""
        shutil.copytree(self.folder, folder)
        (folder / "work.jsonl").unlink(missing_ok=True)
        return Bed(folder)

    def start(self, *arguments: str, strike: Strike | None = None):
        """Start `kdstudy ARGUMENTS` (run, when there are none)."""
        arguments = arguments or ("run", "study.yaml")
        process = fork(_child, str(self.folder), arguments, strike)
        process.started = time.monotonic()
        return process

    def end(self, process) -> Ended:
        process.join(120)
        assert process.exitcode is not None, "it hangs"
        text = (self.folder / f"{process.pid}.txt").read_text()
        return Ended(process.exitcode, text, time.monotonic() - process.started)

    def run(self, *arguments: str, strike: Strike | None = None) -> Ended:
        return self.end(self.start(*arguments, strike=strike))

    def stages(self) -> dict[str, dict]:
        """Return the manifests of what is published, by key."""
        return {
            folder.name: json.loads((folder / "manifest.json").read_text())
            for folder in (self.store / "stages").glob("*")
            if len(folder.name) == 32 and (folder / "manifest.json").is_file()
        }

    def find(self, kind: str, label: str = "") -> Path:
        """Return the folder of a stage."""
        key = next(
            key
            for key, m in sorted(self.stages().items(), key=lambda pair: pair[1]["label"])
            if m["kind"] == kind and m["label"].startswith(label)
        )
        return self.store / "stages" / key

    def remove(self, *kinds: str) -> None:
        """Remove all stages of these kinds."""
        for key, manifest in self.stages().items():
            if manifest["kind"] in kinds:
                shutil.rmtree(self.store / "stages" / key)

    def bytes(self) -> dict[str, dict[str, str]]:
        """Return hashes of the published files that hold no times, read from the disk."""
        return {
            key: {
                name: _sha256(self.store / "stages" / key / name)
                for name in manifest["files"]
                if not any(fnmatch.fnmatch(name, timed) for timed in _TIMED)
            }
            for key, manifest in self.stages().items()
        }

    def results(self) -> bytes:
        return (self.store / "studies" / "small" / "results.csv").read_bytes()

    def work(self) -> list[dict]:
        """Return what the stages told of their progress, and of their beginnings and ends."""
        with contextlib.suppress(FileNotFoundError):
            lines = (self.folder / "work.jsonl").read_text().split("\n")
            return [json.loads(line) for line in lines if line.endswith("}")]
        return []


def require_kept(bed: Bed, before: dict[str, dict], whole: Bed) -> None:
    """Nothing finished is lost, and nothing published differs from the uninterrupted run's."""
    now = bed.stages()
    assert {k: m["started"] for k, m in before.items()} == {k: now[k]["started"] for k in before}
    expected = whole.bytes()
    for key, files in bed.bytes().items():
        assert files == expected[key], f"{now[key]['kind']} {now[key]['label']}"


def require_whole(bed: Bed, whole: Bed) -> None:
    """The store holds what an uninterrupted run's does, and nothing else."""
    assert bed.bytes() == whole.bytes()
    assert bed.results() == whole.results()
    left = {p.name for p in (bed.store / "stages").iterdir()} - set(bed.stages())
    assert not left
    assert not list((bed.store / "stages").glob("*/scratch"))


def repeated(work: list[dict]) -> Counter:
    """Return, by unit, the most that one death had done again."""
    most: Counter = Counter()
    reached: dict[str, tuple[int, int]] = {}  # key -> process, and how far
    for line in work:
        if line["event"] != "progress" or line["unit"] not in INTERVAL:
            continue
        process, done = reached.get(line["key"], (line["pid"], 0))
        if line["kind"] not in ("train", "teacher_cache", "generate", "teacher_text"):
            continue
        if line["pid"] != process:
            again = done + _FIRST[line["unit"]] - line["done"]
            most[line["unit"]] = max(most[line["unit"]], again)
        reached[line["key"]] = line["pid"], line["done"]
    return most


def interrupted(work: list[dict], pid: int) -> str:
    """Return the kind of stage that a process was building when it ended, or ''."""
    mine = [line for line in work if line["pid"] == pid and line["event"] != "progress"]
    return mine[-1]["kind"] if mine and mine[-1]["event"] == "begin" else ""


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _child(folder: str, arguments: tuple[str, ...], strike: Strike | None) -> None:
    name = Path(folder) / f"{os.getpid()}.txt"
    number = os.open(name, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    settle(folder, number, number)
    from kdstudy.cli import main
    from kdstudy.distill import cache

    cache.build.__kwdefaults__["shard_bytes"] = _SHARD_BYTES
    _tell_of_work()
    if strike is not None:
        strike.arm(Path(folder) / "store")
    sys.argv = ["kdstudy", *arguments, "--store", "store"]
    main()


def _tell_of_work() -> None:
    from kdstudy.engine.view import StudyView

    number = os.open("work.jsonl", os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def telling(event):
        told = getattr(StudyView, event)

        def tell(self, stage, *arguments, **named):
            line = {"pid": os.getpid(), "event": event, "key": stage.key, "kind": stage.kind}
            if event == "progress":
                line |= dict(zip(("done", "total", "unit"), arguments, strict=True))
            os.write(number, json.dumps(line).encode() + b"\n")
            return told(self, stage, *arguments, **named)

        setattr(StudyView, event, tell)

    for event in ("begin", "progress", "finish"):
        telling(event)
