"""The heart of the server: who is there, and the one gate to them.

::

    arrivals.py      every new connection: TLS, who is it, which protocol
    admission.py     how many handshakes begin, whose is next; handshake_cost.py measures
    steering.py      how many devices may come back at once, and telling them
    joining.py       the join exchange (no certificate yet)
    device_links.py  a device's link from HELLO to its end: epochs, sessions
    catalogues.py    what each device can do, asked for once
    chosen.py        from a selector to devices, with facts if it asks for them
    heap.py          memory that handshakes leave free, given back
    presence.py      which device is live, on which link, since when
    probing.py       is it there now: one PING, shared
    silences.py      who fell silent
    clones.py        two machines with one identity: alert, quarantine
    switchboard.py   the one gate: policy, audit, route, stream
      callers.py         what a door and the gate say to each other
      live_sessions.py   one attempt at the gate, parked or joined
      absences.py        the line that says that a device is away, and why
      parking.py         where attempts wait for a device that is away
      session_rights.py  whose a session is, and whether it may go on
      session_audit.py   what the audit log is told of sessions
      unsettled.py       the end of sessions that neither operator nor device has
      session_witness.py what becomes of a joined attempt
      recording_tap.py   listens between a device's link and the door, if the session is recorded
      session_table.py   which sessions live on which device, for listings
    session_services.py  the verbs about sessions
    recordings.py    which sessions are recorded, from their first attempt to their end
      live_recording.py  one that grows; recording_files.py its file; recording_services.py verbs
    audit_feed.py    who waits for rows; checkpoints; audit_services.py the verbs
      touch_services.py  which files sessions touched
      audit_spool.py     ends that the store could not take; audit_shipping.py rows to a syslog
    verbs.py         what the gateway itself answers (``gateway.*``), and for whom
      verb_audit.py      what the audit log is told of it
    invite_services.py   the verbs about invites; pending_services.py about devices that wait
      pending.py         how often those ask, and when they expire
    services.py      those verbs' work; link_services.py of links, device_rows.py a device's row
    fact_services.py what devices say of themselves, and who asks for it
    why_services.py  what happened to a device's link; flights.py of it what devices tell
    metrics.py       what is counted
    throttle.py      how often one peer may make us write what stays
    summaries.py     what a request asked for, in a line
    rights.py        the roles of now: decides, and ends what is no longer granted
    role_services.py the verbs about roles and operators
    revocation.py    ends what is no longer allowed, within a second
    home.py          a gateway's directory: first start, certificates, the local administrator
    config.py        what one gateway is told to do, validated
    core.py          Gateway: all of these joined, without a single port

Doors (``rshell.doors``) bring operators in; ``rshell.tap`` opens the ports.
"""
