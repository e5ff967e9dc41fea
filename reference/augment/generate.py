"""Writes the fixtures of crates/data/tests/augment.rs: what torchvision makes of small pictures with bicubic resizing,
the operations of its automatic policies, RandomErasing, MixUp and CutMix.

    python generate.py        (needs torch, torchvision, pillow, safetensors, numpy)

The pictures are parts of ../transforms/images/source.png. Beside this script: cases.json (the parameters) and
expected.safetensors (the results: u8 pixels [h, w, 3], f32 tensors [n, h, w, 3] and [n, classes]). Of every operation
at every strength there is a digest: the first 16 digits of the SHA-256 of its pixels.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import PIL
import torch
import torchvision
import torchvision.transforms as T
import torchvision.transforms.functional as F
from PIL import Image
from safetensors.numpy import save_file
from torchvision.transforms import InterpolationMode, autoaugment, v2

HERE = Path(__file__).parent
source = Image.open(HERE / "../transforms/images/source.png").convert("RGB")
cases = {"versions": {"pillow": PIL.__version__, "torch": torch.__version__, "torchvision": torchvision.__version__}}
expected = {}

# Bicubic resizing: smaller, larger, padded, and crops.
cubic = InterpolationMode.BICUBIC
cases["bicubic"] = []
for resize, crop in [(20, 16), (32, 24), (33, 24), (47, 47), (60, 44), (20, 28)]:
    expected[f"bicubic/{resize}_{crop}"] = np.array(T.CenterCrop(crop)(T.Resize(resize, cubic)(source)))
    cases["bicubic"].append({"resize": resize, "crop": crop})
# Black and white squares: the overshoot beyond both ends is clipped.
board = Image.fromarray(np.kron(np.indices((6, 6)).sum(0) % 2, np.ones((5, 5)))[..., None].repeat(3, -1).astype(np.uint8) * 255)
expected["board"] = np.array(board)
for side in (12, 50):
    expected[f"bicubic_board/{side}"] = np.array(F.resize(board, [side, side], cubic))
cases["bicubic_crop"] = []
for i, (left, top, width, height) in enumerate([(3, 5, 40, 30), (20, 11, 13, 17), (60, 46, 1, 1)]):
    expected[f"bicubic_crop/{i}"] = np.array(F.resized_crop(source, top, left, height, width, [24, 24], cubic))
    cases["bicubic_crop"].append({"left": left, "top": top, "width": width, "height": height})

# The policies: every operation at every strength, in both directions.
small = source.crop((0, 0, 29, 29))
few = source.crop((0, 0, 20, 15))  # 300 pixels: the steps of equalize are 1, and it clips
policies = {"ra": autoaugment.RandAugment(), "ta_wide": autoaugment.TrivialAugmentWide()}


def digest(image):
    return hashlib.sha256(np.array(image).tobytes()).hexdigest()[:16]


for name, policy in policies.items():
    side = (29, 29) if name == "ra" else ()
    space = policy._augmentation_space(31, *([side] if side else []))
    cases[name] = {}
    for operation, (magnitudes, signed) in space.items():
        rows = []
        for index in range(31 if magnitudes.ndim else 1):
            magnitude = float(magnitudes[index]) if magnitudes.ndim else 0.0
            for sign in (1.0, -1.0) if signed else (1.0,):
                result = autoaugment._apply_op(small, operation, sign * magnitude, InterpolationMode.NEAREST, None)
                rows.append([index, sign < 0, sign * magnitude, digest(result)])
        cases[name][operation] = rows

# Some of them in full, on a picture that is not square.
shown = [
    ("Identity", 0.0), ("ShearX", 0.25), ("ShearX", -0.99), ("ShearY", 0.3), ("ShearY", -0.5), ("TranslateX", 7.9),
    ("TranslateX", -32.0), ("TranslateY", 3.0), ("TranslateY", -4.5), ("Rotate", 9.0), ("Rotate", -135.0),
    ("Brightness", 0.9), ("Brightness", -0.4), ("Color", 0.9), ("Color", -0.4), ("Contrast", 0.9), ("Contrast", -0.4),
    ("Sharpness", 0.9), ("Sharpness", -0.9), ("Posterize", 8), ("Posterize", 4), ("Posterize", 2), ("Solarize", 255.0),
    ("Solarize", 76.5), ("Solarize", 0.0), ("AutoContrast", 0.0), ("Equalize", 0.0),
]
cases["operations"] = []
expected["few"] = np.array(few)
for i, (operation, magnitude) in enumerate(shown):
    expected[f"operations/{i}"] = np.array(autoaugment._apply_op(few, operation, magnitude, InterpolationMode.NEAREST, None))
    cases["operations"].append(operation if operation in ("Identity", "AutoContrast", "Equalize") else {operation: magnitude})
# Of little contrast, for autocontrast and equalize.
dull = Image.fromarray((np.array(source) // 4 + np.array([90, 100, 110])).astype(np.uint8))
expected["dull"] = np.array(dull)
expected["dull/autocontrast"] = np.array(F.autocontrast(dull))
expected["dull/equalize"] = np.array(F.equalize(dull))

# RandomErasing of a normalised picture.
normal = T.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])(T.ToTensor()(small))
nhwc = lambda tensor: np.ascontiguousarray(tensor.movedim(-3, -1).numpy())
cases["erase"] = {"left": 5, "top": 11, "width": 13, "height": 7, "value": [0.5, -1.0, 2.0]}
value = torch.tensor(cases["erase"]["value"])[:, None, None]
expected["erase/before"] = nhwc(normal)
expected["erase/after"] = nhwc(F.erase(normal, 11, 5, 7, 13, value))

# MixUp and CutMix of three pictures of four classes.
torch.manual_seed(0)
images, labels, classes = torch.randn(3, 3, 9, 9), torch.tensor([2, 0, 2]), 4
cases["mix"] = {"labels": labels.tolist(), "classes": classes, "lambdas": [0.0, 0.3, 0.8371, 1.0], "centers": [[4, 4], [0, 8], [7, 2]]}
expected["mix/images"] = nhwc(images)
mixup, cutmix = v2.MixUp(num_classes=classes), v2.CutMix(num_classes=classes)


def mix(transform, params, name):
    params |= {"labels": labels, "batch_size": len(labels)}
    expected[f"{name}/images"] = nhwc(transform.transform(images, params))
    expected[f"{name}/targets"] = transform.transform(labels, params).numpy()


class Fixed:
    """Stands for a random draw."""

    def __init__(self, value):
        self.value = value

    def sample(self, _):
        return self.value


for i, lam in enumerate(cases["mix"]["lambdas"]):
    mix(mixup, {"lam": lam}, f"mixup/{i}")
    for j, center in enumerate(cases["mix"]["centers"]):
        cutmix._dist = Fixed(lam)
        draws, randint = iter(center), torch.randint
        torch.randint = lambda *_, **__: torch.tensor([next(draws)])
        params = cutmix.make_params([images])
        torch.randint = randint
        mix(cutmix, params, f"cutmix/{i}_{j}")

(HERE / "cases.json").write_text(json.dumps(cases) + "\n")
save_file(expected, HERE / "expected.safetensors")
total = sum((HERE / name).stat().st_size for name in ("cases.json", "expected.safetensors"))
print(f"{len(expected)} results, {total / 1024:.0f} KiB in all")
