"""What GitHub does with action.yml, as far as ours needs it: steps, inputs, outputs, the cache.

The cache is a tarball in a directory, made and unpacked by the commands of actions/cache.
"""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ruamel.yaml import YAML

from ai_how.process import Completed
from clean_machine import HOME, SHARED, Machine
from trixie import ROOT

WORK = HOME / "work" / "project" / "project"
TEMP = HOME / "work" / "_temp"
ACTION = HOME / "work" / "_actions" / "ai-how" / "v0"
STEP_S = 3600
# lib/tar of actions/cache, on Linux with zstd; the path is relative to the workspace.
SAVE = "tar --posix -cf {file} -P -C {work} --use-compress-program zstdmt {path}"
RESTORE = "tar -xf {file} -P -C {work} --use-compress-program unzstd"


@dataclass(slots=True)
class Job:
    """A job on one machine: what its steps have said so far."""

    machine: Machine
    caches: Path
    """A directory of this machine, which the machine has as SHARED."""
    env: dict[str, str] = field(default_factory=dict)
    path: list[str] = field(default_factory=lambda: ["/usr/local/bin", "/usr/bin", "/bin"])
    outputs: dict[str, dict[str, str]] = field(default_factory=dict)
    ran: dict[str, Completed] = field(default_factory=dict)
    """What each step of the action said, by its name."""

    def use_action(self, inputs: Mapping[str, str]) -> None:
        """Carry out the steps of action.yml. Raises ToolError where one fails."""
        action = YAML(typ="safe").load((ROOT / "action.yml").read_text())
        defaults = {name: one["default"] for name, one in action["inputs"].items()}
        assert set(inputs) <= set(defaults)
        values = defaults | dict(inputs)
        for step in action["runs"]["steps"]:
            if not self._is_wanted(step.get("if"), values):
                continue
            told = {
                name: self._expand(value, values)
                for name, value in {**step.get("env", {}), **step.get("with", {})}.items()
            }
            if "run" in step:
                assert step["shell"] == "bash"
                env = {**told, "GITHUB_ACTION_PATH": str(ACTION)}
                self.ran[step["name"]] = self.run(step["run"], env=env, step=step.get("id"))
            else:
                self._use_cache(step["uses"], step.get("id"), told)

    def run(
        self,
        script: str,
        *,
        env: Mapping[str, str] | None = None,
        step: str | None = None,
        check: bool = True,
    ) -> Completed:
        """A step: lines of bash in the workspace, and what they tell by GitHub's files."""
        files = {name: TEMP / name.lower() for name in ("GITHUB_OUTPUT", "GITHUB_ENV")}
        files["GITHUB_PATH"] = TEMP / "github_path"
        begin = "".join(f": > {shlex.quote(str(path))}\n" for path in files.values())
        told = {name: str(path) for name, path in files.items()}
        done = self.machine.run(
            f"{begin}{script}",
            cwd=WORK,
            env={**self.env, **told, **(env or {}), "CI": "true", "PATH": ":".join(self.path)},
            check=check,
            timeout_s=STEP_S,
        )
        self.outputs.setdefault(step or "", {}).update(self._pairs(files["GITHUB_OUTPUT"]))
        self.env |= self._pairs(files["GITHUB_ENV"])
        added = self.machine.outside(files["GITHUB_PATH"]).read_text().splitlines()
        self.path = [*reversed(added), *self.path]
        return done

    def _pairs(self, file: Path) -> dict[str, str]:
        lines = self.machine.outside(file).read_text().splitlines()
        return {name: value for name, _, value in (line.partition("=") for line in lines)}

    def _use_cache(self, action: str, step: str | None, told: Mapping[str, str]) -> None:
        path, key = Path(told["path"]), told["key"]
        if action.startswith("actions/cache/save@"):
            file = SHARED / f"{key}.tzst"
            self.run(SAVE.format(file=file, work=WORK, path=_from_work(path)))
            return
        assert action.startswith("actions/cache/restore@")
        names = sorted(self.caches.glob("*.tzst"), key=lambda one: one.stat().st_mtime)
        exact = [one for one in names if one.stem == key]
        near = [one for one in names if one.name.startswith(told["restore-keys"])]
        if found := (exact or near)[-1:]:
            file = SHARED / found[0].name
            self.run(RESTORE.format(file=file, work=WORK))
        self.outputs[step or ""] = {"cache-hit": "true" if exact else "false" if found else ""}

    def _is_wanted(self, condition: str | None, inputs: Mapping[str, str]) -> bool:
        if condition is None:
            return True
        return all(self._holds(part.strip(), inputs) for part in condition.split("&&"))

    def _holds(self, comparison: str, inputs: Mapping[str, str]) -> bool:
        found = re.fullmatch(r"(\S+) (==|!=) '([^']*)'", comparison)
        assert found, comparison
        return (self._value(found[1], inputs) == found[3]) == (found[2] == "==")

    def _expand(self, text: str, inputs: Mapping[str, str]) -> str:
        return re.sub(r"\$\{\{ (\S+) \}\}", lambda found: self._value(found[1], inputs), text)

    def _value(self, name: str, inputs: Mapping[str, str]) -> str:
        match name.split("."):
            case ["inputs", one]:
                return inputs[one]
            case ["runner", "temp"]:
                return str(TEMP)
            case ["steps", step, "outputs", one]:
                return self.outputs.get(step, {}).get(one, "")
        raise AssertionError(name)


def _from_work(path: Path) -> str:
    """A path relative to the workspace, as actions/cache has it."""
    return "/".join(["..", "..", *path.relative_to(WORK.parents[1]).parts])
