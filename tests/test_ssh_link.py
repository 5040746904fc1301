"""A board over ssh: a real sshd on loopback, and everything that can go wrong on the way there."""

from __future__ import annotations

import base64
import hashlib
import shutil
import venv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from edgeface.devices.client import Client
from edgeface.devices.links import Link, open_link
from edgeface.devices.ssh import SshHost
from numpy.typing import NDArray

from edgeface import load
from edgeface.errors import DeviceError, DeviceLostError, DeviceUnreachableError, InstallError
from loopback_ssh import LoopbackSsh, make_key, public, silent_server

TIMEOUT_S = 60.0


@pytest.fixture
def host(ssh: LoopbackSsh) -> SshHost:
    return SshHost(ssh.board())


@pytest.fixture
def link(ssh: LoopbackSsh) -> Link:
    return open_link(ssh.board())


def failure(host: SshHost, *words: str, timeout_s: float = TIMEOUT_S) -> DeviceError:
    """The error of a command on the board: one line, which names the board first."""
    with pytest.raises(DeviceError) as caught:
        host.run(words or ["true"], timeout_s=timeout_s)
    return checked(caught.value)


def checked(error: DeviceError) -> DeviceError:
    text = str(error)
    assert text.startswith("robot at robot1: ")
    assert text.isprintable()
    return error


def test_words_arrive_as_they_are(host: SshHost) -> None:
    words = ["a b", "it's", '$HOME "x" `id` ; \\', "*", "", "-n"]
    assert host.run(["printf", "%s\\n", *words], timeout_s=TIMEOUT_S) == words


def test_commands_start_in_the_home_folder(host: SshHost, ssh: LoopbackSsh) -> None:
    assert host.run(["pwd"], timeout_s=TIMEOUT_S) == [str(ssh.home)]
    (ssh.home / "tool").write_text("#!/bin/sh\necho $1")
    (ssh.home / "tool").chmod(0o755)
    assert host.run(["~/tool", "~/x"], timeout_s=TIMEOUT_S) == ["./x"]


def test_standard_input_and_every_line_of_output_pass(host: SshHost) -> None:
    seen: list[str] = []
    content = "".join(f"line {i}\n" for i in range(20000)).encode()
    lines = host.run(["cat"], stdin=content, timeout_s=TIMEOUT_S, watch=seen.append)
    assert lines == seen == content.decode().splitlines()


def test_what_ends_before_it_has_read_its_input_is_no_failure(host: SshHost) -> None:
    assert host.run(["head", "-n", "1"], stdin=b"x\n" * 2_000_000, timeout_s=TIMEOUT_S) == ["x"]


def test_host_keys_are_always_checked(host: SshHost) -> None:
    command = host.command(["true"])
    assert "StrictHostKeyChecking=yes" in command
    assert "BatchMode=yes" in command


def test_a_wrong_host_key(host: SshHost, ssh: LoopbackSsh, tmp_path: Path) -> None:
    ssh.trust(make_key(tmp_path / "other"))
    error = failure(host)
    assert isinstance(error, DeviceUnreachableError)
    assert f"its host key is not the one that {ssh.known_hosts}:1 has" in str(error)
    assert f'ssh-keygen -f "{ssh.known_hosts}" -R "[127.0.0.1]:{ssh.port}"' in str(error)
    assert "another machine answers in its place" in str(error)
    assert f"Compare SHA256:{fingerprint(ssh.host_key)} with" in str(error)


def fingerprint(key: Path) -> str:
    digest = hashlib.sha256(base64.b64decode(public(key).split()[1])).digest()
    return base64.b64encode(digest).decode().rstrip("=")


def test_an_unknown_host_key(host: SshHost, ssh: LoopbackSsh) -> None:
    ssh.trust(None)
    error = failure(host)
    assert isinstance(error, DeviceUnreachableError)
    assert "its host key is not known here" in str(error)
    assert ssh.known_hosts.read_text() == ""


def test_a_key_that_the_board_does_not_let_in(host: SshHost, ssh: LoopbackSsh, tmp_path: Path) -> None:
    ssh.configure(IdentityFile=f'"{make_key(tmp_path / "stranger")}"')
    assert "lets in none of your keys" in str(failure(host))


def test_a_closed_port(host: SshHost, ssh: LoopbackSsh) -> None:
    ssh.configure(Port="1")
    error = failure(host)
    assert isinstance(error, DeviceUnreachableError)
    assert "no ssh server listens on port 1: start it there" in str(error)


