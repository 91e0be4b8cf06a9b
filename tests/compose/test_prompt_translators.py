"""Prompt translators: what a frozen model is given for a token of the shared prompt space."""

import pytest
import torch
from torch.nn import functional

from codi.compose.foreign import ForeignDenoiser, ForeignModel
from codi.compose.native_prompt import NativePrompt
from codi.compose.prompt_translators import PromptTranslators, find_contexts, num_parameters, of_samples
from codi.types import InputError, Modality
from tests.compose import tiny_foreign

DIM = 16
CAPTIONS = [
    "a red ball in the snow",
    "a ball",
    "a blue star swings slowly on the grass",
    "a green ring at night",
    "a star blinks",
    "a pink box on the sand",
]
VARY = {
    "sd15": ({"encoder_hidden_states": [77, 32]}, set()),
    "sdxl": ({"encoder_hidden_states": [77, 64], "added_cond_kwargs.text_embeds": [32]}, set()),
    "sd3": ({"encoder_hidden_states": [333, 32], "pooled_projections": [64]}, set()),
    "flux": ({"encoder_hidden_states": [512, 32], "pooled_projections": [32]}, set()),
    "animatediff": ({"encoder_hidden_states": [77, 32]}, set()),
    "ltx": ({"encoder_hidden_states": [128, 16]}, {"encoder_attention_mask"}),
    "wan": ({"encoder_hidden_states": [512, 32]}, set()),
    "audioldm": ({"class_labels": [32]}, set()),
    "audioldm2": (
        {"encoder_hidden_states": [8, 16], "encoder_hidden_states_1": [40, 32]},
        {"encoder_attention_mask_1"},
    ),
    "stable_audio": ({"encoder_hidden_states": [18, 16]}, set()),
}


def load(name):
    from diffusers import DiffusionPipeline

    with tiny_foreign.quiet():
        pipeline = DiffusionPipeline.from_pretrained(tiny_foreign.folder(name))
    return ForeignModel(pipeline=pipeline, call=tiny_foreign.SIZES[name], name=name)


def native(model, texts):
    with tiny_foreign.quiet():
        return model.prepare(texts, num_inference_steps=3).prompt


def tokens():
    draw = torch.Generator().manual_seed(1)
    return functional.normalize(torch.randn(len(CAPTIONS), 1, DIM, generator=draw), dim=-1)


def untrained(model, prompt, **settings):
    contexts, masks = find_contexts([prompt], model.name)
    torch.manual_seed(2)
    name = model.modality.value
    translators = PromptTranslators(DIM, {name: contexts}, {name: masks}, hidden=64, **settings)
    translators.of(model.modality).measure(prompt)
    return translators


def trained(model, prompt, steps=100):
    """Translators that know six captions by heart."""
    translators = untrained(model, prompt)
    optimizer = torch.optim.AdamW(translators.parameters(), 3e-3)
    for _ in range(steps):
        losses = translators.of(model.modality).loss(tokens(), prompt)
        optimizer.zero_grad()
        torch.stack([loss.mean() for loss in losses.values()]).sum().backward()
        optimizer.step()
    return translators


@pytest.mark.parametrize("name", tiny_foreign.each(*VARY))
def test_what_captions_change_is_found_and_nothing_else(name):
    contexts, masks = find_contexts([native(load(name), CAPTIONS)])
    assert (contexts, set(masks)) == VARY[name]


@pytest.mark.parametrize("name", tiny_foreign.each("sd15", "sdxl", "audioldm", "audioldm2", "ltx"))
def test_a_token_gives_the_answers_of_its_caption(name):
    """Of six captions learned by heart, each token brings the answer of its own and of no other."""
    model = load(name)
    prompt = native(model, CAPTIONS)
    translators = trained(model, prompt)
    like = native(model, [""] * len(CAPTIONS))
    denoiser = ForeignDenoiser(model, model.form(True, model.call_for()))
    with tiny_foreign.quiet():
        start = model.prepare([""], num_inference_steps=3).start
    x = torch.randn(len(CAPTIONS), *start.shape[1:], generator=torch.Generator().manual_seed(3))
    t = torch.full((len(CAPTIONS),), 500)

    def error(token):
        with torch.no_grad():
            wanted, none = denoiser(x, t, prompt), denoiser(x, t, like)
            found = denoiser(x, t, translators.translate(model.modality, token, like))
        return float((found - wanted).square().sum() / (none - wanted).square().sum())

    own, another = error(tokens()), error(tokens().roll(1, 0))
    assert own < 0.01 and another > 0.1, (own, another)


@pytest.mark.parametrize("name", tiny_foreign.each("ltx", "audioldm2"))
def test_a_mask_is_that_of_the_caption(name):
    model = load(name)
    prompt = native(model, CAPTIONS)
    found = trained(model, prompt).translate(model.modality, tokens(), native(model, CAPTIONS[:1] * 6))
    for key, mask in prompt.masks().items():
        assert torch.equal(found.masks()[key], mask)
        assert len(set(mask.sum(1).tolist())) > 2


def test_what_captions_do_not_change_stays():
    model = load("sdxl")
    prompt = native(model, CAPTIONS)
    found = untrained(model, prompt).translate(model.modality, tokens(), prompt)
    names = {"encoder_hidden_states", "added_cond_kwargs.text_embeds"}
    for name, before, after in zip(prompt.names, prompt.leaves, found.leaves, strict=True):
        assert (after is before) == (name not in names)


