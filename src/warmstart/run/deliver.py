"""The last stage: model, records, card, summary and report."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from string import Template

import numpy as np
import torch
from numpy.typing import NDArray

import warmstart
from warmstart.errors import TrainingError
from warmstart.evaluation.readiness import Measurements, by_consequence, readiness, readiness_line
from warmstart.events import Event, Steps, note
from warmstart.evidence.check import gain_record
from warmstart.evidence.data_checks import write_lists
from warmstart.features.batches import to_tensor
from warmstart.machine import peak_rss_mb
from warmstart.modalities.image import IMAGE
from warmstart.modalities.registry import MODALITIES, modality_of
from warmstart.network.ledger import prove_frozen, summary_lines, take_digests, write_ledger
from warmstart.network.load import PretrainedModel
from warmstart.network.model_folder import Bundle, write_bundle
from warmstart.network.partial_load import surgery_sentence, transferred_share
from warmstart.network.partition import Network
from warmstart.network.surgery import BRANCH, AddedBlock, WarmModel, assemble, unique_state
from warmstart.planning.plan_file import in_words, user_choices
from warmstart.records.answer import ModelRecord
from warmstart.records.data import DataRecord
from warmstart.records.findings import Finding, without
from warmstart.records.inputs import Kind, pictures
from warmstart.records.network import BaseModelRecord, FeatureLayer, Ledger, Recipe
from warmstart.records.plan import Plan
from warmstart.records.run_folder import (
    Clock,
    RunFolder,
    to_plain,
    write_bytes,
    write_json,
    write_json_lines,
)
from warmstart.records.summary import (
    ClassScore,
    DataCounts,
    FrozenProof,
    Inspection,
    Prediction,
    Readiness,
    ShippedCandidate,
    Summary,
    TensorCounts,
    Verdict,
)
from warmstart.reporting.facts import report_facts
from warmstart.reporting.report import write_report
from warmstart.run.base_model import RunBaseModel, ancestors, base_model, past_arrays
from warmstart.tasks.classify import per_class
from warmstart.tasks.registry import TASKS, other_metrics, score_of, test_estimate
from warmstart.tasks.words import EVIDENCE_NAMES, percent
from warmstart.training.dataset import LabelledRows, TrainingDataset
from warmstart.training.fine_tune import FineTuned
from warmstart.training.head_families import ReadFeatures
from warmstart.training.linear_probe import HeadFit
from warmstart.training.out_of_distribution import fit_neighbours
from warmstart.training.score import (
    ModelEvaluation,
    calibration_record,
    confident,
    head_scores,
    predictions,
)

# How far the network may be from its cached features, in standard deviations of the scores. A
# frozen prefix cached in half precision puts it 0.5 % off (10,000 images, last:6).
TOLERANCE = {"float32": 5e-3, "float16": 3e-2}
CHECKED = 8  # training images on which the finished network is checked


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A finished run: its folder, and the summary written there."""

    path: Path
    summary: Summary


@dataclass(frozen=True, slots=True)
class Origin:
    """The base model cut into blocks, digests of its tensors, what input surgery did to it."""

    base: PretrainedModel
    network: Network
    digests: Mapping[str, str]
    surgery: str


def origin_of(base: PretrainedModel, network: Network) -> Origin:
    """The base model of a run: call this before anything is trained."""
    return Origin(base, network, take_digests(network), surgery_of(base))


def surgery_of(base: PretrainedModel) -> str:
    """What input surgery did to a base model, and what does not carry over; usually empty."""
    if not base.changes:
        return ""
    return surgery_sentence(base.changes, transferred_share(base.changes, base.module))


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """The results of the earlier stages."""

    origin: Origin
    training_data: TrainingDataset
    inspection: Inspection
    verdict: Verdict
    plan: Plan
    fine_tuned: FineTuned
    measured: ModelEvaluation
    shipped: ShippedCandidate
    ignored: tuple[str, ...]  # codes of findings that are not reported

    @property
    def record(self) -> DataRecord:
        return self.training_data.collection.record

    @property
    def labelled(self) -> LabelledRows:
        return self.training_data.labelled

    def predictions(self) -> Iterator[Prediction]:
        """The lines of predictions.jsonl."""
        head, classes = self.fine_tuned.head, self.record.classes
        return predictions(head, self.labelled, classes, self.measured)

    @property
    def surgery(self) -> str:
        """What of the base model did not carry over; nothing does into random weights."""
        return "" if self.plan.blocks[0].behaviour.is_random else self.origin.surgery


