"""One training step and one prediction of a model on noise, without the data of its config."""

import numpy as np
import torch
from _checks import innermost
from _cli import type_name
from _errors import UsageError
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, MODELS
from torch import nn

# height and width: no multiples of any window, patch or stride
ODD = (157, 203)
TRAIN = (97, 131)
LARGE = (211, 237)  # has enough cells for 900 queries
# read other samples of the data set, or need another package
LEFT_OUT = ('Mosaic', 'YOLOXMixUp', 'Albumentation')


def train_and_predict(cfg: Config, host: str) -> tuple[nn.Module, list]:
    """Return the model of a config after one step, with its gradients, and a prediction."""
    cfg = cfg.copy()
    wrapper = {k: v for k, v in cfg.optim_wrapper.items() if k not in ('loss_scale', 'dtype')}
    preprocessor = cfg.model.data_preprocessor
    if host == 'mmseg':
        preprocessor.size = TRAIN
    elif host == 'mmdet':  # some necks need whole cells, which their pipeline gives them
        preprocessor.pad_size_divisor = max(32, preprocessor.get('pad_size_divisor', 1))
        preprocessor.pad_mask = True
    model = revert_sync_batchnorm(MODELS.build(cfg.model)).train()
    initialize(model)
    wrapper = build_optim_wrapper(model, dict(wrapper, type='OptimWrapper'))
    make, predict = BATCHES[host]
    batch = model.data_preprocessor(make(cfg), training=True)
    loss, _ = model.parse_losses(model._run_forward(batch, mode='loss'))
    wrapper.backward(loss)
    wrapper.step()
    with torch.no_grad():
        return model, predict(cfg, model.eval())


def initialize(model: nn.Module) -> None:
    """Give a model its initial weights; only those of the backbone are read from a file."""
    for module in model.modules():
        if module is not model.backbone and 'Pretrained' in str(getattr(module, 'init_cfg', '')):
            module.init_cfg = None
    model.init_weights()  # some hosts leave parameters uninitialised until then


def without_gradient(model: nn.Module) -> list[str]:
    """Return the trainable parameters that have no gradient or one that is not finite."""
    return [
        name
        for name, value in model.named_parameters()
        if value.requires_grad and (value.grad is None or not value.grad.isfinite().all())
    ]


def find_values(node: object, key: str) -> list:
    """Return all values under a key of a config."""
    if isinstance(node, (list, tuple)):
        return [value for one in node for value in find_values(one, key)]
    if not isinstance(node, dict):
        return []
    below = [value for one in node.values() for value in find_values(one, key)]
    return ([node[key]] if key in node else []) + below


def detection_batch(cfg: Config, *sizes: tuple[int, int]) -> dict:
    """Images of the sizes with boxes, masks and semantic labels."""
    from mmdet.testing import demo_mm_inputs

    sizes = sizes or (TRAIN, (128, 96))
    if find_values(cfg.model, 'num_queries'):
        sizes = [LARGE] * len(sizes)
    shapes = [(3, *size) for size in sizes]
    numbers = [number for number in find_values(cfg.model, 'num_classes') if number] or [2]
    options = dict(num_classes=min(numbers), with_mask=True, with_semantic=True)
    return demo_mm_inputs(len(sizes), shapes, [3] * len(sizes), **options)


def segmentation_batch(cfg: Config, *sizes: tuple[int, int]) -> dict:
    """Images of the sizes with labels of all classes."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    batch = dict(inputs=[], data_samples=[])
    for rows, columns in sizes or (TRAIN, TRAIN):
        classes = min(find_values(cfg.model, 'num_classes'))
        labels = torch.arange(rows * columns).view(1, rows, columns) // 64 % classes
        shapes = dict.fromkeys(('ori_shape', 'img_shape', 'pad_shape'), (rows, columns))
        sample = SegDataSample(gt_sem_seg=PixelData(data=labels), metainfo=shapes)
        batch['inputs'].append(torch.randint(256, (3, rows, columns), dtype=torch.uint8))
        batch['data_samples'].append(sample)
    return batch


def pose_batch(cfg: Config) -> dict:
    """Two images with people, through the pipeline of the config, which encodes the targets."""
    source = next(innermost(cfg.train_dataloader.dataset))
    meta = DATASETS.build(dict(source, lazy_init=True, pipeline=[])).metainfo
    steps = cfg.train_dataloader.dataset.get('pipeline') or source['pipeline']
    if not steps:
        raise UsageError('train_dataloader must have a pipeline, got an empty one')
    pipeline = Compose([step for step in steps if type_name(step) not in LEFT_OUT])
    samples = []
    while len(samples) < 2:
        sample = pipeline(person(meta))
        samples += [sample] if sample else []
    return pseudo_collate(samples)


def person(meta: dict) -> dict:
    """One person in a noise image: all joints on a ring."""
    joints = meta['num_keypoints']
    angles = np.linspace(0, 2 * np.pi, joints, endpoint=False)
    keypoints = np.stack([100 + 50 * np.cos(angles), 80 + 50 * np.sin(angles)], axis=-1)
    return dict(
        img=np.random.randint(256, size=(*ODD, 3), dtype=np.uint8),
        img_shape=ODD,
        ori_shape=ODD,
        id=1,
        img_id=1,
        category_id=np.array([1]),
        bbox=np.array([[45, 25, 155, 135]], dtype=np.float32),
        bbox_score=np.ones(1, dtype=np.float32),
        area=np.array([12100], dtype=np.float32),
        keypoints=keypoints[None].astype(np.float32),
        keypoints_visible=np.ones((1, joints), dtype=np.float32),
        invalid_segs=[],
        **meta,
    )


def predict_pose(cfg: Config, model: nn.Module) -> list:
    """Predictions of a pose estimator for a whole image."""
    from mmpose.apis import inference_bottomup, inference_topdown

    source = next(innermost(cfg.train_dataloader.dataset))
    model.cfg = cfg
    model.dataset_meta = DATASETS.build(dict(source, lazy_init=True, pipeline=[])).metainfo
    is_bottom_up = source.get('data_mode') == 'bottomup'
    infer = inference_bottomup if is_bottom_up else inference_topdown
    return infer(model, np.random.randint(256, size=(*ODD, 3), dtype=np.uint8))


BATCHES = dict(
    mmdet=(detection_batch, lambda cfg, model: model.test_step(detection_batch(cfg, ODD))),
    mmseg=(segmentation_batch, lambda cfg, model: model.test_step(segmentation_batch(cfg, ODD))),
    mmpose=(pose_batch, predict_pose),
)
