"""Fashion-MNIST's 10,000 test pictures."""

import gzip
import hashlib
import shutil
import zlib
from pathlib import Path
from tempfile import TemporaryDirectory

from ddattr.data.fetching.apt import unpacked
from ddattr.data.fetching.whole import whole

_PACKAGE = "dataset-fashion-mnist"
_INSTALLED = Path("/")
_PLACE = "usr/share/datasets/fashion-mnist"
_FILES = {  # SHA-256 of what is in them: packages compress the same bytes in their own way
    "t10k-images-idx3-ubyte.gz": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte.gz": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


def fashion(folder: str) -> None:
    """Puts the test files of Fashion-MNIST into a folder: pictures of 28 x 28, 1,000 of each of ten kinds of clothes.

    From Debian's package, where it is installed; else apt brings it.

    Raises:
        FileNotFoundError, ValueError: there is no apt, or no network; a file is not what it was; the folder is there
            and holds something else.
    Source: Xiao, Rasul & Vollgraf 2017, arXiv 1708.07747.
    """
    with whole(Path(folder), {"data": "fashion"}) as part:
        if part is not None:
            with TemporaryDirectory(prefix="ddattr-") as room:
                files = _INSTALLED / _PLACE
                if not all((files / name).is_file() for name in _FILES):
                    files = unpacked(_PACKAGE, 31, Path(room)) / _PLACE
                for name, expected in _FILES.items():
                    _check(files / name, expected)
                    shutil.copyfile(files / name, part / name)
            (part / "LICENCES").write_text(f"Fashion-MNIST, Zalando SE, MIT; from Debian's {_PACKAGE}\n")


def _check(path: Path, expected: str) -> None:
    try:
        found = hashlib.sha256(gzip.decompress(path.read_bytes())).hexdigest()
    except (EOFError, OSError, zlib.error):
        found = "missing or damaged"
    if found != expected:
        raise ValueError(f"fetch: {path.name} of {_PACKAGE} is {found}, expected SHA-256 {expected}. It was not used.")
