"""The modes that adapters read off a model sum to the logits of its forward pass."""

import re

import pytest
import torch
from mmengine.registry import MODELS
from mmtoken.query_key import adapters
from mmtoken.query_key.adapters import NotBilinear, find_layers, read_projections
from mmtoken.query_key.interaction import find_modes, logit_terms, rope_angles, turn
from mmtoken.query_key.tokens import all_tokens, arrange, observe
from rooms import SMALLEST
from torch import nn

# terms that are added to the product of queries and keys; they are zeroed, all else is random
ADDED = re.compile(
    r'relative_position_bias_table|rel_pos_[hw]$|rel_pos\.mlp\.fc2|cpb_mlp\.2|score\.(weight|bias)'
)


def randomize_parameters(model, randomize):
    """In float64; buffers stay, which are masks of windows and periods of rotations."""
    model.double().eval()
    fixed = {name: buffer.clone() for name, buffer in model.named_buffers()}
    randomize(model)
    for name, buffer in model.named_buffers():
        buffer.copy_(fixed[name])


def check_logits(model, inputs, randomize, expected=None):
    """Every layer that runs; returns their number. Masked pairs are left out."""
    randomize_parameters(model, randomize)
    for name, parameter in model.named_parameters():
        if ADDED.search(name):
            nn.init.zeros_(parameter)
    layers, skipped = find_layers(model)
    seen = observe(model, layers, lambda: model(inputs.double()))
    checked = 0
    for layer in layers:
        if layer.name not in seen:
            continue
        one, own = seen[layer.name], layer.projections
        assert one.products, f'{layer.name} has no softmax'
        x, c = all_tokens(one.queries), all_tokens(one.keys)
        terms = logit_terms(x, c, own.wq, own.wk, own.bq, own.bk)
        predicted = own.scale * sum(terms.values())
        for product in one.products:
            rows, columns = arrange(layer, one, product)
            want = predicted[:, rows[:, :, None], columns[:, None]].transpose(0, 1)
            real = (rows >= 0)[:, None, :, None] & (columns >= 0)[:, None, None]
            visible = real & (product.logits > product.logits.max() - 50)
            assert visible.any()
            error = (want - product.logits).abs()[visible].max()
            assert error < 1e-9, f'{layer.name} ({layer.kind}): {error:.3g}'
        checked += 1
    assert checked
    return layers, skipped


def smallest():
    for room, module in SMALLEST.items():
        for i, backbone in enumerate(module.BACKBONES):
            yield pytest.param(backbone, id=f'{room}-{i}')


@pytest.mark.parametrize('backbone', list(smallest()))
def test_our_backbones(backbone, randomize):
    model = MODELS.build(backbone)
    channels = next(m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d))
    try:
        layers, _ = find_layers(model)
    except ValueError:
        return  # a stub without attention
    if any(layer.rope for layer in layers):
        pytest.skip('see test_rotary_positions')
    check_logits(model, torch.randn(2, channels, 37, 50), randomize)


def small_swin(**other):
    return dict(embed_dims=8, depths=(2, 2), num_heads=(1, 2), window_size=4, **other)


def small_vit(kind):
    return dict(type=kind, img_size=32, patch_size=8, embed_dims=16, num_layers=2, num_heads=2)


