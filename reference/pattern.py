"""Weights and images that Python and Rust compute bit for bit alike, so that none need committing.

The twin is crates/testing/src/pattern.rs. Run as a script, this writes pattern.json, by which the Rust
side checks that it computes the same values.

Element i (row-major, PyTorch's layout) of the tensor `name` is offset + scale * u, in float32, with

    u = ((splitmix64(fnv1a64(name) + i) >> 40) - 2^23) / 2^23        in [-1, 1), exact in float32

and offset and scale as `spread` says.
"""

import json
import math
import operator
from pathlib import Path

import numpy as np
import torch
import torch.fx
import torchvision
from torch import nn

CHUNK = 1 << 20


def fnv1a64(name):
    h = 0xCBF29CE484222325
    for byte in name.encode():
        h = (h ^ byte) * 0x100000001B3 % 2**64
    return h


def splitmix64(x):
    """The output function of Steele, Lea and Flood's SplitMix64 (2014) on an array of states."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def values(name, shape):
    """float32 values in [-1, 1)."""
    out = np.empty(math.prod(shape), dtype=np.float32)
    start = np.full(1, fnv1a64(name), dtype=np.uint64)
    for at in range(0, out.size, CHUNK):
        index = np.arange(at, min(at + CHUNK, out.size), dtype=np.uint64)
        mantissa = (splitmix64(start + index) >> np.uint64(40)).astype(np.int32) - (1 << 23)
        out[at : at + CHUNK] = mantissa.astype(np.float32) * np.float32(2**-23)
    return out.reshape(shape)


def spread(module, suffix, added):
    """Offset and scale of one tensor of a layer: signals keep their size from layer to layer.

    `added` says that the layer is a batch norm whose output a residual sum reads: at full size every
    sum would double the variance, and a ResNet-152 has fifty of them.
    """
    if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
        return {
            "weight": (0.3, 0.1) if added else (1.0, 0.2),
            "bias": (0.0, 0.1),
            "running_mean": (0.0, 0.1),
            "running_var": (1.0, 0.3),
        }[suffix]
    if suffix == "bias":
        return 0.0, 0.1
    if suffix == "layer_scale":
        return 0.3, 0.1
    if isinstance(module, nn.LayerNorm):
        return 1.0, 0.2
    # Uniform in ±sqrt(6 / fan_in) has He's variance 2 / fan_in, which makes up for a ReLU's half.
    gain = 6 if isinstance(module, nn.Conv2d) else 3
    return 0.0, math.sqrt(gain / math.prod(module.weight.shape[1:]))


def parameter(name, shape, offset, scale):
    return np.float32(offset) + np.float32(scale) * values(name, shape)


def added_batch_norms(model):
    """The batch norms whose output a residual sum reads, directly or by way of a stochastic depth."""
    graph = torch.fx.symbolic_trace(model).graph
    sums = [node for node in graph.nodes if node.target in (operator.add, operator.iadd)]
    terms = [term for node in sums for term in node.args if isinstance(term, torch.fx.Node)]
    terms = [term.args[0] if term.target is torchvision.ops.stochastic_depth else term for term in terms]
    modules = [model.get_submodule(term.target) for term in terms if term.op == "call_module"]
    return {module for module in modules if isinstance(module, nn.BatchNorm2d)}


def state(model):
    """The whole state_dict of a torchvision model as float32 arrays, without num_batches_tracked."""
    added = added_batch_norms(model)
    filled = {}
    for path, module in model.named_modules():
        tensors = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        for suffix, tensor in tensors:
            if suffix != "num_batches_tracked":
                name = f"{path}.{suffix}"
                filled[name] = parameter(name, tensor.shape, *spread(module, suffix, module in added))
    return filled


def fill(model):
    """Gives a model its pattern weights and returns them; every tensor of its state_dict must be met."""
    weights = state(model)
    expected = {n: tuple(t.shape) for n, t in model.state_dict().items() if not n.endswith("num_batches_tracked")}
    assert {n: w.shape for n, w in weights.items()} == expected
    tensors = model.state_dict()  # keeps the versions of the modules, which some look at
    tensors.update({name: torch.from_numpy(array) for name, array in weights.items()})
    for name in [name for name in tensors if name.endswith("num_batches_tracked")]:
        del tensors[name]
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert not unexpected and all(name.endswith("num_batches_tracked") for name in missing)
    return weights


def main():
    names = ["input", "batch0", "conv1.weight", "layer1.0.bn2.running_var", "größe"]
    sample = {name: [float(x) for x in values(name, (6,))] for name in names}
    Path(__file__).with_name("pattern.json").write_text(json.dumps(sample, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
