"""Jobs that outlive everything on the device: a reboot, and a change that must be confirmed.

Both must be done at most once, and both may take the process away that does them.  So each step is
written down, and synced, *before* it is taken (`journal.py`); whoever starts next reads how far it
came, and tells it.  Nothing is ever done a second time because nobody knows whether it was done.

::

    reboot    accepted --> waiting --> going --+--> done       another boot id is there
                  |           |                +--> failed     the same boot is still there
                  |           +--> cancelled   +--> lost       nobody can tell
                  +--> interrupted             the device restarted by itself before its time

    confirm   armed --> ran --+--> confirmed   over a link that was dialled after the command's end
                |      |      |
                |      +------+--> rolling-back --> rolled-back
                +--> disarmed      the command never ran

``told`` follows when the gateway or the operator's end has the outcome, ``noted`` when the agent's
flight recorder has it.

Who does it.  The keeper: it outlives the agent, reads policy and ``[reboot]`` from a file that the
agent need not be able to write, and holds the timer of a rollback itself.  A timer in the agent
would end with it; a watchdog process beside the keeper would need watching, too, and a journal of
its own for the reboot in between.  A reboot is carried out by a child of the keeper, in
`reboot.py`: plain steps one after the other, which a slow `wall` or a hanging command cannot make
the keeper's other sessions wait for.

    journal.py    the file            times.py    moments that can be compared across boots
    settings.py   ``[reboot]``        rules.py    may it, what became of it
    reboot.py     the child that announces, waits and gives the command

The keeper's sessions for them are in ``keeper/reboot.py``, ``keeper/guard.py`` and
``keeper/revived.py``.  Standard library only.
"""