def test_frames_of_a_clip_share_their_context():
    model = load("animatediff")
    prompt = native(model, CAPTIONS)
    found = untrained(model, prompt).translate(model.modality, tokens(), prompt)
    context = found.tensors()["encoder_hidden_states"].unflatten(0, (len(CAPTIONS), -1))
    assert context.shape[1] == tiny_foreign.SIZES["animatediff"]["num_frames"]
    assert torch.equal(context, context[:, :1].expand_as(context))
    assert not torch.equal(context[0], context[1])


def test_statistics_that_were_not_measured_are_loud():
    model = load("audioldm")
    prompt = native(model, CAPTIONS)
    translators = PromptTranslators(DIM, {"audio": {"class_labels": [32]}}, {})
    found = translators.translate(Modality.AUDIO, tokens(), prompt)
    assert found.tensors()["class_labels"].isnan().all()


@pytest.mark.parametrize("name", ["sd15", "audioldm2", "animatediff"])
def test_a_prompt_that_partners_leave_as_it_was_stays_exact(name):
    model = load(name)
    prompt = native(model, CAPTIONS)
    translators = untrained(model, prompt)
    short = native(model, CAPTIONS[1:2] * len(CAPTIONS))  # of another length, where lengths differ
    token = tokens()
    fused = token.clone()
    fused[2] = token[3]
    for like in (prompt, short):
        found = translators.refit(model.modality, like, token, fused)
        for key, before in like.tensors().items():
            if not key.startswith("encoder_hidden_states"):
                continue
            after = found.tensors()[key]
            rows = len(after) // len(CAPTIONS)
            changed = (after != before).flatten(1).any(1).unflatten(0, (-1, rows)).all(1)
            assert changed.tolist() == [False, False, True, False, False, False]


def test_refit_adds_what_the_translator_makes_of_the_difference():
    model = load("audioldm")
    prompt = native(model, CAPTIONS)
    translators = untrained(model, prompt)
    token = tokens()
    found = translators.refit(model.modality, prompt, token, token.roll(1, 0))
    labels = [
        translators.translate(model.modality, x, prompt).tensors()["class_labels"]
        for x in (token, token.roll(1, 0))
    ]
    added = found.tensors()["class_labels"] - prompt.tensors()["class_labels"]
    assert torch.allclose(added, labels[1] - labels[0], atol=1e-6)
    denoiser = ForeignDenoiser(model, model.form(True, model.call_for()), translators=translators)
    again = denoiser.refit(prompt, token, token.roll(1, 0))
    assert torch.equal(again.tensors()["class_labels"], found.tensors()["class_labels"])


def test_saved_translators_are_loaded_as_they_were(tmp_path):
    model = load("sdxl")
    prompt = native(model, CAPTIONS)
    translators = untrained(model, prompt)
    translators.save_pretrained(tmp_path)
    loaded = PromptTranslators.from_pretrained(tmp_path)
    found = [each.translate(model.modality, tokens(), prompt) for each in (translators, loaded)]
    for key, value in found[0].tensors().items():
        assert torch.equal(value, found[1].tensors()[key])


def test_another_pipeline_is_refused():
    translators = untrained(load("sd15"), native(load("sd15"), CAPTIONS))
    wider = native(load("sdxl"), CAPTIONS)
    with pytest.raises(InputError, match=r"\(77, 64\).*made for \(77, 32\)"):
        translators.of(Modality.IMAGE).loss(tokens(), wider)
    with pytest.raises(InputError, match="no prompt translator for video: expected one of image"):
        translators.of(Modality.VIDEO)


def test_sequences_with_a_mask_batch_whatever_their_length():
    """Prompts of different length in one batch are answered as each of them alone."""
    model = load("audioldm2")
    short, long = native(model, ["a ball"]), native(model, ["a red ball in the snow"])
    both = NativePrompt.cat([short, long])
    denoiser = ForeignDenoiser(model, model.form(True, model.call_for()))
    with tiny_foreign.quiet():
        x = model.prepare(["", ""], num_inference_steps=3).start
    t = torch.tensor([500, 500])
    with torch.no_grad():
        together = denoiser(x, t, both)
        alone = torch.cat([denoiser(x[k : k + 1], t[:1], p) for k, p in enumerate([short, long])])
    assert short.masked_lengths() != long.masked_lengths()
    assert torch.allclose(together, alone, atol=1e-5)
    assert of_samples("encoder_hidden_states_1", both).shape[1] == max(long.masked_lengths())


@pytest.mark.parametrize(
    ("model", "dim", "contexts"),
    [
        (860e6, 768, {"encoder_hidden_states": (77, 768)}),  # Stable Diffusion 1.5
        (2567e6, 768, {"encoder_hidden_states": (77, 2048), "added_cond_kwargs.text_embeds": (1280,)}),
        (2028e6, 768, {"encoder_hidden_states": (333, 4096), "pooled_projections": (2048,)}),  # SD 3
        (11900e6, 768, {"encoder_hidden_states": (512, 4096), "pooled_projections": (768,)}),  # Flux
        (1900e6, 768, {"encoder_hidden_states": (128, 4096)}),  # LTX
        (1419e6, 768, {"encoder_hidden_states": (512, 4096)}),  # Wan 1.3B
        (185e6, 768, {"class_labels": (512,)}),  # AudioLDM
        (1057e6, 768, {"encoder_hidden_states": (130, 768)}),  # Stable Audio
    ],
)
def test_a_translator_has_less_than_a_twentieth_of_its_model(model, dim, contexts):
    assert num_parameters(dim, contexts, {}, hidden=512, layers=2, rank=64) < 0.05 * model
