"""TRL's SFTTrainer on rows made by bench/train.py: `train_trl.py MODEL_FOLDER ROWS_JSON default|plain`; prints JSON."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import SequentialSampler
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer


class Steps(TrainerCallback):
    """When each step ended, and its loss."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.cpu: list[float] = []
        self.losses: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ends.append(time.perf_counter())
        self.cpu.append(time.process_time())

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        if "loss" in logs:
            self.losses.append(logs["loss"])


class InOrder(SFTTrainer):  # type: ignore[misc]
    """Rows in the order they are given."""

    def _get_train_sampler(self, *_: Any) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)


def main() -> None:
    folder, rows, how = sys.argv[1:]
    torch.set_num_threads(torch.get_num_threads())
    data = json.loads(Path(rows).read_text())
    per_step = data["per_step"]
    settings = SFTConfig(
        output_dir="/tmp/ultrachat-bench-trl", bf16=True, use_cpu=True, per_device_train_batch_size=per_step,
        max_steps=len(data["input_ids"]) // per_step, learning_rate=data["lr"], lr_scheduler_type="constant",
        warmup_steps=0, logging_steps=1, save_strategy="no", report_to=[], max_length=None, seed=0,
        max_grad_norm=1.0, dataset_kwargs={"skip_prepare_dataset": True},
        **({} if how == "default" else {"gradient_checkpointing": False}),
    )  # fmt: skip
    watch = Steps()
    trainer = InOrder(
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), settings, callbacks=[watch],
        train_dataset=Dataset.from_dict({name: data[name] for name in ("input_ids", "labels")}),
        processing_class=AutoTokenizer.from_pretrained(folder),
    )  # fmt: skip
    trainer.train()
    print(json.dumps({
        "losses": watch.losses, "ends": watch.ends, "cpu": watch.cpu,
        "gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
