"""TimmFeatures: equal to timm on every kind of model, strict about names, strides and weights."""

import copy
import socket
import sys

import pytest
import torch
from mmengine.registry import MODELS
from mmtoken import TimmFeatures
from mmtoken.common.strict_load import load_state_dict_strict

timm = pytest.importorskip('timm')
VIT = dict(depth=2, embed_dim=24, num_heads=2)
STAGES = dict(depths=(1, 1, 1, 1))
SWIN = dict(STAGES, embed_dim=8, num_heads=(1, 1, 2, 2))
# arguments of a tiny model, and the multiple to which images are padded
FAMILIES = {
    'vit_tiny_patch16_224': (dict(VIT, img_size=64), 16),
    'deit_tiny_distilled_patch16_224': (dict(VIT, img_size=64), 16),
    'vit_small_patch14_reg4_dinov2': (dict(VIT, img_size=70), 14),
    'vit_small_patch16_dinov3': (VIT, 16),
    'eva02_tiny_patch14_224': (dict(VIT, img_size=70), 14),
    'swin_tiny_patch4_window7_224': (SWIN, 4),
    'swinv2_tiny_window8_256': (SWIN, 4),
    'convnext_atto': (dict(STAGES, dims=(4, 8, 8, 12)), 32),
    'resnet10t': (dict(channels=(8, 8, 8, 8)), 1),
    'test_efficientnet': ({}, 1),
    'maxvit_tiny_tf_224': (dict(STAGES, embed_dim=(32,) * 4, stem_width=8, img_size=64), 64),
    'hiera_tiny_224': (dict(embed_dim=8, stages=(1, 1, 1, 1), num_heads=1, img_size=64), 64),
    'pvt_v2_b0': (dict(STAGES, embed_dims=(4, 8, 8, 12), num_heads=(1, 1, 2, 2)), 1),
    'regnetx_002': ({}, 1),
    'caformer_s18': ({}, 4),
}
SLOW = pytest.mark.slow(reason='has no arguments that make it small')
CASES = [pytest.param(n, marks=SLOW if n == 'caformer_s18' else ()) for n in FAMILIES]


def pretrained(path):
    return dict(type='Pretrained', checkpoint=str(path))


