"""What there is: the rows behind `kdstudy ls`."""

from pathlib import Path

from kdstudy.engine import watch


def listing(kind: str, store: Path, data_dir: Path | None = None) -> list[dict[str, str]]:
    """Return rows for `models`, `methods`, `benchmarks`, `corpora` or `runs`.

    Args:
        kind: One of these.
        store: Where runs are looked for.
        data_dir: Where benchmark files are looked for, besides the cache of downloads.
    """
    if kind == "benchmarks":
        return _benchmarks(data_dir)
    return watch.runs(store) if kind == "runs" else _LISTS[kind]()


def _models() -> list[dict[str, str]]:
    from kdstudy.models import zoo

    return [
        {
            "name": name,
            "parameters": f"{zoo.card(name)['parameters']:,}",
            "held_out_loss": f"{zoo.card(name)['held_out_loss']:.3f}",
        }
        for name in zoo.names()
    ]


def _methods() -> list[dict[str, str]]:
    from kdstudy.methods import METHODS

    return [{"name": name, "what": (m.__doc__ or "").split("\n")[0]} for name, m in METHODS.items()]


def _benchmarks(data_dir: Path | None) -> list[dict[str, str]]:
    from kdstudy.evaluation import benchmarks

    found = (benchmarks.overview(name, data_dir) for name in benchmarks.names())
    return [
        {
            "name": known.name,
            "kind": known.kind or "-",
            "family": known.family,
            "items": _shown(known.items, "{}"),
            "found": known.found,
            "chance": _shown(known.chance, "{:.3f}"),
            "majority": _shown(known.majority, "{:.3f}"),
            "licence": known.licence or "-",
            "note": known.note,
        }
        for known in found
    ]


def _shown(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _corpora() -> list[dict[str, str]]:
    from kdstudy.data import corpora

    return [{"name": name} for name in corpora.names()]


_LISTS = {
    "models": _models,
    "methods": _methods,
    "corpora": _corpora,
}
