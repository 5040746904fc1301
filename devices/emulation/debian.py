"""An arm64 Debian userland on any host that has apt: downloaded and unpacked, never installed.

``apt-get --download-only`` with a state of its own and ``dpkg -x`` need no root, run no maintainer scripts, and leave
the host's dpkg as it is.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote

import msgspec
from edgeface.devices.emulation.parts import sha256
from edgeface.devices.emulation.programs import find_program, locked, run
from edgeface.devices.progress import Progress, silent

from edgeface.addresses import redacted
from edgeface.atomic import write_bytes
from edgeface.errors import DeviceError, InstallError

SUITE = "bookworm"
MIRROR_VARIABLE = "EDGEFACE_DEBIAN_MIRROR"
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_SOURCES = Path("/etc/apt")
_UPDATE_TIMEOUT_S = 300.0
_DOWNLOAD_TIMEOUT_S = 900.0
_UNPACK_TIMEOUT_S = 120.0
_TRY_AGAIN = "see that the network and the mirror work, then try again: what was downloaded is kept"
# The host's own lists name mirrors of Debian by any of these.
_SUITES = re.compile(r"(stable|testing|oldstable|oldoldstable|bullseye|bookworm|trixie|forky|sid|unstable)")
_RECORD = "fetched.json"
_OURS = re.compile(r"(https?|file|copy|mirror\+[a-z]+):\S+")


class Package(msgspec.Struct, frozen=True):
    """A .deb on the disk and the sha256 that Debian's signed lists give for it."""

    path: Path
    sha256: str

    def intact(self) -> bool:
        """Whether the file is there and has its hash."""
        return self.path.is_file() and sha256(self.path) == self.sha256


class _Fetched(msgspec.Struct, frozen=True):
    """What a folder of downloads holds, for which words to apt."""

    suite: str
    wanted: list[str]
    packages: dict[str, str]


def mirror(sources: Path = _SOURCES) -> str:
    """The mirror to download from: what EDGEFACE_DEBIAN_MIRROR says, or the one that this Debian itself uses.

    Raises InstallError on a system that is not Debian and says nothing.
    """
    chosen = os.environ.get(MIRROR_VARIABLE, "")
    if chosen:
        if not _OURS.fullmatch(chosen):
            raise InstallError(f"{MIRROR_VARIABLE}: {redacted(chosen)!r} is no address of a mirror: write http://HOST/debian")
        return chosen
    for uri, suites, components in _entries(sources):
        named = any(_SUITES.fullmatch(suite) for suite in suites)
        if named and "main" in components and _OURS.fullmatch(uri):
            return uri
    raise InstallError(
        f"no mirror of Debian in {sources}: set {MIRROR_VARIABLE} to one, http://HOST/debian (Debian's pages list them)"
    )


