"""Where an export goes: standard output, or a file that appears when all is in it."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from rshell.cli.pipes import CannotWrite
from rshell.client import RshellError

__all__ = ["Target"]


class Target:
    """A file that appears when all is in it, or standard output.

    Args:
        name: Of the file; ``-`` is standard output.
    """

    def __init__(self, name: str) -> None:
        self._path = None if name == "-" else Path(name).absolute()
        self._temporary = ""
        self._file: Any = None

    def __enter__(self) -> Target:
        if self._path is not None:
            try:
                descriptor, self._temporary = tempfile.mkstemp(
                    prefix=f".{self._path.name}.", dir=self._path.parent
                )
            except OSError as error:
                raise self._cannot(error) from None
            self._file = os.fdopen(descriptor, "wb")
        return self

    def _cannot(self, error: OSError) -> RshellError:
        reason = error.strerror or str(error)
        return RshellError("cannot-write", f"cannot write {self._path}: {reason}", "")

    def write(self, data: bytes) -> None:
        """Write lines.

        Raises:
            RshellError: They could not be written.
        """
        try:
            if self._file is not None:
                self._file.write(data)
            else:
                sys.stdout.buffer.write(data)
                sys.stdout.buffer.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            if self._file is None:
                raise CannotWrite(error.errno or errno.EIO) from None
            raise self._cannot(error) from None

    def __exit__(self, kind: object, *_rest: object) -> None:
        if self._path is None:
            return
        try:
            self._file.close()
            if kind is None:
                os.rename(self._temporary, self._path)
                self._temporary = ""
        except OSError as error:
            raise self._cannot(error) from None
        finally:
            if self._temporary:
                Path(self._temporary).unlink(missing_ok=True)
