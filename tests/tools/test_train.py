"""tools/train.py: what it trains, what it resumes, and what it refuses with which sentence."""

import importlib
import json
import shutil
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from _checks import CheckStepsHook, check_files
from _cli import UsageError, check_options, find_host, read_config
from mmengine.config import Config, ConfigDict
from mmengine.fileio import LocalBackend, get_file_backend, register_backend
from mmengine.runner import EpochBasedTrainLoop
from mmtoken.common.weights import read_checkpoint


def epochs(work_dir):
    """The epochs of the checkpoints, by name."""
    return {path.name: read_checkpoint(path)['meta']['epoch'] for path in work_dir.glob('*.pth')}


def interrupt(monkeypatch, toy, *, epoch, batch=0, options=()):
    """Train until one iteration has ended, then stop as Ctrl-C would."""
    run_iter = EpochBasedTrainLoop.run_iter

    def interrupted(loop, idx, data):
        run_iter(loop, idx, data)
        if (loop.epoch, idx) == (epoch, batch):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(EpochBasedTrainLoop, 'run_iter', interrupted)
        toy.train('--no-validate', options=options)


# resuming


def test_interrupted_run_resumes_with_nothing_lost(toy, monkeypatch):
    interrupt(monkeypatch, toy, epoch=1)
    (toy.work_dir / 'notes.txt').write_text('mine')
    before = {path.name for path in toy.work_dir.iterdir()}
    toy.train('--resume', '--no-validate')
    assert before <= {path.name for path in toy.work_dir.iterdir()}
    resumed = read_checkpoint(toy.work_dir / 'epoch_2.pth')

    toy.work_dir = toy.folder / 'whole'
    # without --resume the seed would be another one, and so the order of the samples
    toy.train('--no-validate', options=(f'randomness.seed={resumed["meta"]["seed"]}',))
    whole = read_checkpoint(toy.work_dir / 'epoch_2.pth')
    for part in ('epoch', 'iter', 'seed'):
        assert resumed['meta'][part] == whole['meta'][part]
    for key, value in whole['state_dict'].items():
        torch.testing.assert_close(resumed['state_dict'][key], value, rtol=0, atol=0, msg=key)
    states = (run['optimizer']['state'] for run in (whole, resumed))
    for one, other in zip(*(state.values() for state in states)):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    losses = (run['message_hub']['log_scalars']['train/loss'] for run in (whole, resumed))
    one, other = (history.data[0] for history in losses)
    assert one.tolist() == other.tolist()


def test_nothing_to_resume_starts_from_load_from(trained, capsys):
    weights = trained.work_dir / 'epoch_1.pth'
    trained.work_dir = trained.folder / 'new'
    options = (f'load_from={weights}', 'optim_wrapper.optimizer.lr=0.0')
    trained.train('--resume', '--no-validate', options=options)
    states = (weights, trained.work_dir / 'epoch_2.pth')
    one, other = (read_checkpoint(path)['state_dict'] for path in states)
    torch.testing.assert_close(one['layer.weight'], other['layer.weight'], rtol=0, atol=0)
    assert 'training starts from the beginning' in capsys.readouterr().err


def test_config_that_asks_to_resume(trained):
    before = (trained.work_dir / 'epoch_1.pth').read_bytes()
    trained.train('--no-validate', options=('resume=True', 'train_cfg.max_epochs=3'))
    assert (trained.work_dir / 'epoch_1.pth').read_bytes() == before
    assert epochs(trained.work_dir)['epoch_3.pth'] == 3


def test_load_from_is_checked_if_there_is_nothing_to_resume(toy):
    with pytest.raises(UsageError, match=r'must be an existing file, got .*no\.pth'):
        toy.train('--resume', options=('load_from=no.pth',))


def test_new_run_in_a_work_dir_with_checkpoints_warns(trained, capsys):
    trained.train('--no-validate')
    assert 'holds checkpoints, which are overwritten; --resume continues' in capsys.readouterr().err


def test_moved_work_dir(trained):
    trained.work_dir = trained.work_dir.rename(trained.folder / 'moved')
    trained.train('--resume', '--no-validate', options=('train_cfg.max_epochs=3',))
    assert epochs(trained.work_dir) == {f'epoch_{n}.pth': n for n in (1, 2, 3)}


