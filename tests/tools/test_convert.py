"""Conversion of released weights: what a file is, what is written, and what is refused."""

import inspect
import sys
from enum import Enum
from types import ModuleType

import pytest
import torch
from golden import cases
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import CheckpointLoader
from mmengine.runner.checkpoint import load_state_dict
from mmtoken.common.backbone import Backbone
from rooms import BACKBONES

RELEASED = [
    case for case in cases.CASES.values() if 'keys' in case and case['name'] in cases.SHIPPED
]
POSE = """
default_scope = 'mmpose'
codec = dict(type='MSRAHeatmap', input_size=(64, 64), heatmap_size=(16, 16), sigma=2)
model = dict(type='TopdownPoseEstimator', backbone={backbone}, head=dict(
    type='HeatmapHead', in_channels={channels}, out_channels=3, deconv_out_channels=(4,),
    deconv_kernel_sizes=(4,), conv_out_channels=(5,), conv_kernel_sizes=(3,),
    decoder=codec, loss=dict(type='KeypointMSELoss')))
"""
SEGMENTATION = """
default_scope = 'mmseg'
model = dict(type='EncoderDecoder', backbone={backbone}, decode_head=dict(
    type='FCNHead', in_channels={channels}, in_index=-1, channels=4, num_classes=3))
"""
DETECTION = """
default_scope = 'mmdet'
model = dict(type='FCOS', backbone={backbone}, neck=dict(
    type='FPN', in_channels=[{channels}], out_channels=32, num_outs=5),
    bbox_head=dict(type='FCOSHead', num_classes=3, in_channels=32, feat_channels=32))
"""
HOSTS = dict(mmpose=POSE, mmseg=SEGMENTATION, mmdet=DETECTION)


@pytest.fixture(scope='module')
def tool(commands):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(commands.tools)
        yield commands.load('convert_weights')


@pytest.fixture
def refused(tool):
    """Call the tool; return its error of usage."""

    def call(*arguments):
        with pytest.raises(tool.UsageError) as error:
            tool.main(list(map(str, arguments)))
        return str(error.value)

    return call


@pytest.fixture
def config_of(tmp_path):
    """Write the config of a model of a host; return its path and the model."""

    def make(host='mmseg'):
        pytest.importorskip(host)
        last = MODELS.build(BACKBONES[0]).num_stages - 1
        backbone = dict(BACKBONES[0], out_indices=(last,))
        channels = MODELS.build(backbone).out_channels[-1]
        text = HOSTS[host].format(backbone=repr(backbone), channels=channels)
        path = tmp_path / f'{host}.py'
        path.write_text(text)
        init_default_scope(host)
        return path, MODELS.build(Config.fromfile(path).model)

    return make


def old_names(model):
    """The weights of a pose estimator by the names of mmpose 0.x."""
    last = len(model.head.conv_layers)
    names = {}
    for key in model.state_dict():
        name = key.replace('head.final_layer.', f'head.final_layer.{last}.')
        name = name.replace('head.conv_layers.', 'head.final_layer.')
        names[key] = name.replace('head.', 'keypoint_head.', 1) if name[:5] == 'head.' else name
    return {names[key]: value for key, value in model.state_dict().items()}


