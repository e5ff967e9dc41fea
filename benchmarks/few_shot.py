"""How good a probe is with few photos of each class: the table of benchmarks/README.md.

    python benchmarks/few_shot.py DATA [--binary target/release/regraft] [--seeds 10] -- FLAGS OF train ...

DATA has train/ and val/ folders of classes. For each number of photos and each seed that many are drawn from every class of
train/, listed in a CSV file, and learned from with `--mode probe`; all of val/ is answered. Only the standard library is
needed.
"""

import argparse
import csv
import json
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

PHOTOS = [1, 2, 5, 10, 20]
ENDINGS = {".jpg", ".jpeg", ".png", ".pgm", ".ppm", ".webp", ".bmp"}


def listed(folder: Path) -> dict[str, list[Path]]:
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    return {c.name: sorted(p for p in c.iterdir() if p.suffix.lower() in ENDINGS) for c in classes}


def accuracy(binary: str, data: Path, count: int, seed: int, flags: list[str]) -> float:
    train, val = listed(data / "train"), listed(data / "val")
    draw = random.Random(f"{seed} {count}")
    rows = [(p, c, "train") for c, photos in train.items() for p in draw.sample(photos, min(count, len(photos)))]
    rows += [(p, c, "val") for c, photos in val.items() for p in photos]
    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder, "photos.csv")
        with manifest.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "label", "split"])
            writer.writerows((p.resolve(), c, part) for p, c, part in rows)
        command = [binary, "train", str(manifest), "--mode", "probe", "--seed", str(seed), "--json"]
        command += ["--output-dir", str(Path(folder, "run")), *flags]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)["best_val_acc"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--binary", default="target/release/regraft")
    parser.add_argument("--seeds", type=int, default=10)
    at = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    args, flags = parser.parse_args(sys.argv[1:at]), sys.argv[at + 1 :]
    print("| photos a class | mean | standard deviation | lowest | highest |")
    print("| --- | --- | --- | --- | --- |")
    for count in PHOTOS:
        found = [accuracy(args.binary, args.data, count, seed, flags) for seed in range(args.seeds)]
        spread = statistics.stdev(found)
        print(f"| {count} | {statistics.mean(found):.3f} | {spread:.3f} | {min(found):.3f} | {max(found):.3f} |", flush=True)


if __name__ == "__main__":
    main()
