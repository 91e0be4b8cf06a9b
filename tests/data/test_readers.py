"""Files -> tensors: every format, the same by both back ends, cut to the sample, picture and
sound together.
"""

import json
from fractions import Fraction

import numpy as np
import pytest
import torch

from codi import io
from codi.io.clip_decoders import on_show
from codi.io.clip_header import gate
from codi.io.frames import choose_backend, read_frames
from codi.io.media_file import MediaFile, decoding
from codi.io.pictures import read_image
from codi.io.sounds import read_sound, seconds_of
from codi.types import InputError
from tests.data.files import RATE, clicks, number_of, numbered, save_clip

BACKENDS = ("decord", "av")


def both(path) -> list[MediaFile]:
    """A file where it lies and in memory."""
    return [MediaFile(path, path.name), MediaFile(path.read_bytes(), path.name)]


@pytest.mark.parametrize("suffix, error", [("png", 0), ("jpg", 6), ("webp", 6)])
def test_pictures(tmp_path, suffix, error):
    y, x = torch.meshgrid(torch.linspace(0, 255, 40), torch.linspace(0, 255, 56), indexing="ij")
    picture = torch.stack([x, y, (x + y) / 2]).to(torch.uint8)
    io.save_image(tmp_path / f"a.{suffix}", picture)
    for source in both(tmp_path / f"a.{suffix}"):
        assert (read_image(source).int() - picture.int()).abs().float().mean() <= error
        assert torch.equal(read_image(source), io.load_image(tmp_path / f"a.{suffix}"))


