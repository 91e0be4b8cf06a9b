"""What listening costs: time of a joint denoising step over the steps of its outputs alone, and of sync
guidance at 1.0 and above.

    python benchmarks/joint_cost.py
    python benchmarks/joint_cost.py --outputs video,audio,image,text --samples 8
    python benchmarks/joint_cost.py --device cuda --samples 64

Independent generation is the same pipeline loaded without environments and noised towers: nobody hears
anybody. Both are run in turn, again and again. On the CPU what counts is CPU time of all threads, which
hardly changes when the machine is busy with something else; on a GPU it is time until its answer is there.
The ratio is the median over the rounds. A step is one of every output: with the model's own delays they are
not taken at once. Rows counts what the denoisers answer in it, in samples: that does not depend on the
machine, and sync guidance at 1.0 must not add any. A caption that leads unasked is part of what joint
generation costs, and has rows of its own. Targets: joint at most 1.25 times independent, sync guidance at 1.0
nothing.
"""

import argparse
import statistics
import time
from dataclasses import dataclass, field
from typing import Any

import torch

from codi.pipeline import CoDiPipeline
from codi.prompts import Prompt
from codi.types import Modality

PROMPT = "a red ball bounces slowly at night"


@dataclass
class Case:
    """One way to generate, and what its steps took."""

    name: str
    pipe: CoDiPipeline
    options: dict[str, Any]
    seconds: list[float] = field(default_factory=list)
    rows: int = 0

    @torch.no_grad()
    def run(self, outputs: list[str], samples: int, steps: int) -> None:
        """Appends the mean time of a step of every output."""
        prompt, self.rows = self.pipe.encode_prompt({Modality.TEXT: [Prompt(PROMPT)]}), 0
        hooks = [part.register_forward_hook(self._count) for part in _denoisers(self.pipe, outputs)]
        started = clock(self.pipe)
        self.pipe(
            prompt_embeds=prompt,
            outputs=outputs,
            num_samples=samples,
            seed=0,
            num_inference_steps=steps,
            output_type="latent",
            sync_guidance_interval=(0.0, 1.0),
            **self.options,
        )
        self.seconds.append((clock(self.pipe) - started) / steps)
        for hook in hooks:
            hook.remove()
        self.rows //= steps

    def _count(self, module: torch.nn.Module, args: tuple, output: torch.Tensor) -> None:
        self.rows += len(output)


def clock(pipe: CoDiPipeline) -> float:
    """Seconds: of all threads on a CPU, else on the wall once a GPU is done."""
    if pipe.device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def _denoisers(pipe: CoDiPipeline, outputs: list[str]) -> list[torch.nn.Module]:
    """Each once: one denoiser makes both pictures and clips. With that of the caption that leads several
    outputs unasked.
    """
    asked = [Modality.parse(name) for name in outputs]
    return list(
        {
            id(part): part
            for part in (pipe.model.denoisers[m] for m in (*asked, *pipe.find_auxiliary(asked)))
        }.values()
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="folder or hub id (default: the model inside the package)")
    parser.add_argument("--outputs", default="video,audio", help="default video,audio")
    parser.add_argument("--samples", type=int, default=4, help="made at once (default 4)")
    parser.add_argument("--steps", type=int, default=8, help="in a round (default 8)")
    parser.add_argument("--rounds", type=int, default=5, help="default 5")
    parser.add_argument("--device", default="cpu", help="cpu (default), or cuda")
    args = parser.parse_args()
    joint, apart = (
        CoDiPipeline.from_pretrained(args.model),
        CoDiPipeline.from_pretrained(args.model, environment_encoders=None, noisy_latent_encoders=None),
    )
    for pipe in (joint, apart):
        pipe.to(args.device).set_progress_bar_config(disable=True)
    cases = [
        Case("independent", apart, {}),
        Case("joint", joint, {}),
        Case("joint, sync guidance 1", joint, {"sync_guidance_scale": 1.0}),
        Case("joint, sync guidance 2", joint, {"sync_guidance_scale": 2.0}),
        Case("joint, no auxiliary caption", joint, {"auxiliary_caption": False}),
        Case(
            "joint, no auxiliary caption, in step", joint, {"auxiliary_caption": False, "start_offset": 0.0}
        ),
    ]
    for round_ in range(args.rounds + 1):
        for case in cases:
            case.run(args.outputs.split(","), args.samples, args.steps)
            if round_ == 0:  # warms up
                case.seconds.clear()
    report(cases, "CPU ms" if args.device == "cpu" else "ms")


def report(cases: list[Case], unit: str) -> None:
    base = cases[0]
    print(f"{'case':<26}{unit + ' a step':>14}{'rows':>6}{'x independent':>15}")
    for case in cases:
        ratio = statistics.median(own / other for own, other in zip(case.seconds, base.seconds))
        print(f"{case.name:<26}{1000 * min(case.seconds):>14.1f}{case.rows:>6}{ratio:>15.3f}")


if __name__ == "__main__":
    main()
