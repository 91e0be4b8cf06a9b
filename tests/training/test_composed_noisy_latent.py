"""Noisy-latent encoders of published models learn, and nothing of the published models changes."""

import json
from pathlib import Path

import pytest
import torch

from codi import CoDiPipeline
from codi.compose.folder import read, text_source, write
from codi.compose.noisy_latent import ForeignNoisyLatentEncoder, ForeignNoisyLatentEncoders
from codi.compose.references import Reference
from codi.joint.sampler import LEVEL_SCALE
from codi.types import InputError, Modality
from codi.world import parse
from data.batch import Batch
from tests.compose import tiny_foreign
from tests.training.media import make_media
from training import cache
from training.config import load_config
from training.main import main
from training.stages import open_stage
from training.stages.noisy_latent import known_share

CONFIG = Path(__file__).parents[2] / "configs" / "compose" / "noisy_latent_encoders.yaml"
IMAGE, AUDIO = Modality.IMAGE, Modality.AUDIO
CALLS = {"image": {"height": 64, "width": 64}, "audio": {"audio_length_in_s": 2.0}}
SMALL = ("part.noisy_latent_encoders.dim=32", "num_threads=1", "device=cpu")
STEPS = ("batch_size=2", "checkpoint_every=2", "lr_schedule=constant")


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    tiny_foreign.use(tmp_path_factory.mktemp("tiny"))
    return {"image": tiny_foreign.folder("sd15"), "audio": tiny_foreign.folder("audioldm")}


def overrides(place, sources, *more):
    named = [f"options.sources.{name}={folder}" for name, folder in sources.items()]
    calls = [f"options.calls.{name}={json.dumps(CALLS[name])}" for name in sources]
    return [*named, *calls, f"model={place / 'model'}", *SMALL, *more]


def run(place, sources, *more, output="run"):
    arguments = ["--config", str(CONFIG), "--small", "--set", f"output={place / output}"]
    for override in overrides(place, sources, *more):
        arguments += ["--set", override]
    return main(arguments)


def stage_of(place, sources, *more):
    own = open_stage(load_config(CONFIG, small=True, overrides=overrides(place, sources, *more)))
    torch.manual_seed(0)
    module = own.build()
    own.to(torch.device("cpu"))
    return own, module


@pytest.fixture(scope="module")
def stage(sources, tmp_path_factory):
    return stage_of(tmp_path_factory.mktemp("stage"), sources)


