"""Log-mel back to sound: magnitudes explain the bands, partials do not beat, attacks stay where they were,
the probe reads every fact.
"""

import math
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from codi.metrics.onsets import onset_f1
from codi.models.autoencoders import AudioAutoencoder
from codi.models.autoencoders.mel import GriffinLim, LogMel, MelCorrection, _nearest, peak_phases, slaney_bank
from codi.world import ATTRIBUTES, events, read_sounds, render_sounds, sample_scenes
from training.config import Config
from training.stages.autoencoder import MelStage, VocoderStage
from training.stages.common import export_part, load_part

SCENES = sample_scenes(12, 5)
VAE = dict(
    block_out_channels=[16, 16],
    down_block_types=["DownEncoderBlock2D"] * 2,
    up_block_types=["UpDecoderBlock2D"] * 2,
    layers_per_block=1,
    norm_num_groups=8,
    latent_channels=4,
)
VOICE = dict(
    model_in_dim=16,
    sampling_rate=16000,
    upsample_initial_channel=16,
    upsample_rates=[5, 4, 4],
    upsample_kernel_sizes=[11, 8, 8],
    resblock_kernel_sizes=[3],
    resblock_dilation_sizes=[[1, 3]],
    normalize_before=False,
)


def test_spectrograms_are_exact_in_a_model_of_another_precision(tmp_path):
    """Loaded in bfloat16 or brought to it later: a window or bank that is rounded too puts noise where a
    sound is silent.
    """
    sound = torch.from_numpy(np.asarray(render_sounds(SCENES[:2]))).float()
    torch.manual_seed(0)
    mel = dict(patch=[2, 8], mel_mean=-5.0, mel_std=2.5, mel_config={})
    whole = AudioAutoencoder(num_samples=32000, **mel, vae_config=VAE, vocoder_config=None)
    whole.save_pretrained(tmp_path)
    loaded = AudioAutoencoder.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    expected = whole.log_mel(sound)
    for part in (loaded, whole.to(torch.bfloat16)):
        assert part.dtype is torch.bfloat16 and torch.equal(part.log_mel(sound), expected)
        assert part.vocoder.window.dtype is part.vocoder.bank.dtype is torch.float32


def tone(*partials: tuple[float, float], num_samples: int = 16000) -> Tensor:
    """Steady sines of (Hz, amplitude), (num_samples,)."""
    t = torch.arange(num_samples, dtype=torch.float64) / 16000
    return sum(a * torch.sin(2 * math.pi * hz * t) for hz, a in partials).float()


def read_well(sounds: Tensor) -> tuple[float, float, float]:
    """Share of right facts, onset F1 at 50 ms and its bias in seconds."""
    readings = read_sounds(sounds)
    right = [r.facts[a] == getattr(s, a) for r, s in zip(readings, SCENES) for a in ATTRIBUTES]
    score = onset_f1(
        [r.events for r in readings], [np.array([t for t, _ in events(s)]) for s in SCENES], 0.05
    )
    return float(np.mean(right)), score.f1, score.bias


@pytest.fixture(scope="module")
def log_mel() -> LogMel:
    return LogMel()


@pytest.mark.parametrize(
    ("low", "high", "bands", "rate"),
    [(0.0, 8000.0, 64, 16000), (50.0, 14000.0, 64, 48000), (0.0, 900.0, 8, 8000)],
)
def test_the_bands_are_torchaudios_to_the_bit(low, high, bands, rate):
    from torchaudio.functional import melscale_fbanks

    theirs = melscale_fbanks(513, low, high, bands, rate, norm="slaney", mel_scale="slaney")
    assert torch.equal(slaney_bank(513, bands, low, high, rate), theirs)


def test_nearest_marked_place() -> None:
    marked = torch.tensor(
        [[0, 1, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 1]], dtype=torch.bool
    )
    assert _nearest(marked).tolist() == [[1, 1, 1, 1, 5, 5, 5], [0] * 7, [6] * 7]


def test_phases_of_a_steady_tone_are_its_own() -> None:
    window = torch.hann_window(1024)
    spectrum = torch.stft(tone((987.6, 0.3)), 1024, 160, window=window, return_complex=True)[:, 5:-5]
    made = torch.polar(torch.ones(spectrum.shape), peak_phases(spectrum.abs(), 1024, 160))
    main_lobe = slice(62, 65)  # 987.6 Hz is bin 63.2
    turn = (made * spectrum.conj())[main_lobe]
    turn = turn / turn.abs()
    step = (turn[:, 1:] * turn[:, :-1].conj()).angle()
    assert step.abs().max() < 0.05  # the same rotation from frame to frame, which nobody hears
    assert (turn - turn[1]).abs().max() < 0.05  # and for all bins


def test_magnitudes_explain_the_bands(log_mel: LogMel) -> None:
    vocoder = GriffinLim(log_mel)
    for bands in log_mel(render_sounds(SCENES[:4])).exp():
        magnitude = vocoder.unmel(bands)
        assert magnitude.shape == (513, 200) and magnitude.min() >= 0
        assert (magnitude.T @ log_mel.bank - bands).abs().sum() < 0.02 * bands.sum()


def test_the_sound_has_the_mel_it_was_made_from(log_mel: LogMel) -> None:
    mel = log_mel(render_sounds(SCENES[:4]))
    back = log_mel(GriffinLim(log_mel)(mel))
    assert (back.exp() - mel.exp()).abs().sum() < 0.1 * mel.exp().sum()


