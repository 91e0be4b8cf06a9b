"""What a user can get wrong with `codi convert`: one line that names it, exit code 2, and nothing left
behind.
"""

import json
import resource
import subprocess
import sys
import warnings
import zipfile
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from codi import cli, io
from codi import convert as conversion
from codi.convert import released
from codi.convert.checkpoint import check_archive, read_checkpoint
from codi.convert.convert import convert, reverse
from codi.types import InputError
from tests.convert import fabricated

ROOT = Path(__file__).parents[2]


class Evil:
    def __reduce__(self):
        return (print, ("ran",))


@pytest.fixture(scope="module")
def names():
    """Every name of the audio file at full size."""
    slots = {"audio": {".input_block_connecters_in.", ".connecters_out."}}
    return sorted(
        {
            name
            for parts in released.listed(slots).values()
            for part in parts
            for name in part.on_meta()[1].sources
        }
    )


def saved(path, content):
    torch.save(content, path)
    return path


def whole(names):
    return {name: torch.zeros(1) for name in names}


def cut(path, names):
    data = saved(path, whole(names)).read_bytes()
    path.write_bytes(data[: len(data) // 2])


def altered(path, names):
    data = bytearray(saved(path, whole(names) | {names[0]: torch.ones(100_000)}).read_bytes())
    at = data.index(torch.ones(1000).numpy().tobytes()) + 2000
    data[at] ^= 255
    path.write_bytes(bytes(data))


BAD = {
    "cut short": (cut, "is no PyTorch checkpoint, or is cut short: copy or download it again"),
    "altered": (altered, "was altered (record"),
    "another kind of file": (lambda path, names: path.write_text("hello"), "is no PyTorch checkpoint"),
    "missing key": (
        lambda path, names: saved(path, {n: t for n, t in whole(names).items() if n != names[7]}),
        "lacks '{names[7]}' (in all 1 tensors)",
    ),
    "missing key of an environment": (
        lambda path, names: saved(
            path, {n: t for n, t in whole(names).items() if not n.endswith("connecters_out.0.0.bias")}
        ),
        "connecters_out.0.0.bias' (in all 1 tensors)",
    ),
    "unexpected key": (
        lambda path, names: saved(path, whole(names) | {"surplus": torch.zeros(1)}),
        "has 'surplus', which nobody knows",
    ),
    "wrong shape": (lambda path, names: saved(path, whole(names)), "has the shape (1,), which does not fit"),
    "code": (lambda path, names: saved(path, {"a": Evil()}), "holds more than tensors (print): refused"),
    "a module": (
        lambda path, names: saved(path, {"a": torch.nn.ReLU()}),
        "holds more than tensors (torch.nn.modules.activation.ReLU)",
    ),
    "not a tensor": (
        lambda path, names: saved(path, whole(names) | {"step": 5}),
        "holds 'step', a int: expected nothing but tensors",
    ),
    "not a dict": (
        lambda path, names: saved(path, [torch.zeros(1)]),
        "holds a list: expected a dict of tensors by name",
    ),
    "a strange tensor": (
        lambda path, names: saved(path, {"x": torch.zeros(2, dtype=torch.complex64)}),
        "holds 'x', a tensor of torch.complex64",
    ),
    "no file": (lambda path, names: None, "no file"),
}


def fails(arguments, capsys, message):
    assert cli.main(["convert", *map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("codi: error: ") and message in err, err


@pytest.mark.parametrize("make, message", BAD.values(), ids=BAD)
def test_a_bad_file(names, make, message, tmp_path, capsys):
    file = tmp_path / "audio.pth"
    make(file, names)
    before = sorted(tmp_path.iterdir())
    fails(["--audio", file, "-o", tmp_path / "model"], capsys, message.replace("{names[7]}", names[7]))
    assert sorted(tmp_path.iterdir()) == before


def test_no_altered_byte_and_no_cut_goes_unseen(tmp_path):
    """Of the archive's own fields too, each of which raises something else: refused, or (filling) the very
    same tensors.
    """
    first = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.arange(4, dtype=torch.float16)}
    data, file, refused = saved(tmp_path / "x.pth", first).read_bytes(), tmp_path / "x.pth", 0
    changed = [
        data[:i] + bytes([data[i] ^ 255]) + data[i + 1 :]
        for i in (*range(0, len(data), 5), *range(len(data) - 100, len(data)))
    ]
    for content in changed + [data[:size] for size in range(0, len(data), 50)]:
        file.write_bytes(content)
        try:
            check_archive(file)
            found = read_checkpoint(file)
        except InputError as error:
            refused += str(error).startswith(str(file))
        else:
            assert found.keys() == first.keys() and all(
                torch.equal(found[name], first[name]) for name in first
            )
    assert refused > len(changed) / 4


def repacked(path, change=lambda name, data: data, compression=zipfile.ZIP_STORED, more=()):
    """The archive with other records, each with a checksum that fits."""
    with zipfile.ZipFile(path) as archive:
        records = [(name, change(name, archive.read(name))) for name in archive.namelist()]
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", compression) as archive:
        warnings.simplefilter("ignore")  # of two records of one name
        for name, data in [*records, *more]:
            archive.writestr(name, data)
    return path


def deflated(data):
    """An archive of one record in some KB."""
    content = BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data", data)
    return content.getvalue()


def inflating(path):
    """20 MB of zeros in some KB."""
    return repacked(
        path, lambda n, data: data + bytes(20 << 20 if n.endswith("data/0") else 0), zipfile.ZIP_DEFLATED
    )


def shorter(path, records):
    return repacked(path, lambda name, data: data[:-4] if name.rpartition("/data/")[2] in records else data)


BOMBS = {
    "inflating": (inflating, "holds a compressed record"),
    "packed again": (
        lambda path: repacked(path, more=[("x/nested.zip", deflated(bytes(20 << 20)))]),
        "was not packed by torch.save",  # nobody opens it
    ),
    "a record is short": (lambda path: shorter(path, "0"), "declares 24 bytes for 'a', its record has 20"),
    "packed by another program": (repacked, "was not packed by torch.save"),
    "all records are short": (lambda path: shorter(path, "01"), "its record has"),
    "a record is long": (
        lambda path: repacked(path, lambda n, data: data + (b"0000" if n.endswith("data/0") else b"")),
        "declares 24 bytes for 'a', its record has 28",
    ),
    "a record twice": (
        lambda path: repacked(path, more=[("x/data/0", bytes(24))]),
        "names one of its records twice",
    ),
    "no data.pkl": (
        lambda path: repacked(path, lambda n, data: b"" if n.endswith("data.pkl") else data),
        "cannot be read",
    ),
    "stretched": (
        lambda path: saved(path, {"a": torch.zeros(1).expand(10**12)}),
        "declares 'a' as (1000000000000,), its record has 4 bytes",
    ),
}


@pytest.mark.parametrize("make, message", BOMBS.values(), ids=BOMBS)
def test_an_archive_that_is_not_what_it_declares(make, message, tmp_path, capsys):
    path = saved(tmp_path / "x.pth", {"a": torch.arange(6.0), "b": torch.arange(4, dtype=torch.float16)})
    make(path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    fails(["--audio", path, "-o", tmp_path / "model"], capsys, message)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KB
    assert [p.name for p in tmp_path.iterdir()] == ["x.pth"]


@pytest.mark.parametrize("number, dtype", [(float("nan"), None), (float("-inf"), None), (1e6, torch.float16)])
def test_weights_that_are_not_finite(files, tmp_path, number, dtype):
    content = torch.load(files["audio"], weights_only=True)
    name = next(name for name, tensor in content.items() if tensor.ndim == 4)
    content[name] = content[name].clone()
    content[name].view(-1)[0] = number
    path = saved(tmp_path / "x.pth", content)
    with pytest.raises(InputError, match=r"x\.pth: tensor '.*' of the part .* not finite as"):
        convert({"audio": path}, tmp_path / "model", geometry=fabricated.TINY, dtype=dtype)
    assert [p.name for p in tmp_path.iterdir()] == ["x.pth"]


@pytest.mark.parametrize(
    "file", ["released/audio.safetensors", "audio_denoiser/diffusion_pytorch_model.safetensors"]
)
def test_a_converted_folder_without_checksums_that_was_cut(files, tmp_path, file):
    convert({"audio": files["audio"]}, tmp_path / "model", geometry=fabricated.TINY)
    (tmp_path / "model" / "checksums.json").unlink()
    content = (tmp_path / "model" / file).read_bytes()
    (tmp_path / "model" / file).write_bytes(content[:-1])
    with pytest.raises(InputError, match="safetensors"):
        reverse(tmp_path / "model", tmp_path / "back", geometry=fabricated.TINY)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_wrong_slot(names, tmp_path, capsys):
    file = saved(tmp_path / "audio.pth", whole(names))
    fails(
        ["--text", file, "-o", tmp_path / "model"],
        capsys,
        "no weights for --text: it looks like the file for --audio",
    )
    fails(["-o", tmp_path / "model"], capsys, "no checkpoint was named")
    fails(["--reverse", tmp_path, "-o", tmp_path / "back"], capsys, "was not made by `codi convert`")
    fails(
        ["--reverse", tmp_path, "--dtype", "bf16", "-o", tmp_path / "back"],
        capsys,
        "--reverse takes a converted folder and -o",
    )
    fails(["--audio", file, "-o", file], capsys, "audio.pth is there already")
    assert [p.name for p in tmp_path.iterdir()] == ["audio.pth"]


def test_sound_itself_is_no_checkpoint(tmp_path, capsys):
    io.save_audio(tmp_path / "storm.wav", torch.rand(4000) - 0.5, 16000)
    fails(
        ["--text", tmp_path / "storm.wav", "-o", tmp_path / "model"],
        capsys,
        "storm.wav is no PyTorch checkpoint",
    )
    assert [p.name for p in tmp_path.iterdir()] == ["storm.wav"]


@contextmanager
def files_no_larger_than(size):
    """What a full disk does to whoever writes, as the system itself does it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_no_space(files, tmp_path):
    with (
        files_no_larger_than(100_000),
        pytest.raises(InputError, match="cannot write .*model: .* Free some space or name another place"),
    ):
        convert({"audio": files["audio"]}, tmp_path / "model", geometry=fabricated.TINY)
    assert list(tmp_path.iterdir()) == []
    convert({"audio": files["audio"]}, tmp_path / "model", geometry=fabricated.TINY)
    with files_no_larger_than(100_000), pytest.raises(InputError, match="cannot write .*back: "):
        reverse(tmp_path / "model", tmp_path / "back", geometry=fabricated.TINY)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_space_is_asked_for_before_anything_is_written(files, tmp_path, monkeypatch):
    monkeypatch.setattr(conversion.convert.shutil, "disk_usage", lambda place: SimpleNamespace(free=1000))
    with pytest.raises(InputError, match="0.0 GB free, the model needs 0.0"):
        convert({"audio": files["audio"]}, tmp_path / "model", geometry=fabricated.TINY)
    assert list(tmp_path.iterdir()) == []


def test_a_converted_folder_that_was_altered_gives_nothing_back(files, tmp_path):
    convert({"audio": files["audio"]}, tmp_path / "model", geometry=fabricated.TINY)
    weights = tmp_path / "model" / "audio_denoiser" / "diffusion_pytorch_model.safetensors"
    flipped(weights)
    with pytest.raises(InputError, match="was altered"):
        reverse(tmp_path / "model", tmp_path / "back", geometry=fabricated.TINY)
    assert not (tmp_path / "back").exists()


def flipped(path):
    """One bit of the last tensor."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    "spoilt", ["audio_denoiser/diffusion_pytorch_model.safetensors", "released/audio.safetensors"]
)
def test_what_was_not_written_well_is_not_kept(files, tmp_path, spoilt, monkeypatch, capsys):
    def write(path, *arguments):
        conversion.checkpoint.write_safetensors(path, *arguments)
        if f"{path.parent.name}/{path.name}" == spoilt:
            flipped(path)

    monkeypatch.setattr(conversion.convert, "write_safetensors", write)
    monkeypatch.setattr(conversion.convert, "convert", partial(convert, geometry=fabricated.TINY))
    content = torch.load(files["audio"], weights_only=True) | {"betas": torch.rand(10)}
    arguments = ["--audio", saved(tmp_path / "x.pth", content), "-o", tmp_path / "model", "--dtype", "bf16"]
    fails(arguments, capsys, f"{spoilt} was not written as it should be (tensor '")
    assert [p.name for p in tmp_path.iterdir()] == ["x.pth"]


def test_two_copies_of_one_tensor_must_be_alike(files, tmp_path):
    convert({"audio": files["audio"]}, tmp_path / "model", geometry=fabricated.TINY)
    weights = tmp_path / "model" / "environment_encoders" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    tensors["encoders.audio.time_embedding.linear_1.bias"] += 1  # a training that went on from here
    save_file(tensors, weights)
    (tmp_path / "model" / "checksums.json").unlink()
    with pytest.raises(
        InputError,
        match=(
            "holds 'model.diffusion_model.unet_audio.time_embed.0.bias' in a denoiser and in environments, "
            "and they differ"
        ),
    ):
        reverse(tmp_path / "model", tmp_path / "back", geometry=fabricated.TINY)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda report: report["files"]["audio"].update(file="../../elsewhere.pth"),
            "names files, slots or types",
        ),
        (
            lambda report: report["files"].update(smell=report["files"].pop("audio")),
            "names files, slots or types",
        ),
        (
            lambda report: report["files"]["audio"]["tensors"].update(more={"to": [], "dtype": "float32"}),
            "lacks 'more'",
        ),
        (
            lambda report: report["files"]["audio"]["tensors"].update(more={"dtype": "load"}),
            "names files, slots or types",
        ),
        (lambda report: report.pop("files"), "is no report of a conversion"),
    ],
    ids=["a file elsewhere", "a slot", "a tensor", "a type", "nothing"],
)
def test_a_report_that_was_altered_gives_nothing_back(files, tmp_path, change, message):
    convert({"audio": files["audio"]}, tmp_path / "model", geometry=fabricated.TINY)
    record = tmp_path / "model" / "released" / "coverage.json"
    report = json.loads(record.read_text())
    change(report)
    record.write_text(json.dumps(report))
    with pytest.raises(InputError, match=message):
        reverse(tmp_path / "model", tmp_path / "back", geometry=fabricated.TINY)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_files_of_one_name_come_back_as_two(files, tmp_path):
    for slot in ("text", "audio"):
        (tmp_path / slot).mkdir()
        (tmp_path / slot / "model.pth").symlink_to(files[slot])
    given = {slot: tmp_path / slot / "model.pth" for slot in ("text", "audio")}
    convert(given, tmp_path / "model", geometry=fabricated.TINY)
    for path, slot in zip(
        reverse(tmp_path / "model", tmp_path / "back", geometry=fabricated.TINY), given, strict=True
    ):
        back, first = (torch.load(p, weights_only=True) for p in (path, given[slot]))
        assert list(back) == list(first) and all(torch.equal(back[name], first[name]) for name in first)


