"""`codi convert`: turn the checkpoints released with the paper into a model folder, and back.

tables.py      rows of a table, each a bijection; strict both ways
denoisers.py   tables of the three diffusers and their environment encoders
parts.py       tables of the autoencoders and towers
released.py    which part comes from which file, in which geometry
checkpoint.py  reading .pth files safely, writing safetensors in a stream
convert.py     the work, one part at a time, with a report of coverage
"""

import argparse
from pathlib import Path

from codi.types import InputError

DTYPES = {
    "float32": "float32",
    "bf16": "bfloat16",
    "bfloat16": "bfloat16",
    "fp16": "float16",
    "float16": "float16",
}
SLOTS = {
    "encoders": "autoencoders and prompt towers",
    "text": "text diffuser",
    "audio": "audio diffuser",
    "video": "image and video diffuser",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `codi convert` to a parser, without importing anything heavy."""
    for slot, what in SLOTS.items():
        parser.add_argument(f"--{slot}", metavar="FILE", type=Path, help=f"{what} (.pth)")
    parser.add_argument(
        "-o", "--out", required=True, type=Path, metavar="FOLDER", help="where the model goes; a new folder"
    )
    parser.add_argument("--dtype", choices=sorted(DTYPES), help="of the weights (default: as they are)")
    parser.add_argument(
        "--tokenizers",
        type=Path,
        metavar="FOLDER",
        help="with clip/, bert/ and gpt2/tokenizer.json, which the checkpoints lack",
    )
    parser.add_argument(
        "--keep-unknown",
        action="store_true",
        help="set tensors aside that nobody knows, instead of refusing them",
    )
    parser.add_argument(
        "--reverse", type=Path, metavar="FOLDER", help="a converted model: gives its checkpoints back"
    )


def main(args: argparse.Namespace) -> int:
    """Run `codi convert`, and print what was made.

    Args:
        args: the options as `add_arguments` defines them.

    Returns:
        The exit code, 0.

    Raises:
        InputError: if the options contradict each other, or a file cannot be converted.
    """
    import torch

    from codi.convert.convert import convert, reverse

    files = {}
    for slot in SLOTS:
        path = getattr(args, slot)
        if path is not None:
            files[slot] = path
    if args.reverse is not None:
        if files or args.dtype or args.tokenizers or args.keep_unknown:
            raise InputError("--reverse takes a converted folder and -o, and nothing else")
        print(*reverse(args.reverse, args.out), sep="\n")
        return 0
    dtype = getattr(torch, DTYPES[args.dtype]) if args.dtype else None
    report = convert(files, args.out, dtype=dtype, words=args.tokenizers, keep_unknown=args.keep_unknown)
    print(args.out)
    print(args.out / "released" / "coverage.json")
    for slot, entry in report["files"].items():
        count = len(entry["tensors"])
        kept = sum("kept" in tensor for tensor in entry["tensors"].values())
        print(f"{slot}: {count} tensors, {count - kept} used, {kept} kept aside")
    return 0
