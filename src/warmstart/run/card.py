"""The model card: README.md of a run, in Hugging Face format, with the head as plain torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from string import Template

from warmstart.evaluation.readiness import readiness_line
from warmstart.modalities.image import IMAGE
from warmstart.modalities.registry import MODALITIES
from warmstart.records.answer import ModelRecord
from warmstart.records.data import DataRecord
from warmstart.records.inputs import pictures
from warmstart.records.network import BaseModelRecord
from warmstart.records.summary import Summary
from warmstart.run.lineage import ancestors, base_model
from warmstart.tasks.registry import TASKS, other_metrics, score_of
from warmstart.tasks.words import EVIDENCE_NAMES, percent

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

Hook = tuple[str, str, str, str]  # network (as `FeatureLayer.of`), module, pooling, layout


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFacts:
    """The facts of the card that are not in the summary.

    `hooks` gives, per feature layer in order, the module whose output is read, its pooling and the
    layout of that output; None where plain torch cannot read a layer by a forward hook.
    """

    name: str
    summary: Summary
    data: DataRecord
    base: BaseModelRecord
    model: ModelRecord | None
    hooks: tuple[Hook, ...] | None
    layers: str  # what is frozen and trained, in words
    weights: tuple[str, ...]  # what became of the weights, one line per fate
    choices: tuple[str, ...]  # what the user set, and the rule's value
    surgery: str  # what of the base model did not carry over
    is_confident: bool  # whether any answer can be called confident


def card(facts: CardFacts) -> str:
    """The text of README.md. No value in it depends on the clock or the machine."""
    verdict, shipped, base = facts.summary.verdict, facts.summary.shipped, facts.base
    lead = (
        f"**{readiness_line(facts.summary.readiness)}**\n\n{verdict.sentence}\n\n"
        f"Base model: {base.title}, {base.parameters / 1e6:.1f} M parameters. "
        f"{_built_on(base, ancestors(base))}Shipped: {shipped.strategy}; {shipped.why}.\n"
    )
    sections = [_front_matter(facts), f"# {facts.name}\n", lead]
    if facts.model is not None:
        sections += [_numbers(facts), _training(facts), _use(facts), _plain_torch(facts)]
    sections += [_evidence(facts), _data(facts), _limits(facts)]
    return "\n".join(section for section in sections if section)


def _front_matter(facts: CardFacts) -> str:
    words = TASKS[facts.summary.task].words
    tag = words.tag.replace(IMAGE.hub_name, MODALITIES[facts.data.kind].hub_name)
    lines = ["---", "library_name: warmstart", f"tags: [{tag}, warmstart]"]
    source = base_model(facts.base)
    if facts.model is not None and source is not None:
        lines.append(f"base_model: {_quoted(source)}")
    if facts.model is not None and facts.summary.estimate is not None:
        scored = facts.summary.test
        value = score_of(scored) if scored else facts.summary.estimate.value
        name = words.name
        metric = f"Test {name}" if scored else f"{name[0].upper()}{name[1:]} "
        metric += "" if scored else f"({facts.summary.estimate.method})"
        lines += [
            f"pipeline_tag: {tag}",
            "model-index:",
            f"- name: {_quoted(facts.name)}",
            "  results:",
            f"  - task: {{type: {tag}}}",
            f"    dataset: {{name: {_quoted(facts.data.name)}, type: {_quoted(facts.data.name)}}}",
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


def _numbers(facts: CardFacts) -> str:
    lines = [
        "## How good it is\n",
        f"| | {TASKS[facts.summary.task].words.name} | 95 % interval | examples |",
        "|---|---|---|---|",
    ]

    def add(name: str, value: float, low: float, high: float, n: int) -> None:
        interval = f"{percent(low, 1)} to {percent(high, 1)}"
        lines.append(f"| {name} | {percent(value, 1)} | {interval} | {n:,} |")

    estimate, test = facts.summary.estimate, facts.summary.test
    is_once = estimate is not None and estimate.method == "holdout"
    if estimate is not None:
        name = f"estimate, {'held out once' if is_once else 'cross-validated'}"
        add(name, estimate.value, estimate.low, estimate.high, estimate.n)
    probe = facts.summary.linear_probe
    if probe is not None and facts.summary.shipped.strategy not in ("head", "none"):
        add("linear probe, same folds", probe.value, probe.low, probe.high, probe.n)
    if test is not None:
        add("test set, used once", score_of(test), test.low, test.high, test.n)
        lines.append(f"\nTest: {other_metrics(test)}")
    where = "without the held-out examples" if is_once else "inside the fold"
    lines.append(
        "\nThe estimate comes from models that had not seen the example, every choice made "
        f"{where}; it is slightly pessimistic, as each of them was trained on fewer examples."
    )
    lines += [f"\n{one.sentence}" for one in facts.summary.baselines]
    return "\n".join([*lines, ""])


def _training(facts: CardFacts) -> str:
    lines = ["## Training\n", f"{facts.layers} · new head."]
    if facts.surgery:
        lines.append(facts.surgery)
    lines += ["", *(f"- {line}" for line in facts.weights)]
    if facts.choices:
        lines += ["\nSet by the user:\n", *(f"- `{line}`" for line in facts.choices)]
    return "\n".join([*lines, ""])


def _use(facts: CardFacts) -> str:
    nouns = MODALITIES[facts.data.kind].nouns
    confident = (
        "`confident` marks answers whose error stays under the bound in `model/calibration.json`"
        if facts.is_confident
        else "no answer is marked `confident`: too few examples to promise that one is right"
    )
    return (
        f"## Use\n\n```bash\nwarmstart predict THIS_FOLDER {nouns.typed}\n```\n\n"
        "```python\nimport warmstart\n"
        f'warmstart.load("THIS_FOLDER").predict({nouns.quoted})\n```\n\n'
        f"Probabilities are calibrated; {confident}. `ood` marks inputs unlike all training "
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


def _plain_torch(facts: CardFacts) -> str:
    """A script without warmstart, where a few lines rebuild the network and prepare its inputs."""
    model, code = facts.model, ""
    if model is None:
        return ""
    if model.arch.startswith(PREFIX):
        if model.ensemble is None and not model.added and TASKS[model.task].has_classes:
            code = _text_script(model)
    elif facts.hooks is not None and model.arch.startswith("timm:"):
        is_ordinary = pictures(model.preprocessing).channels in (1, 3)
        if is_ordinary and not model.added and not facts.surgery:
            code = _image_script(model, facts.hooks)
    return f"## Without warmstart\n\n```python\n{code}```\n" if code else ""


def _evidence(facts: CardFacts) -> str:
    many = MODALITIES[facts.data.kind].nouns.many
    lines = [
        f"- {EVIDENCE_NAMES.get(e.name, e.name).format(many=many)}: {e.meaning} (n = {e.n:,})"
        for e in facts.summary.verdict.evidence
        if e.value is not None
    ]
    return "\n".join(["## Evidence for the verdict\n", *lines, ""])


def _data(facts: CardFacts) -> str:
    counts = facts.summary.data
    outputs = TASKS[facts.summary.task].words.output.format(counts.classes)
    preposition = "in" if TASKS[facts.summary.task].has_classes else "with"
    test = f", {counts.test:,} test examples." if counts.test else "."
    lines = ["## Data\n", f"{counts.train:,} training examples {preposition} {outputs}{test}", ""]
    return "\n".join([*lines, *(f"- {finding.sentence}" for finding in facts.summary.findings), ""])


def _limits(facts: CardFacts) -> str:
    if facts.model is None:
        images = MODALITIES[facts.data.kind].nouns.pictures
        return (
            "## Limits\n\nNothing was shipped. The numbers hold for inputs like the examples "
            "above. Files: `inspection.json` has the evidence, `label_issues.csv` the labels that "
            f"the {images} contradict, `predictions.jsonl` every prediction.\n"
        )
    outputs = TASKS[facts.summary.task].words.output.format(facts.summary.data.classes)
    return (
        "## Limits\n\nThe numbers hold for inputs like the examples above. The model knows only "
        f"its {outputs}; files: `plan.toml` has every choice, `weights_ledger.json` the fate of "
        "every tensor, `predictions.jsonl` every prediction.\n"
    )
