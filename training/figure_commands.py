"""``python -m training figure NAME``: figures of stored evaluations, each as PNG and SVG."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from piaa_sdk.errors import ModelNotFoundError, RatingError
from training import cli_options as options
from training.command_inputs import people_to_judge, read_data
from training.data.datasets import TABLE
from training.evaluation_record import Evaluation
from training.figures import calibration, curve, examples, grid, hard_users, users
from training.figures.style import save, stem_of
from training.folder_writing import write_file
from training.user_scores import UserScores

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure as Drawing

    from training.data.ratings import RatingTable
    from training.evaluation_record import Conditions

_MOST_METHODS = 2

app = typer.Typer(no_args_is_help=True, help="Draw figures of stored evaluations, each as PNG and SVG.")

Stored = Annotated[list[Path], typer.Argument(help="JSON files that judge, evaluate and table wrote.")]


def _figure_name(output: Path) -> Path:
    """Refuse the name of a record before anything is read or drawn."""
    stem_of(output)
    return output


Output = Annotated[
    Path, typer.Argument(help="File for the figure; .png and .svg are written.", callback=_figure_name)
]
Shots = Annotated[
    int | None, typer.Option(min=1, help="M. The largest that all were judged with by default.")
]


@app.command("users")
def draw_users(evaluations: Stored, output: Output, shots: Shots = None) -> None:
    """Fig. 4: prior against personalized SROCC of each user, for one method or two."""
    if len(evaluations) > _MOST_METHODS:
        raise RatingError(f"{len(evaluations)} evaluations are given; this figure has place for one or two")
    found = load_all(evaluations)
    save_figure(users.draw_users(found, _shots(found, shots)), output)


@app.command("grid")
def draw_grid(evaluations: Stored, output: Output, shots: Shots = None) -> None:
    """Fig. 5: SROCC over k and S for each split; takes the folder of the grid command, too."""
    found = load_all(evaluations)
    save_figure(grid.draw_grid(found, _shots(found, shots)), output)


@app.command("curve")
def draw_curve(evaluations: Stored, output: Output) -> None:
    """Draw the learning curve over M of all methods, of evaluations judged with --curve."""
    save_figure(curve.draw_curves(load_all(evaluations)), output)


@app.command("calibration")
def draw_calibration(evaluations: Stored, output: Output, shots: Shots = None) -> None:
    """Show what intervals by the predicted standard deviations promise against what they hold."""
    found = load_all(evaluations)
    save_figure(calibration.draw_calibration(found, _shots(found, shots)), output)


@app.command("hard-users")
def draw_hard_users(
    evaluation: Annotated[Path, typer.Argument(help="JSON file that judge, evaluate or table wrote.")],
    ratings: options.Folder,
    output: Output,
    format: options.Format = TABLE,
    shots: Shots = None,
    count: Annotated[int, typer.Option(min=1, help="Hardest and easiest users to list.")] = 5,
) -> None:
    """Fig. 11: which users are hard, and why; its tables are written beside the figure, as .md."""
    stored = Evaluation.load(evaluation)
    shots = _shots([stored], shots)
    found = hard_users.hard_users(stored, judged_table(stored.conditions, ratings, format), shots)
    tables = (hard_users.hard_users_table(found, count), hard_users.relations_table(found))
    listed = "\n\n".join(table.to_markdown() for table in tables)
    typer.echo(listed)
    stem = stem_of(output)
    beside = stem.with_name(f"{stem.name}.md")
    write_file(beside, listed + "\n")
    options.say(f"wrote {beside}")
    save_figure(hard_users.draw_hard_users(found, shots, count), output)


@app.command("examples")
def draw_examples(
    one: Annotated[Path, typer.Argument(help="JSON file that the command scores wrote of one method.")],
    other: Annotated[Path, typer.Argument(help="Another method's, of the same user and repeat.")],
    pictures: Annotated[Path, typer.Argument(help="Folder that the names of the images are relative to.")],
    output: Output,
    count: Annotated[int, typer.Option("--pictures", min=2, help="How many, half for each method.")] = 8,
) -> None:
    """Fig. 6: pictures that one of two methods scores much more like the user than the other does."""
    save_figure(examples.draw_examples(UserScores.load(one), UserScores.load(other), pictures, count), output)


def load_all(paths: Sequence[Path]) -> list[Evaluation]:
    """Read evaluations; of a folder, all that lie in it, in the order of their names.

    Raises:
        ModelNotFoundError: A folder holds none.
        ModelFormatError: A file is none.
    """
    found: list[Evaluation] = []
    for path in paths:
        files = sorted(path.glob("*.json")) if path.is_dir() else [path]
        if not files:
            raise ModelNotFoundError(
                f"{path} holds no evaluation (*.json); write some with python -m training judge --output FILE"
            )
        found += map(Evaluation.load, files)
    return found


def judged_table(conditions: Conditions, folder: Path, format: str) -> RatingTable:
    """Read the ratings that an evaluation was judged on: the groups of a table, else the test users.

    Args:
        conditions: Of the evaluation.
        folder: Of the data set.
        format: Its layout.
    """
    groups = conditions.groups if format == TABLE else None
    return people_to_judge(read_data(format, folder, conditions.rating_scale, groups))


def save_figure(figure: Drawing, output: Path) -> Path:
    """Write a figure as PNG and SVG, say so, and return the PNG's path."""
    png, svg = save(figure, output)
    options.say(f"wrote {png} and {svg}")
    return png


def register(program: typer.Typer) -> None:
    """Add the commands to a program."""
    program.add_typer(app, name="figure")


def _shots(evaluations: Sequence[Evaluation], asked: int | None) -> int:
    """Return the M that a figure shall show.

    Raises:
        RatingError: None is asked for, and there is none that all were judged with.
    """
    if asked is not None:
        return asked
    common = set.intersection(*(set(evaluation.conditions.shots) for evaluation in evaluations))
    if not common:
        raise RatingError(
            "the evaluations have no M in common; judge the methods alike, with the same --shots"
        )
    return max(common)
