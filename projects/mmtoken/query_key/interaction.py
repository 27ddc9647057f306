"""Query-key interaction of attention heads: what a head compares, from its weights alone.

Source: "Dissecting Query-Key Interaction in Vision Transformers" (arXiv:2405.14880), Sec. 3.

The logit of query token x and key token c is ``x^T M c`` with ``M = W_q^T W_k``, plus terms of the
biases. The SVD of M gives modes: mode n asks for ``u_n`` and finds ``v_n``, with the strength
``s_n``. M has D x D entries and is never formed: its rank is at most d.

Letters: D channels, h heads, d channels of a head, r = min(d, D) modes, N queries, M keys. Leading
dimensions of weights, usually h, are batch dimensions. Everything is computed in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

ROPE_BASES = dict(dinov3=100.0, eva=10000.0)


@dataclass(frozen=True)
class Modes:
    """Singular value decomposition of M, the strongest mode first.

    The signs of ``queries`` and ``keys`` are arbitrary, but common to both vectors of a mode.

    Args:
        queries: ``(..., D, r)``, columns u.
        strengths: ``(..., r)``, singular values.
        keys: ``(..., D, r)``, columns v.
    """

    queries: Tensor
    strengths: Tensor
    keys: Tensor

    @property
    def similarity(self) -> Tensor:
        """Cosine of the query and the key of each mode, ``(..., r)``.

        1: tokens attend to tokens like themselves. 0: unrelated features. -1: opposite features.
        """
        return (self.queries * self.keys).sum(-2)


def find_modes(wq: Tensor, wk: Tensor) -> Modes:
    """Thin singular value decomposition of M.

    Args:
        wq: ``(..., d, D)``, a query is ``wq @ x``.
        wk: ``(..., d, D)``, a key is ``wk @ c``.

    Returns:
        The modes.
    """
    (qa, ra), (qb, rb) = (torch.linalg.qr(w.double().mT) for w in (wq, wk))
    u, s, vh = torch.linalg.svd(ra @ rb.mT)
    return Modes(qa @ u, s, qb @ vh.mT)


def singular_values(wq: Tensor, wk: Tensor) -> Tensor:
    """Strengths of all modes, ``(..., r)``, without their vectors; see :func:`find_modes`."""
    ra, rb = (torch.linalg.qr(w.double().mT, mode='r').R for w in (wq, wk))
    return torch.linalg.svdvals(ra @ rb.mT)


def trace(wq: Tensor, wk: Tensor) -> Tensor:
    """``tr M``, ``(...)``, which is the sum of ``s_n cos_n`` over all modes."""
    return (wq.double() * wk.double()).sum((-2, -1))


def mean_similarity(wq: Tensor, wk: Tensor) -> Tensor:
    """Cosine of query and key, averaged over modes by strength, ``(...)``: ``tr M / ||M||_*``.

    NaN where M is zero.
    """
    return trace(wq, wk) / singular_values(wq, wk).sum(-1)


def effective_rank(strengths: Tensor) -> Tensor:
    """Number of modes that matter: exp of the entropy of their strengths ``(..., r) -> (...)``."""
    share = strengths.double() / strengths.double().sum(-1, keepdim=True)
    return torch.special.entr(share).sum(-1).exp()


def symmetry_norms(wq: Tensor, wk: Tensor) -> tuple[Tensor, Tensor]:
    """Frobenius norms of ``(M + M^T) / 2`` and ``(M - M^T) / 2``, ``(...)`` each."""
    product = wk.double() @ wq.double().mT  # d d
    square = (product * product.mT).sum((-2, -1))  # tr M^2
    gram_q, gram_k = (w.double() @ w.double().mT for w in (wq, wk))
    norm = (gram_q * gram_k).sum((-2, -1))  # ||M||^2
    return tuple(((norm + sign * square) / 2).clamp(min=0).sqrt() for sign in (1, -1))


def asymmetry(wq: Tensor, wk: Tensor) -> Tensor:
    """Share of the antisymmetric part, ``||(M - M^T) / 2||_F / ||M||_F`` in [0, 1], ``(...)``."""
    symmetric, antisymmetric = symmetry_norms(wq, wk)
    return antisymmetric / torch.hypot(symmetric, antisymmetric)


def random_band(dim: int, level: float = 0.95) -> float:
    """Half width of the interval around 0 that holds ``level`` of the cosines of random vectors.

    Args:
        dim: D; the cosine of two random directions has the standard deviation ``1 / sqrt(D)``.
        level: In (0, 1).

    Returns:
        The half width.
    """
    return NormalDist().inv_cdf((1 + level) / 2) / math.sqrt(dim)


def fold_norm(
    weight: Tensor, bias: Tensor | None, norm_weight: Tensor, norm_bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Move scale and shift of the norm in front of a projection into the projection.

    Args:
        weight: ``(..., d, D)``.
        bias: ``(..., d)`` or None for zero.
        norm_weight: ``(D,)``.
        norm_bias: ``(D,)`` or None for zero.

    Returns:
        Weight and bias that act on the normalised tokens before scale and shift.
    """
    weight = weight.double()
    bias = weight.new_zeros(weight.shape[:-1]) if bias is None else bias.double()
    if norm_bias is not None:
        bias = bias + weight @ norm_bias.double()
    return weight * norm_weight.double(), bias


