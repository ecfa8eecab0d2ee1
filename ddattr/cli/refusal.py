"""Input that cannot be used costs one line: what was got, what was expected, what to do."""

import errno
import re

from hydra.errors import HydraException, InstantiationException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from ddattr.cli.keys import beside_key, meant_key
from ddattr.schema import raised_here
from ddattr.spelling import meant, nearest

_REMEDY = "Set root= to a folder that you may write to."
_REMEDIES = {
    **dict.fromkeys(
        (errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "Make room, and run the same again: what was done is kept."
    ),
    errno.ENOLCK: "Set root= to a folder whose file system has locks, or let one machine at a time work there.",
}


class Refusal(Exception):
    """Input that cannot be used, in one line; travels between the processes of a sweep."""


def refusal(error: BaseException) -> str | None:
    """The line of an error that is the input's fault; None for a bug, which keeps its traceback.

    Ours to refuse are ValueErrors raised in this package's own lines, and whatever the file system refuses.
    """
    while error.__cause__ is not None and isinstance(error, InstantiationException):
        error = error.__cause__
    if isinstance(error, Refusal):
        return str(error)
    if isinstance(error, HydraException | OmegaConfBaseException):
        return f"config: {one_line(error)}"
    if isinstance(error, FileNotFoundError | ValueError) and raised_here(error):
        return one_line(error)
    if str(error).startswith("Config group override must be a string"):  # a plain ValueError of Hydra's
        return "config: a group is set to null (KEY=null), expected one of its names. Leave it out, or type '~KEY'."
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}. {_REMEDIES.get(error.errno or 0, _REMEDY)}"
    return None


def one_line(error: BaseException) -> str:
    """An error's message without line breaks; of Hydra's, what its user can do, which `+` before a key is not."""
    text = " ".join(str(error).split())
    if isinstance(error, OverrideParseException):
        return f"override {error.override} cannot be read, expected key=value. A list is typed in quotes: 'key=[1,2]'."
    if "Could not load 'hydra/launcher/submitit_slurm'" in text:  # on which `slurm` builds
        return "hydra/launcher=slurm needs submitit, and it is not there. Install the extra: pip install -e '.[slurm]'"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, option = error.missing_cfg_file.rpartition("/")
        known = nearest(option, error.options)
        return (
            f"{group}={option} is unknown, expected one of {', '.join(error.options)}."
            f"{meant(known and f'{group}={known}') or f' Set {group}.'}"
        )
    if unknown := re.match(r"Could not override '(.*?)'\.", text):
        return _unknown(unknown[1])
    return text.partition(" Config search path")[0]


def _unknown(key: str) -> str:
    expected = beside_key(key)
    one_of = f", expected one of {', '.join(expected)}" if expected else ""
    return f"key {key} is unknown{one_of}.{meant(*meant_key(key)) or ' List the keys: ddattr plan --cfg job'}"
