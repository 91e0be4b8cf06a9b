"""The command `codi`: generate, bench, convert, info, doctor.

Paths of what was made go to stdout, everything else to stderr. A user's mistake is one line and exit code 2, an interrupt exit code 130.
Nothing heavy is imported before the arguments are known to be good.
"""

import argparse
import contextlib
import os
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from codi import __version__, bench, convert
from codi.types import DTYPES, InputError

SCHEDULERS = ("released", "ddim", "dpm++", "unipc", "euler", "euler-ancestral", "ddpm")
DEVICES = "auto, cpu, cuda, cuda:1, mps"
EXAMPLES = """examples:
  codi generate --text "a red ball bounces slowly at night" --to video,audio,image,text -o out/
  codi generate --image photo.jpg --text "at night::0.5" --to audio -o out/ --samples 4
  codi generate --video clip.mp4 --to audio -o out/
  codi generate --jobs jobs.jsonl -o out/
  codi bench --out report/
  codi info
"""


class Parser(argparse.ArgumentParser):
    """argparse, with a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}. See `{self.prog} --help`.")


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="codi", description="Any combination of text, image, audio and video from any combination of them, together.")
    parser.formatter_class, parser.epilog = argparse.RawDescriptionHelpFormatter, EXAMPLES
    parser.add_argument("--version", action="version", version=f"codi {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command", required=True, parser_class=Parser)
    _add_generate(commands)
    measure = commands.add_parser("bench", help="measure a model on unseen scenes and write a report", description="Measures a model.")
    bench.add_arguments(measure)
    measure.set_defaults(run=bench.main)
    released = commands.add_parser(
        "convert", help="the checkpoints released with the paper -> a model folder", description="Converts released checkpoints, or back."
    )
    convert.add_arguments(released)
    released.set_defaults(run=convert.main)
    info = commands.add_parser("info", help="what a model is: parts, sizes, rates, licence", description="What a model is.")
    info.add_argument("model", nargs="?", help="folder or hub id (default: the model inside the package)")
    info.add_argument("--json", action="store_true", help="machine-readable")
    info.set_defaults(run=_info)
    doctor = commands.add_parser("doctor", help="check this machine and say how to fix what is wrong", description="Checks this machine.")
    doctor.set_defaults(run=_doctor)
    return parser


def _add_generate(commands: Any) -> None:
    generate = commands.add_parser(
        "generate",
        help="make media that belong together from prompts of any kind",
        description="Makes media that belong together. A prompt may be repeated and weighted: 'a red ball::0.7', photo.jpg::2. "
        "A video or a recording that is given while the other is made also stands in the loop as a clean partner, so that what is made "
        "keeps its time; sound made for a video is written as that video with the new sound, too, its frames untouched.",
    )
    _add_prompts(generate)
    generate.add_argument("--to", metavar="KINDS", help="what to make, separated by commas: text, image, audio, video")
    generate.add_argument("-o", "--out", required=True, metavar="FOLDER", help="where the files go")
    generate.add_argument(
        "--jobs", metavar="FILE", help="many jobs, one JSON object per line: id, text, image, ..., to, seed, negative_text, sync, ..."
    )
    generate.add_argument("--samples", type=int, default=1, metavar="N", help="how many of each (default 1)")
    generate.add_argument("--seed", type=int, default=0, metavar="N", help="sample k is made from seed + k (default 0)")
    generate.add_argument("--steps", type=int, metavar="N", help="denoising steps (default: the model's)")
    _add_sizes(generate)
    generate.add_argument("--scheduler", choices=SCHEDULERS, help="another way down the model's noise levels (default: the model's)")
    scale = "a number, or one for each output such as video=4,audio=3; 1 is off (default: the model's)"
    generate.add_argument("--guidance", metavar="X", help=f"how closely to follow the prompts: {scale}")
    generate.add_argument("--sync-guidance", metavar="X", help=f"how closely to follow the other outputs and clean partners: {scale}")
    generate.add_argument(
        "--delay", metavar="X", help="schedules, 0 to 3, after which an output starts, to hear the others further on: video=0.5"
    )
    generate.add_argument(
        "--no-sync", dest="sync", action="store_false", help="inputs are prompts only, and none stands in the loop as a clean partner"
    )
    generate.add_argument(
        "--no-lead", dest="lead", action="store_false", help="no caption that nobody asked for is drawn to make several outputs agree"
    )
    generate.add_argument(
        "--candidates", type=int, default=1, metavar="N", help="draw N for each sample and keep the one that agrees best (default 1)"
    )
    generate.add_argument("--model", metavar="NAME", help="folder or hub id (default: the model inside the package)")
    _add_adapters(generate)
    generate.add_argument("--device", default="auto", help=f"{DEVICES} (default auto)")
    generate.add_argument("--dtype", choices=DTYPES, default="float32", help="precision of the networks (default float32)")
    generate.add_argument("--batch", type=int, default=16, metavar="N", help="samples made at once (default 16)")
    generate.add_argument("--quiet", action="store_true", help="no progress on stderr")
    generate.set_defaults(run=_generate)


def _add_sizes(generate: Any) -> None:
    group = generate.add_argument_group("sizes and lengths of what is made (default: the model's own)")
    group.add_argument("--height", type=int, metavar="PIXELS", help="of images and videos")
    group.add_argument("--width", type=int, metavar="PIXELS", help="of images and videos")
    group.add_argument("--num-frames", type=int, metavar="N", help="frames of a video")
    group.add_argument("--fps", type=float, metavar="X", help="frames per second of a video")
    group.add_argument("--seconds", type=float, metavar="X", help="length of a sound (audio_length_in_s in Python)")


def _add_adapters(generate: Any) -> None:
    lora = "a LoRA beside the model, with how much it counts (default 1): folder, or folder::0.7; repeatable"
    generate.add_argument("--lora", action="append", default=[], metavar="FOLDER", help=lora)
    words = "learned words, to be used in --text; repeatable"
    generate.add_argument("--words", action="append", default=[], metavar="FOLDER", help=words)


def _add_prompts(generate: Any) -> None:
    files = {"image": "png, jpg, webp, gif", "audio": "wav, flac, mp3, ogg, m4a", "video": "mp4, webm, mov, avi"}
    for sign, title in (("", "prompts (any number of any kind)"), ("negative-", "what to steer away from (any number of any kind)")):
        group = generate.add_argument_group(title)
        group.add_argument(f"--{sign}text", action="append", default=[], metavar="WORDS", help="a sentence")
        for kind, suffixes in files.items():
            group.add_argument(f"--{sign}{kind}", action="append", default=[], metavar="FILE", help=f"a file ({suffixes})")


# Commands --------------------------------------------------------------


def _generate(args: argparse.Namespace) -> int:
    """Checks all that was asked, then loads the model, makes and writes. Nothing is written if a check fails."""
    from codi import jobs
    from codi.session import Session

    started = time.perf_counter()
    if args.batch < 1:
        raise InputError(f"--batch is {args.batch}: expected at least 1")
    todo = jobs.from_file(args) if args.jobs else [jobs.from_arguments(args)]
    out = _output_folder(args.out)
    session = Session(out=out, args=args, started=started)
    pending = session.pending(todo) if args.jobs else todo
    for job in pending:
        job.check(out)
    if pending:
        from codi.pretrained import pick_device

        with contextlib.redirect_stdout(sys.stderr):
            session.load(pick_device(args.device))
        session.check(pending)
    for batch in jobs.batches(pending, args.batch):
        with contextlib.redirect_stdout(sys.stderr):
            paths = session.run(batch)
        print(*paths, sep="\n", flush=True)
    session.finish(todo)
    return 0


def _info(args: argparse.Namespace) -> int:
    from codi import doctor

    return doctor.info(args.model, as_json=args.json)


def _doctor(args: argparse.Namespace) -> int:
    from codi import doctor

    return doctor.examine()


def _output_folder(folder: str) -> Path:
    from codi import io

    return io.check_folder(folder)


# Entry -----------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    warnings.showwarning = _note
    try:
        args = build_parser().parse_args(argv)
        code = args.run(args)
        sys.stdout.flush()
        return code
    except InputError as error:
        return _fail(error, 2)
    except KeyboardInterrupt:
        return _fail("interrupted; what was finished is kept", 130)
    except BrokenPipeError:  # the reader of our paths went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(sign in str(error).lower() for sign in ("out of memory", "allocate memory")):
            raise
        advice = "make fewer or smaller at once (--samples, --batch, --height, --num-frames), or use --dtype bfloat16 or another --device"
        return _fail(f"out of memory: {advice}", 1)


def _fail(message: Any, code: int) -> int:
    print(f"codi: error: {' '.join(str(message).split())}", file=sys.stderr)
    return code


def _note(message: Warning | str, category: type[Warning], filename: str, *rest: Any) -> None:
    """Our own warnings in one line; those of libraries, meant for programmers, are left out."""
    if category is UserWarning and f"{os.sep}codi{os.sep}" in filename:
        print(f"codi: note: {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
