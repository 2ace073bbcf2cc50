"""Sharding and communication against papers, DeepSpeed's documentation and PyTorch's engines."""

import warnings
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from reference import build
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.debug import CommDebugMode
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode

from sizing import Model, Run, memory
from sizing.footprint.sharding import in_flight, shares, zero_state
from sizing.parallel import (
    Stage,
    check_degrees,
    communication,
    ring_factor,
    stage_parameters,
    stages,
)
from sizing.trace import fsdp
from sizing.units import GB, GIB

RANKS = 8
TINY = {
    "model_type": "llama",
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "max_position_embeddings": 64,
}
LLAMA = Model("llama-3.1-8b")


# --- Model state: ZeRO and DeepSpeed -------------------------------------------------------------


def adam(parameters: float, ranks: int, zero: int) -> float:
    """Bytes a rank holds of mixed-precision Adam's 2 + 2 + 12 a parameter."""
    run = Run(LLAMA, data=ranks, zero=zero)
    return sum(zero_state(run, 2 * parameters, 2 * parameters, 12 * parameters))


@pytest.mark.parametrize(("zero", "size"), [(0, 120), (1, 31.4), (2, 16.6), (3, 1.9)])
def test_zero_paper_figure_1(zero, size):
    assert adam(7.5e9, 64, zero) / GB == pytest.approx(size, abs=0.06)


# arXiv:1910.02054, table 1: parameters, ranks, GB in stages 1, 2 and 3
ZERO_TABLE_1 = [
    (7.5e9, 4, 52.5, 41.3, 30),
    (7.5e9, 16, 35.6, 21.6, 7.5),
    (7.5e9, 1024, 30.1, 15.1, 0.12),
    (128e9, 64, 536, 284, 32),
    (1e12, 4, 7000, 5500, 4000),
    (1e12, 1024, 4011, 2013, 15.6),
]


@pytest.mark.parametrize(("parameters", "ranks", "one", "two", "three"), ZERO_TABLE_1)
def test_zero_paper_table_1(parameters, ranks, one, two, three):
    for zero, size in ((1, one), (2, two), (3, three)):
        assert adam(parameters, ranks, zero) / GB == pytest.approx(size, rel=0.025)


def test_deepspeed_estimators():
    """DeepSpeed's documentation, "Memory Requirements": t5-3b of 2851 M parameters on 8 GPUs.

    Its stage 2 also keeps all 16-bit gradients, its stage 3 four bytes of the largest layer (32 M).
    """
    run = Run(LLAMA, data=8, zero=2, precision="bf16-master", gradients="fp32")
    parameters = 2851e6
    state = (2 * parameters, 4 * parameters, 12 * parameters)
    assert (sum(zero_state(run, *state)) + 2 * parameters) / GIB == pytest.approx(15.93, abs=0.01)
    three = sum(zero_state(replace(run, zero=3), *state)) + 4 * 32e6
    assert three / GIB == pytest.approx(6.10, abs=0.02)


# --- Collectives ---------------------------------------------------------------------------------


def test_ring_factors():
    assert ring_factor("all_reduce", 8) == 2 * 7 / 8
    assert ring_factor("reduce_scatter", 8) == ring_factor("all_gather", 8) == 7 / 8
    assert ring_factor("point_to_point", 8) == 1
    assert all(ring_factor(kind, 1) == 0 for kind in ("all_reduce", "all_gather", "point_to_point"))


@pytest.mark.parametrize(("zero", "volume"), [(0, 2), (1, 2), (2, 2), (3, 3)])
def test_zero_paper_volumes(zero, volume):
    """Section 7: 2Ψ for data parallelism and stages 1 and 2, 3Ψ for stage 3."""
    run = Run(LLAMA, sequence=4096, precision="bf16", data=4096, zero=zero)
    elements = communication(run).total / 2 / LLAMA.parameters.total
    assert elements == pytest.approx(volume, rel=1e-3)


