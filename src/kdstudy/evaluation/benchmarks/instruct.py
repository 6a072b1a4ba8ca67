"""Five sets of instructions answered in free text, as MiniLLM (Gu et al. 2024) defines them.

A reference answer is a text; S-NI and UnNI may list several, of which the closest counts.
"""

from kdstudy.evaluation.benchmarks.files import FileSource, Pin

# A copy of MiniLLM's files; MiniLLM calls them `valid`. Two unrelated repositories hold the same
# bytes.
_COPY = (
    "https://raw.githubusercontent.com/sonho4ng/SRAv2/"
    "d7c7263c15d7d9db67eb956ed113381755c6a3c1/llm-data"
)


def _source(
    name: str,
    folder: str,
    items: int,
    licence: str,
    copy: tuple[str, str] | None,
    aliases: tuple[str, ...] = (),
    get: str = "",
    first: int | None = None,
) -> FileSource:
    pin = Pin(url=f"{_COPY}/{copy[0]}/valid.jsonl", sha256=copy[1]) if copy else None
    return FileSource(
        name=name,
        family="instruct",
        folder=folder,
        file="test.jsonl",
        aliases=aliases,
        kind="text",
        items=items,
        licence=licence,
        pin=pin,
        get=get,
        first=first,
    )


SOURCES = (
    _source(
        "dolly",
        "dolly",
        500,
        "CC BY-SA 3.0",
        ("dolly", "f2624572fdde0bec8759e63fecefdc5e38679816464cd57ef563612ccc6acc06"),
    ),
    _source(
        "self_inst",
        "self-inst",
        242,
        "Apache-2.0",
        ("self-inst", "18922e8ac8a6034ecf0ec8026e24473a30297aaa2e7182d6beb56682586af525"),
        aliases=("self_instruct",),
    ),
    _source(
        "vicuna",
        "vicuna",
        80,
        "Apache-2.0; answers by gpt-3.5-turbo",
        ("vicuna", "04f5fabc7e2660a778ef86f7d2779f69a8f108b892074517566b7d714a269c3a"),
    ),
    _source(
        "sni",
        "sinst_11_",
        1694,
        "Apache-2.0*",
        ("sinst/11_", "8c62f31543f02f3dc44ceb62436ec633ab7add9a94307a7dd1977f90378576a6"),
        aliases=("sinst", "sinst_11_", "super_natural_instructions"),
    ),
    _source(
        "unni",
        "uinst_11_",
        10000,
        "MIT",
        None,
        aliases=("uinst", "uinst_11_", "unnatural_instructions"),
        get="11_/valid.jsonl of the data set MiniLLM/uinst on the Hugging Face Hub",
        # MiniLLM scores no more of it (`--dev-num 10000`).
        first=10000,
    ),
)
