"""The ConvMixer teacher: a small network next to the backbone that clusters for all its stages.

"Teacher" is the paper's term (PaCa-ViT, arXiv:2203.11987, Sec. 3.2); it is trained jointly with
the backbone, without distillation. Mixers run bottom-up, then top-down, and one 1x1 convolution
per stage scores the patches for each cluster.

Letters: B batch, H x W grid of a stage, C its channels, M its clusters.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..common.layers import to_tokens
from .clustering import assign_patches


class Residual(nn.Module):
    """``x + fn(x)``; the name ``fn`` is part of the checkpoint format.

    Args:
        *layers: Layers of the branch.

    Shape:
        - x: any shape, returned in the same shape.
    """

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.fn = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fn(x)


class BlurConv(nn.Module):
    """Blur with [1, 2, 1] x [1, 2, 1] / 16, then a 3x3 convolution of stride 2.

    They cannot be fused into a 5x5 convolution, because each pads its own input with zeros.

    Args:
        in_dim: Channels of the input.
        out_dim: Channels of the output.

    Shape:
        - x: ``(B, in_dim, H, W)`` -> ``(B, out_dim, ceil(H / 2), ceil(W / 2))``.
    """

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        row = torch.tensor([1.0, 2.0, 1.0])
        # persistent, because released checkpoints contain it
        blur = (row[:, None] * row / 16).expand(in_dim, 1, 3, 3).clone()
        self.register_buffer('blur_filter', blur)
        self.conv = nn.Conv2d(in_dim, out_dim, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        groups = self.conv.in_channels
        return self.conv(F.conv2d(x, self.blur_filter.to(x.dtype), padding=1, groups=groups))


def mixer(dim: int) -> nn.Sequential:
    """ConvMixer layer: depthwise 7x7 with a shortcut, then 1x1; GELU comes before each norm."""
    return nn.Sequential(
        Residual(nn.Conv2d(dim, dim, 7, padding=3, groups=dim), nn.GELU(), nn.BatchNorm2d(dim)),
        nn.Conv2d(dim, dim, 1),
        nn.GELU(),
        nn.BatchNorm2d(dim),
    )


class ConvMixerTeacher(nn.Module):
    """Cluster assignments and residual features for every stage of the backbone.

    Args:
        dims: C of each stage.
        depths: Mixers per stage.
        num_clusters: M of each stage of the backbone; later stages only feed the top-down path.

    Shape:
        - x: ``(B, C1, H1, W1)``, the normalised output of the stem.
        - returns: a list of assignments ``(B, M_s, N_s)`` and a list of residual tokens
          ``(B, N_s, C_s)``, one entry per entry of ``num_clusters``.
    """

    def __init__(
        self, dims: Sequence[int], depths: Sequence[int], num_clusters: Sequence[int]
    ) -> None:
        super().__init__()
        self.num_stages = len(dims)
        self.num_clusters = tuple(num_clusters)
        for stage, (dim, depth) in enumerate(zip(dims, depths), 1):
            self.add_module(f'block{stage}', nn.Sequential(*(mixer(dim) for _ in range(depth))))
        for stage, (dim, coarser) in enumerate(itertools.pairwise(dims), 1):
            transition = nn.Sequential(BlurConv(dim, coarser), nn.GELU(), nn.BatchNorm2d(coarser))
            self.add_module(f'transition{stage}', transition)
            lateral = nn.Sequential(nn.Conv2d(coarser, dim, 1), nn.GELU(), nn.BatchNorm2d(dim))
            self.add_module(f'lateral{stage}', lateral)
            self.add_module(f'fpn{stage}', mixer(dim))
        for stage, (dim, clusters) in enumerate(zip(dims, num_clusters), 1):
            self.add_module(f'to_clusters{stage}', nn.Conv2d(dim, clusters, 1))

    def forward(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        stages = self._bottom_up(x)
        maps = self._top_down(stages)
        built = len(self.num_clusters)
        assigns = [
            assign_patches(getattr(self, f'to_clusters{s}')(feature_map).flatten(2))
            for s, feature_map in enumerate(maps[:built], 1)
        ]
        return assigns, [to_tokens(stage) for stage in stages[:built]]

    def _bottom_up(self, x: Tensor) -> list[Tensor]:
        stages = []
        for stage in range(1, self.num_stages + 1):
            if stage > 1:
                x = getattr(self, f'transition{stage - 1}')(x)
            x = getattr(self, f'block{stage}')(x)
            stages.append(x)
        return stages

    def _top_down(self, stages: list[Tensor]) -> list[Tensor]:
        maps = [stages[-1]]
        for stage in range(self.num_stages - 1, 0, -1):
            own = stages[stage - 1]
            conv, *rest = getattr(self, f'lateral{stage}')
            # a 1x1 convolution commutes with bilinear resizing: run it on the smaller map
            coarse = F.interpolate(
                conv(maps[0]), size=own.shape[2:], mode='bilinear', align_corners=False
            )
            for layer in rest:
                coarse = layer(coarse)
            maps.insert(0, getattr(self, f'fpn{stage}')(own + coarse))
        return maps
