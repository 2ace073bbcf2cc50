"""A `Run` as the file that an engine reads: DeepSpeed's JSON, accelerate's, torchtitan's TOML.

Sources: DeepSpeed's manual (deepspeed.ai/docs/config-json and its runtime/config.py, 0.19.8); those
of the others stand beside their functions.
"""

from __future__ import annotations

import json
import math

from ..run import Run
from .commands import NODE, check_head, nodes, whole

BUCKET = 500_000_000  # elements, DeepSpeed's default
PREFETCH = 50_000_000  # elements, DeepSpeed's default
_TESTED = ("adamw", "adamw-fused")  # that DeepSpeed's ZeRO takes without being told to


# --- DeepSpeed -----------------------------------------------------------------------------------


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
    whole("bucket", bucket)
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
        check_head(head, machines)
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
    whole("steps", steps)
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
