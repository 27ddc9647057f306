import _pictures
import cv2
import draw_tokens
import numpy as np
import pytest
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
    draw_tokens.main([tiny_config, '--random-weights', photo, '--out-dir', str(out)])
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
    draw_tokens.main([tiny_config, '--random-weights', photo, *options])
    assert {f'photo_score{number}.png' for number in (2, 3, 4)} < set(names(out))
    assert cv2.imread(str(out / 'photo_score2.png')).shape[1] == 640


def test_weights_of_the_model_or_of_the_backbone(tiny_config, photo, out, tmp_path):
    backbone = draw_tokens.build_part(read_config(tiny_config, {}), 'backbone').backbone
    torch.save(backbone.state_dict(), tmp_path / 'own.pth')
    whole = {f'backbone.{key}': value for key, value in backbone.state_dict().items()}
    whole['head.weight'] = torch.zeros(1)
    torch.save(dict(state_dict=whole, meta={}), tmp_path / 'whole.pth')
    pictures = []
    for name in ('own', 'whole'):
        weights = str(tmp_path / f'{name}.pth')
        draw_tokens.main([tiny_config, weights, photo, '--out-dir', str(out / name)])
        pictures.append((out / name / 'photo_stage3.png').read_bytes())
    assert pictures[0] == pictures[1]
    del whole['backbone.norm1.weight']
    torch.save(whole, tmp_path / 'less.pth')
    with pytest.raises(UsageError, match=r'does not fit TCFormer .*\n.*missing: norm1.weight'):
        draw_tokens.main(
            [tiny_config, str(tmp_path / 'less.pth'), photo, '--out-dir', str(out / 'less')]
        )
    assert not (out / 'less').exists()


def test_never_writes_over_files(tiny_config, photo, out):
    out.mkdir(parents=True)
    (out / 'mine.txt').write_text('kept')
    command = [tiny_config, '--random-weights', photo, '--out-dir', str(out)]
    with pytest.raises(UsageError, match=r'--out-dir must be new or empty.*--overwrite'):
        draw_tokens.main(command)
    draw_tokens.main([*command, '--overwrite'])
    assert len(names(out)) == 6 and (out / 'mine.txt').read_text() == 'kept'
    with pytest.raises(UsageError, match='must be a folder, got the file'):
        draw_tokens.main([*command[:-1], str(out / 'mine.txt')])


def test_pictures_of_one_name(tmp_path):
    paths = [tmp_path / 'a' / 'x.png', tmp_path / 'b' / 'x.jpg', tmp_path / 'y.png']
    assert draw_tokens.unique_stems(paths) == ['x-1', 'x-2', 'y']


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
            draw_tokens.main([*command, '--out-dir', str(out)])
        assert not out.exists()
    with pytest.raises(UsageError, match='got no image; name one, or pass --random-weights'):
        draw_tokens.main([tiny_config, photo, '--out-dir', str(out)])
    with pytest.raises(UsageError, match='at least 29 pixels .* got 8x64'):
        options = ['--shape', '8', '64', '--out-dir', str(out)]
        draw_tokens.main([tiny_config, '--random-weights', photo, *options])


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
            draw_tokens.main([tiny_config, '--random-weights', photo, *options])


# -- soft clusters


def test_clusters_argmax_maps_heat_maps_and_sheet(paca_config, photo, out, capsys):
    draw_tokens.main([paca_config, '--random-weights', photo, '--out-dir', str(out)])
    stages = [f'photo_{kind}{n}.png' for kind in ('clusters', 'stage') for n in (1, 2, 3)]
    assert names(out) == sorted(['photo_sheet.png', *stages])
    notes = capsys.readouterr().err.splitlines()
    assert notes[-1] == 'note: no clusters in stage 4, which is left out'
    stage, heats, sheet = (
        cv2.imread(str(out / f'photo_{name}.png')) for name in ('stage2', 'clusters2', 'sheet')
    )
    # 96 x 64 becomes 75 x 50, which is padded to 96 x 64, and drawn 7 times as large
    assert stage.shape[1] == 7 * 96 and (stage[-14 * 7 :, :, :] != 0).any()
    assert sheet.shape[1] == 2 * (stage.shape[1] + 8) + 8  # input and 3 stages
    assert heats.shape[1] == 3 * (640 + 8) + 8  # 9 clusters


def test_chosen_clusters_are_larger(paca_config, photo, out):
    command = [paca_config, '--random-weights', photo, '--out-dir']
    draw_tokens.main([*command, str(out / 'one'), '--clusters', '7'])
    assert names(out / 'one') == [
        *('photo_clusters2.png', 'photo_sheet.png'),
        *(f'photo_stage{number}.png' for number in (1, 2, 3)),
    ]
    assert cv2.imread(str(out / 'one' / 'photo_clusters2.png')).shape[1] == 7 * 96 + 16
    with pytest.raises(UsageError, match=r'in \[0, 8\], got \[9\]; .* 1: 4, 2: 9, 3: 6'):
        draw_tokens.main([*command, str(out / 'two'), '--clusters', '9'])
    assert not (out / 'two').exists()


