"""A model that gives the scenes themselves, whatever it is asked: the upper end of every scale."""

from codi.bench.make import Bench
from codi.bench.runs import rival_of, truth_sampler
from codi.types import Modality


class Perfect:
    """Counts what it is asked for. Of prompts that disagree it follows the heavier one."""

    fingerprint = "perfect"
    modalities = tuple(Modality)

    def __init__(self):
        self.samples = 0

    def sample(self, run, scenes, seeds):
        self.samples += len(scenes)
        follows_rival = run.rival and run.weights is not None and run.weights[-1] > 0.5
        return truth_sampler(run, [rival_of(s) for s in scenes] if follows_rival else scenes, seeds)

    def round_trip(self, modality, media):
        return media

    def retrieval(self, scenes):
        return {"text->image": {"value": 1.0, "chance": 0.1, "target": 0.9}}


def bench_of(folder, model, **changes):
    return Bench(
        folder, model, **{"num_scenes": 3, "seed": 3, "batch_size": 4, "settings": {"steps": None}, **changes}
    )
