"""The convolutions of MaxViT: the stem, and MBConv with squeeze and excitation (Sec. 3.3)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from ..common.layers import DropPath
from .forms import ACTIVATIONS, BATCH_NORM_MOMENTUM, Form

EXPANSION = 4
SQUEEZE = 16  # the hidden width of an MBConv over that of its squeeze


class SameConv2d(nn.Conv2d):
    """3x3 convolution of stride 2 with TensorFlow's padding: the first cell is at (0, 0).

    At even sides TensorFlow pads only at the bottom and on the right. Here a side is padded by 2
    and the first result left out: the same sums without a copy of the larger map.

    Shape:
        - x: ``(B, C, H, W)``; returns ``(B, D, ceil(H / 2), ceil(W / 2))``.
    """

    def forward(self, x: Tensor) -> Tensor:
        even = [int(side) % 2 == 0 for side in x.shape[2:]]
        padding = [2 if is_even else 1 for is_even in even]
        x = F.conv2d(x, self.weight, self.bias, self.stride, padding, groups=self.groups)
        return x[:, :, int(even[0]) :, int(even[1]) :]


def conv3x3(
    in_dim: int, dim: int, stride: int, form: Form, bias: bool, depthwise: bool = False
) -> nn.Conv2d:
    """3x3 convolution with the padding of a form."""
    kind = SameConv2d if stride == 2 and form.same_padding else nn.Conv2d
    groups = dim if depthwise else 1
    return kind(in_dim, dim, 3, stride=stride, padding=1, groups=groups, bias=bias)


def batch_norm(dim: int, form: Form) -> nn.BatchNorm2d:
    """Batch norm with the epsilon of a form."""
    return nn.BatchNorm2d(dim, eps=form.conv_eps, momentum=BATCH_NORM_MOMENTUM)


class Stem(nn.Module):
    """Two 3x3 convolutions, the first of stride 2, with a batch norm between them.

    Args:
        in_channels: Channels of the image.
        dims: Width of each convolution.
        form: Details of a release.
    """

    def __init__(self, in_channels: int, dims: tuple[int, int], form: Form) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, dims[0], 2, form, form.stem_bias[0])
        self.norm1 = batch_norm(dims[0], form)
        self.act = ACTIVATIONS[form.conv_act]()
        self.conv2 = conv3x3(dims[0], dims[1], 1, form, form.stem_bias[1])

    def forward(self, image: Tensor) -> Tensor:
        return self.conv2(self.act(self.norm1(self.conv1(image))))


class SqueezeExcite(nn.Module):
    """Scale each channel by a function of the means of all channels over the map."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(dim, max(dim // SQUEEZE, 1), 1)
        self.fc2 = nn.Conv2d(max(dim // SQUEEZE, 1), dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        squeezed = F.silu(self.fc1(x.mean((2, 3), keepdim=True)))
        return x * self.fc2(squeezed).sigmoid()


class Shortcut(nn.Module):
    """Average pooling of stride 2 and a 1x1 convolution between different widths.

    Zeros beyond an odd side count in the mean, as in timm and torchvision.
    """

    def __init__(self, in_dim: int, dim: int, form: Form) -> None:
        super().__init__()
        self.wide = form.wide_pool
        projects = in_dim != dim or form.always_projects
        self.expand = nn.Conv2d(in_dim, dim, 1, bias=form.conv_bias) if projects else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        if self.wide:
            return self.expand(F.avg_pool2d(x, 3, 2, padding=1))
        return self.expand(F.avg_pool2d(x, 2, 2, ceil_mode=True, divisor_override=4))


class MBConv(nn.Module):
    """Inverted bottleneck with a depthwise convolution, squeeze and excitation, pre-norm.

    Args:
        in_dim: Channels of the input.
        dim: C.
        stride: 1, or 2 to halve the sides.
        form: Details of a release.
        drop_path: Stochastic depth, in [0, 1).

    Shape:
        - x: ``(B, in_dim, H, W)``.
        - returns: ``(B, C, ceil(H / stride), ceil(W / stride))``.
    """

    def __init__(
        self, in_dim: int, dim: int, stride: int, form: Form, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        hidden = EXPANSION * (dim if form.widens_output else in_dim)
        self.shortcut = Shortcut(in_dim, dim, form) if stride == 2 else nn.Identity()
        self.pre_norm = batch_norm(in_dim, form)
        self.conv1_1x1 = nn.Conv2d(in_dim, hidden, 1, bias=False)
        self.norm1 = batch_norm(hidden, form)
        self.conv2_kxk = conv3x3(hidden, hidden, stride, form, bias=False, depthwise=True)
        self.norm2 = batch_norm(hidden, form)
        self.act = ACTIVATIONS[form.conv_act]()
        self.se = SqueezeExcite(hidden)
        self.conv3_1x1 = nn.Conv2d(hidden, dim, 1, bias=form.conv_bias)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.act(self.norm1(self.conv1_1x1(self.pre_norm(x))))
        hidden = self.se(self.act(self.norm2(self.conv2_kxk(hidden))))
        return self.shortcut(x) + self.drop_path(self.conv3_1x1(hidden))
