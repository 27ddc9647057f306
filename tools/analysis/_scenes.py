"""Images of a data set with the masks of their objects, as a model sees them."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from _cli import find_host
from _models import UsageError, build
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmtoken.query_key.prefer import Scene, scene_of_masks, scene_of_segments
from torch import Tensor

LOADERS = dict(mmdet=dict(with_bbox=True, with_mask=True), mmseg={})


class Scenes:
    """Evenly spread images of a data set of mmdet or mmseg; one at a time is in memory.

    Args:
        cfg: A config with ``<split>_dataloader``.
        split: ``'train'``, ``'val'`` or ``'test'``; always through the pipeline of the test.
        most: Number of images; None for all.

    Raises:
        UsageError: If the host's data sets have no masks.
    """

    def __init__(self, cfg: Config, split: str, most: int | None) -> None:
        self.host = find_host(cfg)
        if self.host not in LOADERS:
            raise UsageError(
                'the data set must have masks: one of mmdet with instance masks, or one of mmseg, '
                f'got one of {self.host}'
            )
        init_default_scope(self.host)
        node = (cfg.get(f'{split}_dataloader') or {}).get('dataset')
        test = (cfg.get('test_dataloader') or {}).get('dataset', {}).get('pipeline')
        if not node or not test:
            raise UsageError(f'the config must define {split}_dataloader and test_dataloader')
        while 'pipeline' not in node and 'dataset' in node:  # repeated
            node = node['dataset']
        self.dataset = build(DATASETS, [dict(node, pipeline=self._pipeline(test), test_mode=True)])[
            0
        ]
        self._preprocessor = build(MODELS, [cfg.model.data_preprocessor])[0]
        head = cfg.model.get('decode_head', {})
        head = head[-1] if isinstance(head, list) else head
        self._ignored = (255, head.get('ignore_index', 255))
        count = len(self.dataset)
        shown = min(most or count, count)
        self.numbers = [(2 * i + 1) * count // (2 * shown) for i in range(shown)]

    def _pipeline(self, steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The masks are loaded last, at the size of the file."""
        steps = [step for step in steps if not step['type'].endswith('Annotations')]
        load = dict(type='LoadAnnotations', **LOADERS[self.host])
        return [*steps[:-1], load, steps[-1]]

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[tuple[Tensor, Scene]]:
        """Normalised inputs ``(1, C, H, W)`` and their objects."""
        for number in self.numbers:
            yield self._read(number)

    def _read(self, number: int) -> tuple[Tensor, Scene]:
        try:
            packed = self.dataset[number]
        except KeyError as error:
            raise UsageError(
                f'the data set must have masks, got image {number} without {error}; choose another'
            ) from error
        sample = packed['data_samples']
        seen = sample.img_shape[:2]
        inputs = self._preprocessor(pseudo_collate([packed]), training=False)['inputs']
        if self.host == 'mmseg':
            classes = len(self.dataset.metainfo['classes'])
            segments = _resize(sample.gt_sem_seg.data.numpy(), seen)[0]
            scene = scene_of_segments(segments, classes, self._ignored)
        else:
            found = sample.gt_instances
            masks = found.masks.to_ndarray().reshape(-1, *sample.ori_shape[:2])
            scene = scene_of_masks(_resize(masks, seen), found.labels.tolist())
        objects = torch.full(inputs.shape[2:], -2)
        objects[: seen[0], : seen[1]] = scene.objects
        return inputs, Scene(objects, scene.classes)


def _resize(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The nearest pixel of each."""
    rows, cols = ((np.arange(n) + 0.5) * old / n for n, old in zip(size, maps.shape[1:]))
    return maps[:, rows.astype(int)][:, :, cols.astype(int)]
