import _pictures
import cv2
import numpy as np
import pytest
import token_maps
import torch
from _models import UsageError, read_config
from mmengine.config import Config


@pytest.fixture
def photo(tmp_path):
    rng = np.random.default_rng(0)
    image = cv2.resize(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8), (96, 64))
    path = tmp_path / 'photo.png'
    cv2.imwrite(str(path), image)
    return str(path)


@pytest.fixture
def out(tmp_path):
    return tmp_path / 'new' / 'maps'


def names(out):
    return sorted(path.name for path in out.iterdir())


def test_writes_stages_and_sheet(tiny_config, photo, out, capsys):
    token_maps.main([tiny_config, '--random-weights', photo, '--out-dir', str(out)])
    stages = [f'photo_stage{number}.png' for number in (1, 2, 3, 4)]
    assert names(out) == ['photo_sheet.png', *stages]
    shown, warned = capsys.readouterr()
    assert shown.strip() == str(out / 'photo_sheet.png')
    assert 'random weights' in warned and 'no data_preprocessor' in warned
    stage, sheet = (cv2.imread(str(out / f'photo_{name}.png')) for name in ('stage2', 'sheet'))
    assert stage.shape[1] == 7 * 96  # enlarged by a whole number
    assert sheet.shape[0] > stage.shape[0] and sheet.shape[1] > 2 * stage.shape[1]


def test_scores_and_shape(tiny_config, photo, out):
    options = ['--scores', '--shape', '40', '64', '--out-dir', str(out)]
    token_maps.main([tiny_config, '--random-weights', photo, *options])
    assert {f'photo_score{number}.png' for number in (2, 3, 4)} < set(names(out))
    assert cv2.imread(str(out / 'photo_score2.png')).shape[1] == 640


def test_weights_of_the_model_or_of_the_backbone(tiny_config, photo, out, tmp_path):
    backbone = token_maps.build_part(read_config(tiny_config, {}), 'backbone').backbone
    torch.save(backbone.state_dict(), tmp_path / 'own.pth')
    whole = {f'backbone.{key}': value for key, value in backbone.state_dict().items()}
    whole['head.weight'] = torch.zeros(1)
    torch.save(dict(state_dict=whole, meta={}), tmp_path / 'whole.pth')
    pictures = []
    for name in ('own', 'whole'):
        weights = str(tmp_path / f'{name}.pth')
        token_maps.main([tiny_config, weights, photo, '--out-dir', str(out / name)])
        pictures.append((out / name / 'photo_stage3.png').read_bytes())
    assert pictures[0] == pictures[1]
    del whole['backbone.norm1.weight']
    torch.save(whole, tmp_path / 'less.pth')
    with pytest.raises(UsageError, match=r'does not fit TCFormer .*\n.*missing: norm1.weight'):
        token_maps.main(
            [tiny_config, str(tmp_path / 'less.pth'), photo, '--out-dir', str(out / 'less')]
        )
    assert not (out / 'less').exists()


def test_never_writes_over_files(tiny_config, photo, out):
    out.mkdir(parents=True)
    (out / 'mine.txt').write_text('kept')
    command = [tiny_config, '--random-weights', photo, '--out-dir', str(out)]
    with pytest.raises(UsageError, match=r'--out-dir must be new or empty.*--overwrite'):
        token_maps.main(command)
    token_maps.main([*command, '--overwrite'])
    assert len(names(out)) == 6 and (out / 'mine.txt').read_text() == 'kept'
    with pytest.raises(UsageError, match='must be a folder, got the file'):
        token_maps.main([*command[:-1], str(out / 'mine.txt')])


def test_pictures_of_one_name(tmp_path):
    paths = [tmp_path / 'a' / 'x.png', tmp_path / 'b' / 'x.jpg', tmp_path / 'y.png']
    assert token_maps.unique_stems(paths) == ['x-1', 'x-2', 'y']


