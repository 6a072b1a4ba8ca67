"""Choice by likelihood: brute force over whole sequences, batches, conventions, the harness."""

import copy
import random

import pytest
import tiny_models
import torch

from kdstudy.errors import InputError
from kdstudy.evaluation import likelihoods as module
from kdstudy.evaluation.benchmarks import from_rows
from kdstudy.evaluation.graders import chosen
from kdstudy.evaluation.likelihoods import likelihoods
from kdstudy.evaluation.options import Option
from kdstudy.models import branching, packing

TOKENIZER = tiny_models.tokenizer()
WORDS = ["a cat", "dogs 12", "no", "the answer is 7", "x", "3 + 4 = 7"]


def items(n=7, seed=0):
    """Items with 2 to 5 options of unlike length; the last by partial evaluation."""
    draw = random.Random(seed)
    found = {}
    for i in range(n):
        context = f"question: {' '.join(draw.choices(WORDS, k=draw.randint(1, 5)))}?\nanswer:"
        said = draw.sample(WORDS, draw.randint(2, 5))
        found[f"item{i}"] = [Option(w, context, f" {w}", w) for w in said]
    found["blank"] = [Option(w, f"so {w}", " is what it is.", w) for w in ("a cat", "x")]
    found["first"] = [Option(w, w, " is what it is.", w) for w in ("a cat", "dogs")]
    # What they begin with is scored as well.
    found["alike"] = [Option(w, "so", f" it is {w}", w) for w in ("a cat", "a car", "a cat 12")]
    return found


SHOTS = "question: 3 + 4?\nanswer: the answer is 7\n\n"


def behind_exemplars(asked, shots=SHOTS):
    """The same items behind one text; of the last the context is that text alone."""
    found = {
        name: [o._replace(context=shots + o.context) for o in options]
        for name, options in asked.items()
    }
    found["bare"] = [Option(w, shots.rstrip(), f" {w}", w) for w in ("a cat", "a car", "no")]
    return found


def brute_force(model, option):
    """The sum over the continuation's tokens, each sequence alone, float64, full log-softmax."""
    context, whole = (
        TOKENIZER.encode(t) for t in (option.context, option.context + option.continuation)
    )
    with torch.no_grad():
        logs = model(torch.tensor([whole])).logits[0].double().log_softmax(-1)
    return sum(float(logs[i - 1, whole[i]]) for i in range(len(context), len(whole)))


def scored(model, asked, tokenizer=TOKENIZER):
    batches = list(likelihoods(model, tokenizer, asked))
    return {name: row for batch in batches for name, row in batch.items()}


def used(monkeypatch):
    """Record in which of the two ways texts are read."""
    ways = []
    for name in ("_branched", "_whole"):
        real = getattr(branching, name)
        monkeypatch.setattr(
            branching, name, lambda *a, name=name, real=real: ways.append(name) or real(*a)
        )
    return ways


@pytest.mark.parametrize("make", [tiny_models.qwen, tiny_models.llama])
@pytest.mark.parametrize("packed", [True, False])
def test_log_probabilities_are_those_of_whole_sequences_in_float64(make, packed, monkeypatch):
    model, asked = make().double().eval(), items()
    wanted = {n: [brute_force(model, o) for o in options] for n, options in asked.items()}
    if not packed:
        monkeypatch.setattr(packing, "enable", lambda model: False)
    ways = used(monkeypatch)
    found = scored(model, asked)
    assert ways[-1] == ("_branched" if packed else "_whole")
    assert found.keys() == asked.keys()
    for name, row in found.items():
        assert row.logprobs == pytest.approx(wanted[name], abs=1e-6)
        assert row.tokens == tuple(len(o.continuation) for o in asked[name])
    assert min(min(values) for values in wanted.values()) < -20


def test_a_gpus_way_of_branching_is_the_same(monkeypatch):
    monkeypatch.setattr(packing, "_row_by_row", packing._side_by_side)
    model, asked = tiny_models.qwen().double().eval(), items()
    ways = used(monkeypatch)
    found = scored(model, asked)
    assert ways[-1] == "_branched"
    for name, row in found.items():
        wanted = [brute_force(model, o) for o in asked[name]]
        assert row.logprobs == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("as_on_a_gpu", [False, True])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("make", [tiny_models.qwen, tiny_models.llama])
@pytest.mark.parametrize("together", [1, 2**20])
def test_behind_exemplars_they_are_those_of_whole_sequences(
    make, packed, as_on_a_gpu, together, monkeypatch
):
    if as_on_a_gpu:
        monkeypatch.setattr(packing, "_row_by_row", packing._side_by_side)
    if not packed:
        monkeypatch.setattr(packing, "enable", lambda model: False)
    monkeypatch.setattr(module, "_TOGETHER", together)
    model, asked = make().double().eval(), behind_exemplars(items(4, seed=3))
    stems = []
    real = branching.branch_hidden
    monkeypatch.setattr(
        branching, "branch_hidden", lambda *a, **k: stems.append(k["stem"]) or real(*a, **k)
    )
    found = scored(model, asked)
    for name, row in found.items():
        wanted = [brute_force(model, o) for o in asked[name]]
        assert row.logprobs == pytest.approx(wanted, abs=1e-6)
    # Of the bare item's context a token is left for its own trunk.
    shared = tuple(TOKENIZER.encode(SHOTS.rstrip())[:-1]) if packed else ()
    assert set(stems) == {shared}


