"""Law 5 in other people's loops: parts are bit-identical for as long as they are frozen.

With `freeze` nothing frozen moves, although each of these trainers calls `model.train()`.
With gradients switched off alone, statistics move, and `watch` names them.
"""

from __future__ import annotations

import os
import warnings

import pytest
import torch
import torchvision.models
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset, TensorDataset

import warmstart

pytestmark = pytest.mark.slow

CLASSES, SIDE = 3, 32


class Rows(Dataset):
    """Examples as transformers wants them."""

    def __init__(self, **columns):
        self.columns = columns

    def __len__(self):
        return len(self.columns["labels"])

    def __getitem__(self, index):
        return {name: column[index] for name, column in self.columns.items()}


def images(n=8):
    rng = torch.Generator().manual_seed(0)
    return torch.randn(n, 3, SIDE, SIDE, generator=rng), torch.arange(n) % CLASSES


def loader():
    return DataLoader(TensorDataset(*images()), batch_size=4)


def resnet():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return torchvision.models.resnet18(num_classes=CLASSES)


def hf_resnet():
    library = pytest.importorskip("transformers")
    config = library.ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16],
        depths=[1, 1],
        layer_type="basic",
        num_labels=CLASSES,
    )
    return library.ResNetForImageClassification(config)


SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "num_labels": CLASSES,
}


def hf_vit():
    library = pytest.importorskip("transformers")
    return library.ViTForImageClassification(
        library.ViTConfig(image_size=SIDE, patch_size=8, **SMALL)
    )


def hf_bert():
    library = pytest.importorskip("transformers")
    return library.BertForSequenceClassification(library.BertConfig(vocab_size=30, **SMALL))


def planned(network, strategy):
    """A plan; the size of the images is told where no configuration says it."""
    inputs = None if hasattr(network, "config") else images()[0]
    return warmstart.plan(network, strategy, inputs=inputs)


def with_torch(network, folder):
    """The loop of PyTorch's own tutorials."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.1)
    network.train()
    for inputs, labels in loader():
        optimizer.zero_grad()
        cross_entropy(network(inputs), labels).backward()
        optimizer.step()


def with_transformers(network, folder):
    library = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    pictures, labels = images()
    rows = Rows(pixel_values=pictures, labels=labels)
    if network.main_input_name == "input_ids":
        ids = torch.arange(8 * 6).reshape(8, 6) % 30
        rows = Rows(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels)
    arguments = library.TrainingArguments(
        output_dir=str(folder),
        max_steps=3,
        per_device_train_batch_size=4,
        report_to="none",
        use_cpu=True,
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        weight_decay=0.1,
    )
    library.Trainer(network, arguments, train_dataset=rows).train()


def with_lightning(network, folder):
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.network = network

        def training_step(self, batch, _):
            return cross_entropy(self.network(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.AdamW(self.network.parameters(), lr=1e-3, weight_decay=0.1)

    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=3,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=str(folder),
    )
    trainer.fit(Module(), loader())


def with_fastai(network, folder):
    pytest.importorskip("fastai")
    import fastai.callback.progress  # noqa: F401 (gives learners `no_bar`)
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner

    learner = Learner(
        DataLoaders(loader(), loader()), network, loss_func=nn.CrossEntropyLoss(), path=folder
    )
    with learner.no_bar(), learner.no_logging():
        learner.fit(1, lr=1e-3)


def with_skorch(network, folder):
    skorch = pytest.importorskip("skorch")
    pictures, labels = images()
    skorch.NeuralNet(
        network,
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.AdamW,
        lr=1e-3,
        max_epochs=1,
        batch_size=4,
        train_split=None,
        verbose=0,
    ).fit(pictures.numpy(), labels.numpy())


def with_warmstart(network, folder):
    """Our own, stopped after three updates."""
    for event in warmstart.train(planned(network, "head"), network, loader()):
        if event.step == 3:
            break


IMAGE_LOOPS = (with_torch, with_lightning, with_fastai, with_skorch, with_warmstart)
LOOPS = [
    *((resnet, loop) for loop in IMAGE_LOOPS),
    *((make, with_transformers) for make in (hf_resnet, hf_vit, hf_bert)),
]
every_loop = pytest.mark.parametrize(
    ("make", "loop"), LOOPS, ids=[f"{make.__name__}-{loop.__name__}" for make, loop in LOOPS]
)


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    """No telemetry, no download, no warnings about workers."""
    monkeypatch.setitem(os.environ, "HF_HUB_OFFLINE", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@every_loop
@pytest.mark.parametrize("strategy", ["head", "last:1"])
def test_frozen_parts_stay_as_they_are(make, loop, strategy, tmp_path):
    network = make()
    plan = planned(network, strategy)
    with warmstart.freeze(network, plan), warmstart.watch(network, plan) as proof:
        loop(network, tmp_path)
    proof.check()
    assert proof.frozen.identical
    assert "output" not in proof.untrained


@pytest.mark.parametrize(
    ("make", "loop"),
    [
        (resnet, with_torch),
        (resnet, with_lightning),
        (resnet, with_fastai),
        (resnet, with_skorch),
        (hf_resnet, with_transformers),
    ],
)
def test_gradients_alone_do_not_freeze_and_watch_names_what_moved(make, loop, tmp_path):
    network = make()
    plan = planned(network, "head")
    cold = [n for n, _ in network.named_parameters() if not n.startswith(("fc.", "classifier."))]
    for name in cold:
        network.get_parameter(name).requires_grad_(False)
    with warmstart.watch(network, plan) as proof:
        loop(network, tmp_path)
    statistics = {
        f"{name}.{kind}"
        for name, module in network.named_modules()
        if isinstance(module, nn.BatchNorm2d)
        for kind in ("running_mean", "running_var", "num_batches_tracked")
    }
    assert {moved.tensor for moved in proof.moved} == statistics
    assert f"{len(statistics)} of {len(statistics)} BatchNorm statistics" in str(proof)


def test_without_any_freezing_everything_moves(tmp_path):
    network = resnet()
    with warmstart.watch(network, planned(network, "head")) as proof:
        with_torch(network, tmp_path)
    frozen = [row for row in proof.ledger.rows if row.block != "output"]
    assert len(proof.moved) == len(frozen) == 120
