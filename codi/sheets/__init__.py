"""Show many media on one sheet: as a picture, and as a page with players.

tiles.py   one medium -> a small picture: a clip as a film strip, a sound as waveform and spectrogram
sheet.py   tiles in rows and columns with their labels -> a picture
page.py    the same as HTML, with players
"""
