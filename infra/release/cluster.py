"""What a release has for the cluster: each manifest as one file, and the Helm chart."""

import gzip
import io
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import yaml

MANIFESTS: Final = Path(__file__).parents[1] / "kubernetes"
CHART: Final = MANIFESTS / "chart"
NAME: Final = "landfall-forwarder"
_IMAGE: Final = re.compile(
    r"(?P<repository>[a-z0-9.-]+(:[0-9]+)?(/[a-z0-9._-]+)+|[a-z0-9._-]+)"
    r"(:(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127}))?(@(?P<digest>sha256:[0-9a-f]{64}))?"
)


@dataclass(frozen=True)
class Image:
    """The forwarder's image.

    Attributes:
        repository: with its registry.
        tag: where nothing else is known.
        digest: `sha256:…`; empty if it is not known.
    """

    repository: str
    tag: str
    digest: str

    @classmethod
    def parse(cls, reference: str, version: str) -> Self:
        """Read a reference, such as `ghcr.io/platform/landfall-forwarder@sha256:…`.

        Args:
            reference: empty for `landfall-forwarder` with the release's tag.
            version: of the release, which is the tag where the reference has none.

        Raises:
            ValueError: not a valid image reference; the message says what to write.
        """
        found = _IMAGE.fullmatch(reference or NAME)
        if found is None:
            raise ValueError(
                f"IMAGE is {reference!r}: write repository@sha256:digest, as the registry printed it after the push"
            )
        return cls(found["repository"], found["tag"] or version, found["digest"] or "")

    @property
    def advice(self) -> str:
        """What to do about an image without a digest; empty if it has one."""
        if self.digest:
            return ""
        return (
            "forwarder.yaml and the chart name the image by its tag alone: its digest is known after the push, then run"
            f" make release IMAGE={self.repository}@sha256:…"
        )

    def __str__(self) -> str:
        return f"{self.repository}@{self.digest}" if self.digest else f"{self.repository}:{self.tag}"


def crds() -> str:
    """Return all CRDs as one file."""
    return _documents(path.read_text() for path in sorted((MANIFESTS / "crds").glob("*.yaml")))


def rbac() -> str:
    """Return the RBAC of all functions as one file."""
    return (MANIFESTS / "rbac.yaml").read_text()


def forwarder(image: Image) -> str:
    """Return what `kubectl apply -k infra/kubernetes/forwarder` would apply, its settings under a plain name."""
    folder = MANIFESTS / "forwarder"
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    texts = [(folder / name).read_text() for name in kustomization["resources"]]
    settings = (folder / "settings.env").read_text()
    texts.insert(-1, _settings(settings, kustomization["namespace"]))
    return _replaced(_documents(texts), f"image: {NAME}\n", f"image: {image}\n")


def chart(image: Image, version: str) -> bytes:
    """Return the packaged chart: the same bytes for the same content, which `helm package` does not promise.

    Args:
        image: what its values name.
        version: of the release, and so of the chart.
    """
    changed = {
        "Chart.yaml": lambda text: re.sub(
            r"^(version|appVersion): .*$", lambda found: f'{found[1]}: "{version}"', text, flags=re.MULTILINE
        ),
        "values.yaml": lambda text: _values(text, image),
    }
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(_files(CHART)):
            name = path.relative_to(CHART).as_posix()
            text = path.read_text()
            content = changed[name](text).encode() if name in changed else text.encode()
            entry = tarfile.TarInfo(f"landfall/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return gzip.compress(packed.getvalue(), mtime=0)


def _values(text: str, image: Image) -> str:
    text = _replaced(text, f"repository: {NAME}\n", f"repository: {image.repository}\n")
    text = _replaced(text, '  tag: ""', f'  tag: "{image.tag}"')
    return _replaced(text, '  digest: ""', f'  digest: "{image.digest}"')


def _settings(env: str, namespace: str) -> str:
    """Return the ConfigMap of a file of settings, with its comments."""
    lines = [
        f"  {line}" if line.startswith("#") else '  {}: "{}"'.format(*line.split("=", 1))
        for line in env.splitlines()
        if line
    ]
    head = ["apiVersion: v1", "kind: ConfigMap", "metadata:", f"  name: {NAME}", f"  namespace: {namespace}", "data:"]
    return "\n".join([*head, *lines, ""])


def _documents(texts: Iterator[str] | list[str]) -> str:
    return "---\n".join(texts)


def _replaced(text: str, old: str, new: str) -> str:
    if text.count(old) != 1:
        raise ValueError(f"{old!r} is not once in what was to be changed")
    return text.replace(old, new)


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder and behind its links: the chart links to the manifests beside it."""
    for parent, _, names in os.walk(folder, followlinks=True):
        yield from (Path(parent) / name for name in names)
