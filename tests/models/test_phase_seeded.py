"""The vocoder that starts from phases found without training: before it is trained it is the inversion, and a
stage trains it and nothing else.
"""

from pathlib import Path

import pytest
import torch

from codi.models.autoencoders import AudioAutoencoder
from codi.models.autoencoders.mel import GriffinLim, LogMel, peak_phases
from codi.models.autoencoders.phase_seeded import PhaseSeededVocoder
from codi.types import InputError
from codi.world import render_sounds, sample_scenes
from training.config import Config
from training.stages.autoencoder import VocoderStage
from training.stages.common import export_part, load_part
from training.stages.phase_seeded import PhaseSeededStage

MEL = dict(n_fft=256, hop_length=80, num_bands=16)
VAE = dict(
    block_out_channels=[16, 16],
    down_block_types=["DownEncoderBlock2D"] * 2,
    up_block_types=["UpDecoderBlock2D"] * 2,
    layers_per_block=1,
    norm_num_groups=8,
    latent_channels=4,
)
SMALL = dict(width=16, dilations=[1, 2], num_updates=4)


@pytest.fixture(scope="module")
def sounds() -> torch.Tensor:
    return render_sounds(sample_scenes(3, 5))[:, :8000]


def autoencoder(**vocoder) -> AudioAutoencoder:
    part = AudioAutoencoder(VAE, None, MEL, num_samples=8000, patch=(1, 2), **vocoder)
    part.scaling.measure(torch.randn(64, 4, 3))
    return part.eval()


@torch.no_grad()
def test_it_starts_as_the_inversion_without_iterations(sounds):
    log_mel = LogMel(**MEL)
    mel = log_mel(sounds)
    plain = GriffinLim(log_mel, num_iterations=0, num_updates=4)(mel)
    made = PhaseSeededVocoder(log_mel, **SMALL)(mel)
    assert made.shape == plain.shape == sounds.shape
    assert (made - plain).abs().max() < 1e-3  # of which is the floor of magnitudes
    assert plain.abs().max() > 0.1


def test_phases_of_a_batch_are_those_of_each(sounds):
    window = torch.hann_window(256)
    magnitude = torch.stft(sounds, 256, 80, window=window, return_complex=True).abs()
    together = peak_phases(magnitude, 256, 80)
    for one, phases in zip(magnitude, together):
        assert torch.equal(peak_phases(one, 256, 80), phases)


def test_gradients_reach_every_weight_and_no_seed(sounds):
    torch.manual_seed(0)
    log_mel = LogMel(**MEL)
    vocoder = PhaseSeededVocoder(log_mel, **SMALL)
    torch.nn.init.normal_(vocoder.head.weight, std=0.1)
    mel = log_mel(sounds).requires_grad_()
    vocoder(mel).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in vocoder.parameters())
    level, phase = vocoder.seeds(mel)
    assert not level.requires_grad and not phase.requires_grad


@torch.no_grad()
def test_a_saved_one_decodes_the_same_one_by_one_and_in_bfloat16(sounds, tmp_path):
    torch.manual_seed(0)
    part = autoencoder(phase_seeded_config=SMALL)
    torch.nn.init.normal_(part.vocoder.head.weight, std=0.05)
    part.save_pretrained(tmp_path)
    latents = part.encode(sounds)
    made = part.decode(latents)
    again = AudioAutoencoder.from_pretrained(tmp_path).eval()
    assert torch.equal(again.decode(latents), made)
    assert torch.equal(again.decode(latents[1:2])[0], made[1])
    half = AudioAutoencoder.from_pretrained(tmp_path, torch_dtype=torch.bfloat16).eval()
    assert half.vocoder.head.weight.dtype is torch.bfloat16
    close = half.vocode(part.decode_mel(latents)) - part.vocode(part.decode_mel(latents))
    assert close.abs().mean() < 0.05 * made.abs().mean()


def test_two_vocoders_are_one_too_many():
    with pytest.raises(AssertionError, match="one vocoder, not two"):
        AudioAutoencoder(VAE, dict(model_in_dim=16), MEL, num_samples=8000, phase_seeded_config=SMALL)


def run(folder: Path, stage: str, part: dict, **options) -> Config:
    places = dict(model=folder / "model", output=folder / "run")
    return Config(stage=stage, samples=10, batch_size=2, lr=1e-3, part=part, options=options, **places)


@torch.no_grad()
def test_the_stage_trains_the_vocoder_alone_and_again(sounds, tmp_path):
    folder = tmp_path / "model" / "audio_autoencoder"
    export_part(autoencoder(), folder)
    before = load_part(AudioAutoencoder, folder, "")
    with pytest.raises(InputError, match="no vocoder yet"):
        PhaseSeededStage(run(tmp_path, "phase_seeded_vocoder", {}, continue_from=True)).build()
    stage = PhaseSeededStage(run(tmp_path, "phase_seeded_vocoder", SMALL, cut=40))
    module = stage.build()
    assert {n.partition(".")[0] for n, p in module.named_parameters() if p.requires_grad} == {"vocoder"}
    loss, terms = stage.loss(module, {"sound": sounds}, torch.Generator().manual_seed(0))
    assert loss.isfinite() and set(terms) == {"convergence", "log_magnitude", "mel"}
    stage.export(module, tmp_path / "model")
    after = load_part(AudioAutoencoder, folder, "")
    assert torch.equal(after.encode(sounds), before.encode(sounds))
    assert isinstance(after.vocoder, PhaseSeededVocoder) and after.vocoder.inversion.num_updates == 4
    again = PhaseSeededStage(run(tmp_path, "phase_seeded_vocoder", {}, continue_from=True)).build()
    assert torch.equal(again.decode(again.encode(sounds)), after.decode(after.encode(sounds)))
    voice = dict(model_in_dim=16, upsample_initial_channel=16, upsample_rates=[5, 4, 4])
    voice |= dict(upsample_kernel_sizes=[11, 8, 8], resblock_kernel_sizes=[3], resblock_dilation_sizes=[[1]])
    other = VocoderStage(run(tmp_path, "vocoder", voice)).build()
    assert other.config.phase_seeded_config is None and other.config.vocoder_config == voice


@torch.no_grad()
def test_log_mels_are_the_sounds_own_first_and_the_autoencoders_last(sounds, tmp_path):
    export_part(autoencoder(), tmp_path / "model" / "audio_autoencoder")
    stage = PhaseSeededStage(run(tmp_path, "phase_seeded_vocoder", SMALL))
    module = stage.build()
    mel = module.log_mel(sounds.repeat(8, 1))
    shares = []
    for progress in (0.0, 0.29, 0.3, 0.69, 0.7, 1.0):
        stage.progress = progress
        given = stage.given(module, mel, torch.Generator().manual_seed(0))
        shares.append((given != mel).flatten(1).any(1).float().mean().item())
    assert shares[:2] == [0, 0] and shares[4:] == [1, 1]
    assert 0.2 < shares[2] == shares[3] < 0.8


@pytest.mark.parametrize("options", [{"true_until": 0.8}, {"cut": 4}, {"mel_weight": -1.0}])
def test_options_out_of_range_are_named(tmp_path, options):
    with pytest.raises(InputError, match=next(iter(options))):
        PhaseSeededStage(run(tmp_path, "phase_seeded_vocoder", SMALL, **options))
