"""What a command shows of an error: one line of a user's, the traceback of a bug."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

from artifacts.errors import UserError
from kernels.refusal import Refusal

_A_BUG = "This is a bug in coldforge, not in what you gave it: please report the command and all the above to its maintainers."


@contextmanager
def shown_to_user(shown: type[click.ClickException] = click.ClickException) -> Iterator[None]:
    """A command's work: what its user can put right ends it with one line, a bug with its traceback and a note.

    `shown` has the exit code.
    """
    try:
        yield
    except (UserError, Refusal, OSError) as error:
        raise shown(str(error)) from error
    except (click.ClickException, click.exceptions.Exit, click.Abort):
        raise
    except Exception as error:
        error.add_note(_A_BUG)
        raise