@pytest.mark.parametrize(
    ('how', 'first'), [('truncated', 2), ('missing', 3), ('both', 2), ('empty', 3)]
)
def test_resumes_from_the_newest_whole_checkpoint(trained, capsys, how, first):
    # left by a kill, a full disk or a careless copy; 10 is newer than 9
    older = (trained.work_dir / 'epoch_1.pth').rename(trained.work_dir / 'epoch_9.pth')
    newest = (trained.work_dir / 'epoch_2.pth').rename(trained.work_dir / 'epoch_10.pth')
    last = trained.work_dir / 'last_checkpoint'
    last.write_text('' if how == 'empty' else str(newest))
    if how in ('truncated', 'both'):
        newest.write_bytes(newest.read_bytes()[:1000])
    if how in ('missing', 'both'):
        last.unlink()
    before = older.read_bytes(), newest.read_bytes()
    trained.train('--resume', '--no-validate', options=('train_cfg.max_epochs=3',))
    assert (older.read_bytes(), newest.read_bytes()) == before
    captured = capsys.readouterr()
    path = older if first == 2 else newest
    assert f'last_checkpoint names no whole checkpoint: resuming from {str(path)!r}' in captured.err
    trained_again = {path.name for path in trained.work_dir.glob('epoch_?.pth')} - {older.name}
    assert trained_again == {f'epoch_{number}.pth' for number in range(first, 4)}


def test_no_whole_checkpoint_is_not_overwritten(trained):
    for path in trained.work_dir.glob('*.pth'):
        path.write_bytes(b'half')
    with pytest.raises(UsageError, match=r'got none among .*epoch_2.*would overwrite them'):
        trained.train('--resume')


@pytest.mark.parametrize('content', ['bare', 'published', 'plain'])
def test_resume_from_weights_only(trained, content):
    checkpoint = read_checkpoint(trained.work_dir / 'epoch_1.pth')
    state = checkpoint['state_dict']
    meta = dict(mmengine_version='0.10')
    kinds = dict(
        bare=dict(state_dict=state), plain=state, published=dict(state_dict=state, meta=meta)
    )
    path = trained.folder / 'weights.pth'
    torch.save(kinds[content], path)
    with pytest.raises(UsageError, match='without its epoch and iteration; .* load_from=.*weights'):
        trained.train('--resume', path)


def test_iteration_checkpoint_in_an_epoch_loop(toy, monkeypatch, capsys):
    options = ('default_hooks.checkpoint.by_epoch=False', 'default_hooks.checkpoint.interval=1')
    interrupt(monkeypatch, toy, epoch=1, options=options)
    toy.train('--resume', '--no-validate', options=options)
    assert 'inside epoch 2, which starts again: 1 of its 2 iter' in capsys.readouterr().err


def test_resume_of_a_finished_run(trained, capsys):
    trained.train('--resume', '--no-validate')
    assert 'is the end of a run of 2 epochs' in capsys.readouterr().err


# saving


def test_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / 'epoch_1.pth'
    path.write_bytes(b'old')
    importlib.import_module('_saving')
    with pytest.raises(TypeError):  # after the file was opened, as on a full disk
        get_file_backend(str(path)).put('no bytes', path)
    assert path.read_bytes() == b'old'
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize('kept', ['max_keep_ckpts=1', 'save_best=steps'])
def test_kill_while_saving_leaves_the_old_checkpoint(toy, monkeypatch, kept):
    options = ['default_hooks.checkpoint.interval=1', f'default_hooks.checkpoint.{kept}']
    options += ['default_hooks.checkpoint.rule=greater', 'train_cfg.max_epochs=1']
    toy.train(options=options)
    (old,) = toy.work_dir.glob('epoch_1.pth' if 'max' in kept else 'best_steps_*1.pth')

    def killed(backend, obj, filepath):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        if 'best' in kept:  # only the write of the next best one
            put = LocalBackend.put
            patch.setattr(LocalBackend, 'put', lambda *a: (killed if 'best' in a[2] else put)(*a))
        else:
            patch.setattr(LocalBackend, 'put', killed)
        toy.train('--resume', options=(*options, 'train_cfg.max_epochs=2'))
    assert read_checkpoint(old)['meta']['epoch'] == 1
    toy.train('--resume', options=(*options, 'train_cfg.max_epochs=3'))
    assert not old.exists()


