"""Packages of emoji, instruments and voices -> manifests: a miniature of each package, made here.

Libraries that draw SVG and play sound fonts are stood in for by their interfaces; the tests of the real ones
run where they are installed.
"""

import gzip
import io
import json
import math
import re
import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image

from codi.io import load_image, load_video, save_audio
from codi.types import InputError
from data.manifest import Manifest
from data.prepare.__main__ import main
from data.prepare.emoji import sounds
from data.prepare.emoji.alike import first_alike
from data.prepare.emoji.drawings import square, words_of
from data.prepare.emoji.general_midi import PERCUSSION, PROGRAMS, SHOWN
from data.prepare.emoji.items import Item, LeftOut, make_all
from data.prepare.emoji.moving import MOTIONS, STRUCK, Pose, draw_pose, poses, script
from data.prepare.emoji.names import Emoji
from data.prepare.emoji.packages import DEBIAN, LICENCES, Package, Packages
from data.prepare.emoji.speech import speech_items, trimmed
from data.prepare.emoji.split import COMPOSITIONS, NAMES, SIDES, Side, side_of, together
from data.prepare.emoji.synthesiser import Note, Synthesiser

RATE = 8000
EMOJI = {"1f3ba": "Trumpet", "1f431": "cat face", "2764-fe0f": "red heart", "1f499": "blue heart"}
COLOURS = {"1f3ba": "#c0a000", "1f431": "#805020", "2764-fe0f": "#e00000", "1f499": "#0000e0"}
SVG = ("noto", "twemoji", "fluent-emoji", "fluent-emoji-flat")


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")


def stated(folder, name, licence=None):
    write(folder / "package.json", {"name": name, "version": "1.2.3", "license": licence or LICENCES[name]})
    return folder


def debian(folder, name):
    documents = folder / name / "usr/share/doc" / name
    write(documents / "copyright", f"Licence:\n  {DEBIAN[name][1]}, and so on")
    with gzip.open(documents / "changelog.Debian.gz", "wt") as stream:
        stream.write(f"{name} (1:2.0-3) unstable; urgency=low\n")
    return folder / name


def shape(colour, where=(8, 8, 40, 56), side=64):
    picture = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    picture.paste(colour, where)
    return picture


@pytest.fixture
def packages(tmp_path):
    """Every package in its own way of lying there: unpacked tgz, node_modules, unpacked deb."""
    folder = tmp_path / "packages"
    entry = lambda key, name: {
        "hexcode": key.upper(),
        "label": name,
        "group": 7,
        "subgroup": 68,
        "tags": ["a", "b"],
    }
    base = stated(folder / "emojibase/package", "emojibase-data")
    write(base / "meta/groups.json", {"groups": {"7": "objects", "9": "flags"}, "subgroups": {"68": "music"}})
    others = [{"hexcode": "1F1EB", "label": "F"}, entry("1F3F4", "a flag") | {"group": 9}]
    write(base / "en/data.json", [*others, *(entry(key, name) for key, name in EMOJI.items())])
    write(base / "de/data.json", [entry(key, f"das {name}") for key, name in EMOJI.items()])
    for number, style in enumerate(SVG):
        place = stated(folder / "node_modules/@iconify-json" / style, f"@iconify-json/{style}")
        icon = lambda key, n=number: {
            "body": f'<rect x="{n * 4}" y="4" width="20" height="24" fill="{COLOURS[key]}"/>'
        }
        write(
            place / "icons.json",
            {"width": 32, "height": 32, "icons": {f"icon-{key}": icon(key) for key in EMOJI}},
        )
        chars = {} if style == "fluent-emoji" else {key: f"icon-{key}" for key in EMOJI}
        write(place / "chars.json", chars)
    solid = stated(folder / "3d/package", "@lobehub/fluent-emoji-3d") / "assets"
    solid.mkdir()
    shape("#c0a000", (0, 0, 64, 20)).save(solid / "1f3ba.webp", lossless=True)
    for number in (1, 2, 3, 4):
        name = f"@lobehub/fluent-emoji-anim-{number}"
        (stated(folder / f"anim{number}/package", name) / "assets").mkdir()
    white = Image.new("RGBA", (64, 64), "white")
    boxes = [shape("#000000", (k, 8, k + 20, 40)) for k in (0, 20, 40)]
    frames = [Image.alpha_composite(white, box) for box in boxes]
    frames[0].save(
        folder / "anim1/package/assets/1f3ba.webp",
        save_all=True,
        append_images=frames[1:],
        duration=[500, 250, 250],
        lossless=True,
    )
    frames[0].save(folder / "anim2/package/assets/1f431.webp", lossless=True)
    art = debian(folder, "openclipart-png") / "usr/share/openclipart/png/animals"
    art.mkdir(parents=True)
    shape("#205080", (4, 4, 60, 30)).save(art / "blueWhale_02.png")
    shape("#205080", (4, 4, 60, 30)).save(art / "whaleAgain.png")
    font = debian(folder, "fluid-soundfont-gm") / "usr/share/sounds/sf2/FluidR3_GM.sf2"
    write(font, "a sound font")
    samples = stated(folder / "samples/package", "supersonic-scsynth-samples") / "samples"
    samples.mkdir()
    save_audio(samples / "bd_boom.flac", torch.sin(torch.arange(4000) * 0.3) * 0.5, 44_100)
    save_audio(samples / "ambi_none.flac", torch.zeros(4000), 44_100)
    return folder


