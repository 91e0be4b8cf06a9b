"""Every script of examples/ runs and leaves what its header promises; so do the notebooks, cell by cell."""

import ast
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
# What a notebook leaves, what it prints, and how many outputs show themselves.
NOTEBOOKS = {
    "tour": (["out/000.mp4", "out/000.wav"], r"its sound: .+\n(.+\n){3}.*'seed': \[0\]", 5),
    "fine_tuning": (["runs/mine/words", "runs/mine/loras"], "as it was: True", 3),
    "composing": (["my-codi/prompt_translators"], "(?s)ComposedPipeline in my-codi.*silent", 2),
}
MORE = {"best_of_several": ["--candidates", "2"]}


def test_every_example_is_tested():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == FILES.keys() == SAYS.keys()
    assert {path.stem for path in EXAMPLES.glob("*.ipynb")} == set(NOTEBOOKS)


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


def notebook(name: str) -> dict:
    return json.loads((EXAMPLES / f"{name}.ipynb").read_text(encoding="utf-8"))


def in_miniature(source: str) -> str:
    """A cell in which runs are short."""
    return source.replace("SMALL = False", "SMALL = True")


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_a_notebook(name):
    """As the schema of nbformat 4.5 has it, as far as we use it; outputs would be out of date."""
    made = notebook(name)
    assert made["nbformat"] == 4 and made["nbformat_minor"] == 5 and made["metadata"]["kernelspec"]["name"]
    ids = [cell["id"] for cell in made["cells"]]
    assert len(set(ids)) == len(ids) and all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", each) for each in ids)
    for cell in made["cells"]:
        lines = cell["source"]
        assert all(line.endswith("\n") for line in lines[:-1]) and not lines[-1].endswith("\n")
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
        else:
            assert cell.keys() == {"cell_type", "id", "metadata", "source"}


@pytest.fixture
def quick(monkeypatch):
    """Loads models that take two steps, where nothing else is asked for."""
    load = CoDiPipeline.from_pretrained.__func__

    def quickly(cls, *arguments, **options):
        pipe = load(cls, *arguments, **options)
        if isinstance(pipe, CoDiPipeline):  # a composed one has its own
            pipe.register_to_config(defaults={**pipe.config.defaults, "num_inference_steps": 2})
        return pipe

    monkeypatch.setattr(CoDiPipeline, "from_pretrained", classmethod(quickly))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebooks_run(name, tmp_path, monkeypatch, capsys):
    """Their cells in order, in one namespace, at two steps; what a cell ends with shows itself."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    names: dict = {}
    shown = 0
    for cell in notebook(name)["cells"]:
        if cell["cell_type"] != "code":
            continue
        tree = ast.parse(in_miniature("".join(cell["source"])), f"{name}.ipynb, {cell['id']}")
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, f"{name}.ipynb, {cell['id']}", "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), f"{name}.ipynb, {cell['id']}", "eval"), names)
            shown += hasattr(value, "_repr_html_") and len(value._repr_html_()) > 1000
    files, says, outputs = NOTEBOOKS[name]
    assert all((tmp_path / file).exists() for file in files) and shown == outputs
    assert re.search(says, capsys.readouterr().out)


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebooks_run_in_jupyter(name, tmp_path):
    """In a kernel of their own, as they are, but for the length of trainings."""
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    made = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)
    for cell in made.cells:
        cell.source = in_miniature(cell.source)
    resources = {"metadata": {"path": str(tmp_path)}}
    client = nbclient.NotebookClient(made, timeout=600, kernel_name="python3", resources=resources)
    kernels = []  # the process, which is forgotten when it has died
    client.on_cell_start = lambda **_: kernels.append(client.km.provisioner.process)
    try:
        client.execute()
    except nbclient.exceptions.DeadKernelError:
        pytest.fail(f"the kernel ended with exit code {kernels[-1].poll()}; -9 is want of memory, mostly")
    pages = []
    for cell in made.cells:
        for each in cell.get("outputs", []):
            assert each.output_type != "error"
            if "text/html" in each.get("data", {}):
                pages.append(each.data["text/html"])
    assert len(pages) == NOTEBOOKS[name][2] and all("data:" in page for page in pages)
