"""Benches: each a ratio against a named peer, both measured in this run.

python bench/run.py sample [--json] [--repeats 5]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

from kdstudy.models.sample import sample

# (width, layers, vocabulary, rows, token budget); about 1 token in 40 ends a text.
SAMPLE_CASES = [
    (64, 3, 2048, 64, 100),
    (64, 3, 2048, 256, 100),
    (128, 4, 2048, 64, 100),
    (128, 4, 2048, 256, 100),
    (64, 2, 152064, 64, 20),
]


def seconds_per_token(work: Callable[[], int], repeats: int) -> float:
    """Return the median seconds per useful token of `work`, which returns how many it made."""
    work()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        made = work()
        times.append((time.perf_counter() - started) / made)
    return statistics.median(times)


def bench_sample(repeats: int) -> list[dict[str, float | str]]:
    """Sampling of ragged batches; peer: transformers' `generate` on the same model and prompts."""
    return [_sample_case(*case, repeats) for case in SAMPLE_CASES]


def _sample_case(
    width: int, layers: int, vocabulary: int, rows: int, budget: int, repeats: int
) -> dict[str, float | str]:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=3 * width,
        num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=2,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config).eval()
    ends = list(range(vocabulary // 40))
    prompts_BL = torch.randint(len(ends), vocabulary, (rows, 56))
    settings = GenerationConfig(
        max_new_tokens=budget, do_sample=True, top_k=0, pad_token_id=0, eos_token_id=ends
    )
    ends_E = torch.tensor(ends)

    def peer() -> int:
        made_BT = model.generate(
            input_ids=prompts_BL,
            attention_mask=torch.ones_like(prompts_BL),
            generation_config=settings,
        )[:, prompts_BL.shape[1] :]
        ended_BT = torch.isin(made_BT, ends_E).long()
        return int((ended_BT.cumsum(1) - ended_BT == 0).sum())

    def ours() -> int:
        texts = sample(
            model, prompts_BL.tolist(), max_new_tokens=budget, temperature=1.0,
            seeds=range(rows), eos_ids=ends, pad_id=0,
        )  # fmt: skip
        return sum(len(text.ids) for text in texts)

    theirs, mine = seconds_per_token(peer, repeats), seconds_per_token(ours, repeats)
    return {
        "case": f"width {width}, {layers} layers, vocabulary {vocabulary}, {rows} rows",
        "peer": "transformers generate",
        "peer_tokens_per_second": 1 / theirs,
        "tokens_per_second": 1 / mine,
        "ratio": theirs / mine,
    }


BENCHES = {"sample": bench_sample}


def main() -> None:
    """Run one bench and print its table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=BENCHES)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    rows = BENCHES[arguments.name](arguments.repeats)
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return
    for row in rows:
        print(
            f"{row['case']}: {row['tokens_per_second']:,.0f} tokens/s, "
            f"{row['peer']} {row['peer_tokens_per_second']:,.0f}: {row['ratio']:.2f}x"
        )


if __name__ == "__main__":
    main()
