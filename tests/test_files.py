"""Nothing is lost and nothing half-written: full disks, folders that vanish, links, several processes, and
names that are not UTF-8.
"""

import errno
import json
import multiprocessing
import os
import subprocess
import warnings
from pathlib import Path

import pytest
import torch

from codi import io, modalities
from codi.io import files
from codi.outputs import CoDiOutput
from codi.types import InputError, WriteError

SEED = torch.manual_seed(0)
FRAMES = torch.randint(0, 255, (8, 3, 48, 64), dtype=torch.uint8, generator=SEED)
WAVE = 0.5 * torch.sin(torch.arange(16000) * 0.2)
RECORD = json.dumps({"record": "x" * 3000})


class Notes(modalities.ModalityKind):
    """A modality from outside, which writes its file in the plainest way."""

    name = "notes"
    suffix = ".notes"

    def describe(self, autoencoder, denoiser):
        return None

    def prepare(self, value, spec, padded=True):
        return value

    def formatted(self, raw, output_type):
        return raw

    def write(self, out, stem, k):
        path = self.path(stem)
        with open(path, "wb", buffering=0) as file:
            for _ in range(4):
                os.write(file.fileno(), b"half of it " * 100)
        return path


@pytest.fixture
def clip(tmp_path):
    return io.save_video(tmp_path / "clip.mp4", FRAMES, 8)


def sample(notes, clip: Path | None = None) -> CoDiOutput:
    """One sample of everything; with a clip, of a sound for that clip."""
    media = dict(audios=[WAVE], sampling_rate=16000, seeds=[0], texts=["a ball"])
    if clip is None:
        small = FRAMES[:2, :, :16, :16]
        media |= dict(images=[small[0]], videos=[small], fps=8.0, others={notes: ["x"]})
    return CoDiOutput(clip=clip, settings={"x": RECORD}, **media)


WRITERS = {
    "png": lambda folder, clip: io.save_image(folder / "a.png", FRAMES[0], "comment", RECORD),
    "jpg": lambda folder, clip: io.save_image(folder / "a.jpg", FRAMES[0]),
    "wav": lambda folder, clip: io.save_audio(folder / "a.wav", WAVE, 16000, "comment", RECORD),
    "flac": lambda folder, clip: io.save_audio(folder / "a.flac", WAVE, 16000),
    "mp4": lambda folder, clip: io.save_video(folder / "a.mp4", FRAMES, 8, WAVE, 16000, "comment", RECORD),
    "dubbed": lambda folder, clip: io.save_dubbed(folder / "a", clip, WAVE, 16000, "comment", RECORD),
    "txt": lambda folder, clip: io.save_text(folder / "a.txt", "a ball\n"),
    "json": lambda folder, clip: io.save_json(folder / "a.json", {"a": 1}),
    "created json": lambda folder, clip: io.create_json(folder / "a.json", {"a": 1}),
    "manifest": lambda folder, clip: io.save_manifest(folder, {"a": 1}),
    "numbered": lambda folder, clip: sample("notes").save(folder),
    "named": lambda folder, clip: sample("notes").save(folder, names=["a"]),
    "replaced": lambda folder, clip: sample("notes").save(folder, names=["a"], overwrite=True),
    "sound for a clip": lambda folder, clip: sample("notes", clip).save(folder),
}


def whole(folder: Path) -> None:
    """Every file in a folder is whole, and nothing hidden is there."""
    readers = {
        ".png": io.load_image,
        ".jpg": io.load_image,
        ".wav": io.load_audio,
        ".flac": io.load_audio,
        ".mp4": io.load_video,
        ".txt": lambda path: path.read_text() == "a ball\n" or pytest.fail(f"{path} is cut"),
        ".json": lambda path: json.loads(path.read_text()),
        ".notes": lambda path: len(path.read_bytes()) == 4400 or pytest.fail(f"{path} is cut"),
    }
    for path in folder.iterdir():
        readers[path.suffix](path)


def failing(monkeypatch, calls: tuple[str, ...], at: int, error: int) -> list[int]:
    """Lets call number `at` of some functions of `os`, and all that follow, fail; returns the count."""
    count = [0]

    def broken(call):
        def instead(*arguments, **options):
            count[0] += 1
            if count[0] > at:
                raise OSError(error, os.strerror(error))
            return call(*arguments, **options)

        return instead

    for name in calls:
        monkeypatch.setattr(os, name, broken(getattr(os, name)))
    return count


