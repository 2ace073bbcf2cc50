"""Throughput of published runs of every engine, and the pieces of physics that carry it."""

import csv
import json
import time
from dataclasses import replace
from statistics import mean, median

import pytest

import sizing
from sizing import Run, step_time
from sizing.choices import ENGINES
from sizing.evidence import bands, published, published_text, whole
from sizing.evidence import published_runs as runs
from sizing.evidence.__main__ import main
from sizing.evidence.printed import NotSayable, row_of
from sizing.hardware import gpu
from sizing.speed.engines import PLAIN, engine_of, engines
from sizing.speed.kernels import rates_of
from sizing.speed.rates import filling, reached, sustained_rates
from sizing.speed.trust import TABLE
from sizing.units import DATA

RUN = Run(
    "llama-3-8b", sequence=8192, micro_batch=2, precision="bf16-master", optimizer="adamw-fused",
    data=8, zero=3, engine="torchtitan",
)  # fmt: skip


@pytest.fixture(scope="module")
def dense():
    return [c for c in runs.judged() if c.row.kind == "16 bits, dense"]


# --- Errors --------------------------------------------------------------------------------------


def test_16_bit_rows(dense):
    assert len(dense) > 170
    assert runs.size(c.error for c in dense) < 0.05
    assert sum(abs(c.error) <= 0.2 for c in dense) > 0.94 * len(dense)
    sources = runs.by(lambda row: row.group, dense)
    assert len(sources) > 20
    assert median(map(runs.size, sources.values())) < 0.09


def test_all_rows():
    judged = runs.judged()
    assert len(judged) > 370
    assert runs.size(c.error for c in judged) < 0.065
    assert sum(abs(c.error) <= 0.2 for c in judged) >= 0.85 * len(judged)
    fp8 = [c.error for c in judged if c.row.kind == "fp8 matmuls"]
    assert runs.size(fp8) < 0.08


def test_sources_that_set_no_constant(dense):
    """Nothing was fitted to their rows; most are small and leave something unprinted."""
    free = {group for group, _ in runs.free_sources()}
    assert len(free) > 15
    assert runs.size(c.error for c in dense if c.row.group in free) < 0.10
    assert median(error for _, error in runs.free_sources()) < 0.10


def test_calibration_is_one_row_for_a_constant():
    ids = [row.id for row in runs.load()]
    assert len(ids) == len(set(ids))
    assert set(runs.CALIBRATION) <= set(ids)
    assert len(set(runs.CALIBRATION.values())) == len(runs.CALIBRATION)
    for row in runs.load():
        if row.calibration:
            assert abs(runs.compare(row).error) < 0.02, row.id


def test_gain_of_fp8():
    """Median gain of fp8 over 16 bits where a source prints both: 1.4 (NVIDIA, 97 pairs)."""
    rows = [row for row in runs.load() if "dgxc-benchmarking" in row.source]
    gains, said = [], []
    for low in rows:
        if low.run.precision != "fp8" or low.run.lora is not None:
            continue
        for high in rows:
            same = replace(low.run, precision=high.run.precision, scaling=None) == high.run
            if high.run.precision != "fp8" and same and low.source == high.source:
                gains.append(low.rate / high.rate)
                said.append(runs.compare(low).rate / runs.compare(high).rate)
    assert len(gains) > 25
    assert median(said) == pytest.approx(median(gains), rel=0.05)


def test_the_command_prints_why(capsys):
    assert main(["published"]) == 0
    printed = capsys.readouterr().out
    assert "Throughput of published runs" in printed
    assert "by source, engine and card, the worst first" in printed
    assert any(reason in printed for reason in published_text.WHY.values())


def test_readme_quotes_the_table():
    readme = (DATA.parent / "README.md").read_text(encoding="utf-8")
    for kind, number, error, close in runs.summary():
        assert f"| {kind} | {number} | {error:.1%} | {close:.0%} |" in readme


def test_tidy_rows():
    rows = published(source="llm-foundry", gpu="h100", kind="16 bits")
    assert len(rows) > 30
    assert all(row["gpu"] == "h100-sxm" and 0.1 < row["mfu"] < 0.7 for row in rows)
    assert sizing.evidence.published(engine="megatron")
    assert not published(name="no such model")


