"""`python -m ai_how`, for where the script is not on PATH (as ssh's ProxyCommand)."""

import sys

from ai_how.cli import main

sys.exit(main())
