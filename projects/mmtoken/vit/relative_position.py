"""Decomposed relative position as channels of queries and keys: no N x N bias.

Source: MViTv2 (arXiv:2112.01526), Sec. 4.1, as in ViTDet (arXiv:2203.16527). The bias
``q_i . R_h[y_i, y_j] + q_i . R_w[x_i, x_j]`` takes the unscaled query. It is the product of
``[q_i . R_h[y_i, :], q_i . R_w[x_i, :]]`` with ``[onehot(y_j), onehot(x_j)]``, so that both can be
appended to the query and the key, and memory stays linear in N.

Letters: B batch, n heads, N = h * w positions, d channels of a head, S side that a table is for.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..common.checks import HW

ALIGNMENT = 8  # fused kernels want a width that is a multiple of it


def resize_table(table: Tensor, rows: int) -> Tensor:
    """``(2S - 1, d) -> (rows, d)``, linearly, in at least float32."""
    if len(table) == rows:
        return table
    wide = table.t()[None].to(torch.promote_types(table.dtype, torch.float32))
    return F.interpolate(wide, size=rows, mode='linear')[0].t().to(table.dtype)


def relative_rows(table: Tensor, side: int) -> Tensor:
    """Row of a table for each query and key of one axis.

    Args:
        table: ``(2S - 1, d)``, from the farthest key behind the query to the farthest before it;
            resized if S is not ``side``.
        side: Positions of the axis.

    Returns:
        ``(side, side, d)``, query first.
    """
    table = resize_table(table, 2 * side - 1)
    at = torch.arange(side, device=table.device)
    return table[at[:, None] - at + side - 1]


def append_positions(
    q: Tensor, k: Tensor, tables: tuple[Tensor, Tensor], hw: HW
) -> tuple[Tensor, Tensor]:
    """Queries and keys whose product, without a scale, is that of relative attention.

    Args:
        q: ``(B, n, N, d)`` in raster order.
        k: ``(B, n, N, d)``.
        tables: Of rows and of columns, see :func:`relative_rows`.
        hw: h and w.

    Returns:
        Two ``(B, n, N, d + h + w)``, padded with zeros to a multiple of 8 channels.
    """
    rows, cols = (relative_rows(table, side).to(q.dtype) for table, side in zip(tables, hw))
    grid = q.unflatten(2, hw)
    down = (grid @ rows.transpose(1, 2)).flatten(2, 3)  # B n N h
    across = (grid.transpose(2, 3) @ cols.transpose(1, 2)).transpose(2, 3).flatten(2, 3)
    filler = q.new_zeros(1, 1, 1, -(q.shape[-1] + sum(hw)) % ALIGNMENT)
    options = dict(dtype=q.dtype, device=q.device)
    y, x = (torch.eye(side, **options) for side in hw)
    places = torch.cat((y.repeat_interleave(hw[1], 0), x.repeat(hw[0], 1)), -1)
    filler = filler.expand(*q.shape[:3], -1)
    q = torch.cat((q * q.shape[-1] ** -0.5, down, across, filler), -1)
    return q, torch.cat((k, places.expand(*k.shape[:2], -1, -1), filler), -1)
