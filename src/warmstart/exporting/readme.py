"""README.md of an export: a model card in the hub's format, for someone without warmstart."""

from __future__ import annotations

import json
from dataclasses import dataclass

from warmstart.evaluation.readiness import readiness_line
from warmstart.formatting import interval, percents
from warmstart.nouns import Nouns, nouns_of
from warmstart.records.export import Exported, ExportFormat, Gap
from warmstart.records.inputs import Kind
from warmstart.records.summary import NumberScores, Scores, Summary
from warmstart.tasks.words import TASK_WORDS, further, score_of

NAMED = 20  # classes that are named in full
LIBRARIES = {
    "onnx": "onnx",
    "torch": "pytorch",
    "timm": "timm",
    "transformers": "transformers",
    "openvino": "openvino",
}
TITLES: dict[ExportFormat, str] = {
    "onnx": "ONNX",
    "torch": "a torch.export program",
    "timm": "a timm model",
    "transformers": "a transformers model",
    "openvino": "OpenVINO",
}
_PIPELINES: dict[Kind, str] = {
    "audio": "audio",
    "text": "text",
    "table": "tabular",
    "tensor": "tensor",
}
HOW_LOADED: dict[ExportFormat, str] = {
    "onnx": 'onnxruntime.InferenceSession("model.onnx")',
    "torch": 'torch.export.load("model.pt2").module()',
    "timm": 'timm.create_model("local-dir:THIS_FOLDER", pretrained=True).eval()',
    "transformers": 'AutoModelForImageClassification.from_pretrained("THIS_FOLDER")',
    "openvino": 'openvino.Core().compile_model("model.xml", "CPU", '
    '{"INFERENCE_PRECISION_HINT": "f32"})',
}
_WHY: dict[ExportFormat, str] = {
    "openvino": " `f32` asks for 32 bits: on processors that multiply in bfloat16 (AMX) OpenVINO "
    "does so by itself, and probabilities then differ by up to 0.03 from the model's.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadmeFacts:
    """What the card tells of an export."""

    exported: Exported
    summary: Summary
    data_name: str
    labels: tuple[str, ...]
    base: str
    base_model: str | None

    @property
    def pipeline(self) -> str:
        """What the hub calls the task."""
        kind = self.exported.kind
        return f"{_PIPELINES[kind] if kind else 'image'}-classification"

    @property
    def nouns(self) -> Nouns:
        """What the examples are called."""
        return nouns_of(self.exported.kind)


def readme(facts: ReadmeFacts) -> str:
    """The text of README.md. Nothing in it depends on the clock."""
    parts = [
        _front_matter(facts),
        f"# {facts.exported.title}\n",
        _lead(facts),
        _numbers(facts),
        _eight_bits(facts),
        _use(facts),
        _checked(facts),
        _limits(facts),
    ]
    return "\n".join(part for part in parts if part)


def _front_matter(facts: ReadmeFacts) -> str:
    exported, name = facts.exported, _quoted(facts.data_name)
    lines = [
        "---",
        f"library_name: {LIBRARIES[exported.to]}",
        f"pipeline_tag: {facts.pipeline}",
        f"tags: [{facts.pipeline}, warmstart]",
    ]
    if facts.base_model is not None:
        lines.append(f"base_model: {_quoted(facts.base_model)}")
    metrics = _metrics(facts)
    if metrics:
        lines += [
            "model-index:",
            f"- name: {_quoted(exported.title)}",
            "  results:",
            f"  - task: {{type: {facts.pipeline}}}",
            f"    dataset: {{name: {name}, type: {name}}}",
            "    metrics:",
            *(
                f"    - {{type: {kind}, value: {value:.4f}, name: {_quoted(title)}}}"
                for kind, value, title in metrics
            ),
        ]
    return "\n".join([*lines, "---", ""])


def _metrics(facts: ReadmeFacts) -> list[tuple[str, float, str]]:
    """Type, value and name of what is claimed: of the twin or the 8 bits where that ships."""
    summary, single_layer, quantized = (
        facts.summary,
        facts.exported.single_layer,
        facts.exported.quantized,
    )
    if quantized is not None:
        if quantized.images == "train":  # flattered; and the run's figures are those of 32 bits
            return []
        own = TASK_WORDS[summary.task]
        name = f"{own.name[0].upper()}{own.name[1:]} in 8 bits ({quantized.images} images)"
        return [(own.metric, quantized.accuracy, name)]
    if single_layer is not None:
        found = single_layer.estimate
        return [("accuracy", found.value, f"Accuracy ({found.method})")] if found else []
    if summary.test is not None:
        test, own = summary.test, TASK_WORDS[summary.task]
        f1 = [] if isinstance(test, NumberScores) else [("f1", test.macro_f1, "Test macro F1")]
        return [(own.metric, score_of(test), f"Test {own.name}"), *f1]
    found, own = summary.estimate, TASK_WORDS[summary.task]
    name = f"{own.name[0].upper()}{own.name[1:]}"
    return [(own.metric, found.value, f"{name} ({found.method})")] if found else []


def _lead(facts: ReadmeFacts) -> str:
    labels = facts.labels
    named = ", ".join(labels[:NAMED]) + (", …" if len(labels) > NAMED else "")
    does = {
        "classify": f"Tells {len(labels)} classes of {facts.nouns.many} apart",
        "multilabel": f"Names any of {len(labels)} labels of {facts.nouns.an}",
        "regress": f"Tells a number from {facts.nouns.an}",
    }[facts.summary.task]
    return (
        f"{_ready(facts)}\n\n{does}: {named}. Learnt by warmstart from "
        f"{facts.summary.data.train:,} examples, from {facts.base}; as "
        f"{TITLES[facts.exported.to]} it needs no warmstart.\n"
    )


def _ready(facts: ReadmeFacts) -> str:
    """The line that stands above everything; of a twin or of 8 bits it says whose it is."""
    line = f"**{readiness_line(facts.summary.readiness)}**"
    is_other = facts.exported.single_layer is not None or facts.exported.quantized is not None
    return f"{line} (That is said of the run's own model.)" if is_other else line


def _numbers(facts: ReadmeFacts) -> str:
    single_layer = facts.exported.single_layer
    lines = ["## How good it is\n"]
    if single_layer is not None:
        return "\n".join([*lines, single_layer_text(facts.exported), ""])
    estimate, test = facts.summary.estimate, facts.summary.test
    if estimate is not None:
        shown = interval(estimate.value, estimate.low, estimate.high, estimate.n)
        lines.append(
            f"- {shown} of {estimate.n:,} {facts.nouns.many} that the model judged had not learnt "
            "from (in brackets: 95 % interval)"
        )
    if test is not None:
        shown = interval(score_of(test), test.low, test.high, test.n)
        more = further(test).removesuffix(".")
        if isinstance(test, Scores):
            more = (
                f"macro F1 {test.macro_f1:.3f}, log-loss {test.log_loss:.3f}, calibration error "
                f"{test.ece:.3f}"
            )
        lines.append(f"- {shown} of {test.n:,} test {facts.nouns.many}; {more}")
    return "\n".join([*lines, ""])


def single_layer_text(exported: Exported) -> str:
    """What a last-tap twin is and is worth, in words; empty where the export is the model."""
    single_layer = exported.single_layer
    if single_layer is None:
        return ""
    lead = (
        "This is a twin of the run's model, not the model itself: its output listens to more than "
        f"the last layer, which {LIBRARIES[exported.to]} cannot hold. The twin has the same "
        "layers and an output fitted anew on the last one."
    )
    if single_layer.estimate is None or single_layer.original is None or single_layer.gap is None:
        return f"{lead} What it is worth: {single_layer.why}."
    n = single_layer.gap.n
    own = interval(
        single_layer.estimate.value, single_layer.estimate.low, single_layer.estimate.high, n
    )
    other = interval(
        single_layer.original.value, single_layer.original.low, single_layer.original.high, n
    )
    return (
        f"{lead} The twin: {own} against {other} for the model on the same "
        f"{nouns_of(exported.kind).count(n)}, a "
        f"difference of {gap_text(single_layer.gap)} ({single_layer.why})."
    )


def gap_text(gap: Gap) -> str:
    """A difference of accuracies in points with its interval.

    >>> gap_text(Gap(value=-0.03, low=-0.05, high=-0.01, n=200))
    '−3.0 points (−5.0 to −1.0)'
    """
    value, low, high = (f"{100 * x:+.1f}" for x in (gap.value, gap.low, gap.high))
    value, low, high = (x.replace("+0.0", "0.0").replace("-0.0", "0.0") for x in (value, low, high))
    return f"{value} points ({low} to {high})".replace("-", "−")


def _eight_bits(facts: ReadmeFacts) -> str:
    quantized = facts.exported.quantized
    return "" if quantized is None else f"## 8-bit numbers\n\n{shrunk_text(facts.exported)}\n"


def shrunk_text(exported: Exported) -> str:
    """What 8 bits cost and bring, in words; empty where the export keeps its 32."""
    quantized = exported.quantized
    if quantized is None:
        return ""
    before, after = percents(quantized.accuracy_before, quantized.accuracy, n=quantized.gap.n)
    nouns = nouns_of(exported.kind)
    which = {"test": f"test {nouns.many}", "holdout": f"{nouns.many} of your hold-out"}.get(
        quantized.images, f"training {nouns.many}, which flatter both: the run held none apart"
    )
    same = ""
    if quantized.same_labels is not None:
        same = f", {100 * quantized.same_labels:.1f} % of the labels are the same"
    faster = quantized.seconds_before / max(quantized.seconds, 1e-9)
    speed = f"{faster:.1f} times as fast" if faster >= 1 else f"slower ({faster:.2f} times)"
    return (
        f"{_named(exported)}{after} % instead of {before} % on {quantized.gap.n:,} {which}: "
        f"{gap_text(quantized.gap)}{same}; {quantized.sentence}. "
        f"{quantized.bytes / 1e6:.1f} MB instead of {quantized.bytes_before / 1e6:.1f}, {speed} for one "
        f"{nouns.one} on the computer that made it."
    )


def _named(exported: Exported) -> str:
    """The score in words, where it is not how often a class is named rightly."""
    return "" if exported.task is None else f"{TASK_WORDS[exported.task].name} "


def _use(facts: ReadmeFacts) -> str:
    exported = facts.exported
    return (
        f"## Use\n\n```bash\npython predict.py {example_of(exported)}\n```\n\n"
        f"or load it yourself with `{HOW_LOADED[exported.to]}`."
        f"{_WHY.get(exported.to, '')}\n\n"
        f"- in: {exported.inputs}\n- out: {exported.outputs}\n"
        "- `labels.json`: class names in the order of the outputs; `preprocess.json`: how "
        f"{facts.nouns.an} becomes an input\n"
    )


def _checked(facts: ReadmeFacts) -> str:
    return f"## Checked\n\n{agreement_text(facts.exported)}\n"


def example_of(exported: Exported) -> str:
    """A file that predict.py takes."""
    return nouns_of(exported.kind).typed


def agreement_text(exported: Exported) -> str:
    """How the export was compared before it was written, in words."""
    found, many = exported.agreement, nouns_of(exported.kind).many
    images = f"{many} of {'the run' if found.images == 'run' else 'noise'}"
    whom = "its own twin in torch" if exported.single_layer is not None else "the model"
    limit = "" if found.tolerance is None else f" (at most {found.tolerance:g} may)"
    same = "all" if found.same_labels == found.n else f"{found.same_labels} of {found.n}"
    what, rest = "logit", f", {same} labels are the same"
    if exported.task is not None:
        what, rest = ("number" if exported.task == "regress" else "logit"), ""
    return (
        f"In a process without warmstart, on {found.n} {images}: a {what} differs from {whom} by "
        f"{found.difference:.1g} at most{limit}{rest}."
    )


def _limits(facts: ReadmeFacts) -> str:
    outputs = TASK_WORDS[facts.summary.task].output.format(len(facts.labels))
    return (
        f"## Limits\n\nThe numbers hold for {facts.nouns.many} drawn like the examples above. It "
        f"knows only its {outputs}, and, unlike `warmstart predict`, never says that "
        f"{facts.nouns.an} is like nothing it learnt from.\n"
    )


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
