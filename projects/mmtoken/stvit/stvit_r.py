"""STViT-R: Swin whose third stage works on semantic tokens and recovers (arXiv:2303.08685).

Parameter names are those of the released checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.registry import MODELS
from torch import Tensor

from ..common.backbone import as_maps, resolve_arch
from ..common.checks import check_choice, check_image, check_length
from ..common.recorder import start_record
from .pyramid import NUM_STAGES, SEMANTIC_STAGE, STRIDES, Pyramid, init_swin_weights
from .semantic_tokens import MASKS
from .stage import FLAVOURS, UNIT, SemanticStage, SwinStage

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
        flavour: ``'dense'``, as released for detection, every attention in windows; or
            ``'classification'``, as released for ImageNet, where the semantic steps see the whole
            map, the first generation step sees pooled tokens too, and ``norm`` follows the last
            stage only.
        mask: What hides padding from the semantic steps. ``'exact'``: all of it, in pooling, too;
            ``'released'``: what the released detectors hide, for their weights;
            ``'none'``: nothing. Released classification models meet no padding (224x224), and
            ``'released'`` is ``'exact'`` for them. The window blocks pad as Swin does.
        stgm_residual: Keep the pooled tokens beside what the first generation step gathers. By
            default as released: of dense models only. No checkpoint tells.
        use_global_center: Add a learned map (``semantic_token2``) to the queries of the second
            generation step of the first unit; of classification models.
        window_size: Side of a window in patches.
        semantic_window: Side of the semantic tokens of a window, at most ``window_size``.
        key_windows: What the steps of a dense model see around a window: sides in patches for the
            two generation steps, in semantic tokens for recovery.
        mlp_ratio: Hidden width of the MLPs per channel.
        layer_scale: Initial value of the scale of the branches of the semantic steps.
        in_channels: Channels of the image.
        out_indices: Stages to return, counted from 0; later stages are not built.
        drop_path_rate: Stochastic depth of the last block, rising linearly from 0. Dense models
            drop the attention of generation and recovery window by window.
        frozen_stages: See :class:`~mmtoken.common.backbone.Backbone`.
        norm_eval: See :class:`~mmtoken.common.backbone.Backbone`; the stem has batch norms.
        with_cp: See :class:`~mmtoken.common.backbone.Backbone`.
        init_cfg: See :class:`~mmtoken.common.backbone.Backbone`. Classification weights start a
            dense model with ``ignore='norm', reinitialize='norm'``.

    Shape:
        - image: ``(B, in_channels, H, W)`` of any size from one patch of the last stage on.
        - returns: a tuple of maps ``(B, out_channels[i], ceil(H / s), ceil(W / s))`` with the
          strides s of ``out_strides``.

    Raises:
        ValueError: Arguments or an input out of range; the message says how to mend it.
    """

    # released classification files carry a head, and masks for 224x224
    checkpoint_ignore = (r'head\.', r'.*\.attn_mask$')

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
        mlp_ratio: float = 4.0,
        layer_scale: float = 1e-5,
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        spec = resolve_arch(arch, ARCHS, tuple(ARCHS['tiny']))
        super().__init__(
            spec,
            mlp_ratio=mlp_ratio,
            in_channels=in_channels,
            drop_path_rate=drop_path_rate,
            out_indices=out_indices,
            frozen_stages=frozen_stages,
            norm_eval=norm_eval,
            with_cp=with_cp,
            init_cfg=init_cfg,
        )
        check_choice('flavour', flavour, FLAVOURS)
        check_choice('mask', mask, MASKS)
        _check_units(tuple(spec['depths']))
        _check_windows(window_size, semantic_window, key_windows, mask)
        if use_global_center and flavour == 'dense':
            raise ValueError(
                "use_global_center needs flavour='classification' (no dense model has a centre), "
                f'got {flavour=}; leave it at False'
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
                    layer_scale=layer_scale,
                    **common,
                )
            else:
                layer = SwinStage(shifts_small_maps=flavour == 'dense', **common)
            self.add_stage(layer, self._norm_name(stage))
        self.apply(init_swin_weights)
        self.finish()

    def _norm_name(self, stage: int) -> str:
        """The norm of a stage that is returned; classification models have one, of the last."""
        is_last = self.flavour == 'classification' and stage == NUM_STAGES - 1
        return 'norm' if is_last else f'norm{stage}'

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return one map per entry of ``out_indices``."""
        stride = STRIDES[len(self.layers) - 1]
        check_image(image, self.in_channels, stride, f'one patch of the stage with {stride=}')
        start_record()
        x, hw = self.patch_embed(image)
        maps = []
        for stage, layer in enumerate(self.layers):
            x = layer(x, hw, self.run_block)
            if stage in self.out_indices:
                maps.append(self.normed_map(x, hw, self._norm_name(stage)))
            if layer.downsample is not None:
                x, hw = layer.downsample(x, hw)
        return as_maps(maps)

    def prepare_state_dict(
        self, state: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], tuple[str, ...]]:
        """Drop stages that are not built and norms of stages that are not returned."""
        absent = [f'layers.{stage}.' for stage in range(len(self.layers), NUM_STAGES)]
        absent.append(f'layers.{len(self.layers) - 1}.downsample.')
        if self.flavour == 'dense':
            unused = set(range(NUM_STAGES)) - set(self.out_indices)
            absent += [f'norm{stage}.' for stage in unused]
        elif NUM_STAGES - 1 not in self.out_indices:
            absent.append('norm.')
        return {k: v for k, v in state.items() if not k.startswith(tuple(absent))}, ()

    def mismatch_hint(self, state: dict[str, Tensor]) -> str:
        """What is wrong with the arguments, where a file's keys tell; for error messages."""
        has_center = f'layers.{SEMANTIC_STAGE}.semantic_token2' in state
        if self.flavour == 'dense' and 'norm.weight' in state:
            ignore = ('norm', '.*semantic_token2') if has_center else 'norm'
            return (
                "The file is of flavour='classification', the model of 'dense': change that, or, "
                f'to start from it, declare init_cfg=dict({ignore=}, reinitialize='
                + "'norm', ...)."
            )
        if self.flavour == 'classification' and 'norm3.weight' in state:
            return "The file is of flavour='dense', the model of 'classification': change that."
        if self.flavour == 'classification' and self.out_indices != (NUM_STAGES - 1,):
            return 'A classification file has the norm of the last stage alone: out_indices=(3,).'
        stage = self.layers[SEMANTIC_STAGE] if len(self.layers) > SEMANTIC_STAGE else None
        if stage is not None and has_center != (stage.semantic_token2 is not None):
            return f'The file needs use_global_center={has_center}.'
        return ''