def test_a_name_that_nobody_knows(host: SshHost, ssh: LoopbackSsh) -> None:
    ssh.configure(HostName="robot1.invalid")
    assert "no machine of that name is known: check the address in robot.toml" in str(failure(host))


def test_a_machine_that_never_answers(host: SshHost, ssh: LoopbackSsh) -> None:
    with silent_server() as port:
        ssh.configure(Port=str(port))
        error = failure(host)
    assert isinstance(error, DeviceUnreachableError)
    assert "does not answer" in str(error)


def test_a_configuration_that_ssh_cannot_read(host: SshHost, ssh: LoopbackSsh) -> None:
    ssh.configure(NoSuchKeyword="1")
    assert f"ssh cannot use its configuration: {ssh.config}: line" in str(failure(host))


def test_a_command_that_is_not_there(host: SshHost) -> None:
    assert "there is no python9: install it there" in str(failure(host, "python9", "-V"))


def test_a_program_for_another_architecture(host: SshHost, ssh: LoopbackSsh) -> None:
    (ssh.home / "strange").write_bytes(b"\x7fELF\x02\x01\x01" + bytes(100))
    (ssh.home / "strange").chmod(0o755)
    error = failure(host, "~/strange")
    assert "~/strange cannot run there" in str(error)
    assert "another architecture" in str(error)


def test_a_command_that_fails_is_quoted_with_its_last_line(host: SshHost) -> None:
    assert str(failure(host, "sh", "-c", "echo first >&2; echo last >&2; exit 5")).endswith("sh failed with 5: last")


def test_a_command_that_hangs(host: SshHost) -> None:
    error = failure(host, "sleep", "100", timeout_s=1.0)
    assert isinstance(error, DeviceLostError)
    assert "sleep was not done within 1 s" in str(error)


def test_a_board_that_goes_away_in_the_middle(host: SshHost, ssh: LoopbackSsh) -> None:
    cutter = ssh.cut_when(ssh.home / "started")
    error = failure(host, "sh", "-c", "touch started; exec sleep 100")
    cutter.join()
    assert isinstance(error, DeviceLostError)
    assert "the connection broke off" in str(error)


def test_copying_a_folder_and_a_file(host: SshHost, ssh: LoopbackSsh, tmp_path: Path) -> None:
    source = tmp_path / "it's a source"
    (source / "deep").mkdir(parents=True)
    (source / "a").write_bytes(b"a" * 100_000)
    (source / "deep" / "b").write_bytes(b"b")
    host.copy(source, "~/my folder", timeout_s=TIMEOUT_S)
    host.copy(source / "a", f"{ssh.home}/my folder/c", timeout_s=TIMEOUT_S)
    copied = ssh.home / "my folder"
    assert sorted(p.name for p in copied.rglob("*")) == ["a", "b", "c", "deep"]
    assert (copied / "a").read_bytes() == (copied / "c").read_bytes() == b"a" * 100_000


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        ("ulimit -f 20", "its user may not write as much: raise the quota or limit"),
        ("PATH=/nowhere", "there is no rsync: sudo apt install rsync there"),
        ("echo Welcome", "its shell prints something at every start"),
    ],
)
def test_a_copy_that_fails(host: SshHost, ssh: LoopbackSsh, tmp_path: Path, behaviour: str, said: str) -> None:
    (tmp_path / "big").write_bytes(bytes(100_000))
    ssh.behave(behaviour)
    with pytest.raises(DeviceError) as caught:
        host.copy(tmp_path / "big", "~/copied", timeout_s=TIMEOUT_S)
    assert said in str(checked(caught.value))
    assert not (ssh.home / "copied").exists()


@pytest.mark.parametrize(("program", "package"), [("ssh", "openssh-client"), ("rsync", "rsync")])
def test_a_machine_without_the_programs(
    host: SshHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, package: str
) -> None:
    for name in {"ssh", "rsync"} - {program}:
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InstallError, match=f"{program} is not installed: .*sudo apt-get install {package}"):
        host.copy(tmp_path, "~/x", timeout_s=TIMEOUT_S)


def test_a_link_puts_a_folder_in_the_place_of_another(link: Link, ssh: LoopbackSsh, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "a").write_text("new")
    (ssh.home / "there").mkdir()
    (ssh.home / "there" / "old").write_text("old")
    link.put(tmp_path / "new", "~/there", timeout_s=TIMEOUT_S)
    link.put(tmp_path / "new" / "a", "~/deep/er/a", timeout_s=TIMEOUT_S)
    assert ssh.files() == {
        "deep": None, "deep/er": None, "deep/er/a": b"new", "there": None, "there/a": b"new",
    }


