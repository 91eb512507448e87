"""Data read and looked at through a tiny network, step by step as a run does it."""

from tiny import PREP, network
from warmstart.data.read import read
from warmstart.events import drain, follow
from warmstart.features.extraction import extract_features
from warmstart.network.load import load
from warmstart.planning.rules import probe_layers
from warmstart.run.cleaning import clean
from warmstart.training.dataset import TrainingDataset, arrange


def collect(source, **options):
    """The data alone."""
    return drain(read(source, **options))


def look_at(collection, module="convolutions", prep=PREP, engine=None):
    """The look, and what it said."""
    module = network(module) if isinstance(module, str) else module
    events = []
    extracted = follow(
        extract_features(collection, load(module, preprocessing=prep), engine), events.append
    )
    return extracted, [event.values["text"] for event in events if event.kind == "note"]


def scene_of(source, module="convolutions", *, budget="balanced", prep=PREP, seed=0, **options):
    """What the checks look at."""
    collection = collect(source, **options)
    module = network(module) if isinstance(module, str) else module
    extracted, _ = look_at(collection, module, prep)
    collection = clean(collection, extracted)
    return TrainingDataset(
        collection=collection,
        extracted=extracted,
        labelled=arrange(collection.record),
        prep=prep,
        probe_layers=probe_layers(extracted.feature_layers),
        budget=budget,
        seed=seed,
        base=load(module, preprocessing=prep).record,
    )


def table(root, rows, name="labels.csv"):
    """A table beside the pictures: rows of (file, label, group)."""
    lines = ["file,label,person", *(",".join(map(str, row)) for row in rows)]
    (root / name).write_text("\n".join(lines) + "\n")
    return root / name
