"""Fixtures of the library's tests."""

from library_runs import make, place  # noqa: F401