@pytest.mark.parametrize("kind", WRITERS)
def test_a_disk_that_is_full_at_any_moment(kind, clip, tmp_path, monkeypatch):
    """Every call of the system that writes may be the first one that fails; all that follow fail as well."""
    folder, at, failed = tmp_path / "out", 0, 0
    folder.mkdir()
    with modalities.registered(Notes()):
        while True:
            before = set(folder.iterdir())
            with monkeypatch.context() as patch:
                count = failing(patch, ("write", "fsync", "replace", "link", "mkdir"), at, errno.ENOSPC)
                try:
                    WRITERS[kind](folder, clip)
                except WriteError as error:
                    failed += 1
                    said = str(error)
                    assert "No space left" in said and "free some space" in said and "\n" not in said
                else:
                    break
            whole(folder)
            if kind not in ("replaced", "json", "txt", "png", "jpg", "wav", "flac", "mp4", "dubbed"):
                assert len(set(folder.iterdir()) - before) in (0, 5, 3, 1), "all files of a sample or none"
            at += 1
            for path in folder.iterdir():
                path.unlink()
    assert failed == at >= 3 and count[0] == at
    whole(folder)
    assert list(folder.iterdir())


@pytest.mark.parametrize("error", [errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO])
def test_other_reasons_are_one_line_too(error, tmp_path, monkeypatch):
    for calls in (("write",), ("open",), ("fsync",), ("replace", "link")):
        with monkeypatch.context() as patch:
            failing(patch, calls, 0, error)
            for write in (io.save_text, lambda path, text: io.create_json(path, text)):
                with pytest.raises(WriteError, match=os.strerror(error)) as caught:
                    write(tmp_path / "a.txt", "x")
                assert "\n" not in str(caught.value)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", WRITERS)
def test_a_folder_that_is_gone(kind, clip, tmp_path, monkeypatch):
    folder = tmp_path / "out"
    monkeypatch.setattr(files, "check_folder", lambda folder: folder)
    monkeypatch.setattr(io, "check_folder", lambda folder: Path(folder))
    with modalities.registered(Notes()), pytest.raises(WriteError, match="its folder is not there"):
        WRITERS[kind](folder, clip)


def test_a_folder_that_vanishes_in_between(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    with pytest.raises(WriteError, match="its folder is not there"), io.new_file(folder / "a") as file:
        file.write(b"x")
        file.path.unlink()
        folder.rmdir()
    folder.mkdir()
    with pytest.raises(WriteError, match="its folder is not there"), io.staged(folder) as place:
        place.rmdir()
        folder.rmdir()


def write_within(limits: dict[str, int], folder: Path, clip: Path, answers) -> None:
    import resource

    said = []
    with modalities.registered(Notes()):
        for kind, limit in limits.items():
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            try:
                WRITERS[kind](folder, clip)
                said.append(f"{kind} was written")
            except WriteError as error:
                said.append(f"{kind}: {error}")
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    answers.send(said)


def test_a_limit_that_the_system_sets(clip, tmp_path):
    """The real thing, without any part of the library replaced: files may not grow beyond a limit."""
    pytest.importorskip("resource")
    folder = tmp_path / "out"
    folder.mkdir()
    limits = {"png": 1000, "jpg": 1000, "wav": 20000, "flac": 100, "mp4": 9000, "dubbed": 9000}
    limits |= {"txt": 3, "json": 3, "manifest": 3, "numbered": 20000, "sound for a clip": 9000}
    fork = multiprocessing.get_context("fork")
    answers, sender = fork.Pipe(duplex=False)
    process = fork.Process(target=write_within, args=(limits, folder, clip, sender))
    process.start()
    assert answers.poll(60)
    lines = answers.recv()
    process.join()
    assert len(lines) == len(limits)
    assert all("File too large; files here may not be so large" in line for line in lines), lines
    assert list(folder.iterdir()) == []


def test_a_real_full_disk(clip, tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    if (
        os.name != "posix"
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=24k", "tmpfs", str(folder)], capture_output=True
        ).returncode
    ):
        pytest.skip("nothing can be mounted here")
    try:
        io.save_text(folder / "b.txt", "a ball\n")
        with modalities.registered(Notes()):
            for kind in ("png", "wav", "mp4", "dubbed", "numbered", "sound for a clip"):
                if kind != "png":  # a picture may just fit
                    with pytest.raises(WriteError, match="No space left"):
                        WRITERS[kind](folder, clip)
                assert [path.name for path in folder.iterdir()] == ["b.txt"], kind
    finally:
        subprocess.run(["umount", str(folder)], check=True)


# Names -----------------------------------------------------------------


def test_links_are_not_followed_and_names_cannot_be_foretold(tmp_path, monkeypatch):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "a.txt").symlink_to(victim)
    io.save_text(tmp_path / "a.txt", "new")  # the link is replaced, not what it leads to
    assert victim.read_text() == "mine" and not (tmp_path / "a.txt").is_symlink()
    names = set()
    for _ in range(50):
        with io.new_file(tmp_path / "b.txt") as file:
            names.add(file.path.name)
    assert len(names) == 50 and all(name.startswith(".codi-") for name in names)
    # even if it were foretold
    monkeypatch.setattr(files.secrets, "token_hex", lambda count: "known")
    hidden = tmp_path / ".codi-known.txt"
    hidden.symlink_to(victim)
    with pytest.raises(FileExistsError):
        io.save_text(tmp_path / "c.txt", "x")
    assert not io.create_json(tmp_path / "c.txt", "x") and not (tmp_path / "c.txt").exists()
    assert victim.read_text() == "mine"


