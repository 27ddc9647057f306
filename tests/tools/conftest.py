"""Call the command-line tools inside the test process: the hosts take seconds to import."""

import importlib.util
import sys
import uuid
from pathlib import Path
from types import ModuleType

import pytest
from demo_data import write_demo_data

ROOT = Path(__file__).resolve().parents[2]
# few iterations in this process, over the handful of images that the fixture draws
SMALL = (
    *('train_cfg.max_epochs=1', 'train_cfg.val_interval=1', 'default_hooks.logger.interval=1'),
    'train_dataloader.batch_size=4',
    *(f'{split}_dataloader.num_workers=0' for split in ('train', 'val', 'test')),
    *(f'{split}_dataloader.persistent_workers=False' for split in ('train', 'val', 'test')),
)


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
            self.load(name).main()

    def train(self, data: Path, work_dir: Path, *arguments: object, options=()) -> None:
        """Train the demo model for a moment."""
        arguments = (self.demo_config, '--data-root', data, '--work-dir', work_dir, *arguments)
        self.call('train', *arguments, options=(*SMALL, *options))

    def test(self, data: Path, checkpoint: Path, *arguments: object, options=()) -> None:
        """Evaluate the demo model; logs go beside the checkpoint."""
        places = ('--data-root', data, '--work-dir', checkpoint.parent / 'test')
        arguments = (self.demo_config, checkpoint, *places, *arguments)
        self.call('test', *arguments, options=(*SMALL, *options))


@pytest.fixture(scope='session')
def commands() -> Commands:
    return Commands()


@pytest.fixture(scope='session')
def few_images(tmp_path_factory) -> Path:
    """A drawn data set: four images to train on, one to validate on."""
    folder = tmp_path_factory.mktemp('few_images')
    write_demo_data(folder, num_train=4, num_val=1)
    return folder
