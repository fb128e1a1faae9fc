"""The specification of playbooks that run when the cluster is ready."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from ai_how.spec import fields
from ai_how.spec.hardware import Spec
from ai_how.spec.images import path_in
from ai_how.spec.lists import OneOrList
from ai_how.spec.problems import Finding, Loc, error_at


class ProvisionSpec(Spec):
    """One playbook; the file may give only its path instead of a section."""

    playbook: Annotated[
        fields.HostFile,
        Field(description="The playbook, relative to this file.", examples=["site.yml"]),
    ]
    when: Annotated[
        Literal["created", "changed", "always"],
        Field(
            description="created: once on each node. changed: also on all nodes when the playbook, "
            "the files beside it or vars have changed. always: at every start.",
            examples=["changed"],
        ),
    ] = "changed"
    tags: Annotated[
        Annotated[tuple[fields.AnsibleTag, ...], OneOrList()],
        Field(description="Run only tasks with these tags.", examples=[["base"]]),
    ] = ()
    limit: Annotated[
        fields.AnsiblePattern | None,
        Field(
            description="Run only on these hosts or groups: a pattern of Ansible.",
            examples=["compute"],
        ),
    ] = None
    vars: Annotated[
        dict[str, Any],
        Field(description="Variables of the playbook.", examples=[{"motd": "welcome"}]),
    ] = Field(default_factory=dict)
    vault_password_file: Annotated[
        fields.HostFile | None,
        Field(
            description="The file that has the password of Ansible Vault, relative to this file.",
            examples=["~/.vault-password"],
        ),
    ] = None


def of_playbook(text: str) -> dict[str, str]:
    """The section of a text that is only the path of a playbook."""
    return {"playbook": text}


def check_playbook_files(
    entries: tuple[ProvisionSpec, ...], loc: Loc, directory: Path
) -> Iterator[Finding]:
    """Every file that `provision` names and that cannot be read."""
    for index, entry in enumerate(entries):
        for key in ("playbook", "vault_password_file"):
            text = getattr(entry, key)
            if text is None:
                continue
            path = path_in(directory, text)
            if not path.is_file():
                yield error_at(f"{path}: there is no such file", (*loc, index, key))
            elif not os.access(path, os.R_OK):
                yield error_at(f"{path}: you may not read it", (*loc, index, key))
