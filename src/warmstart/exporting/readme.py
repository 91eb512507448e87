"""README.md of an export: a model card in the hub's format, for someone without warmstart."""

from __future__ import annotations

import json
from dataclasses import dataclass

from warmstart.evaluation.readiness import readiness_line
from warmstart.exporting import FORMATS
from warmstart.formatting import interval, percents
from warmstart.modalities.registry import MODALITIES
from warmstart.nouns import Nouns
from warmstart.records.answer import Exported, Gap
from warmstart.records.summary import LabelScores, Scores, Summary
from warmstart.tasks.registry import TASKS, other_metrics, score_of, test_estimate

LISTED = 20  # classes that are listed in full


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadmeFacts:
    """The facts of an export's model card."""

    exported: Exported
    summary: Summary
    data_name: str
    labels: tuple[str, ...]
    base: str
    base_model: str | None

    @property
    def pipeline(self) -> str:
        return f"{MODALITIES[self.exported.kind].hub_name}-classification"

    @property
    def nouns(self) -> Nouns:
        return MODALITIES[self.exported.kind].nouns


def readme(facts: ReadmeFacts) -> str:
    """The text of README.md. Nothing in it depends on the clock."""
    exported, an = facts.exported, facts.nouns.an
    quantized = f"## 8-bit numbers\n\n{quantized_text(exported)}\n" if exported.quantized else ""
    to = FORMATS[exported.to]
    outputs = TASKS[facts.summary.task].words.output.format(len(facts.labels))
    sections = [
        _front_matter(facts),
        f"# {exported.title}\n",
        _lead(facts),
        _results(facts),
        quantized,
        (
            f"## Use\n\n```bash\npython predict.py {facts.nouns.typed}\n```\n\n"
            f"or load it yourself with `{to.how_loaded}`.{to.note}\n\n"
            f"- in: {exported.inputs}\n- out: {exported.outputs}\n"
            "- `labels.json`: class names in the order of the outputs; `preprocess.json`: how "
            f"{an} becomes an input\n"
        ),
        f"## Checked\n\n{agreement_text(exported)}\n",
        (
            f"## Limits\n\nThe results hold for {facts.nouns.many} like the examples above. It "
            f"knows only its {outputs}, and, unlike `warmstart predict`, does not detect {an} that "
            "is unlike the training examples (out of distribution).\n"
        ),
    ]
    return "\n".join(section for section in sections if section)


