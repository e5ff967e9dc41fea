"""What lies between gradients and weights, by torch, on a small network: updates.json.

Parameter groups with rates of their own, `clip_grad_norm_`, accumulation, an exponential moving average with buffers
(`AveragedModel`, which torchvision's `ExponentialMovingAverage` is), and parameters that join an optimizer late
(`add_param_group`). Every run takes 12 batches of 4 images and of every third one only the first 2, from
pattern.values("images{i}", [4, 3, 6, 5]) with the labels (i + j) mod 3.

A run's `rates` give a layer's factor of the learning rate by the beginning of its parameters' names; `joins` are the
batches before which it joins. With `accumulate` the loss of each batch counts by its samples. The norms are those
before clipping, one a step.
"""

import json
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "ops")]
import pattern
from network import Network

BATCHES, BATCH, CLASSES = 12, 4, 3
SGD = {"sgd": {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01, "nesterov": False}}
ADAMW = {"adamw": {"lr": 0.01, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.1}}
RATES = {"body.conv1": 0.1, "body.conv2": 0.5, "body": 0.1, "fc": 1.0}
RUNS = {
    "groups_sgd": {"optimizer": SGD, "rates": RATES},
    "groups_adamw": {"optimizer": ADAMW, "rates": RATES},
    "clip": {"optimizer": SGD, "clip_grad_norm": 0.9},
    "accumulate": {"optimizer": SGD, "accumulate": 5},
    "accumulate_frozen": {"optimizer": ADAMW, "accumulate": 5, "bn_frozen": True},
    "ema": {"optimizer": SGD, "ema": 0.8},
    "join_sgd": {"optimizer": SGD, "joins": {"body": 5}},
    "join_adamw": {"optimizer": ADAMW, "joins": {"body": 5}},
    "all": {
        "optimizer": ADAMW,
        "rates": RATES,
        "clip_grad_norm": 0.8,
        "accumulate": 2,
        "ema": 0.7,
        "joins": {"body.conv1": 8, "body.bn1": 8},
    },
}


def network():
    net = Network(3, 6, 5)
    x = net.conv("body.conv1", 0, 3, 4, 3, padding=1)
    x = net.node("body.relu1", "ReLU", net.batch_norm("body.bn1", x, 4))
    x = net.conv("body.conv2", x, 4, 6, 3, padding=1)
    x = net.node("body.relu2", "ReLU", net.batch_norm("body.bn2", x, 6))
    x = net.node("flatten", "Flatten", net.avg_pool("avgpool", x, 1))
    net.linear("fc", x, 6, CLASSES)
    return net


class Module(nn.Module):
    """The network as torch sees it: parameters and buffers under the graph's names, dots as colons."""

    def __init__(self, net, dtype):
        super().__init__()
        self.net, self.frozen_norms = net, set()
        for name, shape in net.parameters().items():
            kind = name.rpartition(".")[2]
            norm = ".bn" in name
            offset, scale = (1.0, 0.3) if kind == "running_var" or norm and kind == "weight" else (0.0, 0.5)
            value = torch.from_numpy(pattern.parameter(name, shape, offset, scale)).to(dtype)
            if kind.startswith("running_"):
                self.register_buffer(name.replace(".", ":"), value)
            else:
                self.register_parameter(name.replace(".", ":"), nn.Parameter(value))

    def tensors(self):
        return {name.replace(":", "."): value for name, value in [*self.named_parameters(), *self.named_buffers()]}

    def forward(self, x, frozen=()):
        """In train mode, but for the batch norms whose names begin with one of `frozen`."""
        values = self.tensors()
        for node in self.net.graph["nodes"]:
            sources = [out[i] for i in node.get("inputs", [])]
            own = lambda suffix: values.get(f"{node['name']}.{suffix}")
            match node["op"]:
                case "Input":
                    out = []
                    y = x
                case "Conv2d":
                    y = F.conv2d(sources[0], own("weight"), own("bias"), padding=1)
                case "BatchNorm2d":
                    train = not node["name"].startswith(tuple(frozen))
                    y = F.batch_norm(
                        sources[0], own("running_mean"), own("running_var"), own("weight"), own("bias"), train
                    )
                case "ReLU":
                    y = F.relu(sources[0])
                case "AdaptiveAvgPool2d":
                    y = F.adaptive_avg_pool2d(sources[0], 1)
                case "Flatten":
                    y = torch.flatten(sources[0], 1)
                case "Linear":
                    y = F.linear(sources[0], own("weight"), own("bias"))
            out.append(y)
        return out[-1]


