"""Full-size torchvision networks through ONNX: their logits in PyTorch beside Regraft's, from the file.

They are too large to commit, so this is a check to be run by hand:

    cargo build --example logits -p regraft-onnx
    python reference/onnx/full_size.py [NAME ...]

It exports each network with both of torch.onnx's exporters, weights drawn from a fixed seed and running statistics
made from noise, and prints what `target/debug/examples/logits` (optimised, as every profile here) says of the file and the logits.
"""

import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import torch
import torchvision
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "target/debug/examples/logits"
NAMES = [
    "resnet18",
    "vgg11",
    "mobilenet_v2",
    "squeezenet1_1",
    "shufflenet_v2_x1_0",
    "mobilenet_v3_small",
    "efficientnet_b0",
    "densenet121",
    "convnext_tiny",
]
OPSETS = {False: 17, True: 18}


def network(name):
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None)
    # Random networks let signals die out or explode; statistics of their own keep them at one size.
    if any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules()):
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None
        with torch.no_grad():
            model.train()(torch.randn(8, 3, 224, 224))
    return model.eval()


def main():
    warnings.filterwarnings("ignore")
    for name in sys.argv[1:] or NAMES:
        model = network(name)
        image = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            logits = model.double()(image.double()).float()
        model.float()
        for dynamo in (False, True):
            with tempfile.TemporaryDirectory() as folder:
                path, record = Path(folder) / "network.onnx", Path(folder) / "record.safetensors"
                save_file({"input": image, "logits": logits}, record)
                options = {} if dynamo else {"input_names": ["input"], "dynamic_axes": {"input": {0: "n"}}}
                try:
                    torch.onnx.export(
                        model, (image[:1],), path, dynamo=dynamo, opset_version=OPSETS[dynamo], verbose=False, **options
                    )
                except ModuleNotFoundError as error:
                    print(f"{name} dynamo={dynamo}: not exported: {error}", flush=True)
                    continue
                run = subprocess.run([PROGRAM, path, record], capture_output=True, text=True)
                print(f"{name} dynamo={dynamo}: {(run.stdout or run.stderr).strip()}", flush=True)


if __name__ == "__main__":
    main()
