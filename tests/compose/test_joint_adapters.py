"""Frozen networks of others attend to partners through hooks, and are what they were without them."""

import copy
import threading

import pytest
import torch
from accelerate import cpu_offload
from accelerate.hooks import remove_hook_from_module
from torch import nn

from codi.compose.grid import Grid, Layout, even_seconds
from codi.compose.joint_adapters import ForeignJointAdapters
from codi.compose.streams import default_sites, find_stream, stream_of
from codi.protocols import Environment
from codi.types import InputError, Modality
from tests.compose import tiny_foreign
from tests.compose.attending import case, environment, model

# One network of each kind of blocks, for what does not depend on more.
KINDS = ("audioldm", "animatediff", "sd3", "wan")


@pytest.mark.parametrize("name", tiny_foreign.each())
def test_untrained_adapters_change_nothing_and_trained_ones_what_they_should(name):
    with case(name) as own, torch.no_grad():
        plain = own()
        assert torch.equal(own(environment()), plain)
        own.trained()
        attended = own(environment())
        moved = (attended - plain).flatten(1).abs().amax(1)
        assert (moved > 1e-4).all()
        swapped = environment()
        swapped = Environment(tokens=swapped.tokens.flip(0), times=swapped.times)
        assert not torch.allclose(own(swapped), attended)
        assert torch.equal(own(), plain)  # alone as before
        first = own(environment(rows=1))
        torch.testing.assert_close(first[:1], attended[:1])
        torch.testing.assert_close(first[1:], plain[1:])


@pytest.mark.parametrize("name", tiny_foreign.each())
def test_gradients_reach_every_adapter_and_no_frozen_weight(name):
    with case(name) as own:
        own.trained()
        env = environment()
        tokens = env.tokens.requires_grad_()
        own(env).square().mean().backward()
        for site, adapter in own.adapters.sites(own.model.modality).items():
            lacking = [key for key, p in adapter.named_parameters() if p.grad is None or not p.grad.any()]
            assert not lacking, (site, lacking)
        assert tokens.grad is not None and tokens.grad.any()
        assert all(parameter.grad is None for parameter in own.model.network.parameters())


@pytest.mark.parametrize("name", tiny_foreign.each())
def test_a_network_keeps_its_class_and_its_weights_and_loses_all_hooks(name):
    network = model(name).network
    kind, before = type(network), {key: value.clone() for key, value in network.state_dict().items()}
    with case(name) as own, torch.no_grad():
        plain = own()
        own.trained()
        changed = own(environment())
        after = network.state_dict()
        assert type(network) is kind and before.keys() == after.keys()
        assert all(torch.equal(before[key], after[key]) for key in before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    with torch.no_grad():
        assert torch.equal(own(environment()), plain) and not torch.equal(changed, plain)


def gradient_of_two_passes(own):
    """Return the gradient of two forward passes with two environments, and one backward pass."""
    own.adapters.zero_grad()
    loss = own(environment(seed=1)).square().mean() + own(environment(seed=2)).square().mean()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in own.adapters.parameters()])


# diffusers has no checkpointing for the networks of ModelScope, and AudioLDM2's own fails
@pytest.mark.parametrize(
    "name",
    tiny_foreign.each(*(n for n in tiny_foreign.NAMES if n not in ("modelscope", "audioldm2"))),
)
def test_checkpointing_with_two_forwards_before_a_backward_has_the_right_gradient(name):
    with case(name) as own:
        own.trained()
        network = own.model.network
        want = gradient_of_two_passes(own)
        network.enable_gradient_checkpointing()
        network.train()
        try:
            found = gradient_of_two_passes(own)
        finally:
            network.eval()
            network.disable_gradient_checkpointing()
        torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-5 * float(want.abs().max()))


def test_checkpointing_runs_blocks_again():
    """Without this the test above could pass because nothing is run twice."""
    runs = []
    with case("wan") as own:
        own.trained()
        network = own.model.network
        handle = network.blocks[1].register_forward_pre_hook(lambda *_: runs.append(1))
        network.enable_gradient_checkpointing()
        network.train()
        try:
            own(environment()).sum().backward()
        finally:
            handle.remove()
            network.eval()
            network.disable_gradient_checkpointing()
    assert len(runs) == 2


