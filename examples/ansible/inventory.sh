#!/bin/sh
# Ansible runs this with --list. Without a selector or --as, `rshell-inventory` itself does.
exec rshell inventory --ansible ${RSHELL_SELECT:+"$RSHELL_SELECT"} "$@"
