"""tools/train.py: what it trains, what it resumes, and what it refuses with which sentence."""

import json
import subprocess
import sys

import pytest
import torch
from _cli import UsageError
from mmengine.config import Config
from mmengine.runner import EpochBasedTrainLoop
from mmtoken.common.weights import read_checkpoint

pytest.importorskip('mmpose', reason='the demo config needs mmpose')

# no augmentation: what a run draws at random is not part of a checkpoint
PLAIN = (
    'train_dataloader.dataset.pipeline.2.prob=0.0',
    *(f'train_dataloader.dataset.pipeline.3.{k}_prob=0.0' for k in ('shift', 'scale', 'rotate')),
)


@pytest.fixture
def train(commands, few_images):
    """Train on the few images: ``train(work_dir, *arguments, options=())``."""
    return lambda *arguments, options=(): commands.train(few_images, *arguments, options=options)


def test_interrupted_run_resumes_with_nothing_lost(train, tmp_path, monkeypatch):
    options = (*PLAIN, 'train_cfg.max_epochs=2', 'train_cfg.val_interval=2')
    train(tmp_path / 'whole', options=options)

    run_iter = EpochBasedTrainLoop.run_iter

    def interrupted(loop, idx, batch):
        run_iter(loop, idx, batch)
        if loop.epoch == 1:
            raise KeyboardInterrupt

    broken = tmp_path / 'broken'
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(EpochBasedTrainLoop, 'run_iter', interrupted)
        train(broken, options=options)
    (broken / 'notes.txt').write_text('mine')
    first = {path.name for path in broken.iterdir()}
    # the seed comes from the checkpoint: the order of the images is the same again
    train(broken, '--resume', options=(*options, 'randomness.seed=None'))

    assert first <= {path.name for path in broken.iterdir()}
    whole = read_checkpoint(tmp_path / 'whole/epoch_2.pth')
    resumed = read_checkpoint(broken / 'epoch_2.pth')
    for part in ('epoch', 'iter', 'seed'):
        assert resumed['meta'][part] == whole['meta'][part]
    for key, value in whole['state_dict'].items():
        torch.testing.assert_close(resumed['state_dict'][key], value, rtol=0, atol=0, msg=key)
    states = (run['optimizer']['state'] for run in (whole, resumed))
    for one, other in zip(*(state.values() for state in states)):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    losses = (run['message_hub']['log_scalars']['train/loss'] for run in (whole, resumed))
    one, other = (history.data[0] for history in losses)
    assert one.tolist() == other.tolist()


def test_resume_of_a_run_that_never_saved_starts_it(train, tmp_path):
    train(tmp_path, '--resume', '--no-validate')
    assert (tmp_path / 'epoch_1.pth').is_file()


def test_auto_scale_lr(commands, train, tmp_path):
    train(tmp_path, '--auto-scale-lr', '--no-validate')
    cfg = Config.fromfile(commands.demo_config)
    group = read_checkpoint(tmp_path / 'epoch_1.pth')['optimizer']['param_groups'][0]
    assert group['initial_lr'] == pytest.approx(
        cfg.optim_wrapper.optimizer.lr * 4 / cfg.auto_scale_lr.base_batch_size
    )


def test_runner_type(train, tmp_path):
    options = ('runner_type=FlexibleRunner', 'strategy.type=SingleDeviceStrategy')
    train(tmp_path, '--no-validate', options=options)
    assert (tmp_path / 'epoch_1.pth').is_file()


@pytest.mark.parametrize('spelling', [('--data-root', '/new'), ('--cfg-options', 'data_root=/new')])
def test_data_root_reaches_every_path(commands, spelling, tmp_path):
    config = tmp_path / 'config.py'
    config.write_text(
        "data_root = 'data/coco/'\n"
        "train_dataloader = dict(dataset=dict(type='Repeat', dataset=dict(data_root=data_root)))\n"
        "test_dataloader = dict(dataset=dict(bbox_file='data/coco/boxes.json'))\n"
        "val_evaluator = [dict(ann_file=data_root + 'ann.json'), dict(other='data/cocoa')]\n"
    )
    tool, args = commands.parse('train', config, *spelling)
    cfg = tool.load_config(args)
    assert cfg.data_root == '/new/'
    assert cfg.train_dataloader.dataset.dataset.data_root == '/new/'
    assert cfg.test_dataloader.dataset.bbox_file == '/new/boxes.json'
    assert cfg.val_evaluator == [dict(ann_file='/new/ann.json'), dict(other='data/cocoa')]


def test_one_data_set_can_live_elsewhere(commands):
    option = 'val_dataloader.dataset.data_root=/elsewhere'
    tool, args = commands.parse('train', commands.demo_config, '--cfg-options', option)
    cfg = tool.load_config(args)
    assert cfg.val_dataloader.dataset.data_root == '/elsewhere'
    assert cfg.train_dataloader.dataset.data_root == 'data/demo'
    assert cfg.work_dir == f'./work_dirs/{commands.demo_config.stem}'


