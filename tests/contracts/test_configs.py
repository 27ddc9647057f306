"""Every config under ``configs/`` is loaded, built, trained for a step and asked to predict.

The files are found by glob, so that there is no list to maintain; ``MMTOKEN_CONFIGS=substring``
narrows them. Each is shrunk by itself: one made-up sample through the config's own pipelines
instead of its data, smaller pictures and fewer boxes, everything else as in the file. Another host
needs an entry in ``HOSTS``.
"""

import ast
import copy
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import mmcv
import numpy as np
import pytest
import torch
from _cli import KNOWN_FIELDS
from demo_data import write_demo_data
from mmengine.config import Config
from mmengine.model.utils import revert_sync_batchnorm
from mmengine.registry import DATASETS, init_default_scope
from mmengine.runner import Runner
from mmtoken.compat import prepare_hosts
from torch.utils.data import Dataset

FOLDER = Path(__file__).resolve().parents[2] / 'configs'
CONFIGS = sorted(
    path
    for path in FOLDER.rglob('*.py')
    if '_base_' not in path.relative_to(FOLDER).parts
    and os.environ.get('MMTOKEN_CONFIGS', '') in str(path.relative_to(FOLDER))
)
# of each host, the config that the tests of tools and of mistakes take: a small one
DEMOS = dict(mmpose='td-hm_*', mmdet='mask-rcnn_*', mmseg='*_pacahead_*')
# workers would import the hosts once more each
SPLITS = ('train', 'val', 'test')
IN_PROCESS = dict(num_workers=0, persistent_workers=False)


def name(path: Path) -> str:
    return str(path.relative_to(FOLDER).with_suffix(''))


def load(path: Path) -> Config:
    prepare_hosts()
    cfg = Config.fromfile(path)
    pytest.importorskip(cfg.default_scope, reason=f'{cfg.default_scope} is not installed')
    init_default_scope(cfg.default_scope)
    return cfg


def demo(host: str) -> Path:
    return next((FOLDER / 'demo').glob(f'{DEMOS[host]}.py'))


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


class Host(NamedTuple):
    """How a host is fed a made-up sample, and what its predictions must be."""

    sample: Callable
    check: Callable


