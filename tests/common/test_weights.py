"""Reading a checkpoint: every container, nothing executed, one sentence for an unreadable file."""

import argparse
import io
import pickle
import sys
import zipfile
from collections import OrderedDict
from urllib.error import URLError

import numpy as np
import pytest
import torch
from mmengine import fileio
from mmengine.logging import HistoryBuffer, MessageHub
from mmtoken.common.weights import read_checkpoint, read_state_dict
from torch import nn

STATE = {'fc.weight': torch.ones(3, 2), 'fc.bias': torch.ones(3)}


@pytest.fixture
def save(tmp_path):
    def write(content):
        path = tmp_path / 'weights.pth'
        torch.save(content, path)
        return path

    return write


@pytest.fixture
def no_safe_globals():
    """Nothing on torch's allow-list, as before ``import mmtoken``."""
    before = list(torch.serialization.get_safe_globals())
    torch.serialization.clear_safe_globals()
    yield
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(before)


@pytest.mark.parametrize(
    'wrap',
    [
        lambda state: state,
        lambda state: {'state_dict': state, 'meta': {'epoch': 3}, 0: torch.zeros(1)},
        lambda state: {'model': state, 'args': argparse.Namespace(lr=0.1), 'epoch': 3},
        lambda state: {'module.' + key: value for key, value in state.items()},
    ],
    ids=['plain', 'mmengine', 'authors', 'distributed'],
)
def test_every_container_opens(save, wrap):
    assert read_state_dict(save(wrap(STATE))).keys() == STATE.keys()


@pytest.mark.parametrize('prefix', ['backbone', 'backbone.', 'backbone.fc'])
def test_prefix_is_a_module_with_and_without_its_dot(save, prefix):
    ema = {f'backbone_ema.{key}': value for key, value in STATE.items()}
    path = save({f'backbone.{key}': value for key, value in STATE.items()} | ema)
    expected = {'weight', 'bias'} if prefix.endswith('fc') else STATE.keys()
    assert read_state_dict(path, prefix).keys() == expected
    with pytest.raises(ValueError, match=r"\['backbone', 'backbone_ema'\], got 'back'"):
        read_state_dict(path, 'back')


def test_two_keys_for_one_parameter_are_refused(save):
    path = save({**STATE, 'module.fc.bias': torch.zeros(3)})
    with pytest.raises(ValueError, match=r"'fc.bias' and 'module.fc.bias' for 'fc.bias'; remove"):
        read_state_dict(path)


def test_file_without_tensors(save):
    with pytest.raises(ValueError, match=r"must hold named tensors .* got \['epoch'\]"):
        read_state_dict(save({'epoch': 3}))


@pytest.mark.parametrize('path', ['nowhere.pth', '/', 'open-mmlab://resnet50_v1c'])
def test_missing_file(path):
    with pytest.raises(FileNotFoundError, match=f'existing file, got {path!r}'):
        read_checkpoint(path)


def test_unreachable_url(monkeypatch):
    def offline(*args, **kwargs):
        raise URLError('no route')

    monkeypatch.setattr('torch.hub.load_state_dict_from_url', offline)
    with pytest.raises(FileNotFoundError, match=r"got 'https://example.org/w.pth' \(URLError\)"):
        read_checkpoint('https://example.org/w.pth')


def test_registered_file_backend_is_asked(save):
    class Store(fileio.BaseStorageBackend):
        get_text = None

        def get(self, path):
            return {'store://weights.pth': save(STATE)}[path].read_bytes()

    fileio.register_backend('store', Store, prefixes='store', force=True)
    assert read_state_dict('store://weights.pth').keys() == STATE.keys()
    with pytest.raises(FileNotFoundError, match="existing file, got 'store://other.pth'"):
        read_checkpoint('store://other.pth')


@pytest.mark.parametrize('protocol', [2, 4])
def test_pickled_arrays_of_detectron2_are_read(tmp_path, protocol):
    path = tmp_path / 'model_final.pkl'
    model = OrderedDict(weight=np.arange(6, dtype='>f4').reshape(2, 3).T, steps=np.array(3))
    content = {'model': model, '__author__': 'Detectron2', 'score': np.float64(0.5)}
    path.write_bytes(pickle.dumps(content, protocol))
    state = read_state_dict(path)
    torch.testing.assert_close(state['weight'], torch.tensor([[0.0, 3], [1, 4], [2, 5]]))
    assert state['steps'].shape == () and read_checkpoint(path)['score'] == 0.5


def test_safetensors_are_read_and_their_absence_is_one_sentence(tmp_path, monkeypatch):
    path = tmp_path / 'model.safetensors'
    pytest.importorskip('safetensors.torch').save_file(STATE, path)
    assert torch.equal(read_state_dict(path)['fc.weight'], STATE['fc.weight'])
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match='truncated or was not written by safetensors'):
        read_checkpoint(path)
    monkeypatch.setitem(sys.modules, 'safetensors.torch', None)
    with pytest.raises(ImportError, match='run "pip install safetensors"'):
        read_checkpoint(path)