PYRAMID = dict(embed_dims=8, num_layers=[1] * 4, num_heads=[1, 2, 2, 4])
TWINS = dict(
    embed_dims=[8, 8, 16, 16],
    num_heads=[1, 2, 2, 4],
    mlp_ratios=[2] * 4,
    out_indices=(0, 1, 2, 3),
    qkv_bias=True,
)
# backbones of the hosts, and the side of an image
HOSTS = [
    (dict(small_swin(), type='mmdet.SwinTransformer', strides=(4, 2), out_indices=(0, 1)), 50),
    (dict(PYRAMID, type='mmdet.PyramidVisionTransformer', pretrain_img_size=64), 64),
    (dict(PYRAMID, type='mmdet.PyramidVisionTransformerV2'), 64),
    (dict(small_swin(), type='mmseg.SwinTransformer', strides=(4, 2), out_indices=(0, 1)), 50),
    (dict(PYRAMID, type='mmseg.MixVisionTransformer'), 50),
    (dict(TWINS, type='mmseg.PCPVT', depths=[1] * 4, sr_ratios=[8, 4, 2, 1]), 64),
    (
        dict(
            TWINS,
            type='mmseg.SVT',
            depths=[2] * 4,
            sr_ratios=[4, 2, 1, 1],
            windiow_sizes=[4, 4, 2, 2],
            norm_after_stage=True,
        ),
        64,
    ),
    (small_vit('mmseg.VisionTransformer'), 32),
    (dict(small_vit('mmseg.BEiT'), out_indices=(0, 1)), 32),
    (dict(small_vit('mmseg.MAE'), out_indices=(0, 1)), 32),
    (dict(small_swin(), type='mmpose.SwinTransformer', strides=(4, 2), out_indices=(0, 1)), 50),
    (dict(PYRAMID, type='mmpose.PyramidVisionTransformerV2'), 64),
    (
        dict(
            type='mmpretrain.VisionTransformer',
            img_size=32,
            patch_size=8,
            arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=16),
        ),
        32,
    ),
    (
        dict(
            type='mmpretrain.SwinTransformer',
            img_size=32,
            window_size=4,
            out_indices=(0, 1),
            arch=dict(embed_dims=8, depths=(2, 2), num_heads=(1, 2)),
        ),
        32,
    ),
    (
        dict(
            type='mmpretrain.BEiTViT',
            img_size=32,
            patch_size=8,
            out_type='raw',
            arch=dict(embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=16),
        ),
        32,
    ),
]


@pytest.mark.parametrize('config, side', HOSTS, ids=[config['type'] for config, _ in HOSTS])
def test_backbones_of_hosts(config, side, randomize):
    host = config['type'].split('.')[0]
    pytest.importorskip(f'{host}.models', reason=f'{host} is not installed')
    _, skipped = check_logits(MODELS.build(config), torch.randn(1, 3, side, side), randomize)
    assert not skipped


# small models of timm, one for each way to keep W_q and W_k, and the side of an image
TIMM = [
    ('vit_tiny_patch16_224', dict(patch_size=8, embed_dim=16, num_heads=2, depth=2), 32),
    (
        'swin_tiny_patch4_window7_224',
        dict(window_size=4, embed_dim=8, depths=(2, 2), num_heads=(1, 2)),
        32,
    ),
    (
        'beit_base_patch16_224',
        dict(patch_size=8, embed_dim=16, num_heads=2, depth=1),
        32,
    ),
    (
        'twins_svt_small',
        dict(
            embed_dims=(8, 8, 8, 16), depths=(2, 2, 2, 2), num_heads=(1, 2, 2, 4), wss=(4, 4, 2, 2)
        ),
        64,
    ),
    (
        'samvit_base_patch16',
        dict(
            patch_size=8,
            embed_dim=16,
            num_heads=2,
            depth=2,
            window_size=3,
            global_attn_indexes=(1,),
        ),
        64,
    ),
    ('xcit_nano_12_p16_224', dict(embed_dim=16, num_heads=2, depth=1), 32),
    pytest.param('pvt_v2_b0', {}, 64, marks=pytest.mark.slow),
    pytest.param('maxvit_rmlp_pico_rw_256', {}, 64, marks=pytest.mark.slow),
    pytest.param('maxvit_tiny_tf_224', {}, 64, marks=pytest.mark.slow),
]


@pytest.mark.parametrize('name, options, side', TIMM)
def test_timm(name, options, side, randomize):
    timm = pytest.importorskip('timm')
    if not name.startswith(('pvt', 'twins')):
        options = dict(options, img_size=side)
    check_logits(timm.create_model(name, **options), torch.randn(1, 3, side, side), randomize)


@pytest.mark.slow
def test_torchvision(randomize):
    """Its MaxViT scales by the width of the layer, not of the head."""
    torchvision = pytest.importorskip('torchvision')
    model = torchvision.models.MaxVit(
        input_size=(32, 32),
        stem_channels=8,
        partition_size=4,
        block_channels=[8],
        block_layers=[1],
        head_dim=4,
        stochastic_depth_prob=0.0,
        num_classes=2,
    )
    layers, _ = check_logits(model, torch.randn(1, 3, 32, 32), randomize)
    assert layers[0].projections.scale == pytest.approx(8**-0.5)


