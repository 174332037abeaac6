"""Where rshell-agent finds the handler; there is no __init__.py beside this file."""

from rshell_diskusage.handler import DiskUsage

disk_usage = DiskUsage()
