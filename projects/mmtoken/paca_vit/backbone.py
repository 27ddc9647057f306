"""PaCa-ViT: a pyramid of transformers that attend from patches to clusters (arXiv:2203.11987).

Parameter names are those of the released checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.registry import MODELS
from torch import Tensor, nn

from ..common.backbone import Backbone, resolve_arch
from ..common.checks import HW, check_choice, check_divides, check_int, check_length, check_range
from ..common.layers import drop_path_rates, init_vit_weights, to_map
from ..common.recorder import record
from ..common.strict_load import State
from .attention import NORM_EPS
from .clustering import CLUSTERINGS
from .conventions import RELEASES
from .layers import PaCaBlock, StridedEmbed, check_batch_statistics
from .maps import SoftClusters
from .teacher import ConvMixerTeacher

_NARROW = dict(embed_dims=(96, 192, 320, 384), num_heads=(2, 4, 8, 16), mlp_ratios=(4, 4, 4, 4))
_WIDE = dict(embed_dims=(96, 192, 384, 512), num_heads=(2, 4, 8, 16), mlp_ratios=(4, 4, 4, 4))
ARCHS = {
    'tiny': dict(depths=(2, 2, 4, 2), **_NARROW),
    'small': dict(depths=(3, 3, 10, 3), **_NARROW),
    'base': dict(depths=(3, 3, 18, 3), **_WIDE),
    'tiny_teacher': dict(depths=(2, 2, 2, 2), teacher_depths=(2, 2, 2, 2), **_NARROW),
    'small_teacher': dict(depths=(3, 3, 7, 3), teacher_depths=(2, 2, 2, 2), **_NARROW),
    'base_teacher': dict(depths=(3, 3, 16, 3), teacher_depths=(2, 2, 4, 2), **_WIDE),
}
NUM_STAGES = 4
STRIDES = (4, 8, 16, 32)


@MODELS.register_module()
class PaCaViT(Backbone):
    """Patch-to-Cluster Attention Vision Transformer.

    Args:
        arch: ``'tiny'``, ``'small'`` or ``'base'``, optionally with ``'_teacher'`` appended, or a
            dict with ``depths``, ``embed_dims``, ``num_heads``, ``mlp_ratios`` and, for a teacher,
            ``teacher_depths``, four entries each.
        clustering: Module that scores the patches: ``'conv'`` (default), ``'mlp'``, ``'linear'``,
            ``'teacher'`` (default of a teacher arch), or ``dict(type=...)`` of a registered one,
            see :func:`~mmtoken.paca_vit.clustering.build_clustering`.
        num_clusters: M of each stage; 0 for plain self-attention. By default
            ``(100, 100, 100, 0)``, with a teacher ``(100, 100, 100, 100)``. M may exceed the
            number of patches. Counts given here may differ from those of a checkpoint; the final
            clustering layers are then re-initialised.
        share: ``'stage'``: the first block of a stage clusters for all its blocks; ``'block'``:
            every block clusters; i: every i-th block does. A teacher always clusters once.
        in_channels: Channels of the image.
        out_indices: 0-based stages to return; later stages are not built.
        drop_rate: Dropout after projections and in MLPs, in [0, 1).
        attn_drop_rate: Dropout on attention weights, in [0, 1).
        drop_path_rate: Stochastic depth of the last block, rising linearly from 0.
        frozen_stages: See :class:`~mmtoken.common.backbone.Backbone`.
        norm_eval: See :class:`~mmtoken.common.backbone.Backbone`; only a teacher has batch norms.
        with_cp: See :class:`~mmtoken.common.backbone.Backbone`.
        init_cfg: See :class:`~mmtoken.common.backbone.Backbone`.

    Shape:
        - image: ``(B, in_channels, H, W)`` of any size.
        - returns: a tuple of maps ``(B, out_channels[i], ceil(H / s), ceil(W / s))`` with the
          strides s of ``out_strides``.

    Raises:
        ValueError: If an argument or the input is invalid.
    """

    # released classification checkpoints contain a classifier
    checkpoint_ignore = (r'head\.',)
    releases = RELEASES
    counts_as = {'paca_teacher': 'clustering'}

    def __init__(
        self,
        arch: str | dict = 'tiny',
        clustering: str | dict | None = None,
        num_clusters: Sequence[int] | None = None,
        share: str | int = 'stage',
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(NUM_STAGES, out_indices, frozen_stages, norm_eval, with_cp, init_cfg)
        spec, clustering = _resolve(arch, clustering)
        has_teacher = clustering == 'teacher'
        self.overrides_clusters = num_clusters is not None
        if num_clusters is None:
            num_clusters = (100, 100, 100, 100 if has_teacher else 0)
        _check_clusters(num_clusters, has_teacher)
        every = _clusters_every(share, has_teacher)
        clusters_in = [
            range(0, 0 if has_teacher else depth, every or depth) for depth in spec['depths']
        ]
        check_int('in_channels', in_channels)
        check_range('drop_rate', drop_rate, 0, 1)
        check_range('attn_drop_rate', attn_drop_rate, 0, 1)
        self.in_channels = in_channels
        self.clustering = clustering
        dims, depths = tuple(spec['embed_dims']), tuple(spec['depths'])
        built = max(self.out_indices) + 1
        self.num_clusters = tuple(num_clusters)[:built]
        self.out_channels = self.select(dims)
        self.out_strides = self.select(STRIDES)
        rates = drop_path_rates(drop_path_rate, depths)

        self.patch_embed = StridedEmbed(in_channels, dims[0] // 2, dims[0])
        self.stage_modules.append(['patch_embed'])
        for stage in range(built):
            number = stage + 1
            if stage > 0:
                self.add_module(f'transition{stage}', StridedEmbed(dims[stage - 1], dims[stage]))
            blocks = nn.ModuleList(
                PaCaBlock(
                    dims[stage],
                    spec['num_heads'][stage],
                    num_clusters[stage],
                    clustering if i in clusters_in[stage] else None,
                    spec['mlp_ratios'][stage],
                    drop_rate,
                    attn_drop_rate,
                    rates[stage][i],
                )
                for i in range(depths[stage])
            )
            self.add_module(f'stage{number}', blocks)
            self.add_module(f'norm{number}', nn.LayerNorm(dims[stage], eps=NORM_EPS))
        self.paca_teacher = None
        if has_teacher:
            self.paca_teacher = ConvMixerTeacher(dims, spec['teacher_depths'], self.num_clusters)
        for stage in range(1, built + 1):
            self.stage_modules.append([n for n in self.stage_names(stage) if self._has(n)])
        self.depths = depths[:built]
        self.apply(init_vit_weights)
        self.finish()

    def run_stages(self, image: Tensor) -> list[Tensor]:
        """Return the map of each stage."""
        x, hw = self.patch_embed(image)
        assigns, residuals = [None] * len(self.depths), [None] * len(self.depths)
        if self.paca_teacher is not None:
            smallest = (x.shape[0], *(-(-side // 8) for side in hw))
            check_batch_statistics(self.paca_teacher, *smallest)
            # never recomputed, or its batch norms would count every image twice
            assigns, residuals = self.paca_teacher(to_map(x, hw))
        maps = []
        for stage in range(len(self.depths)):
            if stage > 0:
                x, hw = getattr(self, f'transition{stage}')(maps[-1])
            x = self._run_stage(stage + 1, x, hw, assigns[stage])
            if residuals[stage] is not None:
                x = x + residuals[stage]
            maps.append(to_map(getattr(self, f'norm{stage + 1}')(x), hw))
        return maps

    def _run_stage(self, number: int, x: Tensor, hw: HW, assign: Tensor | None) -> Tensor:
        for i, block in enumerate(getattr(self, f'stage{number}')):
            x, assign = self.run_block(block, x, hw, assign)
            if assign is not None and (i == 0 or block.attn.clustering is not None):
                record(SoftClusters(number, i, hw, assign))
        return x

    def stage_names(self, stage: int) -> list[str]:
        """Names of the modules of a stage, 1-based."""
        names = [f'stage{stage}', f'norm{stage}']
        if stage > 1:
            names.insert(0, f'transition{stage - 1}')
        if self.paca_teacher is not None:
            kinds = ('block', 'lateral', 'fpn', 'to_clusters')
            names += [f'paca_teacher.{kind}{stage}' for kind in kinds]
            names.append(f'paca_teacher.transition{stage - 1}')
        return names

    def final_clustering_layers(self) -> tuple[str, ...]:
        """Names of the layers with one output per cluster, in order of the stages."""
        if self.paca_teacher is not None:
            stages = range(1, len(self.depths) + 1)
            return tuple(f'paca_teacher.to_clusters{stage}' for stage in stages)
        return tuple(
            f'{name}.clustering.{len(module.clustering) - 1}'
            for name, module in self.named_modules()
            if isinstance(module, tuple(CLUSTERINGS.values()))
        )

    def parameter_roles(self) -> dict[str, tuple[str, ...]]:
        """Role to module names, for learning rates; see ``mmtoken.paca_vit.optimizer``."""
        return {'final_clustering': self.final_clustering_layers()}

    def prepare_state_dict(self, state: State) -> tuple[State, tuple[str, ...]]:
        """Drop stages that are not built, and add the fixed blur filter if it is missing."""
        kept, ignored = super().prepare_state_dict(state)
        for name, buffer in self.named_buffers():
            if name.endswith('blur_filter'):
                kept.setdefault(name, buffer)
        return kept, ignored

    def reinitialized_keys(self, state: dict[str, Tensor]) -> tuple[str, ...]:
        """Keys that cannot be loaded because ``num_clusters`` was given and differs."""
        if not self.overrides_clusters:
            return ()
        own = self.state_dict()
        return tuple(
            key
            for layer in self.final_clustering_layers()
            for key in (f'{layer}.weight', f'{layer}.bias')
            if key in own
            and key in state
            and own[key].shape[1:] == state[key].shape[1:]
            and own[key].shape[0] != state[key].shape[0]
        )


def _resolve(arch: str | dict, clustering: str | dict | None) -> tuple[dict, str | dict]:
    """Hyper-parameters and clustering, which must agree about a teacher."""
    if not isinstance(arch, dict):
        check_choice('arch', arch, ARCHS)
        arch = ARCHS[arch]
    has_teacher = 'teacher_depths' in arch
    if clustering is None:
        clustering = 'teacher' if has_teacher else 'conv'
    if not isinstance(clustering, dict):
        check_choice('clustering', clustering, (*CLUSTERINGS, 'teacher'))
    if has_teacher != (clustering == 'teacher'):
        raise ValueError(
            "clustering='teacher' and an arch with teacher_depths need each other, got "
            f'{clustering=} and {arch=}'
        )
    spec = resolve_arch(arch, ARCHS, tuple(ARCHS['tiny_teacher' if has_teacher else 'tiny']))
    for name, values in spec.items():
        check_length(name, values, NUM_STAGES, 'stage')
        for value in values:
            if name == 'mlp_ratios':
                check_range(name, value, 0, ends='()')
            else:
                check_int(name, value)
    for heads, dim in zip(spec['num_heads'], spec['embed_dims']):
        check_divides('num_heads', heads, 'embed_dims', dim)
    return spec, clustering


def _check_clusters(num_clusters: Sequence[int], has_teacher: bool) -> None:
    check_length('num_clusters', num_clusters, NUM_STAGES, 'stage')
    for count in num_clusters:
        check_int('num_clusters', count, 0)
    if has_teacher and min(num_clusters) == 0:
        raise ValueError(
            'num_clusters must be above 0 in every stage with a teacher, got '
            f"{tuple(num_clusters)}; or use clustering='conv'"
        )


def _clusters_every(share: str | int, has_teacher: bool) -> int:
    """0: the first block of a stage clusters; i: every i-th block does."""
    if isinstance(share, str):
        check_choice('share', share, ('stage', 'block'))
    else:
        check_int('share', share)
    every = {'stage': 0, 'block': 1}.get(share, share)
    if has_teacher and every:
        raise ValueError(f"share must be 'stage' with a teacher, got {share!r}")
    return every
