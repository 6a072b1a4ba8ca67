"""Eight equal training stages on Ray, on two nodes of one core each; peer: one such node.

Both clusters are real ones on this machine, started before the clock. What is timed is all that a
run does there: connecting, asking the nodes, workers that import torch, training, publishing.
"""

import os
import tempfile
import time
from pathlib import Path

import yaml
from ray.cluster_utils import Cluster

from kdstudy.config.read import read_study
from kdstudy.engine.build import Unseen
from kdstudy.engine.cluster import RayExecutor
from kdstudy.engine.execute import inline
from kdstudy.engine.store import Store
from kdstudy.plan.plan import Plan, make_plan

STAGES = 8
STUDY = {
    "name": "eight",
    "students": ["zoo-s"],
    "corpus": {"name": "synthetic", "rows": 600, "validation_rows": 24},
    "benchmarks": ["synth_addsub"],
    "methods": ["sft"],
    "seeds": list(range(STAGES)),
    "train": {"epochs": 4, "batch_size": 16, "evaluations": 2, "precision": "float32"},
}
NODE = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_dashboard": False}


def run(repeats: int) -> list[dict[str, float | str]]:
    """Return seconds on one node and on two, and their ratio, one row for each repeat."""
    # torch would otherwise start a thread for each core of the machine, on each node.
    os.environ |= {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "study.yaml").write_text(yaml.safe_dump(STUDY))
        plan = make_plan(read_study(folder / "study.yaml"), folder, None, {})
        return [_row(plan, folder / str(i)) for i in range(repeats)]


def _row(plan: Plan, folder: Path) -> dict[str, float | str]:
    one, weights = _timed(plan, folder / "one", nodes=1)
    two, same = _timed(plan, folder / "two", nodes=2)
    if weights != same:
        raise SystemExit("cluster: one node and two trained different weights")
    load = f"{os.getloadavg()[0]:.1f}"
    return {
        "stages": STAGES,
        "one_node_seconds": one,
        "two_nodes_seconds": two,
        "ratio": one / two,
        "load_after": load,
        "peer": "the same on one node",
    }


def _timed(plan: Plan, folder: Path, nodes: int) -> tuple[float, list[str]]:
    """Return seconds, and the hashes of what the stages published."""
    store = Store(folder)
    inline([s for s in plan.stages.values() if s.kind == "corpus"], store, Unseen())
    todo = [s for s in plan.stages.values() if s.kind == "train"]
    assert len(todo) == STAGES
    cluster = Cluster(initialize_head=True, head_node_args=NODE)
    try:
        for _ in range(nodes - 1):
            cluster.add_node(**NODE)
        cluster.wait_for_nodes()
        started = time.perf_counter()
        RayExecutor(plan.study.resources, cluster.address, print)(todo, store, Unseen())
        seconds = time.perf_counter() - started
    finally:
        cluster.shutdown()
    return seconds, [_weights(store, stage.key) for stage in todo]


def _weights(store: Store, key: str) -> str:
    files = store.manifest(key)["files"]
    (name,) = [name for name in files if name.endswith(".safetensors")]
    return files[name]["sha256"]