def test_clustering_of_a_block(paca_config, photo, out, capsys):
    own = ['--cfg-options', 'model.backbone.share=block']
    command = [paca_config, '--random-weights', photo, '--out-dir']
    for block in ('0', '1'):
        torch.manual_seed(0)
        draw_tokens.main([*command, str(out / block), '--block', block, *own])
    assert [name for name in names(out / '1') if 'clusters' in name] == ['photo_clusters2.png']
    assert 'note: no clustering in block 1 in stage 1, 3, 4, which' in capsys.readouterr().err
    maps = [(out / block / 'photo_stage2.png').read_bytes() for block in ('0', '1')]
    assert maps[0] != maps[1]
    with pytest.raises(UsageError, match=r'got 1; choose of stage 1: \[0\]; stage 2: \[0\]'):
        draw_tokens.main([*command, str(out / 'shared'), '--block', '1'])


def test_clusters_of_the_model_or_of_the_backbone(paca_config, photo, out, tmp_path):
    backbone = draw_tokens.build_part(read_config(paca_config, {}), 'backbone').backbone
    whole = {f'backbone.{key}': value for key, value in backbone.state_dict().items()}
    whole['decode_head.conv_seg.weight'] = torch.zeros(1)
    torch.save(backbone.state_dict(), tmp_path / 'own.pth')
    torch.save(dict(state_dict=whole), tmp_path / 'whole.pth')
    for name in ('own', 'whole'):
        weights = str(tmp_path / f'{name}.pth')
        draw_tokens.main([paca_config, weights, photo, '--out-dir', str(out / name)])
    for picture in ('stage1', 'clusters3'):
        a, b = ((out / name / f'photo_{picture}.png').read_bytes() for name in ('own', 'whole'))
        assert a == b


def test_no_clusters_at_all(paca_config, photo, out):
    command = [paca_config, '--random-weights', photo, '--out-dir', str(out)]
    with pytest.raises(UsageError, match='got PaCaViT without any'):
        draw_tokens.main([*command, '--cfg-options', 'model.backbone.num_clusters=(0,0,0,0)'])
    assert not out.exists()


# -- semantic tokens


def test_units_tokens_and_sheet(stvit_config, photo, out):
    draw_tokens.main([stvit_config, '--random-weights', photo, '--out-dir', str(out)])
    assert names(out) == [
        *('photo_sheet.png', 'photo_tokens0.png', 'photo_tokens1.png'),
        *('photo_unit0.png', 'photo_unit1.png'),
    ]
    unit, tokens, sheet = (
        cv2.imread(str(out / f'photo_{name}.png')) for name in ('unit0', 'tokens0', 'sheet')
    )
    assert unit.shape[1] == 7 * 96 and sheet.shape[1] == 2 * (7 * 96 + 8) + 8
    # a map of 4x6 patches has 2x3 tokens with patches: six pairs of maps
    assert (tokens.shape[1] - 8) % (2 * (480 + 2) + 2 + 8) == 0


def test_chosen_unit_and_tokens(stvit_config, photo, out):
    command = [stvit_config, '--random-weights', photo, '--out-dir']
    chosen = ['--unit', '1', '--tokens', '4']
    for step in ('generate', 'refine'):
        torch.manual_seed(0)
        draw_tokens.main([*command, str(out / step), *chosen, '--step', step])
    assert names(out / 'refine') == [f'photo_{n}.png' for n in ('sheet', 'tokens1', 'unit1')]
    maps = [cv2.imread(str(out / step / 'photo_tokens1.png')) for step in ('generate', 'refine')]
    assert maps[0].shape[1] == 2 * (7 * 96 + 2) + 2 + 16 and (maps[0] != maps[1]).any()
    for option, message in [
        (['--tokens', '4', '9'], r'tokens must be numbers in \[0, 8\], got \[9\]; .* 3 rows of 3'),
        (['--unit', '2'], r'unit must be a number in \[0, 1\], got 2'),
    ]:
        with pytest.raises(UsageError, match=message):
            draw_tokens.main([*command, str(out / 'wrong'), *option])
        assert not (out / 'wrong').exists()


def test_without_recovery(stvit_swin_config, photo, out):
    draw_tokens.main([stvit_swin_config, '--random-weights', photo, '--out-dir', str(out)])
    assert names(out) == [f'photo_{name}.png' for name in ('sheet', 'tokens0', 'unit0')]


# -- options of another kind of backbone


