"""Six sets of arithmetic word problems, in the file format of LLM-Adapters.

Their `output` field is another model's rationale, often wrong, and is not read; `answer` is gold.
"""

from kdstudy.evaluate.benchmarks.base import FileSource

SOURCES = (
    FileSource(name="gsm8k", family="math", folder="gsm8k"),
    FileSource(name="svamp", family="math", folder="SVAMP"),
    FileSource(name="multiarith", family="math", folder="MultiArith"),
    FileSource(name="addsub", family="math", folder="AddSub"),
    FileSource(name="aqua", family="math", folder="AQuA", kind="choice", chance=0.2),
    FileSource(name="singleeq", family="math", folder="SingleEq"),
)