class Tones:
    """`tinysoundfont.Synth` by its interface: a sine for every note that is on, in both channels."""

    def __init__(self, samplerate, gain):
        self.rate, self.on, self.now, self.calls = samplerate, {}, 0, []

    def sfload(self, path):
        return 1

    def program_select(self, channel, font, bank, program, drums=False):
        self.calls.append((channel, bank, program, drums))
        self.colour = 1 + (program % 5) / 10

    def noteon(self, channel, pitch, velocity):
        self.on[pitch] = velocity / 127

    def noteoff(self, channel, pitch):
        self.on.pop(pitch, None)

    def sounds_off(self, channel):
        self.on.clear()

    def generate(self, samples):
        time = np.arange(samples) / self.rate
        wave = np.zeros(samples)
        for pitch, level in self.on.items():
            wave += 0.2 * level * np.sin(2 * np.pi * 440 * 2 ** ((pitch - 69) / 12) * self.colour * time)
        return memoryview(np.repeat(wave.astype(np.float32), 2).tobytes())


@pytest.fixture
def libraries(monkeypatch):
    def svg_to_bytes(svg_string, width, height, skip_system_fonts):
        x, y, w, h = (
            float(re.search(rf' {k}="([\d.]+)"', svg_string)[1]) for k in ("x", "y", "width", "height")
        )
        scale = width / float(re.search(r'viewBox="0 0 (\d+)', svg_string)[1])
        picture = Image.new("RGBA", (width, height), (0, 0, 0, 0))
        box = tuple(round(scale * v) for v in (x, y, x + w, y + h))
        picture.paste(re.search(r'fill="(#\w+)"', svg_string)[1], box)
        found = io.BytesIO()
        picture.save(found, "PNG")
        return found.getvalue()

    monkeypatch.setitem(sys.modules, "resvg_py", types.SimpleNamespace(svg_to_bytes=svg_to_bytes))
    monkeypatch.setitem(sys.modules, "tinysoundfont", types.SimpleNamespace(Synth=Tones))


def prepare(packages, out, parts, *more):
    sizes = ("--size", "32", "--rate", str(RATE), "--fps", "8", "--seconds", "1")
    return main(["emoji", str(packages), "-o", str(out), "--parts", parts, *sizes, *more])


def rows(out, part=None):
    """All rows of the three sides, by their ids."""
    found = {}
    for side in SIDES:
        path = out / (f"{side}.{part}.jsonl" if part else f"{side}.jsonl")
        for line in path.read_text().splitlines():
            row = json.loads(line)
            found[row["id"]] = row | {"side": side}
    return found


