"""The pack of golden tensors: where it is, one component of it, and how near is near enough."""

import importlib.util
import json
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

NAMED = os.environ.get("CODI_PARITY_DIR")
PACK = Path(NAMED or Path(__file__).parents[3] / "shared" / "parity")


@dataclass(frozen=True, kw_only=True)
class Component:
    """meta: the component's JSON; tensors: its inputs, outputs and taps."""

    meta: dict
    tensors: dict[str, Tensor]

    def weights(self, keys: dict[str, list[int]] | None = None) -> dict[str, Tensor]:
        """The checkpoint of this component, rebuilt from its names."""
        return weights_module().state_dict(keys or self.meta["keys"], self.meta["seed"])


def pack_file(name: str) -> Path:
    """A file of the pack. The test is skipped where there is no pack, and fails where one was named that
    lacks the file.
    """
    path = PACK / name
    if not path.is_file():
        if NAMED:
            pytest.fail(
                f"CODI_PARITY_DIR is {NAMED}, which has no {name}: expected the folder of a parity pack",
                pytrace=False,
            )
        pytest.skip(f"no parity pack at {PACK} (set CODI_PARITY_DIR)")
    return path


@cache
def weights_module():
    spec = importlib.util.spec_from_file_location("parity_weights", pack_file("weights.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def component(name: str) -> Component:
    """A component by file name without ending."""
    return Component(
        meta=json.loads(pack_file(f"{name}.json").read_text()),
        tensors=load_file(pack_file(f"{name}.safetensors")),
    )


def distance(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference relative to the largest value."""
    assert ours.shape == theirs.shape, (tuple(ours.shape), tuple(theirs.shape))
    return (
        (ours.double() - theirs.double()).abs().max() / theirs.double().abs().max().clamp(min=1e-12)
    ).item()


def assert_close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-4) -> None:
    found = distance(ours.detach(), theirs)
    assert found <= tolerance, f"differs by {found:.2e} of the maximum, allowed {tolerance:.0e}"


def no_grad(test):
    return torch.no_grad()(test)
