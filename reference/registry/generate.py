"""torchvision's published weights: crates/hub/registry/torchvision.toml.

Everything is read from the installed package: address, leading digits of the SHA-256 (they are in the file's name,
and torchvision checks them), size, parameters, operations, accuracy and the evaluation transforms of each entry of
the weight enums. torchvision calls the number of multiply-adds of one image GFLOPS; here it is `gmacs`.

GoogLeNet and Inception v3 undo ImageNet's normalisation in their first step when their weights are loaded
(`transform_input`). Here the network has no such step, so its weights' mean and standard deviation are those that
both steps together amount to; the script computes them from the model's own code.
"""

import re
from pathlib import Path

import torch
import torchvision
from torchvision import models

OUTPUT = Path(__file__).parents[2] / "crates/hub/registry/torchvision.toml"

NETWORKS = """resnet18 resnet34 resnet50 resnet101 resnet152 wide_resnet50_2 wide_resnet101_2 resnext50_32x4d
resnext101_32x8d resnext101_64x4d vgg11 vgg11_bn vgg13 vgg13_bn vgg16 vgg16_bn vgg19 vgg19_bn squeezenet1_0
squeezenet1_1 mobilenet_v2 mobilenet_v3_small mobilenet_v3_large efficientnet_b0 efficientnet_b1 efficientnet_b2
efficientnet_b3 efficientnet_b4 densenet121 densenet169 googlenet inception_v3 shufflenet_v2_x0_5 shufflenet_v2_x1_0
shufflenet_v2_x1_5 shufflenet_v2_x2_0 mnasnet0_5 mnasnet0_75 mnasnet1_0 mnasnet1_3 regnet_x_400mf regnet_x_800mf
regnet_x_1_6gf regnet_x_3_2gf regnet_y_400mf regnet_y_800mf regnet_y_1_6gf regnet_y_3_2gf convnext_tiny
convnext_small""".split()

# Builders that turn `transform_input` on together with the weights.
TRANSFORM_INPUT = {"googlenet": models.GoogLeNet, "inception_v3": models.Inception3}


def as_trained(network, mean, std):
    """Mean and standard deviation of the normalisation that `network` was trained with."""
    if network not in TRANSFORM_INPUT:
        return mean, std
    model = TRANSFORM_INPUT[network](transform_input=True, aux_logits=False, init_weights=False)
    levels = torch.tensor([0.0, 1.0], dtype=torch.float64).reshape(1, 1, 1, 2).expand(1, 3, 1, 2)
    channel = lambda values: torch.tensor(values, dtype=torch.float64).reshape(1, 3, 1, 1)
    low, high = model._transform_input((levels - channel(mean)) / channel(std))[0, :, 0, :].unbind(1)
    # Both steps are affine, so black and white determine (level - mean) / std.
    return [round(float(-l / (h - l)), 9) for l, h in zip(low, high)], [
        round(float(1 / (h - l)), 9) for l, h in zip(low, high)
    ]


def entry(network, weights, is_default):
    """One table of the file."""
    meta, transforms = weights.meta, weights.transforms()
    (resize,), (crop,) = transforms.resize_size, transforms.crop_size
    mean, std = as_trained(network, transforms.mean, transforms.std)
    (side,) = set(meta["min_size"])
    values = {
        "backbone": network,
        "name": weights.name,
        "default": is_default,
        "url": weights.url,
        "sha256": re.search(r"-([0-9a-f]{8,})\.pth$", weights.url)[1],
        "mib": meta["_file_size"],
        "parameters": meta["num_params"],
        "gmacs": meta["_ops"],
        "metric": "ImageNet-1K top-1",
        "accuracy": meta["_metrics"]["ImageNet-1K"]["acc@1"],
        # No entry used here has a licence of its own; the package's applies.
        "licence": meta.get("license", "BSD-3-Clause"),
        "trained_on": "ImageNet-1K",
        "min_size": side,
        "resize": resize,
        "crop": crop,
        "interpolation": transforms.interpolation.value,
        "mean": list(mean),
        "std": list(std),
    }
    text = {True: "true", False: "false"}
    literal = lambda value: text[value] if isinstance(value, bool) else repr(value).replace("'", '"')
    return "\n[[weights]]\n" + "".join(f"{key} = {literal(value)}\n" for key, value in values.items())


def main():
    version = torchvision.__version__.split("+")[0]
    parts = [f"# Weights that torchvision {version} publishes. Written by reference/registry/generate.py.\n"]
    for network in NETWORKS:
        enum = models.get_model_weights(network)
        # VGG16's IMAGENET1K_FEATURES classify nothing: they are for detectors.
        classifiers = [weights for weights in enum if weights.meta["categories"]]
        parts += [entry(network, weights, weights is enum.DEFAULT) for weights in classifiers]
    OUTPUT.write_text("".join(parts))
    print(f"{len(parts) - 1} files of weights for {len(NETWORKS)} networks")


if __name__ == "__main__":
    main()
