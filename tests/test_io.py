"""Media files: what is written reads back the same, any size, rate and length fits, and bad files give one
clear error.
"""

import json
import os
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from codi import io
from codi.types import InputError, Modality


@pytest.fixture
def picture() -> torch.Tensor:
    """uint8 (3, 48, 70), smooth, different in every corner and channel."""
    y, x = torch.meshgrid(torch.linspace(0, 1, 48), torch.linspace(0, 1, 70), indexing="ij")
    return (torch.stack([x, y, 1 - x * y]) * 255).to(torch.uint8)


@pytest.fixture
def clicks() -> torch.Tensor:
    """Two seconds at 16 kHz with bursts at 0.5 and 1.5 s."""
    wave = torch.zeros(32000)
    for start in (8000, 24000):
        wave[start : start + 400] = 0.8 * torch.sin(torch.arange(400) * 0.4)
    return wave


def moving_bar(num_frames: int, height: int, width: int) -> torch.Tensor:
    """uint8 (F, 3, H, W): frame k has grey level 10 k + 20."""
    return (
        (torch.arange(num_frames) * 10 + 20)
        .to(torch.uint8)[:, None, None, None]
        .expand(-1, 3, height, width)
        .contiguous()
    )


# Pictures --------------------------------------------------------------


@pytest.mark.parametrize(
    "suffix, error", [("png", 0), ("bmp", 0), ("tiff", 0), ("ppm", 0), ("jpg", 12), ("webp", 12)]
)
def test_picture_reads_back(tmp_path, picture, suffix, error):
    path = io.save_image(tmp_path / f"a.{suffix}", picture)
    assert (io.load_image(path).int() - picture.int()).abs().float().mean() <= error
    assert io.probe(path) is Modality.IMAGE


def test_picture_is_turned_upright(tmp_path, picture):
    image = Image.fromarray(picture.permute(1, 2, 0).numpy())
    exif = image.getexif()
    exif[0x0112] = 6  # the camera was held sideways
    image.save(tmp_path / "a.png", exif=exif)
    assert torch.equal(io.load_image(tmp_path / "a.png"), picture.rot90(-1, (1, 2)))


def test_transparency_shows_white_and_16_bit_grey_is_scaled(tmp_path):
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert io.load_image(tmp_path / "clear.png").eq(255).all()
    Image.fromarray(np.full((4, 4), 128 * 256, dtype=np.uint16)).save(tmp_path / "deep.png")
    assert io.load_image(tmp_path / "deep.png").eq(128).all()


def test_picture_carries_its_comment(tmp_path, picture):
    path = io.save_image(tmp_path / "a.png", picture, comment="made by a test")
    assert Image.open(path).text["Comment"] == "made by a test"


# Sound -----------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_sound_reads_back_in_time(tmp_path, clicks, suffix):
    path = io.save_audio(tmp_path / f"a.{suffix}", clicks, 16000)
    wave, rate = io.load_audio(path)
    assert rate == 16000 and abs(len(wave) - 32000) < 1200 and io.probe(path) is Modality.AUDIO
    assert abs(first_loud(wave) - 8000) < 80


def first_loud(wave: torch.Tensor) -> int:
    return int((wave.abs() > 0.2).nonzero()[0])


def test_channels_are_averaged_whatever_the_container(tmp_path, clicks):
    both = torch.stack([0.3 * torch.ones(32000), 0.1 * torch.ones(32000)])
    io.save_audio(tmp_path / "a.wav", both, 16000)
    io.save_video(tmp_path / "a.mp4", moving_bar(16, 32, 32), 8, both, 16000)
    assert io.load_audio(tmp_path / "a.wav")[0].mean() == pytest.approx(0.2, abs=1e-3)
    assert io.load_audio(tmp_path / "a.mp4")[0][4000:28000].mean() == pytest.approx(0.2, abs=0.02)


def test_only_the_part_asked_for_is_read(tmp_path, clicks):
    path = io.save_audio(tmp_path / "a.wav", clicks, 16000)
    with pytest.warns(UserWarning, match="lasts 2.0 s: only its beginning"):
        assert len(io.load_audio(path, seconds=0.5)[0]) == 8000


# Clips -----------------------------------------------------------------


