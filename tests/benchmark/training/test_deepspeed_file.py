"""A user's DeepSpeed configuration: what is passed on, what must agree with the recipe, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmark.errors import UserError
from benchmark.settings import TrainerSettings, TrainingSettings
from benchmark.training.batches import GroupLayout
from benchmark.training.deepspeed_file import _ZERO_REFUSED, REFUSED, ZERO_PASSED, DeepspeedFile, read_deepspeed_file
from benchmark.training.execution import Execution, LossScaling, deepspeed_configuration

SETTINGS = TrainingSettings(
    batch_size=64, negative_group=16, optimiser="adamw", learning_rate=0.001, weight_decay=0.01, gradient_clip=0.5
)
LAYOUT = GroupLayout.of(SETTINGS, 2)


def file_of(folder: Path, values: Any) -> DeepspeedFile:
    (folder / "ds.json").write_text(values if isinstance(values, str) else json.dumps(values))
    return read_deepspeed_file(str(folder / "ds.json"))


def test_a_usual_file_passes_and_its_sections_reach_deepspeed(tmp_path: Path) -> None:
    """As Hugging Face's examples write it: "auto" for what the trainer knows."""
    file = file_of(tmp_path, {
        "train_batch_size": "auto", "train_micro_batch_size_per_gpu": 16, "gradient_accumulation_steps": 2,
        "gradient_clipping": 0.5, "bf16": {"enabled": "auto"}, "scheduler": None,
        "optimizer": {"type": "AdamW", "params": {"lr": 0.001, "betas": [0.9, 0.999], "weight_decay": "auto"}},
        "zero_optimization": {"stage": 2, "overlap_comm": False, "reduce_bucket_size": 1000, "offload_optimizer": {"device": "none"}},
        "wall_clock_breakdown": True, "comms_logger": {"enabled": False}, "steps_per_print": 7,
        "tensorboard": {"enabled": True, "job_name": "x"},
    })  # fmt: skip
    assert file.contradictions("spirit", SETTINGS, LAYOUT) == []
    execution = Execution.of(TrainerSettings(), file)
    assert execution.zero == 2
    configuration = deepspeed_configuration(SETTINGS, LAYOUT, 2, execution)
    assert configuration["zero_optimization"]["stage"] == 2
    assert configuration["zero_optimization"]["reduce_bucket_size"] == 1000
    assert configuration["wall_clock_breakdown"] is True and configuration["steps_per_print"] == 7
    assert configuration["train_batch_size"] == 64 and configuration["gradient_clipping"] == 0.5
    assert not configuration.keys() & {"optimizer", "scheduler", "bf16", "tensorboard"}
    assert file.monitors == {"tensorboard": {"enabled": True, "job_name": "x"}}


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"train_batch_size": 32}, "train_batch_size is 32, but stage spirit trains with batch_size 64; remove it from the file, or set --set spirit.batch_size=32"),
        ({"train_micro_batch_size_per_gpu": 8}, "train_micro_batch_size_per_gpu is 8, but stage spirit computes 16 rows at once on each process (batch_size 64 in negative groups of 16); remove it from the file, or set --set trainer.micro_batch=8 to encode that many at a time with the same result"),
        ({"gradient_accumulation_steps": 1}, "gradient_accumulation_steps is 1, but stage spirit accumulates 2 on each process (batch_size 64 in negative groups of 16); remove it from the file, or change --negative-group or the number of processes"),
        ({"gradient_clipping": 1.0}, "gradient_clipping is 1.0, but stage spirit has gradient_clip 0.5; remove it from the file, or set --set spirit.gradient_clip=1.0"),
        ({"optimizer": {"type": "SGD"}}, 'optimizer.type is "SGD", but stage spirit trains with the optimiser adamw; remove it from the file, or choose one with --set spirit.optimiser=…'),
        ({"optimizer": {"type": "Adam", "params": {"adam_w_mode": False}}}, 'optimizer.type is "Adam", but stage spirit trains with the optimiser adamw'),
        ({"optimizer": {"type": "Adam", "params": {"lr": 0.1}}}, "optimizer.params.lr is 0.1, but stage spirit has learning_rate 0.001; remove it from the file, or set --set spirit.learning_rate=0.1"),
        ({"optimizer": {"type": "AdamW", "params": {"betas": [0.8, 0.9]}}}, "optimizer.params.betas is [0.8, 0.9], but stage spirit has betas [0.9, 0.999]"),
        ({"scheduler": {"type": "WarmupLR", "params": {}}}, 'scheduler.type is "WarmupLR", but stage spirit has the schedule constant; remove it from the file, or choose one with --set spirit.schedule=…'),
        ({"bf16": {"enabled": True}}, "bf16.enabled is true, but stage spirit computes in fp32; remove it from the file, or choose it with --precision bf16"),
        ({"fp16": {"enabled": True}}, "fp16.enabled is true, but stage spirit computes in fp32"),
        ({"torch_autocast": {"enabled": True, "dtype": "float16"}}, 'torch_autocast.dtype is "float16", but stage spirit computes in fp32; remove it from the file, or choose it with --precision fp16'),
    ],
)  # fmt: skip
def test_what_contradicts_the_recipe_is_told_with_both_values(tmp_path: Path, values: Any, told: str) -> None:
    (line,) = file_of(tmp_path, values).contradictions("spirit", SETTINGS, LAYOUT)
    assert line.startswith(f"--deepspeed-config {tmp_path / 'ds.json'}: {told}")