@pytest.mark.parametrize('case', RELEASED, ids=lambda case: case['name'])
def test_one_backbone_recognises_a_released_file(case):
    with torch.device('meta'):
        state = {key: torch.empty(shape) for key, shape, _ in cases.keys(case)}
    inside = {k.removeprefix('backbone.'): v for k, v in state.items() if k[:9] == 'backbone.'}
    kinds = [k for k in MODELS.module_dict.values() if isinstance(k, type)]
    names = {k: k.recognise(inside or state) for k in kinds if issubclass(k, Backbone)}
    assert len([name for name in names.values() if name]) == 1, names


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
@pytest.mark.parametrize('host', HOSTS)
def test_whole_model(host, suffix, tool, config_of, tmp_path, randomize, capsys):
    config, model = config_of(host)
    randomize(model)
    state = old_names(model) if host == 'mmpose' else model.state_dict()
    torch.save(
        dict(meta={}, state_dict={f'module.{k}': v for k, v in state.items()}), tmp_path / 'old.pth'
    )
    new = tmp_path / f'new{suffix}'
    tool.main([str(tmp_path / 'old.pth'), str(new), '--config', str(config)])
    out = capsys.readouterr().out
    assert f'converted: {len(state.keys() - model.state_dict().keys())}' in out
    assert 'missing: 0' in out and 'load_from=' in out
    # as a runner reads it
    content = CheckpointLoader.load_checkpoint(str(new), map_location='cpu')
    fresh = MODELS.build(Config.fromfile(config).model)
    load_state_dict(fresh, content.get('state_dict', content), strict=True)
    for key, value in model.state_dict().items():
        assert torch.equal(fresh.state_dict()[key], value), key


# the layer that depends on the number of classes, in the file and in the model
OF_CLASSES = dict(
    mmseg=('decode_head.conv_seg', 'decode_head.conv_seg'),
    mmdet=('bbox_head.conv_cls', 'bbox_head.conv_cls'),
    mmpose=('keypoint_head.final_layer.3', 'head.final_layer'),
)


@pytest.mark.parametrize('host', HOSTS)
def test_head_of_other_classes(host, tool, refused, config_of, tmp_path, randomize, capsys):
    """Layers that are named keep their initial values; everything else is taken."""
    config, model = config_of(host)
    randomize(model)
    state, (old, new) = (
        dict(old_names(model) if host == 'mmpose' else model.state_dict()),
        OF_CLASSES[host],
    )
    for key in (f'{old}.weight', f'{old}.bias'):
        state[key] = torch.ones(7, *state[key].shape[1:])
    torch.save(dict(state_dict=state), tmp_path / 'old.pth')
    call = [str(one) for one in (tmp_path / 'old.pth', tmp_path / 'new.pth', '--config', config)]
    message = refused(*call)
    assert f'size mismatch for {new}.weight' in message and '--reinitialize REGEX' in message
    message = refused(*call, '--reinitialize', 'nothing')
    assert "must match a key of the model or of SRC, got 'nothing'" in message
    message = refused(*call, '--reinitialize', f'{new}(')
    assert 'must be regular expressions, got' in message and 'unterminated' in message
    tool.main([*call, '--reinitialize', *{rf'{old}\.', rf'{new}\.(weight|bias)'}])
    assert f'reinitialized: 2: {new}.weight, {new}.bias' in capsys.readouterr().out
    found = torch.load(tmp_path / 'new.pth', weights_only=True)['state_dict']
    for key, value in model.state_dict().items():
        assert torch.equal(found[key], value) != key.startswith(f'{new}.'), key


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_backbone_of_another_model(suffix, tool, config_of, tmp_path, randomize, capsys):
    _, donor = config_of('mmdet')
    torch.save(dict(state_dict=randomize(donor).state_dict()), tmp_path / 'old.pth')
    config, model = config_of('mmseg')
    new = tmp_path / f'new{suffix}'
    tool.main([str(tmp_path / 'old.pth'), str(new), '--config', str(config)])
    assert 'does not use all of neck' in capsys.readouterr().err
    model.backbone.init_cfg = dict(type='Pretrained', checkpoint=str(new))
    model.backbone.init_weights()
    for key, value in donor.backbone.state_dict().items():
        assert torch.equal(model.backbone.state_dict()[key], value), key


def test_dry_run_writes_nothing(tool, config_of, tmp_path, capsys):
    config, model = config_of()
    torch.save(model.backbone.state_dict(), tmp_path / 'old.pth')
    before = {*tmp_path.iterdir()}
    tool.main([str(tmp_path / 'old.pth'), '--config', str(config), '--dry-run'])
    assert {*tmp_path.iterdir()} == before and 'loaded: ' in capsys.readouterr().out


