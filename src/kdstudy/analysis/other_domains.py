"""Which benchmarks nobody trained for: those of another domain than the corpus."""

from collections.abc import Collection, Iterable

from kdstudy.data import corpora
from kdstudy.errors import InputError
from kdstudy.evaluation import benchmarks


def elsewhere(corpus: str, measured: Iterable[str], named: Collection[str] = ()) -> frozenset[str]:
    """Return the benchmarks of another domain than the corpus.

    Args:
        corpus: What reports call the corpus.
        measured: Benchmarks of a study.
        named: Those that a user says are of another domain; then no other is.

    Returns:
        Unless they are named, those whose domain and the corpus's are both known and differ.

    Raises:
        InputError: One that is named is not measured.
    """
    measured = list(measured)
    if unknown := sorted(set(named) - set(measured)):
        raise InputError(
            f"{unknown[0]}: the study does not measure it",
            remedy=f"name some of {', '.join(measured) or 'its benchmarks, which it has none of'}",
        )
    if named:
        return frozenset(named)
    home = corpora.domain(corpus)
    domains = {name: benchmarks.domain(name) for name in measured}
    return frozenset(name for name, domain in domains.items() if home and domain not in ("", home))
