"""One set-up at a time works on an environment or a wheel."""

from setup_env.lock import locked


def test_a_lock_is_free_again_after_use(tmp_path, capsys):
    for _ in range(2):
        with locked(tmp_path / 'new' / 'lock'):
            pass
    assert capsys.readouterr().out == ''
