"""How alike two models' next-token distributions are on held-out text, and how calibrated.

Both read the same text (teacher forcing) and are compared at every token of its responses, the
tokens that end them included. Softmax is float32 and over the vocabulary entries that both models
have, in nats; sums are float64. Rows are the clusters of a bootstrap: tokens of one text depend on
each other, so sums are kept per row.

Shapes: N response tokens, C of a chunk, H hidden width, V common vocabulary entries, M bins.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdstudy.data.prompts import Encoded
from kdstudy.models import packing, parts
from kdstudy.records import TokenRow
from kdstudy.stage import Progress, silent

BINS = 15
"""Equal-width bins of the likeliest token's probability (Guo et al. 2017, section 4)."""
SIGNATURE = f"tokens|response, forced|softmax:float32|nats|ece-bins:{BINS}|version:1"

# Logits of a chunk, and tokens (padding included) that go through the bodies at once.
_CHUNK, _CHUNK_CUDA = 2**22, 2**26
_TOGETHER, _TOGETHER_CUDA = 2**12, 2**14


def compare(
    student: parts.Model,
    teacher: parts.Model,
    rows: Sequence[tuple[str, Encoded]],
    width: int,
    progress: Progress = silent,
) -> list[TokenRow]:
    """Return the sums of every row, in the order given.

    Args:
        student: As in `token_by_token`, like the others.
        teacher: In eval mode.
        rows: Ids of examples and their text as both models read it.
        width: Vocabulary entries that both have.
        progress: Told how many rows are done.

    Raises:
        InputError: A model's logits are not its output layer's.
    """
    found: dict[int, TokenRow] = {}
    texts = [text for _, text in rows]
    for i, tokens in token_by_token(student, teacher, texts, width, progress):
        found[i] = _row(rows[i][0], tokens)
    return [found[i] for i in range(len(rows))]


def token_by_token(
    student: parts.Model,
    teacher: parts.Model,
    texts: Sequence[Encoded],
    width: int,
    progress: Progress = silent,
) -> Iterator[tuple[int, Mapping[str, np.ndarray]]]:
    """Yield a text's number and what is measured of each of its scored tokens, the longest first.

    No tensor of all tokens times the vocabulary is made: texts go through the bodies a few at a
    time, and their hidden states through the heads in chunks.

    Args:
        student: In eval mode, on the teacher's device.
        teacher: In eval mode.
        texts: As both models read them.
        width: Vocabulary entries that both have (`heads.common_width`).
        progress: Told how many texts are done.

    Yields:
        By name, float64, a number per token in nats, shares or 0 and 1: `kl_teacher_student`,
        `kl_student_teacher`, `agree` (same likeliest token); of `student` and `teacher` `ce_` of
        the text's token, `confidence_` of the likeliest, and `hit_`: that is the text's.

    Raises:
        InputError: A model's logits are not its output layer's.
    """
    for model in (student, teacher):
        assert not any(module.training for module in model.modules()), "dropout would be measured"
        parts.require_known_head(model)
        packing.enable(model)
    order = sorted(range(len(texts)), key=lambda i: len(texts[i].ids), reverse=True)
    done = 0
    for group in _groups(order, texts, student.device):
        read = [texts[i] for i in group]
        counts = [len(text.scored) for text in read]
        ends = np.cumsum(counts)
        tokens = _tokens(student, teacher, read, width)
        for i, stop, count in zip(group, ends, counts, strict=True):
            yield i, {name: values[stop - count : stop] for name, values in tokens.items()}
        done += len(group)
        progress(done, len(texts), "row")


def summary(rows: Iterable[TokenRow]) -> dict[str, Any]:
    """Return the measures of all rows together, per token; of no tokens they are NaN.

    Returns:
        `rows`, `tokens`, `top1_agreement`, `kl_teacher_student`, `kl_student_teacher` and, of
        `teacher` and `student`, `ce_`, `ece_` and `bins_`: [tokens, mean confidence, accuracy] of
        each bin, None where it is empty.
    """
    rows = list(rows)
    n = sum(row.tokens for row in rows)
    total = np.float64(n) if n else np.nan
    means = {
        name: float(sum(getattr(row, name) for row in rows) / total)
        for name in (
            "agree", "kl_teacher_student", "kl_student_teacher", "ce_teacher", "ce_student",
        )
    }  # fmt: skip
    found = {"rows": len(rows), "tokens": n, "top1_agreement": means.pop("agree"), **means}
    for who in ("teacher", "student"):
        number, confidence, hits = (
            np.sum([getattr(row, f"{who}_{part}") for row in rows], axis=0).reshape(-1)
            for part in ("tokens", "confidence", "hits")
        )
        found[f"ece_{who}"] = float(np.abs(hits - confidence).sum() / total)
        found[f"bins_{who}"] = [
            [int(k), float(c / k), float(h / k)] if k else [0, None, None]
            for k, c, h in zip(number, confidence, hits, strict=True)
        ]
    return found