@pytest.mark.parametrize("fps", [8.0, 7.5, 30000 / 1001])
def test_clip_keeps_rate_count_and_order(tmp_path, fps):
    frames = moving_bar(16, 64, 64)
    video = io.load_video(io.save_video(tmp_path / "a.mp4", frames, fps))
    assert video.fps == pytest.approx(fps, rel=1e-6) and video.audio is None
    assert video.frames.shape == frames.shape and (video.frames.int() - frames.int()).abs().max() <= 4


def test_odd_sides_are_padded(tmp_path):
    video = io.load_video(io.save_video(tmp_path / "a.mp4", moving_bar(3, 63, 65), 8))
    assert (
        video.frames.shape == (3, 3, 64, 66)
        and (video.frames[:, :, -1, -1].int() - torch.tensor([[20], [30], [40]])).abs().max() <= 4
    )


def test_clip_carries_sound_in_time_and_its_comment(tmp_path, clicks):
    import av

    path = io.save_video(
        tmp_path / "a.mp4", moving_bar(16, 64, 64), 8, clicks, 16000, comment=json.dumps({"seed": 1})
    )
    video = io.load_video(path)
    assert video.sampling_rate == 16000 and abs(first_loud(video.audio) - 8000) < 80
    with av.open(str(path)) as container:
        assert json.loads(container.metadata["comment"]) == {"seed": 1}
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat"), (
        "the index comes first, so that playing can start early"
    )


def test_clip_is_read_at_an_even_rate(tmp_path):
    """Frames at 0, 1, 2, then 6, 7, 8 eighths: the third is held while nothing new comes."""
    import av

    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width = stream.height = 32
        stream.pix_fmt, stream.codec_context.time_base = "yuv420p", Fraction(1, 8)
        for k, time in enumerate((0, 1, 2, 6, 7, 8)):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 40 * k, np.uint8), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 8)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    video = io.load_video(tmp_path / "a.mkv")
    levels = (video.frames.float().mean((1, 2, 3)) / 40).round().tolist()
    if video.fps == 8:
        assert levels == [0, 1, 2, 2, 2, 2, 3, 4, 5]
    assert levels == sorted(levels) and levels[0] == 0 and levels[-1] == 5


def test_a_trimmed_clip_shows_what_its_edit_list_leaves(tmp_path):
    """Cut without encoding again: the first five of twenty frames are in the file, before time 0, and are not
    shown.
    """
    path = tmp_path / "trimmed.mp4"
    with av.open(str(path), "w", options={"avoid_negative_ts": "disabled", "use_editlist": "1"}) as container:
        stream = container.add_stream("libx264", rate=10, options={"bf": "0", "g": "100"})
        stream.width = stream.height = 64
        pictures = [np.full((64, 64, 3), 10 * k, np.uint8) for k in range(20)]
        packets = [
            p
            for picture in pictures
            for p in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24"))
        ]
        for packet in [*packets, *stream.encode(None)]:
            hidden = round(0.5 / packet.time_base)
            packet.pts, packet.dts = packet.pts - hidden, packet.dts - hidden
            container.mux(packet)
    frames = io.load_video(path).frames
    assert len(frames) == 15 and abs(frames[0].float().mean() - 50) < 3
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError):
        io.load_video(path)


def test_one_channel_is_mono(tmp_path, clicks):
    io.save_video(tmp_path / "a.mp4", torch.zeros(8, 3, 32, 32, dtype=torch.uint8), 8, clicks[None], 16000)
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.streams.audio[0].layout.name == "mono"


def test_only_the_first_seconds_are_decoded_and_frames_shrunk(tmp_path):
    path = io.save_video(tmp_path / "a.mp4", moving_bar(24, 128, 256), 8)
    with pytest.warns(UserWarning, match="lasts 3.0 s"):
        video = io.load_video(path, seconds=1, size=16)
    assert video.frames.shape == (8, 3, 32, 64)


def test_animated_gif_is_a_clip_and_its_first_frame_a_picture(tmp_path):
    frames = [Image.new("RGB", (32, 32), (80 * k, 0, 0)) for k in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=125, loop=0)
    assert io.probe(tmp_path / "a.gif") is Modality.VIDEO
    assert len(io.load_video(tmp_path / "a.gif").frames) == 3
    assert io.load_image(tmp_path / "a.gif").shape == (3, 32, 32)


# A clip with another sound ---------------------------------------------


