"""Every text of a tiny model, and what MiniLLM's gradient is over all of them."""

import pytest
import tiny_models as tiny
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from kdstudy.data.prompts import Encoded
from kdstudy.distill import batches
from kdstudy.distill.model import DistillModel
from kdstudy.distill.teacher import LiveTeacher
from kdstudy.methods.minillm import MiniLLM

CPU = torch.device("cpu")
# Four tokens, one of which ends a text, and texts of at most three of them after a prompt of one.
V, LONGEST, PROMPT = 4, 3, (2,)
# The paper's gradient without what biases it: division by lengths, and another's text.
UNBIASED = {"length_normalised": False, "teacher_share": 0.0}


def policy(**fields):
    """Return what a token that the student drew is charged."""
    return MiniLLM(**fields).recipe().pace().objective(0.0, sampled=True)


def in_double(seed):
    """A model of which every part computes in float64: Qwen's norms, for one, do not."""
    config = GPT2Config(
        vocab_size=V, n_positions=32, n_embd=16, n_layer=2, n_head=2, bos_token_id=None,
        eos_token_id=tiny.EOS, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = GPT2LMHeadModel(config).double().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(20)
    return model


def every_text(longest):
    """All texts that can be drawn: ended by EOS, or by their budget."""
    texts = [()]
    for _ in range(longest):
        going = [y for y in texts if tiny.EOS not in y]
        texts = [y for y in texts if tiny.EOS in y] + [(*y, i) for y in going for i in range(V)]
    return texts


def log_steps(model, texts, tau=1.0):
    """Return the log-probabilities of every step of each text, [tokens, V], from whole logits."""
    found = []
    for y in texts:
        whole = model(input_ids=torch.tensor([[*PROMPT, *y]])).logits[0]
        found.append((whole[len(PROMPT) - 1 : -1] / tau).log_softmax(-1))
    return found


def log_texts(steps, texts):
    return torch.stack(
        [step[range(len(y)), list(y)].sum() for step, y in zip(steps, texts, strict=True)]
    )


def gradient(value, model):
    return torch.cat([g.ravel() for g in torch.autograd.grad(value, list(model.parameters()))])


def texts_kl(pair, texts):
    """KL(S || T) of texts by its definition, with a gradient; and the texts' probabilities."""
    ours, theirs = (log_texts(log_steps(model, texts), texts) for model in pair)
    assert ours.exp().sum().item() == pytest.approx(1, abs=1e-12)
    return (ours.exp() * (ours - theirs.detach())).sum(), ours.exp().detach()


def fused_gradient(pair, texts, weight, objective, rewards=()):
    """Return loss and gradient of the weighted sum over texts, through what is trained."""
    student, teacher = pair
    model = DistillModel(student, MiniLLM().recipe(), LiveTeacher(teacher, V))
    batch = batches.collate(
        [Encoded((*PROMPT, *y), len(PROMPT)) for y in texts],
        batches.Weighing(),
        CPU,
        weights=weight.tolist(),
        sampled=True,
        objective=objective,
        rewards=rewards,
    )
    student.zero_grad()
    (loss,) = model(batch, 1)
    loss.backward()
    return loss.item(), torch.cat([p.grad.ravel() for p in student.parameters()])
