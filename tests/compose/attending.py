"""Foreign models with joint adapters, for tests."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from codi.compose.foreign import ForeignDenoiser, ForeignModel, Prepared
from codi.compose.joint_adapters import ForeignJointAdapters
from codi.compose.streams import default_sites
from codi.protocols import Environment
from tests.compose import tiny_foreign

TEXTS = ["a red ball bounces", "a blue star at night"]
DIM = 32


@functools.cache
def model(name: str) -> ForeignModel:
    """Return a tiny foreign model, which is loaded once."""
    from diffusers import DiffusionPipeline

    with tiny_foreign.quiet():
        pipeline = DiffusionPipeline.from_pretrained(tiny_foreign.folder(name))
    return ForeignModel(pipeline=pipeline, call=tiny_foreign.SIZES[name])


@functools.cache
def prepared(name: str) -> Prepared:
    """Return two prompts of a tiny foreign model, without guidance."""
    generators = [torch.Generator().manual_seed(seed) for seed in range(len(TEXTS))]
    return model(name).prepare(TEXTS, num_inference_steps=4, guidance_scale=1.0, generators=generators)


@functools.cache
def sites(name: str) -> dict[str, int]:
    """Return the blocks of a tiny network that get adapters."""
    plain = ForeignDenoiser(model(name), model(name).form(False, prepared(name).call))
    return default_sites(plain.blocks(prepared(name)))


def environment(rows: int = 2, seed: int = 0) -> Environment:
    """Return an environment of seven tokens, one of them without time."""
    tokens = torch.randn(rows, 7, DIM, generator=torch.Generator().manual_seed(seed))
    times = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9, 1.1, torch.nan])
    return Environment(tokens=tokens, times=times.expand(rows, -1))


@dataclass
class Case:
    """A foreign denoiser with adapters, and what it is called with."""

    name: str
    model: ForeignModel
    adapters: ForeignJointAdapters
    denoiser: ForeignDenoiser
    prepared: Prepared

    def __call__(self, env: Environment | None = None, x: Tensor | None = None) -> Tensor:
        """Return the answer to a latent, or to noise, at the second timestep of the schedule."""
        t = self.prepared.scheduler.timesteps[1]
        if x is None:
            x = torch.randn(self.prepared.start.shape, generator=torch.Generator().manual_seed(3))
        return self.denoiser(x, t.expand(len(x)), self.prepared.prompt, partners=env)

    def trained(self) -> None:
        """Move all weights of the adapters, as training would."""
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for parameter in self.adapters.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


@contextmanager
def case(name: str, **options: Any) -> Iterator[Case]:
    """Yield a tiny model with new adapters, and take them off again."""
    foreign = model(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        small: dict[str, Any] = dict(env_dim=DIM, num_heads=4, width=32, hidden=32)
        network = {"sites": sites(name), "num_layers": 0 if prepared(name).grid.seconds is None else 1}
        adapters = ForeignJointAdapters({foreign.modality.value: network}, **{**small, **options})
    attachment = adapters.attach(foreign.modality, foreign.network)
    form = foreign.form(False, prepared(name).call)
    denoiser = ForeignDenoiser(foreign, form, adapters, prepared(name).grid)
    try:
        yield Case(name, foreign, adapters, denoiser, prepared(name))
    finally:
        attachment.remove()
