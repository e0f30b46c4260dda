"""Processes of one run find each other, or are told in one line why not."""

import json
import shutil
import socket
import threading
from contextlib import suppress
from types import SimpleNamespace

import jax
import pytest

from metarun.core import ConfigError
from metarun.engine import hosts, roll_call
from metarun.engine.hosts import Place

SECONDS = 5.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def all_of(came: list[tuple[int, int, dict]], processes: int, told: dict, seconds: float = SECONDS) -> dict[int, str]:
    """What comes of each process, 0 among them: "there", or the error in words."""
    address, found = f"127.0.0.1:{free_port()}", {}

    def note(number: int, part) -> None:
        try:
            part()
            found[number] = "there"
        except ConfigError as error:
            found[number] = str(error)

    def first() -> None:
        with roll_call.gathered(address, processes, told, seconds) as let_go:
            let_go()

    def other(number: int, many: int, theirs: dict) -> None:
        roll_call.present(address, many, number, theirs, seconds)

    threads = [threading.Thread(target=note, args=(0, first))]
    for place, (number, many, theirs) in enumerate(came):
        part = lambda number=number, many=many, theirs=theirs: other(number, many, theirs)  # noqa: E731
        threads.append(threading.Thread(target=note, args=(place + 1, part)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_those_that_say_the_same_are_let_go_on_together():
    told = {"train.seed": 0, "learner.freeze": ["conv"]}
    found = all_of([(2, 4, told), (1, 4, told), (3, 4, told)], 4, told)
    assert found == dict.fromkeys(range(4), "there")


@pytest.mark.parametrize(
    ("process", "processes", "told", "key"),
    [
        (1, 2, {"train.seed": 1}, "train.seed=1: process 1 has this and process 0 0"),
        (1, 2, {}, "train.seed=None: process 1 has this and process 0 0"),
        (1, 2, {"train.seed": 0, "new": 3}, "new=3: process 1 has this and process 0 None"),
        (1, 3, {"train.seed": 0}, "hardware.processes=3: process 0 has 2"),
        (2, 2, {"train.seed": 0}, "hardware.process=2: each of 0 to 1 once"),
        (0, 2, {"train.seed": 0}, "hardware.process=0: each of 0 to 1 once"),
    ],
)
def test_one_that_says_something_else_is_told_and_so_is_process_0(process, processes, told, key):
    found = all_of([(process, processes, told)], 2, {"train.seed": 0})
    assert found[0].startswith(key)
    assert found[1] == found[0]


def test_two_with_one_number_are_refused_and_all_hear_of_it():
    found = all_of([(1, 3, {}), (1, 3, {})], 3, {})
    assert len(found) == 3
    assert all(text.startswith("hardware.process=1: each of 0 to 2 once") for text in found.values())


def test_who_is_missing_is_named():
    found = all_of([(2, 4, {})], 4, {}, seconds=1.0)
    assert "hardware.processes=4: of these 1, 3 did not come" in found[0]
    assert "within 1 s" in found[0]
    assert found[1].startswith("hardware.coordinator=127.0.0.1:")


def test_a_coordinator_that_cannot_be_reached_is_told_after_the_time_asked_for():
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(ConfigError, match=f"{address}: cannot be reached within 0.2 s"):
        roll_call.present(address, 2, 1, {}, 0.2)
    with pytest.raises(ConfigError, match="no such host"):
        roll_call.present("there.is.no.such.host.invalid:1234", 2, 1, {}, 0.2)
    with pytest.raises(ConfigError, match=r"hardware.coordinator=a\.\.b:1234: no such host"):
        roll_call.present("a..b:1234", 2, 1, {}, 0.2)


def test_a_stranger_at_the_port_does_not_count():
    port = free_port()
    address, found = f"127.0.0.1:{port}", []

    def first() -> None:
        with roll_call.gathered(address, 2, {}, SECONDS) as let_go:
            let_go()
            found.append("all there")

    thread = threading.Thread(target=first)
    thread.start()
    connection = roll_call.reached(address, SECONDS, threading.TIMEOUT_MAX)
    with connection, suppress(OSError):
        connection.sendall(b"GET / HTTP/1.1\n\n")
    roll_call.present(address, 2, 1, {}, SECONDS)
    thread.join()
    assert found == ["all there"]


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.1:", ":1234", "host:port", "host:0", "host:65536"])
def test_an_address_is_a_host_and_a_port(address):
    with pytest.raises(ConfigError, match="HOST:PORT"):
        roll_call.parts_of(address)


def test_places_come_from_the_settings_or_from_slurm(monkeypatch):
    assert hosts.place_of("10.0.0.1:1234", 4, 3, 1.0) == Place("10.0.0.1:1234", 4, 3)
    with pytest.raises(ConfigError, match=r"hardware\.process=4: 0 to 3"):
        hosts.place_of("10.0.0.1:1234", 4, 4, 1.0)
    with pytest.raises(ConfigError, match=r"hardware\.coordinator=auto: neither Slurm"):
        hosts.place_of("auto", "auto", "auto", 1.0)
    with pytest.raises(ConfigError, match=r"hardware\.process=auto: neither Slurm"):
        hosts.place_of("10.0.0.1:1234", 4, "auto", 1.0)
    # As `srun` has it, on the second of two machines.
    of_slurm = {"SLURM_JOB_ID": "61500", "SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "0",
                "SLURM_STEP_NODELIST": "node[07-08]"}  # fmt: skip
    for name, value in of_slurm.items():
        monkeypatch.setenv(name, value)
    place = hosts.place_of("auto", "auto", "auto", 1.0)
    assert (place.address.partition(":")[0], place.processes, place.process) == ("node07", 2, 1)


def test_the_service_takes_no_module_of_the_users_directory(tmp_path, monkeypatch):
    (tmp_path / "random.py").write_text("print('mine')\n")
    monkeypatch.chdir(tmp_path)
    port = free_port()
    service = hosts.Service(f"here:{port}", f"[::]:{port}", 2)
    service.process.kill()
    service.process.wait()


def test_where_the_service_cannot_serve_the_address_is_told_as_it_was_given(monkeypatch):
    monkeypatch.setattr(hosts.sys, "executable", shutil.which("true"))
    with (
        hosts.service_outside("here:1234"),
        pytest.raises(ConfigError, match=r"hardware\.coordinator=here:1234: jax's"),
    ):
        hosts._jax.get_distributed_runtime_service("[::]:1234", 2)


def test_a_program_that_has_touched_a_device_joins_no_others():
    jax.devices()
    with pytest.raises(ConfigError, match="first run, before it has touched a device"):
        hosts.join(Place("127.0.0.1:1234", 2, 0), {}, 0.1)


def test_what_is_agreed_in_one_process_is_its_own():
    value = object()
    assert hosts.agreed(value) is value
    assert hosts.is_first()
    assert hosts.count() == 1


def test_a_sign_of_life_that_is_on_its_way_hides_no_failure_that_is_told_meanwhile(monkeypatch):
    told, on_its_way, may_arrive = {}, threading.Event(), threading.Event()

    def arrives(key: str, text: str, allow_overwrite: bool) -> None:
        if hosts.AT_WORK in text:
            on_its_way.set()
            may_arrive.wait(SECONDS)
        told[key] = text

    team = hosts.Team(Place("here:1", 2, 0), SimpleNamespace(key_value_set=arrives))
    monkeypatch.setattr(hosts, "_team", team)
    beating = threading.Thread(target=hosts.beat, args=(team,))
    failing = threading.Thread(target=hosts.part, args=("no disk",))
    beating.start()
    on_its_way.wait(SECONDS)
    failing.start()
    failing.join(0.2)
    may_arrive.set()
    for thread in (beating, failing):
        thread.join()
    assert json.loads(told["metarun/lives/0"])[1:] == [hosts.FAILED, "process 0 of 2: no disk"]
