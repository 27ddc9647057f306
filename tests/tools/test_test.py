"""tools/test.py: what it writes where, test-time augmentation, and what it refuses."""

import json
import pickle

import pytest
import torch
from _cli import UsageError
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS
from mmengine.runner import Runner
from mmtoken.common.weights import read_checkpoint
from rooms import BACKBONES


@pytest.mark.parametrize(
    ('evaluator', 'metrics'),
    [
        ('metric', 2),
        ('[metric, dict(metric, prefix="again")]', 4),
        ('dict(type="Evaluator", metrics=[metric])', 2),
        ('[]', 0),
    ],
)
def test_evaluators_of_any_kind_stay_as_they_are(trained, monkeypatch, evaluator, metrics):
    config = trained.write(
        'evaluator.py',
        "_base_ = 'toy_config.py'\nmetric = dict(type='MeanPrediction', prefix='toy')\n"
        f'test_evaluator = {evaluator}\n',
    )
    seen, from_cfg = [], Runner.from_cfg
    monkeypatch.setattr(Runner, 'from_cfg', lambda cfg: seen.append(cfg) or from_cfg(cfg))
    out, dump = trained.folder / 'm.json', trained.folder / 'p.pkl'
    trained.test('--out', out, '--dump', dump, config=config)
    assert seen[0].test_evaluator == Config.fromfile(config).test_evaluator
    assert len(json.loads(out.read_text())) == metrics
    assert len(pickle.loads(dump.read_bytes())) == 4


def test_same_numbers_from_a_pure_python_config(trained):
    for name, config in (('a.json', trained.config), ('b.json', trained.lazy_config)):
        trained.test('--out', trained.folder / name, config=config)
    one, other = ((trained.folder / name).read_text() for name in ('a.json', 'b.json'))
    assert one == other and 'mean' in one


def test_config_for_tests_only_that_asks_to_resume(trained):
    drop = 'train_dataloader train_cfg optim_wrapper val_dataloader val_cfg val_evaluator'
    lines = ''.join(f'{field} = None\n' for field in drop.split())
    lines += "resume = True\nparam_scheduler = [dict(type='MultiStepLR', milestones=[1])]\n"
    config = trained.write('tests_only.py', f"_base_ = 'toy_config.py'\n{lines}")
    trained.test('--out', trained.folder / 'm.json', config=config)
    assert (trained.folder / 'm.json').is_file()
    with pytest.raises(
        UsageError, match='training needs .* without train_dataloader and train_cfg'
    ):
        trained.train(config=config)


@pytest.mark.parametrize(
    ('arguments', 'options', 'message'),
    [
        ([], ['test_evaluator=None'], 'testing needs .* a config without test_evaluator; add'),
        ([], ['model.num_classes=1'], r'bbox_head\.num_classes .* got 1 for 2 classes a, b'),
        (
            ['--out', 'metrics.txt'],
            [],
            r"--out must be FILE\.pkl.* got 'metrics\.txt' for mmengine",
        ),
        (['--out', 'folder'], [], r"--out must be FILE\.pkl.* got 'folder' for mmengine"),
        (
            ['--out', 'folder'],
            ['default_scope=mmseg'],
            'needs a metric with output_dir, got .folder',
        ),
        (['--dump', 'p.json'], [], r"--dump must name a FILE\.pkl .* got 'p\.json'"),
        (['--tta'], ['default_scope=mmpose'], r'got a model without test_cfg\.flip_test'),
        (['--tta'], ['default_scope=mmdet', 'model.mask_head={}'], 'got a model with a mask_head'),
        (['--tta'], [], 'a config of mmengine without tta_model and tta_pipeline; inherit'),
    ],
)
def test_refused(trained, arguments, options, message):
    with pytest.raises(UsageError, match=message):
        trained.test(*arguments, options=options)


def test_refused_checkpoints(trained):
    whole = trained.work_dir / 'epoch_2.pth'
    other = trained.folder / 'other.pth'
    with pytest.raises(UsageError, match=r'existing file, got .*other\.pth.*last_check'):
        trained.test(checkpoint=other)
    other.write_bytes(whole.read_bytes()[:1000])
    with pytest.raises(UsageError, match='truncated .* copy it again'):
        trained.test(checkpoint=other)
    torch.save([torch.zeros(1)], other)
    with pytest.raises(UsageError, match='must hold named weights, got .* with a list'):
        trained.test(checkpoint=other)
    # the same keys, another shape: what mmengine alone would load half of
    state = read_checkpoint(whole)['state_dict']
    torch.save(dict(state, **{'layer.weight': torch.zeros(2, 1)}), other)
    with pytest.raises(UsageError, match='model in the config, got size mismatch for layer.weight'):
        trained.test(checkpoint=other)
    del state['layer.weight']
    torch.save(state, other)
    with pytest.raises(UsageError, match='missing keys in source state_dict: layer.weight'):
        trained.test(checkpoint=other)