MEASURE = """
import resource, sys
from pathlib import Path
import torch
from codi.convert.convert import convert
from tests.convert.test_bad_input import BIG
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
dtype = getattr(torch, sys.argv[4], None)
convert({sys.argv[1]: Path(sys.argv[2])}, Path(sys.argv[3]), geometry=BIG, dtype=dtype)
print(peak() - before)
"""
WIDE = fabricated.TINY["unet_audio"] | dict(model_channels=384)
LARGE = dict(hidden_size=768, intermediate_size=3072)
BIG = fabricated.TINY | dict(
    unet_audio=WIDE,
    clip=fabricated.TINY["clip"]
    | {kind: fabricated.TINY["clip"][kind] | LARGE for kind in ("text_config", "vision_config")},
    optimus=fabricated.TINY["optimus"]
    | dict(encoder=fabricated.TINY["optimus"]["encoder"] | LARGE | dict(num_hidden_layers=6)),
)


@pytest.mark.parametrize("slot, dtype", [("audio", "as it is"), ("encoders", "bfloat16")], ids=str)
def test_memory_stays_below_the_largest_part_and_a_third(slot, dtype, tmp_path):
    shapes = fabricated.shapes(BIG)[slot]
    saved(tmp_path / "big.pth", {name: torch.ones(shape) for name, shape in shapes.items()})
    command = [sys.executable, "-c", MEASURE, slot, str(tmp_path / "big.pth"), str(tmp_path / "model"), dtype]
    grown = int(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    read = 1 if dtype == "as it is" else 2  # the file is float32
    largest = read * max(path.stat().st_size for path in (tmp_path / "model").glob("*/*.safetensors"))
    assert largest > 150e6 and grown < 1.3 * largest, (
        f"{grown / 1e6:.0f} MB for a largest part of {largest / 1e6:.0f} MB"
    )