@pytest.mark.parametrize('name', CASES)
def test_equals_timm_with_weights_from_its_file(name, tmp_path, randomize):
    arguments, divisor = FAMILIES[name]
    model = TimmFeatures(name, model_args=arguments, init_cfg=pretrained(tmp_path / 'timm.pth'))
    donor = timm.create_model(name, **model.arguments).eval()
    # tables that are no weights stay as they are
    donor.load_state_dict(randomize(copy.deepcopy(donor)).state_dict())
    torch.save(donor.state_dict(), tmp_path / 'timm.pth')
    model.init_weights()
    assert model.divisor == (divisor, divisor)
    side = 64 if divisor != 14 else 70
    image = torch.randn(2, 3, side, side)
    indices = list(model.out_indices)
    with torch.no_grad():
        want = donor.forward_intermediates(image, indices=indices, intermediates_only=True)
        for a, b in zip(model.eval()(image), want, strict=True):
            torch.testing.assert_close(a, b)
    hw = (45, 61)
    maps = model.train()(image[..., : hw[0], : hw[1]])
    expected = [(-(-45 // stride), -(-61 // stride)) for stride in model.out_strides]
    assert [tuple(m.shape[1:]) for m in maps] == [
        (c, *size) for c, size in zip(model.out_channels, expected)
    ]
    assert all(m.is_contiguous() for m in maps)
    sum(m.square().mean() for m in maps).backward()
    assert not [key for key, p in model.named_parameters() if p.grad is None]
    depths = {model.get_layer_depth(f'backbone.{k}', 'backbone.') for k in model.layer_of}
    assert depths == {(i, sum(model.depths) + 2) for i in range(sum(model.depths) + 1)}


def vit(**arguments):
    return TimmFeatures('vit_tiny_patch16_224', model_args=dict(VIT, img_size=64), **arguments)


def test_odd_sizes_are_padded_with_zeros_and_cropped(randomize):
    model, image = randomize(vit()).eval(), torch.randn(1, 3, 33, 50)
    padded = torch.zeros(1, 3, 48, 64)
    padded[..., :33, :50] = image
    with torch.no_grad():
        assert torch.equal(model(image)[0], model(padded)[0])


def test_outputs_by_stride_and_by_index():
    name, arguments = 'resnet10t', dict(channels=(4, 8, 12, 16))
    model = TimmFeatures(name, out_strides=(2, 8), model_args=arguments)
    assert (model.out_indices, model.out_strides) == ((0, 2), (2, 8))
    assert not [key for key in model.state_dict() if 'layer3' in key or 'fc' in key]
    blocks = vit(out_indices=(0, 1))
    assert blocks.out_strides == (16, 16) and vit().out_indices == (1,)
    assert len(blocks(torch.zeros(1, 3, 64, 64))) == 2


def test_final_norm_on_request(randomize):
    raw, normed = vit(out_indices=(0, 1)), randomize(vit(out_indices=(0, 1), out_norm=True))
    load_state_dict_strict(raw.timm_model, normed.timm_model.state_dict(), ignore='norm')
    image = torch.randn(1, 3, 64, 64)
    for a, b in zip(normed.eval()(image), raw.eval()(image)):
        norm = normed.timm_model.norm(b.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        torch.testing.assert_close(a, norm)


def test_fixed_models_take_smaller_images_only():
    arguments, _ = FAMILIES['hiera_tiny_224']
    model = TimmFeatures('hiera_tiny_224', model_args=arguments)
    assert model(torch.zeros(1, 3, 40, 64))[0].shape[2:] == (10, 16)
    with pytest.raises(ValueError, match=r'at most 64x64 pixels, got 65x64; .*img_size=\(H, W\)'):
        model(torch.zeros(1, 3, 65, 64))


def test_recomputation_keeps_fewer_tensors():
    def kept(with_cp):
        model, sizes = vit(with_cp=with_cp), []
        pack = lambda tensor: sizes.append(tensor.numel()) or tensor  # noqa: E731
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(torch.randn(1, 3, 64, 64))
        return sum(sizes)

    assert kept(True) < 0.6 * kept(False)


def test_frozen_blocks_and_norm_eval():
    model = vit(frozen_stages=1).train()
    frozen = {key for key, p in model.named_parameters() if not p.requires_grad}
    assert {key.split('.')[1] for key in frozen} >= {'cls_token', 'pos_embed', 'patch_embed'}
    assert {key.split('.')[2] for key in frozen if '.blocks.' in key} == {'0'}
    assert not model.timm_model.blocks[0].training and model.timm_model.blocks[1].training
    cnn = TimmFeatures('resnet10t', norm_eval=True, model_args=dict(channels=(8,) * 4)).train()
    assert not cnn.timm_model.layer4[0].bn1.training and cnn.timm_model.layer4[0].training


def test_own_checkpoint_loads_with_and_without_later_stages(tmp_path, randomize):
    arguments = dict(model='convnext_atto', model_args=FAMILIES['convnext_atto'][0])
    whole = randomize(TimmFeatures(**arguments))
    detector = {f'backbone.{key}': value for key, value in whole.state_dict().items()}
    torch.save({'state_dict': detector}, tmp_path / 'epoch_12.pth')
    init_cfg = dict(pretrained(tmp_path / 'epoch_12.pth'), prefix='backbone')
    part = TimmFeatures(out_strides=(4, 8), init_cfg=init_cfg, **arguments)
    part.init_weights()
    for key, value in part.state_dict().items():
        assert torch.equal(value, whole.state_dict()[key])


@pytest.mark.parametrize('out_strides', [None, (4, 8)])
def test_other_releases_are_converted_by_the_filter_of_timm(out_strides, tmp_path, randomize):
    """ConvNeXt's authors have other names, and store linear layers of a block as 2-D."""
    arguments = dict(model='convnext_atto', model_args=FAMILIES['convnext_atto'][0])
    donor = randomize(TimmFeatures(**arguments)).timm_model
    released = {}
    for key, value in donor.state_dict().items():
        key = key.replace('stem.', 'downsample_layers.0.')
        if '.downsample.' in key:
            stage, rest = key.removeprefix('stages.').split('.downsample.')
            key = f'downsample_layers.{stage}.{rest}'
        key = key.replace('.blocks.', '.').replace('conv_dw', 'dwconv').replace('mlp.fc', 'pwconv')
        released[key] = value.flatten(1) if 'pwconv' in key and value.ndim == 4 else value
    torch.save({'model': released}, tmp_path / 'authors.pth')
    model = TimmFeatures(
        out_strides=out_strides, init_cfg=pretrained(tmp_path / 'authors.pth'), **arguments
    )
    model.init_weights()
    for key, value in model.timm_model.state_dict().items():
        assert torch.equal(value, donor.state_dict()[key])


def test_positions_of_another_size_are_resized_by_the_filter_of_timm(tmp_path):
    donor = timm.create_model('vit_tiny_patch16_224', **VIT, img_size=96)
    torch.save(donor.state_dict(), tmp_path / 'larger.pth')
    model = vit(init_cfg=pretrained(tmp_path / 'larger.pth'))
    model.init_weights()
    assert model.timm_model.pos_embed.shape[1] == 1 + 16
    assert torch.equal(model.timm_model.cls_token, donor.cls_token)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'blocks.1.norm1.bias': None}, r'missing: timm_model.blocks.1.norm1.bias'),
        ({'blocks.1.gate': torch.ones(1)}, r'unexpected: timm_model.blocks.1.gate'),
        ({'cls_token': torch.ones(1, 1, 9)}, r'mismatched: timm_model.cls_token'),
    ],
)
def test_files_that_do_not_fit_are_refused(change, message, tmp_path):
    state = timm.create_model('vit_tiny_patch16_224', **VIT, img_size=64).state_dict() | change
    state = {key: value for key, value in state.items() if value is not None}
    torch.save(state, tmp_path / 'broken.pth')
    with pytest.raises(ValueError, match=message):
        vit(init_cfg=pretrained(tmp_path / 'broken.pth')).init_weights()


