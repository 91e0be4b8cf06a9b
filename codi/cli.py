"""Run the command `codi` with its subcommands: generate, vary, continue, grid, compare, serve, submit, ...

Paths of what was made go to stdout, everything else to stderr. A user's mistake is reported in one line with
exit code 2, an interrupt with exit code 130. Nothing heavy is imported before the arguments are known to be
good.
"""

import argparse
import contextlib
import gc
import os
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from codi import (
    __version__,
    bench,
    compare_command,
    continue_command,
    convert,
    fork_server,
    grid_command,
    inspection,
    modalities,
    options,
    provenance,
    renamed,
    submit_command,
    upscale_command,
    vary,
    verify_command,
)
from codi.compose import command as compose
from codi.compose.folder import composed_folder
from codi.failures import OUT_OF_MEMORY, Failures, is_of_memory
from codi.serve import command as serve
from codi.start_up import wait_passively
from codi.types import DTYPES, InputError, Modality, listed

if TYPE_CHECKING:
    from codi.jobs import Job
    from codi.session import Session

SCHEDULERS = ("released", "ddim", "dpm++", "unipc", "euler", "euler-ancestral", "ddpm")
LONGEST = 1000  # letters of a line on stderr
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
DEVICES = "auto, cpu, cuda, cuda:1, mps"
EXAMPLES = """examples:
  codi generate --text "a green star bounces quickly in the snow" --to video,audio,image,text -o out/
  codi generate --image photo.jpg --text "at night::0.5" --to audio -o out/ --samples 4
  codi generate --video clip.mp4 --to audio -o out/
  codi generate --jobs jobs.jsonl -o out/
  codi bench --out report/
  codi info
"""


class Parser(argparse.ArgumentParser):
    """An argument parser that reports a mistake in one line and accepts no abbreviated options.

    Abbreviations would be guessed from the first letters of an option.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as argparse does, but answer an unknown option with the one that was probably meant.

        This comes first, whatever else is missing.
        """
        words = list(args or ())
        # Before a command's name stand the options of `codi` itself; what follows is the command's.
        own = list(takewhile(lambda word: word.startswith("-"), words)) if self._subparsers else words
        options.check_known(self.prog.removeprefix("codi").strip(), own, self._option_string_actions)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Raise `InputError` with the message and the command that prints the help."""
        raise InputError(f"{message}. See `{self.prog} --help`.")


class Setting(argparse.Action):
    """An option that remembers which of its names was typed, so that messages can call it so."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: str | None = None) -> None:
        """Store the value under the setting's full name, and the name that was typed in `written`."""
        name = str(option).removeprefix("--").replace("-", "_")
        namespace.written = {**namespace.written, self.dest: name}
        setattr(namespace, self.dest, values)


class Named(argparse.Action):
    """One of several options whose values are kept together in a dict, each under its `const`."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: str | None = None) -> None:
        """Store the value under the option's own name."""
        setattr(namespace, self.dest, {**getattr(namespace, self.dest), self.const: values})


