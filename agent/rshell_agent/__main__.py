"""``python -m rshell_agent``, where the command is not installed."""

from __future__ import annotations

import sys

from rshell_agent.main import main

sys.exit(main())
