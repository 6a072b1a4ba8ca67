"""Fixtures of the library's tests, and which files are begun first."""

import functools
import os

import pytest

LONGEST = (
    *("resume", "end_to_end", "devices", "report", "jobs", "browser", "api", "analysis", "probe"),
    *("bad_input_files", "report_seeds", "report_tables", "browser_use", "compare_page", "doctor"),
    *("clustered", "gpu_bench", "library_training", "start", "export", "bad_input_stores", "cut"),
    *("bad_input_studies", "model_names", "methods", "trainer", "fit", "golden"),
)
"""Test files that take longest, in seconds of one core: begun last, they would run alone."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a student and a teacher, each with its tokenizer."""
    import library_runs  # here, so that a process that hands tests out does not load torch

    return library_runs.save_pair(tmp_path_factory.mktemp("models"))


@pytest.fixture
def make(place, tmp_path):
    """Return a function that makes a trainer: `library_runs.trainer`."""
    import library_runs

    return functools.partial(library_runs.trainer, place, tmp_path)


def pytest_xdist_auto_num_workers(config):
    """One more than there are processors: programs of the tests wait, for each other and clocks.

    Not of the fault tests, which look at clocks themselves.
    """
    if not hasattr(os, "sched_getaffinity"):
        return None
    return len(os.sched_getaffinity(0)) + (not any("faults" in arg for arg in config.args))


def pytest_collection_modifyitems(items):
    """Put the longest files first; xdist hands files out in this order (--no-loadscope-reorder)."""
    rank = {f"test_{name}.py": i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))
