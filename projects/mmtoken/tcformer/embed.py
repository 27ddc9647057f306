"""Patch embedding: from an image to the first grid of tokens."""

from __future__ import annotations

from torch import Tensor, nn


class OverlapPatchEmbed(nn.Module):
    """7x7 convolution with stride 4, then LayerNorm (PVTv2, arXiv:2106.13797).

    Args:
        in_channels: Channels of the image.
        dim: C.
        norm_eps: Epsilon of the LayerNorm.

    Shape:
        - image: ``(B, in_channels, H, W)``.
        - returns: ``(B, C, ceil(H / 4), ceil(W / 4))``.
    """

    def __init__(self, in_channels: int, dim: int, norm_eps: float = 1e-5) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, 7, stride=4, padding=3)
        self.norm = nn.LayerNorm(dim, eps=norm_eps)

    def forward(self, image: Tensor) -> Tensor:
        patches = self.proj(image).permute(0, 2, 3, 1)  # B H W C
        return self.norm(patches).permute(0, 3, 1, 2)  # B C H W, stored channels-last
