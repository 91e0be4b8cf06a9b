"""Read and write adapters as files of a few MB, with headers that say what they were made for.

Files follow diffusers: `pytorch_lora_weights.safetensors` with tensors "<part>.<layer>.lora_A.weight", and
`learned_embeds.safetensors` with one tensor (k, W) per word. A model is compared with the header: the probes
(`codi.models.lora.probe`) of the layers that are adapted must be those of the weights on which the adapter
was trained.

Letters: k vectors of a word, W width of the text tower's embeddings.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from codi import io
from codi.border import plain
from codi.models import lora, words
from codi.tensor_files import parse_json, read_header
from codi.types import InputError
from codi.version import __version__

LORA_FILE = "pytorch_lora_weights.safetensors"
WORDS_FILE = "learned_embeds.safetensors"
# The root mean square of the difference of probes that is allowed: weights rounded to bfloat16 differ by
# 0.001, other weights by about 1.
TOLERANCE = 0.05
# The part whose probe a file of words holds, and the layer of it.
TOWER, TABLE = "text_tower", "token_embedding"


@dataclass(frozen=True, kw_only=True)
class Lora:
    """A LoRA as it was read from a file.

    Attributes:
        path: the file.
        parts: tensors by part of the model and by name, float32.
        rank: the rank that the header states.
        alpha: the alpha that the header states; what a LoRA adds is scaled by alpha / rank.
        base: the name of the model on which it was trained.
        probes: probes of that model's weights, by part and layer.
    """

    path: Path
    parts: dict[str, dict[str, Tensor]]
    rank: int
    alpha: float
    base: str
    probes: dict[str, dict[str, float]]


def save_lora(
    folder: Path,
    denoisers: Mapping[str, nn.Module],
    *,
    rank: int,
    alpha: float,
    base: str,
    targets: Iterable[str],
) -> Path:
    """Write the trained LoRA of each named denoiser into one float16 file.

    Args:
        folder: where the file goes, which is named `LORA_FILE`.
        denoisers: the denoisers by the names of their parts.
        rank: the rank of the LoRA.
        alpha: its alpha; what a LoRA adds is scaled by alpha / rank.
        base: the name of the model on which it was trained.
        targets: the last names of the layers that were chosen to be adapted.

    Returns:
        The path of the file.

    Raises:
        InputError: for a file that cannot be written.
    """
    tensors, probes, metadata = {}, {}, {}
    for part, denoiser in denoisers.items():
        found = lora.lora_tensors(denoiser)
        layers = lora.layers_of(found)
        tensors |= {f"{part}.{name}": tensor for name, tensor in found.items()}
        probes[part] = {layer: lora.probe(lora.base_layer(denoiser, layer).weight) for layer in layers}
        metadata |= {f"{part}.r": rank, f"{part}.lora_alpha": alpha, f"{part}.target_modules": layers}
    header = {
        "lora_adapter_metadata": json.dumps(metadata, sort_keys=True),
        "rank": str(rank),
        "alpha": str(alpha),
        "target_modules": json.dumps(sorted(targets)),
    }
    return _save(Path(folder) / LORA_FILE, tensors, header, base, probes)


def save_words(folder: Path, tower: nn.Module, *, base: str) -> Path:
    """Write the new words of a text tower in full precision, since a word is a few numbers.

    Args:
        folder: where the file goes, which is named `WORDS_FILE`.
        tower: the text tower; it must have new words.
        base: the name of the model for which they were learned.

    Returns:
        The path of the file.

    Raises:
        InputError: for a file that cannot be written.
    """
    book = tower.tokenizer
    assert isinstance(book, words.Wordbook), "this tower has no new words"
    embedding = tower.text.get_input_embeddings()
    rows = dict(
        zip(book.words, embedding.vectors.weight.detach().split([len(rows) for rows in book.words.values()]))
    )
    header = {"words": json.dumps(list(rows))}
    tensors = {word: tensor.float() for word, tensor in rows.items()}
    return _save(
        Path(folder) / WORDS_FILE, tensors, header, base, {TOWER: {TABLE: lora.probe(embedding.table.weight)}}
    )


def _save(
    path: Path, tensors: Mapping[str, Tensor], header: dict[str, str], base: str, probes: dict[str, Any]
) -> Path:
    """Write tensors with their header, those of a LoRA as float16, and return the path."""
    header = {
        "format": "pt",
        **header,
        "base_model": base,
        "probes": json.dumps(probes),
        "codi_version": __version__,
    }
    small = path.name == LORA_FILE
    data = {
        name: (tensor.half() if small else tensor).detach().cpu().contiguous()
        for name, tensor in tensors.items()
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with io.atomic(path) as temporary:  # a kill leaves the older file, or none
            save_file(data, temporary, metadata=header)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"cannot write {path}: {reason}: choose another folder, or free some space"
        ) from None
    return path


def find_file(source: str | Path, name: str) -> Path:
    """Return the path of the file `name` in a folder, or of the file that `source` is itself.

    Anything that is no such .safetensors file raises `InputError`.
    """
    if not isinstance(source, (str, os.PathLike)):
        what = f"{type(source).__name__} instead of a folder"
        raise InputError(
            f"{what}: expected the name of the folder that holds {name}, or of a .safetensors file"
        )
    path = Path(source).expanduser()
    path = path / name if path.is_dir() else path
    if not path.is_file() or path.suffix != ".safetensors":
        raise InputError(f"no {name} at {source}: expected the folder that holds it, or a .safetensors file")
    return path


def named_file(source: str | Path, usual: str, weight_name: str | None, subfolder: str | None) -> Path:
    """Return the path of an adapter's file, which diffusers' arguments may name.

    Args:
        source: a folder or a file.
        usual: the name of the file in a folder where `weight_name` gives none.
        weight_name: the name of the file, or None.
        subfolder: the folder below `source` in which it is, or None.

    Returns:
        The path of a file that is there.

    Raises:
        InputError: where there is no such file, or `source` is a file of another name than `weight_name`.
    """
    if weight_name is None and subfolder is None:
        return find_file(source, usual)
    folder = Path(source) / (subfolder or "") if Path(source).is_dir() else source
    file = find_file(folder, weight_name or usual)
    if weight_name is not None and file.name != Path(weight_name).name:
        raise InputError(
            f"{source} is a file of another name than weight_name {weight_name!r}: expected one of them"
        )
    return file


def read_lora(source: str | Path) -> Lora:
    """Read the LoRA in a folder or a file, as float32.

    One that is damaged, or that codi did not write, raises `InputError`.
    """
    path = find_file(source, LORA_FILE)
    tensors, header = _read(path)
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        parts.setdefault(part, {})[rest] = tensor
    try:
        rank, alpha, probes = int(header["rank"]), float(header["alpha"]), _probes(header)
        wrong = not parts or probes.keys() != parts.keys() or not (rank > 0 and math.isfinite(alpha))
        for part, found in parts.items():
            wrong = wrong or sorted(probes[part]) != lora.layers_of(found)
        if wrong:
            raise ValueError("it does not agree with the tensors")
    except (KeyError, ValueError) as error:
        raise _foreign(path, "LoRA", error) from None
    return Lora(path=path, parts=parts, rank=rank, alpha=alpha, base=header["base_model"], probes=probes)


def read_words(source: str | Path) -> tuple[dict[str, Tensor], str, dict[str, dict[str, float]]]:
    """Read the words in a folder or a file.

    Args:
        source: the folder or file.

    Returns:
        The vectors (k, W) by word, the name of the model for which they were learned, and the probes of that
        model's text tower.

    Raises:
        InputError: for a file that is damaged, or that codi did not write.
    """
    path = find_file(source, WORDS_FILE)
    tensors, header = _read(path)
    try:
        names, probes = parse_json(header["words"]), _probes(header)
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("its words are no list of texts")
        if sorted(names) != sorted(tensors) or not names or set(probes[TOWER]) != {TABLE}:
            raise ValueError("it does not agree with the tensors")
    except (KeyError, ValueError) as error:
        raise _foreign(path, "file of words", error) from None
    return {name: tensors[name] for name in names}, header["base_model"], probes


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors, as float32, and the header of an adapter, and check that both can be used."""
    for name, entry in read_header(path).items():
        if entry.dtype not in ("F16", "BF16", "F32", "F64"):
            raise InputError(
                f"{path} holds {name!r} as {entry.dtype}: expected floating-point numbers; copy it again, or "
                "train it again"
            )
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
            header = file.metadata() or {}
    except (SafetensorError, OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{path} cannot be read ({reason}): copy it again, or train it again") from None
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise InputError(
                f"{path} holds numbers in {name!r} that are not finite: copy it again, or train it again"
            )
    if "base_model" not in header:
        raise _foreign(path, "adapter", KeyError("base_model"))
    return tensors, header


def _probes(header: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """Return the probes in a header by part and layer; raise `ValueError` or `KeyError` if they are odd."""
    probes = parse_json(header["probes"])
    if not isinstance(probes, dict) or not all(isinstance(layers, dict) for layers in probes.values()):
        raise ValueError("its probes are no objects")
    for value in (value for layers in probes.values() for value in layers.values()):
        if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
            raise ValueError(f"its probes hold {value!r}")
    return probes


def _foreign(path: Path, what: str, error: Exception) -> InputError:
    """Return the error for a file that codi's training did not write."""
    reason = (
        f"its header lacks {error}" if isinstance(error, KeyError) else f"its header cannot be used, {error}"
    )
    return InputError(
        f"{path} is no {what} of codi ({reason}): expected one that codi's training wrote; see "
        "docs/fine-tuning.md"
    )


def check_base(
    what: str, base: str, expected: Mapping[str, float], found: Mapping[str, float], part: str
) -> None:
    """Raise `InputError` unless a model's layers have the weights on which an adapter was trained.

    Weights are compared by their probes (`codi.models.lora.probe`).

    Args:
        what: the name of the adapter, for messages.
        base: the name of the model on which it was trained, for messages.
        expected: the probes in the adapter's header, by layer.
        found: the probes of the model's own weights, by layer.
        part: the name of the part of the model, for messages.

    Raises:
        InputError: where their distance, a root mean square over the layers, is above `TOLERANCE`.
    """
    apart = {layer: abs(value - found[layer]) for layer, value in expected.items()}
    distance = math.sqrt(math.fsum(d * d for d in apart.values()) / len(apart))
    if not distance <= TOLERANCE:  # not `>`: a distance that is NaN is refused, too
        worst = max(apart, key=apart.__getitem__)
        raise InputError(
            f"{what} was trained on the model {base!r}, and the {part} here has other weights (probes differ "
            f"by {distance:.2f}, most in {worst}): load the model it was trained on, or train it for this one"
        )


def check_scale(name: str, scale: Any) -> None:
    """Raise `InputError` unless a scale is a finite number, of Python, numpy or torch.

    `name` is that of the LoRA, for messages.
    """
    scale = plain(scale)
    if isinstance(scale, bool) or not isinstance(scale, Real) or not math.isfinite(scale):
        raise InputError(
            f"scale {scale!r} of LoRA {name}: expected a finite number for all of it, such as 0.7"
        )
