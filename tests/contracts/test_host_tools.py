"""The hosts' own, unmodified tools and inferencers take our configs and every backbone."""

import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import mmcv
import pytest
import run_hosts
from demo_data import write_demo_data
from mmengine.config import Config
from mmengine.registry import MODELS
from rooms import ROOMS, SMALLEST
from samples import SPLITS
from shipped import demo, load, swap_in_the_smallest

HOSTS = ('mmpose', 'mmdet', 'mmseg')
METRICS = dict(mmpose='coco/AP: ', mmdet='coco/segm_mAP: ', mmseg='mIoU: ')
METRICS['mmpretrain'] = 'accuracy/top1: '
INFERENCERS = dict(mmpose='MMPoseInferencer', mmdet='DetInferencer', mmseg='MMSegInferencer')
FLOPS, PRINT, BROWSE = (
    dict(zip(HOSTS, (f'{folder}/{name}.py' for folder in folders)))
    for name, folders in (
        ('get_flops', ['analysis_tools'] * 3),
        ('print_config', ['analysis_tools', 'misc', 'misc']),
        ('browse_dataset', ['misc', 'analysis_tools', 'analysis_tools']),
    )
)
ROOMS_OF_BACKBONES = [room for room in ROOMS if room in SMALLEST]  # without those of tests
OURS = {b['type']: b for room in ROOMS_OF_BACKBONES for b in reversed(SMALLEST[room].BACKBONES)}
# the hosts count alike, by tracing: the first backbone of each type is counted in one of them
COUNTED = [(HOSTS[i % len(HOSTS)], name) for i, name in enumerate(OURS)]
NUMBERS = r'Flops: ([\d.]+)[KMG]\nParams: ([\d.]+)[KMG]'
HEIGHT, WIDTH = 45, 61  # no multiple of any window, patch or stride


def small_demo(host: str, folder: Path) -> Config:
    """The demo config of a host on the data below the folder: the smallest backbone, one epoch."""
    cfg = load(demo(host))
    swap_in_the_smallest(cfg)
    for split in SPLITS:
        cfg[f'{split}_dataloader'].update(num_workers=0, persistent_workers=False)
        cfg[f'{split}_dataloader'].dataset.data_root = str(folder / 'data')
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        if evaluator.get('ann_file'):
            file = Path(evaluator.ann_file).relative_to(cfg.data_root)
            evaluator.ann_file = str(folder / 'data' / file)
    cfg.train_cfg.update(max_epochs=1, val_interval=1)
    cfg.default_hooks.checkpoint.interval = 1
    return cfg


def smallest_model(host: str, backbone: dict) -> dict:
    """The plainest model of a host on a backbone."""
    built = MODELS.build(dict(backbone))
    channels, strides = list(built.out_channels), list(built.out_strides)
    last = dict(in_channels=channels[-1])
    if host == 'mmpose':
        head = dict(last, type='HeatmapHead', out_channels=3, deconv_out_channels=None)
        return dict(type='TopdownPoseEstimator', backbone=backbone, head=head)
    if host == 'mmseg':
        head = dict(last, type='FCNHead', channels=8, num_convs=1, num_classes=2)
        return dict(
            type='EncoderDecoder',
            data_preprocessor=dict(type='SegDataPreProcessor'),
            backbone=backbone,
            decode_head=dict(head, in_index=len(channels) - 1),
        )
    anchors = dict(type='AnchorGenerator', scales=[8], ratios=[1.0], strides=strides)
    return dict(
        type='RetinaNet',
        data_preprocessor=dict(type='DetDataPreprocessor'),
        backbone=backbone,
        neck=dict(type='ChannelMapper', in_channels=channels, out_channels=8),
        bbox_head=dict(
            type='RetinaHead',
            num_classes=2,
            in_channels=8,
            feat_channels=8,
            stacked_convs=1,
            anchor_generator=anchors,
        ),
    )


def smallest_config(host: str, backbone: dict, demo_config: Config) -> Config:
    """All that the hosts' ``get_flops.py`` reads: a model, and in mmdet pictures of an odd size."""
    cfg = dict(default_scope=host, custom_imports=dict(imports=['mmtoken']))
    if host == 'mmdet':
        pictures = demo_config.val_dataloader.to_dict()
        for step in pictures['dataset']['pipeline']:
            if step['type'] == 'Resize':
                step.update(scale=(WIDTH, HEIGHT), keep_ratio=False)
        cfg['val_dataloader'] = pictures
    return Config(dict(cfg, model=smallest_model(host, backbone)))


def tools_of(host: str) -> Path:
    """The folder of a host's tools."""
    return Path(pytest.importorskip(host).__file__).parent / '.mim/tools'


def runs_of(host: str, folder: Path) -> list:
    """Training and testing of the demo config, in the words of :mod:`run_hosts`."""
    tools = tools_of(host)
    config, work_dir = folder / f'{host}.py', folder / f'{host}_work'
    small_demo(host, folder).dump(config)
    return [
        ('train', tools / 'train.py', [config, '--work-dir', work_dir]),
        ('test', tools / 'test.py', [config, work_dir / 'epoch_1.pth', '--work-dir', work_dir]),
    ]


def jobs_of(host: str, folder: Path) -> list:
    """What :mod:`run_hosts` runs for a host."""
    runs, tools = runs_of(host, folder), tools_of(host)
    config, checkpoint = runs[1][2][:2]
    (picture,) = (folder / 'data/img_dir/val').glob('*.png')
    weights = 'pose2d_weights' if host == 'mmpose' else 'weights'
    model = dict(pose2d=config, det_model='whole_image') if host == 'mmpose' else dict(model=config)
    inferencer = dict(
        build={**model, weights: checkpoint, 'device': 'cpu'},
        call=dict(inputs=picture, out_dir=folder / f'{host}_found'),
    )
    pictures = folder / f'{host}_pictures'
    return [
        *runs,
        ('inferencer', f'{host}.apis.{INFERENCERS[host]}', inferencer),
        ('print', tools / PRINT[host], [demo(host)]),
        ('browse', tools / BROWSE[host], [config, '--not-show', '--output-dir', pictures]),
        ('flops-demo', tools / FLOPS[host], [config, *size_options(host)]),
    ]


