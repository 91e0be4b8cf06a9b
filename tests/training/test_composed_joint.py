"""Adapters and encoders of published models learn, and nothing of the published models changes."""

import json
from pathlib import Path

import pytest
import torch

from codi.compose.environment import ForeignEnvironmentEncoders
from codi.compose.folder import read, write
from codi.compose.joint_adapters import ForeignJointAdapters
from codi.compose.references import Reference
from codi.diffusion.losses import denoising_loss
from codi.types import InputError, Modality
from data.cache import CachedSource, build_cache
from data.world import WorldSource
from tests.compose import tiny_foreign
from tests.training.media import make_media
from training.config import load_config
from training.main import main
from training.stages import find_stage, open_stage
from training.stages.composed_joint import spread_angles
from training.stages.foreign import NativePrompts, foreign_model, opened
from training.stages.latents import Joined

CONFIG = Path(__file__).parents[2] / "configs" / "compose" / "joint_audio_video.yaml"
SMALL = (
    "part.environment_encoders.dim=32",
    "part.joint_adapters.width=32",
    "part.joint_adapters.num_heads=4",
    "part.joint_adapters.hidden=32",
    "num_threads=1",
    "device=cpu",
)


STEPS = ("batch_size=2", "checkpoint_every=2", "lr_schedule=constant")


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    tiny_foreign.use(tmp_path_factory.mktemp("tiny"))
    return {"video": tiny_foreign.folder("animatediff"), "audio": tiny_foreign.folder("audioldm")}


def overrides(place, sources, *more):
    named = [f"options.sources.{name}={folder}" for name, folder in sources.items()]
    return [*named, f"model={place / 'model'}", *SMALL, *more]


def run(place, sources, *more, output="run"):
    arguments = ["--config", str(CONFIG), "--small", "--set", f"output={place / output}"]
    for override in overrides(place, sources, *more):
        arguments += ["--set", override]
    return main(arguments)


@pytest.fixture(scope="module")
def stage(sources, tmp_path_factory):
    """A stage with its module, whose adapters are not zero any more."""
    place = tmp_path_factory.mktemp("stage")
    found = overrides(place, sources, "options.contrast=0.1")
    own = open_stage(load_config(CONFIG, small=True, overrides=found))
    torch.manual_seed(0)
    module = own.build()
    own.to(torch.device("cpu"))
    with torch.no_grad():
        for parameter in module.joint_adapters.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return own, module


def batch_of(own, count=4):
    return own.data().fetch(list(range(count)))


