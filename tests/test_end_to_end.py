"""The product itself, on the shipped models: run, rerun, change, damage (kills: tests/faults)."""

import csv
import json
import subprocess
from pathlib import Path

import forked
import pytest
import yaml

STUDY = {
    "name": "tiny",
    "teachers": ["zoo-s"],
    "students": ["zoo-xs"],
    "corpus": {"name": "synthetic", "rows": 72, "validation_rows": 24},
    "benchmarks": ["synth_addsub"],
    "limit": 37,
    "methods": ["sft", "seqkd", "word_kd", "revkd", "gkd"],
    "train": {"epochs": 1, "batch_size": 8, "learning_rate": 2e-3, "max_length": 192,
              "evaluations": 2},
    "generation": {"max_new_tokens": 64, "batch_size": 300},
}  # fmt: skip


def kdstudy(folder, *arguments):
    return forked.kdstudy(*arguments, "--store", folder / "store", cwd=folder)


def write(folder, **fields):
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY | fields))


def run(folder):
    done = kdstudy(folder, "run", "study.yaml")
    assert done.returncode == 0, done.stderr
    return done


def output(folder, name="results.csv"):
    return (folder / "store" / "studies" / "tiny" / name).read_bytes()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    write(folder)
    return folder, run(folder)


def test_a_run_ends_with_the_numbers_and_the_reports_path(finished):
    folder, done = finished
    assert Path(done.stdout.strip()).read_bytes() == output(folder, "report.html")
    # The teacher's cache is no input of the report, which knows it from the runs it helped.
    page = output(folder, "report.html").decode()
    assert page.count('<th scope="row">teacher_cache</th><td class="label">zoo-s/teacher') == 1
    for system in ("zoo-s/teacher", "zoo-xs/sft", "zoo-xs/gkd/zoo-s"):
        assert system in done.stderr
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr


def test_every_method_was_measured(finished):
    folder, _ = finished
    rows = list(csv.DictReader(output(folder).decode().splitlines()))
    accuracy = {r["system"] for r in rows if r["metric"] == "accuracy"}
    methods = ("seqkd", "word_kd", "revkd", "gkd")
    assert accuracy == {"zoo-s", "zoo-xs", "zoo-s/teacher", "zoo-xs/sft"} | {
        f"zoo-xs/{m}/zoo-s" for m in methods
    }
    pairs = {(r["system"], r["reference"]) for r in rows if r["metric"] == "agreement"}
    assert ("zoo-xs/sft", "zoo-s/teacher") in pairs
    assert ("zoo-xs/gkd/zoo-s", "zoo-s/teacher") in pairs
    assert ("zoo-xs/gkd/zoo-s", "zoo-xs/sft") in pairs
    bleu = [r for r in rows if r["metric"] == "bleu_corpus" and r["benchmark"] != "average"]
    assert all("nrefs:1|case:mixed|eff:no|tok:13a" in r["signature"] for r in bleu)


def test_a_second_run_runs_no_stage(finished):
    folder, _ = finished
    before = sorted((p, p.stat().st_mtime_ns) for p in (folder / "store" / "stages").rglob("*"))
    done = run(folder)
    assert "stages are finished" in done.stderr
    after = sorted((p, p.stat().st_mtime_ns) for p in (folder / "store" / "stages").rglob("*"))
    assert after == before


def test_the_adapters_load_in_plain_peft_and_plain_transformers(finished):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from kdstudy.models import zoo

    folder, _ = finished
    (adapter,) = [
        p.parent / "adapter"
        for p in (folder / "store" / "stages").glob("*/manifest.json")
        if json.loads(p.read_text())["label"] == "zoo-xs/word_kd/zoo-s"
        and (p.parent / "adapter").is_dir()
    ]
    base = AutoModelForCausalLM.from_pretrained(zoo.path("zoo-xs"), dtype=torch.float32)
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        plain = base(ids).logits
        adapted = PeftModel.from_pretrained(base, adapter).eval()(ids).logits
        alone = (
            AutoModelForCausalLM.from_pretrained(adapter, dtype=torch.float32).eval()(ids).logits
        )
    assert not torch.equal(plain, adapted)
    torch.testing.assert_close(alone, adapted, rtol=1e-6, atol=1e-6)


def test_one_methods_temperature_reruns_that_run_and_what_hangs_on_it(finished, tmp_path):
    store = tmp_path / "store"
    subprocess.run(["cp", "-r", finished[0] / "store", store], check=True)
    write(tmp_path, methods=["sft", "seqkd", {"type": "word_kd", "temperature": 2}, "revkd", "gkd"])
    shown = kdstudy(tmp_path, "plan", "study.yaml").stdout
    (line,) = [x for x in shown.split("\n") if x.startswith("miss       train ")]
    assert "zoo-xs/word_kd/zoo-s" in line
    assert "method.temperature 1.0 -> 2.0" in line
    done = run(tmp_path)
    built = [x.split("]")[1].split()[0] for x in done.stderr.split("\n") if x.startswith("[")]
    assert built == [
        *("train", "generate", "score", "compare", "compare", "token_fidelity"),
        *("results", "report"),
    ]


def test_a_flipped_bit_is_found_named_and_mended(finished, tmp_path):
    store = tmp_path / "store"
    subprocess.run(["cp", "-r", finished[0] / "store", store], check=True)
    write(tmp_path, extraction="reference")  # what is generated will be read again
    (victim,) = [
        p.parent / "generations.parquet"
        for p in (store / "stages").glob("*/manifest.json")
        if json.loads(p.read_text())["label"] == "zoo-xs/sft on synth_addsub"
    ]
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    done = run(tmp_path)
    assert "damaged: generate zoo-xs/sft on synth_addsub: generations.parquet" in done.stderr


def test_the_report_of_an_unfinished_study_says_so(finished, tmp_path):
    store = tmp_path / "store"
    subprocess.run(["cp", "-r", finished[0] / "store", store], check=True)
    write(tmp_path, methods=["sft", "seqkd", {"type": "word_kd", "temperature": 3}, "revkd", "gkd"])
    done = kdstudy(tmp_path, "report", "study.yaml", "--out", "here")
    assert done.returncode == 0, done.stderr
    assert "7 of 8" in (tmp_path / "here" / "report.html").read_text()


def test_distill_writes_an_adapter_or_a_merged_model(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    rows = [{"prompt": f"What is {i} + 2?", "completion": f"It is {i + 2}."} for i in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    common = ["--student", "zoo-xs", "--teacher", "zoo-s", "--data", "rows.jsonl", "--epochs", "1"]
    common += ["--validation-rows", "8", "--method", "revkd"]
    done = kdstudy(tmp_path, "distill", *common, "--out", "adapter")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
    done = kdstudy(tmp_path, "distill", *common, "--out", "merged", "--merge")
    assert done.returncode == 0, done.stderr
    AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    AutoTokenizer.from_pretrained(tmp_path / "merged")
    again = kdstudy(tmp_path, "distill", *common, "--out", "merged")
    assert again.returncode == 2
    assert "is not empty" in again.stderr
