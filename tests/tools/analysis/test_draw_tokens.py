import functools

import _pictures
import cv2
import draw_tokens
import numpy as np
import pytest
import torch
from _models import build_part, read_config
from mmengine.registry import MODELS
from mmtoken import record_tokens
from mmtoken.common.records import Regions
from rooms import SMALLEST, smallest_id

# the plainest pipeline and preprocessor of each host
HOSTS = {
    'mmdet': ('DetDataPreprocessor', 'PackDetInputs', dict(pad_size_divisor=32)),
    'mmseg': ('SegDataPreProcessor', 'PackSegInputs', dict(test_cfg=dict(size_divisor=32))),
}
# backbones that record something
DRAWN = [
    backbone
    for room in SMALLEST.values()
    for backbone in room.BACKBONES
    if getattr(room, 'IS_DRAWN', True)
]
TYPES = [backbone['type'] for backbone in DRAWN]
FIRST_OF_EACH_TYPE = [
    pytest.param(one, marks=() if TYPES.index(one['type']) == i else pytest.mark.slow)
    for i, one in enumerate(DRAWN)
]


def names_of_regions(backbone):
    model = MODELS.build(backbone).eval()
    with torch.no_grad(), record_tokens(model) as rec:
        model(torch.zeros(1, 3, 60, 96))
    pictures = [one for record in rec.records for one in record.pictures(0)]
    return [one.name for one in pictures if isinstance(one, Regions)]


@functools.cache
def with_stages():
    """A backbone with the regions stage2, stage3 ..."""
    return next(one for one in DRAWN if 'stage2' in names_of_regions(one))


@pytest.fixture
def photo(tmp_path):
    rng = np.random.default_rng(0)
    image = cv2.resize(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8), (96, 60))
    path = tmp_path / 'photo.png'
    cv2.imwrite(str(path), image)
    return path


@pytest.fixture
def out(tmp_path):
    return tmp_path / 'new' / 'maps'


@pytest.fixture
def write_config(tmp_path):
    """Write a config of a smallest backbone, in the frame of a host."""

    def write(backbone=None, host=None, steps=(), **preprocessor):
        backbone = backbone or with_stages()
        path = tmp_path / f'{host}.py'
        text = f'model = dict(backbone={backbone})\n'
        if host:
            kind, pack, padding = HOSTS[host]
            mean = dict(type=kind, mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, 6.0], bgr_to_rgb=True)
            preprocessor = {**mean, **padding, **preprocessor}
            pipeline = [dict(type='LoadImageFromFile'), *steps, dict(type=pack)]
            text = (
                f"default_scope = '{host}'\n"
                f'model = dict(data_preprocessor={preprocessor}, backbone={backbone})\n'
                f'test_dataloader = dict(dataset=dict(dataset=dict(pipeline={pipeline})))\n'
            )
        path.write_text(text)
        return str(path)

    return write


def draw(config, *arguments, out):
    draw_tokens.main([config, *map(str, arguments), '--out-dir', str(out)])


def names(out):
    return sorted(path.name.removeprefix('photo_').removesuffix('.png') for path in out.iterdir())


@pytest.mark.parametrize('backbone', FIRST_OF_EACH_TYPE, ids=smallest_id)
def test_every_backbone_is_drawn(write_config, backbone, photo, out, capsys):
    draw(write_config(backbone), '--random-weights', photo, out=out)
    shown, warned = capsys.readouterr()
    assert shown.strip() == str(out / 'photo_sheet.png')
    assert 'random weights' in warned and 'no data_preprocessor' in warned
    files, regions = names(out), names_of_regions(backbone)
    assert {'sheet', *regions} < set(files)  # the rest are heat maps
    pictures = [cv2.imread(str(out / f'photo_{name}.png')) for name in regions]
    assert {picture.shape[1] for picture in pictures} == {7 * 96}  # enlarged by a whole number
    sheet = cv2.imread(str(out / 'photo_sheet.png'))
    assert sheet.shape[0] * sheet.shape[1] > (1 + len(regions)) * pictures[0].size / 3


def test_chosen_records(write_config, photo, out):
    draw(write_config(), '--random-weights', photo, '--only', 'stage2', out=out)
    assert names(out) == ['sheet', 'stage2']
    with pytest.raises(ValueError, match="only must match one of .*, got 'stage9'"):
        draw(write_config(), '--random-weights', photo, '--only', 'stage9', out=out / 'b')
    with pytest.raises(ValueError, match=r'maps must be in \[0, .*, got \[99999\]'):
        draw(write_config(), '--random-weights', photo, '--maps', '99999', out=out / 'c')
    assert not (out / 'b').exists() and not (out / 'c').exists()


def test_weights_of_the_model_or_of_the_backbone(write_config, photo, out, tmp_path):
    config = write_config()
    backbone = build_part(read_config(config, {}), 'backbone').backbone
    torch.save(backbone.state_dict(), tmp_path / 'own.pth')
    whole = {f'backbone.{key}': value for key, value in backbone.state_dict().items()}
    whole['head.weight'] = torch.zeros(1)
    torch.save(dict(state_dict=whole, meta={}), tmp_path / 'whole.pth')
    for name in ('own', 'whole'):
        draw(config, tmp_path / f'{name}.pth', photo, '--only', 'stage3', out=out / name)
    a, b = ((out / name / 'photo_stage3.png').read_bytes() for name in ('own', 'whole'))
    assert a == b
    del whole[next(iter(whole))]
    torch.save(whole, tmp_path / 'less.pth')
    with pytest.raises(ValueError, match=r'(?s)does not fit .*missing: '):
        draw(config, tmp_path / 'less.pth', photo, out=out / 'less')
    assert not (out / 'less').exists()


