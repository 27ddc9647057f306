"""tools/test.py: what it writes where, test-time augmentation, and what it refuses."""

import json
import pickle

import pytest
import torch
from _cli import UsageError
from mmengine.config import Config, ConfigDict
from mmtoken.common.weights import read_checkpoint

pytest.importorskip('mmpose', reason='the demo config needs mmpose')


@pytest.fixture(scope='module')
def checkpoint(commands, few_images, tmp_path_factory):
    work_dir = tmp_path_factory.mktemp('trained')
    commands.train(few_images, work_dir, '--no-validate')
    return work_dir / 'epoch_1.pth'


@pytest.fixture
def test(commands, few_images):
    """Evaluate on the few images: ``test(checkpoint, *arguments, options=())``."""
    return lambda *arguments, options=(): commands.test(few_images, *arguments, options=options)


def test_writes_metrics_predictions_and_pictures(test, checkpoint, tmp_path):
    metrics, predictions, pictures = (tmp_path / name for name in ('m.json', 'p.pkl', 'pictures'))
    test(checkpoint, '--out', metrics, '--dump', predictions, '--show-dir', pictures)
    assert 0 <= json.loads(metrics.read_text())['coco/AP'] <= 1
    persons = pickle.loads(predictions.read_bytes())
    assert persons and persons[0]['pred_instances']['keypoints'].shape == (1, 17, 2)
    assert len(list(pictures.glob('*.png'))) == len(persons)


def test_predictions_by_the_spelling_of_mmdet(test, checkpoint, tmp_path):
    test(checkpoint, '--out', tmp_path / 'p.pkl')
    assert pickle.loads((tmp_path / 'p.pkl').read_bytes())


def test_tta_is_the_flip_test_in_mmpose(commands, checkpoint):
    tool, args = commands.parse('test', commands.demo_config, checkpoint, '--tta')
    cfg = tool.load_config(args)
    cfg.model.test_cfg.flip_test = False
    tool.use_tta(cfg)
    assert cfg.model.test_cfg.flip_test is True


def test_tta_of_an_mmdet_box_detector(commands):
    test_pipeline = [dict(type='LoadImageFromFile'), dict(type='PackDetInputs')]
    cfg = Config(
        dict(
            default_scope='mmdet',
            model=dict(type='RetinaNet'),
            test_dataloader=dict(dataset=dict(dataset=dict(pipeline=test_pipeline))),
        )
    )
    commands.load('test').use_tta(cfg)
    assert cfg.model == dict(cfg.tta_model, module=dict(type='RetinaNet'))
    pipeline = cfg.test_dataloader.dataset.dataset.pipeline
    assert [step.type for step in pipeline] == ['LoadImageFromFile', 'TestTimeAug']


def test_mmseg_writes_masks_into_a_folder(commands):
    cfg = Config(dict(default_scope='mmseg', test_evaluator=dict(type='IoUMetric')))
    commands.load('test').save_outputs(cfg, 'masks', None)
    assert cfg.test_evaluator[0].output_dir == 'masks'


def test_mmdet_predictions_are_encoded(commands):
    cfg = Config(dict(default_scope='mmdet', test_evaluator=[dict(type='CocoMetric')]))
    commands.load('test').save_outputs(cfg, 'p.pkl', None)
    assert cfg.test_evaluator[1] == dict(type='DumpDetResults', out_file_path='p.pkl')


@pytest.mark.parametrize(
    ('host', 'model', 'message'),
    [
        ('mmdet', dict(roi_head=dict(mask_head={})), 'got a model with a mask_head; leave it out'),
        ('mmseg', {}, 'a config of mmseg without tta_model and tta_pipeline; inherit'),
        ('mmpose', {}, r'got a model without test_cfg\.flip_test'),
    ],
)
def test_no_tta(commands, host, model, message):
    cfg = Config(dict(default_scope=host, model=model))
    with pytest.raises(UsageError, match=message):
        commands.load('test').use_tta(cfg)


@pytest.mark.parametrize('out', ['metrics.txt', 'folder'])
def test_out_of_an_unknown_kind(test, checkpoint, out):
    with pytest.raises(UsageError, match=rf'--out must be FILE\.pkl.* got .{out}. for mmpose'):
        test(checkpoint, '--out', out)


def test_dump_of_an_unknown_kind(test, checkpoint):
    with pytest.raises(UsageError, match=r"--dump must name a FILE\.pkl .* got 'p\.json'"):
        test(checkpoint, '--dump', 'p.json')


