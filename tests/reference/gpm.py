"""Gradient projection memory as published: the inputs are stored, and decomposed as they are."""

from __future__ import annotations

import torch


def extend(basis, inputs, energy):
    """Append left singular vectors of R - M M^T R, one by one, until the energy is held.

    Args:
        basis: M, float64 [d, rank].
        inputs: R, float64 [d, n], a column an input.
        energy: epsilon.
    """
    residual = inputs - basis @ basis.T @ inputs
    vectors, values, _ = torch.linalg.svd(residual, full_matrices=False)
    total, held, k = inputs.square().sum(), (basis.T @ inputs).square().sum(), 0
    while held < energy * total * (1 - 1e-12):
        held += values[k] ** 2
        k += 1
    return torch.cat([basis, vectors[:, :k]], dim=1)


def held_share(basis, inputs):
    """Share of the inputs' energy in the span of the basis."""
    basis, inputs = basis.double(), inputs.double()
    return float((basis.T @ inputs).square().sum() / inputs.square().sum())
