"""What stages ask of a cluster: read, counted, refused, and never part of a key."""

import dataclasses
import importlib.metadata
import os

import pytest
import yaml
from study_folder import STUDY, plan_of, write_folder

from kdstudy.config.read import read_study
from kdstudy.config.resources import Needs, Resources
from kdstudy.engine.nodes import Nodes
from kdstudy.engine.worker import Site, unfit
from kdstudy.errors import InputError
from kdstudy.stage import Stage, kinds

GIB = 2**30


class FakeRay:
    """Knows nodes by their resources."""

    def __init__(self, *nodes):
        self.found = [{"Alive": True, "Resources": resources} for resources in nodes]

    def nodes(self):
        return self.found


def test_every_kind_of_stage_can_be_given_resources():
    assert set(Resources.model_fields) == set(kinds())


@pytest.mark.parametrize(
    ("needs", "kind", "any_gpu", "expected"),
    [
        ({}, "train", False, {"CPU": 1}),
        ({}, "train", True, {"CPU": 1, "GPU": 1}),
        ({}, "score", True, {"CPU": 1}),
        ({"gpus": 0}, "train", True, {"CPU": 1}),
        ({"gpus": 0.5, "cpus": 1 / 3}, "score", False, {"CPU": 0.3333, "GPU": 0.5}),
        ({"cpus": 4, "memory_gib": 1.5}, "train", False, {"CPU": 4, "memory": 1.5 * GIB}),
    ],
)
def test_what_a_stage_takes_from_a_node(needs, kind, any_gpu, expected):
    assert Needs(**needs).of_node(kind, any_gpu=any_gpu) == expected


def test_nodes_have_room_for_as_many_stages_as_fit_whole():
    resources = Resources(
        train=Needs(cpus=2, gpus=0.5), generate=Needs(memory_gib=3), compare=Needs(cpus=0.1)
    )
    big = {"CPU": 8.0, "GPU": 1.0, "memory": 8.0 * GIB}
    nodes = Nodes(FakeRay(big, {"CPU": 3.0, "memory": 100.0 * GIB}), resources)
    # The big node's GPU is halved, and its memory holds two; the other has no GPU.
    assert nodes.room("train") == 2
    assert nodes.room("generate") == 1
    assert nodes.room("compare") == 80 + 30
    assert nodes.room("score") == 8 + 3
    with pytest.raises(InputError) as caught:
        Nodes(FakeRay({"CPU": 3.0}, {"CPU": 1.0}), resources).require(["compare", "train"])
    assert caught.value.what == "resources.train: no node has 2 CPUs, 0.5 GPUs"
    assert caught.value.why == "the cluster's nodes have 1 CPU; 3 CPUs"


def test_a_stage_that_needs_a_gpu_does_not_move_to_a_cpu_when_the_gpus_are_gone():
    ray = FakeRay({"CPU": 1.0, "GPU": 1.0}, {"CPU": 1.0})
    nodes = Nodes(ray, Resources())
    ray.found[0]["Alive"] = False
    nodes.look()
    assert (nodes.room("train"), nodes.room("score")) == (0, 1)


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ({"trian": {}}, "resources.trian: unknown key; did you mean 'train'?"),
        ({"train": {"cpu": 1}}, "resources.train.cpu: unknown key; did you mean 'cpus'?"),
        ({"train": {"gpus": 1.5}}, "write 1"),
        ({"train": {"gpus": 1e-9}}, "less than Ray can count"),
        ({"train": {"cpus": True}}, "is a truth value"),
        ({"train": {"cpus": 0}}, "greater than or equal to 0.0001"),
        ({"train": {"memory_gib": -1}}, "greater than 0"),
        ({"train": 4}, "must be `key: value` pairs"),
    ],
)
def test_wrong_resources_name_line_and_remedy(tmp_path, resources, expected):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(STUDY | {"resources": resources}))
    with pytest.raises(InputError) as caught:
        read_study(path)
    assert f"{path}, line " in str(caught.value)
    assert expected in str(caught.value)


def test_resources_change_no_key(tmp_path):
    write_folder(tmp_path)
    plain = plan_of(tmp_path)
    asking = plan_of(tmp_path, resources={"train": {"cpus": 4, "gpus": 1, "memory_gib": 24}})
    assert list(plain.stages) == list(asking.stages)
    assert asking.study.resources.train.cpus == 4


@pytest.fixture
def here(tmp_path):
    (tmp_path / "token").touch()
    version = importlib.metadata.version("kdstudy")
    return Site(store=str(tmp_path), token=str(tmp_path / "token"), version=version)


def test_a_node_that_is_as_the_drivers_fits(here):
    stage = Stage(kind="score", label="a", config={})
    assert unfit(here, [here.store], {stage.key: stage}) is None


def test_a_node_says_why_it_does_not_fit(here):
    stage = Stage(kind="score", label="a", config={})
    older = dataclasses.replace(here, version="0.0.1")
    elsewhere = dataclasses.replace(here, token="/nowhere/token")
    cases = [
        ((older, [], {}), "than the driver (0.0.1)", "same version"),
        ((here, [], {"0" * 32: stage}), "runs another kdstudy", "same version"),
        ((elsewhere, [], {}), f"does not see the store {here.store}", "same path"),
        ((here, ["/nowhere"], {}), "does not have /nowhere", "every node"),
    ]
    for arguments, what, remedy in cases:
        said = unfit(*arguments)
        assert said[0].startswith(f"node {os.uname().nodename}: ")
        assert what in said[0] and remedy in said[2] and said[3] == 2
