"""Partner estimates in training are those of sampling, and samples without a prompt get none."""

import json
from types import SimpleNamespace

import pytest
import torch
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

from codi import pretrained
from codi.diffusion import NoiseProcess, copy_schedulers
from codi.joint.noisy_latent_encoder import NoisyLatentEncoders
from codi.joint.sampler import JointSampler
from codi.protocols import Denoiser
from codi.types import InputError, Modality
from data.batch import Batch
from data.world import PAIRS
from training.config import Config
from training.stages import open_stage
from training.stages.denoise import DenoiseStage
from training.stages.new_model import SCHEDULER, estimate_weight
from training.stages.partner_estimates import PartnerEstimates, estimated_prompt

TEXT, IMAGE = Modality.TEXT, Modality.IMAGE
LATENTS = {
    "text": dict(latent_shape=(8,), latent_rate=None, tokens_per_step=2),
    "image": dict(latent_shape=(2, 4, 4), latent_rate=None, tokens_per_step=2),
}
WIDTH = 16


@pytest.fixture(scope="module")
def towers() -> NoisyLatentEncoders:
    torch.manual_seed(0)
    towers = NoisyLatentEncoders(LATENTS, context_dim=WIDTH, dim=8, num_layers=1, num_heads=2).eval()
    for tower in towers.towers.values():  # zero before training
        torch.nn.init.normal_(tower.out.weight, std=0.3)
        torch.nn.init.normal_(tower.prompt.weight, std=0.3)
    return towers


@pytest.fixture(scope="module")
def scheduler() -> DPMSolverMultistepScheduler:
    return DPMSolverMultistepScheduler(**SCHEDULER)


def test_it_is_what_the_sampler_makes_of_the_same_latents(towers, scheduler):
    """The prompt that a denoiser is given at a step, against the one made in training of the partner's latent
    and noise.
    """
    generator = torch.Generator().manual_seed(1)
    context = torch.nn.functional.normalize(torch.randn(3, 1, WIDTH, generator=generator), dim=-1)
    start = {m: torch.randn(3, *LATENTS[m.value]["latent_shape"], generator=generator) for m in (TEXT, IMAGE)}
    sentence, picture = [], []

    class Alone(Denoiser):
        def __init__(self, modality):
            self.modality = modality

        def forward(self, x, t, prompt, partners=None, rate=None):
            (sentence if self.modality is TEXT else picture).append((x, t, prompt))
            return 0.5 * x

    sampler = JointSampler(
        denoisers={m: Alone(m) for m in (TEXT, IMAGE)},
        schedulers=copy_schedulers(scheduler, (TEXT, IMAGE), 4),
        contexts={m: context for m in (TEXT, IMAGE)},
        noisy_latent_encoders=towers.by_modality(),
        partner_estimate_weight=3.0,
    )
    with torch.no_grad():
        sampler.sample(start)
    process = NoiseProcess.from_scheduler(scheduler)
    assert len(sentence) == 4 and not torch.equal(sentence[-1][2], context)
    for (_, _, prompt), (x_t, t, _) in zip(sentence, picture):
        trained = estimated_prompt(towers.by_modality()[IMAGE], process, context, start[IMAGE], x_t, t, 3.0)
        torch.testing.assert_close(trained, prompt)


def test_a_share_gets_estimates_and_none_without_a_prompt(towers, scheduler):
    generator = torch.Generator().manual_seed(2)
    context = torch.nn.functional.normalize(torch.randn(400, 1, WIDTH, generator=generator), dim=-1)
    context[:100] = 0
    partner_estimates = PartnerEstimates(
        TEXT, {"image": 0.5}, towers, NoiseProcess.from_scheduler(scheduler), 3.0, PAIRS
    )
    t = torch.randint(1000, (400,), generator=generator)
    pictures, asked = torch.randn(400, 2, 4, 4, generator=generator), []
    changed = partner_estimates(
        context, t, [TEXT] * 400, lambda partner, rows: asked.append(rows) or pictures[rows], generator
    )
    others = (changed != context).any(-1).any(-1)
    asked = set(torch.cat(asked).tolist())
    # nobody else's is encoded
    assert set(others.nonzero().flatten().tolist()) <= asked and min(asked) >= 100 and 110 < len(asked) < 190
    assert not others[:100].any() and 110 < others[100:].sum() < 190
    torch.testing.assert_close(changed.norm(dim=-1), context.norm(dim=-1))


def test_a_prompt_of_a_third_medium_stays_as_it_is(towers, scheduler):
    generator = torch.Generator().manual_seed(2)
    context = torch.nn.functional.normalize(torch.randn(90, 1, WIDTH, generator=generator), dim=-1)
    partner_estimates = PartnerEstimates(
        TEXT, {"image": 1.0}, towers, NoiseProcess.from_scheduler(scheduler), 3.0, PAIRS
    )
    kinds, asked = [TEXT, IMAGE, Modality.AUDIO] * 30, []
    partner_estimates(
        context,
        torch.full((90,), 500),
        kinds,
        lambda partner, rows: asked.extend(rows) or torch.randn(len(rows), 2, 4, 4),
        generator,
    )
    assert sorted(int(row) for row in asked) == [row for row in range(90) if row % 3 < 2]


