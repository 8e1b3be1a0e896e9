"""A batch job whose server is killed repeatedly: no line may be lost or duplicated.

    python bench/batch_resume.py [--model M] [--lines 200] [--kills 6] [--seed 1] [--threads 1]

Each round starts `llamaherd serve` on the same data folder and kills it with SIGKILL a random time
after it listens; the last round lets the batch finish. A row of the table has the number of lines
done at the start of a round, and at the last poll of its server.
At the end the output file must hold each line once, in order, with a response; a line that was
running at two kills is in the error file instead. Otherwise the exit status is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llamaherd.models import DEFAULT_MODEL
from openai import OpenAI
from openai.types import Batch

ENDPOINT: Any = "/v1/completions"


@contextlib.contextmanager
def running(
    model: str, folder: Path, threads: int
) -> Iterator[tuple[subprocess.Popen[bytes], OpenAI]]:
    """A listening server, killed at the end."""
    options = ["--port", "0", "--data-dir", str(folder), "--threads", str(threads)]
    command = [sys.executable, "-m", "llamaherd.cli", "serve", model, *options]
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(command, stderr=log)
    try:
        url = ""
        while not url:
            if process.poll() is not None:
                raise RuntimeError((folder / "log").read_text())
            found = re.search(r"running on (http://[\w.:]+)", (folder / "log").read_text())
            url = found[1] if found else ""
            time.sleep(0.02)
        with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            yield process, client
    finally:
        process.kill()
        process.wait()


def begin(client: OpenAI, n_lines: int) -> Batch:
    lines = []
    for i in range(n_lines):
        body = {"prompt": f"Story {i}: once", "max_tokens": 8, "ignore_eos": True}
        lines.append({"custom_id": f"{i}", "method": "POST", "url": ENDPOINT, "body": body})
    text = "\n".join(map(json.dumps, lines))
    file = client.files.create(file=("lines.jsonl", text.encode()), purpose="batch")
    return client.batches.create(input_file_id=file.id, endpoint=ENDPOINT, completion_window="24h")


def n_done(batch: Batch) -> int:
    counts = batch.request_counts
    return counts.completed + counts.failed if counts else 0


def work(client: OpenAI, batch: Batch, seconds: float) -> Batch:
    """State of the batch at the last poll within this time, or at its end."""
    until = time.monotonic() + seconds
    while batch.status != "completed" and time.monotonic() < until:
        time.sleep(0.005)
        batch = client.batches.retrieve(batch.id)
    return batch


def written(client: OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    if file_id is None:
        return []
    return [json.loads(line) for line in client.files.content(file_id).text.splitlines()]


def wrong(client: OpenAI, batch: Batch, n_lines: int) -> list[str]:
    """Errors found in the output files."""
    lines = written(client, batch.output_file_id)
    died = written(client, batch.error_file_id)
    print(f"{len(died)} lines failed because they were running at two kills")
    ids = [int(line["custom_id"]) for line in lines]
    died_ids = [int(line["custom_id"]) for line in died]
    found = []
    if sorted(ids + died_ids) != [*range(n_lines)]:
        found.append(f"{len(ids)} lines, {len(set(ids))} distinct")
    if ids != sorted(ids):
        found.append("lines are not in order")
    if len({line["id"] for line in lines}) != len(lines):
        found.append("duplicate ids")
    if any(line["response"]["body"]["usage"]["completion_tokens"] != 8 for line in lines):
        found.append("an incomplete response")
    if any(line["error"] is None or line["error"]["code"] != "process_died" for line in died):
        found.append("a line failed with another error")
    return found


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--lines", type=int, default=200)
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    batch = None
    print("round  killed after   done before   done at the end   status")
    with tempfile.TemporaryDirectory() as name:
        for i in range(args.kills + 1):
            seconds = rng.uniform(0, 0.6) if i < args.kills else 600
            with running(args.model, Path(name), args.threads) as (process, client):
                batch = client.batches.retrieve(batch.id) if batch else begin(client, args.lines)
                before = n_done(batch)
                batch = work(client, batch, seconds)
                if i < args.kills:
                    process.kill()
                    process.wait()
                    moment = f"{seconds:6.3f} s"
                else:
                    found = wrong(client, batch, args.lines)
                    moment = "not killed"
            print(
                f"{i:5}  {moment:>12}  {before:12}  {n_done(batch):16}   {batch.status}", flush=True
            )
    print(f"{args.lines} lines: " + ("; ".join(found) or "each once, in order"))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