def size_options(host: str) -> list[str]:
    """What makes ``get_flops.py`` count an odd size; mmdet's takes that of its pictures."""
    if host == 'mmdet':
        return ['--num-images', '1']
    return ['--input-shape' if host == 'mmpose' else '--shape', str(HEIGHT), str(WIDTH)]


def counts_of(host: str, folder: Path) -> list:
    """Counting of the smallest models, in the words of :mod:`run_hosts`."""
    tool, cfg, jobs = tools_of(host) / FLOPS[host], small_demo(host, folder), []
    for name in (name for where, name in COUNTED if where == host):
        file = folder / f'{host}_{name}.py'
        smallest_config(host, OURS[name], cfg).dump(file)
        jobs.append((f'flops-{name}', tool, [file, *size_options(host)]))
    return jobs


class Ran(NamedTuple):
    """The folder with what all tools left, and the exit status of each."""

    folder: Path
    status: dict[str, int]

    def log(self, name: str) -> str:
        """What a tool printed; fails if the tool did."""
        text = (self.folder / name).read_text(encoding='utf-8')
        assert self.status[name] == 0, text
        return text


def run_all(folder: Path, jobs: dict[str, list]) -> Ran:
    """Run the jobs of each host, in forks of one interpreter."""
    (folder / 'jobs.json').write_text(json.dumps(jobs, default=str))
    command = [sys.executable, run_hosts.__file__, 'jobs.json']
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = (line.split() for line in done.stdout.splitlines() if '-' in line)
    return Ran(folder, {name: int(status) for name, status in lines})


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    """A folder with demo data."""
    folder = tmp_path_factory.mktemp('hosts')
    write_demo_data(folder / 'data', num_train=2, num_val=1)
    return folder


@pytest.fixture(scope='module')
def ran(folder) -> Ran:
    """Every tool has run on the demo configs."""
    jobs = {host: jobs_of(host, folder) for host in HOSTS}
    if find_spec('mmpretrain'):
        jobs['mmpretrain'] = runs_of('mmpretrain', folder)
    return run_all(folder, jobs)


@pytest.fixture(scope='module')
def counted(folder) -> Ran:
    """``get_flops.py`` has run on the smallest models."""
    return run_all(folder, {host: counts_of(host, folder) for host in HOSTS})


@pytest.mark.parametrize('host', METRICS)
def test_trains_and_tests_the_demo_config(host, ran):
    """Training evaluates at the end, and testing finds the same from the checkpoint."""
    pytest.importorskip(host, reason=f'{host} is not installed')
    trained, tested = (
        re.findall(METRICS[host] + r'\S+', ran.log(f'{host}-{name}')) for name in ('train', 'test')
    )
    assert trained == tested and len(tested) == 1


@pytest.mark.parametrize('host', HOSTS)
def test_prints_the_demo_config(host, ran):
    printed = ran.log(f'{host}-print').partition('Config:\n')[2]
    assert Config.fromstring(printed, '.py').to_dict() == load(demo(host)).to_dict()


def skip_fault_of_host(ran, name, message):
    """Skip a tool that stops for every config: two of mmseg 1.2.2 do."""
    if message in (ran.folder / name).read_text(encoding='utf-8'):
        pytest.skip(f'this tool of this host stops for every config: {name}')


@pytest.mark.parametrize('host', HOSTS)
def test_browses_the_demo_data(host, ran):
    """One picture of every sample: a picture, in mmpose a person."""
    skip_fault_of_host(ran, f'{host}-browse', 'Layout of the output array img is incompatible')
    ran.log(f'{host}-browse')
    pictures = ran.folder / f'{host}_pictures'
    assert len({path.stem.split('(')[0] for path in pictures.iterdir()}) == 2


def check_count(ran, name):
    skip_fault_of_host(ran, name, 'cannot be both set')
    text = ran.log(name)
    assert all(float(number) > 0 for number in re.search(NUMBERS, text).groups())
    return text


@pytest.mark.parametrize('host', HOSTS)
def test_counts_the_demo_config(host, ran):
    check_count(ran, f'{host}-flops-demo')


@pytest.mark.slow
@pytest.mark.parametrize(('host', 'name'), COUNTED)
def test_counts_every_backbone(host, name, counted):
    """The size is no multiple of anything, and the hosts count by tracing."""
    assert f'{HEIGHT}, {WIDTH}' in check_count(counted, f'{host}-flops-{name}')


def test_infers_poses(ran):
    ran.log('mmpose-inferencer')
    (found,) = (ran.folder / 'mmpose_found/predictions').glob('*.json')
    (person,) = json.loads(found.read_text())
    assert len(person['keypoints']) == 17


def test_infers_instances(ran):
    ran.log('mmdet-inferencer')
    assert len(list((ran.folder / 'mmdet_found/vis').iterdir())) == 1


def test_infers_labels(ran):
    ran.log('mmseg-inferencer')
    (found,) = (ran.folder / 'mmseg_found/pred').glob('*.png')
    (picture,) = (ran.folder / 'data/img_dir/val').glob('*.png')
    labels = mmcv.imread(str(found), 'unchanged')
    assert labels.shape == mmcv.imread(str(picture)).shape[:2]
    assert labels.max() < 11
