"""Arguments, outputs and the ways in which a plain ViT is run."""

import itertools

import pytest
import torch
from mmengine.registry import MODELS
from mmtoken import PlainViT
from mmtoken.common.strict_load import load_state_dict_strict
from torch import nn
from torch.func import functional_call
from vit.smallest import DINOV2, DINOV3, TINY, VITDET

EVA02 = dict(DINOV3, rope='eva02', img_size=32, mlp_norm=True, attn_norm=True)
SHORT = dict(arch=dict(TINY, depth=2), out_indices=(0, 1))
ALL = dict(
    dinov2=DINOV2 | SHORT,
    dinov3=DINOV3 | SHORT,
    vitdet=VITDET | SHORT | dict(window_block_indexes=(0,)),
    eva02=EVA02 | SHORT,
)


@pytest.fixture(params=ALL)
def model(request, randomize):
    return randomize(MODELS.build(ALL[request.param])).eval()


def check(maps, expected, **tolerance):
    assert len(maps) == len(expected)
    for got, want in zip(maps, expected):
        torch.testing.assert_close(got, want, **tolerance)


# -- ways to run


@pytest.mark.parametrize(
    'model, hw', [('eva02', (80, 23)), ('vitdet', (45, 61))], indirect=['model']
)
@torch.no_grad()
def test_exports_with_any_size(model, hw):
    """Windows have a fixed image size."""
    dims = {0: torch.export.Dim('batch', min=1, max=8)}
    if hw != (45, 61):
        if not hasattr(torch.export.Dim, 'AUTO'):
            pytest.skip('torch.export of this torch needs a fixed image size')
        dims |= dict.fromkeys((2, 3), torch.export.Dim.AUTO)
    exported = torch.export.export(model, (torch.randn(2, 3, 45, 61),), dynamic_shapes=(dims,))
    image = torch.randn(3, 3, *hw)
    check(exported.module()(image), model(image))


@pytest.mark.parametrize('model', ['eva02', 'vitdet'], indirect=True)
@torch.no_grad()
def test_compiles_in_one_graph(model):
    image = torch.randn(1, 3, 45, 61)
    check(torch.compile(model, fullgraph=True, backend='eager')(image), model(image))


@torch.no_grad()
def test_runs_on_a_fake_gpu(model, fake_gpu):
    tensors = dict(itertools.chain(model.named_parameters(), model.named_buffers()))
    with fake_gpu:
        fake = {key: torch.empty_like(value, device='cuda') for key, value in tensors.items()}
        maps = functional_call(model, fake, torch.empty(2, 3, 45, 61, device='cuda'))
    shapes = [(2, *x.shape[1:]) for x in model(torch.zeros(1, 3, 45, 61))]
    assert [tuple(x.shape) for x in maps] == shapes
    assert all(x.device.type == 'cuda' for x in maps)


@torch.no_grad()
def test_runs_on_meta_and_on_nothing(model):
    shapes = [tuple(x.shape[1:]) for x in model(torch.zeros(1, 3, 45, 61))]
    check(model(torch.zeros(0, 3, 45, 61)), [torch.zeros(0, *shape) for shape in shapes])
    maps = model.to('meta')(torch.empty(1, 3, 45, 61, device='meta'))
    assert [tuple(x.shape) for x in maps] == [(1, *shape) for shape in shapes]


def test_rotation_stays_in_float32_under_autocast(monkeypatch):
    seen = []

    def rotate(x, rotation, num_heads):
        seen.append((x.dtype, rotation.cos.dtype))
        return x

    monkeypatch.setattr('mmtoken.vit.attention.rotate', rotate)
    with torch.autocast('cpu', torch.bfloat16), torch.no_grad():
        MODELS.build(DINOV3).eval()(torch.randn(1, 3, 32, 32))
    assert set(seen) == {(torch.bfloat16, torch.float32)}


# -- outputs