def _check_units(depths: Sequence[int]) -> None:
    units, rest = divmod(depths[SEMANTIC_STAGE], len(UNIT))
    if rest or units < 1:
        raise ValueError(
            f'the third of depths must be a multiple of {len(UNIT)}, the steps of a unit, got '
            f'{depths[SEMANTIC_STAGE]} in {tuple(depths)}; 6 and 18 are published'
        )


def _check_windows(
    window_size: int, semantic_window: int, key_windows: Sequence[int], mask: str
) -> None:
    if not 1 <= semantic_window <= window_size:
        raise ValueError(
            'semantic_window must lie in [1, window_size], got '
            f'{semantic_window=} and {window_size=}; 3 and 7 are published'
        )
    check_length('key_windows', key_windows, 3, 'of two generation steps and recovery')
    least = (window_size, window_size, semantic_window)
    if any(key < own for key, own in zip(key_windows, least)):
        raise ValueError(
            f'each of key_windows must cover its own window, {least}, got {tuple(key_windows)}; '
            '(14, 21, 27) is published'
        )
    windows = (window_size, semantic_window, tuple(key_windows))
    if mask == 'released' and windows != RELEASED_WINDOWS:
        # with smaller ones, it would hide all that some windows see
        raise ValueError(
            "mask='released' needs the released window_size, semantic_window and key_windows, "
            f"{RELEASED_WINDOWS}, got {windows}; use mask='exact'"
        )
