"""LoRA (Hu et al., arXiv 2106.09685) in a denoiser, through peft and diffusers' adapter interface.

A layer W of the denoiser becomes W + scale * alpha / rank * B A. B starts at zero, so a LoRA that was not
trained changes nothing. Letters: R rank, I inputs and O outputs of a layer.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from codi.models.denoisers.skeleton import Skeleton
from codi.types import InputError

# last names of the layers of every attention in the denoisers
ATTENTION = ("to_q", "to_k", "to_v", "to_kv", "to_out")
TRAINED = "default"  # name of the LoRA that trains; loaded ones have names of their own
PROBED = 4096  # how many numbers of a layer its probe looks at


def need_peft() -> None:
    """Raise `InputError` unless peft is installed."""
    try:
        import peft  # noqa: F401
    except ImportError:
        raise InputError(
            "LoRA needs the library peft, which is not installed: pip install 'peft>=0.21.2'"
        ) from None


def find_layers(denoiser: Skeleton, names: Iterable[str], joint: bool) -> list[str]:
    """Find linear and convolutional layers of a denoiser by the last part of their names.

    Args:
        denoiser: the denoiser.
        names: the last parts that are looked for, such as those of `ATTENTION`.
        joint: True for the layers of its joint attention, False for all the others.

    Returns:
        The full names of the layers.

    Raises:
        InputError: where there is no such layer.
    """
    kinds = (nn.Linear, nn.Conv2d)
    names = set(names)
    adapting = set()
    for adapter, module in denoiser.joint_adapters().items():
        adapting.update(f"{adapter}.{name}" for name, _ in module.named_modules())
    found = []
    for name, layer in denoiser.named_modules():
        fits = isinstance(layer, kinds) and name.rpartition(".")[2] in names
        if fits and (name in adapting) == joint:
            found.append(name)
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
    """Put a LoRA into the named layers of a denoiser, whose own weights are frozen.

    Args:
        denoiser: the denoiser, which is changed in place.
        layers: full names of the layers.
        rank: R, the inner width of each pair of matrices.
        alpha: what the LoRA does counts alpha / rank times.
        dropout: the share of each layer's inputs that is left out while the LoRA trains.

    Returns:
        What trains, and nothing else, as one module: lora_A, lora_B and lora_dropout by layer, with "/" for
        "." in names.

    Raises:
        InputError: where peft is not installed.
    """
    need_peft()
    from peft import LoraConfig

    denoiser.add_adapter(
        LoraConfig(r=rank, lora_alpha=alpha, target_modules=layers, lora_dropout=dropout), TRAINED
    )
    trained = nn.ModuleDict()
    for name in layers:
        layer = denoiser.get_submodule(name)
        parts = {part: getattr(layer, part)[TRAINED] for part in ("lora_A", "lora_B", "lora_dropout")}
        trained[name.replace(".", "/")] = nn.ModuleDict(parts)
    return trained


def lora_tensors(denoiser: Skeleton) -> dict[str, Tensor]:
    """Return the tensors of the LoRA that was trained in a denoiser.

    Their names and shapes are "<layer>.lora_A.weight" (R, I, ...) and "<layer>.lora_B.weight" (O, R, ...).
    """
    from peft import get_peft_model_state_dict

    return get_peft_model_state_dict(denoiser, adapter_name=TRAINED)


def layers_of(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the layers that the tensors of a LoRA belong to, in alphabetical order.

    Args:
        tensors: the tensors by their names, as in `lora_tensors`.

    Returns:
        The layers' names.

    Raises:
        InputError: for a tensor that does not belong to a LoRA, or has no other half.
    """
    layers = sorted({name.rpartition(".lora_")[0] for name in tensors})
    wanted = set()
    for layer in layers:
        wanted |= {f"{layer}.lora_A.weight", f"{layer}.lora_B.weight"}
    # A name that belongs to no LoRA says more than the halves that it would need.
    if strange := sorted(set(tensors) - wanted) or sorted(wanted - set(tensors)):
        raise InputError(
            "a LoRA has two tensors for each layer, lora_A.weight and lora_B.weight; not so here: "
            f"{strange[0]!r}"
        )
    return layers


def base_layer(denoiser: nn.Module, name: str) -> nn.Module | None:
    """Return the named layer without any LoRA around it, or None if no layer of that name could take one."""
    try:
        layer = denoiser.get_submodule(name)
    except AttributeError:
        return None
    layer = getattr(layer, "base_layer", layer)
    return layer if isinstance(layer, (nn.Linear, nn.Conv2d)) else None


def misfit(denoiser: nn.Module, tensors: Mapping[str, Tensor], rank: int) -> str | None:
    """Say in words what keeps tensors from being a LoRA of this denoiser.

    Args:
        denoiser: the denoiser.
        tensors: the tensors by their names, as in `lora_tensors`.
        rank: R, the rank that they are said to have.

    Returns:
        The first reason, or None if they fit.

    Raises:
        InputError: for tensors that are not a LoRA of any denoiser.
    """
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
    """Return one number that tells trained weights from others, whatever their precision.

    It holds a fixed wave against the first `PROBED` numbers of the weights. Over weights of different models
    it is about normally distributed; rounding to bfloat16 moves it by about 0.001.
    """
    start = weight.detach().flatten()[:PROBED].double().cpu()
    wave = torch.cos(torch.arange(len(start), dtype=torch.float64) * 2.399963)  # the golden angle: no period
    return round(float(start @ wave / (start.norm() * wave.square().mean().sqrt()).clamp(min=1e-12)), 6)


def fuse(denoiser: nn.Module, names: Iterable[str], strength: float) -> dict[str, Tensor]:
    """Add what the named LoRAs do to the weights of a denoiser's own layers.

    Args:
        denoiser: the denoiser that holds the LoRAs; its weights are changed in place.
        names: the names of the LoRAs.
        strength: how many times what they do is added.

    Returns:
        The weights as they were, by layer, on the CPU; `unfuse` puts them back.

    Raises:
        InputError: where a sum is not finite; nothing is then changed.
    """
    from peft.tuners.lora import LoraLayer

    originals: dict[str, Tensor] = {}
    for path, layer in denoiser.named_modules():
        found = [name for name in names if isinstance(layer, LoraLayer) and name in layer.lora_A]
        if not found:
            continue
        weight = layer.base_layer.weight
        originals[path] = weight.detach().to("cpu", copy=True)
        # The sum is rounded once to the weights' precision, not once for each LoRA.
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
    """Put the weights back that `fuse` returned, to the bit."""
    with torch.no_grad():
        for path, weight in originals.items():
            base_layer(denoiser, path).weight.copy_(weight)
