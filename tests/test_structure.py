"""benchmarks/structure.py counts what it says it counts, in small checkouts that were written for it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import structure
from benchmarks.structure import (
    Checkout,
    begins_with_a_verb,
    comparisons,
    docstrings,
    for_a_command,
    for_a_condition,
    for_a_denoiser,
    for_a_modality,
    for_an_objective,
    import_circles,
    long_lines,
    packed_assignments,
    tables,
)

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "structure.py"


def checkout(folder: Path, **files: str) -> Checkout:
    """Writes files, `codi__io__read="..."` into codi/io/read.py, and reads them as a checkout."""
    (folder / "codi").mkdir(exist_ok=True)
    for name, text in files.items():
        place = name.replace("__init__", "<init>").replace("__", "/").replace("<init>", "__init__")
        path = folder / f"{place}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Checkout(folder)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a is Modality.TEXT", 1),
        ("'video' != a", 1),
        ("a in (Modality.TEXT, b)", 1),
        ("Modality.TEXT.value in a", 1),
        ("TEXT, b = Modality.TEXT, 3\na == TEXT", 1),
        ("from elsewhere import AUDIO\na not in {AUDIO}", 1),
        ("match a:\n  case 'text' | Modality.AUDIO: pass\n  case 'tower': pass", 2),
        ("a == 'tower'; a in Modality; a == TEXT; a[Modality.TEXT]", 0),
    ],
)
def test_comparisons(tmp_path, text, expected):
    [source] = checkout(tmp_path, codi__a=text).sources
    assert comparisons(source) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{Modality.TEXT: 1, 'image': 2}", 1),
        ("{Modality.TEXT: 1, **a}", 0),
        ("{'a': {'text': 1, 'audio': 2}, 'image': 0}", 1),
    ],
)
def test_tables(tmp_path, text, expected):
    [source] = checkout(tmp_path, codi__a=text).sources
    assert tables(source) == expected


def test_files_for_a_fifth_modality(tmp_path):
    found = for_a_modality(
        checkout(
            tmp_path,
            codi__types="class Modality(Enum):\n  TEXT = 'text'\n  IMAGE = 'image'\n  AUDIO = 'audio'\n",
            codi__table="{'text': 1, 'image': 2}",
            codi__listed="f(['text', 'image', 'audio'])",
            codi__call="def f(text=None, image_tower=None, audio=None): ...",
            codi__fields="class A:\n  text: int\n  image: int\n  video: int\n",
            codi__zipped="dict(zip(Modality, range(4)))",
            codi__asks="a is Modality.TEXT",
            codi__general="for m in Modality: f(m, 'text', {'text': 1}, ('text', 'image'))",
            codi__modalities__text="a is Modality.TEXT",
            codi__modalities____init__="[Modality.TEXT, Modality.IMAGE, Modality.AUDIO]",
            codi__convert__released="{'text': 1, 'image': 2}",
        )
    )
    names = ["asks", "call", "fields", "listed", "modalities/__init__", "table", "types", "zipped"]
    assert sorted(found) == [f"codi/{name}.py" for name in names]


def test_files_for_a_condition(tmp_path):
    found = for_a_condition(
        checkout(
            tmp_path,
            codi__guidance="class Branch(Enum): pass\nf(Branch.FULL)",
            codi__old="def forward(self, x, t, context, env=None): ...",
            codi__new="def forward(self, x, t, context, env=None, conditions=None): ...",
            codi__conditions____init__="CONDITIONS = {'start': 'codi.conditions.start:Start'}",
            codi__other="f({'start': 3})",
            codi__nothing="f(start=3)",
        )
    )
    assert sorted(found) == [
        f"codi/{name}.py" for name in ("conditions/__init__", "guidance", "old", "other")
    ]


def test_files_for_a_denoiser(tmp_path):
    found = for_a_denoiser(
        checkout(
            tmp_path,
            codi__models__denoisers__unet="class UNetDenoiser: ...\nisinstance(3, int)",
            codi__models__denoisers__text="class TextDenoiser: ...",
            codi__models__denoisers____init__="from .unet import UNetDenoiser\nf(UNetDenoiser, TextDenoiser)",
            codi__asks="isinstance(a, UNetDenoiser)",
            codi__chooses="f(UNetDenoiser) if a else f(TextDenoiser)",
            codi__uses="UNetDenoiser()",
            codi__probes="hasattr(self.denoiser, 'prepare') or getattr(denoisers[m], 'a', None)",
            codi__reads="getattr(denoiser, 'a')",
        )
    )
    assert sorted(found) == [f"codi/{name}.py" for name in ("asks", "chooses", "probes")]


def test_files_for_an_objective_and_a_command(tmp_path):
    made = checkout(
        tmp_path,
        training__stages____init__="STAGES: dict[str, str] = {'joint': 'a:JointStage', 'align': 'b:C'}",
        training__plan="a.stage == 'joint' or f({'joint': 1, 'align': 2})",
        training__loop="isinstance(stage, JointStage) or hasattr(stage, 'data')",
        training__nothing="f('joint'); f({'joint': 2}); hasattr(a, 'data')",
        codi__cli="p.add_parser('info'); p.add_parser(name)",
        codi__options="a in ('info', 'other')",
        codi__other="f('info')",
    )
    assert sorted(for_an_objective(made)) == [
        "training/loop.py",
        "training/plan.py",
        "training/stages/__init__.py",
    ]
    assert sorted(for_a_command(made)) == ["codi/cli.py", "codi/options.py"]


def test_circles_of_imports(tmp_path):
    made = checkout(
        tmp_path,
        codi__a="def f():\n  from codi import b",
        codi__b="from codi.c import d",
        codi__c="from . import a",
        codi__d="from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n  import codi.e\n",
        codi__e="import codi.d",
    )
    assert import_circles(made) == [["codi.a", "codi.b", "codi.c"]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Returns a tensor.", True),
        ("Return it", True),
        ("Options of a run", False),
        ("What it is", False),
        ("Class of it", False),
        ("", False),
    ],
)
def test_verbs(text, expected):
    assert begins_with_a_verb(text) is expected


def test_what_is_counted_by_lines(tmp_path):
    made = checkout(
        tmp_path,
        codi__a='"""A."""\n\n\ndef f():\n    """B."""\n    def g(): pass\n    a, b = 1, 2\ndef _h(): pass\n'
        + "x" * 101,
        tests__a="pass\n" * 3,
    )
    assert docstrings(made, (ast.FunctionDef,)) == (1, 3)
    assert docstrings(made, (ast.FunctionDef,), public=True) == (1, 1)
    assert docstrings(made, (ast.Module,)) == (1, 1)
    assert packed_assignments(made) == 1
    assert long_lines(made, 100) == pytest.approx(100 / 7)  # empty lines are left out
    assert structure.test_ratio(made) == pytest.approx(
        3 / 5
    )  # lines of code, so neither empty nor docstrings


def test_two_checkouts_stand_side_by_side(tmp_path):
    checkout(tmp_path, codi__a="def f():\n  return 1\n")
    made = subprocess.run(
        [sys.executable, SCRIPT, tmp_path, tmp_path, "--where"], capture_output=True, text=True, check=True
    )
    assert made.stdout.startswith("| | before | after |\n|---|---|---|\n| files; lines | 1; 2 | 1; 2 |\n")
    assert "| longest function | 2 (codi/a.py:f) | 2 (codi/a.py:f) |" in made.stdout
    refused = subprocess.run([sys.executable, SCRIPT, tmp_path / "nothing"], capture_output=True, text=True)
    assert refused.returncode == 2 and "is no checkout of codi" in refused.stderr
