"""Multi-head attention on projected tokens.

Letters: B batch, N queries, M keys, C channels, h heads, d = C / h.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from .recorder import is_recording_attention, record_attention
from .tracing import is_onnx_export


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """``(B, N, C) -> (B, h, N, d)``; heads are the slow index of C."""
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """``(B, h, N, d) -> (B, N, C)``, the inverse of :func:`split_heads`."""
    return x.transpose(1, 2).flatten(2)


def multi_head_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    num_heads: int,
    bias: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """``softmax(q k^T / sqrt(d) + bias) v``, head by head.

    While attention is recorded, or the model is exported to ONNX, the weights are computed
    explicitly instead of by the fused kernel, whose strides the exporter cannot reproduce.

    Args:
        q: ``(B, N, C)`` queries.
        k: ``(B, M, C)`` keys.
        v: ``(B, M, C)`` values.
        num_heads: h; divides C.
        bias: Added to the logits; broadcasts to ``(B, h, N, M)``.
        dropout: Dropout rate of the weights, in [0, 1); pass 0 in eval mode.

    Returns:
        ``(B, N, C)``.
    """
    q, k, v = (split_heads(x, num_heads) for x in (q, k, v))
    return merge_heads(attend(q, k, v, bias, dropout))


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None = None,
    dropout: float = 0.0,
    scale: float | None = None,
) -> Tensor:
    """:func:`multi_head_attention` on heads that are split; values may be narrower than keys.

    Args:
        q: ``(B, h, N, d)`` queries.
        k: ``(B, h, M, d)`` keys.
        v: ``(B, h, M, e)`` values, e <= d.
        bias: As in :func:`multi_head_attention`.
        dropout: As in :func:`multi_head_attention`.
        scale: Factor of ``q k^T``; ``1 / sqrt(d)`` by default.

    Returns:
        ``(B, h, N, e)``.
    """
    if bias is not None:
        bias = bias.to(q.dtype)
    if is_recording_attention() or is_onnx_export():
        weights = attention_weights(q, k, bias, scale)
        record_attention(weights)
        return F.dropout(weights, dropout) @ v
    missing = q.shape[-1] - v.shape[-1]
    if missing and v.device.type == 'cpu':  # its fused kernel wants one width
        out = attend(q, k, F.pad(v, (0, missing)), bias, dropout, scale)
        return out[..., : v.shape[-1]]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout, scale=scale)


def attention_weights(
    q: Tensor, k: Tensor, bias: Tensor | None = None, scale: float | None = None
) -> Tensor:
    """Explicit attention weights of split heads -> ``(B, h, N, M)``; rows sum to 1."""
    logits = (q * (q.shape[-1] ** -0.5 if scale is None else scale)) @ k.transpose(-2, -1)
    if bias is not None:
        logits = logits + bias
    return logits.softmax(-1)
