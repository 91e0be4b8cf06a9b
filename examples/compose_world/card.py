"""The model card and the licence that a folder on the hub has."""

from pathlib import Path

_CARD = """\
---
license: apache-2.0
library_name: diffusers
pipeline_tag: {task}
tags: [codi, synthetic]
---
# Small {kind} model of a synthetic world

A latent diffusion model of `codi.world`, a small universe of coloured shapes whose media can be checked
exactly. It was trained on rendered scenes alone, by the scripts in `examples/compose_world` of the project
`codi`, to show that `codi compose` can join models that were trained apart. It knows nothing but this world.

```python
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained("this folder")
```
"""
_LICENCE = "Licensed under the Apache License, Version 2.0: https://www.apache.org/licenses/LICENSE-2.0\n"


def write_card(folder: Path, kind: str, task: str) -> None:
    """Write `README.md` and `LICENSE` into a pipeline folder."""
    (folder / "README.md").write_text(_CARD.format(kind=kind, task=task))
    (folder / "LICENSE").write_text(_LICENCE)
