"""The learning rate as a function of samples seen."""

import math

from training.config import Config


def learning_rate(config: Config, samples: int) -> float:
    """Return the rate of the step that ends at `samples` seen.

    It rises linearly over `warmup` samples, then falls as a cosine or stays constant.
    """
    rise = min(1.0, samples / config.warmup) if config.warmup else 1.0
    if config.lr_schedule == "constant":
        return config.lr * rise
    span = max(1, config.samples - config.warmup)
    done = min(1.0, max(0.0, (samples - config.warmup) / span))
    low = config.final_lr_fraction
    return config.lr * rise * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * done)))
