"""One run gives one answer: every surface shows the same numbers and agrees with the files."""

from __future__ import annotations

import csv
import html
import json
import re
import shlex
from pathlib import Path

import pytest
from surface_runs import NAMES, RUNS, SHARED, saved, tinted
from surfaces import Surfaces, agrees, largest, percentages, score, surfaces

import audio_clips
import hue_images
import tiny_text_encoder
from warmstart.cli.main import main
from warmstart.evaluation.readiness import readiness_line
from warmstart.records.findings import FINDINGS

pytestmark = pytest.mark.slow

NUMBER = r"([−-]?\d+(?:\.\d+)?)"
INTERVAL = rf"{NUMBER} % \((?:95 % CI )?{NUMBER}(?:–| to ){NUMBER}\)"
SIGNED = r"([+−-]?\d+(?:\.\d+)?)"
_shown: dict[str, Surfaces] = {}


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("one_result")


@pytest.fixture(params=[*RUNS, *SHARED])
def told(request, place, made, monkeypatch):
    """A run and everything that is shown of it; each is made once."""
    return shown(request.param, place, made, monkeypatch)


def shown(name, place, made, monkeypatch):
    """One of the runs, from `place` where it was shown before."""
    if name not in _shown:
        root = place / name
        root.mkdir(exist_ok=True)
        monkeypatch.setenv("WARMSTART_CACHE", str(root / "cache"))
        run = made(SHARED[name])[1] if name in SHARED else RUNS[name](root)
        _shown[name] = surfaces(run, root)
    return _shown[name]


def test_the_runs_end_in_every_way(place, made, monkeypatch):
    """Each verdict, each strategy that can ship, each kind of input, each task."""
    summaries = [shown(name, place, made, monkeypatch).summary for name in (*RUNS, *SHARED)]
    kinds = {one["verdict"]["kind"] for one in summaries}
    assert kinds == {"linear-probe", "fine-tune", "no-transfer", "no-signal", "inconclusive"}
    shipped = {one["shipped"]["strategy"] for one in summaries}
    assert {"head", "last:1", "full", "scratch", "ensemble", "none"} <= shipped
    assert {one["data"].get("kind") or "image" for one in summaries} == {
        "image",
        "text",
        "audio",
        "table",
        "tensor",
    }
    assert {one["task"] for one in summaries} == {"classify", "multilabel", "regress"}
    assert {one["readiness"]["level"] for one in summaries} == {"ready", "review", "not-ready"}
    assert {one["test"] is None for one in summaries} == {True, False}
    found = {finding["kind"] for one in summaries for finding in one["findings"]}
    assert {"distribution-shift", "leakage", "label-issue"} <= found
    assert any("was given up" in one["shipped"]["why"] for one in summaries)
    gains = [one["fine_tuning_gain"] for one in summaries]
    assert any(
        gain and one["shipped"]["strategy"] == "head"
        for gain, one in zip(gains, summaries, strict=True)
    )


# ---- (a) one number for one quantity ---------------------------------------------------------


def every(text, pattern, *shares):
    """All places that match show these shares. Returns how many there are."""
    found = percentages(text, pattern)
    for shown in found:
        for one, share in zip(shown, shares, strict=True):
            assert agrees(one, share), (pattern, shown, shares)
    return len(found)


def ends(claim):
    return claim["value"], claim["low"], claim["high"]


def test_the_estimate_is_made_of_the_predictions(told):
    claim = told.summary["estimate"]
    assert claim["n"] == len(told.lines)
    assert score(told.lines, told.summary["task"]) == pytest.approx(claim["value"], abs=1e-4)