def deliver(folder: RunFolder, results: Results, clock: Clock) -> Steps[Finished]:
    """Write the run folder. Files are whole or absent; summary.json is the last record."""
    yield Event(stage="deliver", kind="begin")
    _write_records(folder, results)
    bundle, ledger, fates = None, None, tuple[str, ...]()
    proof = FrozenProof(parameters=0, buffers=0, identical=True)
    if results.shipped.strategy != "none":
        bundle, ledger = _write_model(folder, results)
        proof = _prove(ledger, results.fine_tuned.plan)
        fates = summary_lines(ledger)
        yield note("deliver", "Proof", "\n".join(fates))
    clock.lap("deliver")
    summary = _summary(results, proof, clock)
    model = bundle.record if bundle else None
    readme = card(folder.path.name, results, summary, model, fates)
    write_bytes(folder.path / "README.md", readme.encode())
    write_json(folder.path / "summary.json", summary)
    try:
        facts = report_facts(
            folder.path,
            summary,
            map(to_plain, results.predictions()),
            data=results.record,
            inspection=results.inspection,
            network=results.fine_tuned.network.record,
            plan=results.plan,
            ledger=ledger,
            model=model,
            calibration=bundle.calibration if bundle else None,
        )
        write_report(folder.path, results.training_data.collection.load, facts)
    except Exception as error:  # the run is finished with or without its report
        text = f"report.html could not be written ({error}); `warmstart report` tries again"
        yield note("deliver", "Report", text)
    yield Event(stage="deliver", kind="end")
    return Finished(path=folder.path, summary=summary)


def _write_records(folder: RunFolder, results: Results) -> None:
    path = folder.path  # data.json and plan.toml are already there
    write_json(path / "inspection.json", results.inspection)
    # By the predictions of what ships; the checks wrote those of the linear probe.
    write_lists(path, results.inspection.label_issues, results.inspection.off_topic)
    write_json(path / "network.json", results.fine_tuned.network.record)
    write_json_lines(path / "predictions.jsonl", results.predictions())
    packages = ("torch", "timm", "numpy", "scipy", "pillow", "onnxruntime")
    environment = {
        "warmstart": warmstart.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "threads": results.training_data.extracted.threads,
        "packages": {name: version(name) for name in packages},
    }
    write_json(path / "env.json", environment)


def _write_model(folder: RunFolder, results: Results) -> tuple[Bundle, Ledger]:
    """Write model/, where nothing depends on the test set, and the weights ledger."""
    origin, labelled, fine_tuned = results.origin, results.labelled, results.fine_tuned
    head, load = fine_tuned.head, results.training_data.collection.load
    calibration = labelled.target.model_calibration(head.calibration)
    model = assemble(
        fine_tuned.network,
        head.feature_layers,
        torch.from_numpy(head.weight),
        torch.from_numpy(head.bias),
        calibration.temperature,
        torch.from_numpy(calibration.bias).float(),
    )
    sample, prep = labelled.learn[:CHECKED], origin.base.record.preprocessing
    inputs = to_tensor(
        np.stack([modality_of(prep).encode(load(e.id), e.id, prep) for e in sample]), prep
    )
    choice = fine_tuned.plan.training.cache_dtype
    dtype = "float32" if choice is None else str(choice.value)
    check_model(model, head, inputs, fine_tuned.reader(sample), dtype)
    record, read = _describe(origin, fine_tuned, results.record), fine_tuned.reader(labelled.learn)
    neighbours, ood_from, nearest = fit_neighbours(
        read, record.neighbour_layers, labelled.group_rows, seed=0
    )
    base = origin.base
    before = base.past.inheritable if isinstance(base, RunBaseModel) else frozenset[int]()
    arrays: dict[str, NDArray[np.generic]] = {
        "points": neighbours.points.astype(np.float16, copy=False),
        "target": neighbours.sketch.target.astype(np.int32),
        "sign": neighbours.sketch.sign.astype(np.int8),
        "offset": neighbours.offset,
        "scale": neighbours.scale,
        **past_arrays(before, labelled.learn),
    }
    answers = calibration_record(head, labelled, ood_from, nearest)
    ids = [example.id for example in labelled.learn]
    bundle = Bundle(unique_state(model), record, answers, arrays, ids)
    write_bundle(folder.path / "model", bundle)
    ledger = write_ledger(
        origin.digests, origin.network, model, actions=fine_tuned.actions, changes=base.changes
    )
    write_json(folder.path / "weights_ledger.json", ledger)
    return bundle, ledger


