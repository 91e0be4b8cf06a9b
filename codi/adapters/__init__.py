"""LoRA and learned words beside a model (docs/fine-tuning.md). Nothing heavy is imported before something is
asked for.

files.py  what is written and read, and the check against the model
mixin.py  what a pipeline can do with them
given.py  what a command was given
"""
