"""What `sizing.planning.launch` writes, judged by those who read it: bash, torchrun, DeepSpeed."""

import json
import math
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import replace

import pytest

import sizing
from sizing.planning.launch import (
    LAYERS,
    accelerate_config,
    deepspeed_config,
    nodes,
    sbatch,
    torchrun,
    torchtitan_toml,
)

RUN = sizing.Run("pythia-14m", sequence=128, micro_batch=2, accumulation=4, data=4)
TRAIN = "train.py --lr 1e-4"

# Long options in sbatch's manual, of those that a training job could want.
OPTIONS = {
    "account", "cpus-per-gpu", "cpus-per-task", "error", "exclusive", "gpus-per-node", "job-name",
    "mem", "nodes", "ntasks-per-node", "output", "partition", "signal", "time",
}  # fmt: skip


def options(script: str) -> dict[str, str]:
    """The #SBATCH options that sbatch would read: it stops at the first line that is a command."""
    lines = script.splitlines()
    assert lines[0] == "#!/bin/bash"
    found = {}
    for line in lines[1:]:
        if line and not line.startswith("#"):
            break
        if line.startswith("#SBATCH "):
            key, value = re.fullmatch(r"#SBATCH --([a-z-]+)=(\S+)", line).groups()
            assert key not in found
            found[key] = value
    assert script.count("#SBATCH") == len(found)
    return found


def config(command: str):
    """What torchrun itself reads in a command: its configuration, and the words it would start."""
    launcher = pytest.importorskip("torch.distributed.run")
    name, *words = shlex.split(command)
    assert name == "torchrun"
    arguments = launcher.parse_args(words)
    found, python, script = launcher.config_from_args(arguments)
    assert python == sys.executable
    return arguments, found, script


@pytest.mark.parametrize(
    ("gpus", "node", "expected"),
    [(1, 8, (1, 1)), (4, 4, (1, 4)), (8, 8, (1, 8)), (16, 8, (2, 8)), (512, 8, (64, 8))],
)
def test_nodes(gpus, node, expected):
    assert nodes(replace(RUN, data=gpus), node) == expected