def test_resumed_copy_leaves_the_best_checkpoint_of_the_original(toy):
    options = ['default_hooks.checkpoint.save_best=steps', 'default_hooks.checkpoint.rule=greater']
    toy.train(options=options)
    best = list(toy.work_dir.glob('best_*'))
    toy.work_dir = shutil.copytree(toy.work_dir, toy.folder / 'copy')
    toy.train('--resume', options=(*options, 'train_cfg.max_epochs=3'))
    assert best == list((toy.folder / 'runs').glob('best_*'))
    assert len(list(toy.work_dir.glob('best_*'))) == 1


# configs of every style


@pytest.mark.parametrize('style', ['lazy', 'json', 'yaml', 'dumped lazy'])
def test_config_styles_train_the_same(trained, style):
    config = trained.lazy_config
    if style != 'lazy':
        source = trained.lazy_config if 'lazy' in style else trained.config
        config = trained.folder / f'dumped.{style if style in ("json", "yaml") else "py"}'
        Config.fromfile(source).dump(config)
    seed = read_checkpoint(trained.work_dir / 'epoch_2.pth')['meta']['seed']
    trained.work_dir = trained.folder / 'other'
    trained.train(options=(f'randomness.seed={seed}', 'visualizer=None'), config=config)
    paths = (folder / 'epoch_2.pth' for folder in (trained.folder / 'runs', trained.work_dir))
    one, other = (read_checkpoint(path)['state_dict'] for path in paths)
    torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize(
    ('base', 'child', 'message'),
    [
        (
            "'tiny'",
            'dict(dim=8)',
            "arch={'dim': 8} in child .* is of type <class 'str'>.* add _delete_=True to the dict",
        ),
        (
            'dict(dim=4, depth=2)',
            'dict(dims=8)',
            r"exactly the keys .* 'dims'\].*add _delete_=True",
        ),
        ("'tiny', dim=4", "'tiny'", "unexpected keyword argument 'dim'.* add _delete_=True"),
        ("'tiny'", 'dict(_delete_=True, dim=8, depth=1)', None),
    ],
)
def test_dict_that_its_base_needs_to_be_deleted_for(toy, base, child, message):
    toy.write(
        'base.py', f"_base_ = 'toy_config.py'\nmodel = dict(inner=dict(type='Arch', arch={base}))"
    )
    text = f"_base_ = 'base.py'\nmodel = dict(inner=dict(arch={child}))"
    with pytest.raises(UsageError, match=message) if message else nullcontext():
        toy.train('--no-validate', config=toy.write('child.py', text))
    if message and 'child' in message:  # the same, from the command line
        with pytest.raises(UsageError, match=message):
            toy.train(options=('model.inner.arch.dim=8',), config=toy.folder / 'base.py')


def test_sizes_of_a_json_config_are_tuples(commands, tmp_path):
    config = tmp_path / 'config.json'
    step = dict(type='Resize', scale=[160, 128], scales=[[1, 2], [3, 4]], prob=[0.5, 0.5])
    config.write_text(json.dumps(dict(model=dict(sizes=[1, 2]), a_pipeline=[step])))
    tool, args = commands.parse('train', config)
    cfg = tool.load_config(args)
    assert cfg.model.sizes == [1, 2]
    expected = dict(step, scale=(160, 128), scales=[(1, 2), (3, 4)])
    assert cfg.a_pipeline == [ConfigDict(expected)]


@pytest.mark.parametrize('scope', ['default', None])
def test_host_of_a_config_without_a_scope(scope):
    detectors = pytest.importorskip('mmdet.models.detectors')
    for kind in (detectors.RetinaNet, 'mmdet.RetinaNet', 'mmdet.models.detectors.RetinaNet'):
        model = ConfigDict(dict(model=dict(type=kind), default_scope=scope))
        assert find_host(model) == 'mmdet'


