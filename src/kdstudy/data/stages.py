"""The stages `corpus` and `contamination`."""

import json
from collections import Counter

from kdstudy.data.audit import overlaps
from kdstudy.data.corpora import PLACES, Source, is_unchanged, load
from kdstudy.errors import StageError
from kdstudy.records import Contamination, Example, read_records, write_records
from kdstudy.stage import Work

CONTAMINATION = "contamination.parquet"


def corpus(work: Work) -> str:
    """Write `train.parquet`, `validation.parquet` and `corpus.json`, the account of every row.

    `places.json` says where each row stands in its file, for whoever has to refuse it later.

    Raises:
        StageError: The file is not the one that the study was planned with.
    """
    source = Source(**work.local["source"], columns=work.config["columns"])
    _require_unchanged(source)
    data = load(
        source,
        rows=work.config["rows"],
        validation_rows=work.config["validation_rows"],
        seed=work.config["seed"],
    )
    _require_unchanged(source)  # it may have been replaced while it was read
    write_records(work.out / "train.parquet", data.train, Example)
    write_records(work.out / "validation.parquet", data.validation, Example)
    (work.out / PLACES).write_text(json.dumps(data.places, ensure_ascii=False), encoding="utf-8")
    account = {
        "name": work.config["name"],
        "read": data.read,
        "kept": len(data.train) + len(data.validation),
        "train": len(data.train),
        "validation": len(data.validation),
        "dropped": data.dropped,
        "repeated": data.repeated,
        "shortened": data.shortened,
    }
    (work.out / "corpus.json").write_text(json.dumps(account, indent=1))
    lost = sum(data.dropped.values())
    cut = f"; {data.shortened} kept up to the last answer" if data.shortened else ""
    return (
        f"{len(data.train)} rows to learn from, {len(data.validation)} to validate, {lost} "
        f"dropped{cut}"
    )


def _require_unchanged(source: Source) -> None:
    if not is_unchanged(source):
        raise StageError(
            f"{source.name}: its file has changed since the study was planned",
            why=source.path or "",
            remedy="run the study again: it will be planned with the file as it is now",
        )


def contamination(work: Work) -> str:
    """Look for a benchmark's questions in the corpus: `contamination.parquet`.

    Validation rows count as well: checkpoints are chosen on them.
    """
    corpus = [
        example
        for name in ("train.parquet", "validation.parquet")
        for example in read_records(work.inputs["corpus"] / name, Example)
    ]
    items = read_records(work.inputs["items"] / "examples.parquet", Example)
    name = work.config["benchmark"]
    rows = [
        Contamination(benchmark=name, example_id=item, overlap=overlap, row=row)
        for item, overlap, row in overlaps(corpus, items)
    ]
    write_records(work.out / CONTAMINATION, rows, Contamination)
    counts = Counter(row.overlap for row in rows)
    found = counts["exact"] + counts["normalised"]
    return f"{found} of {len(rows)} items are in the corpus, {counts['masked']} with other numbers"
