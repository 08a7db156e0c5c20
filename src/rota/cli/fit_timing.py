"""``rota fit-timing``: a timing model from measured iterations."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rota.worlds.serving.timing.fit import Fit


def fit_timing(
    csv: Annotated[
        Path,
        typer.Argument(
            help="measured iterations: a column `seconds` and features such as prefill_tokens, decodes, decode_context; "
            "or the folder of a recording of rota route"
        ),
    ],
    out: Annotated[Path | None, typer.Option("--out", help="write the scenario's `timing` here as YAML")] = None,
    seed: Annotated[int, typer.Option("--seed", help="which rows are held out to judge the fit")] = 1,
) -> None:
    """Fit the linear timing model to measured iterations and print its held-out error."""
    from rota.kernel.errors import InputError
    from rota.worlds.serving.timing.fit import fit

    if csv.is_dir():
        text, said = _of_recording(csv, seed)
    else:
        found = fit(csv, seed)
        text, said = found.yaml(), _judged(found)
    if out is not None:
        try:
            out.write_text(text, encoding="utf-8")
        except OSError as error:
            raise InputError(f"{out}: cannot be written ({error.strerror})") from None
    typer.echo(text, nl=False)
    typer.echo(said)


def _judged(found: "Fit") -> str:
    return (
        f"# {found.rows} iterations; error on {found.held_out} held-out ones: "
        f"median {found.median_error:.1%}, p90 {found.p90_error:.1%}"
    )


def _of_recording(folder: Path, seed: int) -> tuple[str, str]:
    """A group of a fleet for each backend of a recording, and how well each fits."""
    from rota.worlds.serving.recording import rows
    from rota.worlds.serving.timing.recorded import fit_recording

    fits = fit_recording(rows(folder), seed)
    lines = ["fleet:"]
    for name, found in fits.items():
        values = ", ".join(f"{key}: {value:.6g}" for key, value in found.coefficients.items())
        lines.append(f"  - timing: {{linear: {{{values}}}}}  # {name}; add model and gpu")
    said = [
        f"# {name}: {found.rows} decodes and prefills; error on {found.held_out} held-out ones: "
        f"median {found.median_error:.1%}, p90 {found.p90_error:.1%}"
        for name, found in fits.items()
    ]
    return "\n".join(lines) + "\n", "\n".join(said)
