"""From a picture file to what a model of a config sees: crop, size, normalisation, padding."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from _models import UsageError
from mmengine.config import Config
from torch import Tensor

IMAGENET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True)
BOX_PADDING = 1.25  # of mmpose's GetBBoxCenterScale, where the config does not say


def read_image(path: Path) -> np.ndarray:
    """``(H, W, 3)`` uint8 RGB; raise if there is no readable picture."""
    if not path.is_file():
        raise UsageError(f'an image must be an existing file, got {str(path)!r}; check the path')
    image = (
        cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR) if path.stat().st_size else None
    )
    if image is None:
        raise UsageError(
            f'an image must be a picture that OpenCV reads (PNG, JPEG ...), got {str(path)!r} with '
            f'{path.stat().st_size} bytes; convert it or copy it again'
        )
    return image[..., ::-1].copy()


@dataclass(frozen=True)
class View:
    """The part of a picture that a model looks at, and the size it looks at it in.

    Args:
        box: Left, top, right and bottom in pixels of the picture; may stick out of it.
        hw: Input size, before padding (see :func:`padded_size`).
    """

    box: tuple[float, float, float, float]
    hw: tuple[int, int]

    def cut(self, image: np.ndarray, scale: int = 1) -> np.ndarray:
        """The view at ``scale`` times the input size; what sticks out is black."""
        left, top, right, bottom = self.box
        height, width = self.hw[0] * scale, self.hw[1] * scale
        if self.box == (0, 0, image.shape[1], image.shape[0]):
            shrinks = height < image.shape[0]
            how = cv2.INTER_AREA if shrinks and scale > 1 else cv2.INTER_LINEAR
            return cv2.resize(image, (width, height), interpolation=how)
        x, y = width / (right - left), height / (bottom - top)
        # of pixel centres
        matrix = np.array([[x, 0, (0.5 - left) * x - 0.5], [0, y, (0.5 - top) * y - 0.5]])
        return cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR)


def choose_view(
    cfg: Config,
    image_hw: tuple[int, int],
    shape: tuple[int, int] | None = None,
    bbox: tuple[float, float, float, float] | None = None,
) -> View:
    """What the test pipeline of the config would show to the model.

    Args:
        cfg: Its test pipeline (or ``codec``) says the input size.
        image_hw: Size of the picture.
        shape: Input size instead of that of the config.
        bbox: Left, top, width and height of a person or thing; the whole picture by default.
            Top-down models get it padded as in their pipeline.

    Returns:
        Part and size.
    """
    steps = _test_pipeline(cfg)
    fixed = next((step.input_size for step in steps if step.type.endswith('Affine')), None)
    fixed = fixed or cfg.get('codec', {}).get('input_size')
    left, top, width, height = bbox or (0, 0, image_hw[1], image_hw[0])
    _check_box((left, top, width, height), image_hw)
    if fixed is None:
        hw = shape or _resized(steps, (round(height), round(width)))
        return View((left, top, left + width, top + height), hw)
    hw = shape or (fixed[1], fixed[0])
    x, y = left + width / 2, top + height / 2
    # widened to the proportions of the input, then padded
    width = max(width, height * hw[1] / hw[0])
    if bbox is not None:
        boxes = (step for step in steps if step.type.endswith('GetBBoxCenterScale'))
        width *= next((step.get('padding', BOX_PADDING) for step in boxes), BOX_PADDING)
    height = width * hw[0] / hw[1]
    return View((x - width / 2, y - height / 2, x + width / 2, y + height / 2), hw)


def _check_box(box: tuple[float, float, float, float], image_hw: tuple[int, int]) -> None:
    left, top, width, height = box
    if width <= 0 or height <= 0:
        raise UsageError(
            '--bbox must be left, top, width and height in pixels, the last two positive, got '
            f'{box}'
        )
    if left >= image_hw[1] or top >= image_hw[0] or left + width <= 0 or top + height <= 0:
        raise UsageError(
            f'--bbox must overlap the image of {image_hw[1]} x {image_hw[0]} pixels, got {box} '
            '(left, top, width, height)'
        )


def _test_pipeline(cfg: Config) -> list[Any]:
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    while 'dataset' in dataset:
        dataset = dataset.dataset
    return dataset.get('pipeline') or cfg.get('test_pipeline') or []


def _resized(steps: list[Any], hw: tuple[int, int]) -> tuple[int, int]:
    """The size after the pipeline's ``Resize``, if it has one; rounded as mmcv does."""
    step = next((step for step in steps if step.type.endswith('Resize')), {})
    scale, factor = step.get('scale'), step.get('scale_factor')
    if isinstance(scale, (int, float)):
        scale = (scale, scale)
    if not scale and not factor:
        return hw
    if not scale:
        x, y = factor if isinstance(factor, (tuple, list)) else (factor, factor)
        scale = (_rounded(hw[1] * x), _rounded(hw[0] * y))
    if not step.get('keep_ratio', False):
        return scale[1], scale[0]
    factor = min(max(scale) / max(hw), min(scale) / min(hw))
    return _rounded(hw[0] * factor), _rounded(hw[1] * factor)


def _rounded(side: float) -> int:
    return int(side + 0.5)


def padded_size(cfg: Config, hw: tuple[int, int]) -> tuple[int, int]:
    """The size of the model's input where pictures have size ``hw`` after the test pipeline.

    The data preprocessors of the hosts pad at the bottom and on the right: mmdet, mmpose and
    mmengine to multiples of ``pad_size_divisor``, mmseg only as its ``test_cfg`` says.
    """
    how = cfg.model.get('data_preprocessor') or {}
    test = how.get('test_cfg') or {}
    divisor = test.get('size_divisor') or how.get('pad_size_divisor') or 1
    least = test.get('size') or hw
    sides = (max(side, other) for side, other in zip(hw, least))
    height, width = (-(-side // divisor) * divisor for side in sides)
    return height, width


def pad_inputs(cfg: Config, inputs: Tensor, hw: tuple[int, int]) -> Tensor:
    """Pad normalised inputs ``(B, 3, h, w)`` to ``hw`` with the value of the preprocessor."""
    how = cfg.model.get('data_preprocessor') or {}
    value = how.get('pad_value', how.get('pad_val', 0))
    bottom, right = hw[0] - inputs.shape[2], hw[1] - inputs.shape[3]
    return torch.nn.functional.pad(inputs, (0, right, 0, bottom), value=value)


def pad_picture(picture: np.ndarray, hw: tuple[int, int]) -> np.ndarray:
    """The picture at the top left of a black one of size ``hw``."""
    padded = np.zeros((*hw, 3), np.uint8)
    padded[: picture.shape[0], : picture.shape[1]] = picture
    return padded


def normalise(cfg: Config, images: list[np.ndarray]) -> Tensor:
    """RGB pictures of one size -> ``(B, 3, H, W)`` as the data preprocessor of the config does."""
    how = cfg.model.get('data_preprocessor') or IMAGENET
    mean = torch.tensor(how.get('mean') or [0.0]).float().view(1, -1, 1, 1)
    std = torch.tensor(how.get('std') or [1.0]).float().view(1, -1, 1, 1)
    inputs = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float()
    if not how.get('bgr_to_rgb', False):
        inputs = inputs.flip(1)  # the hosts read pictures as BGR
    return (inputs - mean) / std
