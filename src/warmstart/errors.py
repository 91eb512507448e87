"""Every error of warmstart, in one tree.

    WarmstartError
    ├── UsageError          an option, verb or argument that cannot be used     exit 2
    ├── DataError           the labelled examples cannot be used as they are    exit 2
    ├── StartError          the pretrained network cannot be used               exit 2
    ├── PlanError           a plan or one of its values cannot be followed      exit 2
    ├── RunFolderError      a run folder cannot be read or written              exit 2
    ├── TrainingError       the work itself failed                              exit 1
    │   └── WorldError      another process of the same job is gone             exit 1
    ├── ExportError         a model could not be exported faithfully            exit 1
    └── ServeError          the server cannot start or go on                    exit 1

Each message is one line that says what is wrong, where, and what to do.
"""

from __future__ import annotations


class WarmstartError(Exception):
    """Catch this one to catch every error of ours."""

    exit_code = 1


class UsageError(WarmstartError, ValueError):
    """An option, verb or argument cannot be used."""

    exit_code = 2


class DataError(WarmstartError, ValueError):
    """The labelled examples cannot be used as they are."""

    exit_code = 2


class StartError(WarmstartError):
    """The pretrained network cannot be used as a start."""

    exit_code = 2


class PlanError(WarmstartError, ValueError):
    """A plan, or one of its values, cannot be followed."""

    exit_code = 2


class RunFolderError(WarmstartError):
    """A run folder cannot be read or written."""

    exit_code = 2


class TrainingError(WarmstartError):
    """The work failed after it had begun; the run folder says where."""


class WorldError(TrainingError):
    """Another process of the same job is gone, or cannot be reached; the run can go on later."""


class ExportError(WarmstartError):
    """A model could not be exported, or its export did not agree with it."""


class ServeError(WarmstartError):
    """The server cannot start or go on."""
