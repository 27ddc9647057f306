"""Write docs/zoo.md, a table of all configs, from the metafiles.

python docs/make_zoo.py
"""

from collections.abc import Iterator
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
INTRODUCTION = """# Configs and scores

All configs with their parameters in millions and their scores. *Published* is what the authors
report for their own code and weights, *measured* is our own run of this very config. An empty cell
was not measured, or not published. A slash divides several sources. AP of poses is a fraction,
everything else a percentage. Sources, hardware and recipes are in the READMEs.

A config of an installed mmtoken can also be named `mmtoken::FOLDER/NAME.py`: in the tools of this
repository, in `mmengine.hub.get_config`, and in `_base_` after `import mmtoken`.

Written by `python docs/make_zoo.py` from [model-index.yml](../model-index.yml).
"""
HEADER = ('config', 'params', 'published', 'measured', 'commit')


def read(path: Path) -> dict:
    """Content of a YAML file."""
    return yaml.safe_load(path.read_text(encoding='utf-8'))


def scores(found: list[dict]) -> str:
    """All metrics of a model by data set; values of several sources after a slash."""
    groups = {}
    for score in found:
        metrics = groups.setdefault(score['Dataset'], {})
        for name, value in score['Metrics'].items():
            metrics.setdefault(name, []).append(str(value))
    cells = (
        f'{data}: ' + ', '.join(f'{name} {" / ".join(values)}' for name, values in metrics.items())
        for data, metrics in groups.items()
    )
    return '; '.join(cells)


def sections() -> Iterator[str]:
    """A table for each metafile."""
    for path in read(ROOT / 'model-index.yml')['Import']:
        content, folder = read(ROOT / path), Path(path).parent
        title = (ROOT / folder / 'README.md').read_text(encoding='utf-8').partition('\n')[0]
        rows = [HEADER, ['---'] * len(HEADER)]
        for model in content['Models']:
            facts = model['Metadata']
            link = f'[{model["Name"]}](../{model["Config"]})'
            size, commit = facts.get('Parameters (M)', ''), facts.get('Commit', '')
            both = (scores(model.get(name, [])) for name in ('Published', 'Results'))
            rows.append([link, str(size), *both, commit])
        lines = [f'| {" | ".join(row)} |'.replace('  ', ' ') for row in rows]
        name = title.removeprefix('# ').removesuffix(': configs')
        yield '\n'.join((f'## [{name}](../{folder}/README.md)', '', *lines, ''))


def make() -> str:
    """The whole page."""
    return '\n'.join((INTRODUCTION, *sections()))


if __name__ == '__main__':
    (ROOT / 'docs/zoo.md').write_text(make(), encoding='utf-8')
