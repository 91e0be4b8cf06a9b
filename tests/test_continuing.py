"""Media that go on beyond the length of the model: windows that border on each other, and what is refused.

The tiny pipeline makes half a second, which is four frames.
"""

from fractions import Fraction

import pytest
import torch

from codi import cli, continuing, io, read_record
from codi.continued import sorted_files
from codi.continuing import InOrder, Piece, extend
from codi.types import InputError, Modality
from codi.windows import Layout, plan, tick_rate, ticks
from tests import tiny_pipeline

IMAGE, AUDIO, VIDEO = Modality.IMAGE, Modality.AUDIO, Modality.VIDEO
QUICK = dict(num_inference_steps=2, resample_steps=1, text="a red ball")
STEPS = ("--steps", "2", "--resample-steps", "1", "--device", "cpu", "--quiet", "--text", "a red ball")


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline.pipeline()


@pytest.fixture(scope="module")
def media():
    draw = torch.Generator().manual_seed(0)
    return {
        "audio": torch.rand(8000, generator=draw) * 1.6 - 0.8,
        "video": torch.randint(0, 255, (4, 3, 32, 32), dtype=torch.uint8, generator=draw),
    }


@pytest.fixture(scope="module")
def files(tmp_path_factory, media):
    folder = tmp_path_factory.mktemp("files")
    tiny_pipeline.saved(folder / "model")
    io.save_audio(folder / "take.wav", media["audio"], 16000)
    io.save_video(folder / "clip.mp4", media["video"], 8)
    io.save_video(folder / "with_sound.mp4", media["video"], 8, media["audio"], 16000)
    io.save_image(folder / "photo.png", media["video"][0])
    return folder


# Plans -----------------------------------------------------------------


def test_a_tick_is_where_frames_and_samples_meet():
    assert tick_rate([8.0, 16000.0]) == 8 and tick_rate([16000.0]) == 16000
    assert tick_rate([7.5, 16000.0]) == Fraction(5, 2)
    assert ticks("seconds", 2.0, Fraction(8)) == 16
    with pytest.raises(InputError, match=r"overlap is 0.3 s: expected a multiple of 0.125 s.*such as 0.25"):
        ticks("overlap", 0.3, Fraction(8))


LAYOUTS = [
    (Layout(source=16, end=64, window=16, overlap=8), "forwards"),
    (Layout(source=16, end=61, window=16, overlap=8), "backwards"),
    (Layout(source=40, end=77, window=16, overlap=5), "both"),
    (Layout(source=3, end=30, window=16, overlap=8), "both"),
    (Layout(source=3, end=9, window=16, overlap=8), "backwards"),
    (Layout(source=16, end=64, window=16, overlap=4, after=16), "forwards"),
    (Layout(source=16, end=20, window=16, overlap=4, after=16), "forwards"),
    (Layout(source=2, end=39, window=16, overlap=7, after=1), "forwards"),
]


