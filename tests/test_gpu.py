"""On a GPU as on a CPU: same seeds, same facts, every precision, attention backend and way to save memory;
and training there.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from diffusers.models.attention_dispatch import attention_backend

from codi import CoDiPipeline
from codi.cli import main
from codi.models.codi import DENOISERS
from codi.outputs import FIELDS
from codi.pretrained import resolve
from codi.types import Modality
from codi.world import READERS, RENDERERS, caption, parse, sample_scenes
from tests.convert.small import quiet
from tests.tiny_pipeline import pipeline

if not torch.cuda.is_available():
    pytest.skip("needs a GPU: torch finds none here", allow_module_level=True)

CAPTION, EVERYTHING = "a red ball bounces slowly at night", list(Modality)
NOISE = dict(
    text=["a red ball"],
    outputs=EVERYTHING,
    num_inference_steps=4,
    num_samples=2,
    seed=0,
    output_type="latent",
)


@pytest.fixture(autouse=True)
def full_precision(monkeypatch):
    """Convolutions in float32, not in TF32, which torch takes unasked: a CPU has none."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def facts(out, k: int = 0) -> dict[str, dict[str, str]]:
    """What a sample shows, as the world's probes read it."""
    texts, rest = {"text": parse(out.texts[k])}, [m for m in Modality if m is not Modality.TEXT]
    return texts | {m.value: READERS[m](torch.stack(getattr(out, FIELDS[m])))[k].facts for m in rest}


def asked(found: dict[str, dict[str, str]]) -> int:
    """How many facts of all outputs are those of the caption."""
    return sum(facts.get(name) == value for facts in found.values() for name, value in parse(CAPTION).items())


@pytest.fixture(scope="module")
def drawn():
    """A pipeline that says a lot and means nothing, on either device."""
    return {device: quiet(pipeline().to(device)) for device in ("cpu", "cuda")}


@pytest.fixture(scope="module")
def there():
    return quiet(CoDiPipeline.from_pretrained().to("cuda"))


def latents(pipe: CoDiPipeline, **options) -> dict[Modality, torch.Tensor]:
    return {m: z.float().cpu() for m, z in pipe(**NOISE | options).latents.items()}


def close(made: dict, expected: dict, tolerance: float) -> None:
    for modality, latent in expected.items():
        off = (made[modality] - latent).norm() / latent.norm()
        assert off < tolerance, f"{modality}: {off:.1e}"


def test_latents_are_those_of_the_cpu(drawn):
    close(latents(drawn["cuda"]), latents(drawn["cpu"]), 1e-2)


def test_a_sample_is_the_same_alone(drawn):
    both, alone = latents(drawn["cuda"], seed=[4, 5]), latents(drawn["cuda"], seed=[5], num_samples=1)
    close(alone, {m: z[1:] for m, z in both.items()}, 1e-2)


