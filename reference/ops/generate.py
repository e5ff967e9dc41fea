"""Outputs and gradients of single operations and small networks by torch: one .safetensors a case.

Computed in float64, stored as float32 in PyTorch's layouts. Tensors: `input`, `param.<name>`, `output`,
`grad_output`, `grad.input`, `grad.<name>`, and in train mode `after.<buffer>`; for a loss also
`class_weights` and `probabilities`, `answers` or `values` where it has them. The metadata entry "case" is JSON: `graph` (a regraft_graph::Graph) and
`training` (batch norms in train mode), or `loss` (`labels`, `label_smoothing`).
"""

import json
import sys
from itertools import count
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.models.resnet import BasicBlock
from torchvision.models.squeezenet import Fire

sys.path.insert(0, str(Path(__file__).parents[1]))
import pattern
from cases import CASES, LOSSES

HERE = Path(__file__).parent
# No activation may lie closer than this to a kink or a tie: float32, even by a Winograd transform,
# is off by some 1e-5 at most here, and must not take another branch.
MARGIN = 1e-4


def values(name, shape, scale=1.0, offset=0.0):
    """Pattern values in float32, so that float64 starts from what an implementation will read."""
    return torch.from_numpy(pattern.parameter(name, shape, offset, scale))


def parameters(network, salt):
    out = {}
    for name, shape in network.parameters().items():
        norm = f"{name.rpartition('.')[0]}.running_var" in network.parameters()
        if norm:
            spread = {"weight": (0.5, 1.0), "bias": (0.3, 0.0), "running_mean": (0.3, 0.0), "running_var": (0.6, 1.0)}
            out[name] = values(salt + name, shape, *spread[name.rpartition(".")[2]])
        else:
            out[name] = values(salt + name, shape)
    return out


def make_input(network, shape, salt):
    ops = [node["op"] for node in network.graph["nodes"]]
    u = values(salt + "input", shape, 8.0 if ops == ["Input", "ReLU6"] else 2.0)
    if ops == ["Input", "MaxPool2d"]:
        # Evenly spaced values in a random order: no two are nearly equal.
        order = u.flatten().argsort().argsort().reshape(shape)
        return ((order + 0.5) / (u.numel() / 2) - 1).float()
    return u


def differentiate(network, params, x, upstream, training, dtype):
    """Output, gradients and buffers after the step, and the margin, computed in `dtype`."""
    params = {name: value.to(dtype, copy=True) for name, value in params.items()}
    learned = [name for name in params if not name.endswith(("running_mean", "running_var"))]
    leaves = [x.to(dtype, copy=True).requires_grad_(), *(params[name].requires_grad_() for name in learned)]
    output, margin = network.run(params, leaves[0], training)
    gradients = torch.autograd.grad(output, leaves, upstream(output.shape).to(dtype))
    out = {"output": output.detach()}
    out |= {f"grad.{name}": gradient for name, gradient in zip(["input", *learned], gradients)}
    if training:
        out |= {f"after.{name}": params[name] for name in params if name not in learned}
    return out, margin


def error(single, exact):
    """How far float32 lies from float64, of the largest element; the worst tensor counts."""
    return max(
        ((single[name].double() - exact[name]).abs().max() / exact[name].abs().max()).item() for name in exact
    )


def save(name, tensors, case):
    tensors = {key: value.float().contiguous() for key, value in tensors.items()}
    assert all(value.isfinite().all() for value in tensors.values())
    case["torch"] = torch.__version__.partition("+")[0]
    save_file(tensors, HERE / f"{name}.safetensors", {"case": json.dumps(case)})


def generate_network(name, network, batch, training):
    for attempt in count():
        salt = f"{name}.{attempt}."
        params = parameters(network, salt)
        x = make_input(network, network.input_shape(batch), salt)
        upstream = lambda shape: values(salt + "grad_output", shape)
        exact, margin = differentiate(network, params, x, upstream, training, torch.float64)
        if margin > MARGIN:
            break
    single, _ = differentiate(network, params, x, upstream, training, torch.float32)
    check_against_torchvision(name, params, x, upstream, training, exact)
    tensors = {"input": x, "grad_output": upstream(exact["output"].shape)} | exact
    tensors |= {f"param.{key}": value for key, value in params.items()}
    save(name, tensors, {"graph": network.graph, "training": training})
    return error(single, exact)