def test_a_method_s_own_optimiser_is_no_other(tmp_path: Path) -> None:
    file = file_of(tmp_path, {"optimizer": {"type": "AdamW"}})
    (line,) = file.contradictions("val", SETTINGS, LAYOUT, brings_optimiser=True)
    assert "stage val brings an optimiser of its own" in line


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"train_batchsize": 1}, "unknown key 'train_batchsize': did you mean train_batch_size"),
        ({"zero_optimization": {"stage": 1, "reduce_bucket": 5}}, "unknown key 'zero_optimization.reduce_bucket': did you mean zero_optimization.reduce_bucket_size"),
        ({"zero_optimization": {"stage": 3}}, "zero_optimization.stage is 3; it can be 0, 1 or 2"),
        ({"zero_optimization": {"stage3_max_live_parameters": 1}}, "stage3_max_live_parameters is of ZeRO stage 3"),
        ({"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}, "zero_optimization.offload_optimizer has no place here"),
        ({"zero_optimization": 2}, "zero_optimization is 2; write it as an object of its own"),
        ({"zero_optimization": {"reduce_bucket_size": "much"}}, 'zero_optimization.reduce_bucket_size is "much"; write a number'),
        ({"zero_optimization": {"overlap_comm": 1}}, "zero_optimization.overlap_comm is 1; write true or false"),
        ({"fp16": {"enabled": True, "loss_scale": "dynamic"}}, 'fp16.loss_scale is "dynamic"; write a number'),
        ({"activation_checkpointing": {}}, "use --set trainer.gradient_checkpointing=true"),
        ({"zero_allow_untested_optimizer": False}, "zero_allow_untested_optimizer is false"),
        ([], "not a JSON object"),
        ("{", "not valid JSON at line 1"),
    ],
)  # fmt: skip
def test_what_has_no_place_is_refused_in_one_line(tmp_path: Path, values: Any, told: str) -> None:
    with pytest.raises(UserError) as error:
        file_of(tmp_path, values)
    assert told in str(error.value) and len(str(error.value).splitlines()) == 1


def test_all_problems_come_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        file_of(tmp_path, {"amp": {}, "elasticity": {}, "whatever": 1})
    assert len(str(error.value).splitlines()) == 3


def test_a_missing_file_and_a_wrong_name_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file; the ready ones, without an ending: .*zero1"):
        read_deepspeed_file(str(tmp_path / "none.json"))
    with pytest.raises(UserError, match="unknown configuration 'zero': did you mean zero"):
        read_deepspeed_file("zero")


def test_two_zero_stages_are_a_contradiction(tmp_path: Path) -> None:
    file = file_of(tmp_path, {"zero_optimization": {"stage": 1}})
    with pytest.raises(UserError, match="zero_optimization.stage is 1, but trainer.zero is 2; leave one of them out"):
        Execution.of(TrainerSettings(zero=2), file)
    assert Execution.of(TrainerSettings(zero=1), file).zero == 1


def test_loss_scaling_is_the_file_s(tmp_path: Path) -> None:
    file = file_of(tmp_path, {"fp16": {"enabled": True, "loss_scale": 128, "loss_scale_window": 5, "hysteresis": 2}})
    assert Execution.of(TrainerSettings(), file).loss_scaling == LossScaling(128, 5, 2, 1, False)
    assert Execution.of(TrainerSettings(), file_of(tmp_path, {})).loss_scaling == LossScaling()


def test_the_keys_are_deepspeed_s_own() -> None:
    """A key that DeepSpeed no longer knows would be passed on and read over."""
    from deepspeed.runtime import constants
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    fields = DeepSpeedZeroConfig.model_fields
    own = set(fields) | {field.alias for field in fields.values() if field.alias}
    assert ZERO_PASSED | set(_ZERO_REFUSED) <= own
    missing = {key for key in own if key != "stage"} - ZERO_PASSED - set(_ZERO_REFUSED)
    assert all(key.startswith(("stage3_", "zero_hpz", "zero_quantized")) or "stage3" in key or key in _OF_STAGE_3 for key in missing), missing
    text = Path(constants.__file__).read_text() + Path(constants.__file__).with_name("config.py").read_text()
    known = {"amp", "data_types", "elasticity", "checkpoint", "pipeline", "autotuning", "hybrid_engine"}
    assert all(f'"{key}"' in text or key in known | _ELSEWHERE for key in REFUSED)


_OF_STAGE_3 = {
    "sub_group_size", "cpu_offload_param", "cpu_offload_use_pin_memory", "prefetch_bucket_size",
    "param_persistence_threshold", "model_persistence_threshold", "max_live_parameters", "max_reuse_distance",
    "gather_16bit_weights_on_model_save", "module_granularity_threshold", "use_all_reduce_for_fetch_params",
    "allgather_sequential", "legacy_stage1", "memory_efficient_linear", "pipeline_loading_checkpoint",
    "override_module_apply", "log_trace_cache_warnings", "enable_sanity_checks",
    "save_muon_momentum_buffer_in_memory", "leaf_module",
}  # fmt: skip
_ELSEWHERE = {
    "activation_checkpointing", "data_efficiency", "curriculum_learning", "compression_training", "aio",
    "progressive_layer_drop", "eigenvalue", "quantize_training", "sparse_attention", "tensor_parallel",
    "dataloader_drop_last", "zero_force_ds_cpu_optimizer",
}  # fmt: skip
