"""Answer an option that nobody knows with the one that was meant."""

from collections.abc import Iterable, Mapping, Sequence

from codi.types import InputError

HABITS: Mapping[str, str] = {  # what other programs, and Python, call the options of `codi generate`
    "--prompt": "--text (or --image, --audio, --video FILE)",
    "-p": "--text",
    "--prompts": "--text, which may be repeated",
    "--caption": "--text",
    "--negative-prompt": "--negative-text",
    "--negative": "--negative-text",
    "--n": "--samples",
    "-n": "--samples",
    "--num": "--samples",
    "--n-samples": "--samples",
    "--num-images": "--samples",
    "--num-outputs": "--samples",
    "--num-images-per-prompt": "--samples",
    "--count": "--samples",
    "--output": "-o FOLDER (--out)",
    "--outdir": "-o FOLDER (--out)",
    "--out-dir": "-o FOLDER (--out)",
    "--output-dir": "-o FOLDER (--out)",
    "--output-folder": "-o FOLDER (--out)",
    "--outputs": "--to for what to make, or -o FOLDER for where it goes",
    "--modality": "--to",
    "--modalities": "--to",
    "--kind": "--to",
    "--kinds": "--to",
    "--type": "--to",
    "--cfg": "--guidance",
    "--cfg-scale": "--guidance",
    "--scale": "--guidance",
    "--inference-steps": "--steps",
    "--num-steps": "--steps",
    "-s": "--steps or --seed",
    "--size": "--height and --width",
    "--resolution": "--height and --width",
    "--image-size": "--height and --width",
    "-H": "--height",
    "-W": "--width",
    "--duration": "--seconds",
    "--length": "--seconds",
    "--audio-length": "--seconds",
    "--time": "--seconds",
    "--frames": "--num-frames",
    "--n-frames": "--num-frames",
    "--frame-rate": "--fps",
    "--framerate": "--fps",
    "--random-seed": "--seed random, or --seed N",
    "--manual-seed": "--seed",
    "--sampler": "--scheduler",
    "--checkpoint": "--model",
    "--ckpt": "--model",
    "--pretrained": "--model",
    "--precision": "--dtype",
    "--fp16": "--dtype float16",
    "--half": "--dtype float16",
    "--bf16": "--dtype bfloat16",
    "--cpu": "--device cpu",
    "--gpu": "--device cuda",
    "--cuda": "--device cuda",
    "--batch-size": "--batch",
    "--force": "--overwrite",
    "--like": "--from",
    "--init-image": "--start-image",
    "--image-to-image": "--start-image",
    "--denoise": "--strength",
    "--denoising-strength": "--strength",
    "--mask": "--keep image=FILE",
    "--mask-image": "--keep image=FILE",
    "--first-frame": "--keyframe 0=FILE",
    "--last-frame": "--keyframe -1=FILE",
    "--record": "--from",
    "--input": "--text, --image, --audio or --video",
    "-i": "--image",
    "-t": "--text or --to",
}


def check_known(command: str, arguments: Sequence[str], known: Iterable[str]) -> None:
    """Raise `InputError` for the first of the arguments that looks like an option and is not known.

    Args:
        command: the command that they are for, such as "generate".
        arguments: the words of the command line after it.
        known: the options that it has.
    """
    options = list(known)
    for argument in arguments:
        if argument == "--":  # everything after it is a value
            return
        name, _, value = argument.partition("=")
        if name in options or not name.startswith("-") or _is_number(name):
            continue
        usual = name.replace("_", "-")  # people write names as in Python
        meant = HABITS.get(usual) if command == "generate" else None
        if name.startswith("--") or meant is not None:
            raise InputError(_message(command, name, meant or nearest(usual, options), value))


def _message(command: str, name: str, meant: str | None, value: str) -> str:
    """Return the error for an unknown option, with advice where one is likely to be meant."""
    advice = "." if meant is None else f": did you mean {meant}?"
    prog = f"codi {command}".strip()
    return f"unrecognized arguments: {name}{'=' + value if value else ''}{advice} See `{prog} --help`."


def nearest(name: str, options: Sequence[str]) -> str | None:
    """Return the options that `name` begins, or else the one that is written most alike; None if none is."""
    import difflib

    longer = [option for option in options if option.startswith(name) and len(name) > 3]
    alike = difflib.get_close_matches(name, options, n=1, cutoff=0.7)
    if longer:
        return " or ".join(longer)
    return alike[0] if alike else None


def _is_number(text: str) -> bool:
    """Return whether a word is a value such as -1 rather than an option."""
    try:
        float(text)
    except ValueError:
        return False
    return True