def _front_matter(facts: ReadmeFacts) -> str:
    exported, name = facts.exported, _quoted(facts.data_name)
    lines = [
        "---",
        f"library_name: {FORMATS[exported.to].hub_library or exported.to}",
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
    """Type, value and name of each metric, of the head and graph that this export holds."""
    summary, exported = facts.summary, facts.exported
    words = TASKS[summary.task].words
    name = f"{words.name[0].upper()}{words.name[1:]}"
    if exported.quantized is not None:
        images, accuracy = exported.quantized.images, exported.quantized.accuracy
        if images == "train":  # optimistic; and the run's figures are those of 32 bits
            return []
        return [(words.metric, accuracy, f"{name} in 8 bits ({images} images)")]
    if exported.single_layer is None and summary.test is not None:
        test = summary.test
        f1 = []
        if isinstance(test, Scores | LabelScores):
            f1 = [("f1", test.macro_f1, "Test macro F1")]
        return [(words.metric, score_of(test), f"Test {words.name}"), *f1]
    estimate = exported.single_layer.estimate if exported.single_layer else summary.estimate
    return [(words.metric, estimate.value, f"{name} ({estimate.method})")] if estimate else []


def _lead(facts: ReadmeFacts) -> str:
    labels, title = facts.labels, FORMATS[facts.exported.to].title
    line = f"**{readiness_line(facts.summary.readiness)}**"
    if facts.exported.single_layer is not None or facts.exported.quantized is not None:
        line += " (This is about the run's own model.)"
    names = ", ".join(labels[:LISTED]) + (", …" if len(labels) > LISTED else "")
    does = TASKS[facts.summary.task].words.summary.format(
        many=facts.nouns.many, an=facts.nouns.an, n=len(labels)
    )
    return (
        f"{line}\n\n{does}: {names}. Trained by warmstart on {facts.summary.data.train:,} "
        f"examples, from {facts.base}; as {title} it needs no warmstart.\n"
    )


def _results(facts: ReadmeFacts) -> str:
    lines = ["## Results\n"]
    if facts.exported.single_layer is not None:
        return "\n".join([*lines, single_layer_text(facts.exported), ""])
    estimate, test = facts.summary.estimate, facts.summary.test
    if estimate is not None:
        lines.append(f"- {estimate.interval} on {estimate.n:,} held-out {facts.nouns.many}")
    if test is not None:
        more = other_metrics(test).removesuffix(".")
        if isinstance(test, Scores):
            more = (
                f"macro F1 {test.macro_f1:.3f}, log-loss {test.log_loss:.3f}, calibration error "
                f"{test.ece:.3f}"
            )
        lines.append(
            f"- {test_estimate(test).interval} on {test.n:,} test {facts.nouns.many}; {more}"
        )
    return "\n".join([*lines, ""])


def single_layer_text(exported: Exported) -> str:
    """What a single-layer head is, and its accuracy; empty where the export has the run's head."""
    result = exported.single_layer
    if result is None:
        return ""
    lead = (
        "This export has a single-layer head, not the run's own: the run's head uses features of "
        f"several layers, which {exported.to} cannot hold. The layers are the same; the "
        "head was fitted again on the last one."
    )
    if result.estimate is None or result.original is None or result.gap is None:
        return f"{lead} Accuracy: {result.why}."
    n = result.gap.n
    refit, original = (
        interval(one.value, one.low, one.high, n) for one in (result.estimate, result.original)
    )
    return (
        f"{lead} Single-layer head: {refit}; run's model: {original}, on the same "
        f"{MODALITIES[exported.kind].nouns.count(n)}; difference {gap_text(result.gap)} "
        f"({result.why})."
    )


def gap_text(gap: Gap) -> str:
    """A difference of accuracies in points, with its interval."""
    value, low, high = (f"{100 * x:+.1f}" for x in (gap.value, gap.low, gap.high))
    value, low, high = (x.replace("+0.0", "0.0").replace("-0.0", "0.0") for x in (value, low, high))
    return f"{value} points ({low} to {high})".replace("-", "−")


def quantized_text(exported: Exported) -> str:
    """What 8 bits cost and gain; empty where the export has 32."""
    quantized = exported.quantized
    if quantized is None:
        return ""
    before, after = percents(quantized.accuracy_before, quantized.accuracy, n=quantized.gap.n)
    nouns = MODALITIES[exported.kind].nouns
    which = {"test": f"test {nouns.many}", "holdout": f"{nouns.many} of your hold-out"}.get(
        quantized.images, f"training {nouns.many}, which is optimistic: the run held none out"
    )
    score = "" if exported.task is None else f"{TASKS[exported.task].words.name} "
    same = ""
    if quantized.same_labels is not None:
        same = f", {100 * quantized.same_labels:.1f} % of the labels are the same"
    faster = quantized.seconds_before / max(quantized.seconds, 1e-9)
    speed = f"{faster:.1f} times as fast" if faster >= 1 else f"slower ({faster:.2f} times)"
    return (
        f"{score}{after} % instead of {before} % on {quantized.gap.n:,} {which}: "
        f"{gap_text(quantized.gap)}{same}; {quantized.sentence}. "
        f"{quantized.bytes / 1e6:.1f} MB instead of {quantized.bytes_before / 1e6:.1f}, {speed} "
        f"for one {nouns.one} on the computer that wrote it."
    )


def agreement_text(exported: Exported) -> str:
    """How the export was compared with the model before it was written."""
    agreement, many = exported.agreement, MODALITIES[exported.kind].nouns.many
    images = f"{many} of {'the run' if agreement.images == 'run' else 'noise'}"
    model = "the same network in torch" if exported.single_layer is not None else "the model"
    limit = "" if agreement.tolerance is None else f" (at most {agreement.tolerance:g} may)"
    n, same = agreement.n, agreement.same_labels
    what, rest = "logit", f", {'all' if same == n else f'{same} of {n}'} labels are the same"
    if exported.task is not None:
        what, rest = TASKS[exported.task].words.unit, ""
    return (
        f"In a process without warmstart, on {n} {images}: a {what} differs from {model} by "
        f"{agreement.difference:.1g} at most{limit}{rest}."
    )


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
