"""The smallest real stage: a line fitted to points, with noise and dropout so that every source of randomness
takes part.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from data.source import Source
from training.config import strict
from training.stages import Stage


@dataclass(frozen=True, kw_only=True)
class Options:
    length: int = 37
    infinite: bool = False
    poison: int = -1
    pause: float = 0.0


class Points(Source):
    """y = 3 x - 1, x a function of the index and the shift; the sample `poison` is not a number."""

    def __init__(self, options: Options, shift: float = 0.0) -> None:
        self.options, self.infinite, self.shift = options, options.infinite, shift

    def __len__(self) -> int:
        return self.options.length

    def fetch(self, indices):
        x = torch.sin(torch.tensor(indices, dtype=torch.float32) + self.shift)[:, None]
        x[[i == self.options.poison for i in indices]] = float("nan")
        return {"index": torch.tensor(indices), "x": x, "y": 3 * x - 1}


class Line(Stage):
    identity = ("length",)

    def __init__(self, config) -> None:
        self.config = config
        self.options = strict(Options, config.options, where="options")
        self.width = config.part.get("width", 4)
        self.seen = []

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(1, self.width), nn.Tanh(), nn.Dropout(0.1), nn.Linear(self.width, 1))

    def data(self) -> Points:
        """Held-out points lie between those that train; a section `data` names no files here."""
        return Points(self.options, 0.5 * len(self.config.data.get("manifests", [])))

    def rows_of_data(self) -> str:
        return ""

    def loss(self, module, batch, generator):
        time.sleep(self.options.pause)
        self.seen += batch["index"].tolist()
        level = torch.rand(len(batch["x"]), generator=generator, device=generator.device)
        noise = (
            0.1 * level[:, None] * torch.randn(batch["x"].shape, generator=generator, device=generator.device)
        )
        each = (module(batch["x"] + noise) - batch["y"]).square().mean(1)
        return each.mean(), {"bins": (level, each), "offset": module[3].bias.mean()}

    def preview(self, module, folder: Path) -> None:
        (folder / "line.txt").write_text(str(module(torch.zeros(1, 1)).item()))

    def export(self, module, folder: Path) -> None:
        (folder / "line").mkdir(exist_ok=True)
        save_file(
            {k: v.half() for k, v in module.state_dict().items()}, folder / "line" / "model.safetensors"
        )


# `accelerate launch -m tests.training.line ...` is `-m training.main ...` with this stage known
if __name__ == "__main__":
    import sys

    from training.main import main
    from training.stages import STAGES

    STAGES["line"] = "tests.training.line:Line"
    sys.exit(main())
