import pytest
import torch
from mmtoken.paca_vit import reference
from mmtoken.paca_vit.teacher import ConvMixerTeacher
from torch.nn import functional as F


@pytest.mark.parametrize('training', [False, True])
@pytest.mark.parametrize('hw', [(9, 13), (8, 8), (1, 2)])
def test_equals_the_published_order_of_resize_and_convolution(hw, training, randomize):
    teacher = randomize(ConvMixerTeacher((4, 6, 8, 10), (1, 1, 2, 1), (3, 3, 3, 3)).double())
    teacher.train(training)
    if training and hw == (1, 2):
        hw = (2, 3)  # batch statistics need more than one value
    x = torch.randn(3, 4, *hw, dtype=torch.float64, requires_grad=True)
    stages = teacher._bottom_up(x)
    maps = teacher._top_down(stages)
    slow = reference.mix_top_down(teacher, stages)
    for a, b in zip(maps, slow):
        torch.testing.assert_close(a, b)
    grads = [
        torch.autograd.grad(sum(m.square().sum() for m in out), x, retain_graph=True)[0]
        for out in (maps, slow)
    ]
    torch.testing.assert_close(*grads)


def test_assignments_sum_to_one_and_residuals_are_the_bottom_up_maps(randomize):
    teacher = randomize(ConvMixerTeacher((4, 6, 8, 10), (1, 1, 1, 1), (3, 2))).eval()
    x = torch.randn(2, 4, 7, 5)
    assigns, residuals = teacher(x)
    assert [a.shape for a in assigns] == [(2, 3, 35), (2, 2, 12)]
    for assign in assigns:
        torch.testing.assert_close(assign.sum(-1), torch.ones(assign.shape[:2]))
    for residual, stage in zip(residuals, teacher._bottom_up(x)):
        torch.testing.assert_close(residual, stage.flatten(2).transpose(1, 2))


def test_blur_pads_with_zeros_before_the_convolution():
    """One 5x5 convolution would give the same inside, and something else at the border."""
    teacher = ConvMixerTeacher((1, 1), (1, 1), (2, 2)).double()
    blur_conv = teacher.transition1[0]
    out = blur_conv(torch.ones(1, 1, 6, 6).double())
    row = torch.tensor([0.75] + [1.0] * 4 + [0.75]).double()
    torch.testing.assert_close(
        out, F.conv2d((row[:, None] * row)[None, None], blur_conv.conv.weight,
                      blur_conv.conv.bias, stride=2, padding=1)
    )  # fmt: skip


@torch.no_grad()
def test_efficient_conv_bn_eval(randomize):
    efficient = pytest.importorskip('mmengine.model.efficient_conv_bn_eval')
    teacher = randomize(ConvMixerTeacher((4, 6, 8, 10), (1, 1, 1, 1), (3, 2, 2, 2)))
    x = torch.randn(2, 4, 7, 5)
    want = teacher.eval()(x)
    efficient.turn_on_efficient_conv_bn_eval(torch.nn.ModuleDict(dict(t=teacher.train())), 't')
    torch.testing.assert_close(teacher.eval()(x), want)
