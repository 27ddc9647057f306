"""Every backbone in every kind of model: ``python tests/tools/swap_matrix.py`` fills docs/swap.md.

A cell is a config that the tool makes, trains for one step and predicts with.
"""

import sys
import tempfile
import time
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if __name__ == '__main__':
    sys.path += [str(ROOT / 'tools'), str(ROOT / 'tests')]

from _errors import UsageError  # noqa: E402
from mmengine.config import Config  # noqa: E402
from rooms import SMALLEST  # noqa: E402
from swap_backbone import check, make  # noqa: E402

DOCS = ROOT / 'docs/swap.md'
COCO = 'mmpose::body_2d_keypoint'
ADE20K = '160k_ade20k-512x512.py'
AE = 'associative_embedding/coco/ae_hrnet-w32_8xb24-300e_coco-512x512.py'
# kind of model -> config; the first four of a host are the quickest
HOSTS = {
    'RetinaNet': 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py',
    'ATSS': 'mmdet::atss/atss_r50_fpn_1x_coco.py',
    'RTMDet-ins': 'mmdet::rtmdet/rtmdet-ins_tiny_8xb32-300e_coco.py',
    'FCOS': 'mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py',
    'Mask R-CNN': 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
    'Cascade Mask R-CNN': 'mmdet::cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py',
    'SOLOv2': 'mmdet::solov2/solov2_r50_fpn_1x_coco.py',
    'Deformable DETR': 'mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py',
    'DINO': 'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py',
    'SegFormer': f'mmseg::segformer/segformer_mit-b0_8xb2-{ADE20K}',
    'Semantic FPN': f'mmseg::sem_fpn/fpn_r50_4xb4-{ADE20K}',
    'DeepLabV3+': f'mmseg::deeplabv3plus/deeplabv3plus_r50-d8_4xb4-{ADE20K}',
    'PSPNet': f'mmseg::pspnet/pspnet_r50-d8_4xb4-{ADE20K}',
    'UPerNet': f'mmseg::upernet/upernet_r50_4xb4-{ADE20K}',
    'Mask2Former': f'mmseg::mask2former/mask2former_r50_8xb2-{ADE20K}',
    'heatmaps': f'{COCO}/topdown_heatmap/coco/td-hm_res50_8xb64-210e_coco-256x192.py',
    'heatmaps, HRNet': f'{COCO}/topdown_heatmap/coco/td-hm_hrnet-w32_8xb64-210e_coco-256x192.py',
    'SimCC': f'{COCO}/simcc/coco/simcc_res50_8xb64-210e_coco-256x192.py',
    'RTMPose': f'{COCO}/rtmpose/coco/rtmpose-s_8xb256-420e_coco-256x192.py',
    'regression': f'{COCO}/topdown_regression/coco/td-reg_res50_8xb64-210e_coco-256x192.py',
    'DEKR': f'{COCO}/dekr/coco/dekr_hrnet-w32_8xb10-140e_coco-512x512.py',
    'associative embedding': f'{COCO}/{AE}',
}
BACKBONES = [room.SWAP for room in SMALLEST.values() if hasattr(room, 'SWAP')]


def of_host(host: str) -> list[str]:
    return [name for name, config in HOSTS.items() if config.startswith(host)]


def diagonal() -> list[tuple[str, dict]]:
    """Each backbone in one kind of model of each host."""
    hosts = [of_host(host)[:4] for host in ('mmdet', 'mmseg', 'mmpose')]
    return [
        (names[(i + shift) % len(names)], backbone)
        for shift, names in enumerate(hosts)
        for i, backbone in enumerate(BACKBONES)
    ]


def neck_of(cfg: Config, name: str) -> str:
    """What a cell says: the neck that reads the maps."""
    neck = cfg.model.get('neck')
    necks = [one.type for one in (neck if isinstance(neck, list) else [neck]) if one]
    return ', '.join(necks) or 'none'


def cell(name: str, backbone: dict, folder: Path) -> str:
    """Make, train and test one; return its neck, or that the tool refuses it."""
    try:
        cfg = make(HOSTS[name], backbone, folder)[1]
        seen = check(HOSTS[name], cfg)
    except UsageError as error:
        print(error)
        return 'refused'
    return neck_of(cfg, name) + (' (*)' if 'no gradient' in seen else '')


def table(rows: dict[str, list[str]]) -> str:
    lines = [['model', *(backbone['type'] for backbone in BACKBONES)]]
    lines += [['---'] * len(lines[0]), *([name, *row] for name, row in rows.items())]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def main() -> None:
    from mmengine.logging import MMLogger
    from mmtoken.compat import prepare_hosts

    MMLogger.get_current_instance().setLevel('WARNING')

    warnings.simplefilter('ignore')
    prepare_hosts()
    rows = {}
    for name in sys.argv[1:] or HOSTS:
        rows[name] = []
        for backbone in BACKBONES:
            start = time.time()
            with tempfile.TemporaryDirectory() as folder:
                rows[name].append(cell(name, backbone, Path(folder)))
            print(f'{name}, {backbone["type"]}: {rows[name][-1]}, {time.time() - start:.0f} s')
            sys.stdout.flush()
    if len(rows) == len(HOSTS):
        before, _, after = DOCS.read_text(encoding='utf-8').partition('| model |')
        rest = after.partition('\n\n')[2]
        DOCS.write_text(f'{before}{table(rows)}\n\n{rest}', encoding='utf-8')


if __name__ == '__main__':
    main()
