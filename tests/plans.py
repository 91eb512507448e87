"""Facts, networks and plans for tests of planning; nothing is loaded or trained."""

import tomllib
from dataclasses import replace

from warmstart.errors import PlanError
from warmstart.planning import settings as planned_settings
from warmstart.planning.build import build
from warmstart.planning.facts import DataFacts, NetworkFacts
from warmstart.planning.fine_tuning import plan_cache
from warmstart.planning.plan_file import write_plan
from warmstart.planning.settings import parse_settings
from warmstart.planning.strategy import PlanOptions, parse
from warmstart.records.inputs import Preprocessing, TextInputs
from warmstart.records.network import BlockRecord, NetworkRecord
from warmstart.records.plan import Choice
from warmstart.request import Request

ENGINE = Choice(value="torch", because="few images", source="rule")
FACTS = DataFacts(n=300, n_groups=300, n_classes=4, smallest_class=30, holdout=0)
PROFILES = ("last", "late")
PREPROCESSING = Preprocessing(size=(224, 224), resize=256, mean=(0.5,) * 3, std=(0.5,) * 3)
HEADS = ("last", "last-two", "late", "equal", "middle", "early", "grid-late", "grid-upper")
TEXTS = TextInputs(length=24, most=24, vocabulary=99, pad=0, tokenizer="0" * 64)
LAYERS = tuple(f"layer.{n}" for n in range(7))
NAMES = ("stem", "blocks.0", "blocks.1", "top")


def network(names=NAMES, **changes):
    """The record of a network with these blocks."""
    blocks = [
        BlockRecord(
            name=name, parameters=10, shape_in=(4, 8, 8), shape_out=(4, 8, 8), macs=5, layout="NCHW"
        )
        for name in names
    ]
    record = NetworkRecord(
        blocks=tuple(blocks),
        head_parameters=7,
        partition="traced",
        neck_width=4,
        neck_is_average=True,
    )
    return replace(record, **changes)


def network_facts(names=NAMES, family="convnet", **facts):
    """Facts about such a network."""
    return NetworkFacts(record=network(names, family=family), **facts)


def plan_options(strategy="auto", budget="balanced", seed=0, base="lite0", **more):
    """The user's options; `strategy`, `lr` and `arch` are explicit unless default."""
    typed = {"lr": more.get("lr"), "arch": more.get("arch")}
    explicit = {name for name, value in typed.items() if value is not None}
    explicit |= {"strategy"} if strategy != "auto" else set()
    explicit |= set(more.pop("explicit", ()))
    return PlanOptions(
        base=base,
        strategy=parse(strategy),
        budget=budget,
        seed=seed,
        explicit=frozenset(explicit),
        **more,
    )


def plan_for(strategy="auto", facts=FACTS, network=None, **options):
    """The plan for a strategy, by default on the small network."""
    network = network or network_facts(preprocessing=PREPROCESSING)
    is_raw = options.pop("raw", False)  # before `plan_cache`
    plan = build(plan_options(strategy, **options), facts, network, PROFILES, ENGINE)
    return plan if is_raw else plan_cache(plan, network, facts)


def typed_request(strategy="auto", settings=(), **options):
    """A request with strategy and settings as they are typed."""
    return Request(strategy=parse(strategy), settings=parse_settings(settings), **options)


def apply_settings(plan, texts):
    """The plan with these --set."""
    return planned_settings.apply_settings(plan, parse_settings(texts))


def rates(plan):
    """Learning rate by block, without blocks that have none."""
    return {block.name: block.lr.value for block in plan.blocks if block.lr is not None}


def actions(plan):
    """Action by block."""
    return {block.name: block.action.value for block in plan.blocks}


def with_block(plan, place, **changes):
    """The plan with one block changed."""
    blocks = list(plan.blocks)
    blocks[place] = replace(blocks[place], **changes)
    return replace(plan, blocks=tuple(blocks))


def refusal(work, *arguments):
    """The message of the PlanError for these arguments; None without one."""
    try:
        work(*arguments)
    except PlanError as error:
        return str(error)
    return None


def a_choice(value, source="rule"):
    """A choice of this value."""
    return Choice(value=value, because="so", source=source)


# ---- whole plans, for tests that pin them ------------------------------------------------------


def lines(plan):
    """One for each value of the file that `write_plan` makes: path, value, source, reason."""
    found = []

    def add(path, value):
        if isinstance(value, dict) and "because" in value:
            rule = f", the rule {value['rule']!r}" if "rule" in value else ""
            text = f"{value['value']!r} ({value['source']}{rule}): {value['because']}"
            found.append(f"{path} = {text}")
        elif isinstance(value, dict):
            for key, item in value.items():
                add(f"{path}.{key}" if path else key, item)
        elif isinstance(value, list):
            for number, item in enumerate(value, 1):
                add(f"{path}.{number}", item)
        else:
            found.append(f"{path} = {value!r}")

    add("", tomllib.loads(write_plan(plan)))
    return found


def beside(base, plans):
    """Lines of some plans that the base lacks, with the names of the plans; how many they lack."""
    default, more, lacking = lines(base), {}, []
    for name, plan in plans.items():
        own = lines(plan)
        for line in own:
            if line not in default:
                more.setdefault(line, []).append(name)
        lacking.append(f"{name} {sum(line not in own for line in default)}")
    return {line: " | ".join(names) for line, names in more.items()}, " | ".join(lacking)


def pictures(strategy="auto", verdict=None, data=FACTS, family="convnet", **more):
    """The plan for images; keywords that are no facts of the network are options."""
    names = (
        "recipe",
        "base_inputs",
        "fresh",
        "partly_fresh",
        "no_lora",
        "compares_fine_tuning",
        "max_cache_bytes",
        "preprocessing",
    )
    facts = {name: more.pop(name) for name in names if name in more}
    facts = {"preprocessing": PREPROCESSING} | facts
    known = network_facts(family=family, verdict=verdict, **facts)
    if "record" in more:
        known = replace(known, record=more.pop("record"))
    made = build(plan_options(strategy, **more), data, known, HEADS, ENGINE)
    return plan_cache(made, known, data)


def many(n, groups=None, classes=4, smallest=30, **more):
    """Facts of n examples."""
    return replace(
        FACTS, n=n, n_groups=groups or n, n_classes=classes, smallest_class=smallest, **more
    )


def texts(n, classes=6, strategy="auto", task="classify", inputs=TEXTS, budget="balanced", **more):
    facts = many(n, classes=classes, smallest=n // classes, task=task, kind="text")
    base_inputs, fresh = more.pop("base_inputs", None), more.pop("fresh", frozenset())
    known = network_facts(
        LAYERS,
        family="transformer",
        preprocessing=inputs,
        base_inputs=base_inputs,
        fresh=fresh,
        compares_fine_tuning=strategy == "auto",
    )
    made = build(plan_options(strategy, budget, **more), facts, known, HEADS, ENGINE)
    return plan_cache(made, known, facts)
