"""Decoupled attention: silent at first, gone without a trace, and trained by the network's own answers."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from codi.compose.decoupled_attention import DecoupledAttention, distillation_loss, find_sites
from codi.compose.foreign import ForeignDenoiser, ForeignModel
from codi.compose.native_prompt import NativePrompt
from codi.types import InputError
from tests.compose import tiny_foreign

DIM = 16
WITH = ("sd15", "sdxl", "animatediff", "ltx", "wan", "audioldm2", "stable_audio")


def load(name):
    from diffusers import DiffusionPipeline

    with tiny_foreign.quiet():
        pipeline = DiffusionPipeline.from_pretrained(tiny_foreign.folder(name))
    return ForeignModel(pipeline=pipeline, call=tiny_foreign.SIZES[name], name=name)


def attention_of(model):
    torch.manual_seed(0)
    with tiny_foreign.quiet():
        return DecoupledAttention(DIM, find_sites(model))


def asked(model, texts):
    """The prepared prompts, latents and timesteps of some texts."""
    with tiny_foreign.quiet():
        generators = [torch.Generator().manual_seed(k) for k in range(len(texts))]
        prepared = model.prepare(texts, num_inference_steps=3, generators=generators)
    t = prepared.scheduler.timesteps[:1].expand(len(texts))
    return prepared, prepared.start.to(prepared.prompt.dtype), t


def tokens(count):
    draw = torch.Generator().manual_seed(1)
    return functional.normalize(torch.randn(count, 1, DIM, generator=draw), dim=-1)


@pytest.mark.parametrize("name", tiny_foreign.each(*WITH))
def test_it_is_silent_at_first_then_heard_and_leaves_no_trace(name):
    model = load(name)
    attention = attention_of(model)
    prepared, x, t = asked(model, ["a red ball", "a star"])
    plain = ForeignDenoiser(model, model.form(True, prepared.call))
    denoiser = ForeignDenoiser(model, plain.form, decoupled=attention)
    token = tokens(2)
    token[1] = 0  # the second sample has no prompt but its text
    prompt = prepared.prompt.with_token(token)
    weights = list(model.network.state_dict())
    kind = type(model.network)
    with torch.no_grad():
        before = plain(x, t, prepared.prompt)
        attention.attach(model.network)
        assert torch.equal(denoiser(x, t, prompt), before)
        for site in attention.added:
            nn.init.normal_(site.to_v.weight)
        heard = denoiser(x, t, prompt)
        assert (heard[0] - before[0]).abs().max() > 1e-2
        assert torch.equal(heard[1], before[1])
        assert torch.equal(denoiser(x, t, prepared.prompt), before)
        # both branches of guidance in one call: the null prompt has no token
        both = denoiser(torch.cat([x, x]), torch.cat([t, t]), NativePrompt.cat([prepared.null, prompt]))
        none = denoiser(x, t, prepared.null)
        assert torch.allclose(both[2:], heard, atol=1e-4) and torch.allclose(both[:2], none, atol=1e-4)
        assert list(model.network.state_dict()) == weights and type(model.network) is kind
        attention.remove()
        assert torch.equal(denoiser(x, t, prompt), before)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("sd3", "attend to each other in one attention"),
        ("flux", "attend to each other"),
        ("audioldm", "no attention"),
    ],
)
def test_networks_without_an_attention_of_their_own_for_text_are_refused(name, why):
    with tiny_foreign.quiet(), pytest.raises(InputError, match=f"{name}.*{why}.*prompt translator"):
        find_sites(load(name))


def test_it_fits_one_network_once():
    model, other = load("sd15"), load("wan")
    attention = attention_of(model)
    with pytest.raises(InputError, match="an attention down_blocks.0.*this WanTransformer3DModel has none"):
        attention.attach(other.network)
    attention.attach(model.network)
    with pytest.raises(InputError, match="attached already"):
        attention.attach(model.network)


def test_it_learns_what_a_caption_says_from_the_networks_own_answers():
    """Two captions as tokens beside the null prompt: the loss falls, and no frozen weight is touched."""
    model = load("sd15")
    attention = attention_of(model)
    attention.attach(model.network)
    prepared, x, t = asked(model, ["a red ball", "a blue star on the sand"])
    denoiser = ForeignDenoiser(model, model.form(True, prepared.call), decoupled=attention)
    optimizer = torch.optim.AdamW(attention.parameters(), 1e-2)
    frozen = {name: value.clone() for name, value in model.network.state_dict().items()}
    losses = []
    for _ in range(40):
        loss = distillation_loss(denoiser, x, t, prepared.prompt, prepared.null, tokens(2)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert all(p.grad is not None for p in attention.parameters())
    assert all(p.grad is None for p in model.network.parameters())
    assert all(torch.equal(value, frozen[name]) for name, value in model.network.state_dict().items())


def test_gradient_checkpointing_is_refused():
    model = load("sd15")
    attention = attention_of(model)
    attention.attach(model.network)
    model.network.enable_gradient_checkpointing()
    model.network.train()
    with pytest.raises(InputError, match="gradient checkpointing"), attention.attending(tokens(1)):
        pass
    with torch.no_grad(), attention.attending(tokens(1)):  # nothing runs again without gradients
        pass


def test_a_saved_attention_is_loaded_as_it_was(tmp_path):
    attention = attention_of(load("sd15"))
    attention.save_pretrained(tmp_path)
    loaded = DecoupledAttention.from_pretrained(tmp_path)
    assert dict(loaded.config.sites) == dict(attention.config.sites)
    for name, value in attention.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
