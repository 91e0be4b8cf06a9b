"""LoRA (Hu et al., arXiv 2106.09685) in a denoiser, through peft and diffusers' adapter interface.

A layer W of the denoiser becomes W + scale * alpha / rank * B A; B starts at zero, so an untrained LoRA
changes nothing. R rank, I inputs, O outputs of a layer.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from codi.models.denoisers.skeleton import Skeleton
from codi.types import InputError

# last names of the layers of every attention in the denoisers
ATTENTION = ("to_q", "to_k", "to_v", "to_kv", "to_out")
TRAINED = "default"  # name of the one that trains
PROBED = 4096  # numbers of a layer that its probe looks at


def need_peft() -> None:
    """Raises `InputError` where peft is not installed."""
    try:
        import peft  # noqa: F401
    except ImportError:
        raise InputError(
            "LoRA needs the library peft, which is not installed: pip install 'peft>=0.21.2'"
        ) from None


def find_layers(denoiser: Skeleton, names: Iterable[str], joint: bool) -> list[str]:
    """Full names of linear and convolutional layers whose last name is one of `names`: those of the joint
    attention, or all the others.
    """
    kinds, names = (nn.Linear, nn.Conv2d), set(names)
    layers = [
        name
        for name, layer in denoiser.named_modules()
        if isinstance(layer, kinds) and name.rpartition(".")[2] in names
    ]
    adapting = {
        f"{adapter}.{name}"
        for adapter, module in denoiser.joint_adapters().items()
        for name, _ in module.named_modules()
    }
    found = [name for name in layers if (name in adapting) == joint]
    if not found:
        where = "the joint attention of this denoiser" if joint else "this denoiser"
        raise InputError(
            f"{where} has no layers named {', '.join(sorted(names))}: expected some such as "
            f"{', '.join(ATTENTION)}"
        )
    return found


def add_lora(
    denoiser: Skeleton, layers: list[str], *, rank: int, alpha: float, dropout: float = 0.0
) -> nn.ModuleDict:
    """Puts a LoRA into the named layers of a denoiser, which is frozen; returns what trains, and nothing
    else, as one module.
    """
    need_peft()
    from peft import LoraConfig

    denoiser.add_adapter(
        LoraConfig(r=rank, lora_alpha=alpha, target_modules=layers, lora_dropout=dropout), TRAINED
    )
    parts = ("lora_A", "lora_B", "lora_dropout")
    halves = {
        name: {part: getattr(denoiser.get_submodule(name), part)[TRAINED] for part in parts}
        for name in layers
    }
    return nn.ModuleDict({name.replace(".", "/"): nn.ModuleDict(half) for name, half in halves.items()})


def lora_tensors(denoiser: Skeleton) -> dict[str, Tensor]:
    """The trained LoRA of a denoiser: "<layer>.lora_A.weight" (R, I, ...) and "<layer>.lora_B.weight" (O, R,
    ...).
    """
    from peft import get_peft_model_state_dict

    return get_peft_model_state_dict(denoiser, adapter_name=TRAINED)


def layers_of(tensors: Mapping[str, Tensor]) -> list[str]:
    """The layers that the tensors of a LoRA belong to, in order. Raises `InputError` for a tensor that is
    none of a LoRA.
    """
    halves = {name: name.rpartition(".lora_")[::2] for name in tensors}
    layers = sorted({layer for layer, _ in halves.values()})
    wanted = {f"{layer}.lora_{half}.weight" for layer in layers for half in "AB"}
    if strange := sorted(wanted ^ set(tensors)):
        raise InputError(
            "a LoRA has two tensors for each layer, lora_A.weight and lora_B.weight; not so here: "
            f"{strange[0]!r}"
        )
    return layers


def base_layer(denoiser: nn.Module, name: str) -> nn.Module | None:
    """The layer without any LoRA around it; None if there is no layer of that name that could take one."""
    try:
        layer = denoiser.get_submodule(name)
    except AttributeError:
        return None
    layer = getattr(layer, "base_layer", layer)
    return layer if isinstance(layer, (nn.Linear, nn.Conv2d)) else None


def misfit(denoiser: nn.Module, tensors: Mapping[str, Tensor], rank: int) -> str | None:
    """What keeps these tensors from being a LoRA of this denoiser, in words; None if nothing does."""
    for name in layers_of(tensors):
        layer = base_layer(denoiser, name)
        if layer is None:
            return f"it adapts the layer {name}, which is not there"
        outputs, inputs, *kernel = layer.weight.shape
        wanted = {"A": (rank, inputs, *kernel), "B": (outputs, rank, *[1] * len(kernel))}
        for half, shape in wanted.items():
            found = tuple(tensors[f"{name}.lora_{half}.weight"].shape)
            if found != shape:
                return f"its {name}.lora_{half} is {found} where {shape} would fit"
    return None


def probe(weight: Tensor) -> float:
    """One number that tells trained weights from others, whatever their precision: a fixed wave against the
    first of them.

    Over weights of different models it is about normally distributed; rounding to bfloat16 moves it by about
    0.001.
    """
    start = weight.detach().flatten()[:PROBED].double().cpu()
    wave = torch.cos(torch.arange(len(start), dtype=torch.float64) * 2.399963)  # the golden angle: no period
    return round(float(start @ wave / (start.norm() * wave.square().mean().sqrt()).clamp(min=1e-12)), 6)


def fuse(denoiser: nn.Module, names: Iterable[str], strength: float) -> dict[str, Tensor]:
    """Adds what the named LoRAs do, times `strength`, to the weights of a denoiser's own layers.

    Returns those weights as they were, by layer, on the CPU: `unfuse` puts them back. Raises `InputError`,
    and changes nothing, where a sum is not finite.
    """
    from peft.tuners.lora import LoraLayer

    originals: dict[str, Tensor] = {}
    for path, layer in denoiser.named_modules():
        found = [name for name in names if isinstance(layer, LoraLayer) and name in layer.lora_A]
        if not found:
            continue
        weight = layer.base_layer.weight
        originals[path] = weight.detach().to("cpu", copy=True)
        change = sum(layer.get_delta_weight(name).float() for name in found)
        with torch.no_grad():
            weight.copy_(weight.float() + strength * change)
        if not weight.isfinite().all():
            unfuse(denoiser, originals)
            raise InputError(
                f"the weights of {path} with {' and '.join(found)} are not finite: expected a smaller scale"
            )
    return originals


def unfuse(denoiser: nn.Module, originals: Mapping[str, Tensor]) -> None:
    """Puts the weights back that `fuse` returned, to the bit."""
    with torch.no_grad():
        for path, weight in originals.items():
            base_layer(denoiser, path).weight.copy_(weight)