def test_accumulation():
    """Only stages 2 and 3 communicate for every micro-batch."""
    run = Run(LLAMA, sequence=4096, precision="bf16-master", gradients="fp32", data=8)
    once = {zero: communication(replace(run, zero=zero)) for zero in range(4)}
    again = {zero: communication(replace(run, zero=zero, accumulation=4)) for zero in range(4)}
    for zero in (0, 1):
        assert again[zero].total == once[zero].total
    assert again[2].reduce_scatter == 4 * once[2].reduce_scatter
    assert again[2].all_gather == once[2].all_gather
    assert again[3].total == 4 * once[3].total
    # fp32 gradients are twice the weights
    assert once[1].reduce_scatter == 2 * once[1].all_gather


def test_tensor_parallel_by_hand():
    """Narayanan et al. (arXiv:2104.04473), section 3.2: 8bsh(t-1)/t elements a layer for forward
    and backward, as four all-reduces; sequence parallelism sends as much, and inputs again."""
    run = Run(LLAMA, sequence=2048, micro_batch=2, precision="bf16", tensor=8)
    parts = communication(run).by_purpose
    one = 2 * 2048 * LLAMA.hidden * 2 * 7 / 8
    layers = LLAMA.layers
    assert parts["tensor-parallel forward"] == (4 * layers + 2) * one
    assert parts["tensor-parallel backward"] == (4 * layers + 2) * one
    assert parts["tensor-parallel inputs again"] == (2 * layers + 1) * one
    assert sum(parts.values()) == pytest.approx(communication(run).total)


def test_pipeline_by_hand():
    """A stage between two others sends bsh elements forward and as many back, a micro-batch."""
    run = Run(LLAMA, sequence=2048, micro_batch=2, accumulation=8, precision="bf16", pipeline=4)
    result = communication(run)
    assert result.point_to_point == result.total == 2 * 8 * 2 * 2048 * LLAMA.hidden * 2


def test_context_by_hand():
    """Keys and values of the own share go to all others; in backward their gradients as well."""
    run = Run(LLAMA, sequence=8192, precision="bf16", context=4)
    share = 8192 / 4 * 2 * LLAMA.kv_heads * LLAMA.head_dim * 2
    result = communication(run)
    assert result.point_to_point == LLAMA.layers * 3 * 3 * share
    assert result.all_reduce == pytest.approx(2 * 3 / 4 * 2 * LLAMA.parameters.total)


def test_tied_embedding_is_reduced_between_first_and_last_stage():
    tied = Model({**TINY, "num_hidden_layers": 4, "tie_word_embeddings": True})
    run = Run(tied, sequence=32, precision="bf16", pipeline=2, accumulation=2)
    assert communication(run).by_purpose["tied embedding"] == 256 * 64 * 2
    assert "tied embedding" not in communication(replace(run, pipeline=1)).by_purpose


# --- PyTorch's engines on a fake process group ---------------------------------------------------


@contextmanager
def fake_group(ranks):
    dist.init_process_group("fake", rank=0, world_size=ranks, store=FakeStore())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of hooks, about the models' outputs
            yield init_device_mesh("cpu", (ranks,))
    finally:
        dist.destroy_process_group()


@pytest.fixture
def mesh():
    with fake_group(RANKS) as mesh:
        yield mesh


class Traffic(TorchDispatchMode):
    """Bytes of the whole tensor of every collective, by kind."""

    def __init__(self):
        super().__init__()
        self.calls, self.payload = Counter(), Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function)
        if name.startswith(("c10d.", "_c10d_functional.")):
            self.count(name.split(".")[1], args)
        return function(*args, **(kwargs or {}))

    def count(self, name, args):
        if name in ("_allgather_base_", "all_gather_into_tensor"):
            kind, tensor = "all_gather", args[0]
            scale = RANKS if name == "all_gather_into_tensor" else 1
        elif name in ("_reduce_scatter_base_", "reduce_scatter_tensor"):
            kind, scale = "reduce_scatter", 1
            tensor = args[1] if name == "_reduce_scatter_base_" else args[0]
        elif name == "allreduce_":
            kind, scale, tensor = "all_reduce", 1, args[0][0]
        else:
            return
        self.calls[kind] += 1
        self.payload[kind] += scale * tensor.numel() * tensor.element_size()

    def sent(self, kind):
        return self.payload[kind] * ring_factor(kind, RANKS)