def test_the_estimate_is_the_same_everywhere(told):
    if not told.ships:
        return
    texts, claim = told.texts, told.summary["estimate"]
    shares = ends(claim)
    title = r"(?:Accuracy|mAP|R²)"
    assert every(texts["terminal"], rf"{title} {INTERVAL}", *shares) == 1
    assert every(texts["notebook"], rf"{title} {INTERVAL}", *shares) == 1
    row = rf"\| estimate, [^|]+ \| {NUMBER} % \| {NUMBER} % to {NUMBER} % \| ([\d,]+) \|"
    (shown,) = percentages(texts["card"], row)
    assert all(agrees(one, share) for one, share in zip(shown[:3], shares, strict=True))
    assert int(shown[3].replace(",", "")) == claim["n"]
    is_classifier = told.summary["task"] == "classify"
    words = rf"(?:accuracy|mean average precision|R²) {INTERVAL}"
    assert every(texts["report"], words, *shares) >= 1
    every(texts["report"], rf"about {NUMBER} correctly \({NUMBER} to {NUMBER}\)", *shares)
    if is_classifier:
        assert every(texts["report"], rf"held out {INTERVAL}", *shares) == 1
    assert told.studio["estimate"]["value"] == claim["value"]
    assert every(told.studio["estimate"]["words"], INTERVAL, *shares) == 1
    assert ends(told.server["estimate"]) == shares
    promise = rf"about {NUMBER} (?:times in 100|%)[^(]*\(95 % CI {NUMBER}(?:–| to ){NUMBER}\)"
    assert every(told.server["promise"], promise, *shares) == 1 or shares[0] > 0.99
    if "export" in texts:
        assert every(texts["export"], rf"- {INTERVAL} on [\d,]+ held-out \w+", *shares) == 1


def test_nothing_is_claimed_of_a_model_that_does_not_ship(told):
    if told.ships:
        return
    assert told.studio["estimate"] is None
    for name, text in told.texts.items():
        claim = rf"held out {NUMBER} %|linear probe {NUMBER} %|[Cc]ross-validated"
        assert not re.search(claim, text), name
        assert "Proof" not in text


def test_runs_that_are_compared_keep_their_number(told):
    if not told.ships or told.summary["task"] == "multilabel":  # compared by another score
        return
    test = told.summary["test"]
    score_name = "r2" if told.summary["task"] == "regress" else "accuracy"
    share = test[score_name] if test else told.summary["estimate"]["value"]
    one, other = told.comparison.runs
    if told.summary["task"] == "classify":
        assert one.value == other.value
        hits = told.summary["data"]["leaks"]
        if not hits:  # what a run had seen before is left out of a comparison
            assert one.value == pytest.approx(share, abs=1e-9)
            claim = test or told.summary["estimate"]
            assert (one.low, one.high) == pytest.approx((claim["low"], claim["high"]), abs=1e-9)
    assert told.comparison.pairs[0].winner is None
    assert told.comparison.pairs[0].difference == 0


def test_the_test_score_is_the_same_everywhere(told):
    test, texts = told.summary["test"], told.texts
    if test is None:
        for name, text in texts.items():
            assert "on the test set" not in text, name
        return
    value = test.get("accuracy", test.get("mAP", test.get("r2")))
    shares = (value, test["low"], test["high"])
    assert every(texts["terminal"], rf"{INTERVAL} on the test set", *shares) == 1
    assert every(texts["notebook"], rf"{INTERVAL} on the test set", *shares) == 1
    assert every(texts["report"], rf"{INTERVAL} on the test set", *shares) >= 1
    row = rf"\| test set[^|]* \| {NUMBER} % \| {NUMBER} % to {NUMBER} %"
    assert every(texts["card"], row, *shares) == 1
    assert every(told.studio["test"]["words"], INTERVAL, *shares) == 1
    assert ends({**told.server["test"], "value": value}) == shares
    front = (told.run.path / "README.md").read_text("utf-8")
    assert f"value: {value:.4f}, name: Test " in front
    if told.summary["task"] == "classify":
        for key, words in (
            ("balanced_accuracy", "balanced accuracy"),
            ("macro_f1", "macro F1"),
            ("log_loss", "log-loss"),
        ):
            shown = re.findall(rf"{words} (\d+\.\d+)( %)?", told.everything)
            assert shown
            assert all(
                float(v) == pytest.approx(test[key] * (100 if p else 1), abs=0.05 if p else 0.0006)
                for v, p in shown
            )
            assert len({bool(p) for _, p in shown}) == 1


def test_the_linear_probe_is_the_same_everywhere(told):
    probe, gain, texts = told.summary["linear_probe"], told.summary["fine_tuning_gain"], told.texts
    is_head = told.summary["shipped"]["strategy"] in ("head", "none")
    if is_head:
        assert ends(probe) == ends(told.summary["estimate"])
    assert probe["n"] == told.summary["estimate"]["n"]
    shown = 0
    for name, text in texts.items():
        shown += every(text, rf"[Ll]inear probe {INTERVAL}", *ends(probe))
        shown += every(text, rf"linear probe {NUMBER} %(?! \()", probe["value"])
        every(text, rf"linear probe: [^()]*?{NUMBER} %(?! \()", probe["value"])
        row = rf"\| linear probe[^|]* \| {NUMBER} % \| {NUMBER} % to {NUMBER} %"
        shown += every(text, row, *ends(probe))
        if is_head:  # one number would stand there twice
            assert not percentages(text, rf"linear probe {INTERVAL}"), name
    assert shown >= 4 or is_head or gain is None


