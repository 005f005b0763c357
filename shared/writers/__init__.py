"""Writers of State Stores, one module a kind; the library behind each loads only when a batch has such a store."""

from shared.resources import BucketStateStore, Secret, StateStore
from shared.settings import Settings
from shared.writers.base import Writer


def open_writer(store: StateStore, secret: Secret | None, settings: Settings) -> Writer:
    """Return the writer for a State Store with its credentials; nothing is sent yet.

    Args:
        store: as read from the cluster.
        secret: of the store's `secretRef`; None where it has none.
        settings: limits, time-outs and what the network may reach.

    Raises:
        StateStoreNotReady: no writer can be made: a missing secret key, a bad URL, an unknown authMethod.
    """
    if isinstance(store, BucketStateStore):
        from shared.writers.s3 import BucketWriter  # noqa: PLC0415 -- a batch without a bucket must not load aiobotocore

        return BucketWriter.open(store, secret, settings)
    from shared.writers.git import GitWriter  # noqa: PLC0415 -- a batch without a repository must not load dulwich

    return GitWriter.open(store, secret, settings)
