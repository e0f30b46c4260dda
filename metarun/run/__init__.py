"""One run at work, from a checked configuration to what stands in its directory.

Its doors: `train` trains and tests a run, `train_together` many in one program, `evaluation` tests one again,
`kept_tests` keeps such tests, `restored` reads what a run has learned and `purpose` what that is for, `bench` and
`bench_together` measure, `rounds` says when what is measured in turn agrees, `data` looks at data ahead of a run,
`drawn` and `pictures` show episodes, `nonfinite` runs a meta-step again that was not finite, `results` tells the end of
a run, `figures` puts figures into words, `provenance` says of which commit they are, `record` reads what a run's
directory holds, `stop` ends a process that is asked to, and `terminal` is where lines go.
"""
