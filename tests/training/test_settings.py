"""Settings that trade memory, speed and sight without changing what is learned."""

import functools
import sys

import pytest
import torch

from codi.models.denoisers import UNetDenoiser
from codi.models.words import Vectors
from codi.types import InputError
from tests.training.line import Line
from tests.training.test_loop import final, same
from training.engine import Objective, compile_parts, enable_checkpointing
from training.main import main


def gradients(module):
    """Of a loss on fixed numbers, by name."""
    module.zero_grad()
    generator = torch.Generator().manual_seed(0)
    x, context = torch.randn(2, 4, 4, 4, 4, generator=generator), torch.randn(2, 1, 16, generator=generator)
    module(x, torch.tensor([3, 900]), context).square().mean().backward()
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def test_checkpointing_gives_the_same_gradients_to_the_bit():
    torch.manual_seed(0)
    module = UNetDenoiser(
        in_channels=4,
        block_out_channels=(16, 32),
        attention_levels=(1,),
        temporal_levels=(1,),
        context_dim=16,
        norm_num_groups=8,
    )
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    kept = gradients(module)
    calls = []
    enable_checkpointing(module, "denoise")
    checkpointed = module._gradient_checkpointing_func
    module._gradient_checkpointing_func = lambda *inputs: calls.append(1) or checkpointed(*inputs)
    again = gradients(module)
    assert len(calls) > 6 and kept.keys() == again.keys() and len(kept) > 50
    assert all(torch.equal(kept[name], again[name]) for name in kept)


def test_checkpointing_where_nothing_can_is_said(bench, capsys):
    assert main(bench().command("gradient_checkpointing=true")) == 2
    assert "nothing in stage line can do it" in capsys.readouterr().err


@pytest.fixture
def compiled(monkeypatch):
    """Graphs that `torch.compile` was given, which then run as they are."""

    def keep(graph, inputs):
        graphs.append(graph)
        return graph.forward

    graphs = []
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=keep))
    torch._dynamo.reset()
    yield graphs
    torch._dynamo.reset()


class Own(torch.nn.Sequential):
    """torch skips its own containers, where they are called by themselves."""

    def forward(self, x):
        return super().forward(x)


def test_what_is_called_is_compiled_as_a_whole_wherever_it_is_held(compiled):
    inner = Own(torch.nn.Linear(1, 4), torch.nn.Tanh())
    held = torch.nn.ModuleDict(
        {"a": Own(inner, torch.nn.Linear(4, 1)), "b": torch.nn.ModuleList([torch.nn.Linear(1, 1)])}
    )
    names, expected = list(held.state_dict()), held["a"](torch.ones(2, 1))
    compile_parts(held, "line")
    for _ in range(2):
        assert torch.equal(held["a"](torch.ones(2, 1)), expected)
    (graph,) = compiled
    assert [node.target.__name__ for node in graph.graph.nodes if node.op == "call_function"] == [
        "linear",
        "tanh",
        "linear",
    ]
    inner(torch.ones(2, 1))
    assert len(compiled) == 2 and list(held.state_dict()) == names


def test_a_compiled_run_is_the_same_run(bench, compiled, monkeypatch):
    build = Line.build
    monkeypatch.setattr(Line, "build", lambda stage: Own(*build(stage)))
    plain, case = bench("plain"), bench()
    for each, settings in ((plain, ()), (case, ("compile=true",))):
        assert main(each.command("samples=48", *settings)) == 0
    assert len(compiled) == 2 and same(final(plain), final(case))  # while it trains, and for its preview


def test_compiling_where_there_is_nothing_to_compile_is_said():
    with pytest.raises(InputError, match="compile is true, but nothing in stage textual_inversion"):
        compile_parts(Vectors(torch.zeros(1, 4)), "textual_inversion")


def test_autocast_leaves_weights_in_float32(bench):
    stage = Line(bench().config())
    torch.manual_seed(0)
    module = stage.build().eval()
    batch = stage.data().fetch(list(range(8)))
    seen = []
    module[0].register_forward_hook(lambda layer, inputs, output: seen.append(output.dtype))
    whole, _ = Objective(stage, module)(batch, torch.Generator().manual_seed(1))
    half, _ = Objective(stage, module, torch.bfloat16)(batch, torch.Generator().manual_seed(1))
    assert seen == [torch.float32, torch.bfloat16] and abs(half - whole) < 0.05 * whole
    half.backward()
    assert {p.grad.dtype for p in module.parameters()} == {torch.float32}


def test_tensorboard_holds_what_the_log_holds(bench):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="TensorBoard is not installed"
    )
    import json

    case = bench()
    assert main(case.command("tensorboard=true", "samples=48")) == 0
    assert main(case.command("tensorboard=true", "samples=96")) == 0
    events = accumulator.EventAccumulator(str(case.run / "tensorboard"))
    events.Reload()
    lines = [json.loads(line) for line in (case.run / "log.jsonl").read_text().splitlines()]
    assert {"loss", "grad_norm", "lr", "samples_per_s", "memory_mb"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("loss")] == [line["samples"] for line in lines]
    assert [event.value for event in events.Scalars("loss")] == pytest.approx(
        [line["loss"] for line in lines]
    )


def test_tensorboard_that_is_not_there_is_said(bench, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    assert main(bench().command("tensorboard=true")) == 2
    assert "pip install 'tensorboard>=2.21'" in capsys.readouterr().err
