"""A data set for mmseg that needs no files."""

import torch
from torch.utils.data import Dataset


class NoiseSegments(Dataset):
    """Two noise images of ``side`` x ``side`` pixels with two classes."""

    metainfo = dict(classes=('a', 'b'))

    def __init__(self, side):
        self.side = side

    def __len__(self):
        return 2

    def __getitem__(self, index):
        from mmengine.structures import PixelData
        from mmseg.structures import SegDataSample

        label = torch.zeros(1, self.side, self.side, dtype=torch.long)
        label[..., 16:] = 1
        image = torch.randint(0, 255, (3, self.side, self.side), dtype=torch.uint8)
        return dict(inputs=image, data_samples=SegDataSample(gt_sem_seg=PixelData(data=label)))