def test_short_beginnings_and_single_items_are_read_with_each_item():
    texts = [branching.Branching((*range(n), 99), ((1,), (2,)), (1, 1)) for n in (40, 50)]
    assert module._stem(texts) == tuple(range(40))
    assert module._stem(texts[:1]) == () and module._stem([]) == ()
    few = [branching.Branching((*range(20), k), ((1,), (2,)), (1, 1)) for k in (98, 99)]
    assert module._stem(few) == ()
    # What is to be predicted stays: of 45 tokens the last 11 of the trunk are.
    deep = [branching.Branching(tuple(range(45)), ((1,), (2,)), (12, 3)) for _ in range(2)]
    assert module._stem(deep) == tuple(range(33))


def test_exemplars_are_read_once_a_batch(monkeypatch):
    model, asked = tiny_models.qwen().eval(), behind_exemplars(items(6))
    read = []
    real = packing._hidden
    monkeypatch.setattr(
        packing, "_hidden", lambda base, **k: read.append(k["input_ids"].numel()) or real(base, **k)
    )
    scored(model, asked)
    behind = read[-1]
    read.clear()
    scored(model, items(6))
    # The bare item's own tokens, and one of each other item's that the stem had to leave.
    own = len(" a cat") + len(" a car") + len(" no")
    assert behind <= read[-1] + len(SHOTS) + own + 3 * len(asked)


@pytest.mark.parametrize("together", [1, 60, 2**20])
def test_neither_batches_nor_order_change_a_number(together, monkeypatch):
    model, asked = tiny_models.qwen().eval(), items(12)
    whole = scored(model, asked)
    monkeypatch.setattr(module, "_TOGETHER", together)
    monkeypatch.setattr(module, "_CHUNK", 3 * tiny_models.VOCABULARY)
    names = list(asked)
    random.Random(1).shuffle(names)
    other = scored(model, {name: asked[name] for name in names})
    for name in asked:
        assert other[name].logprobs == pytest.approx(whole[name].logprobs, abs=2e-5)


def test_what_options_have_in_common_is_read_once(monkeypatch):
    model, asked = tiny_models.qwen().eval(), items(3)
    read = []
    real = packing._hidden
    monkeypatch.setattr(
        packing, "_hidden", lambda base, **k: read.append(k["input_ids"].numel()) or real(base, **k)
    )
    scored(model, asked)
    # A token is a character: what the whole texts begin with, and the rest of each but its last.
    wholes = [[o.context + o.continuation for o in options] for options in asked.values()]
    same = [
        next(i for i, signs in enumerate(zip(*texts, strict=False)) if len(set(signs)) > 1)
        for texts in wholes
    ]
    rest = [len(t) - n - 1 for texts, n in zip(wholes, same, strict=True) for t in texts]
    assert read[-1] == sum(same) + sum(rest)
    apart = sum(len(t) - 1 for texts in wholes for t in texts)
    assert read[-1] < apart / 2


def test_blanks_at_the_end_of_a_context_belong_to_the_option():
    model = tiny_models.qwen().eval()
    found = scored(
        model,
        {
            "a": [Option("x", "question: ", "x", "x"), Option("y", "question: ", "y", "y")],
            "b": [Option("x", "question:", " x", "x"), Option("y", "question:", " y", "y")],
        },
    )
    assert found["a"] == found["b"]
    assert found["a"].tokens == (2, 2)


def test_an_option_that_is_no_token_is_refused():
    model = tiny_models.qwen().eval()
    with pytest.raises(InputError, match=r"a: its option '' is no token of its own"):
        scored(model, {"a": [Option("x", "question:", "", "x")]})


def test_a_tokenizer_that_closes_every_text_is_refused():
    closing = copy.deepcopy(TOKENIZER)
    real = closing.encode
    closing.encode = lambda text, add_special_tokens=True: [
        *real(text, add_special_tokens=add_special_tokens),
        *([closing.eos_token_id] if add_special_tokens else []),
    ]
    with pytest.raises(InputError, match="behind every text"):
        scored(tiny_models.qwen().eval(), items(2), closing)


class Interrupted(Exception):
    """What ends a run in its middle."""


def test_an_interrupted_run_goes_on_where_it_was_with_the_same_numbers(tmp_path, monkeypatch):
    """Two batches are finished and a third is half written: it and what follows is computed."""
    monkeypatch.setattr(module, "_TOGETHER", 250)
    rows = [
        {"question": f"what is {'x' * i} and more of it?", "options": ["a", "bb", "c c"],
         "answer": "A"}
        for i in range(24)
    ]  # fmt: skip
    whole = from_rows("mine", rows, "choice")
    grader = chosen("likelihood", "mine", "choice", ())
    model, journal = tiny_models.qwen(0), tmp_path / "journal.jsonl"
    computed, real = [], module._sums

    def counted(model, texts, *how):
        computed.append(len(texts))
        return real(model, texts, *how)

    def stop(done, of, unit):
        if len(computed) == 3:
            raise Interrupted

    monkeypatch.setattr(module, "_sums", counted)
    want = module.of_benchmark(model, TOKENIZER, whole, grader)
    batches = len(computed)
    assert batches > 4
    computed.clear()
    with pytest.raises(Interrupted):
        module.of_benchmark(model, TOKENIZER, whole, grader, stop, journal)
    lines = journal.read_bytes().splitlines(keepends=True)
    assert len(lines) == 3
    journal.write_bytes(b"".join(lines[:2]) + lines[2][:-20])
    computed.clear()
    assert module.of_benchmark(model, TOKENIZER, whole, grader, journal=journal) == want
    assert len(computed) == batches - 2
    computed.clear()
    assert module.of_benchmark(model, TOKENIZER, whole, grader, journal=journal) == want
    assert not computed
