"""TRL's off-policy distillation of one student, in an environment of its own: nothing of this project is imported.

python trl_arm.py JOB.json    (benchmarks/peers_trl.py writes it and says what is in it)

GKDTrainer with lambda 0 (the rows' own responses) and beta 0 (forward KL), adapters merged at the end. Its best setting
on a CPU: no gradient checkpointing.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
from trl.experimental.gkd import GKDConfig, GKDTrainer


def collate(items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Pad on the right; labels are the supervised tokens."""
    length = max(len(item["ids"]) for item in items)
    ids = torch.zeros(len(items), length, dtype=torch.long)
    attention, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for row, item in enumerate(items):
        own, mask = torch.tensor(item["ids"]), torch.tensor(item["mask"])
        ids[row, : len(own)], attention[row, : len(own)] = own, 1
        labels[row, : len(own)] = torch.where(mask, own, -100)
    return {"input_ids": ids, "attention_mask": attention, "labels": labels}


def main() -> None:
    """Train, merge, write the model and the seconds of the training alone."""
    job = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(1)
    set_seed(job["seed"])
    rows = {split: Dataset.from_list(found) for split, found in job["rows"].items()}
    steps = math.ceil(len(rows["train"]) / job["batch"]) * job["epochs"]
    student, teacher = (
        AutoModelForCausalLM.from_pretrained(job[n], dtype=torch.float32) for n in ("student", "teacher")
    )
    student.config.use_cache = False
    settings = GKDConfig(
        output_dir=str(Path(job["result"]).with_suffix(".out")), lmbda=0.0, beta=0.0, temperature=1.0,
        per_device_train_batch_size=job["batch"], per_device_eval_batch_size=job["batch"], learning_rate=job["rate"],
        lr_scheduler_type="cosine", warmup_steps=math.ceil(job["warmup"] * steps), weight_decay=0.0, max_grad_norm=1.0,
        max_steps=steps, use_cpu=True, bf16=False, gradient_checkpointing=False, save_strategy="no",
        eval_strategy="steps", eval_steps=math.ceil(steps / job["evaluations"]), logging_steps=max(1, steps // 50),
        report_to="none", disable_tqdm=True, seed=job["seed"], dataloader_pin_memory=False, max_length=job["length"],
    )  # fmt: skip
    adapters = LoraConfig(
        r=job["rank"], lora_alpha=2 * job["rank"], lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    trainer = GKDTrainer(
        model=student, teacher_model=teacher, args=settings, data_collator=collate, train_dataset=rows["train"],
        eval_dataset=rows["validation"], processing_class=AutoTokenizer.from_pretrained(job["teacher"]),
        peft_config=adapters,
    )  # fmt: skip
    start = time.process_time()
    trainer.train()
    seconds = time.process_time() - start
    trainer.model.merge_and_unload().save_pretrained(job["result"])
    print(json.dumps({"train_s": seconds, "steps": steps}))


if __name__ == "__main__":
    main()
