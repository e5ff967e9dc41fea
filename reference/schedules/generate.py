"""Learning rates of every step from torch.optim.lr_scheduler, for crates/learn/src/schedule.rs.

    python reference/schedules/generate.py      # writes rates.json beside this file; no randomness
"""
import json, pathlib, warnings
import torch
from torch.optim import lr_scheduler as S

warnings.simplefilter("ignore")  # stepping a scheduler without an optimiser step, and SequentialLR's own
HERE = pathlib.Path(__file__).parent


def policy_scheduler(opt, policy, epochs, steps_per_epoch):
    """PyTorch's scheduler for a policy over `epochs`, and whether it steps once a batch."""
    args = {k: v for k, v in policy.items() if k != "name"}
    match policy["name"]:
        case "Constant": return S.ConstantLR(opt, factor=1.0), False
        case "StepLR": return S.StepLR(opt, **args), False
        case "CosineAnnealingLR": return S.CosineAnnealingLR(opt, T_max=epochs, **args), False
        case "OneCycleLR": return S.OneCycleLR(opt, total_steps=epochs * steps_per_epoch, cycle_momentum=False, **args), True


def rates(base_lr, epochs, steps_per_epoch, schedule):
    opt = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=base_lr)
    warmup = schedule.get("warmup")
    per_epoch, per_step = [], []
    if warmup:
        first = S.LinearLR(opt, **warmup)
        second, _ = policy_scheduler(opt, schedule["policy"], epochs - warmup["total_iters"], steps_per_epoch)
        per_epoch.append(S.SequentialLR(opt, [first, second], milestones=[warmup["total_iters"]]))
    else:
        main, each_step = policy_scheduler(opt, schedule["policy"], epochs, steps_per_epoch)
        (per_step if each_step else per_epoch).append(main)
    out = []
    for epoch in range(epochs):
        for step in range(steps_per_epoch):
            out.append(opt.param_groups[0]["lr"])
            last = epoch == epochs - 1 and step == steps_per_epoch - 1
            for s in [] if last else per_step:
                s.step()
        for s in per_epoch:
            s.step()
    return out


step_lr = {"name": "StepLR", "step_size": 7, "gamma": 0.1}
cosine = {"name": "CosineAnnealingLR", "eta_min": 1e-5}
one = {"name": "OneCycleLR", "max_lr": 0.1, "pct_start": 0.3, "div_factor": 25.0, "final_div_factor": 1e4}
CASES = [
    (0.01, 5, 3, {"policy": {"name": "Constant"}}),
    (0.001, 25, 2, {"policy": step_lr}),
    (0.1, 20, 1, {"policy": {"name": "StepLR", "step_size": 3, "gamma": 0.7}}),
    (0.05, 30, 2, {"policy": cosine}),
    (0.05, 1, 4, {"policy": {"name": "CosineAnnealingLR", "eta_min": 0.0}}),
    (0.1, 6, 7, {"policy": one}),
    (0.1, 3, 11, {"policy": one | {"pct_start": 0.05, "div_factor": 10.0, "final_div_factor": 100.0}}),
    (0.1, 4, 5, {"policy": one | {"pct_start": 0.0}}),
    (0.1, 12, 3, {"policy": {"name": "Constant"}, "warmup": {"total_iters": 5, "start_factor": 0.01}}),
    (0.1, 20, 2, {"policy": step_lr, "warmup": {"total_iters": 4, "start_factor": 0.1}}),
    (0.1, 15, 2, {"policy": cosine, "warmup": {"total_iters": 5, "start_factor": 0.2}}),
]
out = [{"torch": torch.__version__.split("+")[0], "schedule": s, "base_lr": lr, "epochs": e, "steps_per_epoch": n,
        "rates": rates(lr, e, n, s)} for lr, e, n, s in CASES]
(HERE / "rates.json").write_text("[\n" + ",\n".join(json.dumps(c) for c in out) + "\n]\n")