@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('batch_first', [True, False])
def test_packed(bias, batch_first, randomize):
    """Cross attention of nn.MultiheadAttention in a model."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.attn = nn.MultiheadAttention(12, 3, bias=bias, batch_first=batch_first)

        def forward(self, x):
            context = 2 * x[:, :3] if batch_first else 2 * x[:3]
            return self.attn(x, key=context, value=context)

    check_logits(Model(), torch.randn(4, 5, 12), randomize)


# rotary positions: prefix tokens compare by M, patches by M(delta)
ROTARY = {
    'ours-dinov3': (dict(type='PlainViT', rope='dinov3', img_size=None), 'dinov3'),
    'ours-eva02': (dict(type='PlainViT', rope='eva02', img_size=32, patch_size=8), 'eva'),
    'timm-dinov3': ('vit_small_patch16_dinov3', 'dinov3'),
    'timm-eva02': ('eva02_tiny_patch14_224', 'eva'),
    'timm-eva02-unfused': ('eva02_base_patch14_224', 'eva'),
}


@pytest.mark.parametrize('name', ROTARY)
def test_rotary_positions(name, randomize):
    kind, form = ROTARY[name]
    if isinstance(kind, str):
        timm = pytest.importorskip('timm')
        model = timm.create_model(
            kind,
            img_size=32,
            patch_size=8,
            embed_dim=16,
            num_heads=2,
            depth=1,
            dynamic_img_size=True,
        )
    else:
        arch = dict(embed_dims=16, depth=1, num_heads=2, hidden_dim=16)
        model = MODELS.build(dict(kind, patch_size=8, arch=arch))
    randomize_parameters(model, randomize)
    (layer,), skipped = find_layers(model)
    assert layer.rope == form and not skipped
    seen = observe(model, [layer], lambda: model(torch.randn(1, 3, 24, 32).double()))
    one = seen[layer.name]
    own, x = layer.projections, all_tokens(one.queries)
    logits = one.products[0].logits[0] / own.scale
    prefix, h, w = len(x) - 12, 3, 4
    plain = sum(logit_terms(x, x, own.wq, own.wk, own.bq, own.bk).values())
    torch.testing.assert_close(logits[:, :prefix, :prefix], plain[:, :prefix, :prefix])
    close = dict(rtol=1e-4, atol=1e-5) if name.startswith('timm') else {}  # its angles: float32
    unit = (2 / h, 2 / w) if form == 'dinov3' else (16 / h, 16 / w)
    for query, key in ((0, 0), (1, 10), (11, 2)):
        delta = [(k - q) * u for q, k, u in zip(divmod(query, w), divmod(key, w), unit)]
        angles = rope_angles(form, delta, own.wq.shape[1])
        xq, xk = x[prefix + query], x[prefix + key]
        bias = 0 if own.bq is None else own.bq
        turned = turn(own.wk, form, angles) @ xk  # h d
        want = ((own.wq @ xq + bias) * turned).sum(-1)
        torch.testing.assert_close(logits[:, prefix + query, prefix + key], want, **close)
        modes = find_modes(own.wq, turn(own.wk, form, angles))
        summed = ((xq @ modes.queries) * modes.strengths * (xk @ modes.keys)).sum(-1)
        if own.bq is None or not own.bq.any():
            torch.testing.assert_close(summed, want)


@pytest.mark.parametrize('kind', [nn.LayerNorm, nn.RMSNorm])
def test_norms_of_queries_and_keys_are_a_factor_per_token(kind, randomize):
    """The logits are the sum of the modes times a positive matrix of rank 1."""
    timm = pytest.importorskip('timm')
    model = timm.create_model(
        'vit_tiny_patch16_224',
        img_size=32,
        patch_size=8,
        embed_dim=16,
        num_heads=2,
        depth=1,
        qk_norm=True,
        qkv_bias=False,
        norm_layer=kind,
    )
    randomize(model.double().eval())
    for name, parameter in model.named_parameters():
        if name.endswith(('q_norm.bias', 'k_norm.bias')):
            nn.init.zeros_(parameter)
    (layer,), _ = find_layers(model)
    assert layer.projections.scale is None and 'factor per token' in layer.projections.notes[0]
    seen = observe(model, [layer], lambda: model(torch.randn(1, 3, 32, 32).double()))
    one, own = seen[layer.name], layer.projections
    x = all_tokens(one.queries)
    ratio = one.products[0].logits[0] / logit_terms(x, x, own.wq, own.wk, None, None)['modes']
    torch.testing.assert_close(ratio[0] * ratio[0, 0, 0], ratio[0, :, :1] * ratio[0, :1])
    assert ratio[0].min() > 0


def projections(module):
    return read_projections(module.double())


class Fused(nn.Module):
    def __init__(self, rows=24, dim=8, bias=True, num_heads=2):
        super().__init__()
        self.qkv = nn.Linear(dim, rows, bias=bias)
        self.num_heads = num_heads


def test_orders_of_fused_rows():
    module = Fused()
    rows = module.qkv.weight.detach().double()
    found = projections(module)
    assert torch.equal(found.wq[1], rows[4:8]) and torch.equal(found.wk[0], rows[8:12])
    module.heads_first = True
    found = projections(module)
    assert torch.equal(found.wq[1], rows[12:16]) and torch.equal(found.wk[0], rows[4:8])


def with_attributes(module, **attributes):
    for name, value in attributes.items():
        setattr(module, name, value)
    return module


@pytest.mark.parametrize(
    'module, reason',
    [
        (Fused(rows=20), 'qkv has 20 rows, which is not 3 x 8'),
        (Fused(num_heads=3), 'the number of heads is unknown, of 8 rows'),
        (with_attributes(Fused(), key_dim=2), 'values of another width'),
        (with_attributes(Fused(), pool_k=nn.MaxPool2d(2)), 'pool_k pools queries or keys'),
        (with_attributes(Fused(), q_stride=2), 'q_stride pools queries'),
        (with_attributes(Fused(), q_bias=torch.zeros(8)), 'a bias next to q_bias'),
        (with_attributes(Fused(), q_norm=nn.BatchNorm1d(4)), 'q_norm is a BatchNorm1d'),
        (with_attributes(Fused(), q_norm=nn.LayerNorm(8)), 'normalises 8 channels together'),
        (with_attributes(Fused(), qkv=nn.Conv2d(8, 24, 3)), 'qkv is a Conv2d, not a linear layer'),
        (
            with_attributes(nn.Module(), q=nn.Linear(8, 8), kv=nn.Linear(8, 8), num_heads=2),
            'kv has 8 rows, which is not 2 x 8',
        ),
        (
            with_attributes(nn.Module(), q=nn.Linear(8, 8), k=nn.Linear(6, 8), num_heads=2),
            r'must be projected alike, got \(8, 8\) and \(8, 6\)',
        ),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else '',
)
def test_reasons(module, reason):
    with pytest.raises(NotBilinear, match=reason):
        projections(module)


def named(name, module=Fused):
    return type(name, (module,), {})()


def test_what_is_skipped_is_listed():
    model = nn.ModuleDict(
        dict(
            a=Fused(),
            b=named('ChannelAttention'),
            c=named('DeformableAttention', nn.Module),
            d=named('MysteryAttention', nn.Module),
            e=nn.Sequential(named('WrappingAttention', nn.Sequential)),
        )
    )
    model.e[0].append(Fused())
    layers, skipped = find_layers(model)
    assert [layer.name for layer in layers] == ['a', 'e.0.0']
    reasons = {one.name: one.reason for one in skipped}
    assert list(reasons) == ['b', 'c', 'd']
    assert 'channels' in reasons['b'] and 'from the query' in reasons['c']
    assert 'no adapter' in reasons['d']


def test_a_model_without_attention():
    with pytest.raises(ValueError, match='must have attention layers, got a Sequential without'):
        find_layers(nn.Sequential(nn.Conv2d(3, 3, 1)))


def test_another_adapter_is_asked_first(monkeypatch):
    modules = dict(adapters.QK_ADAPTERS.module_dict)
    monkeypatch.setattr(adapters.QK_ADAPTERS, '_module_dict', modules)

    @adapters.QK_ADAPTERS.register_module()
    def strange(module):
        return 'found' if isinstance(module, Fused) else None

    assert read_projections(Fused()) == 'found'
    assert read_projections(nn.Linear(1, 1)) is None