def test_pictures_clips_and_moving_pictures(packages, libraries, tmp_path, capsys):
    out = tmp_path / "out"
    assert prepare(packages, out, "pictures,clips,moving") == 0, capsys.readouterr().err
    assert "train.pictures.jsonl" in capsys.readouterr().out
    found = rows(out)
    trumpet = found["noto-1f3ba"]
    assert trumpet["captions"] == ["trumpet, noto", "trumpet", "a, b, noto"]
    assert trumpet["info"]["sources"] == [
        {"package": "@iconify-json/noto", "version": "1.2.3", "licence": "Apache-2.0"}
    ]
    assert trumpet["info"]["family"] == "noto" and found["3d-1f3ba"]["info"]["family"] == "fluent"
    assert load_image(out / trumpet["image"]).shape == (3, 32, 32)
    # glossy is named by the package of flat; a flag and what has no group are none
    assert "glossy-2764" in found and not any("1f3f4" in identity for identity in found)
    # what differs in colour alone is not the same, what differs in its name alone is
    assert "noto-2764" in found and "noto-1f499" in found
    art = [identity for identity in found if identity.startswith("clipart")]
    assert art == ["clipart-animals_blueWhale_02"]
    left = [json.loads(line) for line in (out / "left_out.pictures.jsonl").read_text().splitlines()]
    assert left == [{"id": "clipart-animals_whaleAgain", "why": f"equals pictures/{art[0]}.png"}]
    # frame k of a clip is what is on show at k / fps, and what does not move is no clip
    frames = load_video(out / found["animated-1f3ba"]["video"]).frames
    assert len(frames) == 8 and "animated-1f431" not in found
    middle = [int((frame[2, 12] < 64).nonzero().float().mean()) for frame in frames]
    assert middle == [4] * 4 + [14] * 2 + [24] * 2
    # an instrument moves in every way in every style; others once in each family, and say whose notes
    assert {row["info"]["motion"] for key, row in found.items() if key.endswith("-noto-1f3ba")} == set(
        MOTIONS
    )
    cats = [
        row for row in found.values() if row["info"]["part"] == "moving" and row["info"]["key"] == "1f431"
    ]
    assert sorted(row["info"]["family"] for row in cats) == ["fluent", "noto", "twemoji"]
    assert all(row["info"]["instrument"] in row["captions"][0] for row in cats)
    clip = load_video(out / cats[0]["video"])
    assert clip.audio is not None and len(clip.frames) == 8 and cats[0]["image"].startswith("pictures/")
    assert "twemoji | 1.2.3 | CC-BY-4.0" in (out / "LICENCES.md").read_text()
    for side in SIDES:
        if (out / f"{side}.jsonl").stat().st_size:
            Manifest(out / f"{side}.jsonl")  # every file of every row is there
    # all of one composition is on one side, however it is shown
    sides = {}
    for row in found.values():
        place = (row["info"]["name"], row["info"]["family"])
        assert sides.setdefault(place, row["side"]) == row["side"]


def test_the_same_command_goes_on_and_gives_the_same(packages, libraries, tmp_path, capsys):
    once, twice = tmp_path / "once", tmp_path / "twice"
    assert prepare(packages, once, "pictures") == prepare(packages, twice, "pictures") == 0
    manifest = (once / "train.pictures.jsonl").read_bytes()
    assert manifest == (twice / "train.pictures.jsonl").read_bytes()
    kept = once / "pictures" / "noto-1f431.png"
    before = kept.stat().st_mtime_ns
    (once / "pictures" / "noto-1f3ba.png").unlink()
    assert prepare(packages, once, "pictures") == 0
    assert kept.stat().st_mtime_ns == before and (once / "train.pictures.jsonl").read_bytes() == manifest
    assert main(["emoji", str(packages), "-o", str(once), "--parts", "pictures"]) == 2
    assert "was begun with --size 32, not 64" in capsys.readouterr().err