def test_wrong_command_is_one_sentence(commands, tmp_path):
    command = [sys.executable, commands.tools / 'train.py', tmp_path / 'no.py']
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith('error: config must be a file, got')
    assert 'Traceback' not in result.stderr


def test_missing_annotation_file(train, tmp_path):
    wrong = ('train_dataloader.dataset.ann_file=annotations/no.json',)
    message = r'train_dataloader\.dataset\.ann_file must exist, got .*no\.json.* --data-root DIR'
    with pytest.raises(UsageError, match=message):
        train(tmp_path, options=wrong)


def test_missing_image_folder(train, tmp_path):
    wrong = ('val_dataloader.dataset.data_prefix.img=no_images',)
    with pytest.raises(UsageError, match=r'val_dataloader.*data_prefix\.img must exist'):
        train(tmp_path, options=wrong)


@pytest.mark.parametrize('split', ['train', 'val'])
def test_empty_data_set(train, few_images, tmp_path, split):
    empty = json.loads((few_images / 'annotations/person_keypoints_val.json').read_text())
    empty['annotations'] = []
    path = tmp_path / 'empty.json'
    path.write_text(json.dumps(empty))
    wrong = (f'{split}_dataloader.dataset.ann_file={path}',)
    with pytest.raises(UsageError, match=f'{split}_dataloader.*at least one sample, got 0 from'):
        train(tmp_path, options=wrong)


def test_amp_on_a_cpu(train, tmp_path, monkeypatch):
    monkeypatch.setattr('_checks.get_device', lambda: 'cpu')
    with pytest.raises(UsageError, match='needs an accelerator, got device=cpu; train without'):
        train(tmp_path, '--amp')


def test_several_processes_on_a_cpu(train, tmp_path, monkeypatch):
    monkeypatch.setattr('_checks.get_device', lambda: 'cpu')
    with pytest.raises(UsageError, match=r"one accelerator per process, got 'pytorch' .*=cpu; run"):
        train(tmp_path, '--launcher', 'pytorch')


def test_amp_of_another_wrapper(train, tmp_path):
    with pytest.raises(UsageError, match='replaces an OptimWrapper, got .*DeepSpeedOptimWrapper'):
        train(tmp_path, '--amp', options=('optim_wrapper.type=DeepSpeedOptimWrapper',))


def test_auto_scale_lr_without_its_base(train, tmp_path):
    with pytest.raises(UsageError, match='add auto_scale_lr=dict.base_batch_size'):
        train(tmp_path, '--auto-scale-lr', options=('auto_scale_lr={}',))


def test_misspelt_option(train, tmp_path):
    with pytest.raises(UsageError, match="'train_cgf.max_epochs'; did you mean train_cfg"):
        train(tmp_path, options=('train_cgf.max_epochs=1',))


def test_data_root_of_a_config_without_one(commands, tmp_path):
    config = tmp_path / 'config.py'
    config.write_text("work_dir = 'w'\n")
    with pytest.raises(UsageError, match='with a top-level data_root, got one without; set train'):
        commands.call('train', config, '--data-root', '/new')


def test_show_without_a_hook(commands, tmp_path):
    config = tmp_path / 'config.py'
    config.write_text("work_dir = 'w'\n")
    with pytest.raises(UsageError, match='--show-dir need default_hooks.visualization'):
        commands.call('train', config, '--show-dir', 'pictures')


def test_resume_from_a_missing_checkpoint(train, tmp_path):
    with pytest.raises(UsageError, match=r'checkpoint must be an existing file, got .*no\.pth'):
        train(tmp_path, '--resume', tmp_path / 'no.pth')


def test_load_from_another_model(train, tmp_path):
    path = tmp_path / 'other.pth'
    torch.save(dict(state_dict=dict(weight=torch.zeros(1))), path)
    message = r'weights of the model.* unexpected key.*weight.*missing keys.*backbone.*may-differ'
    with pytest.raises(UsageError, match=message):
        train(tmp_path, '--no-validate', options=(f'load_from={path}',))


def test_finetuning_declares_the_head(train, tmp_path):
    options = ('model.head.out_channels=17',)
    train(tmp_path / 'first', '--no-validate', options=options)
    path = tmp_path / 'first/epoch_1.pth'
    checkpoint = read_checkpoint(path)
    final = checkpoint['state_dict']['head.final_layer.weight']
    checkpoint['state_dict']['head.final_layer.weight'] = final[:14]
    torch.save(checkpoint, path)
    arguments = ('--no-validate', '--may-differ', r'head\.')
    train(tmp_path / 'second', *arguments, options=(f'load_from={path}',))
    assert (tmp_path / 'second/epoch_1.pth').is_file()