def test_the_fine_tuning_gain_is_the_same_everywhere(told):
    gain = told.summary["fine_tuning_gain"]
    words = rf"{SIGNED} points[^.()]*\(95 % CI {SIGNED} to {SIGNED}\)"
    others = [" ".join(one["sentence"].split()) for one in told.summary["baselines"]]
    for name, text in told.texts.items():
        flat = " ".join(text.split())
        for sentence in others:  # of another method against the model
            flat = flat.replace(sentence.rstrip("."), "")
        flat = re.sub(r"(?:over|under)confident by [^.]*\)", "", flat)  # calibration, not a gain
        shown = percentages(flat, words)
        assert gain or not shown, name
        for numbers in shown:
            assert all(agrees(a, b) for a, b in zip(numbers, ends(gain), strict=True)), numbers
        # one way to write it
        assert len(set(shown)) <= 1 or {s[0].lstrip("+") for s in shown} == {
            shown[0][0].lstrip("+")
        }
    if gain and told.ships:
        surfaces = [name for name, text in told.texts.items() if percentages(text, words)]
        assert {"terminal", "report", "card", "notebook", "studio"} <= set(surfaces)
    evidence = {one["name"]: one for one in told.summary["verdict"]["evidence"]}["fine_tuning_gain"]
    if gain:
        assert ends(evidence) == ends(gain)
        probe, claim = told.summary["linear_probe"], told.summary["estimate"]
        if told.is_trained:
            assert claim["value"] - probe["value"] == pytest.approx(gain["value"], abs=1e-9)
    else:
        assert evidence["value"] is None


def test_the_largest_class_is_the_same_everywhere(told):
    if told.summary["task"] != "classify":
        return
    name, share = largest(told.lines)
    text = told.everything
    for shown, number in percentages(text, rf"always predicting “(\w+)” \(?{NUMBER} %"):
        assert (shown, agrees(number, share)) == (name, True)
    for shown, number in percentages(text, rf"always predicting “(\w+)” is right for {NUMBER}"):
        assert (shown, agrees(number, share)) == (name, True)
    if told.ships:
        assert told.studio["majority"] == pytest.approx(share)


def test_classes_and_mistakes_add_up_to_the_estimate(told):
    if told.summary["task"] != "classify" or not told.ships:
        return
    claim, report = told.summary["estimate"], told.texts["report"]
    ((right, n),) = percentages(report, r"([\d,]+) of ([\d,]+) \w+ are right;")
    assert int(n) == claim["n"]
    assert int(right) / int(n) == pytest.approx(claim["value"])
    rows = told.studio["classes"]
    found = sum(row["n"] * row["recall"] for row in rows) / sum(row["n"] for row in rows)
    assert found == pytest.approx(claim["value"])
    table = told.page.split("Class by class, the weakest first")[-1].split("</table>")[0]
    cells = re.findall(
        r"<tr><t[hd][^>]*>(\w[^<]*)</t[hd]><td[^>]*>(\d+)</td><td[^>]*>(\d+)\s%", table
    )
    assert len(cells) == len(rows)
    for name, n_class, recall in cells:
        (row,) = [row for row in rows if row["name"] == name]
        assert int(n_class) == row["n"]
        assert agrees(recall, row["recall"])
    assert len(told.studio["mistakes"]) == int(n) - int(right)
    matrix = told.page.split('id="confusion')[-1].split("</svg>")[0]
    good = re.findall(r'class="[^"]*\bright\b[^"]*"[^>]*>(\d+)<', matrix)
    if good:
        assert sum(map(int, good)) == int(right)