@pytest.mark.parametrize(
    ('key', 'value', 'message'),
    [
        ('layer.weight', [[float('nan')]], 'layer.weight: NaN or infinite values'),
        ('bbox_head.bias', [float('inf')], 'bbox_head.bias: NaN or infinite values'),
        ('steps', 2.5, 'steps: .*float32 .*int64'),
    ],
)
def test_refused_values(trained, key, value, message):
    path = trained.work_dir / 'epoch_2.pth'
    state = read_checkpoint(path)['state_dict']
    torch.save({**state, key: torch.tensor(value)}, path)
    with pytest.raises(UsageError, match=message):
        trained.test()
    trained.test('--may-differ', key)


def test_weights_of_data_parallel_training(trained):
    state = read_checkpoint(trained.work_dir / 'epoch_2.pth')['state_dict']
    path = trained.folder / 'parallel.pth'
    torch.save({f'module.{key}': value for key, value in state.items()}, path)
    for checkpoint, name in ((path, 'a.json'), (None, 'b.json')):
        trained.test('--out', trained.folder / name, checkpoint=checkpoint)
    one, other = ((trained.folder / name).read_text() for name in ('a.json', 'b.json'))
    assert one == other


def test_pose_demo_trains_and_evaluates(commands, few_images, tmp_path):
    pytest.importorskip('mmpose', reason='the demo config needs mmpose')
    loaders = [f'{split}_dataloader' for split in ('train', 'val', 'test')]
    options = [f'{loader}.{name}' for loader in loaders for name in IN_PROCESS]
    options += ['train_cfg.max_epochs=1', 'train_dataloader.batch_size=4']
    places = (commands.demo_config, '--data-root', few_images, '--work-dir', tmp_path)
    commands.call('train', *places, '--no-validate', options=options)
    metrics, predictions, pictures = (tmp_path / name for name in ('m.json', 'p.pkl', 'pictures'))
    written = ('--out', metrics, '--dump', predictions, '--show-dir', pictures)
    config, *places = places
    commands.call('test', config, tmp_path / 'epoch_1.pth', *places, *written, options=options)
    assert 0 <= json.loads(metrics.read_text())['coco/AP'] <= 1
    persons = pickle.loads(predictions.read_bytes())
    assert persons and persons[0]['pred_instances']['keypoints'].shape == (1, 17, 2)
    assert len(list(pictures.glob('*.png'))) == len(persons)


def test_tta_is_the_flip_test_in_mmpose(commands):
    pytest.importorskip('mmpose', reason='the demo config needs mmpose')
    option = 'model.test_cfg.flip_test=False'
    tool, args = commands.parse(
        'test', commands.demo_config, 'c.pth', '--tta', '--cfg-options', option
    )
    cfg = tool.load_config(args)
    tool.use_tta(cfg)
    assert cfg.model.test_cfg.flip_test is True


def test_given_tta_reaches_every_data_set(commands):
    sets = [dict(type='A', pipeline=['a']), dict(type='Repeat', dataset=dict(pipeline=['b']))]
    fields = dict(tta_model=dict(type='Merge'), tta_pipeline=['views'], default_scope='mmpretrain')
    loader = dict(dataset=dict(type='ConcatDataset', datasets=sets))
    cfg = Config(dict(fields, model=dict(type='Net'), test_dataloader=loader))
    commands.load('test').use_tta(cfg)
    first, second = cfg.test_dataloader.dataset.datasets
    assert first.pipeline == second.dataset.pipeline == ['views']
    assert cfg.model == dict(type='Merge', module=dict(type='Net'))


