"""Conversion as a whole: the full geometry name by name, there and back bit for bit, and files that are not
what they should be.
"""

import json
from collections import Counter
from functools import partial

import pytest
import torch

from codi import cli, pretrained
from codi.convert import convert as conversion
from codi.convert import released
from codi.convert.convert import convert, reverse
from codi.convert.released import FULL, SLOTS
from codi.pipeline import CoDiPipeline
from codi.types import InputError
from tests.convert import fabricated, pack
from tests.convert.pack import component, pack_file

ENCODERS = {
    "autokl": "07_autokl",
    "audioldm": "08_audioldm",
    "optimus": "09_optimus",
    "clip": "10_clip",
    "clap": "11_clap",
}


@pytest.fixture(scope="module")
def full():
    return json.loads(pack_file("full_keys.json").read_text())


def test_a_pack_that_was_named_must_be_there(tmp_path, monkeypatch):
    monkeypatch.setattr(pack, "PACK", tmp_path)
    for named, outcome in ((None, pytest.skip.Exception), (str(tmp_path), pytest.fail.Exception)):
        monkeypatch.setattr(pack, "NAMED", named)
        with pytest.raises(
            outcome,
            match="full_keys.json: expected the folder of a parity pack" if named else "no parity pack at",
        ):
            pack_file("full_keys.json")


def slot_of(name, full):
    return next((slot for slot, file in SLOTS.items() if name.startswith(tuple(full["files"][file]))), None)


def test_full_size_has_exactly_the_released_names_and_shapes(full):
    names = {slot: {n for n in full["keys"] if slot_of(n, full) == slot} for slot in SLOTS}
    used = Counter()
    for parts in released.listed(names, FULL).values():
        for part in parts:
            module, table = part.on_meta()
            state = module.state_dict()
            for row in table.rows:
                given = [
                    tuple(t.shape)
                    for t in row.op.forward(torch.empty(full["keys"][row.source], device="meta"))
                ]
                assert given == [tuple(state[t].shape) for t in row.targets], row.source
            used.update(table.sources)
    left = set(full["keys"]) | set(full["lazy_keys"]["keys"]) | set(full["tied"])
    assert set(used) <= left and [n for n in left - set(used) if released.why_kept(n) is None] == []
    # by the denoiser and by its environment encoder
    twice = {name for name in used if ".time_embed." in name}
    assert len(twice) == 3 * 4 and used == Counter({name: 2 if name in twice else 1 for name in used})


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Checkpoints of the released layout at the pack's sizes: files by slot, and their geometry."""
    folder, joint = tmp_path_factory.mktemp("pth"), component("05_joint_unet")
    geometry = {name: c for name, c in joint.meta["config"].items() if name.startswith("unet_")}
    weights = {f"model.diffusion_model.{k}": w for k, w in joint.weights().items()}
    encoders = {}
    for name, file in ENCODERS.items():
        part = component(file)
        geometry[name] = part.meta["config"]
        encoders |= {f"{name}.{k}": w for k, w in part.weights().items()}
        encoders |= {
            f"{name}.{k}": torch.zeros(v["shape"], dtype=getattr(torch, v["dtype"]))
            for k, v in (part.meta["not_filled"] or {}).items()
        }
        encoders |= {
            f"{name}.{k}": encoders[f"{name}.{source}"] for k, source in (part.meta.get("tied") or {}).items()
        }
    voice = component("08_audioldm").meta
    geometry |= dict(vocoder=voice["vocoder_config"], stft=voice["stft"])
    content = {
        slot: {n: w for n, w in weights.items() if n.startswith(released.prefix_of(slot))}
        for slot in ("text", "audio", "video")
    }
    content["encoders"] = encoders
    content["text"]["betas"] = torch.rand(10)
    files = {slot: folder / SLOTS[slot] for slot in SLOTS}
    for slot, path in files.items():
        torch.save(content[slot], path)
    return files, geometry


def equal(a, b):
    return list(a) == list(b) and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)