def test_every_sample_gets_the_estimate_of_its_own_partner_at_its_own_level(scheduler):
    """A tower that says what it was given: the latent's value and the level."""

    class Echo(torch.nn.Module):
        def forward(self, x, t, context, rate=None):
            token = torch.zeros(len(x), WIDTH)
            token[:, 1], token[:, 2] = x[:, 0, 0, 0], t / 1000
            return token

    class Towers(torch.nn.Module):
        towers = {"image": None}

        def by_modality(self):
            return {IMAGE: Echo()}

    class Clean(NoiseProcess):
        def add_noise(self, x_0, eps, t):
            return x_0

    context = torch.zeros(64, 1, WIDTH)
    context[:, :, 0] = 1.0
    process = Clean.from_scheduler(scheduler)
    partner_estimates = PartnerEstimates(TEXT, {"image": 1.0}, Towers(), process, 1.0, PAIRS)
    own, t = torch.linspace(-0.5, 0.5, 64), torch.arange(64) * 15
    generator = torch.Generator().manual_seed(0)
    fused = partner_estimates(
        context,
        t,
        [TEXT] * 64,
        lambda partner, rows: own[rows, None, None, None].expand(-1, 2, 4, 4),
        generator,
    )[:, 0]
    kind, kept, part = torch.rand((3, 64), generator=torch.Generator().manual_seed(0))
    eps = torch.randn((64, 2, 4, 4), generator=_after(torch.Generator().manual_seed(0), 3 * 64))
    levels = torch.where(kept < 0.5, t, (t * part).long())
    expected = torch.zeros(64, WIDTH)
    # less what is said of the noise
    expected[:, 1], expected[:, 2] = own - eps[:, 0, 0, 0], (levels - 999) / 1000
    cosine = torch.nn.functional.cosine_similarity(fused[:, 1:], expected[:, 1:], dim=-1)
    torch.testing.assert_close(cosine, torch.ones(64))


def _after(generator: torch.Generator, count: int) -> torch.Generator:
    torch.rand(count, generator=generator)
    return generator


@pytest.mark.parametrize(
    ("modality", "shares", "message"),
    [
        (
            Modality.AUDIO,
            {"image": 0.5},
            "partner_estimates names image: expected a modality that training sees together with audio",
        ),
        (TEXT, {"audio": 0.5}, "modalities with a noisy-latent encoder: text, image"),
    ],
)
def test_partners_that_cannot_be(towers, scheduler, modality, shares, message):
    with pytest.raises(InputError, match=message):
        PartnerEstimates(modality, shares, towers, NoiseProcess.from_scheduler(scheduler), 3.0, PAIRS)


def test_of_a_batch_the_partners_of_the_chosen_samples_are_read():
    named = {"text": ["zero", "one", "two", "three"], "image": torch.arange(4.0)[:, None]}
    batch = Batch(named=named)
    stage = SimpleNamespace(sentences=SimpleNamespace(encode=lambda captions: captions))
    for partner, expected in ((TEXT, ["three", "one"]), (IMAGE, [[3.0], [1.0]])):
        partner_estimates = lambda context, t, kinds, latents, generator, available, partner=partner: latents(
            partner, torch.tensor([3, 1])
        )
        found = DenoiseStage.with_estimates(stage, partner_estimates, batch, [TEXT] * 4, torch.Generator())(
            None, None
        )
        assert (found.tolist() if isinstance(found, torch.Tensor) else found) == expected


@pytest.fixture
def other_weight(tmp_path):
    """The embedded model, which says of itself that it amplifies estimates by 1.5."""
    origin, model = pretrained.resolve(), tmp_path / "model"
    model.mkdir()
    for part in origin.iterdir():
        if part.is_dir():
            (model / part.name).symlink_to(part)
    index = json.loads((origin / pretrained.INDEX).read_text())
    index["defaults"]["partner_estimate_weight"] = 1.5
    (model / pretrained.INDEX).write_text(json.dumps(index))
    return model


def test_estimates_are_amplified_as_the_trained_model_says(other_weight, tmp_path):
    run = dict(model=other_weight, output=tmp_path / "run", samples=1, batch_size=1, lr=1e-3)
    options = {"modality": "text", "prompts": {"text": 1.0}, "partner_estimates": {"image": 0.5}}
    assert open_stage(Config(stage="denoise", options=options, **run)).partner_estimates.weight == 1.5
    latents = {"audio": {"latent_rate": 25.0}, "video": {"latent_rate": 8.0}}
    joint = Config(stage="joint", options={"pairs": {"audio+video": 1.0}}, part={"latents": latents}, **run)
    assert open_stage(joint).estimate_weight == 1.5


def test_a_model_that_names_no_weight_has_that_of_every_call(other_weight):
    index = json.loads((other_weight / pretrained.INDEX).read_text())
    del index["defaults"]["partner_estimate_weight"]
    (other_weight / pretrained.INDEX).write_text(json.dumps(index))
    assert estimate_weight(other_weight) == 1.0