def check_model(
    model: WarmModel,
    head: HeadFit,
    inputs: torch.Tensor,
    read: ReadFeatures,
    dtype: str = "float32",
) -> float:
    """Largest difference between the network and the features its head was fitted on.

    In standard deviations of the scores. Shapes: inputs (m, C, H, W) normalised; read gives the
    cached features, of `dtype`, of the same examples. Raises: TrainingError beyond TOLERANCE.
    """
    with torch.inference_mode():
        features = torch.cat(model.features(inputs), dim=1).double()
        weight, bias = model.head.weight.double(), model.head.bias.double()
        live = (features @ weight.T + bias).numpy()
    cached = head_scores(head, read)
    gap = float(np.abs(live - cached).max() / max(float(cached.std()), 1e-12))
    if not gap < TOLERANCE[dtype]:
        raise TrainingError(
            f"the finished network differs from the features it was fitted on by {gap:.2%} of "
            "their scores' spread; nothing was shipped. Clear the cache (`warmstart cache clear`) "
            "and run again."
        )
    return gap


def _describe(origin: Origin, fine_tuned: FineTuned, record: DataRecord) -> ModelRecord:
    """model/config.json: what rebuilds the network, and how its blocks were trained."""
    base, head, network = origin.base.record, fine_tuned.head, fine_tuned.network
    modules = network.backbone.named_modules()
    blocks = ((name, m) for name, m in modules if isinstance(m, AddedBlock))
    return ModelRecord(
        task=record.task,
        arch=base.arch,
        base=base.name,
        base_sha256=base.sha256,
        head=head.name,
        penalty=head.penalty,
        feature_layers=head.feature_layers,
        classes=record.classes,
        preprocessing=base.preprocessing,
        strategy=fine_tuned.shipped or str(fine_tuned.plan.strategy.value),
        recipe=_recipe(fine_tuned.plan, base.recipe),
        lineage=base.lineage or (base.name,),
        # Hidden widths of blocks added behind the last one, by this run or earlier ones.
        added=tuple(m.hidden for name, m in blocks if not name.startswith(f"{BRANCH}.")),
        ensemble=network.ensemble.cut if network.ensemble else None,
    )


def _recipe(plan: Plan, before: Recipe | None) -> Recipe | None:
    """How the blocks were trained first, for a run with this one as base model."""
    # The base model's recipe stays: else each run in a chain would move ten times less than the
    # one before. A recipe of another optimizer says nothing about this one.
    training = plan.training
    if not plan.is_trained or training.optimizer is None or training.lr is None:
        return before
    is_scratch = any(block.behaviour.is_random for block in plan.blocks)
    if before is not None and before.optimizer == training.optimizer.value and not is_scratch:
        return before
    return Recipe(
        optimizer=str(training.optimizer.value),
        lr=training.lr.number,
        batch_size=int(training.batch_size.number),
        schedule="cosine",
    )


def _prove(ledger: Ledger, plan: Plan) -> FrozenProof:
    """Every tensor of a frozen block has its old bytes. Raises: TrainingError if not."""
    frozen = (block.name for block in plan.blocks if not block.behaviour.is_trained)
    proof = prove_frozen(ledger, frozenset(frozen))
    if not proof.identical:
        raise TrainingError(
            "a frozen layer has changed: do not trust this run; weights_ledger.json names the "
            "tensors. Please report it."
        )
    total = prove_frozen(ledger)  # with the unchanged tensors under low-rank updates
    return replace(proof, parameters=total.parameters, buffers=total.buffers)


