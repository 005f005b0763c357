"""The servers that all sides of a run share; each starts when a benchmark first asks for it."""

import contextlib
import tempfile
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.servers import git, kubernetes, proxy, s3
from tests.servers.certificates import Authority

ROOT: Final = Path(__file__).parents[2]
ONE_WAY_MILLISECONDS: Final = 25  # 50 ms there and back


class Servers:
    """Real servers, as the tests have them (tests/servers), and a folder for what a benchmark leaves behind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @cached_property
    def kubernetes(self) -> kubernetes.KubernetesApi:
        """A real kube-apiserver that knows our kinds."""
        api = self._stack.enter_context(kubernetes.kubernetes_api())
        api.apply_crds(ROOT / "infra" / "kubernetes" / "crds")
        return api

    @cached_property
    def minio(self) -> s3.Minio:
        """A MinIO over plain http."""
        return self._stack.enter_context(s3.minio())

    @cached_property
    def authority(self) -> Authority:
        """Signed the Git server's certificate; may sign a proxy's."""
        folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="landfall-benchmarks-"))
        return Authority(Path(folder))

    @cached_property
    def git(self) -> git.GitServer:
        """Git over HTTPS and HTTP."""
        return self._stack.enter_context(git.git_server(self.authority))

    @cached_property
    def toxiproxy(self) -> proxy.Toxiproxy:
        """Latency on demand."""
        return self._stack.enter_context(proxy.toxiproxy())

    def away(self, url: str) -> proxy.Proxy:
        """Return a proxy before a server that makes it 50 ms away, for the rest of the run."""
        far = self._stack.enter_context(self.toxiproxy.before(url))
        far.latency(ONE_WAY_MILLISECONDS, stream="downstream")
        far.latency(ONE_WAY_MILLISECONDS, stream="upstream")
        return far
