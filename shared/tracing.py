"""X-Ray for Powertools' Tracer, loaded by the first invocation whose trace is sampled.

Lambda decides which invocations are traced, one in twenty by default, and says so in the trace header. For all others
the SDK makes dummies, and loading it for that is 0.2 s of a cold start.
"""

import os
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, cast

from aws_lambda_powertools.tracing.base import BaseProvider, BaseSegment

if TYPE_CHECKING:
    from aws_xray_sdk.core import AsyncAWSXRayRecorder

_TRACE_HEADER = "_X_AMZN_TRACE_ID"  # Lambda sets it anew for every invocation


class XRay(BaseProvider):
    """Records subsegments of sampled traces as the SDK does, and nothing of others."""

    def in_subsegment(self, name: str | None = None, **kwargs: Any) -> AbstractContextManager[BaseSegment]:  # type: ignore[override]  # the base has the generator behind it
        """Return a context manager that records what happens inside."""
        if not _is_sampled():
            return nullcontext(cast("BaseSegment", _Unrecorded()))
        return cast("AbstractContextManager[BaseSegment]", _sdk().in_subsegment(name, **kwargs))

    def in_subsegment_async(self, name: str | None = None, **kwargs: Any) -> AbstractAsyncContextManager[BaseSegment]:
        """Return an asynchronous context manager that records what happens inside."""
        if not _is_sampled():
            return nullcontext(cast("BaseSegment", _Unrecorded()))
        return cast("AbstractAsyncContextManager[BaseSegment]", _sdk().in_subsegment_async(name, **kwargs))

    def put_annotation(self, key: str, value: Any) -> None:
        """Annotate the trace; annotations are indexed."""
        if _is_sampled():
            _sdk().put_annotation(key, value)

    def put_metadata(self, key: str, value: Any, namespace: str = "default") -> None:
        """Add to the trace what is not indexed."""
        if _is_sampled():
            _sdk().put_metadata(key, value, namespace)

    def patch(self, modules: Sequence[str]) -> None:
        """Have the calls of libraries recorded; that loads the SDK and them."""
        from aws_xray_sdk.core import patch  # noqa: PLC0415 -- see the module

        patch(modules)

    def patch_all(self) -> None:
        """Have the calls of all libraries recorded that the SDK knows; that loads the SDK and them."""
        from aws_xray_sdk.core import patch_all  # noqa: PLC0415 -- see the module

        patch_all()


class _Unrecorded:
    def put_annotation(self, key: str, value: Any) -> None:
        pass

    def put_metadata(self, key: str, value: Any, namespace: str = "default") -> None:
        pass


def _is_sampled() -> bool:
    return "Sampled=1" in os.environ.get(_TRACE_HEADER, "")


def prime() -> None:
    """Load the SDK before it is needed."""
    _sdk()


def _sdk() -> "AsyncAWSXRayRecorder":
    from aws_xray_sdk.core import xray_recorder  # noqa: PLC0415 -- see the module

    # One by one, as Powertools sets it up: https://github.com/aws-powertools/powertools-lambda-python/issues/283
    xray_recorder.configure(streaming_threshold=0)
    return xray_recorder
