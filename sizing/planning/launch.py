"""What one types to start a `Run`: a torchrun command, a SLURM batch script, an engine's file.

Files for DeepSpeed, accelerate (DDP, FSDP2) and torchtitan.

Sources: torchrun's manual (docs.pytorch.org/docs/stable/elastic/run.html), sbatch's and srun's
(slurm.schedmd.com), DeepSpeed's (deepspeed.ai/docs/config-json and its runtime/config.py, 0.19.8).
"""

from __future__ import annotations

import json
import math
import re
import shlex

from ..run import Run

NODE = 8  # GPUs in a node, as HGX and most cloud instances have them
CPUS = 8  # cores for each GPU: its own process, the loader's workers and threads that torch starts
BUCKET = 500_000_000  # elements, DeepSpeed's default
PREFETCH = 50_000_000  # elements, DeepSpeed's default
PORT = 29500  # torch's own default
_NAME = re.compile(r"[A-Za-z0-9][\w.+-]*")  # what stands in a #SBATCH line without quoting
_TESTED = ("adamw", "adamw-fused")  # that DeepSpeed's ZeRO takes without being told to


def nodes(run: Run, node: int = NODE) -> tuple[int, int]:
    """(nodes, GPUs on each) that a run takes.

    Raises:
        ValueError: more GPUs than a node has that do not fill whole nodes.
    """
    _whole("node", node)
    if run.gpus <= node:
        return 1, run.gpus
    if run.gpus % node:
        raise ValueError(
            f"gpus: {run.gpus} given; allowed: at most node = {node}, or a multiple of it"
        )
    return run.gpus // node, node


def torchrun(run: Run, script: str, *, node: int = NODE, head: str | None = None) -> str:
    """The command that starts a run's processes, one for each GPU.

    On one node torchrun finds a free port for its processes to meet (``--standalone``). On several,
    the same command is typed on each of them, and they meet at the first one (c10d rendezvous).

    Args:
        run: the training run; its GPUs are the processes.
        script: what each process runs, as it would follow ``python``: ``train.py --lr 1e-4``, or a
            module of this course, ``-m sizing.experiments record zero``.
        node: GPUs in a node.
        head: host and port of the first node, such as ``"node-01:29500"``, needed on several nodes.

    Raises:
        ValueError: GPUs that do not fill nodes, several nodes without a head, no script.

    >>> torchrun(Run("gpt2", data=4), "train.py")
    'torchrun --standalone --nproc-per-node=4 train.py'
    """
    count, each = nodes(run, node)
    script = _script(script)
    if count == 1:
        return f"torchrun --standalone --nproc-per-node={each} {script}"
    if head is None or not re.fullmatch(r"[^\s:]+:\d{1,5}", head):
        raise ValueError(
            f"head: {head!r} given; allowed: host:port of the first of {count} nodes, "
            f"as 'node-01:{PORT}'"
        )
    return _several(count, each, shlex.quote(head), "sizing", script)


def _several(count: int, each: int, head: str, job: str, script: str) -> str:
    return (
        f"torchrun --nnodes={count} --nproc-per-node={each} --rdzv-backend=c10d "
        f"--rdzv-endpoint={head} --rdzv-id={job} {script}"
    )


def sbatch(
    run: Run,
    script: str,
    *,
    hours: float,
    node: int = NODE,
    cpus: int = CPUS,
    name: str = "training",
    partition: str | None = None,
    account: str | None = None,
) -> str:
    """The text of a SLURM batch script that starts a run: ``sbatch train.sh``.

    One task a node, which is torchrun, which starts a process for each GPU. The job's exit code is
    that of the worst task; a node that fails ends the others at once.

    Args:
        run, script, node: as in `torchrun`.
        hours: wall-clock limit, after which SLURM ends the job. SLURM counts in minutes, rounded
            up, so that is what is written.
        cpus: CPU cores for each GPU.
        name: of the job and its log, ``<name>-<job id>.out``.
        partition, account: where the cluster asks for them.

    Raises:
        ValueError: names the field, the value and what is allowed.
    """
    count, each = nodes(run, node)
    script = _script(script)
    _whole("cpus", cpus)
    site = {"partition": partition, "account": account}
    options = {
        "job-name": _word("name", name),
        **{field: _word(field, value) for field, value in site.items() if value is not None},
        "nodes": count,
        "ntasks-per-node": 1,
        "gpus-per-node": each,
        "cpus-per-task": cpus * each,
        "time": _clock(hours),
        "output": "%x-%j.out",
    }
    head = [f"#SBATCH --{key}={value}" for key, value in options.items()]
    # srun has not taken sbatch's --cpus-per-task over since SLURM 22.05.
    step = 'srun --kill-on-bad-exit=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" \\\n    '
    body = ["set -euo pipefail", ""]
    if count == 1:
        body += [step + torchrun(run, script, node=node)]
    else:
        body += [
            "# All nodes meet at the first one, on a port of this job's own.",
            'mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")',
            'head="${hosts[0]}:$((20000 + SLURM_JOB_ID % 10000))"',
            "",
            step + _several(count, each, '"$head"', '"$SLURM_JOB_ID"', script),
        ]
    return "\n".join(["#!/bin/bash", *head, "", *body, ""])


