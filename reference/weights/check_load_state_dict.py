"""Shows that torchvision takes a safetensors file which Regraft wrote.

    check_load_state_dict.py MODEL.safetensors --model resnet18 --classes 2

Loads the file with strict=True into torchvision's network and prints how many tensors it took.
Strict loading misses no num_batches_tracked: a state dict without a version, as safetensors is,
passes for one from before that counter, and torch then fills it in. The script checks that too.
"""

import argparse

import torch
import torchvision
from safetensors.torch import load_file


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--model", required=True, help="a name in torchvision.models")
    parser.add_argument("--classes", type=int, default=1000)
    args = parser.parse_args()

    state = load_file(args.file)
    network = torchvision.models.get_model(args.model, weights=None, num_classes=args.classes)
    network.load_state_dict(state, strict=True)

    loaded = network.state_dict()
    for name, tensor in state.items():
        assert torch.equal(loaded[name], tensor), name
    counters = [name for name in loaded if name.endswith("num_batches_tracked") and name not in state]
    absent = set(loaded) - set(state) - set(counters)
    assert not absent, absent
    # The loader is strict indeed: one missing parameter and it refuses.
    first = next(iter(state))
    try:
        network.load_state_dict({k: v for k, v in state.items() if k != first}, strict=True)
    except RuntimeError:
        pass
    else:
        raise AssertionError(f"strict loading did not miss {first}")
    print(f"{args.file}: {len(state)} tensors loaded into {args.model}, {len(counters)} counters filled in")


if __name__ == "__main__":
    main()
