"""requirements.txt is read exactly, and compared with what is installed."""

from pathlib import Path

import pytest
from setup_env.requirements import missing_pins, read_sections
from setup_env.wheels import COMPILED, DURATION

ROOT = Path(__file__).resolve().parents[3]


def test_sections_keep_their_order_and_drop_the_reasons():
    text = '# prose\n# [base] first\ntorch==2.12.1  # why\n\n# [source] then\na.b-c==1.0.post1\n'
    assert read_sections(text) == {
        'base': {'torch': '2.12.1'},
        'source': {'a.b-c': '1.0.post1'},
    }


@pytest.mark.parametrize('line', ['numpy>=2.0', 'numpy'])
def test_only_exact_pins_are_taken(line):
    with pytest.raises(ValueError, match=f"exact pins .* got '{line}' in line 2; write NAME==VERS"):
        read_sections(f'# [base]\n{line}\n')


def test_a_pin_outside_of_any_section_is_refused():
    with pytest.raises(ValueError, match="below a .* got 'six==1.17.0' in line 1"):
        read_sections('six==1.17.0\n')


def test_the_shipped_requirements_fill_every_step_and_say_why():
    text = (ROOT / 'requirements.txt').read_text()
    sections = read_sections(text)
    assert list(sections) == ['base', 'source', 'no-deps', 'dev']
    assert set(sections['source']) == set(COMPILED) == set(DURATION)
    assert all('# ' in line for line in text.splitlines() if '==' in line)


def test_a_local_version_meets_its_public_pin(pins):
    installed = {'torch': '2.12.1+cu130', 'numpy': '2.2.5'}
    assert missing_pins(pins, installed) == [
        'numpy==2.2.6',
        'onedl-mmcv==2.3.6',
        'xtcocotools==1.14.3',
    ]


def test_a_second_opencv_is_never_wanted():
    pins = {'opencv-python-headless': '4.12.0.88'}
    assert missing_pins(pins, {'opencv-python': '5.0.0.93'}) == []
    assert missing_pins(pins, {}) == ['opencv-python-headless==4.12.0.88']
