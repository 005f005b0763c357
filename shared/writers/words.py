"""What an answer of a server means for the person who must act, and how much of its words a message may show."""

import base64
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final
from urllib.parse import quote, quote_plus

from shared.errors import (
    AccessDenied,
    QuotaExceeded,
    StateStoreError,
    StateStoreNotReady,
    StoreNotFound,
    StoreUnavailable,
    WriteRejected,
)

MAX_WORDS: Final = 600  # characters of a server's own text that a message carries

# Access keys of AWS's form, and the parts of Signature Version 4, which servers like to repeat.
_SIGNED: Final = re.compile(
    r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}\b|(?:Signature|Credential|SecurityToken)=\S+|\b[0-9a-f]{64}\b"
)


class Meaning(Enum):
    """Who must act on an answer, and so whether trying again can help (`LandfallError.transient`).

    Attributes:
        ACCESS: the credentials are not accepted or may not do this.
        MISSING: there is no such bucket or repository, or it is hidden.
        SETTING: the State Store's own fields lead somewhere else.
        RULE: a rule of the server's about what is written.
        QUOTA: no more may be stored until a person makes room.
        TROUBLE: it may pass by itself.
    """

    ACCESS = AccessDenied
    MISSING = StoreNotFound
    SETTING = StateStoreNotReady
    RULE = WriteRejected
    QUOTA = QuotaExceeded
    TROUBLE = StoreUnavailable

    def error(self, sentence: str) -> StateStoreError:
        """Return the error of that meaning."""
        kind: type[StateStoreError] = self.value
        return kind(sentence)


@dataclass(frozen=True, slots=True)
class Saying:
    """A row of a table of answers.

    Attributes:
        meaning: who must act.
        pattern: of the server's words, or of its code; case does not count.
        advice: what to change; the words themselves come after it.
    """

    meaning: Meaning
    pattern: str
    advice: str


def find(table: Iterable[Saying], words: str) -> Saying | None:
    """Return the first row whose pattern the words have."""
    return next((row for row in table if re.search(row.pattern, words, re.IGNORECASE | re.DOTALL)), None)


class Redactor:
    """Knows the secrets of one writer, and takes them out of texts that come from elsewhere."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._hidden: set[str] = set()
        for secret in secrets:
            self.add(secret)

    def __repr__(self) -> str:
        return f"Redactor({len(self._hidden)} texts)"

    def add(self, secret: str, *, user: str | None = None) -> None:
        """Hide a secret from now on: as it is, URL-encoded, and in the base64 of basic authentication."""
        if not secret:
            return
        encoded = [base64.b64encode(secret.encode()).decode()]
        if user is not None:
            encoded.append(base64.b64encode(f"{user}:{secret}".encode()).decode())
        forms = (secret, quote(secret, safe=""), quote_plus(secret), *encoded, *(e.rstrip("=") for e in encoded))
        self._hidden.update(forms)

    def words(self, text: str | bytes) -> str:
        """Return a server's text as one printable line of bounded length, without the secrets."""
        if isinstance(text, bytes):
            text = text.decode("utf-8", "replace")
        for hidden in sorted(self._hidden, key=len, reverse=True):
            text = text.replace(hidden, "***")
        line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
        return line if len(line) <= MAX_WORDS else line[:MAX_WORDS] + "…"

    def signed(self, text: str) -> str:
        """Return a server's text as `words`, without what belongs to a signature either."""
        return _SIGNED.sub("***", self.words(text))