def test_there_and_back_bit_for_bit(tiny, tmp_path):
    files, geometry = tiny
    report = convert(files, tmp_path / "model", geometry=geometry)
    for slot, entry in report["files"].items():
        assert list(entry["tensors"]) == list(torch.load(files[slot], weights_only=True))
        assert all(("to" in x) != ("kept" in x) for x in entry["tensors"].values())
    for path in reverse(tmp_path / "model", tmp_path / "back", geometry):
        original = next(p for p in files.values() if p.name == path.name)
        assert equal(torch.load(path, weights_only=True), torch.load(original, weights_only=True))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["back", "model"]


def test_the_command_there_and_back(files, words, tmp_path, monkeypatch, capsys):
    """On tiny files of the released layout; at half the precision, which is all that the way
    back can lose.
    """
    monkeypatch.setattr(conversion, "convert", partial(convert, geometry=fabricated.TINY))
    monkeypatch.setattr(conversion, "reverse", partial(reverse, geometry=fabricated.TINY))
    out, given = tmp_path / "model", [x for slot, path in files.items() for x in (f"--{slot}", str(path))]
    assert cli.main(["convert", *given, "--tokenizers", str(words), "-o", str(out), "--dtype", "bf16"]) == 0
    counts = {slot: len(torch.load(path, weights_only=True)) for slot, path in files.items()}
    kept = {slot: int(slot == "encoders") for slot in files}  # the token embedding that is there twice
    report = [
        f"{slot}: {count} tensors, {count - kept[slot]} used, {kept[slot]} kept aside"
        for slot, count in counts.items()
    ]
    assert capsys.readouterr().out.splitlines() == [
        str(out),
        str(out / "released" / "coverage.json"),
        *report,
    ]
    stored = {
        (n, e.dtype)
        for path in out.glob("*_*/*.safetensors")
        for n, e in pretrained.read_header(path).items()
        if "scaling" not in n
    }
    assert {dtype for name, dtype in stored if name.endswith((".weight", ".bias"))} == {"BF16"}
    pipe = CoDiPipeline.from_pretrained(out, dtype=torch.bfloat16)
    assert {part.dtype for part in pipe.components.values() if hasattr(part, "parameters")} == {
        torch.bfloat16
    }
    assert CoDiPipeline.from_pretrained(out).audio_denoiser.dtype == torch.float32  # unless asked
    assert cli.main(["convert", "--reverse", str(out), "-o", str(tmp_path / "back")]) == 0
    assert capsys.readouterr().out.splitlines() == [
        str(tmp_path / "back" / path.name) for path in files.values()
    ]
    for path in files.values():
        first = {name: w.bfloat16().float() for name, w in torch.load(path, weights_only=True).items()}
        assert equal(torch.load(tmp_path / "back" / path.name, weights_only=True), first)


def test_files_of_half_precision_come_back_as_they_were(tiny, tmp_path):
    files, geometry = tiny
    half = {
        name: w.half() if w.is_floating_point() else w
        for name, w in torch.load(files["audio"], weights_only=True).items()
    }
    torch.save(half, tmp_path / "audio.pth")
    convert({"audio": tmp_path / "audio.pth"}, tmp_path / "model", geometry=geometry)
    (weights,) = (tmp_path / "model" / "audio_denoiser").glob("*.safetensors")
    assert {entry.dtype for entry in pretrained.read_header(weights).values()} == {"F16"}
    (back,) = reverse(tmp_path / "model", tmp_path / "back", geometry)
    assert equal(torch.load(back, weights_only=True), half)


def test_parts_load_strictly(tiny, tmp_path):
    files, geometry = tiny
    convert(
        {"text": files["text"], "encoders": files["encoders"]},
        tmp_path / "model",
        geometry=geometry,
        dtype=torch.bfloat16,
    )
    index = pretrained.read_index(tmp_path / "model")
    encoders = {
        "image_autoencoder",
        "audio_autoencoder",
        "text_autoencoder",
        "text_tower",
        "vision_tower",
        "audio_tower",
    }
    assert set(index) == encoders | {"scheduler", "environment_encoders", "text_denoiser"}
    pretrained.check_files(tmp_path / "model", index)
    for name, kind in index.items():
        part = pretrained.load_part(tmp_path / "model" / name, *kind, dtype=torch.bfloat16)
        if name == "environment_encoders":
            assert set(part.by_modality()) == {"text"} and part.attends_to() == {"text": {"text"}}
        if name == "text_autoencoder":
            assert torch.equal(part.decoder.lm_head.weight, part.decoder.transformer.wte.weight)


