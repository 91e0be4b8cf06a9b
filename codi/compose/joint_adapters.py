"""Joint adapters of foreign networks: hooks let a frozen network attend to the environments of others.

The hooks stand at blocks whose output has the steps of the latent (`codi.compose.streams`). At each of them
every step along time asks once, and what it attends to is added all over the step; in a picture every
position asks for itself. What is added is scaled to the hidden states, and is zero before training, so that
the network then answers as it does alone, to the bit. Its class, its weights and the names of them stay as
they are.

What a network attends to holds inside `ForeignJointAdapters.attending` alone, in the thread that entered it.
Under gradient checkpointing a block runs a second time in the backward pass, when other forward passes may
have followed: it then attends to what it attended to the first time.

Letters: B batch, C channels of hidden states, D width of environment tokens, N queries.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from codi import protocols
from codi.compose.grid import Grid
from codi.compose.streams import Stream, default_sites, find_stream
from codi.joint.attention import PerFrameJointAttention
from codi.layers import root_mean_square
from codi.protocols import Environment
from codi.types import InputError, Modality


@dataclass(frozen=True, kw_only=True)
class _Attended:
    """What a network attends to at the moment, and the grid of its latent."""

    environment: Environment
    grid: Grid


# By adapters, which are known by their id, and modality. Nothing in it is ever changed in place.
_Now = Mapping[tuple[int, Modality], _Attended]
_ATTENDED: ContextVar[_Now] = ContextVar("attended", default=MappingProxyType({}))


class ForeignJointAdapter(nn.Module):
    """Joint attention at one block.

    Args:
        channels: C, the width of the block's hidden states.
        env_dim: D, the width of environment tokens.
        num_heads: the number of attention heads.
        width: the width of all heads together.
        hidden: the width of what follows from what was attended to.
        num_layers: transformer layers of that width along the queries.
    """

    def __init__(
        self, channels: int, *, env_dim: int, num_heads: int, width: int, hidden: int, num_layers: int
    ):
        super().__init__()
        self.channels = channels
        self.per_frame = PerFrameJointAttention(
            channels, channels, env_dim, num_heads, hidden=hidden, num_layers=num_layers, inner=width
        )

    def forward(self, h: Tensor, stream: Stream, environment: Environment) -> Tensor:
        """Add to hidden states what they attend to.

        Args:
            h: the hidden states of B samples.
            stream: how they are laid out.
            environment: what the first samples attend to: as many as it has rows.

        Returns:
            Hidden states of the same form.
        """
        rows = len(environment.tokens) * stream.rows
        assert rows <= len(h), f"{len(environment.tokens)} environments for {len(h) // stream.rows} samples"
        own = h[:rows]
        dtype = self.per_frame.proj.weight.dtype
        queries = stream.queries(own).to(dtype)
        times = None if stream.times is None else stream.times.to(h.device)
        added = self.per_frame(queries, environment.to(dtype), times)  # (B, N, C)
        scale = root_mean_square(own.unflatten(0, (-1, stream.rows)).float())  # (B,)
        y = own + stream.spread(added * scale[:, None, None], own).to(h.dtype)
        return y if rows == len(h) else torch.cat([y, h[rows:]])


class Attachment:
    """Adapters that are attached to a network.

    Args:
        handles: those of the hooks.
        checkpointed: the modules of the network that can trade memory for a second forward pass.
    """

    def __init__(self, handles: list[RemovableHandle], checkpointed: list[nn.Module]):
        self.handles = handles
        self.checkpointed = checkpointed

    def remove(self) -> None:
        """Take the adapters off the network, which is then as it was before."""
        for handle in self.handles:
            handle.remove()
        for module in self.checkpointed:
            func = module.__dict__.get("_gradient_checkpointing_func")
            if isinstance(func, _Remembering):
                module._gradient_checkpointing_func = func.checkpoint  # type: ignore[assignment]


class ForeignJointAdapters(ModelMixin, ConfigMixin, protocols.ByModality):  # type: ignore[misc]
    """The joint adapters of the networks of a composed model, one for each chosen block.

    Args:
        networks: by the name of a modality, the "sites", which are the channels of each block by its name in
            the network, and any of the following arguments that is another for this network.
        env_dim: D, the width of environment tokens.
        num_heads: the number of attention heads.
        width: the width of all heads together.
        hidden: the width of what follows from what was attended to.
        num_layers: transformer layers of that width along the queries. For a picture, every position of which
            asks, 0 is right.
        pairs: the modalities that learned to attend to each other, two by two; None if all attend to all.
    """

    @register_to_config
    def __init__(
        self,
        networks: dict[str, dict[str, Any]],
        env_dim: int = 256,
        num_heads: int = 8,
        width: int = 256,
        hidden: int = 96,
        num_layers: int = 1,
        pairs: list[list[str]] | None = None,
    ):
        super().__init__()
        alike = dict(env_dim=env_dim, num_heads=num_heads, width=width, hidden=hidden, num_layers=num_layers)
        self.adapters = nn.ModuleDict()  # not by the name in the configuration, which diffusers reads first
        for name, network in networks.items():
            options = {**alike, **{key: value for key, value in network.items() if key != "sites"}}
            adapters = nn.ModuleDict()
            for site, channels in network["sites"].items():
                adapters[_key(site)] = ForeignJointAdapter(channels, **options)
            self.adapters[name] = adapters

    def modalities(self) -> set[Modality]:
        """Return what the networks make that have adapters."""
        return set(map(Modality, self.adapters))

    def by_modality(self) -> dict[Modality, nn.Module]:
        """Return the adapters of each network, by the modality that it makes."""
        return {Modality(name): adapters for name, adapters in self.adapters.items()}

    def attends_to(self) -> dict[Modality, set[Modality]]:
        """Return the modalities whose environments each network attends to."""
        own = self.modalities()
        if self.config["pairs"] is None:
            return {modality: set(Modality) - {modality} for modality in own}
        attended: dict[Modality, set[Modality]] = {modality: set() for modality in own}
        for pair in self.config["pairs"]:
            first, second = map(Modality, pair)
            for modality, other in ((first, second), (second, first)):
                if modality in attended:
                    attended[modality].add(other)
        return attended

    def sites(self, modality: Modality) -> dict[str, nn.Module]:
        """Return the adapters of one network by the names of its blocks; none if it has none."""
        if modality not in self.adapters:
            return {}
        adapters = self.adapters.get_submodule(modality)
        sites = self.config["networks"][modality]["sites"]
        return {site: adapters.get_submodule(_key(site)) for site in sites}

    def attach(self, modality: Modality, network: nn.Module) -> Attachment:
        """Put the adapters of one modality into its network, if they are not there yet.

        Args:
            modality: what the network makes.
            network: the frozen network.

        Returns:
            The attachment, by which they are taken off again; an empty one where they were there already.

        Raises:
            InputError: for a network that lacks one of the blocks, and for one that is compiled already,
                which would never see the hooks.
        """
        if any(
            isinstance(hook, _Attached) and hook.by is self for hook in network._forward_pre_hooks.values()
        ):
            return Attachment([], [])
        _check_plain(network, modality)
        blocks = dict(network.named_modules())
        sites = self.sites(modality)
        if missing := [site for site in sites if site not in blocks]:
            raise InputError(
                f"the joint adapters of {modality} were made for a network with a block {missing[0]}, and "
                f"{type(network).__name__} has none: expected the network that they were trained beside"
            )
        checkpointed = [module for module in blocks.values() if "gradient_checkpointing" in dir(module)]
        handles = [network.register_forward_pre_hook(_Attached(self, checkpointed))]
        for site, adapter in sites.items():
            handles.append(blocks[site].register_forward_hook(self._hook(modality, site, adapter)))
        return Attachment(handles, checkpointed)

    def _hook(self, modality: Modality, site: str, adapter: nn.Module) -> Callable[..., Any]:
        """Return the hook of one block: it adds what is attended to, or nothing outside of `attending`."""
        key = (id(self), modality)

        def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
            attended = _ATTENDED.get().get(key)
            if attended is None:
                return None
            found = find_stream(output, attended.grid)
            if found is None:
                raise InputError(
                    f"the block {site} of the network of {modality} has no stream with the steps of a latent "
                    f"of {attended.grid.shape}: expected a latent of the kind that the adapters were made for"
                )
            place, h, stream = found
            _check_device(adapter, h, modality)
            y = adapter(h, stream, attended.environment)
            return y if place is None else type(output)((*output[:place], y, *output[place + 1 :]))

        return hook

    @contextmanager
    def attending(self, modality: Modality, environment: Environment, grid: Grid) -> Iterator[None]:
        """Let the network of a modality attend to an environment inside the `with` block.

        Args:
            modality: what the network makes.
            environment: what the first samples of its batch attend to: as many as it has rows.
            grid: the grid of the network's latent.

        Yields:
            Nothing.
        """
        attended = _Attended(environment=environment, grid=grid)
        token = _ATTENDED.set(MappingProxyType({**_ATTENDED.get(), (id(self), modality): attended}))
        try:
            yield
        finally:
            _ATTENDED.reset(token)


def adapted_network(blocks: Mapping[str, int], grid: Grid, **options: Any) -> dict[str, Any]:
    """Return what `ForeignJointAdapters` is told of one network, with adapters at the default blocks.

    Args:
        blocks: the channels of each block that can attend (`codi.compose.streams.survey`).
        grid: the grid of a latent of the network.
        **options: arguments of `ForeignJointAdapters` that are others for this network.

    Returns:
        The sites and options, which JSON can hold.
    """
    if grid.seconds is None:  # every position asks: a transformer along all of them would cost too much
        options = {"num_layers": 0, **options}
    return {"sites": default_sites(blocks), **options}


def _key(site: str) -> str:
    """Return the name of a block as a name of a module, which has no dots."""
    return site.replace(".", "_")


# What networks may be -----------------------------------------------------------------------------------


def _check_plain(network: nn.Module, modality: Modality) -> None:
    """Raise `InputError` for a network that is compiled, or of which a block is."""
    for module in network.modules():
        # torch.compile(network) wraps it; network.compile() and compile_repeated_blocks() leave a mark
        if "_orig_mod" in module._modules or module._compiled_call_impl is not None:
            raise InputError(
                f"the network of {modality} is compiled already, and would not see its joint adapters: "
                "expected them to be attached first, and torch.compile after that"
            )


def _check_device(adapter: nn.Module, h: Tensor, modality: Modality) -> None:
    """Raise `InputError` for adapters that are somewhere else than their network computes."""
    own = next(adapter.parameters()).device
    if own != h.device:
        raise InputError(
            f"the joint adapters of {modality} are on {own} and its network computes on {h.device}: expected "
            f"both in one place, by adapters.to({str(h.device)!r})"
        )


# Gradient checkpointing ---------------------------------------------------------------------------------


class _Restored:
    """A function that is called with what was attended to when it was made."""

    def __init__(self, function: Callable[..., Any]):
        self.function = function
        self.attended = _ATTENDED.get()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        token = _ATTENDED.set(self.attended)
        try:
            return self.function(*args, **kwargs)
        finally:
            _ATTENDED.reset(token)


class _Remembering:
    """Calls a function that checkpoints another, so that both of its passes attend to the same."""

    def __init__(self, checkpoint: Callable[..., Any]):
        self.checkpoint = checkpoint

    def __call__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return self.checkpoint(_Restored(function), *args, **kwargs)


class _Attached:
    """A hook that makes checkpointing remember, whenever it was switched on, and tells who is attached."""

    def __init__(self, by: ForeignJointAdapters, checkpointed: list[nn.Module]):
        self.by = by
        self.checkpointed = checkpointed

    def __call__(self, module: nn.Module, inputs: Any) -> None:
        for part in self.checkpointed:
            func = part.__dict__.get("_gradient_checkpointing_func")
            if func is not None and not isinstance(func, _Remembering):
                part._gradient_checkpointing_func = _Remembering(func)  # type: ignore[assignment]