def test_a_correction_undoes_what_it_can_express() -> None:
    wanted = torch.randn(8, 40, 6, generator=torch.Generator().manual_seed(0))
    given = wanted + torch.linspace(-0.5, 0.5, 6)  # each band too loud or too low
    given[..., 2] = 0.8 * given[..., 2] + 0.1 * given[..., 1]
    correction = MelCorrection(6, 3, 3)
    assert correction(given).isnan().all()
    correction.fit([(given[:4], wanted[:4]), (given[4:], wanted[4:])], ridge=1e-9)
    assert (correction(given) - wanted).abs().max() < 1e-3
    assert torch.equal(correction(given[:1]), correction(given)[:1])


def test_a_correction_of_nothing_is_nothing() -> None:
    mel = torch.randn(4, 30, 6, generator=torch.Generator().manual_seed(0))
    correction = MelCorrection(6, 5, 3)
    correction.fit([(mel, mel)])
    assert torch.equal(correction(mel), mel)


def test_a_steady_chord_does_not_beat(log_mel: LogMel) -> None:
    chord = tone((440.0, 0.2), (1320.0, 0.1))[None]
    heard = GriffinLim(log_mel)(log_mel(chord))[0]
    loudness = heard[1600:-1600].unfold(0, 640, 160).square().mean(1).sqrt()
    assert loudness.std() / loudness.mean() < 0.05
    # Bands tell the sum of magnitudes, not how it is spread, so the energy is only about right: within 1 dB.
    assert loudness.mean() == pytest.approx(math.hypot(0.2, 0.1) / math.sqrt(2), rel=0.1)


def test_silence_stays_silent(log_mel: LogMel) -> None:
    assert GriffinLim(log_mel)(log_mel(torch.zeros(1, 8000))).abs().max() < 1e-3


def test_a_sound_does_not_depend_on_its_batch_or_its_turn(log_mel: LogMel) -> None:
    mel, vocoder = log_mel(render_sounds(SCENES[:3])), GriffinLim(log_mel, num_iterations=4)
    together = vocoder(mel)
    torch.manual_seed(7)
    for k in range(3):
        assert torch.equal(vocoder(mel[k : k + 1])[0], together[k])


def test_all_facts_survive_the_mel(log_mel: LogMel) -> None:
    right, f1, bias = read_well(GriffinLim(log_mel)(log_mel(render_sounds(SCENES))))
    assert right == 1.0 and f1 >= 0.97 and abs(bias) < 0.006


@torch.no_grad()
def test_all_facts_survive_the_embedded_autoencoder() -> None:
    folder = Path(str(resources.files("codi"))) / "assets" / "tiny" / "audio_autoencoder"
    autoencoder = AudioAutoencoder.from_pretrained(folder).eval()
    latents = autoencoder.encode(render_sounds(SCENES))
    sounds = autoencoder.decode(latents)
    right, f1, bias = read_well(sounds)
    assert right >= 0.95 and f1 >= 0.97 and abs(bias) < 0.006  # of 60 facts and some 40 onsets
    assert torch.equal(autoencoder.decode(latents[5:6])[0], sounds[5])


@torch.no_grad()
def test_training_a_vocoder_leaves_the_latents_alone(tmp_path: Path) -> None:
    mel = dict(n_fft=256, hop_length=80, num_bands=16)
    finished = AudioAutoencoder(VAE, None, mel, num_samples=8000, patch=(1, 2))
    finished.scaling.measure(torch.randn(64, 4, 3))
    export_part(finished, tmp_path / "model" / "audio_autoencoder")
    places = dict(model=tmp_path / "model", output=tmp_path / "run")
    stage = VocoderStage(Config(stage="vocoder", samples=2, batch_size=2, lr=1e-3, part=VOICE, **places))
    before = load_part(AudioAutoencoder, tmp_path / "model" / "audio_autoencoder", "")
    stage.export(stage.build(), tmp_path / "model")
    after = load_part(AudioAutoencoder, tmp_path / "model" / "audio_autoencoder", "")
    sound = render_sounds(SCENES[:2])[:, :8000]
    assert torch.equal(after.encode(sound), before.encode(sound))
    assert after.config.vocoder_config == VOICE and after.vocode(after.log_mel(sound)).shape == sound.shape
    stage = VocoderStage(
        Config(stage="vocoder", samples=2, batch_size=2, lr=1e-3, options={"continue_from": True}, **places)
    )
    again = stage.build()
    assert torch.equal(again.vocode(again.log_mel(sound)), after.vocode(after.log_mel(sound)))
    assert stage.data().fetch([0])["sound"].shape == (1, 32000) and [
        s.raw_shape for s in stage.geometry().values()
    ] == [(8000,)]
    learned = {
        name.partition(".")[0] for name, parameter in again.named_parameters() if parameter.requires_grad
    }
    assert learned == {"vocoder"}


def test_a_share_of_the_sounds_is_heard_under_notes(tmp_path: Path) -> None:
    sound = render_sounds(SCENES[:1])[:, :8000].repeat(200, 1)
    for share, low, high in ((0.0, 0, 0), (0.5, 70, 130), (1.0, 200, 200)):
        places = dict(model=tmp_path / "model", output=tmp_path / "run")
        stage = MelStage(
            Config(
                stage="autoencoder_audio",
                samples=2,
                batch_size=2,
                lr=1e-3,
                options={"tones": share},
                **places,
            )
        )
        changed = (stage.with_tones(sound, 16000, torch.Generator().manual_seed(0)) != sound).any(1)
        assert low <= changed.sum() <= high