def test_an_error_leaves_what_was_there(tmp_path):
    io.save_text(tmp_path / "a.txt", "old")
    for how in (io.new_file, io.atomic):
        with pytest.raises(KeyboardInterrupt), how(tmp_path / "a.txt") as new:
            Path(new.path if how is io.new_file else new).write_text("half")
            raise KeyboardInterrupt
    assert (tmp_path / "a.txt").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_a_file_system_without_links(tmp_path, monkeypatch):
    def without(*arguments, **options):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", without)
    assert io.create_json(tmp_path / "a.json", 1) and not io.create_json(tmp_path / "a.json", 2)
    assert (tmp_path / "a.json").read_text() == "1\n" and len(list(tmp_path.iterdir())) == 1


def test_a_file_that_came_to_be_meanwhile_is_not_replaced(tmp_path, monkeypatch):
    out = CoDiOutput(texts=["a"], images=[FRAMES[0]], seeds=[0])
    save = io.save_image

    def slow(path, *rest):
        (tmp_path / "x.txt").write_text("mine")
        return save(path, *rest)

    monkeypatch.setattr(io, "save_image", slow)
    with pytest.raises(InputError, match="came to be"):
        out.save(tmp_path, names=["x"])
    assert [path.name for path in tmp_path.iterdir()] == ["x.txt"] and (
        tmp_path / "x.txt"
    ).read_text() == "mine"


@pytest.mark.parametrize("name", [b"\xff\xfe", b"caf\xe9", "日本語".encode(), b"a\nb", b"-o", b"a'b\"c"])
def test_names_that_are_not_utf8(name, tmp_path):
    """Files of all kinds are written, read, described and recorded under such names."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    io.check_folder(folder)
    stem = folder / os.fsdecode(name)
    picture = io.save_image(stem.with_name(stem.name + ".png"), FRAMES[0], record=RECORD)
    sound = io.save_audio(stem.with_name(stem.name + ".wav"), WAVE, 16000, record=RECORD)
    clip = io.save_video(stem.with_name(stem.name + ".mp4"), FRAMES, 8, record=RECORD)
    (folder / "dubbed").mkdir()
    dubbed = io.save_dubbed(folder / "dubbed" / stem.name, clip, WAVE, 16000, record=RECORD)
    assert torch.equal(io.load_image(picture), FRAMES[0]) and len(io.load_audio(sound)[0]) == 16000
    assert len(io.load_video(dubbed).frames) == 8 and io.load_audio(dubbed)[1] == 16000
    for path in (picture, sound, clip, dubbed):
        assert io.read_text(path) == RECORD
        row = io.describe(path)
        manifest = io.save_json(folder / "manifest.json", {"inputs": [row]})
        again = json.loads(manifest.read_text(encoding="utf-8"))["inputs"][0]["path"]
        assert again == str(path) and Path(again).is_file()


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "x" * 20_000, "a/" * 5_000])
def test_names_that_no_file_can_have(name, tmp_path):
    for read in (io.load_image, io.load_audio, io.load_video, io.check_file, io.describe, io.read_text):
        with warnings.catch_warnings(), pytest.raises(InputError) as caught:
            warnings.simplefilter("error")
            read(name)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    with pytest.raises(InputError):
        io.check_folder(tmp_path / name)


# Several processes -----------------------------------------------------


def write_samples(folder: Path, owner: int, suffixes: tuple[str, ...]) -> None:
    for k in range(4):
        with io.numbered(folder) as name, io.staged(folder, replace=False) as place:
            for suffix in suffixes:
                (place / (name + suffix)).write_text(str(owner))
        io.save_manifest(folder, {"of": [owner, k]})


def test_sixteen_processes_share_a_folder(tmp_path):
    """Every file is there, those of a number are of one process, and all manifests survive."""
    fork = multiprocessing.get_context("fork")
    kinds = [(".x", ".y"), (".y", ".z"), (".z",)]
    running = [
        fork.Process(target=write_samples, args=(tmp_path, owner, kinds[owner % 3])) for owner in range(16)
    ]
    for process in running:
        process.start()
    for process in running:
        process.join(timeout=120)
    assert [process.exitcode for process in running] == [0] * 16
    owners: dict[str, set[str]] = {}
    for path in tmp_path.glob("[0-9]*"):
        owners.setdefault(path.stem, set()).add(path.read_text())
    assert len(owners) == 64 and all(len(found) == 1 for found in owners.values())
    assert len(list(tmp_path.glob("[0-9]*"))) == 4 * sum(len(kinds[owner % 3]) for owner in range(16))
    manifests = [tuple(json.loads(path.read_text())["of"]) for path in tmp_path.glob("manifest*.json")]
    assert sorted(manifests) == [(owner, k) for owner in range(16) for k in range(4)]
    assert not list(tmp_path.glob(".*"))
