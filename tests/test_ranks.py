"""A command that several processes run: one leads, the others join what trains."""

import os
from pathlib import Path

import forked
import pytest

LAUNCHED = Path(__file__).parent / "launched.py"
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def launched(folder, case):
    """Run two processes as a launcher would; return their (exit code, stdout, stderr)."""
    (folder / "in").mkdir()
    ends = forked.launch(LAUNCHED, folder, case, cwd=folder, env=ENVIRONMENT)
    return [(end.returncode, end.stdout, end.stderr) for end in ends]


def test_all_join_what_trains_and_the_first_alone_does_the_rest(tmp_path):
    first, second = launched(tmp_path, "fine")
    assert first == (0, "done by 0\n" * 4, "")
    assert second == (0, "", "")
    # The other stages were the first's alone, so the second has seen what trains, twice.
    assert (tmp_path / "rank-0").read_text() == "2 in None"
    assert (tmp_path / "calls-1").read_text() == "1 2 "
    assert (tmp_path / "calls-0").read_text() == "1 1 2 2 "


@pytest.mark.parametrize(
    ("case", "who", "said"),
    [
        ("all fail", 0, "kdstudy: no convergence\n  why: it is so\n  do:  pray\n"),
        (
            "second fails",
            1,
            "kdstudy: train student: no convergence\n  why: it is so\n  do:  pray\n",
        ),
        ("second breaks", 1, "kdstudy: train student: process 1: ZeroDivisionError: by zero\n"),
    ],
)
def test_a_failure_anywhere_ends_all_and_is_told_once(tmp_path, case, who, said):
    ends = launched(tmp_path, case)
    assert [code for code, _, _ in ends] == [1, 1]
    assert ends[who][2].startswith(said)
    assert "kdstudy" not in ends[1 - who][2] and "Error" not in ends[1 - who][2]
