"""The model inside the package: it is there, small, made as it says, listens to its partners in time, and
does what the README shows.
"""

import json
import warnings
from importlib import resources
from pathlib import Path

import pytest
import torch
from diffusers.schedulers.scheduling_heun_discrete import HeunDiscreteScheduler
from torch.nn import functional

from codi.bench.models import Model
from codi.bench.runs import Run
from codi.diffusion import named_scheduler
from codi.metrics.onsets import onset_f1
from codi.prompts import Prompt, prepare
from codi.types import InputError, Modality
from codi.world import READERS, RENDERERS, VISIBLE, caption, parse, read_images, sample_scenes

FOLDER = Path(str(resources.files("codi"))) / "assets" / "tiny"
CAPTIONS = [
    "a red box bounces slowly at night",
    "a yellow star swings quickly in the snow",
    "a blue ring pulses slowly on the grass",
    "a pink box blinks quickly on the sand",
    "a green cross bounces quickly in the snow",
    "a purple triangle swings slowly on the sand",
    "a cyan ball swings slowly in the snow",
    "a orange star pulses quickly at night",
]


@pytest.fixture(scope="module")
def pipe():
    from codi import CoDiPipeline

    pipe = CoDiPipeline.from_pretrained()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_it_is_small_and_says_how_it_was_made():
    size = sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file())
    assert size <= 40e6, f"{size / 1e6:.1f} MB"
    made = json.loads((FOLDER / "provenance.json").read_text())
    assert made["license"] == "MIT" and all(stage["samples_seen"] > 0 for stage in made["stages"].values())


def test_its_settings_are_those_that_training_publishes(pipe):
    from training.stages.new_model import DEFAULTS

    assert pipe.config.defaults == DEFAULTS


def test_a_caption_that_nobody_asked_for_makes_sound_and_clip_agree(pipe):
    """Of what "a ball" leaves open: without it they agree on motion in three samples of five."""
    pair = [Modality.AUDIO, Modality.VIDEO]
    assert pipe.find_auxiliary(pair) == [Modality.TEXT]
    out = pipe(text="a ball", outputs=pair, num_samples=6, seed=0, output_type="pt")
    heard, seen = (
        READERS[Modality.AUDIO](torch.stack(out.audios)),
        READERS[Modality.VIDEO](torch.stack(out.videos)),
    )
    open_facts = [a for a in VISIBLE[Modality.VIDEO] if a != "shape"]
    # of 24
    assert sum(a.facts[name] == b.facts[name] for a, b in zip(heard, seen) for name in open_facts) >= 20


@pytest.mark.parametrize("name", ["ddim", "dpm++", "unipc", "euler", "euler-ancestral", "ddpm"])
def test_every_named_scheduler_goes_down_its_steps(pipe, name):
    """They are not even: `timestep_shift`."""
    caption, own = "a red ball bounces slowly at night", pipe.scheduler
    pipe.scheduler = named_scheduler(name, own)
    try:
        assert pipe(text=caption, outputs="text", seed=0).texts == [caption]
    finally:
        pipe.scheduler = own


@torch.no_grad()
@pytest.mark.parametrize(
    "change",
    ["{}!!!", "{}.", "“{}”", "Please show me {}", "a photo of {}", "{} 🌙", "{} on the table", "\n{}\t"],
)
def test_what_is_asked_is_what_is_meant(pipe, change):
    tower = pipe.text_tower
    for said in CAPTIONS:
        plain = tower.embed([said])
        for written in (
            said,
            said.upper(),
            said.replace(" ", ", "),
            said.replace(" ", "  "),
            said.replace(" ", "-"),
        ):
            assert torch.equal(tower.embed([change.format(written)]), plain), written


def test_plurals_and_verb_forms_are_drawn(pipe):
    meant = {
        "two green stars": "star",
        "some yellow boxes": "box",
        "2 blue crosses": "cross",
        "red triangles bounce": "triangle",
    }
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        tokens = torch.cat([pipe.encode_prompt({Modality.TEXT: [Prompt(said)]}) for said in meant])
    out = pipe(outputs="text", num_samples=len(meant), seed=0, prompt_embeds=tokens)
    assert [parse(said)["shape"] for said in out.texts] == list(meant.values())


