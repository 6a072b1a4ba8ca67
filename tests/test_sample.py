"""The sampler: exact, the library's own greedy text, and blind to its neighbours."""

import numpy as np
import pytest
import tiny_models as tiny
import torch
from scipy.stats import chisquare

from kdstudy.models import load
from kdstudy.models.sample import draw, sample, seed_of
from kdstudy.study import schema

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14], [20, 21], [30, 31, 32, 33]]


def run(model, prompts=PROMPTS, *, temperature=1.0, tokens=12, seeds=None, **more):
    return sample(
        model,
        prompts,
        max_new_tokens=tokens,
        temperature=temperature,
        seeds=range(len(prompts)) if seeds is None else seeds,
        eos_ids=more.pop("eos_ids", [tiny.EOS]),
        pad_id=more.pop("pad_id", 2),
        **more,
    )


@pytest.mark.parametrize("build", [tiny.qwen, tiny.llama])
def test_greedy_text_is_that_of_transformers_generate(build):
    model = build(3)
    ends = [tiny.EOS, *range(3, 20)]  # several, so that rows end at different steps
    got = run(model, temperature=0, tokens=20, eos_ids=ends)
    for prompt, text in zip(PROMPTS, got, strict=True):
        want = model.generate(
            torch.tensor([prompt]),
            max_new_tokens=20,
            do_sample=False,
            eos_token_id=ends,
            pad_token_id=2,
        )[0, len(prompt) :].tolist()
        assert list(text.ids) == want
        assert text.stop == ("eos" if want[-1] in ends else "length")
    assert len({len(text.ids) for text in got}) > 1


def test_the_first_end_of_sequence_is_kept_and_is_the_last_token():
    model = tiny.qwen(0, scale=0.5)  # nearly uniform: every row ends sooner or later
    texts = run(model, [[5]] * 50, tokens=200, seeds=range(50))
    assert {text.stop for text in texts} == {"eos", "length"}
    for text in texts:
        assert tiny.EOS not in text.ids[:-1]
        assert (text.ids[-1] == tiny.EOS) == (text.stop == "eos")
        assert text.stop == "eos" or len(text.ids) == 200


def test_neighbours_order_and_padding_do_not_change_a_draw():
    model = tiny.qwen(0)
    together = run(model)
    for i, prompt in enumerate(PROMPTS):
        assert run(model, [prompt], seeds=[i]) == [together[i]]
    backwards = run(model, PROMPTS[::-1], seeds=range(len(PROMPTS))[::-1])
    assert backwards == together[::-1]
    assert run(model, pad_id=17) == together
    assert run(model, seeds=range(5, 10)) != together


def test_a_budget_may_be_given_per_prompt():
    texts = run(tiny.qwen(0), tokens=[1, 5, 2, 7, 3], eos_ids=[])
    assert [len(text.ids) for text in texts] == [1, 5, 2, 7, 3]
    longer = run(tiny.qwen(0), tokens=9, eos_ids=[])
    assert all(b.ids[: len(a.ids)] == a.ids for a, b in zip(texts, longer, strict=True))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_first_and_second_tokens_follow_the_exact_distribution(temperature):
    model, draws = tiny.qwen(1, vocabulary=7, scale=2.0), 20_000
    texts = run(
        model,
        [[3, 4]] * draws,
        temperature=temperature,
        tokens=2,
        eos_ids=[],
        pad_id=0,
        seeds=[seed_of("test", i) for i in range(draws)],
    )
    with torch.no_grad():
        first = model(torch.tensor([[3, 4]])).logits[0, -1].double()
        pairs = torch.tensor([[3, 4, token] for token in range(7)])
        second = model(pairs).logits[:, -1].double()
    joint = torch.softmax(first / temperature, -1)[:, None] * torch.softmax(
        second / temperature, -1
    )
    counts = np.zeros((7, 7))
    for text in texts:
        counts[text.ids] += 1
    likely = joint.numpy() * draws > 5
    seen = np.append(counts[likely], counts[~likely].sum())
    want = np.append(joint.numpy()[likely] * draws, joint.numpy()[~likely].sum() * draws)
    assert chisquare(seen[want > 0], want[want > 0]).pvalue > 1e-3


def test_a_nucleus_holds_the_likeliest_tokens_and_no_others():
    p = torch.tensor([[0.1, 0.4, 0.2, 0.3]])
    u = torch.linspace(0, 0.9999, 10_000)
    counts = {}
    for top_p, want in [(0.3, [1]), (0.45, [1, 3]), (0.75, [1, 2, 3]), (1.0, [0, 1, 2, 3])]:
        tokens = draw(p.log().expand(len(u), 4), u, 1.0, top_p)
        assert sorted(set(tokens.tolist())) == want
        counts[top_p] = tokens.bincount(minlength=4) / len(u)
    torch.testing.assert_close(counts[0.45], torch.tensor([0, 4 / 7, 0, 3 / 7]), atol=1e-3, rtol=0)


def test_a_token_without_probability_is_never_drawn():
    logits = torch.full((3, 1000), -1e4)
    logits[:, 400] = 0.0
    u = torch.tensor([0.0, 0.5, 1 - 2**-24])
    assert draw(logits, u, 1.0).tolist() == [400, 400, 400]


def test_only_the_common_width_may_be_drawn():
    model = tiny.widen(tiny.qwen(0, scale=0.5), 200)
    texts = run(model, [[5]] * 20, tokens=20, seeds=range(20), width=tiny.VOCABULARY)
    assert max(max(text.ids) for text in texts) < tiny.VOCABULARY
    assert max(max(text.ids) for text in run(model, [[5]] * 20, tokens=20, seeds=range(20))) > 100


def test_a_peft_model_samples_with_its_adapter():
    model = load.add_adapter(tiny.qwen(0), schema.Lora(dropout=0.9), 0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(0))
    with pytest.raises(AssertionError, match="dropout"):
        run(model.train())
    text = run(model.eval())
    assert text == run(load.merge(model)) != run(tiny.qwen(0))


def test_no_prompts_no_texts_and_too_few_seeds_is_an_error():
    assert run(tiny.qwen(0), []) == []
    with pytest.raises(ValueError, match="2 seeds for 5 prompts"):
        run(tiny.qwen(0), seeds=[1, 2])