def test_bad_images(tiny_config, photo, out, tmp_path):
    (tmp_path / 'broken.png').write_bytes(b'no picture')
    (tmp_path / 'empty.png').write_bytes(b'')
    for name, message in [
        ('nowhere.png', 'existing file, got .*nowhere.png'),
        ('broken.png', 'OpenCV reads .* with 10 bytes'),
        ('empty.png', 'OpenCV reads .* with 0 bytes'),
    ]:
        command = [tiny_config, '--random-weights', photo, str(tmp_path / name)]
        with pytest.raises(UsageError, match=message):
            token_maps.main([*command, '--out-dir', str(out)])
        assert not out.exists()
    with pytest.raises(UsageError, match='got no image; name one, or pass --random-weights'):
        token_maps.main([tiny_config, photo, '--out-dir', str(out)])
    with pytest.raises(UsageError, match='at least 29 pixels .* got 8x64'):
        options = ['--shape', '8', '64', '--out-dir', str(out)]
        token_maps.main([tiny_config, '--random-weights', photo, *options])


def test_box_outside_the_image(tiny_config, photo, out):
    for box, message in [
        (
            '200 0 10 10',
            r'must overlap the image of 96 x 64 pixels, got \(200.0, 0.0, 10.0, 10.0\)',
        ),
        ('0 0 0 10', r'last two positive, got \(0.0, 0.0, 0.0, 10.0\)'),
    ]:
        options = ['--bbox', *box.split(), '--out-dir', str(out)]
        with pytest.raises(UsageError, match=message):
            token_maps.main([tiny_config, '--random-weights', photo, *options])


# -- what the model sees


def test_top_down_crop_is_that_of_mmpose(commands):
    pytest.importorskip('mmpose')
    from mmpose.datasets.transforms import GetBBoxCenterScale, TopdownAffine

    rng = np.random.default_rng(0)
    image = cv2.resize(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8), (160, 120))
    box = (40.0, 10.0, 50.0, 80.0)
    sample = dict(img=image, bbox=np.array([[40.0, 10.0, 90.0, 90.0]]), bbox_score=np.ones(1))
    sample = TopdownAffine(input_size=(96, 128))(GetBBoxCenterScale()(sample))
    cfg = read_config(str(commands.demo_config), {})
    view = _pictures.choose_view(cfg, image.shape[:2], bbox=box)
    assert view.hw == (128, 96)
    difference = np.abs(view.cut(image).astype(int) - sample['img'])
    assert difference.mean() < 3  # mmpose's corners lie half a pixel off


def test_whole_image_without_a_box(commands):
    pytest.importorskip('mmpose')
    view = _pictures.choose_view(read_config(str(commands.demo_config), {}), (120, 160))
    assert view.hw == (128, 96)
    left, top, right, bottom = view.box
    assert (left, right) == (0, 160) and top + bottom == pytest.approx(120)
    assert (bottom - top) / (right - left) == pytest.approx(128 / 96)
    cut = view.cut(np.full((120, 160, 3), 200, np.uint8))
    assert (cut[64] == 200).all() and (cut[0] == 0).all()  # black where it sticks out


@pytest.mark.parametrize(
    'resize, expected',
    [
        (None, (60, 80)),
        (dict(type='Resize', scale=(100, 50)), (50, 100)),
        (dict(type='Resize', scale=(1333, 30), keep_ratio=True), (30, 40)),
        (dict(type='mmdet.Resize', scale=(40, 100), keep_ratio=True), (40, 53)),
    ],
)
def test_sizes_of_test_pipelines(resize, expected):
    steps = [dict(type='LoadImage'), *([resize] if resize else [])]
    dataset = dict(type='Repeat', dataset=dict(pipeline=steps))
    cfg = Config(dict(model=dict(), test_dataloader=dict(dataset=dataset)))
    assert _pictures.choose_view(cfg, (60, 80)).hw == expected
    assert _pictures.choose_view(cfg, (60, 80), shape=(33, 44)).hw == (33, 44)


@pytest.mark.parametrize('to_rgb', [True, False])
def test_normalisation_is_that_of_mmengine(to_rgb):
    from mmengine.model import ImgDataPreprocessor

    how = dict(mean=[1.0, 2, 3], std=[4.0, 5, 6], bgr_to_rgb=to_rgb)
    rgb = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    bgr = torch.from_numpy(rgb[..., ::-1].copy()).permute(2, 0, 1)
    expected = ImgDataPreprocessor(**how)(dict(inputs=[bgr]))['inputs']
    cfg = Config(dict(model=dict(data_preprocessor=dict(type='X', **how))))
    assert torch.allclose(_pictures.normalise(cfg, [rgb]), expected)
