"""Made-up samples, so that the pipelines, models and metrics of a config run without its data."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS
from torch.utils.data import Dataset

# no multiple of any window, patch or stride
HEIGHT, WIDTH = 157, 203
SPLITS = ('train', 'val', 'test')


def pose_sample(dataset, folder: Path) -> dict:
    """One person in a noise image: all joints on a ring, one of them unlabelled."""
    metainfo = dataset.metainfo
    joints = metainfo['num_keypoints']
    angles = np.linspace(0, 2 * np.pi, joints, endpoint=False)
    keypoints = np.stack([100 + 50 * np.cos(angles), 80 + 50 * np.sin(angles)], axis=-1)
    visible = np.ones((1, joints), dtype=np.float32)
    visible[0, -1] = 0
    fields = ('dataset_name', 'upper_body_ids', 'lower_body_ids', 'flip_pairs', 'flip_indices')
    fields += ('dataset_keypoint_weights', 'skeleton_links')
    return dict(
        img=noise(),
        id=1,
        img_id=1,
        category_id=np.array(1),
        bbox=np.array([[45, 25, 155, 135]], dtype=np.float32),
        bbox_score=np.ones(1, dtype=np.float32),
        keypoints=keypoints[None].astype(np.float32),
        keypoints_visible=visible,
        **{field: copy.deepcopy(metainfo[field]) for field in fields},
    )


def detection_sample(dataset, folder: Path) -> dict:
    """Two octagons in a noise image, of the first and the last class."""
    angles = np.linspace(0, 2 * np.pi, 8, endpoint=False)
    instances = []
    for label, (x, y) in ((0, (60, 60)), (len(dataset.metainfo['classes']) - 1, (120, 90))):
        outline = np.stack([x + 40 * np.cos(angles), y + 40 * np.sin(angles)], axis=-1)
        box = [x - 40, y - 40, x + 40, y + 40]
        mask = [outline.flatten().tolist()]
        instances.append(dict(ignore_flag=0, bbox=box, bbox_label=label, mask=mask))
    return dict(
        img_path=write(noise(), folder / 'image.png'),
        img_id=1,
        seg_map_path=None,
        height=HEIGHT,
        width=WIDTH,
        instances=instances,
    )


def segmentation_sample(dataset, folder: Path) -> dict:
    """A noise image whose labels are tiles of all classes; the top edge is to be ignored."""
    num_classes = len(dataset.metainfo['classes'])
    rows, columns = np.indices((HEIGHT, WIDTH)) // 16
    labels = (rows * 13 + columns) % num_classes + int(dataset.reduce_zero_label)
    labels[0] = dataset.ignore_index
    return dict(
        img_path=write(noise(), folder / 'image.png'),
        seg_map_path=write(labels.astype(np.uint8), folder / 'labels.png'),
        label_map=dataset.label_map,
        reduce_zero_label=dataset.reduce_zero_label,
        seg_fields=[],
    )


def classification_sample(dataset, folder: Path) -> dict:
    """A noise image of the last class."""
    last = len(dataset.metainfo['classes']) - 1
    return dict(img_path=write(noise(), folder / 'image.png'), gt_label=np.array(last))


def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def write(picture: np.ndarray, path: Path) -> str:
    mmcv.imwrite(picture, str(path))
    return str(path)


def check_pose(prediction, cfg: Config) -> None:
    keypoints = prediction.pred_instances.keypoints
    assert keypoints.shape == prediction.gt_instances.keypoints.shape
    assert np.isfinite(keypoints).all()


def check_detection(prediction, cfg: Config) -> None:
    """Boxes lie in the image of the size that was put in, and masks have that size."""
    found = prediction.pred_instances
    assert len(found) > 0
    assert found.bboxes.isfinite().all() and found.scores.isfinite().all()
    corners = found.bboxes.reshape(-1, 2)
    assert (corners >= 0).all() and (corners <= corners.new_tensor([WIDTH, HEIGHT])).all()
    assert found.masks.dtype == torch.bool
    assert found.masks.shape == (len(found), HEIGHT, WIDTH)
    heads = cfg.model.roi_head.bbox_head
    num_classes = (heads[0] if isinstance(heads, list) else heads).num_classes
    assert found.labels.min() >= 0 and found.labels.max() < num_classes


def check_segmentation(prediction, cfg: Config) -> None:
    """Scores and labels have the size of the image that was put in."""
    num_classes = cfg.model.decode_head.num_classes
    assert prediction.seg_logits.data.shape == (num_classes, HEIGHT, WIDTH)
    assert prediction.seg_logits.data.isfinite().all()
    labels = prediction.pred_sem_seg.data
    assert labels.shape == (1, HEIGHT, WIDTH) == prediction.gt_sem_seg.data.shape
    assert labels.min() >= 0 and labels.max() < num_classes


def check_classification(prediction, cfg: Config) -> None:
    """One probability per class, and the label of the largest one."""
    scores = prediction.pred_score
    assert scores.shape == (cfg.model.head.num_classes,)
    torch.testing.assert_close(scores.sum(), scores.new_ones(()))
    assert prediction.pred_label.tolist() == [scores.argmax()]
    assert prediction.gt_label.tolist() == [cfg.model.head.num_classes - 1]


class Host(NamedTuple):
    """How a host is fed a made-up sample, and what its predictions must be."""

    sample: Callable
    check: Callable


HOSTS = dict(
    mmpose=Host(pose_sample, check_pose),
    mmdet=Host(detection_sample, check_detection),
    mmseg=Host(segmentation_sample, check_segmentation),
    mmpretrain=Host(classification_sample, check_classification),
)


class OneSample(Dataset):
    """The pipeline of a data set of the config, fed with one made-up sample over and over.

    Args:
        dataset: The config of the data set; its annotation file is not read.
        sample: Makes the sample for the data set; files go to the folder.
        folder: For these files.
        length: How often the sample is there.
    """

    def __init__(self, dataset: dict, sample: Callable, folder: Path, length: int = 1) -> None:
        self.source = DATASETS.build(dict(dataset, lazy_init=True))
        self.metainfo = self.source.metainfo
        self.sample = sample
        self.folder = folder
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict:
        found = None
        while found is None:  # a crop without an object: data sets draw again, too
            found = self.source.pipeline(self.sample(self.source, self.folder))
        return found

    def get_data_info(self, index: int) -> dict:
        """What mmdet's batch sampler sorts by."""
        return dict(width=WIDTH, height=HEIGHT)


