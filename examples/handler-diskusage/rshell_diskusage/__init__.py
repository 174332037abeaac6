"""An rshell handler that tells what takes the space on a device."""