@torch.no_grad()
def test_norm_of_the_outputs(randomize):
    image = torch.randn(1, 3, 30, 30)
    models = {
        kind: randomize(PlainViT(TINY, 8, out_norm=kind, out_indices=(1, -1))).eval()
        for kind in ('none', 'all', 'last')
    }
    assert models['none'].norm is None
    raw = models['none'](image)
    for kind in ('all', 'last'):
        models[kind].load_state_dict(models['none'].state_dict(), strict=False)
    norm = models['last'].norm = models['all'].norm
    normed = [norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) for x in raw]
    check(models['all'](image), normed)
    check(models['last'](image), [raw[0], normed[1]])
    # a norm that nothing uses would have no gradient
    assert PlainViT(TINY, 8, out_indices=(0, 1)).norm is None


@torch.no_grad()
def test_class_token(randomize):
    model = randomize(PlainViT(TINY, 8, out_type='class', out_indices=(0, -1))).eval()
    image = torch.randn(2, 3, 30, 44)
    stages = model.run_stages(image)
    check(model(image), [stages[0][0][:, 0], model.norm(stages[-1][0][:, 0])])


def test_layer_depths():
    model = PlainViT(TINY, 8, num_registers=1, pre_norm=True)
    depths = {name: model.get_layer_depth(name)[0] for name, _ in model.named_parameters()}
    stem = [name for name in depths if 'blocks' not in name and not name.startswith('norm.')]
    assert {name.split('.')[0] for name in stem} == {
        *('patch_embed', 'pos_embed', 'cls_token', 'reg_token', 'norm_pre')
    }
    assert {depths[name] for name in stem} == {0}
    assert depths['blocks.0.norm1.weight'] == 1 and depths['blocks.3.mlp.fc2.bias'] == 4
    assert depths['norm.weight'] == 5
    assert model.get_layer_depth('norm.weight') == (5, 6)
    windows = MODELS.build(VITDET)
    assert windows.get_layer_depth('blocks.1.attn.rel_pos_h') == (2, 6)


def test_drop_path_rises_to_its_rate():
    model = PlainViT(dict(TINY, depth=3), 8, drop_path_rate=0.4)
    assert [block.drop_path.drop_path for block in model.blocks] == [0.0, 0.2, 0.4]


def test_a_bias_of_the_keys_is_not_used(randomize):
    model = randomize(MODELS.build(DINOV3)).double()
    image = torch.randn(1, 3, 24, 40, dtype=torch.float64)
    before = model(image)
    for block in model.blocks:
        block.attn.qkv.bias.data.view(3, -1)[1] = 5.0
    check(model(image), before)
    sum(x.square().sum() for x in before).backward()
    bias = model.blocks[0].attn.qkv.bias.grad.view(3, -1)
    assert not bias[1].any() and bias[0].all() and bias[2].all()


# -- stem


@pytest.fixture
def cnn(monkeypatch):
    """A backbone of a host: stride 4, 6 channels, as many equal maps as wanted."""

    class Cnn(nn.Module):
        def __init__(self, num_maps=1):
            super().__init__()
            self.conv = nn.Conv2d(3, 6, 5, 4, 2)
            self.bn = nn.BatchNorm2d(6)
            self.num_maps = num_maps

        def train(self, mode=True):
            super().train(mode)  # and returns None, as in mmdet

        def forward(self, x):
            return (self.bn(self.conv(x)),) * self.num_maps

    monkeypatch.setitem(MODELS.module_dict, 'Cnn', Cnn)


def test_stem(cnn, randomize):
    model = randomize(PlainViT(TINY, 2, 48, stem=dict(type='Cnn'), norm_eval=True)).double()
    assert model.out_strides == (8,) and model.patch_embed.proj.weight.shape == (16, 6, 2, 2)
    model.train()
    assert not model.patch_embed.backbone.bn.training
    image = torch.randn(2, 3, 37, 50, dtype=torch.float64)
    padded = nn.functional.pad(image, (0, 6, 0, 3))
    features = model.patch_embed.backbone(padded)[0]
    plain = PlainViT(TINY, 2, 12, in_channels=6).double()
    state = {key: value for key, value in model.state_dict().items() if '.backbone.' not in key}
    plain.load_state_dict(state)
    check(model(image), plain(features))
    assert model(image)[0].shape == (2, 16, 5, 7)


