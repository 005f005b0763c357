"""The part of kubernetes_asyncio that is used here: its REST client, and its reader of kubeconfigs where there is one.

`import kubernetes_asyncio.client` also runs some 800 generated modules, a class each for every object and API of
Kubernetes: 0.4 s and 45 MB at each cold start, and objects are dictionaries here. `kubernetes_asyncio.config` brings
YAML, which a cluster of EKS needs not. So the packages whose `__init__` imports those are put in place without running
it. Whoever asks one of them for anything else gets it all the same: the `__init__` runs then, so nothing changes for
other users of the library in the same process. Artifacts leave the generated modules out (infra/artifacts.py).
"""

import importlib.util
import sys
import threading
from types import ModuleType
from typing import Any, Final

_PACKAGES: Final = (
    "kubernetes_asyncio",
    "kubernetes_asyncio.client",
    "kubernetes_asyncio.client.models",
    "kubernetes_asyncio.config",
)

_loading = threading.RLock()


class _Deferred(ModuleType):
    """A package that runs its `__init__` when it is asked for something that it does not have yet."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the import system and debuggers ask for those, and none is the `__init__`'s
            raise AttributeError(name)
        with _loading:
            if type(self) is _Deferred:
                self.__class__ = ModuleType  # type: ignore[assignment]  # before it runs: it imports from itself
                spec = self.__spec__
                if spec is not None and spec.loader is not None:
                    spec.loader.exec_module(self)
        return getattr(self, name)


def _defer(name: str) -> None:
    """Put a package in place without running its `__init__`; one that somebody has imported already stays."""
    if name in sys.modules:
        return
    spec = importlib.util.find_spec(name)
    if spec is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    module = importlib.util.module_from_spec(spec)
    module.__class__ = _Deferred
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)


for _package in _PACKAGES:
    _defer(_package)

# In this order: each is looked up in its package by the next ones, and must be there by then.
import kubernetes_asyncio.client.rest  # noqa: E402
from kubernetes_asyncio.client.api_client import ApiClient  # noqa: E402
from kubernetes_asyncio.client.configuration import Configuration  # noqa: E402
from kubernetes_asyncio.client.exceptions import ApiException  # noqa: E402

for _class in (ApiClient, Configuration, ApiException):
    setattr(kubernetes_asyncio.client, _class.__name__, _class)

from kubernetes_asyncio import config  # noqa: E402
from kubernetes_asyncio.config.config_exception import ConfigException  # noqa: E402

__all__ = ["ApiClient", "ApiException", "ConfigException", "Configuration", "config"]
