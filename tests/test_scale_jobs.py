"""The job files in docs/scale.md: shell and YAML that parse, and a command that is taken."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from warmstart.cli.parse import parse

TEXT = (Path(__file__).parents[1] / "docs" / "scale.md").read_text("utf-8")


def blocks(kind):
    found = re.findall(rf"^```{kind}\n(.*?)^```", TEXT, re.M | re.S)
    assert found
    return found


def check_shell(script):
    """Its syntax, and the calls of warmstart that it may make."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash here")
    job = subprocess.run([bash, "-n"], input=script, capture_output=True, text=True, check=False)
    assert job.returncode == 0, job.stderr
    assert "set -euo pipefail" in script
    if shellcheck := shutil.which("shellcheck"):
        job = subprocess.run(
            [shellcheck, "-s", "bash", "-"],
            input=script,
            capture_output=True,
            text=True,
            check=False,
        )
        assert job.returncode == 0, job.stdout
    works = re.findall(r"work=\((.*)\)", script)
    assert {parse(shlex.split(work)).verb for work in works} == {"fit", "resume"}
    assert re.search(r'-m -- warmstart "\$\{work\[@\]\}"', script)


def test_the_slurm_script():
    (script,) = blocks("bash")
    assert script.startswith("#!/bin/bash\n#SBATCH ")
    check_shell(script)


def test_the_kubernetes_job():
    service, job = yaml.safe_load_all(blocks("yaml")[0])
    assert (service["kind"], job["kind"]) == ("Service", "Job")
    spec = job["spec"]
    assert spec["completions"] == spec["parallelism"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["subdomain"] == service["metadata"]["name"]
    assert container["command"] == ["bash", "-c"]
    volumes = {volume["name"] for volume in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    check_shell(container["args"][0])


def test_kubernetes_would_take_the_job():
    """By the schemas of its own API: no field that is none, none of another kind."""
    validate = pytest.importorskip("kubernetes_validate").validate
    for document in yaml.safe_load_all(blocks("yaml")[0]):
        validate(document, "1.30", strict=True)
        wrong = document | {"spec": document["spec"] | {"complections": 2}}
        with pytest.raises(Exception, match="complections"):
            validate(wrong, "1.30", strict=True)


def test_commands_on_the_page_are_taken():
    lines = re.findall(r"^    .*?warmstart (fit .*)$", TEXT, re.M)
    assert len(lines) >= 3
    assert {parse(shlex.split(line)).verb for line in lines} == {"fit"}
