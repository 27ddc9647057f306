"""For ``make bench``: DPC-kNN alone, next to the product of all tokens with all tokens."""

from __future__ import annotations

from mmengine.registry import MODELS
from torch import Tensor, nn

from ..common.layers import to_tokens
from .clustering import cluster_dpc_knn


class TokenProducts(nn.Module):
    """The products of all pairs of pixels, which DPC-kNN contains.

    Shape:
        - x: ``(B, 128, H, W)``.
        - returns: ``(B, H*W, H*W)``.
    """

    image_channels = 128

    def forward(self, x: Tensor) -> Tensor:
        tokens = to_tokens(x).contiguous()
        return tokens @ tokens.transpose(1, 2)


class TokenClusters(nn.Module):
    """DPC-kNN of the pixels, with a quarter as many clusters.

    Shape:
        - x: ``(B, 128, H, W)``.
        - returns: the scores of the centres, ``(B, M)``.
    """

    image_channels = 128

    def forward(self, x: Tensor) -> Tensor:
        tokens = to_tokens(x).contiguous()
        return cluster_dpc_knn(tokens, tokens.shape[1] // 4).center_score


for kind in (TokenProducts, TokenClusters):
    MODELS.register_module(module=kind)
