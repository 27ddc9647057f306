"""SimpleFPN: a pyramid from the one map of a plain backbone (ViTDet, arXiv:2203.16527, Sec. 3).

Letters: B batch, C channels of the map, h x w its cells, P its stride in pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F

from ..common.backbone import as_maps
from ..common.checks import check_bool, check_choice, check_int, check_range, check_shape
from ..common.strict_load import State, StrictInitModule
from ..common.tracing import as_one_call
from .dialects import mmdet_pyramid

# detectron2 numbers the levels by the logarithm of their stride, for a patch of 16 pixels
LEVELS = {4: 2, 2: 3, 1: 4, 0.5: 5}
EXTRAS = ('pool', 'conv_on_output', 'conv_on_input')


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of a map ``(B, C, h, w)``; the result is channels-last."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


# for norm_cfg of the heads of ViTDet
MODELS.register_module(module=ChannelNorm)


class NormedConv(nn.Conv2d):
    """Convolution that keeps the size, without bias, and a norm named as in detectron2."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, norm_eps: float) -> None:
        super().__init__(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)
        self.norm = ChannelNorm(out_channels, norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(super().forward(x))


def resize_layers(scale: float, channels: int, norm_eps: float) -> list[nn.Module]:
    """Layers that resize a map by a scale; enlarging by 2 halves the channels."""
    half, quarter = channels // 2, channels // 4
    enlarge = nn.ConvTranspose2d(channels, half, 2, stride=2) if scale > 1 else None
    if scale == 4:
        again = nn.ConvTranspose2d(half, quarter, 2, stride=2)
        return [enlarge, ChannelNorm(half, norm_eps), nn.GELU(), again]
    return {2: [enlarge], 1: [], 0.5: [nn.MaxPool2d(2)]}[scale]


def _check_scales(scales: Sequence[float], in_channels: int) -> None:
    check_int('in_channels', in_channels)
    is_known = isinstance(scales, Sequence) and scales and all(s in (*LEVELS,) for s in scales)
    if not is_known or list(scales) != sorted(set(scales), reverse=True):
        raise ValueError(
            f'scales must be descending numbers out of {tuple(LEVELS)}, got {scales!r}'
        )
    if in_channels % max(1, int(scales[0])):
        raise ValueError(
            f'in_channels must be a multiple of the largest of scales, got {in_channels=} and '
            f'{scales=}: enlarging by 2 halves the channels'
        )


@MODELS.register_module()
class SimpleFPN(StrictInitModule):
    """Simple feature pyramid: parallel levels from one map, without top-down connections.

    A level resizes the map and applies a 1x1 and a 3x3 convolution, each with a norm. The defaults
    give the five levels of ViTDet, with strides P/4, P/2, P, 2P and 4P.

    Args:
        in_channels: C.
        out_channels: Channels of every output.
        scales: Sizes of the levels relative to the map, descending, out of 4, 2, 1 and 0.5.
        num_extra: Coarser levels after those of ``scales``, each half as large as the one before;
            by default 1, and 0 with ``single_out``.
        extra: How they are made: ``'pool'`` subsamples the last output; ``'conv_on_output'``
            applies 3x3 convolutions with stride 2 to the last output, ``'conv_on_input'`` to what
            the last level of ``scales`` gets before its 1x1 convolution, both with a ReLU between
            two of them (RetinaNet, FCOS).
        single_out: Build and return the first of ``scales`` only, for a head that reads one map.
        norm_eps: Epsilon of the norms. mmdet's own ViTDet was trained with 1e-5.
        init_cfg: ``dict(type='Pretrained', ...)`` loads the neck of detectron2's ViTDet
            (``prefix='backbone'``) or of mmdet's (``prefix='neck'``) strictly.

    Shape:
        - inputs: maps of which the last, ``(B, C, h, w)``, is used.
        - returns: a tuple of contiguous maps ``(B, out_channels, h_i, w_i)``. A level of scale 0.5
          drops an odd row or column, extra levels round up.

    Raises:
        ValueError: If an argument or the input is invalid.
    """

    conventions = (mmdet_pyramid,)

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 256,
        scales: Sequence[float] = (4, 2, 1, 0.5),
        num_extra: int | None = None,
        extra: str = 'pool',
        single_out: bool = False,
        norm_eps: float = 1e-6,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        _check_scales(scales, in_channels)
        check_bool('single_out', single_out)
        check_int('out_channels', out_channels)
        check_choice('extra', extra, EXTRAS)
        check_range('norm_eps', norm_eps, 0.0, 1.0, '()')
        num_extra = int(not single_out) if num_extra is None else num_extra
        check_int('num_extra', num_extra, 0)
        if single_out and num_extra:
            raise ValueError(f'num_extra must be 0 with single_out=True, got {num_extra}')
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.scales = tuple(scales[:1] if single_out else scales)
        self.num_extra = num_extra
        self.extra = extra
        for scale in self.scales:
            layers = resize_layers(scale, in_channels, norm_eps)
            channels = in_channels // max(1, int(scale))
            layers.append(NormedConv(channels, out_channels, 1, norm_eps))
            layers.append(NormedConv(out_channels, out_channels, 3, norm_eps))
            self.add_module(self._name(scale), nn.Sequential(*layers))
        first = channels if extra == 'conv_on_input' else out_channels
        self.extra_convs = nn.ModuleList(
            nn.Conv2d(first if i == 0 else out_channels, out_channels, 3, stride=2, padding=1)
            for i in range(0 if extra == 'pool' else num_extra)
        )

    @classmethod
    def in_place_of_fpn(
        cls,
        channels: Sequence[int],
        strides: Sequence[int],
        out_strides: Sequence[int],
        fpn: Mapping[str, Any],
    ) -> dict | None:
        """Config of a neck that returns the maps of an FPN.

        Args:
            channels: Channels of the maps of a backbone; the last one is read.
            strides: Their strides, all equal.
            out_strides: Strides of the levels of the FPN without its extra maps.
            fpn: Config of the FPN; its extra maps are kept.

        Returns:
            The config; None if the strides are not equal or no scale gives ``out_strides``.
        """
        scales = [scale for scale in LEVELS if strides[-1] / scale in out_strides]
        if len({*strides}) > 1 or len(scales) != len(out_strides):
            return None
        num_extra = fpn.get('num_outs', len(scales)) - len(scales)
        config = dict(type=cls.__name__, in_channels=channels[-1], scales=scales)
        config.update(out_channels=fpn['out_channels'], num_extra=num_extra)
        source = fpn.get('add_extra_convs')
        if num_extra and source:
            config['extra'] = f'conv_{"on_output" if source == "on_output" else "on_input"}'
        return config

    @staticmethod
    def _name(scale: float) -> str:
        return f'simfp_{LEVELS[scale]}'

    @as_one_call
    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the levels from fine to coarse."""
        feature_map = self._check_input(inputs)
        # the norms want channels last; a copy of a large map between two layers is saved
        feature_map = feature_map.contiguous(memory_format=torch.channels_last)
        maps = []
        for scale in self.scales:
            *resize, lateral, smooth = self.get_submodule(self._name(scale))
            resized = feature_map
            for layer in resize:
                resized = layer(resized)
            maps.append(smooth(lateral(resized)))
        self._add_extra_maps(maps, resized)
        return as_maps(maps)

    def _add_extra_maps(self, maps: list[Tensor], last_input: Tensor) -> None:
        if self.extra == 'pool':
            for _ in range(self.num_extra):
                maps.append(maps[-1][:, :, ::2, ::2])
            return
        source = last_input if self.extra == 'conv_on_input' else maps[-1]
        for i, conv in enumerate(self.extra_convs):
            maps.append(conv(F.relu(maps[-1]) if i else source))

    def _check_input(self, inputs: Sequence[Tensor]) -> Tensor:
        if not isinstance(inputs, (tuple, list)) or not inputs:
            raise ValueError(
                f'SimpleFPN needs a tuple of maps, of which it reads the last, got '
                f'{type(inputs).__name__} of length {len(inputs)}'
            )
        check_shape('the map', inputs[-1], 'B C H W')
        channels, *hw = inputs[-1].shape[1:]
        if channels != self.in_channels:
            raise ValueError(
                f'SimpleFPN was built for a map with in_channels={self.in_channels}, got '
                f"{channels} channels; set in_channels to the backbone's out_channels[-1]"
            )
        if self.scales[-1] < 1 and min(hw) < 2:
            raise ValueError(
                f'the map must be at least 2x2 cells for scale 0.5, got {hw[0]}x{hw[1]}; resize '
                'the image or leave 0.5 out of scales'
            )
        return inputs[-1]

    def prepare_state_dict(self, state: State) -> tuple[State, tuple[str, ...]]:
        """Drop levels that are not built, and the backbone next to the neck of detectron2."""
        names = {self._name(scale) for scale in LEVELS} - {self._name(s) for s in self.scales}
        names.add('net')
        return {key: v for key, v in state.items() if key.partition('.')[0] not in names}, ()
