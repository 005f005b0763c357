"""Which items of a batch a server refuses, found with few pushes and few commits.

A hook, a size limit or fsck refuses a push as a whole, whatever the rest of it is. Nothing here talks to a server: the
caller pushes.
"""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from shared.errors import LandfallError, StoreUnavailable, WriteRejected

SINGLES: Final = 6  # items that are refused alone, with the same words, before these are taken for a rule about all
_VARYING: Final = re.compile(r"\b[0-9a-f]{7,}\b|\d+")  # object ids and numbers in a server's words


class Declined(Exception):
    """The server refuses what a push holds.

    Attributes:
        error: its words.
        items: ids of the items that the push would have changed something for, in their order.
    """

    def __init__(self, error: WriteRejected, items: Sequence[str]) -> None:
        super().__init__(str(error))
        self.error, self.items = error, items


def isolate(declined: Declined, push: Callable[[Sequence[str]], None], found: dict[str, LandfallError]) -> None:
    """Land all items of a declined push except those that the server refuses.

    Half of what is known to hold a refused item is pushed next, so that one refused item costs log2(N) + 2 pushes, and
    what it hides behind it lands in one. N items get 2 * log2(N) + 8 pushes; while others land, each further refused
    item brings the pushes of its own search. Three outcomes end the search early:

    - Nothing lands, and items from everywhere in the batch are refused alone with the same words: a rule about all of
      them (the author, the branch), so they all fail with these words.
    - Nothing has landed when the pushes are used up: the same.
    - Something has: what is left is tried again later.

    Args:
        declined: the push.
        push: pushes some of the items, in one commit; raises `Declined`, or what ends the search.
        found: gets the refused items with the server's words, as soon as they are known.
    """
    _Search(declined, push, found).run()


def are_alike(errors: Iterable[LandfallError]) -> bool:
    """Whether errors have the same words, apart from object ids and numbers."""
    return len({_VARYING.sub("#", str(error)) for error in errors}) == 1


class _Search:
    """The state of one search.

    Attributes:
        left: items that are neither landed nor refused.
        suspects: so many at the head of `left` hold at least one refused item; 0 where that is not known.
        most: items worth pushing together.
        largest: items that landed together, at most.
        general: whether it looks like a rule about all items, so that single ones from everywhere are tried.
    """

    def __init__(
        self, declined: Declined, push: Callable[[Sequence[str]], None], found: dict[str, LandfallError]
    ) -> None:
        self.push, self.found = push, found
        self.error = declined.error
        self.left = list(declined.items)
        self.suspects = self.most = len(self.left)
        self.depth = math.log2(max(1, len(self.left)))
        self.refused: list[WriteRejected] = []
        self.largest = 0
        self.general = False

    def run(self) -> None:
        """Search until nothing is left, or one of the ends that `isolate` names is reached."""
        if len(self.left) == 1:
            self._refuse(self.left.pop(), self.error)
        pushes = 1  # the one that was declined
        while self.left and pushes < self._bound() and not (self.general and len(self.refused) >= SINGLES):
            size = self._size()
            pushes += 1
            try:
                self.push(self.left[:size])
            except Declined as declined:
                self._declined(declined, size)
            else:
                self._landed(size)
        for item in self.left:
            self.found[item] = self.error if not self.largest else self._undecided()

    def _bound(self) -> float:
        further = max(0, len(self.refused) - 1) if self.largest else 0
        return 2 * self.depth + 8 + further * (self.depth + 2)

    def _size(self) -> int:
        """Return how many of `left` are pushed next."""
        if self.general:
            tried = len(self.refused)
            self.left.insert(0, self.left.pop(len(self.left) * (2 * tried - 1) // (2 * SINGLES)))
            return 1
        return (self.suspects + 1) // 2 if self.suspects else min(self.most, len(self.left))

    def _declined(self, declined: Declined, size: int) -> None:
        changing = set(declined.items)
        piece = [item for item in self.left[:size] if item in changing]  # others have become so without us
        self.left = piece + self.left[size:]
        self.error = declined.error
        self.suspects = len(piece)
        if len(piece) == 1:
            self._refuse(self.left.pop(0), declined.error)
            self.suspects = 0
        alike = bool(self.refused) and are_alike([*self.refused, declined.error])
        self.general = alike and not self.largest and (self.general or len(piece) > 1)

    def _landed(self, size: int) -> None:
        self.largest = max(self.largest, size)
        self.left = self.left[size:]
        if size == self.suspects:  # it was refused only together with others: a rule about the size of a push
            self.most = self.largest
        self.suspects = max(0, self.suspects - size)
        self.general = False

    def _refuse(self, item: str, error: WriteRejected) -> None:
        self.found[item] = error
        self.refused.append(error)

    def _undecided(self) -> StoreUnavailable:
        return StoreUnavailable(f"not pushed yet, as the server refuses others of the same batch: {self.error}")
