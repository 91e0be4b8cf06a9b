"""Conditions: what an output can be given, each with a name, a mechanism, a null and a guidance scale.

A new condition is one module here with a subclass of `Condition`, and one entry in `CONDITIONS`.
"""

from codi.conditions.base import Condition, Mechanism
from codi.conditions.control import CONTROL
from codi.conditions.partners import PARTNERS
from codi.conditions.prompt import PROMPT

CONDITIONS: dict[str, Condition] = {condition.name: condition for condition in (PROMPT, PARTNERS, CONTROL)}

__all__ = ["CONDITIONS", "CONTROL", "PARTNERS", "PROMPT", "Condition", "Mechanism"]
