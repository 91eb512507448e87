"""Recipes for freezing all but the last layer of a network, as libraries and guides have them."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from typing import Any

import torch
import torchvision.models
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset, TensorDataset

import warmstart

N_IMAGES, SIDE, STEPS, CLASSES = 8, 32, 3, 3
Recipe = Callable[[nn.Module], None]


def resnet() -> nn.Module:
    """The network, the same every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return torchvision.models.resnet18(num_classes=CLASSES)


def images() -> tuple[Tensor, Tensor]:
    """Noise with labels: (8, 3, 32, 32) and (8,)."""
    rng = torch.Generator().manual_seed(1)
    return torch.randn(N_IMAGES, 3, SIDE, SIDE, generator=rng), torch.arange(N_IMAGES) % CLASSES


def loader() -> DataLoader[Any]:
    """Three batches, all images in each."""
    pictures, labels = images()
    return DataLoader(
        TensorDataset(pictures.repeat(STEPS, 1, 1, 1), labels.repeat(STEPS)), batch_size=N_IMAGES
    )


def backbone(network: nn.Module) -> list[nn.Module]:
    """All children but the last layer."""
    return [child for name, child in network.named_children() if name != "fc"]


def without_gradients(network: nn.Module) -> None:
    """What most tutorials call freezing."""
    for child in backbone(network):
        child.requires_grad_(False)


def steps(network: nn.Module, model: nn.Module | None = None) -> None:
    """The usual loop over all that takes a gradient."""
    model = model or network
    moving = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(moving, lr=1e-3, weight_decay=0.1)
    for inputs, labels in loader():
        optimizer.zero_grad()
        cross_entropy(model(inputs), labels).backward()
        optimizer.step()


def tutorial(network: nn.Module) -> None:
    """PyTorch's transfer learning tutorial, "ConvNet as fixed feature extractor"."""
    without_gradients(network)
    network.train()
    steps(network)


def kept_in_eval(network: nn.Module) -> None:
    """eval() after every train()."""
    without_gradients(network)
    network.train()
    for child in backbone(network):
        child.eval()
    steps(network)


class Answers(nn.Module):
    """A network as transformers' Trainer wants it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixel_values: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.network(pixel_values)
        return {"loss": cross_entropy(logits, labels), "logits": logits}


class Rows(Dataset[dict[str, Tensor]]):
    """Examples as it wants them."""

    def __len__(self) -> int:
        return N_IMAGES

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        pictures, labels = images()
        return {"pixel_values": pictures[index], "labels": labels[index]}


def trainer(network: nn.Module) -> None:
    """transformers' Trainer on a network without gradients below the output."""
    without_gradients(network)
    run_trainer(network)


def run_trainer(network: nn.Module) -> None:
    """The Trainer alone, with weight decay."""
    import transformers

    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            output_dir=folder,
            max_steps=STEPS,
            per_device_train_batch_size=N_IMAGES,
            report_to="none",
            use_cpu=True,
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            weight_decay=0.1,
        )
        trainer = transformers.Trainer(Answers(network), arguments, train_dataset=Rows())
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()


def lora(network: nn.Module) -> None:
    """PEFT: low-rank updates of the convolutions, the output trained."""
    import peft

    config = peft.LoraConfig(target_modules=r".*conv\d", modules_to_save=["fc"], r=2)
    model = peft.get_peft_model(network, config)
    model.train()
    steps(network, model)


def fastai(train_bn: bool) -> Recipe:
    """fastai's `freeze()`: all parameter groups but the last."""

    def run(network: nn.Module) -> None:
        from fastai.callback.progress import ProgressCallback
        from fastai.data.core import DataLoaders
        from fastai.learner import Learner

        def splitter(model: Any) -> list[list[nn.Parameter]]:
            below = [p for child in backbone(model) for p in child.parameters()]
            return [below, list(model.fc.parameters())]

        with tempfile.TemporaryDirectory() as folder:
            learner = Learner(
                DataLoaders(loader(), loader()),
                network,
                loss_func=nn.CrossEntropyLoss(),
                splitter=splitter,
                train_bn=train_bn,
                path=folder,
            )
            learner.remove_cb(ProgressCallback)
            learner.freeze()
            with learner.no_logging():
                learner.fit(1, lr=1e-3)

    return run