def encoded(path: Path, codec: str, pix_fmt: str = "yuv420p", rate: int = 8) -> Path:
    """24 frames of coarse noise."""
    import av

    blocks = torch.randint(0, 255, (24, 6, 8, 3), dtype=torch.uint8, generator=torch.manual_seed(0))
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pix_fmt
        for frame in blocks.repeat_interleave(8, 1).repeat_interleave(8, 2).numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def decoded(path: Path) -> tuple[list[bytes], list[float]]:
    """Pixels of every frame, and its time from the first."""
    import av

    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        return [frame.to_ndarray().tobytes() for frame in frames], [
            float(frame.time - frames[0].time) for frame in frames
        ]


@pytest.mark.parametrize(
    "name, codec, made",
    [
        ("a.mp4", "libx264", "mp4"),
        ("a.ts", "libx264", "mp4"),
        ("a.avi", "mpeg4", "mp4"),
        ("a.webm", "libvpx-vp9", "webm"),
        ("a.gif", "gif", "mov"),
    ],
)
def test_a_clip_gets_another_sound_and_keeps_its_frames(tmp_path, clicks, recwarn, name, codec, made):
    clip = encoded(tmp_path / name, codec, "rgb8" if codec == "gif" else "yuv420p")
    content = clip.read_bytes()
    path = io.save_dubbed(tmp_path / "out.1", clip, clicks, 16000, comment="made by a test")
    assert path.name == f"out.1.{made}" and clip.read_bytes() == content
    before, after = decoded(clip), decoded(path)
    assert after[0] == before[0] and after[1] == pytest.approx(before[1], abs=1e-3)
    wave, rate = io.load_audio(path)
    # the picture lasts 3 s
    assert abs(first_loud(wave) / rate - 0.5) < 0.005 and 1.9 < len(wave) / rate < 2.1
    said = [str(w.message) for w in recwarn if w.category is UserWarning]
    assert bool(said) == (made != "mp4") and all(path.name in line for line in said)


def test_a_sound_that_replaces_another_and_outlasts_the_picture(tmp_path, clicks):
    clip = io.save_video(tmp_path / "a.mp4", moving_bar(8, 32, 32), 8, torch.ones(16000) * 0.5, 16000)
    path = io.save_dubbed(tmp_path / "b", clip, clicks, 16000)
    wave, rate = io.load_audio(path)
    assert (
        decoded(path) == decoded(clip)
        and len(wave) < 1.1 * rate
        and wave[:7000].abs().max() < 0.05 < 0.2 < wave.abs().max()
    )


def test_clips_that_cannot_be_dubbed(tmp_path, clicks):
    clip = encoded(tmp_path / "a.flv", "flv")
    with pytest.warns(UserWarning, match="no container takes the flv1 frames"):
        assert io.save_dubbed(tmp_path / "b", clip, clicks, 16000) is None
    with pytest.raises(InputError, match="pass it as --audio"):
        io.save_dubbed(tmp_path / "b", io.save_audio(tmp_path / "a.wav", clicks, 16000), clicks, 16000)
    own = io.save_video(tmp_path / "000.mp4", moving_bar(8, 32, 32), 8)
    content = own.read_bytes()
    with pytest.raises(InputError, match="overwritten"):
        io.save_dubbed(tmp_path / "000", own, clicks, 16000)
    assert own.read_bytes() == content and sorted(os.listdir(tmp_path)) == ["000.mp4", "a.flv", "a.wav"]


# To a model's geometry -------------------------------------------------


def test_scales_of_pixels_are_inverse():
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(io.from_unit(io.to_unit(every)), every)
    assert io.to_unit(every).min() == -1 and io.to_unit(every).max() == 1
    assert io.from_unit(torch.tensor([-7.0, 7.0])).tolist() == [0, 255]


def test_picture_of_the_right_size_is_left_alone(picture):
    square = picture[:, :, :48]
    assert torch.equal(io.fit_image(square, 48), io.to_unit(square))


def test_picture_is_cropped_to_its_centre():
    image = torch.zeros(3, 20, 60, dtype=torch.uint8)
    image[:, :, 20:40] = 200
    fitted = io.fit_image(image, 8)
    assert fitted.shape == (3, 8, 8) and torch.allclose(
        fitted, io.to_unit(torch.tensor(200, dtype=torch.uint8)), atol=1e-6
    )


