"""Where a standing node is found: its directory, the files in it, and the way in.

A node that several drivers share lies in a directory of its own, which only its user may enter:
`node.sock` (a Unix socket, 0600), `token` (0600, drawn at each start) and `node.log`. The node
holds a lock on the directory as long as it lives, so what a killed node has left there is known to
be stale. There is no TCP port.
"""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import struct
import tempfile
from pathlib import Path

__all__ = [
    "ADDRESS",
    "LOG",
    "SOCKET",
    "TOKEN",
    "TOKEN_BYTES",
    "default_directory",
    "directory_of",
    "knock",
    "peer_of",
    "prepare",
    "sweep",
    "taken",
    "within",
]

ADDRESS = "ENGINE_ADDRESS"
SOCKET, TOKEN, LOG = "node.sock", "token", "node.log"
TOKEN_BYTES = 32
_START = "start one with `penstock start --head`"
_CREDENTIALS = struct.Struct("3i")


def default_directory() -> Path:
    """Where the node of this user on this host is when nobody says otherwise."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime:
        return Path(runtime) / "penstock"
    return Path(tempfile.gettempdir()) / f"penstock-{os.geteuid()}"


def directory_of(address: str) -> Path:
    """The directory that an address means: "auto", "unix:/its/directory" or its socket.

    ConnectionError for an address of another kind, with what there is.
    """
    if address == "auto":
        address = os.environ.get(ADDRESS) or "auto"
    if address == "auto":
        return default_directory()
    scheme, _colon, path = address.partition(":")
    if scheme == "unix" and os.path.isabs(path):
        return Path(path).parent if path.endswith("/" + SOCKET) else Path(path)
    if "://" in address or ":" in address:
        raise ConnectionError(
            f"address={address!r}: nodes on several hosts are not there yet, only nodes on this "
            "host, without any port. Use \"auto\" for the one that `penstock start --head` started "
            'here, "unix:/its/directory" for one with a directory of its own, or leave address '
            "out to run in this program alone."
        )
    raise ConnectionError(
        f"address={address!r}: expected \"auto\", \"local\" or \"unix:/absolute/directory\" (what "
        "`penstock start --head` prints)"
    )


def within(directory: int, name: str) -> str:
    """The name of a file in an open directory; short, since a socket's may have 107 bytes only."""
    return f"/proc/self/fd/{directory}/{name}"


def prepare(directory: Path) -> None:
    """Make the directory if need be; PermissionError when others could enter it."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(_open(directory))


def _open(directory: Path) -> int:
    """A descriptor of a directory that belongs to this user alone."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    found = os.fstat(fd)
    if found.st_uid == os.geteuid() and not stat.S_IMODE(found.st_mode) & 0o077:
        return fd
    os.close(fd)
    raise PermissionError(
        f"{directory} has to belong to you (user {os.geteuid()}) and be closed to others; it "
        f"belongs to user {found.st_uid} with mode {stat.S_IMODE(found.st_mode):04o}. Use "
        f"`chmod 700 {directory}`, or another directory."
    )


def taken(directory: Path) -> int | None:
    """A descriptor that locks the directory until it is closed; None while a node lives there."""
    fd = _open(directory)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:  # which is the answer
        os.close(fd)
        return None
    return fd


def sweep(directory: int) -> list[str]:
    """Remove what a node needs to be reached, in a directory that the caller has locked."""
    removed = []
    for name in (SOCKET, TOKEN):
        try:
            os.unlink(name, dir_fd=directory)
        except FileNotFoundError:  # its node has done so
            continue
        removed.append(name)
    return removed


def peer_of(sock: socket.socket) -> tuple[int, int]:
    """Process and user at the other end of a Unix socket, as the kernel says."""
    found = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _gid = _CREDENTIALS.unpack(found)
    return pid, uid


def knock(directory: Path, timeout: float) -> tuple[socket.socket, int]:
    """A socket to the node that lives in a directory, let in by its token; and the node's pid.

    ConnectionError that says what to do when there is none.
    """
    try:
        fd = _open(directory)
    except FileNotFoundError as error:
        text = f"no node at unix:{directory}, there is no such place: {_START}"
        raise ConnectionError(text) from error
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout)
        sock.connect(within(fd, SOCKET))
        pid, uid = peer_of(sock)
        if uid != os.geteuid():  # never shown to a stranger
            raise PermissionError(f"the node at unix:{directory} is another user's ({uid})")
        with open(within(fd, TOKEN), "rb") as file:
            sock.sendall(file.read(TOKEN_BYTES))
    except (FileNotFoundError, ConnectionRefusedError) as error:
        sock.close()
        raise ConnectionError(
            f"no node answers at unix:{directory} ({error.strerror}): {_START}, or leave address "
            "out to run in this program alone"
        ) from error
    except BaseException:  # whatever it was: the caller is told, and has no socket to close
        sock.close()
        raise
    finally:
        os.close(fd)
    return sock, pid
