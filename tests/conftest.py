"""Fixtures of the library's tests, and which files are begun first."""

from library_runs import make, place  # noqa: F401

LONGEST = (
    *("end_to_end", "jobs", "report", "browser", "resume", "devices", "compare_page", "probe"),
    *("checkpoint", "library_training", "browser_use", "doctor", "start", "report_tables"),
    *("export", "model_names", "latex", "cut", "clustered", "fit", "trainer", "golden", "ranks"),
    "methods",
)
"""Test files that take longest, in seconds of one core: begun last, they would run alone."""


def pytest_collection_modifyitems(items):
    """Put the longest files first; xdist hands files out in this order (--no-loadscope-reorder)."""
    rank = {f"test_{name}.py": i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))
