"""PaCaHead: the segmentation head of PaCa-ViT as a decode head of mmseg.

Parameter names are those of the released checkpoints; the arithmetic is in ``class_attention.py``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from mmcv.cnn import ConvModule, build_norm_layer
from mmengine.registry import MODELS
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.losses import accuracy
from mmseg.registry import MODELS as MMSEG_MODELS
from mmseg.registry import TASK_UTILS
from mmseg.utils import SampleList
from torch import Tensor, nn

from ..common.checks import (
    building,
    check_bool,
    check_config,
    check_int,
    check_ints,
    check_range,
    check_shape,
    count_entries,
)
from ..common.memory import recompute_if_large
from ..common.strict_load import StrictInitModule, check_init_cfg
from ..common.tracing import as_one_call
from .class_attention import ClassAttention, ClassPooling, project_levels
from .layers import check_batch_statistics


class ToMap(nn.Module):
    """``(B, K, C) -> (B, C, K, 1)``, so that class tokens fit every 2-D norm of mmcv.

    Shape:
        - x: ``(B, K, C)`` -> ``(B, C, K, 1)``.
    """

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)[..., None]


@MODELS.register_module()
class PaCaHead(StrictInitModule, BaseDecodeHead):
    """Segment by attention from positions to one token per class.

    The clustering map that pools these tokens has one channel per class and its own loss. The
    head works in mmseg's ``EncoderDecoder`` with any backbone.

    Args:
        in_channels: Channels of each map, finest first.
        channels: Channels inside the head.
        num_classes: K.
        in_index: 0-based indices of the backbone's maps to use.
        out_channels: Channels of the result, ``num_classes`` (default) or 1. With 1, two class
            tokens give one score, and both default losses are sigmoid cross entropies.
        threshold: Foreground probability for ``out_channels=1``, in [0, 1]; 0.3 by default.
        dropout_ratio: Dropout before the classifier, in [0, 1].
        norm_cfg: Norm after every projection, also of class tokens; ``SyncBN`` by default.
        act_cfg: Activation after every norm; ``ReLU`` by default.
        align_corners: For the resize to the size of the labels; always False inside the head.
        ignore_index: Label excluded from all losses.
        loss_decode: Loss of the result, or a list of losses; cross entropy by default.
        loss_cluster: Loss of the clustering map, or a list of losses; by default cross entropy
            with the published weight of 0.4.
        sampler: Selects pixels for both losses, see mmseg.
        init_cfg: By default normal values with std 0.01 for the classifier; ``Pretrained`` loads
            strictly.

    Shape:
        - inputs: a sequence of ``(B, in_channels[i], H_i, W_i)``.
        - returns: ``(B, out_channels, H_0, W_0)``, in training too.

    Raises:
        ValueError: If an argument, a map or a label is invalid.
    """

    counts_as = {'clustering': 'clustering', 'pool': 'clustering'}

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int = 256,
        *,
        num_classes: int,
        in_index: Sequence[int] = (0, 1, 2, 3),
        out_channels: int | None = None,
        threshold: float | None = None,
        dropout_ratio: float = 0.1,
        norm_cfg: dict | None = None,
        act_cfg: dict | None = None,
        align_corners: bool = False,
        ignore_index: int = 255,
        loss_decode: dict | Sequence[dict] | None = None,
        loss_cluster: dict | Sequence[dict] | None = None,
        sampler: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        num_maps = count_entries(in_index)
        check_ints('in_index', in_index, num_maps, 'map', 0)
        check_ints('in_channels', in_channels, num_maps, 'entry of in_index')
        check_int('channels', channels)
        check_int('num_classes', num_classes)
        if out_channels is not None:
            check_int('out_channels', out_channels)
        is_binary = (out_channels or num_classes) == 1
        if is_binary and num_classes > 2:
            raise ValueError(f'out_channels=1 is for two classes, got {num_classes=}')
        if threshold is not None:
            check_range('threshold', threshold, 0, 1, '[]')
        check_range('dropout_ratio', dropout_ratio, 0, 1, '[]')
        check_bool('align_corners', align_corners)
        check_int('ignore_index', ignore_index, -math.inf)
        check_config('norm_cfg', norm_cfg)
        check_config('act_cfg', act_cfg)
        check_config('loss_decode', loss_decode, may_be_list=True)
        check_config('loss_cluster', loss_cluster, may_be_list=True)
        check_config('sampler', sampler)
        check_init_cfg(init_cfg)
        norm_cfg = norm_cfg or dict(type='SyncBN', requires_grad=True)
        act_cfg = act_cfg or dict(type='ReLU')
        loss = dict(type='CrossEntropyLoss', use_sigmoid=is_binary, avg_non_ignore=True)
        _build_losses('loss_decode', loss_decode or loss)  # again by mmseg, without the name
        with building('norm_cfg', norm_cfg):
            build_norm_layer(norm_cfg, channels)
        with building('act_cfg', act_cfg):
            MODELS.build(act_cfg)
        super().__init__(
            list(in_channels),
            channels,
            num_classes=num_classes,
            out_channels=out_channels,
            threshold=threshold,
            dropout_ratio=dropout_ratio,
            norm_cfg=norm_cfg,
            act_cfg=act_cfg,
            in_index=list(in_index),
            input_transform='multiple_select',
            loss_decode=loss_decode or loss,
            ignore_index=ignore_index,
            align_corners=align_corners,
            init_cfg=init_cfg or dict(type='Normal', std=0.01, override=dict(name='conv_seg')),
        )
        # attention to a single token would give every position the same score
        self.num_tokens = 2 if is_binary else num_classes
        total = channels * num_maps

        def project(width: int) -> ConvModule:
            return ConvModule(width, channels, 1, bias=False, norm_cfg=norm_cfg, act_cfg=act_cfg)

        def project_classes() -> nn.Sequential:
            norm = build_norm_layer(norm_cfg, channels)[1]
            return nn.Sequential(nn.Linear(total, channels), ToMap(), norm, MODELS.build(act_cfg))

        self.convs = nn.ModuleList(project(width) for width in in_channels)
        self.q = nn.Sequential(project(total))
        self.clustering = nn.Sequential(project(total), nn.Conv2d(channels, self.num_tokens, 1))
        self.pool = ClassPooling()
        self.k = project_classes()
        self.v = project_classes()
        self.attend = ClassAttention()
        self.proj = project(channels)
        self.loss_cluster = _build_losses(
            'loss_cluster', loss_cluster or dict(loss, loss_weight=0.4)
        )
        if sampler is not None:
            with building('sampler', sampler):
                self.sampler = TASK_UTILS.build(sampler, default_args=dict(context=self))

    def parameter_roles(self) -> dict[str, tuple[str, ...]]:
        """Role to module names, for learning rates: the whole module is ``head``."""
        return {'head': ('',)}

    @as_one_call
    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Return class scores at the resolution of the finest map."""
        return self._forward(inputs)[0]

    def _forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return class scores and the scores of the clustering map."""
        levels = [conv(x) for conv, x in zip(self.convs, self._select(inputs))]
        q, features = self._project(levels, self.q[0], self.clustering[0])
        scores = self.clustering[1](features)  # B K H W
        tokens = self.pool(levels, scores)  # B K C
        k, v = (branch(tokens)[..., 0].transpose(1, 2) for branch in (self.k, self.v))
        x = self.proj(self.attend(q, k, v))
        is_random = self.training and self.dropout is not None
        return recompute_if_large(self.cls_seg, x, is_random=is_random), scores

    def _select(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        if len(inputs) <= max(self.in_index):
            raise ValueError(
                f'in_index={tuple(self.in_index)} must be indices of maps, got {len(inputs)} maps; '
                'change in_index and in_channels, or out_indices of the backbone'
            )
        maps = [inputs[index] for index in self.in_index]
        for i, (x, width) in enumerate(zip(maps, self.in_channels)):
            check_shape(f'map {i}', x, 'B C H W')
            if x.shape[1] != width:
                raise ValueError(
                    f'in_channels must be the channels of the maps, got {tuple(self.in_channels)} '
                    f'and a map {i} of {x.shape[1]} channels; set '
                    f'in_channels={[x.shape[1] for x in maps]}'
                )
            check_batch_statistics(self, x.shape[0], *x.shape[2:])
        return maps

    @staticmethod
    def _project(levels: list[Tensor], *modules: ConvModule) -> list[Tensor]:
        """Run conv-norm-activation modules on the resized and concatenated levels."""
        weight = torch.cat([module.conv.weight for module in modules])
        maps = project_levels(levels, weight).split([m.out_channels for m in modules], dim=1)
        return [module.activate(module.norm(x)) for module, x in zip(modules, maps)]

    def loss(
        self, inputs: Sequence[Tensor], batch_data_samples: SampleList, train_cfg: dict
    ) -> dict[str, Tensor]:
        """Return the losses of the result, and those of the clustering map under ``paca.``.

        Args:
            inputs: Maps of the backbone.
            batch_data_samples: Samples with ``gt_sem_seg``.
            train_cfg: Unused, as in mmseg.

        Returns:
            ``loss_ce``, ``acc_seg``, ``paca.loss_ce`` and ``paca.acc_seg`` for the default losses.
        """
        logits, scores = self._forward(inputs)
        self._check_labels(self._stack_batch_gt(batch_data_samples))
        losses = self.loss_by_feat(logits, batch_data_samples)
        extra = self._cluster_loss(scores, batch_data_samples)
        losses.update({f'paca.{name}': value for name, value in extra.items()})
        return losses

    def _cluster_loss(self, scores: Tensor, samples: SampleList) -> dict[str, Tensor]:
        label = self._stack_batch_gt(samples)  # B 1 H W
        scores = nn.functional.interpolate(
            scores, size=label.shape[2:], mode='bilinear', align_corners=self.align_corners
        )
        weight = None if self.sampler is None else self.sampler.sample(scores, label)
        label, losses = label.squeeze(1), {}
        for loss in self.loss_cluster:
            value = loss(scores, label, weight=weight, ignore_index=self.ignore_index)
            losses[loss.loss_name] = losses.get(loss.loss_name, 0) + value
        losses['acc_seg'] = accuracy(scores, label, ignore_index=self.ignore_index)
        return losses

    def _check_labels(self, label: Tensor) -> None:
        wrong = (label != self.ignore_index) & ((label < 0) | (label >= self.num_tokens))
        if wrong.any():
            raise ValueError(
                f'labels must be in [0, {self.num_tokens - 1}] or ignore_index='
                f'{self.ignore_index}, got {label[wrong].unique()[:8].tolist()}; set num_classes, '
                'ignore_index, or reduce_zero_label in LoadAnnotations'
            )


def _build_losses(name: str, losses: dict | Sequence[dict]) -> nn.ModuleList:
    with building(name, losses):
        losses = [losses] if isinstance(losses, dict) else losses
        return nn.ModuleList(MMSEG_MODELS.build(loss) for loss in losses)