def shrink(cfg: Config) -> None:
    """Make pictures small, boxes few and heads narrow, so that a published config is quick."""
    if cfg.default_scope == 'mmpose':
        multiply_sizes(cfg._cfg_dict, ('input_size', 'heatmap_size'), 1 / 2)
        return
    if cfg.default_scope == 'mmpretrain':
        sizes = (step.get('crop_size') or step.get('scale') for step in cfg.test_pipeline)
        side = min(np.min(size) for size in sizes if size)
        for split in SPLITS:
            pipeline = cfg[f'{split}_dataloader'].dataset.pipeline
            multiply_sizes(pipeline, ('scale', 'crop_size'), min(1, 64 / side))
        return
    (scale,) = (step.scale for step in cfg.test_pipeline if step.type == 'Resize')
    sizes = ('scale', 'scales', 'crop_size')
    factor = min(1, 64 / min(scale))  # the short side of a whole image becomes 64
    for split in SPLITS:
        multiply_sizes(cfg[f'{split}_dataloader'].dataset.pipeline, sizes, factor)
    model = cfg.model
    if cfg.default_scope == 'mmseg':
        multiply_sizes(model.data_preprocessor, ('size',), factor)
        for head in (model.decode_head, model.get('auxiliary_head')):
            if head:
                head.channels = min(head.channels, 64)
        multiply_sizes(model.test_cfg, ('crop_size', 'stride'), factor)
        return
    padding = model.data_preprocessor
    padding.pad_size_divisor = max(32, round(padding.pad_size_divisor * factor))
    stages = model.train_cfg.rcnn
    for stage in stages if isinstance(stages, list) else [stages]:
        stage.sampler.num = 8
    model.train_cfg.rpn_proposal.max_per_img = model.test_cfg.rpn.max_per_img = 20
    multiply_sizes(model.roi_head, ('fc_out_channels', 'conv_out_channels'), 1 / 8)
    # an untrained model is sure of nothing, and would predict nothing
    model.test_cfg.rcnn.update(score_thr=0.0, max_per_img=5)


def multiply_sizes(node, keys: tuple[str, ...], factor: float) -> None:
    """Multiply the numbers under these keys, in lists in lists too."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in keys:
                node[key] = multiplied(value, factor)
            else:
                multiply_sizes(value, keys, factor)
    elif isinstance(node, (list, tuple)):
        for value in node:
            multiply_sizes(value, keys, factor)


def multiplied(value, factor: float):
    if isinstance(value, (list, tuple)):
        return type(value)(multiplied(one, factor) for one in value)
    return round(value * factor)
