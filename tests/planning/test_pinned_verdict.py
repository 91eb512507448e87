"""What the verdict says of a grid of evidence, with its sentences; depth and words beside it."""

from __future__ import annotations

import itertools
from dataclasses import replace
from types import SimpleNamespace

import pytest

import golden
from plans import FACTS, HEADS, a_choice, network, network_facts, pictures, refusal, with_block
from warmstart.modalities.registry import MODALITIES
from warmstart.planning import fine_tuning, rules, strategy
from warmstart.planning.forecast import control_images
from warmstart.planning.plan_file import (
    describe_failure,
    in_words,
    output_words,
    runs,
    user_choices,
)
from warmstart.planning.rules import for_trained, probe_layers
from warmstart.planning.settings import apply_settings
from warmstart.planning.strategy import reconcile_strategy
from warmstart.planning.verdict import (
    BLANK,
    Outcome,
    VerdictFacts,
    VerdictLimits,
    basis_of,
    hides_signal,
    is_hidden,
    outcome_kind,
    outcome_sentence,
    sentence,
)
from warmstart.planning.verdict import verdict_kind as kind_of
from warmstart.records.network import FeatureLayer
from warmstart.records.summary import Estimate, Evidence, FineTuningGain
from warmstart.tasks.multilabel import MULTILABEL
from warmstart.tasks.words import points

CLEAR = {"p": 0.004, "mde": 0.1, "n": 200, "accuracy": 0.8, "mistakes": 0.25}
NO_SIGNAL = {"mde": 0.1234, "n": 200, "plain": 0.456}


def described(facts, **more):
    kind = kind_of(facts)
    return f"{kind}: {sentence(kind, facts, facts.n, facts.accuracy, **more)}"


def of_no_signal():
    some = itertools.product((0.01, 0.0101, 0.4), (0.3, 0.301, 1.0), (39, 40), (0.005, 0.0051))
    return {
        f"p {p} mde {mde} n {n} plain {plain}": described(
            VerdictFacts(p=p, mde=mde, n=n, plain_p=plain)
        )
        for p, mde, n, plain in some
    } | {"hidden": described(VerdictFacts(p=0.4, plain_p=0.001, **NO_SIGNAL))}


def of_transfer_gain():
    """An interval that ends at nothing, above it, below a tenth."""
    some = itertools.product((None, 0.0, 0.0164, 0.03, 0.164, 0.2), (0.0, 0.01, 0.1), (False, True))
    return {
        f"{known} ± {error}, tuned {tuned}": described(
            VerdictFacts(**CLEAR, transfer_gain=known, transfer_gain_error=error, is_tuned=tuned)
        )
        for known, error, tuned in some
    }


def of_outcomes():
    """What a run did, for gains whose intervals lie on either side of nothing."""
    estimate = Estimate(metric="accuracy", value=0.8, low=0.7, high=0.9, n=200, method="nested-cv")
    some = itertools.product(
        (-0.05, -0.01, 0.0, 0.0149, 0.05), (0.005, 0.03), (-0.1, 0.0), (False, True), ("", "full")
    )
    found = {}
    for value, half, change, is_kept, chosen in some:
        if chosen and not is_kept:
            continue
        gain = FineTuningGain(
            value=value,
            low=value - half,
            high=value + half,
            n=200,
            log_loss=0.5,
            log_loss_change=change,
            log_loss_low=change - 0.05,
            log_loss_high=change + 0.05,
        )
        did = Outcome(estimate=estimate, gain=gain, is_fine_tuned=is_kept, chosen=chosen, blind=0.8)
        name = f"{value} ± {half}, log-loss {change}, kept {is_kept}, chosen {chosen!r}"
        found[name] = f"{outcome_kind(did, 'inconclusive')}: {outcome_sentence(did)}"
    return found


def of_little_left():
    some = itertools.product((0.9799, 0.98, 0.995), (False, True))
    beside = {"p": 0.001, "mde": 0.1, "mistakes": 0.0345}
    return {
        f"{right} tuned {tuned}": described(VerdictFacts(**beside, accuracy=right, is_tuned=tuned))
        for right, tuned in some
    }


