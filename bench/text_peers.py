"""One fit of another library on labelled texts; run by the Python that has it installed.

    python bench/text_peers.py setfit|trainer ENCODER TRAIN.csv TEST.csv --seed 0

prints one JSON line: the labels of the test texts, and the processor seconds of training and of
answering, without imports. It needs nothing of warmstart.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import tempfile
import time
from typing import Any

ITERATIONS = 20  # pairs of each kind a text, where all pairs are too many (Tunstall et al. 2022)
ALL_PAIRS = 100  # texts up to which SetFit makes all pairs, as it does unless told otherwise


def read(path: str) -> tuple[list[str], list[str]]:
    """Texts and labels of a table."""
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [row["text"] for row in rows], [row["label"] for row in rows]


def setfit(encoder: str, train: Any, test: Any, seed: int, iterations: int) -> dict[str, Any]:
    """SetFit as its guide has it: one epoch of pairs, then logistic regression."""
    import setfit as library
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer
    from sklearn.linear_model import LogisticRegression

    began = time.process_time()
    body = SentenceTransformer(encoder, device="cpu")
    model = library.SetFitModel(model_body=body, model_head=LogisticRegression(max_iter=1000))
    all_pairs = len(train[0]) <= ALL_PAIRS
    with tempfile.TemporaryDirectory() as folder:
        arguments = library.TrainingArguments(
            output_dir=folder,
            seed=seed,
            num_iterations=None if all_pairs else iterations,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            show_progress_bar=False,
        )
        data = Dataset.from_dict({"text": train[0], "label": train[1]})
        trainer = library.Trainer(model=model, args=arguments, train_dataset=data)
        trainer.train()
    fitted = time.process_time()
    result = list(map(str, model.predict(test[0], show_progress_bar=False)))
    return {
        "labels": result,
        "seconds": fitted - began,
        "answering": time.process_time() - fitted,
        "pairs": "all, one epoch" if all_pairs else f"{iterations} of each kind a text",
        "version": library.__version__,
    }


def trainer(encoder: str, train: Any, test: Any, seed: int) -> dict[str, Any]:
    """transformers' Trainer on all layers with its own settings: 3 epochs, batches of 8, 5e-5."""
    import torch
    import transformers

    began = time.process_time()
    transformers.set_seed(seed)
    classes = sorted(set(train[1]))
    tokenizer = transformers.AutoTokenizer.from_pretrained(encoder)
    network = transformers.AutoModelForSequenceClassification.from_pretrained(
        encoder, num_labels=len(classes)
    )

    class Rows(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __init__(self, texts: list[str], labels: list[str]) -> None:
            self.tokens = tokenizer(texts, truncation=True, max_length=256)["input_ids"]
            self.labels = [classes.index(label) for label in labels]

        def __len__(self) -> int:
            return len(self.labels)

        def __getitem__(self, index: int) -> dict[str, Any]:
            return {"input_ids": self.tokens[index], "labels": self.labels[index]}

    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            output_dir=folder,
            seed=seed,
            report_to="none",
            use_cpu=True,
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            num_train_epochs=3,
        )
        loop = transformers.Trainer(
            network,
            arguments,
            train_dataset=Rows(*train),
            data_collator=transformers.DataCollatorWithPadding(tokenizer),
        )
        loop.train()
        fitted = time.process_time()
        logits: Any = loop.predict(Rows(*test)).predictions
    result = [classes[place] for place in logits.argmax(axis=1)]
    return {
        "labels": result,
        "seconds": fitted - began,
        "answering": time.process_time() - fitted,
        "version": transformers.__version__,
    }


def main() -> None:
    """Fit once and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("method", choices=("setfit", "trainer"))
    parser.add_argument("encoder")
    parser.add_argument("train")
    parser.add_argument("test")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--iterations", type=int, default=ITERATIONS)
    options_ = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    train, test = read(options_.train), read(options_.test)
    if options_.method == "setfit":
        output = setfit(options_.encoder, train, test, options_.seed, options_.iterations)
    else:
        output = trainer(options_.encoder, train, test, options_.seed)
    print(json.dumps(output))


if __name__ == "__main__":
    main()
