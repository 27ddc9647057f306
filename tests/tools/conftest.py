"""Call the command-line tools inside the test process: the hosts take seconds to import."""

import importlib.util
import json
import sys
import uuid
from pathlib import Path
from types import ModuleType

import pytest
from _errors import one_sentence
from demo_data import write_demo_data

ROOT = Path(__file__).resolve().parents[2]


class Commands:
    """The tools of this checkout, and the demo config to call them with."""

    demo_config = next((ROOT / 'configs/demo').glob('td-hm_tcformer-demo_*.py'))
    tools = ROOT / 'tools'

    def load(self, name: str) -> ModuleType:
        """Import ``tools/<name>.py``; plain ``import test`` would find Python's own tests."""
        spec = importlib.util.spec_from_file_location(f'tools_{name}', self.tools / f'{name}.py')
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def parse(self, name: str, *arguments: object):
        """Return the module of a tool and its parsed command line."""
        module = self.load(name)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, 'argv', [name, *map(str, arguments)])
            return module, module.parse_args()

    def call(self, name: str, *arguments: object, options: tuple[str, ...] = ()) -> None:
        """Run ``python tools/<name>.py ARGUMENTS --cfg-options OPTIONS`` in this process."""
        # runners of one process share loggers and history by this name
        options = (f'experiment_name={uuid.uuid4().hex}', *options)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, 'argv', [name, *map(str, arguments), '--cfg-options', *options])
            # asks compilers for their version
            patch.setattr('mmengine.runner.runner.collect_env', dict)
            one_sentence()(self.load(name).main)()


class Toy:
    """Train and test the toy model of ``toy.py`` in one folder."""

    def __init__(self, commands: Commands, folder: Path, content: ModuleType) -> None:
        self.commands, self.folder = commands, folder
        self.data, self.work_dir = folder / 'data', folder / 'runs'
        self.config = self.write('toy_config.py', content.CONFIG)
        self.lazy_config = self.write('toy_lazy.py', content.LAZY)
        self.write('toy_data.py', content.LAZY_DATA)
        self.data.mkdir()
        self.annotate([dict(x=0.1 * i, y=0.2 * i) for i in range(4)])

    def write(self, name: str, text: str) -> Path:
        """Write a file next to the config, e.g. a config that inherits from it."""
        (self.folder / name).write_text(text)
        return self.folder / name

    def annotate(self, samples: list[dict], name: str = 'train.json') -> None:
        """Write the samples of a data set with the classes a and b."""
        content = dict(metainfo=dict(classes=['a', 'b']), data_list=samples)
        (self.data / name).write_text(json.dumps(content))

    def train(self, *arguments: object, options=(), config=None) -> None:
        """Train for two epochs of two iterations."""
        places = ('--data-root', self.data, '--work-dir', self.work_dir)
        config = config or self.config
        self.commands.call('train', config, *places, *arguments, options=options)

    def test(self, *arguments: object, options=(), config=None, checkpoint=None) -> None:
        """Evaluate a checkpoint, the last of the training run by default."""
        places = ('--data-root', self.data, '--work-dir', self.folder / 'test')
        config = config or self.config
        checkpoint = checkpoint or self.work_dir / 'epoch_2.pth'
        self.commands.call('test', config, checkpoint, *places, *arguments, options=options)


@pytest.fixture(scope='session')
def commands() -> Commands:
    return Commands()


@pytest.fixture(scope='module')
def export_tool(commands):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(commands.tools)
        yield commands.load('export')


@pytest.fixture
def toy(commands, tmp_path, monkeypatch) -> Toy:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    return Toy(commands, tmp_path, importlib.import_module('toy'))


@pytest.fixture
def trained(toy) -> Toy:
    toy.train('--no-validate')
    return toy


@pytest.fixture(scope='session')
def few_images(tmp_path_factory) -> Path:
    """A drawn data set: four images to train on, one to validate on."""
    folder = tmp_path_factory.mktemp('few_images')
    write_demo_data(folder, num_train=4, num_val=1)
    return folder