def of_scratch():
    some = itertools.product((-0.05, -0.01, -0.0099, 0.0, 0.031), (0.0, 0.01))
    return {
        f"{gap} ± {error}": described(
            VerdictFacts(
                **CLEAR, transfer_gain=0.3, scratch_gap=gap, scratch_error=error, scratch_later=0.91
            )
        )
        for gap, error in some
    }


def of_words():
    """Other tasks, other examples, a network that has learnt nothing."""
    drawn = SimpleNamespace(is_random=True, arch="x")
    mine = SimpleNamespace(is_random=False, arch="module:Net")
    bases = {
        "table": basis_of(drawn, MODALITIES["table"].nouns),
        "own": basis_of(mine, MODALITIES["text"].nouns),
        "clip": basis_of(
            SimpleNamespace(is_random=False, arch="timm:x"), MODALITIES["audio"].nouns
        ),
    }
    some = {
        "hidden": VerdictFacts(p=0.4, plain_p=0.001, **NO_SIGNAL),
        "open": VerdictFacts(**CLEAR),
        "fair": VerdictFacts(**CLEAR, transfer_gain=0.01, transfer_gain_error=0.02),
        "known": VerdictFacts(**CLEAR, transfer_gain=0.3),
        "late": VerdictFacts(**CLEAR, scratch_gap=0.03, scratch_later=0.9),
        "best": VerdictFacts(**(CLEAR | {"accuracy": 0.99})),
        "tuned": VerdictFacts(**CLEAR, is_tuned=True),
    }
    found = {
        f"{where} {name}": described(facts, words=MULTILABEL.words, basis=basis)
        for where, basis in bases.items()
        for name, facts in some.items()
    }
    return (
        found,
        basis_of(None) == basis_of(SimpleNamespace(is_random=False, arch="")),
        BLANK.source,
    )


def of_limits():
    own = VerdictLimits(blind=0.05, fair=0.5)
    some = (
        VerdictFacts(p=0.5, mde=0.1),
        VerdictFacts(**CLEAR, transfer_gain=0.1, transfer_gain_error=0.1),
    )
    signal = Evidence(name="permutation_test", value=None, low=None, high=None, n=9, meaning="")
    known = [{"p": 0.3, "plain_p": 0.005}, {"p": 0.3}, {"p": 0.01, "plain_p": 0.001}, {}]
    other = replace(signal, name="depth", details=known[0])
    return (
        [kind_of(facts, own) for facts in some],
        [kind_of(facts) for facts in some],
        [hides_signal([other, replace(signal, details=d)]) for d in known],
        hides_signal([]),
        hides_signal([other]),
        [is_hidden(p, q) for p in (0.01, 0.011) for q in (0.005, 0.006)],
        [points(s) for s in (0.0, 0.0004, 0.0005, 0.0144, 0.015, -0.0149, -0.2, 0.999, 1.0)],
    )


# ---- strategies --------------------------------------------------------------------------------

TEXTS = (
    "auto",
    " Last:3 + add",
    "frozen:2+lora",
    "gradual",
    "add+gradual",
    "full+add",
    "last:0",
    "scratch",
    "frozen:0+gradual",
    "frozen:4",
    "last:1+add",
    "last:4",
)
WRONG = (
    "",
    "+",
    "last",
    "last:x",
    "last:2.5",
    "frozen:",
    "hed",
    "lasst:2",
    "last2",
    "frozen-3",
    "full:3",
    "add:2",
    "lora:8",
    "head+lora",
    "last:1+gradual",
    "scratch+add+lora",
    "peft",
    "lora+gradual",
    "last:2+full",
    "lora+last:2",
    "head+add+add",
    "zzz",
    "head+unfreeze",
    "last:1000000000",
    "last:999999999",
    "random",
    "adapter",
)


def of_strategies():
    found = {}
    for text in TEXTS:
        parsed = strategy.parse(text)
        resolved = []
        for verdict in (None, "fine-tune"):
            for n in (1, 2, 4, 5):
                refused = refusal(strategy.resolve, parsed, verdict, n)
                resolved.append(refused or strategy.word(strategy.resolve(parsed, verdict, n)))
        found[text] = strategy.word(parsed), resolved
    return found, {text: refusal(strategy.parse, text) for text in WRONG}


