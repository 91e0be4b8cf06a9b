"""Read media files into tensors, and write tensors into media files.

Nothing else in codi touches a media file. Pictures and frames are uint8, (3, H, W) and (F, 3, H, W); sound is
float32 in [-1, 1], mono, (samples,). Files are read with Pillow, soundfile and PyAV, always behind limits on
size, length and rate. Whatever is wrong with a file comes out as one `InputError`. Letters: F frames, H
height, W width.

    gates.py       what a file may be: limits, kinds and errors
    media_file.py  a file or bytes, how it is opened, and its time 0
    pictures.py    a picture -> pixels, as a viewer shows it
    heif.py        the pictures that only FFmpeg decodes
    frames.py      a clip -> the frames that are on show at given times
    clip_header.py    what its header and packets say, and the limits on that
    clip_decoders.py  decoding them, by PyAV, decord or Pillow
    display.py     a decoded frame -> pixels, as a player shows them
    animation.py   animated pictures that are clips
    sounds.py      a recording or a clip -> a stretch of sound, in its place
    likeness.py    whether two files show or play the same
    facts.py       what a file holds, in plain values
    sheet.py       frames and a sound on one sheet
    players.py     pieces of HTML that show and play media
    read.py        all of these for prompts
    sandbox.py     these in a process that may die
    fit.py         tensors of any size, rate and length -> a model's geometry
    files.py       new files of any kind, whole or not at all
    write.py       tensors -> media files
    streams.py     the same, piece by piece
    tags.py        what a file carries about how it was made
    dub.py         a clip with another sound, its frames untouched
    reframe.py     a clip with other frames, its sound untouched
"""

from codi.io.dub import save_dubbed
from codi.io.facts import facts
from codi.io.files import (
    NewFile,
    atomic,
    check_folder,
    create_json,
    new_file,
    numbered,
    save_json,
    save_manifest,
    save_text,
    sha256_of,
    staged,
    taken,
)
from codi.io.fit import fit_audio, fit_image, fit_video, from_unit, to_unit
from codi.io.gates import MAX_MINUTES, MAX_PIXELS, check_audio, check_file, check_pixels, probe
from codi.io.likeness import clip_likeness, picture_likeness, sound_likeness
from codi.io.pictures import image_to_tensor
from codi.io.read import (
    Video,
    carried_text,
    check_prompt,
    describe,
    load_audio,
    load_image,
    load_opacity,
    load_video,
)
from codi.io.reframe import save_reframed
from codi.io.streams import stream_audio, stream_video
from codi.io.tags import read_text
from codi.io.write import check_writers, save_audio, save_image, save_video

__all__ = [
    "MAX_MINUTES",
    "MAX_PIXELS",
    "NewFile",
    "Video",
    "atomic",
    "carried_text",
    "check_audio",
    "check_file",
    "check_folder",
    "check_pixels",
    "check_prompt",
    "check_writers",
    "clip_likeness",
    "create_json",
    "describe",
    "facts",
    "fit_audio",
    "fit_image",
    "fit_video",
    "from_unit",
    "image_to_tensor",
    "load_audio",
    "load_image",
    "load_opacity",
    "load_video",
    "new_file",
    "numbered",
    "picture_likeness",
    "probe",
    "read_text",
    "save_audio",
    "save_dubbed",
    "save_image",
    "save_json",
    "save_manifest",
    "save_reframed",
    "save_text",
    "save_video",
    "sha256_of",
    "sound_likeness",
    "staged",
    "stream_audio",
    "stream_video",
    "taken",
    "to_unit",
]
