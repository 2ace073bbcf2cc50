"""A plan's export, really started: two processes do what its files say, or say why not."""

from dataclasses import replace

import pytest

from sizing import Run, launch
from sizing.course import rehearsal

RUN = Run(
    "llama-3.2-1b", sequence=2048, micro_batch=4, accumulation=3, data=8, zero=1, recompute="full"
)
SCRIPT = f"-m sizing.course.rehearsal {rehearsal.SETTINGS}"


def test_a_twin_keeps_what_a_launch_can_get_wrong():
    twin = rehearsal.twin(RUN)
    assert (twin.micro_batch, twin.accumulation, twin.zero, twin.recompute) == (4, 3, 1, "full")
    assert twin.gpus == 2 and twin.model.parameters.total < 30_000
    for field in ("tensor", "pipeline", "context"):
        with pytest.raises(ValueError, match=f"{field}: 2 given; allowed: 1"):
            rehearsal.twin(replace(RUN, **{field: 2}))


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_two_processes_are_started_from_the_exported_files(stage):
    twin = rehearsal.twin(replace(RUN, zero=stage))
    said = rehearsal.start(launch.torchrun(twin, SCRIPT), launch.deepspeed_config(twin))
    assert said == (
        f"2 processes, ZeRO {stage}: 4 steps of 2 x 4 x 3 = 24 sequences; the loss falls"
    )


def test_a_file_that_does_not_fit_its_command_stops_the_start():
    twin = rehearsal.twin(RUN)
    settings = launch.deepspeed_config(twin) | {"train_batch_size": 48}
    with pytest.raises(RuntimeError, match="train_batch_size: 48 given; allowed: 4 x 3 x 2"):
        rehearsal.start(launch.torchrun(twin, SCRIPT), settings)


def test_another_command_is_refused():
    with pytest.raises(ValueError, match="allowed: one that begins with torchrun"):
        rehearsal.start("rm -r .", {})
