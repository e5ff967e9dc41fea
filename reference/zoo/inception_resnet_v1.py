"""The face network of facenet-pytorch, written down again in its names: the package is not needed for the golden values."""

import torch
from torch import nn


class Basic(nn.Module):
    def __init__(self, ins, outs, kernel, stride=1, padding=0):
        super().__init__()
        self.conv = nn.Conv2d(ins, outs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outs, eps=0.001)

    def forward(self, x):
        return torch.relu(self.bn(self.conv(x)))


class Residual(nn.Module):
    """Block35, Block17 and Block8."""

    def __init__(self, branches, width, channels, scale, relu=True):
        super().__init__()
        for i, branch in enumerate(branches):
            setattr(self, f"branch{i}", branch)
        self.count, self.scale, self.relu = len(branches), scale, relu
        self.conv2d = nn.Conv2d(width, channels, 1)

    def forward(self, x):
        joined = torch.cat([getattr(self, f"branch{i}")(x) for i in range(self.count)], 1)
        y = self.conv2d(joined) * self.scale + x
        return torch.relu(y) if self.relu else y


class Reduction(nn.Module):
    """Mixed_6a and Mixed_7a."""

    def __init__(self, branches):
        super().__init__()
        branches = [*branches, nn.MaxPool2d(3, stride=2)]
        for i, branch in enumerate(branches):
            setattr(self, f"branch{i}", branch)
        self.count = len(branches)

    def forward(self, x):
        return torch.cat([getattr(self, f"branch{i}")(x) for i in range(self.count)], 1)


def block35():
    third = nn.Sequential(Basic(256, 32, 1), Basic(32, 32, 3, padding=1), Basic(32, 32, 3, padding=1))
    return Residual([Basic(256, 32, 1), nn.Sequential(Basic(256, 32, 1), Basic(32, 32, 3, padding=1)), third], 96, 256, 0.17)


def block17():
    sevens = Basic(128, 128, (1, 7), padding=(0, 3)), Basic(128, 128, (7, 1), padding=(3, 0))
    return Residual([Basic(896, 128, 1), nn.Sequential(Basic(896, 128, 1), *sevens)], 256, 896, 0.10)


def block8(scale=0.20, relu=True):
    threes = Basic(192, 192, (1, 3), padding=(0, 1)), Basic(192, 192, (3, 1), padding=(1, 0))
    return Residual([Basic(1792, 192, 1), nn.Sequential(Basic(1792, 192, 1), *threes)], 384, 1792, scale, relu)


class InceptionResnetV1(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv2d_1a = Basic(3, 32, 3, stride=2)
        self.conv2d_2a = Basic(32, 32, 3)
        self.conv2d_2b = Basic(32, 64, 3, padding=1)
        self.maxpool_3a = nn.MaxPool2d(3, stride=2)
        self.conv2d_3b = Basic(64, 80, 1)
        self.conv2d_4a = Basic(80, 192, 3)
        self.conv2d_4b = Basic(192, 256, 3, stride=2)
        self.repeat_1 = nn.Sequential(*(block35() for _ in range(5)))
        down = nn.Sequential(Basic(256, 192, 1), Basic(192, 192, 3, padding=1), Basic(192, 256, 3, stride=2))
        self.mixed_6a = Reduction([Basic(256, 384, 3, stride=2), down])
        self.repeat_2 = nn.Sequential(*(block17() for _ in range(10)))
        self.mixed_7a = Reduction(
            [
                nn.Sequential(Basic(896, 256, 1), Basic(256, 384, 3, stride=2)),
                nn.Sequential(Basic(896, 256, 1), Basic(256, 256, 3, stride=2)),
                nn.Sequential(Basic(896, 256, 1), Basic(256, 256, 3, padding=1), Basic(256, 256, 3, stride=2)),
            ]
        )
        self.repeat_3 = nn.Sequential(*(block8() for _ in range(5)))
        self.block8 = block8(scale=1.0, relu=False)
        self.avgpool_1a = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.6)
        self.last_linear = nn.Linear(1792, 512, bias=False)
        self.last_bn = nn.BatchNorm1d(512, eps=0.001)
        self.logits = nn.Linear(512, classes)

    def forward(self, x):
        x = self.conv2d_4b(self.conv2d_4a(self.conv2d_3b(self.maxpool_3a(self.conv2d_2b(self.conv2d_2a(self.conv2d_1a(x)))))))
        x = self.repeat_2(self.mixed_6a(self.repeat_1(x)))
        x = self.block8(self.repeat_3(self.mixed_7a(x)))
        x = self.dropout(torch.flatten(self.avgpool_1a(x), 1))
        return self.logits(self.last_bn(self.last_linear(x)))