@pytest.mark.parametrize("name", tiny_foreign.each(*KINDS))
def test_offloaded_networks_attend_as_others(name):
    with case(name) as own, torch.no_grad():
        own.trained()
        want = own(environment())
        network = own.model.network
        cpu_offload(network, execution_device=torch.device("cpu"))  # weights come for each module in turn
        try:
            assert any(hasattr(module, "_hf_hook") for module in network.modules())
            assert torch.equal(own(environment()), want)
        finally:
            remove_hook_from_module(network, recurse=True)


@pytest.mark.parametrize("name", tiny_foreign.each(*KINDS))
def test_under_autocast_adapters_attend_and_still_start_at_zero(name):
    with case(name) as own, torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            plain = own()
            assert torch.equal(own(environment()), plain)
        own.trained()
        with torch.autocast("cpu", torch.bfloat16):  # another context: one keeps the weights that it rounded
            changed = own(environment())
        assert changed.isfinite().all() and not torch.equal(changed, plain)


def test_a_network_in_bfloat16_has_adapters_in_float32():
    network = model("sd3").network
    with case("sd3") as own, torch.no_grad():
        nn.Module.to(network, torch.bfloat16)
        try:
            x = own.prepared.start.bfloat16()
            prompt = own.prepared.prompt
            arguments = {}
            for key, value in prompt.arguments().items():
                floats = isinstance(value, torch.Tensor) and value.is_floating_point()
                arguments[key] = value.bfloat16() if floats else value
            low = prompt.with_arguments(arguments)
            t = own.prepared.scheduler.timesteps[1].expand(2)
            plain = own.denoiser(x, t, low)
            assert torch.equal(own.denoiser(x, t, low, partners=environment()), plain)
            own.trained()
            answer = own.denoiser(x, t, low, partners=environment())
            assert answer.dtype is torch.bfloat16 and not torch.equal(answer, plain)
        finally:
            nn.Module.to(network, torch.float32)


