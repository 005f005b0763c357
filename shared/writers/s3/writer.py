"""The writer of BucketStateStores: S3 and everything that speaks its protocol."""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final, Self

from shared import paths
from shared.deadline import Deadline
from shared.errors import LandfallError, StateStoreNotReady, TooLarge
from shared.plan import Edit, Listing, Outcome, Plan, Written, check, compute
from shared.resources import BucketStateStore, Secret
from shared.settings import Settings
from shared.writers.base import Writer
from shared.writers.network import check_address
from shared.writers.preview import Preview, preview_of
from shared.writers.s3.client import Bucket
from shared.writers.s3.endpoint import S3Endpoint, check_bucket_name, read_endpoint
from shared.writers.s3.http import AccessKey
from shared.writers.s3.survey import digest, survey

MAX_READ_BYTES: Final = 64 * 1024 * 1024  # of files that are read together
PERMISSION_CHECK: Final = ".kratix-write-permission-check"


class BucketWriter(Writer):
    """Writes to one bucket.

    A crash at any step is mended by the next run, of the same edits or of others made by the same records: it looks at
    what is there, puts what differs, deletes after that what must go, and changes records last
    (docs/failure-modes.md#13-crash-in-a-write).
    """

    def __init__(self, bucket: Bucket) -> None:
        """Write to that bucket; `open` makes it from a BucketStateStore."""
        self._bucket = bucket

    @classmethod
    def open(cls, store: BucketStateStore, secret: Secret | None, settings: Settings) -> Self:
        """Return the writer of a store; nothing is sent yet.

        Raises:
            StateStoreNotReady: the store cannot be used as it is declared: a missing secret key, an endpoint that is
                none or may not be used, an unknown authMethod.
        """
        endpoint = read_endpoint(store.spec)
        check_bucket_name(store.spec.bucket_name)
        if endpoint.literal is not None:  # no look-up will show it to the guard
            check_address(endpoint.literal, endpoint.host, settings.allowed_networks)
        ca = secret.get("ca.crt") if secret is not None else None
        credentials = _credentials(store, secret, endpoint)
        return cls(Bucket(store.spec.bucket_name, endpoint, credentials, settings, ca))

    async def write(self, edits: Sequence[Edit], deadline: Deadline) -> dict[str, Outcome]:
        """Carry out a batch of edits, and return what became of each by its id.

        Raises:
            StateStoreError: the bucket could not be looked at.
            OutOfTime: the deadline passed before anything was written.
        """
        sound = [edit for edit in edits if _is_sound(edit)]
        self._bucket.in_doubt = self.in_doubt = False
        existing = await survey(self._bucket, sound, deadline) if sound else Listing({})
        plan = compute(edits, existing, digest)
        try:
            errors = await self._carry_out(edits, plan, deadline)
        finally:
            self.in_doubt = self._bucket.in_doubt
        return {edit.id: _outcome(edit, plan, errors) for edit in edits}

    async def preview(self, edits: Sequence[Edit], directories: Collection[str], deadline: Deadline) -> Preview:
        """Return what `write` would do now; nothing is put or deleted.

        Raises:
            StateStoreError, OutOfTime: the bucket could not be looked at.
        """
        sound = [edit for edit in edits if _is_sound(edit)]
        # The survey reads whole what is pruned; this edit is not planned, so that nothing of it goes.
        listing = Edit("", "", "", prune=frozenset(directories))
        existing = await survey(self._bucket, [*sound, listing], deadline) if sound or directories else Listing({})
        return preview_of(edits, existing, digest, directories)

    async def read_many(self, wanted: Collection[str], deadline: Deadline) -> dict[str, bytes]:
        """Return the contents of those objects that are there, by path.

        Raises:
            StateStoreError, OutOfTime: one could not be read.
        """
        found: dict[str, bytes] = {}
        total = 0

        def count(size: int) -> None:
            nonlocal total
            total += size
            if total > MAX_READ_BYTES:
                raise TooLarge(
                    f"{len(wanted)} files of the bucket are over {MAX_READ_BYTES} bytes together: shorten them"
                )

        async def read(path: str) -> None:
            content = await self._bucket.get(path, deadline, count)
            if content is not None:
                found[path] = content

        errors = await self._bucket.each(wanted, read)
        if errors:
            raise errors[min(errors)]
        return found

    async def check(self, root: str, deadline: Deadline) -> None:
        """Prove that writing below a directory is permitted, as writes do it: list, put.

        See docs/contract.md#state-store-conditions.

        What is put is a multipart upload that is started and aborted, so nothing stays.

        Raises:
            StateStoreError, OutOfTime: it is not, or could not be proved.
        """
        await self._bucket.list(f"{root}/" if root else "", deadline, max_keys=1)
        await self._bucket.prove_writing(paths.join(root, PERMISSION_CHECK), deadline)

    async def close(self) -> None:
        """Close the client and its connections."""
        await self._bucket.close()

    async def _carry_out(self, edits: Sequence[Edit], plan: Plan, deadline: Deadline) -> dict[str, LandfallError]:
        """Put and delete, and return the errors by path; an edit that something has failed for goes no further.

        What stands in the way of a put goes before it, because servers that keep objects as files need that. Everything
        else goes after all puts. A record that is to change names every file of its edit before the first of them
        changes, and until the last has.
        """
        records = {edit.record: edit.interim for edit in edits if edit.record in plan.touched.get(edit.id, ())}
        interim = {path: content for path, content in records.items() if content}
        in_the_way = _in_the_way(plan) - records.keys()
        errors = await self._put(interim, interim, deadline)
        errors |= await self._bucket.delete(_unhindered(in_the_way, plan, errors), deadline)
        puts = plan.puts.keys() - records.keys()
        errors |= await self._put(_unhindered(puts, plan, errors), plan.puts, deadline)
        deletes = plan.deletes - in_the_way - records.keys()
        errors |= await self._bucket.delete(_unhindered(deletes, plan, errors), deadline)
        last = _unhindered(records, plan, errors)
        puts = {path for path in last & plan.puts.keys() if plan.puts[path] != interim.get(path)}
        errors |= await self._put(puts, plan.puts, deadline)
        return errors | await self._bucket.delete(last & plan.deletes, deadline)

    async def _put(
        self, wanted: Iterable[str], contents: Mapping[str, bytes], deadline: Deadline
    ) -> dict[str, LandfallError]:
        async def put(path: str) -> None:
            await self._bucket.put(path, contents[path], deadline)

        return await self._bucket.each(wanted, put)