def test_any_registered_backbone_is_a_stem():
    stem = dict(type='PlainViT', arch=TINY, patch_size=4, img_size=None, out_norm='none')
    model = PlainViT(TINY, img_size=None, stem=stem)
    assert model.out_strides == (4,) and model(torch.zeros(1, 3, 9, 8))[0].shape == (1, 16, 3, 2)
    assert model.get_layer_depth('patch_embed.backbone.blocks.0.norm1.weight') == (0, 6)


# -- weights


def test_what_is_not_built_is_left_out_of_a_checkpoint(randomize):
    whole = randomize(PlainViT(TINY, 8, num_registers=2)).state_dict()
    part = PlainViT(TINY, 8, class_token=False, out_indices=(1,))
    report = load_state_dict_strict(part, whole)
    assert {key.split('.')[0] for key in report.ignored} == {
        *('cls_token', 'reg_token', 'blocks', 'norm')
    }
    assert all(torch.equal(value, whole[key]) for key, value in part.state_dict().items())


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(num_registers=2), 'need num_registers=0, but the model has num_registers=2'),
        (dict(layer_scale=1e-5), 'need layer_scale=None, but the model has'),
        (dict(mlp='swiglu'), "need mlp='gelu' or 'quickgelu', but the model has mlp='swiglu'"),
    ],
)
def test_weights_of_another_model_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        load_state_dict_strict(PlainViT(TINY, 8, **arguments), PlainViT(TINY, 8).state_dict())


def test_registers_of_a_file_are_not_left_out_in_silence():
    with pytest.raises(ValueError, match='need num_registers=4, but the model has num_registers=0'):
        load_state_dict_strict(PlainViT(TINY, 8), PlainViT(TINY, 8, num_registers=4).state_dict())


# -- bad input

PIXELS = dict(patch_size=16, img_size=None, class_token=False)


@pytest.mark.parametrize(
    'arguments, message',
    [
        (
            dict(patch_size=14, img_size=512),
            'img_size must be a multiple .* got img_size=512 .* 14',
        ),
        (dict(PIXELS, rel_pos_size=1000), 'rel_pos_size must be a multiple .* got .*=1000 .* 16'),
        (
            dict(class_token=False, window_block_indexes=(0,), window_size=15),
            'window_size must be at most .* got window_size=15 for 14x14 patches',
        ),
        (dict(window_block_indexes=(0,)), 'need class_token=False .* got 1 other tokens'),
        (dict(num_registers=4, rel_pos_size=224), 'rel_pos_size need .* got 5 other tokens'),
        (dict(PIXELS, window_block_indexes=(4,)), r'different blocks in \[0, 3\], got \(4,\)'),
        (dict(PIXELS, window_block_indexes=(1, 1)), r'different blocks in \[0, 3\], got \(1, 1\)'),
        (dict(rope='dinov3'), "rope='dinov3' .* needs img_size=None, got img_size=224"),
        (dict(PIXELS, rope='eva02', rel_pos_size=64), 'rope must be None .* got rope='),
        (dict(rope='mixed'), r"rope must be one of \[None, 'dinov3', 'eva02'\], got 'mixed'"),
        (dict(arch=dict(TINY, embed_dims=12), rope='eva02'), 'multiple of 4 channels, got .* 6'),
        (dict(arch=dict(TINY, num_heads=3)), 'num_heads must divide embed_dims, got num_heads=3'),
        (dict(arch='tinny'), 'arch must be one of .* got'),
        (dict(out_type='class', class_token=False), "out_type='class' needs class_token=True"),
        (dict(out_indices=(-5,)), 'out_indices must be a whole number >= 0, got -5'),
        (dict(out_indices=(-1, 0)), r'ascending stage indices in \[0, 3\], got \(3, 0\)'),
        (dict(stem='ResNet'), "stem must be the config of a registered backbone, got 'ResNet'"),
        (dict(stem=dict(type='Cnn', num_maps=2)), "must return one map, got 2 from 'Cnn'"),
    ],
)
def test_invalid_arguments(arguments, message, cnn):
    with pytest.raises(ValueError, match=message):
        PlainViT(**{'arch': TINY, **arguments})
