"""Sentences that combine: those of unequal length are padded and masked as their pipelines do."""

import pytest
import torch

from codi import Prompt
from codi.compose.native_prompt import NativePrompt
from codi.compose.pipeline import ComposedPipeline
from codi.types import InputError, Modality
from tests.compose import tiny_foreign
from tests.compose.test_composed_pipeline import models

AUDIO, VIDEO = Modality.AUDIO, Modality.VIDEO
SHORT, LONG = "a ball", "a red ball bounces quickly in the snow"
SEQUENCES = {
    "audioldm2": (AUDIO, "encoder_hidden_states_1", "encoder_attention_mask_1"),
    "ltx": (VIDEO, "encoder_hidden_states", "encoder_attention_mask"),
}


@pytest.fixture(scope="module")
def loaded():
    with tiny_foreign.quiet():
        return {name: models({modality: name})[modality] for name, (modality, *_) in SEQUENCES.items()}


def native(model, *texts):
    with tiny_foreign.quiet():
        return model.prepare(list(texts), num_inference_steps=3, guidance_scale=1.0).prompt


@pytest.mark.parametrize("name", SEQUENCES)
def test_each_token_is_the_mean_of_the_sentences_that_reach_it(loaded, name):
    _, sequence, mask = SEQUENCES[name]
    short, long = native(loaded[name], SHORT), native(loaded[name], LONG)
    both = NativePrompt.interpolate([short, long], torch.tensor([[1.0, 3.0]]))
    few, many = int(short.masks()[mask].sum()), int(long.masks()[mask].sum())
    assert 0 < few < many
    assert torch.equal(both.masks()[mask].bool(), long.masks()[mask].bool())
    assert both.masks()[mask].dtype == short.masks()[mask].dtype
    a, b, x = (prompt.tensors()[sequence] for prompt in (short, long, both))
    assert torch.allclose(x[:, :few], 0.25 * a[:, :few] + 0.75 * b[:, :few], atol=1e-6)
    assert torch.equal(x[:, few:many], b[:, few:many])


def test_a_sentence_that_does_not_count_leaves_no_trace(loaded):
    """Two samples of one batch: the first has one sentence, the second has two."""
    _, sequence, mask = SEQUENCES["audioldm2"]
    model = loaded["audioldm2"]
    parts = [native(model, SHORT, SHORT), native(model, LONG, LONG)]
    both = NativePrompt.interpolate(parts, torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    lengths = [int(part.masks()[mask][0].sum()) for part in parts]
    assert both.masks()[mask].sum(1).tolist() == lengths
    short = parts[0].tensors()[sequence]
    assert torch.equal(both.tensors()[sequence][0, : lengths[0]], short[0, : lengths[0]])
    other = "encoder_hidden_states"  # without a mask, and of one length
    mean = (parts[0].tensors()[other][1] + parts[1].tensors()[other][1]) / 2
    assert torch.allclose(both.tensors()[other][1], mean, atol=1e-6)


def test_a_sound_is_made_from_sentences_of_unequal_length(loaded):
    pipe = ComposedPipeline({AUDIO: loaded["audioldm2"]})
    asked = dict(outputs=["audio"], num_inference_steps=2, guidance_scale=3.0, seed=3, output_type="latent")

    def made(*given):
        with tiny_foreign.quiet():
            return pipe(text=list(given), **asked).latents[AUDIO]

    alone, half = made(SHORT), made(SHORT, LONG)
    assert torch.allclose(made(Prompt(SHORT, 1.0), Prompt(LONG, 0.0)), alone, atol=1e-4)
    for other in (alone, made(LONG)):
        assert not torch.allclose(half, other, atol=1e-3)


def test_sentences_of_unequal_length_without_a_mask_are_one_line():
    def prompt(length):
        arguments = {"encoder_hidden_states": torch.ones(1, length, 4)}
        return NativePrompt.of(arguments, [True], 1, torch.float32)

    with pytest.raises(InputError, match=r"encoder_hidden_states has no mask .*: expected one sentence"):
        NativePrompt.interpolate([prompt(3), prompt(5)], torch.ones(1, 2))
