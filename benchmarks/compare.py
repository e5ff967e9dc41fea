"""Regraft beside PyTorch, ONNX Runtime and OpenVINO on this machine, in one run: writes a record into this folder.

    cargo build --release
    VENV/bin/python benchmarks/compare.py [--only resnet18-forward memory job-probe] [--rounds 3]

VENV has ../shared/reference/requirements.txt; the other programs' side is ../shared/reference. Rounds alternate
between the programs, so that a drift of the machine's speed meets all of them; medians over the rounds are compared.
`--only` takes names of rows, or how they begin; `--list` prints them. Close everything else before running it.
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
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
REGRAFT = ROOT / "target/release/regraft"
PHOTOS = SHARED / "data/hymenoptera_data"

TORCH_FORWARD = ("torch forward f32", "torch forward f32 channels_last")
TORCH_TRAIN = ("torch train step f32", "torch train step f32 channels_last")
TORCH_TRAIN_BF16 = ("torch train step bf16 channels_last",)
OPENVINO = ("openvino forward f32",)
ONNX_RUNTIME = ("onnxruntime forward f32",)


class Rate(NamedTuple):
    """Images per second, beside rivals: for each, the lines of throughput.py of which the fastest counts, and the ratio
    that Regraft should have at least."""

    name: str
    model: str
    batch: int
    what: str
    precision: str
    rivals: dict


class Memory(NamedTuple):
    """Peak memory of a process that takes training steps, beside PyTorch's."""

    name: str
    model: str
    batch: int
    at_least: float


class Job(NamedTuple):
    """Seconds of the tutorial's whole job, from the process's start to its exit, beside PyTorch's."""

    name: str
    mode: str
    at_least: float


RATES = [
    Rate("resnet18-forward", "resnet18", 32, "forward", "f32",
         {"PyTorch": (TORCH_FORWARD, 2.0), "OpenVINO": (OPENVINO, 1.5), "ONNX Runtime": (ONNX_RUNTIME, 1.0)}),
    Rate("resnet18-train", "resnet18", 32, "train", "f32", {"PyTorch": (TORCH_TRAIN, 1.7)}),
    Rate("resnet18-train-bf16", "resnet18", 32, "train", "bf16", {"PyTorch": (TORCH_TRAIN_BF16, 1.0)}),
    Rate("resnet18-train-batch4", "resnet18", 4, "train", "f32", {"PyTorch": (TORCH_TRAIN, 1.7)}),
    Rate("resnet18-latency", "resnet18", 1, "forward", "f32",
         {"PyTorch": (TORCH_FORWARD, 1.3), "OpenVINO": (OPENVINO, 1.0)}),
    Rate("vgg16-forward", "vgg16", 8, "forward", "f32", {"PyTorch": (TORCH_FORWARD, 2.2)}),
    Rate("vgg16-train", "vgg16", 8, "train", "f32", {"PyTorch": (TORCH_TRAIN, 1.8)}),
    Rate("mobilenet_v2-forward", "mobilenet_v2", 32, "forward", "f32",
         {"PyTorch": (TORCH_FORWARD, 1.5), "ONNX Runtime": (ONNX_RUNTIME, 1.0)}),
    Rate("mobilenet_v2-train", "mobilenet_v2", 32, "train", "f32", {"PyTorch": (TORCH_TRAIN, 1.5)}),
]
MEMORY = [
    Memory("memory-resnet18", "resnet18", 32, 1.0),
    Memory("memory-vgg16", "vgg16", 8, 1.0),
    Memory("memory-mobilenet_v2", "mobilenet_v2", 32, 1.0),
]
JOBS = [Job("job-probe", "probe", 3.0), Job("job-frozen", "frozen", 2.5), Job("job-finetune", "finetune", 1.7)]

# The features once instead of in every epoch: Regraft's probe beside PyTorch's frozen run.
PROBE_AT_LEAST = 40.0


