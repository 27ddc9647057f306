"""The plain vision transformer of ViT, DeiT, MAE, CLIP, DINOv2, DINOv3, EVA-02 and ViTDet.

Parameter names are those of timm's ``VisionTransformer``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..common.backbone import Backbone, resolve_arch
from ..common.checks import HW, check_bool, check_choice, check_int
from ..common.layers import drop_path_rates, init_vit_weights, to_map
from ..common.recorder import is_recording_attention, last_attention, record
from ..common.strict_load import State
from ..common.windows import window_order
from .attention import Grid, check_windows, check_windows_fit
from .block import Block, BlockOptions
from .conventions import convert, recognise_release, resize
from .embed import PatchEmbed, check_resizing, patches_per_side, resize_positions
from .maps import BlockAttention
from .rope import check_rope, make_rotation

ARCHS = {
    'tiny': dict(embed_dims=192, depth=12, num_heads=3, hidden_dim=768),
    'small': dict(embed_dims=384, depth=12, num_heads=6, hidden_dim=1536),
    'base': dict(embed_dims=768, depth=12, num_heads=12, hidden_dim=3072),
    'large': dict(embed_dims=1024, depth=24, num_heads=16, hidden_dim=4096),
    'huge': dict(embed_dims=1280, depth=32, num_heads=16, hidden_dim=5120),
    'giant': dict(embed_dims=1536, depth=40, num_heads=24, hidden_dim=4096),
}
PREFIX = ('cls_token', 'reg_token')


@MODELS.register_module()
class PlainViT(Backbone):
    """Vision Transformer whose maps all have the stride of its patches.

    The defaults are ViT, DeiT, AugReg and MAE. The README of this folder lists the arguments of
    all families. Windows and relative positions (ViTDet) have no class token.

    Args:
        arch: ``'tiny'``, ``'small'``, ``'base'``, ``'large'``, ``'huge'``, ``'giant'``, or a dict
            with ``embed_dims``, ``depth``, ``num_heads`` and ``hidden_dim`` (of the MLP).
        patch_size: Side of a patch; in pixels (default 16), with a stem in cells of its map
            (default 1).
        img_size: Side in pixels of the images that absolute positions are stored for; None for no
            absolute positions.
        pos_antialias: Whether positions are resized with antialiasing.
        pos_offset: Shift of the samples of resized positions; 0.1 for the official DINOv2 without
            registers.
        class_token: Whether there is a class token. If not, that of a checkpoint is left out.
        num_registers: Number of tokens after the class token: registers, or the distillation token
            of DeiT.
        rope: Rotary positions as in ``'dinov3'``, which replace absolute ones, or ``'eva02'``.
            Keys then have no bias.
        pre_norm: Whether a norm follows the embedding, whose convolution then has no bias (CLIP).
        layer_scale: Initial value of layer scale; None for no layer scale.
        mlp: ``'gelu'`` (default), ``'quickgelu'``, or ``'swiglu'`` (default of ``'giant'``).
        mlp_norm: Whether the MLP has a norm before its second layer.
        attn_norm: Whether attention has a norm before its projection.
        norm_eps: Of all norms; 1e-5 for DINOv3 and CLIP.
        window_block_indexes: 0-based indices of blocks with attention in windows.
        window_size: Side in patches of these windows.
        rel_pos_size: Side in pixels of the images that the relative positions of global blocks are
            stored for, 1024 for ViTDet; None for no relative positions.
        resample_patches: Whether weights for patches of another size may be loaded; the patch
            embedding is then resampled.
        stem: Config of a registered backbone that returns one map, from which patches are taken.
        in_channels: Channels of the image.
        out_indices: 0-based blocks to return, ascending; negative ones count from the last. Later
            blocks are not built.
        out_type: ``'map'``: patches; ``'class'``: the class token, ``(B, D)``.
        out_norm: Which outputs the final norm is applied to: ``'all'`` (DINOv2, DINOv3),
            ``'last'``: that of the last block (mmpretrain), ``'none'`` (ViTDet).
        drop_path_rate: Stochastic depth of the last block, rising linearly from 0.
        frozen_stages: -1 freezes nothing; k >= 0 freezes the embedding, positions, class token and
            registers, and the first k blocks, which stay in eval mode.
        norm_eval: See :class:`~mmtoken.common.backbone.Backbone`; only a stem has batch norms.
        with_cp: See :class:`~mmtoken.common.backbone.Backbone`.
        init_cfg: See :class:`~mmtoken.common.backbone.Backbone`.

    Shape:
        - image: ``(B, in_channels, H, W)`` of any size, padded with zeros to whole patches.
        - returns: a tuple of maps ``(B, D, ceil(H / P), ceil(W / P))``, where P is the stride.

    Raises:
        ValueError: If an argument or the input is invalid.
    """

    pictures_need_attention = True
    # classifiers, and what only pre-training uses
    checkpoint_ignore = (r'head', r'fc_norm\.', r'attn_pool\.', r'pre_logits\.', r'mask_token$')
    fitting_neck = 'SimpleFPN'
    # ViTPose and MAE's segmentation: arXiv:2204.12484, 2111.06377
    paramwise = dict(
        layer_decay_rate=0.75,
        norm_decay_mult=0.0,
        custom_keys={name: dict(decay_mult=0.0) for name in (*PREFIX, 'pos_embed')},
    )

    def __init__(
        self,
        arch: str | dict = 'base',
        patch_size: int | None = None,
        img_size: int | None = 224,
        pos_antialias: bool = True,
        pos_offset: float = 0.0,
        class_token: bool = True,
        num_registers: int = 0,
        rope: str | None = None,
        pre_norm: bool = False,
        layer_scale: float | None = None,
        mlp: str | None = None,
        mlp_norm: bool = False,
        attn_norm: bool = False,
        norm_eps: float = 1e-6,
        window_block_indexes: Sequence[int] = (),
        window_size: int = 14,
        rel_pos_size: int | None = None,
        resample_patches: bool = False,
        stem: dict | None = None,
        in_channels: int = 3,
        out_indices: Sequence[int] = (-1,),
        out_type: str = 'map',
        out_norm: str = 'last',
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        spec = resolve_arch(arch, ARCHS, tuple(ARCHS['tiny']))
        depth, dim = spec.pop('depth'), spec['embed_dims']
        check_int('depth', depth)
        if mlp is None:
            mlp = 'swiglu' if arch == 'giant' else 'gelu'
        options = BlockOptions(
            **spec,
            mlp=mlp,
            mlp_norm=mlp_norm,
            attn_norm=attn_norm,
            norm_eps=norm_eps,
            layer_scale=layer_scale,
            has_key_bias=rope is None,
        )
        check_rope(rope, options.head_dim, img_size, rel_pos_size)
        window_blocks = check_windows(window_block_indexes, window_size, depth)
        patches_only = bool(window_blocks) or rel_pos_size is not None
        _check_tokens(class_token, num_registers, out_type, patches_only)
        check_resizing(pos_antialias, pos_offset)
        check_bool('resample_patches', resample_patches)
        check_bool('pre_norm', pre_norm)
        check_int('in_channels', in_channels)
        check_choice('out_norm', out_norm, ('all', 'last', 'none'))
        out_indices = _count_from_start(out_indices, depth)
        super().__init__(depth, out_indices, frozen_stages, norm_eval, with_cp, init_cfg)

        self.in_channels = in_channels
        self.num_prefix = class_token + num_registers
        self.pos_antialias, self.pos_offset = pos_antialias, pos_offset
        self.resample_patches = resample_patches
        self.rope, self.head_dim = rope, options.head_dim
        self.out_type, self.out_norm = out_type, out_norm
        self.window_size = window_size if window_blocks else 0

        self.patch_embed = PatchEmbed(in_channels, dim, patch_size, not pre_norm, stem)
        self.stride = self.patch_embed.stride
        self.out_channels = (dim,) * len(self.out_indices)
        self.out_strides = (self.stride,) * len(self.out_indices)
        self.pos_side = patches_per_side('img_size', img_size, self.stride)
        rel_pos_side = patches_per_side('rel_pos_size', rel_pos_size, self.stride)
        check_windows_fit(self.window_size, self.pos_side, rel_pos_side)
        self.cls_token = _tokens(int(class_token), dim)
        self.reg_token = _tokens(num_registers, dim)
        self.pos_embed = _tokens(self.pos_side**2, dim)
        self.norm_pre = options.norm(dim, pre_norm)
        self.stage_modules.append(['patch_embed', *PREFIX, 'pos_embed', 'norm_pre'])
        (rates,) = drop_path_rates(drop_path_rate, (depth,))
        self._build_blocks(options, rates, window_blocks, rel_pos_side)
        is_normed = any(map(self._is_normed, self.out_indices))
        self.norm = options.norm(dim) if is_normed else None
        self.finish()

    def _build_blocks(
        self,
        options: BlockOptions,
        rates: Sequence[float],
        window_blocks: Sequence[int],
        rel_pos_side: int,
    ) -> None:
        """Blocks up to the last one that is returned; a window has its own, smaller tables."""
        self.depths = (1,) * (max(self.out_indices) + 1)
        self.blocks = nn.ModuleList()
        for index in range(len(self.depths)):
            window = self.window_size if index in window_blocks else 0
            side = rel_pos_side and (window or rel_pos_side)
            self.blocks.append(Block(options, window, side, rates[index]))
            self.stage_modules.append(self.stage_names(index + 1))
        self.blocks.apply(init_vit_weights)

    def run_stages(self, image: Tensor) -> list[tuple[Tensor, HW] | None]:
        """Return the tokens after each block of ``out_indices``, and the sides of the map."""
        x, hw = self.patch_embed(image)
        if self.pos_embed is not None:
            rule = (self.pos_antialias, self.pos_offset)
            pos = resize_positions(self.pos_embed, self.pos_side, hw, *rule)
            x = x + pos.to(x.dtype)
        x = self.norm_pre(self._with_prefix(x))
        grid, stages = self._grid(x, hw), []
        for number, block in enumerate(self.blocks, 1):
            x = self.run_block(block, x, grid)
            if is_recording_attention():
                self._record(number, block, grid)
            stages.append((x, hw) if number - 1 in self.out_indices else None)
        return stages

    def output(self, index: int, value: tuple[Tensor, HW]) -> Tensor:
        """The map or the class token of a block, normalised if ``out_norm`` says so."""
        x, hw = value
        x = x[:, 0] if self.out_type == 'class' else x[:, self.num_prefix :]
        if self._is_normed(index):
            x = self.norm(x)
        return x if self.out_type == 'class' else to_map(x, hw).contiguous()

    def stage_names(self, stage: int) -> list[str]:
        """Name of a block, 1-based."""
        return [f'blocks.{stage - 1}']

    @classmethod
    def recognise(cls, state: State) -> str:
        """Return the family of a released file; see ``families.py``."""
        return recognise_release(state)

    def convert_state_dict(self, state: State) -> tuple[State, tuple[str, ...], tuple[str, ...]]:
        """Turn the weights of other releases into ours; see ``conventions.py``."""
        return convert(self, state)

    def prepare_state_dict(self, state: State) -> tuple[State, tuple[str, ...]]:
        """Drop blocks, the final norm and the class token, if they are not built; resize."""
        kept, _ = super().prepare_state_dict(state)
        absent = [] if self.norm is not None else ['norm.weight', 'norm.bias']
        if not self.num_prefix:
            absent += PREFIX
        return resize(self, {key: value for key, value in kept.items() if key not in absent})

    def reinitialized_keys(self, state: State) -> list[str]:
        """Relative positions stay zero if a file has none, as pre-training of ViTDet starts."""
        has_tables = any('.rel_pos_' in key for key in state)
        return [] if has_tables else [key for key in self.state_dict() if '.rel_pos_' in key]

    def mismatch_hint(self, state: State) -> str:
        """Say so if the final norm of the model is the difference."""
        is_missing = self.norm is not None and 'norm.weight' not in state
        return "The file has no norm of tokens: set out_norm='none'." if is_missing else ''

    def _is_normed(self, index: int) -> bool:
        return self.out_norm == 'all' or (self.out_norm == 'last' and index == self.num_stages - 1)

    def _with_prefix(self, x: Tensor) -> Tensor:
        """Put the class token and the registers before the patches."""
        prefix = [token for token in (self.cls_token, self.reg_token) if token is not None]
        return torch.cat([*(t.to(x.dtype).expand(x.shape[0], -1, -1) for t in prefix), x], 1)

    def _grid(self, x: Tensor, hw: HW) -> Grid:
        rotation = order = None
        if self.rope:
            rotation = make_rotation(self.rope, hw, self.head_dim, x.device, x.dtype)
        if self.window_size:
            order = window_order(hw, self.window_size, 0, x.device)
        return Grid(hw, rotation, order)

    def _record(self, number: int, block: Block, grid: Grid) -> None:
        order = grid.order if block.attn.window_size else None
        weights, has_class_token = last_attention(), self.cls_token is not None
        record(BlockAttention(number, grid.hw, self.stride, weights, has_class_token, order))


def _tokens(count: int, dim: int) -> nn.Parameter | None:
    """Learned tokens or positions; None for none."""
    if not count:
        return None
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(1, count, dim), std=0.02))


def _count_from_start(out_indices: Sequence[int], depth: int) -> Sequence[int]:
    """Replace negative indices of blocks; anything else is checked later."""
    try:
        return tuple(i + depth if -depth <= i < 0 else i for i in out_indices)
    except TypeError:
        return out_indices


def _check_tokens(class_token: bool, num_registers: int, out_type: str, patches_only: bool) -> None:
    """Raise unless the tokens before the patches fit the output and the kinds of attention."""
    check_bool('class_token', class_token)
    check_int('num_registers', num_registers, 0)
    check_choice('out_type', out_type, ('map', 'class'))
    if out_type == 'class' and not class_token:
        raise ValueError("out_type='class' needs class_token=True, got class_token=False")
    if patches_only and class_token + num_registers:
        raise ValueError(
            'window_block_indexes and rel_pos_size need class_token=False and num_registers=0, '
            'because only patches have a place in a window, got '
            f'{class_token + num_registers} other tokens'
        )