def test_certainty_speaks_of_the_same_answers(told):
    if told.summary["task"] != "classify" or not told.ships:
        return
    claim, report = told.summary["estimate"], told.texts["report"]
    assert every(report, rf"Mean confidence [0-9.]+ %, accuracy {NUMBER} %", claim["value"]) >= 1
    kept = json.loads((told.run.path / "model" / "calibration.json").read_text("utf-8"))
    least = kept["confident_from"]
    readiness = " ".join(told.summary["readiness"]["reasons"])
    if least is None:
        assert "confident" not in readiness
        assert "is called confident" not in told.texts["card"]
        assert "No answer is called confident" in report
        return
    sure = [one for one in told.lines if max(one["scores"].values()) >= least]
    share = len(sure) / len(told.lines)
    right = sum(one["label"] == one["target"] for one in sure) / max(len(sure), 1)
    for name, text in told.texts.items():
        every(text, rf"confident {NUMBER} % are {NUMBER} % right", share, right)
        for n_confident, n_wrong in percentages(
            text, r"([\d,]+) were confident, and ([\d,]+) of th"
        ):
            wrong = sum(one["label"] != one["target"] for one in sure)
            assert (int(n_confident), int(n_wrong)) == (len(sure), wrong), name
        every(text, rf"confident in about {NUMBER} of 100", share)


def test_the_learning_curve_ends_in_the_linear_probe(told):
    evidence = {one["name"]: one for one in told.summary["verdict"]["evidence"]}["learning_curve"]
    if evidence["value"] is None or not told.ships:
        return
    points = {
        float(k.removeprefix("accuracy.")): v
        for k, v in evidence["details"].items()
        if k.startswith("accuracy.")
    }
    assert points[max(points)] == pytest.approx(told.summary["linear_probe"]["value"])
    said = set(percentages(told.everything, r"would add ([\d.]+) points \(([\d.]+) to ([\d.]+)"))
    assert len(said) <= 1
    for shown in said:
        assert all(agrees(a, b) for a, b in zip(shown, ends(evidence), strict=True))


def test_findings_and_label_issues_are_counted_alike(told):
    summary = told.summary
    kept = json.loads((told.run.path / "inspection.json").read_text("utf-8"))
    found = kept["label_issues"]
    issues = [one["id"] for one in found["ranked"] if one["is_issue"]]
    count = found["count"]  # near copies and groups counted once; None: no number is stated
    assert summary["data"]["label_issues"] == count
    assert (count or 0) <= len(issues)
    assert bool(issues) == bool(count) == (found["rate"] is not None)
    in_studio = [(one["id"], one["is_issue"]) for one in told.studio["label_issues"]]
    ranked = [(Path(one["id"]).stem, one["is_issue"]) for one in found["ranked"]]
    assert in_studio == ranked
    with (told.run.path / "label_issues.csv").open(encoding="utf-8", newline="") as file:
        lines = [*csv.DictReader(file)]
    assert [one["path"] for one in lines if one["issue"] == "yes"] == issues
    assert [one["path"] for one in lines] == [one["id"] for one in found["ranked"]]
    listed = [one for one in summary["findings"] if one["kind"] == "label-issue"]
    assert len(listed) == bool(count)
    for one in listed:
        assert one["sentence"] == found["sentence"]
        assert [item.split(": ")[0] for item in one["items"]] == issues
    for name, text in told.texts.items():  # a figure of the report stands after its name
        shown = re.findall(r"([\d,]+) label issues?\b|^label issues? ([\d,]+)$", text, re.MULTILINE)
        assert {(one or other).replace(",", "") for one, other in shown} <= {str(count)}, name
        assert shown or not count or name in ("server", "compare", "export", "notebook"), name
    sentences = [re.sub(r"\s+", " ", one["sentence"]).rstrip(".") for one in summary["findings"]]
    for name in ("report", "card", "studio"):
        flat = re.sub(r"\s+", " ", told.texts[name])
        for sentence in sentences:
            assert sentence[1:] in flat, (name, sentence)
    leaks = summary["data"]["leaks"]
    for (n,) in percentages(told.everything, r"([\d,]+) test \w+ (?:is|are) (?:known|also|among)"):
        assert int(n.replace(",", "")) == leaks


def test_plan_ledger_and_proof_count_the_same_weights(told):
    if not told.ships:
        return
    report, frozen = told.texts["report"], told.summary["frozen"]
    held = [row for row in told.ledger if row["fate"] in ("frozen", "unchanged")]
    assert frozen["parameters"] == sum(row["numel"] for row in held if not row["buffer"])
    for weights, buffers in percentages(report, r"([\d,]+) weights and ([\d,]+) statistics were f"):
        assert int(weights.replace(",", "")) == frozen["parameters"]
        assert int(buffers.replace(",", "")) == frozen["buffers"]
    for fate in {row["fate"] for row in told.ledger} - {"dropped"}:
        rows = [row for row in told.ledger if row["fate"] == fate]
        n = sum(row["numel"] for row in rows if not row["buffer"])
        for text in (report, told.texts["card"]):
            pattern = rf"\b{fate} +([\d,]+) tensors?, ([\d,]+) weights?"
            (shown,) = set(percentages(text, pattern))
            assert tuple(int(x.replace(",", "")) for x in shown) == (len(rows), n)


