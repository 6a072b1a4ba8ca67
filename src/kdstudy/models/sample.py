"""One batch sampler, for on-policy training and for evaluation.

Shapes: B prompts, A prompts still being written, C of them drawn together, V vocabulary entries,
K pieces of a row.

Why not `model.generate`: it draws a whole batch from one random stream, so that a text depends on
its neighbours, and it keeps computing rows that have finished. `bench/decode.py` compares the two.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from kdstudy.errors import InputError
from kdstudy.models import parts, selfcheck
from kdstudy.models.decoding import BatchDecoder, opened
from kdstudy.records import content_id

# The first level of the inverse CDF sums this many entries at a time: few enough that the second
# level costs nothing, enough that a vocabulary of 150,000 makes a short list of sums.
BLOCK = 512
# Up to here one level is faster.
_FLAT = 4 * BLOCK
# On a CPU, probabilities are made for so many entries at once, in memory that the next rows use
# again: a whole batch of them would be paged in afresh, which takes longer than computing them.
_CHUNK = 1 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class Sampled:
    """What a model wrote after one prompt.

    Attributes:
        ids: The tokens; the first end-of-sequence token is kept and is the last.
        stop: `eos` when the model ended it, `stop` when `stopped` did, `length` when the token
            budget did.
    """

    ids: tuple[int, ...]
    stop: Literal["eos", "stop", "length"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Beside:
    """A second model whose distribution is mixed into the one that tokens are drawn from.

    Attributes:
        model: As the first, with the same tokens.
        share: Its weight in the mixture, above 0 and below 1.
    """

    model: parts.Model
    share: float


def seed_of(*parts: str | int) -> int:
    """Return a 63-bit seed of the parts: equal parts, equal seed, on every machine."""
    return int(content_id(*map(str, parts)), 16) >> 1


@torch.inference_mode()
def sample(
    model: parts.Model,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int | Sequence[int],
    temperature: float,
    top_p: float = 1.0,
    seeds: Sequence[int] = (),
    eos_ids: Sequence[int],
    pad_id: int,
    width: int | None = None,
    stopped: Callable[[Sequence[int]], bool] | None = None,
    beside: Beside | None = None,
) -> list[Sampled]:
    """Return one completion per prompt, in order.

    Sampling is exact, by inverse CDF: one uniform number per row and step, from a generator that
    the row's own seed starts. Neighbours and padding do not change a row's numbers.

    Args:
        model: Plain or PEFT causal LM in eval mode.
        prompts: Token ids, each at least one.
        max_new_tokens: Token budget, for all or one per prompt.
        temperature: 0 for greedy decoding.
        top_p: Nucleus: the smallest set of likeliest tokens with this much probability.
        seeds: One per prompt; unused when greedy.
        eos_ids: Tokens that end a completion.
        pad_id: Any id of the vocabulary; where padding stands is told by a mask.
        width: Only the first `width` vocabulary entries may be drawn; None for all.
        stopped: Asked after every token whether the tokens of a completion end it.
        beside: Tokens are drawn from a mixture of the model's distribution and this one's, both at
            `temperature`, which is above 0 then.

    Raises:
        InputError: A prompt has no tokens, or does not fit the model (`parts.require_room`), or the
            model is not causal (`selfcheck.decoding`).
    """
    assert not model.training, "dropout would be sampled as well"
    assert beside is None or temperature, "a mixture has no likeliest token of either"
    if not prompts:
        return []
    if not all(map(len, prompts)):
        raise InputError("a prompt has no tokens", why="there is nothing to go on from")
    budgets = _budgets(prompts, max_new_tokens)
    for writer in (model, beside.model) if beside else (model,):
        _require_room(writer, prompts, budgets)
    uniforms_BT = _uniforms(seeds, len(prompts), max(budgets)) if temperature else None
    texts: list[list[int]] = [[] for _ in prompts]
    steps = _begun(model, prompts, pad_id, beside, temperature, width)
    ends = frozenset(eos_ids)
    ended: set[int] = set()  # rows that `stopped` ended
    rows = list(range(len(prompts)))
    for t in range(max(budgets)):
        logits_AV = steps.logits_AV[:, :width]
        if uniforms_BT is None:
            next_A = logits_AV.argmax(-1)
        else:
            u_A = torch.from_numpy(uniforms_BT[rows, t]).to(logits_AV.device)
            next_A = draw(logits_AV, u_A, temperature, top_p)
        tokens = next_A.tolist()
        for row, token in zip(rows, tokens, strict=True):
            texts[row].append(token)
            if stopped is not None and token not in ends and stopped(texts[row]):
                ended.add(row)
        going = [
            a
            for a, (row, token) in enumerate(zip(rows, tokens, strict=True))
            if token not in ends and row not in ended and t + 1 < budgets[row]
        ]
        if not going:
            break
        going = _last_into_gaps(going)
        rows = [rows[a] for a in going]
        steps.advance(next_A, going)
    return [
        Sampled(tuple(ids), "eos" if ids[-1] in ends else "stop" if row in ended else "length")
        for row, ids in enumerate(texts)
    ]


def _budgets(prompts: Sequence[object], given: int | Sequence[int]) -> list[int]:
    budgets = [given] * len(prompts) if isinstance(given, int) else [*given]
    assert len(budgets) == len(prompts), "a token budget for every prompt"
    return budgets


def _require_room(
    model: parts.Model, prompts: Sequence[Sequence[int]], budgets: Sequence[int]
) -> None:
    longest = max(len(prompt) + budget for prompt, budget in zip(prompts, budgets, strict=True))
    parts.require_room(model, longest, max(map(max, prompts)))


def _begun(
    model: parts.Model,
    prompts: Sequence[Sequence[int]],
    pad_id: int,
    beside: Beside | None,
    temperature: float,
    width: int | None,
) -> BatchDecoder:
    """Return the decoder of the prompts: of the model, or of its mixture with the one beside."""

    def opened_on(writer: parts.Model) -> BatchDecoder:
        return opened(parts.plain(writer), prompts, pad_id, selfcheck.decoding(writer))

    if beside is None:
        return opened_on(model)
    both = opened_on(model), opened_on(beside.model)
    return _Mixture(both, beside.share, temperature, width)


class _Mixture:
    """Two models that decode the same rows, as one whose distribution is their mixture.

    Its logits are `temperature` times the mixture's logarithm, so that softmax at this temperature
    gives the mixture.
    """

    def __init__(
        self,
        both: tuple[BatchDecoder, BatchDecoder],
        share: float,
        temperature: float,
        width: int | None,
    ):
        self._both, self._temperature, self._width = both, temperature, width
        self._shares = math.log1p(-share), math.log(share)

    @property
    def logits_AV(self) -> Tensor:
        first_AV, second_AV = (
            torch.log_softmax(steps.logits_AV[:, : self._width].float() / self._temperature, -1)
            for steps in self._both
        )
        first, second = self._shares
        return self._temperature * torch.logaddexp(first_AV + first, second_AV + second)

    def advance(self, next_A: Tensor, going: list[int]) -> None:
        for steps in self._both:
            steps.advance(next_A, going)


def draw(logits_AV: Tensor, u_A: Tensor, temperature: float, top_p: float = 1.0) -> Tensor:
    """Return the token whose stretch of the cumulative distribution holds u, [A].

    Args:
        logits_AV: Logits of any floating-point type; -inf for a token that cannot be drawn.
        u_A: Numbers in [0, 1), float64: float32 ones are multiples of 2^-24, too coarse for a
            large vocabulary's rare tokens.
        temperature: Divides the logits; above 0.
        top_p: Nucleus.

    Raises:
        ValueError: A row holds NaN or +inf, or nothing but -inf.
    """
    rows, width = logits_AV.shape
    together = min(rows, max(1, _CHUNK // width)) if logits_AV.is_cpu else rows
    scaled_CV, p_CV = logits_AV.new_empty(2, together, width, dtype=torch.float32)
    drawn = []
    for logits_CV, u_C in zip(logits_AV.split(together), u_A.split(together), strict=True):
        scaled_CV, p_CV = scaled_CV[: len(u_C)], p_CV[: len(u_C)]
        torch.softmax(scaled_CV.copy_(logits_CV).div_(temperature), dim=-1, out=p_CV)
        if not p_CV[:, 0].isfinite().all():
            raise ValueError("logits are not a distribution: NaN, +inf, or -inf for every token")
        drawn.append(_invert(_nucleus(p_CV, top_p) if top_p < 1 else p_CV, u_C.double()[:, None]))
    return torch.cat(drawn)


def _nucleus(p_CV: Tensor, top_p: float) -> Tensor:
    sorted_CV, order_CV = p_CV.sort(dim=-1, descending=True)
    before_CV = sorted_CV.cumsum(-1) - sorted_CV
    return p_CV.scatter(-1, order_CV, sorted_CV.masked_fill(before_CV >= top_p, 0))


def _invert(p_CV: Tensor, u_C1: Tensor) -> Tensor:
    """Return the inverse CDF of p, which need not sum to 1, at u, [C].

    Two levels, the block and then the entry in it, so that one pass reads the whole row and the
    sums that differ by a rare token's probability are few enough for float64.
    """
    width = p_CV.shape[1]
    if width <= _FLAT:
        mass_CV = p_CV.double()
        return _pick(mass_CV, u_C1 * mass_CV.sum(-1, keepdim=True))[0][:, 0]
    blocks = width // BLOCK
    whole_CK = p_CV[:, : blocks * BLOCK].unflatten(1, (blocks, BLOCK)).sum(-1)
    rest_C1 = p_CV[:, blocks * BLOCK :].sum(-1, keepdim=True)
    mass_CK = torch.cat([whole_CK, rest_C1], dim=1).double()
    block_C1, left_C1 = _pick(mass_CK, u_C1 * mass_CK.sum(-1, keepdim=True))
    entry_CK = block_C1 * BLOCK + torch.arange(BLOCK, device=p_CV.device)
    inside_CK = p_CV.gather(1, entry_CK.clamp_max(width - 1)).masked_fill(entry_CK >= width, 0)
    within_C1, _ = _pick(inside_CK.double(), left_C1)
    return (block_C1 * BLOCK + within_C1)[:, 0]


def _pick(mass_CK: Tensor, target_C1: Tensor) -> tuple[Tensor, Tensor]:
    """Return the piece whose stretch of the cumulative mass holds the target, and what is left.

    Args:
        mass_CK: Mass of each piece; a piece without mass is never returned.
        target_C1: At least 0; beyond the total (by rounding) the last piece with mass is meant.

    Returns:
        Index of the piece and the target's distance from where the piece starts, [C, 1].
    """
    cdf_CK = mass_CK.cumsum(-1)
    piece_C1 = torch.minimum(
        torch.searchsorted(cdf_CK, target_C1, right=True),
        torch.searchsorted(cdf_CK, cdf_CK[:, -1:].clone()),
    )
    start_C1 = cdf_CK.gather(1, piece_C1) - mass_CK.gather(1, piece_C1)
    return piece_C1, (target_C1 - start_C1).clamp_min(0)


def _uniforms(seeds: Sequence[int], rows: int, steps: int) -> np.ndarray:
    if len(seeds) != rows:
        raise ValueError(f"{len(seeds)} seeds for {rows} prompts")
    return np.stack([np.random.Generator(np.random.PCG64(seed)).random(steps) for seed in seeds])


def _last_into_gaps(going: list[int]) -> list[int]:
    """Return the rows in an order in which few of them move: the last ones fill the gaps."""
    stay = {a for a in going if a < len(going)}
    movers = [a for a in going if a >= len(going)]
    return [a if a in stay else movers.pop() for a in range(len(going))]