def logit_terms(
    x: Tensor, c: Tensor, wq: Tensor, wk: Tensor, bq: Tensor | None, bk: Tensor | None
) -> dict[str, Tensor]:
    """The four terms of the logits, before the scale; their sum is ``q k^T``.

    Only ``modes`` and ``key_bias`` depend on the key and survive the softmax.

    Args:
        x: ``(N, D)`` query tokens.
        c: ``(M, D)`` key tokens.
        wq: ``(h, d, D)``.
        wk: ``(h, d, D)``.
        bq: ``(h, d)`` or None for zero.
        bk: ``(h, d)`` or None for zero.

    Returns:
        ``modes`` ``(h, N, M)``, ``query_bias`` ``(h, N, 1)``, ``key_bias`` ``(h, 1, M)`` and
        ``constant`` ``(h, 1, 1)``.
    """
    wq, wk = wq.double(), wk.double()
    bq, bk = (wq.new_zeros(wq.shape[:-1]) if b is None else b.double() for b in (bq, bk))
    modes = find_modes(wq, wk)
    queries, keys = x.double() @ modes.queries, c.double() @ modes.keys
    return dict(
        modes=(queries * modes.strengths[:, None]) @ keys.mT,
        query_bias=x.double() @ (wq.mT @ bk[..., None]),
        key_bias=(c.double() @ (wk.mT @ bq[..., None])).mT,
        constant=(bq * bk).sum(-1)[:, None, None],
    )


def key_bias_share(terms: dict[str, Tensor]) -> Tensor:
    """Share of ``key_bias`` in the variance of the logits over keys, ``(h,)``."""
    bias, modes = (terms[name].var(-1, correction=0).mean(-1) for name in ('key_bias', 'modes'))
    return bias / (bias + modes)


def rope_angles(form: str, delta: tuple[float, float], head_dim: int) -> Tensor:
    """Angles by which a rotary embedding turns a key against a query, ``(d / 2,)``.

    Args:
        form: ``'dinov3'`` or ``'eva'``.
        delta: Row and column of the key minus those of the query; in DINOv3 as a part of half the
            image, one patch of h x w is ``(2 / h, 2 / w)``; in EVA-02 in patches of the 16 x 16
            grid that it was pre-trained on.
        head_dim: d, a multiple of 4.

    Returns:
        The angles, those of the rows first.
    """
    if form not in ROPE_BASES:
        raise ValueError(f'form must be one of {sorted(ROPE_BASES)}, got {form!r}')
    exponent = torch.arange(head_dim // 4, dtype=torch.float64) * (4 / head_dim)
    factor = (2 * math.pi if form == 'dinov3' else 1.0) / ROPE_BASES[form] ** exponent
    return torch.cat([factor * side for side in delta])


def turn(wk: Tensor, form: str, angles: Tensor) -> Tensor:
    """``R W_k``: the projection to keys that are turned by an offset.

    With the result in place of ``wk``, every function here describes ``M(delta) = W_q^T R W_k``.

    Args:
        wk: ``(..., d, D)``.
        form: See :func:`rope_angles`.
        angles: ``(d / 2,)``, of :func:`rope_angles`.

    Returns:
        ``(..., d, D)``.
    """
    # pairs of channels: (m, m + d / 2), or (2m, 2m + 1)
    shape, axis = ((2, -1), -3) if form == 'dinov3' else ((-1, 2), -2)
    a, b = wk.double().unflatten(-2, shape).unbind(axis)  # d/2 D
    cos, sin = angles.to(a).cos()[:, None], angles.to(a).sin()[:, None]
    return torch.stack((a * cos - b * sin, b * cos + a * sin), axis).flatten(-3, -2)
