"""Nothing is done twice, and nothing that changed is taken for done."""

import pytest
from setup_env.environment import python_of
from setup_env.stamp import STAMP, is_finished


def test_a_stamped_environment_is_finished(checkout):
    assert is_finished(checkout, checkout / '.venv')


@pytest.mark.parametrize(
    'name', ['requirements.txt', 'pyproject.toml', 'tools/setup_env/steps.py', '.venv/pyvenv.cfg']
)
def test_a_change_of_any_deciding_file_ends_that(checkout, name):
    (checkout / name).write_text('changed')
    assert not is_finished(checkout, checkout / '.venv')


def test_another_checkout_is_not_finished_by_the_same_environment(checkout, tmp_path):
    other = tmp_path / 'other'
    other.mkdir()
    for name in ('requirements.txt', 'pyproject.toml', 'tools'):
        (other / name).symlink_to(checkout / name)
    assert not is_finished(other, checkout / '.venv')


def test_a_new_step_ends_that_as_well(checkout):
    (checkout / 'tools/setup_env/another.py').write_text('')
    assert not is_finished(checkout, checkout / '.venv')


def test_a_stamp_alone_is_not_an_environment(checkout):
    (checkout / '.venv' / 'pyvenv.cfg').unlink()
    assert not is_finished(checkout, checkout / '.venv')


def test_an_environment_without_stamp_or_python_is_not_finished(checkout):
    venv = checkout / '.venv'
    python_of(venv).unlink()
    assert not is_finished(checkout, venv)
    (venv / STAMP).unlink()
    assert not is_finished(checkout, venv)
    assert not is_finished(checkout, checkout / 'nowhere')
    assert not is_finished(checkout, checkout / 'pyproject.toml')
