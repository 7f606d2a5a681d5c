"""Ours and its peers, side by side: see benchmarks/README.md."""

from __future__ import annotations

import re
import shlex
import sys
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import click
import yaml
from rich.console import Console
from tokenizers import Tokenizer

from artifacts.manifest import MANIFEST_NAME
from benchmarks.peers.engines import ENGINES, VARIANTS
from benchmarks.peers.environments import SetupFailed, default_home, set_up
from benchmarks.peers.exports import float_folder, model_folder
from benchmarks.peers.float_model import RANDOM_MIXTURE, RANDOM_SHAPE, random_model
from benchmarks.peers.record import Record, without_folders
from benchmarks.peers.run import Options, Run, bundle_contender, prepare
from benchmarks.peers.table import compare, comparisons_grid, medians_grid
from benchmarks.peers.uniform_bundle import make_uniform_bundle
from benchmarks.peers.worker_process import WorkerError
from benchmarks.peers.works import FULL, QUICK, Prompts
from kernels.cpu.host import host

RESULTS = Path(__file__).parents[1] / "results"
_PATH = click.Path(path_type=Path)
_EXISTING = click.Path(exists=True, path_type=Path)

home_option = click.option("--home", type=_PATH, default=default_home, help="Where environments and exported weights lie.")
model_option = click.option(
    "--model", type=_EXISTING, required=True, help="A .gguf file or a Hugging Face folder, Llama or Mixtral."
)
degrid_option = click.option(
    "--degrid",
    "degrid_seed",
    type=int,
    help="Compare on the function-preserving twin whose weights lie on no grid, of this seed.",
)
engine_option = click.option("--engine", "engines", multiple=True, type=click.Choice(list(ENGINES)), help="Only these peers.")


@click.group()
def peers() -> None:
    """Measure bundles of ours against llama.cpp, OpenVINO GenAI, ONNX Runtime GenAI and vLLM CPU."""


@peers.command()
@home_option
@engine_option
def setup(home: Path, engines: tuple[str, ...]) -> None:
    """Set up each peer's environment; one that is there and works is left alone."""
    failed = False
    for name in engines or ENGINES:
        try:
            click.echo(f"{ENGINES[name].title}: {set_up(ENGINES[name], home)}")
        except SetupFailed as error:
            failed = True
            click.echo(f"{ENGINES[name].title}: {error}", err=True)
    sys.exit(failed)


@peers.command("random")
@click.argument("folder", type=_PATH)
@click.option("--tokenizer", type=_EXISTING, required=True, help="The model whose tokenizer it gets.")
@click.option("--experts", "has_experts", is_flag=True, help="A Mixtral of 990 M parameters, 32 experts, 4 for each token.")
@click.option("--seed", type=int, default=0, show_default=True)
def random_command(folder: Path, tokenizer: Path, has_experts: bool, seed: int) -> None:
    """Write the second shape, a Llama of random weights and about 490 M parameters, to FOLDER."""
    random_model(tokenizer, folder, RANDOM_MIXTURE if has_experts else RANDOM_SHAPE, seed)


@peers.command()
@model_option
@degrid_option
@home_option
@click.option("--scheme", required=True, help="Of every linear layer, for instance int4-g32-asym-a8.")
@click.option("--embed", help="Of the embedding and the head; by default the same.")
@click.option("--quantization", default="{}", help="model.yaml's, as YAML or JSON: '{transform: smoothquant}'.")
@click.option("--kv-cache", help="Dtype of the KV cache; by default the first that loses little.")
@click.option("--out", type=_PATH, required=True)
def bundle(
    model: Path,
    degrid_seed: int | None,
    home: Path,
    scheme: str,
    embed: str | None,
    quantization: str,
    kv_cache: str | None,
    out: Path,
) -> None:
    """Make a bundle of ours with one scheme throughout, from the same float weights."""
    given = yaml.safe_load(quantization)
    if not isinstance(given, dict):
        raise click.BadParameter(f"must be a mapping such as {{transform: smoothquant}}, got {quantization!r}")
    click.echo(make_uniform_bundle(float_folder(home, model, degrid_seed), scheme, embed, out, given, kv_cache))