@pytest.mark.parametrize("fps", [4.0, 8.0, 24.0, 30.0, 7.5])
def test_frames_are_picked_by_time(fps):
    """Frame k shows its own time in hundredths of a second; what is picked is on show at the time wanted."""
    count = round(2 * fps)
    shown = torch.arange(count) / fps
    frames = (shown * 100).round().to(torch.uint8)[:, None, None, None].expand(-1, 3, 8, 8)
    fitted = io.from_unit(io.fit_video(frames, fps, 16, 8.0, 8))[:, 0, 0, 0].float() / 100
    late = (torch.arange(16) / 8) - fitted
    assert late.min() >= -0.006 and late[: round(8 * shown[-1].item())].max() <= 1 / fps + 0.006


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000, 44099])
def test_sound_keeps_pitch_and_time(rate):
    time = torch.arange(3 * rate) / rate
    fitted = io.fit_audio(torch.sin(2 * torch.pi * 440 * time), rate, 16000, 32000)
    wanted = torch.sin(2 * torch.pi * 440 * torch.arange(32000) / 16000)
    assert fitted.shape == (32000,)
    assert (fitted - wanted)[200:-200].abs().max() < (0.2 if rate == 44099 else 0.02)


def test_short_sound_is_followed_by_silence_and_channels_are_averaged():
    fitted = io.fit_audio(torch.stack([torch.ones(100), torch.zeros(100)]), 16000, 16000, 300)
    assert fitted[:100].eq(0.5).all() and fitted[100:].eq(0).all()


# Bad input -------------------------------------------------------------

LOADERS = {"image": io.load_image, "audio": io.load_audio, "video": io.load_video}


@pytest.mark.parametrize("kind", LOADERS)
def test_missing_empty_garbage_and_folder(tmp_path, kind):
    (tmp_path / "empty").touch()
    (tmp_path / "garbage").write_bytes(np.random.default_rng(0).bytes(3000))
    for name, message in (
        ("none", "no such file"),
        ("empty", "is empty"),
        ("garbage", "damaged or of an unknown format"),
        (".", "not a file"),
    ):
        with pytest.raises(InputError, match=message):
            LOADERS[kind](tmp_path / name)


@pytest.mark.parametrize(
    "made, asked",
    [("image", "audio"), ("image", "video"), ("audio", "image"), ("audio", "video"), ("video", "image")],
)
def test_wrong_kind_is_named(tmp_path, picture, clicks, made, asked):
    path = tmp_path / "file"
    paths = {
        "image": path.with_suffix(".png"),
        "audio": path.with_suffix(".wav"),
        "video": path.with_suffix(".mp4"),
    }
    io.save_image(paths["image"], picture)
    io.save_audio(paths["audio"], clicks, 16000)
    io.save_video(paths["video"], moving_bar(8, 32, 32), 8)
    disguised = paths[made].rename(tmp_path / f"x{paths[asked].suffix}")  # by content, never by name
    with pytest.raises(InputError, match=f"pass it as --{made}"):
        LOADERS[asked](disguised)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.flac", "a.mp4"])
def test_truncated_files(tmp_path, picture, clicks, name):
    path = tmp_path / name
    noise = torch.randint(0, 255, (24, 3, 64, 64), dtype=torch.uint8, generator=torch.manual_seed(0))
    if path.suffix == ".mp4":
        io.save_video(path, noise, 8)
    elif path.suffix == ".flac":
        io.save_audio(path, clicks + 0.1 * torch.randn(32000, generator=torch.manual_seed(0)), 16000)
    else:
        io.save_image(path, noise[0])
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    kind = {".mp4": "video", ".flac": "audio"}.get(path.suffix, "image")
    with pytest.raises(InputError):
        LOADERS[kind](path)


def test_hundred_megapixels(tmp_path):
    """Only the header is real: nothing may try to decode it."""
    Image.new("L", (10_001, 10_001)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="100 megapixels"):
        io.load_image(tmp_path / "a.png")
    content = bytearray((tmp_path / "a.png").read_bytes())
    content[16:24] = struct.pack(">II", 60_000, 60_000)
    (tmp_path / "bomb.png").write_bytes(content)
    with pytest.raises(InputError):
        io.load_image(tmp_path / "bomb.png")