def _add_setting(group: Any, short: str, **options: Any) -> None:
    """Add the short option of a setting, and one of its full name, which the help does not list."""
    name = renamed.SHORT[short.removeprefix("--").replace("-", "_")]
    group.add_argument(short, dest=name, action=Setting, **options)
    options["help"] = argparse.SUPPRESS
    group.add_argument(f"--{name.replace('_', '-')}", dest=name, action=Setting, **options)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command `codi` with all its subcommands."""
    parser = Parser(
        prog="codi",
        description="Any combination of text, image, audio and video from any combination of them, together.",
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EXAMPLES
    parser.add_argument("--version", action="version", version=f"codi {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command", required=True, parser_class=Parser)
    unasked = _add_generate(commands).parse_args(["--out", "."])
    vary.add_command(commands).set_defaults(run=_vary)
    continue_command.add_command(commands).set_defaults(run=_continue)
    upscale_command.add_command(commands).set_defaults(run=_upscale)
    _add_submit(commands)
    grid_command.add_command(commands, _add_making).set_defaults(
        run=lambda args: grid_command.run(args, _generate, _print_path), unasked=unasked
    )
    compare_command.add_command(commands, _add_making).set_defaults(
        run=lambda args: compare_command.run(args, _generate, _print_path), unasked=unasked
    )
    measure = commands.add_parser(
        "bench", help="measure a model on unseen scenes and write a report", description="Measures a model."
    )
    bench.add_arguments(measure)
    measure.set_defaults(run=bench.main)
    released = commands.add_parser(
        "convert",
        help="the checkpoints released with the paper -> a model folder",
        description="Converts released checkpoints, or back.",
    )
    convert.add_arguments(released)
    released.set_defaults(run=convert.main)
    compose.add_command(commands)
    inspection.add_command(commands)
    serve.add_command(commands).set_defaults(run=serve.run)
    verify_command.add_command(commands).set_defaults(run=verify_command.run)
    info = commands.add_parser(
        "info", help="what a model is: parts, sizes, rates, licence", description="What a model is."
    )
    info.add_argument("model", nargs="?", help="folder or hub id (default: the model inside the package)")
    info.add_argument(
        "--words", action="store_true", help="the words that its text prompts may hold, by kind"
    )
    info.add_argument("--json", action="store_true", help="machine-readable")
    info.set_defaults(run=_info)
    doctor = commands.add_parser(
        "doctor",
        help="check this machine and say how to fix what is wrong",
        description="Checks this machine.",
    )
    doctor.set_defaults(run=_doctor)
    return parser


def _add_generate(commands: Any) -> argparse.ArgumentParser:
    """Add the subcommand `generate` with all its options, and return its parser."""
    generate: argparse.ArgumentParser = commands.add_parser(
        "generate",
        help="make media that belong together from prompts of any kind",
        description="Makes media that belong together. A prompt may be repeated and weighted: "
        "'a green star::0.7', photo.jpg::2. A video or a recording that is given while the other is made "
        "also stands in the loop as a clean partner, so that what is made keeps its time; sound made for a "
        "video is written as that video with the new sound, too, its frames untouched.",
    )
    _add_files(generate)
    _add_making(generate)
    generate.set_defaults(run=_generate)
    return generate


def _add_making(generate: Any) -> None:
    """Add the options that say what is made and how."""
    _add_request(generate)
    generate.add_argument(
        "--scheduler",
        choices=SCHEDULERS,
        help="another way down the model's noise levels (default: the model's)",
    )
    generate.add_argument(
        "--model", metavar="NAME", help="folder or hub id (default: the model inside the package)"
    )
    _add_adapters(generate)
    generate.add_argument("--device", help=f"{DEVICES} (default auto)")
    generate.add_argument("--dtype", choices=DTYPES, help="precision of the networks (default float32)")
    generate.add_argument("--batch", type=int, metavar="N", help="samples made at once (default 16)")
    provenance.add_options(generate)
    generate.add_argument("--quiet", action="store_true", help="no progress on stderr")
    generate.set_defaults(written={})


def _add_submit(commands: Any) -> None:
    """Add the subcommand `submit`, which asks a server for what `generate` makes here."""
    submit = submit_command.add_command(commands)
    _add_request(submit)
    submit.set_defaults(run=_submit, written={})


def _add_request(generate: Any) -> None:
    """Add the options that say what is asked for, whoever makes it."""
    _add_prompts(generate)
    _add_regions(generate)
    generate.add_argument(
        "--to", metavar="KINDS", help=f"what to make, separated by commas: {listed(Modality)}"
    )
    _add_edits(generate)
    _add_setting(generate, "--samples", type=int, metavar="N", help="how many of each (default 1)")
    generate.add_argument(
        "--seed",
        type=_seed,
        metavar="N",
        help="sample k is made from seed + k; 'random' draws one (default 0)",
    )
    _add_setting(
        generate,
        "--steps",
        type=_steps,
        metavar="N",
        help="denoising steps (default: the model's); of a composed model also image=25,audio=100",
    )
    _add_sizes(generate)
    _add_steering(generate)
    generate.add_argument(
        "--candidates",
        type=int,
        metavar="N",
        help="draw N for each sample and keep the one that agrees best (default 1)",
    )
    _add_controls(generate)


def _add_files(generate: Any) -> None:
    """Add the options that name the files to write, to make again, or to read jobs from."""
    generate.add_argument(
        "-o",
        "--out",
        required=True,
        metavar="FOLDER",
        help="where the files go; numbers go on after those that are there",
    )
    generate.add_argument("--overwrite", action="store_true", help="begin at 000 and replace what is there")
    generate.add_argument(
        "--from",
        dest="again",
        metavar="FILE",
        help="make it again as this png, wav, mp4 or manifest says it was made; other options count instead "
        "of what it says",
    )
    generate.add_argument(
        "--jobs",
        metavar="FILE",
        help="many jobs, one JSON object per line: id, text, image, ..., to, seed, num_samples, sync, ...",
    )
    generate.add_argument(
        "--ray",
        action="store_true",
        help="make the lines of --jobs on the cluster of RAY_ADDRESS, else on this machine (docs/scale.md)",
    )
    generate.add_argument(
        "--workers", type=int, metavar="N", help="with --ray: pipelines at work (default: as many as fit)"
    )
    generate.add_argument(
        "--gpus-per-worker",
        type=float,
        metavar="N",
        help="with --ray: GPUs of each (default 1 where the cluster has any, else 0)",
    )
    generate.add_argument(
        "--fail-fast",
        action="store_true",
        help="of several jobs make none if one is bad; otherwise the others are made",
    )


def _add_steering(generate: Any) -> None:
    """Add the options that say how closely outputs follow the prompts and each other."""
    scale = "a number, or one for each output such as video=4,audio=3; 1 is off (default: the model's)"
    _add_setting(generate, "--guidance", metavar="X", help=f"how closely to follow the prompts: {scale}")
    _add_setting(
        generate,
        "--sync-guidance",
        metavar="X",
        help=f"how closely to follow the other outputs and clean partners: {scale}",
    )
    generate.add_argument(
        "--guider",
        metavar="NAME",
        help="a variant of guidance with its options, such as apg, apg:eta=0.2, or "
        "video=apg,audio=zero-star: cfg (default), apg, zero-star, cfg++, skip-layer, perturbed-attention "
        "(docs/guidance.md)",
    )
    generate.add_argument(
        "--classifier-guidance",
        metavar="NAME",
        help="gradients beside guidance: prompt or agreement with options, such as "
        "prompt:scale=0.2:outputs=audio+video:interval=0-0.5",
    )
    generate.add_argument(
        "--upscale",
        metavar="X",
        help="make pictures and clips so many times larger by a second model, such as 4, or "
        "4:noise_aug_strength=0.05:num_inference_steps=8 (docs/cascade.md)",
    )
    generate.add_argument(
        "--start-offset",
        "--delay",
        dest="start_offset",
        metavar="X",
        help="schedules, 0 to 3, after which an output starts, to hear the others further on: video=0.5",
    )
    generate.add_argument(
        "--sync",
        action=argparse.BooleanOptionalAction,
        help="with --no-sync inputs are prompts only, none a clean partner in the loop",
    )
    generate.add_argument(
        "--auxiliary-caption",
        "--lead",
        dest="auxiliary_caption",
        action=argparse.BooleanOptionalAction,
        help=(
            "with --no-auxiliary-caption no caption that nobody asked for is drawn to make several outputs "
            "agree"
        ),
    )


def _add_edits(generate: Any) -> None:
    """Add the options that give outputs something of themselves: a start, a part to keep, keyframes."""
    group = generate.add_argument_group("starting from media, keeping parts of them (docs/editing.md)")
    for kind in modalities.kinds():
        group.add_argument(
            f"--start-{kind.name.replace('_', '-')}",
            dest="start",
            action=Named,
            const=kind.name,
            default={},
            metavar="WORDS" if kind.in_words else "FILE",
            help=f"what the {kind.name} is made from",
        )
    group.add_argument(
        "--strength",
        metavar="X",
        help="how far an output leaves its start: 0 to 1, or image=0.6,audio=0.4 (default 0.8; kept: 1)",
    )
    group.add_argument(
        "--source-prompt",
        metavar="WORDS",
        help="what the starts show: what they have in common with the prompt then stays",
    )
    group.add_argument(
        "--keep",
        action="append",
        default=[],
        metavar="PART",
        help="what stays of a start, or of a prompt of that kind: audio=0:1.2 (seconds), image=0,0,0.5,1 "
        "(left, top, right, bottom), video=3 (a frame), image=mask.png (kept where bright), video=all; "
        "repeatable",
    )
    group.add_argument(
        "--keyframe",
        action="append",
        default=[],
        metavar="WHEN=FILE",
        help="a picture that is a frame of the video: 0=first.png, -1=last.png, 1.5s=then.png; repeatable",
    )
    group.add_argument(
        "--canvas",
        action="append",
        default=[],
        metavar="PART",
        help="where a start lies on what is made, which goes on around it: image=0.25,0.25,0.75,0.75",
    )
    group.add_argument(
        "--resample-steps",
        type=int,
        metavar="N",
        help="how often each step is made where a part is kept (default 4)",
    )


def _add_controls(generate: Any) -> None:
    """Add the options for what outputs follow beside their prompts."""
    group = generate.add_argument_group("what outputs follow beside their prompts (docs/control.md)")
    group.add_argument(
        "--control",
        action="append",
        metavar="KIND=VALUE",
        help="beats=0.3,0.9 or melody=take.wav, layout=..., sketch=FILE, loudness=...; for one output: "
        "video.beats=0.3,0.9; how much and when it counts: sketch=a.png::0.8@0-0.5; repeatable",
    )


def _add_sizes(generate: Any) -> None:
    """Add the options for sizes and lengths of what is made."""
    group = generate.add_argument_group("sizes and lengths of what is made (default: the model's own)")
    group.add_argument("--height", type=int, metavar="PIXELS", help="of images and videos")
    group.add_argument("--width", type=int, metavar="PIXELS", help="of images and videos")
    group.add_argument("--num-frames", type=int, metavar="N", help="frames of a video")
    group.add_argument("--fps", type=float, metavar="X", help="frames per second of a video")
    _add_setting(
        group,
        "--seconds",
        type=float,
        metavar="X",
        help="length of sounds and clips (audio_length_in_s in Python)",
    )
    group.add_argument(
        "--lengths",
        choices=("agree", "free"),
        help="whether a clip and a sound made together last equally long (default agree)",
    )


def _add_adapters(generate: Any) -> None:
    lora = "a LoRA beside the model, with how much it counts (default 1): folder, or folder::0.7; repeatable"
    generate.add_argument("--lora", action="append", default=[], metavar="FOLDER", help=lora)
    words = "learned words, to be used in --text; repeatable"
    generate.add_argument("--words", action="append", default=[], metavar="FOLDER", help=words)
    control = "a trained control beside those of the model; repeatable"
    generate.add_argument("--control-from", action="append", default=[], metavar="FOLDER", help=control)


def _add_prompts(generate: Any) -> None:
    """Add an option for the prompts of each modality, and one for its negative prompts."""
    for sign, title in (
        ("", "prompts (any number of any kind)"),
        ("negative-", "what to steer away from (any number of any kind)"),
    ):
        group = generate.add_argument_group(title)
        for kind in modalities.kinds():
            option = f"--{sign}{kind.name.replace('_', '-')}"
            metavar = "WORDS" if kind.in_words else "FILE"
            what = "a sentence" if kind.in_words else f"a file ({kind.prompt_file})"
            group.add_argument(option, action="append", default=[], metavar=metavar, help=what)
            if kind.in_words and not sign:
                group.add_argument(
                    "--strict", action="store_true", help="a word that the model cannot read is an error"
                )


def _add_regions(generate: Any) -> None:
    """Add the option for prompts of parts of what is made."""
    generate.add_argument(
        "--region",
        action="append",
        default=[],
        metavar="WORDS @ WHERE",
        help="words for a part of what is made: 'a red ball @ box=0,0,0.5,1 interval=0,1', a box in "
        "fractions from the upper left corner, and seconds; also mask=FILE, feather=X and fade=X for soft "
        "edges, weight=X where regions overlap, to=KINDS; repeatable",
    )


# Commands --------------------------------------------------------------


def _generate(args: argparse.Namespace, show: Callable[[Path], None] | None = None) -> int:
    """Check all that was asked, then load the model, make the media and write them.

    Nothing is written if a check fails. Of several jobs one fails alone, unless that is not wanted. Paths of
    what is written are printed, or given to `show`.
    """
    from codi import again, jobs, ray_jobs, wording
    from codi.filters import Filter
    from codi.session import Session

    started = time.perf_counter()
    if args.owns_process:
        # Imports make a million objects that all stay: collecting garbage among them again and again would
        # take a quarter of the start.
        gc.disable()
    if args.batch is not None and args.batch < 1:
        raise InputError(f"--batch is {args.batch}: expected at least 1")
    ray_jobs.check_options(args)
    asked = {"filter": Filter.parse(args.filter), "sign": provenance.signer_of(args)}
    found = None
    chosen = args.scheduler
    failures = Failures(alone=bool(args.jobs) and not args.fail_fast, report=partial(_fail, code=2))
    if args.again:
        todo, found = again.jobs_from(args, SCHEDULERS)
        failures = Failures(alone=len(todo) > 1 and not args.fail_fast, report=partial(_fail, code=2))
        failures.total = len(todo)
    else:
        todo = jobs.from_file(args, failures) if args.jobs else [jobs.from_arguments(args)]
    if any(job.inputs for job in todo):
        fork_server.start()  # files are read by its workers; it starts while the libraries are imported here
    jobs.fill(args)
    lost = wording.check(todo, args.model, args.words, args.strict, failures.of)
    out = _output_folder(args.out)
    if args.lora or args.words or args.control_from:  # they are checked with the classes of the model
        _import_pipeline(args)
    session = Session(out, args, started, failures, **asked)
    session.protect(todo)
    todo = session.resumed(failures.left(todo))
    for job in session.pending(todo):
        with failures.of(job):
            session.check_outputs(job)
            job.check()
    pending = session.pending(failures.left(todo))
    if pending:
        for prompt in lost:
            wording.report(*prompt)
    if pending and not args.ray:
        _import_pipeline(args)
        from codi.pretrained import pick_device

        with contextlib.redirect_stdout(sys.stderr):
            device = pick_device(args.device)
            session.load(device)
            if found and chosen is None:
                again.settle_scheduler(session.pipe, found, SCHEDULERS)
            if found:
                again.note_differences(session.pipe, found, device)
        session.check(pending)
        wording.check_loaded(pending, session.pipe.text_tower, args.strict, failures.of)
    try:
        if args.ray:
            ray_jobs.run(session, todo, failures, show or _print_path)
        else:
            _make(session, failures.left(todo), args.batch, show or _print_path)
    finally:  # what is finished is recorded after an interrupt as well
        session.finish(todo)
    if failures:
        return _fail(f"{len(failures)} of {failures.total} jobs failed; the others are in {out}", 2)
    return 0


def _make(session: "Session", todo: "list[Job]", limit: int, show: Callable[[Path], None]) -> None:
    """Make all samples of jobs that are wanted, at most `limit` at once, and show the paths."""
    from codi import jobs

    for batch in jobs.batches(todo, limit, session.wanted):
        with contextlib.redirect_stdout(sys.stderr):
            paths = session.run(batch)
        for path in paths:
            show(path)


def _vary(args: argparse.Namespace) -> int:
    """Make variations as `codi generate` does, and a sheet of them."""
    if args.blend is not None:
        return _blend(args)
    asked = build_parser().parse_args(["generate", *vary.arguments(args)])
    asked.owns_process = args.owns_process
    code = _generate(asked)
    if code == 0:
        _print_path(vary.write_sheet(asked.out))
    return code


def _blend(args: argparse.Namespace) -> int:
    """Make what passes from one file to another as `codi generate --jobs` does, and a sheet of it."""
    made: list[Path] = []

    def show(path: Path) -> None:
        made.append(path)
        _print_path(path)

    with tempfile.TemporaryDirectory() as place:
        jobs = Path(place) / "blend.jsonl"
        jobs.write_text("\n".join(vary.blend_lines(args)) + "\n", encoding="utf-8")
        asked = build_parser().parse_args(["generate", *vary.blend_arguments(args, str(jobs))])
        asked.owns_process = args.owns_process
        code = _generate(asked, show)
    if code == 0 and made:
        made.sort()
        _print_path(vary.draw_sheet(args.out, made, [path.name for path in made], len(made)))
    return code


def _continue(args: argparse.Namespace) -> int:
    """Continue a clip, a sound or both, beyond the length of the model."""
    return continue_command.run(args, _print_path)


def _upscale(args: argparse.Namespace) -> int:
    """Make pictures and clips larger."""
    return upscale_command.run(args, _print_path)


def _submit(args: argparse.Namespace) -> int:
    """Ask a server for what `codi generate` makes here."""
    failures = Failures(alone=bool(args.jobs), report=partial(_fail, code=2))
    submit_command.run(args, failures, _print_path)
    if failures:
        return _fail(f"{len(failures)} of {failures.total} jobs failed; the others are in {args.out}", 2)
    return 0


def _print_path(path: Path) -> None:
    """Print a path, whose bytes need not be UTF-8."""
    try:
        print(path, flush=True)
    except UnicodeEncodeError:
        sys.stdout.buffer.write(os.fsencode(path) + b"\n")
        sys.stdout.flush()


def _import_pipeline(args: argparse.Namespace) -> None:
    """Import what generates, and nothing else, since this process serves one request."""
    from codi.start_up import lean_imports

    if args.model is not None and composed_folder(args.model):
        import codi.compose.pipeline  # published models need more of diffusers and transformers
        import codi.pipeline
    else:
        with lean_imports(lora=bool(args.lora)):
            import codi.pipeline  # noqa: F401
    if not gc.isenabled():
        gc.freeze()  # from now on garbage collection passes over what was imported, also at the end
        gc.enable()


def _seed(text: str) -> int | str:
    """Return a seed as it was typed, a whole number or `random`."""
    if text.strip().lower() == "random":
        return "random"
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no seed: expected a whole number, or random") from None


def _steps(text: str) -> int | dict[str, int]:
    """Return a number of steps as it was typed, for all outputs or for each."""
    try:
        if "=" not in text:
            return int(text)
        parts = [part.split("=") for part in text.split(",")]
        return {Modality.parse(name).value: int(count) for name, count in parts}
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number of steps: expected a whole number, or one for each output such as "
            "image=25,audio=100"
        ) from None


def _info(args: argparse.Namespace) -> int:
    from codi import doctor
    from codi.compose import describe, folder

    if args.model is not None and folder.composed_folder(args.model) and not args.words:
        if Path(args.model).expanduser().is_dir():
            return describe.info(args.model, as_json=args.json)
        from codi import pretrained  # brings torch along

        return describe.info(pretrained.resolve(args.model), as_json=args.json)
    return doctor.words(args.model) if args.words else doctor.info(args.model, as_json=args.json)


def _doctor(args: argparse.Namespace) -> int:
    from codi import doctor

    return doctor.examine()


def _output_folder(folder: str) -> Path:
    from codi.io import check_folder

    return check_folder(folder)


# Entry -----------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Without `argv` the arguments are those of this process, which then runs nothing but this command.
    """
    owns_process = argv is None
    argv = list(sys.argv[1:] if argv is None else argv)
    wait_passively()
    warnings.showwarning = partial(_note, set())
    try:
        for note in modalities.load_plugins():
            warnings.warn(note, stacklevel=1)
        args = build_parser().parse_args(argv)
        args.owns_process = owns_process
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
        if not is_of_memory(error):
            raise
        return _fail(OUT_OF_MEMORY, 1)


def _fail(message: Any, code: int) -> int:
    """Print an error in one line, and return the exit code."""
    print(f"codi: error: {_line(message)}", file=sys.stderr)
    return code


def _line(message: Any) -> str:
    """Return a message as one line, of which the middle is left out if it is long."""
    line = " ".join(str(message).split()).encode("utf-8", "backslashreplace").decode("utf-8")
    line = CONTROL.sub(lambda found: ascii(found[0])[1:-1], line)  # which a terminal might obey
    return line if len(line) <= LONGEST else f"{line[: LONGEST * 2 // 3]} ... {line[-LONGEST // 3 :]}"


def _note(said: set[str], message: Warning | str, category: type[Warning], filename: str, *rest: Any) -> None:
    """Print a warning of our own in one line, unless the same one was printed before.

    Warnings of libraries are for programmers, and are left out.
    """
    if category is UserWarning and f"{os.sep}codi{os.sep}" in filename and str(message) not in said:
        said.add(str(message))
        print(f"codi: note: {_line(message)}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
