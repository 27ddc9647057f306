"""The explorer: its data, and the page in a browser."""

import base64
import json
import re
import shutil
import time
import zlib

import cv2
import explore
import fixed_positions  # noqa: F401, registered
import numpy as np
import pytest
import torch
from _explorer import LEVELS, pack_heats, pack_modes, pack_regions, render
from mmengine.registry import MODELS
from mmtoken.analysis.maps import record_backbone
from mmtoken.common.records import Heats, Regions
from mmtoken.query_key.adapters import find_layers
from mmtoken.query_key.maps import Mode
from mmtoken.query_key.report import analyse
from rooms import SMALLEST, smallest_id

SIZE = (60, 96)
ALL = [backbone for room in SMALLEST.values() for backbone in room.BACKBONES]


def unpack(packed):
    kind = '<u4' if packed['kind'] == 'regions' else np.uint8
    values = np.frombuffer(zlib.decompress(base64.b64decode(packed['data'])), kind)
    return values.reshape(-1, packed['h'], packed['w'])


def numbers(packed):
    """Heat maps as the page reads them; NaN where they are unknown."""
    low, high = (np.array(packed[name])[:, None, None] for name in ('low', 'high'))
    levels = unpack(packed).astype(float)
    return np.where(levels > LEVELS, np.nan, low + (high - low) * levels / LEVELS)


def data_of(page):
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL).group(1))


@pytest.fixture
def photo(tmp_path):
    rng = np.random.default_rng(0)
    image = cv2.resize(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8), SIZE[::-1])
    cv2.imwrite(str(tmp_path / 'photo <1>.png'), image)
    return tmp_path / 'photo <1>.png'


def explored(backbone, photo, *arguments):
    config, out = photo.with_name('config.py'), photo.with_name('page.html')
    config.write_text(f'model = dict(backbone={backbone})')
    arguments = (config, '--random-weights', photo, '-o', out, '--overwrite', *arguments)
    explore.main([str(one) for one in arguments])
    return out.read_text()


@pytest.mark.parametrize('backbone', ALL, ids=smallest_id)
def test_page_of_every_backbone(backbone, photo):
    """Its parts fit together, and nothing comes from a network."""
    try:
        find_layers(MODELS.build(backbone))
    except ValueError:
        if not record(backbone):
            with pytest.raises(ValueError, match='must have tokens or attention to show, got none'):
                explored(backbone, photo)
            return
        page = explored(backbone, photo)
    else:
        page = explored(backbone, photo, '--layers', 0)
    assert not re.search(r'(src|href)="(?!data:)|url\(|@import|fetch\(', page)
    (image,) = data_of(page)['images']
    assert image['name'] == 'photo <1>' and image['size'] == list(SIZE)
    names = [view['name'] for view in image['views']]
    assert names and len(set(names)) == len(names)
    for one in (one for view in image['views'] for one in view['maps']):
        for part in (one.get('queries'), one.get('keys'), one.get('query'), one):
            if part and 'data' in part:
                assert len(unpack(part)) == len(part.get('labels', [0]))
                covered = [part['stride'] * part[side] for side in 'hw']
                assert covered[0] >= SIZE[0] - 31 and covered[1] >= SIZE[1] - 31
        if 'query' in one:
            assert unpack(one['query']).max() == len(one['labels']) - 1


def test_pictures_are_packed_without_loss_of_cells():
    regions = Regions('stage1', 'title', torch.randint(3, 9, (15, 24)), 4)
    packed = pack_regions(regions)
    assert np.array_equal(
        unpack(packed)[0], regions.labels.unique(return_inverse=True)[1].numpy()
    ) and (packed['h'], packed['w'], packed['stride']) == (15, 24, 4)
    values = torch.randn(5, 15, 24)
    values[1, :3], values[2] = torch.nan, 7.0
    values[3] = torch.nan
    packed = pack_heats(Heats('a', 'title', values, 4, torch.tensor([[0, 1, 2, 3]] * 5)), 'a')
    span = np.nan_to_num(np.ptp(np.nan_to_num(values.numpy()), (1, 2)))[:, None, None]
    np.testing.assert_allclose(numbers(packed), values.numpy(), atol=(span / 500 + 1e-4).max())
    assert packed['boxes'][0] == [0, 1, 2, 3]