@pytest.mark.parametrize(
    'field',
    [
        *('sync_bn', 'compile', 'activation_checkpointing', 'efficient_conv_bn_eval'),
        *('find_unused_parameters', 'model_wrapper_cfg', 'strategy', 'data_preprocessor'),
        *('init_weights_for_test_or_val', 'log_level', 'experiment_name', 'runner_type'),
    ],
)
def test_option_for_any_field_that_mmengine_reads(field):
    check_options(Config(), {field: None, f'{field}.part': 1})


def test_config_without_val_and_test(toy):
    drop = ''.join(
        f'{s}_{part} = None\n'
        for s in ('val', 'test')
        for part in ('dataloader', 'cfg', 'evaluator')
    )
    toy.train(config=toy.write('only.py', f"_base_ = 'toy_config.py'\n{drop}"))
    assert len(epochs(toy.work_dir)) == 2


@pytest.mark.parametrize('spelling', [('--data-root', '/new'), ('--cfg-options', 'data_root=/new')])
def test_data_root_reaches_every_path(commands, spelling, tmp_path):
    config = tmp_path / 'config.py'
    config.write_text(
        "data_root = 'data/coco/'\n"
        "train_dataloader = dict(dataset=dict(type='Repeat', dataset=dict(data_root=data_root)))\n"
        "test_dataloader = dict(dataset=dict(bbox_file='data/coco/boxes.json'))\n"
        "val_evaluator = [dict(ann_file=data_root + 'ann.json'), dict(other='data/cocoa')]\n"
    )
    tool, args = commands.parse('train', config, *spelling)
    cfg = tool.load_config(args)
    assert cfg.data_root == '/new/'
    assert cfg.train_dataloader.dataset.dataset.data_root == '/new/'
    assert cfg.test_dataloader.dataset.bbox_file == '/new/boxes.json'
    assert cfg.val_evaluator == [dict(ann_file='/new/ann.json'), dict(other='data/cocoa')]


def test_one_data_set_can_live_elsewhere(commands):
    option = 'val_dataloader.dataset.data_root=/elsewhere'
    tool, args = commands.parse('train', commands.demo_config, '--cfg-options', option)
    cfg = tool.load_config(args)
    assert cfg.val_dataloader.dataset.data_root == '/elsewhere'
    assert cfg.train_dataloader.dataset.data_root == 'data/demo'
    assert cfg.work_dir == f'./work_dirs/{commands.demo_config.stem}'


class InMemory(LocalBackend):
    """Any registered backend: it knows files, and no folders."""

    def exists(self, filepath):
        return filepath.endswith('train.json')


@pytest.mark.parametrize('name', ['train', 'other'])
def test_data_behind_a_registered_backend(name):
    register_backend('memory', InMemory, prefixes='memory', force=True)
    loader = dict(pipeline=[dict(type='LoadImageFromFile', backend_args=dict(backend='http'))])
    dataset = dict(
        loader, data_root='memory://set', ann_file=f'{name}.json', data_prefix=dict(i='i')
    )
    cfg = Config(dict(train_dataloader=dict(dataset=dataset)))
    if name == 'train':
        return check_files(cfg, 'train')
    with pytest.raises(UsageError, match='ann_file must exist, got .memory://set/other.json'):
        check_files(cfg, 'train')


def test_auto_scale_lr(toy):
    options = ('auto_scale_lr.base_batch_size=8',)
    toy.train('--auto-scale-lr', '--no-validate', options=options)
    group = read_checkpoint(toy.work_dir / 'epoch_1.pth')['optimizer']['param_groups'][0]
    assert group['lr'] == pytest.approx(0.1 * 2 / 8)


def test_runner_type(toy):
    options = (
        *('runner_type=FlexibleRunner', 'strategy.type=SingleDeviceStrategy'),
        'env_cfg.cudnn_benchmark=False',
    )
    toy.train('--no-validate', options=options)
    toy.train('--no-validate', '--resume', options=(*options, 'train_cfg.max_epochs=3'))
    assert epochs(toy.work_dir) == {f'epoch_{n}.pth': n for n in (1, 2, 3)}


