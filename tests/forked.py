"""The command line in a process of its own, forked from one that has its libraries loaded.

A fresh interpreter spends most of a short call on importing torch. What reads the environment while
it is imported (HF_HOME, an encoding) is not seen by a fork: such calls need `subprocess`.
"""

import gc
import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        *("torch", "pyarrow.parquet", "scipy.stats", "statsmodels.api", "sacrebleu", "vl_convert"),
        *("rouge_score.rouge_scorer", "peft.utils.transformers_weight_conversion"),
        *("transformers.models.qwen2.modeling_qwen2", "torch.utils.serialization"),
        *("kdstudy.cli", "kdstudy.engine.execute", "kdstudy.engine.view", "kdstudy.config.read"),
        *("kdstudy.data.stages", "kdstudy.distill.stages", "kdstudy.analysis.stages"),
        *("kdstudy.evaluation.stages", "kdstudy.evaluation.generate", "kdstudy.evaluation.tokens"),
        *("kdstudy.report.stages", "kdstudy.doctor.gather", "kdstudy.models.export"),
        *("kdstudy.distill.validation", "kdstudy.evaluation.vllm", "drawn_rows"),
    ]
)


def fork(function, *arguments, daemon=True):
    """Start a process that calls a function; only one that is no daemon may start others."""
    process = FORKS.Process(target=function, args=arguments, daemon=daemon)
    process.start()
    return process


def settle(folder: str | Path, out: int, err: int) -> None:
    """Make a forked process one like a shell's: its folder, its output, one thread."""
    assert len(os.listdir("/proc/self/task")) == 1, "a thread did not survive the fork"
    os.chdir(folder)
    os.dup2(out, 1)
    os.dup2(err, 2)
    import torch

    gc.freeze()  # what was forked is not looked through again and again
    torch.set_num_threads(1)


class Running:
    """A call of the command line, or of a script of the tests, that has begun."""

    def __init__(self, arguments, cwd, env, script=None, daemon=True):
        self.arguments = [str(a) for a in arguments]
        self._folder = tempfile.TemporaryDirectory()
        self.out, self.err = (Path(self._folder.name) / name for name in ("out", "err"))
        env = dict(os.environ if env is None else env)
        self.process = fork(
            _child,
            *(str(cwd or Path.cwd()), self.arguments, env, str(self.out), str(self.err), script),
            daemon=daemon,
        )

    def wait_for(self, told, seconds=120):
        """Wait for a line on its standard error of which `told` is true."""
        until = time.monotonic() + seconds
        while not (self.err.exists() and any(map(told, self.err.read_text().split("\n")))):
            assert self.process.is_alive() and time.monotonic() < until, self.err.read_text()
            time.sleep(0.01)

    def end(self, seconds=240) -> subprocess.CompletedProcess:
        """Wait for its end; a negative code is the signal that ended it."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, "it hangs"
        said = (path.read_text() for path in (self.out, self.err))
        done = subprocess.CompletedProcess(self.arguments, self.process.exitcode, *said)
        self._folder.cleanup()
        return done


def kdstudy(*arguments, cwd=None, env=None) -> subprocess.CompletedProcess:
    """Run `kdstudy ARGUMENTS` in a folder and return its code and what it wrote."""
    return Running(arguments, cwd, env).end()


def launch(script: Path, *arguments, cwd, env=None) -> list[subprocess.CompletedProcess]:
    """Run a script in two processes, with what a launcher such as torchrun tells each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {**(os.environ if env is None else env), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = [
        Running(arguments, cwd, shared | {"RANK": rank, "LOCAL_RANK": rank}, script)
        for rank in ("0", "1")
    ]
    return [process.end() for process in started]


def _child(
    folder: str,
    arguments: list[str],
    env: dict[str, str],
    out: str,
    err: str,
    script: Path | None,
) -> None:
    os.environ.clear()
    os.environ.update(env)
    numbers = (os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND) for path in (out, err))
    settle(folder, *numbers)
    from kdstudy.cli import main

    sys.argv = ["kdstudy", *arguments]
    if script is None:
        main()
    else:
        runpy.run_path(str(script), run_name="__main__")