def deepspeed_config(
    run: Run,
    *,
    optimizer: dict | None = None,
    clipping: float = 1.0,
    bucket: int = BUCKET,
) -> dict:
    """DeepSpeed's configuration of a run, for `deepspeed.initialize` or a JSON file.

    Precision: "bf16-mixed" is torch's autocast over fp32 weights; "bf16-master" is DeepSpeed's
    bf16, which keeps an fp32 copy of the weights in the optimizer; "bf16" is that with weights,
    gradients and moments all in bf16.

    Args:
        run: the training run. DeepSpeed's `train_batch_size` is its sequences in a step.
        optimizer: ``{"type": "AdamW", "params": {"lr": 1e-4}}``; None where the script makes one.
        clipping: of the gradients' norm; 0 for none.
        bucket: elements reduced or gathered at a time, at most; memory set aside on each GPU. No
            more than the model has is asked for.

    Raises:
        ValueError: tensor, pipeline or context parallelism, which the script has to set up and no
            file describes; a precision that DeepSpeed lacks at the ZeRO stage.

    Source: deepspeed.ai/docs/config-json: train_batch_size = micro-batch x accumulation x ranks.
    """
    for field in ("tensor", "pipeline", "context", "replicate"):
        degree = getattr(run, field)
        if degree > 1:
            raise ValueError(
                f"{field}: {degree} given; allowed: 1, a DeepSpeed configuration divides "
                "data-parallel ranks alone"
            )
    _whole("bucket", bucket)
    if isinstance(clipping, bool) or not 0 <= clipping < math.inf:
        raise ValueError(f"clipping: {clipping!r} given; allowed: a finite number >= 0")
    elements = min(bucket, run.model.parameters.total)
    zero: dict = {"stage": run.zero}
    if run.zero:
        zero["reduce_bucket_size"] = elements
    if run.zero in (1, 2):
        zero["allgather_bucket_size"] = elements
    if run.zero == 3:
        zero["stage3_prefetch_bucket_size"] = min(PREFETCH, elements)
    config = {
        "train_batch_size": run.sequences,
        "train_micro_batch_size_per_gpu": run.micro_batch,
        "gradient_accumulation_steps": run.accumulation,
        "gradient_clipping": clipping,
        "zero_optimization": zero,
        **_precision(run),
    }
    if optimizer is not None:
        config["optimizer"] = optimizer
    elif run.zero and run.optimizer not in _TESTED:
        config["zero_allow_untested_optimizer"] = True
    return config


def _precision(run: Run) -> dict:
    """The sections on dtypes."""
    if run.precision == "fp32":
        return {}
    if run.precision == "bf16-mixed":
        return {"torch_autocast": {"enabled": True, "dtype": "bfloat16"}}
    pure, wide = run.precision == "bf16", run.gradients == "fp32"
    if pure and wide:
        raise ValueError(
            "gradients: 'fp32' given with precision='bf16'; allowed: 'same', since DeepSpeed keeps "
            "gradients and weights in one dtype there"
        )
    if run.zero == 0 and (pure or wide):
        field = "precision" if pure else "gradients"
        raise ValueError(
            f"{field}: {getattr(run, field)!r} given with zero=0; allowed: with zero=1, 2 or 3, "
            "the optimizers of DeepSpeed that know it"
        )
    kept = {"bf16_master_weights_and_grads": True, "bf16_optimizer_states": True} if pure else {}
    found: dict = {"bf16": {"enabled": True, **kept}}
    if wide:
        found["data_types"] = {"grad_accum_dtype": "fp32"}
    return found


