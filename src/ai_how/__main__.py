"""`python -m ai_how`, for use without the script on PATH (as in ssh's ProxyCommand)."""

import sys

from ai_how.cli import main

sys.exit(main())
