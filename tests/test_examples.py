"""Every script of examples/ runs and leaves what its header promises; so does the notebook, cell by cell."""

import json
import re
import runpy
import sys
from pathlib import Path

import pytest

from codi import CoDiPipeline

EXAMPLES = Path(__file__).parent.parent / "examples"
FILES = {
    "text_to_video_with_sound": ["000.mp4", "000.wav"],
    "picture_to_sound": ["000.png", "001.wav"],
    "mix_prompts": ["000.png", "001.wav", *(f"00{k}.{kind}" for k in (2, 3, 4) for kind in ("png", "txt"))],
    "best_of_several": ["000.mp4", "000.wav"],
    "control_the_guidance": ["000.png"],
}
SAYS = {
    "text_to_video_with_sound": r"a clip of 2\.0 s, a sound of 2\.0 s\nmade with seed 0\n",
    "picture_to_sound": r"the picture: .+\nits sound: .+\n",
    "mix_prompts": r"(.+: .+\n){3}",
    "best_of_several": r"(seed \d+: .+\n){2}",
    "control_the_guidance": r"step 1 of 2: scale 6\.00, .+\nstep 2 of 2: scale 5\.40, .+\n",
}
MORE = {"best_of_several": ["--candidates", "2"]}


def test_every_example_is_tested():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == FILES.keys() == SAYS.keys()
    assert [path.name for path in EXAMPLES.glob("*.ipynb")] == ["tour.ipynb"]


@pytest.mark.parametrize("name", FILES)
def test_examples_run(name, tmp_path, monkeypatch, capsys):
    """As scripts; in this process, since a start of its own would take longer than all that they do."""
    script = EXAMPLES / f"{name}.py"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(script), "--out", "out", "--steps", "2", *MORE.get(name, [])])
    runpy.run_path(str(script), run_name="__main__")
    made = capsys.readouterr().out
    assert re.fullmatch(SAYS[name], made), made
    found = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert [file for file in found if not file.startswith("manifest")] == sorted(FILES[name])


@pytest.mark.parametrize("name", FILES)
def test_examples_are_short_and_say_what_they_do(name):
    text = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 45
    assert f"python examples/{name}.py" in text.split('"""')[1] and "rites" in text.split('"""')[1]


def notebook() -> dict:
    return json.loads((EXAMPLES / "tour.ipynb").read_text(encoding="utf-8"))


def test_the_notebook_is_a_notebook():
    """As the schema of nbformat 4.5 has it, as far as we use it; outputs would be out of date."""
    tour = notebook()
    assert tour["nbformat"] == 4 and tour["nbformat_minor"] == 5 and tour["metadata"]["kernelspec"]["name"]
    ids = [cell["id"] for cell in tour["cells"]]
    assert len(set(ids)) == len(ids) and all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name) for name in ids)
    for cell in tour["cells"]:
        lines = cell["source"]
        assert all(line.endswith("\n") for line in lines[:-1]) and not lines[-1].endswith("\n")
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
        else:
            assert cell.keys() == {"cell_type", "id", "metadata", "source"}


def test_the_notebook_runs(tmp_path, monkeypatch):
    """Its cells in order, in one namespace, at two steps."""
    monkeypatch.chdir(tmp_path)
    load = CoDiPipeline.from_pretrained

    def quick(*arguments, **options):
        pipe = load(*arguments, **options)
        pipe.register_to_config(defaults={**pipe.config.defaults, "num_inference_steps": 2})
        return pipe

    monkeypatch.setattr(CoDiPipeline, "from_pretrained", quick)
    names = {"display": lambda *shown: None}  # jupyter has it
    for cell in notebook()["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"tour.ipynb, {cell['id']}", "exec"), names)
    assert {"out", "pipe"} <= names.keys()
    assert (tmp_path / "out" / "000.mp4").is_file() and (tmp_path / "out" / "000.wav").is_file()
