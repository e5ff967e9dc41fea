"""The project's own compact backbone in PyTorch, with torchvision's MobileNetV2: for the golden values, and for those who
want its weights there."""

from torch import nn
from torchvision.models import MobileNetV2
from torchvision.ops.misc import Conv2dNormActivation

# Expansion, output channels, blocks, stride of the first.
STAGES = [
    (1, 16, 1, 1),
    (64 / 16, 24, 1, 2),
    (112 / 24, 24, 1, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 1, 2),
    (832 / 160, 160, 2, 1),
    (832 / 160, 320, 1, 1),
]
FEATURES = 1024


class Rootstock(MobileNetV2):
    def __init__(self, classes):
        super().__init__(num_classes=classes, inverted_residual_setting=STAGES)
        self.features[-1] = Conv2dNormActivation(
            STAGES[-1][1], FEATURES, kernel_size=1, norm_layer=nn.BatchNorm2d, activation_layer=nn.ReLU6
        )
        self.classifier[1] = nn.Linear(FEATURES, classes)
