"""`metarun bench [--trace DIR | --against COMMIT] [overrides]`: how fast meta-steps are on this machine."""

from math import prod
from pathlib import Path
from typing import NamedTuple

from metarun.command.composed import composed
from metarun.command.exits import FAILED, MISTAKE, fail
from metarun.command.words import each_word

HELP = """
metarun bench [--trace DIR] [SETTING...]
metarun bench --against COMMIT [--rounds N] [SETTING...]

Measures how fast the meta-steps of a configuration are here, what memory they take, and
what part of the speed of a large matrix product they reach: a line of JSON on standard
output, and a table on a terminal. Settings are those of a run. Where others took more
than 5 % of the cores meanwhile, it says that the machine is busy.

With train.seeds or train.population it measures how much longer so many runs in one program
take than one alone, in turn.

  --trace DIR        also writes a profile of some meta-steps to DIR, for xprof or TensorBoard
  --against COMMIT   measures this checkout and another commit of it in turn, each in a process
                     of its own, until the rounds agree: which is faster, and how surely. The
                     commit is checked out into a temporary git worktree, removed afterwards.
  --rounds N         at most N rounds; 12 if left out, and 6 are the fewest that can agree

  metarun bench learner=maml task=omniglot hardware.devices=1
  metarun bench --against HEAD~1 learner=maml task=omniglot
  metarun bench learner=maml task=sinusoid train.seeds=8
"""

ROUNDS = 12
WANTS = {  # the options, and what is said of one without its value
    "--trace": "names no directory; give one: metarun bench --trace DIR",
    "--against": "names no commit; give one: metarun bench --against HEAD~1 task=omniglot",
    "--rounds": "names no number; give one: metarun bench --against HEAD~1 --rounds 6",
}
OPTIONS = "--against COMMIT, --rounds N, --trace DIR"


class Asked(NamedTuple):
    """A command line, read."""

    settings: list[str]
    trace: Path | None  # where a profile is to go
    against: str | None  # a commit
    rounds: int  # at most, in turn with that commit


def main(arguments: list[str]) -> None:
    """Composes the configuration, measures it, prints what was found. Heavy imports wait until then."""
    settings, trace, commit, rounds = read(arguments)
    if commit is not None:
        from metarun.command import against

        against.main(commit, settings, rounds)
        return
    cfg = composed(settings, " ".join(settings))

    from metarun.config.population import axes_of, is_asked_for
    from metarun.config.run import build_run, resolve
    from metarun.core import ConfigError, DataError
    from metarun.engine import OutOfMemory
    from metarun.run import bench, bench_together

    try:
        resolved = resolve(cfg)
        resolved["run"]["dir"] = ""
        if not is_asked_for(cfg):
            bench.tell(bench.bench(build_run(resolved), trace))
            return
        if trace is not None:
            raise ConfigError("--trace", trace, "is of one run; leave it out, or train.seeds and train.population")
        train = resolved["train"]
        axes = axes_of(train["seeds"], train["population"], train["seed"])
        run = build_run({**resolved, "train": {**train, "seeds": None, "population": None}})
        bench_together.tell(bench_together.bench(run, prod(len(values) for _, values in axes)))
    except ConfigError as error:
        fail(error, MISTAKE)
    except DataError as error:
        fail(error, FAILED)
    except OutOfMemory as error:
        fail(f"needs too much memory ({error}); take fewer examples or a smaller model", FAILED)


def read(arguments: list[str]) -> Asked:
    """The command line in its parts. Ends the program over what is no option."""
    values: dict[str, str] = {}
    settings = []
    for argument, name, value_of in each_word(arguments):
        if not argument.startswith("-"):
            settings.append(argument)
        elif name in WANTS:
            value = value_of()
            if not value or value.startswith("-"):
                fail(f"{name}: {WANTS[name]}", MISTAKE)
            values[name] = value
        elif name in ("-m", "--multirun"):
            fail(f"bench {name}: bench takes one run; call it once for each", MISTAKE)
        else:
            fail(f"bench {name}: no such option; allowed: {OPTIONS}; a setting has no dashes: task=omniglot", MISTAKE)
    trace, commit, rounds = (values.get(name) for name in WANTS)
    if trace is not None and commit is not None:
        fail("bench --trace --against: one or the other; a profile is of one commit", MISTAKE)
    if rounds is not None and commit is None:
        fail(f"bench --rounds {rounds}: counts rounds of --against; name a commit to measure in turn with", MISTAKE)
    if rounds is not None and not (rounds.isascii() and rounds.isdecimal() and 0 < int(rounds) <= 1000):
        fail(f"bench --rounds {rounds}: must be a number from 1 to 1000", MISTAKE)
    return Asked(settings, Path(trace) if trace else None, commit, int(rounds or ROUNDS))
