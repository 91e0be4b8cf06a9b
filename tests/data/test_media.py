"""Media files as a training set: the geometry asked for, the same sample wherever it comes, bad ones
replaced, missing ones masked.
"""

import json

import numpy as np
import pytest
import torch

from codi.types import InputError, Modality
from codi.world import parse
from data.cache import CachedSource, build_cache
from data.manifest import Manifest, write_manifest
from data.media import Augment, MediaSource
from data.order import rows_of
from data.shards import Shards, pack
from data.sources import open_source
from data.workers import Decoder
from data.world import WorldSource
from tests.data.files import (
    GEOMETRY,
    RATE,
    SPECS,
    clicks,
    digest,
    number_of,
    numbered,
    save_clip,
    world_files,
)

EVERYTHING = ("text", "image", "video", "audio")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with six scenes and their manifest; the rows; what was rendered."""
    folder = tmp_path_factory.mktemp("world")
    rows, truth = world_files(folder, 6)
    rows = [
        row | {"sha256": {m: digest(folder / row[m]) for m in ("image", "audio", "video")}} for row in rows
    ]
    write_manifest(folder / "m.jsonl", rows)
    return folder, rows, truth


def source(path, media=EVERYTHING, **options):
    options = {"seed": 1, "shuffle": False, "decoder": Decoder(workers=0), **options}
    return MediaSource(Manifest(path), media, SPECS, **options)


def equal(one: dict, two: dict) -> bool:
    same = [
        torch.equal(one[k], two[k]) if isinstance(one[k], torch.Tensor) else one[k] == two[k] for k in one
    ]
    return one.keys() == two.keys() and all(same)


def part(batch: dict, place: int) -> dict:
    return {name: value[place : place + 1] for name, value in batch.items()}


def test_files_give_what_was_rendered_in_the_worlds_own_shapes(world):
    folder, rows, truth = world
    batch = source(folder / "m.jsonl").fetch(list(range(6)))
    ours = WorldSource(["audio", "video"], seed=0).fetch([0]) | WorldSource(["text", "image"], seed=0).fetch(
        [0]
    )
    for name in EVERYTHING:
        assert type(batch[name]) is type(ours[name]) and batch[f"{name}_mask"].all()
        if name != "text":
            assert batch[name].shape[1:] == ours[name].shape[1:] and batch[name].dtype == ours[name].dtype
    assert torch.equal(batch["image"], truth["image"])
    assert (batch["audio"] - truth["audio"]).abs().max() < 1e-4
    assert (batch["video"].int() - truth["video"].int()).abs().float().mean() < 4
    assert batch["ids"] == [row["id"] for row in rows] and batch["text"] == [row["caption"] for row in rows]
    assert (
        batch["rows"][2] == {"id": "s2", "captions": [rows[2]["caption"]]}
        and parse(batch["text"][0])["colour"]
    )


def test_a_sample_does_not_depend_on_its_batch_nor_on_where_it_is_decoded(world):
    folder, _, _ = world
    options = {"shuffle": True, "augment": Augment(flip=True, crop=0.7, window=True)}
    whole = source(folder / "m.jsonl", **options).fetch(list(range(9)))
    with Decoder(workers=2) as decoder:
        apart = source(folder / "m.jsonl", decoder=decoder, **options)
        pieces = [apart.fetch(indices) for indices in ([0, 1, 2], [3], [4, 5, 6, 7, 8])]
    places = [(piece, k) for piece in pieces for k in range(len(piece["ids"]))]
    assert all(equal(part(whole, n), part(piece, k)) for n, (piece, k) in enumerate(places))


def test_order_is_that_of_the_seed_and_every_pass_sees_every_row_once(world):
    folder, _, _ = world
    text = source(folder / "m.jsonl", ["text"], shuffle=True)
    ids = text.fetch(list(range(18)))["ids"]
    assert [sorted(ids[k : k + 6]) for k in (0, 6, 12)] == [[f"s{k}" for k in range(6)]] * 3
    assert ids[:6] != ids[6:12] and ids == [f"s{row}" for row in rows_of(range(18), 6, 1)]
    assert ids != source(folder / "m.jsonl", ["text"], shuffle=True, seed=2).fetch(list(range(18)))["ids"]


def test_shards_give_what_the_manifest_gives(world):
    folder, _, _ = world
    manifest = Manifest(folder / "m.jsonl")
    pack([manifest[k] for k in range(6)], folder / "shards", per_shard=4)
    files = source(folder / "m.jsonl")
    packed = MediaSource(
        Shards(f"{folder}/shards/*.tar"), EVERYTHING, SPECS, seed=1, shuffle=False, decoder=Decoder(workers=0)
    )
    one, two = files.fetch([0, 5, 3]), packed.fetch([0, 5, 3])
    assert (
        all(torch.equal(one[m], two[m]) for m in ("image", "video", "audio")) and one["text"] == two["text"]
    )


def test_augmentation_does_what_it_says(world):
    folder, _, truth = world
    plain, flipped = (
        source(folder / "m.jsonl", ["image"], augment=Augment(flip=flip)).fetch(list(range(12)))
        for flip in (False, True)
    )
    turned = [not torch.equal(a, b) for a, b in zip(plain["image"], flipped["image"])]
    assert all(torch.equal(a.flip(-1), b) for a, b, t in zip(plain["image"], flipped["image"], turned) if t)
    assert 0 < sum(turned) < 12
    cropped = source(folder / "m.jsonl", ["image"], augment=Augment(crop=0.5)).fetch([0, 6])["image"]
    assert not torch.equal(cropped[0], cropped[1]) and cropped.shape == (2, 3, 64, 64)


def test_a_window_in_time_moves_picture_and_sound_together(tmp_path):
    save_clip(tmp_path / "a.mp4", numbered(48), 8, clicks(6, *(k / 2 for k in range(12))))
    write_manifest(tmp_path / "m.jsonl", [{"video": "a.mp4"}, {"video": "a.mp4", "start": 1.0, "end": 4.5}])
    batch = source(tmp_path / "m.jsonl", ["video", "audio"], augment=Augment(window=True)).fetch(
        list(range(12))
    )
    starts = []
    for k in range(12):
        frames = number_of(batch["video"][k])
        wave = batch["audio"][k]
        heard = int(wave[: RATE // 2 + 2].abs().argmax()) / RATE  # clicks at every half second
        start = (0.5 - heard) % 0.5
        assert (start - frames[0] / 8 + 1e-3) % 0.5 <= 1 / 8 + 2e-3
        assert frames == list(range(frames[0], frames[0] + 16))
        assert k % 2 == 0 or (8 <= frames[0] and frames[-1] <= 36)  # every other row is of seconds 1 to 4.5
        starts.append(frames[0])
    assert len(set(starts)) > 5


def test_bad_samples_are_replaced_by_the_next_good_one(world, tmp_path):
    folder, rows, _ = world
    for row in rows:
        (tmp_path / row["image"]).write_bytes((folder / row["image"]).read_bytes())
    (tmp_path / "2.png").write_bytes(b"damaged")  # its digest tells
    (tmp_path / "3.png").unlink()
    some = [
        {
            "id": row["id"],
            "image": row["image"],
            "caption": row["caption"],
            "sha256": {"image": row["sha256"]["image"]},
        }
        for row in rows
    ]
    write_manifest(tmp_path / "m.jsonl", some)
    with pytest.raises(InputError, match="m.jsonl: row 4: no image file"):
        Manifest(tmp_path / "m.jsonl")
    rows_left = Manifest(tmp_path / "m.jsonl", check_files=False)
    decoder = Decoder(workers=0, bad_list=tmp_path / "bad.jsonl")
    left = MediaSource(rows_left, ["image", "text"], SPECS, seed=0, shuffle=False, decoder=decoder)
    batch = left.fetch([1, 2, 3, 4])
    assert (
        batch["ids"] == ["s1", "s4", "s4", "s4"]
        and batch["text"][1] == rows[4]["caption"]
        and batch["index"] == [1, 2, 3, 4]
    )
    assert torch.equal(batch["image"][1], batch["image"][3]) and left.bad == 2
    assert {json.loads(line)["id"] for line in (tmp_path / "bad.jsonl").read_text().splitlines()} == {
        "s2",
        "s3",
    }
    again = MediaSource(
        rows_left, ["image", "text"], SPECS, seed=0, shuffle=False, decoder=Decoder(workers=0)
    )
    assert equal(part(again.fetch([3]), 0), part(batch, 2))


def test_missing_media_are_masked_or_left_out(world, tmp_path):
    folder, rows, _ = world
    save_clip(tmp_path / "silent.mp4", numbered(16), 8)
    some = [
        {"image": str(folder / "0.png")},
        {"caption": "only words"},
        {"video": "silent.mp4", "caption": "no sound"},
    ]
    write_manifest(tmp_path / "m.jsonl", some)
    batch = source(tmp_path / "m.jsonl", require=[]).fetch([0, 1, 2])
    assert batch["image_mask"].tolist() == [True, False, False] and batch["text_mask"].tolist() == [
        False,
        True,
        True,
    ]
    assert (
        batch["video_mask"].tolist() == [False, False, True] and batch["audio_mask"].tolist() == [False] * 3
    )
    assert (
        batch["text"] == ["", "only words", "no sound"]
        and not batch["image"][1:].any()
        and not batch["audio"].any()
    )
    pair = source(tmp_path / "m.jsonl", ["video", "text"])
    assert len(pair) == 1 and pair.left_out == 2
    with pytest.raises(InputError, match="none of 3 rows .* has image, text"):
        source(tmp_path / "m.jsonl", ["image", "text"])
    with pytest.raises(InputError, match="no good sample is left"):
        # only opening the clip shows that it is silent
        source(tmp_path / "m.jsonl", ["video", "audio"]).fetch([0])


def test_weights_of_rows(tmp_path):
    write_manifest(
        tmp_path / "m.jsonl", [{"id": f"{k}", "caption": "x", "weight": w} for k, w in enumerate((1, 2, 5))]
    )
    ids = source(tmp_path / "m.jsonl", ["text"], shuffle=True).fetch(list(range(2400)))["ids"]
    assert [round(ids.count(str(k)) / 300) for k in range(3)] == [1, 2, 5]


def test_a_cache_of_files_equals_the_files(world, tmp_path):
    folder, _, _ = world

    def encode(batch):
        return {"image": torch.nn.functional.avg_pool2d(batch["image"].float() / 127.5 - 1, 32)}

    ordered = source(folder / "m.jsonl", ["image", "text"])
    build_cache(
        tmp_path / "c", ordered, encode, len(ordered), identity=ordered.identity, shard_size=4, batch_size=3
    )
    cached = CachedSource(tmp_path / "c", ["image"], seed=7, facts=())
    positions = list(range(14))
    files, latents = (
        source(folder / "m.jsonl", ["image", "text"], shuffle=True, seed=7).fetch(positions),
        cached.fetch(positions),
    )
    assert torch.equal(encode(files)["image"].half().float(), latents["image"])
    assert (
        latents["text"] == files["text"] and latents["ids"] == files["ids"] and latents["index"] == positions
    )


def test_a_cache_knows_which_samples_have_a_medium(tmp_path, world):
    folder, _, _ = world
    write_manifest(tmp_path / "m.jsonl", [{"image": str(folder / "0.png")}, {"caption": "x"}])
    partial = source(tmp_path / "m.jsonl", ["image", "text"], require=[])
    build_cache(tmp_path / "c", partial, lambda b: {"image": b["image"]}, 2, identity=partial.identity)
    (tmp_path / "c" / "complete").touch()
    found = CachedSource(tmp_path / "c", ["image"], seed=0).fetch([0, 1])
    assert sorted(found["image_mask"].tolist()) == [False, True]
    assert (found["image_mask"] ^ found["text_mask"]).all()


def test_identity_tells_sources_apart(world):
    folder, _, _ = world
    plain = source(folder / "m.jsonl").identity
    assert plain == source(folder / "m.jsonl").identity == json.loads(json.dumps(plain))
    others = [
        source(folder / "m.jsonl", **o).identity
        for o in ({"seed": 2}, {"backend": "av"}, {"augment": Augment(flip=True)})
    ]
    assert all(other != plain for other in others)


def options(folder, **changes):
    return {
        "media": ["image", "text"],
        "geometry": GEOMETRY,
        "manifests": [str(folder / "m.jsonl")],
        "workers": 0,
        **changes,
    }


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"shufle": True}, "unknown key 'shufle': did you mean 'shuffle'"),
        ({"media": ["image", "smell"]}, "unknown modality 'smell'"),
        ({"media": []}, "media are nothing"),
        ({"media": "image"}, "media is 'image': expected a list"),
        ({"geometry": {}}, "geometry of image is missing"),
        ({"geometry": {"image": {"side": 3}}}, "geometry of image is"),
        ({"geometry": {"image": {"size": 0}}}, "size is 0"),
        ({"geometry": {"text": {}}}, "text has none"),
        ({"manifests": []}, "expected a manifest, or shards"),
        ({"manifests": ["none.jsonl"]}, "no such manifest: none.jsonl"),
        ({"manifests": [{"path": "x", "wieght": 1}]}, "unknown key 'wieght'"),
        ({"manifests": [{"path": "x", "weight": 0}]}, "weight is 0"),
        ({"shards": ["none-*.tar"]}, "no such shard"),
        ({"backend": "ffmpeg"}, "backend is 'ffmpeg'"),
        ({"augment": {"flop": True}}, "augment: unknown key 'flop'"),
        ({"augment": {"crop": 2}}, "crop is 2"),
        ({"require": ["audio"]}, "required audio"),
        ({"workers": -1}, "workers is -1"),
        ({"captions": "all"}, "captions is 'all'"),
    ],
)
def test_options_are_read_strictly(world, changes, expected):
    with pytest.raises(InputError, match=expected) as caught:
        open_source(options(world[0], **changes), seed=0)
    assert "\n" not in str(caught.value)


def test_options_build_what_the_constructors_build(world, tmp_path):
    folder, _, _ = world
    with open_source(options(folder), seed=4, bad_list=tmp_path / "bad.jsonl") as opened:
        built = MediaSource(
            Manifest(folder / "m.jsonl"), ["image", "text"], SPECS, seed=4, decoder=Decoder(workers=0)
        )
        assert opened.identity == built.identity and equal(opened.fetch([0, 7]), built.fetch([0, 7]))
        assert opened.decoder.bad_list == tmp_path / "bad.jsonl"
    given = {name: value for name, value in options(folder).items() if name != "geometry"}
    with open_source(given, seed=4, specs=SPECS) as opened:
        assert opened.identity == built.identity
    with pytest.raises(InputError, match="geometry comes from the model"):
        open_source(options(folder), seed=4, specs=SPECS)
    assert (
        np.array_equal(built.rows.has, Manifest(folder / "m.jsonl").has) and Modality.AUDIO not in built.sizes
    )
