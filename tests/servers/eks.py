"""An EKS cluster: a real kube-apiserver that knows AWS roles by their tokens, and moto's EKS, STS and Secrets Manager.

What EKS adds to Kubernetes is played here as aws-iam-authenticator does it: the API server hands each token to a
webhook, which takes it apart, checks it, sends the signed request inside to STS, and looks the role up among the
access entries.
"""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import json
import re
import tempfile
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlencode, urlsplit

from tests.servers import web
from tests.servers.kubernetes import KubernetesApi, kubernetes_api
from tests.servers.process import ServerFailed
from tests.servers.sigv4 import Credentials, is_presigned_with, sign
from tests.servers.sqs import AwsServer, aws_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ACCOUNT = "123456789012"
_PREFIX = "k8s-aws-v1."
# What aws-iam-authenticator lets into the URL (pkg/token/token.go); anything else could make it another request.
_PARAMETERS = frozenset(
    {
        "action", "version", "x-amz-algorithm", "x-amz-credential", "x-amz-date", "x-amz-expires",
        "x-amz-security-token", "x-amz-signature", "x-amz-signedheaders",
    }
)  # fmt: skip


class TokenRefused(Exception):
    """Why a token is nobody's."""


@dataclass
class Eks:
    """One EKS cluster, and AWS around it.

    Attributes:
        name: of the cluster.
        aws: moto itself.
        url: AWS as clients are to see it; moto but for where the cluster is.
        api: the cluster's API server.
        endpoint: where DescribeCluster says that it is.
        access: by role name, the Kubernetes groups of its access entry.
        identities: the roles that tokens were accepted of, in order, and when each token was made.
        refusals: why others were not.
        described: how often DescribeCluster was asked.
        authentication_mode: of the cluster; empty leaves it out of DescribeCluster, as moto does.
        answers: by a pattern of "METHOD path", what AWS answers in moto's place, or what becomes of moto's answer.
    """

    name: str
    aws: AwsServer
    url: str = ""
    api: KubernetesApi = field(init=False)
    endpoint: str = ""
    access: dict[str, tuple[str, ...]] = field(default_factory=dict)
    identities: list[tuple[str, str]] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    described: int = 0
    authentication_mode: str = ""
    answers: dict[str, web.Response | Callable[[web.Response], web.Response]] = field(default_factory=dict)
    _secrets: dict[str, str] = field(default_factory=dict, repr=False)

    def environment(self, role: str | None = None) -> dict[str, str]:
        """Return what a function finds in its environment, with credentials of a role if one is named."""
        found = {**self.aws.environment(), "AWS_ENDPOINT_URL": self.url}
        if role is not None:
            credentials = self.assume(role)
            found["AWS_ACCESS_KEY_ID"] = credentials.access_key
            found["AWS_SECRET_ACCESS_KEY"] = credentials.secret_key
            found["AWS_SESSION_TOKEN"] = credentials.session_token or ""
        return found

    def role_arn(self, role: str) -> str:
        """Return the ARN of a role."""
        return f"arn:aws:iam::{ACCOUNT}:role/{role}"

    def assume(self, role: str) -> Credentials:
        """Return credentials of a role, as Lambda gives them to a function."""
        form = {"Action": "AssumeRole", "Version": "2011-06-15", "RoleArn": self.role_arn(role), "RoleSessionName": "f"}
        body = urlencode(form).encode()
        headers = {"content-type": "application/x-www-form-urlencoded"}
        signed = sign("POST", f"{self.url}/", self.aws.credentials, headers=headers, body=body, service="sts")
        answer = web.request("POST", f"{self.url}/", headers=signed, body=body)
        if answer.status != 200:
            raise ServerFailed(f"AssumeRole answered {answer}")
        found = _elements(answer.body, "AccessKeyId", "SecretAccessKey", "SessionToken")
        return Credentials(*found)

    def put_secret(self, name: str, text: str | bytes) -> str:
        """Create or change a secret of Secrets Manager, and return its ARN."""
        value = {"SecretString": text} if isinstance(text, str) else {"SecretBinary": base64.b64encode(text).decode()}
        answer = self._call("secretsmanager", "secretsmanager.PutSecretValue", SecretId=name, **value)
        if answer.status != 200:
            answer = self._call("secretsmanager", "secretsmanager.CreateSecret", Name=name, **value)
        if answer.status != 200:
            raise ServerFailed(f"CreateSecret answered {answer}")
        return str(answer.json()["ARN"])

    def _call(self, service: str, target: str, **parameters: Any) -> web.Response:
        headers = {"content-type": "application/x-amz-json-1.1", "x-amz-target": target}
        body = json.dumps(parameters).encode()
        signed = sign("POST", f"{self.aws.url}/", self.aws.credentials, headers=headers, body=body, service=service)
        return web.request("POST", f"{self.aws.url}/", headers=signed, body=body)

    def _create(self) -> None:
        cluster = {"name": self.name, "roleArn": self.role_arn("eks"), "resourcesVpcConfig": {}}
        body = json.dumps(cluster).encode()
        headers = {"content-type": "application/json"}
        signed = sign(
            "POST", f"{self.aws.url}/clusters", self.aws.credentials, headers=headers, body=body, service="eks"
        )
        answer = web.request("POST", f"{self.aws.url}/clusters", headers=signed, body=body)
        if answer.status != 200:
            raise ServerFailed(f"CreateCluster answered {answer}")

    def _pass_on(self, method: str, target: str, headers: dict[str, str], body: bytes) -> web.Response:
        """Let moto answer, and put right what it cannot know."""
        path = target.partition("?")[0]
        known = reversed(self.answers.items())  # the last one that fits
        given = next((given for pattern, given in known if re.fullmatch(pattern, f"{method} {path}")), None)
        if isinstance(given, web.Response):
            return given
        answer = web.request(method, self.aws.url + target, headers=headers, body=body)
        if given is not None:
            return given(answer)
        if target == f"/clusters/{self.name}" and answer.status == 200:
            self.described += 1
            described = answer.json()
            ca = base64.b64encode(self.api.ca.read_bytes()).decode()
            described["cluster"] |= {"endpoint": self.endpoint, "certificateAuthority": {"data": ca}}
            if self.authentication_mode:
                described["cluster"]["accessConfig"] = {"authenticationMode": self.authentication_mode}
            return web.Response(200, answer.headers, json.dumps(described).encode())
        if b"<SecretAccessKey>" in answer.body:
            key, secret = _elements(answer.body, "AccessKeyId", "SecretAccessKey")
            self._secrets[key] = secret
        return answer

    def _review(self, token: str) -> dict[str, Any]:
        """Answer the API server's question whose token it is."""
        try:
            role, made = self._verify(token)
        except TokenRefused as refused:
            self.refusals.append(str(refused))
            return {"authenticated": False, "error": str(refused)}
        self.identities.append((role, made))
        user = {"username": f"{self.role_arn(role)}", "uid": role, "groups": list(self.access[role])}
        return {"authenticated": True, "user": user}

    def _verify(self, token: str) -> tuple[str, str]:
        if not token.startswith(_PREFIX):
            raise TokenRefused("it has no prefix k8s-aws-v1.")
        encoded = token.removeprefix(_PREFIX)
        if "=" in encoded:
            raise TokenRefused("it is padded")
        url = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode()
        parts = urlsplit(url)
        query = {key.lower(): values[0] for key, values in parse_qs(parts.query).items()}
        if (parts.scheme, parts.netloc, parts.path) != ("https", f"sts.{self.aws.region}.amazonaws.com", "/"):
            raise TokenRefused(f"it is for {parts.scheme}://{parts.netloc}{parts.path}, no STS of this region")
        if not query.keys() <= _PARAMETERS or query.get("action") != "GetCallerIdentity":
            raise TokenRefused("it is another request than GetCallerIdentity")
        if "x-k8s-aws-id" not in query.get("x-amz-signedheaders", "").split(";"):
            raise TokenRefused("the cluster's name is not signed")
        expires = int(query["x-amz-expires"])
        if not 0 <= expires <= 900:
            raise TokenRefused("it is valid for more than 15 minutes")
        made = dt.datetime.strptime(query["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=dt.UTC)
        if dt.datetime.now(dt.UTC) > made + dt.timedelta(seconds=expires + 1):  # the date has whole seconds
            raise TokenRefused("it has expired")
        key = query["x-amz-credential"].partition("/")[0]
        if not is_presigned_with(url, {"x-k8s-aws-id": self.name}, self._secrets.get(key, "")):
            raise TokenRefused("its signature is wrong, or it is for another cluster")
        # moto looks for who asks in this header alone, and it takes the request for signed.
        authorization = f"AWS4-HMAC-SHA256 Credential={query['x-amz-credential']}"
        headers = {"authorization": authorization, "x-k8s-aws-id": self.name}
        answer = web.request("GET", f"{self.aws.url}/?{parts.query}", headers=headers)
        arn = _elements(answer.body, "Arn")[0]
        role = arn.split(":assumed-role/")[-1].partition("/")[0]
        if role not in self.access:
            raise TokenRefused(f"no access entry for {arn}")
        return role, query["x-amz-date"]


@contextlib.contextmanager
def eks(name: str = "landfall", *arguments: str) -> Iterator[Eks]:
    """Run moto, a kube-apiserver that asks our webhook, and the webhook.

    Args:
        name: of the cluster.
        arguments: of the kube-apiserver, besides the usual ones.
    """
    with contextlib.ExitStack() as stack:
        made = Eks(name, stack.enter_context(aws_server()))
        made._create()
        server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(made))
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        stack.callback(thread.join)
        stack.callback(server.server_close)
        stack.callback(server.shutdown)
        made.url = f"http://127.0.0.1:{server.server_port}"
        config = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="landfall-eks-"))) / "webhook"
        config.write_text(json.dumps(_kubeconfig(f"{made.url}/authenticate")))
        made.api = stack.enter_context(
            kubernetes_api(
                f"--authentication-token-webhook-config-file={config}",
                "--authentication-token-webhook-version=v1",
                "--authentication-token-webhook-cache-ttl=0s",  # each call's token is looked at
                *arguments,
            )
        )
        made.endpoint = made.api.url
        yield made