def check_against_torchvision(name, params, x, upstream, training, exact):
    """Holds the composed cases against torchvision's own blocks: our graph must mean the same."""
    shortcut = nn.Sequential(nn.Conv2d(3, 5, 1, 2, bias=False), nn.BatchNorm2d(5))
    blocks = {
        "basic_block": lambda: BasicBlock(3, 5, 2, shortcut),
        "fire": lambda: Fire(5, 3, 4, 5),
        "inverted_residual": lambda: InvertedResidual(3, 3, 1, 4),
    }
    make = blocks.get(name.removesuffix("_train").removesuffix("_eval"))
    if make is None:
        return
    block = make().double().train(training)
    missing, unexpected = block.load_state_dict(params, strict=False)
    assert not unexpected and all(key.endswith("num_batches_tracked") for key in missing)
    x = x.double().requires_grad_()
    output = block(x)
    output.backward(upstream(output.shape).double())
    ours = {"output": output.detach(), "grad.input": x.grad}
    ours |= {f"grad.{key}": value.grad for key, value in block.named_parameters()}
    ours |= {f"after.{key}": dict(block.named_buffers())[key] for key in params if f"after.{key}" in exact}
    assert ours.keys() == exact.keys()
    for key, value in exact.items():
        torch.testing.assert_close(ours[key], value, rtol=1e-10, atol=1e-12)


def generate_loss(name, smoothing, weighted, kind="labels"):
    batch, classes = 5, 7
    logits = values(f"{name}.input", (batch, classes), 4.0)
    labels = [3, 0, 6, 3, 1]
    # As MixUp makes them, and a row with some of every class.
    one_hot = F.one_hot(torch.tensor(labels), classes).float()
    probabilities = 0.3 * one_hot + 0.7 * one_hot.roll(1, 0)
    probabilities[0] = torch.arange(1, 8) / 28
    # Yes and no, and what MixUp makes of them.
    answers = torch.maximum(one_hot, one_hot.roll(2, 1))
    answers[4] = torch.arange(7) / 6
    targets = {"labels": torch.tensor(labels), "probabilities": probabilities, "answers": answers,
               "values": values(f"{name}.values", (batch, classes), 3.0)}[kind]
    weights = values(f"{name}.class_weights", (classes,), 0.8, 1.0) if weighted else None

    def differentiate(dtype):
        x = logits.to(dtype, copy=True).requires_grad_()
        weight = weights.to(dtype) if weighted else None
        target = targets.to(dtype) if kind != "labels" else targets
        if kind == "answers":
            # torch has no smoothing for it: half of the share goes to either answer.
            smoothed = target * (1 - smoothing) + smoothing / 2
            loss = F.binary_cross_entropy_with_logits(x, smoothed, pos_weight=weight)
        elif kind == "values":
            loss = F.mse_loss(x, target)
        else:
            loss = F.cross_entropy(x, target, weight, label_smoothing=smoothing)
        loss.backward()
        return {"output": loss.detach(), "grad.input": x.grad}

    exact = differentiate(torch.float64)
    tensors = {"input": logits} | exact | ({"class_weights": weights} if weighted else {})
    if kind != "labels":
        tensors[kind] = targets
    save(name, tensors, {"loss": ({"labels": labels} if kind == "labels" else {}) | {"label_smoothing": smoothing}})
    return error(differentiate(torch.float32), exact)


def main():
    torch.set_num_threads(2)
    for old in HERE.glob("*.safetensors"):
        old.unlink()
    for name, (network, batch, training) in CASES.items():
        print(f"{name:32} float32 error {generate_network(name, network, batch, training):.1e}")
    for name, case in LOSSES.items():
        print(f"{name:32} float32 error {generate_loss(name, *case):.1e}")


if __name__ == "__main__":
    main()
