"""One run at work, from a checked configuration to what stands in its directory.

Its doors: `train` trains and tests a run, `bench` measures one, `rounds` says when what is measured in turn agrees,
`nonfinite` runs a meta-step again that was not finite, `results` tells the end of a run, `figures` puts figures into
words, `record` reads what a run's directory holds, `stop` ends a process that is asked to, and `terminal` is where
lines go.
"""
