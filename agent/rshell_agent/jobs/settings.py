"""``[reboot]``: how a device reboots, how it tells one boot from another, and how often it may.

The keeper reads it from the file that has its policy, never from the agent.
"""

from __future__ import annotations

__all__ = ["ACTIONS", "BOOT_ID_FILE", "BadReboot", "RebootSettings"]

BOOT_ID_FILE = "/proc/sys/kernel/random/boot_id"
_COMMANDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "reboot": ("command", ("systemctl", "reboot")),
    "poweroff": ("poweroff_command", ("systemctl", "poweroff")),
    "restart-agent": (
        "restart_agent_command",
        ("systemctl", "restart", "rshell-agent.service"),
    ),
}
#: What may be asked for and acts.
ACTIONS = tuple(_COMMANDS)
_NUMBERS = {
    "min_interval_seconds": (600, 30 * 86_400),
    "max_per_hour": (3, 3600),
    # so long after the command the same boot may still be there: slow shutdowns take minutes
    "patience_seconds": (300, 86_400),
}
_MAX_WORDS = 64


class BadReboot(ValueError):
    """``[reboot]`` is wrong; the text says what."""


class RebootSettings:
    """One reading of ``[reboot]``; without a key its default holds.

    Attributes:
        commands: argv by action.
        boot_id_file: What changes with every boot.
        min_interval: Seconds between two reboots.
        max_per_hour: Reboots within an hour; 0 forbids all.
        patience: Seconds in which the device must have gone down.
    """

    def __init__(self, section: object = None) -> None:
        """Check it.

        Raises:
            BadReboot: A value has the wrong type or form.
        """
        if section is None:
            section = {}
        if not isinstance(section, dict):
            raise BadReboot("[reboot] is no table")
        self.commands = {
            action: _words(section, key, default) for action, (key, default) in _COMMANDS.items()
        }
        file = section.get("boot_id_file", BOOT_ID_FILE)
        if not isinstance(file, str) or not file.startswith("/") or "\0" in file:
            raise BadReboot("[reboot] boot_id_file: not an absolute path")
        self.boot_id_file: str = file
        self.min_interval = _number(section, "min_interval_seconds")
        self.max_per_hour = _number(section, "max_per_hour")
        self.patience = _number(section, "patience_seconds")


def _words(section: dict[str, object], key: str, default: tuple[str, ...]) -> list[str]:
    value = section.get(key)
    if value is None:
        return list(default)
    words = value if isinstance(value, list) else []
    texts = [word for word in words if isinstance(word, str) and "\0" not in word]
    if not 0 < len(words) <= _MAX_WORDS or len(texts) != len(words) or not texts[0]:
        raise BadReboot(f"[reboot] {key}: not a list of words that is a command")
    return texts


def _number(section: dict[str, object], key: str) -> int:
    default, most = _NUMBERS[key]
    value = section.get(key, default)
    if type(value) is not int or not 0 <= value <= most:
        raise BadReboot(f"[reboot] {key}: not a number of 0 to {most}")
    return value