def digests(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*.safetensors"))}


def test_a_run_exports_what_it_trained_and_nothing_else_and_resumes_exactly(tmp_path, sources):
    before = {name: digests(folder) for name, folder in sources.items()}
    assert run(tmp_path, sources, "samples=4", *STEPS) == 0
    assert before == {name: digests(folder) for name, folder in sources.items()}
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == [
        "environment_encoders",
        "joint_adapters",
    ]
    adapters = ForeignJointAdapters.from_pretrained(tmp_path / "model" / "joint_adapters")
    encoders = ForeignEnvironmentEncoders.from_pretrained(tmp_path / "model" / "environment_encoders")
    assert adapters.modalities() == set(encoders.by_modality()) == {Modality.AUDIO, Modality.VIDEO}
    assert encoders.attends_to()[Modality.AUDIO] == {Modality.VIDEO}
    assert any(p.abs().sum() for name, p in adapters.named_parameters() if name.endswith("out.weight"))
    timing = json.loads(next((tmp_path / "run" / "previews").rglob("timing.json")).read_text())
    assert timing.keys() == {"audio from video", "video from audio"}

    once = digests(tmp_path / "model")
    for samples in (2, 4):  # the same in two goes
        assert run(tmp_path, sources, f"samples={samples}", *STEPS, output="again") == 0
    assert digests(tmp_path / "model") == once


def test_gradients_reach_all_that_trains_and_nothing_else(stage):
    own, module = stage
    module.zero_grad()
    loss, said = own.loss(module, batch_of(own, 3), torch.Generator().manual_seed(0))
    assert {"audio+video/audio", "audio+video/video", "audio+video/contrast"} <= said.keys()
    loss.backward()
    lacking = [name for name, p in module.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not lacking
    assert all(not p.requires_grad for model in own.models.values() for p in model.network.parameters())


def test_the_loss_is_the_networks_own_target_at_a_common_noise_level(stage):
    own, module = stage
    clean = [batch_of(own)["audio+video"][m] for m in ("audio", "video")]
    pair = (Modality.AUDIO, Modality.VIDEO)
    audio, video = own.draw_sides(pair, clean, torch.Generator().manual_seed(1))
    for side in (audio, video):
        levels = own.models[side.modality].levels
        assert (levels.angle(side.t) - side.angle).abs().max() < 2e-2
    rows = torch.tensor([0, 2])
    env = own.environment_of(module, video, rows)
    x_t = own.models[Modality.AUDIO].levels.add_noise(audio.x_0, audio.eps, audio.t)[rows]
    prompt = opened(own.models[Modality.AUDIO], ["a red ball", ""]).prompt
    with torch.no_grad():
        answer = own.denoisers[Modality.AUDIO](x_t, audio.t[rows], prompt, partners=env)
        alone = own.denoisers[Modality.AUDIO](x_t, audio.t[rows], prompt)
        found = own.denoising_loss(audio, rows, ["a red ball", ""], env)
    torch.testing.assert_close(found, denoising_loss(answer, audio.eps[rows]))  # AudioLDM predicts epsilon
    assert not torch.allclose(answer, alone)


def test_a_clean_side_is_shown_clean_and_as_clean(stage):
    own, module = stage
    clean = [batch_of(own)["audio+video"][m][:8] for m in ("audio", "video")]
    pair = (Modality.AUDIO, Modality.VIDEO)
    for seed in range(20):
        _, video = own.draw_sides(pair, clean, torch.Generator().manual_seed(seed))
        if video.clean.any() and not video.clean.all():
            break
    rows = torch.arange(8)
    env = own.environment_of(module, video, rows)
    plain = own.environment(module, Modality.VIDEO, video.x_0, torch.zeros(8))
    same = (env.tokens - plain.tokens).abs().amax((1, 2)) < 1e-5
    assert torch.equal(same, video.clean)


def test_levels_are_spread_and_shifted():
    angles = spread_angles(100, torch.Generator().manual_seed(0))
    assert torch.equal((angles.sort().values * 100).long(), torch.arange(100))
    assert spread_angles(1000, torch.Generator().manual_seed(0), shift=4.0).mean() > 0.7


def test_kept_prompts_are_those_that_the_pipeline_makes(sources):
    model = foreign_model(sources["video"], {})
    prompts = NativePrompts(model, kept=2)
    for texts in (["a red ball", "", "a red ball"], ["a blue star", "a red ball", ""]):
        found, want = prompts(texts), opened(model, texts).prompt
        assert len(found) == 3
        for ours, theirs, mine in zip(found.leaves, want.leaves, found.by_sample, strict=True):
            assert not mine or torch.allclose(ours, theirs, atol=1e-6)
        assert len(prompts.rows) == 2


def test_scenes_of_another_size_are_refused(tmp_path, sources):
    found = overrides(tmp_path, sources, "options.calls.video.height=32")
    own = open_stage(load_config(CONFIG, small=True, overrides=found))
    own.build()
    own.to(torch.device("cpu"))
    with pytest.raises(InputError, match=r"makes video of .* and scenes of the world are \(16, 3, 64, 64\)"):
        own.data()


def test_a_source_of_another_kind_is_refused(tmp_path, sources):
    found = overrides(tmp_path, {**sources, "audio": sources["video"]})
    with pytest.raises(InputError, match="makes video: expected audio"):
        open_stage(load_config(CONFIG, small=True, overrides=found))


def test_a_composed_model_says_its_sources_and_lists_what_was_trained(tmp_path, sources):
    calls = {
        "video": dict(num_frames=16, height=64, width=64, fps=8),
        "audio": dict(audio_length_in_s=2.0),
    }
    references = [Reference.read(m, folder, calls[m]) for m, folder in sources.items()]
    write(tmp_path / "model", references)
    settings = [
        "options.sources={}",
        "samples=2",
        *STEPS,
        f"model={tmp_path / 'model'}",
        f"output={tmp_path / 'run'}",
        *SMALL,
    ]
    arguments = ["--config", str(CONFIG), "--small"]
    for setting in settings:
        arguments += ["--set", setting]
    assert main(arguments) == 0
    composed = read(tmp_path / "model")
    assert set(composed.parts) == {"environment_encoders", "joint_adapters"}

    from codi import CoDiPipeline

    pipe = CoDiPipeline.from_pretrained(tmp_path / "model")
    out = pipe(text="a red ball", outputs=["audio", "video"], seed=0, num_inference_steps=2)
    assert out.audios and out.videos


def test_a_plan_needs_no_weights(tmp_path, sources, capsys):
    bare = tiny_foreign.without_weights(sources, tmp_path)
    arguments = ["--config", str(CONFIG), "--dry-run"]
    for override in overrides(tmp_path, bare):
        arguments += ["--set", override]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "GFLOP forward per sample" in said and "0 frozen beside it" not in said


def test_caches_of_different_scenes_are_no_pair(tmp_path):
    caches = []
    for number, seed in enumerate((0, 1)):
        scenes = WorldSource(["audio"], seed=seed)
        folder = tmp_path / str(number)
        build_cache(folder, scenes, lambda batch: {"audio": batch["audio"][:, :4]}, 4, identity={})
        caches.append(CachedSource(folder, ["audio"], seed=0))
    assert len(Joined([caches[0], caches[0]]).fetch([0, 1]).scenes) == 2
    with pytest.raises(InputError, match="hold different scenes"):
        Joined(caches).fetch([0, 1])


def test_media_files_train_the_same_stage(tmp_path, sources):
    make_media(tmp_path / "media", 2)
    rows = []
    for number in range(2):
        name = f"scene-{number}"
        captions = (tmp_path / "media" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
        rows.append({"id": name, "video": f"{name}.mp4", "audio": f"{name}.wav", "captions": captions})
    manifest = tmp_path / "media" / "train.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = overrides(tmp_path, sources, f"data.manifests=[{manifest}]", f"output={tmp_path / 'run'}")
    own = open_stage(load_config(CONFIG, small=True, overrides=found))
    module = own.build()
    own.to(torch.device("cpu"))
    source = own.data()
    batch = source.fetch([0, 1])
    source.close()
    part = batch["audio+video"]
    assert part["audio"].shape[1:] == own.prepared[Modality.AUDIO].start.shape[1:]
    assert own.sentences(part, torch.Generator().manual_seed(0))[0] in {
        c for row in rows for c in row["captions"]
    }
    loss, _ = own.loss(module, batch, torch.Generator().manual_seed(0))
    assert loss.isfinite()


@pytest.mark.parametrize("path", sorted(CONFIG.parent.glob("joint*.yaml")), ids=lambda path: path.stem)
def test_configurations_are_read(path):
    config = load_config(path)
    assert find_stage(config.stage)(config).pairs
