"""Masses in order: numpy's sort against definitions, in the type that models have."""

import os
import signal

import numpy as np
import pytest
import torch

from kdstudy.distill import mass_order


def drawn(rows, entries, seed, kind):
    torch.manual_seed(seed)
    x = 4 * torch.randn(rows, entries)
    if kind == "ties":  # as logits of bfloat16 leave them
        x = x.bfloat16().float()
    if kind == "spread":  # most of it below the least float32
        x = 60 * x
    return x.softmax(-1)


CASES = [(1, 1), (1, 7), (3, 64), (5, 1001), (4, 2048)]


@pytest.mark.parametrize("kind", ["plain", "ties", "spread"])
@pytest.mark.parametrize("shape", CASES, ids=str)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_sort_is_a_sort(shape, kind, seed):
    masses = drawn(*shape, seed, kind)
    before = masses.clone()
    values, order = mass_order.ranked(masses)
    want = [sorted(enumerate(row), key=lambda pair: pair[1]) for row in masses.tolist()]
    assert values.tolist() == [[m for _, m in row] for row in want]
    assert order.tolist() == [[i for i, _ in row] for row in want]  # of equal ones the first first
    assert torch.equal(mass_order.ascending(masses), values) and torch.equal(masses, before)
    double, places = mass_order.ranked(masses.double())
    assert torch.equal(double.float(), values) and torch.equal(places, order)


@pytest.mark.parametrize("kind", ["plain", "ties", "spread"])
@pytest.mark.parametrize("widths", [(7, 7), (5, 12), (301, 64), (1000, 1003)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_distance_and_slope_are_those_of_the_definition(kind, widths, dtype):
    student, teacher = (drawn(3, w, i, kind).to(dtype) for i, w in enumerate(widths))
    value, slope = mass_order.by_rank(student, teacher)
    for s, t, got, signs in zip(student, teacher, value, slope, strict=True):
        s, t = (np.array(x.tolist()) for x in (s, t))
        most = max(widths)
        left, right = (np.sort(np.pad(x, (0, most - len(x))))[::-1] for x in (s, t))
        assert got.item() == pytest.approx(np.abs(left - right).sum(), rel=1e-5, abs=1e-9)
        # Credit the signs of the ranks that each mass has: as a multiset, whatever ties do.
        order = np.argsort(-s, kind="stable")
        for mass in np.unique(s):
            at = np.flatnonzero(s == mass)
            places = np.flatnonzero(np.isin(order, at))
            want = sorted(np.sign(left[places] - right[places]))
            assert sorted(signs.numpy()[at]) == want


def test_threads_and_strides_change_nothing():
    masses = drawn(7, 500, 3, "ties")
    wide = torch.zeros(7, 1000)
    wide[:, ::2] = masses
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            found.append((*mass_order.ranked(wide[:, ::2]), mass_order.ascending(masses)))
        finally:
            torch.set_num_threads(1)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_forked_process_sorts_too():
    """Its parent's threads are not there. Torch is not asked: its own do not outlive a fork."""
    rows = drawn(4, 50, 0, "plain").numpy()
    torch.set_num_threads(2)
    try:
        mass_order._in_place(rows.copy())
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            mass_order._in_place(rows)
            os._exit(0 if (np.diff(rows) >= 0).all() else 1)
        assert os.waitpid(child, 0)[1] == 0
    finally:
        torch.set_num_threads(1)


def test_what_is_no_number_stays_none():
    masses = drawn(2, 9, 0, "plain")
    masses[1, 4] = torch.nan
    value, _ = mass_order.by_rank(masses, drawn(2, 9, 1, "plain"))
    assert value[0].isfinite() and value[1].isnan()
