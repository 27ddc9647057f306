"""TCFormer: a transformer that clusters tokens instead of pooling a grid (arXiv:2204.08680).

Stage 1 works on the stride-4 grid. Stages 2-4 work on tokens that represent regions of any shape,
merged by a CTM block between stages. Parameter names are those of the released checkpoints.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from mmengine.registry import MODELS
from torch import Tensor, nn

from ..common.backbone import Backbone, resolve_arch
from ..common.checks import (
    check_bool,
    check_choice,
    check_divides,
    check_int,
    check_ints,
    check_length,
    check_range,
)
from ..common.layers import drop_path_rates, init_vit_weights
from ..common.recorder import record
from ..common.tracing import check_fixed_size
from .conventions import RELEASES, mmpose_0x
from .ctm import ClusteringTokenMerge
from .embed import OverlapPatchEmbed
from .layers import TokenBlock
from .maps import StageTokens
from .tokens import TokenSet, tokens_to_map

_RELEASED = dict(
    embed_dims=(64, 128, 320, 512),
    num_heads=(1, 2, 5, 8),
    mlp_ratios=(8, 8, 4, 4),
    sr_ratios=(8, 4, 2, 1),
)
ARCHS = {
    'light': dict(depths=(2, 2, 2, 2), **_RELEASED),
    'base': dict(depths=(3, 4, 6, 3), **_RELEASED),
    'large': dict(depths=(3, 8, 27, 3), **_RELEASED),
}
NUM_STAGES = 4


@MODELS.register_module()
class TCFormer(Backbone):
    """Token Clustering Transformer.

    Args:
        arch: ``'light'``, ``'base'``, ``'large'``, or a dict with ``depths``, ``embed_dims``,
            ``num_heads``, ``mlp_ratios`` and ``sr_ratios``, four entries each.
        out_type: ``'tokens'`` returns a tuple of token sets, for :class:`MTA`; ``'maps'`` a tuple
            of ``(B, C, H, W)``, for any neck of the hosts; ``'mean'`` a tuple of ``(B, C)``, the
            mean over the tokens, for a linear classifier.
        in_channels: Channels of the image.
        out_indices: 0-based indices of the stages to return; later stages are not built.
        sample_ratios: Merged tokens per token at the three transitions, in (0, 1].
        num_neighbors: k of the clustering density; ``min(k, N)`` is used for N tokens.
        local_parts: None clusters globally, as published: O(N^2) time. ``(4, 2, 1)`` clusters
            within 4x4, 2x2 and 1 parts of the image, as in TCFormerV2. This suits large images
            and takes the same weights, but is another function.
        density_noise: Amplitude of the uniform noise added to the density in training; 1e-6 in
            the released recipe. Evaluation never draws noise.
        patch_norm_eps: Epsilon of the patch-embedding norm: 1e-5 for weights of the authors'
            repository, 1e-6 for weights trained in mmpose 0.x.
        qkv_bias: Whether q, k and v have a bias.
        drop_rate: Dropout after projections and in MLPs, in [0, 1).
        attn_drop_rate: Dropout on attention weights, in [0, 1).
        drop_path_rate: Stochastic depth of the last block, rising linearly from 0.
        frozen_stages: See :class:`~mmtoken.common.backbone.Backbone`.
        norm_eval: See :class:`~mmtoken.common.backbone.Backbone`.
        with_cp: See :class:`~mmtoken.common.backbone.Backbone`.
        init_cfg: See :class:`~mmtoken.common.backbone.Backbone`.

    Shape:
        - image: ``(B, in_channels, H, W)``, each side at least 29 pixels for the released
          ``sr_ratios``.
        - returns: a tuple; entry i has stride ``out_strides[i]``, i.e. nominal map size
          ``ceil(side / stride)``, and ``out_channels[i]`` channels.

    Raises:
        ValueError: If an argument or the input is invalid.
    """

    # dense tasks do not use the head of released classification files
    checkpoint_ignore = (r'head\.',)
    conventions = (mmpose_0x,)
    releases = RELEASES
    fitting_neck = 'MTA'
    map_arguments = dict(out_type='maps')
    large_image_arguments = dict(local_parts=(4, 2, 1))

    def __init__(
        self,
        arch: str | dict = 'base',
        out_type: str = 'tokens',
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        sample_ratios: Sequence[float] = (0.25, 0.25, 0.25),
        num_neighbors: int = 5,
        local_parts: Sequence[int] | None = None,
        density_noise: float = 0.0,
        patch_norm_eps: float = 1e-5,
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(NUM_STAGES, out_indices, frozen_stages, norm_eval, with_cp, init_cfg)
        spec = resolve_arch(arch, ARCHS, tuple(ARCHS['base']))
        check_int('in_channels', in_channels)
        check_bool('qkv_bias', qkv_bias)
        check_range('patch_norm_eps', patch_norm_eps, 0.0, 1.0, '()')
        check_choice('out_type', out_type, ('tokens', 'maps', 'mean'))
        for name, values in spec.items():
            check_ints(name, values, NUM_STAGES, 'stage')
        for heads, dim in zip(spec['num_heads'], spec['embed_dims']):
            check_divides('num_heads', heads, 'embed_dims', dim)
        check_length('sample_ratios', sample_ratios, NUM_STAGES - 1, 'transition')
        for ratio in sample_ratios:
            check_range('sample_ratios', ratio, 0.0, 1.0, '(]')
        check_int('num_neighbors', num_neighbors)
        check_range('density_noise', density_noise, 0.0)
        if local_parts is not None:
            _check_parts(local_parts)
        check_range('drop_rate', drop_rate, 0.0, 1.0)
        check_range('attn_drop_rate', attn_drop_rate, 0.0, 1.0)
        self.out_type = out_type
        self.in_channels = in_channels
        dims, depths = tuple(spec['embed_dims']), tuple(spec['depths'])
        built = max(self.out_indices) + 1
        rates = drop_path_rates(drop_path_rate, depths)
        strides = (4, 8, 16, 32)
        self.out_channels = self.select(dims)
        self.out_strides = self.select(strides)
        # the map of each stage must hold at least one sr x sr window
        self.min_side_reason = 'from sr_ratios'
        self.min_side = max(
            stride * (sr - 1) + 1 for stride, sr in zip(strides[:built], spec['sr_ratios'])
        )

        self.patch_embed1 = OverlapPatchEmbed(in_channels, dims[0], norm_eps=patch_norm_eps)
        self.stage_modules.append(['patch_embed1'])
        for stage in range(built):
            number = stage + 1
            if stage > 0:
                parts = None if local_parts is None else tuple(local_parts[stage - 1 :])
                merge = ClusteringTokenMerge(
                    dims[stage - 1],
                    dims[stage],
                    sample_ratios[stage - 1],
                    num_neighbors,
                    density_noise,
                    parts,
                )
                self.add_module(f'ctm{stage}', merge)
            blocks = nn.ModuleList(
                TokenBlock(
                    dims[stage],
                    spec['num_heads'][stage],
                    spec['mlp_ratios'][stage],
                    spec['sr_ratios'][stage],
                    qkv_bias=qkv_bias,
                    drop=drop_rate,
                    attn_drop=attn_drop_rate,
                    drop_path=rate,
                    on_grid=stage == 0,
                )
                for rate in rates[stage]
            )
            self.add_module(f'block{number}', blocks)
            self.add_module(f'norm{number}', nn.LayerNorm(dims[stage], eps=1e-6))
            self.stage_modules.append(self.stage_names(number))
        self.depths = depths[:built]
        self.apply(init_vit_weights)
        self.finish()

    def run_stages(self, image: Tensor) -> list[TokenSet]:
        """Return the token set of each stage."""
        check_fixed_size(image, 'they decide about the number of tokens')
        tokens = TokenSet.from_map(self.patch_embed1(image))
        stages = []
        for number in range(1, len(self.depths) + 1):
            tokens = self._run_stage(number, tokens)
            record(StageTokens(number, tokens))
            stages.append(tokens)
        return stages

    def output(self, _stage: int, tokens: TokenSet) -> TokenSet | Tensor:
        """The token set, its map, or the mean of its tokens."""
        if self.out_type == 'mean':
            return tokens.x.mean(1)
        return tokens_to_map(tokens).contiguous() if self.out_type == 'maps' else tokens

    def _run_stage(self, number: int, tokens: TokenSet) -> TokenSet:
        blocks = getattr(self, f'block{number}')
        key = score = None
        if number > 1:
            merge = getattr(self, f'ctm{number - 1}')
            tokens, key, score = self.run_block(merge, tokens, number)
        for block in blocks:
            tokens = self.run_block(block, tokens, key, score)
            key = score = None  # only the first block attends to the tokens before merging
        return tokens.with_x(getattr(self, f'norm{number}')(tokens.x))

    def stage_names(self, stage: int) -> list[str]:
        """Names of the modules of a stage, counted from 1."""
        names = [f'block{stage}', f'norm{stage}']
        return names if stage == 1 else [f'ctm{stage - 1}', *names]


def _check_parts(local_parts: Sequence[int]) -> None:
    check_ints('local_parts', local_parts, NUM_STAGES - 1, 'transition')
    if any(fine % coarse for fine, coarse in itertools.pairwise(local_parts)):
        raise ValueError(
            f'each entry of local_parts must be divisible by the next, got {tuple(local_parts)}; '
            'for example (4, 2, 1)'
        )
