"""The `corpus` stage."""

import json

from kdstudy.data.corpora import Source, load
from kdstudy.records import Example, write_records
from kdstudy.study.stages import Work


def corpus(work: Work) -> str:
    """Write `train.parquet`, `validation.parquet` and `corpus.json`, the account of every row."""
    data = load(
        Source(**work.local["source"]),
        rows=work.config["rows"],
        validation_rows=work.config["validation_rows"],
        seed=work.config["seed"],
    )
    write_records(work.out / "train.parquet", data.train, Example)
    write_records(work.out / "validation.parquet", data.validation, Example)
    account = {
        "name": work.config["name"],
        "read": data.read,
        "kept": len(data.train) + len(data.validation),
        "train": len(data.train),
        "validation": len(data.validation),
        "dropped": data.dropped,
        "repeated": data.repeated,
    }
    (work.out / "corpus.json").write_text(json.dumps(account, indent=1))
    lost = sum(data.dropped.values())
    return (
        f"{len(data.train)} rows to learn from, {len(data.validation)} to validate, {lost} dropped"
    )
