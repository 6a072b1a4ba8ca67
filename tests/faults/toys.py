"""Small stages that a test steers; whoever unpickles one imports this, and so knows the kind."""

import json
import os
import time
from pathlib import Path

from kdstudy.errors import InputError
from kdstudy.stage import Kind, Stage, Work, kinds

kinds()["toy"] = Kind(entry="toys:work")


class Toy(Stage):
    """A stage of kind `toy`; its config: `name`, `diary` (a folder), `seconds`, `act`."""


def toy(name: str, diary: Path, *reads: Stage, seconds: float = 0.0, act: str = "") -> Toy:
    config = {"name": name, "diary": str(diary), "seconds": seconds, "act": act}
    inputs = {read.label: read.key for read in reads}
    return Toy(kind="toy", label=name, config=config, inputs=inputs)


def work(work: Work) -> str:
    """Write what is read and where this ran; fail, die or take time as the config says."""
    config, diary = work.config, Path(work.config["diary"])
    here = {"pid": os.getpid(), "gpus": os.environ.get("CUDA_VISIBLE_DEVICES")}
    here |= {"threads": os.environ.get("OMP_NUM_THREADS"), "began": time.time()}
    with (diary / f"{config['name']}.begun").open("a") as f:
        f.write(json.dumps(here) + "\n")
    if config["act"].startswith("fail"):
        other = config["act"].removeprefix("fail").removeprefix(" beside ")
        until = time.monotonic() + 60
        while other and not begun(diary, other) and time.monotonic() < until:
            time.sleep(0.02)
        raise InputError("row 3 is odd", why="it has no end", remedy="mend it")
    if config["act"] == "die" or (config["act"] == "die once" and times(diary, config) == 1):
        os._exit(3)
    until = time.monotonic() + config["seconds"]
    while (now := time.monotonic()) < until:
        work.progress(int(until - now), int(config["seconds"]) + 1, "second")
        time.sleep(0.02)
    read = {role: (folder / "text").read_text() for role, folder in work.inputs.items()}
    (work.out / "text").write_text(json.dumps({"name": config["name"], "read": read}))
    with (diary / f"{config['name']}.done").open("a") as f:
        f.write(json.dumps(here | {"ended": time.time()}) + "\n")
    return f"wrote {config['name']}"


def times(diary: Path, config: dict) -> int:
    return len(begun(diary, config["name"]))


def begun(diary: Path, name: str) -> list[dict]:
    return _lines(diary / f"{name}.begun")


def done(diary: Path, name: str) -> list[dict]:
    return _lines(diary / f"{name}.done")


def _lines(path: Path) -> list[dict]:
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines()]
