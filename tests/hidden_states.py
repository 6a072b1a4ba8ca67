"""The distance of hidden states by numpy, and batches that they are taken of."""

import numpy as np
import torch

from kdstudy.distill import batches
from kdstudy.distill.batches import Weighing


def dense(student_NH, teacher_NH, projection, distance, normalise):
    """The distance of each token by numpy, from its definition."""
    s = student_NH if projection is None else student_NH @ projection.T
    if distance == "cosine":
        norms = np.linalg.norm(s, axis=1) * np.linalg.norm(teacher_NH, axis=1)
        return 1 - (s * teacher_NH).sum(axis=1) / norms
    if normalise:
        s, teacher_NH = (x / np.sqrt((x**2).mean(axis=1, keepdims=True)) for x in (s, teacher_NH))
    return ((s - teacher_NH) ** 2).mean(axis=1)


def batch_of(rows):
    return batches.collate(rows, Weighing(), torch.device("cpu"))