def test_sounds(packages, libraries, tmp_path, monkeypatch):
    monkeypatch.setattr(sounds, "PROGRAMS", ("trumpet",))  # the others are played in the same way
    monkeypatch.setattr(sounds, "PERCUSSION", {38: "snare drum"})
    monkeypatch.setattr(sounds, "PITCHES", {"low": 48})
    out = tmp_path / "out"
    player = Synthesiser(packages / "x.sf2", RATE)
    wave = player.play(None, [Note(0.25, 0.25, 38)], 1.0)
    assert len(wave) == RATE and not wave[: RATE // 4].any() and wave[RATE // 4 : RATE // 2].any()
    assert not wave[RATE // 2 :].any() and player._synth.calls == [(9, 128, 0, True)]
    assert torch.equal(wave, player.play(None, [Note(0.25, 0.25, 38)], 1.0))
    assert prepare(packages, out, "sounds") == 0
    found = rows(out, "sounds")
    assert found["sample-bd_boom"]["captions"] == ["bass drum boom", "the sound of bass drum boom"]
    assert "sample-ambi_none" not in found  # silent
    assert found["program000-48-1"]["captions"][0] == "trumpet, three rising notes, low"
    assert found["percussion38-0-softly"]["info"]["events"] == [0.0]
    assert all(row["info"]["held_out"] != "name" for key, row in found.items() if key.startswith("program"))


class Speaker:
    """What `Espeak` and `Flite` are, by their interface: a tone as long as the text."""

    package = Package(name="speaker", version="1", licence="output of a program", folder=None)

    def say(self, text, voice):
        wave = torch.sin(torch.arange(1000 * len(text)) * (0.2 + len(voice) / 100))
        return torch.cat([torch.zeros(3000), wave, torch.zeros(3000)]), 16_000


def test_names_are_spoken_in_several_voices_and_languages(tmp_path):
    emoji = Emoji(
        key="1f431", name="cat", tags=(), group="g", subgroup="s", labels={"de": "Katze", "fr": "chat"}
    )
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "pictures/a.png")
    side = side_of("cat", "noto")
    shown = {("1f431", "noto"): ("pictures/a.png", side, "noto", Speaker.package)}
    speakers = {"espeak-ng": Speaker(), "flite": Speaker()}
    items = list(speech_items({"1f431": emoji}, speakers, ["de", "fr"], RATE, 1.0, shown))
    languages = [item.facts["language"] for item in items if not item.beside]
    assert languages[:3] == ["en", "en", "en"] and set(languages[3:]) == {"de", "fr"}
    left = {}
    made = make_all(items, tmp_path, "speech", left.__setitem__)
    german = next(one for one in made if one.item.facts["language"] == "de")
    assert german.item.captions[0] == 'a German voice says "Katze"' and german.item.name == "cat"
    [pair] = [one for one in made if one.item.beside]
    assert set(pair.row["sha256"]) == {"image", "audio"} and "noto" in pair.row["captions"][0]
    long = Emoji(key="1", name="a name of twenty letters", tags=(), group="g", subgroup="s", labels={})
    items = list(speech_items({"1": long}, speakers, [], RATE, 1.0, {}))
    assert make_all(items, tmp_path, "speech", left.__setitem__) == []
    assert "takes 1.5" in left[items[0].id]


def test_silence_at_both_ends_is_cut_off():
    wave = torch.cat([torch.zeros(50), torch.tensor([0.5, 0.0, -0.5]), torch.zeros(9)])
    assert trimmed(wave).tolist() == [0.5, 0.0, -0.5] and len(trimmed(wave[:0])) == 0


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        (
            "node_modules/@iconify-json/twemoji",
            "no package @iconify-json/twemoji .*npm pack @iconify-json/twemoji",
        ),
        ("openclipart-png", "no package openclipart-png .*apt-get download openclipart-png"),
        ("emojibase", "no package emojibase-data"),
    ],
)
def test_a_missing_package_is_named_before_anything_is_made(
    packages, libraries, tmp_path, capsys, missing, expected
):
    (packages / missing).rename(tmp_path / "elsewhere")
    assert prepare(packages, tmp_path / "out", "pictures") == 2
    error = capsys.readouterr().err
    assert re.search(expected, error) and error.count("\n") == 1 and not (tmp_path / "out").exists()