def test_a_diffuser_without_connecters_cannot_hear(tiny, tmp_path):
    files, geometry = tiny
    june = {n: w for n, w in torch.load(files["audio"], weights_only=True).items() if "connecters" not in n}
    torch.save(june, tmp_path / "june.pth")
    convert({"audio": tmp_path / "june.pth"}, tmp_path / "model", geometry=geometry)
    config = json.loads((tmp_path / "model" / "audio_denoiser" / "config.json").read_text())
    assert config["env_dim"] is None and not (tmp_path / "model" / "environment_encoders").exists()


def spoil(path, tmp_path, change):
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, tmp_path / "spoilt.pth")
    return tmp_path / "spoilt.pth"


BAD = {
    "missing": (
        lambda c: c.pop(next(n for n in c if "middle_block" in n)),
        "lacks 'model.diffusion_model.unet_audio.middle_block",
    ),
    "unknown": (lambda c: c.update(surplus=torch.zeros(1)), "has 'surplus', which nobody knows"),
    "shape": (
        lambda c: c.update({next(n for n in c if n.endswith("out.2.bias")): torch.zeros(3)}),
        r"out.2.bias' has the shape \(3,\)",
    ),
    "not a tensor": (lambda c: c.update(step=5), "holds 'step', a int"),
}


@pytest.mark.parametrize("change, message", BAD.values(), ids=BAD)
def test_wrong_content_is_named(tiny, tmp_path, change, message):
    files, geometry = tiny
    path = spoil(files["audio"], tmp_path, change)
    with pytest.raises(InputError, match=message):
        convert({"audio": path}, tmp_path / "model", geometry=geometry)
    assert [p.name for p in tmp_path.iterdir()] == ["spoilt.pth"]


def test_unknown_tensors_can_be_set_aside(tiny, tmp_path):
    files, geometry = tiny
    path = spoil(files["audio"], tmp_path, lambda c: c.update(surplus=torch.arange(3)))
    report = convert({"audio": path}, tmp_path / "model", geometry=geometry, keep_unknown=True)
    assert report["files"]["audio"]["tensors"]["surplus"] == {"kept": "unknown", "dtype": "int64"}
    (back,) = reverse(tmp_path / "model", tmp_path / "back", geometry)
    assert equal(torch.load(back, weights_only=True), torch.load(path, weights_only=True))


def test_wrong_file_in_a_slot(tiny, tmp_path):
    files, geometry = tiny
    with pytest.raises(InputError, match="no weights for --text: it looks like the file for --audio"):
        convert({"text": files["audio"]}, tmp_path / "model", geometry=geometry)


def test_damaged_files(tiny, tmp_path):
    files, geometry = tiny
    whole = files["audio"].read_bytes()
    for name, content, message in [
        ("short", whole[: len(whole) // 2], "cut short"),
        (
            "altered",
            whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 255]) + whole[len(whole) // 2 + 1 :],
            "altered",
        ),
        ("empty", b"", "cut short"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=message):
            convert({"audio": tmp_path / name}, tmp_path / "model", geometry=geometry)
    with pytest.raises(InputError, match="no file"):
        convert({"audio": tmp_path / "absent"}, tmp_path / "model", geometry=geometry)
    assert not (tmp_path / "model").exists()


class Evil:
    def __reduce__(self):
        return (print, ("ran",))


def test_a_pickle_with_code_is_refused(tmp_path, capsys):
    torch.save({"a": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(InputError, match="more than tensors"):
        convert({"audio": tmp_path / "evil.pth"}, tmp_path / "model")
    assert "ran" not in capsys.readouterr().out


def test_a_place_that_is_taken(tiny, tmp_path):
    files, geometry = tiny
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine").write_text("x")
    with pytest.raises(InputError, match="is there already"):
        convert({"audio": files["audio"]}, tmp_path / "model", geometry=geometry)
    assert (tmp_path / "model" / "mine").exists()
    with pytest.raises(InputError, match="not made by"):
        reverse(tmp_path / "model", tmp_path / "back")