def step(model: nn.Module) -> Traffic:
    tokens = torch.randint(0, 256, (2, 32))
    with Traffic() as traffic:
        model(input_ids=tokens, labels=tokens).loss.backward()
    return traffic


def all_reduce(_, bucket):
    """DDP's own reduction of a bucket, with the result that a fake group's future lacks."""
    dist.all_reduce(bucket.buffer())
    future = torch.futures.Future()
    future.set_result(bucket.buffer())
    return future


def test_ddp_sends_what_zero_0_says(mesh):
    model = DistributedDataParallel(build(TINY, device="cpu"))
    model.register_comm_hook(None, all_reduce)
    traffic = step(model)
    run = Run(Model(TINY), sequence=32, micro_batch=2, precision="fp32", data=RANKS)
    expected = communication(run)
    assert traffic.sent("all_reduce") == expected.all_reduce == expected.total
    assert set(traffic.calls) == {"all_reduce"}


def test_fsdp2_sends_what_zero_3_says(mesh):
    model = build(TINY, device="cpu")
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    with CommDebugMode() as counted:
        traffic = step(model)
    expected = communication(
        Run(Model(TINY), sequence=32, micro_batch=2, precision="fp32", data=RANKS, zero=3)
    )
    assert traffic.sent("all_gather") == expected.all_gather
    assert traffic.sent("reduce_scatter") == expected.reduce_scatter
    assert expected.total == expected.all_gather + expected.reduce_scatter
    assert counted.get_total_counts() == sum(traffic.calls.values()) == 3 * (3 + 1)


@pytest.mark.parametrize(
    ("name", "layers", "ranks", "batch", "sequence", "recompute", "phase"),
    [
        ("llama-3.2-1b", 3, 8, 2, 1024, "none", "loss"),
        ("llama-3.2-1b", 3, 8, 1, 64, "none", "embedding"),
        ("llama-3.1-8b", 3, 64, 1, 64, "full", "forward"),
        ("llama-3.1-8b", 16, 64, 1, 1024, "none", "layers"),
        ("qwen3-0.6b", 3, 1024, 4, 512, "none", "loss"),
    ],
)
def test_fsdp2_holds_what_zero_3_says(name, layers, ranks, batch, sequence, recompute, phase):
    """Traced by FSDPMemTracker on fake tensors, peaks in four different phases."""
    run = Run(
        Model(name).replace(num_hidden_layers=layers),
        sequence=sequence,
        micro_batch=batch,
        precision="bf16",
        optimizer="adamw-fused",
        recompute=recompute,
        data=ranks,
        zero=3,
    )
    phases = sharded(run)
    assert max(phases, key=lambda name: sum(phases[name].values())) == phase
    assert peak(run) == pytest.approx(fsdp.peak(run), rel=0.005)


@pytest.mark.parametrize(
    ("name", "layers", "ranks", "batch", "sequence", "recompute", "reduce"),
    [
        ("llama-3.1-8b", 16, 64, 1, 1024, "none", "fp32"),
        ("llama-3.1-8b", 6, 8, 1, 2048, "selective", "fp32"),
        ("qwen3-0.6b", 3, 1024, 4, 512, "none", "same"),
        ("qwen3-0.6b", 4, 16, 1, 256, "full", "fp32"),  # peaks as the tied table is reduced
        ("llama-3.2-1b", 3, 8, 1, 32, "none", "same"),
        ("llama-3.1-8b", 3, 8, 1, 32, "none", "fp32"),
        ("llama-3.1-8b", 3, 8, 1, 32, "none", "same"),
    ],
)
def test_mixed_precision_under_zero_3_is_what_fsdp2_s_policy_holds(
    name, layers, ranks, batch, sequence, recompute, reduce
):
    """fp32 shards, gathered and computed in bf16, reduced in the dtype that the run says."""
    run = Run(
        Model(name).replace(num_hidden_layers=layers),
        **{"sequence": sequence, "micro_batch": batch, "precision": "bf16-mixed"},
        **{"optimizer": "adamw-fused", "recompute": recompute, "reduce": reduce},
        **{"data": ranks, "zero": 3},
    )
    assert peak(run) == pytest.approx(fsdp.peak(run), rel=0.005)