def test_what_cannot_be_said_says_why():
    rows = list(csv.DictReader(runs.PATH.open(newline="", encoding="utf-8")))
    assert {row["engine"] for row in rows} >= {"megatron", "fsdp", "torchtitan", "transformers"}
    with pytest.raises(NotSayable, match="fp4"):
        row_of({"source": "x", "tok_s_gpu": 1, "precision": "NVFP4", "gpu": "GB200"})
    with pytest.raises(NotSayable, match="no throughput"):
        row_of({"source": "x"})
    for row in rows[:5]:
        assert row["model"][0] != "{" or json.loads(row["model"])["vocab_size"]


# --- Trust ---------------------------------------------------------------------------------------


def test_committed_trust_is_what_the_code_gives():
    with TABLE.open(newline="", encoding="utf-8") as file:
        committed = list(csv.DictReader(file))
    assert committed == bands.trusted(), "run python -m sizing.evidence record published"


def test_a_result_says_whether_it_interpolates():
    run = replace(RUN, engine="fsdp", attention="flash-1", micro_batch=1, sequence=2048)
    near = step_time(run)
    assert near.trust.interpolates and not near.trust.beyond
    assert near.trust.group.engine == "fsdp" and near.trust.group.card == "h100-sxm"
    assert near.band[0] < near.total < near.band[1]
    assert str(near.trust).startswith("interpolates: nearest are")


@pytest.mark.parametrize(
    ("changes", "card", "beyond"),
    [
        ({}, "l40s", "card"),
        ({"data": 65536}, "h100-sxm", "GPUs"),
        ({"engine": "llm.c", "zero": 1}, "h100-sxm", "engine"),
        (
            {"model": sizing.Model("gpt2"), "sequence": 1024, "engine": "fsdp"},
            "h100-sxm",
            "model size",
        ),
    ],
)
def test_a_result_says_where_it_extrapolates(changes, card, beyond):
    result = step_time(replace(RUN, **changes), card)
    assert not result.trust.interpolates and beyond in result.trust.beyond
    low, high = result.band
    assert low < 0.9 * result.total and high > 1.1 * result.total


def test_bands_hold_eight_in_ten():
    inside = [
        c.time.band[0] <= c.time.total * (1 + c.error) <= c.time.band[1] for c in runs.judged()
    ]
    assert sum(inside) > 0.8 * len(inside)
    held = bands.left_out()
    every = [each for rows in held.values() for each in rows]
    assert len(every) == len(inside) and sum(every) > 0.85 * len(every)
    assert mean(map(mean, held.values())) > 0.8  # of a source that nobody has seen


# --- Engines -------------------------------------------------------------------------------------


def test_each_engine_has_a_row_and_runs():
    assert set(engines()) == set(ENGINES) - {None} | {PLAIN}
    for name in engines():
        assert step_time(replace(RUN, engine=name)).total > 0
    assert engine_of(replace(RUN, engine=None)).name == engine_of(replace(RUN, engine=PLAIN)).name


def test_no_engine_has_nothing_that_nanotron_alone_has_shown():
    """On a card they are the same; a pipeline across nodes costs its host nothing more."""
    alone = replace(RUN, data=1, zero=0)
    run = Run(
        "llama-3.1-70b", sequence=4096, accumulation=16, precision="bf16-master", tensor=8,
        pipeline=2, data=4, zero=1,
    )  # fmt: skip
    for each in (alone, replace(run, pipeline=1, data=1, zero=0)):
        assert step_time(replace(each, engine="nanotron")) == step_time(replace(each, engine=None))
    plain, nanotron = step_time(run), step_time(replace(run, engine="nanotron"))
    assert plain.host < 0.01 * plain.total < 0.4 * nanotron.total < nanotron.host


def test_nanotrons_latency_grows_with_nodes_and_trees_do_not():
    def exposed(engine, data):
        run = replace(RUN, engine=engine, zero=1, data=data)
        return step_time(run).data_parallel

    linear = exposed("nanotron", 2048) / exposed("nanotron", 256)
    assert linear > 3 > 1.5 > exposed("megatron", 2048) / exposed("megatron", 256)