# refusals, before anything is written


def test_config_that_a_package_ships(commands):
    path = commands.demo_config
    cfg = read_config(f'mmtoken::demo/{path.name}', {})
    assert cfg.to_dict() == read_config(str(path), {}).to_dict()
    for name in ('mmtoken::demo/no.py', 'mmtoken::', 'numpy::a/b.py'):
        with pytest.raises(UsageError, match=f'by a host or by mmtoken, got {name!r}; docs/zoo'):
            read_config(name, {})
    for name in (f'demo/{path.name[1:]}', path.name, f'other/{path.stem}'):
        with pytest.raises(UsageError, match=f'did you mean mmtoken::demo/{path.name}'):
            read_config(f'mmtoken::{name}', {})
    with pytest.raises(UsageError, match='of an installed package, got .not_installed::a/b.py'):
        read_config('not_installed::a/b.py', {})


def test_wrong_command_is_one_sentence(commands):
    tool, args = commands.parse('train', 'no.py')
    message = '^error: config must be a file or .* got .no.py.; docs/zoo'
    with pytest.raises(SystemExit, match=message):
        tool.run(lambda: tool.load_config(args))


LOADER = 'train_dataloader'


@pytest.mark.parametrize(
    ('arguments', 'options', 'message'),
    [
        (
            [],
            [f'{LOADER}.dataset.ann_file=no.json'],
            r'ann_file must exist, got .*no\.json.* --data',
        ),
        ([], ['val_dataloader.dataset.data_prefix.img=no'], r'val_.*data_prefix\.img must exist'),
        (
            [],
            [f'{LOADER}.batch_size=5', f'{LOADER}.drop_last=True'],
            'got 4 samples of .*train.json., batch_size=5',
        ),
        ([], ['train_cfg.max_epochs=0'], "needs at least one iteration, got .*'max_epochs': 0"),
        (
            [],
            ['val_dataloader.batch_size=5', 'val_dataloader.drop_last=True'],
            'validation needs at',
        ),
        (
            [],
            ['model.num_classes=3'],
            r'bbox_head\.num_classes .* got 3 for 2 classes a, b; set num',
        ),
        ([], ['model.scale=1e39'], r'loss must be finite, got loss=inf in iteration 1 \(epoch 1\)'),
        ([], ['optim_wrapper=None'], 'got a config without optim_wrapper; add'),
        ([], ['val_evaluator=None'], 'validation needs .* a config without val_evaluator; add'),
        ([], ['model=None'], 'training needs model, .* without model'),
        ([], ['train_cgf.max_epochs=1'], "'train_cgf.max_epochs'; did you mean train_cfg"),
        (['--auto-scale-lr'], [], 'add auto_scale_lr=dict.base_batch_size'),
        (['--amp'], ['optim_wrapper.type=DeepSpeedOptimWrapper'], 'got .*DeepSpeedOptimWrapper'),
        (['--interval', '2'], [], 'belong to --show or --show-dir'),
        (['--show', '--interval', '0'], [], '--interval must be 1 or more, got 0'),
        (['--show-dir', 'pictures'], [], '--show-dir need default_hooks.visualization'),
        (['--may-differ', 'x'], [], 'got neither load_from nor --resume'),
        (['--resume', 'no.pth'], [], r'checkpoint must be an existing file, got .*no\.pth'),
        (
            ['--resume', '.'],
            [],
            "--resume needs a file, got the folder '.'; name it with --work-dir",
        ),
        ([], ['train_cfg.max_epochs=-1'], "needs at least one iteration, got .*'max_epochs': -1"),
        (
            [],
            ['optim_wrapper.optimizer.type=Adam'],
            "argument 'momentum'.* add _delete_=True to the dict",
        ),
    ],
)
def test_refused(toy, arguments, options, message):
    with pytest.raises(UsageError, match=message):
        toy.train(*arguments, options=options)
    assert not list(toy.work_dir.glob('**/*.pth'))


