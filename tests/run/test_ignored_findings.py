"""`--ignore`: findings that are not reported, by their codes."""

from __future__ import annotations

import json

import pytest

from hue_images import fill
from warmstart import fit
from warmstart.cli.main import main
from warmstart.errors import UsageError
from warmstart.records.data import FINDINGS, codes


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Pictures of two colours, one of them twice."""
    root = fill(tmp_path_factory.mktemp("ignored") / "data", {"blue": 12, "red": 12})
    (root / "red" / "again.png").write_bytes((root / "red" / "000.png").read_bytes())
    return root


def kinds(run):
    return {finding.kind for finding in run.summary.findings}


def test_an_ignored_finding_is_reported_nowhere(data, tmp_path):
    options = {"strategy": "head", "budget": "fast", "settings": {"input.size": 32}}
    plain = fit(data, out=tmp_path / "plain", **options)
    assert "near-duplicate" in kinds(plain)
    run = fit(data, out=tmp_path / "run", ignore="WS102", **options)
    assert "near-duplicate" not in kinds(run)
    assert kinds(run) == kinds(plain) - {"near-duplicate"}
    assert run.summary.data.near_duplicates == plain.summary.data.near_duplicates
    assert run.estimate == plain.estimate


def test_check_takes_it_too(data, capsys):
    assert main(["check", str(data), "--budget", "fast", "--ignore", "WS102,WS105", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)["findings"]
    assert not {"WS102", "WS105"} & {finding["code"] for finding in result}


def test_every_finding_has_a_code_of_its_own():
    assert len(set(codes())) == len(FINDINGS)


def test_an_unknown_code_is_refused(data):
    with pytest.raises(UsageError, match=r"--ignore WS999: no finding has this code"):
        fit(data, ignore="WS999")
    with pytest.raises(UsageError, match=r"--ignore ws102: .* did you mean WS102\?"):
        fit(data, ignore=["ws102"])
