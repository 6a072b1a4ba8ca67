"""The stages `corpus` and `contamination`."""

from collections import Counter

from kdstudy.artifacts import CORPUS, ITEMS, REPLAY, Contaminations, Corpus
from kdstudy.data.audit import overlaps
from kdstudy.data.corpora import Source, is_unchanged, load
from kdstudy.data.kinds import ContaminationConfig, CorpusConfig
from kdstudy.errors import StageError
from kdstudy.records import Contamination
from kdstudy.stage import Work


def corpus(work: Work) -> str:
    """Write a `Corpus`: its two splits, where each row stands in its file, and an account of all.

    A `ReplayCorpus` alike.

    Raises:
        StageError: The file is not the one that the study was planned with.
    """
    config = CorpusConfig.of(work.config)
    source = Source(**work.local["source"], columns=config.columns)
    _require_unchanged(source)
    data = load(
        source,
        rows=config.rows,
        validation_rows=config.validation_rows,
        seed=config.seed,
    )
    _require_unchanged(source)  # it may have been replaced while it was read
    made = Corpus(work.out)
    made.train.write(data.train)
    made.validation.write(data.validation)
    made.places_file.write(data.places)
    account = {
        "name": config.name,
        "read": data.read,
        "kept": len(data.train) + len(data.validation),
        "train": len(data.train),
        "validation": len(data.validation),
        "dropped": data.dropped,
        "repeated": data.repeated,
        "shortened": data.shortened,
    }
    made.account.write(account)
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
    """Look for a benchmark's questions in the corpus: `Contaminations`.

    Validation rows count as well: checkpoints are chosen on them. So do those that are replayed.
    """
    corpus, items = work.read(CORPUS).all_rows(), work.read(ITEMS).examples.read()
    if (replay := work.find(REPLAY)) is not None:
        corpus += replay.all_rows()
    name = ContaminationConfig.of(work.config).benchmark
    rows = [
        Contamination(benchmark=name, example_id=item, overlap=overlap, row=row)
        for item, overlap, row in overlaps(corpus, items)
    ]
    Contaminations(work.out).rows.write(rows)
    counts = Counter(row.overlap for row in rows)
    found = counts["exact"] + counts["normalised"]
    return f"{found} of {len(rows)} items are in the corpus, {counts['masked']} with other numbers"