@pytest.mark.parametrize(("layout", "direction"), LAYOUTS)
def test_windows_cover_what_is_to_be_made_once_and_know_what_is_there(layout, direction):
    there = set(range(layout.source)) | set(range(layout.end, layout.end + layout.after))
    made = set()
    for step in plan(layout, direction):
        inside = set(range(step.begin, step.begin + layout.window))
        new = set(range(*step.made))
        known = set().union(*(range(*span) for span in step.known))
        assert new and known and new <= inside and known <= inside
        assert not new & (there | made) and known <= there | made
        assert len(known) >= min(layout.overlap, layout.source)
        made |= new
    new = layout.end - layout.source
    before = {"forwards": 0, "backwards": new, "both": new // 2}[direction]
    first, last = (0, layout.end) if layout.after else (-before, layout.end - before)
    assert made | set(range(layout.source)) == set(range(first, last))


def test_the_last_window_of_a_gap_knows_both_ends():
    last = plan(Layout(source=16, end=64, window=16, overlap=4, after=16))[-1]
    (left, right) = last.known
    assert left[1] == last.made[0] and right == (64, 64 + right[1] - 64)
    assert min(left[1] - left[0], right[1] - right[0]) >= 4


# Making ----------------------------------------------------------------


def test_a_clip_and_its_sound_go_on_in_step_and_what_is_given_stays(pipe, media):
    longer = extend(pipe, media, seconds=1.5, **QUICK)
    made = longer.gather()
    assert made[VIDEO].shape == (12, 3, 32, 32) and made[AUDIO].shape == (24000,)
    assert torch.equal(made[VIDEO][:4], media["video"]) and torch.equal(made[AUDIO][:8000], media["audio"])
    assert [step.made for step in longer.steps] == [(4, 6), (6, 8), (8, 10), (10, 12)]
    again = extend(pipe, media, seconds=1.5, **QUICK).gather()
    assert all(torch.equal(made[m], again[m]) for m in made)


def test_every_window_keeps_what_the_one_before_it_made(pipe, media, monkeypatch):
    longer = extend(pipe, {"video": media["video"]}, seconds=1.0, **QUICK)
    seen = []
    call = type(pipe).__call__

    def watched(self, **given):
        seen.append(given)
        return call(self, **given)

    monkeypatch.setattr(type(pipe), "__call__", watched)
    made = longer.gather()[VIDEO]
    assert [given["seed"] for given in seen] == [0, 1]
    assert torch.equal(seen[1]["start"][VIDEO][:2], made[4:6]) and seen[1]["keep"][VIDEO] == [(0, 0.25)]


def test_a_sound_passes_over_a_seam_without_a_jump(pipe):
    """The seam is where the crossfade is still the mirror image of what is known."""
    wave = 0.5 * torch.sin(torch.arange(8000) * 0.01)
    for direction, seam in (("forwards", 8000), ("backwards", 8000)):
        longer = extend(pipe, {"audio": wave}, seconds=1.0, direction=direction, **QUICK)
        made = longer.gather()[AUDIO]
        assert longer.seams == [0.25, 0.5] if direction == "backwards" else longer.seams == [0.5, 0.75]
        steps = made.diff().abs()
        assert steps[seam - 2 : seam + 1].max() < 0.03


def test_backwards_and_both_sides_end_or_lie_around_what_is_given(pipe, media):
    made = extend(pipe, media, seconds=1.0, direction="backwards", **QUICK).gather()
    assert torch.equal(made[VIDEO][-4:], media["video"]) and torch.equal(made[AUDIO][-8000:], media["audio"])
    made = extend(pipe, {"audio": media["audio"]}, seconds=1.0, direction="both", **QUICK).gather()
    assert torch.equal(made[AUDIO][4000:12000], media["audio"])


def test_a_gap_is_filled_and_a_loop_is_closed(pipe, media):
    after = {"audio": media["audio"].flip(0)}
    made = extend(pipe, {"audio": media["audio"]}, seconds=1.5, after=after, **QUICK).gather()[AUDIO]
    assert made.shape == (24000,) and torch.equal(made[-8000:], after["audio"])
    longer = extend(pipe, media, seconds=1.0, loop=True, **QUICK)
    assert longer.steps[-1].known[1][0] == 8  # where the clip begins again
    made = longer.gather()
    assert made[VIDEO].shape == (8, 3, 32, 32) and torch.equal(made[VIDEO][:4], media["video"])


def test_no_more_is_held_than_later_windows_border_on(pipe, media, monkeypatch):
    held = []
    window = continuing.Continuation._window
    monkeypatch.setattr(
        continuing.Continuation,
        "_window",
        lambda self, m, step, pieces: held.append(len(pieces)) or window(self, m, step, pieces),
    )
    extend(pipe, {"video": media["video"]}, seconds=3.0, **{**QUICK, "num_inference_steps": 1}).gather()
    assert len(held) == 10 and max(held) <= 2


def test_silence_goes_on(pipe):
    made = extend(
        pipe, {"audio": torch.cat([torch.ones(4000) * 0.1, torch.zeros(8000)])}, seconds=1.0, **QUICK
    )
    assert made.gather()[AUDIO].shape == (16000,)


def test_media_that_differ_by_less_than_a_frame_are_cut_to_whole_ones(pipe, media):
    given = {**media, "audio": media["audio"][:7990]}
    with pytest.warns(UserWarning, match="counts as 0.5 s, to whole frames"):
        longer = extend(pipe, given, seconds=1.0, **QUICK)
    assert longer.gather()[AUDIO].shape == (16000,)


# Refused ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"overlap": 0.5}, "overlap is 0.5 s, and a window lasts 0.5 s.*expected 0.125 to 0.375 s"),
        ({"overlap": 3.0}, "overlap is 3 s, and a window lasts 0.5 s"),
        ({"overlap": 0.25, "loop": True}, "known at both ends.*expected 0.125 to 0.125 s"),
        ({"overlap": 0.1}, "overlap is 0.1 s: expected a multiple of 0.125 s"),
        ({"overlap": 0}, "overlap is 0 s"),
        ({"seconds": 0.25}, "seconds is 0.25, and what is given lasts 0.5 s: expected more"),
        ({"seconds": 0.5}, "expected more"),
        ({"seconds": float("nan")}, "seconds is nan"),
        ({"seconds": 1.05}, "seconds is 1.05 s: expected a multiple"),
        ({"direction": "sideways"}, "direction is 'sideways': expected one of forwards, backwards, both"),
        ({"direction": "both", "loop": True}, "direction is 'both' beside loop"),
        ({"window": 9.0}, "audio_length_in_s is 9|at most"),
        ({"keep": {"video": True}}, "keep was given: windows have their own"),
        ({"after": {"audio": torch.ones(8000)}}, "after names audio: expected audio, video"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_made(pipe, media, change, message):
    with pytest.raises(InputError, match=message) as raised:
        extend(pipe, media, **{"seconds": 1.0, **QUICK, **change})
    assert "\n" not in str(raised.value)


def test_media_of_different_lengths_and_kinds_without_time_are_refused(pipe, media):
    with pytest.raises(
        InputError, match=r"different lengths cannot go on in step \(audio 0.25 s, video 0.5 s\)"
    ):
        extend(pipe, {**media, "audio": media["audio"][:4000]}, seconds=1.0)
    with pytest.raises(InputError, match="image has no time and cannot be continued: expected audio, video"):
        extend(pipe, {"image": media["video"][0]}, seconds=1.0)
    with pytest.raises(InputError, match="names nothing to continue"):
        extend(pipe, {}, seconds=1.0)


# Files -----------------------------------------------------------------


def test_pieces_wait_for_those_before_them():
    def piece(begin, end, seed=0):
        return Piece(begin=begin, end=end, media={}, seed=seed)

    order = InOrder(-4)
    assert order.add(piece(0, 4, None)) == [] and order.add(piece(-2, 0)) == []
    assert [one.begin for one in order.add(piece(-4, -2))] == [-4, -2, 0]
    assert [one.begin for one in order.add(piece(4, 6))] == [4] and order.rest() == []
    order = InOrder(-4)
    order.add(piece(0, 4, None)), order.add(piece(-2, 0))
    assert [one.begin for one in order.rest()] == [-2, 0] and order.windows == 1
    order = InOrder(0)
    assert len(order.add(piece(0, 4, None))) == 1 and order.add(piece(10, 14, None)) == []
    assert order.rest() == []


def test_files_hold_what_is_made_and_say_how(pipe, media, tmp_path):
    longer = extend(pipe, media, seconds=1.25, overlap=0.125, seed=7, **QUICK)
    paths = longer.save(tmp_path)
    assert [path.name for path in paths] == ["000.mp4", "000.wav"]
    made = longer.gather()
    wave, rate = io.load_audio(paths[1])
    assert rate == 16000 and torch.allclose(wave, made[AUDIO], atol=2**-14)
    clip = io.load_video(paths[0])
    assert clip.frames.shape == made[VIDEO].shape and clip.fps == 8
    assert clip.sampling_rate == 16000 and abs(len(clip.audio) - 20000) <= 1024
    for path in paths:
        record = read_record(path)
        assert record.continued["windows"] == 2 and record.continued["overlap"] == 0.125
        assert record.inputs[0]["text"] == "a red ball" and record.samples[0]["seed"] == 7
        with pytest.raises(InputError, match="was made by codi continue, window by window"):
            record.arguments()
    assert cli.main(["generate", "--from", str(paths[1]), "-o", str(tmp_path), "--quiet"]) == 2


@pytest.mark.parametrize("direction", ["forwards", "backwards"])
def test_an_interrupt_leaves_the_windows_that_were_complete(pipe, media, tmp_path, monkeypatch, direction):
    longer = extend(pipe, {"audio": media["audio"]}, seconds=1.5, direction=direction, **QUICK)
    made = longer._made

    def interrupted(step, held, seed):
        if seed == 2:
            raise KeyboardInterrupt
        return made(step, held, seed)

    monkeypatch.setattr(longer, "_made", interrupted)
    with pytest.raises(KeyboardInterrupt):
        longer.save(tmp_path)
    wave, _ = io.load_audio(tmp_path / "000.wav")
    assert wave.shape == (16000,) and read_record(tmp_path / "000.wav").continued["windows"] == 2
    kept = wave[:8000] if direction == "forwards" else wave[-8000:]
    assert torch.allclose(kept, media["audio"], atol=2**-14)


def test_without_a_complete_window_nothing_is_left(pipe, media, tmp_path, monkeypatch):
    longer = extend(pipe, {"audio": media["audio"]}, seconds=1.0, **QUICK)

    def broken(*_):
        raise InputError("no")

    monkeypatch.setattr(longer, "_made", broken)
    with pytest.raises(InputError, match="no"):
        longer.save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_command_continues_a_clip_with_its_sound(files, tmp_path, capsys):
    command = ["continue", str(files / "with_sound.mp4"), "--seconds", "1", "-o", str(tmp_path), *STEPS]
    assert cli.main([*command, "--model", str(files / "model")]) == 0
    assert [line.rsplit("/", 1)[1] for line in capsys.readouterr().out.splitlines()] == ["000.mp4", "000.wav"]
    sources = read_record(tmp_path / "000.mp4").sources
    assert [row["as"] for row in sources] == ["video", "audio"] and len(sources[0]["sha256"]) == 64


def test_files_are_sorted_by_what_goes_on(files):
    clip, sounding, take = (str(files / name) for name in ("clip.mp4", "with_sound.mp4", "take.wav"))
    assert sorted_files([clip]) == ({VIDEO: clip}, {})
    assert sorted_files([sounding]) == ({VIDEO: sounding, AUDIO: sounding}, {})
    assert sorted_files([sounding, take]) == ({VIDEO: sounding, AUDIO: take}, {})
    assert sorted_files([sounding], [AUDIO]) == ({AUDIO: sounding}, {})
    assert sorted_files([take, take]) == ({AUDIO: take}, {AUDIO: take})
    with pytest.raises(InputError, match="is the third audio"):
        sorted_files([take, take, take])
    with pytest.raises(InputError, match="expected the same kinds on both sides of a gap"):
        sorted_files([take, take, clip])
    with pytest.raises(InputError, match="--to names audio, and no file holds it: expected video"):
        sorted_files([clip], [AUDIO], "--to")


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["nothing.wav", "--seconds", "2"], "no such file"),
        (["photo.png", "--seconds", "2"], "image has no time"),
        (["take.wav", "--seconds", "0.1"], "seconds is 0.1, and what is given lasts 0.5 s"),
        (["take.wav"], "--seconds"),
    ],
)
def test_a_command_that_cannot_be_meant_is_one_line(files, tmp_path, capsys, typed, message):
    typed = [str(files / typed[0]), *typed[1:], "-o", str(tmp_path), "--model", str(files / "model"), *STEPS]
    assert cli.main(["continue", *typed]) == 2
    assert message in capsys.readouterr().err and list(tmp_path.iterdir()) == []
