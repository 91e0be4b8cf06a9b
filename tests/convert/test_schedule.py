"""The released sampler: its timesteps, and every step of it with guidance and environments."""

import pytest
import torch

from codi.diffusion import Guidance, copy_schedulers
from codi.diffusion.process import NoiseProcess
from codi.diffusion.released import ReleasedDDIMScheduler
from codi.joint.sampler import JointSampler
from codi.models.conditioning import interpolate
from codi.models.released.environments import KINDS
from codi.types import Modality
from tests.convert.pack import assert_close, component
from tests.convert.test_denoisers import build


def scheduler(schedule):
    return ReleasedDDIMScheduler(
        schedule["num_train_timesteps"], schedule["beta_linear_start"], schedule["beta_linear_end"]
    )


def test_timesteps():
    schedule = component("06_ddim").meta["schedule"]
    ddim = scheduler(schedule)
    for asked, steps in schedule["timesteps_for_steps"].items():
        ddim.set_timesteps(int(asked))
        assert ddim.timesteps.tolist() == steps[::-1], asked


def test_no_count_crashes():
    ddim = ReleasedDDIMScheduler()
    for asked in range(1, 1001):
        ddim.set_timesteps(asked)
        assert (
            len(ddim.timesteps) >= min(asked, 999) and ddim.timesteps.max() < 1000 and ddim.timesteps[-1] == 1
        )
    with pytest.raises(ValueError, match="expected 1 to 1000"):
        ddim.set_timesteps(1001)


def test_last_step_ends_at_the_first_alpha():
    ddim = ReleasedDDIMScheduler()
    ddim.set_timesteps(3)
    x, eps = torch.randn(2, 5), torch.randn(2, 5)
    x_0 = NoiseProcess.from_scheduler(ddim).to_x_0(eps, x, torch.tensor([1, 1]))
    alpha = ddim.alphas_cumprod[0]
    torch.testing.assert_close(
        ddim.step(eps, 1, x).prev_sample, alpha.sqrt() * x_0 + (1 - alpha).sqrt() * eps
    )


@torch.no_grad()
def test_every_step():
    part = component("06_ddim")
    weights = part.weights(component("05_joint_unet").meta["keys"])
    nets = {
        name: build(config, weights, f"{name}.")
        for name, config in part.meta["config"].items()
        if name.startswith("unet_")
    }
    net = lambda m: nets["unet_" + {"vision": "image"}.get(KINDS[m], KINDS[m])]
    for case in part.meta["cases"]:
        t, tag = part.tensors, case["tag"]
        names = [Modality(name) for name in case["xtype"]]
        weighted = list(case["mix_weight"].values())
        mixed = interpolate([t[f"{tag}/in.condition.{c}"][:, 0] for c in case["mix_weight"]], weighted)
        null, prompt = mixed.split(case["batch"])  # pack: cat([uncond, cond])
        sampler = JointSampler(
            denoisers={m: net(m)[0] for m in names},
            schedulers=copy_schedulers(scheduler(part.meta["schedule"]), names, case["steps"]),
            contexts={m: prompt for m in names},
            null_contexts={m: null for m in names},
            environment_encoders={m: net(m)[1] for m in names},
            attends_to={m: {m} for m in names},
            guidance={m: Guidance(scales={"prompt": case["guidance_scale"]}) for m in names},
        )
        assert [int(s) for s in next(iter(sampler.schedulers.values())).timesteps] == case[
            "timesteps_in_order"
        ]
        latents = {m: t[f"{tag}/in.x.{m}"] for m in names}
        for index in range(sampler.num_steps):
            latents = sampler.step(index, latents)
            for m in names:
                assert_close(latents[m], t[f"{tag}/x_step{index}.{m}"])
        for m in names:
            assert_close(latents[m], t[f"{tag}/out.{m}"])
