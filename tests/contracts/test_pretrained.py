"""``pretrained``, which stock mmseg bases put into a backbone: ``init_cfg`` by its old name."""

import inspect

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS
from rooms import BACKBONES, smallest_id

pytestmark = pytest.mark.filterwarnings('ignore:pretrained=')


@pytest.mark.parametrize('backbone', BACKBONES, ids=smallest_id)
def test_none_is_accepted_and_a_path_is_loaded_strictly(backbone, tmp_path, randomize):
    donor = randomize(MODELS.build(dict(backbone, pretrained=None)))
    torch.save(donor.state_dict(), tmp_path / 'donor.pth')
    with pytest.warns(UserWarning, match='is deprecated: give the backbone init_cfg'):
        model = MODELS.build(dict(backbone, pretrained=str(tmp_path / 'donor.pth')))
    model.init_weights()
    for key, value in donor.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key


@pytest.mark.parametrize('backbone', BACKBONES, ids=smallest_id)
def test_not_with_init_cfg(backbone):
    init_cfg = dict(type='Pretrained', checkpoint='a.pth')
    with pytest.raises(ValueError, match="not both, got pretrained='b.pth'"):
        MODELS.build(dict(backbone, init_cfg=init_cfg, pretrained='b.pth'))


def takes_true(backbone):
    """Whether the class has an argument of this name itself: True asks for a download."""
    return 'pretrained' in inspect.signature(MODELS.get(backbone['type'])).parameters


NO_PATHS = [
    pytest.param(backbone, value, id=f'{smallest_id(backbone)}-{value}')
    for backbone in BACKBONES
    for value in (3, True, {}, float('nan'))
    if value is not True or not takes_true(backbone)
]


@pytest.mark.parametrize(('backbone', 'value'), NO_PATHS)
def test_no_path(backbone, value):
    with pytest.raises(ValueError, match='pretrained must be a path, got'):
        MODELS.build(dict(backbone, pretrained=value))


@pytest.mark.parametrize('backbone', BACKBONES[:1], ids=smallest_id)
def test_stock_mmseg_base_builds_and_its_checkpoint_is_refused(backbone):
    mmseg = pytest.importorskip('mmseg.utils')
    mmseg.register_all_modules(init_default_scope=False)
    channels = MODELS.build(backbone).out_channels[-1]
    head = dict(type='FCNHead', in_channels=channels, channels=4, num_classes=3, in_index=-1)
    name = 'open-mmlab://resnet50_v1c'
    segmentor = dict(type='mmseg.EncoderDecoder', pretrained=name, decode_head=head)
    model = MODELS.build(ConfigDict(segmentor, backbone=backbone))
    with pytest.raises(FileNotFoundError, match=f'must be an existing file, got {name!r}'):
        model.init_weights()
