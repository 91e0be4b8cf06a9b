"""Latents written once are read back as they were, a damaged shard is named, and the work goes on where it
stopped.
"""

import json

import pytest
import torch

from codi.types import InputError
from codi.world import parse
from data.cache import CachedSource, build_cache, whole
from data.world import WorldSource

SOURCE = WorldSource(["image"], seed=4)


def encode(batch):
    """A stand-in for an autoencoder that needs no training: mean colour of each quadrant."""
    image = batch["image"].float() / 127.5 - 1
    return {"image": torch.nn.functional.avg_pool2d(image, 32)}


@pytest.fixture
def folder(tmp_path):
    build_cache(tmp_path / "cache", SOURCE, encode, 10, identity=SOURCE.identity, shard_size=4, batch_size=3)
    return tmp_path / "cache"


def test_reads_what_was_encoded_in_every_pass(folder):
    cached = CachedSource(folder, ["image"], seed=0, facts=("colour", "shape"))
    passes = [cached.fetch(list(range(start, start + 10))) for start in (0, 10)]
    whole = SOURCE.fetch(list(range(10)))
    direct = {scene.seed: latent for scene, latent in zip(whole["scenes"], encode(whole)["image"])}
    for batch in passes:
        assert {scene.seed for scene in batch["scenes"]} == direct.keys()
        for scene, latent, text in zip(batch["scenes"], batch["image"], batch["text"]):
            assert torch.equal(latent, direct[scene.seed].half().float())
            assert {k: v for k, v in parse(text).items() if v}.items() <= scene.facts.items()
    assert [s.seed for s in passes[0]["scenes"]] != [s.seed for s in passes[1]["scenes"]]


def test_only_missing_or_damaged_shards_are_made_again(folder):
    first, second = sorted(folder.glob("*.safetensors"))[:2]
    stamp, good = first.stat().st_mtime_ns, second.read_bytes()
    second.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(InputError, match="shard-00001.*sha256"):
        CachedSource(folder, ["image"], seed=0)
    build_cache(folder, SOURCE, encode, 10, identity=SOURCE.identity, shard_size=4, batch_size=3)
    assert first.stat().st_mtime_ns == stamp and second.read_bytes() == good


def test_processes_share_the_work(tmp_path, folder):
    other = tmp_path / "other"
    for numbers in ([2], [0, 1]):
        build_cache(
            other, SOURCE, encode, 10, identity=SOURCE.identity, shard_size=4, batch_size=3, numbers=numbers
        )
    assert [p.read_bytes() for p in sorted(other.glob("*.safetensors"))] == [
        p.read_bytes() for p in sorted(folder.glob("*.safetensors"))
    ]


def test_another_content_is_refused(folder):
    with pytest.raises(InputError, match="something else"):
        build_cache(folder, SOURCE, encode, 10, identity={"seed": 5}, shard_size=4)


def test_a_finished_cache_that_is_cut_otherwise_stays_finished(folder):
    (folder / "complete").touch()
    assert whole(folder, 10, 4) and not whole(folder, 10, 5)
    with pytest.raises(InputError, match="shard_size 4 instead of 5"):
        build_cache(folder, SOURCE, encode, 10, identity=SOURCE.identity, shard_size=5)
    assert whole(folder, 10, 4)


def test_unfinished_or_foreign_folders_are_named(folder, tmp_path):
    with pytest.raises(InputError, match="cache.json"):
        CachedSource(tmp_path, ["image"], seed=0)
    with pytest.raises(InputError, match="no audio"):
        CachedSource(folder, ["audio"], seed=0)
    (folder / "shard-00002.json").unlink()
    with pytest.raises(InputError, match="shard-00002"):
        CachedSource(folder, ["image"], seed=0)


def test_latents_that_overflow_are_refused(tmp_path):
    with pytest.raises(InputError, match="not finite"):
        build_cache(tmp_path / "c", SOURCE, lambda b: {"image": encode(b)["image"] * 1e6}, 2, identity={})
    assert not list((tmp_path / "c").glob("*.safetensors"))
    assert json.loads((tmp_path / "c" / "cache.json").read_text())["count"] == 2
