"""A paper in miniature, outside the package: pools a grid, and counts it as clustering."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from mmengine.registry import MODELS
from mmtoken.common.attention import multi_head_attention
from mmtoken.common.backbone import Backbone, resolve_arch
from mmtoken.common.checks import HW, check_int
from mmtoken.common.layers import to_map, to_tokens
from mmtoken.common.recorder import record
from mmtoken.common.records import Heats, Record, Regions
from torch import Tensor, nn

ARCHS = {'tiny': dict(dim=8, depths=(1, 1, 2, 1))}


@dataclass(frozen=True)
class Brightness(Record):
    hw: HW
    x: Tensor

    def pictures(self, sample: int) -> list[Regions | Heats]:
        values = self.x[sample].mean(-1).view(self.hw)
        name, stride = f'stage{self.stage}', 2 ** (self.stage + 1)
        bright = (values > values.mean()).long()
        return [
            Regions(name, f'stage {self.stage}', bright, stride),
            Heats(f'{name}_values', f'stage {self.stage}', values[None], stride),
        ]


class Block(nn.Module):
    counts_as = {'mix': 'clustering'}

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.mix = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return x + self.mix(multi_head_attention(y, y, y, 2))


def other_release(keys: Collection[str]) -> dict[str, str]:
    """Files of the other release call the stem ``conv1``."""
    return {key: key.replace('conv1.', 'stem.') for key in keys if key.startswith('conv1.')}


@MODELS.register_module()
class StubBackbone(Backbone):
    """Four stages of attention on ever coarser grids."""

    conventions = (other_release,)

    def __init__(
        self,
        arch: str | dict = 'tiny',
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(4, out_indices, frozen_stages, norm_eval, with_cp, init_cfg)
        spec = resolve_arch(arch, ARCHS, tuple(ARCHS['tiny']))
        check_int('in_channels', in_channels)
        dim, built = spec['dim'], max(self.out_indices) + 1
        self.in_channels = in_channels
        self.out_channels = self.select((dim,) * 4)
        self.out_strides = self.select((4, 8, 16, 32))
        self.stem = nn.Conv2d(in_channels, dim, 7, 4, 3)
        self.stage_modules.append(['stem'])
        for stage in range(1, built + 1):
            if stage > 1:
                self.add_module(f'down{stage}', nn.Conv2d(dim, dim, 3, 2, 1))
            blocks = [Block(dim) for _ in range(spec['depths'][stage - 1])]
            self.add_module(f'stage{stage}', nn.ModuleList(blocks))
            self.stage_modules.append(self.stage_names(stage))
        self.depths = tuple(spec['depths'])[:built]
        self.finish()

    def stage_names(self, stage: int) -> list[str]:
        return [f'stage{stage}'] if stage == 1 else [f'down{stage}', f'stage{stage}']

    def run_stages(self, image: Tensor) -> list[Tensor]:
        x, maps = self.stem(image), []
        for stage in range(1, len(self.depths) + 1):
            if stage > 1:
                x = getattr(self, f'down{stage}')(x)
            tokens, hw = to_tokens(x), tuple(x.shape[2:])
            for block in getattr(self, f'stage{stage}'):
                tokens = self.run_block(block, tokens)
            record(Brightness(stage, hw, tokens))
            x = to_map(tokens, hw)
            maps.append(x)
        return maps
