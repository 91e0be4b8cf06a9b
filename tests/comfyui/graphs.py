"""Small graphs in API format, of all nodes; every one of them is also driven through a real ComfyUI
(test_real_comfyui.py).
"""

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent.parent.parent / "comfyui"
EXAMPLES = FOLDER / "example_workflows"
OFF = dict(make_text=False, make_image=False, make_audio=False, make_video=False)
LOAD = ("CoDiLoadModel", dict(model="codi-tiny", device="cpu", dtype="float32"))


def graph(**nodes: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    """A graph; a text "#a.1" among the inputs is the second output of node a."""
    made = {}
    for key, (kind, inputs) in nodes.items():
        linked = {name: link(value) for name, value in inputs.items()}
        made[key] = {"class_type": kind, "inputs": linked}
    return made


def link(value: Any) -> Any:
    if not isinstance(value, str) or not value.startswith("#"):
        return value
    key, _, output = value[1:].partition(".")
    return [key, int(output or 0)]


def generate(*outputs: str, **more: Any) -> tuple[str, dict[str, Any]]:
    """A node that makes these outputs in two steps."""
    wanted = {**OFF, **{f"make_{name}": True for name in outputs}}
    inputs = dict(model="#load", seed=0, steps=2, guidance_scale=0.0, samples=1)
    return "CoDiGenerate", {**wanted, **inputs, **more}


def words(text: str = "a red ball", **more: Any) -> tuple[str, dict[str, Any]]:
    return "CoDiTextPrompt", {"text": text, "weight": 1.0, **more}


def save(result: str, name: str) -> tuple[str, dict[str, Any]]:
    return "CoDiSave", {"result": result, "filename_prefix": f"codi/{name}"}


def example(name: str, steps: int = 2) -> dict[str, Any]:
    """An example of the folder, with few steps."""
    made = json.loads((EXAMPLES / "api" / f"{name}.json").read_text(encoding="utf-8"))
    for node in made.values():
        if "steps" in node["inputs"]:
            node["inputs"]["steps"] = steps
    return made


SIZES = dict(width=0, height=0, num_frames=0, fps=0.0, seconds=0.0)
OPTIONS = dict(
    candidates=1,
    guider="own",
    guidance_rescale=0.0,
    guidance_from=0.0,
    guidance_to=1.0,
    in_time="auto",
    lengths="agree",
    auxiliary_caption=True,
    resample_steps=0,
)
REGION = dict(left=0.0, top=0.0, right=1.0, bottom=1.0, begin=0.0, end=0.0, weight=1.0, feather=0.0, fade=0.0)
CONTROL = dict(kind="beats", value="0.3,0.9", output="all", weight=1.0, begin=0.0, end=1.0)

GRAPHS = {
    # Everything made at once becomes a prompt of its kind; two chains combine.
    "every_prompt": graph(
        load=LOAD,
        words=words(),
        first=generate("text", "image", "audio", "video", prompt="#words"),
        again=("CoDiTextPrompt", {"text": "#first.4", "weight": 0.5}),
        image=("CoDiImagePrompt", {"image": "#first.1", "weight": 1.0, "prompts": "#again"}),
        audio=("CoDiAudioPrompt", {"audio": "#first.2", "weight": 2.0}),
        video=("CoDiVideoPrompt", {"video": "#first.3", "weight": 1.0, "prompts": "#audio"}),
        both=(
            "CoDiCombinePrompts",
            {"first": "#image", "second": "#video", "weight_of_first": 1.0, "weight_of_second": 0.5},
        ),
        night=words("at night"),
        made=generate("image", "text", prompt="#both", negative="#night", guidance_scale=3.0, seed=5),
        record=("CoDiRecord", {"result": "#made"}),
        save=save("#made", "every_prompt"),
    ),
    "samples": graph(
        load=LOAD,
        words=words("a ball"),
        made=generate("text", "image", "audio", "video", prompt="#words", samples=2),
        save=save("#made", "samples"),
        film=(
            "SaveVideo",
            {"video": "#made.3", "filename_prefix": "video/two", "format": "auto", "codec": "auto"},
        ),
    ),
    "settings": graph(
        load=LOAD,
        words=words(),
        sizes=("CoDiSizes", {**SIZES, "seconds": 1.0}),
        video=(
            "CoDiOutputSettings",
            dict(
                output="video",
                guidance_scale=2.0,
                sync_guidance_scale=1.5,
                start_offset=0.5,
                settings="#sizes",
            ),
        ),
        options=(
            "CoDiOptions",
            {**OPTIONS, "guider": "apg", "guidance_rescale": 0.5, "guidance_to": 0.9, "settings": "#video"},
        ),
        blue=words("a blue star"),
        region=(
            "CoDiRegion",
            {**REGION, "prompt": "#blue", "right": 0.5, "end": 0.5, "settings": "#options"},
        ),
        made=generate("video", "audio", prompt="#words", guidance_scale=4.0, settings="#region"),
        save=save("#made", "settings"),
    ),
    "edits": graph(
        load=LOAD,
        words=words(),
        first=generate("image", "audio", "video", prompt="#words"),
        start=("CoDiStartFrom", {"strength": 0.5, "image": "#first.1"}),
        retake=(
            "CoDiRetake",
            dict(begin=0.5, end=1.0, strength=1.0, audio="#first.2", video="#first.3", settings="#start"),
        ),
        frame=("CoDiKeyframe", {"image": "#first.1", "frame": 6, "settings": "#retake"}),
        made=generate("image", "audio", "video", prompt="#words", seed=1, settings="#frame"),
        save=save("#made", "edits"),
        wide=("CoDiOutpaint", dict(left=0.25, top=0.25, right=0.75, bottom=0.75, image="#first.1")),
        around=generate("image", prompt="#words", seed=1, settings="#wide"),
        save_wide=save("#around", "wide"),
    ),
    "continue": graph(
        load=LOAD,
        words=words(),
        first=generate("audio", "video", prompt="#words"),
        longer=(
            "CoDiContinue",
            dict(
                model="#load",
                seconds=3.0,
                direction="forwards",
                loop=False,
                seed=3,
                steps=2,
                video="#first.3",
                audio="#first.2",
                prompt="#words",
            ),
        ),
        film=(
            "SaveVideo",
            {"video": "#longer", "filename_prefix": "video/longer", "format": "auto", "codec": "auto"},
        ),
    ),
}
