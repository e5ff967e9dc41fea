"""Writes the fixtures of crates/weights beside this script, in fixtures/.

One small state dict in all forms that torch.save has had, with all element types and with tensors
that are transposed, sliced, shared or empty. expected.safetensors holds what every reader must get
from each of them. Needs torch and safetensors; run without arguments. Each run gives the same
bytes, but for the stream form, in which torch names storages by their addresses in memory.
"""

import copyreg
import io
import os
import pickle
import struct
import tarfile
import types
from collections import OrderedDict
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

HERE = Path(__file__).parent / "fixtures"


def state_dict():
    torch.manual_seed(0)
    net = nn.Sequential(
        OrderedDict(conv=nn.Conv2d(3, 4, 3), bn=nn.BatchNorm2d(4), flatten=nn.Flatten(), fc=nn.Linear(4, 2))
    )
    net.bn.running_mean.uniform_(-1, 1)
    net.bn.running_var.uniform_(0.5, 2)
    state = net.state_dict()
    block = torch.randn(6, 5)
    state["transposed"] = block.t()
    state["sliced"] = block[1:5:2, 1:4]
    state["shared"] = block
    state["permuted"] = torch.randn(2, 3, 4, 2).permute(0, 3, 1, 2)  # channels last
    state["expanded"] = torch.randn(1, 3).expand(4, 3)
    state["scalar"] = torch.tensor(2.5)
    state["empty"] = torch.empty(0, 3)
    state["half"] = torch.randn(5).half()
    state["bfloat16"] = torch.randn(5).bfloat16()
    state["double"] = torch.randn(5).double()
    state["mask"] = torch.tensor([True, False])
    return state


def expected(state):
    return {name: t.float().contiguous().clone() for name, t in state.items() if t.is_floating_point()}


def save_tar(state, path):
    """What torch.save of PyTorch 0.1.9 wrote; today's torch only reads it."""
    storages, tensors, sliced = OrderedDict(), OrderedDict(), state["sliced"]
    for tensor in state.values():
        storages.setdefault(tensor.untyped_storage().data_ptr() or -1, tensor)
        tensors[id(tensor)] = tensor
    # Small keys instead of addresses: the same file each time.
    storage_keys = {pointer: 1000 + i for i, pointer in enumerate(storages)}
    tensor_keys = {address: 2000 + i for i, address in enumerate(tensors)}

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return str(tensor_keys[id(value)]) if isinstance(value, torch.Tensor) else None

    def dump(file, value):
        pickle.dump(value, file, protocol=2)

    members = {"sys_info": io.BytesIO(), "pickle": io.BytesIO(), "tensors": io.BytesIO(), "storages": io.BytesIO()}
    dump(members["sys_info"], dict(protocol_version=1000, little_endian=True))
    Pickler(members["pickle"], protocol=2).dump(OrderedDict(state))

    names = {torch.float32: "Float", torch.float16: "Half", torch.bfloat16: "BFloat16", torch.float64: "Double",
             torch.int64: "Long", torch.bool: "Bool"}
    file = members["storages"]
    dump(file, len(storages))
    for pointer, tensor in storages.items():
        dump(file, (storage_keys[pointer], "cpu", getattr(torch, names[tensor.dtype] + "Storage")))
        raw = bytes(tensor.untyped_storage())
        file.write(struct.pack("<q", len(raw) // tensor.element_size()) + raw)
    # A part of a storage, as files from Lua had them: (key, key of the whole, first element, elements).
    dump(file, [(3000, storage_keys[sliced.untyped_storage().data_ptr()], sliced.storage_offset(), 20)])

    file = members["tensors"]
    dump(file, len(tensors))
    for address, tensor in tensors.items():
        storage_key = 3000 if tensor is sliced else storage_keys[tensor.untyped_storage().data_ptr() or -1]
        dump(file, (tensor_keys[address], storage_key, getattr(torch, names[tensor.dtype] + "Tensor")))
        dims = tensor.dim()
        offset = 0 if tensor is sliced else tensor.storage_offset()
        file.write(struct.pack(f"<i4x{dims}q{dims}qq", dims, *tensor.shape, *tensor.stride(), offset))

    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content.getvalue())
            tar.addfile(info, io.BytesIO(content.getvalue()))


class FirstPickler(pickle.Pickler):
    """Pickles tensors and parameters as the first releases of PyTorch did: as instances with a state."""

    turn = 0

    def reducer_override(self, value):
        if not isinstance(value, torch.Tensor):
            return NotImplemented
        hooks = OrderedDict()
        FirstPickler.turn += 1
        if isinstance(value, nn.Parameter) and self.turn % 2:
            return copyreg.__newobj__, (nn.Parameter,), (value.data, None, hooks, True, False)
        if isinstance(value, nn.Parameter):
            return copyreg.__newobj__, (nn.Parameter, value.data), (True, False, hooks)
        place = (value.storage(), value.storage_offset(), tuple(value.shape), value.stride())
        if value.dtype == torch.float32 and self.turn % 3:
            return torch.FloatTensor, (), place
        return torch._utils._rebuild_tensor, place


class Evil:
    def __reduce__(self):
        return os.system, ("echo executed",)


def check(path, state):
    found = torch.load(path, weights_only=False)
    assert list(found) == list(state), path
    for name, tensor in state.items():
        assert torch.equal(found[name], tensor), (path, name)


def main():
    HERE.mkdir(exist_ok=True)
    state = state_dict()
    save_file(expected(state), HERE / "expected.safetensors", metadata={"made by": "generate.py"})
    save_file({name: t.contiguous().clone() for name, t in state.items()}, HERE / "types.safetensors")

    torch.save(state, HERE / "zip.pth")
    torch.save(state, HERE / "stream.pth", _use_new_zipfile_serialization=False)
    save_tar(state, HERE / "tar.pth")
    torch.save(state, HERE / "zip_protocol4.pth", pickle_protocol=4)
    torch.save(state, HERE / "stream_protocol4.pth", pickle_protocol=4, _use_new_zipfile_serialization=False)
    for form in ["zip", "stream", "tar", "zip_protocol4", "stream_protocol4"]:
        check(HERE / f"{form}.pth", state)

    parallel = OrderedDict((f"module.{name}", tensor) for name, tensor in state.items())
    parameters = OrderedDict((n, nn.Parameter(t) if t.is_floating_point() else t) for n, t in state.items())
    torch.save({"epoch": 3, "arch": "tiny", "best_acc1": torch.tensor(75.0), "state_dict": parallel,
                "optimizer": {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}},
               HERE / "checkpoint.pth")
    torch.save({"model_state_dict": parameters, "loss": 0.5}, HERE / "parameters.pth",
               _use_new_zipfile_serialization=False)
    first = types.SimpleNamespace(__name__="first", Pickler=FirstPickler, dump=pickle.dump)
    torch.save(parameters, HERE / "instances.pth", pickle_module=first, _use_new_zipfile_serialization=False)
    check(HERE / "instances.pth", parameters)
    torch.save({"weight": torch.ones(2), "note": Evil()}, HERE / "evil.pth")
    torch.save({"weight": torch.ones(2), "note": Evil()}, HERE / "evil_stream.pth", pickle_protocol=4,
               _use_new_zipfile_serialization=False)


if __name__ == "__main__":
    main()
