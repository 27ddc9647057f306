"""Every config under ``configs/`` is loaded, built, trained for a step and asked to predict.

The files are found by glob, so that there is no list to maintain; ``MMTOKEN_CONFIGS=substring``
narrows them. Each is shrunk by itself: one made-up sample through the config's own pipelines
instead of its data, everything else as in the file. Another host needs an entry in ``SAMPLES``.
"""

import ast
import copy
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from _cli import KNOWN_FIELDS
from demo_data import write_demo_data
from mmengine.config import Config
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
DEMO = next((FOLDER / 'demo').glob('td-hm_tcformer-demo_*.py'))
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


def pose_sample(metainfo: dict) -> dict:
    """One person in a noise image: all joints on a ring, one of them unlabelled."""
    joints = metainfo['num_keypoints']
    angles = np.linspace(0, 2 * np.pi, joints, endpoint=False)
    keypoints = np.stack([100 + 50 * np.cos(angles), 80 + 50 * np.sin(angles)], axis=-1)
    visible = np.ones((1, joints), dtype=np.float32)
    visible[0, -1] = 0
    fields = ('dataset_name', 'upper_body_ids', 'lower_body_ids', 'flip_pairs', 'flip_indices')
    fields += ('dataset_keypoint_weights', 'skeleton_links')
    return dict(
        img=np.random.default_rng(0).integers(0, 255, (160, 200, 3), dtype=np.uint8),
        id=1,
        img_id=1,
        category_id=np.array(1),
        bbox=np.array([[45, 25, 155, 135]], dtype=np.float32),
        bbox_score=np.ones(1, dtype=np.float32),
        keypoints=keypoints[None].astype(np.float32),
        keypoints_visible=visible,
        **{field: copy.deepcopy(metainfo[field]) for field in fields},
    )


SAMPLES = dict(mmpose=pose_sample)


class OneSample(Dataset):
    """The pipeline of a data set of the config, fed with one made-up sample.

    Args:
        dataset: The config of the data set; its annotation file is not read.
        sample: Makes the sample from the meta-information of the data set.
    """

    def __init__(self, dataset: dict, sample) -> None:
        self.source = DATASETS.build(dict(dataset, lazy_init=True))
        self.metainfo = self.source.metainfo
        self.sample = sample

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> dict:
        return self.source.pipeline(self.sample(self.metainfo))


def halve_sizes(node):
    """Halve the sides of every model input and heatmap: a quarter of the work."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ('input_size', 'heatmap_size'):
                node[key] = tuple(side // 2 for side in value)
            else:
                halve_sizes(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            halve_sizes(value)


def evaluators(cfg: Config, split: str) -> list[dict]:
    """Return the evaluators of a split without the annotation files, which are read at once."""
    found = cfg[f'{split}_evaluator']
    found = found if isinstance(found, list) else [found]
    return [dict(one, ann_file=None) if 'ann_file' in one else one for one in found]


def run_contract(cfg: Config, work_dir: Path) -> None:
    """Take one training step and make one prediction, as the config says."""
    torch.manual_seed(0)
    np.random.seed(0)
    halve_sizes(cfg._cfg_dict)
    cfg.work_dir = str(work_dir)
    cfg.experiment_name = work_dir.name  # runners of one process share loggers by this name
    runner = Runner.from_cfg(cfg)
    loaders = {}
    for split in SPLITS:
        loader = dict(cfg[f'{split}_dataloader'], batch_size=1, **IN_PROCESS)
        loader['dataset'] = OneSample(loader['dataset'], SAMPLES[cfg.default_scope])
        loaders[split] = runner.build_dataloader(loader)
    for split in ('val', 'test'):
        runner.build_evaluator(evaluators(cfg, split))
    runner._train_dataloader = loaders['train']

    model = runner.model
    if 'in_channels' in cfg.model.get('neck', {}):
        assert tuple(cfg.model.neck.in_channels) == tuple(model.backbone.out_channels)

    (batch,) = runner.train_loop.dataloader
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
    keypoints = prediction.pred_instances.keypoints
    assert keypoints.shape == prediction.gt_instances.keypoints.shape
    assert np.isfinite(keypoints).all()


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
    for split, pipeline in (('train', 'train'), ('val', 'val'), ('test', 'val')):
        if f'{pipeline}_pipeline' in cfg:
            dataset = cfg[f'{split}_dataloader'].dataset
            assert plain(dataset.pipeline) == plain(cfg[f'{pipeline}_pipeline'])


@pytest.mark.parametrize('path', CONFIGS, ids=name)
def test_header_states_the_command(path):
    """Line 1 says model, data and schedule; a line below it is the command."""
    header = ast.get_docstring(ast.parse(path.read_text()))
    assert path.read_text().startswith('"""') and len(header.splitlines()[0]) > 40
    assert 'tools/train.py' in header


@pytest.mark.parametrize(
    'mistake',
    [
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
)
def test_contract_catches_a_misspelt_key(mistake, tmp_path):
    cfg = load(DEMO)
    key, value = mistake.split('=')
    cfg.merge_from_dict({key: value})
    with pytest.raises((TypeError, ValueError), match=key.split('.')[-1] + '|backbon'):
        run_contract(cfg, tmp_path)


@pytest.mark.parametrize('path', [path for path in CONFIGS if 'lsp' in path.name], ids=name)
def test_unlabelled_joints_weigh_nothing(path):
    """LSP-Extended has junk coordinates where its visibility is 0."""
    sample = OneSample(load(path).train_dataloader.dataset, pose_sample)[0]
    weights = sample['data_samples'].gt_instance_labels.keypoint_weights
    assert weights.shape == (1, 14)
    assert (weights == 0).sum() >= 1


@pytest.fixture(scope='module')
def trained_by_the_host(tmp_path_factory):
    """Train the demo config for an iteration with mmpose's own, unmodified train.py."""
    mmpose = pytest.importorskip('mmpose')
    tools = Path(mmpose.__file__).parent / '.mim/tools'
    folder = tmp_path_factory.mktemp('host')
    write_demo_data(folder / 'data', num_train=2, num_val=1)
    options = [f'{split}_dataloader.dataset.data_root={folder}/data' for split in SPLITS]
    options += [f'{split}_dataloader.num_workers=0' for split in SPLITS]
    options += [f'{split}_dataloader.persistent_workers=False' for split in SPLITS]
    options += ['train_cfg.max_epochs=1', 'train_cfg.val_interval=1']

    def run(tool: str, *arguments: object) -> str:
        command = [sys.executable, tools / tool, DEMO, *arguments]
        command += ['--work-dir', folder / 'work_dir', '--cfg-options', *options]
        result = subprocess.run(command, capture_output=True, text=True, cwd=folder)
        assert result.returncode == 0, result.stderr
        return result.stdout

    return folder / 'work_dir', run, run('train.py')


def test_host_tools_run_the_demo_config(trained_by_the_host):
    work_dir, run, log = trained_by_the_host
    assert 'coco/AP: ' in log
    run('test.py', work_dir / 'epoch_1.pth', '--out', work_dir / 'metrics.json')
    assert 'coco/AP' in (work_dir / 'metrics.json').read_text()
