"""The sampler: exact, the library's own greedy text, and blind to its neighbours."""

import numpy as np
import pytest
import tiny_models as tiny
import torch
from scipy.stats import chisquare
from torch.profiler import ProfilerActivity, profile
from transformers import MistralConfig, MistralForCausalLM

from kdstudy.config import schema
from kdstudy.models import load
from kdstudy.models.sample import BLOCK, _uniforms, draw, sample, seed_of

FALSE_ALARM = 1e-3
"""Probability with which a right sampler fails one test of fit; the seeds are fixed."""
ODD = 5 * BLOCK + 37
"""A vocabulary of several blocks and a piece."""
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


def exact(logits, temperature=1.0):
    """The distribution and its cumulative sums in float64."""
    scaled = logits.double().numpy() / temperature
    p = np.exp(scaled - scaled.max())
    return p / p.sum(), p.cumsum() / p.sum()


def assert_inverts(logits, u, temperature=1.0, tolerance=1e-6):
    """Check draws of one row of logits against the float64 inverse CDF, but for its borders."""
    got = draw(logits.expand(len(u), -1), torch.from_numpy(u), temperature).numpy()
    p, cdf = exact(logits, temperature)
    assert (p[got] > 0).all()
    assert (np.append(0, cdf)[got] <= u + tolerance).all()
    assert (u <= cdf[got] + tolerance).all()
    return got


def random_logits(vocabulary, scale=3.0):
    return scale * torch.randn(vocabulary, generator=torch.Generator().manual_seed(1))


def sliding(seed):
    """A model whose cache forgets, so that ours cannot stand in for it."""
    config = MistralConfig(
        vocab_size=tiny.VOCABULARY, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, sliding_window=6, eos_token_id=tiny.EOS,
        bos_token_id=None,
    )  # fmt: skip
    return tiny._seeded(MistralForCausalLM, config, seed, 4.0)


def eager(seed):
    """A model that adds its mask to the scores, whatever the mask's type."""
    model = tiny.qwen(seed)
    model.set_attn_implementation("eager")
    return model


@pytest.mark.parametrize("build", [tiny.qwen, tiny.llama, sliding, eager])
@pytest.mark.parametrize("tokens", [20, 100])  # 100: beyond the cache's first room
def test_greedy_text_is_that_of_transformers_generate(build, tokens):
    model = build(3)
    # Several, so that rows end at different steps.
    ends = [tiny.EOS, *range(3, 20)] if tokens == 20 else [tiny.EOS]
    got = run(model, temperature=0, tokens=tokens, eos_ids=ends)
    for prompt, text in zip(PROMPTS, got, strict=True):
        want = model.generate(
            torch.tensor([prompt]),
            max_new_tokens=tokens,
            do_sample=False,
            eos_token_id=ends,
            pad_token_id=2,
        )[0, len(prompt) :].tolist()
        assert list(text.ids) == want
        assert text.stop == ("eos" if want[-1] in ends else "length")
    assert tokens == 100 or len({len(text.ids) for text in got}) > 1


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


def test_a_row_that_takes_a_finished_ones_place_keeps_its_own_past():
    model, rng = tiny.qwen(2), np.random.default_rng(3)
    prompts = [rng.integers(3, 50, length).tolist() for length in rng.integers(1, 9, 30)]
    budgets = rng.integers(1, 40, 30).tolist()
    together = run(model, prompts, tokens=budgets, eos_ids=[])
    for i, prompt in enumerate(prompts):
        assert run(model, [prompt], tokens=budgets[i], seeds=[i], eos_ids=[]) == [together[i]]


def test_uniforms_are_finer_than_a_rare_token():
    numbers = _uniforms([1, 2], 2, 1000)
    assert (numbers % 2**-24 > 0).all()
    assert (numbers[1] == np.random.Generator(np.random.PCG64(2)).random(1000)).all()


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
    assert chisquare(seen[want > 0], want[want > 0]).pvalue > FALSE_ALARM


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_of_a_vocabulary_of_several_blocks_follow_the_exact_distribution(temperature):
    logits, draws = random_logits(ODD, 1.0), 200_000
    u = torch.from_numpy(np.random.default_rng(7).random(draws))
    counts = draw(logits.expand(draws, -1), u, temperature).bincount(minlength=ODD).numpy()
    want = exact(logits, temperature)[0] * draws
    likely = want > 5
    seen = np.append(counts[likely], counts[~likely].sum())
    want = np.append(want[likely], want[~likely].sum())
    assert chisquare(seen[want > 0], want[want > 0]).pvalue > FALSE_ALARM


