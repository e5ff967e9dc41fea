"""Small networks of torchvision's architectures, as torch.onnx writes them, with their logits.

    python reference/onnx/generate.py

writes NAME.onnx and logits.safetensors beside this script: for each file the tensor NAME, `[2, classes]`, computed in
float64 for the images `values("NAME.input", [2, 3, size, size])` of pattern.py. Each network is written by one of
torch.onnx's exporters in one opset, so that all together go through both exporters and opsets 11 to 21; the newer
exporter needs the package onnxscript.
"""

import sys
import warnings
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import convnext, densenet, efficientnet, mobilenetv2, mobilenetv3, resnet, shufflenetv2, squeezenet, vgg
from torchvision.ops.misc import Conv2dNormActivation

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))
import pattern  # noqa: E402

CLASSES = 7


class SlimResNet(nn.Module):
    """ResNet's stem, a plain block, one that halves, and a bottleneck."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        half = nn.Sequential(resnet.conv1x1(8, 12, 2), nn.BatchNorm2d(12))
        wide = nn.Sequential(resnet.conv1x1(12, 16, 1), nn.BatchNorm2d(16))
        self.layer1 = nn.Sequential(resnet.BasicBlock(8, 8), resnet.BasicBlock(8, 12, 2, half))
        self.layer2 = nn.Sequential(resnet.Bottleneck(12, 4, 1, wide))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(16, CLASSES)

    def forward(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.fc(torch.flatten(self.avgpool(self.layer2(self.layer1(x))), 1))


class SlimSqueezeNet(nn.Module):
    """Two fire modules between pools that round up, and a head that is a convolution."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, ceil_mode=True),
            squeezenet.Fire(8, 4, 8, 8),
            nn.MaxPool2d(3, stride=2, ceil_mode=True),
            squeezenet.Fire(16, 4, 8, 8),
        )
        self.classifier = nn.Sequential(
            nn.Dropout(0.5), nn.Conv2d(16, CLASSES, 1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d((1, 1))
        )

    def forward(self, x):
        return torch.flatten(self.classifier(self.features(x)), 1)


class SlimVgg(nn.Module):
    """VGG's layers with a classifier that fits them; `view` asks for the batch size as old code does."""

    def __init__(self, batch_norm):
        super().__init__()
        self.features = vgg.make_layers([4, "M", 8, "M", 8, 8, "M"], batch_norm)
        self.classifier = nn.Sequential(
            nn.Linear(8 * 4 * 4, 16), nn.ReLU(True), nn.Dropout(), nn.Linear(16, CLASSES)
        )

    def forward(self, x):
        x = self.features(x)
        return self.classifier(x.view(x.size(0), -1))


class SlimDenseNet(nn.Module):
    """Two blocks of dense layers, with batch norms that no convolution can take in, and a mean of windows between."""

    def __init__(self):
        super().__init__()
        self.conv0 = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.denseblock1 = densenet._DenseBlock(3, 8, 2, 4, 0.0)
        self.transition1 = densenet._Transition(20, 10)
        self.denseblock2 = densenet._DenseBlock(2, 10, 2, 4, 0.0)
        self.norm5 = nn.BatchNorm2d(18)
        self.classifier = nn.Linear(18, CLASSES)

    def forward(self, x):
        x = self.transition1(self.denseblock1(self.conv0(x)))
        x = torch.relu(self.norm5(self.denseblock2(x)))
        return self.classifier(x.mean([2, 3]))


class Prepared(nn.Module):
    """Pictures of 0..1 are normalised inside, and probabilities come out."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))
        self.net = SlimVgg(False)

    def forward(self, x):
        return torch.softmax(self.net((x - self.mean) / self.std), 1)


def slim_mobilenet():
    settings = [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 1, 2]]
    model = mobilenetv2.MobileNetV2(CLASSES, width_mult=0.25, inverted_residual_setting=settings)
    # Its last layer has 1280 channels whatever the width.
    model.features[-1] = Conv2dNormActivation(8, 24, kernel_size=1, activation_layer=nn.ReLU6)
    model.classifier[1] = nn.Linear(24, CLASSES)
    return model


def slim_mobilenet_v3():
    config = mobilenetv3.InvertedResidualConfig
    blocks = [config(8, 3, 8, 8, True, "RE", 2, 1, 1), config(8, 3, 16, 12, False, "HS", 2, 1, 1),
              config(12, 5, 24, 12, True, "HS", 1, 1, 1)]
    return mobilenetv3.MobileNetV3(blocks, 16, CLASSES)


def slim_shufflenet():
    return shufflenetv2.ShuffleNetV2([2, 2, 2], [8, 12, 16, 24, 32], CLASSES)


def slim_efficientnet():
    config = efficientnet.MBConvConfig
    blocks = [config(1, 3, 1, 8, 8, 1), config(4, 3, 2, 8, 12, 2)]
    return efficientnet.EfficientNet(blocks, 0.2, num_classes=CLASSES, last_channel=24)


def slim_convnext():
    config = convnext.CNBlockConfig
    return convnext.ConvNeXt([config(8, 12, 2), config(12, None, 1)], layer_scale=0.3, num_classes=CLASSES)


# Name, network, side, opset, newer exporter, settings of torch.onnx.export
DYNAMIC = {"input_names": ["input"], "dynamic_axes": {"input": {0: "batch", 2: "height", 3: "width"}}}
BATCH = {"input_names": ["input"], "dynamic_axes": {"input": {0: "batch"}}}
CASES = [
    ("resnet", SlimResNet, 32, 17, False, DYNAMIC),
    ("resnet_unfolded_11", SlimResNet, 32, 11, False, {**BATCH, "do_constant_folding": False, "training": "PRESERVE"}),
    ("resnet_dynamo", SlimResNet, 32, 18, True, {}),
    ("squeezenet", SlimSqueezeNet, 33, 13, False, DYNAMIC),
    ("squeezenet_dynamo", SlimSqueezeNet, 33, 20, True, {}),
    ("vgg", lambda: SlimVgg(False), 32, 12, False, BATCH),
    ("vgg_bn_fixed", lambda: SlimVgg(True), 32, 16, False, {}),
    ("vgg_bn_dynamo", lambda: SlimVgg(True), 32, 21, True, {"dynamic_shapes": ({0: torch.export.Dim("batch")},)}),
    ("mobilenet_v2", slim_mobilenet, 32, 15, False, DYNAMIC),
    ("mobilenet_v2_dynamo", slim_mobilenet, 32, 19, True, {}),
    ("densenet", SlimDenseNet, 16, 14, False, BATCH),
    ("densenet_dynamo", SlimDenseNet, 16, 18, True, {}),
    ("mobilenet_v3", slim_mobilenet_v3, 32, 17, False, BATCH),
    ("mobilenet_v3_13", slim_mobilenet_v3, 32, 13, False, BATCH),
    ("mobilenet_v3_dynamo", slim_mobilenet_v3, 32, 18, True, {}),
    ("shufflenet", slim_shufflenet, 64, 17, False, BATCH),
    ("shufflenet_dynamo", slim_shufflenet, 64, 18, True, {}),
    ("efficientnet", slim_efficientnet, 32, 17, False, BATCH),
    ("efficientnet_dynamo", slim_efficientnet, 32, 18, True, {}),
    ("convnext", slim_convnext, 32, 17, False, BATCH),
    ("prepared", Prepared, 32, 17, False, BATCH),
]


def main():
    warnings.filterwarnings("ignore")
    logits = {}
    for name, build, size, opset, dynamo, options in CASES:
        torch.manual_seed(0)
        model = build()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor in (module.running_var.data, module.weight.data):
                    nn.init.uniform_(tensor, 0.7, 1.3)
                for tensor in (module.running_mean.data, module.bias.data):
                    nn.init.uniform_(tensor, -0.3, 0.3)
            # torchvision's own starting values let the pictures' signal die out on the way.
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)
        model.eval()
        images = torch.from_numpy(pattern.values(f"{name}.input", [2, 3, size, size]))
        options = dict(options)
        if options.get("training"):
            options["training"] = torch.onnx.TrainingMode.PRESERVE
        if dynamo:
            options["external_data"] = False
        example = images if "dynamic_shapes" in options else images[:1]
        path = FOLDER / f"{name}.onnx"
        torch.onnx.export(model, (example,), path, dynamo=dynamo, opset_version=opset, verbose=False, **options)
        strip(path)
        with torch.no_grad():
            values = model.double()(images.double())
            # The softmax is dropped, and logits are known only up to a constant: these are what it was made of.
            values = model.net((images.double() - model.mean) / model.std) if name == "prepared" else values
            error = (model.float()(images) - values).abs().max().item() if name != "prepared" else 0.0
        logits[name] = values.float()
        apart = (values[0] - values[1]).abs().max()
        assert apart > 0.01 * values.abs().max(), f"{name}: its logits hardly depend on the picture"
        print(
            f"{name}: {path.stat().st_size} bytes, logits up to {values.abs().max():.3f}, {apart:.3f} apart, "
            f"float32 off by {error:.1e}"
        )
    save_file(logits, FOLDER / "logits.safetensors")


def strip(path):
    """Leaves out what the newer exporter writes for debugging: stack traces with paths of this machine."""
    import onnx

    model = onnx.load(path)
    del model.metadata_props[:]
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for info in [*model.graph.input, *model.graph.output, *model.graph.value_info, *model.graph.initializer]:
        del info.metadata_props[:]
    del model.graph.metadata_props[:]
    onnx.save(model, path)


if __name__ == "__main__":
    main()
