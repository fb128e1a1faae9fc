"""Another mirror: no password goes there, and nothing of it stays in the image."""

import pytest
from cli_runner import Cli

from ai_how.errors import ImageError
from ai_how.images.build import BuildOptions, build_suite_image, usual_sources_hook
from ai_how.images.recipe import default_recipe
from ai_how.images.store import ImageStore
from ai_how.process import run

USUAL = """\
deb http://deb.debian.org/debian trixie main
deb http://deb.debian.org/debian trixie-updates main
deb http://security.debian.org/debian-security trixie-security main
"""


@pytest.mark.parametrize("login", ["user:secret@", "secret@", "user:p@secret@"])
def test_a_password_of_a_mirror_is_refused_and_not_said(login, tmp_path, monkeypatch, capsys):
    cli = Cli(tmp_path, monkeypatch, capsys)
    ended = cli("image", "build", "--mirror", f"https://{login}mirror.example:8443/debian")
    assert ended.code == ImageError.exit_code
    assert "a mirror cannot have a user or a password in its URL" in ended.err
    assert "ai-how image build --mirror https://mirror.example:8443/debian" in ended.err
    assert "secret" not in ended.out + ended.err


def test_an_image_from_another_mirror_has_the_usual_sources(tmp_path):
    (tmp_path / "etc/apt").mkdir(parents=True)
    (tmp_path / "etc/apt/sources.list").write_text("deb http://mirror.example/debian trixie main")
    run(["sh", "-c", usual_sources_hook("trixie"), "sh", tmp_path])
    assert (tmp_path / "etc/apt/sources.list").read_text() == USUAL


def test_the_usual_sources_are_written_before_the_tree_is_packed(tmp_path, monkeypatch):
    """By a mmdebstrap that only says what it was told."""
    fake = tmp_path / "mmdebstrap"
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$@"; exit 1\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/sbin:/usr/bin:/sbin:/bin")
    store = ImageStore(tmp_path / "images")
    hooks = {}
    for mirror in ("http://mirror.example/debian", None):
        with pytest.raises(ImageError) as caught:
            build_suite_image(
                store,
                default_recipe(),
                watch=lambda _share, _what: None,
                options=BuildOptions(mirror=mirror),
            )
        said = (caught.value.details or "").splitlines()
        hooks[mirror] = [line for line in said if line.startswith("--customize-hook=")]
    usual, customize = hooks["http://mirror.example/debian"]
    assert usual == f"--customize-hook={usual_sources_hook('trixie')}"
    assert hooks[None] == [customize]