def test_what_cannot_be_used_is_named(packages, libraries, tmp_path, capsys, monkeypatch):
    stated(packages / "3d/package", "@lobehub/fluent-emoji-3d", "GPL-3.0")
    with pytest.raises(InputError, match="states the licence 'GPL-3.0': expected 'MIT'"):
        Packages(packages).find("@lobehub/fluent-emoji-3d")
    stated(packages / "twice", "emojibase-data")
    with pytest.raises(InputError, match="is there 2 times"):
        Packages(packages).find("emojibase-data")
    write(packages / "openclipart-png/usr/share/doc/openclipart-png/copyright", "all rights reserved")
    with pytest.raises(InputError, match="does not say"):
        Packages(packages).find("openclipart-png")
    for more, expected in (
        (["--parts", "films"], "--parts 'films': expected some of pictures, clips"),
        (["--size", "9"], "--size is 9"),
        (["--size", "33"], "expected an even number"),
    ):
        assert main(["emoji", str(packages), "-o", str(tmp_path / "out"), *more]) == 2
        assert expected in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "tinysoundfont", None)
    with pytest.raises(InputError, match=r"tinysoundfont .*pip install --no-deps tinysoundfont"):
        Synthesiser(packages / "x.sf2", RATE)


def test_every_emoji_that_shows_an_instrument_shows_one_that_can_be_played():
    known = {*PROGRAMS, *PERCUSSION.values()}
    assert len(PROGRAMS) == 128 == len(set(PROGRAMS))
    assert PROGRAMS[56] == "trumpet" and PROGRAMS[40] == "violin" and PROGRAMS[127] == "gunshot"
    assert {name for names in SHOWN.values() for name in names} <= known and set(STRUCK) <= known
    program, notes = script("maracas", 2.0, "a")
    assert program is None and {note.pitch for note in notes} == {70}
    begins = [note.begins for note in script("trumpet", 2.0, "b")[1]]
    assert begins[0] >= 0.15 and min(np.diff(begins)) >= 0.25 and begins[-1] < 1.75


@pytest.mark.parametrize("motion", MOTIONS)
def test_each_motion_begins_with_its_event_and_not_before(motion):
    """What a picture measures (height, size, angle, brightness) is at rest before, and not right after."""
    move, rest = MOTIONS[motion]
    found = poses(motion, [0.5, 1.25], [1.0, 0.5], 32, 16)
    assert found[:8] == [rest] * 8
    assert found[9] != rest and found[21] != rest
    far = lambda pose: max(
        abs(pose.scale - 1), abs(pose.lift), abs(pose.turn) / 45, abs(pose.light - rest.light)
    )
    assert max(map(far, found[8:20])) > max(map(far, found[20:]))  # the weaker event moves it less


def test_a_pose_is_drawn_as_it_says():
    drawing = shape("#000000", (0, 0, 64, 64))
    dark = lambda **pose: (draw_pose(drawing, Pose(**pose), 32)[0] < 128).nonzero().float()
    rest = dark()
    assert abs(math.sqrt(len(rest)) - 0.62 * 32) < 1 and torch.allclose(
        rest.mean(0), torch.tensor(15.5), atol=0.5
    )
    assert abs(math.sqrt(len(dark(scale=1.5))) - 1.5 * 0.62 * 32) < 1
    assert abs((rest.mean(0) - dark(lift=0.125).mean(0))[0] - 4) < 0.5
    # turned to the right by its top, its middle swings to the left
    turned = dark(turn=30).mean(0) - rest.mean(0)
    arm = 0.31 * 32
    assert abs(turned[0] + arm * (1 - math.cos(math.pi / 6))) < 0.7
    assert abs(abs(turned[1]) - arm * math.sin(math.pi / 6)) < 0.7
    assert draw_pose(drawing, Pose(light=0.5), 32).max() == 128


