"""What a stage is cut to on a CPU, and the stages of methods on pictures."""

from __future__ import annotations

import pytest
from small_training import small_stage

from benchmark.pipeline.plan import PlannedStage
from benchmark.settings import TrainingSettings
from benchmark.throughput.training_speed import cut_to_machine


@pytest.mark.parametrize(
    ("batch", "group", "side", "on_cpu", "expected"),
    [
        (8192, 1024, None, True, (256, 256)),
        (8192, 1024, None, False, (8192, 1024)),
        (512, 128, None, True, (128, 128)),
        (256, 0, None, True, (256, 256)),
        (32, 0, 64, True, (32, 32)),
        (128, 0, 288, True, (6, 6)),
        (128, 0, 4000, True, (2, 2)),
        (128, 0, 288, False, (128, 128)),
    ],
)
def test_a_cpu_trains_one_group_of_a_size_that_takes_seconds(batch, group, side, on_cpu, expected):
    settings = TrainingSettings(batch_size=batch, negative_group=group, learning_rate=0.3)
    cut = cut_to_machine(PlannedStage(small_stage(), settings, None), side, on_cpu).settings
    assert (cut.batch_size, cut.group) == expected
    assert cut.learning_rate == 0.3