def test_not_a_number_and_silence(tmp_path, clicks):
    import soundfile

    broken = clicks.clone()
    broken[100] = float("nan")
    soundfile.write(tmp_path / "nan.wav", broken.numpy(), 16000, subtype="FLOAT")
    with pytest.raises(InputError, match="NaN"):
        io.load_audio(tmp_path / "nan.wav")
    io.save_audio(tmp_path / "silent.wav", torch.zeros(16000), 16000)
    with pytest.raises(InputError, match="silent"):
        io.check_prompt(tmp_path / "silent.wav", Modality.AUDIO)
    soundfile.write(tmp_path / "none.wav", np.zeros(0), 16000)
    with pytest.raises(InputError, match="no sample"):
        io.load_audio(tmp_path / "none.wav")


def test_twenty_minutes(tmp_path):
    import soundfile

    soundfile.write(tmp_path / "long.wav", np.ones(20 * 60 * 4000, np.int16), 4000)
    with pytest.raises(InputError, match="20.0 minutes"):
        io.load_audio(tmp_path / "long.wav", seconds=2)


def test_playlists_are_not_followed(tmp_path, clicks):
    path = io.save_audio(tmp_path / "a.wav", clicks, 16000)
    (tmp_path / "list.m3u8").write_text(f"#EXTM3U\n#EXTINF:2,\n{path}\n#EXT-X-ENDLIST\n")
    (tmp_path / "list.txt").write_text(f"ffconcat version 1.0\nfile {path}\n")
    for name in ("list.m3u8", "list.txt"):
        with pytest.raises(InputError):
            io.load_audio(tmp_path / name)


def test_nothing_half_written_remains(tmp_path, clicks):
    with pytest.raises(KeyboardInterrupt), io.atomic(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    with pytest.raises(InputError, match="not finite|NaN"):
        io.save_audio(tmp_path / "a.wav", clicks / 0, 16000)
    with pytest.raises(InputError, match="cannot write"):
        io.save_text(tmp_path / "none" / "a.txt", "x")
    with pytest.raises(InputError, match=".mp4"):
        io.save_video(tmp_path / "a.avi", moving_bar(2, 8, 8), 8)
    assert os.listdir(tmp_path) == []


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write into folder"):
        io.check_folder(tmp_path / "file" / "out")
    assert io.check_folder(tmp_path / "a" / "b").is_dir() and os.listdir(tmp_path / "a" / "b") == []


def test_description_of_a_file(tmp_path):
    (tmp_path / "a.txt").write_text("a red ball")
    known = io.describe(tmp_path / "a.txt")
    assert known["kind"] == "text" and known["bytes"] == 10
    assert known["sha256"] == "9bc68b58423cea50482c3ca059001a649da8744068ef65ed02ac0f9fbba501f8"


@pytest.mark.parametrize("when", ["check_file", "_kind"])
def test_a_file_that_vanishes_meanwhile(tmp_path, monkeypatch, when):
    """It is there when it is checked, or when its kind is found out, and then no longer."""
    path = tmp_path / "a.txt"
    path.write_text("a ball")
    plain = getattr(io.read, when)

    def vanish(name):
        found = plain(name)
        path.unlink()
        return found

    monkeypatch.setattr(io.read, when, vanish)
    with pytest.raises(InputError, match="a.txt"):
        io.describe(path)


def test_a_file_that_vanishes_before_its_words_are_looked_at(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("a ball")

    def vanish(name):
        path.unlink()
        raise ValueError

    monkeypatch.setattr(io.gates, "open_image", vanish)
    with pytest.raises(InputError, match="a.txt cannot be read .No such file"):
        io.probe(path)


def test_json_refuses_what_is_no_number(tmp_path):
    with pytest.raises(ValueError):
        io.save_json(tmp_path / "a.json", {"x": float("nan")})
    assert json.loads(Path(io.save_json(tmp_path / "a.json", {"x": 1})).read_text()) == {"x": 1}


# Names that nobody else has --------------------------------------------


def test_numbers_go_on_after_whatever_bears_one(tmp_path):
    def next_number() -> str:
        with io.numbered(tmp_path) as name:
            return name

    assert next_number() == "000"  # nothing was written under it
    (tmp_path / "000.jpg").touch()
    assert next_number() == "001"
    for name in ("007.tar.gz", "20240101.png", "9.png", "a-008.png", "12", "manifest-030.json"):
        (tmp_path / name).touch()
    assert next_number() == "008"
    (tmp_path / "1000.png").touch()
    assert next_number() == "1001"
    assert not list(tmp_path.glob(".*"))


def test_a_number_is_free_again_after_an_interrupt(tmp_path):
    with pytest.raises(KeyboardInterrupt), io.numbered(tmp_path):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
