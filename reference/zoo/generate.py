"""torchvision's logits for pattern weights and one pattern image: logits.safetensors.

Computed in float64 from the float32 weights; float32 is computed too, to see what precision can be
asked of an implementation. The metadata entry "networks" holds, per network, how far float32 lies from
float64 (relative to the largest logit), and digests of the parameters' names and shapes and of their
bits, which the Rust side recomputes. With names as arguments, only those networks are computed anew.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import torchvision
from safetensors import safe_open
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parents[1]))
import pattern
from inception_resnet_v1 import InceptionResnetV1
from rootstock import Rootstock

NETWORKS = """resnet18 resnet34 resnet50 resnet101 resnet152 vgg11 vgg11_bn vgg13 vgg13_bn vgg16 vgg16_bn
vgg19 vgg19_bn squeezenet1_0 squeezenet1_1 mobilenet_v2 wide_resnet50_2 wide_resnet101_2 resnext50_32x4d
resnext101_32x8d resnext101_64x4d mobilenet_v3_small mobilenet_v3_large efficientnet_b0 efficientnet_b1
efficientnet_b2 efficientnet_b3 efficientnet_b4 densenet121 densenet169 googlenet inception_v3 shufflenet_v2_x0_5
shufflenet_v2_x1_0 shufflenet_v2_x1_5 shufflenet_v2_x2_0 mnasnet0_5 mnasnet0_75 mnasnet1_0 mnasnet1_3
regnet_x_400mf regnet_x_800mf regnet_x_1_6gf regnet_x_3_2gf regnet_y_400mf regnet_y_800mf regnet_y_1_6gf
regnet_y_3_2gf convnext_tiny convnext_small inception_resnet_v1 rootstock""".split()
OWN = {"inception_resnet_v1": InceptionResnetV1, "rootstock": Rootstock}
# Auxiliary heads only exist in training, and are not taken over.
WITHOUT_AUXILIARY = {name: {"aux_logits": False, "init_weights": False} for name in ("googlenet", "inception_v3")}
SIDE = 224
CLASSES = 1000


def layout_digest(weights):
    """FNV-1a of "name [shape]" of all tensors, one a line, in the order of the names."""
    lines = (f"{name} {list(weights[name].shape)}\n" for name in sorted(weights))
    return pattern.fnv1a64("".join(lines))


def bits_digest(weights):
    """Folds the tensors in the order of their names; each counts as the sum of (index + 1) times its bits."""
    digest = 0
    for name in sorted(weights):
        bits = weights[name].reshape(-1).view(np.uint32)
        total = 0
        for at in range(0, bits.size, pattern.CHUNK):
            part = bits[at : at + pattern.CHUNK].astype(np.uint64)
            total += int((np.arange(at + 1, at + 1 + part.size, dtype=np.uint64) * part).sum())
        digest = (digest * 0x100000001B3 + total) % 2**64
    return digest


@torch.no_grad()
def main():
    torch.set_num_threads(2)
    image = torch.from_numpy(pattern.values("input", (1, 3, SIDE, SIDE)))
    logits, networks = {}, {}
    path, names = Path(__file__).with_name("logits.safetensors"), sys.argv[1:]
    if names:
        with safe_open(path, "pt") as file:
            logits = {name: file.get_tensor(name) for name in file.keys()}
            networks = json.loads(file.metadata()["networks"])
    for name in names or NETWORKS:
        if name in OWN:
            model = OWN[name](CLASSES).eval()
        else:
            settings = WITHOUT_AUXILIARY.get(name, {})
            model = torchvision.models.get_model(name, weights=None, num_classes=CLASSES, **settings).eval()
        weights = pattern.fill(model)
        single = model(image)[0].double()
        exact = model.double()(image.double())[0]
        error = float((single - exact).abs().max() / exact.abs().max())
        logits[name] = exact.float()
        networks[name] = {
            "layout": layout_digest(weights),
            "bits": bits_digest(weights),
            "float32_error": error,
        }
        print(
            f"{name:14} largest {exact.abs().max():9.3e} mean {exact.mean():10.3e} deviation {exact.std():9.3e}"
            f" distinct {exact.unique().numel():4} float32 error {error:.1e}"
        )
        # A network that is blind to its input, or whose values explode, would test nothing.
        assert exact.std() > 1e-2 and exact.abs().max() < 1e4 and exact.unique().numel() > CLASSES / 4
    save_file(logits, path, {"networks": json.dumps(networks)})


if __name__ == "__main__":
    main()
