"""AWS with the credentials at hand: calls by name, and every failure as a sentence."""

import os
from collections.abc import Mapping
from contextlib import AsyncExitStack
from http import HTTPStatus
from types import TracebackType
from typing import Any, Final, Self

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
from botocore.parsers import ResponseParserError

from infra.checks.lines import CannotRun, NotChecked

_CONNECT_SECONDS: Final = 5
_READ_SECONDS: Final = 20
_ATTEMPTS: Final = 3
_DENIED: Final = ("AccessDenied", "AccessDeniedException", "AuthorizationError", "UnauthorizedOperation")


class Unanswered(NotChecked):
    """AWS did not answer a call with a result.

    Attributes:
        code: of AWS's error, such as `ResourceNotFoundException`; empty where there was no answer.
    """

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class Aws:
    """AWS's API with the credentials of the environment or the profile; an async context."""

    def __init__(self) -> None:
        self._session = get_session()
        self._clients: dict[tuple[str, str], Any] = {}
        self._closing = AsyncExitStack()
        self._config = AioConfig(
            connect_timeout=_CONNECT_SECONDS,
            read_timeout=_READ_SECONDS,
            retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
        )

    @property
    def region(self) -> str:
        """The region of the environment or the profile.

        Raises:
            CannotRun: none is configured.
        """
        # The AWS CLI reads AWS_REGION; botocore reads AWS_DEFAULT_REGION and the profile.
        region: str | None = os.environ.get("AWS_REGION") or self._session.get_config_variable("region")
        if not region:
            raise CannotRun("no AWS region is configured: set AWS_REGION (and AWS_PROFILE, if you use profiles)")
        return region

    async def call(self, service: str, operation: str, *, region: str = "", **parameters: Any) -> dict[str, Any]:
        """Make one call and return what AWS answers.

        Args:
            service: as botocore calls it, which is IAM's prefix too for all that are used here.
            operation: as botocore's client calls it, such as `get_account_settings`.
            region: other than the configured one.
            parameters: of the call.

        Raises:
            Unanswered: AWS refused it, does not know it, or did not answer.
        """
        client = await self._client(service, region or self.region)
        action = f"{service}:{client.meta.method_to_api_mapping[operation]}"
        try:
            answer: dict[str, Any] = await getattr(client, operation)(**parameters)
        except ClientError as error:
            raise Unanswered(_sentence(action, error.response), error.response["Error"].get("Code", "")) from None
        except NoCredentialsError:
            raise CannotRun("no AWS credentials are found: see `aws configure`, or set AWS_PROFILE") from None
        except ResponseParserError:
            raise Unanswered(f"{action}: the endpoint's answer is not AWS's") from None
        except (BotoCoreError, OSError, TimeoutError) as error:
            raise Unanswered(f"{action}: the endpoint did not answer ({type(error).__name__})") from None
        return answer

    async def pages(self, service: str, operation: str, key: str, **more: Any) -> list[Any]:
        """Return a list that comes in pages.

        Args:
            service: as for `call`.
            operation: as for `call`.
            key: of the answer, with the list.
            more: parameters of the call.

        Raises:
            Unanswered: as for `call`.
        """
        found: list[Any] = []
        following: Mapping[str, str] = {}
        while True:
            page = await self.call(service, operation, **more, **following)
            found += page.get(key) or ()
            if not page.get("NextToken"):
                return found
            following = {"NextToken": page["NextToken"]}

    async def secrets(self) -> list[str]:
        """Return the secret parts of the credentials in use, so that they can be kept out of what is written."""
        credentials = await self._session.get_credentials()
        if credentials is None:
            return []
        frozen = await credentials.get_frozen_credentials()
        return [part for part in (frozen.secret_key, frozen.token) if part]

    async def _client(self, service: str, region: str) -> Any:
        if (service, region) not in self._clients:
            making = self._session.create_client(service, region_name=region, config=self._config)
            self._clients[service, region] = await self._closing.enter_async_context(making)
        return self._clients[service, region]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._closing.aclose()


def _sentence(action: str, response: Any) -> str:
    code, message = response["Error"].get("Code", ""), " ".join(str(response["Error"].get("Message", "")).split())
    if code in _DENIED:
        return f"{action} is not allowed to the credentials in use: allow it to have this checked"
    status = response["ResponseMetadata"].get("HTTPStatusCode", 0)
    if code == str(status):  # an endpoint that does not know the call: its message is a page for browsers
        phrase = HTTPStatus(status).phrase if status in HTTPStatus else ""
        return f"{action}: the endpoint answered {status} {phrase}".rstrip()
    return f"{action}: the endpoint answered {code}: {message[:300]}"
