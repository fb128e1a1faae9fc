"""What the other end of `hpc run` could not do, as an error."""

from typing import Any

from ai_how.errors import AiHowError, GuestError, SpecError


def refusal(told: dict[str, Any]) -> AiHowError:
    """The error of a message of the kind `x`."""
    if "refused" in told:
        return GuestError("SLURM refuses the job", details=told["refused"])
    if "unknown" in told:
        return SpecError(
            f"job {told['unknown']} is not known",
            details="It was not submitted by hpc run, or is one of those that ended long ago.",
            hint="ai-how hpc ssh controller squeue",
        )
    return GuestError("the controller could not do it", details=str(told.get("trouble")))