def test_only_the_pictures_promised_are_opened(tmp_path):
    io.save_image(tmp_path / "a.bmp", numbered(1)[0])
    (tmp_path / "a.png").write_bytes((tmp_path / "a.bmp").read_bytes())
    with pytest.raises(InputError, match="cannot be decoded"):
        read_image(MediaFile(tmp_path / "a.png", "a.png"))


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "ogg"])
@pytest.mark.parametrize("start", [0.0, 0.5, 1.3333, 2.71])
def test_a_cut_of_sound_is_that_part_of_the_whole(tmp_path, suffix, start):
    wave = 0.3 * torch.randn(4 * RATE, generator=torch.Generator().manual_seed(0)).clamp(-3, 3)
    io.save_audio(tmp_path / f"a.{suffix}", wave, RATE)
    whole, rate = read_sound(MediaFile(tmp_path / f"a.{suffix}", "a"), 0.0, 60.0)
    assert rate == RATE and len(whole) == len(wave)
    for source in both(tmp_path / f"a.{suffix}"):
        cut, _ = read_sound(source, start, 1.0)
        first = round(start * RATE)
        assert len(cut) == RATE and torch.equal(cut, whole[first : first + RATE])
        assert seconds_of(source, clip=False) == pytest.approx(4.0, abs=0.15)


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "ogg"])
def test_a_click_is_heard_at_its_sample(tmp_path, suffix):
    io.save_audio(tmp_path / f"a.{suffix}", clicks(3, 0.5, 2.25), RATE)
    for start in (0.0, 0.25, 0.4001):
        cut, _ = read_sound(MediaFile(tmp_path / f"a.{suffix}", "a"), start, 2.5)
        assert cut[: RATE * 3 // 4].abs().argmax() == 8000 - round(start * RATE)


@pytest.mark.parametrize("name", ["a.mp4", "a.webm"])
def test_a_click_and_its_frame_stay_together_wherever_the_cut_is(tmp_path, name):
    """A clip of 6 s at 8 frames/s: frame k is grey level k, and at the beginning of frames 4, 20 and 36 there
    is a click.
    """
    times = (0.5, 2.5, 4.5)
    path = save_clip(tmp_path / name, numbered(48), 8, clicks(6, *times))
    for source in both(path):
        for start in (0.0, 0.375, 1.9, 2.123, 2.5, 4.3):
            heard = next(time for time in times if time >= start)
            wave, rate = read_sound(source, start, 0.6 if heard - start < 0.5 else 1.4, clip=True)
            place = round(heard * rate) - round(start * rate)
            assert wave.abs().argmax() == place, (name, start)
            for backend in BACKENDS:
                frames = read_frames(source, start, 12, 8, None, backend)
                assert number_of(frames) == [int((start + k / 8) * 8 + 0.004) for k in range(12)]


def test_sound_of_mp4_equals_the_whole_after_a_search(tmp_path):
    wave = 0.3 * torch.randn(8 * RATE, generator=torch.Generator().manual_seed(1))
    path = save_clip(tmp_path / "a.mp4", numbered(16), 2, wave)
    whole, rate = read_sound(MediaFile(path, "a"), 0.0, 8.0, clip=True)
    for start in (0.3, 1.0, 3.14159, 6.5):
        cut, _ = read_sound(MediaFile(path, "a"), start, 1.0, clip=True)
        first = round(start * rate)
        torch.testing.assert_close(cut, whole[first : first + RATE], rtol=0, atol=1e-6)


def test_a_clip_whose_picture_begins_late_keeps_its_sound_in_place(tmp_path):
    """The clock of a clip starts with the earlier one of its picture and its sound: sound that begins later
    comes later, and so does a picture.
    """
    import av

    for shift, name in ((0.25, "late.mkv"), (-0.25, "early.mkv")):
        with av.open(str(tmp_path / name), "w") as container:
            stream = container.add_stream("libx264", rate=8)
            stream.width = stream.height = 32
            stream.pix_fmt = "yuv420p"
            sound = container.add_stream("flac", rate=RATE, layout="mono")
            for k, picture in enumerate(numbered(16).permute(0, 2, 3, 1).contiguous().numpy()):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = 1000 * k + round(8000 * max(0, -shift)), Fraction(1, 8000)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
            pulse = (clicks(2, 1.0).numpy() * 32767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(pulse[None], format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = (
                RATE,
                round(RATE * max(0, shift)),
                Fraction(1, RATE),
            )
            container.mux(sound.encode(frame))
            container.mux(sound.encode(None))
        source = MediaFile(tmp_path / name, name)
        wave, _ = read_sound(source, 0.0, 2.0, clip=True)
        # the clock of mkv ticks once in 16 samples
        assert abs(int(wave.abs().argmax()) - round((1.0 + max(0, shift)) * RATE)) <= 16
        first = round(8 * max(0, -shift))
        assert number_of(read_frames(source, 0, 8, 8, None, "av")) == [0] * first + list(range(8 - first))


@pytest.mark.parametrize(
    "name, options", [("a.mp4", {"g": "5", "bf": "2"}), ("b.mp4", {"g": "250"}), ("a.webm", {"g": "7"})]
)
def test_back_ends_agree_to_the_bit(tmp_path, name, options):
    frames = torch.randint(
        0, 256, (40, 3, 48, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(2)
    )
    source = MediaFile(save_clip(tmp_path / name, frames, 25 / 2, **options), name)
    rng = np.random.default_rng(3)
    for _ in range(8):
        start, fps, until = rng.uniform(0, 3), rng.choice([4.0, 8.0, 12.5, 30.0]), rng.choice([None, 3.1])
        one, two = (read_frames(source, start, 6, fps, until, backend) for backend in BACKENDS)
        assert one.shape == (6, 3, 48, 32) and torch.equal(one, two), (name, start, fps, until)


@pytest.mark.parametrize("width", [16, 24, 48, 72])
def test_narrow_clips_that_decord_misreads(tmp_path, width):
    frames = numbered(4)[..., :16, :1].expand(-1, -1, -1, width)
    source = MediaFile(save_clip(tmp_path / "a.mp4", frames, 8), "a")
    assert number_of(read_frames(source, 0, 4, 8, None, "decord")) == [0, 1, 2, 3]


@pytest.mark.parametrize("backend", BACKENDS)
def test_rates_and_ends(tmp_path, backend):
    source = MediaFile(save_clip(tmp_path / "a.mp4", numbered(16), 8), "a")
    assert number_of(read_frames(source, 0, 8, 4, None, backend)) == list(range(0, 16, 2))
    # at 1.5 frames the second one is on show
    assert number_of(read_frames(source, 0, 4, 16 / 3, None, backend)) == [0, 1, 3, 4]
    assert number_of(read_frames(source, 1.5, 8, 8, None, backend)) == [12, 13, 14, 15, 15, 15, 15, 15]
    assert number_of(read_frames(source, 1.0, 6, 8, 1.25, backend)) == [8, 9, 9, 9, 9, 9]
    with pytest.raises(InputError, match="no frame from 5"):
        read_frames(source, 5.0, 4, 8, None, backend)


def test_a_turned_clip_is_upright_by_either_name(tmp_path):
    frames = numbered(4, 32)
    frames[:, :, :8] = 255  # a white bar on top
    path = save_clip(tmp_path / "a.mp4", frames, 8)
    raw = path.read_bytes()
    place = raw.index(b"trak", raw.index(b"trak") - 1)
    matrix = raw.index(bytes([0, 1, 0, 0]) + bytes(12) + bytes([0, 1, 0, 0]), place)
    quarter = b"".join(
        v.to_bytes(4, "big", signed=True) for v in (0, 65536, 0, -65536, 0, 0, 32 * 65536, 0, 1 << 30)
    )
    turned = MediaFile(raw[:matrix] + quarter + raw[matrix + 36 :], "turned")
    one, two = (read_frames(turned, 0, 4, 8, None, backend) for backend in BACKENDS)
    assert torch.equal(one, two)
    assert one[0, :, :, -8:].min() > 200 and one[0, :, :, :16].max() < 100


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_clip_cut_short_is_refused(tmp_path, backend):
    noise = torch.randint(
        0, 256, (24, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(4)
    )
    path = io.save_video(tmp_path / "a.mp4", noise, 8)  # its index comes first
    raw = path.read_bytes()
    with pytest.raises(InputError, match="a.mp4"):
        read_frames(MediaFile(raw[: len(raw) * 2 // 3], "a.mp4"), 0, 24, 8, None, backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_sound_that_outlasts_the_picture_does_not_make_it_short(tmp_path, backend):
    source = MediaFile(save_clip(tmp_path / "a.webm", numbered(8), 8, clicks(4, 3.0)), "a.webm")
    assert number_of(read_frames(source, 0.5, 16, 8, None, backend)) == [4, 5, 6] + [7] * 13
    wave, rate = read_sound(source, 2.5, 1.0, clip=True)
    assert wave.abs().argmax() == rate // 2
    with pytest.raises(InputError, match="no frame from 2.5 s on"):
        read_frames(source, 2.5, 4, 8, None, backend)


def test_the_gate_refuses_what_is_no_clip(tmp_path):
    io.save_audio(tmp_path / "a.wav", clicks(1, 0.5), RATE)
    with pytest.raises(InputError, match="holds no picture"):
        read_frames(MediaFile(tmp_path / "a.wav", "a.wav"), 0, 4, 8)
    big = MediaFile(save_clip(tmp_path / "a.mp4", numbered(2, 64), 8), "a.mp4")
    with pytest.raises(InputError, match="more than 2 GiB"):
        with decoding(big):
            gate(big, 1_000_000)
    playlist = MediaFile(
        b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n", "list"
    )
    for backend in BACKENDS:
        with pytest.raises(InputError, match="list cannot be decoded"):
            read_frames(playlist, 0, 4, 8, None, backend)


def test_sound_that_is_not_there(tmp_path):
    silent = MediaFile(save_clip(tmp_path / "a.mp4", numbered(4), 8), "a.mp4")
    assert read_sound(silent, 0, 1, clip=True) is None
    io.save_audio(tmp_path / "a.wav", clicks(1, 0.5), RATE)
    with pytest.raises(InputError, match="no sound from 3 s on"):
        read_sound(MediaFile(tmp_path / "a.wav", "a.wav"), 3.0, 1.0)
    io.save_image(tmp_path / "a.png", numbered(1)[0])
    with pytest.raises(InputError, match="a.png"):
        read_sound(MediaFile(tmp_path / "a.png", "a.png"), 0, 1.0)


def test_our_own_mistakes_pass_through_and_a_decoders_do_not():
    source = MediaFile(b"", "x")
    with pytest.raises(InputError, match="x cannot be decoded \\(ValueError"), decoding(source):
        np.frombuffer(b"123", dtype=np.float32)
    with pytest.raises(InputError, match="x cannot be decoded \\(TypeError"), decoding(source):
        json.loads(3)  # a library's own line raises
    with pytest.raises(TypeError), decoding(source):
        # but this one decodes nothing: it is what we asked of it
        torch.nn.functional.pad("no tensor", (1, 1))
    source = MediaFile(3, "x")  # of our own: not bytes, not a path
    with pytest.raises(AttributeError), decoding(source):
        source.handle()


def test_on_show_is_the_last_frame_whose_time_has_come():
    begins, times = np.array([0.0, 0.5, 1.0]), np.array([0.0, 0.24, 0.4999999, 0.5, 0.99, 1.0, 9.0])
    assert on_show(begins, times).tolist() == [0, 0, 1, 1, 1, 2, 2]
    assert on_show(begins + 0.25, np.array([0.0, 0.25])).tolist() == [0, 0]


def test_backends_have_names():
    assert choose_backend("av") == "av" and choose_backend("auto") in BACKENDS
    with pytest.raises(InputError, match="backend is 'ffmpeg'"):
        choose_backend("ffmpeg")
