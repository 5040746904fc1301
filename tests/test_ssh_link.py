"""A board over ssh: a real sshd on loopback, and everything that can go wrong on the way there."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from edgeface.devices.ssh import SshHost

from edgeface.errors import DeviceError, DeviceLostError, DeviceUnreachableError, InstallError
from loopback_ssh import LoopbackSsh, loopback_ssh, make_key, public, silent_server

TIMEOUT_S = 60.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackSsh]:
    with loopback_ssh(tmp_path_factory.mktemp("ssh") / "lo op") as server:
        yield server


@pytest.fixture
def ssh(server: LoopbackSsh) -> LoopbackSsh:
    """The server, as it was in the beginning."""
    server.behave()
    server.trust(server.host_key)
    server.configure()
    return server


@pytest.fixture
def host(ssh: LoopbackSsh) -> SshHost:
    return SshHost(ssh.board())


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
    import base64
    import hashlib

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
    cutter = threading.Thread(target=cut_when_seen, args=(ssh, ssh.home / "started"))
    cutter.start()
    error = failure(host, "sh", "-c", "touch started; exec sleep 100")
    cutter.join()
    assert isinstance(error, DeviceLostError)
    assert "the connection broke off" in str(error)


def cut_when_seen(ssh: LoopbackSsh, path: Path) -> None:
    until = time.monotonic() + TIMEOUT_S
    while not path.exists() and time.monotonic() < until:
        time.sleep(0.02)
    ssh.cut()


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
        ("ulimit -f 20", "its disk is full: free some space there"),
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
