"""The ``mmseg::`` look-up works under every distribution name of mmseg."""

import pytest
from mmengine.config import Config
from mmengine.config import utils as config_utils
from mmengine.utils import get_installed_path
from mmtoken.compat import make_host_configs_loadable


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