def _script(script: str) -> str:
    """The script as typed; what the shell or torchrun would read otherwise is refused."""
    try:
        words = shlex.split(script)
    except ValueError as error:  # a quote that is never closed
        raise ValueError(f"script: {script!r} given: {error}; allowed: a command line") from None
    option = bool(words) and words[0].startswith("-") and words[0] not in ("-m", "--module")
    if not words or option or "\n" in script or words in (["-m"], ["--module"]):
        raise ValueError(
            f"script: {script!r} given; allowed: one line such as 'train.py --lr 1e-4' or "
            "'-m package.module'"
        )
    return script.strip()


def _word(field: str, value: str) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError(f"{field}: {value!r} given; allowed: letters, digits and . _ + -")
    return value


def _whole(field: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{field}: {value!r} given; allowed: a whole number >= 1")


def _clock(hours: float) -> str:
    """Hours as SLURM's HH:MM:SS, rounded up to its minute."""
    if isinstance(hours, bool) or not 0 < hours < math.inf:
        raise ValueError(f"hours: {hours!r} given; allowed: a finite number above 0")
    minutes = math.ceil(round(60 * hours, 6))
    return f"{minutes // 60:02}:{minutes % 60:02}:00"


# --- accelerate ----------------------------------------------------------------------------------

# The layer that FSDP wraps, by family, as transformers 5.23 names it. For a family that is not
# listed accelerate takes what the model itself names in `_no_split_modules`.
LAYERS = {
    "deepseek_v3": "DeepseekV3DecoderLayer",
    "gemma2": "Gemma2DecoderLayer",
    "gemma3_text": "Gemma3DecoderLayer",
    "gpt2": "GPT2Block",
    "gpt_neox": "GPTNeoXLayer",
    "llama": "LlamaDecoderLayer",
    "mistral": "MistralDecoderLayer",
    "mixtral": "MixtralDecoderLayer",
    "olmo2": "Olmo2DecoderLayer",
    "opt": "OPTDecoderLayer",
    "qwen2": "Qwen2DecoderLayer",
    "qwen3": "Qwen3DecoderLayer",
    "qwen3_moe": "Qwen3MoeDecoderLayer",
}


def accelerate_config(run: Run, *, node: int = NODE, head: str | None = None) -> dict:
    """A run as a configuration for ``accelerate launch --config_file accelerate.json train.py``.

    DDP for ``zero=0``, FSDP2 for ``zero=2`` (weights stay gathered until backward) and ``zero=3``.
    Micro-batch and accumulation are arguments of the script: of its loader and of `Accelerator`.

    Args:
        run: the training run.
        node: GPUs in a node.
        head: host and port of the first node, needed on several nodes. Every node has the same
            file but for `machine_rank`.

    Raises:
        ValueError: `zero=1`, which FSDP does not have (take `deepspeed_config`); a pipeline;
            several nodes without a head.

    Source: accelerate 1.15, accelerate/commands/config/config_args.py (ClusterConfig) and
    utils/dataclasses.py (FullyShardedDataParallelPlugin).
    """
    if run.zero == 1:
        raise ValueError(
            "zero: 1 given; allowed: 0, 2 or 3, FSDP divides gradients with the optimizer's state"
        )
    if run.pipeline > 1:
        raise ValueError(f"pipeline: {run.pipeline} given; allowed: 1, accelerate trains without")
    machines, _ = nodes(run, node)
    precision = {"fp32": "no", "bf16": "no", "fp16": "no", "fp16-mixed": "fp16"}
    config: dict = {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": "NO" if run.gpus == 1 else "FSDP" if run.zero else "MULTI_GPU",
        "mixed_precision": precision.get(run.precision, "bf16"),
        "num_machines": machines,
        "num_processes": run.gpus,
        "machine_rank": 0,
        "main_training_function": "main",
        "rdzv_backend": "static" if machines == 1 else "c10d",
        "same_network": True,
        "use_cpu": False,
    }
    if machines > 1:
        if head is None or not re.fullmatch(r"[^\s:]+:\d{1,5}", head):
            raise ValueError(
                f"head: {head!r} given; allowed: host:port of the first of {machines} nodes, "
                f"as 'node-01:{PORT}'"
            )
        host, _, port = head.partition(":")
        config |= {"main_process_ip": host, "main_process_port": int(port)}
    if run.gpus > 1 and run.zero:
        config["fsdp_config"] = {
            "fsdp_version": 2,
            "fsdp_reshard_after_forward": run.zero == 3,
            "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            **_wrapped(run),
            "fsdp_activation_checkpointing": run.recompute == "full",
            "fsdp_state_dict_type": "SHARDED_STATE_DICT",
            "fsdp_cpu_ram_efficient_loading": True,
            "fsdp_offload_params": False,
        }
    if run.tensor > 1 or run.context > 1 or run.replicate > 1:
        config["parallelism_config"] = {
            "parallelism_config_dp_replicate_size": run.replicate if run.zero else run.data,
            "parallelism_config_dp_shard_size": run.data // run.replicate if run.zero else 1,
            "parallelism_config_tp_size": run.tensor,
            "parallelism_config_cp_size": run.context,
        }
    return config


def _wrapped(run: Run) -> dict:
    layer = LAYERS.get(run.model.family)
    return {"fsdp_transformer_layer_cls_to_wrap": layer} if layer else {}


# --- torchtitan ----------------------------------------------------------------------------------


def torchtitan_toml(
    run: Run, *, steps: int, flavor: str, name: str = "llama3", dataset: str = "c4"
) -> str:
    """A run as a torchtitan job: ``CONFIG_FILE=job.toml ./run_train.sh``.

    Args:
        run: the training run.
        steps: optimizer steps, as `cost(run, ...).steps`.
        flavor: the model's size in torchtitan, such as "8B"; torchtitan has its own list of them.
        name: the model's family in torchtitan.
        dataset: its name there.

    Raises:
        ValueError: `zero=1`; optimizers and precisions that torchtitan has no word for; eager
            attention.

    torchtitan keeps fp32 weights, sharded, and gathers bf16: the memory of "bf16-master". Under a
    pipeline a rank's batch is all its micro-batches, else one of them.
    Source: torchtitan 0.2, torchtitan/config/job_config.py; later releases read Python instead.
    """
    _whole("steps", steps)
    if run.zero == 1:
        raise ValueError("zero: 1 given; allowed: 0, 2 or 3, torchtitan shards with FSDP2")
    dtypes = {"fp32": ("float32", "float32"), "bf16": ("bfloat16", "bfloat16")}
    dtypes |= dict.fromkeys(("bf16-mixed", "bf16-master"), ("float32", "bfloat16"))
    if run.precision not in dtypes:
        raise ValueError(f"precision: {run.precision!r} given; allowed: {', '.join(dtypes)}")
    if run.optimizer not in ("adamw", "adamw-fused"):
        raise ValueError(f"optimizer: {run.optimizer!r} given; allowed: 'adamw', 'adamw-fused'")
    if run.attention == "eager":
        raise ValueError(f"attention: {run.attention!r} given; allowed: 'flash'")
    kept, used = dtypes[run.precision]
    local = run.micro_batch * (run.accumulation if run.pipeline > 1 else 1)
    sections: dict[str, dict] = {
        "job": {"description": f"{run.model.name} on {run.gpus} GPUs", "dump_folder": "./outputs"},
        "model": {"name": name, "flavor": flavor},
        "optimizer": {
            "name": "AdamW",
            "implementation": "fused" if run.optimizer == "adamw-fused" else "foreach",
        },
        "training": {
            "local_batch_size": local,
            "global_batch_size": run.sequences,
            "seq_len": run.sequence,
            "steps": steps,
            "dataset": dataset,
            "dtype": kept,
            "mixed_precision_param": used,
            "mixed_precision_reduce": "float32",
        },
        "parallelism": {
            "data_parallel_replicate_degree": run.replicate if run.zero else run.data,
            "data_parallel_shard_degree": run.data // run.replicate if run.zero else 1,
            "fsdp_reshard_after_forward": "always" if run.zero == 3 else "never",
            "tensor_parallel_degree": run.tensor,
            "pipeline_parallel_degree": run.pipeline,
            "pipeline_parallel_schedule": "1F1B",
            "pipeline_parallel_microbatch_size": run.micro_batch,
            "context_parallel_degree": run.context,
        },
        "activation_checkpoint": {"mode": run.recompute},
        "checkpoint": {"enable": True, "interval": 500, "async_mode": "async"},
    }
    lines = []
    for section, entries in sections.items():
        lines.append(f"[{section}]")
        lines += [f"{key} = {_toml(value)}" for key, value in entries.items()]
        lines.append("")
    return "\n".join(lines)


def _toml(value: str | int | bool) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value) if isinstance(value, str) else str(value)
