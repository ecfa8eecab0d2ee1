"""The beginning of another source."""

from ddattr.data.source import Source


def first(source: Source, count: int) -> Source:
    """The first pictures of a source, for small experiments.

    Raises:
        ValueError: the source has fewer.
    """
    if not 1 <= count <= len(source.images):
        raise ValueError(f"data: count={count}, expected 1 to {len(source.images)}. Set data.source.count.")
    return source.at(slice(count))
