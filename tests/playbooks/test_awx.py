# SPDX-License-Identifier: GPL-3.0-or-later
"""The jobs of awx/, run by ansible-runner as AWX runs them: answers as unsafe strings, an inventory script, no terminal, every
event kept. And the plays under C(become: true), where the API tasks must stay with the controller's own user."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import stat
import typing as t

import ansible_runner
import pytest
import yaml
from local_cluster import ROOT, LocalCluster, collections_path

SURVEYS = ROOT / "awx" / "surveys"
TYPES = {"text", "textarea", "password", "multiplechoice", "multiselect", "integer", "float"}


class Job(t.NamedTuple):
    """What AWX keeps of a job."""

    status: str
    events: list[dict[str, t.Any]]
    artifacts: dict[str, t.Any]

    @property
    def text(self) -> str:
        """Every event, as AWX stores it."""
        return json.dumps(self.events)

    @property
    def stats(self) -> dict[str, t.Any]:
        return next(e["event_data"] for e in reversed(self.events) if e["event"] == "playbook_on_stats")

    @property
    def changed(self) -> int:
        return sum(self.stats["changed"].values())


class Awx:
    """A private data directory as AWX's jobs get, for the nodes of C(cluster)."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.cluster = cluster
        self.kept = cluster.state / "kept-by-the-program"
        self.keeper = cluster.state / "keeper"
        self.keeper.write_text(
            f'#!/bin/sh\nKEPT="{self.kept}"\ncase "$1" in store) umask 077; cat > "$KEPT";; read) cat "$KEPT" 2>/dev/null; true;; esac\n'
        )
        self.keeper.chmod(0o700)

    def run(self, name: str, answers: dict[str, t.Any], nodes: int = 3, options: str = "", project: pathlib.Path | None = None) -> Job:
        private = self.cluster.state / "jobs" / f"{name}-{len(list((self.cluster.state).glob('jobs/*')))}"
        for directory in ("inventory", "env"):
            (private / directory).mkdir(parents=True)
        shutil.copytree(project or ROOT / "awx", private / "project")
        self._inventory(private / "inventory" / "hosts", nodes)
        (private / "env" / "extravars").write_text(self._extra_vars(answers))
        (private / "env" / "cmdline").write_text(f"-u root {options}")
        (private / "env" / "settings").write_text(json.dumps({"idle_timeout": 600, "job_timeout": 1200, "suppress_ansible_output": True}))
        runner = ansible_runner.run(
            private_data_dir=str(private),
            playbook=f"{name}.yml",
            quiet=True,
            fact_cache_type="",
            envvars={
                **self.cluster.environment,
                "ANSIBLE_HOST_KEY_CHECKING": "False",
                "ANSIBLE_FORCE_COLOR": "True",
                "ANSIBLE_INVENTORY_UNPARSED_FAILED": "True",
                "ANSIBLE_COLLECTIONS_PATH": str(collections_path()),
                "AWX_PRIVATE_DATA_DIR": str(private),
                "JOB_ID": "1",
            },
        )
        events = list(runner.events)
        artifacts = next((e["event_data"].get("artifact_data", {}) for e in reversed(events) if e["event"] == "playbook_on_stats"), {})
        return Job(runner.status, events, artifacts)

    def _inventory(self, path: pathlib.Path, nodes: int) -> None:
        """The hosts as an executable that prints them, which is how AWX hands its inventory over."""
        source = yaml.safe_load((ROOT / "inventories" / ("local.yml" if nodes == 3 else "local-grow.yml")).read_text())["all"]
        hosts = source["children"]["holdfast"]["hosts"]
        variables = {**source["vars"], "holdfast_shares_command": [str(self.keeper)]}
        listing = {
            "all": {"hosts": list(hosts), "vars": variables, "children": ["holdfast"]},
            "holdfast": {"hosts": list(hosts)},
            "_meta": {
                "hostvars": {h: {**v, "remote_tower_enabled": "true", "remote_tower_id": n} for n, (h, v) in enumerate(hosts.items())}
            },
        }
        path.write_text(f"#!/bin/sh\ncat <<'EOF'\n{json.dumps(listing)}\nEOF\n")
        path.chmod(0o700)

    def _extra_vars(self, answers: dict[str, t.Any]) -> str:
        """Every string is marked unsafe: nothing in an answer is a template."""
        lines = [
            f"{key}: {f'!unsafe {json.dumps(value)}' if isinstance(value, str) else json.dumps(value)}" for key, value in answers.items()
        ]
        lines += ["awx_job_id: 1", "tower_job_id: 1", 'awx_user_name: !unsafe "admin"']
        return "\n".join(lines) + "\n"

    def secrets(self) -> list[str]:
        kept = json.loads(self.kept.read_text())
        return [kept["root_token"], *kept["keys"], *kept["keys_base64"]]


def answers(survey: str, **given: t.Any) -> dict[str, t.Any]:
    """The defaults of a survey, and what was answered; what is optional and unanswered arrives as an empty string."""
    spec = json.loads((SURVEYS / f"{survey}.json").read_text())["spec"]
    assert set(given) <= {question["variable"] for question in spec}
    return {**{question["variable"]: question["default"] for question in spec}, **given}


@pytest.fixture(scope="module")
def awx(cluster: LocalCluster) -> Awx:
    return Awx(cluster)


def good(awx: Awx, job: Job) -> Job:
    """The job ended well, asked nothing, and no event of it holds a secret."""
    failures = [e.get("stdout", "") for e in job.events if e["event"] in ("runner_on_failed", "runner_on_unreachable", "error")]
    assert job.status == "successful", failures
    assert failures == []
    assert not any(e["event"] == "playbook_on_vars_prompt" for e in job.events)
    if awx.kept.exists():
        for secret in awx.secrets():
            assert secret not in job.text
    return job


