"""Checkpoints that survive a kill: either the old or the new file is always whole."""

import copy
import os
import os.path as osp
from collections.abc import Callable
from contextlib import suppress

from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook


@register_backend('local', force=True, prefixes='')
class AtomicBackend(LocalBackend):
    """The local file system, where a file appears under its name once it is complete."""

    def put(self, obj: bytes, filepath: str | os.PathLike) -> None:
        """Write ``obj`` to a temporary file next to ``filepath``, then rename it."""
        part = f'{filepath}.part'
        try:
            super().put(obj, part)
            os.replace(part, filepath)
        except BaseException:
            with suppress(FileNotFoundError):
                os.remove(part)
            raise


class SafeCheckpointHook(CheckpointHook):
    """Delete old checkpoints of this run only, and only after the new one is written."""

    def _save_checkpoint_with_step(self, *args, **kwargs) -> None:
        self._delete_late(super()._save_checkpoint_with_step, *args, **kwargs)

    def _save_best_checkpoint(self, *args, **kwargs) -> None:
        self._delete_late(super()._save_best_checkpoint, *args, **kwargs)

    def _delete_late(self, save: Callable[..., None], *args, **kwargs) -> None:
        backend, late = self.file_backend, []
        self.file_backend = copy.copy(backend)
        self.file_backend.remove = self.file_backend.rmtree = late.append
        try:
            save(*args, **kwargs)
        finally:
            self.file_backend = backend
        best = getattr(self, 'best_ckpt_path_dict', {}).values()
        kept = {self.last_ckpt, getattr(self, 'best_ckpt_path', None), *best}
        for path in late:
            # a resumed run remembers paths in the folder that it was copied or moved from
            path = backend.join_path(self.out_dir, osp.basename(path))
            if path not in kept and backend.exists(path):
                (backend.rmtree if backend.isdir(path) else backend.remove)(path)