def test_bubble_is_divided_by_interleaving():
    """(p - 1) / (v m): Narayanan et al. (arXiv:2104.04473), section 2.2.2."""
    run = Run(
        "gpt3-175b", sequence=2048, precision="bf16-master", accumulation=16, pipeline=8,
        engine="megatron",
    )  # fmt: skip
    plain = step_time(run)
    twelve = step_time(replace(run, interleave=12))
    assert twelve.pipeline_bubble == pytest.approx(plain.pipeline_bubble / 12)


def test_kernels_of_attention_are_ordered_on_each_card():
    for card in ("a100-sxm-80gb", "h100-sxm"):
        older, newer = rates_of("flash-1", card), rates_of("flash-2", card)
        assert older[0] < newer[0] and older[1] < newer[1]
    seconds = [
        step_time(replace(RUN, attention=kernel, sequence=32768)).attention
        for kernel in ("flash-1", "flash-2", "flash-3")
    ]
    assert seconds == sorted(seconds, reverse=True)


def test_tiles_and_waves():
    """A last wave that is nearly empty costs as much as a full one."""
    assert filling(128 * 132, 256, 132) == 1.0
    assert filling(128 * 133, 256, 132) < 0.70  # smaller tiles are slower, and fill more
    assert filling(1000, 1000, 0) == 1.0  # a card whose processors nobody counted
    assert 0 < filling(1, 1, 132) < 1e-3


def test_a_card_held_back_by_power_is_slower():
    """An H100 at 500 of 700 W: the cube root, 11 % (published: 4 to 15 %)."""
    limited = replace(gpu("h100-sxm"), power=500)
    ratio = sustained_rates(limited).matmul / sustained_rates("h100-sxm").matmul
    assert ratio == pytest.approx((500 / 700) ** (1 / 3))


def test_fp8_is_faster_by_less_than_its_peak():
    low = step_time(replace(RUN, precision="fp8"))
    high = step_time(RUN)
    assert 1.1 < high.total / low.total < 1.8
    assert low.elementwise > high.elementwise  # casts


def test_experts_and_adapters():
    mixture = Run(
        "mixtral-8x7b", sequence=4096, micro_batch=2, precision="bf16-master", data=16, zero=1,
        engine="megatron",
    )  # fmt: skip
    assert step_time(mixture).expert_parallel == 0
    near, far = (step_time(replace(mixture, expert=8), node=node) for node in (8, 4))
    assert 0 < near.expert_parallel < far.expert_parallel
    adapted = step_time(replace(RUN, lora=16))
    assert adapted.matmul < step_time(RUN).matmul
    assert adapted.optimizer == 0


def test_dispatch_of_tokens():
    """8 experts of 128 on 64 ranks of 8 nodes: all copies cross 7 of 8 times; one of each to a node
    reaches 8 (1 - (7/8)^8) = 5.25 nodes; beside computation the rest costs processors alone."""
    rates = sustained_rates("h100-sxm")
    sent = 1e9 * 7 / 8 / rates.network
    every = rates.all_to_all(64, 1, 1e9, 8)
    once = rates.all_to_all(64, 1, 1e9, 8, once=True)
    assert every == pytest.approx(8 * sent, rel=1e-3)
    assert once == pytest.approx(8 * (1 - (7 / 8) ** 8) * sent, rel=1e-3)
    inside = 8 * (1 - (7 / 8) ** 8) * 1e9 * 7 / 8 / rates.link
    assert rates.all_to_all(8, 1, 1e9, 8, once=True) == pytest.approx(inside, rel=1e-2)
    # DeepSeek-V3's router: 4 of 8 groups, on as many nodes; on half as many a node has two
    assert reached(8, 8, (8, 4)) == pytest.approx(4 * (1 - (3 / 4) ** 8))
    assert reached(4, 10**6, (8, 4)) == pytest.approx(4 * (1 - 15 / 70))
    assert reached(8, 10**6, (8, 4)) == pytest.approx(4) and reached(1, 8, (8, 4)) == 1
    run = Run(
        "qwen3-30b-a3b", sequence=4096, micro_batch=4, precision="bf16-master", data=64, zero=1,
        expert=64, engine="megatron",
    )  # fmt: skip
    plain, nccl, beside = (
        step_time(replace(run, **words))
        for words in ({}, {"dispatch": "all-to-all"}, {"overlap_dispatch": True})
    )
    assert plain == step_time(replace(run, dispatch="hybridep"))
    assert beside.expert_parallel < plain.expert_parallel < nccl.expert_parallel
    assert beside.elementwise == plain.elementwise < nccl.elementwise  # sorted before they leave
    with pytest.raises(ValueError, match="overlap_dispatch: 'yes' given; allowed: True, False"):
        replace(run, overlap_dispatch="yes")