def _summary(results: Results, proof: FrozenProof, clock: Clock) -> Summary:
    base, measured = results.origin.base.origin, results.measured
    problems = (*results.record.problems, *results.inspection.findings)
    findings = by_consequence(without(problems, results.ignored))
    return Summary(
        task=results.record.task,
        verdict=results.verdict,
        shipped=results.shipped,
        readiness=_readiness(results, findings),
        estimate=measured.estimate,
        linear_probe=measured.linear_probe,
        fine_tuning_gain=gain_record(measured.gain),
        test=measured.test,
        data=count_data(
            results.labelled, results.record.problems, results.inspection, results.record.kind
        ),
        base=TensorCounts(name=base.name, sha256=base.sha256, parameters=base.parameters),
        frozen=proof,
        guards=results.fine_tuned.guards,
        findings=findings,
        seconds=clock.table(),
        peak_rss_mb=peak_rss_mb(),
        own_head=results.fine_tuned.own_head,
        baselines=results.fine_tuned.baselines,
        weakest=_weakest(results),
    )


def _weakest(results: Results) -> ClassScore | None:
    """The class with the lowest recall on held-out rows; None where nothing ships."""
    head, labelled = results.fine_tuned.head, results.labelled
    if results.shipped.strategy == "none" or not labelled.target.has_classes:
        return None
    held = head.fold >= 0
    predicted = head.probabilities[held].argmax(axis=1)
    classes = per_class(predicted, labelled.labels[held], labelled.groups()[held], labelled.names)
    return min(classes, key=lambda one: (one.recall, -one.n))


def count_data(
    labelled: LabelledRows, findings: Sequence[Finding], inspection: Inspection, kind: Kind
) -> DataCounts:
    """Sizes for the summary. Items of the findings that are counted are examples."""
    sizes = dict.fromkeys(("unreadable", "near-duplicate", "leakage"), 0)
    for finding in findings:
        if finding.kind in sizes:
            sizes[finding.kind] += len(finding.items)
    return DataCounts(
        train=len(labelled.learn),
        test=len(labelled.test),
        classes=labelled.n_classes,
        unreadable=sizes["unreadable"],
        near_duplicates=sizes["near-duplicate"],
        leaks=sizes["leakage"],
        label_issues=inspection.label_issues.count,
        off_topic=None if inspection.off_topic is None else inspection.off_topic.count,
        kind=kind,
    )


def _readiness(results: Results, findings: Sequence[Finding]) -> Readiness:
    labelled, measured, verdict = results.labelled, results.measured, results.verdict
    target, test = labelled.target, measured.test
    held = results.fine_tuned.head.fold >= 0  # the rows of the estimate
    share = target.blind_score(labelled.labels[held])
    name = target.words.blind
    if target.has_classes:
        largest = int(np.bincount(labelled.strata[held]).argmax())
        name = f"always predicting “{labelled.names[largest]}”"
    why_not = ""
    if verdict.kind == "no-signal":
        why_not = "no signal: the labels cannot be told from shuffled ones"
        if better := [one.name for one in results.fine_tuned.baselines if one.is_better]:
            why_not = f"the linear probe finds no signal, where {better[0]} does"
    elif results.shipped.strategy == "none":
        why_not = results.shipped.why
    return readiness(
        Measurements(
            task=results.record.task,
            estimate=measured.estimate,
            test=test_estimate(test) if test is not None else None,
            blind=(share, name),
            findings=findings,
            confident=confident(results.fine_tuned.head, labelled),
            why_not=why_not,
            many=labelled.nouns.many,
        )
    )


def _hooks(network: Network, feature_layers: Sequence[FeatureLayer]) -> tuple[Hook, ...] | None:
    """Per feature layer its module, pooling and layout; None if one has no module to hook."""
    layer_hooks = []
    for layer in feature_layers:
        module, layout = "", network.record.blocks[layer.block - 1].layout
        if layer.pool != "neck":
            modules = network.steps.blocks[layer.block - 1].modules
            if not modules:
                return None
            module = modules[-1]
        layer_hooks.append((layer.of, module, layer.pool, layout))
    return tuple(layer_hooks)


# ---- The model card: README.md of a run, in Hugging Face format, with the head as plain torch.

