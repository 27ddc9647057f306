"""``mmseg::`` bases load under every name of mmseg, and a runner's checkpoints load safely."""

import importlib
import pickle

import mmtoken
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.config import utils as config_utils
from mmengine.logging import MessageHub
from mmengine.utils import get_installed_path
from mmtoken.compat import make_host_configs_loadable, prepare_hosts


@pytest.fixture
def table(monkeypatch):
    table = dict(mmseg='mmsegmentation', mmpose='mmpose')
    monkeypatch.setattr(config_utils, 'MODULE2PACKAGE', table)
    return table


def fake_distributions(monkeypatch, *installed):
    def distribution(name):
        if name not in installed:
            raise make_host_configs_loadable.__globals__['metadata'].PackageNotFoundError(name)

    monkeypatch.setattr('mmtoken.compat.metadata.distribution', distribution)


def test_importable_host_of_a_fork_is_looked_up_by_import_name(table, monkeypatch):
    monkeypatch.setattr('mmtoken.compat.find_spec', lambda name: object())
    fake_distributions(monkeypatch)
    assert make_host_configs_loadable() == ['mmseg']
    assert table == dict(mmseg='mmseg', mmpose='mmpose')


def test_official_distribution_is_left_alone(table, monkeypatch):
    monkeypatch.setattr('mmtoken.compat.find_spec', lambda name: object())
    fake_distributions(monkeypatch, 'mmsegmentation')
    assert make_host_configs_loadable() == []
    assert table['mmseg'] == 'mmsegmentation'


def test_absent_host_is_left_alone(table, monkeypatch):
    monkeypatch.setattr('mmtoken.compat.find_spec', lambda name: None)
    fake_distributions(monkeypatch)
    assert make_host_configs_loadable() == []
    assert table['mmseg'] == 'mmsegmentation'


def test_config_with_an_mmseg_base_loads(tmp_path):
    pytest.importorskip('mmseg', reason='mmseg is not installed')
    make_host_configs_loadable()
    assert get_installed_path(config_utils.MODULE2PACKAGE['mmseg'])
    config = tmp_path / 'config.py'
    config.write_text("_base_ = 'mmseg::_base_/models/fpn_r50.py'\n")
    assert Config.fromfile(config).model.type == 'EncoderDecoder'


@pytest.mark.parametrize(
    'prepare', [prepare_hosts, lambda: importlib.reload(mmtoken)], ids=['tools', 'inferencers']
)
def test_hosts_read_what_a_runner_saves_without_running_code(prepare, tmp_path):
    hub = MessageHub.get_instance('test_compat')
    hub.update_scalar('train/loss', np.float32(0.5))
    meta = dict(sigmas=np.ones(17, np.float32), colors=np.zeros((17, 3), np.uint8))
    path = tmp_path / 'checkpoint.pth'
    torch.save(dict(message_hub=hub.state_dict(), meta=meta), path)
    torch.serialization.clear_safe_globals()
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    prepare()
    loaded = torch.load(path, weights_only=True)
    assert loaded['message_hub']['log_scalars']['train/loss'].current() == 0.5
    assert loaded['meta']['colors'].shape == (17, 3)
    assert getattr not in torch.serialization.get_safe_globals()