def _groups(
    order: Sequence[int], texts: Sequence[Encoded], device: torch.device
) -> Iterator[list[int]]:
    """Yield texts, the longest first, that the bodies read together."""
    most = _TOGETHER_CUDA if device.type == "cuda" else _TOGETHER
    start = 0
    while start < len(order):
        size = max(1, most // len(texts[order[start]].ids))
        yield list(order[start : start + size])
        start += size


@torch.inference_mode()
def _tokens(
    student: parts.Model, teacher: parts.Model, texts: Sequence[Encoded], width: int
) -> Mapping[str, np.ndarray]:
    """Return what is measured of each token, by name, float64, one row after another."""
    ids_T, places_N, targets_N = (x.to(student.device) for x in _places(texts))
    lengths = [len(text.ids) for text in texts]
    heads = [parts.head(model).narrowed(width) for model in (student, teacher)]
    states = [
        packing.scored_hidden(model, ids_T, lengths, places_N) for model in (student, teacher)
    ]
    entries = _CHUNK_CUDA if student.device.type == "cuda" else _CHUNK
    found: list[Tensor] = []
    for at in torch.arange(len(targets_N)).split(max(1, entries // width)):
        chunk = slice(int(at[0]), int(at[-1]) + 1)
        logs = [
            head.logits(hidden[chunk]).float().log_softmax(-1)
            for head, hidden in zip(heads, states, strict=True)
        ]
        found.append(_measured(*logs, targets_N[chunk]))
    names = ["kl_teacher_student", "kl_student_teacher", "agree"]
    for who in ("student", "teacher"):
        names += [f"ce_{who}", f"confidence_{who}", f"hit_{who}"]
    return dict(zip(names, torch.cat(found, 1).cpu().numpy(), strict=True))


def _places(texts: Sequence[Encoded]) -> tuple[Tensor, Tensor, Tensor]:
    """Return all ids, [T]; the place whose output predicts each response token; that token's id."""
    starts = itertools.accumulate((len(text.ids) for text in texts), initial=0)
    at = [start + p for start, text in zip(starts, texts, strict=False) for p in text.scored]
    places_N = torch.tensor(at, dtype=torch.long)
    ids_T = torch.tensor([i for text in texts for i in text.ids])
    return ids_T, places_N - 1, ids_T[places_N]


def _measured(s_CV: Tensor, t_CV: Tensor, targets_C: Tensor) -> Tensor:
    """Return everything measured of a chunk, one line a measure, float64."""
    tops = [log_CV.max(-1) for log_CV in (s_CV, t_CV)]
    lines = [_kl(t_CV, s_CV), _kl(s_CV, t_CV), tops[0].indices == tops[1].indices]
    for log_CV, top in zip((s_CV, t_CV), tops, strict=True):
        lines.append(-log_CV.gather(1, targets_C[:, None])[:, 0])
        lines += [top.values.exp(), top.indices == targets_C]
    return torch.stack([line.double() for line in lines])


def _kl(p_CV: Tensor, q_CV: Tensor) -> Tensor:
    """Return KL(P || Q), [C], of log-probabilities; what P never says costs nothing."""
    weight_CV = p_CV.exp()
    terms_CV = weight_CV * (p_CV - q_CV)
    return terms_CV.masked_fill_(weight_CV == 0, 0).sum(-1, dtype=torch.float64)


def _row(example_id: str, tokens: Mapping[str, np.ndarray]) -> TokenRow:
    bins = {}
    for who in ("teacher", "student"):
        confidence, hits = tokens[f"confidence_{who}"], tokens[f"hit_{who}"]
        # Bin m holds ((m - 1) / M, m / M].
        place = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
        bins[f"{who}_tokens"] = tuple(np.bincount(place, minlength=BINS).tolist())
        bins[f"{who}_confidence"] = tuple(np.bincount(place, confidence, BINS).tolist())
        bins[f"{who}_hits"] = tuple(np.bincount(place, hits, BINS).astype(int).tolist())
    sums = ("kl_teacher_student", "kl_student_teacher", "ce_teacher", "ce_student")
    return TokenRow(
        example_id=example_id,
        tokens=len(tokens["agree"]),
        agree=int(tokens["agree"].sum()),
        **{name: float(tokens[name].sum()) for name in sums},
        **bins,
    )
