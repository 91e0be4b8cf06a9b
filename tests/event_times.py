"""A modality that codi does not bring, event times, in one file as somebody else would write it."""

import json
from pathlib import Path
from typing import Any

import torch

from codi import io, modalities
from codi.types import InputError, ModalitySpec

STEPS, RATE, WIDTH = 32, 16.0, 16  # of the raster: steps, steps per second; of the latent


class EventTimes(modalities.ModalityKind):
    """A list of seconds, rasterised as (1, T): 1 where something happens, else -1."""

    name = "event_times"
    field = "event_times"
    suffix = ".json"
    prompt_file = "json"
    data_suffixes = ("events",)
    geometry_keys = ("steps",)
    classes = {
        "event_times_autoencoder": "tests.event_parts:EventAutoencoder",
        "event_times_tower": "tests.event_parts:EventTower",
        "event_times_denoiser": "codi.models.denoisers:TextDenoiser",
    }
    aligned = ("event_times_tower",)

    def describe(self, autoencoder, denoiser):
        return ModalitySpec(raw_shape=(1, STEPS), latent_shape=(WIDTH,))

    def is_part(self, value):
        return isinstance(value, (int, float)) and not isinstance(value, bool)

    def prepare(self, value, spec, padded=True):
        seconds = value
        if isinstance(value, (str, Path)):
            io.check_file(value)
            seconds = json.loads(Path(value).read_text())
        return self.raster(seconds, spec)

    def raster(self, seconds: Any, spec: ModalitySpec) -> torch.Tensor:
        if not isinstance(seconds, list) or not all(map(self.is_part, seconds)):
            raise InputError(f"event_times are {seconds!r}: expected a list of seconds")
        raster = torch.full(spec.raw_shape, -1.0)
        for second in seconds:
            raster[0, min(int(second * RATE), spec.raw_shape[1] - 1)] = 1.0
        return raster

    def formatted(self, raw, output_type):
        return [(row[0] > 0).nonzero()[:, 0].div(RATE).tolist() for row in raw.cpu()]

    def write(self, out, stem, k):
        return io.save_text(self.path(stem), json.dumps(out.event_times[k]))

    def geometry_of(self, values):
        return ModalitySpec(raw_shape=(1, values["steps"]), latent_shape=())

    def geometry_in(self, configs):
        steps = configs.get("event_times_autoencoder", {}).get("steps")
        return None if steps is None else self.geometry_of({"steps": steps})

    def read(self, source, spec, cut, carrier=None):
        content = source.content if isinstance(source.content, bytes) else source.content.read_bytes()
        try:
            seconds = json.loads(content)
        except ValueError:
            raise InputError(f"{source.name} is no JSON: expected a list of seconds") from None
        return self.raster([second - cut.start for second in seconds if second >= cut.start], spec)


class Broken(modalities.ModalityKind):
    """One of which nothing can be made."""

    name = "broken"
    suffix = ".broken"