def test_large_sheets_are_averaged(monkeypatch):
    monkeypatch.setattr('_explorer.MOST_NUMBERS', 2 * 4 * 6)
    values = torch.rand(2, 7, 12)
    packed = pack_heats(Heats('a', 'title', values, 4, torch.tensor([[0, 2, 4, 6]] * 2)), 'a')
    assert (packed['h'], packed['w'], packed['stride']) == (4, 6, 8)
    want = values[:, 6:, 2:4].mean((1, 2))  # the last row is half a square
    np.testing.assert_allclose(numbers(packed)[:, 3, 1], want, atol=3e-3)
    assert packed['boxes'][0] == [0, 1, 2, 3]


def test_what_is_refused(photo, capsys):
    attending = next(b for b in ALL if 'Attention' in str(record(b)))
    with pytest.raises(ValueError, match="the layer must be one of .* got '99'"):
        explored(attending, photo, '--layers', 99)
    with pytest.raises(ValueError, match='must take inputs of 60x96 pixels, .* got .*84 patches'):
        explored(dict(type='FixedPositions'), photo)
    with pytest.raises(ValueError, match='got no image'):
        explore.main(['config.py', 'weights.pth', '-o', str(photo.with_name('x.html'))])
    with pytest.raises(ValueError, match='--out must be a new file'):
        explore.main(['config.py', 'weights.pth', 'a.png', '-o', str(photo)])


def record(backbone):
    try:
        return record_backbone(MODELS.build(backbone).eval(), torch.zeros(1, 3, *SIZE)).records
    except ValueError:
        return []


# ---- in a browser ----------------------------------------------------------------------------


