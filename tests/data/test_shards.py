"""Tar shards: what is packed reads back by number, and a shard that is hostile, damaged or cut short is
refused.
"""

import io
import tarfile

import numpy as np
import pytest

from codi.rows import bit_of
from codi.types import InputError, Modality
from data.manifest import Manifest, write_manifest
from data.shards import Shards, pack, split_name, write_shards


def member(name: str, content: bytes = b"x", **fields) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, content


def tar(path, *members) -> None:
    with tarfile.open(path, "w") as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content) if info.isreg() else None)


def test_packed_rows_read_back(tmp_path):
    contents = {f"{k}.{suffix}": bytes([k]) * (100 * k + 7) for k in range(5) for suffix in ("png", "wav")}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    rows = [
        {"image": f"{k}.png", "audio": f"{k}.wav", "captions": [f"ä {k}", "b"], "start": 0.5, "end": 1.5}
        for k in range(5)
    ]
    write_manifest(tmp_path / "m.jsonl", rows)
    manifest = Manifest(tmp_path / "m.jsonl")
    paths = pack([manifest[k] for k in range(5)], tmp_path / "shards", per_shard=2)
    assert len(paths) == 3
    shards = Shards(str(tmp_path / "shards" / "*.tar"))
    assert len(shards) == 5 and shards.ignored == 0 and len({shards[k].id for k in range(5)}) == 5
    for k in (3, 0, 4, 1, 2):
        row = shards[k]
        assert (row.captions, row.start, row.end) == ((f"ä {k}", "b"), 0.5, 1.5)
        for modality, suffix in ((Modality.IMAGE, "png"), (Modality.AUDIO, "wav")):
            ref = row.media[modality]
            raw = ref.path.read_bytes()[ref.offset : ref.offset + ref.size]
            assert raw == contents[f"{k}.{suffix}"]
    again = pack([manifest[k] for k in range(5)], tmp_path / "again", per_shard=2)
    assert [p.read_bytes() for p in again] == [p.read_bytes() for p in paths]


def test_the_layout_of_others_is_understood(tmp_path):
    tar(
        tmp_path / "a.tar",
        member("set/"[:-1], b"", type=tarfile.DIRTYPE),
        member("set/000.jpg"),
        member("set/000.json", b'{"caption": "other", "url": "http://x", "sha256": "of the original"}'),
        member("set/000.txt", "größe\n".encode()),
        member("set/000.cls", b"3"),
        member("set/001.x.y", b"?"),
        member("set/" + "long" * 60 + ".mp4"),
    )
    shards = Shards(tmp_path / "a.tar")
    assert len(shards) == 2 and shards.ignored == 2
    assert shards[0].captions == ("größe",) and shards[0].media[Modality.IMAGE].sha256 is None
    assert shards[1].id.endswith("longlong") and shards.has[1] == bit_of(Modality.VIDEO) | bit_of(
        Modality.AUDIO
    )
    assert split_name("a.b/c.seg.PNG") == ("a.b/c", "seg.png")