@pytest.mark.parametrize("gpus", [1, 3, 8])
def test_torchrun_reads_its_command_on_one_node(gpus, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    arguments, found, script = config(torchrun(replace(RUN, data=gpus), TRAIN))
    assert (found.min_nodes, found.max_nodes, found.nproc_per_node) == (1, 1, gpus)
    assert arguments.standalone
    assert script == ["-u", "train.py", "--lr", "1e-4"]


def test_torchrun_reads_its_command_on_several_nodes(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    run = replace(RUN, data=8, tensor=2)
    command = torchrun(run, "-m sizing.experiments record zero", node=4, head="node-01:29500")
    _, found, script = config(command)
    assert (found.min_nodes, found.max_nodes, found.nproc_per_node) == (4, 4, 4)
    assert (found.rdzv_backend, found.rdzv_endpoint) == ("c10d", "node-01:29500")
    assert found.run_id
    assert script == ["-u", "-m", "sizing.experiments", "record", "zero"]


def test_two_nodes_meet(tmp_path):
    pytest.importorskip("torch")
    worker = tmp_path / "worker.py"
    worker.write_text("import os\nprint(os.environ['RANK'], 'of', os.environ['WORLD_SIZE'])\n")
    run = replace(RUN, data=2)
    command = torchrun(run, shlex.quote(str(worker)), node=1, head="localhost:29571")
    words = [sys.executable, "-m", "torch.distributed.run", *shlex.split(command)[1:]]
    agents = [
        subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [agent.communicate(timeout=120) for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], said
    assert sorted(out.strip() for out, _ in said) == ["0 of 2", "1 of 2"]


@pytest.mark.parametrize(
    ("gpus", "node", "count", "each"), [(1, 4, 1, 1), (4, 4, 1, 4), (12, 4, 3, 4)]
)
def test_sbatch_asks_for_what_the_run_takes(gpus, node, count, each):
    run = replace(RUN, data=gpus)
    script = sbatch(run, TRAIN, hours=12, node=node, cpus=6, account="lab-1", partition="h100")
    found = options(script)
    assert set(found) <= OPTIONS
    assert int(found["nodes"]) * int(found["gpus-per-node"]) == run.gpus
    assert found == {
        "job-name": "training",
        "partition": "h100",
        "account": "lab-1",
        "nodes": str(count),
        "ntasks-per-node": "1",
        "gpus-per-node": str(each),
        "cpus-per-task": str(6 * each),
        "time": "12:00:00",
        "output": "%x-%j.out",
    }


@pytest.mark.parametrize("data", [1, 8, 32])
def test_bash_reads_the_batch_script(data):
    script = sbatch(replace(RUN, data=data), TRAIN, hours=1)
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "set -euo pipefail" in script.splitlines()


@pytest.mark.parametrize(
    ("hours", "clock"),
    [(12, "12:00:00"), (5.6, "05:36:00"), (1 / 3600, "00:01:00"), (100.01, "100:01:00")],
)
def test_the_limit_is_in_slurms_minutes(hours, clock):
    assert options(sbatch(RUN, TRAIN, hours=hours))["time"] == clock


def simulate(script, tmp_path, srun="", scontrol="echo node-07; echo node-08"):
    """Run a batch script with stand-ins for SLURM's commands; srun prints what it is given."""
    for name, body in {"srun": f'printf "%s\\n" "$@"\n{srun}', "scontrol": scontrol}.items():
        path = tmp_path / name
        path.write_text(f"#!/bin/bash\n{body}\n")
        path.chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "SLURM_JOB_NODELIST": "node-[07-08]",
        "SLURM_JOB_ID": "1234567",
        "SLURM_CPUS_PER_TASK": options(script)["cpus-per-task"],
    }
    bash = shutil.which("bash")
    return subprocess.run([bash], input=script, env=environment, capture_output=True, text=True)


def test_a_batch_script_starts_torchrun_on_every_node(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    done = simulate(sbatch(replace(RUN, data=16), TRAIN, hours=1), tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    bad_exit, cpus, *command = done.stdout.splitlines()
    assert (bad_exit, cpus) == ("--kill-on-bad-exit=1", "--cpus-per-task=64")
    _, found, script = config(shlex.join(command))
    assert (found.min_nodes, found.max_nodes, found.nproc_per_node) == (2, 2, 8)
    assert found.rdzv_endpoint == "node-07:24567"
    assert found.run_id == "1234567"
    assert script == ["-u", "train.py", "--lr", "1e-4"]


@pytest.mark.parametrize("data", [4, 16])
def test_a_batch_script_passes_the_exit_code_on(data, tmp_path):
    script = sbatch(replace(RUN, data=data), TRAIN, hours=1)
    assert simulate(script, tmp_path, srun="exit 17").returncode == 17


def test_a_batch_script_says_the_run():
    """Every field that is not the default, each once, in a comment that bash leaves alone."""
    run = sizing.Run("mixtral-8x7b", data=8, zero=1, expert=8, document=512, recompute=("mlp",))
    (line,) = [x for x in sbatch(run, TRAIN, hours=1).splitlines() if x.startswith("# ")]
    assert line.startswith("# mixtral-8x7b: ")
    said = dict(re.findall(r"(\w+)=([^=]+)(?:, |$)", line))
    assert set(said) == {"data", "zero", "expert", "document", "recompute"}
    assert said["expert"] == "8"


def test_a_batch_script_without_its_nodes_stops_before_it_starts_anything(tmp_path):
    script = sbatch(replace(RUN, data=16), TRAIN, hours=1)
    done = simulate(script, tmp_path, scontrol="exit 1")
    assert done.returncode != 0
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nodes(replace(RUN, data=12)), "gpus: 12 given; allowed: at most node = 8"),
        (lambda: nodes(RUN, 0), "node: 0 given; allowed: a whole number"),
        (lambda: torchrun(replace(RUN, data=16), TRAIN), "head: None given; allowed: host:port"),
        (lambda: torchrun(replace(RUN, data=16), TRAIN, head="node-01"), "head: 'node-01' given"),
        (lambda: torchrun(RUN, "  "), "script: '  ' given; allowed: one line"),
        (lambda: torchrun(RUN, "-m"), "script: '-m' given; allowed: one line"),
        (lambda: torchrun(RUN, "--nnodes=2 train.py"), "script: '--nnodes=2 train.py' given"),
        (lambda: torchrun(RUN, "a.py\nrm b"), "script: .* given; allowed: one line"),
        (lambda: torchrun(RUN, "a.py 'b"), "script: .* given: No closing quotation; allowed"),
        (lambda: sbatch(RUN, TRAIN, hours="12"), "hours: '12' given; allowed: a finite number"),
        (lambda: sbatch("gpt2", TRAIN, hours=1), "run: 'gpt2' given; allowed: a sizing"),
        (lambda: deepspeed_config(RUN, clipping="1"), "clipping: '1' given; allowed: a finite"),
        (lambda: sbatch(RUN, TRAIN, hours=0), "hours: 0 given; allowed: a finite number above 0"),
        (lambda: sbatch(RUN, TRAIN, hours=1, cpus=0), "cpus: 0 given; allowed: a whole number"),
        (lambda: sbatch(RUN, TRAIN, hours=1, name="a b"), "name: 'a b' given; allowed: letters"),
        (lambda: sbatch(RUN, TRAIN, hours=1, partition=""), "partition: '' given; allowed: lett"),
        (lambda: sbatch(RUN, TRAIN, hours=1, account="x\n"), r"account: 'x\\n' given; allowed"),
        (lambda: deepspeed_config(replace(RUN, tensor=2)), "tensor: 2 given; allowed: 1, a Deep"),
        (lambda: deepspeed_config(replace(RUN, pipeline=2)), "pipeline: 2 given; allowed: 1"),
        (lambda: deepspeed_config(replace(RUN, context=2)), "context: 2 given; allowed: 1"),
        (lambda: deepspeed_config(RUN, clipping=-1), "clipping: -1 given; allowed: a finite"),
        (lambda: deepspeed_config(RUN, bucket=0), "bucket: 0 given; allowed: a whole number"),
        (
            lambda: deepspeed_config(replace(RUN, precision="bf16")),
            "precision: 'bf16' given with zero=0; allowed: with zero=1, 2 or 3",
        ),
        (
            lambda: deepspeed_config(replace(RUN, precision="bf16-master", gradients="fp32")),
            "gradients: 'fp32' given with zero=0; allowed: with zero=1, 2 or 3",
        ),
        (
            lambda: deepspeed_config(replace(RUN, precision="bf16", gradients="fp32", zero=2)),
            "gradients: 'fp32' given with precision='bf16'; allowed: 'same'",
        ),
        *(
            (lambda p=p: deepspeed_config(replace(RUN, precision=p)), f"precision: {p!r} given")
            for p in ("fp16", "fp8")
        ),
        (
            lambda: deepspeed_config(sizing.Run("mixtral-8x7b", data=8, expert=8)),
            "expert: 8 given; allowed: 1, a DeepSpeed",
        ),
        (
            lambda: deepspeed_config(replace(RUN, offload=("optimizer",))),
            r"offload: \('optimizer',\) given with zero=0; allowed: with zero=1",
        ),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# DeepSpeed, which reads its configuration in a process of its own: importing it changes torch's
# logging, and it takes the number of ranks from the process group.

READ = """
import json, os, sys
os.environ["DS_ACCELERATOR"] = "cpu"
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore
from deepspeed.runtime.config import DeepSpeedConfig
given = json.load(sys.stdin)
dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=given["ranks"])
from deepspeed import comm
comm.init_distributed("fake", dist_init_required=False)
for config in given["configs"]:
    read = DeepSpeedConfig(config)
    print(json.dumps({
        "ranks": read.world_size,
        "batch": [read.train_batch_size, read.train_micro_batch_size_per_gpu,
                  read.gradient_accumulation_steps],
        "stage": int(read.zero_config.stage),
        "buckets": [read.zero_config.reduce_bucket_size, read.zero_config.allgather_bucket_size,
                    read.zero_config.prefetch_bucket_size],
        "clipping": read.gradient_clipping,
        "bf16": read.bfloat16_config.enabled,
        "pure": read.bfloat16_config.bf16_optimizer_states,
        "autocast": str(read.torch_autocast_dtype),
        "gradients": read.grad_accum_dtype,
        "untested": read.zero_allow_untested_optimizer,
        "optimizer": read.optimizer_name,
        "offload": [str(getattr(part, "device", None)) for part in
                    (read.zero_config.offload_optimizer, read.zero_config.offload_param)],
    }), file=sys.stderr)
"""


def deepspeed_reads(runs, **options) -> list[dict]:
    """What DeepSpeed's own reader makes of the configurations of runs."""
    import importlib.util
    import json

    if importlib.util.find_spec("deepspeed") is None:
        pytest.skip("DeepSpeed is not installed: pip install -r requirements-distributed.txt")
    ranks = {run.data for run in runs}
    assert len(ranks) == 1
    given = {"ranks": ranks.pop(), "configs": [deepspeed_config(run, **options) for run in runs]}
    done = subprocess.run(
        [sys.executable, "-c", READ], input=json.dumps(given), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stderr.splitlines() if line.startswith('{"ranks"')]


def test_deepspeed_reads_its_configuration():
    runs = [
        replace(RUN, zero=zero, precision=precision, gradients=gradients)
        for zero in (0, 1, 2, 3)
        for precision, gradients in (
            ("fp32", "same"),
            ("bf16-mixed", "same"),
            ("fp16-mixed", "same"),
            ("bf16-master", "same"),
            ("bf16-master", "fp32"),
            ("bf16", "same"),
        )
        if zero or (precision, gradients) not in (("bf16-master", "fp32"), ("bf16", "same"))
    ]
    for run, read in zip(runs, deepspeed_reads(runs), strict=True):
        assert read["ranks"] == 4
        assert read["batch"] == [32, 2, 4] == [run.sequences, run.micro_batch, run.accumulation]
        assert read["stage"] == run.zero
        assert read["clipping"] == 1.0
        assert read["bf16"] == (run.precision in ("bf16-master", "bf16"))
        assert read["pure"] == (run.precision == "bf16")
        autocast = {"bf16-mixed": "torch.bfloat16", "fp16-mixed": "torch.float16"}
        assert read["autocast"] == autocast.get(run.precision, "None")
        assert read["gradients"] == ("fp32" if run.gradients == "fp32" else None)
        assert not read["untested"]
        assert read["optimizer"] is None
        if run.zero:
            assert read["buckets"][0] == run.model.parameters.total < 500_000_000
        if run.zero == 3:
            assert read["buckets"][2] == run.model.parameters.total < 50_000_000


def test_deepspeed_reads_what_is_given_to_it():
    adam = {"type": "AdamW", "params": {"lr": 1e-4, "torch_adam": True}}
    run = replace(RUN, zero=2)
    (read,) = deepspeed_reads([run], optimizer=adam, clipping=0.5, bucket=1000)
    assert (read["optimizer"], read["clipping"], read["buckets"][:2]) == ("adamw", 0.5, [1000] * 2)
    (read,) = deepspeed_reads([replace(run, optimizer="muon")])
    assert read["untested"]


def test_deepspeed_reads_what_is_offloaded():
    runs = [
        replace(RUN, precision="bf16-master", zero=zero, offload=offload)
        for zero, offload in ((2, ()), (2, ("optimizer",)), (3, ("optimizer", "parameters")))
    ]
    read = [[part.rpartition(".")[2] for part in r["offload"]] for r in deepspeed_reads(runs)]
    assert read == [["None", "None"], ["cpu", "None"], ["cpu", "cpu"]]


# --- accelerate ----------------------------------------------------------------------------------


def read_by_accelerate(found: dict, tmp_path, monkeypatch):
    """What accelerate's launcher makes of a configuration: its arguments and environment."""
    reader = pytest.importorskip("accelerate.commands.config.config_args")
    from accelerate.commands import launch as launcher
    from accelerate.utils.launch import prepare_multi_gpu_env

    path = tmp_path / "accelerate.json"
    path.write_text(json.dumps(found))
    cluster = reader.load_config_from_file(str(path))
    arguments = launcher.launch_command_parser().parse_args(["--config_file", str(path), "x.py"])
    arguments, _, _ = launcher._validate_launch_command(arguments)
    return cluster, arguments, prepare_multi_gpu_env(arguments)


@pytest.mark.parametrize("zero", [2, 3])
@pytest.mark.parametrize("recompute", ["none", "full"])
def test_accelerate_reads_its_file(zero, recompute, tmp_path, monkeypatch):
    run = sizing.Run("llama-3-8b", data=8, zero=zero, recompute=recompute, precision="bf16-mixed")
    cluster, arguments, environment = read_by_accelerate(
        accelerate_config(run), tmp_path, monkeypatch
    )
    assert cluster.distributed_type.value == "FSDP" and cluster.num_processes == 8
    assert arguments.use_fsdp and arguments.num_processes == 8
    assert environment["ACCELERATE_MIXED_PRECISION"] == "bf16"
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    from accelerate import FullyShardedDataParallelPlugin

    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2
    assert plugin.reshard_after_forward is (zero == 3)
    assert plugin.activation_checkpointing is (recompute == "full")
    assert plugin.transformer_cls_names_to_wrap == ["LlamaDecoderLayer"]
    assert "SHARDED" in str(plugin.state_dict_type)


def test_accelerate_on_several_nodes_and_degrees(tmp_path, monkeypatch):
    run = sizing.Run("llama-3-8b", data=8, tensor=2, zero=3, precision="bf16-mixed")
    found = accelerate_config(run, node=8, head="node-01:29500")
    cluster, arguments, environment = read_by_accelerate(found, tmp_path, monkeypatch)
    assert (cluster.num_machines, cluster.num_processes) == (2, 16)
    assert (arguments.main_process_ip, int(arguments.main_process_port)) == ("node-01", 29500)
    assert environment["PARALLELISM_CONFIG_TP_SIZE"] == "2"
    assert environment["PARALLELISM_CONFIG_DP_SHARD_SIZE"] == "8"


def test_accelerate_without_sharding(tmp_path, monkeypatch):
    cluster, arguments, _ = read_by_accelerate(
        accelerate_config(replace(RUN, precision="fp32")), tmp_path, monkeypatch
    )
    assert cluster.distributed_type.value == "MULTI_GPU"
    assert cluster.mixed_precision == "no" and not arguments.use_fsdp


def test_accelerate_reads_compiled_layers_and_offload(tmp_path, monkeypatch):
    run = replace(RUN, kernels="compiled", zero=3, offload=("optimizer", "parameters"))
    found = accelerate_config(run)
    _, _, environment = read_by_accelerate(found, tmp_path, monkeypatch)
    assert environment["ACCELERATE_DYNAMO_BACKEND"] == "INDUCTOR"
    assert environment["ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION"] == "True"
    assert environment["FSDP_OFFLOAD_PARAMS"] == "true"


def test_accelerate_reads_fp8(tmp_path, monkeypatch):
    """Its launcher wants torchao to be there, and is told that it is."""
    launch = pytest.importorskip("accelerate.utils.launch")
    monkeypatch.setattr(launch, "is_fp8_available", lambda: True)
    found = accelerate_config(replace(RUN, precision="fp8", zero=3))
    cluster, _, environment = read_by_accelerate(found, tmp_path, monkeypatch)
    assert cluster.mixed_precision == "fp8"
    assert environment["ACCELERATE_FP8_BACKEND"] == "AO"


@pytest.mark.parametrize("family", LAYERS)
def test_layers_are_named_as_transformers_names_them(family):
    from reference import build, random_config

    network = build(random_config(family, random.Random(f"layers{family}")))
    assert LAYERS[family] in {type(module).__name__ for module in network.modules()}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"zero": 1}, "zero: 1 given; allowed: 0, 2 or 3"),
        ({"pipeline": 2}, "pipeline: 2 given; allowed: 1"),
        ({"data": 16}, "head: None given"),
        ({"zero": 2, "offload": ("optimizer",)}, r"offload: \('optimizer',\) given; allowed"),
        ({"precision": "fp8", "scaling": "rowwise"}, "scaling: 'rowwise' given; allowed"),
    ],
)
def test_what_accelerate_cannot_do(changes, message):
    with pytest.raises(ValueError, match=message):
        accelerate_config(replace(RUN, **changes))


