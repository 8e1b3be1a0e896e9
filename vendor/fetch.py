"""Download the pinned llama.cpp sources into vendor/llama.cpp.

llama_cpp.lock.toml contains the pin (package, version, SHA-256, commit) and the file groups. pip
downloads a source distribution; its hash is verified before it is unpacked. If the requested groups
are present, nothing is done.

    python vendor/fetch.py                  # core and gpu: required for a build
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
    """The sources cannot be provided; the message states the reason and the remedy."""


def load_lock(path: Path) -> dict:
    return tomllib.loads(path.read_text(encoding="utf-8"))


def present_groups(dest: Path, lock: dict) -> set[str]:
    """Groups of the pinned sources present in `dest`."""
    try:
        stamp = json.loads((dest / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return set()
    if stamp.get("pin") != pin_id(lock):
        return set()
    return set(stamp["groups"])


def pin_id(lock: dict) -> str:
    """Hash of the pin and the file lists of the groups; a folder with another hash is replaced."""
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
        advice = f"pip is not installed: run `{sys.executable} -m ensurepip`"
    elif "DO NOT MATCH THE HASHES" in stderr:
        advice = (
            "the SHA-256 of the file from the package index differs from the pin; nothing was "
            "unpacked. Check the index, or update the pin (vendor/README.md)"
        )
    else:
        advice = (
            "check that the package index is reachable. To use a local copy of the file, run "
            "`python vendor/fetch.py --sdist FILE`; to use other llama.cpp sources, build with "
            "-C cmake.define.LLAMAHERD_LLAMA_CPP_DIR=FOLDER"
        )
    return f"cannot download {requirement}: {advice}\nOutput of pip:\n{stderr.strip()}"


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
    """Unpack the groups' files into `dest`. Returns the number of files."""
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
    """Ensure that `dest` contains `groups`. Returns a message about the action taken."""
    unknown = groups - set(lock["groups"])
    if unknown:
        raise FetchError(
            f"unknown group {sorted(unknown)[0]!r}; valid groups are "
            f"{', '.join(sorted(lock['groups']))}"
        )
    present = present_groups(dest, lock)
    if groups <= present:
        return f"{dest} already contains {', '.join(sorted(groups))}"
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
    parser.add_argument(
        "--sdist", type=Path, help="use this source distribution instead of a download"
    )
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