def test_gradients_of_experts_are_products_of_their_own():
    """As many FLOPs as of one matrix, but each expert's gradient is written, by its own kernel."""
    rates = sustained_rates("h100-sxm")
    one, many = (rates.weight_gradient(16384, 4096, 2048, copies=c) for c in (1, 64))
    assert one == rates.multiply(4096, 2048, 16384)
    assert many - one > 0.9 * 63 / 4 * 8e-6  # their tiles fill the waves a little better
    written = 2 * (16384 * (4096 + 2048) + 512 * 4096 * 2048) / rates.memory
    assert rates.weight_gradient(16384, 4096, 2048, copies=512) > written


def test_both_kinds_of_weights_hide_behind_one_pass():
    """A longer sequence is never cheaper: experts and others share the pass they hide behind."""
    run = Run(
        "deepseek-v3", sequence=512, accumulation=2, precision="fp16-mixed", recompute="full",
        data=512, zero=2, tensor=2, context=8, expert=64, engine="fsdp", kernels="compiled",
    )  # fmt: skip
    short, long = (step_time(replace(run, sequence=s), "a100-sxm-80gb") for s in (512, 1024))
    assert short.total < long.total


@pytest.mark.parametrize("card", ["h100-sxm", "rtx-3090", "a100-pcie-80gb"])
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_a_faster_network_is_never_slower(card, zero):
    run = replace(RUN, engine="xla", zero=zero, data=64, replicate=2 if zero else 1)
    seconds = [step_time(run, card, network=rate * 1e9).total for rate in (5, 10, 20, 50, 100, 500)]
    assert seconds == sorted(seconds, reverse=True)
    run = replace(run, engine="fsdp", data=16)
    hosts = [step_time(run, card, network=5e9, host=share).total for share in (0, 1, 4, 10)]
    assert hosts == sorted(hosts)  # replicas and shards hide behind one pass
    slow_link = [step_time(run, card, node=n).total for n in (8, 16)]
    assert slow_link == sorted(slow_link, reverse=True)  # what leaves a card crosses its link first


def test_without_sequence_parallelism_norms_are_whole():
    run = replace(RUN, data=1, zero=0, tensor=8, engine="megatron-deepspeed")
    undivided = step_time(replace(run, sequence_parallel=False))
    assert undivided.elementwise > step_time(run).elementwise


def test_fast_enough_for_a_search():
    run = replace(RUN, engine="megatron", zero=1, tensor=4, pipeline=4, accumulation=8)
    step_time(run)
    best = min(_seconds(run) for _ in range(20))
    assert best < 200e-6


def _seconds(run) -> float:
    began = time.process_time()
    for _ in range(10):
        step_time(run)
    return (time.process_time() - began) / 10


# Korthikanti et al. (arXiv:2205.05198), table 5: hidden, layers, heads, tensor, pipeline,
# interleaving, batch, micro-batch, seconds with full recompute, seconds with sequence parallelism
# and selective recompute.
KORTHIKANTI = [
    (6144, 48, 64, 8, 1, 1, 4, 4, 1.42, 1.10),
    (12288, 96, 96, 8, 8, 3, 64, 1, 18.13, 13.75),
    (20480, 105, 128, 8, 35, 3, 280, 1, 49.05, 37.83),
    (25600, 128, 160, 8, 64, 1, 512, 1, 94.42, 71.49),
]