def run(command, optional=False):
    """Runs a command; returns its stdout, seconds and peak memory in MiB. If it fails, so does this script, but for an
    `optional` one: then stdout is None, and what it said instead of it is returned as the second value."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start = datetime.datetime.now()
        child = subprocess.Popen([str(part) for part in command], stdout=out, stderr=err)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = (datetime.datetime.now() - start).total_seconds()
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        said = err.read().decode().strip()
        if child.returncode and optional:
            return None, said, 0
        if child.returncode:
            sys.exit(f"{' '.join(map(str, command))} failed:\n{said[-2000:]}")
        return out.read().decode(), seconds, usage.ru_maxrss / 1024


def json_lines(text):
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def in_rounds(rounds, *measures):
    """Takes the measures in turn, round after round, every second round in the opposite order."""
    for index in range(rounds):
        for measure in measures if index % 2 == 0 else measures[::-1]:
            measure()


def comparison(row, rival, unit, ours, theirs, at_least, more_is_better):
    """How Regraft compares: a ratio above 1 is in its favour."""
    result = {"row": row, "rival": rival, "unit": unit, "regraft": round(ours, 2), "theirs": round(theirs, 2),
              "ratio": round(ours / theirs if more_is_better else theirs / ours, 2), "at_least": at_least}
    print("{row:24}{regraft:>10} {unit:6} {rival:>20}{theirs:>10}   ratio {ratio:5.2f}, at least {at_least:4.2f}: {}"
          .format("yes" if result["ratio"] >= at_least else "NO", **result), flush=True)
    return result


class Measurement:
    """What is measured, and the record of it."""

    def __init__(self, threads, rounds, epochs):
        self.threads, self.rounds, self.epochs = threads, rounds, epochs
        self.record = {"date": datetime.date.today().isoformat(), "commit": commit(), "cpu": cpu_name(),
                       "threads": threads, "rounds": rounds, "epochs": epochs,
                       "regraft": run([REGRAFT, "--version"])[0].strip(), "versions": versions(),
                       "comparisons": [], "unsupported": {}, "rates": [], "memory": [], "jobs": []}

    def compare(self, *arguments, more_is_better=False):
        self.record["comparisons"].append(comparison(*arguments, more_is_better))

    def bench(self, row, optional=False):
        """Runs `regraft bench` for a row with model, batch, what and precision."""
        return run([REGRAFT, "bench", "--backbone", row.model, "--batch", row.batch, "--what", row.what, "--precision",
                    row.precision, "--threads", self.threads, "--json"], optional)

    def rates(self, rows):
        """Rows of one model and batch: throughput.py measures all that they need in one process."""
        model, batch = rows[0].model, rows[0].batch
        lines = {line for row in rows for names, _ in row.rivals.values() for line in names}
        options = [] if any("train" in line for line in lines) else ["--no-train"]
        options += ["--peers"] if lines & {*OPENVINO, *ONNX_RUNTIME} else []
        rates, ours = {}, {row.name: [] for row in rows}

        def others():
            out, _, _ = run([sys.executable, SHARED / "reference/throughput.py", model, "--batch", batch, "--threads",
                             self.threads, *options])
            for line in json_lines(out):
                rates.setdefault(line["what"], []).append(line["img_per_s"])

        def regraft(row):
            out, said, _ = self.bench(row, optional=row.precision != "f32")
            if out is None:
                self.record["unsupported"][row.name] = said.splitlines()[0]
                return
            line = json_lines(out)[-1]
            ours[row.name].append({key: line.get(key) for key in ("img_per_s", "multiply_add_gflops", "level")})

        in_rounds(self.rounds, others, *(lambda row=row: regraft(row) for row in rows))
        self.record["rates"].append({"model": model, "batch": batch, "others": rates, "regraft": ours})
        for row in rows:
            if not ours[row.name]:
                print(f"{row.name:24}unsupported")
                continue
            rate = statistics.median(run["img_per_s"] for run in ours[row.name])
            for rival, (names, at_least) in row.rivals.items():
                best = max(statistics.median(rates[name]) for name in names)
                self.compare(row.name, f"{rival} {row.precision}", "img/s", rate, best, at_least, more_is_better=True)

    def memory(self, row):
        ours, theirs = [], []
        bench = Rate(row.name, row.model, row.batch, "train", "f32", {})
        in_rounds(self.rounds, lambda: theirs.append(train_memory(row.model, row.batch, self.threads)),
                  lambda: ours.append(self.bench(bench)[2]))
        self.record["memory"].append({"row": row.name, "batch": row.batch, "regraft_mib": ours, "torch_mib": theirs})
        self.compare(row.name, "PyTorch f32", "MiB", statistics.median(ours), statistics.median(theirs), row.at_least)

    def job(self, row):
        """The tutorial's job, ResNet-18, batch 4, from a file of weights. They have learned nothing: only time is compared."""

        def torch():
            note("torch", run([sys.executable, SHARED / "reference/tutorial.py", PHOTOS, "--model", "resnet18",
                               "--weights", weights, "--mode", row.mode, "--epochs", self.epochs, "--threads", self.threads]))

        def regraft():
            with tempfile.TemporaryDirectory() as folder:
                note("regraft", run([REGRAFT, "train", PHOTOS, "--backbone", "resnet18", "--weights", weights,
                                     "--mode", row.mode, "--epochs", self.epochs, "--threads", self.threads, "--output-dir", f"{folder}/run", "--json"]))

        def note(program, result):
            _, seconds, peak = result
            self.record["jobs"].append({"mode": row.mode, "program": program, "seconds": round(seconds, 1),
                                        "peak_mib": round(peak)})

        with tempfile.TemporaryDirectory() as weights_folder:
            weights = Path(weights_folder) / "resnet18.pth"
            write_weights(weights)
            in_rounds(self.rounds, torch, regraft)
        self.compare(row.name, "PyTorch f32", "s", self.job_seconds(row.mode, "regraft"),
                     self.job_seconds(row.mode, "torch"), row.at_least)

    def job_seconds(self, mode, program):
        return statistics.median(job["seconds"] for job in self.record["jobs"]
                                 if (job["mode"], job["program"]) == (mode, program))

    def probe_beside_frozen(self):
        self.compare("job-probe", "PyTorch frozen", "s", self.job_seconds("probe", "regraft"),
                     self.job_seconds("frozen", "torch"), PROBE_AT_LEAST)