@pytest.mark.parametrize(
    "bad, expected",
    [
        (member("../evil.jpg"), "points outside"),
        (member("/etc/evil.jpg"), "points outside"),
        (member("a/../../evil.jpg"), "points outside"),
        (member("a\\..\\evil.jpg"), "points outside"),
        (member("link.jpg", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "is a link"),
        (member("link.jpg", b"", type=tarfile.LNKTYPE, linkname="000.jpg"), "is a link"),
        (member("device.jpg", b"", type=tarfile.CHRTYPE, devmajor=1, devminor=5), "is a link, a device"),
        (member("pipe.jpg", b"", type=tarfile.FIFOTYPE), "is a link, a device"),
        (member("big.jpg", b"x" * 5000), "5000 bytes: at most 4000"),
    ],
)
def test_hostile_members_are_refused(tmp_path, bad, expected):
    tar(tmp_path / "evil.tar", member("000.jpg"), bad)
    with pytest.raises(InputError, match=f"evil.tar.*{expected}"):
        Shards(tmp_path / "evil.tar", max_member=4000)


@pytest.fixture
def good(tmp_path):
    samples = [{"key": f"{k:03d}", "jpg": bytes(700), "txt": f"words {k}"} for k in range(6)]
    return write_shards(tmp_path, samples)[0]


def test_a_shard_cut_anywhere_is_refused(good, tmp_path):
    content = good.read_bytes()
    data_end = max(m.offset_data + m.size for m in tarfile.open(good).getmembers())
    cuts = {0, 1, 511, 512, 513, 1024, 512 * 5, data_end - 1, data_end, -(-data_end // 512) * 512}
    for cut in sorted(cuts | set(np.random.default_rng(0).integers(1, data_end, 60).tolist())):
        (tmp_path / "cut.tar").write_bytes(content[:cut])
        with pytest.raises(InputError, match="cut.tar"):
            Shards(tmp_path / "cut.tar")


def test_a_damaged_header_does_not_hide_what_follows(good, tmp_path):
    content = bytearray(good.read_bytes())
    content[tarfile.open(good).getmembers()[3].offset + 150] ^= 0xFF  # in its checksum
    (tmp_path / "hurt.tar").write_bytes(content)
    with pytest.raises(InputError, match="hurt.tar"):
        Shards(tmp_path / "hurt.tar")


def test_mutated_shards_are_read_or_refused(good, tmp_path):
    content, refused = good.read_bytes(), 0
    rng = np.random.default_rng(1)
    for _ in range(300):
        raw = bytearray(content)
        for _ in range(int(rng.integers(1, 20))):
            raw[rng.integers(len(raw) - 9216)] = rng.integers(256)
        (tmp_path / "m.tar").write_bytes(raw)
        try:
            shards = Shards(tmp_path / "m.tar")
            for k in range(len(shards)):
                shards[k]
        except InputError:
            refused += 1
    assert 100 < refused < 300


@pytest.mark.parametrize(
    "members, expected",
    [
        ([member("0.jpg"), member("1.jpg"), member("0.txt")], "not beside each other"),
        ([member("0.jpg"), member("0.png")], "two members"),
        ([member("readme")], "no sample"),
    ],
)
def test_shards_that_are_no_samples(tmp_path, members, expected):
    tar(tmp_path / "a.tar", *members)
    with pytest.raises(InputError, match=expected):
        Shards(tmp_path / "a.tar")


def test_other_files_are_no_shards(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"\x1f\x8b" + bytes(2000))
    for path, expected in (
        (tmp_path / "a.tar", "no tar"),
        (tmp_path / "none.tar", "no such shard"),
        (f"{tmp_path}/*.zip", "no such"),
    ):
        with pytest.raises(InputError, match=expected):
            Shards(path)


@pytest.mark.parametrize(
    "name, content",
    [
        ("txt", b"caf\xe9"),
        ("json", b"{"),
        ("json", b'{"caption": 3}'),
        ("json", b'["x"]'),
        ("json", b'{"sha256": {"image": 5}}'),
        ("json", b'{"start": 1%s}' % (b"0" * 400)),
    ],
)
def test_words_that_cannot_be_read_are_the_samples_fault(tmp_path, name, content):
    tar(tmp_path / "a.tar", member("0.jpg"), member(f"0.{name}", content))
    shards = Shards(tmp_path / "a.tar")
    with pytest.raises(InputError, match="sample '0'"):
        shards[0]


def test_keys_that_would_break_a_shard_are_not_written(tmp_path):
    for key in ("", "a.b", "../a", "/a", "a\\b"):
        with pytest.raises(InputError, match="key"):
            write_shards(tmp_path, [{"key": key, "txt": "x"}])
    assert not list(tmp_path.glob("*.tar"))


def test_what_macs_and_windows_add_is_passed_over(tmp_path):
    words = "\ufeffa red ball\r\nat night\r\n".encode()
    tar(
        tmp_path / "a.tar",
        member("__MACOSX/._000.jpg"),
        member("._000.jpg"),
        member("000.jpg"),
        member("._000.txt"),
        member("000.txt", words),
        member(".DS_Store"),
        member("001.jpg"),
        member("001.json", b'\xef\xbb\xbf{"caption": "a star"}'),
    )
    shards = Shards(tmp_path / "a.tar")
    assert len(shards) == 2 and shards.ignored == 0
    assert [shards[k].captions for k in (0, 1)] == [("a red ball\nat night",), ("a star",)]
