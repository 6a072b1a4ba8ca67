"""The registry of methods: what it says of each, and a method that another package adds."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import forked
import numpy as np
import pytest
import torch

from kdstudy import methods
from kdstudy.distill.config import DistillConfig
from kdstudy.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "jeffreys"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder that holds the example as pip would install it, for PYTHONPATH."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copy(EXAMPLE / "kdstudy_jeffreys.py", folder)
    facts = folder / "kdstudy_jeffreys-0.1.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: kdstudy-jeffreys\nVersion: 0.1\n")
    points = "[kdstudy.methods]\njeffreys = kdstudy_jeffreys:Jeffreys\n"
    (facts / "entry_points.txt").write_text(points)
    return folder


def run(code_or_args, folder, cwd=None):
    args = (
        ["-c", code_or_args] if isinstance(code_or_args, str) else ["-m", "kdstudy", *code_or_args]
    )
    path = os.pathsep.join([str(folder), str(ROOT / "src")])
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(
        [sys.executable, *args], env=environment, cwd=cwd, capture_output=True, text=True
    )


def test_each_method_says_what_it_learns_from():
    writes = {name: cls.teacher_gives for name, cls in methods.METHODS.items()}
    assert writes.pop("sft") == "nothing"
    assert writes.pop("seqkd") == "text"
    assert {writes.pop(name) for name in ("gold", "uld")} == {"spans"}
    assert set(writes.values()) == {"distribution"}
    for cls in methods.METHODS.values():
        recipe = cls().recipe()
        assert recipe.needs_teacher == (cls.teacher_gives in ("distribution", "spans"))
        assert (recipe.source == "student") == (cls().on_policy_share > 0)


@pytest.mark.parametrize(
    ("fields", "needs"),
    [
        ({"type": "sft"}, False),
        ({"type": "word_kd"}, False),
        ({"type": "seqkd"}, True),
        ({"type": "gkd"}, True),
        ({"type": "gkd", "lmbda": 0}, False),
    ],
)
def test_who_needs_prompts(fields, needs):
    assert methods.named(fields).needs_prompts is needs


def test_importing_the_methods_imports_no_torch(installed):
    done = run("import sys, kdstudy.methods; print('torch' in sys.modules)", ROOT / "src")
    assert done.stdout.strip() == "False", done.stderr


def test_a_configuration_takes_a_method_that_is_made(tmp_path):
    args = DistillConfig(output_dir=str(tmp_path), method=methods.GKD(beta=0.3), use_cpu=True)
    named = DistillConfig(output_dir=str(tmp_path), method="gkd", beta=0.3, use_cpu=True)
    assert args.recipe() == named.recipe()
    written = json.loads(args.to_json_string())
    assert (written["method"], written["beta"]) == ("gkd", 0.3)
    twice = DistillConfig(
        output_dir=str(tmp_path), method=methods.GKD(beta=0.3), beta=0.4, use_cpu=True
    )
    with pytest.raises(InputError, match=r"beta beside a method"):
        twice.recipe()


def test_the_examples_divergence_is_the_weighted_sum_and_its_slope_the_derivative():
    sys.path.insert(0, str(EXAMPLE))
    try:
        from kdstudy_jeffreys import jeffreys
    finally:
        sys.path.remove(str(EXAMPLE))
    draw = np.random.default_rng(3).normal(size=(2, 5, 7))
    s, t = (torch.tensor(x).log_softmax(-1) for x in draw)
    value, slope = jeffreys(s, t, 0.3)
    p, q = (np.exp(x.numpy()) for x in (s, t))
    want = 0.7 * (q * np.log(q / p)).sum(-1) + 0.3 * (p * np.log(p / q)).sum(-1)
    np.testing.assert_allclose(value.sum(-1).numpy(), want, rtol=1e-12)
    step = 1e-6
    moved = [jeffreys(s + sign * step, t, 0.3)[0] for sign in (1, -1)]
    np.testing.assert_allclose(slope, (moved[0] - moved[1]) / (2 * step), atol=1e-8)


def test_a_packages_method_is_known_everywhere(installed, tmp_path):
    code = (
        "from kdstudy.cli import app\n"
        "for verb in (['ls', 'methods'], ['schema']): app(verb, standalone_mode=False)"
    )
    shown = run(code, installed)
    assert "jeffreys" in shown.stdout and "Jeffreys" in shown.stdout, shown.stderr
    study = tmp_path / "study.yaml"
    study.write_text(
        "name: own\nteachers: [{model: zoo-s, finetune: false}]\nstudents: [zoo-xs]\n"
        "benchmarks: [synth_addsub]\nlimit: 5\n"
        "corpus: {name: synthetic_varied, rows: 40, validation_rows: 8}\n"
        "methods: [sft, {type: jeffreys, weight: 0.3}]\n"
        "ablations: [{vary: weight, values: [0.9], methods: [jeffreys]}]\n"
        "train: {epochs: 1, evaluations: 1, probe_rows: 0, max_length: 192}\n"
        "generation: {max_new_tokens: 8}\n"
    )
    done = run(["run", "study.yaml", "--store", "store"], installed, tmp_path)
    assert done.returncode == 0, done.stderr
    results = (tmp_path / "store" / "studies" / "own" / "results.csv").read_text()
    assert "zoo-xs/jeffreys/zoo-s/weight=0.9" in results
    unknown = forked.kdstudy("plan", "study.yaml", "--store", "store", cwd=tmp_path)
    assert unknown.returncode == 2
    assert "unknown method 'jeffreys'" in unknown.stderr


def test_another_version_of_the_package_trains_anew(installed, tmp_path):
    code = (
        "import sys; from kdstudy import methods; "
        "print(methods.ORIGINS, [t for t in methods.METHODS if t == 'jeffreys'])"
    )
    assert "{'jeffreys': 'kdstudy-jeffreys 0.1'} ['jeffreys']" in run(code, installed).stdout
    newer = shutil.copytree(installed, tmp_path / "newer")
    facts = newer / "kdstudy_jeffreys-0.1.dist-info" / "METADATA"
    facts.write_text(facts.read_text().replace("Version: 0.1", "Version: 0.2"))
    assert "kdstudy-jeffreys 0.2" in run(code, newer).stdout


def test_a_method_that_cannot_be_imported_is_refused_by_name(installed, tmp_path):
    broken = shutil.copytree(installed, tmp_path / "broken")
    (broken / "kdstudy_jeffreys.py").write_text("import nothing_of_that_name\n")
    done = run(["ls", "methods"], broken)
    assert done.returncode == 2
    assert "jeffreys of kdstudy-jeffreys 0.1 cannot be imported" in done.stderr
    assert "nothing_of_that_name" in done.stderr


def test_a_divergence_of_equal_distributions_is_zero():
    s = torch.randn(4, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    s = s.log_softmax(-1)
    for name in methods.giving("distribution"):
        objective = methods.METHODS[name]().recipe().objective
        told = ()
        if objective.easy_weight is not None:
            told = torch.tensor([0, 3, 8, -1]), torch.tensor([True, False, True, False])
        value, _ = objective.divergence(s, s, objective.parameter, *told)
        assert math.isclose(float(value.sum()), 0.0, abs_tol=1e-12), name
