"""What an emulated root is made of: Debian's mirror, the board's own files, wheels for its processor."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from pathlib import Path

import pytest
from edgeface.devices import boards
from edgeface.devices.emulation import debian, ensure_root, project, verify_root, wheels
from edgeface.devices.emulation.identity import identity_files
from edgeface.devices.emulation.root import EmulatedRoot, _Making, cache_directory
from edgeface.devices.progress import silent

from arm_code import without_programs
from edgeface.errors import DeviceError, InstallError, OutputError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "edgeface" / "devices"


DEB822 = """
# a comment
Types: deb deb-src
URIs: {uri}
Suites: {suite}
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
"""


def _sources(tmp_path: Path, name: str, content: str) -> Path:
    parts = tmp_path / "apt" / "sources.list.d"
    parts.mkdir(parents=True, exist_ok=True)
    (parts / name).write_text(content)
    return tmp_path / "apt"


@pytest.mark.parametrize(("name", "content"), [
    ("a.sources", DEB822.format(uri="http://mirror.example/debian", suite="bookworm bookworm-updates")),
    ("a.sources", DEB822.format(uri="http://old.example/debian", suite="bookworm") + "Enabled: no\n"
     + DEB822.format(uri="http://mirror.example/debian", suite="trixie")),
    ("a.sources", DEB822.format(uri="http://security.example/debian-security", suite="bookworm-security")
     + DEB822.format(uri="http://mirror.example/debian", suite="bookworm")),
    ("a.list", "deb https://other.example/tools stable extras\n"
     "deb [arch=amd64 signed-by=/a.gpg] http://mirror.example/debian bookworm main # the mirror\n"),
    ("a.list", "# deb http://old.example/debian bookworm main\ndeb http://mirror.example/debian stable main\n"),
])
def test_the_mirror_is_the_hosts_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: str
) -> None:
    monkeypatch.delenv(debian.MIRROR_VARIABLE, raising=False)
    assert debian.mirror(_sources(tmp_path, name, content)) == "http://mirror.example/debian"


@pytest.mark.parametrize("content", [
    "", "deb http://archive.ubuntu.example/ubuntu jammy main\n", "deb cdrom:[Debian]/ bookworm main\n",
])
def test_a_system_that_is_not_debian_says_how_to_name_a_mirror(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.delenv(debian.MIRROR_VARIABLE, raising=False)
    with pytest.raises(InstallError, match="set EDGEFACE_DEBIAN_MIRROR"):
        debian.mirror(_sources(tmp_path, "a.list", content))


def test_a_mirror_of_ones_own_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = _sources(tmp_path, "a.list", "deb http://mirror.example/debian bookworm main\n")
    monkeypatch.setenv(debian.MIRROR_VARIABLE, "http://near.example/debian")
    assert debian.mirror(sources) == "http://near.example/debian"
    monkeypatch.setenv(debian.MIRROR_VARIABLE, 'x"; APT::Other "')
    with pytest.raises(InstallError, match="no address of a mirror"):
        debian.mirror(sources)


def test_a_mirror_that_cannot_be_reached_is_one_line_and_leaves_no_root(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("qemu-aarch64") is None or shutil.which("apt-get") is None:
        pytest.skip("needs qemu-user and apt: sudo apt-get install qemu-user")
    monkeypatch.setenv(debian.MIRROR_VARIABLE, "http://user:secret@127.0.0.1:9/debian")
    with pytest.raises(DeviceError) as caught:
        ensure_root(boards.find("rk3399"))
    text = str(caught.value)
    assert text.startswith("Debian's packages for arm64 cannot be downloaded from http://127.0.0.1:9/debian: E: ")
    assert "secret" not in text
    assert "\n" not in text
    assert sorted(path.name for path in (cache / "rk3399").iterdir()) == ["lock"]


def test_without_qemu_the_line_for_apt_is_named(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_programs(monkeypatch, tmp_path / "bin")
    with pytest.raises(InstallError, match="sudo apt-get install qemu-user"):
        ensure_root(boards.find("rk3399"))
    assert not cache.exists()


def test_a_host_without_apt_is_told_what_it_needs(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_programs(monkeypatch, tmp_path / "bin")
    (tmp_path / "bin" / "qemu-aarch64").write_text("#!/bin/sh\n")
    (tmp_path / "bin" / "qemu-aarch64").chmod(0o755)
    with pytest.raises(InstallError, match="use a Debian or Ubuntu host"):
        ensure_root(boards.find("rk3399"))


def test_a_full_disk_is_said_before_anything_is_downloaded(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("qemu-aarch64") is None:
        pytest.skip("needs qemu-user: sudo apt-get install qemu-user")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(10**12, 10**12, 5 << 20))
    with pytest.raises(OutputError, match=r"5 MB are free and 1000 are needed.*XDG_CACHE_HOME"):
        ensure_root(boards.find("rk3399"))
    assert sorted(path.name for path in cache.iterdir()) == ["rk3399"]


def test_a_root_that_was_never_made_cannot_be_verified(cache: Path) -> None:
    with pytest.raises(DeviceError, match="edgeface devices setup rk3399"):
        verify_root(boards.find("rk3399"))


def test_links_stay_inside_an_unpacked_userland(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "usr" / "lib").mkdir(parents=True)
    (tmp_path / "lib" / "libm.so.6").write_text("the library")
    (tmp_path / "usr" / "lib" / "libm.so").symlink_to("/lib/libm.so.6")
    (tmp_path / "usr" / "lib" / "near").symlink_to("libm.so")
    debian.make_links_relative(tmp_path)
    assert (tmp_path / "usr" / "lib" / "libm.so").readlink() == Path("../../lib/libm.so.6")
    assert (tmp_path / "usr" / "lib" / "near").read_text() == "the library"


def test_a_package_that_is_damaged_is_not_unpacked(tmp_path: Path) -> None:
    if shutil.which("dpkg") is None:
        pytest.skip("needs dpkg")
    path = tmp_path / "a_1_arm64.deb"
    path.write_bytes(b"damaged")
    with pytest.raises(DeviceError, match="not the file that Debian's lists name"):
        debian.unpack([debian.Package(path, "0" * 64)], tmp_path / "root")
    assert not path.exists()


def test_downloads_are_used_again_only_when_they_are_intact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        pytest.skip("needs apt")
    monkeypatch.setenv(debian.MIRROR_VARIABLE, "http://127.0.0.1:9/debian")
    archives = tmp_path / "archives"
    archives.mkdir()
    files = {"a_1_arm64.deb": b"one", "b_1_arm64.deb": b"two"}
    for name, content in files.items():
        (archives / name).write_bytes(content)
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    record = {"suite": debian.SUITE, "wanted": ["a"], "packages": digests}
    (tmp_path / "fetched.json").write_text(json.dumps(record))
    assert [package.path.name for package in debian.fetch(["a"], tmp_path)] == sorted(files)
    with pytest.raises(DeviceError, match="cannot be downloaded"):
        debian.fetch(["another"], tmp_path)
    (archives / "b_1_arm64.deb").write_bytes(b"owt")
    with pytest.raises(DeviceError, match="cannot be downloaded"):
        debian.fetch(["a"], tmp_path)
    assert [path.name for path in archives.glob("*.deb")] == ["a_1_arm64.deb"]


def test_an_rk3399_shows_its_six_cores_of_two_kinds() -> None:
    files = identity_files(boards.find("rk3399"))
    blocks = files["proc/cpuinfo"].strip().split("\n\n")
    assert len(blocks) == 6
    assert ["0xd03" in block for block in blocks] == [True] * 4 + [False] * 2
    assert all("CPU part\t: 0xd08\nCPU revision\t: 2" in block for block in blocks[4:])
    cpu = "sys/devices/system/cpu"
    assert files[f"{cpu}/online"] == "0-5\n"
    assert files[f"{cpu}/kernel_max"] == "5\n"
    assert files[f"{cpu}/cpu4/cpufreq/cpuinfo_max_freq"] == "1800000\n"
    assert files[f"{cpu}/cpu0/regs/identification/midr_el1"] == "0x00000000410fd034\n"
    assert files[f"{cpu}/cpu5/regs/identification/midr_el1"] == "0x00000000410fd082\n"
    assert files[f"{cpu}/cpu4/topology/core_siblings_list"] == "4-5\n"
    assert int(files[f"{cpu}/cpu0/cpu_capacity"]) < int(files[f"{cpu}/cpu4/cpu_capacity"]) == 1024


def _wheel(folder: Path, name: str, **files: bytes) -> Path:
    path = folder / name
    with zipfile.ZipFile(path, "w") as archive:
        for file, content in files.items():
            archive.writestr(f"edgeface/{file}.so", content)
    return path


def _elf(machine: int) -> bytes:
    return b"\x7fELF" + bytes(14) + machine.to_bytes(2, "little") + bytes(44)


@pytest.mark.parametrize("name", [
    "edgeface-0.1.0-py3-none-manylinux_2_17_aarch64.manylinux2014_aarch64.whl", "edgeface-0.1.0-py3-none-any.whl",
    "edgeface-0.1.0-1-py3-none-linux_aarch64.whl",
])
def test_a_wheel_for_the_boards_processor_is_taken(tmp_path: Path, name: str) -> None:
    wheels.check_wheel(_wheel(tmp_path, name, kernels=_elf(183)))


@pytest.mark.parametrize(("name", "machine", "line"), [
    ("edgeface-0.1.0-py3-none-manylinux_2_17_x86_64.whl", 62, "this wheel is for manylinux_2_17_x86_64, the board's"),
    ("edgeface-0.1.0-py3-none-manylinux_2_17_armv7l.whl", 40, "this wheel is for manylinux_2_17_armv7l, the board's"),
    ("edgeface-0.1.0-py3-none-manylinux_2_17_aarch64.whl", 62, "this wheel is for another processor"),
    ("numpy-2.0-cp311-cp311-manylinux_2_17_aarch64.whl", 183, "a wheel of numpy"),
    ("edgeface.whl", 183, "no wheel"),
])
def test_another_wheel_is_refused_in_one_line_before_anything_is_done(
    cache: Path, tmp_path: Path, name: str, machine: int, line: str
) -> None:
    if shutil.which("qemu-aarch64") is None:
        pytest.skip("needs qemu-user: sudo apt-get install qemu-user")
    path = _wheel(tmp_path, name, kernels=_elf(machine))
    with pytest.raises(DeviceError) as caught:
        ensure_root(boards.find("rk3399"), wheel=path)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not cache.exists()


def test_a_wheel_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="no such file"):
        wheels.check_wheel(tmp_path / "edgeface-0.1.0-py3-none-any.whl")


def test_requirements_are_those_of_a_board_with_tflite(tmp_path: Path) -> None:
    info = tmp_path / "edgeface-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.2\nName: edgeface\nVersion: 0.1.0\n"
        "Requires-Dist: numpy>=1.24\n"
        "Requires-Dist: tomli>=2; python_version < '3.11'\n"
        "Requires-Dist: torch>=2.4; extra == 'train'\n"
        'Requires-Dist: ai-edge-litert>=1.4; extra == "tflite"\n'
        'Requires-Dist: edgeface[tflite]; extra == "convert"\n\nA description: extra == "tflite"\n'
    )
    assert wheels.requirements(tmp_path) == ["ai-edge-litert>=1.4", "numpy>=1.24", "tomli>=2; python_version < '3.11'"]


def test_the_digest_of_a_source_tree_follows_what_a_wheel_is_built_from(tmp_path: Path) -> None:
    for name in ("edgeface", "convert", "quantize", "devices", "cross", "edgeface/__pycache__"):
        (tmp_path / name).mkdir()
    for name in ("CMakeLists.txt", "pyproject.toml", "cross/toolchain.cmake", "cross/build_wheel.py", "edgeface/a.c"):
        (tmp_path / name).write_text(name)
    before = project.source_digest(tmp_path)
    (tmp_path / "edgeface" / "__pycache__" / "a.pyc").write_text("compiled")
    (tmp_path / "edgeface" / "built.so").write_text("built in place")
    (tmp_path / "README.md").write_text("read")
    assert project.source_digest(tmp_path) == before
    (tmp_path / "edgeface" / "a.c").write_text("edgeface/b.c")
    changed = project.source_digest(tmp_path)
    (tmp_path / "edgeface" / "a.c").rename(tmp_path / "edgeface" / "b.c")
    assert len({before, changed, project.source_digest(tmp_path)}) == 3


def test_outside_a_clone_the_wheel_that_was_given_serves_the_next_time_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(project, "source_tree", lambda: None)
    monkeypatch.setattr(wheels, "install", lambda built, directory: (directory / "a.py").write_text(built[0].name))

    def refuse(*_arguments: object, **_options: object) -> None:
        raise DeviceError("nothing is to be downloaded")

    monkeypatch.setattr(wheels, "download", refuse)
    making = _Making(boards.find("rk3399"), tmp_path, Path("/usr/bin/qemu-aarch64"), silent)
    with pytest.raises(DeviceError, match=r"give one with --wheel FILE"):
        making.ensure_project(None)
    wheel = _wheel(tmp_path, f"edgeface-{project.version()}-py3-none-any.whl", kernels=_elf(183))
    given = making.ensure_project(wheel)
    assert (given.directory / "a.py").read_text() == wheel.name
    assert making.ensure_project(None).directory == given.directory
    (given.directory / "a.py").write_text("damaged")
    with pytest.raises(DeviceError, match=r"give one with --wheel FILE"):
        making.ensure_project(None)


def test_a_command_is_qemu_with_the_roots_own_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_PRELOAD", "/usr/lib/x86.so")
    monkeypatch.setenv("PYTHONHOME", "/usr")
    qemu, home = Path("/usr/bin/qemu-aarch64"), Path("/r")
    root = EmulatedRoot("rk3399", home / "arm64", home / "site", home / "edgeface-1", qemu)
    assert root.command("cortex-a53", ["-m", "edgeface"], ["-plugin", "p.so"]) == [
        "/usr/bin/qemu-aarch64", "-L", "/r/arm64", "-cpu", "cortex-a53", "-plugin", "p.so",
        "/r/arm64/usr/bin/python3.11", "-m", "edgeface",
    ]
    assert root.environment["PYTHONPATH"] == "/r/edgeface-1:/r/site"
    assert not {"LD_PRELOAD", "PYTHONHOME"} & set(root.environment)


def test_the_cache_is_where_the_user_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_directory() == tmp_path / "edgeface" / "devices"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_directory() == tmp_path / ".cache" / "edgeface" / "devices"