def synthetic_page():
    """Two images with regions, heat maps, attention and modes of random numbers."""
    torch.manual_seed(0)
    grid = torch.arange(6 * 8).view(6, 8)
    images = []
    for name in ('one', 'two'):
        boxes = torch.stack((grid // 8, grid % 8, grid // 8 + 1, grid % 8 + 1), -1).flatten(0, 1)
        attention = torch.rand(48, 6, 8).masked_fill(torch.rand(48, 6, 8) < 0.2, torch.nan)
        regions = pack_regions(Regions('stage1', 'regions of stage 1', torch.rand(6, 8) > 0.5, 8))
        clusters = pack_heats(
            Heats('clusters', 'five clusters', torch.rand(5, 6, 8), 8), 'clusters'
        )
        names = [f'query {k}' for k in range(48)]
        attention = pack_heats(Heats('attn', 'attention', attention, 8, boxes), 'attn', names)
        query = pack_regions(Regions('attn', 'queries', grid, 8))
        modes = [Mode(0, n, 0.5, 0.1, *np.random.default_rng(n).random((2, 6, 8))) for n in (0, 1)]
        views = [
            dict(group='Tokens', name='a', title='stage 1', maps=[regions, clusters]),
            dict(group='Attention', name='b', title='b', maps=[dict(attention, query=query)]),
            dict(group='Modes', name='c', title='c', maps=[pack_modes(modes, 'm', lambda _: 8)]),
        ]
        grey = base64.b64encode(cv2.imencode('.png', np.full((48, 64, 3), 99, np.uint8))[1])
        src = f'data:image/png;base64,{grey.decode()}'
        images.append(dict(name=name, src=src, size=(48, 64), views=views))
    attending = next(b for b in ALL if 'Attention' in str(record(b)))
    layers = analyse(MODELS.build(attending)).layers
    return render(images, title='title', about='', layers=layers, skipped=[('x', 'reason')])


class Browser:
    """The page in headless Chromium."""

    def __init__(self, driver, page):
        self.driver, self.data = driver, data_of(page)
        self.palette = np.frombuffer(base64.b64decode(self.data['palette']), np.uint8).reshape(
            -1, 3
        )

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def overlay(self):
        """Pixels ``(H, W, 4)`` over the image: one per cell."""
        script = """const c = document.getElementById('overlay');
            return [c.height, c.width, Array.from(c.getContext('2d')
                .getImageData(0, 0, c.width, c.height).data)]"""
        height, width, pixels = self.run(script)
        return np.array(pixels).reshape(height, width, 4)

    def text(self, name):
        return self.run('return document.getElementById(arguments[0]).textContent', name)

    def point(self, row, column, kind='mouse'):
        """Move to the middle of a cell of 8 pixels."""
        from selenium.webdriver.common.actions.action_builder import ActionBuilder
        from selenium.webdriver.common.actions.pointer_input import PointerInput

        script = """const r = document.getElementById('stage').getBoundingClientRect();
            return [r.left, r.top, r.width, r.height]"""
        left, top, width, height = self.run(script)
        x, y = left + width * (column + 0.5) / 8, top + height * (row + 0.5) / 6
        actions = ActionBuilder(self.driver, mouse=PointerInput(kind, kind))
        actions.pointer_action.move_to_location(round(x), round(y))
        if kind == 'touch':
            actions.pointer_action.pointer_down().pointer_up()
        actions.perform()

    def choose(self, name, value):
        """Choose in a list, and wait until the data are unpacked."""
        script = """const [name, value] = arguments, select = document.getElementById(name);
            select.value = value;
            select.dispatchEvent(new Event('change'));"""
        self.run(script, name, value)
        self.wait()

    def wait(self):
        script = "return document.getElementById('stage').getAttribute('aria-busy') == 'false'"
        deadline = time.monotonic() + 20
        while not self.run(script):
            assert time.monotonic() < deadline, 'the page is not ready'
            time.sleep(0.02)

    def keys(self, *keys):
        from selenium.webdriver.common.action_chains import ActionChains

        for key in keys:
            ActionChains(self.driver).send_keys(key).perform()
            self.wait()

    def heat(self, levels):
        colours = np.concatenate(
            [self.palette[levels.clip(max=LEVELS)], np.full((6, 8, 1), 166)], -1
        )
        return np.where(levels[..., None] > LEVELS, 0, colours)


@pytest.fixture(scope='module')
def browser(tmp_path_factory):
    webdriver = pytest.importorskip('selenium.webdriver', reason='selenium is not installed')
    from selenium.common.exceptions import WebDriverException

    names = ('chromium', 'chromium-browser', 'google-chrome')
    chromium, driver = (
        next(filter(None, map(shutil.which, names)), None),
        shutil.which('chromedriver'),
    )
    if not chromium or not driver:
        pytest.skip('chromium or chromedriver is not installed')
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for one in ('headless=new', 'no-sandbox', 'disable-dev-shm-usage', 'window-size=1100,900'):
        options.add_argument(f'--{one}')
    options.set_capability('goog:loggingPrefs', {'browser': 'ALL'})
    path = tmp_path_factory.mktemp('explorer') / 'page.html'
    page = synthetic_page()
    path.write_text(page)
    try:
        started = webdriver.Chrome(options, webdriver.ChromeService(driver))
    except WebDriverException as error:
        pytest.skip(f'chromium does not start here: {error.msg}')
    with started as running:
        running.get(path.as_uri())
        browser = Browser(running, page)
        browser.wait()
        yield browser
        assert not [one for one in running.get_log('browser') if one['level'] == 'SEVERE']


@pytest.fixture
def fresh(browser):
    """At the first image and stage."""
    browser.choose('image', '0')
    browser.choose('view', 'a')
    return browser


def test_pointer_shows_the_region_of_its_token(fresh):
    labels = unpack(fresh.data['images'][0]['views'][0]['maps'][0])[0]
    for row, column in ((0, 0), (2, 5), (5, 7)):
        fresh.point(row, column)
        alpha = fresh.overlay()[..., 3]
        assert np.array_equal(alpha, np.where(labels == labels[row, column], 0, 140))
        count = (labels == labels[row, column]).sum()
        assert f'Region {labels[row, column]}: {count} cells' in fresh.text('status')


def test_pointer_shows_the_strongest_map(fresh):
    maps = fresh.data['images'][0]['views'][0]['maps'][1]
    fresh.choose('map', '1')
    for row, column in ((1, 1), (4, 6)):
        fresh.point(row, column)
        values = numbers(maps)[:, row, column]
        order = values.argsort()[::-1]
        assert np.abs(fresh.overlay() - fresh.heat(unpack(maps)[order[0]])).max() <= 1
        listed = re.findall(r'map (\d): ([\d.]+)', fresh.text('list'))
        assert [int(k) for k, _ in listed] == order.tolist()
        np.testing.assert_allclose([float(v) for _, v in listed], values[order], rtol=0.01)
    fresh.keys('2')  # keep the second, wherever the pointer is
    fresh.point(0, 0)
    assert np.abs(fresh.overlay() - fresh.heat(unpack(maps)[order[1]])).max() <= 1


def test_pointer_shows_the_attention_of_its_query(fresh):
    fresh.choose('view', 'b')
    maps = fresh.data['images'][0]['views'][1]['maps'][0]
    for kind, row, column in (('mouse', 0, 3), ('touch', 3, 2)):
        fresh.point(row, column, kind)
        assert np.abs(fresh.overlay() - fresh.heat(unpack(maps)[8 * row + column])).max() <= 1
        assert f'query {8 * row + column}: ' in fresh.text('status')


def test_modes_are_red_and_cyan(fresh):
    fresh.choose('view', 'c')
    fresh.point(2, 2)
    modes = fresh.data['images'][0]['views'][2]['maps'][0]
    best = unpack(modes['queries'])[:, 2, 2].argmax()
    q, k = (unpack(modes[part])[best][..., None] / LEVELS for part in ('queries', 'keys'))
    want = 0.75 * (q * np.array([255, 30, 30]) + k * np.array([0, 225, 225]))
    assert np.abs(fresh.overlay()[..., :3] - want.clip(0, 255)).max() <= 1
    assert f'mode {best} (cos 0.50, 10 %)' in fresh.text('status')


def test_keyboard_and_other_images(fresh):
    other = unpack(fresh.data['images'][1]['views'][0]['maps'][0])[0]
    fresh.point(2, 2)
    fresh.run("document.getElementById('stage').focus()")
    fresh.keys('\ue014', '\ue015', 'i')  # right, down, the next image
    assert np.array_equal(fresh.overlay()[..., 3], np.where(other == other[3, 3], 0, 140))
    fresh.keys('s')
    assert fresh.run("return document.getElementById('view').value") == 'b'
    assert 'query 27' in fresh.text('status')
    fresh.keys('I', 'S', 'p')
    assert 'clusters' in fresh.text('map-title')
    assert fresh.run("return document.getElementById('photo').alt").startswith(
        'Input of the model: one'
    )


def test_tabs_and_dark_mode(fresh):
    visible = "return ['tokens', 'curves'].map((n) => !document.getElementById(n).hidden)"
    fresh.run("document.getElementById('tab-curves').click()")
    assert fresh.run(visible) == [False, True]
    assert 'x: reason' in fresh.text('curves')
    fresh.run("document.getElementById('tab-tokens').click()")
    assert fresh.run(visible) == [True, False]
    brightness = []
    for scheme in ('light', 'dark'):
        features = [dict(name='prefers-color-scheme', value=scheme)]
        fresh.driver.execute_cdp_cmd('Emulation.setEmulatedMedia', dict(features=features))
        colour = fresh.run('return getComputedStyle(document.body).backgroundColor')
        brightness.append(sum(map(int, re.findall(r'\d+', colour))))
    assert brightness[0] > 600 > 150 > brightness[1]
