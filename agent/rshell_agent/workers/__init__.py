"""Workers: what acts on the device's files, as the login that was asked for.

The keeper forks a child for each session of a handler of the same name (docs/keeper.md K44). The
child loads `rshell_agent.workers.NAME`, becomes the login and calls::

    def run(argument: dict[str, object], confined: Confined) -> int: ...   # the exit status

It has standard input (what the operator sends), output (what the operator gets) and error (lines
for people), and nothing else but `confined.touches` for what the audit log gets (files, sftp). It
knows nothing of links, agents or sessions: bytes wait, go on and come exactly once by themselves.

    confined  the only way to a path: the policy's roots, walked by descriptor
    crash     points at which a test ends the process
    touched   what it did to which file, told to the keeper

Standard library only. Whatever a worker needs is imported with its module, for later the login may
not be able to read our installation. The keeper itself never imports this package.
"""
