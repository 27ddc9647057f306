"""What a model sees of a picture file, through the test pipeline of its config."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import mmcv
import numpy as np
import torch
from _models import UsageError, build
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import MODELS, TRANSFORMS, init_default_scope
from torch import Tensor, nn

IMAGENET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True)
DRAWN_SIDE = 640  # pictures are enlarged by whole numbers to about this many pixels


class View:
    """The test pipeline and the data preprocessor of a config.

    Without the latter, pictures are read as they are and normalised with ImageNet's mean and std.
    """

    def __init__(self, cfg: Config) -> None:
        init_default_scope(cfg.get('default_scope') or 'mmengine')
        preprocessor = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor')
        steps = _test_pipeline(cfg)
        if preprocessor and not steps:
            raise UsageError('the config must have a test pipeline (test_dataloader), got none')
        pack = []
        if not preprocessor:
            print('note: no data_preprocessor in the config: ImageNet mean, std', file=sys.stderr)
            preprocessor = dict(IMAGENET, type='mmengine.ImgDataPreprocessor')
            steps, pack = [dict(type='mmcv.LoadImageFromFile')], [_pack]
        self._takes_box = any(step['type'] == 'GetBBoxCenterScale' for step in steps)
        self._is_rgb = preprocessor.get('bgr_to_rgb', False)
        self._pipeline = Compose([*build(TRANSFORMS, steps), *pack])
        self._preprocessor = build(MODELS, [preprocessor])[0]

    @torch.no_grad()
    def __call__(self, path: Path, box: Sequence[float] | None = None) -> tuple[Tensor, np.ndarray]:
        """Return normalised inputs ``(1, C, H, W)``, and ``(h, w, 3)`` uint8 RGB, enlarged.

        The picture file may be behind a file backend of mmengine. Top-down pipelines crop ``box``,
        left, top, width and height of a person, by default the whole picture.
        """
        if box is not None and not self._takes_box:
            raise UsageError('--bbox needs a top-down pipeline (GetBBoxCenterScale), got another')
        found = dict(img_path=str(path), img_id=0)
        try:
            if self._takes_box:
                corners = _corners(box, *mmcv.imread(str(path)).shape[:2])
                found.update(bbox=np.float32([corners]), bbox_score=np.ones(1, np.float32))
            found = self._pipeline(found)
        except (FileNotFoundError, AssertionError, AttributeError, cv2.error) as error:
            text = f'an image must be a picture that OpenCV reads, got {str(path)!r} ({error})'
            raise UsageError(text) from error
        if not isinstance(found.get('inputs'), Tensor):  # test-time augmentation
            kind = type(found.get('inputs')).__name__
            raise UsageError(f'the test pipeline must pack one tensor of inputs, got {kind}')
        inputs = self._preprocessor(pseudo_collate([found]), training=False)['inputs']
        return inputs, self._as_picture(inputs[0])

    def _as_picture(self, inputs: Tensor) -> np.ndarray:
        mean, std = (getattr(self._preprocessor, name, None) for name in ('mean', 'std'))
        image = inputs if mean is None else inputs * std + mean
        if image.min() < -1 or image.max() > 256:  # the pipeline has normalised, too
            image = 255 * (image - image.min()) / (image.max() - image.min())
        image = image[:3] if len(image) >= 3 else image[:1].expand(3, -1, -1)
        image = image if self._is_rgb else image.flip(0)  # the hosts read pictures as BGR
        image = image.round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
        scale = max(1, round(DRAWN_SIDE / max(image.shape[:2])))
        return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)


@torch.no_grad()
def check_input(backbone: nn.Module, inputs: Tensor) -> None:
    """Raise unless the backbone takes inputs of this size, which positions may forbid."""
    try:
        backbone(inputs)
    except (AssertionError, RuntimeError, ValueError) as error:
        size = 'x'.join(map(str, inputs.shape[2:]))
        raise UsageError(
            f'the backbone must take inputs of {size} pixels, as the test pipeline gives them, got '
            f'{type(error).__name__}: {error}; change the sizes in the pipeline'
        ) from error


def without_padding(image: Tensor) -> tuple[int, int]:
    """Rows and columns of a normalised image ``(C, H, W)`` without the zeros below and right."""
    real = image.any(0)
    if not real.any():
        return tuple(real.shape)
    return tuple(int(real.any(axis).nonzero().max()) + 1 for axis in (1, 0))


def _test_pipeline(cfg: Config) -> list[Any]:
    """The steps that need no annotations."""
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    while 'dataset' in dataset or 'datasets' in dataset:
        dataset = dataset['dataset'] if 'dataset' in dataset else dataset['datasets'][0]
    steps = dataset.get('pipeline') or cfg.get('test_pipeline') or []
    return [step for step in steps if not step['type'].endswith('Annotations')]


def _pack(found: dict[str, Any]) -> dict[str, Tensor]:
    return dict(inputs=torch.from_numpy(found['img'].transpose(2, 0, 1).copy()))


def _corners(box: Sequence[float] | None, height: int, width: int) -> list[float]:
    """Left, top, right and bottom of a box that overlaps the image."""
    left, top, w, h = box = box or (0, 0, width, height)
    if min(w, h, width - left, height - top, left + w, top + h) <= 0:
        rule = (
            '--bbox must be left, top and a positive width and height, and must overlap the image'
        )
        raise UsageError(f'{rule} of {width} x {height} pixels, got {box}')
    return [left, top, left + w, top + h]
