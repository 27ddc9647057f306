"""PaCaHead: the segmentation head of PaCa-ViT as a decode head of mmseg.

Parameter names are those of the released checkpoints; the arithmetic is in ``class_attention.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmcv.cnn import ConvModule, build_norm_layer
from mmengine.registry import MODELS
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.losses import accuracy
from mmseg.registry import MODELS as MMSEG_MODELS
from mmseg.utils import SampleList
from torch import Tensor, nn

from ..common.checks import check_shape
from .class_attention import ClassPooling, attend_to_classes, project_levels

LOSS = dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0, avg_non_ignore=True)


class ToMap(nn.Module):
    """``(B, K, C) -> (B, C, K, 1)``, so that any 2-D norm of mmcv takes class tokens.

    Shape:
        - x: ``(B, K, C)`` -> ``(B, C, K, 1)``.
    """

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)[..., None]


@MODELS.register_module()
class PaCaHead(BaseDecodeHead):
    """Segment by attention from positions to one token per class.

    The clustering map that pools these tokens has one channel per class and a loss of its own.
    Works with mmseg's plain ``EncoderDecoder``; the backbone is free and need not cluster.

    Args:
        in_channels: Channels of each map, finest first.
        channels: Channels inside the head.
        num_classes: K.
        in_index: Which of the backbone's maps to take.
        out_channels: Channels of the result; K by default (see mmseg for binary segmentation).
        threshold: See mmseg; for ``out_channels=1``.
        dropout_ratio: Dropout before the classifier, in [0, 1].
        norm_cfg: Norm after every projection, those of the class tokens included; ``SyncBN`` on
            several GPUs, ``BN`` on a CPU.
        act_cfg: Activation after every norm.
        align_corners: Of the resize to the size of the labels; inside the head it is False.
        ignore_index: Label that counts in no loss.
        loss_decode: Loss of the result, or a list of losses.
        loss_cluster: Loss of the clustering map, or a list of losses; weight 0.4 is published.
        sampler: See mmseg; chooses pixels for both losses.
        init_cfg: See mmseg; by default normal values, std 0.01, for the classifier.

    Shape:
        - inputs: a sequence of ``(B, in_channels[i], H_i, W_i)``.
        - returns: ``(B, out_channels, H_0, W_0)``, in training too.

    Raises:
        ValueError: Arguments, maps or labels that do not fit; the message says how to mend it.
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
        in_channels, in_index = tuple(in_channels), tuple(in_index)
        if len(in_channels) != len(in_index):
            raise ValueError(
                f'in_channels and in_index need one entry per map, got {in_channels} and '
                f'{in_index}; give both the same length'
            )
        norm_cfg = norm_cfg or dict(type='SyncBN', requires_grad=True)
        act_cfg = act_cfg or dict(type='ReLU')
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
            loss_decode=loss_decode or LOSS,
            ignore_index=ignore_index,
            sampler=sampler,
            align_corners=align_corners,
            init_cfg=init_cfg or dict(type='Normal', std=0.01, override=dict(name='conv_seg')),
        )
        total = channels * len(in_channels)

        def project(width: int) -> ConvModule:
            return ConvModule(width, channels, 1, bias=False, norm_cfg=norm_cfg, act_cfg=act_cfg)

        def project_classes() -> nn.Sequential:
            norm = build_norm_layer(norm_cfg, channels)[1]
            return nn.Sequential(nn.Linear(total, channels), ToMap(), norm, MODELS.build(act_cfg))

        self.convs = nn.ModuleList(project(width) for width in in_channels)
        self.q = nn.Sequential(project(total))
        self.clustering = nn.Sequential(project(total), nn.Conv2d(channels, self.out_channels, 1))
        self.pool = ClassPooling()
        self.k = project_classes()
        self.v = project_classes()
        self.proj = project(channels)
        losses = loss_cluster or dict(LOSS, loss_weight=0.4)
        losses = [losses] if isinstance(losses, dict) else losses
        # built like mmseg's own, whose losses live in its registry
        self.loss_cluster = nn.ModuleList(MMSEG_MODELS.build(loss) for loss in losses)

    def parameter_roles(self) -> dict[str, tuple[str, ...]]:
        """Role to module names, for the learning rates: all of this is ``head``."""
        return {'head': ('',)}

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Class scores at the resolution of the finest map."""
        return self._forward(inputs)[0]

    def _forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Class scores, and the scores of the clustering map."""
        levels = [conv(x) for conv, x in zip(self.convs, self._select(inputs))]
        q, features = self._project(levels, self.q[0], self.clustering[0])
        scores = self.clustering[1](features)  # B K H W
        tokens = self.pool(levels, scores)  # B K C
        k, v = (branch(tokens)[..., 0].transpose(1, 2) for branch in (self.k, self.v))
        return self.cls_seg(self.proj(attend_to_classes(q, k, v))), scores

    def _select(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        if len(inputs) <= max(self.in_index):
            raise ValueError(
                f'PaCaHead takes the maps in_index={tuple(self.in_index)}, got {len(inputs)} maps; '
                'let the backbone return more (out_indices) or change in_index and in_channels'
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
        return maps

    @staticmethod
    def _project(levels: list[Tensor], *modules: ConvModule) -> list[Tensor]:
        """Run several conv-norm-activation modules on the resized, concatenated levels."""
        weight = torch.cat([module.conv.weight for module in modules])
        maps = project_levels(levels, weight).split([m.out_channels for m in modules], dim=1)
        return [module.activate(module.norm(x)) for module, x in zip(modules, maps)]

    def loss(
        self, inputs: Sequence[Tensor], batch_data_samples: SampleList, train_cfg: dict
    ) -> dict[str, Tensor]:
        """Losses of the result, and those of the clustering map under ``paca.``.

        Args:
            inputs: Maps of the backbone.
            batch_data_samples: With ``gt_sem_seg``.
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
        wrong = (label != self.ignore_index) & ((label < 0) | (label >= self.num_classes))
        if wrong.any():
            raise ValueError(
                f'labels must lie in [0, {self.num_classes - 1}] or be ignore_index='
                f'{self.ignore_index}, got {label[wrong].unique()[:8].tolist()}; set num_classes, '
                'ignore_index, or reduce_zero_label in LoadAnnotations'
            )
