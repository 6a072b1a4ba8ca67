"""Six sets of arithmetic word problems, in the file format of LLM-Adapters.

Their `output` field is another model's rationale, often wrong; `answer` is gold. Only variants read
it, for the equation of an item, where it comes to the gold answer.
"""

from kdstudy.evaluation.benchmarks.base import Kind
from kdstudy.evaluation.benchmarks.files import FileSource, Pin

LLM_ADAPTERS = (
    "https://raw.githubusercontent.com/AGI-Edgerunners/LLM-Adapters/"
    "816657208af4db747803f87ba40a4c71383fed7a/dataset"
)


def _source(
    folder: str, items: int, licence: str, sha256: str, kind: Kind = "number"
) -> FileSource:
    return FileSource(
        name=folder.casefold(),
        family="math",
        folder=folder,
        kind=kind,
        items=items,
        licence=licence,
        pin=Pin(url=f"{LLM_ADAPTERS}/{folder}/test.json", sha256=sha256),
    )


SOURCES = (
    _source(
        "gsm8k", 1319, "MIT", "2cc616a1e0b23ea1df29370476365cde71c4e0aa823fb06cc194c5a8a9381abe"
    ),
    _source(
        "SVAMP", 1000, "MIT*", "ffed015784f738f317c5603177861d044c4fc94e09211d78b25e96d46c656e2c"
    ),
    _source(
        "MultiArith",
        600,
        "not stated*",
        "a40f426807c8a563802c2a5b66bda3bcd1eba9c099038fd1199f0dd57de5fd28",
    ),
    _source(
        "AddSub",
        395,
        "not stated*",
        "62a8662b1ad40879953c4df0e61883a749d03aa3fc5e71f1cdb842b816e139ff",
    ),
    _source(
        "AQuA",
        254,
        "Apache-2.0*",
        "de677f5f0139340009eb01f17c0db781b4161912cd1f4efa77292f2fcf3478ee",
        kind="choice",
    ),
    _source(
        "SingleEq",
        508,
        "not stated*",
        "712b15edb851c97aab42a5de106d94008f94d917366c92537ed5400a8aacb207",
    ),
)