# ---- (b) sentences agree with the ledger -----------------------------------------------------

PAST = re.compile(r"was tried and not kept|was given up|not kept|is no better|were given up|beside")


def sentences(text):
    """Sentences, wherever lines are broken; figures and titles are sentences of their own."""
    joined = re.sub(r"\n(?=[a-z(])", " ", re.sub(r"\n +", " ", text))
    return [one.strip() for one in re.split(r"\n|(?<=[.!?;:])\s+(?=\S)", joined) if one.strip()]


def test_what_ships_is_called_fine_tuned_only_where_the_ledger_says_so(told):
    strategy, sentence = told.summary["shipped"]["strategy"], told.summary["verdict"]["sentence"]
    assert told.is_trained == (strategy not in ("head", "none"))
    if not told.is_trained:
        assert not re.search(r"[Ff]ine-tuning (helped|made|was kept)", sentence)
        for name, text in told.texts.items():
            assert not re.search(r"Blocks? [^.]*tuned at", text), name
            assert "The tuned blocks" not in text, name
            assert "The fine-tuned blocks" not in text, name
    else:
        assert "tried and not kept" not in told.everything
        assert "no block of the base model was changed" not in told.everything
        assert not re.search(r"all \d+ blocks frozen", told.everything)
    if strategy.startswith("scratch"):
        assert "fine-tuned" not in sentence


def test_advice_does_not_contradict_the_verdict(told):
    verdict, text = told.summary["verdict"], told.everything
    if told.is_trained:
        assert "Do not fine-tune" not in text
    if told.summary["fine_tuning_gain"]:
        assert "Try fine-tuning" not in text
        assert "Fine-tuning was not tried" not in text
    if told.summary["readiness"]["level"] == "not-ready":
        for name in ("report", "studio"):
            assert "nothing urgent" not in told.texts[name].lower()
            assert "Use it\n" not in told.texts[name]
        assert "Use those without review" not in text
    if verdict["kind"] == "no-signal":
        assert "would add" not in text


def test_no_guard_speaks_of_a_network_that_was_thrown_away(told):
    strategy, why = told.summary["shipped"]["strategy"], told.summary["shipped"]["why"]
    if strategy == "head" and "was given up" not in why:
        assert told.summary["guards"] == []
        for name, text in told.texts.items():
            assert not re.search(r"[Gg]uards? (reported|watched)|guards \(", text), name
            assert "What the guards reported" not in text, name


def test_what_was_tried_and_not_kept_is_told_in_the_past(told):
    if told.summary["shipped"]["strategy"] != "head" or not told.summary["fine_tuning_gain"]:
        return
    assert "tried and not kept" in told.texts["report"].split("Training: what happened")[1]
    for name, text in told.texts.items():
        text = re.sub(r"Every choice of the training(.|\n)*?Training: what happened", "", text)
        for sentence in sentences(text):
            if re.search(r"\b(trained|fine-tuned|tuned)\b", sentence) and "layer" in sentence:
                assert (
                    PAST.search(sentence)
                    or "was" in sentence.split()
                    or "were" in (sentence.split())
                ), (name, sentence)


def test_no_number_has_a_hyphen_for_its_sign(told):
    for name, text in told.texts.items():
        shown = text.split("```python")[0] if name == "card" else text
        assert not re.search(r".{0,30}[ (]-\d+(?:\.\d+)? (?:%|points|to ).{0,9}", shown), name


# ---- (c) readiness above all -----------------------------------------------------------------


def test_the_readiness_line_comes_first(told):
    line = readiness_line(told.run.summary.readiness)
    flat = {name: re.sub(r"\s+", " ", text) for name, text in told.texts.items()}
    assert flat["terminal"].startswith(line)
    assert flat["notebook"].startswith(line)
    first = flat["report"].split("Skip to the result", 1)[1].strip()
    assert first.startswith(line)
    body = re.sub(r"^\s*# [^\n]*\n", "", told.texts["card"]).strip().replace("**", "")
    assert re.sub(r"\s+", " ", body).startswith(line)
    assert told.studio["headline"] == line
    if told.server is not None:
        assert told.server["readiness"]["line"] == line
        assert next(iter(told.server)) == "readiness"
    if "export" in flat:
        body = re.sub(r"^\s*# [^\n]*\n", "", told.texts["export"]).strip().replace("**", "")
        assert re.sub(r"\s+", " ", body).startswith(line)
    if "compare" in flat and told.summary["readiness"]["level"] == "not-ready":
        assert line in flat["compare"]


