"""Layers that several papers share: token maps, stochastic depth, MLPs, initial values."""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
from torch import Tensor, nn

from .checks import HW, check_range
from .memory import is_worth_recomputing, map_chunks, recompute, recompute_if_large


def to_map(x: Tensor, hw: HW) -> Tensor:
    """``(B, H * W, C) -> (B, C, H, W)``, a view that is channels-last also for a batch of one."""
    return x.unflatten(1, hw).permute(0, 3, 1, 2)


def to_tokens(x: Tensor) -> Tensor:
    """``(B, C, H, W) -> (B, H * W, C)``, a contiguous view of a channels-last map."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


class DropPath(nn.Module):
    """Drop the residual branch of whole samples (stochastic depth, arXiv:1603.09382).

    Args:
        drop_path: Probability of dropping the branch of a sample, in [0, 1).

    Shape:
        - x: ``(B, ...)``; returned in the same shape, the kept samples scaled by
          ``1 / (1 - drop_path)``.
    """

    def __init__(self, drop_path: float = 0.0) -> None:
        super().__init__()
        check_range('drop_path', drop_path, 0.0, 1.0)
        self.drop_path = drop_path

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.drop_path == 0.0:
            return x
        keep = 1.0 - self.drop_path
        mask = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep)
        return x * (mask / keep)

    def extra_repr(self) -> str:
        return f'drop_path={self.drop_path:.3f}'


def drop_path_rates(drop_path_rate: float, depths: tuple[int, ...]) -> list[list[float]]:
    """Rates that rise linearly from 0 to ``drop_path_rate``, one list per stage."""
    check_range('drop_path_rate', drop_path_rate, 0.0, 1.0)
    last = max(sum(depths) - 1, 1)
    rates = [drop_path_rate * block / last for block in range(sum(depths))]
    starts = [sum(depths[:i]) for i in range(len(depths))]
    return [rates[start : start + depth] for start, depth in zip(starts, depths)]


class LayerScale(nn.Module):
    """Multiply each channel by a learned factor (CaiT, arXiv:2103.17239, Eq. 4).

    Args:
        dim: Channels.
        value: Initial factor.

    Shape:
        - x: ``(..., dim)``, returned in the same shape.
    """

    def __init__(self, dim: int, value: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), float(value)))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between them.

    A large output of the GELU is recomputed in the backward pass.

    Args:
        dim: C.
        hidden_dim: Channels between the two layers.

    Shape:
        - x: ``(B, N, ..., C)``, returned in the same shape.
    """

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.ratio = hidden_dim / dim

    def forward(self, x: Tensor) -> Tensor:
        is_large = is_worth_recomputing(x.numel() * self.ratio)
        return map_chunks(self._recompute if is_large else self._keep, x)

    def _keep(self, x: Tensor) -> Tensor:
        return self._activate(self.fc1(x))

    def _recompute(self, x: Tensor) -> Tensor:
        return recompute(self._activate, self.fc1(x))

    def _activate(self, hidden: Tensor) -> Tensor:
        return self.fc2(self.act(hidden))


class ConvMlp(nn.Module):
    """MLP with a 3x3 depthwise convolution between its layers, for tokens on a grid (PVTv2).

    A large output of the GELU is recomputed in the backward pass.

    Args:
        dim: C.
        hidden_dim: Channels between the two layers.
        drop: Dropout after each layer, in [0, 1).

    Shape:
        - x: ``(B, H*W, C)`` in raster order, returned in the same shape.
        - hw: the grid, ``(H, W)``.
        - norm: applied to ``x`` first; its output, too, is recomputed if it is large.
    """

    def __init__(self, dim: int, hidden_dim: int, drop: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        # named dwconv.dwconv in released checkpoints
        self.dwconv = nn.Sequential(
            OrderedDict(dwconv=nn.Conv2d(hidden_dim, hidden_dim, 3, padding=1, groups=hidden_dim))
        )
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor, hw: HW, norm: nn.Module | None = None) -> Tensor:
        x = self.fc1(x) if norm is None else recompute_if_large(self._expand, x, norm)
        x = to_tokens(self.mix(to_map(x, hw)))
        is_random = self.training and self.drop.p > 0
        return self.drop(recompute_if_large(self._activate, x, is_random=is_random))

    def mix(self, x: Tensor) -> Tensor:
        """Apply the convolution to a map ``(B, hidden_dim, H, W)``."""
        return self.dwconv(x)

    def _expand(self, x: Tensor, norm: nn.Module) -> Tensor:
        return self.fc1(norm(x))

    def _activate(self, x: Tensor) -> Tensor:
        return self.fc2(self.drop(self.act(x)))


def init_vit_weights(module: nn.Module) -> None:
    """Initialise PVT-like transformers, for ``model.apply``.

    Linear: truncated normal, std 0.02, bias 0. Conv2d: normal, std ``sqrt(2 / fan_out)``, bias 0.
    Norms and Conv1d layers keep PyTorch's own.
    """
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.Conv2d):
        fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)
