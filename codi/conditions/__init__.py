"""Conditions: what an output can be given, each with a name, a mechanism, a null and a guidance scale.

A new condition is one module here with a subclass of `Condition`, and one entry in `CONDITIONS`. One that
acts in the sampling loop has a subclass of `LoopCondition` as well, of which every generation makes objects.
"""

from codi.conditions.base import Condition, JointStep, LoopCondition, Mechanism, NoisyLatent
from codi.conditions.classifier import CLASSIFIER
from codi.conditions.control import CONTROL
from codi.conditions.known import KNOWN
from codi.conditions.partners import PARTNERS
from codi.conditions.prompt import PROMPT
from codi.conditions.source_prompt import SOURCE_PROMPT
from codi.conditions.start import START

ALL = (PROMPT, PARTNERS, START, KNOWN, SOURCE_PROMPT, CONTROL, CLASSIFIER)
CONDITIONS: dict[str, Condition] = {condition.name: condition for condition in ALL}

__all__ = [
    "CLASSIFIER",
    "CONDITIONS",
    "CONTROL",
    "KNOWN",
    "PARTNERS",
    "PROMPT",
    "SOURCE_PROMPT",
    "START",
    "Condition",
    "JointStep",
    "LoopCondition",
    "Mechanism",
    "NoisyLatent",
]
