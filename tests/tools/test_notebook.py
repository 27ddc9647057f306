"""The notebook runs, with fewer pictures and epochs."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / 'docs/image_to_model.ipynb'


def code_cells():
    cells = json.loads(NOTEBOOK.read_text(encoding='utf-8'))['cells']
    return [''.join(cell['source']) for cell in cells if cell['cell_type'] == 'code']


def test_ten_cells_with_outputs():
    assert len(code_cells()) == 10
    assert 'image/png' in NOTEBOOK.read_text(encoding='utf-8')


@pytest.mark.slow
def test_cells_run(monkeypatch, tmp_path, capsys):
    pytest.importorskip('mmpose')
    monkeypatch.chdir(ROOT / 'docs')
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))
    first, *rest = code_cells()
    for text, new in (
        ("ROOT / 'work_dirs/notebook'", f'Path({str(tmp_path)!r})'),
        ('FINE_TUNING_EPOCHS = 200, 40, 10, 2', 'FINE_TUNING_EPOCHS = 8, 4, 1, 1'),
    ):
        assert text in first
        first = first.replace(text, new)
    names = {}
    for cell in (first, *rest):
        exec(cell, names)
    printed = capsys.readouterr().out
    assert 'stage 4: 12 tokens of 256 channels' in printed
    assert 'fine-tuned: 0.' in printed and names['joints'].shape == (17, 2)
    assert names['drawn'].size == (320, 256)