PREFIX = "text:"
_TEXT_SNIPPET = Template("""\
import json, re, torch, unicodedata
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModel

config = json.load(open("model/config.json"))
tensors = load_file("model/model.safetensors")
design = json.loads('$design')
pooling = design.pop("pooling")
encoder = AutoModel.from_config(AutoConfig.for_model("$kind", **design)$options).eval()
front = "backbone.encoder."
encoder.load_state_dict({k[len(front):]: v for k, v in tensors.items() if k.startswith(front)})
tokenizer = Tokenizer.from_file("model/tokenizer.json")
tokenizer.no_padding()
inputs = config["preprocessing"]
tokenizer.enable_truncation(min(inputs["length"], inputs["most"]))

text = re.sub(r"\\s+", " ", unicodedata.normalize("NFC", "a text")).strip()
tokens = tokenizer.encode(text)
windows = [tokens, *tokens.overflowing][:max(inputs["length"] // inputs["most"], 1)]
with torch.no_grad():  # one forward pass per window
    states = [
        encoder(input_ids=torch.tensor([window.ids]), output_hidden_states=True).hidden_states
        for window in windows
    ]

def read(block, pool):
    rows = [hidden[block - 1][0] for hidden in states]  # (tokens, channels), output of `block`
    if pool == "first":
        return rows[0][0]
    if pool == "neck" and pooling == "first":
        return torch.stack([row[0] for row in rows]).mean(0)
    return torch.cat(rows).mean(0)

features = torch.cat([read(x["block"], x["pool"]) for x in config["feature_layers"]])
scores = tensors["head.weight"] @ features + tensors["head.bias"]
logits = scores / tensors["head.temperature"] + tensors["head.class_bias"]
print(dict(zip(config["classes"], logits.softmax(0).tolist())))
""")


def _text_script(model: ModelRecord) -> str:
    kind, brace, rest = model.arch.removeprefix(PREFIX).partition("{")
    design = json.dumps(json.loads(brace + rest or "{}"), sort_keys=True)
    options = "" if kind == "distilbert" else ", add_pooling_layer=False"
    return _TEXT_SNIPPET.substitute(design=design, kind=kind, options=options)


NAMED = 6  # classes of a base model that are named

# Network (as `FeatureLayer.of`), module, pooling, layout.
Hook = tuple[str, str, str, str]


def card(
    name: str, results: Results, summary: Summary, model: ModelRecord | None, fates: Sequence[str]
) -> str:
    """The text of README.md; no value in it depends on the clock or the machine.

    `fates`: what became of the weights, one line per fate.
    """
    base = results.origin.base.record
    lead = (
        f"**{readiness_line(summary.readiness)}**\n\n{summary.verdict.sentence}\n\n"
        f"Base model: {base.title}, {base.parameters / 1e6:.1f} M parameters. "
        f"{_built_on(base, ancestors(base))}"
        f"Shipped: {summary.shipped.strategy}; {summary.shipped.why}.\n"
    )
    sections = [_front_matter(name, results, summary, model), f"# {name}\n", lead]
    if model is not None:
        code = _plain_torch(results, model)
        sections += [_numbers(summary), _training(results, fates), _use(results)]
        sections += [f"## Without warmstart\n\n```python\n{code}```\n"] if code else []
    nouns = results.labelled.nouns
    sections += [_evidence(summary, nouns.many), _data(summary)]
    sections.append(_limits(summary, nouns.pictures, ships=model is not None))
    return "\n".join(sections)


def _front_matter(name: str, results: Results, summary: Summary, model: ModelRecord | None) -> str:
    words, data = TASKS[summary.task].words, _quoted(results.record.name)
    tag = words.tag.replace(IMAGE.hub_name, MODALITIES[results.record.kind].hub_name)
    lines = ["---", "library_name: warmstart", f"tags: [{tag}, warmstart]"]
    source = base_model(results.origin.base.record)
    if model is not None and source is not None:
        lines.append(f"base_model: {_quoted(source)}")
    if model is not None and summary.estimate is not None:
        scored = summary.test
        value = score_of(scored) if scored else summary.estimate.value
        metric = f"Test {words.name}"
        if not scored:
            metric = f"{words.name[0].upper()}{words.name[1:]} ({summary.estimate.method})"
        lines += [
            f"pipeline_tag: {tag}",
            "model-index:",
            f"- name: {_quoted(name)}",
            "  results:",
            f"  - task: {{type: {tag}}}",
            f"    dataset: {{name: {data}, type: {data}}}",
            "    metrics:",
            f"    - {{type: {words.metric}, value: {value:.4f}, name: {metric}}}",
        ]
    return "\n".join([*lines, "---", ""])


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _built_on(base: BaseModelRecord, ancestors: Sequence[str]) -> str:
    """The ancestors of a run that is the base model, as one sentence; else empty.

    >>> from types import SimpleNamespace as Record
    >>> _built_on(Record(name="runs/b", labels=("cat", "dog")), ["lite0", "runs/a"])
    'Built on runs/b (cat, dog), which was built on runs/a, which was built on lite0. '
    """
    if not ancestors:
        return ""
    named, more = ", ".join(base.labels[:NAMED]), len(base.labels) - NAMED
    classes = f" ({named}{f' and {more:,} more' if more > 0 else ''})" if named else ""
    chain = [f"{base.name}{classes}", *reversed(ancestors)]
    return f"Built on {', which was built on '.join(chain)}. "


