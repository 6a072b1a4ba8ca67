"""The verbs. Nothing heavy is imported until one needs it: `--help` and refusals are quick.

options.py            options that several verbs share
benchmark_options.py  which benchmarks a verb means: names, files, those of a study
building.py           stages built before a person's eyes
listing.py            the rows behind `ls`
trained.py            models, statement, export: what a study trained and lost
exporting.py          that one written, asked ten items, and described
studies.py            demo, run, plan, report, ls, schema: what a study file needs
models.py             distill, eval, import: one model, no study file
statistics.py         analyze, paper: conclusions from tables
doctor.py             doctor: a study looked over before it runs
reference.py          every verb as Markdown: docs/cli.md
tables.py             score, audit: completions and corpora as files
score_output.py       what score prints; sample logs of lm-evaluation-harness
"""

import codecs
import io
import os
import re
import signal
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from kdstudy import __version__
from kdstudy.cli import doctor, models, statistics, studies, tables, trained
from kdstudy.cli.options import note, sanitize
from kdstudy.engine import ranks
from kdstudy.errors import KdstudyError

app = typer.Typer(
    name="kdstudy",
    help="Distil language models and learn what the student kept: a study file in, a report out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for name, verb, example in (
    ("demo", studies.demo, "kdstudy demo"),
    ("run", studies.run, "kdstudy run mine.yaml --jobs 2"),
    ("plan", studies.plan, "kdstudy plan mine.yaml"),
    ("doctor", doctor.doctor, "kdstudy doctor mine.yaml"),
    ("report", studies.report, "kdstudy report mine.yaml other.yaml --out side-by-side"),
    ("models", trained.models, "kdstudy models mine.yaml"),
    ("statement", trained.statement, "kdstudy statement mine.yaml --system zoo-s/word_kd/zoo-l"),
    ("export", trained.export, "kdstudy export mine.yaml zoo-s/word_kd/zoo-l --out student"),
    (
        "distill",
        models.distill,
        "kdstudy distill --teacher zoo-l --student zoo-s --data rows.jsonl --out student",
    ),
    ("eval", models.evaluate, "kdstudy eval --model zoo-s --benchmark synth_addsub --limit 40"),
    (
        "score",
        tables.score,
        "kdstudy score --benchmark gsm8k --generations mine.jsonl --against theirs.jsonl",
    ),
    (
        "audit",
        tables.audit,
        "kdstudy audit --corpus rows.jsonl --benchmark gsm8k --out clean.jsonl",
    ),
    ("import", models.import_, "kdstudy import model.Q8_0.gguf --out model"),
    ("analyze", statistics.analyze, "kdstudy analyze results.csv"),
    ("paper", statistics.paper, "kdstudy paper --html paper.html"),
    ("ls", studies.ls, "kdstudy ls benchmarks"),
    ("schema", studies.schema, "kdstudy schema --markdown"),
):
    app.command(name, epilog=f"Example: {example}")(verb)

_INTERRUPTED = 130
_BY_HAND = {
    **{"−": "-", "–": "-", "—": "-", "‖": "||", "×": "x", "±": "+/-", "≤": "<=", "≥": ">="},
    **{"…": "...", "→": "->", "’": "'", "“": '"', "”": '"', "·": "-", "β": "beta", "τ": "tau"},
    **{"σ": "sigma", "Δ": "delta", "χ": "chi", "ρ": "rho", "κ": "kappa", "²": "^2"},
}


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"kdstudy {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    pass


def main() -> NoReturn:
    """Run the command line; exit with 0 (done), 1 (failed while running) or 2 (wrong input)."""
    codecs.register_error("kdstudy", _nearest)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="kdstudy")
    _need_a_home()
    _expand_home()
    signal.signal(signal.SIGTERM, _terminate)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup means it
        signal.signal(signal.SIGHUP, _terminate)
    try:
        with ranks.launch() as first:
            # Typer turns Ctrl-C into an exit code of its own, or into Abort in older versions.
            if first and app(standalone_mode=False) == _INTERRUPTED:
                raise KeyboardInterrupt
    except KdstudyError as e:
        _leave(str(e), e.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        _leave("interrupted: finished stages are kept; run the same command again to go on", 1)
    except BrokenPipeError:  # `kdstudy plan | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as e:
        _leave(f"{e.filename or 'a file'}: {e.strerror or e}", 1)
    except Exception as e:
        if hasattr(e, "format_message") and hasattr(e, "exit_code"):  # click's usage errors
            _leave(e.format_message(), 2)
        raise
    sys.exit(0)


def _need_a_home() -> None:
    """Give libraries that cache in the home folder one, where the user has none (containers)."""
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = tempfile.mkdtemp(prefix="kdstudy-home-")
        note(f"note: this user has no home folder; caches go to {os.environ['HOME']}: set HOME")


def _expand_home() -> None:
    """Expand `~` where a shell does not: in `--option=~/x` and in variables of a container."""
    home = str(Path.home())
    given = [re.sub(r"^(--[a-z-]+=)~(?=/|$)", lambda m: m[1] + home, a) for a in sys.argv[1:]]
    sys.argv[1:] = [home + a[1:] if a == "~" or a.startswith("~/") else a for a in given]
    for name in ("KDSTUDY_DATA", "KDSTUDY_STORE"):
        if os.environ.get(name, "").startswith("~/"):
            os.environ[name] = home + os.environ[name][1:]


def _nearest(e: UnicodeError) -> tuple[str, int]:
    """Write what the terminal's encoding lacks as it would be written by hand."""
    if not isinstance(e, UnicodeEncodeError):
        raise e
    return "".join(_BY_HAND.get(c, "?") for c in e.object[e.start : e.end]), e.end


def _terminate(*_: Any) -> NoReturn:
    # The way Ctrl-C takes: whatever is open closes, and the next run resumes.
    raise KeyboardInterrupt


def _leave(message: str, code: int) -> NoReturn:
    print(f"kdstudy: {sanitize(message)}", file=sys.stderr)
    sys.exit(code)