class Half(nn.Module):
    """Half a layer: two column-split matmuls of one input, a row-split one."""

    def __init__(self, hidden, width):
        super().__init__()
        self.first, self.second = (nn.Linear(hidden, width, bias=False) for _ in range(2))
        self.out = nn.Linear(width, hidden, bias=False)

    def forward(self, x):
        return self.out(self.first(x).tanh() * self.second(x))


class Network(nn.Module):
    def __init__(self, layers, hidden, width, vocab):
        super().__init__()
        self.embedding = nn.Embedding(vocab, hidden)
        self.halves = nn.ModuleList(Half(hidden, w) for _ in range(layers) for w in (hidden, width))
        self.norms = nn.ModuleList(nn.RMSNorm(hidden) for _ in self.halves)
        self.head = nn.Linear(hidden, vocab, bias=False)

    def forward(self, tokens):
        x = self.embedding(tokens)
        for norm, half in zip(self.norms, self.halves, strict=True):
            x = x + half(norm(x))
        return self.head(x)


def test_dtensor_sends_what_tensor_parallelism_says(mesh):
    """DTensor keeps the gathered inputs, so nothing is gathered again for the weights."""
    network = Network(3, 64, 160, 256)
    plan = {
        "embedding": RowwiseParallel(input_layouts=Replicate(), output_layouts=Shard(1)),
        "head": ColwiseParallel(input_layouts=Shard(1)),
    }
    for number in range(6):
        half = f"halves.{number}"
        plan |= {
            f"norms.{number}": SequenceParallel(),
            half: PrepareModuleInput(input_layouts=Shard(1), desired_input_layouts=Replicate()),
            f"{half}.first": ColwiseParallel(),
            f"{half}.second": ColwiseParallel(),
            f"{half}.out": RowwiseParallel(output_layouts=Shard(1)),
        }
    parallelize_module(network, mesh, plan)
    with CommDebugMode() as counted, Traffic() as traffic:
        network(torch.randint(0, 256, (2, 32))).sum().backward()
    run = Run(Model(TINY), sequence=32, micro_batch=2, precision="fp32", tensor=RANKS)
    parts = communication(run).by_purpose
    expected = parts["tensor-parallel forward"] + parts["tensor-parallel backward"]
    assert traffic.sent("all_gather") + traffic.sent("reduce_scatter") == expected
    assert counted.get_total_counts() == sum(traffic.calls.values()) == 2 * (4 * 3 + 2)


# --- Stages --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama-3.1-8b", "gpt2", "llama-3.1-405b", "mixtral-8x7b"])
@pytest.mark.parametrize("pipeline", [1, 2, 3, 6])
def test_stages_hold_the_model_once(name, pipeline):
    model = Model(name)
    run = Run(model, sequence=1024, pipeline=pipeline)
    split = stages(run)
    assert len(split) == pipeline
    assert sum(stage.layers for stage in split) == model.layers
    assert all(stage.layers for stage in split[:-1])
    assert [stage.embedding for stage in split] == [True] + [False] * (pipeline - 1)
    assert [stage.head for stage in split] == [False] * (pipeline - 1) + [True]
    held = sum(stage_parameters(model, stage) for stage in split)
    copy = model.vocab * model.hidden if model.tied and pipeline > 1 else 0
    assert held == pytest.approx(model.parameters.total + copy, rel=1e-12)


def test_a_heavy_head_takes_layers_from_the_last_stage():
    """nanotron's split of its 1B and 8B benchmark models (their heads cost 4 and 2.2 layers)."""
    one = Model(
        {
            **TINY,
            "vocab_size": 131072,
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 16,
        }
    )
    assert [stage.layers for stage in stages(Run(one, sequence=64, pipeline=2))] == [11, 5]
    assert [stage.layers for stage in stages(Run(one, sequence=64, pipeline=4))] == [6, 5, 5, 0]
    assert {stage.layers for stage in stages(Run(Model("gpt3-175b"), pipeline=8))} == {12}


