"""Prompts for parts of what a composed model makes, on the latents of other people's pipelines."""

import pytest
import torch
from diffusers import DiffusionPipeline

from codi.compose.foreign import ForeignModel
from codi.compose.making import _shares
from codi.compose.pipeline import ComposedPipeline
from codi.conditions.areas import Area
from codi.regions import Region
from codi.types import InputError, Modality
from tests.compose import tiny_foreign

IMAGE, AUDIO = Modality.IMAGE, Modality.AUDIO


def composed(modality: Modality, name: str) -> ComposedPipeline:
    pipeline = DiffusionPipeline.from_pretrained(str(tiny_foreign.folder(name)))
    model = ForeignModel(pipeline=pipeline, call=tiny_foreign.SIZES[name], name=name)
    pipe = ComposedPipeline({modality: model})
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize(("modality", "name"), [(IMAGE, "sd15"), (AUDIO, "audioldm")])
def test_a_region_of_everything_is_a_prompt_of_the_whole_and_a_half_is_not(modality, name):
    pipe = composed(modality, name)
    quick = dict(outputs=[modality], num_inference_steps=2, seed=0, output_type="latent")
    end = pipe.resolve(given=["text"], outputs=[modality]).specs[modality].duration

    def latent(text, **given):
        return pipe(text=text, **quick, **given).latents[modality]

    def part(share):
        where = {"box": (0, 0, share, 1)} if end is None else {"interval": (0, share * end)}
        return [{"text": "a red ball", **where}]

    plain = latent("a red ball")
    torch.testing.assert_close(latent("at night", regions=part(1.0)), plain, atol=1e-5, rtol=1e-5)
    other = latent("at night")
    half = latent("at night", regions=part(0.5))
    assert not torch.allclose(half, plain, atol=1e-4) and not torch.allclose(half, other, atol=1e-4)


def test_shares_lie_where_the_elements_of_a_foreign_latent_lie():
    """Tokens of a packed latent are in order of time, rows and columns."""
    pipe = composed(IMAGE, "sd15")
    spec = pipe.resolve(given=["text"], outputs=[IMAGE]).specs[IMAGE]
    grid = pipe.models[IMAGE].prepare(["a"]).grid
    region = Region(items={}, area=Area(box=(0.0, 0.0, 0.5, 1.0)))
    shares = _shares(IMAGE, [region], grid, spec)
    steps, rows, columns = grid.shape
    assert shares.shape == (2, 1, 1, rows, columns) and steps == 1
    assert bool((shares[1][..., : columns // 2] == 1).all()) and bool(
        (shares[0][..., columns // 2 :] == 1).all()
    )


def test_what_a_composed_model_cannot_do_with_regions_is_one_line():
    pipe = composed(IMAGE, "sd15")
    for region, message in (
        ({"text": "a ball", "interval": (0, 1)}, "bounds nothing that is made"),
        ({"image": "photo.png", "box": (0, 0, 1, 1)}, "does not read: expected words"),
    ):
        with pytest.raises(InputError, match=message):
            pipe.resolve(given=["text"], outputs=[IMAGE], regions=[region])