def _entries(sources: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """Every (URI, suites, components) of apt's lists, of both forms."""
    parts = sources / "sources.list.d"
    for path in sorted(parts.glob("*.sources")):
        for stanza in re.split(r"\n\s*\n", path.read_text(errors="replace")):
            fields: dict[str, list[str]] = {}
            key = ""
            for line in stanza.splitlines():
                if line.startswith("#"):
                    continue
                if line[:1] in (" ", "\t"):
                    fields.setdefault(key, []).extend(line.split())
                elif ":" in line:
                    key, _, value = line.partition(":")
                    key = key.strip().lower()
                    fields[key] = value.split()
            if "deb" in fields.get("types", []) and fields.get("enabled") != ["no"]:
                for uri in fields.get("uris", []):
                    yield uri, fields.get("suites", []), fields.get("components", [])
    for path in (sources / "sources.list", *sorted(parts.glob("*.list"))):
        if path.is_file():
            for line in path.read_text(errors="replace").splitlines():
                words = re.sub(r"\[[^\]]*\]", "", line.partition("#")[0]).split()
                if len(words) > 3 and words[0] == "deb":
                    yield words[1], [words[2]], words[3:]


def fetch(packages: Sequence[str], state: Path, progress: Progress = silent) -> list[Package]:
    """Download arm64 packages and all that they depend on into ``state``; what is there already is kept.

    apt checks every file against Debian's signed lists. Raises InstallError for what must be installed first,
    DeviceError when it cannot be downloaded, OutputError.
    """
    program = find_program(["apt-get"], "an arm64 Debian is put together by apt: use a Debian or Ubuntu host")
    find_program(["dpkg"], "sudo apt-get install dpkg")
    source = mirror()
    if not _KEYRING.is_file():
        raise InstallError(f"{_KEYRING} is not there: sudo apt-get install debian-archive-keyring")
    with locked(state / "edgeface.lock", progress):
        kept = _kept(state, packages)
        if kept is not None:
            return kept
        environment = {**os.environ, "APT_CONFIG": str(_configure(state, source)), "LC_ALL": "C.UTF-8"}
        what = f"Debian's packages for arm64 cannot be downloaded from {redacted(source)}"

        def apt(*words: str | Path, timeout_s: float) -> str:
            argv = [program, "-qq", "--yes", *words]
            return run(argv, what=what, timeout_s=timeout_s, next_step=_TRY_AGAIN, environment=environment)

        progress("reading Debian's lists")
        apt("update", "--error-on=any", timeout_s=_UPDATE_TIMEOUT_S)
        # Seen from a folder without a file every package is still to be downloaded, and so named.
        options = ["-o", "Acquire::ForceHash=SHA256", "-o", f"Dir::Cache::archives={state / 'empty'}"]
        named = apt("--print-uris", *options, "install", *packages, timeout_s=_UPDATE_TIMEOUT_S)
        found = re.findall(r"^'[^']+' (\S+) \d+ SHA256:([0-9a-f]{64})$", named, re.MULTILINE)
        if not found:
            raise DeviceError(f"{what}: apt-get named no files: {_TRY_AGAIN}")
        progress(f"downloading {len(found)} packages of Debian {SUITE}")
        apt("--download-only", "install", *packages, timeout_s=_DOWNLOAD_TIMEOUT_S)
        fetched = [Package(state / "archives" / name, digest) for name, digest in found]
        missing = next((package for package in fetched if not package.path.is_file()), None)
        if missing is not None:
            raise DeviceError(f"{what}: {unquote(missing.path.name)} did not arrive: {_TRY_AGAIN}")
        write_bytes(state / _RECORD, msgspec.json.encode(_Fetched(SUITE, list(packages), dict(found))))
        # 50 MB that only the next change of the package list would read, and it reads them anew.
        shutil.rmtree(state / "lists", ignore_errors=True)
        return fetched


def _kept(state: Path, packages: Sequence[str]) -> list[Package] | None:
    """What was fetched before for the same words, when all of it is there as it was; what is damaged is removed."""
    try:
        record = msgspec.json.decode((state / _RECORD).read_bytes(), type=_Fetched)
    except (OSError, msgspec.DecodeError):
        return None
    found = [Package(state / "archives" / name, digest) for name, digest in record.packages.items()]
    damaged = [package for package in found if not package.intact()]
    for package in damaged:
        # apt would take a file of the right size for the right one.
        package.path.unlink(missing_ok=True)
    same = record.suite == SUITE and record.wanted == list(packages)
    return found if same and not damaged else None


def _configure(state: Path, source: str) -> Path:
    for folder in ("lists/partial", "archives/partial", "etc/none", "etc/preferences.d", "empty/partial"):
        (state / folder).mkdir(parents=True, exist_ok=True)
    write_bytes(state / "status", b"")
    write_bytes(state / "etc/sources.list", f"deb [signed-by={_KEYRING}] {source} {SUITE} main\n".encode())
    lines = [
        'APT::Architecture "arm64";', 'APT::Architectures { "arm64"; };',
        f'Dir::State "{state}";', f'Dir::State::status "{state}/status";', f'Dir::State::lists "{state}/lists";',
        f'Dir::Cache "{state}";', f'Dir::Cache::archives "{state}/archives";',
        'Dir::Cache::pkgcache "";', 'Dir::Cache::srcpkgcache "";',
        f'Dir::Etc "{state}/etc";', f'Dir::Etc::sourcelist "{state}/etc/sources.list";',
        f'Dir::Etc::sourceparts "{state}/etc/none";', f'Dir::Etc::parts "{state}/etc/none";',
        'Dir::Etc::netrc "/etc/apt/auth.conf";', 'Dir::Etc::netrcparts "/etc/apt/auth.conf.d";',
        'APT::Install-Recommends "false";', 'APT::Sandbox::User "root";', 'Acquire::Languages "none";',
        'Acquire::Retries "3";', *_host_network(),
    ]
    path = state / "apt.conf"
    write_bytes(path, ("\n".join(lines) + "\n").encode())
    # The host's settings of a proxy may hold a password.
    path.chmod(0o600)
    return path


def _host_network() -> list[str]:
    """How the host's apt reaches its mirrors: its proxies and certificates, which a state of its own would forget."""
    program = shutil.which("apt-config")
    if program is None:
        return []
    try:
        done = subprocess.run([program, "dump"], capture_output=True, text=True, errors="replace", timeout=30,
                              stdin=subprocess.DEVNULL, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line for line in done.stdout.splitlines() if re.match(r'Acquire::(https?|ForceIPv[46])\S* ".+";$', line)]


def unpack(packages: Sequence[Package], directory: Path) -> None:
    """Unpack into ``directory``, with links that stay inside it. Raises DeviceError for a damaged file, OutputError."""
    dpkg = find_program(["dpkg"], "sudo apt-get install dpkg")
    directory.mkdir(parents=True, exist_ok=True)
    for package in packages:
        name = unquote(package.path.name)
        if not package.intact():
            package.path.unlink(missing_ok=True)
            raise DeviceError(f"{package.path}: not the file that Debian's lists name: removed: try again")
        run([dpkg, "-x", package.path, directory], what=f"{name} cannot be unpacked", timeout_s=_UNPACK_TIMEOUT_S,
            next_step="see that its folder can be written, then try again")
    make_links_relative(directory)


def make_links_relative(directory: Path) -> None:
    """An absolute link leads out of the folder, to a file of the host or to none."""
    for folder, folders, files in os.walk(directory):
        for path in (Path(folder, name) for name in (*folders, *files)):
            if path.is_symlink() and (target := str(path.readlink())).startswith("/"):
                path.unlink()
                path.symlink_to(os.path.relpath(str(directory) + target, folder))
