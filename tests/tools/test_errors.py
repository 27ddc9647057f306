"""Mistakes in configs and files end in one sentence; errors in code keep their traceback."""

import sys

import pytest
import torch
from _cli import check_output
from _errors import UsageError, one_sentence

BASE = "_base_ = 'toy_config.py'\n"
LOADER = 'train_dataloader'


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['model.type=Lines'], "registered class, got 'Lines'; did you mean Line"),
        (['model.inner.type=Arhc'], "got 'Arhc'; did you mean Arch"),  # from code of the user
        (['model.type=mmdet.Lines'], "got 'mmdet.Lines'; did you mean Line"),
        (['model.type=Quux'], "got 'Quux'; install its host, or list its module in custom_"),
        ([f'{LOADER}.dataset.type=Pionts'], "got 'Pionts'; did you mean Points"),
        (['default_hooks.logger.type=LogerHook'], "got 'LogerHook'; did you mean LoggerHook"),
        (['model.init_cfg.type=Pretraind'], "got 'Pretraind'; did you mean Pretrained"),
        # where the hosts do not look at the result of the look-up
        (['optim_wrapper.optimizer.type=AdmW'], "got 'AdmW'; did you mean AdamW"),
        ([f'{LOADER}.collate_fn.type=psuedo_collate'], 'did you mean pseudo_collate'),
        ([f'{LOADER}.batch_size=0'], r'ValueError: batch_size should be .* \(torch/utils/data'),
        ([f'{LOADER}.num_workers=-1'], 'num_workers option should be non-negative'),
        ([f'{LOADER}.dataset=[1]'], 'dataset of a data loader must be a dict, got 1'),
        ([f'{LOADER}=abc'], "train_dataloader must be a dict, got 'abc'"),
        (['model=[1]'], r'model must be a dict, got \[1\]'),
        (['val_evaluator=abc'], 'AssertionError: evaluator must be one of dict'),
        (['randomness.seed=-1'], 'ValueError: Seed must be between 0 and'),
        (['optim_wrapper.optimizer.lr=-1'], 'Invalid learning rate.*building SGD; torch/optim/'),
        (['model.init_cfg.type=Pretrained', 'model.init_cfg.checkpoint=no.pth'], 'no.pth can not'),
        # while the loop runs
        (['train_cfg.val_interval=0'], 'must be 1 or more, got 0'),
        (['default_hooks.checkpoint.interval=a'], "TypeError: '>' not supported .*mmengine/runner"),
    ],
)
def test_options(toy, options, message):
    with pytest.raises(UsageError, match=message):
        toy.train(options=options)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        (
            "_base_ = 'no.py'",
            r'valid, got FileNotFoundError: .*no\.py.*; correct that file',
        ),
        ("_base_ = 'mmfoo::a/no.py'", "does not support to load mmfoo config. in '.*wrong.py'"),
        ('model = dict(\n', r"got SyntaxError: '\(' was never closed .*line 1\) in '.*wrong.py'"),
        (BASE + 'model = dict(type=undefined)', "NameError: name 'undefined' is not defined in"),
        (BASE + 'x = {{_base_.nothing}}', 'KeyError: nothing in '),
        ('# \udce9', 'UnicodeDecodeError: .* in '),
        (BASE + 'model = dict(_delete_=True)', 'must contain the key "type", but got {}'),
        (BASE + "custom_imports = ['toy']", 'must be a mapping, not list'),
        (
            BASE + "custom_imports = dict(imports=['nothing'])",
            'must be importable, got .*noth.*; install them',
        ),
        ('', 'a top-level data_root, got one without'),
        (BASE + "param_scheduler = dict(type='LinearLR', begin=5, end=1)", 'end should be larger'),
    ],
)
def test_configs(toy, text, message):
    config = toy.folder / 'wrong.py'
    config.write_bytes(text.encode('utf-8', 'surrogateescape'))
    with pytest.raises(UsageError, match=message):
        toy.train(config=config)


@pytest.mark.parametrize(
    ('name', 'text', 'message'),
    [
        ('wrong.json', '{', "JSONDecodeError: .*line 1 .* in '.*wrong.json'"),
        ('wrong.yaml', 'a: [', "ParserError: .* in '.*wrong.yaml'"),
        ('wrong.json', '[1]', "'list' object has no attribute"),
        ('wrong.yaml', '', "'NoneType' object has no attribute"),
        ('wrong.txt', '', 'OSError: Only py/yml/yaml/json'),
    ],
)
def test_configs_of_other_kinds(toy, name, text, message):
    with pytest.raises(UsageError, match=message):
        toy.train(config=toy.write(name, text))


@pytest.mark.parametrize('index', ['1', 'x', '-1'])
def test_option_for_an_element_that_is_not_there(toy, index):
    config = toy.write('c.py', BASE + "param_scheduler = [dict(type='ConstantLR')]")
    option = f'param_scheduler.{index}.factor'
    with pytest.raises(UsageError, match=f'fit the config, .* for .*{option}; elements of lists'):
        toy.train(options=(f'{option}=1',), config=config)


def test_package_that_is_missing(toy, monkeypatch):
    for name in ('torch.utils.tensorboard', 'tensorboardX'):
        monkeypatch.setitem(sys.modules, name, None)
    text = "visualizer = dict(type='Visualizer', vis_backends=[dict(type='TensorboardVisBackend')])"
    with pytest.raises(UsageError, match='got ImportError: .*pip install .*; install it'):
        toy.train(config=toy.write('c.py', BASE + text))