@pytest.mark.parametrize(
    'config, options, message',
    [
        ('paca', '--scores', '--scores needs .* importance scores, got one with soft clusters'),
        ('stvit', '--scores', '--scores needs .* importance scores, got one with semantic tokens'),
        ('tiny', '--clusters 0', '--clusters needs .* soft clusters, got one with token sets'),
        ('tiny', '--block 0', '--block needs .* soft clusters, got one with token sets'),
        ('stvit', '--clusters 0 --block 0', '--clusters and --block need .* soft clusters, got'),
        ('tiny', '--tokens 0', '--tokens needs .* semantic tokens, got one with token sets'),
        ('paca', '--unit 0', '--unit needs .* semantic tokens, got one with soft clusters'),
        ('paca', '--step refine', '--step needs .* semantic tokens, got one with soft clusters'),
    ],
)
def test_options_of_another_kind_of_backbone(request, config, options, message, photo, out):
    path = request.getfixturevalue(f'{config}_config')
    with pytest.raises(UsageError, match=f'{message}.*; leave out what does not apply'):
        draw_tokens.main([path, '--random-weights', photo, '--out-dir', str(out), *options.split()])
    assert not out.exists()


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
        (dict(type='Resize', scale=40), (40, 40)),
        (dict(type='Resize', scale_factor=0.5), (30, 40)),
        (dict(type='Resize', scale_factor=(0.5, 2.0)), (120, 40)),
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
    assert _pictures.padded_size(cfg, expected) == expected


@pytest.mark.parametrize('image_hw', [(60, 80), (375, 500), (427, 640), (333, 1000), (640, 427)])
@pytest.mark.parametrize(
    'resize',
    [
        dict(scale=(1333, 800), keep_ratio=True),
        dict(scale=(2048, 512), keep_ratio=True),
        dict(scale=(533, 320), keep_ratio=True),
        dict(scale=(211, 97), keep_ratio=False),
        dict(scale_factor=0.37, keep_ratio=True),
    ],
)
def test_resize_is_that_of_mmcv(image_hw, resize):
    transforms = pytest.importorskip('mmcv.transforms')
    image = np.zeros((*image_hw, 3), np.uint8)
    expected = transforms.Resize(**resize)(dict(img=image))['img'].shape[:2]
    cfg = Config(dict(model=dict(), test_pipeline=[dict(type='Resize', **resize)]))
    assert _pictures.choose_view(cfg, image_hw).hw == expected


def padded(cfg, rgb):
    hw = _pictures.padded_size(cfg, rgb.shape[:2])
    return _pictures.pad_inputs(cfg, _pictures.normalise(cfg, [rgb]), hw)


NORM = dict(mean=[1.0, 2, 3], std=[4.0, 5, 6], bgr_to_rgb=True)


def test_padding_is_that_of_mmdet():
    pytest.importorskip('mmdet')
    from mmdet.models import DetDataPreprocessor
    from mmdet.structures import DetDataSample

    how = dict(NORM, pad_size_divisor=32, pad_value=0.5)
    rgb = np.random.default_rng(0).integers(0, 256, (45, 70, 3), dtype=np.uint8)
    bgr = torch.from_numpy(rgb[..., ::-1].copy()).permute(2, 0, 1)
    sample = DetDataSample(metainfo=dict(img_shape=(45, 70)))
    expected = DetDataPreprocessor(**how)(dict(inputs=[bgr], data_samples=[sample]))['inputs']
    found = padded(Config(dict(model=dict(data_preprocessor=dict(type='X', **how)))), rgb)
    assert found.shape == (1, 3, 64, 96) and torch.allclose(found, expected)


@pytest.mark.parametrize(
    'test_cfg, expected_hw',
    [(None, (45, 70)), (dict(size_divisor=32), (64, 96)), (dict(size=(64, 64)), (64, 70))],
)
def test_padding_is_that_of_mmseg(test_cfg, expected_hw):
    """In tests it pads only as ``test_cfg`` says, whatever the size of training crops is."""
    pytest.importorskip('mmseg')
    from mmseg.models import SegDataPreProcessor
    from mmseg.structures import SegDataSample

    how = dict(NORM, size=(128, 128), pad_val=0, seg_pad_val=255, test_cfg=test_cfg)
    rgb = np.random.default_rng(0).integers(0, 256, (45, 70, 3), dtype=np.uint8)
    bgr = torch.from_numpy(rgb[..., ::-1].copy()).permute(2, 0, 1)
    sample = SegDataSample(metainfo=dict(img_shape=(45, 70)))
    expected = SegDataPreProcessor(**how)(dict(inputs=[bgr], data_samples=[sample]))['inputs']
    found = padded(Config(dict(model=dict(data_preprocessor=dict(type='X', **how)))), rgb)
    assert found.shape[2:] == expected_hw and torch.allclose(found, expected)


def test_padding_is_drawn_black_at_the_bottom_and_on_the_right():
    picture = _pictures.pad_picture(np.full((2, 3, 3), 9, np.uint8), (4, 4))
    assert (picture[:2, :3] == 9).all() and picture.sum() == 2 * 3 * 3 * 9


@pytest.mark.parametrize('to_rgb', [True, False])
def test_normalisation_is_that_of_mmengine(to_rgb):
    from mmengine.model import ImgDataPreprocessor

    how = dict(mean=[1.0, 2, 3], std=[4.0, 5, 6], bgr_to_rgb=to_rgb)
    rgb = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    bgr = torch.from_numpy(rgb[..., ::-1].copy()).permute(2, 0, 1)
    expected = ImgDataPreprocessor(**how)(dict(inputs=[bgr]))['inputs']
    cfg = Config(dict(model=dict(data_preprocessor=dict(type='X', **how))))
    assert torch.allclose(_pictures.normalise(cfg, [rgb]), expected)
