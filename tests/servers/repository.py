"""A bare repository on disk, and what tests do to it behind the servers' back with git's own plumbing."""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.servers.debian import system_binary
from tests.servers.process import ServerFailed, private_environment

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True)
class Symlink:
    """A symbolic link to put into a tree."""

    target: str


@dataclass(frozen=True)
class Submodule:
    """A submodule's entry to put into a tree."""

    commit: str


@dataclass(frozen=True)
class Commit:
    """A commit as a branch's log shows it."""

    sha: str
    parents: tuple[str, ...]
    author_name: str
    author_email: str
    message: str


@dataclass(frozen=True)
class Repository:
    """A repository that the Git servers serve."""

    name: str
    path: Path
    default_branch: str
    https_url: str
    http_url: str
    wrong_host_url: str
    """HTTPS with a certificate of our CA for another host."""
    expired_url: str
    """HTTPS with a certificate of our CA that is no longer valid."""
    ssh_url: str
    """Empty unless the repository was made while an SSH server ran."""

    def head(self, branch: str | None = None) -> str | None:
        """Return the commit that a branch points at; None if there is no such branch."""
        done = self._run("rev-parse", "--verify", "--quiet", self._ref(branch), check=False)
        return done.stdout.decode().strip() or None

    def branches(self) -> dict[str, str]:
        """Return every branch and its commit."""
        lines = self.git("for-each-ref", "--format=%(refname:lstrip=2) %(objectname)", "refs/heads").splitlines()
        return dict(line.rsplit(" ", 1) for line in lines)

    def commits(self, branch: str | None = None) -> list[Commit]:
        """Return a branch's commits, the newest first; none if there is no such branch."""
        if self.head(branch) is None:
            return []
        shown = "--format=tformat:%H%x00%P%x00%an%x00%ae%x00%B"
        fields = self._run("log", "-z", "--topo-order", shown, self._ref(branch)).stdout.decode().split("\0")[:-1]
        return [
            Commit(sha, tuple(parents.split()), name, email, message)
            for sha, parents, name, email, message in zip(*(iter(fields),) * 5, strict=True)
        ]

    def paths(self, branch: str | None = None) -> dict[str, tuple[str, str]]:
        """Return every path of a branch's tree with its mode and object, without reading contents."""
        if self.head(branch) is None:
            return {}
        found = {}
        for line in self._run("ls-tree", "-r", "-z", self._ref(branch)).stdout.decode().split("\0")[:-1]:
            meta, _, path = line.partition("\t")
            mode, _, sha = meta.split()
            found[path] = (mode, sha)
        return found

    def tree(self, branch: str | None = None) -> dict[str, bytes]:
        """Return every file of a branch with its content: a link's is its target, a submodule's its commit."""
        paths = self.paths(branch)
        blobs = [sha for mode, sha in paths.values() if mode != "160000"]
        output = self._run("cat-file", "--batch", stdin="".join(f"{sha}\n" for sha in blobs).encode()).stdout
        contents, at = {}, 0
        for sha in blobs:
            end = output.index(b"\n", at)
            size = int(output[at:end].split()[2])
            contents[sha] = output[end + 1 : end + 1 + size]
            at = end + 1 + size + 1
        return {path: sha.encode() if mode == "160000" else contents[sha] for path, (mode, sha) in paths.items()}

    def commit_files(
        self,
        files: Mapping[str, bytes | Symlink | Submodule | None],
        *,
        branch: str | None = None,
        author: str = "Someone Else <someone@example.test>",
        message: str = "Pushed by someone else",
        force_root: bool = False,
    ) -> str:
        """Commit on a branch as if someone had pushed, make the branch if need be, and return the commit.

        None deletes a file or a folder. `force_root` replaces the branch by a root commit of these files alone.
        """
        ref, when, text = self._ref(branch), f"{int(time.time())} +0000", message.encode()
        stream = [f"commit {ref}\nauthor {author} {when}\ncommitter {author} {when}\ndata {len(text)}\n".encode(), text]
        base = None if force_root else self.head(branch)
        # Without a `from`, fast-import begins a new history, also where the branch exists.
        stream.append(f"\nfrom {base}\n".encode() if base else b"\n")
        for path, content in files.items():
            quoted = '"' + path.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
            if content is None:
                stream.append(f"D {quoted}\n".encode())
            elif isinstance(content, Submodule):
                stream.append(f"M 160000 {content.commit} {quoted}\n".encode())
            else:
                mode, data = (
                    ("120000", content.target.encode()) if isinstance(content, Symlink) else ("100644", content)
                )
                stream += [f"M {mode} inline {quoted}\ndata {len(data)}\n".encode(), data, b"\n"]
        stream.append(b"done\n")
        self._run("fast-import", "--quiet", "--done", "--force", stdin=b"".join(stream))
        return self.head(branch) or ""

    def move_branch(self, commit: str, branch: str | None = None) -> None:
        """Point a branch at any commit, as a forced push would."""
        self.git("update-ref", self._ref(branch), commit)

    def delete_branch(self, branch: str | None = None) -> None:
        """Delete a branch."""
        self.git("update-ref", "-d", self._ref(branch))

    def set_hook(self, name: str, script: str | None) -> None:
        """Install a hook (pre-receive, update, …) or, with None, remove it; `script` begins with its #! line."""
        hook = self.path / "hooks" / name
        if script is None:
            hook.unlink(missing_ok=True)
            return
        fresh = hook.with_suffix(".new")
        fresh.write_text(script)
        fresh.chmod(0o755)
        fresh.replace(hook)

    def set_config(self, key: str, value: str) -> None:
        """Set a configuration value, such as receive.denyNonFastForwards."""
        self.git("config", key, value)

    def git(self, *arguments: str) -> str:
        """Run git in the repository and return what it prints."""
        return self._run(*arguments).stdout.decode()

    def _ref(self, branch: str | None) -> str:
        return f"refs/heads/{branch or self.default_branch}"

    def _run(self, *arguments: str, stdin: bytes = b"", check: bool = True) -> subprocess.CompletedProcess[bytes]:
        return run_git(*arguments, cwd=self.path, stdin=stdin, check=check)


def run_git(
    *arguments: str,
    cwd: Path,
    stdin: bytes = b"",
    check: bool = True,
    env: Mapping[str, str] | None = None,
    timeout: float = 120.0,
) -> subprocess.CompletedProcess[bytes]:
    """Run git without the person's configuration and without prompts."""
    done = subprocess.run(
        [system_binary("git"), *arguments],
        cwd=cwd,
        env=private_environment(GIT_TERMINAL_PROMPT="0", LC_ALL="C", **(env or {})),
        input=stdin,
        capture_output=True,
        check=False,
        timeout=timeout,
    )
    if check and done.returncode:
        raise ServerFailed(f"git {' '.join(arguments)}: {done.stderr.decode(errors='replace')}")
    return done


def make_bare(
    path: Path,
    *,
    default_branch: str,
    allow_filter: bool,
    config: Mapping[str, str],
) -> None:
    """Make an empty bare repository that takes pushes."""
    run_git("init", "--quiet", "--bare", f"--initial-branch={default_branch}", str(path), cwd=path.parent)
    settings = {
        "http.receivepack": "true",
        "uploadpack.allowFilter": "true" if allow_filter else "false",
        # Hosting services hand out any commit that a branch can reach.
        "uploadpack.allowReachableSHA1InWant": "true",
        # Nobody repacks under a test's feet.
        "gc.auto": "0",
        "receive.autogc": "false",
        **config,
    }
    for key, value in settings.items():
        run_git("config", key, value, cwd=path)
