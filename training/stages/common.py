"""What several stages need: exporting a part, loading a frozen one, batches rendered from scenes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from codi.types import InputError
from codi.world import Scene
from codi.world.caption import WORDS
from data.world import scene_at


def export_part(part: nn.Module, folder: Path, dtype: torch.dtype = torch.float16) -> None:
    """Writes a diffusers or transformers part into `folder` as safetensors, leaving `part` as it is."""
    state = {name: tensor.clone() for name, tensor in part.state_dict().items()}
    nn.Module.to(part, dtype).save_pretrained(folder, safe_serialization=True)  # the plain `to`: diffusers' own warns of nothing here
    nn.Module.to(part, torch.float32).load_state_dict(state)


def load_part(cls: type, folder: Path, why: str) -> Any:
    """A finished part in float32 and eval mode, frozen. Raises `InputError` naming the stage that makes it."""
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} is missing: {why}")
    return cls.from_pretrained(folder, dtype=torch.float32, low_cpu_mem_usage=False).eval().requires_grad_(False)


class WorldSource:
    """An endless source: `render(scenes, rngs)` makes the batch of the scenes at the given indices, each with its own random draws."""

    infinite = True

    def __init__(self, render: Callable[[list[Scene], list[np.random.Generator]], dict[str, Any]], seed: int):
        self.render, self.seed = render, seed

    def __len__(self) -> int:
        return 2**40

    def fetch(self, indices: list[int]) -> dict[str, Any]:
        """The batch; every sample is a function of its own index alone, however batches are cut."""
        return self.render(
            [scene_at(self.seed, index) for index in indices], [np.random.default_rng((self.seed, index, 1)) for index in indices]
        )


def world_words() -> list[str]:
    """Every word that the captions of the world can hold, punctuation included."""
    said = [word for values in WORDS.values() for words in values.values() for phrase in words for word in phrase.split()]
    return sorted({*said, *"a the that is and there it something thing moves ,".split()})


def write_png(path: Path, pictures: Tensor, columns: int) -> None:
    """A contact sheet of pictures (N, 3, H, W) in [-1, 1] or uint8."""
    from codi.io import from_unit, save_image

    pictures = pictures if pictures.dtype == torch.uint8 else from_unit(pictures.cpu())
    rows = [torch.cat(list(row), dim=2) for row in pictures.split(columns) if len(row) == columns]
    save_image(path, torch.cat(rows, dim=1))
