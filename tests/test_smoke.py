"""What any set of versions must do: the README's first command, and one call of the embedded model for every
modality that goes in.

`make test-lowest` and `make test-highest` run this file alone, where codi is installed and this folder is not
on the path.
"""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
MODALITIES = ("text", "image", "audio", "video")


def first_command() -> list[str]:
    """The arguments that the README's first command gives to `codi`."""
    line = re.search(
        r"^python3 -m venv .*&& \.venv/bin/codi (generate .*)$", README.read_text(encoding="utf-8"), re.M
    )
    assert line, "the README's first command does not end in a call of `codi generate`"
    return shlex.split(line[1])


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """The folder that the README's first command has filled."""
    folder = tmp_path_factory.mktemp("readme")
    run = subprocess.run(
        [sys.executable, "-m", "codi.cli", *first_command()], cwd=folder, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return folder / "out"


def test_the_first_command_makes_what_it_says(made):
    arguments = first_command()
    caption = arguments[arguments.index("--text") + 1]
    assert (made / "000.txt").read_text(encoding="utf-8").strip() == caption
    record = json.loads((made / "manifest.json").read_text(encoding="utf-8"))
    assert sorted(record["samples"][0]["files"]) == ["000.mp4", "000.png", "000.txt", "000.wav"]
    assert all((made / name).stat().st_size > 0 for name in record["samples"][0]["files"])


@pytest.fixture(scope="module")
def pipe():
    from codi import CoDiPipeline

    pipe = CoDiPipeline.from_pretrained()
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("given", MODALITIES)
def test_every_modality_makes_all_of_them(made, pipe, given):
    suffix = {"image": ".png", "audio": ".wav", "video": ".mp4"}
    prompt = "a green star" if given == "text" else made / f"000{suffix[given]}"
    out = pipe(**{given: prompt}, outputs=list(MODALITIES), num_inference_steps=4, seed=0, sync=False)
    assert out.texts[0].strip()
    picture, clip, sound = out.images[0], out.videos[0].float(), out.audios[0]
    assert len(picture.getcolors(1 << 20)) > 16, "the picture is of one colour"
    assert clip.std() > 5 and sound.std() > 1e-3 and sound.isfinite().all()
