"""Foreign latents are read as tokens of the prompt space, and what they say is fused with foreign prompts."""

import importlib
import shutil
from pathlib import Path

import pytest
import torch

from codi import CoDiPipeline, cli
from codi.compose import folder as folders
from codi.compose.environment import describe_latent
from codi.compose.folder import text_source
from codi.compose.foreign import ForeignDenoiser, ForeignModel
from codi.compose.noisy_latent import ForeignNoisyLatentEncoders
from codi.compose.pipeline import ComposedPipeline
from codi.compose.prompt_translators import PromptTranslators, find_contexts
from codi.compose.references import Reference
from codi.joint.sampler import LEVEL_SCALE
from codi.types import InputError, Modality
from tests.compose import attending, tiny_foreign
from tests.compose.test_composed_pipeline import joint_parts, push

IMAGE, AUDIO = Modality.IMAGE, Modality.AUDIO
NAMES = {IMAGE: "sd15", AUDIO: "audioldm"}
STEPS = {"image": 3, "audio": 2}
SMALL = dict(dim=32, num_layers=1, num_heads=4)


def encoders_of(*names, context_dim=128, trained=False):
    latents = {}
    for name in names:
        prepared = attending.prepared(name)
        latents[attending.model(name).modality.value] = describe_latent(prepared.start, prepared.grid)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoders = ForeignNoisyLatentEncoders(latents, context_dim=context_dim, **SMALL).eval()
        if trained:
            with torch.no_grad():
                for name, parameter in encoders.named_parameters():
                    # tokens are of length one at most
                    parameter.add_((0.02 if ".out." in name else 0.2) * torch.randn(parameter.shape))
    return encoders


@pytest.fixture(scope="module")
def foreign() -> dict[Modality, ForeignModel]:
    return {modality: attending.model(name) for modality, name in NAMES.items()}


@pytest.fixture(scope="module")
def tiny():
    return CoDiPipeline.from_pretrained()


@pytest.fixture(scope="module")
def translators(foreign):
    contexts, masks, natives = {}, {}, {}
    for modality, model in foreign.items():
        natives[modality] = model.prepare(["a ball", "a blue star"], num_inference_steps=3).prompt
        contexts[modality.value], masks[modality.value] = find_contexts([natives[modality]])
    torch.manual_seed(0)
    made = PromptTranslators(128, contexts, masks, hidden=16, layers=1, rank=4).eval()
    for modality, native in natives.items():
        made.of(modality).measure(native)
    return made


def composed(foreign, tiny, translators, trained=True, **options):
    encoders = encoders_of(*NAMES.values(), trained=trained)
    parts = dict(text_model=tiny, translators=translators, noisy_latent_encoders=encoders)
    return ComposedPipeline(foreign, **{**parts, **options})


def made(pipe, **asked):
    call = dict(text="a red ball", outputs=list(NAMES), num_inference_steps=STEPS, seed=7, lengths="free")
    return pipe(**{**call, "output_type": "latent", **asked}).latents


# The networks -----------------------------------------------------------


@pytest.mark.parametrize("name", tiny_foreign.each())
def test_a_token_is_estimated_from_latents_of_any_layout(name):
    modality, grid = attending.model(name).modality, attending.prepared(name).grid
    start = attending.prepared(name).start
    x = torch.randn(start.shape, generator=torch.Generator().manual_seed(1))
    encoders = encoders_of(name, trained=True)
    encoder = encoders.at({modality: grid})[modality]
    context = torch.randn(2, 1, 128, generator=torch.Generator().manual_seed(2)) / 128**0.5
    t = torch.full((2,), 500.0)
    token = encoder(x, t, context)
    assert token.shape == (2, 128) and token.isfinite().all() and encoder.dtype is torch.float32
    for other in ((x + 1, t, context), (x, t + 400, context), (x, t, -context)):
        assert not torch.allclose(encoder(*other), token, atol=1e-5)
    torch.testing.assert_close(encoder(x.flip(0), t, context.flip(0)), token.flip(0))
    assert not encoders_of(name).at({modality: grid})[modality](x, t, context).any()  # untrained


def test_latents_of_another_model_are_refused():
    encoder = encoders_of("audioldm").at({AUDIO: attending.prepared("stable_audio").grid})[AUDIO]
    with pytest.raises(InputError, match="do not fit an encoder of 8 channels and 4 bands"):
        encoder(attending.prepared("stable_audio").start, torch.zeros(2), torch.zeros(2, 1, 128))


# In the joint loop ------------------------------------------------------


def test_an_untrained_estimate_changes_nothing_to_the_bit(foreign, tiny, translators):
    without = made(ComposedPipeline(foreign, text_model=tiny, translators=translators))
    silent = made(composed(foreign, tiny, translators, trained=False))
    off = made(composed(foreign, tiny, translators, defaults={"partner_estimate_weight": 0}))
    assert all(torch.equal(without[m], found[m]) for found in (silent, off) for m in NAMES)


