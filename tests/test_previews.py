"""What a callback is shown of a call that is running: steps by output, and what outputs seem to become."""

import pytest
import torch

from codi.modalities import kind_of
from codi.types import Modality, ModalitySpec
from tests.tiny_pipeline import pipeline


@pytest.fixture(scope="module")
def pipe():
    return pipeline()


def watched(pipe, **arguments):
    """Calls a pipeline, and returns its latents, the steps of each call and the clean estimates."""
    steps, seen = [], []

    def look(pipe, index, t, tensors):
        steps.append(pipe.own_steps)
        seen.append(dict(tensors["clean_latents"]))
        return {}

    out = pipe(
        "a ball",
        seed=0,
        output_type="latent",
        callback_on_step_end=look,
        callback_on_step_end_tensor_inputs=["clean_latents"],
        **arguments,
    )
    return out.latents, steps, seen


def test_estimates_end_in_what_is_made(pipe):
    latents, steps, seen = watched(pipe, outputs=["image", "audio"], num_inference_steps=6, num_samples=2)
    for modality, latent in latents.items():
        errors = [float((each[modality] - latent).abs().mean()) for each in seen]
        assert seen[0][modality].shape == latent.shape
        assert errors[-1] < 1e-4 and errors[-1] < errors[0]
        assert [step[modality] for step in steps] == [(k + 1, 6) for k in range(6)]


def test_an_output_that_has_not_started_is_not_shown_and_one_that_is_finished_stays(pipe):
    latents, steps, seen = watched(
        pipe, outputs=["image", "audio"], num_inference_steps=4, start_offset={"image": 0, "audio": 0.5}
    )
    image, audio = Modality.IMAGE, Modality.AUDIO
    assert [step[audio] for step in steps] == [(0, 4), (0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]
    assert [step[image] for step in steps] == [(1, 4), (2, 4), (3, 4), (4, 4), (4, 4), (4, 4)]
    assert [audio in each for each in seen] == [False, False, True, True, True, True]
    assert torch.equal(seen[-1][image], latents[image])


def test_looking_changes_nothing(pipe):
    looked, *_ = watched(pipe, outputs=["image"], num_inference_steps=3)
    plain = pipe("a ball", seed=0, output_type="latent", outputs=["image"], num_inference_steps=3).latents
    assert all(torch.equal(looked[m], plain[m]) for m in plain)


def test_previews_are_small():
    noise = torch.rand(40, 3, 300, 500, generator=torch.Generator().manual_seed(0)) * 2 - 1
    spec = ModalitySpec(raw_shape=(40, 3, 300, 500), latent_shape=(), rate=8.0)
    for name, raw in (("video", noise), ("image", noise[0]), ("audio", noise.flatten()[:32_000])):
        mime, content = kind_of(Modality(name)).preview(raw, spec)
        assert mime.startswith("image/") and 0 < len(content) <= 64 << 10
    assert kind_of(Modality.TEXT).preview("a ball", spec) == ("text/plain", b"a ball")