def test_sides_are_even_stable_and_by_composition():
    names = [f"name {k}" for k in range(4000)]
    by_name = [side_of(name, None) for name in names]
    for side, share in NAMES.items():
        assert abs(sum(found.side == side for found in by_name) / len(names) - share) < 0.012
    seen = [name for name, found in zip(names, by_name) if found.side == "train"]
    composed = [side_of(name, "noto") for name in seen]
    for side, share in COMPOSITIONS.items():
        assert abs(sum(found.side == side for found in composed) / len(seen) - share) < 0.015
    assert {found.held_out for found in composed} == {None, "composition"}
    # a held-out name is held out in every family; case changes nothing
    held = next(name for name, found in zip(names, by_name) if found.side == "test")
    assert {side_of(held.upper(), family) for family in "abcdef"} == {Side("test", "name")}
    assert side_of(held, "a", names=False).held_out != "name"
    assert together([Side("train"), Side("test", "name")]) is None
    assert together([Side("test", "composition"), Side("test", "name")]) == Side("test", "name")


def test_the_first_of_what_is_alike_is_kept():
    base = np.random.default_rng(0).random((4, 200)).astype(np.float32)
    near = base[1] + 0.01
    chain = near + 0.015  # near to what was dropped, not to what is kept
    vectors = np.stack([base[0], base[1], near, base[2], base[0], chain, base[3]])
    assert first_alike(vectors, 0.02) == [0, 1, 1, 3, 0, 5, 6]


def test_pictures_are_squared_without_a_cut_and_words_are_found_in_names():
    wide = square(shape("#000000", (0, 0, 64, 64)).resize((64, 32)), 32)
    assert (wide[:, 12:20] < 20).all() and (wide[:, :6] > 235).all()
    assert words_of("blueWhale_02_jarno_vasama") == "blue whale"


def test_files_that_are_equal_to_the_bit_are_one(tmp_path):
    package = Package(name="p", version="1", licence="MIT", folder=tmp_path)
    item = lambda name: Item(
        id=name,
        file=f"{name}.png",
        make=lambda path: path.write_bytes(b"same"),
        captions=(name, name),
        name=name,
        side=Side("train"),
        sources=(package,),
    )

    def useless(path):
        raise LeftOut("shows nothing")

    left = {}
    items = [item("a"), item("b")]
    made = make_all(
        [*items, Item(**{**vars(item("c")), "make": useless})], tmp_path, "pictures", left.__setitem__
    )
    assert [one.item.id for one in made] == ["a"] and made[0].row["captions"] == ["a"]
    assert left == {"b": "equals a.png", "c": "shows nothing"}


def test_svg_is_drawn_by_the_real_library():
    pytest.importorskip("resvg_py", reason="the extra emoji is not installed")
    from data.prepare.emoji.drawings import render_svg

    text = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 4 4"><rect width="2" height="4" '
    text += 'fill="red"/></svg>'
    drawn = render_svg(text, 16)
    assert drawn.size == (16, 16) and drawn.getpixel((2, 8)) == (255, 0, 0, 255)
    assert drawn.getpixel((12, 8))[3] == 0
    with pytest.raises(LeftOut, match="cannot be drawn"):
        render_svg("<svg", 16)


def test_a_spoken_name_depends_on_nothing_said_before():
    pytest.importorskip("espeakng_loader", reason="the extra emoji is not installed")
    from data.prepare.emoji.speech import ENGLISH, LANGUAGES, Espeak

    espeak = Espeak()
    first, rate = espeak.say("cat", ENGLISH[0].id)
    for voice in (*ENGLISH[1:], *LANGUAGES.values()):
        assert len(espeak.say("piano", voice.id)[0]) > rate / 5
    assert torch.equal(first, espeak.say("cat", ENGLISH[0].id)[0])
    with pytest.raises(InputError, match="has no voice 'nobody'"):
        espeak.say("cat", "nobody")