@pytest.mark.parametrize("name", ["euler", "ddpm"])
def test_pictures_of_other_schedulers_are_those_of_its_own(pipe, name):
    """One that draws no noise on the way ends where the model's own does in many steps."""
    caption, own = "a red ball bounces slowly at night", pipe.scheduler
    call = dict(text=caption, outputs=["text", "image"], num_samples=2, seed=0, output_type="pt")
    exact = pipe(**call, num_inference_steps=50)
    pipe.scheduler = named_scheduler(name, own)
    try:
        made = pipe(**call)
    finally:
        pipe.scheduler = own
    assert made.texts == [caption] * 2
    facts = [r.facts for r in read_images(torch.stack(made.images))]
    assert all(f[a] == parse(caption)[a] for f in facts for a in VISIBLE[Modality.IMAGE])
    distance = (torch.stack(made.images).float() - torch.stack(exact.images).float()).square().mean().sqrt()
    assert distance < 5 or name == "ddpm"


def test_a_scheduler_that_diverges_is_refused_before_anything_is_made(pipe):
    own = pipe.scheduler
    pipe.scheduler = HeunDiscreteScheduler.from_config(own.config)
    try:
        with pytest.raises(
            InputError, match="the scheduler HeunDiscreteScheduler .*: expected the model's own"
        ):
            pipe(text="a ball", outputs="image", num_inference_steps=25)
    finally:
        pipe.scheduler = own


def test_pictures_show_what_the_caption_says(pipe):
    with torch.no_grad():
        tokens = pipe.model.towers[Modality.TEXT].embed(CAPTIONS)[:, None]
    out = pipe(
        outputs="image",
        num_samples=len(CAPTIONS),
        seed=0,
        prompt_embeds=tokens,
        output_type="pt",
        num_inference_steps=12,
    )
    readings = read_images(torch.stack(out.images))
    hits = [r.facts[a] == parse(c)[a] for c, r in zip(CAPTIONS, readings) for a in VISIBLE[Modality.IMAGE]]
    assert sum(hits) / len(hits) >= 0.8


@torch.no_grad()
def test_prompts_say_what_their_captions_say(pipe):
    """Of a sound and a clip the context is nearer to the caption than their own token; a picture beside a
    caption takes nothing from it, and beside a sentence of motion alone it says the rest.
    """
    scenes = sample_scenes(16, seed=7)
    whole = [caption(scene) for scene in scenes]
    media = {m: RENDERERS[m](scenes) for m in (Modality.IMAGE, Modality.AUDIO, Modality.VIDEO)}
    moves = [caption(scene, facts=("motion", "tempo")) for scene in scenes]
    encode = lambda k, **items: pipe.encode_prompt(
        {Modality(m): [Prompt(item[k])] for m, item in items.items()}
    )[0, 0]
    sentences = torch.stack([encode(k, text=whole) for k in range(16)])

    def nearness(**items):
        return torch.stack(
            [functional.cosine_similarity(encode(k, **items), sentences[k], dim=0) for k in range(16)]
        ).mean()

    pictures = media[Modality.IMAGE]
    cases = [
        dict(audio=media[Modality.AUDIO]),
        dict(video=media[Modality.VIDEO]),
        dict(text=whole, image=pictures),
        dict(text=moves, image=pictures),
    ]
    read = [nearness(**case) for case in cases]
    defaults = pipe.config.defaults
    pipe.register_to_config(defaults={**defaults, "caption_prior": None})
    plain = [nearness(**case) for case in cases]
    pipe.register_to_config(defaults=defaults)
    assert [float(r) > least for r, least in zip(read, (0.9, 0.9, 0.97, 0.85))] == [True] * 4
    assert all(r > p + 0.02 for r, p in zip(read, plain))


def noisy(pipe, modality: Modality) -> torch.Tensor:
    return torch.randn(
        1, *pipe.model.specs[modality].latent_shape, generator=torch.Generator().manual_seed(1)
    )