HEIGHT, WIDTH = 160, 200
HOSTS = dict(
    mmpose=Host(pose_sample, check_pose),
    mmdet=Host(detection_sample, check_detection),
    mmseg=Host(segmentation_sample, check_segmentation),
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
        return self.source.pipeline(self.sample(self.source, self.folder))

    def get_data_info(self, index: int) -> dict:
        """What mmdet's batch sampler sorts by."""
        return dict(width=WIDTH, height=HEIGHT)


def shrink(cfg: Config) -> None:
    """Make pictures small and boxes few: the work of a published config becomes bearable."""
    if cfg.default_scope == 'mmpose':
        multiply_sizes(cfg._cfg_dict, ('input_size', 'heatmap_size'), 1 / 2)
        return
    (scale,) = (step.scale for step in cfg.test_pipeline if step.type == 'Resize')
    sizes = ('scale', 'scales', 'crop_size')
    factor = min(1, 64 / min(scale))  # the short side of a whole image becomes 64
    for split in SPLITS:
        multiply_sizes(cfg[f'{split}_dataloader'].dataset.pipeline, sizes, factor)
    model = cfg.model
    if cfg.default_scope == 'mmseg':
        multiply_sizes(model.data_preprocessor, ('size',), factor)
        multiply_sizes(model.test_cfg, ('crop_size', 'stride'), factor)
        return
    stages = model.train_cfg.rcnn
    for stage in stages if isinstance(stages, list) else [stages]:
        stage.sampler.num = 32
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


def evaluators(cfg: Config, split: str) -> list[dict]:
    """Return the evaluators of a split without the annotation files, which are read at once."""
    found = cfg[f'{split}_evaluator']
    found = found if isinstance(found, list) else [found]
    return [dict(one, ann_file=None) if 'ann_file' in one else one for one in found]


def check_channels(cfg: Config, model) -> None:
    """Whatever reads the maps of the backbone expects the channels that it declares."""
    if not hasattr(model.backbone, 'out_channels'):  # a host's own, for comparison
        assert not type(model.backbone).__module__.startswith('mmtoken')
        return
    declared = tuple(model.backbone.out_channels)
    for part in ('neck', 'decode_head', 'auxiliary_head'):
        if 'in_channels' in cfg.model.get(part, {}):
            expected, index = cfg.model[part].in_channels, cfg.model[part].get('in_index')
            if isinstance(expected, int):
                assert expected == declared[index]
            else:
                assert tuple(expected) == tuple(declared[i] for i in index or range(len(declared)))


def check_classes(node, metainfo: dict) -> None:
    """Every head predicts as many classes as the data set names."""
    if isinstance(node, dict):
        if 'num_classes' in node:
            assert node['num_classes'] == len(metainfo['classes'])
        for value in node.values():
            check_classes(value, metainfo)
    elif isinstance(node, (list, tuple)):
        for value in node:
            check_classes(value, metainfo)


def run_contract(cfg: Config, work_dir: Path) -> None:
    """Take one training step and make one prediction, as the config says."""
    torch.manual_seed(0)
    np.random.seed(0)
    host = HOSTS[cfg.default_scope]
    shrink(cfg)
    cfg.work_dir = str(work_dir)
    cfg.experiment_name = work_dir.name  # runners of one process share loggers by this name
    runner = Runner.from_cfg(cfg)
    runner.model = model = revert_sync_batchnorm(runner.model)  # as on every CPU
    loaders = {}
    for split in SPLITS:
        # a batch norm on a map of one pixel needs two images
        size = 2 if split == 'train' and cfg.default_scope == 'mmseg' else 1
        loader = dict(cfg[f'{split}_dataloader'], batch_size=size, **IN_PROCESS)
        loader['dataset'] = OneSample(loader['dataset'], host.sample, work_dir, size)
        loaders[split] = runner.build_dataloader(loader)
    for split in ('val', 'test'):
        runner.build_evaluator(evaluators(cfg, split))
    runner._train_dataloader = loaders['train']
    check_channels(cfg, model)
    for loader in loaders.values():
        check_classes(cfg.model, loader.dataset.metainfo)

    batch = next(iter(runner.train_loop.dataloader))
    runner.optim_wrapper = runner.build_optim_wrapper(cfg.optim_wrapper)
    runner.build_param_scheduler(cfg.param_scheduler)
    losses = model._run_forward(model.data_preprocessor(batch, training=True), mode='loss')
    loss, _ = model.parse_losses(losses)
    assert loss.isfinite()
    runner.optim_wrapper.backward(loss)
    # a parameter without a gradient stops distributed training
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f'{key} has no gradient'
            assert parameter.grad.isfinite().all(), f'{key} has a gradient that is not finite'
    runner.optim_wrapper.step()

    (batch,) = loaders['test']
    model.eval()
    with torch.no_grad():
        (prediction,) = model.test_step(batch)
    host.check(prediction, cfg)


def test_there_are_configs():
    assert CONFIGS, f'no config in {FOLDER} matches MMTOKEN_CONFIGS'


@pytest.mark.parametrize('path', CONFIGS, ids=name)
def test_trains_and_predicts(path, tmp_path):
    run_contract(load(path), tmp_path)


@pytest.mark.parametrize('path', CONFIGS, ids=name)
def test_no_name_is_misspelt_or_left_unused(path):
    """A top-level name is a field that something reads, or a variable that the file uses."""
    tree = ast.parse(path.read_text())
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    used = {node.id for node in names if isinstance(node.ctx, ast.Load)}
    defined = {node.id for node in names if isinstance(node.ctx, ast.Store)}
    assert defined <= {'_base_', *KNOWN_FIELDS, *used}


def plain(steps: list[dict]) -> list[dict]:
    """Drop the scope that mmengine notes beside the types of a host's config."""
    return [{key: value for key, value in step.items() if key != '_scope_'} for step in steps]


@pytest.mark.parametrize('path', CONFIGS, ids=name)
def test_pipelines_reach_the_loaders(path):
    """Editing an inherited ``train_pipeline`` alone would change nothing."""
    cfg = load(path)
    # mmpose evaluates and tests with the one, mmdet and mmseg with the other
    named = [cfg[key] for key in ('val_pipeline', 'test_pipeline') if key in cfg]
    assert len(named) == 1 and 'train_pipeline' in cfg
    for split, pipeline in zip(SPLITS, (cfg.train_pipeline, *named, *named)):
        assert plain(cfg[f'{split}_dataloader'].dataset.pipeline) == plain(pipeline)


@pytest.mark.parametrize('path', CONFIGS, ids=name)
def test_header_states_the_command(path):
    """Line 1 says model, data and schedule; a line below it is the command."""
    header = ast.get_docstring(ast.parse(path.read_text()))
    assert path.read_text().startswith('"""') and len(header.splitlines()[0]) > 40
    assert 'tools/train.py' in header


MISTAKES = dict(
    mmpose=[
        'model.backbon.arch=light',
        'model.backbone.archh=light',
        'model.neck.out_level=0',
        'train_dataloader.batchsize=2',
        'train_dataloader.dataset.annfile=x.json',
        'train_cfg.max_epoch=1',
        'optim_wrapper.optimizer.learning_rate=1',
        'default_hooks.logger.intervall=1',
        'test_evaluator.annfile=x.json',
    ],
    mmdet=[
        'model.backbon.arch=small',
        'model.backbone.num_cluster=7',
        'model.neck.in_channel=3',
        'model.roi_head.mask_head.num_conv=2',
        'train_dataloader.batchsize=2',
        'train_dataloader.dataset.annfile=x.json',
        'train_cfg.max_epoch=1',
        'optim_wrapper.optimizer.learning_rate=1',
        'default_hooks.logger.intervall=1',
        'test_evaluator.annfile=x.json',
    ],
    mmseg=[
        'model.backbon.arch=small',
        'model.backbone.num_cluster=7',
        'model.decode_head.num_clases=3',
        'model.decode_head.loss_cluster.los_weight=1',
        'model.data_preprocessor.sizes=64',
        'train_dataloader.batchsize=2',
        'train_dataloader.dataset.annfile=x.json',
        'train_cfg.max_iter=1',
        'optim_wrapper.optimizer.learning_rate=1',
        'default_hooks.logger.intervall=1',
    ],
)


@pytest.mark.parametrize(
    'host, mistake', [(host, mistake) for host in MISTAKES for mistake in MISTAKES[host]]
)
def test_contract_catches_a_misspelt_key(host, mistake, tmp_path):
    cfg = load(demo(host))
    key, value = mistake.split('=')
    cfg.merge_from_dict({key: value})
    word = key.split('.')[-1]
    with pytest.raises((TypeError, ValueError), match=f'{word}|backbon'):
        run_contract(cfg, tmp_path)


@pytest.mark.parametrize('path', [path for path in CONFIGS if 'lsp' in path.name], ids=name)
def test_unlabelled_joints_weigh_nothing(path, tmp_path):
    """LSP-Extended has junk coordinates where its visibility is 0."""
    sample = OneSample(load(path).train_dataloader.dataset, pose_sample, tmp_path)[0]
    weights = sample['data_samples'].gt_instance_labels.keypoint_weights
    assert weights.shape == (1, 14)
    assert (weights == 0).sum() >= 1


METRICS = dict(mmpose='coco/AP: ', mmdet='coco/segm_mAP: ', mmseg='mIoU: ')


class Trained(NamedTuple):
    """What the host's own train.py left behind, and how to run its other tools."""

    checkpoint: Path
    image: Path
    log: str
    run: Callable[..., str]


@pytest.fixture(scope='module')
def train_with_the_host(tmp_path_factory):
    """Train the demo config for an iteration with a host's own, unmodified train.py, once."""
    trained = {}
    folder = tmp_path_factory.mktemp('host')
    write_demo_data(folder / 'data', num_train=2, num_val=1)

    def train(host: str) -> Trained:
        if host not in trained:
            trained[host] = _train_with_the_host(host, folder)
        return trained[host]

    return train


def _train_with_the_host(host: str, folder: Path) -> Trained:
    tools = Path(pytest.importorskip(host).__file__).parent / '.mim/tools'
    work_dir, options = folder / host, host_options(load(demo(host)), folder / 'data')

    def run(tool: str, *arguments: object) -> str:
        command = [sys.executable, tools / tool, demo(host), *arguments]
        command += ['--work-dir', work_dir, '--cfg-options', *options]
        result = subprocess.run(command, capture_output=True, text=True, cwd=folder)
        assert result.returncode == 0, result.stderr
        return result.stdout

    log = run('train.py')
    (checkpoint,) = (*work_dir.glob('epoch_1.pth'), *work_dir.glob('iter_1.pth'))
    (image,) = (folder / 'data/img_dir/val').glob('*.png')
    return Trained(checkpoint, image, log, run)


def host_options(cfg: Config, data_root: Path) -> list[str]:
    """One iteration or epoch on the data below ``data_root``, in the words of the hosts' tools."""
    options = ['train_cfg.val_interval=1', 'default_hooks.checkpoint.interval=1']
    options += [f'train_cfg.{key}=1' for key in ('max_epochs', 'max_iters') if key in cfg.train_cfg]
    for split in SPLITS:
        loader = f'{split}_dataloader'
        options += [f'{loader}.dataset.data_root={data_root}', f'{loader}.num_workers=0']
        options += [f'{loader}.persistent_workers=False']
    for split in ('val', 'test'):
        file = cfg[f'{split}_evaluator'].get('ann_file')
        if file:
            moved = data_root / Path(file).relative_to(cfg.data_root)
            options.append(f'{split}_evaluator.ann_file={moved}')
    return options


@pytest.mark.parametrize('host', METRICS)
def test_host_tools_run_the_demo_config(host, train_with_the_host):
    trained = train_with_the_host(host)
    assert METRICS[host] in trained.log
    assert METRICS[host] in trained.run('test.py', trained.checkpoint)


def test_det_inferencer_takes_config_and_checkpoint(train_with_the_host):
    apis = pytest.importorskip('mmdet.apis')
    trained = train_with_the_host('mmdet')
    inferencer = apis.DetInferencer(str(demo('mmdet')), str(trained.checkpoint), 'cpu')
    found = inferencer(str(trained.image), return_datasamples=True, no_save_vis=True)
    (prediction,) = found['predictions']
    instances = prediction.pred_instances
    assert len(instances) > 0
    assert instances.bboxes.isfinite().all()
    assert instances.masks.shape[1:] == mmcv.imread(str(trained.image)).shape[:2]
    assert 'cone' in inferencer.model.dataset_meta['classes']


def test_mmseg_inferencer_takes_config_and_checkpoint(train_with_the_host):
    apis = pytest.importorskip('mmseg.apis')
    trained = train_with_the_host('mmseg')
    inferencer = apis.MMSegInferencer(str(demo('mmseg')), str(trained.checkpoint), device='cpu')
    labels = inferencer(str(trained.image))['predictions']
    assert labels.shape == mmcv.imread(str(trained.image)).shape[:2]
    assert labels.min() >= 0 and labels.max() < len(inferencer.model.dataset_meta['classes'])
    assert 'cone' in inferencer.model.dataset_meta['classes']