def test_tensor_parallelism_keeps_norms_whole():
    norms = LLAMA.parameters.norm
    whole = Stage(LLAMA.layers, True, True)
    halves = stage_parameters(LLAMA, whole, 2)
    assert 2 * halves == LLAMA.parameters.total + norms


# --- Memory --------------------------------------------------------------------------------------


def sharded(run: Run) -> dict:
    return memory(run).phases


def peak(run: Run) -> float:
    return memory(run).total


BASE = Run(
    LLAMA,
    sequence=4096,
    accumulation=16,
    precision="bf16-master",
    gradients="fp32",
    optimizer="adamw-fused",
)


@pytest.mark.parametrize("zero", range(4))
def test_more_ranks_never_hold_more(zero):
    totals = [peak(replace(BASE, data=data, zero=zero)) for data in (2, 4, 8, 64, 1024)]
    assert totals == sorted(totals, reverse=True)
    assert (totals[0] == totals[-1]) == (zero == 0)


def test_higher_stages_never_hold_more():
    totals = [peak(replace(BASE, data=8, zero=zero)) for zero in range(4)]
    assert totals == sorted(totals, reverse=True)


def test_model_state_is_divided_and_activations_are_not():
    run = replace(BASE, data=8, zero=3)
    alone, shared = memory(BASE).phases["forward"], sharded(run)["forward"]
    for part in ("parameters", "gradients", "optimizer"):
        assert shared[part] == alone[part] / 8
    assert shared["activations"] == alone["activations"]
    assert shared["logits"] == alone["logits"]


def test_a_stage_of_the_head_alone_is_sized():
    run = replace(BASE, data=2, zero=3, pipeline=16)
    assert stages(run)[-1].layers == 0
    with pytest.warns(UserWarning, match="zero=3 with pipeline=16"):
        assert memory(run).total > 0


def test_frozen_weights_have_no_buckets():
    run = replace(BASE, data=8)
    of_all, of_none = (shares(run, trained)[0].buffers["forward"] for trained in (1, 0))
    assert of_all - of_none == 2 * LLAMA.parameters.total


@pytest.mark.parametrize("field", ["tensor", "context"])
def test_tensor_and_context_divide_activations(field):
    alone = memory(BASE).phases["forward"]
    shared = sharded(replace(BASE, **{field: 8}))["forward"]
    assert shared["activations"] == alone["activations"] / 8
    assert shared["logits"] == alone["logits"] / 8


def test_micro_batches_in_flight():
    run = replace(BASE, pipeline=4)
    assert [in_flight(run, rank) for rank in range(4)] == [4, 3, 2, 1]
    assert [in_flight(replace(run, accumulation=2), rank) for rank in range(4)] == [2, 2, 2, 1]
    first = sharded(run)["forward"]
    layers = stages(run)[0].layers
    kept = 4 * layers / LLAMA.layers * memory(BASE).phases["forward"]["activations"]
    assert first["activations"] == pytest.approx(kept)
    assert first["logits"] == 0


# --- Errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("degrees", "message"),
    [
        ({"tensor": 3}, "tensor: 3 given; allowed: a divisor of heads = 32"),
        ({"tensor": 16}, "tensor: 16 given; allowed: a divisor of kv_heads = 8"),
        ({"context": 3}, "context: 3 given; allowed: a divisor of sequence = 4096"),
        (
            {"tensor": 8, "context": 1024},
            "tensor: 8 given; allowed: a divisor of sequence / context = 4",
        ),
    ],
)
@pytest.mark.parametrize("function", [check_degrees, communication, sharded])
def test_bad_degrees(function, degrees, message):
    with pytest.raises(ValueError, match=message):
        function(replace(BASE, **degrees))


@pytest.mark.parametrize("zero", [2, 3])
def test_zero_under_a_pipeline_warns(zero):
    with pytest.warns(UserWarning, match=f"zero={zero} with pipeline=4.*use zero=1"):
        check_degrees(replace(BASE, data=8, zero=zero, pipeline=4))
