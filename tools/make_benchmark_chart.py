"""Draw docs/assets/throughput.svg from the tables of docs/benchmarks/report-*.md.

python tools/make_benchmark_chart.py        # needs matplotlib
"""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

DOCS = Path(__file__).resolve().parents[1] / "docs"
REPORTS = {"2 Xeon cores (AMX)": "report-xeon.md", "2 EPYC cores (AVX2)": "report-epyc.md"}
WORKLOADS = {"chat": "shared system prompt", "unshared": "nothing shared"}
# Contestants of the reports, with the labels of the chart, from top to bottom.
LABELS = {
    "llamaherd": "llamaherd",
    "one-at-a-time": "llamaherd, 1 request at a time",
    "openvino": "OpenVINO GenAI",
    "llama-cpp-python": "llama-cpp-python",
    "llamaherd-server": "llamaherd serve",
    "llama-server": "llama-server",
    "llama-server-tuned": "llama-server, 8 slots",
    "llama-cpp-python-server": "llama-cpp-python server",
    "xllamacpp": "xllamacpp server",
}
OURS, OTHERS = "#00897b", "#b0bec5"


def tokens_per_s(report: str, workload: str) -> dict[str, float]:
    """Median output tokens/s by contestant, 8 requests at once."""
    text = (DOCS / "benchmarks" / report).read_text(encoding="utf-8")
    section = re.search(rf"^## {workload}, 8 at once\n(.*?)(?=^## )", text, re.M | re.S)
    if section is None:
        raise SystemExit(f"{report} has no section '{workload}, 8 at once'")
    rows = re.findall(r"^\| ([\w-]+) \| ([\d,]+) \(", section[1], re.M)
    return {name: float(figure.replace(",", "")) for name, figure in rows}


def main() -> None:
    plt.rcParams |= {"svg.hashsalt": "llamaherd", "svg.fonttype": "none", "font.size": 9}
    figure, axes = plt.subplots(2, 2, figsize=(9, 6), sharey=True, layout="constrained")
    for row, (machine, report) in zip(axes, REPORTS.items(), strict=True):
        for axis, (workload, described) in zip(row, WORKLOADS.items(), strict=True):
            figures = tokens_per_s(report, workload)
            names = [name for name in LABELS if name in figures][::-1]
            colors = [OURS if name.startswith("llamaherd") else OTHERS for name in names]
            values = [figures[name] for name in names]
            bars = axis.barh([LABELS[name] for name in names], values, color=colors)
            axis.bar_label(bars, fmt="%.0f", padding=3)
            axis.set_title(f"{described}, {machine}", fontsize=9)
            axis.set_xlim(0, 1.15 * max(values))
            axis.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("output tokens per second, 8 requests at once (higher is better)", fontsize=9)
    # Opaque background for dark pages.
    figure.savefig(DOCS / "assets" / "throughput.svg", metadata={"Date": None}, facecolor="white")


if __name__ == "__main__":
    main()
