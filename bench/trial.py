"""One training of upper layers beside a head: what each choice says of the test images."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from warmstart.data.splits import group_numbers
from warmstart.events import drain
from warmstart.evidence import check
from warmstart.features.extraction import extract_features
from warmstart.network.load import PretrainedModel
from warmstart.planning.schedule import head_only
from warmstart.records.run_folder import Clock
from warmstart.records.summary import Inspection, Verdict
from warmstart.request import Request, read_data
from warmstart.run import cleaning
from warmstart.run import plan as run_plan
from warmstart.run.base_model import choose_base
from warmstart.run.deliver import origin_of
from warmstart.run.fit import fine_tuning_gain, restrict_to_rows_of
from warmstart.run.fit import measure as claims
from warmstart.training import score
from warmstart.training.dataset import TrainingDataset, training_dataset
from warmstart.training.fine_tune import FineTuned, fine_tune
from warmstart.training.linear_probe import HeadFit
from warmstart.training.score import ModelEvaluation, head_probabilities
from warmstart.training.ship import FINE_TUNED, PROBE, SHARES, Decision, decide

LEAST = 1e-12


@dataclass(frozen=True)
class Trial:
    """What came out of one set. `fine_tuned` is the fine-tuned network, whatever would ship."""

    training_data: TrainingDataset
    head: HeadFit
    fine_tuned: FineTuned
    decision: Decision | None  # None where the training was given up
    hits: np.ndarray  # (shares, n_test)
    tested: np.ndarray  # (2, n_test, K), answers of linear probe and fine-tuned network

    @property
    def chosen(self) -> int:
        """Place in SHARES of what the rule ships."""
        return self.decision.kind if self.decision is not None else PROBE

    @property
    def tuned(self) -> int:
        """Of what ships, or would if the head were no choice."""
        return self.chosen if self.chosen != PROBE else FINE_TUNED

    @property
    def test_blocks(self) -> np.ndarray:
        """Which test images belong together. Shapes: (n_test,)."""
        labelled = self.training_data.labelled
        return group_numbers(labelled.test, labelled.near_duplicates)


def set_up(request: Request) -> tuple[TrainingDataset, PretrainedModel]:
    """Read, look, settle: as far as `fit` goes before any evidence."""
    collection = drain(read_data(request))
    request, base = drain(choose_base(request, collection, Clock()))
    extracted = drain(extract_features(collection, base))
    collection = cleaning.clean(collection, extracted, None)
    return training_dataset(collection, extracted, base.record, request.budget, request.seed), base


def try_fine_tuning(
    request: Request, training_data: TrainingDataset, base: PretrainedModel
) -> Trial:
    """Fit the head, train the layers that `fit` would, and answer the test images with both."""
    facts = run_plan.network_facts(
        request, base, training_data.extracted.network, None, compares_fine_tuning=True
    )
    plan = run_plan.make_plan(
        run_plan.with_plan(request),
        training_data.labelled.facts(),
        facts,
        tuple(training_data.probe_layers),
        training_data.extracted.engine,
    )
    head = drain(score.fit_all(training_data, plan))
    digests = origin_of(base, training_data.extracted.network).digests
    own = replace(plan, strategy=replace(plan.strategy, source="user"))  # nothing is chosen here
    fine_tuned = drain(fine_tune(training_data, own, head, digests=digests))
    labelled = training_data.labelled
    reported = [
        head_probabilities(head, training_data.extracted.reader(labelled.test)),
        head_probabilities(fine_tuned.head, fine_tuned.reader(labelled.test)),
    ]
    logs = [np.log(np.maximum(p, LEAST)) for p in reported]
    mixed = [share * logs[1] + (1 - share) * logs[0] for share in SHARES]
    hits = np.array([one.argmax(axis=1) == labelled.test_labels for one in mixed], dtype=float)
    decision = None
    if fine_tuned.probe_answers is not None:
        decision = decide(
            restrict_to_rows_of(head, fine_tuned.head).probabilities,
            fine_tuned.probe_answers,
            fine_tuned.head.probabilities,
            labelled.labels,
            fine_tuned.head.fold,
            labelled.groups(),
            labelled.target,
        )
    return Trial(training_data, head, fine_tuned, decision, hits, np.stack(reported))


def measured(trial: Trial) -> ModelEvaluation:
    """What a run would claim of its choice: the estimate, and the fine-tuning gain."""
    decision, labelled = trial.decision, trial.training_data.labelled
    if decision is None:
        return claims(replace(trial.fine_tuned, head=trial.head), labelled, trial.head, False)
    probe = restrict_to_rows_of(trial.head, trial.fine_tuned.head).probabilities
    fold = trial.fine_tuned.head.fold
    gain = fine_tuning_gain(probe, decision.fine_tuned, labelled, fold)
    shipped = replace(trial.fine_tuned.head, probabilities=decision.probabilities)
    if trial.chosen == PROBE:
        shipped = trial.head
    return claims(replace(trial.fine_tuned, head=shipped, gain=gain), labelled, trial.head, False)


def judged(trial: Trial, inspection: Inspection) -> Verdict:
    """The verdict of `fit`: with the measured gain, where it would have trained at all."""
    verdict = check.judge(inspection)
    if not check.tries_fine_tuning(trial.training_data, verdict) or trial.decision is None:
        return verdict
    plan = trial.fine_tuned.plan
    if trial.chosen == PROBE:
        plan = head_only(plan, "the linear probe ships")
    fine_tuned = replace(trial.fine_tuned, plan=plan)
    return check.conclude(trial.training_data, inspection, fine_tuned, measured(trial))[1]
