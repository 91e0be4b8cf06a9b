"""Where files came from: records in every format, credentials that bind partners, what `codi verify` says."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from codi import cli, credentials, io
from codi.io.content import content_sha256
from codi.types import InputError
from tests import certificates, tiny_pipeline

RECORD = json.dumps({"record": 1, "words": 'a "ball"\n; = é', "long": "y" * 9000})
SUFFIXES = ("png", "jpg", "webp", "wav", "flac", "mp3", "mp4", "mov", "m4v")


@pytest.fixture(scope="module")
def pems(tmp_path_factory):
    return certificates.make(tmp_path_factory.mktemp("pems"))


@pytest.fixture(scope="module")
def out():
    call = dict(outputs=["video", "audio", "image", "text"], num_inference_steps=1, seed=0)
    return tiny_pipeline.pipeline()("a red ball", **call)


@pytest.fixture(scope="module")
def signed_once(out, pems, tmp_path_factory):
    folder = tmp_path_factory.mktemp("signed")
    out.save(folder, sign=credentials.Signer(*pems[:2]))
    return folder


@pytest.fixture
def signed(signed_once, tmp_path):
    """A sample of four files, signed, to be changed."""
    return Path(shutil.copytree(signed_once, tmp_path / "signed"))


def save(path: Path, record: str | None = None) -> Path:
    generator = torch.manual_seed(0)
    pixels = torch.randint(0, 255, (4, 3, 32, 32), dtype=torch.uint8, generator=generator)
    wave = 0.5 * torch.sin(torch.arange(8000) * 0.1)
    if path.suffix in (".png", ".jpg", ".webp"):
        return io.save_image(path, pixels[0], "for people", record)
    if path.suffix in (".wav", ".flac", ".mp3"):
        return io.save_audio(path, wave, 16000, "for people", record)
    return io.save_video(path, pixels, 8, wave, 16000, "for people", record)


def verify(capsys, *arguments) -> tuple[int, dict]:
    code = cli.main(["verify", "--json", *map(str, arguments)])
    [found] = json.loads(capsys.readouterr().out)
    return code, {row["what"]: row for row in found["findings"]} | {"holds": found["holds"]}


# Records ---------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_carries_its_record_and_shows_or_plays_the_same_with_it(tmp_path, suffix):
    with_one, without = save(tmp_path / f"a.{suffix}", RECORD), save(tmp_path / f"b.{suffix}")
    assert io.read_text(with_one) == RECORD and io.read_text(without) is None
    if suffix in ("jpg", "webp"):
        assert torch.equal(io.load_image(with_one), io.load_image(without))
    else:
        assert content_sha256(with_one) == content_sha256(without)


def test_a_record_that_a_jpg_has_no_place_for_is_an_error(tmp_path):
    with pytest.raises(InputError, match="more than a jpg has place for"):
        save(tmp_path / "a.jpg", "y" * 70_000)
    assert not list(tmp_path.iterdir())


def test_the_digest_of_a_content_changes_with_the_content(tmp_path):
    for suffix in ("png", "wav", "mp4"):
        path = save(tmp_path / f"a.{suffix}")
        before = content_sha256(path)
        data = bytearray(path.read_bytes())
        data[data.index(b"IDAT" if suffix == "png" else b"data" if suffix == "wav" else b"mdat") + 900] ^= 1
        path.write_bytes(data)
        assert content_sha256(path) != before
    cut = save(tmp_path / "b.png")
    cut.write_bytes(cut.read_bytes()[:400])
    with pytest.raises(InputError, match="is damaged"):
        content_sha256(cut)


# Credentials -----------------------------------------------------------


@pytest.mark.parametrize("suffix", [*SUFFIXES, "txt", "npy"])
def test_credentials_of_every_format_hold_until_a_byte_changes(tmp_path, pems, suffix):
    path = tmp_path / f"a.{suffix}"
    if suffix in SUFFIXES:
        save(path, RECORD)
    else:
        path.write_bytes(b"a red ball\n")
    before = None if suffix in ("jpg", "webp") else content_sha256(path)
    beside = credentials.Signer(*pems[:2])([path], {})
    assert [one.name for one in beside] == ([] if suffix in SUFFIXES else ["a.c2pa"])
    found = credentials.read(path)
    assert found.holds and not found.trusted and found.signer == "Ann" and not found.problems
    assert found.source_type == "trainedAlgorithmicMedia" and found.generator.startswith("codi ")
    assert credentials.read(path, pems[2]).trusted
    assert before in (None, content_sha256(path))
    assert suffix not in SUFFIXES or io.read_text(path) == RECORD
    data = path.read_bytes()
    path.write_bytes(data[:-2] + bytes([data[-2] ^ 1]) + data[-1:])
    assert not credentials.read(path).holds


def test_files_that_were_made_together_name_each_other(signed):
    names = {"000.mp4", "000.wav", "000.png", "000.txt"}
    assert {path.name for path in signed.iterdir()} == names | {"000.c2pa"}
    for name in names:
        found = credentials.read(signed / name)
        assert {row["name"] for row in found.partners} == names - {name}
        for row in found.partners:
            assert row["sha256"] == content_sha256(signed / row["name"])
        assert found.record["seed"] == 0 and found.record["inputs"][0]["text"] == "a red ball"


def test_a_file_beside_what_was_given_is_a_composite(tmp_path, pems, out):
    sign = credentials.Signer(*pems[:2])
    clip, sound = save(tmp_path / "a.mp4"), save(tmp_path / "a.wav")
    sign([sound, clip], {"outputs": ["audio"]})  # a clip with the new sound
    assert credentials.read(sound).source_type == "trainedAlgorithmicMedia"
    assert credentials.read(clip).source_type == "compositeWithTrainedAlgorithmicMedia"
    kept = save(tmp_path / "b.png")
    sign([kept], {"outputs": ["image"], "sources": [{"as": "image"}]})
    assert credentials.read(kept).source_type == "compositeWithTrainedAlgorithmicMedia"


def test_certificates_and_keys_that_cannot_be_used(tmp_path, pems, monkeypatch, capsys):
    chain, key, _ = pems
    _, other, _ = certificates.make(tmp_path, "Bob")
    old, old_key, _ = certificates.make(tmp_path, "Old", days=-1)
    _, locked, _ = certificates.make(tmp_path, "Eve", password="secret")
    anchor_only = certificates.make(tmp_path, "Root2")[2]
    (tmp_path / "a.txt").write_text("a ball")
    (tmp_path / "no.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    base = ["generate", "--text", "a", "--to", "image", "-o", str(tmp_path / "out")]
    for options, said in [
        (["--sign"], "--sign without --certificate and --key"),
        (["--certificate", str(chain)], "--certificate without --sign"),
        (["--sign", "--certificate", str(chain), "--key", str(other)], "is not the key of"),
        (["--sign", "--certificate", str(old), "--key", str(old_key)], "not today"),
        (["--sign", "--certificate", str(chain), "--key", str(locked)], "CODI_KEY_PASSWORD"),
        (["--sign", "--certificate", str(tmp_path / "gone"), "--key", str(key)], "no such file"),
        (["--sign", "--certificate", str(key), "--key", str(key)], "cannot be read"),
        (["--sign", "--certificate", str(chain), "--key", str(chain)], "cannot be read"),
        (["--sign", "--certificate", str(tmp_path / "no.pem"), "--key", str(key)], "cannot be read"),
        (["--sign", "--certificate", str(tmp_path / "a.txt"), "--key", str(key)], "is no PEM file"),
        (["--sign", "--certificate", str(anchor_only), "--key", str(key)], "is not the key of"),
    ]:
        assert cli.main([*base, *options]) == 2, said
        error = capsys.readouterr().err.strip()
        assert said in error and "\n" not in error, error
    assert not (tmp_path / "out").exists()
    monkeypatch.setenv("CODI_KEY_PASSWORD", "wrong")
    assert cli.main([*base, "--sign", "--certificate", str(chain), "--key", str(locked)]) == 2
    assert "is the password in CODI_KEY_PASSWORD right?" in capsys.readouterr().err
    monkeypatch.setenv("CODI_KEY_PASSWORD", "secret")
    own, locked, _ = certificates.make(tmp_path, "Eve", password="secret")
    credentials.Signer(own, locked, "secret")


def test_without_the_library_one_line_says_what_installs_it(tmp_path, pems, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "c2pa", None)
    call = ["generate", "--text", "a", "--to", "image", "-o", str(tmp_path / "out"), "--sign"]
    assert cli.main([*call, "--certificate", str(pems[0]), "--key", str(pems[1])]) == 2
    assert "pip install 'codi[sign]'" in capsys.readouterr().err
    path = save(tmp_path / "a.png", RECORD)
    code, found = verify(capsys, path)
    assert found["credentials"]["holds"] is None and "codi[sign]" in found["credentials"]["text"]


def test_signing_that_fails_leaves_nothing(out, pems, tmp_path):
    def fails(paths, record):
        credentials.Signer(*pems[:2])(paths[:1], record)
        raise InputError("no more ink")

    with pytest.raises(InputError, match="no more ink"):
        out.save(tmp_path, sign=fails)
    assert not list(tmp_path.iterdir())


# codi verify -----------------------------------------------------------


@pytest.mark.parametrize("name", ["000.mp4", "000.wav", "000.png", "000.txt"])
def test_what_was_signed_and_left_alone_holds(signed, pems, capsys, name):
    code, found = verify(capsys, signed / name, "--trust", pems[2])
    assert code == 0 and found["holds"], [
        row for row in found.values() if isinstance(row, dict) and row["holds"] is False
    ]
    assert all(found[what]["holds"] for what in ("record", "credentials", "unchanged", "partners"))
    assert "whom you trust" in found["credentials"]["text"] and "a red ball" in found["record"]["text"]


def test_a_changed_file_is_found_out(signed, capsys):
    path = signed / "000.wav"
    data = bytearray(path.read_bytes())
    data[data.index(b"data") + 100] ^= 1
    path.write_bytes(data)
    code, found = verify(capsys, path)
    assert code == 1 and "was changed after it was signed" in found["credentials"]["text"]
    assert found["unchanged"]["holds"] is False
    code, found = verify(capsys, signed / "000.mp4")  # its partner is not what it was made with
    assert code == 1 and "000.wav beside it: not what" in found["partners"]["text"]
    assert found["credentials"]["holds"] and found["unchanged"]["holds"]


def test_another_record_than_the_signed_one_is_found_out(signed, capsys):
    path = signed / "000.png"
    data = path.read_bytes()
    assert data.count(b"a red ball") >= 2
    path.write_bytes(data.replace(b"a red ball", b"a RED ball", 1))
    code, found = verify(capsys, path)
    assert code == 1 and found["credentials"]["holds"] is False


def test_partners_that_lie_elsewhere_are_said_and_no_fault(signed, capsys):
    (signed / "000.wav").unlink()
    code, found = verify(capsys, signed / "000.png")
    assert (
        code == 0
        and found["partners"]["text"] == "000.mp4, 000.txt beside it: made with it; 000.wav not beside it"
    )


def test_a_signature_of_somebody_else_does_not_count_for_who_says_whom_they_trust(signed, tmp_path, capsys):
    _, _, stranger = certificates.make(tmp_path, "Bob")
    code, found = verify(capsys, signed / "000.png", "--trust", stranger)
    assert code == 1 and "nothing here vouches for" in found["credentials"]["text"]


def test_without_credentials_a_manifest_tells(tmp_path, capsys):
    model = tiny_pipeline.saved(tmp_path / "model")
    made = tmp_path / "out"
    call = ["generate", "--text", "a red ball", "--to", "image,text", "--model", model, "-o", str(made)]
    assert cli.main([*call, "--steps", "1", "--quiet"]) == 0
    capsys.readouterr()
    code, found = verify(capsys, made / "000.txt")
    assert (
        code == 0
        and "says manifest.json" in found["record"]["text"]
        and found["credentials"]["holds"] is None
    )
    assert found["unchanged"]["holds"] and "000.png beside it" in found["partners"]["text"]
    assert found["again"]["text"].startswith(f"codi generate --from {made / 'manifest.json'}")
    (made / "000.txt").write_text("a blue ball\n")
    code, found = verify(capsys, made / "000.txt")
    assert code == 1 and found["unchanged"]["holds"] is False
    code, found = verify(capsys, made / "000.png")
    assert code == 1 and "000.txt beside it: not what" in found["partners"]["text"]
    (made / "manifest.json").unlink()
    code, found = verify(capsys, made / "000.png")
    assert code == 0 and found["unchanged"]["holds"] is None and found["again"]["holds"]
    shutil.rmtree(model)
    code, found = verify(capsys, made / "000.png")
    assert code == 1 and "is not there" in found["again"]["text"]


def test_a_file_of_nobody_and_no_file(tmp_path, capsys):
    code, found = verify(capsys, save(tmp_path / "a.png"))
    assert code == 1 and "nothing says where it came from" in found["record"]["text"]
    assert cli.main(["verify", str(tmp_path / "gone.png")]) == 2
    assert "no such file" in capsys.readouterr().err
    assert cli.main(["verify", str(tmp_path / "a.png")]) == 1
    assert capsys.readouterr().out.splitlines()[1].startswith("  NO  record")
    (tmp_path / "odd.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(200))
    assert cli.main(["verify", str(tmp_path / "odd.png")]) == 2


def test_signed_jobs_are_resumed_and_hold(pems, tmp_path, capsys):
    model = tiny_pipeline.saved(tmp_path / "model")
    (tmp_path / "jobs.jsonl").write_text('{"id": "a", "text": "a red ball", "to": "audio,text"}\n')
    made = tmp_path / "out"
    call = ["generate", "--jobs", str(tmp_path / "jobs.jsonl"), "--model", model, "-o", str(made), "--quiet"]
    call += ["--steps", "1", "--sign", "--certificate", str(pems[0]), "--key", str(pems[1])]
    assert cli.main(call) == 0
    assert sorted(path.name for path in made.iterdir()) == [
        "a.c2pa",
        "a.json",
        "a.txt",
        "a.wav",
        "manifest.json",
    ]
    before = {path.name: path.stat().st_mtime_ns for path in made.iterdir()}
    assert cli.main(call) == 0
    assert before == {path.name: path.stat().st_mtime_ns for path in made.iterdir()}
    capsys.readouterr()
    for name in ("a.wav", "a.txt"):
        code, found = verify(capsys, made / name, "--trust", pems[2])
        assert code == 0 and found["unchanged"]["text"] == "as a.json lists it", found
        assert "made with it" in found["partners"]["text"]
