"""What the loss statement is to measure beyond what a study measures anyway."""

from pydantic import Field

from kdstudy.fields import Strict


class Statement(Strict):
    """Lines of the loss statement for which models are asked again; docs/statement.md has each."""

    own_text_items: int = Field(default=0, ge=0)
    """Items of each benchmark answered in text, on which student and teacher read both their
    answers token by token: how far apart they are on the student's own text, by position; 0: none.
    Students that share their teacher's tokens; no benchmark with `thinking`."""

    reasoning_items: int = Field(default=0, ge=0)
    """Items of each arithmetic benchmark on which student and teacher go on from their own right
    answer after the result of one equation in it was changed: whether the final answer follows; 0:
    none. Greedily, by transformers, whatever `generation` says; no benchmark with `thinking`."""

    memory_rows: int = Field(default=0, ge=0)
    """Training rows, and as many validation rows, of which students and their base are looked at
    for continuing the response word for word; 0: none."""
    memory_start: int = Field(default=8, ge=0)
    """First tokens of such a row's response that are given with its prompt."""
    memory_tokens: int = Field(default=16, ge=1)
    """Tokens behind them that must all be the likeliest; shorter rows are left out."""

    @property
    def asked(self) -> list[str]:
        """The fields that ask for something."""
        fields = ("own_text_items", "reasoning_items", "memory_rows")
        return [name for name in fields if getattr(self, name)]
