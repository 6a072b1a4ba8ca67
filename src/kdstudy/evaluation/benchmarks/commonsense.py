"""Eight sets of commonsense questions with options, in the file format of LLM-Adapters."""

from typing import Any

from kdstudy.evaluation.benchmarks.files import FileSource, Pin
from kdstudy.evaluation.benchmarks.math import LLM_ADAPTERS


def _numbered(word: str, count: int) -> tuple[str, ...]:
    return tuple(f"{word}{n}" for n in range(1, count + 1))


_ENDINGS = _numbered("ending", 4)


def wrap_hellaswag(row: Any) -> dict[str, Any]:
    """Return a row of the original HellaSwag as LLM-Adapters words it.

    Marks such as `[header]` stay, as they do there.

    Raises:
        ValueError: It is no such row.
    """
    if not isinstance(row, dict):
        raise ValueError("is not a JSON object")
    for field in ("activity_label", "ctx"):
        if not isinstance(row.get(field), str):
            raise ValueError(f'"{field}" is missing or not a text')
    endings, gold = row.get("endings"), row.get("label")
    if not isinstance(endings, list) or [type(e) for e in endings] != [str] * len(_ENDINGS):
        raise ValueError(f'"endings" is not a list of {len(_ENDINGS)} texts')
    if gold not in range(len(_ENDINGS)):
        raise ValueError(f'"label" is {gold!r}, not 0 to {len(_ENDINGS) - 1}')
    listed = " ".join(f"Ending{n}: {ending}" for n, ending in enumerate(endings, start=1))
    question = (
        "Please choose the correct ending to complete the given sentence: "
        f"{row['activity_label']}: {row['ctx']}\n\n{listed}\n\nAnswer format: {'/'.join(_ENDINGS)}"
    )
    return {"instruction": question, "answer": _ENDINGS[gold]}


def _source(
    name: str,
    folder: str,
    labels: tuple[str, ...],
    items: int,
    licence: str,
    sha256: str,
    aliases: tuple[str, ...] = (),
) -> FileSource:
    return FileSource(
        name=name,
        family="commonsense",
        folder=folder,
        aliases=aliases,
        kind="choice",
        labels=labels,
        items=items,
        licence=licence,
        pin=Pin(url=f"{LLM_ADAPTERS}/{folder}/test.json", sha256=sha256),
    )


SOURCES = (
    FileSource(
        name="hellaswag",
        family="commonsense",
        folder="hellaswag",
        kind="choice",
        labels=_ENDINGS,
        items=10042,
        licence="MIT*",
        pin=Pin(
            url="https://raw.githubusercontent.com/rowanz/hellaswag/"
            "a29ff8e9a04bba4bd6588223785ce105328adc57/data/hellaswag_val.jsonl",
            sha256="0aa3b88843990f3f10a97b9575c94d7b71fb2205240ba04ae4884d9e9c992588",
            wrap=wrap_hellaswag,
        ),
    ),
    _source(
        "winogrande",
        "winogrande",
        _numbered("option", 2),
        1267,
        "CC BY / Apache-2.0*",
        "6946f5209e7114c65c6d04f8f644c5a061af20d730b1cfe158fff3dc44076fb9",
    ),
    _source(
        "arc_c",
        "ARC-Challenge",
        _numbered("answer", 5),
        1172,
        "CC BY-SA 4.0*",
        "4a89ce368ae01a71d268d9851686738b2a0a1d84271116bab49a1dd2b48ecad7",
        aliases=("arc_challenge",),
    ),
    _source(
        "arc_e",
        "ARC-Easy",
        _numbered("answer", 5),
        2376,
        "CC BY-SA 4.0*",
        "3f32a84716ca6d57d38728bf80cc8117aecd17445c2cf29a68b571b810eb82dc",
        aliases=("arc_easy",),
    ),
    _source(
        "obqa",
        "openbookqa",
        _numbered("answer", 4),
        500,
        "Apache-2.0*",
        "8479930f7b8a26052c78250280b5465a4016ca7fc806af440d0f37e243f3099e",
        aliases=("openbookqa",),
    ),
    _source(
        "boolq",
        "boolq",
        ("true", "false"),
        3270,
        "CC BY-SA 3.0*",
        "89df2397cbca81dc31adcc6f7f5b635821aa0565aafde46725b2b4bd39b4dfa9",
    ),
    _source(
        "piqa",
        "piqa",
        _numbered("solution", 2),
        1838,
        "AFL-3.0*",
        "3860d11b9b42e590b6b4bbc1643214d373ed0b0d4ac62fcc7bdceb8e044ad141",
    ),
    _source(
        "siqa",
        "social_i_qa",
        _numbered("answer", 3),
        1954,
        "CC BY 4.0*",
        "71543f41127451945379d106ffedaef502f1c8770dff6d2f543aca85e3080b1d",
        aliases=("social_i_qa",),
    ),
)
