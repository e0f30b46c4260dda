"""How a process ends, for whoever began it: a shell, a scheduler, a sweep. 0: all is done."""

FAILED = 1  # the run failed, or some of a sweep's did
MISTAKE = 2  # in the command
STOPPED = 75  # and saved (EX_TEMPFAIL): a scheduler that requeues on it goes on by giving the same command again