def test_build(awx: Awx) -> None:
    assert (
        good(
            awx, awx.run("build", answers("build", holdfast_secret_shares=3, holdfast_secret_threshold=2), options="--check --diff")
        ).changed
        > 0
    )
    assert not awx.kept.exists()
    job = good(awx, awx.run("build", answers("build", holdfast_secret_shares=3, holdfast_secret_threshold=2), options="--diff"))
    assert job.changed > 0
    assert sorted(job.artifacts["holdfast_members"]) == ["n1", "n2", "n3"]
    assert stat.S_IMODE(awx.kept.stat().st_mode) == 0o600
    assert len(json.loads(awx.kept.read_text())["keys"]) == 3
    assert good(awx, awx.run("build", answers("build"), options="--diff")).changed == 0
    assert good(awx, awx.run("build", answers("build"), options="--check --diff -l n2")).changed == 0


def test_snapshot_grow_shrink_restore(awx: Awx) -> None:
    path = str(awx.cluster.state / "job.snap")
    assert good(awx, awx.run("snapshot", answers("snapshot", holdfast_snapshot_file=path))).artifacts == {"holdfast_snapshot_file": path}
    grown = good(awx, awx.run("grow", answers("grow"), nodes=5))
    assert len(grown.artifacts["holdfast_members"]) == 5
    leader = next(name for name in (f"n{n}" for n in range(1, 6)) if awx.cluster.url(name) == grown.artifacts["holdfast_leader"])
    other = "n5" if leader != "n5" else "n4"
    shrunk = answers("shrink", holdfast_remove=f"{leader}, {other}")
    assert good(awx, awx.run("shrink", shrunk, nodes=5, options="--check --diff")).changed > 0
    job = good(awx, awx.run("shrink", shrunk, nodes=5, options="--diff"))
    assert set(job.artifacts["holdfast_members"]) == {"n1", "n2", "n3", "n4", "n5"} - {leader, other}
    restore = answers("restore", holdfast_snapshot_file=path, holdfast_confirm="local")
    assert good(awx, awx.run("restore", {**restore, "holdfast_remove": f"{leader},{other}"}, nodes=5)).changed > 0
    assert good(awx, awx.run("status", {}, nodes=5)).changed == 0


def test_an_answer_is_never_a_template(awx: Awx) -> None:
    job = awx.run("restore", answers("restore", holdfast_snapshot_file="/no/{{ 7 * 7 }}.snap", holdfast_confirm="local"))
    assert job.status == "failed"
    assert "/no/{{ 7 * 7 }}.snap" in job.text
    assert "/no/49.snap" not in job.text
    wrong = awx.run("restore", answers("restore", holdfast_snapshot_file="/no/a.snap", holdfast_confirm="other"))
    assert wrong.status == "failed"
    assert "nothing was restored" in wrong.text


def test_become_at_play_level_never_reaches_the_api_tasks(awx: Awx, tmp_path: pathlib.Path) -> None:
    """Every play of the collection gets C(become: true), with a sudo that only writes down that it was called."""
    project = tmp_path / "project"
    shutil.copytree(ROOT / "playbooks", project)
    for playbook in project.glob("*.yml"):
        text = playbook.read_text()
        playbook.write_text(text.replace("  gather_facts: false\n", "  gather_facts: false\n  become: true\n"))
        assert "become: true" in playbook.read_text() or "hosts:" not in text or "import_playbook" in text
    called, sudo = tmp_path / "called", tmp_path / "sudo"
    sudo.write_text(f'#!/bin/sh\necho "$@" >> {called}\nexit 1\n')
    sudo.chmod(0o700)
    options = f"-e ansible_become_exe={sudo}"
    job = awx.run("build", answers("build"), nodes=5, options=options, project=project)
    good(awx, job)
    path = str(awx.cluster.state / "become.snap")
    good(awx, awx.run("snapshot", answers("snapshot", holdfast_snapshot_file=path), options=options, project=project))
    good(awx, awx.run("status", {}, options=options, project=project))
    assert not called.exists()


@pytest.mark.parametrize("path", sorted(SURVEYS.glob("*.json")), ids=lambda path: path.stem)
def test_surveys(path: pathlib.Path) -> None:
    """AWX's own rules for a survey, and every question is one that the playbooks know."""
    survey = json.loads(path.read_text())
    known = "".join(file.read_text() for file in (ROOT / "playbooks").rglob("*.yml"))
    assert set(survey) == {"name", "description", "spec"}
    for question in survey["spec"]:
        assert question["type"] in TYPES
        assert question["variable"] in known
        if question["type"] == "multiplechoice":
            assert question["default"] in question["choices"].split("\n")
        if question["type"] == "integer":
            assert question["min"] <= question["default"] <= question["max"]
        if question["type"] == "text" and question["default"] == "" and not question["required"]:
            assert question["min"] == 0, "unanswered arrives as an empty string"
    assert len({question["variable"] for question in survey["spec"]}) == len(survey["spec"])


def test_job_templates() -> None:
    templates = yaml.safe_load((ROOT / "awx" / "job_templates.yml").read_text())["controller_templates"]
    assert {template["playbook"] for template in templates} == {path.name for path in (ROOT / "awx").glob("*.yml")} - {
        "job_templates.yml",
        "credential_types.yml",
        "inventory.example.yml",
    }
    for template in templates:
        assert template["job_slice_count"] == 1
        assert template["allow_simultaneous"] is False
        assert os.path.exists(ROOT / "awx" / template["playbook"])
        if template["survey_enabled"]:
            name = template["survey_spec"].split("'surveys/")[1].split("'")[0]
            assert (SURVEYS / name).exists()
