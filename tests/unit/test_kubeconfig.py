"""A cluster in the kubeconfig of its user: everything else there stays as it is."""

import json
import stat
import threading
from base64 import b64decode
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from ai_how.cloud import kubeconfig
from ai_how.cloud.kubeconfig import default_path, merge, render_user_config, unmerge
from ai_how.cloud.pki import AdminKeys
from ai_how.errors import StateError

SERVER = "https://127.0.0.1:40123"
ADMIN = AdminKeys(b"the CA", b"a certificate", b"a key")
# As `kubectl` writes it, with the comments that somebody added.
FOREIGN = """\
# mine
apiVersion: v1
clusters:
- cluster:
    certificate-authority-data: LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0t
    server: https://work.example:6443  # ask Ann
  name: work
contexts:
- context:
    cluster: work
    namespace: 'on'
    user: me
  name: work
current-context: work
kind: Config
preferences: {}
users:
- name: me
  user:
    exec:
      apiVersion: client.authentication.k8s.io/v1
      args:
      - token
      - --serial=0123
      command: login
      env: null
"""
INDENTED = """\
apiVersion: v1
clusters:
  - name: "work"
    cluster: {server: "https://work.example:6443", insecure-skip-tls-verify: true}
contexts:
  - name: work
    context: {cluster: work, user: me}
users: []   # from the card
current-context: ""
kind: Config
"""
ANCHORED = "users:\n  - name: &a x\n  - name: y\n    user: *a\n"


def read(path):
    return YAML(typ="safe", pure=True).load(path.read_text())


def names(path, key="contexts"):
    return [one["name"] for one in read(path)[key]]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "kube" / "config"


