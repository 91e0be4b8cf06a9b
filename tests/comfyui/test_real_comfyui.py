"""The same graphs in ComfyUI itself, and the stand-ins beside what they stand in for.

    export CODI_COMFYUI=PATH/TO/ComfyUI CODI_COMFYUI_PYTHON=PATH/TO/python
    pytest -m slow tests/comfyui/test_real_comfyui.py

The Python has ComfyUI's requirements and those of codi. A server is started on the loopback, with its own
folders for files; nothing is written into the checkout.
"""

import inspect
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request

import pytest

import comfyui
from codi import read_record
from tests.comfyui import stand_ins
from tests.comfyui.graphs import FOLDER, GRAPHS, example
from tests.comfyui.test_nodes import NAMES

CHECKOUT = os.environ.get("CODI_COMFYUI")
PYTHON = os.environ.get("CODI_COMFYUI_PYTHON", "python")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHECKOUT is None, reason="CODI_COMFYUI names no checkout of ComfyUI"),
]
FACTS = """
import inspect, json, sys
sys.argv = ["main.py", "--cpu"]
import comfy.options; comfy.options.enable_args_parsing()
import comfy.cli_args, comfy.model_management, comfy.utils, folder_paths
import comfy_api.input_impl, comfy_api.util, comfy_execution.graph
names = lambda thing: list(inspect.signature(thing).parameters)
print("FACTS" + json.dumps({
    "bar": names(comfy.utils.ProgressBar), "absolute": names(comfy.utils.ProgressBar.update_absolute),
    "check": names(comfy.model_management.throw_exception_if_processing_interrupted),
    "exception": comfy.model_management.InterruptProcessingException.__name__,
    "device": str(comfy.model_management.get_torch_device()),
    "blocker": comfy_execution.graph.ExecutionBlocker("why").message,
    "previews": comfy.cli_args.args.preview_method == comfy.cli_args.LatentPreviewMethod.NoPreviews,
    "path": names(folder_paths.get_save_image_path), "models": isinstance(folder_paths.models_dir, str),
    "components": names(comfy_api.util.VideoComponents),
    "video": names(comfy_api.input_impl.VideoFromComponents),
    "file": names(comfy_api.input_impl.VideoFromFile),
    "save_to": names(comfy_api.input_impl.VideoFromComponents.save_to),
}))
"""


def environment():
    return {**os.environ, "PYTHONPATH": str(FOLDER.parent)}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The folders of the server: ours among its nodes, a clip among its inputs."""
    root = tmp_path_factory.mktemp("comfyui")
    (root / "custom_nodes").mkdir()
    shutil.copytree(FOLDER, root / "custom_nodes" / "codi", ignore=shutil.ignore_patterns("__pycache__"))
    return root


@pytest.fixture(scope="module")
def server(place):
    """A server, as a function that asks it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ["--cpu", "--listen", "127.0.0.1", "--port", str(port), "--disable-auto-launch"]
    options += ["--base-directory", str(place), "--disable-api-nodes", "--preview-method", "auto"]
    options += ["--database-url", "sqlite:///:memory:"]
    with open(place / "log", "w") as log:
        process = subprocess.Popen(
            [PYTHON, "main.py", *options], cwd=CHECKOUT, env=environment(), stdout=log, stderr=log
        )
        try:

            def ask(path, body=None):
                content = None if body is None else json.dumps(body).encode()
                headers = {"Content-Type": "application/json"}
                request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", content, headers)
                with urllib.request.urlopen(request, timeout=60) as answer:
                    return json.loads(answer.read() or b"null")

            for _ in range(600):
                assert process.poll() is None, (place / "log").read_text()
                try:
                    ask("/system_stats")
                    break
                except urllib.error.URLError:
                    time.sleep(0.5)
            yield ask
        finally:
            process.terminate()
            process.wait(30)


def run(server, graph):
    """The history of a graph once it is done."""
    key = server("/prompt", {"prompt": graph})["prompt_id"]
    while True:
        history = server(f"/history/{key}")
        if key in history:
            return history[key]
        time.sleep(0.1)


