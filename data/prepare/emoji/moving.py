"""Pictures that move with the notes of a sound: clips in which it is known when everything happens.

No openly licensed clips with their own sound were found in the registries. Here what is seen and what is
heard are real, and their times are made: a script of notes is played by a recorded instrument, and each note
moves a drawing. The times of the notes stand in the row, so that agreement in time can be counted on real
media as it is in the world. An emoji that shows an instrument moves to its own sound; every other one to an
instrument that is drawn for it, which the caption names.

Letters: F frames, E events, H height, W width.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from codi.io import save_video
from data.prepare.emoji.drawings import Drawings, facts_of
from data.prepare.emoji.general_midi import FIRST_EFFECT, PERCUSSION, PROGRAMS, SHOWN
from data.prepare.emoji.items import Item
from data.prepare.emoji.names import Emoji
from data.prepare.emoji.packages import Package
from data.prepare.emoji.sounds import a, levelled
from data.prepare.emoji.split import choice_of, number_of, side_of
from data.prepare.emoji.synthesiser import Note, Plays

if TYPE_CHECKING:
    from PIL import Image

SHARE = 0.62  # of a frame's side that a drawing at rest fills
SMOOTH = 3  # how many times larger frames are drawn than they are kept
QUICK = 0.12  # seconds in which a swelling or a flash falls to 1 / e
LEAST_GAP = 0.25  # seconds between two events, 2 frames at 8 fps
FIRST = 0.15  # seconds before the first event, so that it has a before
# Instruments whose notes begin at once, so that what is heard begins when it is written.
STRUCK = (
    *("acoustic grand piano", "celesta", "glockenspiel", "music box", "vibraphone", "marimba", "xylophone"),
    *("tubular bells", "harpsichord", "nylon string guitar", "steel string guitar", "pizzicato strings"),
    *("orchestral harp", "trumpet", "alto saxophone", "clarinet", "sitar", "banjo", "kalimba", "steel drums"),
    *("woodblock", "taiko drum", "acoustic bass", "koto"),
)


@dataclass(frozen=True)
class Pose:
    """How a drawing is shown in one frame.

    Attributes:
        scale: its size, 1 at rest.
        lift: how far it is above where it rests, in shares of the frame's height.
        turn: its rotation about the middle of its upper edge, in degrees.
        light: the brightness of the whole frame, 1 as it is.
    """

    scale: float = 1.0
    lift: float = 0.0
    turn: float = 0.0
    light: float = 1.0


def swell(since: float, gap: float, force: float) -> Pose:
    """Return a drawing that is large when a note begins and shrinks back."""
    return Pose(scale=1 + 0.5 * force * math.exp(-since / QUICK))


def jump(since: float, gap: float, force: float) -> Pose:
    """Return a drawing that leaves the ground when a note begins, and is back before the next."""
    share = min(1.0, since / min(0.4, gap))
    return Pose(lift=0.18 * force * 4 * share * (1 - share))


def swing(since: float, gap: float, force: float) -> Pose:
    """Return a drawing that hangs from its upper edge and is struck when a note begins."""
    return Pose(turn=45 * force * math.sin(2 * math.pi * since / 0.5) * math.exp(-since / 0.25))


def flash(since: float, gap: float, force: float) -> Pose:
    """Return a drawing in the dark that lights up when a note begins."""
    return Pose(light=0.3 + 0.7 * force * math.exp(-since / QUICK))


Motion = Callable[[float, float, float], Pose]
MOTIONS: dict[str, tuple[Motion, Pose]] = {
    "swells": (swell, Pose()),
    "jumps": (jump, Pose()),
    "swings": (swing, Pose()),
    "flashes": (flash, Pose(light=0.3)),
}


def poses(motion: str, events: list[float], forces: list[float], count: int, fps: float) -> list[Pose]:
    """Return the pose of every frame.

    Args:
        motion: one of `MOTIONS`.
        events: seconds (E,) at which something happens, in order.
        forces: how strong each is, (E,) in (0, 1].
        count: the number of frames.
        fps: frames per second; frame k is what there is k / fps seconds after the beginning.

    Returns:
        F poses.
    """
    move, rest = MOTIONS[motion]
    found = []
    for frame in range(count):
        now = frame / fps
        past = [index for index, event in enumerate(events) if event <= now + 1e-9]
        if not past:
            found.append(rest)
            continue
        last = past[-1]
        gap = events[last + 1] - events[last] if last + 1 < len(events) else math.inf
        found.append(move(now - events[last], gap, forces[last]))
    return found


def draw_pose(drawing: "Image.Image", pose: Pose, size: int) -> Tensor:
    """Return one frame.

    Args:
        drawing: RGBA, of any size.
        pose: how it is shown.
        size: the side of the frame in pixels.

    Returns:
        uint8 (3, size, size): the drawing on white.
    """
    from PIL import Image

    side = SMOOTH * size
    scale = side * SHARE * pose.scale / max(drawing.size)  # pixels of the frame for one of the drawing
    width, height = drawing.size
    middle = (side / 2, side / 2 - pose.lift * side)
    # Pillow asks which point of the drawing each point of the frame shows: the inverse of scaling it about
    # its centre and turning it about the middle of its upper edge, where it hangs.
    pivot = (middle[0], middle[1] - scale * height / 2)
    angle = math.radians(pose.turn)
    cos, sin = math.cos(angle) / scale, math.sin(angle) / scale
    inverse = (
        *(cos, sin, width / 2 - cos * pivot[0] - sin * pivot[1]),
        *(-sin, cos, sin * pivot[0] - cos * pivot[1]),
    )
    shown = drawing.transform((side, side), Image.Transform.AFFINE, inverse, Image.Resampling.BICUBIC)
    frame = Image.new("RGBA", (side, side), "white")
    frame.alpha_composite(shown)
    small = frame.convert("RGB").resize((size, size), Image.Resampling.BOX)
    pixels = torch.from_numpy(np.array(small)).permute(2, 0, 1)
    return (pixels.float() * pose.light).round().to(torch.uint8)


def moving_items(
    names: Mapping[str, Emoji],
    drawings: list[Drawings],
    player: Plays,
    font: Package,
    geometry: tuple[int, int, int, float],
    pictures: Mapping[str, str],
) -> Iterator[Item]:
    """Yield moving pictures: those of instruments by every motion, others by one that is drawn for them.

    Args:
        names: the emoji.
        drawings: the styles.
        player: what plays the notes.
        font: the package that it plays.
        geometry: the side of a frame in pixels, frames per second, the sound's rate in Hz, and seconds.
        pictures: paths of the pictures that are kept, by their ids. Only these move.

    Yields:
        The samples; each holds its picture at rest, too.
    """
    for style in drawings:
        for emoji in names.values():
            picture = pictures.get(f"{style.style.id}-{emoji.key}")
            if picture is None:
                continue
            own = SHOWN.get(emoji.name)
            motions = list(MOTIONS) if own else [choice_of(MOTIONS, "motion", emoji.key, style.style.id)]
            if own is None and not _is_chosen(emoji, style, drawings, pictures):
                continue
            for motion in motions:
                yield _moving(emoji, style, motion, own, player, font, geometry, picture)


def _is_chosen(emoji: Emoji, style: Drawings, drawings: list[Drawings], pictures: Mapping[str, str]) -> bool:
    """Return whether this style is the one of its family in which an emoji moves."""
    family = [
        one.style.id
        for one in drawings
        if one.style.family == style.style.family and f"{one.style.id}-{emoji.key}" in pictures
    ]
    return choice_of(family, "moving", emoji.key) == style.style.id


def _moving(
    emoji: Emoji,
    drawings: Drawings,
    motion: str,
    own: tuple[str, ...] | None,
    player: Plays,
    font: Package,
    geometry: tuple[int, int, int, float],
    picture: str,
) -> Item:
    size, fps, rate, seconds = geometry
    style = drawings.style
    identity = f"{motion}-{style.id}-{emoji.key}"
    instrument = choice_of(own or (*STRUCK, *PERCUSSION.values()), "instrument", identity)
    program, notes = script(instrument, seconds, identity)
    events = [note.begins for note in notes]

    def make(path: Path) -> None:
        wave = levelled(player.play(program, notes, seconds))
        drawing = drawings.draw(emoji.key, SMOOTH * size)
        forces = [note.velocity / 127 for note in notes]
        shown = poses(motion, events, forces, round(seconds * fps), fps)
        frames = torch.stack([draw_pose(drawing, pose, size) for pose in shown])
        save_video(path, frames, fps, wave, rate)

    count = f"{len(notes)} notes" if program is not None else f"{len(notes)} strokes"
    sound = "its notes" if own else f"the notes of {a(instrument)}"
    return Item(
        id=identity,
        file=f"moving/{identity}.mp4",
        make=make,
        captions=(
            f"{emoji.name}, {style.words}, {motion} to {sound}",
            f"{emoji.name} {motion} to {count} of {a(instrument)}",
            f"{emoji.name} {motion}, {instrument}, {style.words}",
        ),
        name=emoji.name,
        side=side_of(emoji.name, style.family),
        sources=(drawings.package, font),
        beside=(picture,),
        facts={
            **facts_of(emoji),
            "style": style.words,
            "family": style.family,
            "motion": motion,
            "instrument": instrument,
            "events": [round(event, 4) for event in events],
            "pitches": [note.pitch for note in notes],
        },
    )


def script(instrument: str, seconds: float, identity: str) -> tuple[int | None, list[Note]]:
    """Return which program plays, and what: a random rhythm that follows from the sample's name.

    Args:
        instrument: a name of General MIDI; percussion plays its one key.
        seconds: the length of the sound.
        identity: the name of the sample.

    Returns:
        The program, None for percussion, and the notes in order.
    """
    keys = {name: key for key, name in PERCUSSION.items()}
    program = None if instrument in keys else PROGRAMS.index(instrument)
    begins = []
    at = FIRST + 0.3 * number_of("first", identity)
    while at < seconds - LEAST_GAP:
        begins.append(round(at, 3))
        at += LEAST_GAP + 0.6 * number_of("gap", identity, str(len(begins)))
    base = 52 + int(17 * number_of("base", identity))
    notes = []
    for index, begin in enumerate(begins):
        gap = (begins[index + 1] if index + 1 < len(begins) else seconds) - begin
        step = (0, 2, 4, 7, 9, 12)[int(6 * number_of("step", identity, str(index)))]
        effect = program is not None and program >= FIRST_EFFECT
        pitch = keys[instrument] if program is None else 60 if effect else base + step
        velocity = 75 + int(50 * number_of("velocity", identity, str(index)))
        # a note ends a little before the next, so that the same pitch twice is heard as two
        notes.append(Note(begin, max(0.05, 0.85 * gap - 0.02), pitch, velocity))
    return program, notes
