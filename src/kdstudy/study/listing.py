"""What there is: the rows behind `kdstudy ls`."""

import json
from pathlib import Path

from kdstudy.study.schema import METHODS


def listing(kind: str, store: Path) -> list[dict[str, str]]:
    """Return rows for `models`, `methods`, `benchmarks`, `corpora` or `runs` (in a store)."""
    return _LISTS[kind](store)


def _models(_: Path) -> list[dict[str, str]]:
    from kdstudy.models import zoo

    return [
        {
            "name": name,
            "parameters": f"{zoo.card(name)['parameters']:,}",
            "held_out_loss": f"{zoo.card(name)['held_out_loss']:.3f}",
        }
        for name in zoo.names()
    ]


def _methods(_: Path) -> list[dict[str, str]]:
    return [{"name": name, "what": (m.__doc__ or "").split("\n")[0]} for name, m in METHODS.items()]


def _benchmarks(_: Path) -> list[dict[str, str]]:
    from kdstudy.evaluate import benchmarks

    return [{"name": name} for name in benchmarks.names()]


def _corpora(_: Path) -> list[dict[str, str]]:
    from kdstudy.data import corpora

    return [{"name": name} for name in corpora.names()]


def _runs(store: Path) -> list[dict[str, str]]:
    rows = []
    for path in store.glob("stages/*/manifest.json"):
        manifest = json.loads(path.read_text())
        if manifest["kind"] == "train":
            rows.append(
                {
                    "run": manifest["label"],
                    "key": manifest["key"][:12],
                    "seconds": f"{manifest['seconds']:.1f}",
                    "summary": manifest["summary"],
                }
            )
    return sorted(rows, key=lambda r: (r["run"], r["key"]))


_LISTS = {
    "models": _models,
    "methods": _methods,
    "benchmarks": _benchmarks,
    "corpora": _corpora,
    "runs": _runs,
}