# --- torchtitan ----------------------------------------------------------------------------------

# Fields of torchtitan 0.2's JobConfig that a file may set, by section.
TITAN = {
    "job": {"description", "dump_folder"},
    "model": {"name", "flavor", "converters"},
    "optimizer": {"name", "implementation", "early_step_in_backward"},
    "training": {
        "local_batch_size", "global_batch_size", "seq_len", "steps", "dataset", "dtype",
        "mixed_precision_param", "mixed_precision_reduce", "enable_cpu_offload",
    },
    "parallelism": {
        "data_parallel_replicate_degree", "data_parallel_shard_degree",
        "fsdp_reshard_after_forward", "tensor_parallel_degree", "pipeline_parallel_degree",
        "pipeline_parallel_schedule", "pipeline_parallel_microbatch_size",
        "context_parallel_degree", "expert_parallel_degree", "pipeline_parallel_layers_per_stage",
        "pipeline_parallel_first_stage_less_layers", "pipeline_parallel_last_stage_less_layers",
    },
    "activation_checkpoint": {"mode", "selective_ac_option"},
    "compile": {"enable"},
    "quantize": {"linear"},
    "checkpoint": {"enable", "interval", "async_mode"},
}  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {"zero": 3},
        {"zero": 2, "tensor": 2},
        {"pipeline": 2, "recompute": "full"},
        {"zero": 3, "context": 2, "precision": "bf16"},
    ],
)
def test_torchtitan_toml(changes):
    run = replace(sizing.Run("llama-3-8b", micro_batch=2, accumulation=4, data=4), **changes)
    found = tomllib.loads(torchtitan_toml(run, steps=1000, flavor="8B"))
    assert all(set(entries) <= TITAN[section] for section, entries in found.items())
    degrees = found["parallelism"]
    ranks = {k: v for k, v in degrees.items() if k.endswith("degree") and "expert" not in k}
    assert run.gpus == math.prod(ranks.values())
    training = found["training"]
    assert training["global_batch_size"] == run.sequences
    # torchtitan accumulates global / (local x data-parallel ranks) times
    passes = training["global_batch_size"] / (training["local_batch_size"] * run.data)
    micro = training["local_batch_size"] / degrees["pipeline_parallel_microbatch_size"]
    assert passes * micro == run.accumulation
    assert found["activation_checkpoint"]["mode"] == run.recompute