@pytest.mark.parametrize("behaviour", ["ulimit -f 20", "PATH=/nowhere"])
def test_a_put_that_fails_leaves_what_was_there(
    link: Link, ssh: LoopbackSsh, tmp_path: Path, behaviour: str
) -> None:
    (tmp_path / "big").write_bytes(bytes(100_000))
    (ssh.home / "there").write_text("old")
    ssh.behave(behaviour)
    with pytest.raises(DeviceError):
        link.put(tmp_path / "big", "~/there", timeout_s=TIMEOUT_S)
    assert ssh.files() == {"there": b"old"}


def test_nothing_to_put(link: Link, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="nothing: no such file or folder"):
        link.put(tmp_path / "nothing", "~/there", timeout_s=TIMEOUT_S)


def test_a_link_gets_a_file_whole_or_not_at_all(link: Link, ssh: LoopbackSsh, tmp_path: Path) -> None:
    (ssh.home / "a b").write_bytes(b"x" * 1000)
    link.get("~/a b", tmp_path / "copy", timeout_s=TIMEOUT_S)
    assert (tmp_path / "copy").read_bytes() == b"x" * 1000
    with pytest.raises(DeviceError, match="No such file"):
        link.get("~/nothing", tmp_path / "copy", timeout_s=TIMEOUT_S)
    assert [p.name for p in tmp_path.iterdir()] == ["copy"]
    assert (tmp_path / "copy").read_bytes() == b"x" * 1000


def test_a_worker_over_ssh_computes_what_is_computed_here(link: Link, astronaut: NDArray[np.uint8]) -> None:
    here = load("mos_s", threads=1)(astronaut)
    with Client(link) as client:
        assert client.where == "robot (board at robot1)"
        found = client.detect(client.load("mos_s", threads=1), astronaut)
    assert len(found) == 1
    np.testing.assert_array_equal(found.boxes, here.boxes)
    np.testing.assert_array_equal(found.scores, here.scores)


def test_a_worker_that_its_board_kills_with_the_connection(
    link: Link, ssh: LoopbackSsh, astronaut: NDArray[np.uint8]
) -> None:
    with Client(link) as client:
        loaded = client.load("mos_s")
        ssh.cut()
        error = checked(raised(DeviceLostError, client.detect, loaded, astronaut))
        assert "the connection broke off" in str(error)
        # It is lost for good, and says so at once.
        assert "its worker has ended" in str(raised(DeviceLostError, client.health))


def raised(kind: type[DeviceError], call: Callable[..., object], *arguments: object) -> DeviceError:
    with pytest.raises(kind) as caught:
        call(*arguments)
    return caught.value


def test_a_worker_that_hangs_is_named_within_the_deadline(link: Link, ssh: LoopbackSsh) -> None:
    ssh.behave("case $SSH_ORIGINAL_COMMAND in *worker) exec sleep 100;; esac")
    with pytest.raises(DeviceUnreachableError, match=r"robot \(board at robot1\): .*did not start within 2 s"):
        Client(link, start_timeout_s=2.0)


@pytest.mark.parametrize(
    ("python", "said"),
    [
        (None, "edgeface is not installed there: edgeface devices setup robot"),
        ("/no/python", "there is no /no/python: install it there"),
        ("~/empty/bin/python", "~/empty/bin/python there has no edgeface: edgeface devices setup robot"),
    ],
)
def test_no_worker_to_start(ssh: LoopbackSsh, python: str | None, said: str) -> None:
    venv.create(ssh.home / "empty", with_pip=False, symlinks=True)
    error = checked(raised(DeviceUnreachableError, lambda: Client(open_link(ssh.board(python=python)))))
    assert said in str(error)


def test_a_worker_is_not_started_behind_a_wrong_host_key(link: Link, ssh: LoopbackSsh, tmp_path: Path) -> None:
    ssh.trust(make_key(tmp_path / "other"))
    error = checked(raised(DeviceUnreachableError, lambda: Client(link)))
    assert f'ssh-keygen -f "{ssh.known_hosts}" -R "[127.0.0.1]:{ssh.port}"' in str(error)


def test_a_shell_that_speaks_before_the_worker(link: Link, ssh: LoopbackSsh) -> None:
    ssh.behave("echo Welcome to robot1, have a nice day")
    with pytest.raises(DeviceUnreachableError, match="something else than a worker answers"):
        Client(link)
