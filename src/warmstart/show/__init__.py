"""Words and bars for people: records in, text out. Only the command line uses this."""

from warmstart.show.audit import audit_text
from warmstart.show.check import check_text
from warmstart.show.choice import watcher
from warmstart.show.compare import comparison_text
from warmstart.show.export import export_text
from warmstart.show.judged import judged_text
from warmstart.show.plan import plan_text
from warmstart.show.progress import Lines, Silent, Watcher
from warmstart.show.ranking import ranking_text
from warmstart.show.result import result_text
from warmstart.show.suggestions import suggestions_text
from warmstart.show.tables import (
    NOTHING_PROMISED,
    cache_text,
    cleared_text,
    is_promised,
    predict_lines,
    scores_text,
    starts_text,
)
from warmstart.show.text import error_text

__all__ = [
    "NOTHING_PROMISED",
    "Lines",
    "Silent",
    "Watcher",
    "audit_text",
    "cache_text",
    "check_text",
    "cleared_text",
    "comparison_text",
    "error_text",
    "export_text",
    "is_promised",
    "judged_text",
    "plan_text",
    "predict_lines",
    "ranking_text",
    "result_text",
    "scores_text",
    "starts_text",
    "suggestions_text",
    "watcher",
]
