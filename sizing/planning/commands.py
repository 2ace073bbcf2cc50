"""What one types to start a `Run`: a torchrun command, and a SLURM batch script.

Sources: torchrun's manual (docs.pytorch.org/docs/stable/elastic/run.html), sbatch's and srun's
(slurm.schedmd.com).
"""

from __future__ import annotations

import math
import re
import shlex
from dataclasses import fields

from ..run import Run
from ..units import positive

NODE = 8  # GPUs in a node, as HGX and most cloud instances have them
CPUS = 8  # cores for each GPU: its own process, the loader's workers and threads that torch starts
PORT = 29500  # torch's own default
_NAME = re.compile(r"[A-Za-z0-9][\w.+-]*")  # what stands in a #SBATCH line without quoting


def nodes(run: Run, node: int = NODE) -> tuple[int, int]:
    """(nodes, GPUs on each) that a run takes.

    Raises:
        ValueError: more GPUs than a node has that do not fill whole nodes.
    """
    whole("node", node)
    if not isinstance(run, Run):
        raise ValueError(f"run: {run!r} given; allowed: a sizing.Run")
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
    check_head(head, count)
    return _several(count, each, shlex.quote(head), "sizing", script)


def check_head(head: str | None, count: int) -> None:
    """Several nodes meet at host:port of the first; ValueError where that is not given."""
    if head is None or not re.fullmatch(r"[^\s:]+:\d{1,5}", head):
        raise ValueError(
            f"head: {head!r} given; allowed: host:port of the first of {count} nodes, "
            f"as 'node-01:{PORT}'"
        )


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

    One task per node, which is torchrun, which starts a process for each GPU. The job's exit code
    is that of the worst task; a node that fails ends the others at once. A comment says the run,
    since most of it is set in the script.

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
    whole("cpus", cpus)
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
    return "\n".join(["#!/bin/bash", *head, "", f"# {described(run)}", *body, ""])


def described(run: Run) -> str:
    """The model and every field of a run that is not its default, on one line."""
    said = [
        f"{field.name}={getattr(run, field.name)!r}"
        for field in fields(Run)
        if field.name != "model" and getattr(run, field.name) != field.default
    ]
    return " ".join([f"{run.model.name}:", ", ".join(said)]).replace("\n", " ")


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


def whole(field: str, value: int) -> None:
    """ValueError for anything but a whole number from 1 on."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{field}: {value!r} given; allowed: a whole number >= 1")


def _clock(hours: float) -> str:
    """Hours as SLURM's HH:MM:SS, rounded up to its minute."""
    positive("hours", hours)
    minutes = math.ceil(round(60 * hours, 6))
    return f"{minutes // 60:02}:{minutes % 60:02}:00"
