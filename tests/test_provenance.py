"""Versions and commit: what is said of a package that is there, of one that is not, and of a tree in each state."""

import subprocess
import sys
from importlib import metadata

import torch

from uncertainty import provenance
from uncertainty.provenance import git_state, package_versions


def test_versions_are_those_that_are_installed_and_none_of_what_is_not():
    assert package_versions(["torch", "no-such-package"]) == {
        "torch": metadata.version("torch"),
        "no-such-package": None,
    }
    assert package_versions(["torch"])["torch"] == torch.__version__


def run_git(folder, *words):
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    done = subprocess.run(["git", "-C", folder, *who, *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_the_commit_is_named_and_a_changed_tree_is_dirty(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "provenance.py"))
    for name in ("GIT_DIR", "GIT_WORK_TREE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_state() is None
    run_git(tmp_path, "init", "--quiet")
    (tmp_path / "a.txt").write_text("one")
    run_git(tmp_path, "add", "a.txt")
    run_git(tmp_path, "commit", "--quiet", "-m", "one")
    run_git(tmp_path, "tag", "v1")
    commit = run_git(tmp_path, "rev-parse", "HEAD")
    assert git_state() == commit
    (tmp_path / "a.txt").write_text("two")
    assert git_state() == f"{commit}-dirty"


def test_without_git_nothing_is_said(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert git_state() is None


def test_it_needs_no_model_library():
    program = "import sys, uncertainty.provenance; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "False\n"