@peers.command()
@model_option
@degrid_option
@home_option
@engine_option
@click.option("--bundle", "bundles", multiple=True, metavar="NAME=DIR", help="A bundle of ours from the same weights; several.")
@click.option("--text", type=_EXISTING, required=True, help="Text that KL is measured on and prompts are taken from.")
@click.option("--threads", "num_threads", type=int, default=host().num_cores, show_default=True, help="Of every engine.")
@click.option("--rounds", "num_rounds", type=int, default=7, show_default=True, help="That count; a warm-up comes before them.")
@click.option("--kl-sequences", type=int, default=16, show_default=True)
@click.option("--kl-tokens", type=int, default=128, show_default=True)
@click.option("--bits", multiple=True, type=int, help="Only peers of these weight widths.")
@click.option(
    "--work", "only_works", multiple=True, type=click.Choice([w.name for w in FULL]), help="Only these kinds of work."
)
@click.option("--quick", is_flag=True, help="A few tokens of everything: shows that every engine works.")
@click.option("--resume", is_flag=True, help="Go on with the file at --out: turns that it has are not taken again.")
@click.option("--out", type=_PATH, help="The result file; by default benchmarks/results/DATE-peers-MODEL-CPU.json.")
def run(
    model: Path,
    degrid_seed: int | None,
    home: Path,
    engines: tuple[str, ...],
    bundles: tuple[str, ...],
    text: Path,
    num_threads: int,
    num_rounds: int,
    kl_sequences: int,
    kl_tokens: int,
    bits: tuple[int, ...],
    only_works: tuple[str, ...],
    quick: bool,
    resume: bool,
    out: Path | None,
) -> None:
    """Set up, export, score and measure; write every sample and print the tables."""
    home = home.absolute()
    console, now = Console(stderr=True, highlight=False), datetime.now(UTC)
    exports = model_folder(home, model, degrid_seed)
    source = float_folder(home, model, degrid_seed)
    if quick:
        num_rounds, kl_sequences, kl_tokens = 1, 4, 32
    named = [_named(given) for given in bundles]
    setting = {
        "command": without_folders(shlex.join(["python", "-m", "benchmarks.peers", *sys.argv[1:]])),
        "date": now.isoformat(timespec="seconds"),
        "cpu": host().model,
        "num_cores": host().num_cores,
        "cpu_flags": sorted(flag for flag in host().flags if re.match(r"avx|amx|fma|f16c", flag)),
        "num_threads": num_threads,
        "model": exports.name,
        "degrid_seed": degrid_seed,
        "text": text.name,
        "is_quick": quick,
        "kl": {"num_sequences": kl_sequences, "tokens_per_sequence": kl_tokens},
        "bundles": {name: sha256((folder / MANIFEST_NAME).read_bytes()).hexdigest() for name, folder in named},
    }
    works = QUICK if quick else FULL
    out = out or RESULTS / f"{now:%Y-%m-%d}-peers-{_slug(exports.name.rpartition('-')[0])}-{_slug(host().model)}.json"
    try:
        record = Record.read(out).resumed(setting) if resume and out.exists() else Record(setting, works)
    except ValueError as error:
        raise click.BadParameter(f"{out}: {error}; give another --out or remove --resume") from error
    contenders = [bundle_contender(name, folder, record) for name, folder in named]
    variants = [v for v in VARIANTS if (not engines or v.engine in engines) and (not bits or v.bits in bits)]
    contenders += prepare(variants, exports, home, record, console)
    options = Options(num_threads, num_rounds, kl_sequences, kl_tokens, logs=exports / "logs", results=out)
    runner = Run(record, contenders, options, console)
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    try:
        runner.score(source, text, exports)
        prompts = Prompts(tokenizer.encode(text.read_text(encoding="utf-8"), add_special_tokens=False).ids)
        runner.measure(prompts, [work for work in works if not only_works or work.name in only_works])
    except (WorkerError, ValueError) as error:
        # Of an engine it would be in the record: this is the reference, or a text that is too short.
        raise click.ClickException(str(error)) from error
    _show(record)
    console.print(f"written: {options.results}", markup=False, soft_wrap=True)


@peers.command()
@click.argument("result", type=_EXISTING)
def table(result: Path) -> None:
    """Print the tables of a result file."""
    _show(Record.read(result))


def _show(record: Record) -> None:
    """On a terminal, tables; elsewhere and below them, the same in markdown."""
    console = Console()
    grids = (medians_grid(record), comparisons_grid(compare(record)))
    if console.is_terminal:
        for grid in grids:
            console.print(grid.rich())
    for grid in grids:
        click.echo(f"\n{grid.markdown()}")
    for entry in record.entries.values():
        for error in entry.errors:
            click.echo(f"\n{entry.name}: {error}")


def _named(given: str) -> tuple[str, Path]:
    name, equals, folder = given.partition("=")
    if not (name and equals and Path(folder).is_dir()):
        raise click.BadParameter(f"--bundle must be NAME=DIR with a bundle at DIR, got {given!r}")
    return name, Path(folder)


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")


if __name__ == "__main__":
    peers()
