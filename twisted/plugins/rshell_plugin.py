"""Dropin for twistd: ``twistd rshell``."""

from twisted.application.service import ServiceMaker

rshell = ServiceMaker(
    "rshell gateway",
    "rshell.tap",
    "Accepts the links of devices and operators: the rshell gateway.",
    "rshell",
)