def told(history, kind):
    return [message for name, message in history["status"]["messages"] if name == kind]


def test_the_stand_ins_are_as_what_they_stand_in_for():
    made = subprocess.run(
        [PYTHON, "-c", FACTS], cwd=CHECKOUT, env=environment(), capture_output=True, text=True
    )
    line = [each for each in made.stdout.splitlines() if each.startswith("FACTS")]
    assert line, made.stderr
    facts = json.loads(line[0].removeprefix("FACTS"))
    names = lambda thing: list(inspect.signature(thing).parameters)
    assert facts["bar"] == names(stand_ins.ProgressBar)
    assert facts["absolute"] == names(stand_ins.ProgressBar.update_absolute)
    assert facts["check"] == [] and facts["exception"] == stand_ins.InterruptProcessingException.__name__
    assert facts["blocker"] == stand_ins.ExecutionBlocker("why").message and facts["previews"]
    assert facts["device"] == "cpu" and facts["models"]
    assert facts["path"] == names(stand_ins.Folders.get_save_image_path)[1:]
    assert facts["components"][:4] == names(stand_ins.VideoComponents)
    assert facts["video"] == names(stand_ins.VideoFromComponents)
    assert facts["file"][:1] == names(stand_ins.VideoFromFile)
    assert facts["save_to"] == names(stand_ins.VideoFromComponents.save_to)


def test_the_nodes_that_stand_in_have_the_sockets_of_comfyuis_own(server):
    for name, kind in stand_ins.CORE.items():
        own = server(f"/object_info/{name}")[name]
        for part, sockets in kind.INPUT_TYPES().items():
            theirs = own["input"][part]
            assert list(theirs) == list(sockets)
            for each, (type_, *_) in sockets.items():
                assert theirs[each][0] == type_ or (type_ == "COMBO" and isinstance(theirs[each][0], list))
        assert tuple(own["output"]) == kind.RETURN_TYPES
        assert own["output_node"] == getattr(kind, "OUTPUT_NODE", False)


def test_comfyui_loads_every_node_and_lists_the_examples(server):
    for name, shown in comfyui.NODE_DISPLAY_NAME_MAPPINGS.items():
        own = server(f"/object_info/{name}")[name]
        assert own["display_name"] == shown and own["category"] == "codi" and own["description"]
    assert sorted(server("/workflow_templates")["codi"]) == NAMES


@pytest.mark.parametrize("name", GRAPHS)
def test_graphs_of_all_nodes_run(server, name):
    history = run(server, GRAPHS[name])
    assert history["status"]["status_str"] == "success", told(history, "execution_error")
    assert history["outputs"]


def test_the_examples_run(server, place):
    run(server, example("text_to_clip_with_sound"))
    shutil.copy(place / "output" / "codi" / "clip_with_sound_00001_.mp4", place / "input" / "clip.mp4")
    for name in NAMES:
        history = run(server, example(name))
        assert history["status"]["status_str"] == "success", told(history, "execution_error")
    record = read_record(place / "output" / "codi" / "sound_for_clip_00001_.wav")
    assert record.resolved["partners"] == ["video"]


def test_a_mistake_is_one_line(server):
    graph = example("text_to_clip_with_sound")
    graph["2"]["inputs"]["text"] = "zebra"
    (error,) = told(run(server, graph), "execution_error")
    assert error["node_type"] == "CoDiGenerate" and error["exception_type"].endswith("InputError")
    assert error["exception_message"].startswith("this model can read nothing in 'zebra'")
    assert "\n" not in error["exception_message"].strip()


def test_stopping_acts_within_a_step(server):
    graph = example("text_to_clip_with_sound", steps=500)
    key = server("/prompt", {"prompt": graph})["prompt_id"]
    time.sleep(3)
    server("/interrupt", {})
    began = time.monotonic()
    while key not in (history := server(f"/history/{key}")):
        time.sleep(0.05)
    assert told(history[key], "execution_interrupted") and time.monotonic() - began < 30
    assert run(server, example("text_to_clip_with_sound"))["status"]["status_str"] == "success"
