"""The records that pass between stages; each is one readable file in a run folder.

Frozen dataclasses of plain values: no torch, no arrays, no behaviour beyond checks
at birth. `folder.py` writes them as JSON and TOML and reads them back.
"""

from warmstart.records.answer import Answer, CalibrationRecord, ModelRecord
from warmstart.records.checked import Checked
from warmstart.records.data import DataRecord, Example, Finding, FindingKind, Split, Task
from warmstart.records.network import (
    Fate,
    Layout,
    Ledger,
    LedgerRow,
    NetworkRecord,
    PartRecord,
    Pool,
    Preprocessing,
    StartRecord,
    Tap,
)
from warmstart.records.plan import (
    Action,
    Choice,
    HeadPlan,
    PartPlan,
    Plain,
    Plan,
    TrainingPlan,
)
from warmstart.records.ranking import FailedStart, RankedStart, Ranking
from warmstart.records.suggestion import ExpectedGain, Skipped, Suggestion, Suggestions
from warmstart.records.summary import (
    DataCounts,
    Estimate,
    Evidence,
    FrozenProof,
    GuardNote,
    Inspection,
    Prediction,
    Scores,
    Shipped,
    StartCounts,
    Summary,
    SuspectLabel,
    Verdict,
    VerdictKind,
)

__all__ = [
    "Action",
    "Answer",
    "CalibrationRecord",
    "Checked",
    "Choice",
    "DataCounts",
    "DataRecord",
    "Estimate",
    "Evidence",
    "Example",
    "ExpectedGain",
    "FailedStart",
    "Fate",
    "Finding",
    "FindingKind",
    "FrozenProof",
    "GuardNote",
    "HeadPlan",
    "Inspection",
    "Layout",
    "Ledger",
    "LedgerRow",
    "ModelRecord",
    "NetworkRecord",
    "PartPlan",
    "PartRecord",
    "Plain",
    "Plan",
    "Pool",
    "Prediction",
    "Preprocessing",
    "RankedStart",
    "Ranking",
    "Scores",
    "Shipped",
    "Skipped",
    "Split",
    "StartCounts",
    "StartRecord",
    "Suggestion",
    "Suggestions",
    "Summary",
    "SuspectLabel",
    "Tap",
    "Task",
    "TrainingPlan",
    "Verdict",
    "VerdictKind",
]
