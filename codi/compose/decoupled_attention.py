"""Decoupled cross-attention: a prompt of another modality beside the text of a frozen model.

Beside each cross-attention to the text stands another one, with the same frozen queries, to a few tokens made
from a token of the shared prompt space; the two answers are added (IP-Adapter, arXiv 2308.06721, section
3.2). It is put there by forward hooks, so that the network keeps its class and its weights; its values start
at zero, so that untrained it changes nothing, to the bit. Where a prompt translator (`codi.compose.
prompt_translators`) replaces the text, this goes with it: "at night" and a picture, say.

Letters: B batch, N positions of a query, C channels, K tokens, D width of the prompt space, W width of the
tokens, I inner width of an attention.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional

from codi.compose.foreign import PROBES, ForeignDenoiser, ForeignModel
from codi.compose.native_prompt import NativePrompt
from codi.compose.streams import run_without_memory
from codi.layers import zeroed
from codi.types import InputError, Modality, listed

INSTEAD = "use a prompt translator (codi.compose.prompt_translators) in its place"


class Site(nn.Module):
    """Keys and values of one attention.

    Args:
        width: W.
        inner: I.
    """

    def __init__(self, width: int, inner: int):
        super().__init__()
        self.to_k = nn.Linear(width, inner, bias=False)
        self.to_v = zeroed(nn.Linear(width, inner, bias=False))

    def forward(self, attention: Any, h: Tensor, tokens: Tensor) -> Tensor:
        """Return the attention (B, N, C) of a frozen attention's queries to tokens (B, K, W).

        Args:
            attention: the frozen attention, whose queries and output layer are used.
            h: (B, N, C) what its queries are made of.
            tokens: the tokens.

        Returns:
            What is added to its output.
        """
        q = _by_heads(attention.to_q(h), attention)
        k, v = (x.unflatten(-1, (attention.heads, -1)) for x in (self.to_k(tokens), self.to_v(tokens)))
        q, k, v = (x.transpose(1, 2) for x in (q, k.to(q), v.to(q)))
        y = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        # without its bias, which the attention to the text has added already
        return functional.linear(y, attention.to_out[0].weight)


class DecoupledAttention(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Attention of a frozen network to tokens of the shared prompt space, at all its attentions to text.

    Args:
        dim: D, the width of the prompt space.
        sites: the inner width I of each attention, by its name in the network (`find_sites`).
        count: K, the number of tokens that one token of the prompt space becomes.
        width: W, their width.
    """

    @register_to_config
    def __init__(self, dim: int, sites: dict[str, int], count: int = 4, width: int = 64):
        super().__init__()
        self.count = count
        self.tokens = nn.Linear(dim, count * width)
        self.norm = nn.LayerNorm(width)
        self.added = nn.ModuleList(Site(width, inner) for inner in sites.values())
        self._handles: list[Any] = []
        self._networks: list[nn.Module] = []  # in a list, or its weights would count among these
        self._read: tuple[Tensor, Tensor] | None = None

    def attach(self, network: nn.Module) -> None:
        """Put the attention into a network, which stays as it is otherwise.

        Args:
            network: the network.

        Raises:
            InputError: for a network without these attentions, or if it was attached already.
        """
        if self._handles:
            raise InputError("this decoupled attention is attached already: remove it first")
        there = dict(network.named_modules())
        names = list(self.config["sites"])
        for name, inner in self.config["sites"].items():
            found = there[name].to_q.out_features if name in there else None
            if found != inner:
                raise InputError(
                    f"decoupled attention was made for a network with an attention {name} of width {inner}: "
                    f"this {type(network).__name__} has {'none' if found is None else found}"
                )
        self._networks = [network]
        for name, site in zip(names, self.added, strict=True):
            hook = self._hook(site)  # type: ignore[arg-type]
            self._handles.append(there[name].register_forward_hook(hook, with_kwargs=True))

    def remove(self) -> None:
        """Take the attention out of its network again."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._networks.clear()

    @contextmanager
    def attending(self, token: Tensor | None, scale: float = 1.0) -> Iterator[None]:
        """Let the network attend to a token inside the `with` block.

        Args:
            token: (B, 1, D) tokens of the prompt space, one for each row of the network's batch; zeros for a
                row that has none, in which nothing changes. None for no token at all.
            scale: how much of the attention is added; 1 as it was trained, 0 for nothing.

        Yields:
            Nothing.

        Raises:
            InputError: for a network under gradient checkpointing: it would run again, in the backward pass,
                after the block has ended, and without what it attended to.
        """
        if token is not None and torch.is_grad_enabled():
            for module in self._networks[0].modules() if self._networks else ():
                if getattr(module, "gradient_checkpointing", False) and module.training:
                    raise InputError(
                        "decoupled attention cannot be trained under gradient checkpointing: expected a "
                        "network in evaluation mode, or without it"
                    )
        self._read = None if token is None else self.read(token, scale)
        try:
            yield
        finally:
            self._read = None

    def read(self, token: Tensor, scale: float = 1.0) -> tuple[Tensor, Tensor]:
        """Return the tokens (B, K, W) that are attended to, and how much of it each row (B,) is given."""
        x = token.to(self.tokens.weight)[:, 0]
        tokens = self.norm(self.tokens(x * x.shape[1] ** 0.5).unflatten(1, (self.count, -1)))
        return tokens, x.any(1).to(x) * scale

    def _hook(self, site: Site) -> Any:
        def hook(attention: Any, args: Any, kwargs: Any, output: Tensor) -> Tensor | None:
            if self._read is None:
                return None
            tokens, share = self._read
            h = args[0] if args else kwargs["hidden_states"]
            frames = len(h) // len(tokens)  # a network may take the frames of clips as samples
            added = site(attention, h, tokens.repeat_interleave(frames, 0))
            return output + added.to(output) * share.repeat_interleave(frames).to(output)[:, None, None]

        return hook


class DecoupledAttentions(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """The decoupled attention of a composed model, one for each of its frozen networks that has any.

    Args:
        dim: D, the width of the prompt space.
        networks: by modality of the output, the sites of its network (`find_sites`).
        count: K, the number of tokens that one token of the prompt space becomes.
        width: W, their width.
    """

    @register_to_config
    def __init__(self, dim: int, networks: dict[str, dict[str, int]], count: int = 4, width: int = 64):
        super().__init__()
        self.attentions = nn.ModuleDict(
            {name: DecoupledAttention(dim, sites, count, width) for name, sites in networks.items()}
        )

    def by_modality(self) -> dict[Modality, DecoupledAttention]:
        """Return the attention of each network by the modality of its output."""
        there = [m for m in Modality if m.value in self.attentions]
        return {m: self.attentions[m.value] for m in there}  # type: ignore[misc]

    def attach(self, modality: Modality, network: nn.Module) -> None:
        """Put the attention of one output into its network; nothing where there is none for it."""
        if modality in self.by_modality():
            self.by_modality()[modality].attach(network)


def attention_scales(
    asked: Any, outputs: Sequence[Modality], there: Collection[Modality], translated: Collection[Modality]
) -> dict[Modality, float]:
    """Return how much of its decoupled attention each output is given.

    Args:
        asked: one number or {output: number}; None for 1 where no prompt translator reads the prompts.
        outputs: what is made.
        there: the outputs whose networks have decoupled attention.
        translated: the outputs whose prompts can be translated instead.

    Returns:
        The scales of those outputs that attend; the prompts of others are translated.

    Raises:
        InputError: for what is no scale, and for an output without decoupled attention.
    """
    if asked is None:
        return {m: 1.0 for m in outputs if m in there and m not in translated}
    named = asked if isinstance(asked, Mapping) else {m.value: asked for m in outputs if m in there}
    if not named:
        raise InputError(
            f"ip_adapter_scale is {asked!r:.40}, and no output here has decoupled attention: expected it to "
            "be trained (configs/compose/attention.yaml), or no ip_adapter_scale"
        )
    found = {}
    for name, scale in named.items():
        modality = Modality.parse(name)
        if modality not in outputs or modality not in there:
            raise InputError(
                f"ip_adapter_scale names {name}: expected some of "
                f"{listed([m for m in outputs if m in there]) or 'nothing'}, outputs with decoupled attention"
            )
        fine = isinstance(scale, (int, float)) and not isinstance(scale, bool) and 0 <= scale < math.inf
        if not fine:
            raise InputError(f"ip_adapter_scale of {modality} is {scale!r:.40}: expected 0 or more")
        found[modality] = float(scale)
    return found


def find_sites(model: ForeignModel) -> dict[str, int]:
    """Find the attentions of a frozen network that attend to its text and to nothing else.

    Args:
        model: the foreign model; its network is built again without memory, and runs there once.

    Returns:
        The inner width of each, by its name in the network.

    Raises:
        InputError: for a network without any: one whose text and latent attend to each other in one attention
            (SD3, Flux), and one whose prompt is a vector (AudioLDM).
    """
    sites: dict[str, int] = {}
    joint: list[str] = []

    def hook_of(name: str) -> Any:
        def hook(module: Any, args: Any, kwargs: Any, output: Any) -> None:
            text = kwargs.get("encoder_hidden_states", args[1] if len(args) > 1 else None)
            if isinstance(output, tuple):
                joint.append(name)
            elif text is not None:
                sites[name] = module.to_q.out_features

        return hook

    def watch(name: str, module: nn.Module) -> None:
        if all(hasattr(module, part) for part in ("to_q", "to_out", "heads")):
            module.register_forward_hook(hook_of(name), with_kwargs=True)

    prepared = model.prepare(PROBES[:1], num_inference_steps=3, generators=[torch.Generator()])
    denoiser = ForeignDenoiser(model, model.form(prepared.null is not None, prepared.call))
    start, time = prepared.start.to(prepared.prompt.dtype), prepared.scheduler.timesteps[:1]
    run_without_memory(model.network, denoiser.arguments(start, time, prepared.prompt), watch)
    if joint:
        raise InputError(
            f"{model.name}: text and latent attend to each other in one attention ({joint[0]}), beside which "
            f"no other can stand: {INSTEAD}"
        )
    if not sites:
        raise InputError(f"{model.name} has no attention to a text: {INSTEAD}")
    return sites


def distillation_loss(
    denoiser: ForeignDenoiser,
    x: Tensor,
    t: Tensor,
    whole: NativePrompt,
    text: NativePrompt,
    token: Tensor,
) -> Tensor:
    """Return the mean square (B,) between a network's answers to a caption, and to a part of it with a token.

    Args:
        denoiser: the frozen network, with the decoupled attention that trains.
        x: (B, ...) noisy latents.
        t: (B,) timesteps.
        whole: B captions.
        text: as much of them as is given as text, or the null prompt.
        token: (B, 1, D) their tokens.

    Returns:
        The losses.
    """
    with torch.no_grad():
        wanted = denoiser(x, t, whole)
    answer = denoiser(x, t, text.with_token(token))
    return (answer - wanted).float().square().flatten(1).mean(1)


def _by_heads(q: Tensor, attention: Any) -> Tensor:
    """Return queries (B, N, I) by heads (B, N, heads, I / heads), normalised as the attention does it."""
    heads = (attention.heads, -1)
    norm = getattr(attention, "norm_q", None)
    if norm is None:
        return q.unflatten(-1, heads)
    across = norm.weight.shape[-1] == q.shape[-1]  # over all heads at once, or over each
    return norm(q).unflatten(-1, heads) if across else norm(q.unflatten(-1, heads))
