"""A check compares latents, and what is decoded from them, with those of the pipeline itself."""

import math

import pytest
import torch
from diffusers import DiffusionPipeline

from codi.compose.check import Difference, compare
from codi.compose.foreign import ForeignModel
from codi.types import Modality
from tests.compose import tiny_foreign

FINE = dict(
    modality=Modality.IMAGE, name="sd15", steps=2, latents=0.0, media=0.0, largest=1.0, dtype=torch.float32
)


def test_decoded_media_are_compared_too(monkeypatch):
    with tiny_foreign.quiet():
        pipeline = DiffusionPipeline.from_pretrained(tiny_foreign.folder("sd15"))
    model = ForeignModel(pipeline=pipeline, call=tiny_foreign.SIZES["sd15"], name="sd15")
    found = compare(model)
    assert found.latents == 0.0 and found.media <= 1e-6 and found.fine
    decode = model.decode
    monkeypatch.setattr(model, "decode", lambda latent, call: decode(latent, call) + 1e-3)
    changed = compare(model)
    assert changed.latents == 0.0 and changed.media == pytest.approx(1e-3, rel=0.01) and not changed.fine
    assert str(changed).endswith("decoded media 1.0e-03, more than 1.0e-06, difference 1.0e-03")


@pytest.mark.parametrize("worse", [dict(latents=2e-6), dict(media=2e-6), dict(media=math.nan)])
def test_either_difference_alone_is_too_much(worse):
    assert Difference(**FINE).fine
    assert not Difference(**FINE | worse).fine


def test_what_a_precision_allows_grows_with_what_it_rounds():
    half = FINE | dict(dtype=torch.bfloat16, media=0.3)
    assert not Difference(**half).fine and Difference(**half | dict(largest=4.0)).fine
