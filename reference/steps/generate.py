"""Losses of ten training steps of torchvision's resnet18 from pattern weights: resnet18.json.

Step i trains on 8 images of 64 by 64 pixels with the labels (8 i + j) mod 10: squares of 8 pixels with the
colours pattern.values("coarse{i}", [8, 3, 8, 8]), a quarter of the noise pattern.values("fine{i}",
[8, 3, 64, 64]), and a brightness for each class, so that there is something to learn. Each loss is computed
before its step's update. Weight decay applies to every parameter, as torch does unless told otherwise.

The losses are those of float64; float32 runs beside it to see how far rounding alone carries a run off.
In train mode it does so in jumps: an activation that changes sides of a ReLU changes the gradient, and with
it the losses of later steps. Small learning rates and images that differ (pure noise all looks alike once
pooled) keep that below 1e-4 over ten steps. The weight decay is large enough that one forgotten shows in
the recorded weights.
"""

import json
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
import pattern

STEPS, BATCH, SIDE, CLASSES = 10, 8, 64, 10
SQUARE = 8
SGD = {"lr": 0.0002, "momentum": 0.9, "weight_decay": 0.01, "nesterov": False}
ADAMW = {"lr": 1e-5, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.1}
# Name -> (optimizer, its settings, batch norms frozen: running statistics used, affine parameters trained).
RUNS = {
    "sgd": ("sgd", SGD, False),
    "sgd_nesterov": ("sgd", SGD | {"nesterov": True}, False),
    "sgd_bn_frozen": ("sgd", SGD | {"lr": 0.005}, True),
    "adamw": ("adamw", ADAMW, False),
    "adamw_bn_frozen": ("adamw", ADAMW | {"lr": 1e-4}, True),
}
# The first elements of these, after the last step.
RECORDED = """conv1.weight bn1.weight bn1.running_mean bn1.running_var layer2.0.downsample.1.running_mean
layer4.1.bn2.bias layer4.1.bn2.running_mean layer4.1.bn2.running_var fc.weight fc.bias""".split()
ELEMENTS = 8


def batch(step):
    labels = torch.tensor([(BATCH * step + j) % CLASSES for j in range(BATCH)])
    coarse = torch.from_numpy(pattern.values(f"coarse{step}", (BATCH, 3, SIDE // SQUARE, SIDE // SQUARE)))
    coarse = coarse.repeat_interleave(SQUARE, 2).repeat_interleave(SQUARE, 3)
    fine = torch.from_numpy(pattern.values(f"fine{step}", (BATCH, 3, SIDE, SIDE)))
    brightness = ((labels.float() - 4.5) * 0.25).reshape(-1, 1, 1, 1)
    return (coarse + fine * 0.25) + brightness, labels


def train(optimizer, settings, bn_frozen, dtype):
    model = torchvision.models.resnet18(weights=None, num_classes=CLASSES).train()
    pattern.fill(model)
    model.to(dtype)
    for module in model.modules():
        if bn_frozen and isinstance(module, nn.BatchNorm2d):
            module.eval()
    kind = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[optimizer]
    update = kind(model.parameters(), **settings)
    losses = []
    for step in range(STEPS):
        images, labels = batch(step)
        loss = F.cross_entropy(model(images.to(dtype)), labels)
        update.zero_grad()
        loss.backward()
        update.step()
        losses.append(loss.item())
    return losses, model.state_dict()


def furthest(a, b):
    return (a - b).abs().max().item()


def main():
    torch.set_num_threads(2)
    start = pattern.state(torchvision.models.resnet18(weights=None, num_classes=CLASSES))
    runs = {}
    for name, (optimizer, settings, bn_frozen) in RUNS.items():
        losses, state = train(optimizer, settings, bn_frozen, torch.float64)
        losses_f32, state_f32 = train(optimizer, settings, bn_frozen, torch.float32)
        gap = max(abs(a - b) for a, b in zip(losses, losses_f32))
        print(f"{name}: {losses[0]:.6f} -> {losses[-1]:.6f}, float32 differs by {gap:.1e}")
        last = {}
        for key in RECORDED:
            first = lambda tensor: tensor.flatten()[:ELEMENTS].double()
            values, change = first(state[key]), furthest(first(state[key]), first(torch.from_numpy(start[key])))
            error = furthest(values, first(state_f32[key]))
            print(f"    {key:36} changed by {change:.1e}, float32 differs by {error:.1e}")
            last[key] = {"values": values.tolist(), "change": change, "float32_error": error}
        assert gap < 1e-4, "rounding decides the losses: choose a smaller learning rate"
        runs[name] = {
            "optimizer": {optimizer: settings},
            "bn_frozen": bn_frozen,
            "losses": losses,
            "losses_f32": losses_f32,
            "last": last,
        }
    torch_version = torch.__version__.partition("+")[0]
    pixels = batch(0)[0].flatten().double()
    document = {
        "torch": torch_version,
        "steps": STEPS,
        "batch": BATCH,
        "side": SIDE,
        "classes": CLASSES,
        "batch0_digest": (pixels * (torch.arange(len(pixels)) % 1009)).sum().item(),
        "runs": runs,
    }
    Path(__file__).with_name("resnet18.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