@pytest.mark.parametrize("vocabulary", [1, 2, BLOCK - 1, BLOCK, BLOCK + 1, ODD, 20 * BLOCK])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_draw_is_the_float64_inverse_cdf(vocabulary, dtype):
    u = np.append((np.arange(4000) + 0.5) / 4000, [0, 2**-53, 1 - 2**-53])
    got = assert_inverts(random_logits(vocabulary).to(dtype), u, 0.7)
    assert (np.diff(got[:4000]) >= 0).all()


@pytest.mark.parametrize("p", [1e-6, 1e-7])
def test_a_rare_token_of_a_large_vocabulary_is_drawn_with_its_probability(p):
    vocabulary, rare, step = 151_936, 100_003, p / 200
    logits = random_logits(vocabulary)
    rest = logits.double().exp().sum() - logits[rare].double().exp()
    logits[rare] = (rest * p / (1 - p)).log()
    true, cdf = exact(logits)
    # Rounding of float32 may move the token's stretch, but must not change its length.
    around = cdf[rare] - true[rare] / 2 + step * np.arange(-500, 500)
    got = assert_inverts(logits, around)
    assert (got == rare).sum() * step == pytest.approx(p, rel=0.02)


def test_a_nucleus_holds_the_likeliest_tokens_and_no_others():
    p = torch.tensor([[0.1, 0.4, 0.2, 0.3]])
    u = torch.linspace(0, 0.9999, 10_000, dtype=torch.float64)
    counts = {}
    for top_p, want in [(0.3, [1]), (0.45, [1, 3]), (0.75, [1, 2, 3]), (1.0, [0, 1, 2, 3])]:
        tokens = draw(p.log().expand(len(u), 4), u, 1.0, top_p)
        assert sorted(set(tokens.tolist())) == want
        counts[top_p] = tokens.bincount(minlength=4) / len(u)
    torch.testing.assert_close(counts[0.45], torch.tensor([0, 4 / 7, 0, 3 / 7]), atol=1e-3, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("nothing", [-1e4, -float("inf")])
@pytest.mark.parametrize("likely", [[400], [0], [ODD - 1], [BLOCK - 1, BLOCK], [5, ODD - 1]])
def test_a_token_without_probability_is_never_drawn(dtype, nothing, likely):
    logits = torch.full((ODD,), nothing, dtype=dtype)
    logits[likely] = 1e4 if nothing == -1e4 else -3.0
    u = torch.tensor([0.0, 2**-53, 0.25, 0.5, 0.75, 1 - 2**-24, 1 - 2**-53], dtype=torch.float64)
    tokens = draw(logits.expand(len(u), -1), u, 1.0).tolist()
    assert tokens == [likely[int(number * len(likely))] for number in u.tolist()]


@pytest.mark.parametrize("bad", [[float("nan"), 0.0], [float("inf"), 0.0], [-float("inf")] * 2])
def test_logits_that_are_no_distribution_are_an_error(bad):
    logits = torch.stack([torch.zeros(2), torch.tensor(bad)])
    with pytest.raises(ValueError, match="not a distribution"):
        draw(logits, torch.zeros(2, dtype=torch.float64), 1.0)


@pytest.mark.parametrize("vocabulary", [7, ODD, 151_936])
def test_a_draw_depends_on_its_row_alone_and_leaves_the_logits_as_they_were(vocabulary):
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(33, vocabulary, generator=generator)
    u = torch.rand(33, dtype=torch.float64, generator=generator)
    before = logits.clone()
    together = draw(logits, u, 0.9)
    assert torch.equal(draw(logits.flip(0), u.flip(0), 0.9).flip(0), together)
    assert torch.equal(
        torch.cat([draw(logits[i : i + 1], u[i : i + 1], 0.9) for i in range(33)]), together
    )
    narrow = draw(logits[:, : vocabulary - 2], u, 0.9)
    assert torch.equal(draw(logits[:, : vocabulary - 2].clone(), u, 0.9), narrow)
    assert narrow.max() < vocabulary - 2
    assert torch.equal(logits, before)


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


@pytest.mark.parametrize("seed", range(3))
def test_a_frozen_heads_weights_are_not_copied_for_every_row(seed):
    model = tiny.qwen(seed, width=20, vocabulary=977)
    trained = run(model, temperature=0)
    model.requires_grad_(False)
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as seen:
        assert run(model, temperature=0) == trained
    batched = [event.input_shapes[1] for event in seen.events() if event.name == "aten::bmm"]
    assert not [shape for shape in batched if 977 in shape]
