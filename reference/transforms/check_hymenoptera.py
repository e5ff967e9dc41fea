"""Compares Regraft's evaluation pixels with torchvision's on every photo of a folder.

    cargo build --release -p regraft-data --example dump_eval
    python check_hymenoptera.py DUMP_EVAL_BINARY FOLDER [reduced]

Prints the largest and mean difference in levels of 255; fails if there is any (unless `reduced`, which
measures decoding at a reduced scale instead of asking for equality).

    python check_hymenoptera.py FOLDER > hymenoptera_val.txt

writes instead, for crates/data/tests/hymenoptera.rs, 16 digits of the SHA-256 of torchvision's pixels of each photo.
"""

import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torchvision.transforms as T
from PIL import Image

transform = T.Compose([T.Resize(256), T.CenterCrop(224)])
pixels_of = lambda path: np.array(transform(Image.open(path).convert("RGB")))

if len(sys.argv) == 2:
    folder = Path(sys.argv[1])
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        print(hashlib.sha256(pixels_of(path).tobytes()).hexdigest()[:16], path.relative_to(folder).as_posix())
    sys.exit()

binary, folder, *mode = sys.argv[1:]
with tempfile.TemporaryDirectory() as temporary:
    dump = Path(temporary) / "pixels"
    listing = subprocess.run([binary, folder, dump, *mode], check=True, stdout=subprocess.PIPE, text=True).stdout
    paths = listing.splitlines()
    actual = np.fromfile(dump, dtype=np.uint8).reshape(len(paths), 224, 224, 3)

worst, total, differing = (0, None), 0.0, 0
for path, pixels in zip(paths, actual):
    difference = np.abs(pixels.astype(int) - pixels_of(path))
    worst = max(worst, (int(difference.max()), path), key=lambda pair: pair[0])
    total += difference.mean()
    differing += int((difference > 0).sum())
print(f"{len(paths)} photos: largest difference {worst[0]} of 255 ({worst[1]}),")
print(f"mean {total / len(paths):.4f}, {differing} of {actual.size} values differ")
if worst[0] > 0 and not mode:
    sys.exit(1)