@pytest.mark.parametrize("row", KORTHIKANTI, ids=["22B", "175B", "530B", "1T"])
def test_sequence_parallelism_and_selective_recompute(row):
    """Nothing was calibrated with them; Selene: 200 Gbit/s for each A100."""
    hidden, layers, heads, tensor, pipeline, interleave, batch, micro_batch, full, selective = row
    config = {"model_type": "gpt2", "vocab_size": 51200, "n_positions": 2048}
    sizes = {"n_embd": hidden, "n_layer": layers, "n_head": heads}
    run = Run(
        sizing.Model({**config, **sizes}), sequence=2048, micro_batch=micro_batch,
        accumulation=batch // micro_batch, precision="bf16-master", optimizer="adamw-fused",
        recompute="full", attention="eager", tensor=tensor, pipeline=pipeline,
        interleave=interleave, engine="megatron", sequence_parallel=False,
    )  # fmt: skip

    def seconds(run):
        return step_time(run, "a100-sxm-80gb", network=25e9).total

    assert seconds(run) == pytest.approx(full, rel=0.12)
    lean = replace(run, recompute="selective", sequence_parallel=True)
    assert seconds(lean) == pytest.approx(selective, rel=0.08)


# --- Hybrid sharding, packed documents, adapters, offload ----------------------------------------


def test_shards_within_a_node_gather_on_its_link():
    run = replace(RUN, data=64)
    parts = {n: step_time(replace(run, replicate=n)).data_parallel for n in (1, 8)}
    assert parts[8] < parts[1]
    sent = sizing.communication(replace(run, replicate=8)).by_purpose
    gradients = 4 * RUN.model.parameters.total / 8 * 2 * 7 / 8  # an eighth, all-reduced over eight
    master = replace(run, replicate=8, precision="bf16-mixed")
    assert sizing.communication(master).by_purpose["gradients across replicas"] == gradients
    assert sent["weights for forward"] == pytest.approx(2 * RUN.model.parameters.total * 7 / 8)


def test_shards_decide_what_a_gpu_holds():
    run = replace(RUN, data=64)
    hybrid, eight = sizing.memory(replace(run, replicate=8)), sizing.memory(replace(run, data=8))
    assert hybrid.parameters == eight.parameters and hybrid.optimizer == eight.optimizer
    assert hybrid.total > sizing.memory(run).total


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"replicate": 3}, "replicate: 3 given; allowed: a divisor of data = 8"),
        ({"replicate": 2, "zero": 0}, "replicate: 2 given; allowed: 1 with zero=0"),
        ({"document": 9000}, "document: 9000 given; allowed: 1 to 8192"),
        ({"document": 512, "attention": "eager"}, "document: 512 given; allowed: None"),
        ({"offload": "activations"}, "offload: 'activations' given with recompute='none'"),
    ],
)
def test_what_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        step_time(replace(RUN, **changes))


def test_documents_attend_within_themselves():
    """A sequence of n documents has an n-th of the pairs, about; a last one may be shorter."""
    run = replace(RUN, document=1024)
    assert step_time(run).attention == pytest.approx(step_time(RUN).attention / 8, rel=1e-3)
    assert step_time(run).matmul == step_time(RUN).matmul
    pairs = [sizing.flops(replace(RUN, document=d)).forward for d in (8192, 3000, 1024)]
    assert pairs == sorted(pairs, reverse=True) and pairs[0] == sizing.flops(RUN).forward
    one = sizing.compute.query_key_pairs(8192, RUN.model.blocks[0], "causal", 3000)
    assert one == 3000 * 3001 + 2192 * 2193 // 2


def test_adapters_cost_where_they_are():
    run = replace(RUN, engine="transformers", precision="bf16")
    few = sizing.Lora(16, ("q_proj", "v_proj"))
    some, every = (step_time(replace(run, lora=lora)) for lora in (few, 16))
    assert some.elementwise < every.elementwise and some.matmul == every.matmul
    dropped = sizing.Lora(16, ("q_proj", "v_proj"), dropout=0.1)
    assert step_time(replace(run, lora=dropped)).elementwise > some.elementwise
    narrow = sizing.Lora(16, ("q_proj", "v_proj"), dtype="bf16")
    assert step_time(replace(run, lora=narrow)).elementwise < some.elementwise


def test_a_layer_that_is_run_again_ends_before_its_last_product():
    """torch.utils.checkpoint does not make down_proj's output again: of seven products one."""
    run = replace(RUN, recompute="full", data=1, zero=0)
    early = step_time(run).recompute
    late = step_time(replace(run, kernels="compiled", engine="fsdp", attention="flash-2")).recompute
    assert early < 0.85 * late


