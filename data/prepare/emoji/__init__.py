"""Emoji, instruments and spoken names, from packages that anybody may download, as a training set.

    python -m data.prepare emoji PACKAGES -o OUT

It is real media in the small: pictures that people drew, clips that people animated, notes of recorded
instruments, spoken words, all under licences that let a model be trained and given away. docs/emoji.md has
the table of packages with their licences, and what came out.

    command.py       options, the parts in their order, manifests
    packages.py      unpacked packages, their versions and licences
    names.py         what each emoji is called, in several languages
    items.py         one sample: its file, its row; making those that are missing
    drawings.py      drawings of every style, and clip art -> pictures
    animations.py    animated drawings -> clips
    general_midi.py  names of instruments, and which emoji shows which
    synthesiser.py   notes -> sound
    sounds.py        instruments, percussion, effects, samples -> sounds
    speech.py        names -> spoken words
    moving.py        pictures that move with the notes of a sound -> clips whose events are known
    alike.py         which of several samples are the same
    split.py         which names and which compositions are held out
"""
