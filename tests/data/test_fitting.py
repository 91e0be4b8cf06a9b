"""How media come to the geometry of a model: what is cropped, padded and stretched, what of a sample is
padding, and that batches, workers, mixtures and caches know it.
"""

import json

import pytest
import torch
from PIL import Image

from codi import io
from codi.io.media_file import MediaFile
from codi.modalities import Cut, Padded, kind_of
from codi.types import InputError, Modality, ModalitySpec
from data.cache import CachedSource, build_cache
from data.manifest import Manifest, write_manifest
from data.media import Augment, Fitting, MediaSource
from data.mixture import Mixture
from data.sources import open_source, read_fits
from data.workers import Decoder
from tests.data.files import RATE, SPECS, clicks, number_of, numbered, save_clip, world_files

SQUARE = ModalitySpec(raw_shape=(3, 16, 16), latent_shape=())


def bars(height: int, width: int) -> torch.Tensor:
    """A picture whose left half is red and whose right half is blue."""
    picture = torch.zeros(3, height, width, dtype=torch.uint8)
    picture[0, :, : width // 2] = 255
    picture[2, :, width // 2 :] = 255
    return picture


def source(path, media, **options):
    options = {"seed": 1, "shuffle": False, "decoder": Decoder(workers=0), **options}
    return MediaSource(Manifest(path), media, SPECS, **options)


def test_three_ways_to_another_aspect_ratio():
    wide = bars(8, 32)
    cropped, padded, stretched = (
        io.from_unit(io.fit_image(wide, 16, fit, (10, 20, 30))) for fit in ("crop", "pad", "stretch")
    )
    assert torch.equal(cropped, io.from_unit(io.fit_image(wide[..., 12:20], 16)))
    # 8 x 32 at half its size lies in rows 6 to 9
    assert torch.equal(padded[:, 6:10], io.from_unit(io.fit_image(wide, (4, 16))))
    ground = torch.cat([padded[:, :6], padded[:, 10:]], dim=1)
    assert (ground == torch.tensor([10, 20, 30], dtype=torch.uint8)[:, None, None]).all()
    assert stretched.shape == (3, 16, 16) and stretched[0, :, :7].float().mean() > 240
    assert stretched[2, :, 9:].float().mean() > 240
    for fit in ("crop", "pad", "stretch"):
        assert torch.equal(io.fit_image(bars(16, 16), 16, fit), io.to_unit(bars(16, 16)))


def test_what_of_a_padded_picture_is_content(tmp_path):
    io.save_image(tmp_path / "a.png", bars(9, 32))
    kind, file = kind_of("image"), MediaFile(tmp_path / "a.png", "a.png")
    read = kind.read(file, SQUARE, Cut(fit="pad", colour=(0, 255, 0)))
    assert isinstance(read, Padded) and read.content == ((0, 3), (6, 10), (0, 16))
    green = (read.value[1] > 200) & (read.value[0] < 50) & (read.value[2] < 50)
    assert green[:6].all() and green[10:].all() and not green[6:10].any()
    flipped = kind.read(file, SQUARE, Cut(fit="pad", colour=(0, 255, 0), flip=True))
    assert torch.equal(flipped.value, read.value.flip(-1))
    # the augmentation cuts a part of the same aspect ratio, which is padded alike
    assert kind.read(file, SQUARE, Cut(fit="pad", crop=(0.5, 0, 0))).content[1] == (6, 10)
    assert isinstance(kind.read(file, SQUARE, Cut(fit="stretch")), torch.Tensor)
    other = ModalitySpec(raw_shape=(3, 8, 24), latent_shape=())
    assert kind.read(file, other, Cut()).shape == (3, 8, 24)
    assert kind.read(file, other, Cut(crop=(0.5, 1, 1))).shape == (3, 8, 24)


def test_short_sounds_and_clips_are_padded_and_long_ones_are_not(tmp_path):
    save_clip(tmp_path / "short.mp4", numbered(10), 8, clicks(1.25, 0.5))
    save_clip(tmp_path / "long.mp4", numbered(24), 8, clicks(3, 0.5))
    rows = [{"video": "short.mp4"}, {"video": "long.mp4"}, {"video": "long.mp4", "start": 1, "end": 1.5}]
    write_manifest(tmp_path / "m.jsonl", rows)
    both = source(tmp_path / "m.jsonl", ["video", "audio"])
    batch = both.fetch([0, 1, 2])
    frames = batch.content_of(Modality.VIDEO)[:, 0] * 16
    seconds = batch.content_of(Modality.AUDIO)[:, 0] * 2
    assert frames.tolist() == [[0, 10], [0, 16], [0, 4]]
    # aac ends on whole frames of 1,024 samples
    assert seconds[:, 0].tolist() == [0, 0, 0] and seconds[1:, 1].tolist() == [2, 0.5]
    assert 1.25 <= seconds[0, 1] < 1.25 + 1024 / RATE
    assert number_of(batch["video"][0]) == [*range(10), *[9] * 6]
    assert not batch["audio"][2, RATE // 2 :].any()
    assert "video_content" not in both.fetch([1]) and "audio_content" not in both.fetch([1, 4])
    learned = source(tmp_path / "m.jsonl", ["video"], fitting=Fitting(padding="learned"))
    assert "video_content" not in learned.fetch([0]) and learned.identity != both.identity


def test_one_window_for_picture_and_sound_of_different_lengths(tmp_path):
    save_clip(tmp_path / "a.mp4", numbered(48), 8)
    io.save_audio(tmp_path / "a.wav", clicks(4, *(k / 2 for k in range(8))), RATE)
    write_manifest(tmp_path / "m.jsonl", [{"video": "a.mp4", "audio": "a.wav"}])
    windows = source(tmp_path / "m.jsonl", ["video", "audio"], augment=Augment(window=True))
    batch = windows.fetch(list(range(8)))
    starts = [number_of(frames)[0] for frames in batch["video"]]
    assert windows.bad == 0 and "audio_content" not in batch and len(set(starts)) > 3
    assert max(starts) <= 16  # from second 2 on the sound would end early
    for start, wave in zip(starts, batch["audio"]):
        heard = int(wave[: RATE // 2 + 2].abs().argmax()) / RATE
        assert ((0.5 - heard) % 0.5 - start / 8 + 1e-3) % 0.5 <= 1 / 8 + 2e-3


def test_a_mixture_and_a_cache_keep_what_is_content(tmp_path):
    rows, _ = world_files(tmp_path, 2)
    io.save_image(tmp_path / "wide.png", bars(32, 64))
    write_manifest(tmp_path / "a.jsonl", [{"image": "wide.png", "caption": "x"}])
    write_manifest(tmp_path / "b.jsonl", [{"image": row["image"], "caption": "y"} for row in rows])
    fitting = Fitting(fits={Modality.IMAGE: "pad"})
    wide, world = (
        source(tmp_path / name, ["image", "text"], fitting=fitting) for name in ("a.jsonl", "b.jsonl")
    )
    batch = Mixture([(wide, 1), (world, 1)], seed=0).fetch(list(range(8)))
    content = batch.content_of(Modality.IMAGE)
    padded = torch.tensor([words == "x" for words in batch["text"]])
    assert 0 < padded.sum() < 8
    assert (content[padded] == torch.tensor([[0, 1], [0.25, 0.75], [0, 1]])).all()
    assert (content[~padded] == torch.tensor([0.0, 1.0])).all()

    def encode(batch):
        return {"image": batch["image"].float()[..., ::16, ::16]}

    build_cache(tmp_path / "c", wide, encode, 1, identity=wide.identity)
    cached = CachedSource(tmp_path / "c", ["image"], seed=1, facts=()).fetch([0])
    assert torch.equal(cached.content_of(Modality.IMAGE), wide.fetch([0]).content_of(Modality.IMAGE))
    assert "content" not in cached.rows[0]


def test_animated_pictures_are_clips_that_go_on_and_pictures_that_stand(tmp_path):
    first, *rest = [Image.new("RGB", (32, 32), (level,) * 3) for level in (8, 12, 16)]
    for name, loop in (("a.webp", 0), ("a.gif", 0), ("a.png", 0), ("twice.gif", 1)):
        how = {"lossless": True} if name.endswith("webp") else {}
        options = {"duration": [250, 125, 125], "loop": loop, **how}
        first.save(tmp_path / name, save_all=True, append_images=rest, **options)
    first.save(tmp_path / "once.gif", save_all=True, append_images=rest, duration=[250, 125, 125])
    names = ["a.webp", "a.gif", "a.png", "twice.gif", "once.gif"]
    write_manifest(tmp_path / "m.jsonl", [{"video": name, "image": name} for name in names])
    batch = source(tmp_path / "m.jsonl", ["video", "image"]).fetch(list(range(5)))
    shown = [number_of(frames) for frames in batch["video"]]
    one = [0, 0, 1, 2]
    assert shown == [one * 4] * 3 + [one * 2 + [2] * 8, one + [2] * 12]
    assert (batch.content_of(Modality.VIDEO)[:, 0, 1] * 16).tolist() == [16, 16, 16, 8, 4]
    assert [number_of(picture[None]) for picture in batch["image"]] == [[0]] * 5
    prompts = [kind_of("video").prepare(str(tmp_path / name), SPECS[Modality.VIDEO]) for name in names]
    assert [number_of(io.from_unit(prompt)) for prompt in prompts] == shown
    # a window of the row ends the repetition
    write_manifest(tmp_path / "w.jsonl", [{"video": "a.gif", "start": 0, "end": 0.5}])
    cut = source(tmp_path / "w.jsonl", ["video"]).fetch([0])
    assert number_of(cut["video"][0]) == one + [2] * 12


def test_fits_are_chosen_by_modality_and_by_source(tmp_path):
    io.save_image(tmp_path / "wide.png", bars(32, 64))
    for name in ("a.jsonl", "b.jsonl"):
        write_manifest(tmp_path / name, [{"image": "wide.png"}])
    about = {"media": ["image"], "geometry": {"image": {"size": 64}}, "workers": 0, "check_files": False}
    manifests = [str(tmp_path / "a.jsonl"), {"path": str(tmp_path / "b.jsonl"), "fit": "pad"}]
    both = {"manifests": manifests, "pad_colour": [1, 2, 3], "fit": {"image": "stretch"}}
    with open_source({**about, **both}, seed=0) as opened:
        first, second = (each.identity["decoding"] for each in opened.sources)
    assert first["fit"] == {"image": "stretch"} and "colour" not in first
    assert second["fit"] == {"image": "pad"} and second["colour"] == [1, 2, 3]
    json.dumps(second)
    assert read_fits("pad") == {Modality.IMAGE: "pad", Modality.VIDEO: "pad"}


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"fit": "zoom"}, "fit is 'zoom': expected one of crop, pad, stretch"),
        ({"fit": {"audio": "pad"}}, "audio has no pixels"),
        ({"pad_colour": [0, 0, 256]}, "pad_colour is .* three whole numbers"),
        ({"padding": "kept"}, "padding is 'kept': expected ignored or learned"),
        ({"geometry": {"image": {"size": [64]}}}, r"a size may be \[height, width\]"),
    ],
)
def test_mistakes_are_one_line(tmp_path, changes, expected):
    write_manifest(tmp_path / "m.jsonl", [{"caption": "x"}])
    about = {"media": ["image"], "geometry": {"image": {"size": 64}}, "require": []}
    with pytest.raises(InputError, match=expected) as caught:
        open_source({**about, "manifests": [str(tmp_path / "m.jsonl")], **changes}, seed=0)
    assert "\n" not in str(caught.value)
