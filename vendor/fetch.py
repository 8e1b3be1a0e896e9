"""Bring the pinned llama.cpp sources into vendor/llama.cpp.

The pin (package, version, SHA-256, commit) and the file groups stand in llama_cpp.lock.toml. The
sources come out of a source distribution, downloaded with pip, and are checked against the pin
before a byte of them is unpacked. Running it again does nothing when the wanted groups are there.

    python vendor/fetch.py                  # core and gpu: what a build needs
    python vendor/fetch.py core gpu rpc     # more groups
    python vendor/fetch.py --sdist FILE     # from a file already on this machine
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HERE = Path(__file__).resolve().parent
STAMP = ".llamaherd-vendored.json"


class FetchError(Exception):
    """What went wrong and what to do about it, for the person who builds."""


def load_lock(path: Path) -> dict:
    return tomllib.loads(path.read_text(encoding="utf-8"))


def present_groups(dest: Path, lock: dict) -> set[str]:
    """Groups of the pinned sources that `dest` already holds."""
    try:
        stamp = json.loads((dest / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return set()
    if stamp.get("pin") != pin_id(lock):
        return set()
    return set(stamp["groups"])


def pin_id(lock: dict) -> str:
    """Changes whenever the pin or a group's file list does, so that old folders are renewed."""
    text = json.dumps([lock["source"], lock["groups"]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def download(lock: dict, folder: Path) -> Path:
    source = lock["source"]
    requirement = f"{source['package']}=={source['version']}"
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{requirement} --hash=sha256:{source['sdist_sha256']}\n")
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download"]
    command += ["--quiet", "--no-deps", "--no-binary", source["package"]]
    command += ["--require-hashes", "-r", str(requirements), "-d", str(folder)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        raise FetchError(download_advice(requirement, result.stderr))
    (archive,) = folder.glob("*.tar.gz")
    return archive


def download_advice(requirement: str, stderr: str) -> str:
    if "No module named pip" in stderr:
        advice = f"this Python has no pip: run `{sys.executable} -m ensurepip`"
    elif "DO NOT MATCH THE HASHES" in stderr:
        advice = (
            "the package index served a file that is not the pinned one; nothing was unpacked. "
            "Check the index you use, or move the pin as vendor/README.md tells"
        )
    else:
        advice = (
            "is the package index reachable? With a copy of the file at hand, run "
            "`python vendor/fetch.py --sdist FILE`; with llama.cpp sources of your own, build with "
            "-C cmake.define.LLAMAHERD_LLAMA_CPP_DIR=FOLDER"
        )
    return f"cannot download {requirement}: {advice}\npip said:\n{stderr.strip()}"


def check_hash(archive: Path, lock: dict) -> None:
    want = lock["source"]["sdist_sha256"]
    with archive.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    if digest.hexdigest() != want:
        raise FetchError(
            f"{archive} is not the pinned source distribution:\n"
            f"  SHA-256 {digest.hexdigest()}\n  wanted  {want}"
        )


def matches(path: str, patterns: list[str]) -> bool:
    for pattern in patterns:
        if pattern.endswith("/"):
            if path.startswith(pattern):
                return True
        elif path.count("/") == pattern.count("/") and fnmatch.fnmatchcase(path, pattern):
            return True
    return False


def unpack(archive: Path, lock: dict, groups: set[str], dest: Path) -> int:
    """Unpack the groups' files into `dest`; returns how many."""
    rules = [lock["groups"][name] for name in sorted(groups)]
    root = PurePosixPath(lock["source"]["root"])
    n_files = 0
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            inside = PurePosixPath(*PurePosixPath(member.name).parts[1:])
            if not member.isfile() or not inside.is_relative_to(root):
                continue
            path = str(inside.relative_to(root))
            if ".." in inside.parts or not any(
                matches(path, r["include"]) and not matches(path, r.get("exclude", []))
                for r in rules
            ):
                continue
            target = dest / path
            target.parent.mkdir(parents=True, exist_ok=True)
            source = tar.extractfile(member)
            assert source is not None
            with source, target.open("wb") as out:
                shutil.copyfileobj(source, out)
            n_files += 1
    return n_files


def fetch(groups: set[str], dest: Path, lock: dict, sdist: Path | None = None) -> str:
    """Make `dest` hold at least `groups`; returns a sentence saying what was done."""
    unknown = groups - set(lock["groups"])
    if unknown:
        raise FetchError(
            f"unknown group {sorted(unknown)[0]!r}; there are: {', '.join(sorted(lock['groups']))}"
        )
    present = present_groups(dest, lock)
    if groups <= present:
        return f"{dest} already holds {', '.join(sorted(groups))}"
    wanted = groups | present
    with tempfile.TemporaryDirectory(prefix="llamaherd-fetch-", dir=dest.parent) as tmp:
        archive = sdist or download(lock, Path(tmp))
        check_hash(archive, lock)
        fresh = Path(tmp) / "llama.cpp"
        n_files = unpack(archive, lock, wanted, fresh)
        stamp = {"pin": pin_id(lock), "groups": sorted(wanted), **lock["llama_cpp"]}
        (fresh / STAMP).write_text(json.dumps(stamp, indent=1) + "\n", encoding="utf-8")
        shutil.rmtree(dest, ignore_errors=True)
        os.replace(fresh, dest)
    commit = lock["llama_cpp"]["commit"][:7]
    return (
        f"unpacked {n_files} files of llama.cpp {commit} into {dest} ({', '.join(sorted(wanted))})"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("groups", nargs="*", default=["core", "gpu"])
    parser.add_argument("--dest", type=Path, default=HERE / "llama.cpp")
    parser.add_argument("--sdist", type=Path, help="use this source distribution, download nothing")
    args = parser.parse_args()
    try:
        lock = load_lock(HERE / "llama_cpp.lock.toml")
        print(fetch(set(args.groups), args.dest.resolve(), lock, args.sdist))
    except (FetchError, OSError, tarfile.TarError) as error:
        print(f"vendor/fetch.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
