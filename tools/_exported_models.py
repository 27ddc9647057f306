"""Models as export.py writes them: an image in, named tensors out, and their metadata."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from _checks import innermost
from _cli import UsageError, find_host
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, init_default_scope
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent / 'analysis'))
import _models

PARTS = ('model', 'neck', 'backbone')
# names of the outputs of a whole model, by its host
NAMES = {'mmpose': 'heatmaps', 'mmseg': 'logits', 'mmpretrain': 'scores'}
ORDERS = ('bgr_to_rgb', 'rgb_to_bgr', 'to_rgb')  # how preprocessors ask for the other channel order


class ExportedModel(nn.Module):
    """What a file computes: normalisation if asked for, a model or its parts, labels if asked for.

    Args:
        model: Module to export.
        whole: Whether it is a host's whole model, which returns the raw outputs of its head.
        normalize: ``mean`` and ``std`` of the channels and whether their order ``swaps``; None to
            leave the image as it is.
        to_labels: Turn class scores into the class of each pixel of the image.
    """

    def __init__(
        self, model: nn.Module, whole: bool, normalize: dict | None, to_labels: bool
    ) -> None:
        super().__init__()
        self.model = model
        self.whole = whole
        self.to_labels = to_labels
        self.swaps = bool(normalize and normalize['swaps'])
        for name in ('mean', 'std'):
            value = torch.tensor(normalize[name]).view(-1, 1, 1) if normalize else None
            # plain "mean" would be the name of an ONNX node, too
            self.register_buffer(f'pixel_{name}', value)

    def outputs(self, image: Tensor) -> dict[str, Tensor]:
        """The outputs by their path in the nested outputs of the model."""
        x = image
        if self.swaps:
            x = torch.cat(x.split(1, 1)[::-1], 1)
        if self.pixel_mean is not None:
            x = (x - self.pixel_mean) / self.pixel_std
        found = self.model(x, None, mode='tensor') if self.whole else self.model(x)
        if self.to_labels:
            found = self._labels(found, image)
        return dict(_flatten(found))

    def _labels(self, logits: Tensor, image: Tensor) -> Tensor:
        head = self.model.decode_head
        size = tuple(image.shape[2:])
        logits = F.interpolate(logits, size, mode='bilinear', align_corners=head.align_corners)
        if logits.shape[1] == 1:
            return (logits[:, 0].sigmoid() > head.threshold).long()
        return logits.argmax(1)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.outputs(image).values())


def _flatten(outputs: Any, path: str = '') -> Iterator[tuple[str, Tensor]]:
    """Path and tensor of everything in nested lists, tuples and dicts."""
    if isinstance(outputs, dict):
        for key, value in outputs.items():
            yield from _flatten(value, f'{path}_{key}')
    elif isinstance(outputs, (list, tuple)):
        for i, value in enumerate(outputs):
            yield from _flatten(value, f'{path}_{i}' if len(outputs) > 1 else path)
    elif isinstance(outputs, Tensor):
        yield path, outputs
    else:
        raise UsageError(
            f'outputs of an exported model must be tensors, got {type(outputs).__name__}; export '
            'the next larger --part, or let the backbone return maps'
        )


def build(cfg: Config, args: Any) -> ExportedModel:
    """The part of a config that is exported, with random weights, in eval mode."""
    if args.part == 'model' and ('roi_head' in cfg.model or 'rpn_head' in cfg.model):
        raise UsageError(
            f'a whole exported model must have one stage, got {cfg.model.type} with proposals, '
            'whose number depends on the image; export a feature extractor with --part neck'
        )
    if args.labels and (args.part != 'model' or find_host(cfg) != 'mmseg'):
        raise UsageError('--labels needs a whole segmentor, got another model or --part')
    whole = args.part == 'model'
    if whole:
        init_default_scope(cfg.get('default_scope') or 'mmengine')
        (model,) = _models.build(MODELS, [cfg.model])
    else:
        model = _models.build_part(cfg, args.part)
    inside = args.normalization == 'inside'
    return ExportedModel(model, whole, read_normalization(cfg) if inside else None, args.labels)


def read_normalization(cfg: Config) -> dict[str, Any]:
    """Mean, standard deviation and channel order of the data preprocessor of a config."""
    found = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    mean, std = found.get('mean'), found.get('std')
    if mean is None or std is None:
        raise UsageError(
            'normalization inside the file needs mean and std in data_preprocessor, got '
            f'{dict(found)}; add them, or pass --normalization outside'
        )
    swaps = any(found.get(order) for order in ORDERS)
    return dict(mean=list(map(float, mean)), std=list(map(float, std)), swaps=swaps)


def find_outputs(model: ExportedModel, image: Tensor) -> list[str]:
    """Paths of the outputs; raise unless a whole model needs nothing but an image."""
    try:
        return list(model.outputs(image))
    except (AssertionError, AttributeError, NotImplementedError, TypeError) as error:
        if not model.whole:
            raise
        kind = type(model.model).__name__
        raise UsageError(
            f'a whole exported model must run on images alone in mode="tensor", got {kind} with '
            f'{type(error).__name__}: {error}; export a feature extractor with --part neck'
        ) from error


def name_outputs(cfg: Config, args: Any, paths: list[str]) -> list[str]:
    """Names of the outputs: what they are and, if there are several, which one."""
    name = NAMES.get(find_host(cfg), 'output') if args.part == 'model' else 'map'
    if name == 'heatmaps' and len(paths) == 2:  # one vector per joint and axis
        return ['simcc_x', 'simcc_y']
    return ['labels' if args.labels else name + path for path in paths]


def describe(cfg: Config, args: Any, checkpoint: dict) -> dict[str, str]:
    """The metadata of a file: JSON by name."""
    try:
        normalization = read_normalization(cfg)
    except UsageError:
        normalization = dict(mean=None, std=None, swaps=False)
    swaps = normalization.pop('swaps')
    # pictures are loaded as BGR; a model that is fed without normalisation sees the other order
    order = 'RGB' if swaps and args.normalization == 'outside' else 'BGR'
    dataset = read_dataset_meta(cfg, checkpoint)
    names = dataset.get('keypoint_id2name') or {}
    about = dict(
        config=Path(args.config).name,
        host=find_host(cfg),
        part=args.part,
        input_size=list(args.shape),
        dynamic=args.dynamic,
        channel_order=order,
        normalization=args.normalization,
        **normalization,
        classes=dataset.get('classes'),
        palette=dataset.get('palette'),
        keypoints=[names[i] for i in sorted(names)] or None,
        skeleton=dataset.get('skeleton_links'),
        **_models.environment(),
    )
    return {key: json.dumps(value) for key, value in about.items() if value is not None}


def read_dataset_meta(cfg: Config, checkpoint: dict) -> dict[str, Any]:
    """Classes or keypoints: those in the checkpoint, else those of the data set of the config."""
    found = (checkpoint.get('meta') or {}).get('dataset_meta')
    if found:
        return found
    dataset = next(innermost((cfg.get('test_dataloader') or {}).get('dataset')), None)
    if dataset is None:
        return {}
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    # a name without a scope is looked up in mmengine only
    kind = DATASETS.get(f'{find_host(cfg)}.{dataset["type"]}') or DATASETS.get(dataset['type'])
    found = {**getattr(kind, 'METAINFO', {}), **dataset.get('metainfo', {})}
    if 'from_file' in found:
        from mmpose.datasets.datasets.utils import parse_pose_metainfo

        found = parse_pose_metainfo(found)
    return found
