import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from mmtoken.paca_vit import class_attention as fast
from mmtoken.paca_vit import reference
from torch import nn
from torch.nn import functional as F

pytest.importorskip('mmseg')
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from mmtoken.paca_vit import PaCaHead

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
        where = 'class_attention' if name == 'pool_classes' else 'mmseg_head'
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


def test_works_with_a_backbone_of_the_host():
    backbone = dict(
        type='MixVisionTransformer', embed_dims=8, num_layers=[1] * 4, num_heads=[1, 2, 2, 4],
        patch_sizes=[7, 3, 3, 3], sr_ratios=[8, 4, 2, 1],
    )  # fmt: skip
    head = dict(SEGMENTOR['decode_head'], in_channels=[8, 16, 16, 32])
    model = MODELS.build(dict(SEGMENTOR, backbone=backbone, decode_head=head)).eval()
    out = model(torch.randn(1, 3, 32, 32))
    assert out.shape == (1, 4, 8, 8)


def test_labels_outside_the_classes():
    head, label = build(), torch.randint(0, 4, (16, 16))
    label[0, 0], label[0, 1] = 150, 255
    with pytest.raises(ValueError, match=r'labels must lie in \[0, 3\] .*255, got \[150\]'):
        head.loss(levels((4, 4), channels=CHANNELS, dtype=torch.float32), [sample(label)] * 2, {})


def test_wrong_maps():
    maps = levels((4, 4), channels=CHANNELS, dtype=torch.float32)
    with pytest.raises(ValueError, match=r'in_index=\(0, 1, 2, 3\), got 2 maps'):
        build()(maps[:2])
    with pytest.raises(ValueError, match=r'a map 0 of 12 channels; set in_channels=\[12, 8, 16'):
        build()([maps[1], maps[0], *maps[2:]])
    with pytest.raises(ValueError, match=r'one entry per map, got \(8, 12, 16, 24\) and \(0, 1\)'):
        build(in_index=(0, 1))


def test_some_of_the_maps():
    maps = levels((4, 4), channels=CHANNELS, dtype=torch.float32)
    head = build(in_channels=[8, 24], in_index=(0, 3))
    assert head(maps).shape == (2, 4, 4, 4)


def test_is_found_from_every_registry():
    from mmengine.registry import MODELS as ROOT

    assert ROOT.get('PaCaHead') is PaCaHead is MODELS.get('PaCaHead')
    assert issubclass(PaCaHead, nn.Module)
