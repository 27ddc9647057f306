"""STViT-R: Swin whose third stage works on semantic tokens and recovers (arXiv:2303.08685).

Parameter names are those of the released checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.registry import MODELS
from torch import Tensor

from ..common.backbone import resolve_arch
from ..common.checks import check_bool, check_choice, check_int, check_ints
from .conventions import RELEASES
from .plan import MASKS
from .stage import FLAVOURS, UNIT, SemanticStage, SwinStage
from .swin import NUM_STAGES, SEMANTIC_STAGE, Pyramid, init_swin_weights

ARCHS = {
    'tiny': dict(embed_dims=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24)),
    'small': dict(embed_dims=96, depths=(2, 2, 18, 2), num_heads=(3, 6, 12, 24)),
    'base': dict(embed_dims=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32)),
}
RELEASED_WINDOWS = (7, 3, (14, 21, 27))


@MODELS.register_module()
class STViTR(Pyramid):
    """Semantic-Token Vision Transformer with Recovery, on Swin.

    Args:
        arch: ``'tiny'``, ``'small'``, ``'base'``, or a dict with ``embed_dims`` (of the first
            stage, doubled in each), ``depths`` and ``num_heads``, four entries each; the third
            depth is a multiple of 6, the steps of a unit.
        flavour: ``'dense'``, released for detection: every attention is in windows.
            ``'classification'``, released for ImageNet: the semantic steps see the whole map, the
            first generation step also sees the pooled tokens, and the only norm, ``norm``, follows
            the last stage.
        mask: Which padding is hidden from the semantic steps. ``'exact'``: all, also in pooling.
            ``'released'``: what the released detectors hide, for their weights; in classification
            models, released for 224x224 without padding, the same as ``'exact'``. ``'none'``:
            nothing. The window blocks pad as Swin does.
        stgm_residual: Add the pooled tokens to the attention branch of the first generation step.
            Default as released: only in dense models. Checkpoints do not record it.
        use_global_center: Add a learned map (``semantic_token2``) to the queries of the second
            generation step of the first unit; classification models only.
        window_size: Side of a window in patches.
        semantic_window: Side of the semantic tokens of a window, at most ``window_size``.
        key_windows: Sides of the squares that a dense model sees around a window: in patches for
            the two generation steps, in semantic tokens for recovery.
        in_channels: Channels of the image.
        out_indices: Stages to return, counted from 0; later stages are not built. Name only stages
            that the head reads: each has a norm, and distributed training stops at a parameter
            without a gradient.
        drop_path_rate: Stochastic depth of the last block, rising linearly from 0. In dense models
            the attention branches of generation and recovery are dropped per window.
        frozen_stages: See :class:`~mmtoken.common.backbone.Backbone`.
        norm_eval: See :class:`~mmtoken.common.backbone.Backbone`; the stem has batch norms.
        with_cp: See :class:`~mmtoken.common.backbone.Backbone`.
        init_cfg: See :class:`~mmtoken.common.backbone.Backbone`. To initialise a dense model from
            classification weights, add ``ignore='norm', reinitialize='norm'``.

    Shape:
        - image: ``(B, in_channels, H, W)``, at least one patch of the last stage.
        - returns: a tuple of maps ``(B, out_channels[i], ceil(H / s), ceil(W / s))`` with strides
          s of ``out_strides``.

    Raises:
        ValueError: If an argument or the input is invalid.
    """

    # released classification checkpoints contain a head, and masks for 224x224
    checkpoint_ignore = (r'head\.', r'.*\.attn_mask$')
    releases = RELEASES
    paramwise = dict(
        norm_decay_mult=0.0, custom_keys=dict(relative_position_bias_table=dict(decay_mult=0.0))
    )

    def __init__(
        self,
        arch: str | dict = 'tiny',
        flavour: str = 'dense',
        mask: str = 'exact',
        stgm_residual: bool | None = None,
        use_global_center: bool = False,
        window_size: int = 7,
        semantic_window: int = 3,
        key_windows: Sequence[int] = (14, 21, 27),
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        spec = resolve_arch(arch, ARCHS, tuple(ARCHS['tiny']))
        shared = (out_indices, frozen_stages, norm_eval, with_cp, init_cfg)
        super().__init__(spec, in_channels, drop_path_rate, *shared)
        check_choice('flavour', flavour, FLAVOURS)
        check_choice('mask', mask, MASKS)
        check_bool('use_global_center', use_global_center)
        if stgm_residual is not None:
            check_bool('stgm_residual', stgm_residual)
        _check_units(tuple(spec['depths']))
        _check_windows(window_size, semantic_window, key_windows, mask)
        if use_global_center and flavour == 'dense':
            raise ValueError(
                "use_global_center=True needs flavour='classification' (no dense model has a "
                f'global centre), got {flavour=}'
            )
        self.flavour = flavour
        self.stgm_residual = flavour == 'dense' if stgm_residual is None else stgm_residual
        for stage, common in enumerate(self.stage_arguments):
            common = dict(common, window_size=window_size, merges=stage + 1 < len(self.depths))
            if stage == SEMANTIC_STAGE:
                layer = SemanticStage(
                    number=stage + 1,
                    steps=UNIT * (self.depths[stage] // len(UNIT)),
                    flavour=flavour,
                    mask=mask,
                    residual=self.stgm_residual,
                    use_global_center=use_global_center,
                    semantic_window=semantic_window,
                    key_windows=tuple(key_windows),
                    **common,
                )
            else:
                layer = SwinStage(shifts_small_maps=flavour == 'dense', **common)
            self.add_stage(layer)
        self.apply(init_swin_weights)
        self.finish()

    def norm_name(self, index: int) -> str:
        """Name of the norm of a stage; released classification models have only ``norm``."""
        is_last = self.flavour == 'classification' and index == NUM_STAGES - 1
        return 'norm' if is_last else f'norm{index}'

    def mismatch_hint(self, state: dict[str, Tensor]) -> str:
        """Say which arguments contradict the keys of a checkpoint, for error messages."""
        has_center = f'layers.{SEMANTIC_STAGE}.semantic_token2' in state
        if self.flavour == 'dense' and 'norm.weight' in state:
            ignore = ('norm', '.*semantic_token2') if has_center else 'norm'
            return (
                "The file has flavour='classification', the model 'dense': change the flavour or, "
                f"to fine-tune, declare init_cfg=dict({ignore=}, reinitialize='norm', ...)."
            )
        if self.flavour == 'classification' and 'norm3.weight' in state:
            return "The file has flavour='dense', the model 'classification': change the flavour."
        if self.flavour == 'classification' and self.out_indices != (NUM_STAGES - 1,):
            return 'A classification file has only the norm of the last stage: out_indices=(3,).'
        stage = self.layers[SEMANTIC_STAGE] if len(self.layers) > SEMANTIC_STAGE else None
        if stage is not None and has_center != (stage.semantic_token2 is not None):
            return f'The file needs use_global_center={has_center}.'
        return ''


def _check_units(depths: Sequence[int]) -> None:
    units, rest = divmod(depths[SEMANTIC_STAGE], len(UNIT))
    if rest or units < 1:
        raise ValueError(
            f'the third of depths must be a positive multiple of {len(UNIT)}, the steps of a unit, '
            f'got {depths[SEMANTIC_STAGE]} in {tuple(depths)}; 6 and 18 are published'
        )


def _check_windows(
    window_size: int, semantic_window: int, key_windows: Sequence[int], mask: str
) -> None:
    check_int('window_size', window_size)
    check_int('semantic_window', semantic_window)
    if semantic_window > window_size:
        raise ValueError(
            'semantic_window must be in [1, window_size], got '
            f'{semantic_window=} and {window_size=}; 3 and 7 are published'
        )
    check_ints('key_windows', key_windows, 3, 'step (generate, refine, recover)')
    least = (window_size, window_size, semantic_window)
    if any(key < own for key, own in zip(key_windows, least)):
        raise ValueError(
            f'each of key_windows must cover its own window, {least}, got {tuple(key_windows)}; '
            '(14, 21, 27) is published'
        )
    windows = (window_size, semantic_window, tuple(key_windows))
    if mask == 'released' and windows != RELEASED_WINDOWS:
        # with smaller ones it would hide every key of some windows
        raise ValueError(
            "mask='released' needs the released window_size, semantic_window and key_windows "
            f"{RELEASED_WINDOWS}, got {windows}; use mask='exact'"
        )