def batch(i):
    images = torch.from_numpy(pattern.values(f"images{i}", (BATCH, 3, 6, 5)))
    labels = torch.tensor([(i + j) % CLASSES for j in range(BATCH)])
    n = 2 if i % 3 == 2 else BATCH
    # Brighter from class to class, so that there is something to learn.
    return (images + (labels.float() - 1).reshape(-1, 1, 1, 1))[:n], labels[:n]


def run(settings, dtype):
    model = Module(network(), dtype)
    ((kind, hyper),) = settings["optimizer"].items()
    rates, joins = settings.get("rates", {"": 1.0}), settings.get("joins", {})
    rate = lambda name: next(rate for prefix, rate in rates.items() if name.startswith(prefix))
    joins_at = lambda name: next((at for prefix, at in joins.items() if name.startswith(prefix)), 0)
    groups = lambda at: [
        {"params": [p], "lr": hyper["lr"] * rate(name.replace(":", "."))}
        for name, p in model.named_parameters()
        if joins_at(name.replace(":", ".")) == at
    ]
    optimizer = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[kind](groups(0), **hyper)
    decay = settings.get("ema")
    average = AveragedModel(model, avg_fn=get_ema_avg_fn(decay), use_buffers=True) if decay else None
    every, norms, losses = settings.get("accumulate", 1), [], []
    pending, weight = 0, 0
    for i in range(BATCHES):
        if i > 0:
            for group in groups(i):
                optimizer.add_param_group(group)
        images, labels = batch(i)
        # Layers that have not joined yet are frozen, their statistics too.
        frozen = ["body"] if settings.get("bn_frozen") else [prefix for prefix, at in joins.items() if at > i]
        loss = F.cross_entropy(model(images.to(dtype), frozen), labels)
        losses.append(loss.item())
        (loss * len(labels)).backward()
        pending, weight = pending + 1, weight + len(labels)
        if pending == every or i + 1 == BATCHES:
            learning = [p for group in optimizer.param_groups for p in group["params"]]
            for p in learning:
                p.grad /= weight
            if "clip_grad_norm" in settings:
                norms.append(nn.utils.clip_grad_norm_(learning, settings["clip_grad_norm"]).item())
            optimizer.step()
            model.zero_grad()
            pending, weight = 0, 0
            if average:
                average.update_parameters(model)
    return losses, norms, model.tensors(), average.module.tensors() if average else {}


def main():
    runs = {}
    for name, settings in RUNS.items():
        losses, norms, after, average = run(settings, torch.float64)
        losses_f32, _, after_f32, average_f32 = run(settings, torch.float32)
        gap = max(abs(a - b) for a, b in zip(losses, losses_f32))
        for exact, single in [(after, after_f32), (average, average_f32)]:
            for tensor in exact:
                gap = max(gap, (exact[tensor] - single[tensor]).abs().max().item())
        assert gap < 1e-5, f"{name}: rounding decides: {gap}"
        clip = settings.get("clip_grad_norm")
        assert clip is None or any(n > clip for n in norms) and any(n < clip for n in norms), f"{name}: {norms}"
        print(f"{name}: {losses[0]:.4f} -> {losses[-1]:.4f}, float32 differs by {gap:.1e}, norms {norms}")
        values = lambda tensors: {key: value.flatten().tolist() for key, value in tensors.items()}
        runs[name] = settings | {"losses": losses, "norms": norms, "after": values(after), "average": values(average)}
    start = {key: value.flatten().tolist() for key, value in Module(network(), torch.float32).tensors().items()}
    document = {
        "torch": torch.__version__.partition("+")[0],
        "batches": BATCHES,
        "graph": network().graph,
        "start": start,
        "runs": runs,
    }
    Path(__file__).with_name("updates.json").write_text(json.dumps(document) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
