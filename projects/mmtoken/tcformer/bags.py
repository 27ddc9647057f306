"""Sums over groups of rows: all pooling of token features is such a sum.

Letters: B batch, R rows per sample, K groups per sample, T rows of a table, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..common.tracing import is_onnx_export


@dataclass(frozen=True)
class Bags:
    """Groups of rows to be summed, in compressed form.

    Args:
        rows: ``(R,)`` row numbers, bag after bag.
        offsets: ``(K,)`` start of each of the K bags in ``rows``.
        owner: ``(R,)`` bag of each row, for an ONNX export, where rows are in any order.
        weights: ``(R,)`` constant factor of each row, for :meth:`average`.
    """

    rows: Tensor
    offsets: Tensor
    owner: Tensor | None = None
    weights: Tensor | None = None
    # of the gradient, filled on first use
    _transposed: list[Bags] = field(default_factory=list, repr=False, compare=False)

    def sum(self, table: Tensor, weights: Tensor | None = None) -> Tensor:
        """Sum (optionally weighted) rows of ``table (T, C)`` within each bag -> ``(K, C)``.

        A fused gather and segment sum: it needs no ``(R, C)`` copy and no atomics, and adds the
        rows of a bag in their order.
        """
        if self.owner is not None:  # ONNX would need a loop over the bags
            taken = table[self.rows]
            taken = taken if weights is None else taken * weights[:, None]
            sums = taken.new_zeros(self.offsets.shape[0], taken.shape[1])
            return sums.index_add(0, self.owner, taken)
        return F.embedding_bag(
            self.rows, table, self.offsets, mode='sum', per_sample_weights=weights
        )

    def average(self, table: Tensor) -> Tensor:
        """Sum rows of ``table (T, C)`` times the constant ``weights`` -> ``(K, C)``.

        The gradient is such a sum too, whose bags are found once and not in each backward pass.
        """
        is_traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
        needs_gradient = torch.is_grad_enabled() and table.requires_grad
        if needs_gradient and not (self.weights.requires_grad or is_traced):
            return _Average.apply(table, self)
        return self.sum(table, self.weights.to(table.dtype))

    def transposed(self, num_rows: int) -> Bags:
        """The bags of each of the ``num_rows`` rows of the table: those that it is summed into."""
        if not self._transposed:
            groups = group_rows(self.rows[None], num_rows)
            order, index = groups.order[0], torch.arange(len(self.rows), device=self.rows.device)
            bag = torch.searchsorted(self.offsets, index, right=True) - 1
            self._transposed.append(Bags(bag[order], groups.offsets, None, self.weights[order]))
        return self._transposed[0]


class _Average(torch.autograd.Function):
    """:meth:`Bags.average` and its gradient."""

    @staticmethod
    def forward(table: Tensor, bags: Bags) -> Tensor:
        return bags.sum(table.detach(), bags.weights.to(table.dtype))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Bags], _output: Tensor) -> None:
        table, ctx.bags = inputs
        ctx.num_rows = len(table)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.bags.transposed(ctx.num_rows).average(grad.contiguous()), None


@dataclass(frozen=True)
class Groups:
    """Positions sorted by the group they belong to.

    Args:
        order: ``(B, R)`` positions, group after group (stable).
        counts: ``(B, K)`` positions in each group.
        offsets: ``(B*K,)`` start of each group in the flattened order.
        owner: ``(B*R,)`` group of each entry of the flattened order, only in an ONNX export, which
            has no stable sort: ``order`` lists the positions from 0 there.
    """

    order: Tensor
    counts: Tensor
    offsets: Tensor
    owner: Tensor | None = None

    def bags(self, rows: Tensor, weights: Tensor | None = None) -> Bags:
        """Bags of the ``rows (B*R,)`` at the sorted positions, one for each group."""
        return Bags(rows, self.offsets, self.owner, weights)


def group_rows(index: Tensor, num_groups: int) -> Groups:
    """Sort positions by the group they belong to.

    Args:
        index: ``(B, R)`` group of each position, in [0, num_groups).
        num_groups: K.

    Returns:
        The groups.
    """
    counts = index.new_zeros(index.shape[0], num_groups)
    counts.scatter_add_(1, index, torch.ones_like(index))
    if is_onnx_export():
        order = torch.arange(index.shape[1], device=index.device).expand_as(index)
        return Groups(order, counts, starts(counts), flatten_rows(index, num_groups))
    return Groups(index.argsort(dim=1, stable=True), counts, starts(counts))


def starts(counts: Tensor) -> Tensor:
    """Flat start ``(B*K,)`` of each of the groups of ``counts (B, K)`` positions."""
    flat = counts.flatten()
    return flat.cumsum(0) - flat


def flatten_rows(index: Tensor, rows_per_sample: int) -> Tensor:
    """Per-sample row numbers ``(B, R)`` -> rows of the ``(B*rows_per_sample, C)`` table."""
    shift = torch.arange(index.shape[0], device=index.device)[:, None] * rows_per_sample
    return (index + shift).flatten()
