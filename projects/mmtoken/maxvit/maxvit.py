"""MaxViT: a pyramid of convolution and attention in blocks and on grids (arXiv:2204.01697).

Parameter names are those of timm's ``maxvit_*_tf_*``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.dist import is_distributed
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..common.backbone import Backbone, resolve_arch
from ..common.checks import (
    HW,
    check_bool,
    check_choice,
    check_divides,
    check_int,
    check_ints,
    check_range,
)
from ..common.layers import drop_path_rates, init_vit_weights, to_map, to_tokens
from ..common.strict_load import State
from .block import AttentionLayer, GroupedAttention, MaxViTBlock
from .conventions import (
    RELEASES,
    TABLE,
    describe,
    is_flat,
    scale_keys,
    timm_features,
    torchvision,
    unfold_table,
)
from .forms import FORMS
from .mbconv import MBConv, Stem
from .partition import KINDS, plan_groups
from .relative_position import MlpBias, TableBias, resize_table

NUM_STAGES = 4
STRIDES = (4, 8, 16, 32)
WINDOW_SIZE = 7  # of models for images of 224x224
OUT_NORM_EPS = 1e-6
PARTITIONS = ('pad', 'proportional')
SMALL, LARGE = (2, 2, 5, 2), (2, 6, 14, 2)


def _arch(
    dim: int, depths: tuple[int, ...], stem: tuple[int, int], form: str = 'tf', **changes: Any
) -> dict:
    """The arch of a released model; each stage is twice as wide as the one before."""
    dims = tuple(dim * 2**stage for stage in range(NUM_STAGES))
    arch = dict(embed_dims=dims, depths=depths, stem_dims=stem, head_dim=32, form=form)
    return dict(arch, layer_scale=None, **changes)


ARCHS = {
    'tiny': _arch(64, SMALL, (64, 64)),
    'small': _arch(96, SMALL, (64, 64)),
    'base': _arch(96, LARGE, (64, 64)),
    'large': _arch(128, LARGE, (128, 128)),
    'xlarge': _arch(192, LARGE, (192, 192)),
    'pico_rw': _arch(32, SMALL, (24, 32), 'rw'),
    'nano_rw': _arch(64, (1, 2, 3, 1), (32, 64), 'rw'),
    'tiny_rw': _arch(64, SMALL, (32, 64), 'rw'),
    'pico_rmlp': _arch(32, SMALL, (24, 32), 'rmlp'),
    'nano_rmlp': _arch(64, (1, 2, 3, 1), (32, 64), 'rmlp'),
    'tiny_rmlp': _arch(64, SMALL, (32, 64), 'rmlp'),
    'small_rmlp': _arch(96, SMALL, (32, 64), 'rmlp') | dict(layer_scale=1e-6),
    'base_rmlp': _arch(96, LARGE, (32, 64), 'rmlp'),
    'tiny_torchvision': _arch(64, SMALL, (64, 64), 'torchvision'),
}


@MODELS.register_module()
class MaxViT(Backbone):
    """Multi-Axis Vision Transformer.

    Strided convolutions and pooling give ``ceil(side / 2)``. Where a side is odd, the pooling of
    the shortcut counts the zeros beyond the map, as timm does.

    Args:
        arch: Name of a released model: ``'tiny'`` to ``'xlarge'`` (the authors'), ``'pico_rw'`` to
            ``'base_rmlp'`` (timm's own), ``'tiny_torchvision'``; or a dict with ``embed_dims``
            and ``depths``, four entries each, ``stem_dims``, two entries, ``head_dim``, ``form``
            (a key of ``mmtoken.maxvit.forms.FORMS``) and ``layer_scale`` (None, or its initial
            value).
        partition: Size of blocks and grids. ``'pad'``: ``window_size``; padded tokens are hidden.
            ``'proportional'``: ``(ceil(H / 32), ceil(W / 32))``, as in the authors' detectors;
            tables of relative positions are resized in every forward pass. ``(rows, columns)``:
            this size, at most the map at stride 4; tables are resized when they are loaded.
        window_size: Side of the groups whose relative positions the tables hold: 7 for models
            trained at 224, 12 at 384 and 16 at 512. By default 7, or the size in the file that is
            loaded. Distributed training needs it if it is not 7.
        out_norm: Add a layer norm to each output; released files have none.
        in_channels: Channels of the image.
        out_indices: 0-based stages to return; later stages are not built.
        drop_path_rate: Stochastic depth of the last block, rising linearly from 0; of all five
            residual branches of a block.
        rel_pos_drop_rate: Dropout in the MLP of relative positions, in [0, 1), for the form
            ``'rmlp'``; timm trained with 0.125.
        frozen_stages: See :class:`~mmtoken.common.backbone.Backbone`.
        norm_eval: See :class:`~mmtoken.common.backbone.Backbone`.
        with_cp: See :class:`~mmtoken.common.backbone.Backbone`.
        init_cfg: See :class:`~mmtoken.common.backbone.Backbone`.

    Shape:
        - image: ``(B, in_channels, H, W)`` of any size.
        - returns: a tuple of maps ``(B, out_channels[i], ceil(H / s), ceil(W / s))`` with the
          strides s of ``out_strides``.

    Raises:
        ValueError: If an argument or the input is invalid.
    """

    conventions = (torchvision, timm_features)
    releases = RELEASES
    # classifiers of timm and torchvision, and torchvision's buffers
    checkpoint_ignore = (r'head\.', r'norm\.', r'classifier\.', r'.*\.relative_position_index$')
    classifier_keys = {
        'head.norm.': 'neck.norm.',
        'head.pre_logits.fc.': 'neck.fc.',
        'head.fc.': 'head.fc.',
    }
    pictures_need_attention = True
    paramwise = dict(
        norm_decay_mult=0.0, custom_keys=dict(relative_position_bias_table=dict(decay_mult=0.0))
    )

    def __init__(
        self,
        arch: str | dict = 'tiny',
        partition: str | Sequence[int] = 'pad',
        window_size: int | None = None,
        out_norm: bool = False,
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        drop_path_rate: float = 0.0,
        rel_pos_drop_rate: float = 0.0,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(NUM_STAGES, out_indices, frozen_stages, norm_eval, with_cp, init_cfg)
        spec = _resolve(arch)
        self.partition = _check_partition(partition, window_size)
        self.window_size_is_given = window_size is not None
        check_bool('out_norm', out_norm)
        check_int('in_channels', in_channels)
        check_range('rel_pos_drop_rate', rel_pos_drop_rate, 0, 1)
        self.spec = spec
        self.form = FORMS[spec['form']]
        if rel_pos_drop_rate and self.form.rel_pos != 'mlp':
            raise ValueError(
                "rel_pos_drop_rate needs an arch of the form 'rmlp', got "
                f'{rel_pos_drop_rate=} and the form {spec["form"]!r}'
            )
        self.in_channels = in_channels
        self.out_norm = out_norm
        dims, depths = tuple(spec['embed_dims']), tuple(spec['depths'])
        self.depths = depths[: max(self.out_indices) + 1]
        self.out_channels = self.select(dims)
        self.out_strides = self.select(STRIDES)
        rates = drop_path_rates(drop_path_rate, depths)
        # rows and columns of the groups that the tables of relative positions are for
        self.table_size = (window_size or WINDOW_SIZE,) * 2
        if isinstance(self.partition, tuple):
            self.table_size = self.partition

        self.stem = Stem(in_channels, tuple(spec['stem_dims']), self.form)
        self.stage_modules.append(['stem'])
        self.stages = nn.ModuleList()
        for stage, depth in enumerate(self.depths):
            blocks = nn.ModuleList(
                self._block(stage, i, rates[stage][i], rel_pos_drop_rate) for i in range(depth)
            )
            self.stages.append(nn.ModuleDict(dict(blocks=blocks)))
            if out_norm and stage in self.out_indices:
                self.add_module(f'norm{stage}', nn.LayerNorm(dims[stage], eps=OUT_NORM_EPS))
            self.stage_modules.append(self.stage_names(stage + 1))
        self.apply(init_vit_weights)
        self.finish()

    def _block(self, stage: int, index: int, drop_path: float, rel_pos_drop: float) -> MaxViTBlock:
        spec, form = self.spec, self.form
        dim = spec['embed_dims'][stage]
        heads = dim // spec['head_dim']
        in_dim = dim
        if index == 0:
            in_dim = spec['embed_dims'][stage - 1] if stage else spec['stem_dims'][1]
        layers = []
        for _ in KINDS:
            if form.rel_pos == 'table':
                rel_pos = TableBias(heads, self.table_size)
            else:
                rel_pos = MlpBias(heads, rel_pos_drop)
            attn = GroupedAttention(dim, heads, rel_pos, form.heads_first)
            place = (stage + 1, index)
            layers.append(AttentionLayer(attn, dim, form, spec['layer_scale'], drop_path, place))
        return MaxViTBlock(MBConv(in_dim, dim, 2 if index == 0 else 1, form, drop_path), *layers)

    def run_stages(self, image: Tensor) -> list[Tensor]:
        """Return the map of each stage."""
        # torch.jit.trace gives sizes as tensors
        hw = (int(image.shape[2]), int(image.shape[3]))
        size = self._group_size(hw)
        x, maps = self.stem(image), []
        for stage, stride in zip(self.stages, STRIDES):
            map_hw = (-(-hw[0] // stride), -(-hw[1] // stride))
            groups = tuple(plan_groups(kind, map_hw, size, x.device) for kind in KINDS)
            for block in stage['blocks']:
                x = self.run_block(block, x, groups)
            maps.append(x)
        return maps

    def output(self, stage: int, value: Tensor) -> Tensor:
        """Return a contiguous map, normalised if ``out_norm`` is set."""
        if self.out_norm:
            tokens = getattr(self, f'norm{stage}')(to_tokens(value))
            value = to_map(tokens, tuple(value.shape[2:]))
        return value.contiguous()

    def _group_size(self, hw: HW) -> HW:
        """Rows and columns of the groups for an image of a size."""
        if self.partition == 'proportional':
            return -(-hw[0] // 32), -(-hw[1] // 32)
        if self.partition == 'pad':
            return self.table_size
        finest = (-(-hw[0] // STRIDES[0]), -(-hw[1] // STRIDES[0]))
        if self.partition[0] > finest[0] or self.partition[1] > finest[1]:
            raise ValueError(
                f'partition must not exceed the map at stride 4, {finest[0]}x{finest[1]} for an '
                f'image of {hw[0]}x{hw[1]}, got {self.partition}; it counts cells, and '
                "'pad' and 'proportional' fit any image"
            )
        return self.partition

    def stage_names(self, stage: int) -> list[str]:
        """Names of the modules of a stage, 1-based."""
        return [f'stages.{stage - 1}.blocks', f'norm{stage - 1}']

    def prepare_state_dict(self, state: State) -> tuple[State, tuple[str, ...]]:
        """Drop stages that are not built and norms of stages that are not returned.

        Flat tables become ours. Tables for groups of another size are resized for a fixed
        ``partition``; otherwise the model takes their size, unless ``window_size`` was given.
        """
        kept, _ = super().prepare_state_dict(state)
        if self.out_norm:
            unused = {f'norm{i}' for i in range(NUM_STAGES) if i not in self.out_indices}
            kept = {key: v for key, v in kept.items() if key.split('.')[0] not in unused}
        kept = self._with_own_tables(kept)
        tables = {key: v for key, v in kept.items() if key.endswith(TABLE) and v.ndim == 3}
        sizes = {((v.shape[1] + 1) // 2, (v.shape[2] + 1) // 2) for v in tables.values()}
        if len(sizes) != 1 or sizes == {self.table_size}:
            return kept, ()
        if isinstance(self.partition, tuple):
            tables = {key: resize_table(v, self.table_size) for key, v in tables.items()}
            return {**kept, **tables}, tuple(tables)
        self._adopt_table_size(*sizes)
        return kept, ()

    def _with_own_tables(self, state: State) -> State:
        """Turn the flat tables of timm's own models and of torchvision into ours."""
        converted = dict(state)
        for key, table in state.items():
            if not key.endswith(TABLE) or not is_flat(table):
                continue
            converted[key] = unfold_table(table)
            for name in ('weight', 'bias') if self.form.scales_by_width else ():
                qkv = key.replace(f'rel_pos.{TABLE}', f'qkv.{name}')
                if qkv in state:
                    converted[qkv] = scale_keys(state[qkv], self.spec['head_dim'])
        return converted

    def _adopt_table_size(self, size: HW) -> None:
        """Change the shape of all tables to that of a file, unless ``window_size`` was given."""
        if self.window_size_is_given or size[0] != size[1]:
            return
        if is_distributed():
            raise ValueError(
                'window_size must be given in distributed training if the file that is loaded has '
                f'another one, got None for a file with {size[0]}; set window_size={size[0]}'
            )
        self.table_size = size
        for module in self.modules():
            if isinstance(module, TableBias):
                module.reset(size)

    def reinitialized_keys(self, state: State) -> tuple[str, ...]:
        """The norms of ``out_norm``, which released files do not have."""
        own = tuple(key for key in self.state_dict() if key.startswith('norm'))
        return () if any(key in state for key in own) else own

    def mismatch_hint(self, state: State) -> str:
        """Name the arguments that a file contradicts."""
        given, own = describe(state), describe(self.state_dict())
        different = [key for key in given if given[key] != own.get(key)]
        if not different:
            return ''
        names = [name for name, arch in ARCHS.items() if _is_of(arch, given)]
        hint = f', arch={names[0]!r}' if names else ''
        texts = (
            ', '.join(f'{k}={values[k]!r}' for k in different if k in values)
            for values in (given, own)
        )
        return 'The file has {}{}; the model was built with {}.'.format(next(texts), hint, *texts)


def _is_of(arch: dict, described: dict) -> bool:
    """Whether a released model is the one that a file describes; later stages may be missing."""
    built = len(described['depths'])
    found = dict(arch, layer_scale=arch['layer_scale'] is not None)
    found.update({key: arch[key][:built] for key in ('embed_dims', 'depths')})
    return all(found[key] == value for key, value in described.items() if key in found)


def _resolve(arch: str | dict) -> dict:
    """Check hyper-parameters."""
    spec = resolve_arch(arch, ARCHS, tuple(ARCHS['tiny']))
    check_choice('form', spec['form'], FORMS)
    for name in ('embed_dims', 'depths'):
        check_ints(name, spec[name], NUM_STAGES, 'stage')
    check_ints('stem_dims', spec['stem_dims'], 2, 'convolution')
    for dim in spec['embed_dims']:
        check_divides('head_dim', spec['head_dim'], 'embed_dims', dim)
    if spec['layer_scale'] is not None:
        check_range('layer_scale', spec['layer_scale'], 0)
    return spec


def _check_partition(partition: str | Sequence[int], window_size: int | None) -> str | HW:
    """Check the size of groups, and that of the tables."""
    if window_size is not None:
        check_int('window_size', window_size)
    if isinstance(partition, str) and partition in PARTITIONS:
        return partition
    if isinstance(partition, str) or not isinstance(partition, Sequence) or len(partition) != 2:
        raise ValueError(
            f'partition must be one of {PARTITIONS} or (rows, columns), got {partition!r}'
        )
    check_ints('partition', partition, 2, 'side')
    if window_size is not None:
        raise ValueError(
            'window_size is the size of tables that are kept, and a fixed partition resizes them, '
            f'got {window_size=} and {partition=}; it needs one of the two'
        )
    return int(partition[0]), int(partition[1])
