"""Put LoRA and learned words beside a model, and take them away again (docs/fine-tuning.md).

Nothing heavy is imported before it is asked for.

files.py  reads and writes adapters as files, and checks them against a model
mixin.py  adds to a pipeline what it can do with them
given.py  holds the adapters that a command was given
"""