class Trap:
    fired = False

    def __reduce__(self):
        return setattr, (Trap, 'fired', True)


class Lookup:
    """``getattr`` is for a history buffer's own methods only."""

    def __reduce__(self):
        return getattr, (argparse.Namespace, '__init__')


def shortened(content):
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()[:300]


class Wrapped:
    """An array inside an object that is called to build it."""

    def __init__(self, function):
        self.function = function

    def __reduce__(self):
        return self.function, (np.zeros(1),)


@pytest.mark.parametrize(
    ('content', 'reason'),
    [
        (pickle.dumps({'model': Trap()}), r'it holds a pickled \S*setattr; re-save'),
        (pickle.dumps({'model': Wrapped(np.save)}), r'it holds a pickled numpy\S*save; re-save'),
        (pickle.dumps({'model': torch.ones(1)}), r'it holds a pickled torch\.\S+; re-save'),
        (b'epoch 3\n', r'truncated or was not written by pickle'),
    ],
    ids=['code', 'function of numpy', 'tensor', 'text'],
)
def test_pickle_with_anything_else_is_refused_and_runs_nothing(tmp_path, content, reason):
    path = tmp_path / 'weights.pkl'
    path.write_bytes(content)
    with pytest.raises(ValueError, match=reason):
        read_checkpoint(path)
    assert not Trap.fired


@pytest.mark.parametrize(
    ('content', 'reason'),
    [
        (shortened(STATE), r'it is truncated or .* copy it again \(\w+Error\)$'),
        (b'epoch 3\n', r'it is truncated or .* copy it again \(\w+Error\)$'),
        (Trap(), r'it holds a pickled \S*setattr; re-save only its state_dict$'),
        (Lookup(), r'it holds a pickled argparse.Namespace.__init__; re-save'),
        (nn.Linear(1, 1), r'it holds a pickled torch.nn.modules.linear.Linear; re-save'),
    ],
    ids=['truncated', 'text', 'code', 'getattr', 'module'],
)
def test_unreadable_file_is_one_sentence_and_runs_nothing(tmp_path, content, reason):
    path = tmp_path / 'weights.pth'
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(ValueError, match=reason) as caught:
        read_checkpoint(path)
    assert '\n' not in str(caught.value) and len(str(caught.value)) < 300
    assert not Trap.fired


@pytest.mark.filterwarnings('error::UserWarning')
def test_archives_of_other_frameworks_are_named_with_the_way_to_convert_them(tmp_path):
    np.savez(tmp_path / 'B_16.npz', **{'embedding/kernel': np.ones((2, 2, 3, 4), np.float32)})
    with pytest.raises(ValueError, match=r'archive of numpy arrays, .* timm.create_model\(NAME, '):
        read_checkpoint(tmp_path / 'B_16.npz')
    layer = nn.Linear(2, 3)
    torch.jit.trace(layer, torch.ones(1, 2)).save(str(tmp_path / 'program.pt'))
    with pytest.raises(ValueError, match=r'TorchScript archive; save torch.jit.load\(FILE, '):
        read_checkpoint(tmp_path / 'program.pt')
    # as the message says
    saved = torch.jit.load(tmp_path / 'program.pt', map_location='cpu').state_dict()
    torch.save(saved, tmp_path / 'weights.pth')
    read = read_state_dict(tmp_path / 'weights.pth')
    assert read.keys() == saved.keys() and torch.equal(read['weight'], layer.weight)


def test_runner_checkpoint_is_read_and_the_allow_list_is_as_before(save, no_safe_globals):
    hub = MessageHub.get_instance('test_weights')
    hub.update_scalar('train/loss', np.float32(0.5))
    meta = dict(
        sigmas=np.ones(17, np.float16), colors=np.zeros((17, 3), np.uint8), best=np.float64(1)
    )
    path = save(dict(state_dict=STATE, message_hub=hub.state_dict(), meta=meta))
    torch.serialization.add_safe_globals([HistoryBuffer])
    loaded = read_checkpoint(path)
    assert loaded['message_hub']['log_scalars']['train/loss'].current() == 0.5
    assert loaded['meta']['colors'].shape == (17, 3)
    assert torch.serialization.get_safe_globals() == [HistoryBuffer]


@pytest.mark.parametrize('core', [b'core', b'_core'])
def test_numpy_values_of_both_major_versions_are_read(save, core):
    path = save({'best': np.float64(3), 'sigmas': np.ones(17)})
    with zipfile.ZipFile(path) as source:
        files = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(path, 'w') as target:
        for name, data in files.items():
            data = data.replace(b'numpy._core.', b'numpy.core.')
            target.writestr(name, data.replace(b'numpy.core.', b'numpy.' + core + b'.'))
    loaded = read_checkpoint(path)
    assert loaded['best'] == 3 and loaded['sigmas'].sum() == 17


def test_private_modules_of_numpy_are_not_needed(save, monkeypatch):
    """``numpy._core`` of numpy 1.26 has no ``multiarray``."""
    monkeypatch.setattr(np, '_core', object(), raising=False)
    assert read_checkpoint(save({'score': np.float32(0.5)}))['score'] == 0.5
