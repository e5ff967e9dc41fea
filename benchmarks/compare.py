"""Regraft beside PyTorch on this machine, in one run: writes a record into this folder.

    cargo build --release
    VENV/bin/python benchmarks/compare.py [--rounds 3] [--skip-job] [--models resnet18 mobilenet_v2]

VENV has ../shared/reference/requirements.txt; the PyTorch side is ../shared/reference. Rounds alternate between
the two programs, so that a drift of the machine's speed meets both; medians over the rounds are compared.
Close everything else before running it.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
REGRAFT = ROOT / "target/release/regraft"
PHOTOS = SHARED / "data/hymenoptera_data"


def run(command):
    """Runs a command; returns its stdout, seconds and peak memory in MiB."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start = datetime.datetime.now()
        child = subprocess.Popen([str(part) for part in command], stdout=out, stderr=err)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = (datetime.datetime.now() - start).total_seconds()
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if child.returncode:
            sys.exit(f"{' '.join(map(str, command))} failed:\n{err.read().decode()[-2000:]}")
        return out.read().decode(), seconds, usage.ru_maxrss / 1024


def json_lines(text):
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def throughput(model, batch, threads, rounds):
    """Images per second of forward pass and training step, and the peak memory of each program."""
    rates, memory = {}, {}
    for _ in range(rounds):
        torch, _, peak = run([sys.executable, SHARED / "reference/throughput.py", model, "--batch", batch,
                              "--threads", threads])
        memory.setdefault("torch, all configurations", []).append(peak)
        for line in json_lines(torch):
            rates.setdefault(line["what"], []).append(line["img_per_s"])
        for what in ("forward", "train"):
            ours, _, peak = run([REGRAFT, "bench", "--backbone", model, "--batch", batch, "--what", what,
                                 "--threads", threads, "--json"])
            rates.setdefault(f"regraft {what}", []).append(json_lines(ours)[-1]["img_per_s"])
            memory.setdefault(f"regraft {what}", []).append(peak)
    middle = lambda lists: {name: round(statistics.median(values), 2) for name, values in lists.items()}
    return {"model": model, "batch": batch, "img_per_s": middle(rates), "all": rates, "peak_mib": middle(memory)}


def train_memory(model, batch, threads):
    """Peak memory of a process that takes a few training steps in PyTorch's plain f32."""
    code = ("import torch, torchvision, sys\n"
            f"torch.set_num_threads({threads})\n"
            f"m = torchvision.models.{model}(weights=None).to(memory_format=torch.channels_last).train()\n"
            f"x = torch.randn({batch}, 3, 224, 224).contiguous(memory_format=torch.channels_last)\n"
            f"y = torch.randint(0, 1000, ({batch},))\n"
            "o = torch.optim.SGD(m.parameters(), lr=1e-3, momentum=0.9)\n"
            "for _ in range(3):\n"
            "    o.zero_grad(); torch.nn.functional.cross_entropy(m(x), y).backward(); o.step()\n")
    return round(run([sys.executable, "-c", code])[2])


def job(model, threads, epochs):
    """The whole tutorial job, process start to exit, in each mode. Random weights: only time is compared."""
    results = []
    for mode in ("probe", "frozen", "finetune"):
        _, torch_seconds, torch_mib = run([sys.executable, SHARED / "reference/tutorial.py", PHOTOS, "--model", model,
                                           "--mode", mode, "--epochs", epochs, "--threads", threads])
        with tempfile.TemporaryDirectory() as folder:
            _, seconds, mib = run([REGRAFT, "train", PHOTOS, "--backbone", model, "--mode", mode, "--epochs", epochs,
                                   "--threads", threads, "--output-dir", f"{folder}/run", "--json"])
        results.append({"mode": mode, "torch_seconds": round(torch_seconds, 1), "regraft_seconds": round(seconds, 1),
                        "ratio": round(torch_seconds / seconds, 2), "torch_peak_mib": round(torch_mib),
                        "regraft_peak_mib": round(mib)})
        print(results[-1], flush=True)
    return results


def cpu_name():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.processor()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--models", nargs="*", default=["resnet18", "mobilenet_v2"])
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--skip-job", action="store_true")
    parser.add_argument("--out", type=Path)
    a = parser.parse_args()
    # In a process of its own: what a child inherits at its fork would count into its peak memory.
    torch_version = run([sys.executable, "-c", "import torch; print(torch.__version__)"])[0].strip()
    commit = run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"])[0].strip()
    version = run([REGRAFT, "--version"])[0].strip()
    record = {"date": datetime.date.today().isoformat(), "commit": commit, "cpu": cpu_name(), "threads": a.threads,
              "regraft": version, "torch": torch_version, "throughput": [], "job": []}
    for model in a.models:
        entry = throughput(model, a.batch, a.threads, a.rounds)
        entry["peak_mib"]["torch train channels_last"] = train_memory(model, a.batch, a.threads)
        record["throughput"].append(entry)
        print(json.dumps(entry["img_per_s"]), json.dumps(entry["peak_mib"]), flush=True)
    if not a.skip_job:
        record["job"] = job("resnet18", a.threads, a.epochs)
    out = a.out or ROOT / f"benchmarks/{record['date']}-{commit}.json"
    out.write_text(json.dumps(record, indent=1) + "\n")
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
