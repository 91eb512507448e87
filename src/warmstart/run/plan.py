"""What the user set: the inputs of the network, and the plan of a run.

Rules come first, over them a plan file, over that --set.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from torch.nn import Parameter

from warmstart.data.dataset import Collection
from warmstart.distributed import expected_group
from warmstart.errors import PlanError
from warmstart.features.engine_choice import SETTING, check_name
from warmstart.features.machine import n_threads
from warmstart.machine import free_memory
from warmstart.modalities.audio import default_sound, sound_of
from warmstart.modalities.image import band_ranges, count_bands
from warmstart.modalities.registry import MODALITIES, modality_of
from warmstart.network.feature_layers import feature_layers
from warmstart.network.finished_run import partition_base
from warmstart.network.inputs import LEAST, MOST, PICTURE, SHOWABLE, InputOptions
from warmstart.network.ledger import tensors_of
from warmstart.network.load import PretrainedModel
from warmstart.network.lora import bare_blocks
from warmstart.network.partition import Network
from warmstart.network.weights import is_full
from warmstart.planning import rules
from warmstart.planning.build import build
from warmstart.planning.check import SOUND_LIMITS, check_facts, check_plan, check_values
from warmstart.planning.facts import DataFacts, NetworkFacts, with_parallel
from warmstart.planning.fine_tuning import (
    CACHE_DTYPES,
    FULL_BYTES,
    cache_bytes,
    compares_fine_tuning,
    plan_cache,
)
from warmstart.planning.plan_file import options_for, overlay
from warmstart.planning.rules import probe_layers
from warmstart.planning.settings import PAIRS, PATHS, apply_settings
from warmstart.planning.strategy import AUTO as ANY_DEPTH
from warmstart.planning.strategy import PlanOptions, n_tuned, reconcile_strategy, strategy_of
from warmstart.records.block_actions import ACTIONS, LOW_RANK
from warmstart.records.inputs import Sound, WaveInputs
from warmstart.records.network import BaseModelRecord, NetworkRecord
from warmstart.records.plan import Choice, Plan, Value, wrong_value
from warmstart.records.summary import Verdict
from warmstart.request import Request
from warmstart.training.dataset import arrange
from warmstart.training.device import AUTO, check_machine, find_machine
from warmstart.training.head_families import SUFFIX


def with_plan(request: Request) -> Request:
    """The request with what its plan says: base model, seed and budget hold where none was typed.

    Raises: PlanError for values that no plan can have, or an engine that does not exist or is not
    installed.
    """
    engine, plan = _set_engine(request), request.plan
    if plan is None:
        return request
    check_values(plan)
    if engine is None:
        check_name(str(plan.training.engine.value), f"the plan's {SETTING}")
    typed, changes = request.typed, dict[str, Any]()
    if "seed" not in typed:
        changes["seed"] = int(plan.training.seed.number)
    if "budget" not in typed:  # it decides which checks are made
        is_fast = plan.head.permutations.value == rules.PERMUTATIONS["fast"]
        changes["budget"] = "fast" if is_fast else "balanced"
    if "base" not in typed:
        changes["base"] = str(plan.base.value)
        changes["arch"] = request.arch or (str(plan.arch.value) if plan.arch else None)
    return replace(request, given=typed, **changes)


def engine_of(request: Request) -> Choice | None:
    """The extraction engine of --set, else that of the plan; None where it is to be chosen."""
    engine = _set_engine(request)
    if engine is not None:
        return Choice(value=engine, because="your choice (--set)", source="user")
    return request.plan.training.engine if request.plan else None


def _set_engine(request: Request) -> str | None:
    one = request.settings.get(SETTING)
    return None if one is None else check_name(str(one.value), f"--set {one}")


def make_plan(
    request: Request,
    facts: DataFacts,
    network: NetworkFacts,
    head_names: Sequence[str],
    engine: Choice,
) -> Plan:
    """The plan; what the user set overrides the rules and is marked.

    `request` has its plan file read; `engine` is the one that extracts the features.
    Raises: PlanError for a plan that this network or these data do not allow.
    """
    if may_fine_tune(request, network.record, facts) and not network.compares_fine_tuning:
        # Without settings for a training that has no signal to train on.
        items = request.settings.items()
        rest = {path: one for path, one in items if not path.startswith("training.")}
        request = replace(request, lr=None, settings=rest)
    base = request.base if isinstance(request.base, (str, Path)) else type(request.base).__name__
    pairs = request.setting(PAIRS)  # other choices follow from it
    options = PlanOptions(
        base=str(base),
        strategy=request.strategy,
        budget=request.budget,
        seed=request.seed,
        arch=request.arch,
        lr=request.lr,
        explicit=request.typed,
        contrastive=None if pairs is None else bool(pairs),
        processes=expected_group().size,
        machine=find_machine(request.device, n_threads()),
    )
    if request.plan is not None:
        options = options_for(request.plan, options)
    plan = build(options, facts, network, head_names, engine)
    if request.base_choice is not None:
        plan = replace(plan, base=request.base_choice)
    if request.plan is not None:
        on_device = {"device"} if request.device != AUTO else set[str]()
        plan = overlay(plan, request.plan, request.typed | on_device)
    if is_partial(request):
        choice = Choice(value=True, because="your choice (--set)", source="user", rule=False)
        plan = replace(plan, partial=choice)
    if request.stream is not None:
        plan = replace(plan, training=replace(plan.training, offload=request.stream))
    plan = replace(plan, training=replace(plan.training, engine=engine))
    plan = apply_settings(plan, request.settings)
    plan = plan_cache(reconcile_strategy(plan, network), network, facts)
    plan = with_parallel(plan, network.record, expected_group().local, free_memory())
    check_plan(plan, network.record)
    check_facts(plan, facts, network, head_names)
    check_machine(plan)
    return plan


def stored_block(request: Request, base: PretrainedModel, n: int) -> int:
    """The number of the block whose output an offloaded network caches; 0 for none.

    The last frozen block of the strategy that was typed; else that of `last:1`, which may come
    next, while its output is small. Raises: PlanError as `n_tuned` does.
    """
    if not base.stream:
        return 0
    strategy = request.strategy
    if request.plan is not None and "strategy" not in request.typed:
        strategy = strategy_of(request.plan)
    record = partition_base(base).record
    tuned = 0 if strategy.depth == "auto" else n_tuned(strategy, len(record.blocks))
    cut = len(record.blocks) - max(tuned, 1)
    is_small = cut and cache_bytes(record, cut, n, 0, base.stream) <= FULL_BYTES
    return cut if tuned or is_small else 0


def may_fine_tune(request: Request, network: NetworkRecord, facts: DataFacts) -> bool:
    """Whether upper blocks will be fine-tuned beside the linear probe if there is a signal."""
    return follows_verdict(request) and compares_fine_tuning(network, facts, request.budget)


def follows_verdict(request: Request) -> bool:
    """Whether measurements of the run may still change its strategy."""
    return request.strategy.depth == "auto" and request.plan is None


def validate(request: Request, collection: Collection, base: PretrainedModel) -> None:
    """Make a plan that was typed once, before a folder is made or an image is passed.

    The verdict and the engine are not known yet, and nothing is refused because of them.
    Raises: PlanError as `make_plan` does; DataError where too few images are independent.
    """
    is_plain = request.plan is None and not request.settings and request.lr is None
    if is_plain and request.strategy == ANY_DEPTH:
        return
    network = partition_base(base)
    layers = tuple(probe_layers(feature_layers(network.record)))
    names = (*layers, *(f"{name}{SUFFIX}" for name in layers))
    data = arrange(collection.record).facts()
    tries = may_fine_tune(request, network.record, data)
    engine = Choice(value="torch", because="only validated", source="rule")
    make_plan(request, data, network_facts(request, base, network, None, tries), names, engine)


def network_facts(
    request: Request,
    base: PretrainedModel,
    network: Network,
    verdict: Verdict | None,
    compares_fine_tuning: bool = False,
) -> NetworkFacts:
    """What planning needs to know of a base model and its blocks.

    A block is fresh where more than half of its parameters are random, partly fresh where some
    tensors are. The neck belongs to the last block, with which it is trained.
    """
    partly_fresh, fresh = _random_blocks(base.random_tensors, network)
    planned = request.plan.blocks if request.plan else ()
    has_lora = (
        "lora" in request.strategy.extras
        or any(one.value == LOW_RANK.name for one in request.settings.values())
        or any(block.behaviour.has_updates for block in planned)
    )
    return NetworkFacts(
        record=network.record,
        recipe=base.record.recipe,
        preprocessing=base.record.preprocessing,
        base_inputs=base.origin.preprocessing,
        is_random=base.record.is_random,
        verdict=verdict.kind if verdict else None,
        compares_fine_tuning=compares_fine_tuning,
        fresh=fresh,
        partly_fresh=partly_fresh - fresh,
        no_lora=bare_blocks(network) if has_lora else frozenset(),
    )


def _random_blocks(
    names: frozenset[str], network: Network
) -> tuple[frozenset[str], frozenset[str]]:
    """Blocks with some random tensors, and those with mostly random parameters."""
    blocks = [block.name for block in network.record.blocks]
    homes = {**{name: name for name in blocks}, "neck": blocks[-1]}
    total, random = Counter[str](), Counter[str]()
    for name, tensor in tensors_of(network).items() if names else ():
        block = homes.get(network.owners[name])
        if block is None:  # the old classifier, and what is never read
            continue
        n = tensor.numel() if isinstance(tensor, Parameter) else 0
        total[block] += n
        if name in names:
            random[block] += n
    return frozenset(random), frozenset(b for b in random if 2 * random[b] > total[b])


# ---- The inputs of the network, by --set, by the plan, by what the files hold.

AUDIO_SETTINGS = ("sample_rate", "seconds", "n_mels", "top_db")
PARTIAL = "base.partial"
SIZE, CHANNELS = "input.size", "input.channels"
OFFLOAD = "training.offload"
FULL_PRECISION = "float32"
# At most this many times its weights a network takes in memory: itself, the copy that an engine is
# made from, that engine, and the activations of a pass.
MEMORY_FACTOR = 4
HELPER = "accelerate"  # without it a network is loaded as usual
_OFFLOAD_WORDS = {"true": FULL_PRECISION, "yes": FULL_PRECISION, "false": "", "no": ""}


def _spectrogram(request: Request, collection: Collection) -> Sound:
    """By --set, the plan, or the headers of the training files."""
    sound = sound_of(collection.load, collection.record.examples)
    values = {}
    for name in AUDIO_SETTINGS:
        path, value = f"input.{name}", _input_value(request, name)
        one = request.settings.get(path)
        if one is not None and not SOUND_LIMITS[path].test(value):
            raise wrong_value(f"--set {path}", SOUND_LIMITS[path].words, one.text)
        if value is not None:
            values[name] = value
    if not values:
        return sound
    changed = default_sound(
        int(values.get("sample_rate", sound.sample_rate)),
        float(values.get("seconds", sound.seconds)),
        int(values.get("n_mels", sound.mels)),
    )
    return replace(changed, range_db=float(values.get("top_db", sound.range_db)))


def check_wave_settings(request: Request, base: BaseModelRecord) -> None:
    """Raises: PlanError for settings without effect on a base model that takes samples."""
    modality = modality_of(base.preprocessing)
    if modality.is_sound and not modality.has_pixels:
        names = ("size", "channels", "sample_rate", "n_mels", "top_db")
        rate = f"{cast(WaveInputs, base.preprocessing).sample_rate:,} samples a second"
        _refuse_settings(request, names, f"{base.name} takes clips as they are, at {rate}")


def _refuse_settings(request: Request, names: Sequence[str], why: str) -> None:
    for name in names:
        if (one := request.settings.get(f"input.{name}")) is not None:
            raise PlanError(f"{one.error} {why}; leave it out.")


def input_options(request: Request, collection: Collection) -> InputOptions:
    """The inputs that the network is to take, and how many channels the images have.

    Files with more than three bands need as many channels; a grey image is given to a colour
    network in three equal channels, unless `input.channels` says otherwise.
    Raises: PlanError for a setting that is no number or does not suit the images, DataError
    where files differ.
    """
    record, load = collection.record, collection.load
    size = _input_value(request, "size")
    modality = MODALITIES[record.kind]
    if not modality.has_thumbnails:
        return InputOptions(size=size)
    channels = _input_value(request, "channels")
    if SIZE in request.settings and not LEAST <= size <= MOST:
        raise PlanError(f"--set {SIZE}={size}: sizes from {LEAST} to {MOST} px are supported.")
    options = InputOptions(
        size=size,
        is_tuned=_trains_stem(request),
        tuned_blocks=_tuned_blocks(request),
        is_partial=is_partial(request),
    )
    if modality.is_sound:
        sound = _spectrogram(request, collection)
        return replace(options, channels=channels or 1, sound=sound, image_channels=1)
    _refuse_settings(request, AUDIO_SETTINGS, "the data holds images, not sounds")
    n_bands = count_bands(load, record.examples)
    is_picture = n_bands in PICTURE
    if channels is None and not is_picture:
        channels = n_bands
    if channels is not None:
        _check_channels(request, channels, n_bands)
    ranges = () if is_picture else band_ranges(load, record.examples)
    rgb = _input_value(request, "rgb")
    return replace(options, channels=channels, rgb=rgb, ranges=ranges, image_channels=n_bands)


def _check_channels(request: Request, channels: int, n_bands: int) -> None:
    """Pictures go into 1, 3 or, with alpha, 4 channels; bands into as many as they are."""
    is_picture = n_bands in PICTURE
    if channels in SHOWABLE if is_picture else channels == n_bands:
        return
    plural = "s" if n_bands > 1 else ""
    held = f"are pictures of {n_bands} channel{plural}" if is_picture else f"have {n_bands} bands"
    if CHANNELS in request.settings:
        raise PlanError(f"--set {CHANNELS}={channels}: the images {held}; leave it out.")
    raise PlanError(
        f"the plan has {CHANNELS} {channels}, the images {held}; make a new plan with --dry-run."
    )


def is_partial(request: Request) -> bool:
    """Whether to load the tensors that fit from a base model that fits in part."""
    if (typed := request.setting(PARTIAL)) is not None:
        return bool(typed)
    plan = _plan_of_base(request)
    return plan is not None and plan.partial is not None and bool(plan.partial.value)


def _input_value(request: Request, name: str) -> Any:
    """An input setting by --set, else by the plan; None where neither has it."""
    path = f"input.{name}"
    if (typed := request.setting(path)) is not None:
        return typed
    plan = _plan_of_base(request)
    choice: Choice | None = getattr(plan.input, name) if plan and plan.input else None
    if choice is None:
        return None
    return int(choice.number) if PATHS[path] == "whole" else choice.value


def _plan_of_base(request: Request) -> Plan | None:
    """The plan that was read; None where the user named another base model, with other inputs."""
    return None if "base" in request.typed else request.plan


def _trains_stem(request: Request) -> bool:
    """Whether the first layer is trained: only then may new channels start at zero."""
    action = request.setting("block.1.action")
    if action is not None:
        return _trains_weights(action)
    if request.plan is not None and "strategy" not in request.typed:
        return request.plan.blocks[0].behaviour.trains_weights
    strategy = request.strategy
    is_full = strategy.depth == "frozen" and not strategy.count and "lora" not in strategy.extras
    return is_full or strategy.depth == "scratch"


def _trains_weights(action: Value) -> bool:
    """Whether a first layer learns to use new channels under an action, if it is one."""
    return action in ACTIONS and ACTIONS[str(action)].trains_weights


def _tuned_blocks(request: Request) -> tuple[tuple[str, bool], ...]:
    """Blocks whose action was set by name, and whether they are trained; their order is unknown."""
    actions = (
        (path.removeprefix("block.").removesuffix(".action"), _trains_weights(one.value))
        for path, one in request.settings.items()
        if path.startswith("block.") and path.endswith(".action")
    )
    return tuple((name, is_tuned) for name, is_tuned in actions if not name.isdigit())


def choose_offload(request: Request) -> Choice | None:
    """Whether the base model is offloaded, by --set, the plan or free memory; None: it is not.

    Raises: PlanError for a setting that is none.
    """
    setting = request.settings.get(OFFLOAD)
    if setting is not None:
        value = _OFFLOAD_WORDS.get(str(setting.value), str(setting.value))
        if value and value not in CACHE_DTYPES:
            dtypes = " or ".join(CACHE_DTYPES)
            raise PlanError(f"{setting.error} it is true, false, {dtypes}.")
        if not value:
            return None
        if request.arch is None or Path(str(request.base)).suffix != ".safetensors":
            raise PlanError(
                f"{setting.error} only a .safetensors file of weights can be offloaded; "
                "name one with --base FILE.safetensors --arch timm:NAME, or leave it out."
            )
        if is_partial(request):
            raise PlanError(
                f"--set {setting} and {PARTIAL} do not go together: a partly loaded network "
                "has to be in memory; leave one out."
            )
        return Choice(value=value, because="your choice (--set)", source="user")
    if (plan := _plan_of_base(request)) is not None:
        return plan.training.offload
    return request.stream or _offload_by_memory(request)


def _offload_by_memory(request: Request) -> Choice | None:
    """A weight file that is large beside the free memory stays on disk, if it can."""
    if request.arch is None or not isinstance(request.base, (str, Path)):
        return None
    path, free = Path(request.base), free_memory()
    if free is None or path.suffix != ".safetensors" or not path.is_file():
        return None
    size = path.stat().st_size
    fits = MEMORY_FACTOR * size <= free
    if fits or is_partial(request) or not is_full(path) or not find_spec(HELPER):
        return None
    why = (
        f"{MEMORY_FACTOR} times {size / 1e9:.1f} GB of weights are more than the "
        f"{free / 1e9:.1f} GB of free memory"
    )
    return Choice(value=FULL_PRECISION, because=why, source="rule")