def test_threads_do_not_see_what_others_attend_to():
    with case("audioldm") as own:
        own.trained()
        with torch.no_grad():
            wanted = [own(), own(environment(seed=1)), own(environment(seed=2))]
        environments = [None, environment(seed=1), environment(seed=2)]
        together = threading.Barrier(3)
        wrong = []

        def run(k):
            for _ in range(8):
                together.wait(timeout=60)
                with torch.no_grad():
                    if not torch.equal(own(environments[k]), wanted[k]):
                        wrong.append(k)

        threads = [threading.Thread(target=run, args=(k,)) for k in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong


def test_a_call_that_fails_leaves_nothing_behind():
    with case("audioldm") as own, torch.no_grad():
        own.trained()
        plain = own()
        with pytest.raises(RuntimeError):
            own(environment(), x=torch.zeros(2, 3, 4, 4))
        assert torch.equal(own(), plain)


def test_a_compiled_network_attends_to_what_it_is_given():
    with case("wan") as own, torch.no_grad():
        own.trained()
        wanted = [own(), own(environment(seed=1)), own(environment(seed=2))]
        network = own.model.network
        network.compile(backend="eager")  # dynamo's part alone: what is traced, and what is not
        try:
            for want, env in zip(wanted, (None, environment(seed=1), environment(seed=2)), strict=True):
                assert torch.equal(own(env), want)
            others = copy.deepcopy(own.adapters)
            with pytest.raises(InputError, match="compiled already"):
                others.attach(own.model.modality, network)
        finally:
            network._compiled_call_impl = None
            torch.compiler.reset()


def test_saved_adapters_are_the_same_and_are_safetensors(tmp_path):
    with case("animatediff") as own, torch.no_grad():
        own.trained()
        own.adapters.save_pretrained(tmp_path)
        assert sorted(p.name for p in tmp_path.iterdir()) == [
            "config.json",
            "diffusion_pytorch_model.safetensors",
        ]
        loaded = ForeignJointAdapters.from_pretrained(tmp_path)
        want = own(environment())
        plain = own()
    loaded.attach(own.model.modality, own.model.network)
    own.denoiser.adapters = loaded
    with torch.no_grad():
        assert torch.equal(own(environment()), want) and not torch.equal(want, plain)


def test_adapters_of_another_network_are_refused():
    adapters = ForeignJointAdapters({"image": {"sites": {"up_blocks.7": 64}}}, env_dim=32, width=32)
    with pytest.raises(InputError, match="a block up_blocks.7, and UNet2DConditionModel has none"):
        adapters.attach(Modality.IMAGE, model("sd15").network)


def test_a_denoiser_names_its_adapters():
    with case("wan") as own:
        assert list(own.denoiser.joint_adapters()) == [f"blocks.{k}" for k in range(4)]


# Streams ------------------------------------------------------------------------------------------------


def timed_grid(layout, shape, rate=8.0):
    return Grid(layout=layout, shape=shape, seconds=even_seconds(shape[0], rate), duration=shape[0] / rate)


PICTURE = Grid(layout=Layout.PICTURE, shape=(1, 8, 6))
FORMS = {
    "map": (torch.randn(2, 5, 4, 3), PICTURE, 12),
    "patches": (torch.randn(2, 12, 5), PICTURE, 12),
    "frames": (torch.randn(8, 5, 2, 3), timed_grid(Layout.CLIP, (4, 8, 6)), 4),
    "columns": (torch.randn(2, 5, 7, 3), timed_grid(Layout.SPECTROGRAM, (14, 6, 1)), 7),
    "tokens": (torch.randn(2, 4 * 48, 5), timed_grid(Layout.TOKENS, (4, 8, 6)), 4),
    "wave": (torch.randn(2, 9, 5), timed_grid(Layout.WAVE, (8, 1, 1)), 8),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_query_reads_its_own_part_and_writes_to_it_alone(form):
    h, grid, count = FORMS[form]
    stream = stream_of(h, grid)
    h = h.clone().requires_grad_()
    queries = stream.queries(h)
    assert queries.shape == (2, count, 5)
    assert (stream.times is None) == (grid.seconds is None)
    assert stream.times is None or len(stream.times) == count
    for n in range(count):
        (read,) = torch.autograd.grad(queries[1, n].sum(), h, retain_graph=True)
        y = torch.zeros(2, count, 5)
        y[1, n] = 1
        written = stream.spread(y, h).expand_as(h)
        assert torch.equal(read != 0, written != 0) and read.any()


def test_steps_of_a_pooled_spectrogram_are_further_apart():
    grid = timed_grid(Layout.SPECTROGRAM, (14, 6, 1))
    times = stream_of(torch.zeros(1, 2, 7, 3), grid).times
    torch.testing.assert_close(times, grid.seconds.view(7, 2).mean(1))
    odd = stream_of(torch.zeros(1, 2, 4, 3), grid).times  # 14 -> 7 -> 4: the last one is not full
    torch.testing.assert_close(odd[:3], grid.seconds[:12].view(3, 4).mean(1))


def test_the_stream_among_several_tensors_is_that_of_the_latent():
    h = torch.randn(1, 12, 5)
    place, found, _ = find_stream((torch.randn(1, 12, 5), h), PICTURE)
    assert place == 1 and found is h
    # 77 tokens of a prompt are no stream, and neither are a few more tokens than the latent's where one fits
    assert find_stream((torch.randn(1, 77, 5), h), PICTURE)[0] == 1
    assert find_stream((h, torch.randn(1, 20, 5)), PICTURE)[0] == 0
    assert find_stream(torch.randn(1, 77, 5), PICTURE) is None


def test_a_deep_transformer_gets_evenly_spaced_adapters():
    found = {f"transformer_blocks.{k}": 64 for k in range(19)} | {
        f"single_transformer_blocks.{k}": 64 for k in range(38)
    }
    places = [list(found).index(site) for site in default_sites(found)]
    assert len(places) == 8 and places[-1] == 56
    gaps = [b - a for a, b in zip(places, places[1:], strict=False)]
    assert max(gaps) - min(gaps) <= 1
