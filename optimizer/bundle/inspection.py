"""What a bundle says about itself, for a person."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from artifacts.layer_groups import kind_of
from artifacts.reader import read_manifest, verify_bundle


def verify_and_report(folder: Path) -> None:
    """Check every file; BundleError at the first that does not verify."""
    verify_bundle(folder)
    manifest = read_manifest(folder)
    size = sum(record.size for record in manifest.files.values())
    print(f"{folder}: {len(manifest.files)} files, {size:,} bytes, digest {manifest.digest[:16]}: verified")


def describe(folder: Path) -> None:
    """Print identity, precision, kernels, limits and accuracy. BundleError if the manifest does not verify."""
    manifest = read_manifest(folder)
    console = Console()
    console.print(f"[bold]{manifest.name}[/bold]  {manifest.architecture.family}, format {manifest.format_version}")
    facts = Table(show_header=False, box=None, pad_edge=False)
    facts.add_row("target", f"{manifest.target.device} ({manifest.target.isa})")
    facts.add_row("digest", manifest.digest)
    facts.add_row(
        "size", f"{sum(record.size for record in manifest.files.values()) / 1e6:,.1f} MB in {len(manifest.files)} files"
    )
    facts.add_row("KV cache", f"{manifest.precision.kv_cache}, blocks of {manifest.serving.kv_block_size}")
    for name, limit in manifest.serving.model_dump().items():
        facts.add_row(name, str(limit))
    for kernels in manifest.kernels:
        facts.add_row(f"kernels ({kernels.backend})", ", ".join(f"{k}={v}" for k, v in sorted(kernels.constants.items())))
    console.print(facts)

    schemes: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for group, scheme in manifest.precision.groups.items():
        schemes[kind_of(group)][scheme] += 1
    precision = Table("layer groups", "schemes")
    for kind, counts in schemes.items():
        precision.add_row(kind, ", ".join(f"{count} x {scheme}" for scheme, count in counts.most_common()))
    console.print(precision)

    evaluation = folder / "evaluation.json"
    if "evaluation.json" in manifest.files and evaluation.is_file():
        for name, record in json.loads(evaluation.read_text())["sets"].items():
            kl = record["kl"]
            console.print(f"{name}: KL {kl['value']:.4f} nats ({kl['low']:.4f} to {kl['high']:.4f})")
