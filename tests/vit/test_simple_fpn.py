"""SimpleFPN: equality with a plain twin that reads both releases' names, sizes, errors."""

import pytest
import torch
from mmengine.registry import MODELS
from mmtoken.common.strict_load import load_state_dict_strict
from mmtoken.vit import SimpleFPN
from parity import check_equal
from torch.nn import functional as F

# per level: names of the resizing layers, of the 1x1 and of the 3x3 convolution
DETECTRON2 = {
    4: ('simfp_2.', 'simfp_2.4', 'simfp_2.5', '.weight', '.norm.'),
    2: ('simfp_3.', 'simfp_3.1', 'simfp_3.2', '.weight', '.norm.'),
    1: ('simfp_4.', 'simfp_4.0', 'simfp_4.1', '.weight', '.norm.'),
    0.5: ('simfp_5.', 'simfp_5.1', 'simfp_5.2', '.weight', '.norm.'),
}
MMDET = {
    scale: (f'fpn{i + 1}.', f'lateral_convs.{i}', f'fpn_convs.{i}', '.conv.weight', '.norm_layer.')
    for i, scale in enumerate((4, 2, 1, 0.5))
}
RELEASES = {'detectron2': DETECTRON2, 'mmdet': MMDET}


def released_state(names, dim, out):
    """Random weights under the names of a release."""
    up, half = names[4][0], dim // 2
    state = {
        f'{up}0.weight': (dim, half, 2, 2),
        f'{up}0.bias': (half,),
        f'{up}1.weight': (half,),
        f'{up}1.bias': (half,),
        f'{up}3.weight': (half, dim // 4, 2, 2),
        f'{up}3.bias': (dim // 4,),
        f'{names[2][0]}0.weight': (dim, half, 2, 2),
        f'{names[2][0]}0.bias': (half,),
    }
    for scale, (_, lateral, smooth, conv, norm) in names.items():
        state[lateral + conv] = (out, dim // max(1, int(scale)), 1, 1)
        state[smooth + conv] = (out, out, 3, 3)
        for module in (lateral, smooth):
            state[module + norm + 'weight'] = state[module + norm + 'bias'] = (out,)
    return {key: torch.randn(shape, dtype=torch.float64) for key, shape in state.items()}


def channel_norm(x, weight, bias):
    centred = x - x.mean(1, keepdim=True)
    scaled = centred / (centred.square().mean(1, keepdim=True) + 1e-6).sqrt()
    return scaled * weight[:, None, None] + bias[:, None, None]


def twin(x, state, names):
    """p2 to p6, from the weights under the names of a release."""

    def enlarge(x, key):
        return F.conv_transpose2d(x, state[key + '.weight'], state[key + '.bias'], stride=2)

    up = names[4][0]
    inner = channel_norm(enlarge(x, f'{up}0'), state[f'{up}1.weight'], state[f'{up}1.bias'])
    resized = {
        4: enlarge(F.gelu(inner), f'{up}3'),
        2: enlarge(x, f'{names[2][0]}0'),
        1: x,
        0.5: F.max_pool2d(x, 2, 2),
    }
    maps = []
    for scale, (_, lateral, smooth, conv, norm) in names.items():
        y = resized[scale]
        for module, pad in ((lateral, 0), (smooth, 1)):
            affine = (state[module + norm + 'weight'], state[module + norm + 'bias'])
            y = channel_norm(F.conv2d(y, state[module + conv], padding=pad), *affine)
        maps.append(y)
    return (*maps, F.max_pool2d(maps[-1], 1, 2))


@pytest.mark.parametrize('names', RELEASES.values(), ids=RELEASES)
@pytest.mark.parametrize('hw', [(2, 3), (7, 4)])
def test_loads_either_release_and_equals_the_twin(names, hw):
    state = released_state(names, 8, 12)
    neck = SimpleFPN(8, 12).double()
    report = load_state_dict_strict(neck, {**state, 'net.pos_embed': torch.zeros(1)})
    assert report.ignored == ('net.pos_embed',)
    assert len(report.converted) == (len(state) if names is MMDET else 0)
    x = torch.randn(2, 8, *hw, dtype=torch.float64, requires_grad=True)
    got, want = neck((x,)), twin(x, state, names)
    assert [m.shape for m in got] == [m.shape for m in want]
    check_equal(*(torch.cat([m.flatten() for m in maps]) for maps in (got, want)), {'x': x})


@pytest.mark.parametrize(
    ('dim', 'count'), [(768, 5_560_000), (1024, 7_805_184), (1280, 10_640_192)]
)
def test_parameter_counts(dim, count):
    with torch.device('meta'):
        neck = SimpleFPN(dim)
    assert sum(p.numel() for p in neck.parameters()) == count


@pytest.mark.parametrize('extra', ['pool', 'conv_on_output', 'conv_on_input'])
@pytest.mark.parametrize('scales', [(4, 2, 1, 0.5), (2, 1), [1, 0.5]])
def test_sizes_and_gradients_with_any_levels(scales, extra):
    neck = MODELS.build(
        dict(
            type='SimpleFPN', in_channels=8, out_channels=6, scales=scales, num_extra=2, extra=extra
        )
    )
    maps = neck((torch.zeros(0), torch.randn(1, 8, 9, 6)))
    expected = [(int(9 * scale), int(6 * scale)) for scale in scales]
    for _ in range(2):
        expected.append(tuple(-(-side // 2) for side in expected[-1]))
    assert [m.shape for m in maps] == [(1, 6, *hw) for hw in expected]
    assert all(m.is_contiguous() for m in maps)
    sum(m.square().sum() for m in maps).backward()
    assert all(p.grad is not None for p in neck.parameters())


@pytest.mark.parametrize('extra', ['conv_on_output', 'conv_on_input'])
def test_extra_convolutions_as_in_retinanet(extra):
    neck = SimpleFPN(8, 6, scales=(1, 0.5), num_extra=2, extra=extra)
    x = torch.randn(1, 8, 9, 6)
    *_, output, sixth, seventh = neck((x,))
    first, second = neck.extra_convs
    source = output if extra == 'conv_on_output' else F.max_pool2d(x, 2)
    torch.testing.assert_close(sixth, first(source))
    torch.testing.assert_close(seventh, second(sixth.relu()))


def test_single_out_is_the_first_level_and_builds_no_other():
    whole, single = SimpleFPN(8, 6), SimpleFPN(8, 6, single_out=True)
    report = load_state_dict_strict(single, whole.state_dict())
    assert {key.split('.')[0] for key in report.ignored} == {'simfp_3', 'simfp_4', 'simfp_5'}
    x = torch.randn(1, 8, 3, 4)
    (only,) = single([x])
    assert torch.equal(only, whole([x])[0])


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(scales=(4, 3)), r'scales must be descending numbers out of \(4, 2, 1, 0.5\), got'),
        (dict(scales=(1, 2)), r'scales must be descending .* got \(1, 2\)'),
        (dict(scales=()), r'scales must be descending .* got \(\)'),
        (dict(scales=4), 'scales must be descending .* got 4'),
        (dict(in_channels=6), 'in_channels must be a multiple of the largest .* in_channels=6'),
        (dict(single_out=True, num_extra=1), 'num_extra must be 0 with single_out=True, got 1'),
        (dict(extra='conv'), "extra must be one of .* got 'conv'"),
        (dict(num_extra=-1), 'num_extra must be a whole number >= 0, got -1'),
        (dict(norm_eps=0), r'norm_eps must be a number in \(0, 1\), got 0'),
    ],
)
def test_invalid_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        SimpleFPN(**{'in_channels': 8, **arguments})


@pytest.mark.parametrize(
    ('inputs', 'message'),
    [
        ((torch.zeros(1, 4, 3, 3),), r"in_channels=8, got 4 .* backbone's out_channels\[-1\]"),
        ((torch.zeros(1, 8, 9),), r'the map must have the shape \(B, C, H, W\), got \(1, 8, 9\)'),
        ((torch.zeros(1, 8, 1, 9),), 'at least 2x2 cells for scale 0.5, got 1x9'),
        ((), 'needs a tuple of maps, .* got tuple of length 0'),
        (torch.zeros(1, 8, 3, 3), 'needs a tuple of maps, .* got Tensor of length 1'),
    ],
)
def test_invalid_inputs(inputs, message):
    with pytest.raises(ValueError, match=message):
        SimpleFPN(8)(inputs)
