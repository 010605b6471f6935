"""Tables of contestants beside each other, in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

OFF = 1e-3


def table(cells: Sequence[dict[str, Any]]) -> str:
    """The results in Markdown; ``off`` is the distance from the hypergradient of the loop by hand, PyTorch's first.

    Memory on the GPU has a column where there was one: what a library's pool took from the card, CUDA's own share, some
    500 MB a process, left out.
    """
    on_gpu = any("gpu_mb" in row for cell in cells for row in cell["contestants"].values())
    heads = ["problem", "chain", "K", "contestant", "ms a step", "jboat / it", "off", "peak MB"]
    heads += ["peak GPU MB"] * on_gpu + ["kernels", "first step s"]
    lines = [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
    for cell in cells:
        for name, row in cell["contestants"].items():
            start = [str(cell["problem"]), str(cell["chain"]), str(cell["lower_iters"]), name]
            lines.append(f"| {' | '.join([*start, *_numbers(row, on_gpu)])} |")
    return "\n".join(lines)


def _numbers(row: dict[str, Any], on_gpu: bool) -> list[str]:
    if "failed" in row:
        return [f"failed: {row['failed'][:100].replace('|', '/')}", *[""] * (5 + on_gpu)]
    off = f"{row['off']:.1e}{'' if row['off'] <= OFF else ' **differs**'}" if "off" in row else ""
    ms, ratio = ("not yet", "") if "ms" not in row else (f"{row['ms']:.1f}", f"{row['jboat_ratio'] or 0:.2f}")
    memory = [f"{row['peak_mb']:.0f}" if "peak_mb" in row else ""]
    memory += [f"{row['gpu_mb']:.0f}" if "gpu_mb" in row else ""] * on_gpu
    kernels = f"{row['kernels']:.0f}" if row.get("kernels") else ""
    return [ms, ratio, off, *memory, kernels, f"{row['first_s']:.1f}" if "first_s" in row else ""]


def summary(cells: Sequence[dict[str, Any]], others: Sequence[str]) -> str:
    """The time of jboat over that of each contestant: ``x`` where that failed, ``!`` where its gradient is off.

    Args:
        cells: the results.
        others: the contestants besides jboat.
    """
    lines = [
        f"| problem | chain | K | jboat ms | {' | '.join(others)} | peak MB, jboat and boat-jit | kernels, both |",
        "| --- " * (6 + len(others)) + "|",
    ]
    for cell in cells:
        rows = cell["contestants"]
        ours, peer = rows.get("jboat", {}), rows.get("boat_jit", {})
        if "ms" not in ours:
            continue
        ratios = " | ".join(_ratio(rows.get(other)) for other in others)
        memory = f"{ours['peak_mb']:.0f}, {peer['peak_mb']:.0f}" if "peak_mb" in peer else f"{ours['peak_mb']:.0f}"
        kernels = f"{ours['kernels']:.0f}, {peer['kernels']:.0f}" if "kernels" in peer else f"{ours['kernels']:.0f}"
        head = f"| {cell['problem']} | {cell['chain']} | {cell['lower_iters']} | {ours['ms']:.1f} |"
        lines.append(f"{head} {ratios} | {memory} | {kernels} |")
    return "\n".join(lines)


def _ratio(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    if "failed" in row:
        return "x"
    return f"{row['jboat_ratio']:.2f}{'' if row['off'] <= OFF else '!'}"