def put(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_config_has_all_that_it_takes():
    config = json.loads(render_user_config("demo", SERVER, ADMIN))
    assert config["clusters"][0]["cluster"]["server"] == SERVER
    assert config["current-context"] == config["contexts"][0]["name"] == "ai-how-demo"
    assert b64decode(config["clusters"][0]["cluster"]["certificate-authority-data"]) == ADMIN.ca
    user = config["users"][0]["user"]
    assert b64decode(user["client-certificate-data"]) == ADMIN.certificate
    assert b64decode(user["client-key-data"]) == ADMIN.key


def test_a_new_file_is_private_and_its_context_the_current_one(path):
    merge(path, "demo", SERVER, ADMIN)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read(path) == json.loads(render_user_config("demo", SERVER, ADMIN))


@pytest.mark.parametrize("text", [FOREIGN, INDENTED])
def test_each_line_of_others_stays_and_the_removal_gives_the_file_back(path, text):
    put(path, text)
    merge(path, "demo", SERVER, ADMIN)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert names(path) == ["work", "ai-how-demo"]
    merged = path.read_text().splitlines()
    changed = {"users: []   # from the card", 'current-context: ""'}
    assert [line for line in text.splitlines() if line not in {*merged, *changed}] == []
    assert "# from the card" in "\n".join(merged) or text != INDENTED
    unmerge(path, "demo")
    assert path.read_text() == text


@pytest.mark.parametrize(
    "text",
    [
        "---\n" + FOREIGN,
        FOREIGN.replace("\n", "\r\n"),
        FOREIGN.replace("users:", "\n# people\nusers:").replace("contexts:", "\ncontexts:  # all"),
        FOREIGN + "# the end\n\n",
        FOREIGN.replace("contexts:\n", "contexts:\n# at work\n\n"),
        FOREIGN.replace("namespace: 'on'", "namespace: |\n      # no comment\n      on"),
    ],
)
def test_no_layout_costs_a_byte_of_others(path, text):
    path.parent.mkdir()
    path.write_bytes(text.encode())
    merge(path, "demo", SERVER, ADMIN)
    merged = path.read_bytes()
    assert names(path) == ["work", "ai-how-demo"]
    merge(path, "demo", "https://127.0.0.1:9", ADMIN)
    merge(path, "demo", SERVER, ADMIN)
    assert path.read_bytes() == merged
    unmerge(path, "demo")
    assert path.read_bytes() == text.encode()


@pytest.mark.parametrize(
    ("text", "after"),
    [
        (FOREIGN.rstrip("\n"), FOREIGN),
        (
            "users: null\nclusters: ~ # none\ncontexts:\n",
            'users: []\nclusters: [] # none\ncontexts: []\ncurrent-context: ""\n',
        ),
        (
            ANCHORED,
            ANCHORED + 'clusters: []\ncontexts: []\ncurrent-context: ""\n',
        ),
    ],
)
def test_only_what_was_missing_or_empty_is_left_differently(path, text, after):
    put(path, text)
    merge(path, "demo", SERVER, ADMIN)
    assert read(path)["contexts"][-1]["name"] == "ai-how-demo"
    unmerge(path, "demo")
    assert path.read_text() == after


def test_the_current_context_of_others_stays(path):
    put(path, FOREIGN)
    merge(path, "demo", SERVER, ADMIN)
    assert read(path)["current-context"] == "work"
    unmerge(path, "demo")
    assert read(path)["current-context"] == "work"


def test_the_current_context_becomes_ours_if_there_is_none_and_goes_with_us(path):
    put(path, INDENTED)
    merge(path, "demo", SERVER, ADMIN)
    assert read(path)["current-context"] == "ai-how-demo"
    unmerge(path, "demo")
    assert read(path)["current-context"] == ""


def test_a_second_merge_renews_what_is_there_and_nothing_else(path):
    put(path, FOREIGN)
    merge(path, "demo", SERVER, ADMIN)
    merge(path, "other", SERVER, ADMIN)
    before = path.read_text()
    merge(path, "demo", SERVER, ADMIN)
    assert path.read_text() == before
    merge(path, "demo", "https://127.0.0.1:5", AdminKeys(b"A", b"B", b"C"))
    assert names(path) == ["work", "ai-how-demo", "ai-how-other"]
    assert read(path)["clusters"][1]["cluster"]["server"] == "https://127.0.0.1:5"
    unmerge(path, "demo")
    assert names(path) == ["work", "ai-how-other"]
    unmerge(path, "other")
    assert path.read_text() == FOREIGN


def test_a_name_that_only_begins_like_ours_is_somebody_elses(path):
    put(path, FOREIGN.replace("name: work", "name: ai-how-demo-2"))
    unmerge(path, "demo")
    assert names(path) == ["ai-how-demo-2"]


def test_a_missing_file_has_nothing_to_remove(path):
    unmerge(path, "demo")
    assert not path.exists()


def test_an_unchanged_file_is_not_written(path):
    put(path, FOREIGN)
    before = path.stat()
    unmerge(path, "demo")
    assert path.stat().st_mtime_ns == before.st_mtime_ns


def test_a_link_stays_a_link(path, tmp_path):
    target = tmp_path / "dotfiles" / "kube"
    put(target, FOREIGN)
    path.parent.mkdir()
    path.symlink_to(target)
    merge(path, "demo", SERVER, ADMIN)
    assert path.is_symlink()
    assert names(target) == ["work", "ai-how-demo"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("clusters: [", "it cannot be read"),
        ("- a\n- b\n", "it has no fields"),
        ("clusters: yes\n", "clusters is not a list"),
        ("a: 1\n---\nb: 2\n", "it cannot be read"),
        ("a: 1\na: 2\n", "while constructing a mapping"),
        ('{"clusters": [], "kind": "Config"}', "it is JSON"),
        ("clusters: [{name: work}]\n", "clusters is a list in one line"),
        ("users:\n- name: a\n  user: |+\n    # no comment\n\n", "in an unusual way"),
        ("clusters:\n-\n  name: b\n", "not in lines of their own"),
        ("a: |\n  text\n...\n", "it cannot be read"),
        ("just words", "it has no fields"),
    ],
)
def test_what_is_no_kubeconfig_is_left_as_it_is(path, text, reason):
    put(path, text)
    with pytest.raises(StateError, match=reason):
        merge(path, "demo", SERVER, ADMIN)
    assert path.read_text() == text
    assert list(path.parent.iterdir()) == [path]


def test_a_file_that_another_program_changes_is_waited_for(path, monkeypatch):
    put(path, FOREIGN)
    lock = path.with_name("config.lock")
    lock.touch()
    timer = threading.Timer(0.5, lock.unlink)
    timer.start()
    merge(path, "demo", SERVER, ADMIN)
    timer.join()
    assert not lock.exists()
    lock.touch()
    monkeypatch.setattr(kubeconfig, "_LOCK_S", 0.1)
    with pytest.raises(StateError, match="is locked by another program"):
        unmerge(path, "demo")
    assert lock.exists()
    assert names(path) == ["work", "ai-how-demo"]


def test_two_merges_at_once_lose_nothing(path):
    threads = [
        threading.Thread(target=merge, args=(path, f"c{number}", SERVER, ADMIN))
        for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(names(path)) == [f"ai-how-c{number}" for number in range(8)]


def test_the_file_is_the_one_that_kubectl_reads_first():
    home = Path("/home/ann")
    assert default_path({}, home) == home / ".kube" / "config"
    assert default_path({"KUBECONFIG": ""}, home) == home / ".kube" / "config"
    assert default_path({"KUBECONFIG": ":/a:/b"}, home) == Path("/a")
