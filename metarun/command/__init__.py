"""The command line: `main` reads it, and each verb is a file. Its door is `metarun.command.main`."""
