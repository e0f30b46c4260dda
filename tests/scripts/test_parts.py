"""Scripts of several parts do those that are asked for, or all."""

import argparse

import pytest
from pages.parts import ask_for_parts


def asked(*words):
    parser = argparse.ArgumentParser()
    ask_for_parts(parser, {"kills": 1, "host": 2})
    return parser.parse_args(words).parts


def test_parts_are_asked_for_by_name_in_any_order_or_not_at_all():
    assert asked("host", "kills") == ["host", "kills"]
    assert asked() == []


def test_a_part_that_there_is_not_is_refused(capsys):
    with pytest.raises(SystemExit) as ended:
        asked("kills", "ghost")
    assert ended.value.code == 2
    assert "ghost: there is none of that name; allowed: kills, host" in capsys.readouterr().err
