"""`python -I -m rshell_agent.keeper HOME`, where the package is installed."""

from __future__ import annotations

import sys

from rshell_agent.keeper.main import main

sys.exit(main())