@pytest.mark.parametrize('split', ['train', 'val'])
def test_empty_data_set(toy, split):
    toy.annotate([], 'empty.json')
    dataset = f'{split}_dataloader.dataset'
    wrong = (f'{dataset}.ann_file=empty.json', f'{dataset}.serialize_data=True')
    with pytest.raises(UsageError, match=f'{split}.* needs at least one iteration, got 0 samp'):
        toy.train(options=wrong)


def test_drop_last_under_an_infinite_sampler_trains(toy):
    options = [f'{LOADER}.{option}' for option in ('batch_size=5', 'drop_last=True')]
    options += [f'{LOADER}.sampler.type=InfiniteSampler', 'train_cfg.by_epoch=False']
    loop = (
        "_base_ = 'toy_config.py'\ntrain_cfg = dict(_delete_=True, by_epoch=False, max_iters=2)\n"
    )
    options += ['default_hooks.checkpoint.by_epoch=False']
    toy.train('--no-validate', options=options, config=toy.write('iterations.py', loop))
    assert (toy.work_dir / 'iter_2.pth').is_file()


def test_diverging_run_stops_before_it_saves(toy):
    with pytest.raises(UsageError, match=r'got loss=(inf|nan) in iteration 2 \(epoch 1\); lower'):
        toy.train('--no-validate', options=('optim_wrapper.optimizer.lr=1e30',))
    assert not list(toy.work_dir.glob('*.pth'))


@pytest.mark.parametrize('by_epoch', [True, False])
def test_parameters_are_checked_before_they_are_saved(toy, by_epoch):
    """The loss of the only iteration is finite; the step after it is not."""
    text = "_base_ = 'toy_config.py'\noptim_wrapper = dict(optimizer=dict(lr=float('nan')))\n"
    options = ('train_dataloader.batch_size=4', f'default_hooks.checkpoint.by_epoch={by_epoch}')
    with pytest.raises(UsageError, match=r'infinite values in layer\.weight, .*; lower'):
        toy.train('--no-validate', options=options, config=toy.write('nan.py', text))
    assert not list(toy.work_dir.glob('*.pth'))


def test_epoch_without_a_batch_is_not_saved():
    # a sampler that sorts samples by shape may drop them all
    with pytest.raises(UsageError, match='got an epoch without; lower batch_size'):
        CheckStepsHook().after_train_epoch(SimpleNamespace(iter=0))


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--amp'], 'needs an accelerator, got device=cpu; train'),
        (['--launcher', 'pytorch'], "that torchrun started, got 'pytorch'; run"),
        (['--launcher', 'slurm'], "must be pytorch.*got 'slurm'; run"),
    ],
)
def test_needs_an_accelerator(toy, monkeypatch, arguments, message):
    monkeypatch.setattr('_checks.get_device', lambda: 'cpu')
    monkeypatch.delenv('WORLD_SIZE', raising=False)
    with pytest.raises(UsageError, match=message):
        toy.train(*arguments)


def test_data_root_of_a_config_without_one(commands, tmp_path):
    config = tmp_path / 'config.py'
    config.write_text("work_dir = 'w'\n")
    with pytest.raises(UsageError, match='with a top-level data_root, got one without; set train'):
        commands.call('train', config, '--data-root', '/new')


def test_load_from_another_model(toy):
    path = toy.folder / 'other.pth'
    torch.save(dict(state_dict=dict(weight=torch.zeros(1))), path)
    message = r'weights of the model.* unexpected key.*weight.*missing keys.*layer.*may-differ'
    with pytest.raises(UsageError, match=message):
        toy.train('--no-validate', options=(f'load_from={path}',))


def test_finetuning_declares_the_head(trained):
    path = trained.work_dir / 'epoch_1.pth'
    checkpoint = read_checkpoint(path)
    checkpoint['state_dict']['bbox_head.weight'] = torch.zeros(3, 1)
    torch.save(checkpoint, path)
    trained.work_dir = trained.folder / 'second'
    options = (f'load_from={path}',)
    trained.train('--no-validate', '--may-differ', r'bbox_head\.', options=options)
    assert (trained.work_dir / 'epoch_1.pth').is_file()
    for pattern, message in ((r'head\.', 'must match a key'), ('(', 'must be regular expr')):
        with pytest.raises(UsageError, match=message):
            trained.train('--may-differ', pattern, options=options)
