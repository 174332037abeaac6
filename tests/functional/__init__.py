"""Black-box tests: the documented commands as processes, over real sockets and terminals."""