def lightning_with(make: Callable[[Any], Any]) -> Recipe:
    """Lightning with a finetuning callback that `make` gets from its module of callbacks."""

    def run(network: nn.Module) -> None:
        import lightning
        from lightning.pytorch import callbacks

        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

        class Module(lightning.LightningModule):
            head: Any

            def __init__(self) -> None:
                super().__init__()
                self.head, self.backbone = network.fc, network
                network.fc = nn.Identity()

            def training_step(self, batch: Any, _: int) -> Tensor:
                return cross_entropy(self.head(self.backbone(batch[0])), batch[1])

            def configure_optimizers(self) -> torch.optim.Optimizer:
                moving = [p for p in self.parameters() if p.requires_grad]
                return torch.optim.AdamW(moving, lr=1e-3, weight_decay=0.1)

        module = Module()
        with tempfile.TemporaryDirectory() as folder:
            lightning.Trainer(
                accelerator="cpu",
                max_epochs=1,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                default_root_dir=folder,
                callbacks=[make(callbacks)],
            ).fit(module, loader())
        network.fc = module.head

    return run


def backbone_finetuning(train_bn: bool) -> Recipe:
    """BackboneFinetuning, its backbone frozen for longer than the training lasts."""
    return lightning_with(
        lambda kinds: kinds.BackboneFinetuning(unfreeze_backbone_at_epoch=99, train_bn=train_bn)
    )


def base_finetuning() -> Recipe:
    """A callback of one's own that calls `freeze(train_bn=False)`."""

    def make(kinds: Any) -> Any:
        class Own(kinds.BaseFinetuning):
            def freeze_before_training(self, pl_module: Any) -> None:
                self.freeze(pl_module.backbone, train_bn=False)

            def finetune_function(self, *_: Any) -> None:
                pass

        return Own()

    return lightning_with(make)


def skorch(network: nn.Module) -> None:
    """skorch's Freezer on all but the output."""
    from skorch import NeuralNet
    from skorch.callbacks import Freezer

    pictures, labels = images()
    NeuralNet(
        network,
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.AdamW,
        lr=1e-3,
        max_epochs=STEPS,
        batch_size=N_IMAGES,
        train_split=None,
        verbose=0,
        callbacks=[Freezer(lambda name: not name.startswith("fc."))],
    ).fit(pictures.numpy(), labels.numpy())


def timm(network: nn.Module) -> None:
    """timm.utils.freeze, which puts norms in that do not move."""
    from timm.utils import freeze

    freeze(network, [name for name, _ in network.named_children() if name != "fc"])
    network.train()
    steps(network)


def ours(network: nn.Module) -> None:
    """warmstart.train, stopped after as many steps."""
    plan = warmstart.plan(network, "head", inputs=images()[0])
    for event in warmstart.train(plan, network, loader()):
        if event.step == STEPS:
            break


def ours_around(loop: Recipe) -> Recipe:
    """Somebody else's loop inside warmstart.freeze."""

    def run(network: nn.Module) -> None:
        with warmstart.freeze(network, warmstart.plan(network, "head", inputs=images()[0])):
            network.train()
            loop(network)

    return run


RECIPES: list[tuple[str, str, Recipe]] = [
    ("tutorial, requires_grad = False", "torch", tutorial),
    ("requires_grad = False, eval() after every train()", "torch", kept_in_eval),
    ("Trainer, requires_grad = False", "transformers", trainer),
    ("LoRA on the convolutions", "peft", lora),
    ("Learner.freeze(), the default", "fastai", fastai(train_bn=True)),
    ("Learner.freeze(), train_bn=False", "fastai", fastai(train_bn=False)),
    ("BackboneFinetuning, the default", "lightning", backbone_finetuning(train_bn=True)),
    ("BackboneFinetuning, train_bn=False", "lightning", backbone_finetuning(train_bn=False)),
    ("BaseFinetuning.freeze(train_bn=False)", "lightning", base_finetuning()),
    ("Freezer", "skorch", skorch),
    ("timm.utils.freeze", "timm", timm),
    ("warmstart.train", "warmstart", ours),
    ("warmstart.freeze around a plain loop", "warmstart", ours_around(steps)),
    ("warmstart.freeze around the Trainer", "transformers", ours_around(run_trainer)),
]
