import io
import sys

import _demo_pictures
import demo
import mmengine
import numpy as np
import pytest
from demo_data import write_demo_data
from mmengine.config import Config

LINE = (
    '11/21 23:26:34 - mmengine - INFO - Epoch(train)  [4][20/47]  lr: 1.000000e-03  eta: 0:09:34  '
    'time: 0.726530  data_time: 0.021485  loss: 0.009518  loss_kpt: 0.009518  acc_pose: 0.204412\n'
)
STUFF = ('sky', 'wall', 'ground', 'hill')
THINGS = ('person', 'box', 'ball', 'cone', 'tree', 'pole', 'dog')


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    out = tmp_path_factory.mktemp('demo') / 'data'
    write_demo_data(out, 1, 3, (128, 160))
    return out


def test_progress_is_read_from_the_log_of_a_run():
    step = demo.STEP.search(LINE)
    assert step.groups() == ('4', '20', '47', '0:09:34', '0.009518')


def test_bar_without_a_terminal_prints_now_and_then(monkeypatch):
    monkeypatch.setattr(sys, 'stderr', io.StringIO())
    bar = demo.ProgressBar(seconds=3600)
    for done in range(1, 11):
        bar.show(done, 10, 'loss 1')
    lines = sys.stderr.getvalue().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith('[##############################] 10/10 steps, loss 1')


def test_bar_on_a_terminal_stays_on_its_line(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, 'stderr', terminal)
    bar = demo.ProgressBar()
    bar.show(5, 10, 'loss 1')
    bar.show(10, 10, 'loss 1')
    assert terminal.getvalue().count('\n') == 1
    assert '[###############...............] 5/10' in terminal.getvalue()


def test_failed_step_shows_the_end_of_its_output(tmp_path):
    with pytest.raises(demo.DemoError, match=r'tools/test.py failed.*(?s:.*)nowhere.py'):
        demo.run_tool('test.py', 'nowhere.py', 'nothing.pth', log=tmp_path / 'log')
    assert 'nowhere.py' in (tmp_path / 'log').read_text()


def test_other_data_in_the_way(data, tmp_path, monkeypatch):
    arguments = ['--data-dir', data, '--work-dir', tmp_path, '--num-train', 7, '--num-val', 3]
    monkeypatch.setattr(sys, 'argv', ['demo.py', *map(str, arguments)])
    with pytest.raises(demo.DemoError, match='num_train.*another --data-dir, or delete'):
        demo.main()


def test_every_task_names_an_existing_config():
    for task in demo.TASKS.values():
        assert (demo.ROOT / task.config).is_file()


@pytest.mark.parametrize('name', sorted(demo.TASKS))
def test_pictures_of_predictions(data, tmp_path, name):
    task = demo.TASKS[name]
    cfg = Config.fromfile(demo.ROOT / task.config)
    weights = tmp_path / 'untrained.pth'
    demo.save_untrained(cfg, weights)
    out = tmp_path / 'predictions.png'
    task.draw(cfg, str(weights), data, out)
    picture = _demo_pictures.cv2.imread(str(out))
    assert picture.shape[0] >= 256  # scenes of 128 pixels, enlarged
    assert np.ptp(picture) > 100


def test_first_scene_is_the_most_crowded(data):
    content = mmengine.load(data / 'annotations' / 'instances_val.json')
    counts = [
        sum(one['image_id'] == image['id'] for one in content['annotations'])
        for image in content['images']
    ]
    best = content['images'][counts.index(max(counts))]['file_name']
    assert _demo_pictures.first_scene(data).name == best


def test_first_person_is_the_largest(data):
    path, box = _demo_pictures.first_person(data)
    assert path.is_file()
    areas = [w * h for _, boxes in _demo_pictures.read_people(data) for _, _, w, h in boxes]
    assert box[2] * box[3] == max(areas)


def test_progress_of_every_host_is_read():
    """Detectors and segmentors log two learning rates and the norm of the gradient as well."""
    line = (
        '2026/11/24 02:44:34 - mmengine - INFO - Epoch(train)  [2][ 5/50]  base_lr: 1.5000e-03 lr: '
        '1.5000e-03  eta: 0:04:38  time: 0.5098  data_time: 0.0185  grad_norm: 11.1872  loss: '
        '2.8980  loss_rpn_cls: 0.2582\n'
    )
    assert demo.STEP.search(line).groups() == ('2', '5', '50', '0:04:38', '2.8980')


def test_pose_is_what_plain_make_demo_shows(monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['demo.py'])
    assert demo.parse_args().task == 'pose'


def test_colours_of_classes_differ():
    assert len(set(_demo_pictures.palette(7))) == 7


@pytest.mark.parametrize('name', ['detection', 'segmentation'])
def test_classes_are_those_of_the_drawn_data(name):
    cfg = Config.fromfile(demo.ROOT / demo.TASKS[name].config)
    known = THINGS if name == 'detection' else STUFF + THINGS
    assert tuple(cfg.metainfo.classes) == known
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        assert tuple(loader.dataset.metainfo.classes) == known


@pytest.mark.slow
@pytest.mark.parametrize('name', sorted(demo.TASKS))
def test_whole_demo(tmp_path, monkeypatch, capsys, name):
    arguments = ['--task', name, '--data-dir', tmp_path / 'data', '--work-dir', tmp_path / 'work']
    arguments += ['--num-train', 8, '--num-val', 2, '--epochs', 1]
    for _ in range(2):  # the second time there is nothing left to train
        monkeypatch.setattr(sys, 'argv', ['demo.py', *map(str, arguments)])
        demo.main()
        printed = capsys.readouterr().out
        for score in demo.TASKS[name].scores.values():
            assert f'{score} on 2 pictures' in printed
    assert (tmp_path / 'work' / 'predictions.png').is_file()
    assert list((tmp_path / 'work' / 'tokens').glob('*.png'))
