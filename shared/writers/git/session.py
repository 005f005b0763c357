"""One operation on a server: its time, its sockets, and what it may connect to and read."""

import contextlib
import random
import socket
import threading
from collections.abc import Callable
from concurrent.futures import wait
from types import TracebackType
from typing import Final, Self

from shared import budget
from shared.budget import Room
from shared.deadline import Deadline
from shared.errors import StateStoreNotReady, StoreUnavailable, TooLarge
from shared.settings import Settings
from shared.writers.network import check_address

FIRST_PAUSE_SECONDS: Final = 0.05  # before the first new try; doubled for each further one, with full jitter
LONGEST_PAUSE_SECONDS: Final = 2.0
FREE_BYTES: Final = 4 * 1024 * 1024  # that an operation may take without asking; most take less
ROOM_POLL_SECONDS: Final = 0.2  # between two looks at the clock while others have the memory


class ConnectionLost(StoreUnavailable):
    """A connection broke off or the server was in trouble for a moment; worth another try at once."""


class Session:
    """What one operation holds open; used in one thread, aborted from another.

    A thread cannot be cancelled, so `abort` shuts down every socket that was opened here: whatever waits on one
    returns at once. Each wait is bounded besides, by the settings' time-out or by what the deadline leaves.
    """

    def __init__(self, settings: Settings, deadline: Deadline) -> None:
        self.settings = settings
        self.deadline = deadline
        self._aborted = threading.Event()
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._room: Room | None = None
        self._asked = False  # whether it was asked for here, and not kept from before
        self._closers = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._closers.close()
        finally:
            self.give_back()
            with self._lock:
                for sock in self._sockets:
                    sock.close()
                self._sockets.clear()

    def need(self, size: int, what: str) -> None:
        """Have so many bytes of the function's memory, or wait until others have given them back.

        What is held already is shrunk to it. It is never added to, as two that hold and wait would wait for each other.

        Raises:
            TooLarge: they are more than the function has, or than what is held.
            OutOfTime, StoreUnavailable: as `timeout`.
        """
        if self._room is not None and size <= self._room.size:
            self._room.shrink(size)
        elif size > FREE_BYTES:
            self.give_back()
            self._room = budget.of(self.settings.memory_bytes).ask(size, what)
            self._asked = True
            while not self._room.granted.done():
                self.timeout()
                wait([self._room.granted], timeout=ROOM_POLL_SECONDS)

    def need_all(self, size: int, what: str) -> None:
        """Have all of the function's memory if so many bytes are more than a little, and may become many more."""
        if self._room is None and size > FREE_BYTES:
            self.need(self.settings.memory_bytes, what)

    def hold(self, room: Room) -> None:
        """Hold room that is had already, and give it back at the end."""
        self.give_back()
        self._room, self._asked = room, False

    def give_back(self) -> None:
        """Give the memory back that this operation has."""
        if self._room is not None:
            if self._asked:
                budget.trim()  # before others are let in, or the system has what both of them took
            self._room.release()
            self._room = None

    def at_end(self, close: Callable[[], object]) -> None:
        """Call this when the operation ends, however it ends."""
        self._closers.callback(close)

    def timeout(self) -> float:
        """Return the seconds that the next wait may take.

        Raises:
            OutOfTime: the deadline has passed.
            StoreUnavailable: the operation was aborted.
        """
        self.check()
        return self.deadline.bound(self.settings.store_timeout_seconds)

    def check(self) -> None:
        """Stop here if the operation was aborted.

        Raises:
            StoreUnavailable: it was.
        """
        if self._aborted.is_set():
            raise StoreUnavailable("the State Store did not finish within the deadline")

    def abort(self) -> None:
        """Make every wait of this operation return; called from another thread."""
        self._aborted.set()
        with self._lock:
            for sock in self._sockets:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def pause(self, tries: int) -> bool:
        """Wait a random while before a further try, longer the more there were; return whether there is time for it."""
        longest = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(tries, 10))
        pause = random.uniform(longest / 4, longest)  # noqa: S311 -- jitter, no secret
        return self.deadline.remaining > pause and not self._aborted.wait(pause)

    def connect(self, host: str, port: int) -> socket.socket:
        """Return a TCP connection to an address that the host resolves to and that State Stores may use.

        The address that is checked is the one that is connected to: there is no second look-up in between.

        Raises:
            StateStoreNotReady: the host leads only to refused addresses (docs/failure-modes.md#24-forbidden-addresses).
            StoreUnavailable: it does not resolve, or no address answers.
            OutOfTime: the deadline has passed.
        """
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise StoreUnavailable(f"{host} cannot be resolved: check the host name of spec.url, and the DNS") from None
        refused: StateStoreNotReady | None = None
        problem = "no address"
        for family, kind, protocol, _, address in found:
            try:
                check_address(str(address[0]), host, self.settings.allowed_networks)
            except StateStoreNotReady as error:
                refused = error
                continue
            sock = socket.socket(family, kind, protocol)
            try:
                sock.settimeout(self.timeout())
                sock.connect(address)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._watch(sock)
            except OSError as error:
                sock.close()
                problem = "no answer in time" if isinstance(error, TimeoutError) else error.strerror or "refused"
            except BaseException:
                sock.close()
                raise
            else:
                return sock
        if refused is not None and problem == "no address":
            raise refused
        raise StoreUnavailable(f"{host} port {port} cannot be reached: {problem}")

    def meter(self, read: Callable[[int], bytes], what: str) -> Callable[[int], bytes]:
        """Return a reader that stops at the abort, and past the settings' largest pack.

        Args:
            read: returns so many bytes, fewer only at the end.
            what: is being read, for the message.
        """
        left = self.settings.max_pack_bytes

        def metered(size: int) -> bytes:
            nonlocal left
            self.check()
            data = read(size)
            left -= len(data)
            if left < 0:
                raise TooLarge(
                    f"{what} sends more than {self.settings.max_pack_bytes} bytes: let the server allow partial clones"
                    " (uploadpack.allowFilter), or let the operator raise LANDFALL_MAX_PACK_BYTES"
                )
            return data

        return metered

    def _watch(self, sock: socket.socket) -> None:
        # A duplicate, because TLS detaches the socket that it wraps: shutting down either ends the connection.
        twin = sock.dup()
        with self._lock:
            self._sockets.append(twin)
        self.check()