def noised(pipe, modality: Modality, scenes: list, t: int) -> torch.Tensor:
    """Latents of ground truth at a noise level."""
    spec, alpha = pipe.model.specs[modality], pipe.scheduler.alphas_cumprod[t]
    raw = torch.stack([prepare(modality, item, spec) for item in RENDERERS[modality](scenes)])
    clean = pipe.model.autoencoders[modality].encode(raw)
    return alpha.sqrt() * clean + (1 - alpha).sqrt() * torch.randn(
        clean.shape, generator=torch.Generator().manual_seed(2)
    )


def answer(
    pipe, listener: Modality, heard: Modality, x: torch.Tensor, t: int = 300, own: torch.Tensor | None = None
) -> torch.Tensor:
    """What a listener makes of its own noise beside a partner, by the sampler that makes a sample of it; it
    is told what that seems to become, unless its `own` latent is given: that is said of all of it at once.
    """
    both = {listener: noisy(pipe, listener) if own is None else own, heard: x}
    request = pipe.resolve(given=[], outputs=list(both), start_offset=0.0, num_inference_steps=20)
    sampler = pipe._sampler(both, torch.zeros(len(x), 1, 128), None, {}, request, {})
    sampler.guidance = {}
    sampler.schedulers = {m: FixedLevel(t) for m in both}
    env, tokens = (
        sampler.encode_environments(0, both),
        sampler.estimate_partners(0, both) if own is None else {},
    )
    return sampler.predict(
        listener,
        0,
        both[listener],
        sampler._environment(listener, env),
        sampler._partner_estimate(listener, tokens),
    )


class FixedLevel:
    """A schedule of one step at one noise level."""

    def __init__(self, t: int):
        self.timesteps = torch.tensor([t])


@pytest.mark.parametrize(("given", "made"), [("audio", "video"), ("video", "audio")])
def test_what_is_made_for_a_clip_or_a_sound_keeps_its_time(given, made):
    """As the probes read it: nearly every event within one frame."""
    given, made = Modality(given), Modality(made)
    scenes = sample_scenes(6, 41)
    media = Model().sample(Run(inputs=(given,), outputs=(made,)), scenes, list(range(6)))
    events = [r.events for r in READERS[made](media[made])]
    assert onset_f1(events, [r.events for r in READERS[given](RENDERERS[given](scenes))], 0.125).f1 >= 0.8


PAIRS = [(listener, heard) for listener in Modality for heard in Modality if listener is not heard]


@pytest.mark.parametrize(("listener", "heard"), PAIRS)
def test_every_answer_depends_on_every_partner(pipe, listener, heard):
    x = noisy(pipe, heard).requires_grad_()
    answer(pipe, listener, heard, x).square().sum().backward()
    assert x.grad.abs().max() > 0, f"{listener} does not hear {heard}"


@torch.no_grad()
@pytest.mark.parametrize(("listener", "heard"), [("video", "audio"), ("audio", "video")])
def test_a_change_near_one_second_is_heard_most_near_one_second(pipe, listener, heard):
    """Of noised truth: in pure noise nothing happens at any time. What changes are two steps, to what another
    scene shows then.
    """
    listener, heard = Modality(listener), Modality(heard)
    scenes, t = sample_scenes(4, 41), 300
    own, x = (noised(pipe, m, scenes, t) for m in (listener, heard))
    changed, step = x.clone(), round(1.0 * pipe.model.specs[heard].latent_rate)
    changed.narrow(2, step - 1, 2).copy_(x.roll(1, 0).narrow(2, step - 1, 2))
    moved = (
        answer(pipe, listener, heard, changed, t, own=own) - answer(pipe, listener, heard, x, t, own=own)
    ).square()
    moved = moved.sum([d for d in range(moved.ndim) if d != 2])
    seconds = (torch.arange(len(moved)) + 0.5) / pipe.model.specs[listener].latent_rate
    near, far = moved[(seconds - 1.0).abs() < 0.25].mean(), moved[(seconds - 1.0).abs() > 0.5].mean()
    assert near > 2 * far, f"near {near:.2e}, far {far:.2e}"
