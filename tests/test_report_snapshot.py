"""A pinned study's report: moving code must not move a word, a figure or a table of it.

Other versions of the libraries that compute and draw may round differently; there only the list of
sections, figures and tables is held. After a change that is meant to show:
`python tests/test_report_snapshot.py`, and say why in the commit.
"""

import hashlib
import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from fake_study import analysed, fake_study, with_texts
from report_parts import Words

from kdstudy.report import document

GOLDEN = Path(__file__).parent / "golden" / "report.json"
COMPUTED_BY = ("numpy", "pandas", "scipy", "statsmodels", "sacrebleu")


def hashed(*parts):
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def seen(folder):
    """Return what a reader sees of a report: by section, and as files."""
    sections = Words((folder / "report.html").read_text("utf-8")).sections
    found = {}
    for name, section in sections.items():
        files = (
            folder / "tables" / f"{t}.{end}" for t in section["tables"] for end in ("tex", "csv")
        )
        found[name] = section | {
            "text": hashed("\n".join(section["text"]).encode()),
            "files": hashed(*(f.read_bytes() for f in files)),
        }
    return {
        "made with": {name: version(name) for name in COMPUTED_BY},
        "results.csv": hashed((folder / "results.csv").read_bytes()),
        "sections": found,
        "contamination in words": sections["contamination"]["text"][:4],
    }


def written(folder):
    study = with_texts(fake_study(n=12), n=5)
    table, tests = analysed(study)
    document.write(
        folder,
        table=table,
        items=study.items,
        pairs=study.pair_items,
        systems=study.systems,
        tests=tests,
        provenance=study.provenance,
    )
    return seen(folder)


def test_the_report_of_a_pinned_study_is_what_it_was(tmp_path):
    found, wanted = written(tmp_path), json.loads(GOLDEN.read_text("utf-8"))
    names = [
        [(name, s["figures"], s["tables"]) for name, s in side["sections"].items()]
        for side in (found, wanted)
    ]
    assert names[0] == names[1]
    if found["made with"] == wanted["made with"]:
        assert found == wanted


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        text = json.dumps(written(Path(folder)), indent=1, ensure_ascii=False)
    GOLDEN.write_text(text + "\n", encoding="utf-8")
    print(f"wrote {GOLDEN}", file=sys.stderr)