def of_words_of_actions():
    kinds = ("frozen", "tuned", "low-rank", "fresh")
    found = {}
    for n in (1, 2, 3):
        for body in itertools.product(kinds, repeat=n):
            for end in (("replaced",), ("added", "replaced")):
                strategy_found = strategy.word_of((*body, *end))
                if strategy_found is not None:
                    found[" ".join((*body, *end))] = strategy.word(strategy_found)
    return found


def of_agreement():
    """What single blocks amount to under each word."""
    known = network_facts(no_lora=frozenset({"blocks.0"}), partly_fresh=frozenset({"blocks.1"}))
    some = {
        "up": ["block.2.action=tuned"],
        "down": ["block.4.action=frozen"],
        "new": ["block.3.action=fresh"],
        "low": ["block.4.action=low-rank", "training.lora_rank=2"],
        "gap": ["block.1.action=tuned", "block.2.action=frozen"],
        "all": [f"block.{n}.action=fresh" for n in range(1, 5)],
    }
    found = {}
    for word in ("last:2", "full+gradual", "last:3+gradual", "full+lora", "scratch", "last:1+add"):
        for name, settings in some.items():
            plan = apply_settings(pictures(word), settings)
            for facts in (network_facts(), known):
                chosen = reconcile_strategy(plan, facts).strategy
                text = f"{chosen.value} ({chosen.source}, {chosen.rule}): {chosen.because}"
                found.setdefault(f"{word} {name}", []).append(text)
    ours = replace(pictures("last:2"), strategy=a_choice("last:2"))
    moved = reconcile_strategy(apply_settings(ours, some["up"]), network_facts())
    twice = reconcile_strategy(apply_settings(moved, ["block.1.action=fresh"]), network_facts())
    short = reconcile_strategy(replace(ours, strategy=a_choice("last:9")), network_facts())
    return (
        found,
        moved.strategy,
        twice.strategy,
        reconcile_strategy(twice, network_facts()).strategy,
        (short.strategy),
    )


def of_wording():
    words = ("head", "last:1", "last:2", "full", "full+lora", "last:2+add", "scratch", "add")
    made = {word: pictures(word) for word in words}
    made["mixed"] = apply_settings(made["full"], ["block.2.action=frozen", "block.3.action=fresh"])
    made["twice"] = with_block(made["add"], 3, action=a_choice("added"), lr=a_choice(0.01))
    made["own"] = apply_settings(pictures(lr=0.5, verdict="fine-tune"), ["block.top.lr=0.25"])
    made["heads"] = apply_settings(made["last:2"], ["head.penalties=1,.25", "input.size=64"])
    made["acts"] = apply_settings(
        pictures(verdict="fine-tune"), ["block.1.action=fresh", "training.flip=false"]
    )
    one = replace(made["full"], blocks=made["full"].blocks[3:])
    low = replace(made["full+lora"], blocks=made["full+lora"].blocks[3:])
    lines = {name: (in_words(plan), [*user_choices(plan)]) for name, plan in made.items()}
    failures = [
        describe_failure(made[w], kind, scales)
        for w, kind, scales in (
            ("last:1", "diverged", [1.0]),
            ("full", "stuck", [1.0, 0.3]),
            ("head", "stuck", [1.0, 0.3, 0.1]),
            ("own", "diverged", [1.0]),
        )
    ]
    shown = [[(r.layers, r.rates, r.action) for r in runs(made[w])] for w in ("mixed", "add")]
    outputs = [output_words(task, ["a", "b"]) for task in ("classify", "multilabel", "regress")]
    return (
        lines,
        failures,
        shown,
        outputs,
        output_words("regress", []),
        in_words(one),
        in_words(low),
    )


# ---- depths, and whether to train ---------------------------------------------------------------


