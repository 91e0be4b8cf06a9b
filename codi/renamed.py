"""Translate names of earlier versions: one table each for model folders, records and configurations.

Whatever is read from outside passes through here once, so that everything behind it knows the present names
alone. Whoever reads an old name says so once, by a note.
"""

import warnings
from collections.abc import Mapping
from typing import Any

# names of the parts of a model folder
PARTS = {"environments": "environment_encoders", "noised_towers": "noisy_latent_encoders"}

# where the class of a part is: (module, class), as model_index.json names it
CLASSES = {
    ("codi.models.joint", "EnvironmentEncoders"): ("codi.joint.encoders", "EnvironmentEncoders"),
    ("codi.models.joint_pooled", "PooledEnvironments"): (
        "codi.models.released.environments",
        "PooledEnvironmentEncoders",
    ),
    ("codi.models.noised", "NoisedTowers"): ("codi.joint.noisy_latent_encoder", "NoisyLatentEncoders"),
}

# arguments of a call, a model's own defaults, and the settings that a record holds
SETTINGS = {
    "delay": "start_offset",
    "lead": "auxiliary_caption",
    "leads": "auxiliary",
    "prior": "caption_prior",
    "told_weight": "partner_estimate_weight",
}

# short names of settings: manifests once had them, job lines and the command line take them as well
SHORT = {
    "samples": "num_samples",
    "steps": "num_inference_steps",
    "guidance": "guidance_scale",
    "sync_guidance": "sync_guidance_scale",
    "seconds": "audio_length_in_s",
}

# keys in the configuration of a part, at any depth
CONFIG = {
    "joint_moments": "joint_per_frame",
    "joint_listener": "joint_per_frame_config",
    "clock": "time_rotary",
    "silent": "zero_init",
}

# modules within a part, as they stand in the names of its tensors
MODULES = {"whole": "frame_mixer"}

# keys in the configuration of a training run, at any depth; `STAGES` are values of its key `stage`
TRAINING = {
    **CONFIG,
    "listeners": "attending",
    "told": "partner_estimates",
    "pictures_told": "picture_partner_estimates",
    "foresight": "temporal_change",
    "only_foresight": "only_temporal_change",
}
STAGES = {"noised": "noisy_latent"}

_noted: set[str] = set()


def rename(
    values: Mapping[str, Any], table: Mapping[str, str], origin: str, within: bool = True
) -> dict[str, Any]:
    """Return a mapping under its present names.

    Args:
        values: what was read; a name that is not in the table stays as it is.
        table: one of the tables of this module.
        origin: where the values came from, for the note.
        within: whether mappings in it are renamed as well.

    Returns:
        The same values in a new mapping, in the same order.
    """
    found = {}
    for name, value in values.items():
        present = table.get(name, name)
        if present != name:
            note(origin, name, present)
        inner = within and isinstance(value, Mapping)
        found[present] = rename(value, table, origin) if inner else value
    return found


def rename_tensor(name: str) -> str:
    """Return the present name of a tensor of a part."""
    return ".".join(MODULES.get(piece, piece) for piece in name.split("."))


def note(origin: str, old: str, present: str) -> None:
    """Warn that something from `origin` has an old name, once for each origin."""
    if origin not in _noted:
        _noted.add(origin)
        warnings.warn(
            f"{origin} has names of an earlier version, such as {old!r}, now {present!r}", stacklevel=2
        )