@pytest.mark.parametrize(
    ("changes", "section", "expected"),
    [
        ({"recompute": "selective"}, "activation_checkpoint",
         {"mode": "selective", "selective_ac_option": "op"}),
        ({"recompute": "every-2"}, "activation_checkpoint",
         {"mode": "selective", "selective_ac_option": "2"}),
        ({"kernels": "compiled"}, "compile", {"enable": True}),
        ({"precision": "fp8", "scaling": "rowwise"}, "quantize",
         {"linear": {"float8": {"recipe_name": "rowwise"}}}),
        ({"replicate": 2, "zero": 3}, "parallelism",
         {"data_parallel_replicate_degree": 2, "data_parallel_shard_degree": 2}),
        ({"zero": 3, "offload": ("optimizer", "parameters")}, "training",
         {"enable_cpu_offload": True}),
        ({"pipeline": 2, "interleave": 3, "accumulation": 8}, "parallelism",
         {"pipeline_parallel_schedule": "Interleaved1F1B",
          "pipeline_parallel_layers_per_stage": 1}),
    ],
)  # fmt: skip
def test_torchtitan_says_each_field(changes, section, expected):
    run = replace(RUN, **changes)
    found = tomllib.loads(torchtitan_toml(run, steps=10, flavor="14M"))[section]
    assert {key: found[key] for key in expected} == expected


def test_torchtitan_deals_out_experts():
    run = sizing.Run("mixtral-8x7b", data=8, expert=4, zero=3)
    found = tomllib.loads(torchtitan_toml(run, steps=10, flavor="8x7B"))
    assert found["parallelism"]["expert_parallel_degree"] == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora": 8}, "lora: Lora.* given; allowed: None"),
        ({"recompute": ("mlp",)}, r"recompute: \('mlp',\) given; allowed: 'none'"),
        ({"precision": "fp8", "scaling": "delayed"}, "scaling: 'delayed' given"),
        ({"zero": 1}, "zero: 1 given"),
        ({"optimizer": "lion"}, "optimizer: 'lion' given"),
        ({"precision": "fp16"}, "precision: 'fp16' given"),
        ({"attention": "eager"}, "attention: 'eager' given"),
    ],
)
def test_what_torchtitan_cannot_do(changes, message):
    with pytest.raises(ValueError, match=message):
        torchtitan_toml(replace(RUN, **changes), steps=10, flavor="8B")
