"""The files of the page: those of others unchanged, ours without what a strict CSP forbids."""

import hashlib
import re
import zipfile
from pathlib import Path

import pytest

from ai_how.process import run

ROOT = Path(__file__).resolve().parents[2]
STATIC = ROOT / "src" / "ai_how" / "dashboard" / "static"
VENDOR = STATIC / "vendor"
OURS = sorted((STATIC / "js").glob("*.js"))


def test_the_libraries_of_others_are_as_they_were_fetched():
    listed = [line.split() for line in (VENDOR / "SHA256SUMS").read_text().splitlines()]
    assert {name for _, name in listed} == {
        one.name for one in VENDOR.iterdir() if one.name not in {"SHA256SUMS", "README.md"}
    }
    for digest, name in listed:
        assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == digest, name


def test_each_library_has_its_licence_and_its_version_in_the_list():
    text = (VENDOR / "README.md").read_text()
    script = (ROOT / "script" / "vendor").read_text()
    pinned = re.findall(r"^vendor (\S+) (\S+) [0-9a-f]{64}", script, re.M)
    assert [name for name, _ in pinned] == ["uplot", "@xterm/xterm", "@xterm/addon-fit"]
    for name, version in pinned:
        assert re.search(rf"\[{re.escape(name)}\].*\| {re.escape(version)} \|", text)
        licence = VENDOR / f"{name.rpartition('/')[2]}.LICENSE"
        assert "Permission is hereby granted" in licence.read_text()


def test_our_files_have_no_markup_from_text_and_ask_nobody_else():
    forbidden = re.compile(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|srcdoc"
        r"|createContextualFragment|DOMParser|https?://(?!www\.w3\.org/2000/svg)"
    )
    assert len(OURS) > 10
    found = [
        f"{path.name}: {match}"
        for path in [*OURS, STATIC / "index.html", STATIC / "page.css"]
        for match in forbidden.findall(path.read_text())
    ]
    assert found == []


def test_the_page_has_no_script_or_style_in_its_markup():
    text = (STATIC / "index.html").read_text()
    assert re.findall(r"<script[^>]*>", text) == ['<script type="module" src="static/js/main.js">']
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:", text)


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_our_modules_are_small_and_say_what_they_are_for(path):
    lines = path.read_text().splitlines()
    assert lines[0].startswith("// ")
    assert len(lines) <= 450
    imported = re.findall(r"^import .* from '(.*)';$", path.read_text(), re.M)
    assert [one for one in imported if not (path.parent / one).exists()] == []


def test_both_dark_themes_are_the_same():
    """The one that the system asks for, and the one that is chosen."""
    css = (STATIC / "page.css").read_text()
    blocks = re.findall(r"color-scheme: dark;\n(.*?)\n\s*\}", css, re.S)
    assert len(blocks) == 2
    assert re.sub(r"\s+", " ", blocks[0]) == re.sub(r"\s+", " ", blocks[1])


@pytest.mark.long
def test_the_wheel_has_the_page_and_the_licences(tmp_path):
    python = ROOT / ".venv" / "bin" / "python"
    run([str(python), "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)], cwd=ROOT)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    here = {f"ai_how/dashboard/static/{one.relative_to(STATIC)}" for one in STATIC.rglob("*.*")}
    assert here <= names
