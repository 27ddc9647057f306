"""MTA: multi-stage token aggregation, from token sets back to a pyramid of maps.

Source: TCFormer (CVPR 2022), Sec. 3.3; ``reduction='cluster'`` is the authors' public prototype
of TCFormerV2's clustering-reduced MTA.

From the coarsest stage to the finest, the coarser tokens are interpolated to the finer ones and
added, and a transformer block follows. Tokens become maps only afterwards, which keeps detail.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F

from ..common.backbone import as_maps
from ..common.checks import (
    check_bool,
    check_choice,
    check_divides,
    check_int,
    check_ints,
    check_length,
    check_range,
    count_entries,
)
from ..common.layers import drop_path_rates, init_vit_weights
from ..common.strict_load import State, StrictInitModule, check_init_cfg
from ..common.tracing import as_one_call
from .layers import REDUCTIONS, TokenBlock
from .tokens import TokenSet, interpolate_tokens, tokens_to_map

EXTRA_CONVS = (False, True, 'on_input', 'on_output')


def _named_conv(*args: int) -> nn.Sequential:
    """A convolution named ``conv``, as in released checkpoints."""
    return nn.Sequential(OrderedDict(conv=nn.Conv2d(*args)))


def _per_level(name: str, value: int | Sequence[int], num_levels: int) -> tuple[int, ...]:
    if isinstance(value, Sequence):
        check_length(name, value, num_levels, 'level of in_channels')
        return tuple(value)
    return (value,) * num_levels


@MODELS.register_module()
class MTA(StrictInitModule):
    """Multi-stage Token Aggregation neck.

    Args:
        in_channels: Channels of each incoming token set, high to low resolution.
        out_channels: Channels of every map.
        num_heads: Heads of the merge blocks, one number or one per level.
        mlp_ratio: Hidden width per channel in the merge blocks, one number or one per level.
        reduction: How the merge blocks reduce their keys: ``'avg_pool'`` or ``'conv'`` on the
            map, or ``'cluster'`` over the clusters of the last level.
        sr_ratios: Reduction of the map per level; by default it halves from level to level and
            ends at 1.
        start_level: First level to use.
        end_level: Last level to use; -1 is the last entry of ``in_channels``.
        num_outs: Maps in the pyramid, at least one per level in use, which is the default;
            further ones are coarser.
        out_levels: Maps of the pyramid to return, e.g. ``(0,)`` for a heatmap head that reads
            the finest; all by default.
        add_extra_convs: How coarser maps are made: False subsamples the last map, ``'on_input'``
            (or True) applies a stride-2 convolution to the map of the last input,
            ``'on_output'`` to the last map.
        relu_before_extra_convs: ReLU between successive extra convolutions.
        qkv_bias: Whether q, k and v have a bias.
        gather_layer: Apply Linear, LayerNorm and GELU to keys reduced by ``'cluster'``.
        drop_path_rate: Stochastic depth of the coarsest merge block, rising linearly from 0.
        norm_eps: Epsilon of the merge blocks' norms.
        init_cfg: ``dict(type='Pretrained', ...)`` loads strictly.

    Shape:
        - inputs: one token set per entry of ``in_channels``, all on one initial grid.
        - returns: a tuple of ``(B, out_channels, H_i, W_i)``, one per entry of ``out_levels``.

    Raises:
        ValueError: If an argument or an input is invalid.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int = 256,
        num_heads: int | Sequence[int] = 4,
        mlp_ratio: float | Sequence[float] = 4,
        reduction: str = 'avg_pool',
        sr_ratios: Sequence[int] | None = None,
        start_level: int = 0,
        end_level: int = -1,
        num_outs: int | None = None,
        out_levels: Sequence[int] | None = None,
        add_extra_convs: bool | str = False,
        relu_before_extra_convs: bool = False,
        qkv_bias: bool = True,
        gather_layer: bool = False,
        drop_path_rate: float = 0.0,
        norm_eps: float = 1e-5,
        init_cfg: dict | None = None,
    ) -> None:
        check_init_cfg(init_cfg)
        super().__init__(init_cfg)
        total = count_entries(in_channels)
        check_ints('in_channels', in_channels, total, 'level')
        check_choice('reduction', reduction, REDUCTIONS)
        check_choice('add_extra_convs', add_extra_convs, EXTRA_CONVS)
        check_bool('relu_before_extra_convs', relu_before_extra_convs)
        check_bool('qkv_bias', qkv_bias)
        check_bool('gather_layer', gather_layer)
        check_range('norm_eps', norm_eps, 0.0, 1.0, '()')
        if gather_layer and reduction != 'cluster':
            raise ValueError(f"gather_layer needs reduction='cluster', got {reduction=}")
        num_heads = _per_level('num_heads', num_heads, total)
        mlp_ratio = _per_level('mlp_ratio', mlp_ratio, total)
        if sr_ratios is None:
            sr_ratios = tuple(2 ** (total - 1 - level) for level in range(total))
        check_ints('sr_ratios', sr_ratios, total, 'level of in_channels')
        for heads, ratio in zip(num_heads, mlp_ratio):
            check_divides('num_heads', heads, 'out_channels', out_channels)
            check_range('mlp_ratio', ratio, 0.0, ends='()')
        check_int('start_level', start_level, 0)
        check_int('end_level', end_level, -1)
        last = total - 1 if end_level == -1 else end_level
        if not 0 <= start_level <= last < total:
            raise ValueError(
                f'start_level and end_level must satisfy 0 <= start <= end < {total}, got '
                f'{start_level=} and {end_level=}; in_channels has {total} entries'
            )
        levels = range(start_level, last + 1)
        num_outs = len(levels) if num_outs is None else num_outs
        check_int('num_outs', num_outs)
        if num_outs < len(levels):
            raise ValueError(
                f'num_outs must be at least the {len(levels)} levels in use, got {num_outs}; '
                'raise start_level, or select maps with out_levels'
            )
        out_levels = tuple(range(num_outs)) if out_levels is None else out_levels
        check_ints('out_levels', out_levels, count_entries(out_levels), 'map', 0)
        self._check_out_levels(out_levels, num_outs)

        self.in_channels = tuple(in_channels)
        self.out_channels = out_channels
        self.levels = levels
        self.reduction = reduction
        self.out_levels = tuple(out_levels)
        self.extra_source = 'on_input' if add_extra_convs is True else add_extra_convs
        self.relu_before_extra_convs = relu_before_extra_convs
        self.lateral_convs = nn.ModuleList(
            _named_conv(in_channels[level], out_channels, 1) for level in levels
        )
        rates = drop_path_rates(drop_path_rate, (1,) * (len(levels) - 1))
        self.merge_blocks = nn.ModuleList(
            TokenBlock(
                out_channels,
                num_heads[level],
                mlp_ratio[level],
                sr_ratios[level],
                reduction,
                qkv_bias=qkv_bias,
                drop_path=rate,
                norm_eps=norm_eps,
                gather_layer=gather_layer,
            )
            for level, (rate,) in zip(levels, rates)
        )
        # unused convolutions are not built: distributed training would miss their gradients
        self.num_extra = max(max(out_levels) + 1 - len(levels), 0)
        first = in_channels[last] if self.extra_source == 'on_input' else out_channels
        self.extra_convs = nn.ModuleList(
            _named_conv(first if i == 0 else out_channels, out_channels, 3, 2, 1)
            for i in range(self.num_extra if self.extra_source else 0)
        )
        self.apply(init_vit_weights)

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
            channels: Channels of each token set.
            strides: Strides of each token set.
            out_strides: Strides of the maps: those of the token sets, or the finest one only.
            fpn: Config of the FPN; its extra maps are kept.

        Returns:
            The config; None if the strides differ.
        """
        config = dict(type=cls.__name__, in_channels=list(channels))
        config['out_channels'] = fpn['out_channels']
        if tuple(out_strides) == tuple(strides):
            kept = ('num_outs', 'add_extra_convs', 'relu_before_extra_convs')
            return config | {key: fpn[key] for key in kept if key in fpn}
        return dict(config, out_levels=(0,)) if list(out_strides) == [strides[0]] else None

    @staticmethod
    def _check_out_levels(out_levels: Sequence[int], num_outs: int) -> None:
        if max(out_levels) >= num_outs or list(out_levels) != sorted(set(out_levels)):
            raise ValueError(
                f'out_levels must be increasing numbers in [0, {num_outs - 1}] ({num_outs=}), '
                f'got {tuple(out_levels)}; for example (0,)'
            )
        if out_levels[0] != 0:
            raise ValueError(
                f'out_levels must include 0, the finest map, got {tuple(out_levels)}; '
                'raise start_level to skip fine levels'
            )

    @as_one_call
    def forward(self, inputs: Sequence[TokenSet]) -> tuple[Tensor, ...]:
        """Aggregate token sets top-down and return the maps of ``out_levels``."""
        self._check_inputs(inputs)
        tokens = [
            # a 1x1 convolution on tokens is a linear map
            level.with_x(F.linear(level.x, lateral.conv.weight.flatten(1), lateral.conv.bias))
            for level, lateral in zip((inputs[i] for i in self.levels), self.lateral_convs)
        ]
        context = tokens[-1]  # keys are averaged over its clusters; its features are not read
        for i in range(len(tokens) - 2, -1, -1):
            x = tokens[i].x + interpolate_tokens(tokens[i], tokens[i + 1])
            tokens[i] = self.merge_blocks[i](tokens[i].with_x(x), context=context)
        maps = [tokens_to_map(level) for level in tokens]
        self._add_extra_maps(maps, inputs[self.levels[-1]])
        return as_maps(maps[level] for level in self.out_levels)

    def _add_extra_maps(self, maps: list[Tensor], last_input: TokenSet) -> None:
        source = tokens_to_map(last_input) if self.extra_source == 'on_input' else maps[-1]
        for i in range(self.num_extra):
            if not self.extra_source:
                maps.append(F.max_pool2d(maps[-1], 1, stride=2))
                continue
            if i > 0:
                source = F.relu(maps[-1]) if self.relu_before_extra_convs else maps[-1]
            maps.append(self.extra_convs[i](source))

    def _check_inputs(self, inputs: Sequence[TokenSet]) -> None:
        kinds = sorted({type(level).__name__ for level in inputs})
        if kinds != ['TokenSet']:
            raise ValueError(
                f"MTA needs token sets, got {kinds}; build TCFormer with out_type='tokens'"
            )
        channels = tuple(level.x.shape[-1] for level in inputs)
        if channels != self.in_channels:
            raise ValueError(
                f'MTA was built for {len(self.in_channels)} levels with in_channels='
                f'{self.in_channels}, got {len(channels)} levels with {channels}; set in_channels '
                "to the backbone's out_channels"
            )

    def prepare_state_dict(self, state: State) -> tuple[State, tuple[str, ...]]:
        """Drop the unused extra convolutions that mmpose 0.x built and saved."""
        keep = tuple(f'extra_convs.{i}.' for i in range(len(self.extra_convs)))
        return {
            key: value
            for key, value in state.items()
            if not key.startswith('extra_convs.') or key.startswith(keep)
        }, ()
