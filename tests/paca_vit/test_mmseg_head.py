import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from mmtoken import record_tokens
from mmtoken.paca_vit import class_attention as fast
from mmtoken.paca_vit import reference
from torch import nn
from torch.nn import functional as F

pytest.importorskip('mmseg')
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from mmtoken.paca_vit import PaCaHead
from mmtoken.paca_vit.benchmark import HeadOnMaps

CHANNELS = [8, 12, 16, 24]


@pytest.fixture(autouse=True)
def scope():
    with DefaultScope.overwrite_default_scope('mmseg'):
        yield


def levels(hw, batch=2, channels=(6,) * 4, dtype=torch.float64):
    sizes = [(-(-hw[0] // s), -(-hw[1] // s)) for s in (1, 2, 4, 8)]
    return [
        torch.randn(batch, c, *size, dtype=dtype, requires_grad=True)
        for c, size in zip(channels, sizes)
    ]


@pytest.mark.parametrize('hw', [(9, 13), (8, 8), (1, 1), (5, 1)])
@pytest.mark.parametrize('name', ['project_levels', 'pool_classes', 'attend_to_classes'])
def test_equals_its_twin(name, hw):
    inputs = levels(hw)
    others = {
        'project_levels': [torch.randn(5, 24, 1, 1, dtype=torch.float64, requires_grad=True)],
        'pool_classes': [3 * torch.randn(2, 4, *hw, dtype=torch.float64)],
        'attend_to_classes': [torch.randn(2, 4, 6, dtype=torch.float64) for _ in 'kv'],
    }[name]
    others = [x.detach().requires_grad_(True) for x in others]
    first = inputs[0] if name == 'attend_to_classes' else inputs
    got, want = (getattr(room, name)(first, *others) for room in (fast, reference))
    torch.testing.assert_close(got, want)
    weight = torch.randn_like(want)
    leaves = [*(inputs[:1] if name == 'attend_to_classes' else inputs), *others]
    grads = [torch.autograd.grad((out * weight).sum(), leaves) for out in (got, want)]
    for i, (a, b) in enumerate(zip(*grads)):
        torch.testing.assert_close(a, b, msg=lambda m, i=i: f'gradient of leaf {i}: {m}')


def test_pull_back_is_the_adjoint_of_the_resize():
    x, y = torch.randn(1, 2, 3, 5).double(), torch.randn(1, 2, 7, 11).double()
    up = F.interpolate(x, size=(7, 11), mode='bilinear')
    torch.testing.assert_close((up * y).sum(), (x * fast.pull_back(y, (3, 5))).sum())


def build(**arguments):
    return PaCaHead(
        **{
            **dict(in_channels=CHANNELS, channels=6, num_classes=4, norm_cfg=dict(type='BN')),
            **arguments,
        }
    )


def sample(label):
    return SegDataSample(
        gt_sem_seg=PixelData(data=label[None]), metainfo=dict(img_shape=label.shape)
    )


@pytest.mark.parametrize('norm', ['BN', 'GN', 'SyncBN'])
def test_equals_the_published_form(norm, randomize, monkeypatch):
    norm_cfg = dict(type=norm, num_groups=2) if norm == 'GN' else dict(type=norm)
    head = randomize(build(norm_cfg=norm_cfg).double())
    head.train()
    head.dropout.eval()
    maps = levels((9, 7), channels=CHANNELS)
    leaves = [*maps, *head.parameters()]
    got = head._forward(maps)
    for name in ('project_levels', 'pool_classes', 'attend_to_classes'):
        where = 'mmseg_head' if name == 'project_levels' else 'class_attention'
        monkeypatch.setattr(f'mmtoken.paca_vit.{where}.{name}', getattr(reference, name))
    want = head._forward(maps)
    grads = []
    for outs in (got, want):
        loss = sum((out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum() for out in outs)
        grads.append(torch.autograd.grad(loss, leaves))
    for a, b in zip(got, want):
        torch.testing.assert_close(a, b)
    for i, (a, b) in enumerate(zip(*grads)):
        torch.testing.assert_close(a, b, atol=1e-7, rtol=1e-6, msg=lambda m, i=i: f'{i}: {m}')


def test_losses_have_their_weights_and_every_parameter_a_gradient():
    torch.manual_seed(0)
    head = build(
        loss_decode=dict(type='CrossEntropyLoss', loss_weight=1.0, avg_non_ignore=True),
        loss_cluster=dict(type='CrossEntropyLoss', loss_weight=0.25, avg_non_ignore=True),
    )
    head.dropout.eval()
    maps = levels((8, 8), channels=CHANNELS, dtype=torch.float32)
    label = torch.randint(0, 4, (32, 32))
    label[:5] = 255
    losses = head.loss(maps, [sample(label)] * 2, {})
    logits, scores = head._forward(maps)
    for name, value, weight in (('', logits, 1.0), ('paca.', scores, 0.25)):
        resized = F.interpolate(value, size=(32, 32), mode='bilinear')
        target = label.expand(2, -1, -1)
        plain = F.cross_entropy(resized, target, ignore_index=255)
        torch.testing.assert_close(losses[f'{name}loss_ce'], weight * plain)
        keep = target != 255
        right = (resized.argmax(1) == target)[keep].float().mean() * 100
        torch.testing.assert_close(losses[f'{name}acc_seg'].squeeze(), right)
    sum(v for k, v in losses.items() if 'loss' in k).backward()
    for key, parameter in head.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key


def test_sampler_and_several_losses():
    second = dict(type='CrossEntropyLoss', loss_name='loss_second', loss_weight=0.1)
    head = build(
        loss_cluster=[dict(type='CrossEntropyLoss'), second],
        sampler=dict(type='OHEMPixelSampler', thresh=0.7, min_kept=10),
    )
    label = torch.randint(0, 4, (16, 16))
    losses = head.loss(
        levels((4, 4), channels=CHANNELS, dtype=torch.float32), [sample(label)] * 2, {}
    )
    assert {'loss_ce', 'acc_seg', 'paca.loss_ce', 'paca.loss_second', 'paca.acc_seg'} == set(losses)


SEGMENTOR = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(type='SegDataPreProcessor', size=(32, 32)),
    backbone=dict(
        type='PaCaViT',
        arch=dict(
            depths=(1, 1, 1, 1),
            embed_dims=CHANNELS,
            num_heads=(1, 2, 2, 3),
            mlp_ratios=(2, 2, 2, 2),
        ),
        num_clusters=(5, 4, 3, 0),
    ),
    decode_head=dict(
        type='PaCaHead', in_channels=CHANNELS, channels=6, num_classes=4, norm_cfg=dict(type='BN')
    ),
    train_cfg=dict(),
)


@pytest.mark.parametrize('training', [False, True], ids=['eval', 'train'])
@pytest.mark.parametrize(
    'test_cfg',
    [dict(mode='whole'), dict(mode='slide', crop_size=(40, 40), stride=(20, 20))],
    ids=['whole', 'slide'],
)
def test_stock_segmentor_predicts_in_both_modes(test_cfg, training):
    model = MODELS.build(dict(SEGMENTOR, test_cfg=ConfigDict(test_cfg))).train(training)
    data = dict(
        inputs=[torch.randint(0, 255, (3, 45, 61), dtype=torch.uint8)],
        data_samples=[SegDataSample(metainfo=dict(img_shape=(45, 61), ori_shape=(90, 122)))],
    )
    with torch.no_grad():
        prepared = model.data_preprocessor(data, False)
        (result,) = model._run_forward(prepared, mode='predict')
    assert result.pred_sem_seg.data.shape == (1, 90, 122)
    assert result.pred_sem_seg.data.max() < 4


HOST_BACKBONE = dict(
    type='MixVisionTransformer', embed_dims=8, num_layers=[1] * 4, num_heads=[1, 2, 2, 4],
    patch_sizes=[7, 3, 3, 3], sr_ratios=[8, 4, 2, 1],
)  # fmt: skip


@pytest.mark.parametrize(
    ('backbone', 'channels'),
    [(SEGMENTOR['backbone'], CHANNELS), (HOST_BACKBONE, [8, 16, 16, 32])],
    ids=['ours', 'of-the-host'],
)
def test_attention_to_classes_is_recorded(backbone, channels):
    head = dict(SEGMENTOR['decode_head'], in_channels=channels)
    model = MODELS.build(dict(SEGMENTOR, backbone=backbone, decode_head=head)).eval()
    image = torch.randn(2, 3, 40, 32)
    plain = model(image)
    for run in (model, lambda x: model.encode_decode(x, [dict(img_shape=(40, 32))] * 2)):
        with record_tokens(model) as recorder:
            out = run(image)
        weights = recorder.attention['decode_head.attend']
        assert len(recorder.forwards) == 1
        assert weights.shape == (2, 1, 10 * 8, 4)
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, 1, 80))
        torch.testing.assert_close(out, F.interpolate(plain, size=out.shape[2:], mode='bilinear'))


@pytest.mark.parametrize('num_classes', [1, 2])
def test_two_classes_with_one_output(num_classes, randomize):
    head = randomize(build(num_classes=num_classes, out_channels=1, threshold=0.4))
    head.dropout.eval()
    maps = levels((16, 16), batch=1, channels=CHANNELS, dtype=torch.float32)
    label = torch.randint(0, 2, (32, 32))
    label[:5] = 255
    losses = head.loss(maps, [sample(label)], {})
    logits, scores = head._forward(maps)
    assert head.threshold == 0.4
    assert logits.shape == (1, 1, 16, 16)
    assert logits.std() > 1e-3  # one token for all positions would make it constant
    keep = label != 255
    targets = (label, torch.stack([label == 0, label == 1]))
    for name, value, target, weight in zip(('', 'paca.'), (logits, scores), targets, (1.0, 0.4)):
        resized = F.interpolate(value, size=(32, 32), mode='bilinear')[0]
        plain = F.binary_cross_entropy_with_logits(
            resized[..., keep], target[..., keep].float().view(len(resized), -1)
        )
        torch.testing.assert_close(losses[f'{name}loss_ce'], weight * plain)
    sum(v for k, v in losses.items() if 'loss' in k).backward()
    for key, parameter in head.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key
    label[-1] = 2
    with pytest.raises(ValueError, match=r'labels must be in \[0, 1\] .* got \[2\]'):
        head.loss(maps, [sample(label)], {})


def test_one_image_per_batch():
    maps = levels((8, 8), batch=1, channels=CHANNELS, dtype=torch.float32)
    with pytest.raises(ValueError, match=r'at least 2 values per channel.*use a batch of 2'):
        build()(maps)
    build().eval()(maps)
    head = build(norm_cfg=dict(type='GN', num_groups=2))
    head.loss(maps, [sample(torch.randint(0, 4, (32, 32)))], {})['loss_ce'].backward()


@torch.no_grad()
def test_int8(randomize):
    head = randomize(build()).eval()
    int8 = torch.ao.quantization.quantize_dynamic(head, {nn.Linear})
    maps = levels((8, 8), channels=CHANNELS, dtype=torch.float32)
    want, got = head(maps), int8(maps)
    assert not torch.equal(want, got)
    assert (want - got).norm() < 0.05 * want.norm()


def test_labels_outside_the_classes():
    head, label = build(), torch.randint(0, 4, (16, 16))
    label[0, 0], label[0, 1] = 150, 255
    with pytest.raises(ValueError, match=r'labels must be in \[0, 3\] .*255, got \[150\]'):
        head.loss(levels((4, 4), channels=CHANNELS, dtype=torch.float32), [sample(label)] * 2, {})


def test_wrong_maps():
    maps = levels((4, 4), channels=CHANNELS, dtype=torch.float32)
    with pytest.raises(ValueError, match=r'in_index=\(0, 1, 2, 3\) .*got 2 maps'):
        build()(maps[:2])
    with pytest.raises(ValueError, match=r'a map 0 of 12 channels; set in_channels=\[12, 8, 16'):
        build()([maps[1], maps[0], *maps[2:]])


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(in_index=(0, 1)), r'in_channels needs 2 entries, one per entry of in_index, got 4'),
        (dict(in_index=None), 'in_index needs 1 entries, one per map, got None'),
        (dict(in_index=(0, 1, 2, 3.5)), 'in_index must be a whole number >= 0, got 3.5'),
        (dict(in_channels=(8, 12, 16, -1)), 'in_channels must be a whole number >= 1, got -1'),
        (dict(channels=1.5), 'channels must be a whole number'),
        (dict(num_classes='4'), "num_classes must be a whole number >= 1, got '4'"),
        (dict(out_channels=1), 'out_channels=1 is for two classes, got num_classes=4'),
        (dict(threshold=float('nan')), r'threshold must be a number in \[0, 1\], got nan'),
        (dict(dropout_ratio=-1), r'dropout_ratio must be a number in \[0, 1\], got -1'),
        (dict(align_corners=0), 'align_corners must be True or False, got 0'),
        (dict(ignore_index=None), 'ignore_index must be a whole number'),
        (dict(norm_cfg='BN'), r"norm_cfg must be dict\(type=...\), got 'BN'"),
        (dict(norm_cfg=dict(type='GN')), "norm_cfg must describe a .* got {'type': 'GN'}"),
        (dict(act_cfg=dict(type='ReLU', place=1)), "act_cfg must describe .* argument 'place'"),
        (dict(loss_decode=[]), r'loss_decode must be dict.* or a list of these, got \[\]'),
        (dict(loss_cluster=dict(type='CrossEntropyLoss', wight=1)), "loss_cluster .*'wight'"),
        (dict(sampler={}), r'sampler must be dict\(type=...\), got {}'),
        (dict(sampler=dict(type='OHEMPixelSampler', thr=0)), "sampler must .* argument 'thr'"),
        (dict(init_cfg=dict(type='Kaimming')), "type of init_cfg must be .* got 'Kaimming'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        build(**arguments)


def test_some_of_the_maps():
    maps = levels((4, 4), channels=CHANNELS, dtype=torch.float32)
    head = build(in_channels=[8, 24], in_index=(0, 3))
    assert head(maps).shape == (2, 4, 4, 4)


def test_is_found_from_every_registry():
    from mmengine.registry import MODELS as ROOT

    assert ROOT.get('PaCaHead') is PaCaHead is MODELS.get('PaCaHead')
    assert issubclass(PaCaHead, nn.Module)


def test_formulation_of_the_benchmark_is_the_same_function(randomize):
    ours = randomize(HeadOnMaps()).double().eval()
    theirs = HeadOnMaps(resize_first=True).double().eval()
    theirs.load_state_dict(ours.state_dict())
    x, results = torch.randn(2, 512, 9, 11, dtype=torch.float64), []
    for model in (ours, theirs):
        out = model(x)
        results.append((out, *torch.autograd.grad(out.square().sum(), model.parameters())))
    for a, b in zip(*results):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-6)
