"""Nodes for ComfyUI: any mix of text, image, audio and video from any other, made together by codi.

    base.py      how nodes state their sockets, and how settings add up
    load.py      the model
    prompt.py    prompts of each kind
    options.py   sizes, settings of single outputs, controls, regions
    edit.py      start from, retake, inpaint, outpaint, keyframes
    generate.py  Generate and Continue
    save.py      files with their records
    media.py     IMAGE, AUDIO, VIDEO and MASK <-> what codi takes
    running.py   progress, previews, the button that stops

Nodes know nothing of how anything is made: they call `codi.CoDiPipeline`. ComfyUI finds them by the two
tables below. Neither codi nor ComfyUI is imported before a node runs.
"""

from .base import Node
from .edit import Inpaint, Keyframe, Outpaint, Retake, StartFrom
from .generate import Continue, Generate
from .load import LoadModel
from .options import Control, Options, OutputSettings, Region, Sizes
from .prompt import AudioPrompt, CombinePrompts, ImagePrompt, TextPrompt, VideoPrompt
from .save import Record, Save

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]

_NODES: dict[str, tuple[type[Node], str]] = {
    "CoDiLoadModel": (LoadModel, "Load CoDi Model"),
    "CoDiTextPrompt": (TextPrompt, "CoDi Text Prompt"),
    "CoDiImagePrompt": (ImagePrompt, "CoDi Image Prompt"),
    "CoDiAudioPrompt": (AudioPrompt, "CoDi Audio Prompt"),
    "CoDiVideoPrompt": (VideoPrompt, "CoDi Video Prompt"),
    "CoDiCombinePrompts": (CombinePrompts, "CoDi Combine Prompts"),
    "CoDiGenerate": (Generate, "CoDi Generate"),
    "CoDiContinue": (Continue, "CoDi Continue"),
    "CoDiStartFrom": (StartFrom, "CoDi Start From"),
    "CoDiRetake": (Retake, "CoDi Retake"),
    "CoDiInpaint": (Inpaint, "CoDi Inpaint"),
    "CoDiOutpaint": (Outpaint, "CoDi Outpaint"),
    "CoDiKeyframe": (Keyframe, "CoDi Keyframe"),
    "CoDiSizes": (Sizes, "CoDi Sizes"),
    "CoDiOutputSettings": (OutputSettings, "CoDi Settings of an Output"),
    "CoDiOptions": (Options, "CoDi Options"),
    "CoDiControl": (Control, "CoDi Control"),
    "CoDiRegion": (Region, "CoDi Region"),
    "CoDiSave": (Save, "CoDi Save"),
    "CoDiRecord": (Record, "CoDi Record"),
}

NODE_CLASS_MAPPINGS: dict[str, type[Node]] = {name: kind for name, (kind, _) in _NODES.items()}
NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {name: shown for name, (_, shown) in _NODES.items()}
