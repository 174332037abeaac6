"""A worker that cannot be loaded."""

from __future__ import annotations

import there_is_no_such_module  # type: ignore[import-not-found]  # noqa: F401  # on purpose
