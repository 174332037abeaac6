"""Tells twistd of ``twistd rshell-agent``."""

from twisted.application.service import ServiceMaker

rshell_agent = ServiceMaker(
    "rshell-agent",
    "rshell_agent.tap",
    "Keep this device reachable: dial out to the fleet's gateways.",
    "rshell-agent",
)