def test_an_estimate_changes_what_the_partners_are_given(foreign, tiny, translators, monkeypatch):
    given = []
    kept = ForeignDenoiser.refit

    def refit(self, prompt, token, fused):
        found = kept(self, prompt, token, fused)
        given.append((self.model.modality, prompt, token, fused, found))
        return found

    monkeypatch.setattr(ForeignDenoiser, "refit", refit)
    pipe = composed(foreign, tiny, translators)
    without = made(ComposedPipeline(foreign, text_model=tiny, translators=translators))
    joint = made(pipe)
    assert all(not torch.equal(joint[m], without[m]) for m in NAMES)
    assert {modality for modality, *_ in given} == set(NAMES)
    read = tiny.text_tower.embed(["a red ball"])[:, None]
    changed = 0
    for _, prompt, token, fused, found in given:
        torch.testing.assert_close(token, read)
        torch.testing.assert_close(token.norm(dim=-1), fused.norm(dim=-1))
        same = all(torch.equal(value, found.tensors()[name]) for name, value in prompt.tensors().items())
        assert same == torch.equal(token, fused)
        changed += not same
    assert changed > 1
    # nobody beside it: as without estimates
    alone = {"outputs": [IMAGE], "num_inference_steps": 3}
    plain = ComposedPipeline(foreign, text_model=tiny, translators=translators)
    assert torch.equal(made(pipe, **alone)[IMAGE], made(plain, **alone)[IMAGE])


def test_a_larger_weight_counts_for_more(foreign, tiny, translators):
    plain = made(ComposedPipeline(foreign, text_model=tiny, translators=translators))
    moved = []
    for weight in (0.01, 0.3):
        pipe = composed(foreign, tiny, translators, defaults={"partner_estimate_weight": weight})
        moved.append(float((made(pipe)[AUDIO] - plain[AUDIO]).norm()))
    assert 0 < moved[0] < moved[1]


def test_noise_levels_and_not_timesteps_are_what_encoders_get(foreign, tiny, translators, monkeypatch):
    seen = []
    pipe = composed(foreign, tiny, translators)
    encoder = type(pipe.noisy_latent_encoders.by_modality()[IMAGE])
    kept = encoder.estimate

    def estimate(self, x, t, context, grid):
        seen.append((grid.layout, float(t[0])))
        return kept(self, x, t, context, grid)

    monkeypatch.setattr(encoder, "estimate", estimate)
    prepared = attending.prepared("sd15")
    made(pipe)
    told = [t for layout, t in seen if layout is prepared.grid.layout]
    scheduler = foreign[IMAGE].prepare(["a ball"], num_inference_steps=3).scheduler
    expected = float(foreign[IMAGE].levels.angle(scheduler.timesteps[0])) * LEVEL_SCALE
    assert expected in map(pytest.approx, told)  # of the noise that it started from
    assert all(0 < t < LEVEL_SCALE for t in told) and min(told) < expected


def test_a_clean_partner_is_estimated_as_well(foreign, tiny, translators):
    pipe = composed(foreign, tiny, translators)
    sounds = [attending.prepared("audioldm").start[:1] * scale for scale in (0.1, 0.9)]
    asked = {"outputs": [IMAGE], "num_inference_steps": 3}
    first, second = (made(pipe, partner_latents={AUDIO: sound}, **asked)[IMAGE] for sound in sounds)
    assert not torch.equal(first, second)


def test_every_output_is_estimated_from_the_sentence_that_it_has(foreign, tiny, translators):
    pipe = composed(foreign, tiny, translators)
    one = made(pipe)
    each = made(pipe, text={"image": "a red ball", "audio": "a red ball"})
    assert all(torch.equal(one[m], each[m]) for m in NAMES)
    prompt = pipe.encode_prompt({}, {AUDIO: pipe_prompts("a blue star")})
    torch.testing.assert_close(prompt.token_of(AUDIO), tiny.text_tower.embed(["a blue star"])[:, None])
    assert prompt.token_of(IMAGE) is None


def pipe_prompts(text):
    from codi.prompts import collect

    return collect({Modality.TEXT: text})[Modality.TEXT]


def test_a_prompt_that_nothing_reads_stays_as_it_is_whatever_batch_it_is_in(foreign, tiny, translators):
    pipe = composed(foreign, tiny, translators)
    unread = [pipe.encode_prompt({Modality.TEXT: pipe_prompts("xyzzy")})]
    assert unread[0].token is None
    plain = made(ComposedPipeline(foreign, text_model=tiny, translators=translators), text="xyzzy")
    with pytest.warns(UserWarning, match="reads nothing of a prompt for image"):
        alone = made(pipe, text=None, prompt_embeds=unread)
    assert all(torch.equal(alone[m], plain[m]) for m in NAMES)
    both = unread + [pipe.encode_prompt({Modality.TEXT: pipe_prompts("a red ball")})]
    beside = made(pipe, text=None, prompt_embeds=both, num_samples=2)
    for modality in NAMES:
        torch.testing.assert_close(beside[modality][:1], alone[modality], atol=1e-4, rtol=1e-4)


