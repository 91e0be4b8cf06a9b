"""The training loop that all scripts of this example share: time budget, resuming, averages, logs, Ctrl-C."""

import argparse
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn


def arguments(description: str, out: str, minutes: float) -> argparse.ArgumentParser:
    """Return a parser with what every training script takes."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=Path(out), help="the folder to write (default: %(default)s)"
    )
    parser.add_argument(
        "--work", type=Path, default=Path("world_work"), help="for data and training states (%(default)s)"
    )
    parser.add_argument(
        "--minutes", type=float, default=minutes, help="training time on one core (default: %(default)s)"
    )
    parser.add_argument("--steps", type=int, help="at most so many steps")
    parser.add_argument("--batch", type=int, default=16, help="samples per step (default: %(default)s)")
    parser.add_argument("--lr", type=float, default=1e-3, help="highest learning rate (default: %(default)s)")
    parser.add_argument("--scenes", type=int, default=8000, help="scenes in the data (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def save_folder(write: Callable[[Path], None], out: Path) -> None:
    """Write a folder beside `out` and put it in its place when it is complete."""
    new = out.with_name(out.name + ".new")
    old = out.with_name(out.name + ".old")
    for left in (new, old):
        shutil.rmtree(left, ignore_errors=True)
    new.parent.mkdir(parents=True, exist_ok=True)
    write(new)
    if out.exists():
        os.replace(out, old)
    os.replace(new, out)
    shutil.rmtree(old, ignore_errors=True)


class Stop:
    """Turns the first Ctrl-C into a wish to stop after the step; a second one ends the program."""

    def __init__(self) -> None:
        self.asked = False
        signal.signal(signal.SIGINT, self._ask)
        signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, number: int, frame: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


def _rate(done: float) -> float:
    """Return the learning rate, in parts of the highest, when a part `done` of the training is over."""
    return min(1.0, done / 0.02 + 0.05) * (1.0 if done < 0.3 else max(0.02, 1 - (done - 0.3) / 0.7))


def train(
    asked: argparse.Namespace,
    name: str,
    modules: dict[str, nn.Module],
    loss: Callable[[torch.Generator], tuple[Tensor, dict[str, float]]],
    save: Callable[[], None],
    *,
    save_minutes: float = 5.0,
    log_seconds: float = 20.0,
    decay: float = 0.998,
) -> None:
    """Train until the time or the steps are spent; the same call again goes on where it stopped.

    Args:
        asked: what `arguments` parsed.
        name: of the training state and the log in `asked.work`.
        modules: what is trained. Their weights are the averaged ones whenever `save` runs, and at the end.
        loss: draws a batch with the generator and returns its loss and further numbers to log.
        save: writes the result.
        save_minutes: minutes between two saves.
        log_seconds: seconds between two lines of the log.
        decay: of the moving average of the weights.
    """
    asked.work.mkdir(parents=True, exist_ok=True)
    state_file = asked.work / f"{name}.training.pt"
    log = (asked.work / f"{name}.log").open("a", buffering=1)
    parameters = [p for m in modules.values() for p in m.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, asked.lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    average = EMAModel(parameters, decay=decay, use_ema_warmup=True, power=0.75, foreach=True)
    step, spent = 0, 0.0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        for key, module in modules.items():
            module.load_state_dict(state["modules"][key])
        optimizer.load_state_dict(state["optimizer"])
        average.load_state_dict(state["average"])
        step, spent = state["step"], state["spent"]
        print(f"{name}: goes on after step {step}", flush=True)

    def keep() -> None:
        state = {
            "modules": {key: module.state_dict() for key, module in modules.items()},
            "optimizer": optimizer.state_dict(),
            "average": average.state_dict(),
            "step": step,
            "spent": spent,
        }
        torch.save(state, state_file.with_suffix(".part"))
        os.replace(state_file.with_suffix(".part"), state_file)
        average.store(parameters)
        average.copy_to(parameters)
        for module in modules.values():
            module.eval()
        save()
        for module in modules.values():
            module.train()
        average.restore(parameters)

    stop = Stop()
    sums: dict[str, list[float]] = {}
    saved, logged, before = time.time(), time.time(), time.time()
    while True:
        done = max(spent / (60 * asked.minutes), step / asked.steps if asked.steps else 0.0)
        if done >= 1 or stop.asked:
            break
        for group in optimizer.param_groups:
            group["lr"] = asked.lr * _rate(done)
        generator = torch.Generator().manual_seed(asked.seed * 1_000_003 + step)
        value, further = loss(generator)
        if not torch.isfinite(value):
            raise SystemExit(f"{name}: the loss is {float(value)} at step {step}; try a lower --lr")
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        average.step(parameters)
        step += 1
        now = time.time()
        spent, before = spent + now - before, now
        for key, number in {"loss": float(value.detach()), **further}.items():
            sums.setdefault(key, []).append(number)
        if now - logged > log_seconds:
            means = "  ".join(f"{key} {sum(v) / len(v):.4f}" for key, v in sums.items())
            line = f"{name}: {spent / 60:.1f} min  step {step}  samples {step * asked.batch}  {means}"
            print(line, flush=True)
            log.write(line + "\n")
            sums, logged = {}, now
        if now - saved > 60 * save_minutes:
            keep()
            saved = before = time.time()
    keep()
    average.copy_to(parameters)
    for module in modules.values():
        module.eval()
    print(f"{name}: saved after step {step}, {spent / 60:.1f} min", flush=True)