def _numbers(summary: Summary) -> str:
    lines = [
        "## How good it is\n",
        f"| | {TASKS[summary.task].words.name} | 95 % interval | examples |",
        "|---|---|---|---|",
    ]

    def add(name: str, value: float, low: float, high: float, n: int) -> None:
        interval = f"{percent(low, 1)} to {percent(high, 1)}"
        lines.append(f"| {name} | {percent(value, 1)} | {interval} | {n:,} |")

    estimate, probe, test = summary.estimate, summary.linear_probe, summary.test
    is_once = estimate is not None and estimate.method == "holdout"
    if estimate is not None:
        name = f"estimate, {'held out once' if is_once else 'cross-validated'}"
        add(name, estimate.value, estimate.low, estimate.high, estimate.n)
    if probe is not None and summary.shipped.strategy not in ("head", "none"):
        add("linear probe, same folds", probe.value, probe.low, probe.high, probe.n)
    if test is not None:
        add("test set, used once", score_of(test), test.low, test.high, test.n)
        lines.append(f"\nTest: {other_metrics(test)}")
    where = "without the held-out examples" if is_once else "inside the fold"
    lines.append(
        "\nThe estimate comes from models that had not seen the example, every choice made "
        f"{where}; it is slightly pessimistic, as each of them was trained on fewer examples."
    )
    lines += [f"\n{one.sentence}" for one in summary.baselines]
    return "\n".join([*lines, ""])


def _training(results: Results, fates: Sequence[str]) -> str:
    lines = ["## Training\n", f"{in_words(results.fine_tuned.plan)} · new head."]
    lines += [results.surgery] if results.surgery else []
    lines += ["", *(f"- {line}" for line in fates)]
    if choices := [f"- `{line}`" for line in user_choices(results.plan)]:
        lines += ["\nSet by the user:\n", *choices]
    return "\n".join([*lines, ""])


def _use(results: Results) -> str:
    nouns, labelled = results.labelled.nouns, results.labelled
    promise = "no answer is marked `confident`: too few examples to promise that one is right"
    if not labelled.target.has_classes or confident(results.fine_tuned.head, labelled) is not None:
        promise = (
            "`confident` marks answers whose error stays under the bound in "
            "`model/calibration.json`"
        )
    return (
        f"## Use\n\n```bash\nwarmstart predict THIS_FOLDER {nouns.typed}\n```\n\n"
        "```python\nimport warmstart\n"
        f'warmstart.load("THIS_FOLDER").predict({nouns.quoted})\n```\n\n'
        f"Probabilities are calibrated; {promise}. `ood` marks inputs unlike all training "
        "examples.\n"
    )