def test_initial_values_of_timm_survive_init_weights():
    model = vit()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.init_weights()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_download_only_on_request_and_its_failure_is_one_sentence(monkeypatch):
    attempts = []

    def offline(*address):
        attempts.append(address)
        raise OSError('no network in this test')

    monkeypatch.setattr(socket.socket, 'connect', offline)
    monkeypatch.setattr(socket, 'getaddrinfo', offline)
    monkeypatch.setattr('time.sleep', lambda seconds: None)  # between the attempts of the hub
    arguments = dict(model='test_convnext', pretrained=True)
    model = TimmFeatures(**arguments)
    assert not attempts
    with pytest.raises(OSError, match=r'could not load its weights of test_convnext .*checkpoint='):
        model.init_weights()
    assert attempts


def test_download_takes_the_weights_of_timm(monkeypatch):
    donor = timm.create_model('test_convnext')
    real, asked = timm.create_model, []

    def create_model(name, pretrained=False, **arguments):
        asked.append(pretrained)
        return donor if pretrained else real(name, **arguments)

    monkeypatch.setattr(timm, 'create_model', create_model)
    model = TimmFeatures('test_convnext', pretrained=True)
    assert not any(asked)
    model.init_weights()
    for key, value in model.timm_model.state_dict().items():
        assert torch.equal(value, donor.state_dict()[key])


def test_missing_timm_is_one_sentence_at_construction(monkeypatch):
    monkeypatch.setitem(sys.modules, 'timm', None)
    with pytest.raises(ImportError, match='needs timm, .* run "pip install timm"$'):
        MODELS.build(dict(type='TimmFeatures', model='resnet10t'))


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(model='resnet_18'), r"got 'resnet_18'; the nearest are \['resnet18'"),
        (dict(model=18), r'model must be one of timm.list_models\(\), got 18'),
        (dict(model='hf-hub:timm/resnet18'), "list_models.*, got 'hf-hub:timm/resnet18'"),
        (dict(out_strides=(4, 64)), r'of resnet10t, \(2, 4, 8, 16, 32\), got \(4, 64\)'),
        (dict(out_strides=(8, 4)), r'out_strides must be ascending, got \(8, 4\)'),
        (dict(out_strides=(4,), out_indices=(1,)), 'out_strides or out_indices, not both'),
        (dict(out_indices=(5,)), r'out_indices must be ascending stage indices in \[0, 4\]'),
        (dict(frozen_stages=5), r'frozen_stages must be in \[-1, 4\] for resnet10t, got 5'),
        (dict(out_norm=True), 'out_norm must be False: resnet10t has no final norm'),
        (dict(model_args=dict(depth=3)), r"resnet10t with .* model_args .*'depth'"),
        (dict(model_args=dict(features_only=True)), "other than .* got {'features_only': True}"),
        (dict(model='crossvit_tiny_240'), r'crossvit_tiny_240 does not, at its size 240x240'),
        (dict(model='dla46_c', with_cp=True), 'with_cp must be False: dla46_c cannot recompute'),
        (dict(pretrained=True, init_cfg=pretrained('a.pth')), 'init_cfg or pretrained=True'),
    ],
)
def test_invalid_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        TimmFeatures(**{'model': 'resnet10t', **arguments})
