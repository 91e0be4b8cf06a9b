"""Controls: what steers an output beside its prompt, in place and in time.

    base.py      the contract of a kind, and the output that is steered
    beats.py loudness.py melody.py sketch.py layout.py   the kinds
    points.py    what loudness and melody share
    curves.py    loudness and pitch of a sound
    asked.py     what a call, a job or the command line asks

A further kind is one module here with a subclass of `ControlKind`, and one entry in `KINDS`. Nothing heavy is
imported before a value is rendered, because the command line reads controls before it knows what it needs.
"""

from codi.controls.base import ControlKind, ControlMap, Target
from codi.controls.beats import Beats
from codi.controls.layout import Layout
from codi.controls.loudness import Loudness
from codi.controls.melody import Melody
from codi.controls.sketch import Sketch
from codi.types import InputError

KINDS: dict[str, ControlKind] = {
    kind.name: kind for kind in (Layout(), Sketch(), Beats(), Melody(), Loudness())
}

__all__ = ["KINDS", "ControlKind", "ControlMap", "Target", "find_kind"]


def find_kind(name: object) -> ControlKind:
    """Return the kind of control of a name; raise `InputError` for a name that none has."""
    if not isinstance(name, str) or name not in KINDS:
        raise InputError(f"control names {name!r:.80}: expected some of {', '.join(KINDS)}")
    return KINDS[name]