def test_without_translators_or_a_text_model_one_line_says_so(foreign, tiny, translators):
    encoders = encoders_of(*NAMES.values(), trained=True)
    plain = made(ComposedPipeline(foreign))
    for parts, lacking in (({"text_model": tiny}, "prompt translators"), ({}, "text model")):
        with pytest.warns(UserWarning, match=f"noisy-latent encoders and no {lacking}"):
            pipe = ComposedPipeline(foreign, noisy_latent_encoders=encoders, **parts)
        assert not pipe.estimates_from().get(IMAGE)
        assert all(torch.equal(made(pipe)[m], plain[m]) for m in NAMES)


def test_encoders_of_another_prompt_space_are_refused(foreign, tiny, translators):
    encoders = encoders_of(*NAMES.values(), context_dim=64)
    with pytest.raises(
        InputError, match="read prompt tokens of 64 numbers, and those of the text model have 128"
    ):
        composed(foreign, tiny, translators, noisy_latent_encoders=encoders)


# The folder -------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory, translators):
    place = tmp_path_factory.mktemp("composed") / "my-codi"
    references = [
        Reference.read(m.value, tiny_foreign.folder(name), tiny_foreign.SIZES[name])
        for m, name in NAMES.items()
    ]
    parts = {
        "noisy_latent_encoders": encoders_of(*NAMES.values(), trained=True),
        "prompt_translators": translators,
    }
    defaults = {"partner_estimate_weight": 2.0}
    folders.write(place, references, text_source("codi-tiny"), defaults=defaults, parts=parts)
    return place


def test_a_folder_brings_the_encoders_and_their_weight_back(saved, foreign, tiny, translators):
    loaded = CoDiPipeline.from_pretrained(saved)
    assert isinstance(loaded.noisy_latent_encoders, ForeignNoisyLatentEncoders)
    assert loaded.estimate_weight == 2.0 and loaded.estimates_from()[IMAGE] == {AUDIO}
    pipe = composed(foreign, tiny, translators, defaults={"partner_estimate_weight": 2.0})
    found, expected = made(loaded), made(pipe)
    for modality in NAMES:
        torch.testing.assert_close(found[modality], expected[modality], atol=1e-3, rtol=1e-3)


def test_info_says_whose_estimates_reach_whom(saved, capsys):
    assert cli.main(["info", str(saved)]) == 0
    said = capsys.readouterr().out
    assert "noisy_latent_encoders: ForeignNoisyLatentEncoders" in said
    assert "its prompt is fused with partner estimates of audio" in said
    assert "its prompt is fused with partner estimates of image" in said and "silent" not in said


def test_info_does_not_promise_estimates_that_reach_nothing(saved, tmp_path, capsys):
    composed_model = folders.read(saved)
    references = composed_model.references.values()
    parts = {"noisy_latent_encoders": encoders_of(*NAMES.values())}
    folders.write(tmp_path / "bare", references, text_source("codi-tiny"), parts=parts)
    assert cli.main(["info", str(tmp_path / "bare")]) == 0
    said = capsys.readouterr().out
    assert "partner estimates" not in said and said.count("silent: not trained") == 2


# Measuring --------------------------------------------------------------


@pytest.fixture(scope="module")
def measure():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[2] / "examples" / "compose_world"))
        yield importlib.import_module("measure")


def test_parts_are_measured_alone_and_together(saved, foreign, tmp_path, measure):
    everything = tmp_path / "everything"
    shutil.copytree(saved, everything)
    environments, adapters = joint_parts(foreign)
    push(adapters)
    folders.add_parts(everything, {"environment_encoders": environments, "joint_adapters": adapters})
    bench = measure.Bench(str(everything), 1, 2, 1, 1.0, 0.0)
    pipe = bench.pipe
    parts = {name: getattr(pipe, name) for names in measure.PARTS.values() for name in names}

    def images(**options):
        return torch.stack(bench.make(["a red ball"], list(NAMES), **options)[IMAGE])

    found = {"both": images(), "nothing": images(joint=False)}
    assert parts == {name: getattr(pipe, name) for name in parts}  # put back
    for way, others in (("attention", "estimates"), ("estimates", "attention")):
        measure.check_parts(pipe, way)
        bench._take_off([others])
        found[way] = images()
        assert torch.equal(images(joint=False), found["nothing"])
        for name, part in parts.items():
            setattr(pipe, name, part)
    names = sorted(found)
    for k, first in enumerate(names):
        assert all(not torch.equal(found[first], found[second]) for second in names[k + 1 :])


@pytest.mark.parametrize("parts", ["attention", "both"])
def test_a_part_that_is_not_there_cannot_be_measured(saved, measure, capsys, parts):
    with pytest.raises(SystemExit) as stopped:
        measure.main([str(saved), "--parts", parts, "--scenes", "1"])
    assert stopped.value.code == 2 and "the model has no joint_adapters" in capsys.readouterr().err
