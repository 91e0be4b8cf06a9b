"""The averaged weights, the optimizer, the meter, the log, the thread that fetches ahead, the sheet of
spectrograms.
"""

import json
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from codi.models.lora import find_layers
from codi.protocols import Denoiser
from codi.types import InputError
from data.batch import Batch
from data.source import Source
from data.world import PAIRS
from training.ema import Ema
from training.engine import make_optimizer
from training.log import Log, Meter
from training.prefetch import Prefetch
from training.stages import STAGES, Stage, find_stage
from training.stages.common import write_spectrograms
from training.stages.denoise import WithPictures
from training.stages.joint_adapters import JointAdapters
from training.stages.pairs import PairSource, parse_pair


def test_average_follows_its_formula_and_is_put_back():
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, 0.0)
    ema, expected = Ema(module, decay=0.5), 0.0
    for step in range(20):
        nn.init.constant_(module.weight, step + 1.0)
        ema.update(module)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * (step + 1)
    with pytest.raises(KeyError), ema.applied(module):
        assert module.weight.item() == pytest.approx(expected, rel=1e-6)
        raise KeyError
    assert module.weight.item() == 20


def test_a_weight_with_the_faintest_gradient_moves_as_far_as_any(bench):
    """Behind a branch that starts at zero gradients are 1e-9 and less; they must not drown in the optimizer's
    epsilon.
    """
    module = nn.Linear(1, 2, bias=False)
    before = module.weight.detach().clone()
    optimizer = make_optimizer(module, bench().config("lr=1e-2", "weight_decay=0.0"))
    module.weight.grad = torch.tensor([[1e-10], [1.0]])
    optimizer.step()
    assert (before - module.weight).flatten().tolist() == pytest.approx([1e-2, 1e-2], rel=0.05)


def test_average_leaves_frozen_parameters_alone():
    module = nn.Linear(2, 2)
    module.bias.requires_grad_(False)
    assert list(Ema(module, 0.9).average) == ["weight"]


def test_meter_means_and_bins():
    meter = Meter()
    meter.add(torch.tensor(1.0), {"bins": (torch.tensor([0.0, 0.95]), torch.tensor([2.0, 4.0])), "x": 3})
    meter.add(torch.tensor(3.0), {"bins": (torch.tensor([0.05, 1.0]), torch.tensor([4.0, 6.0]))})
    assert meter.means() == {"loss": 2.0, "x": 3.0, "loss_by_bin": [3.0, *[None] * 8, 5.0]}


def test_meters_of_processes_are_averaged():
    first, second = (
        {"loss": 1.0, "loss_by_bin": [None, 2.0]},
        {"loss": 3.0, "x": 5.0, "loss_by_bin": [None, 4.0]},
    )
    assert Meter.average([first, second]) == {"loss": 2.0, "x": 5.0, "loss_by_bin": [None, 3.0]}


def test_log_goes_back_with_the_run(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps({"samples": n}) + "\n" for n in (8, 16, 24)) + '{"samples": 3')
    log = Log(path, total=32, samples=16, main=True, title="t")
    log.write(24, {"loss": float("inf")})
    log.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["samples"] for line in lines] == [8, 16, 24] and lines[-1]["loss"] is None


def test_prefetch_keeps_the_order_and_ends_its_thread():
    with Prefetch(lambda indices: sum(indices), iter([[i, i + 1] for i in range(100)])) as batches:
        assert [next(batches) for _ in range(5)] == [([i, i + 1], 2 * i + 1) for i in range(5)]
    assert not any(thread.name == "prefetch" for thread in threading.enumerate())


def test_what_goes_wrong_in_the_plan_is_raised_where_batches_are_taken():
    def plan():
        yield [0]
        raise ZeroDivisionError("in the plan")

    with Prefetch(lambda indices: indices, plan()) as batches:
        assert next(batches) == ([0], [0])
        with pytest.raises(ZeroDivisionError, match="in the plan"):
            next(batches)


class Files(Source):
    """A source of named samples, some of which were bad."""

    def __init__(self, name, bad):
        self.name, self.bad = name, bad

    def fetch(self, indices):
        rows = [{"id": f"{self.name}-{index}", "captions": []} for index in indices]
        return Batch(index=indices, rows=rows)


def test_sources_beside_each_other_name_their_samples_and_count_the_bad_ones():
    clips, sounds = Files("clip", 2), Files("sound", 3)
    assert WithPictures(clips, sounds).bad == 5
    pairs = {pair: parse_pair(pair, PAIRS) for pair in ("text+image", "audio+video")}
    both = PairSource(
        dict(zip(pairs.values(), (clips, sounds))), {pairs["text+image"]: 1.0, pairs["audio+video"]: 0.5}
    )
    assert both.bad == 5 and both.fetch([4, 5])["ids"] == ["clip-4", "clip-5", "sound-2"]


def test_a_sheet_of_spectrograms_has_low_tones_below(tmp_path):
    mels = torch.full((2, 20, 8), -11.5)
    mels[:, :, 1] = 2.5
    write_spectrograms(tmp_path / "two.png", mels)
    picture = np.asarray(Image.open(tmp_path / "two.png"))
    assert (
        picture.shape == (16, 20, 3)
        and np.flatnonzero(picture[:, 0, 0]).tolist() == [6, 14]
        and picture.max() == 255
    )


class Foreign(nn.Module, Denoiser):
    """A denoiser whose adapters have a name of their own, and a module beside them that is called joint."""

    def __init__(self, adapters: bool = True):
        super().__init__()
        self.joint = nn.ModuleDict({"to_q": nn.Linear(2, 2)})
        self.partner_attention = nn.ModuleDict({"to_q": nn.Linear(2, 2)})
        self.adapters = adapters

    def joint_adapters(self):
        return {"partner_attention": self.partner_attention} if self.adapters else {}


def test_what_adapts_a_denoiser_it_says_itself():
    module = JointAdapters(nn.Identity(), {"a": Foreign(), "b": Foreign()}, learning=["a"])
    learning = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    assert learning == {f"denoisers.a.partner_attention.to_q.{kind}" for kind in ("weight", "bias")}
    assert find_layers(Foreign(), ["to_q"], joint=True) == ["partner_attention.to_q"]
    assert find_layers(Foreign(), ["to_q"], joint=False) == ["joint.to_q"]
    with pytest.raises(InputError, match="a has no joint attention"):
        JointAdapters(nn.Identity(), {"a": Foreign(adapters=False)})


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_keeps_the_contract(name):
    kind = find_stage(name)
    assert issubclass(kind, Stage)
    for method in ("__init__", "build", "data", "loss", "preview", "export"):
        assert getattr(kind, method) is not getattr(Stage, method), method
    assert (kind.dummy_batch is Stage.dummy_batch) == (kind.dry_pass is Stage.dry_pass)
    assert kind.produces.__func__ is not Stage.produces.__func__ or (
        kind.builds.__func__ is not Stage.builds.__func__
    )
