"""How a cluster is to be watched, by the copy of its file."""

import os
from typing import TYPE_CHECKING

from ai_how.errors import AiHowError

if TYPE_CHECKING:
    from ai_how.clusters.kind import ClusterKind
    from ai_how.spec.models import MonitoringSpec
    from ai_how.state.paths import ClusterPaths


def settings_of(kind: "ClusterKind", paths: "ClusterPaths") -> "MonitoringSpec":
    """What the file of the last start says; the defaults if that cannot be read any more."""
    from ai_how.spec.models import MonitoringSpec  # noqa: PLC0415  a collector that runs has them
    from ai_how.spec.reader import read_spec  # noqa: PLC0415  as above

    try:
        return kind.section_of(read_spec(paths.spec, os.environ, copied_from=paths.root)).monitoring
    except AiHowError:
        return MonitoringSpec.model_construct()