def test_nobody_hears_before_training_to_the_bit(drawn):
    """Zero-initialised adapters: joint is independent, here too. Without guidance, whose branches are batched
    as they hear: on a GPU a batch of another size may be rounded in another way.
    """
    joint, apart = quiet(pipeline().to("cuda")), quiet(pipeline().to("cuda"))
    for pipe in (joint, apart):
        for name in DENOISERS.values():
            for key, parameter in getattr(pipe, name).named_parameters():
                if ".joint.to_out." in key:
                    parameter.data.zero_()
    apart.register_modules(environment_encoders=None, noisy_latent_encoders=None)
    joint.register_modules(noisy_latent_encoders=None)
    made, expected = (latents(pipe, guidance_scale=1.0, sync_guidance_scale=1.0) for pipe in (joint, apart))
    assert all(torch.equal(made[m], expected[m]) for m in expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_caption_becomes_everything_in_every_precision(dtype):
    pipe = quiet(CoDiPipeline.from_pretrained(dtype=dtype).to("cuda"))
    out = pipe(text=CAPTION, outputs=EVERYTHING, num_samples=4, seed=0, output_type="pt")
    # red balls were never heard in training: the pitch is another's
    assert sum(asked(facts(out, k)) for k in range(4)) >= 0.85 * 4 * 18


def test_it_shows_what_it_shows_on_a_cpu(there):
    """Each seed is one sample on every device."""
    made = there(text=CAPTION, outputs=EVERYTHING, num_samples=2, seed=3, output_type="pt")
    expected = quiet(CoDiPipeline.from_pretrained())(
        text=CAPTION, outputs=EVERYTHING, num_samples=2, seed=3, output_type="pt"
    )
    assert made.texts == expected.texts and made.seeds == expected.seeds
    for k in range(2):
        assert facts(made, k) == facts(expected, k)
    off = (torch.stack(made.images).float().cpu() - torch.stack(expected.images).float()).abs().mean()
    assert off < 3, f"pictures differ by {off:.2f} of 255"


@pytest.mark.parametrize(
    "backend", ["native", "_native_flash", "_native_efficient", "_native_math", "_native_cudnn"]
)
def test_attention_backends(drawn, backend):
    """In 16 bits, which some of them need; those that take no mask are told so by torch, in one line."""
    pipe = quiet(pipeline().to("cuda", torch.bfloat16))
    expected = latents(drawn["cuda"])
    try:
        with attention_backend(backend):
            made = latents(pipe)
    except (RuntimeError, ValueError) as error:
        pytest.skip(f"{backend}: {str(error).splitlines()[0]}")
    close(made, expected, 0.1)


def test_one_part_at_a_time(drawn):
    expected = latents(drawn["cuda"])
    torch.cuda.empty_cache()
    pipe = quiet(pipeline())
    pipe.enable_model_cpu_offload()
    close(latents(pipe), expected, 1e-2)
    assert all(p.device.type == "cpu" for p in pipe.text_tower.parameters())


def test_layers_in_groups(drawn):
    pipe = quiet(pipeline())
    pipe.enable_group_offload(onload_device=torch.device("cuda"), offload_type="leaf_level", use_stream=False)
    close(latents(pipe), latents(drawn["cuda"]), 1e-2)


def test_compiled_blocks(drawn):
    pipe = quiet(pipeline().to("cuda"))
    pipe.vision_denoiser.compile_repeated_blocks()
    close(latents(pipe), latents(drawn["cuda"]), 1e-2)


def test_a_clip_gets_its_sound_and_candidates_are_judged(there):
    clip = RENDERERS[Modality.VIDEO](sample_scenes(1, 41))[0]
    out = there(video=clip, outputs="audio", seed=0, candidates=3, output_type="pt")
    assert out.audios[0].isfinite().all() and len(out.selection[0]["scores"]) == 3


def test_prompts_of_every_kind_negatives_and_a_callback(there):
    (scene,) = sample_scenes(1, 42)
    given = {"text": caption(scene)} | {m.value: RENDERERS[m]([scene])[0] for m in RENDERERS}
    seen = []

    def look(pipe, step, timestep, tensors):
        seen.append(timestep.device.type if isinstance(timestep, torch.Tensor) else timestep)
        return {"latents": tensors["latents"]}

    out = there(
        **given, outputs=["image", "text"], negative_text="a blue box", seed=0, callback_on_step_end=look
    )
    assert out.images[0].size == (64, 64) and out.texts[0] and set(seen) == {"cuda"}


def test_commands(tmp_path, capsys):
    assert (
        main(
            [
                "generate",
                "--text",
                CAPTION,
                "--to",
                "text,image",
                "--dtype",
                "bfloat16",
                "--device",
                "cuda",
                "-o",
                str(tmp_path),
            ]
        )
        == 0
    )
    assert (tmp_path / "000.png").exists() and json.loads((tmp_path / "manifest.json").read_text())
    capsys.readouterr()
    assert main(["doctor"]) in (0, 1, 2)
    assert torch.cuda.get_device_name(0) in capsys.readouterr().out


def train(folder: Path, stage: str, *settings: str) -> int:
    from training.main import main

    words = [f"model={folder}/model", f"output={folder}/run-{stage}", "device=cuda", *settings]
    return main(
        ["--config", f"configs/world/{stage}.yaml", "--small", *(w for s in words for w in ("--set", s))]
    )


@pytest.fixture
def model(tmp_path):
    AcceleratorState._reset_state(reset_partial_state=True)  # accelerate keeps one precision to a process
    shutil.copytree(resolve(None), tmp_path / "model")
    return tmp_path


STAGES = [
    "autoencoder_image",
    "autoencoder_audio",
    "autoencoder_text",
    "align_image",
    "align_audio",
    "align_video",
    "denoise_image",
    "denoise_video",
    "denoise_audio",
    "denoise_text",
    "noisy_latent_encoders",
    "temporal_change",
    "joint_audio",
    "joint_video",
    "lora_image",
]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_every_stage_trains(model, stage, precision):
    assert train(model, stage, f"precision={precision}") == 0
    lines = [json.loads(line) for line in (model / f"run-{stage}" / "log.jsonl").read_text().splitlines()]
    losses = [
        value for line in lines for name, value in line.items() if "loss" in name and isinstance(value, float)
    ]
    assert losses and all(0 <= abs(value) < 1e4 for value in losses)


@pytest.mark.parametrize(
    "settings", [["precision=fp16"], ["gradient_checkpointing=true"], ["compile=true"]], ids=lambda s: s[0]
)
def test_a_stage_trains_with(model, settings):
    assert train(model, "denoise_image", *settings) == 0


def test_a_run_resumes(model):
    """Cut in two, it ends near where one run ends: sums on a GPU are taken in no fixed order."""
    from safetensors.torch import load_file

    whole = ["samples=64", "batch_size=16", "checkpoint_every=32", "output={}/whole"]
    weights = []
    for name, ends in (("whole", ["64"]), ("halves", ["32", "64"])):
        shutil.copytree(model / "model", model / f"model-{name}")
        for end in ends:
            settings = [s.format(model).replace("whole", name) for s in whole if not s.startswith("samples")]
            AcceleratorState._reset_state(reset_partial_state=True)
            assert (
                train(model, "denoise_image", f"model={model}/model-{name}", f"samples={end}", *settings) == 0
            )
        weights.append(
            load_file(model / f"model-{name}" / "vision_denoiser" / "diffusion_pytorch_model.safetensors")
        )
    start = load_file(model / "model" / "vision_denoiser" / "diffusion_pytorch_model.safetensors")
    moved = sum((weights[0][k].float() - start[k].float()).abs().sum() for k in start)
    apart = sum((weights[0][k].float() - weights[1][k].float()).abs().sum() for k in start)
    assert moved > 0 and apart < 0.2 * moved
