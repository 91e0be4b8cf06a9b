"""Measure whether sounds and motions come together (AV-Align; Yariv et al., arXiv 2309.16429).

Peaks of the sound are its onsets, peaks of the picture are the moments at which the mean magnitude of the
optical flow is larger than in the frames before and after. A peak of the sound is met where some peak of the
picture lies less than one frame away. The score is |met| / (|sound| + |picture| - |met|), an intersection
over union. Several peaks of a sound may meet one peak of the picture, as in the published program, so that
very dense sounds can score more than 1; `codi.metrics.onsets` matches one to one.

Letters: F frames, A peaks of the sound, V peaks of the picture.
"""

import numpy as np

STILL = 1e-6  # pixels per frame below which a clip does not move: what is left is rounding


def flow_peaks(magnitudes: np.ndarray, fps: float) -> np.ndarray:
    """Return the seconds at which a clip moves more than just before and after.

    Args:
        magnitudes: (F - 1,) mean magnitude of the optical flow from each frame to the next.
        fps: frames per second.

    Returns:
        (V,) seconds. The motion into a frame belongs to that frame, and the first frame takes that of the
        second, as published.
    """
    magnitudes = np.asarray(magnitudes, dtype=np.float64)
    if len(magnitudes) < 2:
        return np.zeros(0)
    curve = np.concatenate([magnitudes[:1], magnitudes])  # (F,)
    middle = curve[1:-1]
    top = (middle > curve[:-2]) & (middle > curve[2:]) & (middle > STILL)
    return (np.flatnonzero(top) + 1) / fps


def av_align(sound: np.ndarray, picture: np.ndarray, fps: float) -> float:
    """Return the intersection over union of two lists of peaks.

    Args:
        sound: (A,) seconds.
        picture: (V,) seconds.
        fps: frames per second; peaks less than one frame apart meet.

    Returns:
        The score; NaN where neither list has a peak, of which the definition says nothing.
    """
    sound, picture = np.asarray(sound, dtype=np.float64), np.asarray(picture, dtype=np.float64)
    if not len(sound) and not len(picture):
        return float("nan")
    apart = np.abs(sound[:, None] - picture[None, :])  # (A, V)
    met = int((apart < 1 / fps).any(axis=1).sum())
    return met / (len(sound) + len(picture) - met)
