"""A `Run` as the file that an engine reads: DeepSpeed's JSON, accelerate's, torchtitan's TOML.

A file says what its engine reads there and refuses what the engine would do otherwise. The model,
and what is done to it, is the script's: adapters, quantisation, kernels, loss, objective.

Sources: DeepSpeed's manual (deepspeed.ai/docs/config-json and its runtime/config.py, 0.19.8); those
of the others stand beside their functions.
"""

from __future__ import annotations

import json

from ..run import Run
from ..units import not_negative
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

    Precision: "bf16-mixed" and "fp16-mixed" are torch's autocast over fp32 weights; "bf16-master"
    is DeepSpeed's bf16, which keeps an fp32 copy of the weights in the optimizer; "bf16" is that
    with weights, gradients and moments all in bf16. Recompute and offloaded activations are the
    script's.

    Args:
        run: the training run. DeepSpeed's `train_batch_size` is its sequences in a step.
        optimizer: ``{"type": "AdamW", "params": {"lr": 1e-4}}``; None where the script makes one.
        clipping: of the gradients' norm; 0 for none.
        bucket: elements reduced or gathered at a time, at most; memory set aside on each GPU. No
            more than the model has is asked for.

    Raises:
        ValueError: tensor, pipeline, context or expert parallelism, which the script has to set up
            and no file describes; a precision or an offload that DeepSpeed lacks at the ZeRO stage.

    Source: deepspeed.ai/docs/config-json: train_batch_size = micro-batch x accumulation x ranks.
    """
    for field in ("tensor", "pipeline", "context", "expert", "replicate"):
        degree = getattr(run, field)
        if degree > 1:
            raise ValueError(
                f"{field}: {degree} given; allowed: 1, a DeepSpeed configuration divides "
                "data-parallel ranks alone"
            )
    whole("bucket", bucket)
    not_negative("clipping", clipping)
    elements = min(bucket, run.model.parameters.total)
    zero: dict = {"stage": run.zero}
    if run.zero:
        zero["reduce_bucket_size"] = elements
    if run.zero in (1, 2):
        zero["allgather_bucket_size"] = elements
    if run.zero == 3:
        zero["stage3_prefetch_bucket_size"] = min(PREFETCH, elements)
    if "optimizer" in run.offload and not run.zero:
        raise ValueError(
            f"offload: {run.offload!r} given with zero=0; allowed: with zero=1, 2 or 3, which are "
            "DeepSpeed's that offload"
        )
    for part, section in (("optimizer", "offload_optimizer"), ("parameters", "offload_param")):
        if part in run.offload:
            zero[section] = {"device": "cpu", "pin_memory": True}
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
    autocast = {"bf16-mixed": "bfloat16", "fp16-mixed": "float16"}
    if run.precision in autocast:
        return {"torch_autocast": {"enabled": True, "dtype": autocast[run.precision]}}
    if run.precision not in ("bf16", "bf16-master"):
        raise ValueError(
            f"precision: {run.precision!r} given; allowed: 'fp32', 'bf16-mixed', 'fp16-mixed', "
            "'bf16-master', 'bf16', which are what DeepSpeed's file can say"
        )
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
    Micro-batch and accumulation are arguments of the script: of its loader and of `Accelerator`;
    so is recompute but for full recompute under FSDP.

    Args:
        run: the training run.
        node: GPUs in a node.
        head: host and port of the first node, needed on several nodes. Every node has the same
            file but for `machine_rank`.

    Raises:
        ValueError: `zero=1`, which FSDP does not have (take `deepspeed_config`); a pipeline; routed
            experts dealt out; an offload of the optimizer without the parameters, which FSDP does
            not have; scales of fp8 that accelerate cannot ask for; several nodes without a head.

    Source: accelerate 1.15, accelerate/commands/config/config_args.py (ClusterConfig) and
    utils/dataclasses.py (FullyShardedDataParallelPlugin).
    """
    if run.zero == 1:
        raise ValueError(
            "zero: 1 given; allowed: 0, 2 or 3, FSDP divides gradients with the optimizer's state"
        )
    if run.pipeline > 1:
        raise ValueError(f"pipeline: {run.pipeline} given; allowed: 1, accelerate trains without")
    if run.expert > 1:
        raise ValueError(
            f"expert: {run.expert} given; allowed: 1, accelerate does not deal them out"
        )
    held = [part for part in run.offload if part != "activations"]
    if held and not (run.zero and len(held) == 2):
        raise ValueError(
            f"offload: {run.offload!r} given; allowed: ('optimizer', 'parameters') with zero=3, "
            "FSDP's cpu_offload takes both"
        )
    if run.precision == "fp8" and run.scaling not in (None, "tensorwise"):
        raise ValueError(
            f"scaling: {run.scaling!r} given; allowed: None, 'tensorwise', accelerate's for torchao"
        )
    machines, _ = nodes(run, node)
    precision = {"fp32": "no", "bf16": "no", "fp16": "no", "fp16-mixed": "fp16"}
    precision["fp8"] = "fp8"
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
            "fsdp_offload_params": bool(held),
        }
    if run.precision == "fp8":
        config["fp8_config"] = {"backend": "AO"}
    if run.kernels == "compiled":
        config["dynamo_config"] = {
            "dynamo_backend": "INDUCTOR",
            "dynamo_use_regional_compilation": True,
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
        ValueError: `zero=1`; what torchtitan has no word for: other optimizers, precisions, scales
            of fp8, recompute of named modules, eager attention, adapters, another objective.

    torchtitan keeps fp32 weights, sharded, and gathers bf16: the memory of "bf16-master". Under a
    pipeline a rank's batch is all its micro-batches, else one of them.
    Source: torchtitan 0.2, torchtitan/config/job_config.py; later releases read Python instead.
    """
    whole("steps", steps)
    if run.zero == 1:
        raise ValueError("zero: 1 given; allowed: 0, 2 or 3, torchtitan shards with FSDP2")
    dtypes = {"fp32": ("float32", "float32"), "bf16": ("bfloat16", "bfloat16")}
    dtypes |= dict.fromkeys(("bf16-mixed", "bf16-master"), ("float32", "bfloat16"))
    dtypes["fp8"] = ("float32", "bfloat16")
    for field, allowed in {
        "precision": tuple(dtypes),
        "optimizer": ("adamw", "adamw-fused"),
        "attention": ("flash", "flash-2", "flash-3"),
        "scaling": (None, "tensorwise", "rowwise"),
        "objective": ("lm",),
        "lora": (None,),
        "sequence_parallel": (True,) if run.tensor > 1 else (True, False),
        "offload": ((), ("optimizer", "parameters")),
    }.items():
        if getattr(run, field) not in allowed:
            named = ", ".join(map(repr, allowed))
            raise ValueError(f"{field}: {getattr(run, field)!r} given; allowed: {named}")
    kept, used = dtypes[run.precision]
    local = run.micro_batch * (run.accumulation if run.pipeline > 1 else 1)
    sections: dict[str, dict] = {
        "job": {"description": f"{run.model.name} on {run.gpus} GPUs", "dump_folder": "./outputs"},
        "model": {"name": name, "flavor": flavor, **_converted(run)},
        "optimizer": {
            "name": "AdamW",
            "implementation": "fused" if run.optimizer == "adamw-fused" else "foreach",
            "early_step_in_backward": run.optimizer_in_backward,
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
            "enable_cpu_offload": bool(run.offload),
        },
        "parallelism": {
            "data_parallel_replicate_degree": run.replicate if run.zero else run.data,
            "data_parallel_shard_degree": run.data // run.replicate if run.zero else 1,
            "fsdp_reshard_after_forward": "always" if run.zero == 3 else "never",
            "tensor_parallel_degree": run.tensor,
            "pipeline_parallel_degree": run.pipeline,
            **_schedule(run),
            "pipeline_parallel_microbatch_size": run.micro_batch,
            "context_parallel_degree": run.context,
            "expert_parallel_degree": run.expert,
        },
        "activation_checkpoint": _recomputed(run),
        "compile": {"enable": run.kernels == "compiled"},
        "checkpoint": {"enable": True, "interval": 500, "async_mode": "async"},
    }
    if run.precision == "fp8":
        sections["quantize.linear.float8"] = {"recipe_name": run.scaling or "tensorwise"}
    lines = []
    for section, entries in sections.items():
        lines.append(f"[{section}]")
        lines += [f"{key} = {_toml(value)}" for key, value in entries.items()]
        lines.append("")
    return "\n".join(lines)


def _converted(run: Run) -> dict:
    return {"converters": ["quantize.linear.float8"]} if run.precision == "fp8" else {}


def _schedule(run: Run) -> dict:
    """1F1B, or stages of equal length dealt out in turns."""
    if run.interleave == 1:
        return {"pipeline_parallel_schedule": "1F1B"}
    stages = run.pipeline * run.interleave
    if run.model.layers % stages:
        raise ValueError(
            f"interleave: {run.interleave} given; allowed in a file: stages that divide the "
            f"{run.model.layers} layers of {run.model.name}"
        )
    return {
        "pipeline_parallel_schedule": "Interleaved1F1B",
        "pipeline_parallel_layers_per_stage": run.model.layers // stages,
        "pipeline_parallel_first_stage_less_layers": 0,
        "pipeline_parallel_last_stage_less_layers": 0,
    }


def _recomputed(run: Run) -> dict:
    """torchtitan's modes; with flash attention "selective" is per operation in both."""
    if not isinstance(run.recompute, str):
        raise ValueError(
            f"recompute: {run.recompute!r} given; allowed: 'none', 'selective', 'full', 'every-2' "
            "and so on"
        )
    if run.recompute.startswith("every-"):
        return {"mode": "selective", "selective_ac_option": run.recompute.removeprefix("every-")}
    if run.recompute == "selective":
        return {"mode": "selective", "selective_ac_option": "op"}
    return {"mode": run.recompute}


def _toml(value: str | int | bool | list) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value) if isinstance(value, str | list) else str(value)
