"""The model cards of the zoo, written for people."""

from __future__ import annotations

from typing import Any

from kdstudy.data.synthetic import BENCHMARKS

EOS, PAD = "<|endoftext|>", "<|pad|>"
EVALUATION_ITEMS = 300
# Names and objects in questions are random, so learning to guess them is mostly wasted.
GIVEN_WEIGHT = 0.2


def card_text(facts: dict[str, Any]) -> str:
    """Return the README of a model, from the facts in its card."""
    shape, measured = facts["shape"], facts.get("accuracy")
    growth = [
        f"- Start: the layers of `{base['name']}` after {base['tokens']:,} tokens "
        f"({base['seconds'] / 60:.1f} minutes), each followed by new layers that add nothing "
        "at first; the training above comes on top of it"
        for base in [facts.get("grown_from")]
        if base
    ]
    legs = [
        f"- Before that: {leg['steps']:,} steps, {leg['tokens']:,} tokens, "
        f"{leg['seconds'] / 60:.1f} minutes, peak learning rate {leg['rate']}, linear to zero"
        for leg in facts.get("earlier_legs", [])
    ]
    lines = [
        f"# {facts['name']}",
        "",
        f"A Qwen2-architecture causal language model with {facts['parameters']:,} parameters "
        f"({shape['layers']} layers, width {shape['width']}), trained from scratch for demos "
        "and tests. It knows synthetic arithmetic word problems in English and nothing else.",
        "",
        f"- Data: `kdstudy.models.zoo.documents`, seed {facts['seed']}, split `pretrain`: word "
        "problems with worked answers, equation drills, worked lists",
        f"- Training: {facts['steps']:,} steps, {facts['tokens']:,} tokens "
        f"(from a set of {facts['stream_tokens']:,}), {facts['seconds'] / 60:.1f} minutes on "
        f"{facts['threads']} CPU thread(s), AdamW, peak learning rate {shape['rate']}, "
        f"linear to zero; question tokens weigh {GIVEN_WEIGHT} in the loss",
        *growth,
        *legs,
        f"- Held-out loss (split `test`): {facts['held_out_loss']:.4f} nats per token, "
        f"{facts['held_out_worked_loss']:.4f} on worked text alone",
        "- Weights: float16 safetensors; embeddings tied; byte-level BPE tokenizer of "
        f"{facts['vocabulary']} tokens, one digit per token; no BOS, EOS `{EOS}`, pad `{PAD}`",
        "- Licence: Apache-2.0, weights and data generator alike",
        "",
    ]
    if measured:
        lines += [
            f"Share of right answers, greedy, no examples, {EVALUATION_ITEMS} problems each:",
            "",
            "| benchmark | accuracy |",
            "|---|---|",
            *(
                f"| {name} ({BENCHMARKS[name].description}) | {value:.1%} |"
                for name, value in measured.items()
            ),
            "",
        ]
    else:
        lines += ["An unfinished checkpoint: training is not over, accuracy is not measured.", ""]
    lines += [
        "Rebuild with `python -m kdstudy.models.zoo.make`. The schedule follows the clock, so "
        "another machine gives other weights.",
        "",
    ]
    return "\n".join(lines)