def write_weights(path):
    """A file of ResNet-18 weights as one would download: batch norms have statistics, which fresh ones lack."""
    run([sys.executable, "-c", "import torch, torchvision, sys\n"
         "torch.manual_seed(0)\n"
         "m = torchvision.models.resnet18(weights=None).train()\n"
         "with torch.no_grad():\n"
         "    for _ in range(4): m(torch.randn(8, 3, 224, 224))\n"
         "torch.save(m.state_dict(), sys.argv[1])\n", path])


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
    return run([sys.executable, "-c", code])[2]


def cpu_name():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.processor()


def commit():
    return run(["git", "-C", ROOT, "describe", "--always", "--dirty", "--exclude", "*"])[0].strip()


def versions():
    # In a process of its own: what a child inherits at its fork would count into its peak memory.
    code = ("import importlib.metadata as m, json\n"
            "print(json.dumps({p: m.version(p) for p in ('torch', 'onnxruntime', 'openvino')}))")
    return json.loads(run([sys.executable, "-c", code])[0])


def main():
    rows = RATES + MEMORY + JOBS
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="rows whose names begin so")
    parser.add_argument("--list", action="store_true", help="print the names of the rows")
    parser.add_argument("--rounds", type=int, help="default: 3, but 1 for the job, which is long")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=25, help="of the job")
    parser.add_argument("--out", type=Path, help="where the record goes")
    a = parser.parse_args()
    if a.list:
        return print("\n".join(row.name for row in rows))
    if unknown := [name for name in a.only or [] if not any(row.name.startswith(name) for row in rows)]:
        parser.error(f"no row begins with {', '.join(unknown)}")
    wanted = lambda rows: [row for row in rows if not a.only or row.name.startswith(tuple(a.only))]

    measurement = Measurement(a.threads, a.rounds or 3, a.epochs)
    record = measurement.record
    part = f"-{'-'.join(a.only)}" if a.only else ""
    out = a.out or ROOT / f"benchmarks/{record['date']}-{record['commit']}{part}.json"
    save = lambda: out.write_text(json.dumps(record, indent=1) + "\n")  # after each part, lest a long run is lost

    for model, batch in dict.fromkeys((row.model, row.batch) for row in wanted(RATES)):
        measurement.rates([row for row in wanted(RATES) if (row.model, row.batch) == (model, batch)])
        save()
    for row in wanted(MEMORY):
        measurement.memory(row)
        save()
    if wanted(JOBS):
        measurement.rounds = record["job_rounds"] = a.rounds or 1
    for row in wanted(JOBS):
        measurement.job(row)
        save()
    if {"probe", "frozen"} <= {row.mode for row in wanted(JOBS)}:
        measurement.probe_beside_frozen()
        save()
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
