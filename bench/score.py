"""Scoring 100,000 completions with every measure; peer: sacrebleu's and rouge-score's own calls.

One system's completions are graded (extraction by the corrected rule), then compared with another
system's, graded before: agreement, BLEU, ROUGE-L, steps. Texts are synthetic word problems of three
questions each, solved in different wordings, a fifth of them with a wrong number. The peers time
BLEU and ROUGE-L only, on some of the same pairs, and give the same values.

It runs in a process of its own, which never loads torch: peak memory is that of scoring.
"""

import itertools
import json
import random
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU

from kdstudy.data.synthetic import PRETRAIN_STYLES, STUDY_STYLE, Problem, problems
from kdstudy.evaluation.agreement import agreement, chance
from kdstudy.evaluation.benchmarks.base import Benchmark
from kdstudy.evaluation.fidelity import fidelity, pair
from kdstudy.evaluation.score import score
from kdstudy.records import Example, Generation, PairScore, Score

ITEMS, DRAWS = 20_000, 5
COMPARED = 2_000  # pairs that the peers measure
OPENINGS = (
    "Let us think about this one step at a time, and keep track of every quantity that we need.",
    "To solve the problem, we first write down what is given and then work out what is asked.",
    "There are three questions here, so we answer them in turn and state all results at the end.",
    "We can solve this with a few simple operations, as long as we do them in the right order.",
)
BRIDGE = "That settles the {} question, whose result is {}. Now we turn to the next question."


def run(repeats: int) -> list[dict[str, float | str]]:
    """Return seconds, peak memory and the ratio to the peers, one row for each repeat."""
    rows = []
    for _ in range(repeats):
        done = subprocess.run(
            [sys.executable, __file__], capture_output=True, text=True, check=True
        )
        rows.append(json.loads(done.stdout))
    return rows


def texts(parts: Sequence[Problem], rng: random.Random) -> Iterator[str]:
    """Yield solutions of one item, in the wordings that its problems are given in."""
    while True:
        told = [rng.choice(OPENINGS)]
        for place, part in zip(("first", "second", "last"), parts, strict=True):
            told += [part.rationale, BRIDGE.format(place, part.answer)]
        text = " ".join(told[:-1])
        if rng.random() < 0.2:
            digit, other = rng.sample("123456789", 2)
            text = text.replace(digit, other)
        yield text


def setting() -> tuple[Benchmark, list[Generation], list[Generation]]:
    """Return a benchmark and two systems' completions of it."""
    rng = random.Random(0)
    source = problems("train", 0, style=(STUDY_STYLE, *PRETRAIN_STYLES))
    examples, systems = [], ([], [])
    for item in range(ITEMS):
        parts = list(itertools.islice(source, 3))
        name = f"{item:016x}"
        question = " ".join(part.question for part in parts)
        examples.append(Example(id=name, instruction=question, answer=parts[-1].answer))
        for rows in systems:
            for draw, text in zip(range(DRAWS), texts(parts, rng), strict=False):
                rows.append(
                    Generation(
                        benchmark="three", example_id=name, sample=draw, completion=text,
                        stop="eos", tokens=len(text) // 4,
                    )
                )  # fmt: skip
    known = {"name": "three", "version": "1", "kind": "number", "chance": 0.0}
    return Benchmark(**known, examples=tuple(examples)), *systems


def main() -> None:
    """Score once and print one row as JSON."""
    benchmark, answers, other = setting()
    against = score(other, benchmark, "corrected")
    del other
    words = sum(len(g.completion.split()) for g in answers) / len(answers)
    started, cpu = time.perf_counter(), time.process_time()
    scores = score(answers, benchmark, "corrected")
    graded = time.perf_counter()
    pairs = pair(scores, against)
    paired = time.perf_counter()
    agreed = agreement(pairs, chance(scores, against))
    likeness = fidelity(pairs)
    done, cpu = time.perf_counter(), time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    row = {
        "completions": len(scores),
        "words_each": words,
        "grade_seconds": graded - started,
        "pair_seconds": paired - graded,
        "summary_seconds": done - paired,
        "seconds": done - started,
        "cpu_seconds": cpu,
        "peak_mib": peak / 1024,
        "agreement": agreed.rate,
        "bleu": likeness.mean_sentence_bleu,
        "steps": likeness.steps,
        "peer": "sacrebleu's sentence_score and rouge-score's RougeScorer",
    }
    print(json.dumps(row | _peers(scores, against, pairs, (paired - graded) / len(pairs))))


def _peers(
    scores: list[Score], against: list[Score], pairs: list[PairScore], ours: float
) -> dict[str, float]:
    """Return the peers' seconds per pair for BLEU and ROUGE-L, and their ratio to all of ours."""
    bleu, rouge = BLEU(effective_order=True), RougeScorer(["rougeL"], use_stemmer=True)
    texts = {(s.example_id, s.sample): s.completion for s in scores}
    references = {(s.example_id, s.sample): s.completion for s in against}
    keys = [(p.example_id, p.sample) for p in pairs[:: len(pairs) // COMPARED]]
    started = time.perf_counter()
    theirs = [
        (
            bleu.sentence_score(texts[key], [references[key]]).score,
            rouge.score(references[key], texts[key])["rougeL"].fmeasure,
        )
        for key in keys
    ]
    peer = (time.perf_counter() - started) / len(keys)
    mine = {(p.example_id, p.sample): (p.bleu, p.rouge_l) for p in pairs}
    for key, (their_bleu, their_rouge) in zip(keys, theirs, strict=True):
        if mine[key][0] != their_bleu or abs(mine[key][1] - their_rouge) > 1e-12:
            raise SystemExit("score: BLEU or ROUGE-L differs from the peers'")
    return {"peer_pair_seconds": peer, "our_pair_seconds": ours, "ratio": peer / ours}


if __name__ == "__main__":
    main()