def _is_sound(edit: Edit) -> bool:
    try:
        check(edit)
    except LandfallError:
        return False
    return True


def _in_the_way(plan: Plan) -> set[str]:
    """Return the deletes that a put needs: of a file where it needs a directory, and of a directory it replaces."""
    if not plan.deletes or not plan.puts:
        return set()
    directories = {parent for path in plan.puts for parent in paths.parents(path)}
    return {
        path
        for path in plan.deletes
        if path in directories or any(parent in plan.puts for parent in paths.parents(path))
    }


def _unhindered(found: Iterable[str], plan: Plan, errors: Mapping[str, LandfallError]) -> set[str]:
    """Return those of the paths that are of edits that nothing has failed for yet."""
    if not errors:
        return set(found)
    going_on = (touched for touched in plan.touched.values() if touched.isdisjoint(errors))
    return {path for touched in going_on for path in touched}.intersection(found)


def _outcome(edit: Edit, plan: Plan, errors: Mapping[str, LandfallError]) -> Outcome:
    if (refusal := plan.refused.get(edit.id)) is not None:
        return refusal
    touched = plan.touched[edit.id]
    failed = min((path for path in touched if path in errors), default=None)
    return Written(_version(edit), changed=bool(touched)) if failed is None else errors[failed]


def _version(edit: Edit) -> str:
    """Return the digest that stands for an edit's files: the same files are the same version, in any bucket."""
    whole = hashlib.sha256()
    for path in sorted(edit.files):
        whole.update(f"{path}\0{hashlib.sha256(edit.files[path]).hexdigest()}\n".encode())
    return whole.hexdigest()


def _credentials(store: BucketStateStore, secret: Secret | None, endpoint: S3Endpoint) -> AccessKey | None:
    method = store.spec.auth_method or "accessKey"
    if method == "IAM":
        if not endpoint.aws:
            raise StateStoreNotReady(
                f"authMethod IAM is for AWS's own endpoints, and {endpoint.host} is none of them: the function's role"
                " does not sign for others; use authMethod accessKey with a Secret"
            )
        return None
    if method != "accessKey":
        raise StateStoreNotReady(f"unknown authMethod: {method[:80]}; write accessKey or IAM")
    if secret is None:
        raise StateStoreNotReady(
            "spec.secretRef is missing: name a Secret with the keys accessKeyID and secretAccessKey"
        )
    access_key = secret.require_line("accessKeyID")
    if not access_key.isascii() or " " in access_key:  # it stands in a header, between commas
        raise StateStoreNotReady(
            f"secret key accessKeyID of Secret {secret.name} holds a space or a letter that no access key has: write"
            " the access key's id alone"
        )
    return AccessKey(access_key, secret.require_line("secretAccessKey"))