def _handler(eks_: Eks) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.path.startswith("/authenticate"):
                token = json.loads(body)["spec"]["token"]
                review = {
                    "apiVersion": "authentication.k8s.io/v1",
                    "kind": "TokenReview",
                    "status": eks_._review(token),
                }
                self._answer(web.Response(200, {"content-type": "application/json"}, json.dumps(review).encode()))
            else:
                headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
                self._answer(eks_._pass_on(self.command, self.path, headers, body))

        do_POST = do_GET  # noqa: N815 -- its name in the base

        def _answer(self, answer: web.Response) -> None:
            self.send_response(answer.status)
            for name in ("content-type", "x-amzn-requestid", "x-amzn-errortype"):
                if name in answer.headers:
                    self.send_header(name, answer.headers[name])
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- its name in the base
            """Keep quiet."""

    return Handler


def _kubeconfig(server: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "webhook", "cluster": {"server": server}}],
        "users": [{"name": "apiserver", "user": {}}],
        "contexts": [{"name": "webhook", "context": {"cluster": "webhook", "user": "apiserver"}}],
        "current-context": "webhook",
    }


def _elements(xml: bytes, *names: str) -> list[str]:
    return [
        found[1].decode() if (found := re.search(rf"<{name}>([^<]*)</{name}>".encode(), xml)) else "" for name in names
    ]