_SNIPPET = Template("""\
import json, timm, torch
from PIL import Image
from safetensors.torch import load_file

config = json.load(open("model/config.json"))
tensors = load_file("model/model.safetensors")
def make(): return timm.create_model("$arch", num_classes=0$options).eval()
state = {k[9:]: v for k, v in tensors.items() if k.startswith("backbone.")}
$load
outputs = {}
HOOKS = $hooks
for of, module in {(of, name) for of, name, _, _ in HOOKS}:
    networks[of].get_submodule(module).register_forward_hook(
        lambda _m, _i, out, key=(of, module): outputs.__setitem__(key, out)
    )

def pool(x, how, layout):
    if how == "neck": return x
    if layout == "NLC": return x.mean(1)
    if layout == "NHWC": x = x.permute(0, 3, 1, 2)
    if x.ndim == 2: return x
    if how == "avg": return x.mean((2, 3))
    return torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)

prep = config["preprocessing"]
h, w = prep["size"]
image = Image.open("photo.jpg").convert("RGB" if len(prep["mean"]) == 3 else "L")
scale = max(prep["resize"] / min(image.size), w / image.width, h / image.height)
wide, high = [prep["resize"] if prep["squash"] else int(s * scale + 1e-6) for s in image.size]
image = image.resize((max(wide, w), max(high, h)), Image.$filter)
left, top = (image.width - w) // 2, (image.height - h) // 2
pixels = bytearray(image.crop((left, top, left + w, top + h)).tobytes())
x = torch.frombuffer(pixels, dtype=torch.uint8).reshape(1, h, w, -1)
x = (x / 255 - torch.tensor(prep["mean"])) / torch.tensor(prep["std"])
with torch.no_grad():
    for network in networks.values(): network(x.permute(0, 3, 1, 2))
features = torch.cat([pool(outputs[of, name], how, layout) for of, name, how, layout in HOOKS], 1)
scores = features @ tensors["head.weight"].T + tensors["head.bias"]
logits = scores / tensors["head.temperature"] + tensors["head.class_bias"]
print(dict(zip(config["classes"], logits$link[0].tolist())))
""")


_ONE = """\
networks = {"": make()}
networks[""].load_state_dict(state)
"""
_BOTH = """\
base = {k[5:]: state.pop(k) for k in list(state) if k.startswith("base.")}
networks = {"": make(), "base": make()}  # fine-tuned blocks, and the base model's own
networks[""].load_state_dict(state)
networks["base"].load_state_dict({**state, **base})
"""


def _image_script(model: ModelRecord, hooks: tuple[Hook, ...]) -> str:
    prep = pictures(model.preprocessing)
    return _SNIPPET.substitute(
        load=_ONE if model.ensemble is None else _BOTH,
        arch=model.arch.partition(":")[2],
        options=", in_chans=1" if prep.channels == 1 else "",
        hooks=repr(list(hooks)),
        filter=prep.interpolation.upper(),
        link=TASKS[model.task].link,
    )


def _plain_torch(results: Results, model: ModelRecord) -> str:
    """A script without warmstart; empty where a few lines cannot rebuild network and inputs."""
    if model.added:
        return ""
    if model.arch.startswith(PREFIX):
        is_plain = model.ensemble is None and TASKS[model.task].has_classes
        return _text_script(model) if is_plain else ""
    hooks = _hooks(results.fine_tuned.network, results.fine_tuned.head.feature_layers)
    if hooks is None or not model.arch.startswith("timm:") or results.surgery:
        return ""
    is_ordinary = pictures(model.preprocessing).channels in (1, 3)
    return _image_script(model, hooks) if is_ordinary else ""


def _evidence(summary: Summary, many: str) -> str:
    lines = [
        f"- {EVIDENCE_NAMES.get(e.name, e.name).format(many=many)}: {e.meaning} (n = {e.n:,})"
        for e in summary.verdict.evidence
        if e.value is not None
    ]
    return "\n".join(["## Evidence for the verdict\n", *lines, ""])


def _data(summary: Summary) -> str:
    counts, task = summary.data, TASKS[summary.task]
    outputs = task.words.output.format(counts.classes)
    preposition = "in" if task.has_classes else "with"
    test = f", {counts.test:,} test examples." if counts.test else "."
    lines = ["## Data\n", f"{counts.train:,} training examples {preposition} {outputs}{test}", ""]
    return "\n".join([*lines, *(f"- {finding.sentence}" for finding in summary.findings), ""])


def _limits(summary: Summary, pictures: str, *, ships: bool) -> str:
    if not ships:
        return (
            "## Limits\n\nNothing was shipped. The numbers hold for inputs like the examples "
            "above. Files: `inspection.json` has the evidence, `label_issues.csv` the labels that "
            f"the {pictures} contradict, `predictions.jsonl` every prediction.\n"
        )
    outputs = TASKS[summary.task].words.output.format(summary.data.classes)
    return (
        "## Limits\n\nThe numbers hold for inputs like the examples above. The model knows only "
        f"its {outputs}; files: `plan.toml` has every choice, `weights_ledger.json` the fate of "
        "every tensor, `predictions.jsonl` every prediction.\n"
    )
