"""STViT on Swin: semantic tokens without recovery, for classification (arXiv:2303.08685, Sec. 3).

The authors released neither code nor weights.

Known: two steps in the third stage generate 9 tokens per 7x7 window, and the rest of the network
works on these tokens only.
Deduced from the published multiply-adds (24, 25 and 25 % less than Swin; 3.43, 6.53 and 11.51 G at
224x224) and from unused code in STViT-R: the convolutional stem, 2, 10 and 10 window blocks before
the generation, crops of 10x10 patches, a linear layer instead of the last patch merging, attention
between all tokens in the last stage.
Guessed: that local and global attention alternate in the third stage, and the parameter names.
"""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.registry import MODELS
from torch import nn

from ..common.backbone import resolve_arch
from ..common.checks import HW, check_bool, check_choice, check_int
from .plan import MASKS, Geometry
from .stage import SemanticStage, SwinStage
from .swin import SEMANTIC_STAGE, STRIDES, Pyramid, init_swin_weights

ARCHS = {
    'tiny': dict(embed_dims=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24), num_local=2),
    'small': dict(embed_dims=96, depths=(2, 2, 18, 2), num_heads=(3, 6, 12, 24), num_local=10),
    'base': dict(embed_dims=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32), num_local=10),
}


@MODELS.register_module()
class STViTSwin(Pyramid):
    """Semantic-Token Vision Transformer on Swin, without recovery.

    Args:
        arch: ``'tiny'``, ``'small'``, ``'base'``, or a dict with ``embed_dims`` (of the first
            stage, doubled in each), ``depths`` and ``num_heads``, four entries each, and
            ``num_local``, the blocks of the third stage before the semantic tokens.
        mask: ``'exact'``: padding is hidden from the semantic steps; ``'none'``: it is not.
            Images of 224x224 have no padding.
        stgm_residual: Add the pooled tokens to the attention branch of the first generation step,
            as in the paper.
        use_global_center: Add a learned map to the queries of the second generation step; the
            authors report little effect on Swin.
        in_channels: Channels of the image.
        out_indices: Stages to return, counted from 0; later stages are not built. Name only stages
            that the head reads: each has a norm, and distributed training stops at a parameter
            without a gradient.
        drop_path_rate: Stochastic depth of the last block, rising linearly from 0.
        frozen_stages: See :class:`~mmtoken.common.backbone.Backbone`.
        norm_eval: See :class:`~mmtoken.common.backbone.Backbone`; the stem has batch norms.
        with_cp: See :class:`~mmtoken.common.backbone.Backbone`.
        init_cfg: See :class:`~mmtoken.common.backbone.Backbone`.

    Shape:
        - image: ``(B, in_channels, H, W)``, at least one patch of the third stage.
        - returns: a tuple of maps: strides 4 and 8 for the first two stages, then maps of 3x3
          semantic tokens per window, 6x6 at 224x224 (``out_size``).

    Raises:
        ValueError: If an argument or the input is invalid.
    """

    last_grid = SEMANTIC_STAGE

    def __init__(
        self,
        arch: str | dict = 'tiny',
        mask: str = 'exact',
        stgm_residual: bool = True,
        use_global_center: bool = False,
        in_channels: int = 3,
        out_indices: Sequence[int] = (3,),
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        spec = resolve_arch(arch, ARCHS, tuple(ARCHS['tiny']))
        shared = (out_indices, frozen_stages, norm_eval, with_cp, init_cfg)
        super().__init__(spec, in_channels, drop_path_rate, *shared)
        check_choice('mask', mask, [kind for kind in MASKS if kind != 'released'])
        check_bool('stgm_residual', stgm_residual)
        check_bool('use_global_center', use_global_center)
        self.out_strides = self.select((*STRIDES[:SEMANTIC_STAGE], 112 / 3, 112 / 3))
        steps = _steps(tuple(spec['depths']), spec['num_local'])
        for stage, common in enumerate(self.stage_arguments):
            is_last = stage + 1 == len(self.depths)
            common = dict(common, merges=not is_last and stage < SEMANTIC_STAGE)
            if stage in steps:
                layer = SemanticStage(
                    number=stage + 1,
                    steps=steps[stage],
                    flavour='classification',
                    mask=mask,
                    residual=stgm_residual,
                    use_global_center=use_global_center and stage == SEMANTIC_STAGE,
                    **common,
                )
            else:
                layer = SwinStage(shifts_small_maps=False, **common)
            if stage == SEMANTIC_STAGE and not is_last:
                # semantic tokens are not merged
                layer.downsample = nn.Linear(common['dim'], 2 * common['dim'])
            self.add_stage(layer)
        self.apply(init_swin_weights)
        self.finish()

    def out_size(self, index: int, hw: HW) -> HW:
        """Return the sides of output ``index`` for an image of ``hw``."""
        if self.out_indices[index] < SEMANTIC_STAGE:
            return super().out_size(index, hw)
        stride = STRIDES[SEMANTIC_STAGE]
        return Geometry((-(-hw[0] // stride), -(-hw[1] // stride))).semantic_hw


def _steps(depths: tuple[int, ...], num_local: int) -> dict[int, tuple[str, ...]]:
    """Return the names of the steps of the last two stages."""
    check_int('num_local', num_local, 0)
    rest = depths[SEMANTIC_STAGE] - 2
    if num_local > rest:
        raise ValueError(
            f'num_local must be in [0, {rest}], so that two generation steps fit into the third '
            f'of depths, got {num_local=} and {depths=}; 2 of 6 and 10 of 18 match the paper'
        )
    local = ('local', 'shifted') * num_local
    semantic = ('semantic_local', 'semantic_global') * rest
    third = (*local[:num_local], 'generate', 'refine', *semantic[: rest - num_local])
    last = ('semantic_global',) * depths[SEMANTIC_STAGE + 1]
    return {SEMANTIC_STAGE: third, SEMANTIC_STAGE + 1: last}
