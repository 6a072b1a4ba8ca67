"""Texts that go on in several ways, and what they begin with read once, through a model's body.

A text (`Branching`) is a row of `packing`: its trunk, then its branches, each of which sees the
trunk and itself. So the trunk is computed once for all of them. What several texts begin with,
their stem, is a row of its own, which the others see as well.

Shapes: L tokens of a text, T of all texts, N scored tokens, H hidden width.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from kdstudy.models import packing, parts


@dataclasses.dataclass(frozen=True, slots=True)
class Branching:
    """A text that goes on in several ways.

    Attributes:
        trunk: What all begin with, a token or more.
        branches: How each goes on, a token or more.
        scored: How many of the last tokens of trunk and branch are to be predicted, of each branch;
            less than all.
    """

    trunk: tuple[int, ...]
    branches: tuple[tuple[int, ...], ...]
    scored: tuple[int, ...]

    @property
    def targets(self) -> list[tuple[int, ...]]:
        """The tokens to be predicted, of each branch."""
        wholes = [self.trunk + branch for branch in self.branches]
        return [whole[-n:] for whole, n in zip(wholes, self.scored, strict=True)]

    @property
    def fragments(self) -> list[tuple[int, ...]]:
        """The trunk and what of each branch has a token behind it that is to be predicted."""
        return [self.trunk, *(branch[:-1] for branch in self.branches)]

    @property
    def length(self) -> int:
        """Tokens that are read."""
        return sum(map(len, self.fragments))


def may_branch(model: parts.Model) -> bool:
    """Return whether the model reads stem and trunk once: tried, as `packing.enable` tries rows.

    Args:
        model: In eval mode; `packing.enable` has been called.
    """
    base = parts.plain(model)
    if not packing.enabled(base):
        return False
    entries = base.config.get_text_config(decoder=True).vocab_size
    ids = torch.randint(entries, (40,), generator=torch.Generator().manual_seed(0)).tolist()
    cuts = [tuple(ids[a:b]) for a, b in ((0, 9), (9, 11), (11, 12), (12, 20), (20, 35), (35, 40))]
    texts = [Branching(cuts[0], tuple(cuts[1:4]), (3, 1, 8)), Branching(cuts[4], (cuts[5],), (5,))]
    with torch.no_grad():
        return all(
            parts.alike(_whole(base, texts, stem), _branched(base, texts, stem))
            for stem in ((), tuple(ids[-7:]))
        )


def branch_hidden(
    model: parts.Model,
    texts: Sequence[Branching],
    *,
    once: bool,
    stem: tuple[int, ...] = (),
) -> Tensor:
    """Return the final hidden states that predict each target of each branch, [N, H], in order.

    Args:
        model: Plain or PEFT causal LM.
        texts: What is read together.
        once: Read each trunk once (`may_branch`); else with every branch anew.
        stem: Tokens that stand before every trunk; none of them is to be predicted.
    """
    base = parts.plain(model)
    return _branched(base, texts, stem) if once else _whole(base, texts, stem)


def _whole(base: PreTrainedModel, texts: Sequence[Branching], stem: tuple[int, ...] = ()) -> Tensor:
    rows = [stem + text.trunk + b[:-1] for text in texts for b in text.branches]
    counts = [n for text in texts for n in text.scored]
    ends = itertools.accumulate(map(len, rows))
    places = [i for end, n in zip(ends, counts, strict=True) for i in range(end - n, end)]
    ids_T = torch.tensor([i for row in rows for i in row], device=base.device)
    places_N = torch.tensor(places, device=base.device)
    return packing.scored_hidden(base, ids_T, [len(row) for row in rows], places_N)


def _branched(
    base: PreTrainedModel, texts: Sequence[Branching], stem: tuple[int, ...] = ()
) -> Tensor:
    ids, positions, places, seen = [*stem], [*range(len(stem))], [], []
    if stem:
        seen.append(_seen([len(stem)], base.device))
    for text in texts:
        trunk, *fragments = text.fragments
        shared = range(len(ids), len(ids) + len(trunk))
        ids += trunk
        positions += range(len(stem), len(stem) + len(trunk))
        for fragment, n in zip(fragments, text.scored, strict=True):
            own = range(len(ids), len(ids) + len(fragment))
            places += [*shared, *own][-n:]
            ids += fragment
            before = len(stem) + len(trunk)
            positions += range(before, before + len(fragment))
        seen.append(_seen([len(trunk), *map(len, fragments)], base.device))
    lengths = (*([len(stem)] if stem else []), *(text.length for text in texts))
    rows = packing.Rows(
        lengths, packing.padded(lengths, base.device), seen=tuple(seen), stem=len(stem)
    )
    ids_T, positions_T, places_N = (
        torch.tensor(x, device=base.device) for x in (ids, positions, places)
    )
    return packing.packed_hidden(base, ids_T, lengths, rows, positions_T)[places_N]


def _seen(lengths: Sequence[int], device: torch.device) -> Tensor:
    """Return which tokens each token of a trunk and its branches sees: trunk and own fragment."""
    fragment_L = torch.repeat_interleave(
        torch.arange(len(lengths), device=device), torch.tensor(lengths, device=device)
    )
    same_LL = fragment_L[:, None] == fragment_L
    return ((fragment_L == 0) | same_LL).tril()
