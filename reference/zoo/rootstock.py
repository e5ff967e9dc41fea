"""The project's own compact backbone in PyTorch, with torchvision's basic blocks: for the golden values, and for those who
want its weights there."""

import torch
from torch import nn
from torchvision.models.resnet import BasicBlock

STAGES = [(48, 1), (96, 2), (144, 2), (240, 1)]
FEATURES = 640


def stage(channels, width, blocks, stride):
    layers = []
    for i in range(blocks):
        step = stride if i == 0 else 1
        downsample = None
        if step != 1 or channels != width:
            conv = nn.Conv2d(channels, width, 1, step, bias=False)
            downsample = nn.Sequential(conv, nn.BatchNorm2d(width))
        layers.append(BasicBlock(channels, width, step, downsample))
        channels = width
    return nn.Sequential(*layers)


class Rootstock(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32)
        self.conv2, self.bn2 = nn.Conv2d(32, STAGES[0][0], 3, 2, 1, bias=False), nn.BatchNorm2d(STAGES[0][0])
        channels = STAGES[0][0]
        for i, (width, blocks) in enumerate(STAGES):
            setattr(self, f"layer{i + 1}", stage(channels, width, blocks, 1 if i == 0 else 2))
            channels = width
        self.conv3, self.bn3 = nn.Conv2d(channels, FEATURES, 1, bias=False), nn.BatchNorm2d(FEATURES)
        self.fc = nn.Linear(FEATURES, classes)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        x = torch.relu(self.bn3(self.conv3(x)))
        return self.fc(x.mean((2, 3)))
