"""Load the fixtures where tests run: their imports take seconds."""

import os

import pytest

# Two cores shared with others: spinning threads would wait for each other
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')


def pytest_configure(config: pytest.Config) -> None:
    """Load ``shared_fixtures.py``, except where tests are only handed out to workers."""
    if not config.getoption('numprocesses', None):
        config.pluginmanager.import_plugin('shared_fixtures')