def test_weights_that_do_not_fit_are_refused_with_their_keys(refused, config_of, tmp_path):
    config, model = config_of()
    whole, old = model.state_dict(), tmp_path / 'old.pth'
    key = next(key for key in whole if key.startswith('backbone.'))
    wrong = {
        'decode_head.other.weight': dict(whole, **{'decode_head.other.weight': torch.ones(1)}),
        'size mismatch for decode_head.conv_seg.weight': dict(
            whole, **{'decode_head.conv_seg.weight': torch.ones(7, 4, 1, 1)}
        ),
        'decode_head.conv_seg.bias: NaN': dict(
            whole, **{'decode_head.conv_seg.bias': torch.full((3,), torch.nan)}
        ),
        key.removeprefix('backbone.'): {k: v for k, v in whole.items() if k != key},
    }
    for text, state in wrong.items():
        torch.save(dict(state_dict=state), old)
        assert text in refused(old, tmp_path / 'new.pth', '--config', config)
    assert not (tmp_path / 'new.pth').exists()


def test_another_family_is_refused(refused, config_of, tmp_path):
    config, _ = config_of()
    own = BACKBONES[0]['type']
    other = next(one for one in RELEASED if not MODELS.get(own).recognise(states(one)))
    torch.save(states(other), tmp_path / 'old.pth')
    message = refused(tmp_path / 'old.pth', '--dry-run', '--config', config)
    assert f'must fit the file, got {own} and' in message


def states(case):
    return {key: torch.zeros(shape) for key, shape, _ in cases.keys(case)}


def test_a_pickled_class_is_named_and_permitted_alone(
    tool, refused, config_of, tmp_path, monkeypatch
):
    if 'tuple' not in str(inspect.signature(torch.serialization.add_safe_globals)).lower():
        pytest.skip('this torch cannot read a class as another one')
    config, model = config_of()
    module = ModuleType('author_config')
    module.Node = type('Node', (dict,), dict(__module__='author_config'))
    module.Kind = Enum('Kind', 'a b', module='author_config')  # made by a call with arguments
    monkeypatch.setitem(sys.modules, 'author_config', module)
    old = dict(model=model.backbone.state_dict(), config=module.Node(a=1), kind=module.Kind.a)
    torch.save(old, tmp_path / 'old.pth')
    call = (tmp_path / 'old.pth', '--dry-run', '--config', config)
    assert 'pass --allow author_config.Node, which permits just this' in refused(*call)
    assert 'a pickled author_config.Node' in refused(*call, '--allow', 'author_config.Other')
    before = torch.serialization.get_safe_globals()
    assert 'a pickled author_config.Kind' in refused(*call, '--allow', 'author_config.Node')
    del module.Node, module.Kind  # their code is not needed
    tool.main([*map(str, call), '--allow', 'author_config.Node', 'author_config.Kind'])
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(before)


def test_bad_arguments(refused, config_of, tmp_path):
    config, model = config_of()
    src, dst = tmp_path / 'old.pth', tmp_path / 'new.pth'
    torch.save(model.backbone.state_dict(), src)
    rest = ('--config', config)
    assert 'must be an existing file' in refused(tmp_path / 'no.pth', dst, *rest)
    assert 'must be a .pth or .safetensors file' in refused(src, tmp_path / 'new.bin', *rest)
    assert 'must name the file to write' in refused(src, *rest)
    assert 'must be in an existing folder' in refused(src, tmp_path / 'no/new.pth', *rest)
    dst.touch()
    assert 'pass --overwrite' in refused(src, dst, *rest)
    assert 'choose another name' in refused(src, src, *rest, '--overwrite')
    assert 'for --part backbone' in refused(
        src, '--dry-run', *rest, '--part', 'model', '--ignore', 'a'
    )
    assert 'backbone of' in refused(src, '--dry-run', *rest, '--part', 'model')
    config.write_text('model = dict(type="EncoderDecoder")\n')
    assert 'must have a model with a backbone' in refused(src, '--dry-run', *rest)
    config.write_text(SEGMENTATION.format(backbone='dict(type="ResNet", depth=18)', channels=512))
    assert 'the backbone of --config must be one of' in refused(src, '--dry-run', *rest)