def test_never_writes_over_files(write_config, photo, out):
    out.mkdir(parents=True)
    (out / 'mine.txt').write_text('kept')
    arguments = [write_config(), '--random-weights', photo, '--only', 'stage2']
    with pytest.raises(ValueError, match=r'--out-dir must be new or empty.*--overwrite'):
        draw(*arguments, out=out)
    draw(*arguments, '--overwrite', out=out)
    assert len(list(out.iterdir())) == 3 and (out / 'mine.txt').read_text() == 'kept'
    with pytest.raises(ValueError, match='must be a folder, got the file'):
        draw(*arguments, out=out / 'mine.txt')


def test_pictures_of_one_name(tmp_path):
    paths = [tmp_path / 'a' / 'x.png', tmp_path / 'b' / 'x.jpg', tmp_path / 'y.png']
    assert draw_tokens.unique_stems(paths) == ['x-1', 'x-2', 'y']


def test_bad_images(write_config, photo, out, tmp_path):
    (tmp_path / 'broken.png').write_bytes(b'no picture')
    config = write_config()
    for name in ('nowhere.png', 'broken.png'):
        with pytest.raises(ValueError, match=f'a picture that OpenCV reads, got .*{name}'):
            draw(config, '--random-weights', photo, tmp_path / name, out=out)
        assert not out.exists()
    with pytest.raises(ValueError, match='got no image; name one, or pass --random-weights'):
        draw(config, photo, out=out)


@pytest.mark.parametrize('host', sorted(HOSTS))
def test_pictures_show_what_the_model_sees(write_config, host, photo):
    """Size, order of channels, normalisation and padding are those of the host."""
    pytest.importorskip(host)
    steps = [dict(type='LoadAnnotations'), dict(type='Resize', scale=(48, 30), keep_ratio=True)]
    inputs, picture = _pictures.View(read_config(write_config(host=host, steps=steps), {}))(photo)
    assert inputs.shape == (1, 3, 32, 64)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ([1.0, 2.0, 3.0], [4.0, 5.0, 6.0]))
    small = cv2.resize(cv2.imread(str(photo)), (48, 30))[..., ::-1].copy()
    shown = (inputs[0] * std + mean).permute(1, 2, 0)[:30, :48]
    assert (shown - torch.from_numpy(small)).abs().max() < 1e-3
    assert picture.shape == (320, 640, 3)
    difference = np.abs(
        cv2.resize(picture, (64, 32), interpolation=cv2.INTER_AREA)[:30, :48] - small.astype(int)
    )
    assert difference.mean() < 8
    assert np.abs(picture[-3:].astype(int) - (1, 2, 3)).max() <= 3  # padding, in its own colour


def test_channels_of_the_model(write_config, photo, out):
    steps = [dict(type='mmcv.LoadImageFromFile', color_type='grayscale')]
    grey = dict(mean=[110.0], std=[57.0], bgr_to_rgb=False)
    config = write_config(dict(with_stages(), in_channels=1), 'mmseg', steps, **grey)
    draw(config, '--random-weights', photo, '--only', 'stage1', out=out)
    sheet = cv2.imread(str(out / 'photo_sheet.png'))
    source = sheet[60 : 60 + 320, 8 : 8 + 640]
    assert (source[..., 0] == source[..., 2]).all()


def test_top_down_pipelines_take_a_box(commands, photo):
    mmpose = pytest.importorskip('mmpose.datasets.transforms')
    view = _pictures.View(read_config(str(commands.demo_config), {}))
    inputs, _ = view(photo, (40.0, 10.0, 50.0, 40.0))
    sample = dict(img=cv2.imread(str(photo)), bbox_score=np.ones(1))
    sample['bbox'] = np.array([[40.0, 10.0, 90.0, 50.0]], np.float32)
    height, width = inputs.shape[2:]
    crop = mmpose.TopdownAffine((width, height))(mmpose.GetBBoxCenterScale()(sample))['img']
    norm = view._preprocessor
    expected = (torch.from_numpy(crop[..., ::-1].copy()).permute(2, 0, 1) - norm.mean) / norm.std
    torch.testing.assert_close(inputs[0], expected)
    for box, message in [
        ((200, 0, 10, 10), r'must overlap the image of 96 x 60 pixels, got \(200, 0, 10, 10\)'),
        ((0, 0, 0, 10), r'positive width and height, .* got \(0, 0, 0, 10\)'),
    ]:
        with pytest.raises(ValueError, match=message):
            view(photo, box)


def test_what_cannot_be_drawn_is_refused(write_config, photo):
    pytest.importorskip('mmseg')
    cfg = read_config(write_config(host='mmseg'), {})
    with pytest.raises(ValueError, match='--bbox needs a top-down pipeline'):
        _pictures.View(cfg)(photo, (0, 0, 10, 10))
    flips = [[dict(type='mmcv.RandomFlip', prob=p)] for p in (0.0, 1.0)]
    several = dict(type='mmcv.TestTimeAug', transforms=[*flips, [dict(type='PackSegInputs')]])
    cfg.test_dataloader.dataset.dataset.pipeline = [dict(type='LoadImageFromFile'), several]
    with pytest.raises(ValueError, match='must pack one tensor of inputs, got list'):
        _pictures.View(cfg)(photo)
    cfg.pop('test_dataloader')
    with pytest.raises(ValueError, match='must have a test pipeline .*, got none'):
        _pictures.View(cfg)