def of_probe_layers():
    vectors = [FeatureLayer(block=p, pool="avg") for p in (1, 3, 4)]
    neck = FeatureLayer(block=6, pool="neck")
    grids = [FeatureLayer(block=p, pool="grid2") for p in (1, 3, 5)]
    firsts = [FeatureLayer(block=p, pool="first") for p in (1, 4, 6)]
    some = {
        "one": [neck],
        "two": [vectors[1], neck],
        "three": [*vectors[1:], neck],
        "grids": [*vectors, *grids, neck],
        "a grid": [*vectors, grids[1], neck],
        "texts": [*vectors, neck, *firsts],
        "a first": [*vectors, neck, firsts[0]],
    }
    found = {
        name: {
            kind: {layer.name: w for layer, w in weights.items()} for kind, weights in made.items()
        }
        for name, made in (
            (name, probe_layers(feature_layers)) for name, feature_layers in some.items()
        )
    }
    return found, [for_trained(names) for names in (HEADS, HEADS[:3], HEADS[:2])]


def heavy(macs, n_blocks=5):
    blocks = [
        replace(network().blocks[0], name=f"p{n}", macs=macs * (n + 1)) for n in range(n_blocks)
    ]
    return replace(network(), blocks=tuple(blocks))


def of_fine_tuning():
    kinds = [{}, {"holdout": 60}, {"kind": "text"}, {"kind": "text", "task": "regress"}]
    kinds += [{"n_groups": 1}, {"n": 40, "n_groups": 40, "columns": ()}]
    budgets = ("fast", "balanced", "thorough")
    record, found = heavy(10_000_000), []
    for more in kinds:
        facts = replace(FACTS, **more)
        found.append([fine_tuning.fine_tuning_seconds(record, facts, budget) for budget in budgets])
    tried = [
        [
            fine_tuning.compares_fine_tuning(heavy(macs), replace(FACTS, **more), budget)
            for budget in budgets
        ]
        for macs in (1000, 4_000_000, 10_000_000, 40_000_000, 150_000_000)
        for more in ({}, {"columns": ()}, {"n_groups": 39}, {"n_groups": 40})
    ]
    return found, tried


def of_engines():
    """Which engine is measured, and which is chosen, by images and multiply-adds."""
    found = {}
    for n, macs in itertools.product((0, 100, 700, 1500, 4000), (0, 10**7, 4 * 10**8, 4 * 10**9)):
        missing = dict.fromkeys(rules.REFERENCE, n)
        kept, order = {}, []
        while (name := rules.engine_to_measure(missing, kept, macs)) is not None:
            kept[name] = rules.EngineSpeed(0.4, 3e10 / max(macs, 10**6) * (1 + 0.2 * len(kept)))
            order.append(name)
        known = rules.estimate_speeds(kept, macs)
        found[f"{n} {macs}"] = order, rules.choose_engine(missing, known), known
    return found, rules.engine_seconds(rules.EngineSpeed(2.0, 4.0), 0)


def of_rules():
    """Numbers around each boundary."""
    some = (
        1,
        2,
        5,
        16,
        99,
        100,
        101,
        400,
        401,
        500,
        501,
        600,
        601,
        639,
        640,
        1600,
        1601,
        2000,
        2001,
    )
    budgets = ("fast", "balanced", "thorough")
    found = {
        n: (
            rules.outer_folds(n),
            len(rules.penalties(n)),
            rules.batch_size(n),
            rules.fine_tuned_blocks(n),
            [rules.samples_seen(n, b) for b in budgets],
            [rules.training_folds(b, n) for b in budgets],
            control_images(n),
            [
                " ".join(rules.candidates(n, 3, 5 + n % 2, HEADS, b, t))
                for b in ("fast", "balanced")
                for t in ("classify", "multilabel")
            ],
        )
        for n in some
    }
    by_budget = [
        [of[budget] for budget in budgets]
        for of in (rules.PERMUTATIONS, rules.EVIDENCE_ROWS, rules.LEARNING_CURVE_ROWS)
    ]
    alone = [rules.candidates(n, 2, 9, ("last",), "fast", "regress") for n in (2000, 2001)]
    return (
        found,
        by_budget,
        alone,
        rules.training_seconds(1e12),
        rules.training_folds("thorough", 0),
    )


SCENES = {
    name.removeprefix("of_"): make for name, make in globals().items() if name.startswith("of_")
}


@pytest.mark.parametrize("name", SCENES)
def test_nothing_changed_unnoticed(name, request):
    golden.check(__file__, name, SCENES[name](), request.config.getoption("--pin"))
