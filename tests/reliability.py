"""What the reliability tests have seen, for docs/reliability.md.

``GPS_RELIABILITY=rows.jsonl pytest ...`` writes a line per row, ``python -m tests.reliability rows.jsonl`` prints them
as a table.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

__all__ = ["record"]


def record(done: str, said: str, code: int | None, seconds: float) -> None:
    """``done`` is what was done to the run, ``said`` its last line or the one that matters, ``seconds`` from then to
    the end of the process. The test at hand is known to pytest."""
    file = os.environ.get("GPS_RELIABILITY")
    if file is None:
        return
    test = os.environ["PYTEST_CURRENT_TEST"].partition("[")[0].partition(" ")[0]
    row = {"done": done, "said": said, "code": code, "seconds": round(seconds, 1), "test": test}
    with Path(file).open("a") as lines:
        lines.write(json.dumps(row) + "\n")


def table(rows: list[dict[str, object]]) -> str:
    """Markdown; of repeated rows the newest."""
    newest = {(row["test"], row["done"]): row for row in rows}
    lines = ["| what was done | what was said | exit code | seconds | test |", "|---|---|---|---|---|"]
    for row in newest.values():
        said = " ".join(str(row["said"]).split()).replace("|", "\\|")
        file, _, name = str(row["test"]).partition("::")
        cells = (row["done"], f"`{said}`", row["code"], row["seconds"], f"`{Path(file).name}::{name}`")
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table([json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]))
