"""Small networks in the JSON form of regraft_graph::Graph, and their evaluation by torch.

The form is what serde makes of the Rust types in crates/graph/src; the Rust side parses it.
"""

import torch
import torch.nn.functional as F


class Network:
    """A graph under construction. Each method appends a node that reads `source` and returns its id."""

    def __init__(self, channels, height=None, width=None):
        if height is None:
            shape = {"features": channels}
        else:
            shape = {"map": {"channels": channels, "height": height, "width": width}}
        self.graph = {"input_shape": shape, "nodes": [{"name": "input", "op": "Input"}]}

    def node(self, name, op, *sources, **settings):
        self.graph["nodes"].append({"name": name, "op": op, **settings, "inputs": list(sources)})
        return len(self.graph["nodes"]) - 1

    def conv(self, name, source, ins, outs, kernel, stride=1, padding=0, dilation=1, groups=1, bias=False):
        pair = lambda value: list(value) if isinstance(value, tuple) else [value, value]
        return self.node(
            name,
            "Conv2d",
            source,
            in_channels=ins,
            out_channels=outs,
            kernel_size=pair(kernel),
            stride=pair(stride),
            padding=pair(padding),
            dilation=pair(dilation),
            groups=groups,
            bias=bias,
        )

    def batch_norm(self, name, source, channels, eps=1e-5, momentum=0.1):
        return self.node(name, "BatchNorm2d", source, num_features=channels, eps=eps, momentum=momentum)

    def linear(self, name, source, ins, outs, bias=True):
        return self.node(name, "Linear", source, in_features=ins, out_features=outs, bias=bias)

    def max_pool(self, name, source, kernel, stride, padding=0, ceil_mode=False):
        settings = dict(kernel_size=kernel, stride=stride, padding=padding, ceil_mode=ceil_mode)
        return self.node(name, "MaxPool2d", source, **settings)

    def avg_pool(self, name, source, output_size):
        return self.node(name, "AdaptiveAvgPool2d", source, output_size=output_size)

    def avg_pool2d(self, name, source, kernel, stride, padding=0):
        return self.node(name, "AvgPool2d", source, kernel_size=kernel, stride=stride, padding=padding)

    def layer_norm(self, name, source, channels, eps=1e-6):
        return self.node(name, "LayerNorm", source, normalized_shape=channels, eps=eps)

    def parameters(self):
        """Name to shape of every tensor, running statistics included."""
        shapes = {}
        for node in self.graph["nodes"]:
            if node["op"] == "Conv2d":
                ins, outs = node["in_channels"] // node["groups"], node["out_channels"]
                owned = {"weight": (outs, ins, *node["kernel_size"]), "bias": (outs,)}
            elif node["op"] == "Linear":
                owned = {"weight": (node["out_features"], node["in_features"]), "bias": (node["out_features"],)}
            elif node["op"] == "BatchNorm2d":
                owned = dict.fromkeys(["weight", "bias", "running_mean", "running_var"], (node["num_features"],))
            elif node["op"] == "LayerNorm":
                owned = dict.fromkeys(["weight", "bias"], (node["normalized_shape"],))
            elif node["op"] == "LayerScale":
                owned = {"layer_scale": (node["channels"], 1, 1)}
            else:
                continue
            if not node.get("bias", True):
                del owned["bias"]
            shapes.update({f"{node['name']}.{suffix}": shape for suffix, shape in owned.items()})
        return shapes

    def input_shape(self, batch):
        shape = self.graph["input_shape"]
        return (batch, *shape["map"].values()) if "map" in shape else (batch, shape["features"])

    def run(self, params, x, training):
        """The output, and the distance of the closest activation to a kink of a ReLU or a tie of a maximum.

        In training mode the running statistics in `params` are updated in place.
        """
        values, margin = [], float("inf")
        for node in self.graph["nodes"]:
            sources = [values[i] for i in node.get("inputs", [])]
            own = lambda suffix: params.get(f"{node['name']}.{suffix}")
            match node["op"]:
                case "Input":
                    y = x
                case "Conv2d":
                    settings = [tuple(node[key]) for key in ("stride", "padding", "dilation")]
                    y = F.conv2d(sources[0], own("weight"), own("bias"), *settings, node["groups"])
                case "BatchNorm2d":
                    statistics = own("running_mean"), own("running_var")
                    settings = training, node["momentum"], node["eps"]
                    y = F.batch_norm(sources[0], *statistics, own("weight"), own("bias"), *settings)
                case "ReLU":
                    margin = min(margin, sources[0].abs().min().item())
                    y = F.relu(sources[0])
                case "ReLU6":
                    margin = min(margin, sources[0].abs().min().item(), (sources[0] - 6).abs().min().item())
                    y = F.relu6(sources[0])
                case "Hardswish" | "Hardsigmoid":
                    # Near ±3 the derivative jumps.
                    margin = min(margin, *((sources[0] - kink).abs().min().item() for kink in (-3, 3)))
                    y = F.hardswish(sources[0]) if node["op"] == "Hardswish" else F.hardsigmoid(sources[0])
                case "SiLU":
                    y = F.silu(sources[0])
                case "Sigmoid":
                    y = F.sigmoid(sources[0])
                case "GELU":
                    y = F.gelu(sources[0])
                case "LayerNorm":
                    last = sources[0].movedim(1, -1)
                    y = F.layer_norm(last, last.shape[-1:], own("weight"), own("bias"), node["eps"]).movedim(-1, 1)
                case "LayerScale":
                    y = own("layer_scale") * sources[0]
                case "Scale":
                    y = node["factor"] * sources[0]
                case "AvgPool2d":
                    y = F.avg_pool2d(sources[0], node["kernel_size"], node["stride"], node["padding"])
                case "Mul":
                    y = sources[0] * sources[1]
                case "Narrow":
                    y = sources[0].narrow(1, node["start"], node["length"])
                case "ChannelShuffle":
                    y = F.channel_shuffle(sources[0], node["groups"])
                case "MaxPool2d":
                    settings = node["kernel_size"], node["stride"], node["padding"], 1, node["ceil_mode"]
                    y = F.max_pool2d(sources[0], *settings)
                    # Any two elements closer than this could change places, in one window or not.
                    ordered = sources[0].flatten().sort().values
                    margin = min(margin, ordered.diff().min().item())
                case "AdaptiveAvgPool2d":
                    y = F.adaptive_avg_pool2d(sources[0], node["output_size"])
                case "Linear":
                    y = F.linear(sources[0].movedim(1, -1), own("weight"), own("bias")).movedim(-1, 1)
                case "Add":
                    y = sources[0] + sources[1]
                case "Concat":
                    y = torch.cat(sources, dim=1)
                case "Flatten":
                    y = torch.flatten(sources[0], 1)
                case other:
                    raise ValueError(other)
            values.append(y)
        return values[-1], margin