IN_PROCESS = ('num_workers=0', 'persistent_workers=False')
# a small backbone whose maps feed the heads of the other hosts
BACKBONE = f'dict(_delete_=True, **{BACKBONES[0]})'
CHANNELS = list(MODELS.build(BACKBONES[0]).out_channels)
CONFIGS = dict(
    mmseg=f"""
_base_ = 'mmseg::fcn/fcn_r50-d8_4xb4-20k_voc12aug-512x512.py'
custom_imports = dict(imports=['mmtoken'])
data_root = 'data/demo'
model = dict(
    pretrained=None, auxiliary_head=None, backbone={BACKBONE},
    data_preprocessor=dict(size=(64, 64)),
    decode_head=dict(
        in_channels={CHANNELS[-1]}, channels=16, num_classes=11, norm_cfg=dict(type='BN')))
load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
crop = dict(type='RandomCrop', crop_size=(64, 64))
pack = dict(type='PackSegInputs')
small = dict(type='Resize', scale=(80, 64))
data = dict(
    type='BaseSegDataset', data_root=data_root, img_suffix='.png', seg_map_suffix='.png',
    metainfo=dict(classes=tuple('abcdefghijk'), palette=[[i, i, i] for i in range(11)]))
train_dataloader = dict(
    _delete_=True, batch_size=2, num_workers=0, sampler=dict(type='InfiniteSampler'),
    dataset=dict(data, pipeline=[*load, crop, pack], data_prefix=dict(
        img_path='img_dir/train', seg_map_path='ann_dir/train')))
val_dataloader = dict(
    _delete_=True, batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(data, pipeline=[load[0], small, load[1], pack], data_prefix=dict(
        img_path='img_dir/val', seg_map_path='ann_dir/val')))
test_dataloader = dict(val_dataloader, dataset=dict(
    type='ConcatDataset', datasets=[val_dataloader['dataset']]))
tta_model = tta_pipeline = None
train_cfg = dict(max_iters=1, val_interval=1)
default_hooks = dict(checkpoint=dict(interval=1))
""",
    mmdet=f"""
_base_ = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'
custom_imports = dict(imports=['mmtoken'])
data_root = 'data/demo/'
model = dict(
    backbone={BACKBONE},
    neck=dict(in_channels={CHANNELS}, out_channels=16),
    bbox_head=dict(num_classes=2, in_channels=16, feat_channels=16, stacked_convs=1))
in_process = dict(batch_size=2, num_workers=0, persistent_workers=False)
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(128, 96), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs')]
files = dict(
    _delete_=True, type='CocoDataset', data_root=data_root, pipeline=pipeline,
    metainfo=dict(classes=('person', 'ball')))
train_dataloader = dict(in_process, dataset=dict(
    files, ann_file='annotations/instances_train.json',
    data_prefix=dict(img='img_dir/train/')))
val_dataloader = dict(in_process, dataset=dict(
    files, ann_file='annotations/instances_val.json', data_prefix=dict(img='img_dir/val/'),
    test_mode=True))
test_dataloader = dict(in_process, dataset=dict(
    _delete_=True, type='ConcatDataset', datasets=[dict(val_dataloader['dataset'])]))
test_dataloader['dataset']['datasets'][0].pop('_delete_')
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val.json')
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=1)
""",
)


@pytest.mark.parametrize(('host', 'out'), [('mmseg', 'masks'), ('mmdet', 'boxes.pkl')])
def test_the_other_hosts_train_and_evaluate(commands, few_images, tmp_path, host, out):
    """With the test-time augmentation that the host has by default, on a concatenated data set."""
    pytest.importorskip(host, reason=f'{host} is not installed')
    config = tmp_path / 'config.py'
    config.write_text(CONFIGS[host])
    places = ('--data-root', few_images, '--work-dir', tmp_path / 'work_dir')
    commands.call('train', config, *places)
    (checkpoint,) = (tmp_path / 'work_dir').glob('*_1.pth')
    out = tmp_path / out
    commands.call('test', config, checkpoint, *places, '--tta', '--out', out)
    written = list(out.iterdir()) if out.is_dir() else pickle.loads(out.read_bytes())
    assert len(written) == 1


@pytest.mark.parametrize(
    ('host', 'expected'),
    [
        ('mmpose', dict(enable=True, show=False, out_dir='/pictures', interval=3)),
        ('mmdet', dict(draw=True, show=False, test_out_dir='/pictures', interval=3)),
        ('mmseg', dict(draw=True, show=False, interval=3)),
    ],
)
def test_every_host_draws(commands, tmp_path, host, expected):
    config = tmp_path / 'config.py'
    config.write_text(
        f"default_scope = '{host}'\n"
        'default_hooks = dict(visualization=dict())\n'
        'visualizer = dict()\n'
    )
    arguments = ('c.pth', '--show-dir', '/pictures', '--interval', 3)
    tool, args = commands.parse('test', config, *arguments)
    cfg = tool.load_config(args)
    assert cfg.default_hooks.visualization == ConfigDict(expected)
    assert cfg.visualizer.get('save_dir') == ('/pictures' if host == 'mmseg' else None)
