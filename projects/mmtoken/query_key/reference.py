"""Slow twins of :mod:`~mmtoken.query_key.interaction`: numpy, one head, the whole D x D matrix."""

from __future__ import annotations

import numpy as np


def describe(wq: np.ndarray, wk: np.ndarray) -> dict[str, np.ndarray]:
    """Everything that is said about one head, from the full SVD of M.

    Args:
        wq: ``(d, D)``.
        wk: ``(d, D)``.

    Returns:
        Name to value.
    """
    matrix = wq.T @ wk
    u, s, vt = np.linalg.svd(matrix)
    count = min(wq.shape)
    u, s, v = u[:, :count], s[:count], vt[:count].T
    cos = np.array([u[:, n] @ v[:, n] for n in range(count)])
    share = s / s.sum()
    symmetric, antisymmetric = (matrix + matrix.T) / 2, (matrix - matrix.T) / 2
    return dict(
        singular_values=s,
        cos=cos,
        cos_avg=(s * cos).sum() / s.sum(),
        trace=np.trace(matrix),
        nuclear_norm=s.sum(),
        effective_rank=np.exp(-(share * np.log(share)).sum()),
        symmetric_norm=np.linalg.norm(symmetric),
        antisymmetric_norm=np.linalg.norm(antisymmetric),
        asymmetry=np.linalg.norm(antisymmetric) / np.linalg.norm(matrix),
    )


def logits(x, c, wq, wk, bq, bk) -> np.ndarray:
    """``q k^T`` of one head, ``(N, M)``, entry by entry, without the scale."""
    return np.array([[(wq @ xi + bq) @ (wk @ cj + bk) for cj in c] for xi in x])


def turned_logit(q: np.ndarray, k: np.ndarray, form: str, base: float, at_q, at_k) -> float:
    """Product of a query and a key of one head, each turned by its own coordinates."""

    def rotate(x, at):
        d, out = len(x), x.copy()
        for m in range(d // 2):
            axis, j = divmod(m, d // 4)
            angle = at[axis] * base ** (-4 * j / d) * (2 * np.pi if form == 'dinov3' else 1)
            a, b = (m, m + d // 2) if form == 'dinov3' else (2 * m, 2 * m + 1)
            out[a] = x[a] * np.cos(angle) - x[b] * np.sin(angle)
            out[b] = x[b] * np.cos(angle) + x[a] * np.sin(angle)
        return out

    return rotate(q, at_q) @ rotate(k, at_k)
