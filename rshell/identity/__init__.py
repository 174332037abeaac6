"""Who is who: keys, certificates, authorities, join strings, clocks and TLS contexts.

What it is not: it admits nobody. A valid chain only proves a name; whether that peer may come
in is decided by its registered key (the SPKI hash) and its row in the store.

    files        atomic writes, private directories
    keys         private keys, SPKI hashes, certificate requests
    names        ``rshell://FLEET/device/ID`` and ``rshell://FLEET/operator/NAME``
    authority    the fleet's root and its device, operator and gateway CAs
    fleet_home   where a gateway keeps them on disk
    bundle       root and gateway CA key, sealed, for a machine without network
    gateway_leaf a gateway's certificate that is asked for here and issued elsewhere
    ca_journal   what local commands did with these, until the audit log has it
    revoked      the root's list of gateway keys that nobody may believe any more
    join_string  the line an operator gives to a new machine
    credentials  what a joined machine keeps, in two slots
    clock_floor  the newest time a machine without a clock has reason to believe
    refusals     why a TLS peer was refused, in one human line
    tls          the contexts of gateway, client and joiner
"""
