"""The instruments of General MIDI by their numbers, and which emoji shows which of them.

Source: General MIDI System Level 1 (MIDI Manufacturers Association, RP-003), the sound set and the percussion
map; names are in plain words. The pads 96 to 103 sound like no rain and no goblins, and are called pads.
"""

PROGRAMS = tuple(
    name.strip()
    for name in """
acoustic grand piano, bright acoustic piano, electric grand piano, honky-tonk piano, electric piano
1, electric piano 2, harpsichord, clavinet, celesta, glockenspiel, music box, vibraphone, marimba,
xylophone, tubular bells, dulcimer, drawbar organ, percussive organ, rock organ, church organ, reed
organ, accordion, harmonica, tango accordion, nylon string guitar, steel string guitar, jazz
electric guitar, clean electric guitar, muted electric guitar, overdriven guitar, distortion guitar,
guitar harmonics, acoustic bass, finger bass, pick bass, fretless bass, slap bass 1, slap bass 2,
synth bass 1, synth bass 2, violin, viola, cello, contrabass, tremolo strings, pizzicato strings,
orchestral harp, timpani, string ensemble 1, string ensemble 2, synth strings 1, synth strings 2,
choir aahs, voice oohs, synth voice, orchestra hit, trumpet, trombone, tuba, muted trumpet, french
horn, brass section, synth brass 1, synth brass 2, soprano saxophone, alto saxophone, tenor
saxophone, baritone saxophone, oboe, english horn, bassoon, clarinet, piccolo, flute, recorder, pan
flute, blown bottle, shakuhachi, whistle, ocarina, square lead, sawtooth lead, calliope lead, chiff
lead, charang lead, voice lead, fifths lead, bass and lead, new age pad, warm pad, polysynth pad,
choir pad, bowed pad, metallic pad, halo pad, sweep pad, rain pad, soundtrack pad, crystal pad,
atmosphere pad, brightness pad, goblins pad, echoes pad, sci-fi pad, sitar, banjo, shamisen, koto,
kalimba, bagpipe, fiddle, shanai, tinkle bell, agogo, steel drums, woodblock, taiko drum, melodic
tom, synth drum, reverse cymbal, guitar fret noise, breath noise, seashore, bird tweet, telephone
ring, helicopter, applause, gunshot
""".replace("\n", " ").split(",")
)
FIRST_EFFECT = 120  # programs from here on are effects, not instruments that play a tune

# Percussion by its note on the channel of percussion.
PERCUSSION = {
    35: "bass drum",
    37: "side stick",
    38: "snare drum",
    39: "hand clap",
    42: "closed hi-hat",
    45: "low tom",
    46: "open hi-hat",
    48: "high tom",
    49: "crash cymbal",
    51: "ride cymbal",
    54: "tambourine",
    56: "cowbell",
    58: "vibraslap",
    60: "high bongo",
    61: "low bongo",
    62: "conga",
    65: "timbale",
    67: "agogo bell",
    69: "cabasa",
    70: "maracas",
    71: "whistle",
    73: "guiro",
    75: "claves",
    76: "wood block",
    78: "cuica",
    80: "triangle",
    81: "open triangle",
}

# The emoji that show what makes a sound, by their names -> names above. Only those that a person would
# take for it: no violin for a viola, no bird for a flute.
SHOWN = {
    "trumpet": ("trumpet", "muted trumpet"),
    "trombone": ("trombone",),
    "postal horn": ("french horn",),
    "saxophone": ("soprano saxophone", "alto saxophone", "tenor saxophone", "baritone saxophone"),
    "violin": ("violin", "fiddle", "pizzicato strings", "tremolo strings"),
    "harp": ("orchestral harp",),
    "guitar": ("clean electric guitar", "overdriven guitar", "distortion guitar", "jazz electric guitar"),
    "banjo": ("banjo",),
    "flute": ("flute", "piccolo"),
    "accordion": ("accordion", "tango accordion"),
    "musical keyboard": ("acoustic grand piano", "bright acoustic piano", "electric piano 1"),
    "drum": ("snare drum", "bass drum", "low tom"),
    "long drum": ("conga", "high bongo", "low bongo"),
    "maracas": ("maracas",),
    "bell": ("tubular bells", "tinkle bell"),
    "bellhop bell": ("glockenspiel", "triangle"),
    "church": ("church organ",),
    "wind chime": ("tinkle bell", "celesta"),
    "singer": ("choir aahs", "voice oohs"),
    "man singer": ("voice oohs",),
    "woman singer": ("choir aahs",),
    "clapping hands": ("hand clap", "applause"),
    "telephone": ("telephone ring",),
    "telephone receiver": ("telephone ring",),
    "helicopter": ("helicopter",),
    "bird": ("bird tweet",),
    "water wave": ("seashore",),
}
