"""Training data: the world rendered on the fly, media files, latents encoded once, and the order of samples.

source.py     the base class of every training set; batch.py what a training set gives
world.py      the world, rendered as it is asked for
sources.py    a training set from plain configuration: the way in for media files
manifest.py   tables of media files; shards.py the same in tars
media.py      their rows as batches; mixture.py several sources as one
workers.py    decoding in processes that may die; worker.py one of them
decode.py     what they do
cache.py      latents encoded once
order.py      which sample comes when
notes.py      sounds that no scene of the world makes
prepare/      public data sets -> manifests
"""