def test_galore_decomposes_every_200_steps():
    """By hand for 4096 x 4096: 26 a^3 FLOPs in fp32 at 5.5 % of the peak; the rest are products."""
    run = replace(RUN, data=1, zero=0, engine="transformers", precision="bf16")
    found = step_time(replace(run, optimizer="galore-1024"), "a100-sxm-80gb")
    square = 26 * 4096**3 * 2  # queries and the output; keys and values are (1024, 4096)
    keys = 2 * (6 * 4096 * 1024**2 + 20 * 1024**3)
    mlp = 3 * (6 * 14336 * 4096**2 + 20 * 4096**3)
    decomposing = 32 * (square + keys + mlp) / (0.055 * 19.5e12) / 200
    plain = step_time(replace(run, optimizer="adamw"), "a100-sxm-80gb")
    small = step_time(replace(run, optimizer="galore"), "a100-sxm-80gb")
    assert decomposing < small.optimizer < decomposing + plain.optimizer
    inside = sum(w.elements for w in run.model.blocks[0].weights if w.kind == "matrix") * 32
    more = 4 * inside * (1024 - 128) / (0.78 * 312e12)
    assert found.optimizer - small.optimizer == pytest.approx(more)


def test_offload_waits_for_the_bus_and_the_host():
    run = replace(RUN, data=1, zero=0, recompute="full", engine="deepspeed")
    plain, away = step_time(run), step_time(replace(run, offload="optimizer"))
    # read and written: master weights and moments, 24 bytes; gradients and working weights, 2 each
    least = 28 * RUN.model.parameters.total / 614e9
    assert least < away.optimizer < 4 * least
    assert away.optimizer > plain.optimizer and sum(away.parts.values()) == away.total
    assert (
        step_time(run, "a100-sxm-80gb").total
        < step_time(replace(run, offload="optimizer"), "a100-sxm-80gb").total
    )
    many = replace(run, offload="optimizer", accumulation=4)  # gradients leave after the last one
    bus = 2 * RUN.model.parameters.total / (0.8 * 63e9)
    assert step_time(many).offload == pytest.approx(bus)
    layered = replace(run, zero=3, offload=("optimizer", "parameters"), micro_batch=1, sequence=128)
    assert step_time(layered).offload > 0 == step_time(replace(run, offload="activations")).offload


def test_memory_without_sequence_parallelism():
    """Published peaks of runs whose norms are whole on every rank."""
    groups = whole.groups()
    assert sum(map(len, groups.values())) > 70
    assert runs.size(groups["minimind, tensor 1"]) < 0.03
    assert runs.size(groups["minimind, tensor 2"]) < 0.05
    assert runs.size(groups["bloom, 16-bit gradients"]) < 0.10
    assert runs.size(groups["bloom, fp32 gradients"]) < 0.10


def test_scales_of_fp8_cost_their_casts():
    """Blocks are scaled in one pass; a scale of the whole tensor, or of rows, is read for first."""
    run = replace(RUN, precision="fp8")
    casts = {
        word: step_time(replace(run, scaling=word)).elementwise
        for word in ("delayed", "blockwise", "tensorwise", "rowwise")
    }
    assert list(casts.values()) == sorted(casts.values())
    assert step_time(run).elementwise == casts["tensorwise"]
    fused = replace(run, engine="megatron", zero=1)
    assert step_time(fused) == step_time(replace(fused, scaling="delayed"))
    assert step_time(replace(run, scaling="blockwise")).matmul > step_time(run).matmul


def test_keys_and_values_gathered_before_attention_wait_longer_than_a_ring():
    """torchtitan's way: every head's, and blocks merged in fp32 operation by operation."""
    run = replace(RUN, zero=1, sequence=32768, context=8, data=1, attention="flash-2")
    ring = step_time(replace(run, engine="megatron")).context_parallel
    gathered = step_time(run).context_parallel
    assert gathered > ring
    merged = 38 * 7 * 2 * 32768 / 8 * RUN.model.hidden * RUN.model.layers / 3.35e12
    assert gathered > merged
