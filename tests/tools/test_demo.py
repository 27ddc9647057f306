"""The demo: what it runs in which order, what it prints, and how it fails."""

import sys
from itertools import pairwise

import cv2
import demo
import mmengine
import numpy as np
import pytest
from demo_data import write_demo_data
from demo_data.dataset import CLASSES, INSTANCES
from mmengine.config import Config
from tqdm import tqdm

POSE = (
    '11/21 23:26:34 - mmengine - INFO - Epoch(train)  [4][20/47]  lr: 1.000000e-03  eta: 0:09:34  '
    'time: 0.726530  data_time: 0.021485  loss: 0.009518  loss_kpt: 0.009518  acc_pose: 0.204412\n'
)
DETECTION = (  # two learning rates and the norm of the gradient as well
    '2026/11/24 02:44:34 - mmengine - INFO - Epoch(train)  [2][ 5/50]  base_lr: 1.5000e-03 lr: '
    '1.5000e-03  eta: 0:04:38  time: 0.5098  data_time: 0.0185  grad_norm: 11.1872  loss: '
    '2.8980  loss_rpn_cls: 0.2582\n'
)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    out = tmp_path_factory.mktemp('demo') / 'data'
    write_demo_data(out, 1, 3)
    return out


def run_demo(monkeypatch, *arguments):
    monkeypatch.setattr(sys, 'argv', ['demo.py', *map(str, arguments)])
    demo.main()


@pytest.mark.parametrize(
    ('line', 'shown'),
    [(POSE, '161/235, loss 0.009518, 0:09:34'), (DETECTION, '55/250, loss 2.8980')],
)
def test_progress_is_read_from_the_log_of_a_run(line, shown):
    with tqdm(bar_format='{n}/{total}{postfix}', mininterval=0) as bar:
        demo.show_step(bar, demo.STEP.search(line), epochs=5)
        assert str(bar).startswith(shown)


def test_failed_step_shows_the_end_of_its_output(tmp_path, monkeypatch):
    (tmp_path / 'tools').mkdir()
    (tmp_path / 'tools/test.py').write_text('import sys; print(*range(99)); sys.exit(sys.argv[1])')
    monkeypatch.setattr(demo, 'ROOT', tmp_path)
    with pytest.raises(SystemExit, match=r'tools/test.py failed.*(?s:.*) 98\nnowhere.py'):
        demo.run_tool('test.py', 'nowhere.py', log=tmp_path / 'log')
    assert 'nowhere.py' in (tmp_path / 'log').read_text()


@pytest.mark.parametrize('name', demo.CONFIGS)
def test_order_of_the_steps_and_what_is_printed(name, data, tmp_path, monkeypatch, capsys):
    calls, scores = [], iter((0.125, 0.75))

    def run_tool(tool, *arguments, log, epochs=0):
        calls.append((tool, *arguments, epochs))
        after = dict(pairwise(arguments))
        if tool == 'test.py':
            mmengine.dump(dict.fromkeys(demo.SCORES[name], next(scores)), after['--out'])
        if tool == 'train.py':
            (tmp_path / 'last_checkpoint').write_text('epoch_3.pth')
        for k in range(13 if '--show-dir' in arguments else 0):
            picture = np.full((40, 60, 3), k, np.uint8)
            mmengine.mkdir_or_exist(after['--show-dir'] / 'below')
            cv2.imwrite(str(after['--show-dir'] / 'below' / f'{k:02d}.png'), picture)

    monkeypatch.setattr(demo, 'run_tool', run_tool)
    arguments = ('--data-dir', data, '--work-dir', tmp_path, '--num-train', 1, '--num-val', 3)
    run_demo(monkeypatch, '--task', name, '--epochs', 3, *arguments)
    untrained, train, trained, tokens = calls
    assert [call[0] for call in (untrained, train, trained)] == ['test.py', 'train.py', 'test.py']
    assert train[-2:] == ('train_cfg.max_epochs=3', 3) and untrained[2].is_file()
    assert trained[2].name == tokens[2].name == 'epoch_3.pth' and tokens[3].is_file()
    assert ('--bbox' in tokens) == (name == 'pose')
    printed = capsys.readouterr().out
    for score in demo.SCORES[name].values():
        expected = f'{score} on 3 pictures that were not trained on:\n  untrained 0.125\n'
        assert f'{expected}  trained   0.750' in printed
    assert {0, 3, 6, 9, 12} <= set(np.unique(cv2.imread(str(tmp_path / 'predictions.png'))))


@pytest.mark.parametrize(('name', 'known'), [('detection', INSTANCES), ('segmentation', CLASSES)])
def test_classes_are_those_of_the_drawn_data(name, known):
    cfg = Config.fromfile(
        next((demo.ROOT / 'configs' / 'demo').glob(f'{demo.CONFIGS[name][0]}.py'))
    )
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        assert tuple(loader.dataset.metainfo.classes) == known


@pytest.mark.slow
@pytest.mark.parametrize('name', demo.CONFIGS)
def test_whole_demo(tmp_path, monkeypatch, capsys, name):
    arguments = ('--task', name, '--data-dir', tmp_path / 'data', '--work-dir', tmp_path / 'work')
    for _ in range(2):  # the second time there is nothing left to train
        run_demo(monkeypatch, *arguments, '--num-train', 8, '--num-val', 2, '--epochs', 1)
        printed = capsys.readouterr().out
        assert all(f'{s} on 2 pictures' in printed for s in demo.SCORES[name].values())
    assert (tmp_path / 'work' / 'predictions.png').is_file()
    assert list((tmp_path / 'work' / 'tokens').glob('*.png'))
