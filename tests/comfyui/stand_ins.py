"""What the nodes use of ComfyUI, which no registry of Python packages has, with the same names and behaviour.

Written after github.com/Comfy-Org/ComfyUI at a125cd84b054a57729b5eecab930ca9408719832 (0.3.64).
tests/comfyui/test_real_comfyui.py compares them with a checkout, where there is one.
"""

import enum
import sys
import types
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch

from codi.io import load_video, save_video


class InterruptProcessingException(Exception):
    pass


class ProgressBar:
    hook: Any = None  # of the module in ComfyUI

    def __init__(self, total, node_id=None):
        self.total, self.current, self.node_id = total, 0, node_id

    def update_absolute(self, value, total=None, preview=None):
        self.total = self.total if total is None else total
        self.current = min(value, self.total)
        if ProgressBar.hook is not None:
            ProgressBar.hook(self.current, self.total, preview, node_id=self.node_id)

    def update(self, value):
        self.update_absolute(self.current + value)


class LatentPreviewMethod(enum.Enum):
    NoPreviews = "none"
    Auto = "auto"


class ExecutionBlocker:
    def __init__(self, message):
        self.message = message


@dataclass
class VideoComponents:
    images: torch.Tensor
    frame_rate: Fraction
    audio: dict | None = None
    metadata: dict | None = None


class VideoFromComponents:
    def __init__(self, components):
        self._components = components

    def get_components(self):
        return self._components

    def save_to(self, path, format="auto", codec="auto", metadata=None):
        parts = self._components
        frames = (parts.images * 255).byte().movedim(-1, 1)
        sound = None if parts.audio is None else parts.audio["waveform"][0].mean(0)
        rate = None if parts.audio is None else parts.audio["sample_rate"]
        save_video(path, frames, float(parts.frame_rate), sound, rate)


class VideoFromFile(VideoFromComponents):
    def __init__(self, file):
        clip = load_video(file)
        images = clip.frames.movedim(1, -1).float() / 255
        rate = Fraction(clip.fps).limit_denominator(1001)
        audio = None
        if clip.audio is not None:
            audio = {"waveform": clip.audio[None, None], "sample_rate": clip.sampling_rate}
        super().__init__(VideoComponents(images, rate, audio))


class Folders:
    """`folder_paths` for folders below one place."""

    def __init__(self, root: Path):
        self.root = root
        self.models_dir = str(root / "models")

    def get_output_directory(self):
        return str(self.root / "output")

    def get_input_directory(self):
        return str(self.root / "input")

    def get_save_image_path(self, filename_prefix, output_dir, image_width=0, image_height=0):
        folder = Path(output_dir, filename_prefix).parent
        if not folder.resolve().is_relative_to(Path(output_dir).resolve()):
            raise Exception("**** ERROR: Saving image outside the output folder is not allowed.")
        folder.mkdir(parents=True, exist_ok=True)
        name = Path(filename_prefix).name
        taken = [0]
        for path in folder.glob(f"{name}_*"):
            digits = path.name[len(name) + 1 :].split("_")[0]
            taken.append(int(digits) if digits.isdigit() else 0)
        subfolder = str(Path(filename_prefix).parent)
        return str(folder), name, max(taken) + 1, "" if subfolder == "." else subfolder, filename_prefix


class State:
    """What a test sets: whether somebody wants to stop, what the bars said, where files go."""

    def __init__(self, root: Path):
        self.interrupted = False
        self.bars: list[tuple[float, float, Any]] = []
        self.folders = Folders(root)
        self.args = types.SimpleNamespace(preview_method=LatentPreviewMethod.NoPreviews)

    def throw_exception_if_processing_interrupted(self):
        if self.interrupted:
            self.interrupted = False
            raise InterruptProcessingException()

    def hook(self, value, total, preview=None, node_id=None):
        self.bars.append((value, total, preview))
        self.throw_exception_if_processing_interrupted()

    def modules(self) -> dict[str, types.ModuleType]:
        """The modules by their names, to be put into `sys.modules`."""
        check = self.throw_exception_if_processing_interrupted
        contents = {
            "comfy": {},
            "comfy.utils": {"ProgressBar": ProgressBar},
            "comfy.cli_args": {"args": self.args, "LatentPreviewMethod": LatentPreviewMethod},
            "comfy.model_management": {
                "throw_exception_if_processing_interrupted": check,
                "InterruptProcessingException": InterruptProcessingException,
                "get_torch_device": lambda: torch.device("cpu"),
            },
            "comfy_execution": {},
            "comfy_execution.graph": {"ExecutionBlocker": ExecutionBlocker},
            "comfy_api": {},
            "comfy_api.util": {"VideoComponents": VideoComponents},
            "comfy_api.input_impl": {
                "VideoFromComponents": VideoFromComponents,
                "VideoFromFile": VideoFromFile,
            },
            "folder_paths": {
                "models_dir": self.folders.models_dir,
                "get_output_directory": self.folders.get_output_directory,
                "get_save_image_path": self.folders.get_save_image_path,
            },
        }
        made = {}
        for name, names in contents.items():
            made[name] = types.ModuleType(name)
            vars(made[name]).update(names)
            above, _, own = name.rpartition(".")
            if above:
                setattr(made[above], own, made[name])
        return made

    def install(self, monkeypatch) -> None:
        """Put the modules where imports find them, for as long as a test lasts."""
        for name, module in self.modules().items():
            monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setattr(ProgressBar, "hook", staticmethod(self.hook))


# Nodes of ComfyUI itself that the example graphs use --------------------


class LoadVideo:
    FUNCTION, RETURN_TYPES = "run", ("VIDEO",)
    folders: Folders

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"file": ("COMBO", {})}}

    def run(self, file):
        return (VideoFromFile(Path(self.folders.get_input_directory()) / file),)


class GetVideoComponents:
    FUNCTION, RETURN_TYPES = "run", ("IMAGE", "AUDIO", "FLOAT")

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"video": ("VIDEO", {})}}

    def run(self, video):
        parts = video.get_components()
        return parts.images, parts.audio, float(parts.frame_rate)


class CreateVideo:
    FUNCTION, RETURN_TYPES = "run", ("VIDEO",)

    @classmethod
    def INPUT_TYPES(cls):
        required = {"images": ("IMAGE", {}), "fps": ("FLOAT", {"min": 1.0, "max": 120.0})}
        return {"required": required, "optional": {"audio": ("AUDIO", {})}}

    def run(self, images, fps, audio=None):
        return (VideoFromComponents(VideoComponents(images, Fraction(fps), audio)),)


class SaveVideo:
    FUNCTION, RETURN_TYPES, OUTPUT_NODE = "run", (), True
    folders: Folders

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "video": ("VIDEO", {}),
                "filename_prefix": ("STRING", {}),
                "format": ("COMBO", {}),
                "codec": ("COMBO", {}),
            }
        }

    def run(self, video, filename_prefix, format, codec):
        root = self.folders.get_output_directory()
        folder, name, counter, subfolder, _ = self.folders.get_save_image_path(filename_prefix, root)
        file = f"{name}_{counter:05}_.mp4"
        video.save_to(str(Path(folder) / file))
        return {"ui": {"images": [{"filename": file, "subfolder": subfolder, "type": "output"}]}}


CORE = {kind.__name__: kind for kind in (LoadVideo, GetVideoComponents, CreateVideo, SaveVideo)}


def core_nodes(folders: Folders) -> dict[str, type]:
    """Those nodes, reading and writing below one place."""
    return {name: type(name, (kind,), {"folders": folders}) for name, kind in CORE.items()}
