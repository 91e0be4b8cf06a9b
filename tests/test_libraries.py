"""Libraries that are installed and do not load, as a stranger's machine has them: put on the path, in
processes of their own.
"""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from codi.libraries import UNASKED

ROOT = Path(__file__).parent.parent
BROKEN = "raise OSError('undefined symbol: torch_exception_get_what_without_backtrace')\n"


def install(
    folder: Path, name: str, version: str, source: str, requires: tuple[str, ...] = (), module: str = ""
) -> None:
    """A library as pip leaves it: a module and its metadata."""
    package = folder / (module or name)
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(source)
    about = folder / f"{name}-{version}.dist-info"
    about.mkdir()
    needs = "".join(f"Requires-Dist: {need}\n" for need in requires)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}")
    (about / "INSTALLER").write_text("pip\n")
    files = [
        f"{package.name}/__init__.py,,",
        *(f"{about.name}/{file},," for file in ("METADATA", "INSTALLER", "RECORD")),
    ]
    (about / "RECORD").write_text("\n".join(files) + "\n")


def run(*arguments: str, path: Path, cwd: Path, python: str = sys.executable) -> subprocess.CompletedProcess:
    """Python with `path` before everything that is installed."""
    environment = os.environ | {"PYTHONPATH": f"{path}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    return subprocess.run([python, *arguments], cwd=cwd, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def broken(tmp_path_factory) -> Path:
    """A path with everything on it that others import unasked, but soundfile, which writes wav files; and
    decord. None of it loads.
    """
    folder = tmp_path_factory.mktemp("broken")
    for name in {*UNASKED, "decord"} - {"soundfile"}:
        install(folder, name, "99.0", BROKEN)
    return folder


def generate(*arguments: str) -> list[str]:
    return ["-m", "codi.cli", "generate", "--steps", "2", "-o", "out", *arguments]


def test_text_makes_all_four_outputs_without_any_of_them(broken, tmp_path):
    made = run(
        *generate("--text", "a green star", "--to", "text,image,audio,video"), path=broken, cwd=tmp_path
    )
    assert made.returncode == 0, made.stderr
    assert sorted(path.suffix for path in (tmp_path / "out").glob("000.*")) == [
        ".mp4",
        ".png",
        ".txt",
        ".wav",
    ]
    notes = [line for line in made.stderr.splitlines() if "torchaudio" in line]
    assert len(notes) == 1 and notes[0].startswith(
        "codi: note: torchaudio does not load and is left out (OSError: undefined symbol"
    )
    assert "codi doctor" in notes[0]


def test_only_what_needs_a_broken_library_is_refused(broken, tmp_path):
    """A sound at another rate has to be resampled, which torchaudio does; one at the model's own rate has
    not.
    """
    import soundfile
    import torch

    wave = torch.rand(16000, generator=torch.Generator().manual_seed(0)).numpy() - 0.5
    for name, rate in (("own.wav", 16000), ("other.wav", 22050)):
        soundfile.write(tmp_path / name, wave, rate)
    assert run(*generate("--audio", "own.wav", "--to", "text"), path=broken, cwd=tmp_path).returncode == 0
    refused = run(*generate("--audio", "other.wav", "--to", "text"), path=broken, cwd=tmp_path)
    assert refused.returncode == 2
    last = refused.stderr.splitlines()[-1]
    assert last.startswith(
        "codi: error: a sound at 22050 Hz, where 16000 are wanted, needs the library torchaudio, and it "
        "cannot be"
    )


@pytest.mark.parametrize(
    ("library", "kept", "refused"), [("soundfile", "image,text", "audio"), ("av", "image,text", "video")]
)
def test_what_a_library_writes_is_refused_before_anything_is_made(tmp_path, library, kept, refused):
    install(tmp_path / "path", library, "99.0", BROKEN)
    for number, kinds in enumerate((f"image,{refused}", kept)):
        out = tmp_path / str(number)
        made = run(
            "-m",
            "codi.cli",
            "generate",
            "--text",
            "a star",
            "--to",
            kinds,
            "-o",
            str(out),
            path=tmp_path / "path",
            cwd=tmp_path,
        )
        if kinds == kept:
            assert made.returncode == 0 and {path.suffix for path in out.glob("000.*")} == {".png", ".txt"}
        else:
            assert (
                made.returncode == 2
                and f"needs the library {library}" in made.stderr.splitlines()[-1]
                and not list(out.glob("*"))
            )


def test_readers_go_on_without_a_broken_decord(broken, tmp_path):
    code = (
        "from codi.io.frames import choose_backend\nprint(choose_backend('auto'))\nchoose_backend('decord')"
    )
    tried = run("-c", code, path=broken, cwd=tmp_path)
    assert (
        tried.stdout == "av\n"
        and "InputError: backend is decord, which is not installed, or does not load" in tried.stderr
    )
    assert tried.stderr.count("decord does not load and is left out") == 1


# codi doctor -----------------------------------------------------------

FAULTS = {  # version that is installed, and what importing it does; None: not installed
    "absentlib": None,
    "oldlib": ("1.0", ""),
    "brokenlib": ("2.0", BROKEN),
    "torchaudio": ("2.11.1", BROKEN),
    "av": ("18.0", "codecs_available = {'aac'}\n__version__ = '18.0'\n"),
}
NEEDS = ("absentlib>=2", "oldlib>=2", "brokenlib>=2", "torchaudio>=2.11.1", "av>=16")
CODECS = "codecs_available = {'libx264', 'aac', 'h264', 'vp9', 'mp3'}\n"


@pytest.fixture
def clinic(tmp_path) -> tuple[Path, Path]:
    """A virtual environment with one fault of each kind in it, whose Python finds the rest where this one
    does; and a folder of wheels without any fault.
    """
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    site = next((tmp_path / "venv").glob("lib/python*/site-packages"))
    (site / "rest.pth").write_text(
        "\n".join(path for path in sys.path if path.endswith("site-packages")) + "\n"
    )
    # found before the metadata of the codi that is tested
    install(tmp_path, "codi", "0.1.0", "", NEEDS, module="unused")
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for name, fault in {**FAULTS, "xformers": ("99.0", BROKEN)}.items():
        if fault:
            install(site, name, *fault)
        whole = tmp_path / "whole" / name
        install(
            whole,
            name,
            {"torchaudio": "2.11.1", "av": "18.0"}.get(name, "2.0"),
            CODECS if name == "av" else "",
        )
        pack(whole, wheels)
    return tmp_path / "venv" / "bin" / "python", wheels


def pack(folder: Path, wheels: Path) -> None:
    """The one library in `folder` as a wheel."""
    about = next(folder.glob("*.dist-info"))
    (about / "WHEEL").write_text(
        "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    (about / "INSTALLER").unlink()
    with zipfile.ZipFile(
        wheels / f"{about.name.removesuffix('.dist-info')}-py3-none-any.whl", "w"
    ) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(folder))


def examined(python: Path, folder: Path) -> tuple[int, dict[str, str]]:
    """Exit code of `codi doctor`, and what it says of every library with a cure: the line and the command."""
    done = run("-m", "codi.cli", "doctor", path=folder, cwd=folder, python=str(python))
    assert not done.stderr.strip(), done.stderr
    lines = done.stdout.splitlines()
    return done.returncode, {
        above: line.strip()[3:] for above, line in zip(lines, lines[1:]) if line.startswith("     -> ")
    }


def test_every_cure_that_doctor_prints_cures(clinic, tmp_path):
    python, wheels = clinic
    code, cures = examined(python, tmp_path)
    said = "\n".join(cures)
    assert code == 1 and len(cures) == 6
    for part in (
        "FAIL absentlib is not installed",
        "FAIL oldlib 1.0, expected >=2",
        "FAIL brokenlib 2.0 does not load (OSError: undefined symbol",
        "FAIL torchaudio 2.11.1 does not load (OSError: undefined symbol",
        "FAIL PyAV lacks libx264, h264, vp9, mp3",
        "-    xformers is installed and does not load (OSError",
    ):
        assert part in said, said
    offline = os.environ | {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "PIP_CONFIG_FILE": os.devnull}
    for cure in cures.values():
        subprocess.run(cure, shell=True, check=True, env=offline, capture_output=True)
    assert examined(python, tmp_path) == (0, {})


def test_decord_does_not_keep_pyav_from_writing_vp9():
    pytest.importorskip("decord")
    code = (
        "from codi.libraries import loads; assert loads('decord'); import av; "
        "codec = av.CodecContext.create('libvpx-vp9', 'w'); "
        "codec.width = codec.height = 64; codec.pix_fmt = 'yuv420p'; codec.framerate = 8; codec.open()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
