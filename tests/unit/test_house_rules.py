"""The rules of the house that no linter knows: sizes, who speaks to what, broad excepts."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SRC = ROOT / "src" / "ai_how"
MODULES = {path.relative_to(SRC).as_posix(): path for path in sorted(SRC.rglob("*.py"))}
TESTS = {path.relative_to(ROOT).as_posix(): path for path in sorted((ROOT / "tests").rglob("*.py"))}

MODULE_LINES = 400
FUNCTION_LINES = 60
# Where anything may go wrong and work must go on all the same; the code says why at each.
BROAD_EXCEPTS = {
    "cli/__init__.py": 1,
    "monitoring/lanes.py": 1,
    "monitoring/service.py": 1,
    "plan/executor.py": 2,
    "plan/observer.py": 1,
    "plan/undo.py": 1,
    "waiting.py": 1,
}


_ALL_VMS = {"spec", "state", "images", "guest", "libvirt_client", "plan", "host", "vm_management"}
BELOW = {
    "spec": set(),
    "state": {"spec"},
    "images": {"spec", "state"},
    "guest": {"spec", "state"},
    "libvirt_client": set(),
    "plan": {"state"},
    "host": {"images", "libvirt_client", "state"},
    "gpu": {"host", "libvirt_client", "state"},
    "vm_management": _ALL_VMS,
    "clusters": {"gpu", *_ALL_VMS},
    "provisioning": {"spec", "state"},
    "monitoring": {"clusters", "gpu", *_ALL_VMS},
    "hpc": {"clusters", "monitoring", "provisioning", *_ALL_VMS},
    "cloud": {"clusters", *_ALL_VMS},
    "top": {"monitoring"},
    "dashboard": {"monitoring"},
    "console": {"host", "plan"},
    "api": {"clusters", "hpc", *_ALL_VMS},
    "cli": {
        *(
            "clusters",
            "hpc",
            "cloud",
            "console",
            "gpu",
            "provisioning",
            "monitoring",
            "top",
            "dashboard",
        ),
        *_ALL_VMS,
    },
}


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def imported_by(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Every module that is imported, wherever in the file, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.lineno, node.module
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def importers(modules: dict[str, Path], *names: str) -> list[str]:
    return [
        f"{module}:{line}: {name}"
        for module, path in modules.items()
        for line, name in imported_by(parse(path))
        if name in names or name.startswith(tuple(f"{one}." for one in names))
    ]


def calls(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Every call by a plain or a dotted name: `print`, `os.system`, `sys.stdout.write`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            yield node.lineno, ast.unparse(node.func)


def callers(*names: str, besides: tuple[str, ...]) -> list[str]:
    return [
        f"{module}:{line}: {name}"
        for module, path in MODULES.items()
        if not module.startswith(besides)
        for line, name in calls(parse(path))
        if name in names
    ]


def is_broad(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(isinstance(one, ast.Name) and one.id == "Exception" for one in caught)


def test_there_is_something_to_check():
    assert "plan/step.py" in MODULES
    assert "tests/unit/test_house_rules.py" in TESTS


def test_every_module_says_what_it_is_for():
    silent = [module for module, path in MODULES.items() if not ast.get_docstring(parse(path))]
    assert not silent


def test_no_module_is_longer_than_400_lines():
    lines = {module: len(path.read_text().splitlines()) for module, path in MODULES.items()}
    assert {module: count for module, count in lines.items() if count > MODULE_LINES} == {}


def test_no_function_is_longer_than_60_lines():
    long = [
        f"{module}:{node.lineno}: {node.name} has {length} lines"
        for module, path in MODULES.items()
        for node in ast.walk(parse(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES
    ]
    assert not long


def test_only_the_libvirt_modules_import_libvirt():
    found = importers(MODULES, "libvirt", "libvirt_qemu")
    assert found
    assert [one for one in found if not one.startswith("libvirt_client/")] == []


def test_rooms_import_only_what_is_below_them():
    """And so no two import each other. Single files (errors, waiting, …) are below all rooms."""
    rooms = {path.parts[0] for path in map(Path, MODULES) if len(path.parts) > 1}
    assert rooms == set(BELOW)
    found = [
        f"{where}: {name}"
        for where, path in MODULES.items()
        if (room := Path(where).parts[0]) in rooms
        for _, name in imported_by(parse(path))
        if name.startswith("ai_how.")
        and (other := name.split(".")[1]) in rooms
        and other not in {room, *BELOW[room]}
    ]
    assert found == []


def test_only_process_imports_subprocess():
    assert [one.split(":")[0] for one in importers(MODULES, "subprocess")] == ["process.py"]
    # asyncio, pty and multiprocessing would start programs behind its back.
    assert not importers(MODULES, "asyncio.subprocess", "pty", "multiprocessing")


def test_only_process_and_the_supervisor_start_programs():
    """The supervisor is PID 1 of the embedded host: it must fork for itself, and reap.

    The server of a share forks itself, to have the maps of its namespace written from outside. The
    helper of exec runs in guests, with nothing of ours to import.
    """
    spawning = (
        "system",
        "popen",
        "fork",
        "posix_spawn",
        "posix_spawnp",
        "execvpe",
        "execv",
        "execve",
    )
    names = [f"os.{name}" for name in spawning]
    besides = ("process.py", "host/supervisor.py", "host/share_server.py", "guest/exec_helper.py")
    assert not callers(*names, besides=besides)


def test_only_console_prints():
    """The supervisor's stderr is a log file, without a terminal; the relay's is that of ssh."""
    writing = ("print", "sys.stdout.write", "sys.stderr.write", "rich.print", "typer.echo")
    assert not callers(*writing, besides=("console", "host/supervisor.py", "host/relay.py"))


def test_diagnosis_knows_no_kind_of_cluster():
    """What is SLURM's is in hpc/, and is handed over."""
    diagnosis = {name: path for name, path in MODULES.items() if "/diagnosis/" in name}
    assert diagnosis
    assert not importers(diagnosis, "ai_how.hpc")