def digests(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*.safetensors"))}


def test_a_run_exports_what_it_trained_and_nothing_else_and_resumes_exactly(tmp_path, sources):
    before = {name: digests(folder) for name, folder in sources.items()}
    assert run(tmp_path, sources, "samples=4", "preview_every=4", *STEPS) == 0
    assert before == {name: digests(folder) for name, folder in sources.items()}
    assert [p.name for p in (tmp_path / "model").iterdir()] == ["noisy_latent_encoders"]
    encoders = ForeignNoisyLatentEncoders.from_pretrained(tmp_path / "model" / "noisy_latent_encoders")
    assert set(encoders.by_modality()) == {IMAGE, AUDIO} and encoders.config["context_dim"] == 128
    assert all(encoder.out.weight.any() for encoder in encoders.by_modality().values())
    assert list((tmp_path / "run" / "previews").rglob("known.png"))

    once = digests(tmp_path / "model")
    for samples in (2, 4):  # the same in two goes
        assert run(tmp_path, sources, f"samples={samples}", *STEPS, output="again") == 0
    assert digests(tmp_path / "model") == once


def test_gradients_reach_all_that_trains_and_nothing_else(stage):
    own, module = stage
    with torch.no_grad():
        for encoder in module.by_modality().values():  # else no gradient passes the zeros
            encoder.out.weight.add_(0.02 * torch.randn_like(encoder.out.weight))
    module.zero_grad()
    loss, said = own.loss(module, own.data().fetch([0, 1, 2]), torch.Generator().manual_seed(0))
    assert {"image", "audio", "bins"} == said.keys() and len(said["bins"][0]) == 6
    loss.backward()
    lacking = [name for name, p in module.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not lacking
    assert all(
        not p.requires_grad for model in own.published.models.values() for p in model.network.parameters()
    )
    assert all(not p.requires_grad for p in own.text.parameters())


def test_encoders_are_asked_as_sampling_asks_them(stage, monkeypatch):
    """A latent has the noise that its schedule gives it at the level that the encoder is told."""
    own, module = stage
    asked = {}

    def estimate(self, x, t, context, grid):
        asked.update(x=x, t=t, grid=grid)
        return torch.zeros(len(x), 128)

    monkeypatch.setattr(ForeignNoisyLatentEncoder, "estimate", estimate)
    x_0 = own.data().fetch([0, 1])["audio"]["audio"]
    angle = torch.tensor([0.3, 0.9])
    own.estimate(module, AUDIO, x_0, angle, torch.zeros(2, 1, 128), torch.Generator().manual_seed(3))
    eps = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(3))
    levels = own.published.models[AUDIO].levels
    torch.testing.assert_close(asked["x"], levels.add_noise(x_0, eps, levels.timestep(angle)))
    torch.testing.assert_close(asked["t"], angle * LEVEL_SCALE, atol=2.0, rtol=0)
    assert torch.equal(levels.angle(levels.timestep(angle)) * LEVEL_SCALE, asked["t"])
    assert asked["grid"] is own.published.prepared[AUDIO].grid


def test_the_target_is_the_token_of_the_whole_caption(stage):
    own, _ = stage
    batch = own.data().fetch([0, 1, 2])["image"]
    assert all(None not in parse(words).values() for words in batch.captions())
    torch.testing.assert_close(own.tokens(batch), own.text.embed(batch.captions()))


def test_it_learns_what_latents_show(stage, monkeypatch):
    """Two scenes whose latents differ: clean ones tell which it is, noise tells nothing."""
    own, _ = stage
    monkeypatch.setattr(own, "modalities", [AUDIO])
    monkeypatch.setattr(own.prompts, "dropout", 1.0)  # else much is known from the prompts
    first, second = own.data().fetch([0, 1])["audio"].scenes
    sign = torch.tensor([1.0] * 8 + [-1.0] * 8).view(-1, 1, 1, 1)
    shape = own.published.prepared[AUDIO].start.shape[1:]
    part = Batch(named={"audio": sign.expand(-1, *shape)}, scenes=[first] * 8 + [second] * 8)
    torch.manual_seed(0)
    module = own.build()
    optimizer = torch.optim.Adam(module.parameters(), 3e-3)
    for step in range(40):
        loss, _ = own.loss(module, {"audio": part}, torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    nothing, generator = torch.zeros(16, 1, 128), torch.Generator().manual_seed(1)
    with torch.no_grad():
        clean, noise = (
            own.estimate(module, AUDIO, part["audio"], torch.full((16,), level), nothing, generator)
            for level in (0.05, 1.0)
        )
    token = own.tokens(part)
    assert known_share(clean, token) > 0.7 and known_share(noise, token) < 0.3
    assert noise.norm(dim=-1).mean() < clean.norm(dim=-1).mean()  # the shorter the less certain


def test_a_plan_needs_no_weights(tmp_path, sources, capsys):
    bare = tiny_foreign.without_weights(sources, tmp_path)
    arguments = ["--config", str(CONFIG), "--dry-run"]
    for override in overrides(tmp_path, bare):
        arguments += ["--set", override]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "GFLOP forward per sample" in said and "noisy_latent_encoders" in said.splitlines()[-1]


def manifest_of(place):
    """Two rows of files: one has a picture, the other a sound."""
    make_media(place, 2)
    rows = []
    for number, (name, ending) in enumerate((("image", "png"), ("audio", "wav"))):
        captions = (place / f"scene-{number}.txt").read_text(encoding="utf-8").splitlines()
        rows.append({"id": f"scene-{number}", name: f"scene-{number}.{ending}", "captions": captions})
    manifest = place / "train.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return manifest, rows


def test_media_files_train_the_same_stage_from_files_and_from_a_cache(tmp_path, sources):
    manifest, rows = manifest_of(tmp_path / "media")
    data = f"data.manifests=[{manifest}]"
    own, module = stage_of(tmp_path, sources, data)
    batches = []
    for cached in (False, True):
        if cached:
            arguments = ["--config", str(CONFIG), "--small"]
            for override in overrides(tmp_path, sources, data):
                arguments += ["--set", override]
            assert cache.main(arguments) == 0
        source = own.data()
        batches.append(source.fetch([0]))
        source.close()
    for batch in batches:
        for number, name in enumerate(("image", "audio")):
            part, captions = batch[name], rows[number]["captions"]
            assert torch.equal(part[name], batches[0][name][name])
            assert part["text"][0] in captions
            # what prompts is the other caption of the row
            assert own.prompting(part)["text"][0] == next(c for c in captions if c != part["text"][0])
        loss, _ = own.loss(module, batch, torch.Generator().manual_seed(0))
        assert loss.isfinite()


@pytest.fixture
def composed(tmp_path, sources):
    folder = tmp_path / "composed"
    references = [Reference.read(name, place, CALLS[name]) for name, place in sources.items()]
    write(folder, references, text_source("codi-tiny"), defaults={"partner_estimate_weight": 3.0})
    return folder


def test_a_composed_model_says_its_sources_and_lists_what_was_trained(tmp_path, composed):
    settings = ["samples=2", *STEPS, f"model={composed}", f"output={tmp_path / 'run'}", *SMALL]
    arguments = ["--config", str(CONFIG), "--small"]
    for setting in settings:
        arguments += ["--set", setting]
    assert main(arguments) == 0
    assert set(read(composed).parts) == {"noisy_latent_encoders"}
    with pytest.warns(UserWarning, match="noisy-latent encoders and no prompt translators"):
        pipe = CoDiPipeline.from_pretrained(composed)
    assert set(pipe.noisy_latent_encoders.by_modality()) == {IMAGE, AUDIO} and pipe.estimate_weight == 3.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["part.noisy_latent_encoders.context_dim=64"], "context_dim is 64: expected 128"),
        (
            ["part.noisy_latent_encoders.latents.video.dim=8"],
            "latents is .*'video'.*: expected some of image, audio",
        ),
        (["options.timestep_shift.image=0"], "timestep_shift is .*: expected numbers above 0"),
        (["options.prompt_dropout=2"], "prompt_dropout is 2.0: expected a share"),
        (["options.modalities=[video]"], "sources is .*: expected a folder for video too"),
        (["options.continue_from=true"], "noisy_latent_encoders is missing: train without continue_from"),
    ],
)
def test_mistakes_are_named(tmp_path, sources, changes, message):
    with pytest.raises(InputError, match=message):
        stage_of(tmp_path, sources, *changes)


def test_without_sources_the_model_has_to_be_a_composed_one(tmp_path):
    with pytest.raises(InputError, match="pipelines by modality, or a composed model in"):
        open_stage(load_config(CONFIG, overrides=[f"model={tmp_path}"]))


def test_another_text_model_than_the_composed_models_is_refused(tmp_path, composed):
    copy = tmp_path / "other"
    CoDiPipeline.from_pretrained().save_pretrained(copy)
    found = [f"model={composed}", f"options.text={copy}", *SMALL]
    with pytest.raises(InputError, match="has its words from codi-tiny: leave it out"):
        open_stage(load_config(CONFIG, small=True, overrides=found))
