"""MMToken: vision transformers on clusters of tokens, for dense tasks in OpenMMLab.

| paper | package | registered |
| --- | --- | --- |
| TCFormer (CVPR 2022) | ``mmtoken.tcformer`` | ``TCFormer``, ``MTA`` |
| PaCa-ViT (CVPR 2023) | ``mmtoken.paca_vit`` | ``PaCaViT``, with mmseg ``PaCaHead`` |
| STViT, STViT-R (CVPR 2023) | ``mmtoken.stvit`` | ``STViTR``, ``STViTSwin``, ``STViTDeiT`` |
| ViT (ICLR 2021), ViTDet (ECCV 2022) | ``mmtoken.vit`` | ``PlainViT``, ``SimpleFPN`` |
| any model of timm | ``mmtoken.timm_features`` | ``TimmFeatures`` |
| MaxViT (ECCV 2022) | ``mmtoken.maxvit`` | ``MaxViT``, ``MaxViTPreLogits`` |
| Query-key interaction (NeurIPS 2024) | ``mmtoken.query_key`` | ``QKInteractionHook`` |

Importing registers everything that the installed hosts allow in mmengine's root registries:
``custom_imports = dict(imports=['mmtoken'])`` is the only line that a config needs. It also lets
torch's safe unpickler read the checkpoints that runners save, and mmengine find our configs as
``mmtoken::FOLDER/NAME.py``.
"""

try:
    import mmengine
except ModuleNotFoundError as error:
    raise ImportError(
        'mmtoken needs mmengine, which is not installed; run "pip install onedl-mmengine" (or '
        '"pip install mmengine" next to the official mmcv, mmdet, mmseg and mmpose)'
    ) from error

from .common.layer_decay import LayerDepthOptimWrapperConstructor
from .common.recorder import record_tokens
from .compat import make_checkpoints_loadable, name_our_configs
from .maxvit import MaxViT, MaxViTPreLogits
from .paca_vit import PaCaViT
from .paca_vit.optimizer import RoleOptimWrapperConstructor
from .query_key import QKInteractionHook
from .stvit import STViTDeiT, STViTR, STViTSwin
from .tcformer import MTA, TCFormer
from .timm_features import TimmFeatures
from .vit import PlainViT, SimpleFPN

make_checkpoints_loadable()
name_our_configs()

__version__ = '0.1.0'
__all__ = [
    'MTA',
    'LayerDepthOptimWrapperConstructor',
    'MaxViT',
    'MaxViTPreLogits',
    'PaCaViT',
    'PlainViT',
    'QKInteractionHook',
    'RoleOptimWrapperConstructor',
    'STViTDeiT',
    'STViTR',
    'STViTSwin',
    'SimpleFPN',
    'TCFormer',
    'TimmFeatures',
    'record_tokens',
]