def test_only_the_rooms_of_slurm_name_its_verbs():
    """Elsewhere a hint has the kind of the cluster: `ai-how {kind} start`."""
    verbs = re.compile(
        r"\bhpc (start|stop|status|destroy|recover|exec|ssh|logs|console|provision)\b"
    )
    besides = ("hpc/", "cli/", "spec/")  # spec/ explains the section of SLURM clusters
    found = [
        f"{module}:{node.lineno}: {node.value}"
        for module, path in MODULES.items()
        if not module.startswith(besides)
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if verbs.search(node.value)
    ]
    assert found == []


def test_nothing_is_mocked():
    assert not importers(TESTS | MODULES, "unittest.mock", "mock", "pytest_mock")


def test_broad_excepts_are_where_they_are_known_to_be():
    seen = Counter(
        module
        for module, path in MODULES.items()
        for node in ast.walk(parse(path))
        if isinstance(node, ast.ExceptHandler) and is_broad(node)
    )
    assert seen == BROAD_EXCEPTS


def test_test_files_have_names_of_their_own():
    """pytest imports them by base name, so two of one name would shadow each other."""
    names = Counter(
        path.name for path in TESTS.values() if path.name not in {"conftest.py", "__init__.py"}
    )
    assert {name: count for name, count in names.items() if count > 1} == {}


@pytest.mark.parametrize(
    ("source", "broad"),
    [
        ("try: f()\nexcept: pass", True),
        ("try: f()\nexcept Exception as e: pass", True),
        ("try: f()\nexcept (ValueError, Exception): pass", True),
        ("try: f()\nexcept (ValueError, OSError): pass", False),
    ],
)
def test_a_broad_except_is_recognised(source, broad):
    handlers = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ExceptHandler)]
    assert [is_broad(one) for one in handlers] == [broad]


@pytest.mark.parametrize(
    "source",
    [
        "import subprocess",
        "import subprocess as s",
        "from subprocess import run",
        "def f():\n import subprocess",
    ],
)
def test_an_import_is_recognised_however_it_is_written(tmp_path, source):
    module = tmp_path / "module.py"
    module.write_text(source)
    assert importers({"module.py": module}, "subprocess")
    assert not importers({"module.py": module}, "sub")
