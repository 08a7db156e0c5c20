"""``rota fit-timing``: a timing model from measured iterations."""

from pathlib import Path
from typing import Annotated

import typer


def fit_timing(
    csv: Annotated[
        Path,
        typer.Argument(
            help="measured iterations: a column `seconds` and features such as prefill_tokens, decodes, decode_context"
        ),
    ],
    out: Annotated[Path | None, typer.Option("--out", help="write the scenario's `timing` here as YAML")] = None,
    seed: Annotated[int, typer.Option("--seed", help="which rows are held out to judge the fit")] = 1,
) -> None:
    """Fit the linear timing model to measured iterations and print its held-out error."""
    from rota.kernel.errors import InputError
    from rota.worlds.serving.timing.fit import fit

    found = fit(csv, seed)
    text = found.yaml()
    if out is not None:
        try:
            out.write_text(text, encoding="utf-8")
        except OSError as error:
            raise InputError(f"{out}: cannot be written ({error.strerror})") from None
    typer.echo(text, nl=False)
    typer.echo(
        f"# {found.rows} iterations; error on {found.held_out} held-out ones: "
        f"median {found.median_error:.1%}, p90 {found.p90_error:.1%}"
    )
