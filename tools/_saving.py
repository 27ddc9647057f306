"""Checkpoints that survive a kill: the old file or the new one is always whole."""

import os
import os.path as osp
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook


@register_backend('local', force=True, prefixes='')
class AtomicBackend(LocalBackend):
    """The local file system, where a file appears under its name once it is complete."""

    def put(self, obj: bytes, filepath: str | os.PathLike) -> None:
        """Write ``obj`` next to ``filepath`` and move it there.

        Args:
            obj: Data to be written.
            filepath: Path to write to.
        """
        part = f'{filepath}.part'
        try:
            super().put(obj, part)
            os.replace(part, filepath)
        except BaseException:
            with suppress(FileNotFoundError):
                os.remove(part)
            raise


class SafeCheckpointHook(CheckpointHook):
    """Delete an old checkpoint after the new one is written, and none of another run."""

    def _save_checkpoint_with_step(self, *args, **kwargs) -> None:
        with self._deleting_last():
            super()._save_checkpoint_with_step(*args, **kwargs)

    def _save_best_checkpoint(self, *args, **kwargs) -> None:
        with self._deleting_last():
            super()._save_best_checkpoint(*args, **kwargs)

    @contextmanager
    def _deleting_last(self) -> Iterator[None]:
        backend, self.file_backend = self.file_backend, _LateRemoval(self.file_backend)
        try:
            yield
            late = self.file_backend.paths
        finally:
            self.file_backend = backend
        best = getattr(self, 'best_ckpt_path_dict', {}).values()
        kept = {self.last_ckpt, getattr(self, 'best_ckpt_path', None), *best}
        for path in late:
            # a resumed run remembers paths of the folder that it was copied or moved from
            path = backend.join_path(self.out_dir, osp.basename(path))
            if path not in kept and backend.exists(path):
                (backend.rmtree if backend.isdir(path) else backend.remove)(path)


class _LateRemoval:
    """A file backend that collects the paths to remove."""

    def __init__(self, backend: LocalBackend) -> None:
        self.backend = backend
        self.paths: list[str] = []
        self.remove = self.rmtree = self.paths.append

    def __getattr__(self, name: str):
        return getattr(self.backend, name)
