"""The workflow that publishes the site: as GitHub's documentation of the actions asks."""

from pathlib import Path
import re

import pytest

yaml = pytest.importorskip("yaml")
ROOT = Path(__file__).parents[1]
INPUTS = {  # of the versions that the workflow names, from each action's action.yml
    "actions/checkout@v7": {"repository", "ref", "token", "path", "fetch-depth", "persist-credentials"},
    "actions/setup-python@v7": {"python-version", "python-version-file", "cache", "architecture", "check-latest"},
    "actions/upload-pages-artifact@v5": {"name", "path", "retention-days", "include-hidden-files"},
    "actions/deploy-pages@v5": {"token", "timeout", "error_count", "reporting_interval", "artifact_name", "preview"},
}


@pytest.fixture
def workflow():
    return yaml.safe_load((ROOT / ".github" / "workflows" / "site.yml").read_text())


def uses(job):
    return [step["uses"] for step in job["steps"] if "uses" in step]


def test_it_runs_at_changes_of_the_main_branch(workflow):
    when = workflow[True]  # YAML takes "on" for a truth value
    assert when["push"] == {"branches": ["main"]}
    assert "workflow_dispatch" in when
    assert workflow["concurrency"]["cancel-in-progress"] is False  # a deployment is not broken off


def test_every_action_is_known_and_gets_inputs_that_it_has(workflow):
    for job in workflow["jobs"].values():
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step)
            assert set(step.get("with", {})) <= INPUTS.get(step.get("uses"), set()), step


def test_what_is_built_is_what_is_uploaded_and_the_python_is_one_of_ours(workflow):
    steps = workflow["jobs"]["build"]["steps"]
    assert uses(workflow["jobs"]["build"]) == [*INPUTS][:3]
    given = {step.get("uses", step.get("run")): step.get("with", {}) for step in steps}
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["site_dir"]
    assert given["actions/upload-pages-artifact@v5"] == {"path": site}
    version = given["actions/setup-python@v7"]["python-version"]
    assert isinstance(version, str)  # 3.10 as a number is 3.1
    assert f"Python :: {version}" in (ROOT / "pyproject.toml").read_text()
    commands = [step["run"] for step in steps if "run" in step]
    assert commands == ["make docs EXTRAS=docs"]  # which test_the_site_is_made runs
    assert re.search(r"^docs = \[", (ROOT / "pyproject.toml").read_text(), flags=re.M)


def test_the_job_that_publishes_may_do_that_and_no_more(workflow):
    assert workflow["permissions"] == {"contents": "read"}
    assert "permissions" not in workflow["jobs"]["build"]
    publish = workflow["jobs"]["publish"]
    assert publish["needs"] == "build"
    assert publish["permissions"] == {"pages": "write", "id-token": "write"}
    assert uses(publish) == ["actions/deploy-pages@v5"]
    environment = publish["environment"]
    assert environment["name"] == "github-pages"
    [step] = publish["steps"]
    assert environment["url"] == f"${{{{ steps.{step['id']}.outputs.page_url }}}}"