def test_findings_stand_by_consequence_and_grave_ones_are_never_folded(told):
    kinds = [one["kind"] for one in told.summary["findings"]]
    place = {name: kind.consequence for name, kind in FINDINGS.items() if kind.consequence}
    ranks = [place.get(kind, 99) for kind in kinds]
    assert ranks == sorted(ranks)
    assert [one["kind"] for one in told.studio["findings"]] == kinds
    for finding in told.summary["findings"]:
        if FINDINGS[finding["kind"]].is_folded:
            continue
        sentence = re.sub(r"\s+", " ", finding["sentence"]).rstrip(".")[1:]
        open_page = re.sub(r"<details>.*?</details>", "", told.page, flags=re.DOTALL)
        texts = {**told.texts, "report": re.sub(r"<[^>]+>", " ", open_page)}
        for name in ("terminal", "report", "card", "notebook", "studio"):
            assert sentence in re.sub(r"\s+", " ", texts[name]), (name, finding["kind"])
    if "leakage" in kinds and told.ships:
        assert "training images are in the test set" in " ".join(
            told.summary["readiness"]["reasons"]
        )


# ---- (d) what is advised can be done ---------------------------------------------------------

COMMAND = re.compile(r"^(?:Next)? *(warmstart .*?)(?: {2,}#.*)?$", re.MULTILINE)
DONE = (0, 3)  # done; done, and there is no signal


def advised(told):
    """Every command that the terminal and the report tell the reader to type."""
    typed = COMMAND.findall(told.texts["terminal"])
    codes = re.findall(r"<pre><code>(.*?)</code></pre>", told.page, re.DOTALL)
    typed += [html.unescape(re.sub(r"<[^>]+>", "", code)) for code in codes]
    return sorted({" ".join(one.split()) for one in typed if one.startswith("warmstart ")})


# What stands for the reader's own files, in runs that a command line can make.
TYPED = {
    "linear_probe": {"photo.jpg": "new/red/000.png", "more/": "new", "photos/": "split"},
    "from_scratch": {"photo.jpg": "new/red/002.png", "more/": "new", "photos/": "data"},
    "texts": {"more.csv": "test.csv"},
    "sounds": {"clip.wav": "new/hiss/000.wav", "more/": "new"},
    "ensemble": {"new.csv": "test.csv", "more.csv": "test.csv"},
    "without_network": {},
}
NEW = {
    "linear_probe": lambda folder: hue_images.fill(folder, dict.fromkeys(NAMES, 3), seed=7),
    "from_scratch": lambda folder: saved(folder, *tinted(9, seed=7)),
    "texts": lambda folder: tiny_text_encoder.table(folder.with_suffix(".csv"), 5, seed=12),
    "sounds": lambda folder: audio_clips.fill(folder, {"a note": 2, "clicks": 2, "hiss": 2}, 7),
}


@pytest.mark.parametrize("name", TYPED)
def test_every_command_that_is_advised_can_be_typed(name, place, made, monkeypatch, capsys):
    told = shown(name, place, made, monkeypatch)
    monkeypatch.setattr("webbrowser.open", lambda *_: True)
    monkeypatch.chdir(told.root)
    if name in NEW:
        NEW[name](told.root / "new")
    commands = advised(told)
    assert any(one.startswith(f"warmstart report {told.run.path} --open") for one in commands)
    for command in commands:
        _, verb, *rest = [TYPED[name].get(word, word) for word in shlex.split(command)]
        for words in tries(verb, rest):
            assert main(words) in DONE, (command, capsys.readouterr().err)


def tries(verb, rest):
    """The command as it is typed; of one that trains or goes on for ever, only its beginning."""
    if verb == "serve":
        return [["predict", rest[0], "--help"]]
    if verb == "compare":  # a dry run of each
        at = rest.index("--strategies")
        strategies = rest[at + 1].split(",")
        others = rest[:at] + rest[at + 2 :]
        return [["fit", *others, "--strategy", one, "--dry-run"] for one in strategies]
    return [[verb, *rest, "--dry-run"] if verb == "fit" else [verb, *rest]]
