"""`ai-how doctor`: checks of the host, with a command for each problem."""

from typing import TYPE_CHECKING

import typer

from ai_how import console
from ai_how.cli.context import context_of
from ai_how.cli.groups import new_app
from ai_how.errors import HostError, ImageError

if TYPE_CHECKING:
    from pathlib import Path

    from ai_how.host.checks import Check
    from ai_how.state.paths import Roots

app = new_app()


@app.command()
def doctor(ctx: typer.Context) -> None:
    """Check the host; print a command for each problem.

    The first run after a reboot boots a small guest, to test whether KVM works.
    """
    from ai_how.clusters.leases import check_leases
    from ai_how.host.doctor import run_doctor

    context = context_of(ctx)
    kernel, image = _check_image(context.roots)
    of_leases = check_leases(context.roots)
    checks = (*run_doctor(context.roots, kind="hpc", kernel=kernel), image, *of_leases)
    is_able = not any(check.status == "failure" for check in checks)
    if context.is_json:
        console.show_json({"is_able": is_able, "checks": console.completed_checks(checks)})
    else:
        console.show_checks(checks)
    if not is_able:
        raise typer.Exit(HostError.exit_code)


def _check_image(roots: "Roots") -> "tuple[Path | None, Check]":
    """The kernel of the default image, and the check of that image."""
    from ai_how.host.checks import Check, Status
    from ai_how.images.build import find_default_image
    from ai_how.images.store import ImageStore

    try:
        image = find_default_image(ImageStore(roots.images))
    except ImageError as error:
        return None, Check("image", Status.FAILURE, str(error).replace("\n", ": "), error.hint)
    if image is None:
        found = "the default image is not built yet"
        return None, Check("image", Status.WARNING, found, "ai-how image build")
    return image.kernel, Check("image", Status.OK, f"{image.name} {image.digest[:12]}")
