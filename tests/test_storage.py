"""Checkpoints against the files that torch and safetensors really write, byte by byte."""

import json
import math
import random
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from reference import build, random_config
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import AutoConfig, AutoModelForCausalLM

import sizing
from sizing import Model, Run
from sizing.architecture.families import FAMILIES
from sizing.measuring import checkpoints, workers
from sizing.measuring.device import cpu
from sizing.planning import storage
from sizing.planning.checkpoint_contents import contents, numbers
from sizing.planning.containers import (
    Stored,
    sharded_safetensors,
    torch_save_bytes,
)
from sizing.trace import optimizers
from sizing.trace.step import Step

TINY = {
    "model_type": "llama",
    "vocab_size": 131,
    "hidden_size": 24,
    "intermediate_size": 50,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": False,
}


def sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.iterdir()}


def saved(run: Run) -> dict:
    """The real state of a run after one step."""
    torch.manual_seed(0)
    step = Step(run)
    step.batch.random_(run.model.vocab)
    step()
    return checkpoints.content(checkpoints.parameters(step.model), step.optimizer, (3, 70_000))


def real_model(config: dict):
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))


def compare(run: Run, folder: Path, real: dict) -> None:
    checkpoints.save_torch(real, folder / "torch")
    checkpoints.save_safetensors(real, folder / "safetensors")
    path = str(folder / "distributed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(real, checkpoint_id=path)
    for form in storage.FORMATS:
        ours = sizing.checkpoint(run, form, path=path, device="cpu")
        assert ours.files == sizes(folder / form), form
        assert sum(ours.parts.values()) == ours.total
        assert ours.weights == sum(t.nbytes for t in real["model"].values())
        assert ours.optimizer == sum(t.nbytes for t in real.get("optimizer", {}).values())
        assert ours.master == sum(t.nbytes for t in real.get("master", {}).values())


@pytest.mark.parametrize("optimizer", optimizers.BUILT)
def test_every_optimizer_to_the_byte(optimizer, tmp_path):
    precision = "bf16-master" if optimizer in ("adamw", "muon") else "fp32"
    run = Run(TINY, sequence=8, optimizer=optimizer, precision=precision)
    compare(run, tmp_path, saved(run))


# Width 64 with 4 heads, so that some tensors have 4,096 elements, and a vocabulary of 131.
WIDE = {**TINY, "hidden_size": 64, "intermediate_size": 96, "num_key_value_heads": 4}


def library_s(optimizer: str, named: dict, dtype):
    """The optimizer of the library that has it, or the test is left out."""
    weights = list(named.values())
    if optimizer == "adamw-4bit":
        return pytest.importorskip("torchao.optim").AdamW4bit(weights)
    if optimizer == "adam-mini":
        mini = pytest.importorskip("adam_mini").Adam_mini
        return mini(named.items(), lr=1e-3, dim=64, n_heads=4, verbose=False)
    galore = pytest.importorskip("galore_torch").GaLoreAdamW
    hidden = [p for name, p in named.items() if p.dim() == 2 and ".layers." in name]
    rest = [p for p in weights if all(p is not other for other in hidden)]
    group = {"rank": 16, "update_proj_gap": 200, "scale": 0.25, "proj_type": "std"}
    groups = [{"params": rest}, {"params": hidden, **group}]
    return galore(groups, no_deprecation_warning=True)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("optimizer", ["adamw-4bit", "adam-mini", "galore-16"])
def test_optimizers_of_other_libraries_to_the_byte(optimizer, precision, tmp_path):
    """The state that torchao, adam_mini and galore_torch really have after a step."""
    run = Run(WIDE, sequence=8, precision=precision, optimizer=optimizer)
    network = real_model(run.model.config).to(torch.bfloat16 if precision == "bf16" else None)
    named = checkpoints.parameters(network)
    made = library_s(optimizer, named, precision)
    for p in network.parameters():
        p.grad = torch.randn_like(p)
    with torch.compiler.set_stance("force_eager"):
        made.step()
    compare(run, tmp_path, checkpoints.content(named, made))


@pytest.mark.parametrize(
    ("optimizer", "per_matrix"),
    [
        ("adamw-4bit", 2 * (4096 // 2 + 4 * 4096 // 128 + 4 * 16) + 4),
        ("adam-mini", 4 * 4096 + 4 * 64 + 2 * 8),  # one value a row, two counters
        ("galore-16", 8 + 4 * (64 * 16 + 2 * 64 * 16)),
    ],
)
def test_state_of_one_matrix_by_hand(optimizer, per_matrix):
    content = contents(Run(WIDE, sequence=8, precision="fp32", optimizer=optimizer))
    name = "model.layers.0.self_attn.o_proj.weight"
    state = {n: t for n, t in content["optimizer"].items() if n.startswith(name)}
    assert numbers(state) == per_matrix


@pytest.mark.parametrize("quantization", [None, "nf4-double"])
@pytest.mark.parametrize(
    "lora",
    [
        sizing.Lora(4),
        sizing.Lora(4, ("q_proj", "v_proj"), dtype="bf16"),
        sizing.Lora(4, embeddings=("embed_tokens", "lm_head")),
    ],
)
def test_adapters_to_the_byte(lora, quantization, tmp_path):
    """What peft trains, by its names; quantised or not, the frozen weights are not saved again."""
    peft = pytest.importorskip("peft")
    run = Run(TINY, sequence=8, precision="bf16-mixed", lora=lora, quantization=quantization)
    config = peft.LoraConfig(
        r=4,
        target_modules="all-linear" if lora.targets == "all-linear" else list(lora.targets),
        modules_to_save=list(lora.embeddings) or None,
    )
    # What is not quantised is fp32 after peft's k-bit preparation.
    base = real_model(TINY).to(torch.float32 if quantization else torch.bfloat16)
    network = peft.get_peft_model(base, config, autocast_adapter_dtype=lora.dtype == "fp32")
    if lora.dtype == "bf16":
        network.to(torch.bfloat16)
    trained = {n: p for n, p in network.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(trained.values())
    for p in trained.values():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    short = {
        n.replace(".default", "").replace("modules_to_save.", ""): p for n, p in trained.items()
    }
    compare(run, tmp_path, checkpoints.content(short, optimizer))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_to_the_byte(family, tmp_path):
    config = random_config(family, random.Random(f"storage{family}"))
    run = Run(Model(config), sequence=8, precision="fp32", optimizer="adafactor")
    network = real_model(run.model.config)
    for p in network.parameters():
        p.grad = torch.zeros_like(p)
    optimizer = torch.optim.Adafactor(network.parameters())
    optimizer.step()
    compare(run, tmp_path, checkpoints.content(checkpoints.parameters(network), optimizer))


@pytest.mark.parametrize("family", FAMILIES)
def test_names_are_those_of_transformers(family):
    for seed in range(4):
        config = random_config(family, random.Random(f"names{family}{seed}"))
        real = {n: tuple(p.shape) for n, p in build(config).named_parameters()}
        assert dict(storage.parameter_shapes(Model(config))) == real


def test_a_model_split_into_files_as_transformers_splits_it(tmp_path):
    config = {**TINY, "vocab_size": 300}
    network = real_model(config)
    network.save_pretrained(tmp_path, max_shard_size=40_000)
    order = {n: Stored(tuple(p.shape), "fp32") for n, p in network.state_dict().items()}
    ours = sharded_safetensors(order, 40_000)
    real = {n: s for n, s in sizes(tmp_path).items() if n.startswith("model")}
    assert len(real) > 3
    assert ours == real


def test_what_the_library_saves_of_a_dense_model(tmp_path):
    network = real_model(TINY)
    network.save_pretrained(tmp_path)
    weights = contents(Run(TINY, precision="fp32"))["model"]
    assert (
        sharded_safetensors(weights, 10**9)["model.safetensors"]
        == (tmp_path / "model.safetensors").stat().st_size
    )


@pytest.mark.parametrize("count", [1, 2, 999, 1000, 1001, 2000])
def test_pickles_of_many_names(count, tmp_path):
    """Batches of a thousand, references of one byte and of four, aligned odd sizes."""
    rng = random.Random(count)
    shapes = {
        f"layer.{i}": tuple(rng.randrange(1, 30) for _ in range(rng.choice((0, 1, 2, 3))))
        for i in range(count)
    }
    dtypes = {n: rng.choice((("fp32", torch.float32), ("bf16", torch.bfloat16))) for n in shapes}
    real = {"model": {n: torch.zeros(s, dtype=dtypes[n][1]) for n, s in shapes.items()}, "step": 9}
    torch.save(real, tmp_path / "many.pt")
    ours = {"model": {n: Stored(s, dtypes[n][0]) for n, s in shapes.items()}, "step": 9}
    assert torch_save_bytes(ours, "many") == (tmp_path / "many.pt").stat().st_size


class Counted:
    """A file that only counts what is written to it."""

    def __init__(self):
        self.bytes = 0

    def write(self, data):
        self.bytes += len(data)
        return len(data)

    def flush(self):
        return None


@pytest.mark.slow
def test_beyond_four_gigabytes():
    """From 2^32 bytes on a zip needs wider fields, for the size and for the offset."""
    shapes = ((2**32 + 5,), (77,))
    counted = Counted()
    torch.save([torch.empty(shape, dtype=torch.uint8) for shape in shapes], counted)
    assert torch_save_bytes([Stored(shape, "uint8") for shape in shapes]) == counted.bytes


def test_gpt2_as_one_file():
    """The classic size: 124 439 808 weights of four bytes and two moments like them."""
    run = Run("gpt2", sequence=1024, precision="fp32", optimizer="adamw-fused")
    full = sizing.checkpoint(run, "torch")
    assert full.weights == 4 * 124_439_808
    assert full.optimizer == 2 * 4 * 124_439_808 + 4 * 148
    assert 0 < full.container < 2e5


def test_step_counters_cost_more_than_they_hold():
    """In a distributed checkpoint every tensor is a zip of its own, a counter of 4 bytes too."""
    run = Run(TINY, sequence=8, optimizer="adamw")
    content = contents(run, "cpu")
    counters = [n for n in content["optimizer"] if n.endswith(".step")]
    assert sizing.checkpoint(run, "distributed").container > 1000 * len(counters)


def test_choices_are_named():
    run = Run(TINY, sequence=8)
    four = Run(TINY, sequence=8, optimizer="adamw-4bit", data=2, zero=1)
    with pytest.raises(ValueError, match="optimizer: 'adamw-4bit' given with zero=1; allowed"):
        sizing.checkpoint(four, sharded=True)
    assert not sizing.checkpoint(four).sharded
    with pytest.raises(ValueError, match="format: 'zip' given; allowed: 'torch'"):
        sizing.checkpoint(run, "zip")
    with pytest.raises(ValueError, match="device: 'tpu'"):
        sizing.checkpoint(run, device="tpu")


# --- How often to save ---------------------------------------------------------------------------


def test_daly_is_where_the_useful_share_is_largest():
    for save, mtbf in ((10, 3600), (60, 10_800), (300, 86_400), (900, 7200)):
        grid = np.geomspace(save / 3, mtbf * 3, 20_000)
        best = grid[np.argmax([storage.useful_share(t, save, mtbf) for t in grid])]
        assert storage.daly(save, mtbf) == pytest.approx(best, rel=0.01)
        assert storage.young(save, mtbf) == pytest.approx(best, rel=0.35)
    assert storage.daly(100, 50) == 50


def test_useful_share_against_simulated_failures():
    rng = np.random.default_rng(0)
    interval, save, mtbf, restart = 900.0, 60.0, 7200.0, 300.0
    clock = work = 0.0
    while work < 3000 * interval:
        failure = rng.exponential(mtbf)
        if failure >= interval + save:  # without memory: each attempt has a fresh failure
            clock, work = clock + interval + save, work + interval
            continue
        clock += failure
        while (again := rng.exponential(mtbf)) < restart:
            clock += again
        clock += restart
    assert storage.useful_share(interval, save, mtbf, restart) == pytest.approx(
        work / clock, rel=0.02
    )


def test_llama_3_saves_and_fails_as_published():
    """A failure every 3 hours on 16 384 GPUs: above 90 % useful needs short saves."""
    run = Run(
        "llama-3.1-405b", data=128, tensor=8, pipeline=16, zero=1, sequence=8192,
        precision="bf16-master",
    )  # fmt: skip
    size = sum(numbers(contents(run)[p]) for p in ("model", "optimizer", "master"))
    mtbf = 54 * 86400 / 419
    quick = storage.saving(size, mtbf, disk=2e12, gpus=run.gpus, restart=600)
    slow = storage.saving(size, mtbf, disk=2e10, gpus=run.gpus, restart=600)
    assert size == 14 * run.model.parameters.total + 4 * len(storage.parameter_shapes(run.model))
    assert quick.useful > 0.9 > slow.useful


def test_asynchronous_saves_stop_less_and_need_a_rate():
    size, mtbf = 100e9, 86_400.0
    both = [storage.saving(size, mtbf, disk=2e9, gpus=8, asynchronous=way) for way in (False, True)]
    assert both[1].stall == pytest.approx(size / 8 / storage.PINNED)
    assert both[0].stall == pytest.approx(both[1].stall + 50)
    assert both[1].useful > both[0].useful
    assert all(way.rate <= 2e9 for way in both)
    assert storage.saving(size, math.inf, disk=2e9, interval=500).useful == pytest.approx(
        500 / (500 + 54)
    )


# --- Data ----------------------------------------------------------------------------------------


def test_token_files_as_bytes_on_disk(tmp_path):
    lengths = [700, 11, 2000, 45]
    stream = np.zeros(sum(lengths) + len(lengths), dtype=np.uint16)
    stream.tofile(tmp_path / "data.bin")
    files = storage.token_files(sum(lengths), 50_257, documents=len(lengths), sequence=128)
    assert files.data == (tmp_path / "data.bin").stat().st_size
    assert files.index == 9 + 8 + 1 + 8 + 8 + (4 + 8) * 4 + 8 * 5
    assert files.sequences == (len(stream) - 1) // 128
    assert storage.token_files(1e12, 128_256).data == 4e12


def test_padding_share():
    assert storage.padding_share([2048, 2048], 2048) == 0
    rows = [[1] * 1024 + [0] * 1024, [1] * 2048, [1] * 512 + [0] * 1536]
    zeros = sum(row.count(0) for row in rows) / sum(map(len, rows))
    assert storage.padding_share([1024, 2048, 512], 2048) == pytest.approx(zeros)


def test_disk_of_a_run_is_its_parts():
    run = Run("gpt2", sequence=1024, data=8, micro_batch=12, accumulation=5)
    space = storage.disk(run, 300e9, keep=2)
    assert space.data == 600e9 + 42
    assert space.checkpoints == 2 * sizing.checkpoint(run).total
    assert space.logs == math.ceil(300e9 / run.tokens) * storage.LOG_LINE
    line = json.dumps({"step": 100000, "loss": 2.912345, "rate": 6e-4, "norm": 0.812345})
    assert len(line) < storage.LOG_LINE
    assert space.total == sum(space.parts.values())


# --- Several ranks -------------------------------------------------------------------------------


def save_together(point, world):
    """Save a small model divided by FSDP2, with odd widths, from every rank."""
    run = Run(**point["run"])
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(AutoConfig.for_model(**run.model.config))
    if run.zero == 3:
        mesh = init_device_mesh("cpu", (world.ranks,))
        for module in (*network.base_model.layers, network):
            fully_shard(module, mesh=mesh)
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    batch = torch.randint(run.model.vocab, (1, run.sequence))
    network(input_ids=batch, labels=batch, use_cache=False).loss.backward()
    optimizer.step()
    named = checkpoints.parameters(network)
    dcp.save(checkpoints.content(named, optimizer, (1, 8), world.rank), checkpoint_id=point["path"])
    return {}


@pytest.mark.parametrize(("ranks", "zero"), [(4, 3), (2, 0)])
def test_several_ranks_to_the_byte(ranks, zero, tmp_path):
    """Vocabulary 131, width 24, MLP 5 over four ranks: parts of unequal size, and an empty one."""
    run = {
        "model": {**TINY, "intermediate_size": 5},
        "sequence": 8,
        "precision": "fp32",
        "data": ranks,
        "zero": zero,
    }
    path = str(tmp_path / "together")
    workers.launch(save_together, {"run": run, "path": path}, ranks, cpu())
    ours = sizing.checkpoint(Run(**run), path=path, device="cpu")
    assert ours.files == sizes(Path(path))
    alone = sizing.checkpoint(Run(**run), sharded=False, path=path, device="cpu")
    assert alone.weights + alone.optimizer == ours.weights + ours.optimizer


def test_metadata_of_many_ranks_is_scaled_up():
    run = Run({**TINY, "hidden_size": 64, "intermediate_size": 128}, data=16, zero=3)
    whole = sizing.checkpoint(run)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "ENTRIES", 1000)
        scaled = sizing.checkpoint(run)
    assert whole.exact and not scaled.exact
    numbers = ("weights", "optimizer", "other")
    assert all(getattr(whole, part) == getattr(scaled, part) for part in numbers)
    assert scaled.files[".metadata"] == pytest.approx(whole.files[".metadata"], rel=0.1)
    assert scaled.total == pytest.approx(whole.total, rel=0.02)


def test_a_checkpoint_of_ten_thousand_gpus_is_quick():
    run = Run("llama-3.1-405b", data=128, tensor=8, pipeline=16, zero=1, precision="bf16-master")
    large = sizing.checkpoint(run)
    assert len(large.files) == run.gpus + 1
    assert large.container < 0.02 * large.total


@pytest.mark.parametrize("degrees", [{"tensor": 2}, {"pipeline": 3}, {"data": 4, "zero": 1}])
@pytest.mark.parametrize("form", storage.FORMATS)
def test_parts_of_all_ranks_hold_everything_once(degrees, form):
    """Numbers do not depend on how they are divided; containers do."""
    run = Run(TINY, sequence=8, precision="bf16-master", **degrees)
    parts = sizing.checkpoint(run, form, sharded=True)
    whole = sizing.checkpoint(run, form, sharded=False)
    assert len(parts.files) >= run.gpus
    assert parts.container > 0
    assert parts.total - parts.container == whole.total - whole.container
