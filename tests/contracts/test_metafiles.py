"""Every ``configs/*/metafile.yml`` and its README agree with the configs of the folder.

The folders are found by glob, so that there is no list to maintain. Models are expensive to build:
of each metafile, only the smallest and the largest one are counted.
"""

import runpy
from collections import Counter
from functools import cache
from pathlib import Path

import mmtoken  # noqa: F401, makes its configs known
import pytest
import yaml
from mmengine.config import Config
from mmengine.hub import get_config
from shipped import built

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = sorted(
    path for path in (ROOT / 'configs').iterdir() if path.is_dir() and path.name != '_base_'
)
SIZE = 'Parameters (M)'


@cache
def metafile(folder: Path) -> dict:
    return yaml.safe_load((folder / 'metafile.yml').read_text(encoding='utf-8'))


def stems(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob('*.py'))


def collections() -> list[dict]:
    """All collections: as in OpenMMLab, a metafile may refer to one of another metafile."""
    return [one for folder in FOLDERS for one in metafile(folder).get('Collections', [])]


def counted() -> list[dict]:
    """The smallest and the largest model of each metafile, where it gives sizes."""
    chosen = []
    for folder in FOLDERS:
        sized = [model for model in metafile(folder)['Models'] if SIZE in model['Metadata']]
        sized.sort(key=lambda model: model['Metadata'][SIZE])
        chosen += [sized[0], sized[-1]] if sized else []
    return chosen


def check_scores(scores: list[dict]) -> None:
    """Every score names its task, data set and metrics, and every metric has a number."""
    assert scores
    for score in scores:
        assert score['Task'] and score['Dataset'] and score['Metrics']
        assert all(isinstance(value, (int, float)) for value in score['Metrics'].values())


def test_collections_are_complete_and_unique():
    found = collections()
    assert found
    assert max(Counter(one['Name'] for one in found).values()) == 1
    for one in found:
        assert one['Metadata']['Architecture'] and one['Metadata']['Training Data']
        assert one['Paper']['Title'] and one['Paper']['URL'].startswith('https://')
        assert (ROOT / one['README']).is_file()


@pytest.mark.parametrize('folder', FOLDERS, ids=lambda folder: folder.name)
def test_models_are_the_configs_of_the_folder(folder):
    models = metafile(folder)['Models']
    assert sorted(model['Name'] for model in models) == stems(folder)
    names = {one['Name'] for one in collections()}
    for model in models:
        assert model['Config'] == f'configs/{folder.name}/{model["Name"]}.py'
        assert model['In Collection'] in names
        assert model['Metadata']['Training Data']


@pytest.mark.parametrize('folder', FOLDERS, ids=lambda folder: folder.name)
def test_published_and_measured_scores_say_where_they_come_from(folder):
    for model in metafile(folder)['Models']:
        if 'Published' in model:
            check_scores(model['Published'])
            assert all(score['Source'] for score in model['Published'])
        if 'Results' in model:
            check_scores(model['Results'])
            assert not any('Source' in score for score in model['Results'])
            for key in ('Training Resources', 'Training Time', 'Commit'):
                assert isinstance(model['Metadata'][key], str), key


@pytest.mark.parametrize('folder', FOLDERS, ids=lambda folder: folder.name)
def test_readme_links_every_config_and_no_other(folder):
    text = (folder / 'README.md').read_text(encoding='utf-8')
    for stem in stems(folder):
        assert f'[`{stem}`]({stem}.py)' in text, stem
    links = [part.split(')')[0] for part in text.split('](')[1:]]
    for link in links:
        assert link.startswith('https://') or (folder / link).is_file(), link


@pytest.mark.parametrize('model', counted(), ids=lambda model: model['Name'])
def test_parameters_are_those_of_the_built_model(model):
    built_model = built(ROOT / model['Config'])
    count = sum(parameter.numel() for parameter in built_model.parameters())
    assert round(count / 1e6, 3) == model['Metadata'][SIZE]


def test_index_links_every_folder():
    text = (ROOT / 'configs/README.md').read_text(encoding='utf-8')
    for folder in FOLDERS:
        assert f'({folder.name}/README.md)' in text, folder.name


def test_model_index_lists_every_metafile():
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text(encoding='utf-8'))['Import']
    assert index == [f'configs/{folder.name}/metafile.yml' for folder in FOLDERS]


def test_table_of_all_configs_is_current():
    make = runpy.run_path(str(ROOT / 'docs/make_zoo.py'))['make']
    page = (ROOT / 'docs/zoo.md').read_text(encoding='utf-8')
    assert page == make(), 'run python docs/make_zoo.py'


@pytest.mark.parametrize('folder', FOLDERS, ids=lambda folder: folder.name)
def test_short_names(folder, tmp_path):
    """``mmtoken::FOLDER/NAME.py``, as mmengine names the configs of the hosts."""
    path = ROOT / metafile(folder)['Models'][0]['Config']
    name, want = f'mmtoken::{folder.name}/{path.name}', Config.fromfile(path)
    assert get_config(name).to_dict() == want.to_dict()
    (tmp_path / 'mine.py').write_text(f'_base_ = {name!r}\nwork_dir = "mine"')
    assert Config.fromfile(tmp_path / 'mine.py').model.type == want.model.type
