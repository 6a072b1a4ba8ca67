"""Options scored by likelihood; peer: lm-evaluation-harness's `hf` backend in batches of 8.

A random model of SmolLM2-135M's shape in float32; invented items of unlike length. Both sides get
the same contexts and options, and their sums must agree. Trials of what the model's attention
allows are part of our time.
"""

import random
from collections.abc import Iterator

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from measure import interleaved
from shapes import qwen
from transformers import AutoTokenizer

from kdstudy.data.synthetic import problems, take
from kdstudy.evaluation.likelihoods import likelihoods
from kdstudy.evaluation.options import Option
from kdstudy.models.zoo import path

ITEMS = 6
TOLERANCE = 2e-3
CASES = {
    "short options": (0, 1),
    "long options": (0, 12),
    "five shots": (5, 1),
}
"""Exemplars before an item, and words of an option."""


def run(repeats: int) -> list[dict[str, float | str]]:
    """Return seconds an item and their ratio, one row for each case."""
    tokenizer = AutoTokenizer.from_pretrained(path("zoo-m"))
    model = qwen("135M").float().eval()
    model.config.eos_token_id = tokenizer.eos_token_id
    peer = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8)
    rows = []
    for case, (shots, words) in CASES.items():
        items = dict(drawn(shots, words))
        asked = [
            Instance("loglikelihood", {}, (o.context, o.continuation), i)
            for options in items.values()
            for i, o in enumerate(options)
        ]

        def theirs(asked=asked) -> list[float]:
            return [float(one) for one, _ in peer.loglikelihood(asked, disable_tqdm=True)]

        def ours(items=items) -> list[float]:
            found = {}
            for batch in likelihoods(model, tokenizer, items):
                found |= batch
            return [value for name in items for value in found[name].logprobs]

        apart = max(abs(a - b) for a, b in zip(theirs(), ours(), strict=True))
        assert apart < TOLERANCE, f"{case}: sums differ by {apart}"
        timed = interleaved(
            lambda work=theirs: len(work()) // 4, lambda work=ours: len(work()) // 4, repeats
        )
        rows.append(
            {
                "case": case,
                "items/s": 1 / timed.ours,
                "peer": 1 / timed.peer,
                "ratio": timed.ratio,
                "largest difference": apart,
            }
        )
    return rows


def drawn(shots: int, words: int) -> Iterator[tuple[str, list[Option]]]:
    """Yield items of four options."""
    rng = random.Random(0)
    told = take(problems("train", 0), ITEMS + shots)
    before = "".join(f"Question: {p.question}\nAnswer: {p.rationale}\n\n" for p in told[:shots])
    for number, problem in enumerate(told[shots:]):
        context = f"{before}Question: {problem.question}\nAnswer:"
        said = [p.rationale.split() for p in rng.sample(told, 4)]
        texts = [f"{i} {' '.join(text[:words])}" for i, text in enumerate(said)]
        yield f"item {number}", [Option(str(i), context, f" {t}", t) for i, t in enumerate(texts)]
