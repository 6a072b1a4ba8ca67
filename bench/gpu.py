"""A proof on one GPU: is it right there, and then how fast, in under nine minutes.

Every part runs in a process of its own, forked before anything touches the GPU, with a budget in
seconds: what fails, takes too long or lacks its peer says so in its row, and the others go on.
Correctness comes first (`gpu_checks.py`); what is timed are the other benches in this folder. On a
machine without a GPU, or with `--tiny`, the same parts run small.
"""

import argparse
import dataclasses
import importlib
import json
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """A piece of the proof.

    Attributes:
        name: What its rows are called.
        entry: `module:function`, of this folder; takes `tiny` and returns rows. The row of a check
            has `passed`.
        seconds: Its budget.
        check: It is about correctness, and its failure is the proof's.
    """

    name: str
    entry: str
    seconds: int
    check: bool = False


PARTS = [
    Part(name="noise", entry="gpu_checks:noise", seconds=25, check=True),
    Part(name="sampler", entry="gpu_checks:sampler", seconds=25, check=True),
    Part(name="losses", entry="gpu_checks:losses", seconds=100, check=True),
    Part(name="losses of spans", entry="gpu_spans:losses", seconds=15, check=True),
    Part(name="cache", entry="gpu_checks:cache", seconds=25, check=True),
    Part(name="generation", entry="gpu_checks:generation", seconds=25, check=True),
    Part(name="ddp", entry="gpu_checks:ddp", seconds=50, check=True),
    Part(name="step 1.5B", entry="step:on_a_gpu", seconds=50),
    Part(name="step 7B", entry="step:on_a_gpu_7b", seconds=65),
    Part(name="head", entry="head:on_a_gpu", seconds=35),
    Part(name="noise speed", entry="noise:on_a_gpu", seconds=15),
    Part(name="decode", entry="decode:on_a_gpu", seconds=35),
    Part(name="decode vLLM", entry="decode:against_vllm", seconds=45),
    Part(name="epoch", entry="epoch:on_a_gpu", seconds=30),
]


PEERS = {"trl", "liger_kernel", "vllm"}
"""Packages that a part is compared with, and left out without."""


class Missing(Exception):
    """A part cannot run here, for a reason that is no failure: a peer, a second device, memory."""


def main(options: list[str]) -> int:
    """Run all parts; return 1 if a check failed, else 0."""
    parser = argparse.ArgumentParser(prog="run.py gpu", description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="small, as without a GPU")
    parser.add_argument("--out", type=Path, help="write everything as JSON to this file")
    parser.add_argument("--only", action="append", help="this part alone (may be repeated)")
    arguments = parser.parse_args(options)
    machine, _ = _apart("gpu_checks:machine", False, 60)
    tiny = arguments.tiny or not machine or not machine[0]["gpu"]
    parts = [part for part in PARTS if not arguments.only or part.name in arguments.only]
    done = [_done(part, tiny) for part in parts]
    result = {"machine": machine, "tiny": tiny, "parts": done}
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(as_markdown(result))
    return int(any(part["check"] and part["state"] == "failed" for part in done))


def _done(part: Part, tiny: bool) -> Row:
    """Run a part and return what came of it: `passed`, `measured`, `left out` or `failed`."""
    started = time.perf_counter()
    # Budgets are a GPU's; a CPU that others use takes longer to import torch alone.
    rows, problem = _apart(part.entry, tiny, part.seconds * (4 if tiny else 1))
    state = "passed" if part.check else "measured"
    if problem.startswith("left out: "):
        state, problem = "left out", problem.removeprefix("left out: ")
    elif problem or not all(row.get("passed", True) for row in rows):
        state = "failed"
    seconds = time.perf_counter() - started
    print(f"{part.name}: {state} in {seconds:.0f} s {problem}", flush=True)
    return {
        "part": part.name, "check": part.check, "state": state, "problem": problem,
        "seconds": seconds, "rows": rows,
    }  # fmt: skip


def _apart(entry: str, tiny: bool, seconds: int) -> tuple[list[Row], str]:
    """Call `entry` in a process of its own; return its rows and what went wrong, or nothing."""
    # Forked from a process that has not imported torch: nothing has touched the GPU.
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(entry, tiny, send))
    child.start()
    send.close()
    try:
        if not receive.poll(seconds):
            return [], f"took longer than its {seconds} s"
        return receive.recv()
    except EOFError:
        child.join()
        return [], f"its process died (exit code {child.exitcode})"
    finally:
        _end(child)


def _child(entry: str, tiny: bool, send: Any) -> None:
    os.setsid()  # so that its own children can be ended with it
    name, function = entry.split(":")
    try:
        work: Callable[..., list[Row]] = getattr(importlib.import_module(name), function)
        send.send((work(tiny=tiny), ""))
    except Missing as e:
        send.send(([], f"left out: {e}"))
    except BaseException as e:
        if isinstance(e, ImportError) and (e.name or "").partition(".")[0] in PEERS:
            send.send(([], f"left out: {e}"))
            return
        traceback.print_exc()
        send.send(([], f"{type(e).__name__}: {(str(e).splitlines() or [''])[0]}"))


def _end(child: Any) -> None:
    child.join(timeout=5)
    for number in (signal.SIGTERM, signal.SIGKILL):
        if child.is_alive():
            os.killpg(child.pid, number)
            child.join(timeout=5)


def as_markdown(result: Row) -> str:
    """Return the tables of docs/benchmarks.md: what was checked, and what was measured."""
    facts = ", ".join(f"{value}" for value in (result["machine"] or [{}])[0].values() if value)
    lines = [f"{facts}{' (tiny)' if result['tiny'] else ''}", ""]
    lines += ["| check | state | what | limit |", "|---|---|---|---|"]
    for part in (p for p in result["parts"] if p["check"]):
        if not part["rows"]:
            lines.append(f"| {part['part']} | **{part['state']}** | {part['problem']} | |")
        for row in part["rows"]:
            state = "passed" if row["passed"] else "**failed**"
            lines.append(f"| {row['case']} | {state} | {row['found']} | {row['limit']} |")
    lines += ["", "| bench | setting | peer | measured |", "|---|---|---|---|"]
    for part in (p for p in result["parts"] if not p["check"]):
        if not part["rows"]:
            lines.append(f"| {part['part']} | | | {part['state']}: {part['problem']} |")
        for row in part["rows"]:
            numbers = "; ".join(
                f"{key} {value if isinstance(value, str) else format(value, ',.4g')}"
                for key, value in row.items()
                if key not in ("case", "peer")
            )
            lines.append(f"| {part['part']} | {row['case']} | {row['peer']} | {numbers} |")
    return "\n".join(lines)