def test_error_in_a_base_names_the_base(toy):
    toy.write('base.py', 'x = [')
    with pytest.raises(UsageError, match="SyntaxError: .* in '.*base.py'"):
        toy.train(config=toy.write('child.py', "_base_ = 'base.py'"))


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'{"metainfo": ', 'JSONDecodeError: Expecting value: line 1 column 14'),
        (b'[]', 'TypeError: The annotations loaded from annotation file should be a dict'),
        (b'{}', 'Annotation must have data_list and metainfo keys'),
        (bytes(range(256)), "UnicodeDecodeError: 'utf-8' codec"),
    ],
)
def test_annotations(toy, content, message):
    (toy.data / 'train.json').write_bytes(content)
    with pytest.raises(UsageError, match=message):
        toy.train()


@pytest.mark.parametrize('num_workers', [0, 1])
@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('missing', "FileNotFoundError: .*missing.png'; correct the path or the file"),
        ('broken', 'AssertionError: failed to load image: .*broken.png .*transforms/loading.py'),
    ],
)
def test_pictures(toy, name, num_workers, message):
    pytest.importorskip('mmcv')
    (toy.data / 'broken.png').write_bytes(b'no picture')
    toy.annotate([dict(img_path=str(toy.data / f'{name}.png'))])
    pipeline = "[dict(type='mmcv.transforms.LoadImageFromFile')]"
    loader = f'dict(num_workers={num_workers}, dataset=dict(pipeline={pipeline}))'
    config = toy.write('pictures.py', f'{BASE}train_dataloader = {loader}')
    with pytest.raises(UsageError, match=message):
        toy.train('--no-validate', config=config)


@pytest.mark.parametrize('num_workers', [0, 1])
@pytest.mark.parametrize(
    ('method', 'error'),
    [
        ('load_data_list(self)', 'ValueError'),
        ('prepare_data(self, idx)', 'FileNotFoundError'),
        ('__init__(self, **kwargs)', 'KeyError'),
    ],
)
def test_code_of_the_user_keeps_its_traceback(toy, monkeypatch, method, error, num_workers):
    name = f'mine_{error}_{num_workers}'.lower()
    toy.write(
        f'{name}.py',
        'from toy import DATASETS, Points\n\n@DATASETS.register_module()\n'
        f'class {name}(Points):\n    def {method}:\n        raise {error}("mine")\n',
    )
    monkeypatch.syspath_prepend(toy.folder)
    text = f"{BASE}custom_imports = dict(imports=['toy', '{name}'])\n"
    text += f"train_dataloader = dict(num_workers={num_workers}, dataset=dict(type='{name}'))\n"
    with pytest.raises(Exception, match='mine') as found:
        toy.train('--no-validate', config=toy.write('mine.py', text))
    assert type(found.value).__name__ == error


def test_module_of_the_user_that_cannot_be_imported_keeps_its_traceback(toy, monkeypatch):
    toy.write('not_python.py', 'def (')
    monkeypatch.syspath_prepend(toy.folder)
    config = toy.write('c.py', f"{BASE}custom_imports = dict(imports=['not_python'])")
    with pytest.raises(SyntaxError, match='invalid syntax'):
        toy.train(config=config)


def test_forward_pass_keeps_its_traceback():
    with pytest.raises(RuntimeError, match='shapes'):
        one_sentence()(torch.nn.Linear(3, 4))(torch.zeros(2, 2))


def test_look_up_that_fails_is_not_blamed_for_a_later_error(toy):
    """Mmengine asks for a class of each name that a log level could be."""
    config = "custom_hooks = [dict(type='EMAHook'), dict(type='SyncBuffersHook', n=1)]"
    with pytest.raises(UsageError, match="unexpected keyword argument 'n'"):
        toy.train(config=toy.write('hooks.py', BASE + config))


@pytest.mark.parametrize(
    ('path', 'folder', 'message'),
    [
        ('file', True, "must name a folder, got '.*file', but '.*file' is a file; choose another"),
        ('file/below', True, "must name a folder, got '.*below', but '.*file' is a file"),
        ('.', False, "must name a file, got '.*', but '.*' is a folder"),
        ('file/below.json', False, "must name a file, got '.*below.json', but '.*file' is a file"),
        ('file', False, None),
        ('.', True, None),
        ('new/new.json', False, None),
        ('new/new', True, None),
    ],
)
def test_outputs(tmp_path, path, folder, message):
    (tmp_path / 'file').touch()
    if not message:
        return check_output('--out', tmp_path / path, folder=folder)
    with pytest.raises(UsageError, match=f'--out {message}'):
        check_output('--out', tmp_path / path, folder=folder)


def test_work_dir_that_is_a_file(toy):
    toy.work_dir.touch()
    with pytest.raises(UsageError, match='--work-dir must name a folder, got'):
        toy.train()


@pytest.mark.parametrize(('option', 'reason'), [('abc', 'not enough'), ('a=(1,', 'Imbalanced')])
def test_options_that_are_none(toy, capsys, option, reason):
    with pytest.raises(SystemExit, match='2'):
        toy.train(options=[option])
    assert f'{option} ({reason}' in capsys.readouterr().err.partition('must be KEY=VALUE')[2]
