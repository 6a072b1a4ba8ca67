"""Choices by likelihood; peer: lm-evaluation-harness's `hf` backend on the same requests.

Tasks are local files: invented questions in the forms of ARC (four options), PIQA (two long ones),
WinoGrande (options fill a blank), and ARC behind five exemplars, the same for every item (the
harness's `sampler: first_n`) or drawn for each (its default). Both sides get requests that the
harness made, and tokenise them themselves; the trial of our attention is in our time. The peer has
the model's default attention, float32 and batches of 8. Items per second are of the clock on the
wall; `cpu_ratio` is of the process's own processor time, which other programs move less.

It needs `pip install 'kdstudy[harness]'`.
"""

import functools
import json
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from shapes import QWEN, vocabulary
from transformers import LlamaConfig, LlamaForCausalLM

from kdstudy.evaluation.benchmarks import HarnessTask
from kdstudy.evaluation.likelihoods import likelihoods
from kdstudy.evaluation.options import Option, asked
from kdstudy.models import load
from kdstudy.models.zoo import path

ITEMS, BATCH, SHOTS = {"zoo-l": 60, "135M": 6}, 8, 5
WORDS = ("cat", "stone", "river", "glass", "heavy", "small", "water", "seed", "light", "metal")
FORMS = {
    "arc": "",
    "piqa": "",
    "winogrande": "",
    "arc, 5 shots": f"num_fewshot: {SHOTS}\nfewshot_config: {{sampler: first_n}}\n",
    "arc, 5 drawn shots": f"num_fewshot: {SHOTS}\n",
}
_PLAIN = (
    'doc_to_text: "Question: {{question}}\\nAnswer:"\ndoc_to_choice: "{{options}}"\n'
    'doc_to_target: "{{label}}"\n'
)
_BLANK = (
    'doc_to_text: label\ndoc_to_target: "{{behind}}"\n'
    'doc_to_choice: "{{[before + options[0], before + options[1]]}}"\n'
)


def run(repeats: int) -> list[dict[str, float | str]]:
    """Return a row for each model and task."""
    from lm_eval.models.huggingface import HFLM

    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for size, items in ITEMS.items():
            folder = _model(size, Path(scratch))
            ours = load.load_model(folder, precision="float32")
            tokenizer = load.load_tokenizer(folder)
            peer = HFLM(pretrained=str(folder), dtype="float32", device="cpu", batch_size=BATCH)
            for form in FORMS:
                requests = _requests(form, items, Path(scratch))
                sides = (
                    functools.partial(_theirs, peer, requests),
                    functools.partial(_ours, ours, tokenizer, requests),
                )
                case = f"{size}, {form}, {items} items, {torch.get_num_threads()} threads"
                rows.append({"case": case} | _row(*sides, len(requests), repeats))
    return rows


Requests = dict[str, list[Option]]
Found = dict[str, list[float]]


def _row(
    theirs: Callable[[], Found], ours: Callable[[], Found], items: int, repeats: int
) -> dict[str, float | str]:
    best: dict[str, list[tuple[float, float]]] = {"peer": [], "ours": []}
    for _ in range(repeats):
        found = {}
        for name, side in (("peer", theirs), ("ours", ours)):
            wall, cpu = time.perf_counter(), time.process_time()
            found[name] = side()
            best[name].append((time.perf_counter() - wall, time.process_time() - cpu))
        apart = max(
            abs(a - b)
            for name, mine in found["ours"].items()
            for a, b in zip(mine, found["peer"][name], strict=True)
        )
        if apart > 2e-3:
            raise SystemExit(f"likelihood: log-probabilities differ by {apart:g}")
    wall, cpu = (
        {name: min(times[i] for times in part) for name, part in best.items()} for i in (0, 1)
    )
    return {
        "peer": "lm-evaluation-harness, hf",
        "ratio": wall["peer"] / wall["ours"],
        "cpu_ratio": cpu["peer"] / cpu["ours"],
        "items_per_second": items / wall["ours"],
        "items_per_second_peer": items / wall["peer"],
        "cpu_seconds": cpu["ours"],
        "cpu_seconds_peer": cpu["peer"],
        "largest_difference": apart,
    }


def _ours(model: Any, tokenizer: Any, requests: Requests) -> Found:
    batches = likelihoods(model, tokenizer, requests)
    return {name: [*scored.logprobs] for batch in batches for name, scored in batch.items()}


def _theirs(model: Any, requests: Requests) -> Found:
    from lm_eval.api.instance import Instance

    asks = [(name, o.context, o.continuation) for name, found in requests.items() for o in found]
    instances = [Instance("loglikelihood", {}, ask[1:], i) for i, ask in enumerate(asks)]
    found: Found = {name: [] for name in requests}
    said = model.loglikelihood(instances, disable_tqdm=True)
    for (name, *_), (logprob, _) in zip(asks, said, strict=True):
        found[name].append(logprob)
    return found


def _requests(form: str, items: int, scratch: Path) -> Requests:
    """Return what the harness asks of each item, by its id."""
    rng = random.Random(form)
    name = form.replace(", ", "_").replace(" ", "_")
    data = scratch / f"{name}.jsonl"
    docs = [_doc(form, rng) for _ in range(items + SHOTS)]
    data.write_text("".join(json.dumps(doc) + "\n" for doc in docs[SHOTS:]))
    (scratch / f"{name}_train.jsonl").write_text(
        "".join(json.dumps(doc) + "\n" for doc in docs[:SHOTS] * 4)
    )
    file = scratch / f"{name}.yaml"
    file.write_text(
        f"task: bench_{name}\ndataset_path: json\ntest_split: test\ntraining_split: train\n"
        f"output_type: multiple_choice\nmetric_list: [{{metric: acc}}]\n"
        f"dataset_kwargs: {{data_files: {{test: {data}, train: {scratch}/{name}_train.jsonl}}}}\n"
        + (_BLANK if form == "winogrande" else _PLAIN)
        + FORMS[form]
    )
    task = HarnessTask(name, str(file)).load(None)
    return {example.id: asked(task, example) for example in task.examples}


def _doc(form: str, rng: random.Random) -> dict[str, Any]:
    def text(least: int, most: int) -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(least, most)))

    if form == "winogrande":
        parts = {"before": f"The {text(6, 12)} as the ", "behind": f"was {text(3, 8)}."}
        return parts | {"options": rng.sample(WORDS, 2), "label": rng.randrange(2)}
    count, least, most = (2, 8, 30) if form == "piqa" else (4, 1, 6)
    options = [f"{i} {text(least, most)}" for i in range(count)]
    return {"question": f"{text(8, 30)}?", "options": options, "label": rng.randrange(count)}


def _model(size: str, scratch: Path) -> Path:
    """Return the folder of a shipped model, or of a random Llama of that shape."""
    if size.startswith("zoo"):
        return path(size)
    hidden, intermediate, layers, heads, kv_heads = QWEN[size]
    config = LlamaConfig(
        vocab_size=vocabulary(size),
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        tie_word_embeddings=True,
        initializer_range=0.04,
    )
    torch.manual_seed(0)
    folder = scratch / size
    LlamaForCausalLM(config).save_pretrained(folder)
    load.load_tokenizer(path("zoo-l")).save_pretrained(folder)
    return folder
