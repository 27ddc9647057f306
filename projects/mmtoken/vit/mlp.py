"""The MLPs of plain vision transformers: GELU, CLIP's quick GELU, SwiGLU.

Letters: B batch, T tokens, D channels, r hidden channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..common.layers import Mlp


class QuickGELU(nn.Module):
    """``x * sigmoid(1.702 x)``, an approximation of GELU (CLIP, arXiv:2103.00020)."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class SwiGLU(nn.Module):
    """``(..., 2r) -> (..., r)``: SiLU of the first half times the second (arXiv:2002.05202)."""

    def forward(self, x: Tensor) -> Tensor:
        gate, value = x.chunk(2, -1)
        return F.silu(gate) * value


ACTIVATIONS = {'gelu': nn.GELU, 'quickgelu': QuickGELU, 'swiglu': SwiGLU}


class ViTMlp(Mlp):
    """Two linear layers with one of ``ACTIVATIONS`` and an optional norm between them.

    Args:
        dim: D.
        hidden_dim: r; the first layer of ``'swiglu'`` is twice as wide.
        kind: A key of ``ACTIVATIONS``.
        norm: Module on the r channels before the second layer.

    Shape:
        - x: ``(B, T, D)``, returned in the same shape.
    """

    def __init__(self, dim: int, hidden_dim: int, kind: str, norm: nn.Module) -> None:
        super().__init__(dim, hidden_dim)
        if kind == 'swiglu':
            self.fc1 = nn.Linear(dim, 2 * hidden_dim)
        self.act = ACTIVATIONS[kind]()
        self.norm = norm

    def _activate(self, hidden: Tensor) -> Tensor:
        return self.fc2(self.norm(self.act(hidden)))
