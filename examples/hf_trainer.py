"""Add the callback to Hugging Face's Trainer.

You will see: a GPT-2 of two blocks, with ReLU in its MLPs and random weights, learns to write like the descriptions of
scikit-learn's data sets, letter by letter; afterwards the table of its layers, and how many of its ReLU units are dead.
In TensorBoard the same over time, on the points of the Trainer's own loss:

    tensorboard --logdir runs/trainer
"""

from __future__ import annotations

import os
import sys
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is downloaded

import torch
from sklearn import datasets
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from actdiag.transformers import ActivationMonitorCallback

LENGTH = 64


def passages() -> list[dict[str, Any]]:
    """Texts that come with scikit-learn, as rows of LENGTH bytes; each begins in the middle of the one before."""
    loaders = (datasets.load_breast_cancer, datasets.load_wine, datasets.load_iris, datasets.load_digits)
    text = "\n".join(load()["DESCR"] for load in loaders)
    letters = torch.tensor([min(ord(letter), 127) for letter in text])
    return [{"input_ids": row, "labels": row} for row in letters.unfold(0, LENGTH, LENGTH // 2)]


def main(log_dir: str = "runs/trainer", steps: int = 200) -> None:
    """Train, then print the report."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": 128, "n_positions": LENGTH, "n_embd": 64, "n_layer": 2, "n_head": 4}
    ends: dict[str, Any] = {"bos_token_id": 0, "eos_token_id": 0}
    model = GPT2LMHeadModel(GPT2Config(**sizes, **ends, activation_function="relu"))
    monitor = ActivationMonitorCallback()
    trainer = Trainer(
        model=model,
        train_dataset=passages(),
        callbacks=[monitor],  # the one added line
        args=TrainingArguments(
            output_dir=log_dir,
            report_to="tensorboard",
            max_steps=steps,
            logging_steps=20,
            per_device_train_batch_size=16,
            learning_rate=2e-3,
            save_strategy="no",
            use_cpu=True,
        ),
    )
    trainer.train()
    print(monitor.report())


if __name__ == "__main__":
    main(*sys.argv[1:])