def test_missing_checkpoint(test, tmp_path):
    with pytest.raises(
        UsageError, match=r'checkpoint must be an existing file, got .*no\.pth.*last_check'
    ):
        test(tmp_path / 'no.pth')


def test_truncated_checkpoint(test, checkpoint, tmp_path):
    content = checkpoint.read_bytes()
    truncated = tmp_path / 'truncated.pth'
    truncated.write_bytes(content[: len(content) // 2])
    message = rf'\({len(content) // 2} bytes\) is no readable weights file.* copy it again'
    with pytest.raises(UsageError, match=message):
        test(truncated)


def test_checkpoint_of_another_model(test, checkpoint):
    # the same keys, other shapes: what mmengine alone would load half of
    wider = ('model.neck.out_channels=128', 'model.head.in_channels=128')
    message = r'must hold the weights of the model in the config, got size mismatch for neck\.'
    with pytest.raises(UsageError, match=message):
        test(checkpoint, options=wider)


def test_checkpoint_of_a_shallower_model(test, checkpoint):
    depths = (3, 3, 3, 3)
    with pytest.raises(UsageError, match=r'missing keys in source state_dict: backbone\.block1\.'):
        test(checkpoint, options=(f'model.backbone.arch.depths={depths}'.replace(' ', ''),))


def test_weights_of_data_parallel_training(test, checkpoint, tmp_path):
    state = read_checkpoint(checkpoint)['state_dict']
    path = tmp_path / 'parallel.pth'
    torch.save({f'module.{key}': value for key, value in state.items()}, path)
    test(path, '--out', tmp_path / 'm.json')
    assert (tmp_path / 'm.json').is_file()


# a small TCFormer whose maps feed the heads of the other hosts
BACKBONE = """dict(
    _delete_=True, type='TCFormer', out_type='maps', arch=dict(
        depths=(1, 1, 1, 1), embed_dims=(16, 32, 64, 64), num_heads=(1, 1, 2, 2),
        mlp_ratios=(2, 2, 2, 2), sr_ratios=(8, 4, 2, 1)))"""
CONFIGS = dict(
    mmseg=f"""
_base_ = 'mmseg::fcn/fcn_r50-d8_4xb4-20k_voc12aug-512x512.py'
custom_imports = dict(imports=['mmtoken'])
data_root = 'data/demo'
model = dict(
    pretrained=None, auxiliary_head=None, backbone={BACKBONE},
    data_preprocessor=dict(size=(64, 64)),
    decode_head=dict(in_channels=64, channels=16, num_classes=11, norm_cfg=dict(type='BN')))
load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
crop = dict(type='RandomCrop', crop_size=(64, 64))
pack = dict(type='PackSegInputs')
data = dict(
    type='BaseSegDataset', data_root=data_root, img_suffix='.png', seg_map_suffix='.png',
    metainfo=dict(classes=tuple('abcdefghijk'), palette=[[i, i, i] for i in range(11)]))
train_dataloader = dict(
    _delete_=True, batch_size=2, num_workers=0, sampler=dict(type='InfiniteSampler'),
    dataset=dict(data, pipeline=[*load, crop, pack], data_prefix=dict(
        img_path='img_dir/train', seg_map_path='ann_dir/train')))
val_dataloader = dict(
    _delete_=True, batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(data, pipeline=[*load, pack], data_prefix=dict(
        img_path='img_dir/val', seg_map_path='ann_dir/val')))
test_dataloader = val_dataloader
train_cfg = dict(max_iters=1, val_interval=1)
default_hooks = dict(checkpoint=dict(interval=1))
flip = [dict(type='RandomFlip', prob=p, direction='horizontal') for p in (0.0, 1.0)]
tta_model = dict(type='SegTTAModel')
tta_pipeline = [load[0], dict(type='TestTimeAug', transforms=[flip, [load[1]], [pack]])]
""",
    mmdet=f"""
_base_ = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'
custom_imports = dict(imports=['mmtoken'])
data_root = 'data/demo/'
model = dict(
    backbone={BACKBONE},
    neck=dict(in_channels=[16, 32, 64, 64], out_channels=16),
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
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val.json')
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=1)
""",
)


@pytest.mark.parametrize(('host', 'out'), [('mmseg', 'masks'), ('mmdet', 'boxes.pkl')])
def test_the_other_hosts_train_and_evaluate(commands, few_images, tmp_path, host, out):
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
