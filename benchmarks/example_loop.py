"""One training step as diffusers' example `train_text_to_image.py` takes it, on our latents and captions, for
`benchmarks/training.py`.

What the example does per step is done here, with its defaults: AdamW, clipping, EMA, the text encoder on
token ids, the loss gathered.
"""

import itertools
from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import UNet2DConditionModel
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.nn import functional

from codi.world import caption
from training.config import Config
from training.stages import open_stage
from training.stages.new_model import load_scheduler


class Run:
    """The denoise stage's data and process; `own`: its UNet too, else diffusers' of the same widths."""

    def __init__(self, config: Config, scenes: int, *, own: bool):
        stage = open_stage(config)
        self.config, self.accelerator = config, Accelerator(mixed_precision=config.precision)
        torch.manual_seed(0)
        everything = stage.data().fetch(list(range(scenes)))
        unet = stage.build() if own else example_unet(config.part, everything["image"].shape[-1])
        self.predict = (lambda *x: self.unet(*x)) if own else (lambda *x: self.unet(*x).sample)
        self.average = EMAModel(unet.parameters(), decay=config.ema)
        optimizer = torch.optim.AdamW(
            unet.parameters(), lr=config.lr, betas=config.betas, weight_decay=config.weight_decay
        )
        rate = get_scheduler("cosine", optimizer, num_warmup_steps=100, num_training_steps=10**6)
        loader = torch.utils.data.DataLoader(
            Tokenised(everything, stage.prompts.text), batch_size=config.batch_size, shuffle=True
        )
        self.unet, self.optimizer, self.loader, self.rate = self.accelerator.prepare(
            unet, optimizer, loader, rate
        )
        self.scheduler, self.tower = (
            load_scheduler(config.model),
            stage.prompts.text.to(self.accelerator.device),
        )
        self.average.to(self.accelerator.device)

    def train(self, keep_on: Callable[[], bool]) -> None:
        """Steps for as long as `keep_on`, asked before each, says so."""
        for batch in itertools.chain.from_iterable(itertools.repeat(self.loader)):
            if not keep_on():
                return
            with self.accelerator.accumulate(self.unet):
                loss = self.loss(batch)
                self.accelerator.gather(loss.repeat(self.config.batch_size)).mean().item()
                self.accelerator.backward(loss)
                self.accelerator.clip_grad_norm_(self.unet.parameters(), self.config.clip_grad_norm)
                self.optimizer.step()
                self.rate.step()
                self.optimizer.zero_grad()
            self.average.step(self.unet.parameters())

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        x_0 = batch["latent"]
        noise = torch.randn_like(x_0)
        t = torch.randint(0, self.scheduler.config.num_train_timesteps, (len(x_0),), device=x_0.device)
        with torch.no_grad():
            context = self.tower.bridge(
                self.tower.text(input_ids=batch["ids"], attention_mask=batch["mask"]).text_embeds
            )[:, None]
        output = self.predict(self.scheduler.add_noise(x_0, noise, t), t, context)
        return functional.mse_loss(output.float(), velocity(self.scheduler, x_0, noise, t).float())

    def used(self) -> int:
        """Parameters that any step moved."""
        return sum(p.numel() for p in self.unet.parameters() if self.optimizer.state.get(p))


class Tokenised:
    """Latents and token ids by number, all in memory: what the example's preprocessing leaves."""

    def __init__(self, batch: dict[str, Any], tower: Any):
        tokens = tower.tokenizer(
            [caption(scene) for scene in batch["scenes"]], padding=True, return_tensors="pt"
        )
        self.latents, self.ids, self.mask = batch["image"], tokens.input_ids, tokens.attention_mask

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"latent": self.latents[index], "ids": self.ids[index], "mask": self.mask[index]}


def example_unet(part: dict[str, Any], side: int) -> nn.Module:
    """diffusers' UNet2DConditionModel of the widths in a denoiser's `part`."""
    widths, attended = part["block_out_channels"], part["attention_levels"]
    down = ["CrossAttnDownBlock2D" if level in attended else "DownBlock2D" for level in range(len(widths))]
    return UNet2DConditionModel(
        sample_size=side,
        in_channels=part["in_channels"],
        out_channels=part["in_channels"],
        block_out_channels=widths,
        layers_per_block=part["layers_per_block"],
        down_block_types=down,
        up_block_types=[kind.replace("Down", "Up") for kind in reversed(down)],
        cross_attention_dim=part["context_dim"],
        # diffusers' name for the number of heads
        attention_head_dim=[max(1, width // part["head_dim"]) for width in widths],
        norm_num_groups=part["norm_num_groups"],
    )


def velocity(scheduler: Any, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """The v to predict (arXiv 2202.00512), which this scheduler leaves to its users."""
    squared = scheduler.alphas_cumprod.to(t.device)[t].view(-1, 1, 1, 1)
    return squared.sqrt() * noise - (1 - squared).sqrt() * x_0
