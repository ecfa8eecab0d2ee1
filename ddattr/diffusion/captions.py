"""Captions: prompts as conditions of members that make pictures of text."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from string import Formatter
from typing import Annotated, Any

import torch
from annotated_types import Ge, Interval
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ddattr.diffusion.conditions import Classes, Given, spread
from ddattr.diffusion.prompts import Texts


class Captions:
    """Prompts by number: those of the training pictures, in order of their text, and whatever else is asked.

    The null is the empty prompt, whose number is that of no picture's.

    Args:
        columns: text of every training picture, by the name of its column.
        texts: what embeds prompts.
        column: whose text is the prompt of a picture.
        template: of a prompt, with columns in braces; takes the place of `column`.
        dropout: share of the pictures of a training step that are shown under the empty prompt.
        guidance: of sampling, and wherever members are asked: 1 is none.
        queries: prompts of the run's own queries, in turn, null for the empty one; None: the captions of the data.
    Raises:
        ValueError: data without such a column, an empty caption, or a prompt of more tokens than the encoder takes.
    """

    def __init__(
        self,
        columns: Mapping[str, Sequence[str]],
        texts: Texts,
        column: str = "caption",
        template: str | None = None,
        dropout: Annotated[float, Interval(ge=0, le=1)] = 0.1,
        guidance: Annotated[float, Ge(0)] = 1.0,
        queries: Sequence[Any] | None = None,
    ):
        captions, key = _captions(columns, column, template)
        self._from = column, template
        texts.check(captions, key)
        self.texts = texts
        self.names = sorted(set(captions))
        self.dropout = dropout
        self.guidance = guidance
        self.queries = queries
        self.null = len(self.names)
        self.digest = hashlib.sha256(repr(captions).encode()).hexdigest()[:16]
        self._prompts = [*self.names, ""]
        self._numbers = {prompt: number for number, prompt in enumerate(self._prompts)}
        self._embedded: dict[int, Tensor] = {}
        self.labels = torch.tensor([self._numbers[caption] for caption in captions])
        _ = self.of_seeds([0], queries, "conditions.queries")

    def __deepcopy__(self, memo: Any) -> "Captions":
        return self  # an average of weights has the same

    def shown(
        self, images: Int[Tensor, "batch"], dropped: Bool[Tensor, "batch"]
    ) -> Float[Tensor, "batch tokens width"]:
        """What training pictures are shown under."""
        return self._embeddings(torch.where(dropped, self.null, self.labels[images]))

    def like_data(self, count: int) -> Int[Tensor, "count"]:
        """Numbers of pictures' prompts that compare with the data as a whole, each as often as there."""
        return self.labels[spread(count, len(self.labels))]

    def of_seeds(
        self, seeds: Sequence[int], wanted: Sequence[Any] | None = None, key: str = "queries.conditions"
    ) -> Int[Tensor, "q"]:
        """Numbers of the prompts of generated queries: those wanted, in turn; None: that of a seed is its own
        number's among the captions, whatever else is asked."""
        if wanted is None:
            return torch.tensor([seed % self.null for seed in seeds])
        return self.in_turn(wanted, len(seeds), key)

    def in_turn(self, wanted: Sequence[Any], count: int, key: str = "queries.conditions") -> Int[Tensor, "count"]:
        """Numbers of any prompts, over and over; None is the empty one.

        Raises:
            ValueError: no prompt at all, or one of too many tokens.
        """
        if not wanted:
            group, _, name = key.partition(".")
            raise ValueError(f"{group}: {name}=[], expected one prompt or more. Set {key}.")
        prompts = ["" if prompt is None else str(prompt) for prompt in wanted]
        self.texts.check(prompts, key)
        for prompt in prompts:
            if prompt not in self._numbers:
                self._numbers[prompt] = len(self._prompts)
                self._prompts.append(prompt)
        return torch.tensor([self._numbers[prompts[place % len(prompts)]] for place in range(count)])

    def of_columns(self, columns: Mapping[str, Sequence[str]], what: str = "pictures") -> Int[Tensor, "some"]:
        """Numbers of the captions of other pictures, from the column or by the template that the data's are from.

        Args:
            columns: their text.
            what: they are, in words.
        Raises:
            ValueError: one without a caption, or with one of too many tokens.
        """
        captions, key = _captions(columns, *self._from, what)
        return self.in_turn(captions, len(captions), key) if captions else torch.zeros(0, dtype=torch.long)

    def given(self, numbers: Int[Tensor, "q"]) -> Given:
        """Prompts by number as what networks are asked under."""
        return Given(self._embeddings(numbers), self._embeddings(torch.tensor([self.null]))[0], self.guidance)

    def words(self, numbers: Int[Tensor, "q"]) -> list[str]:
        """Prompts as tables have them; the empty one is `none`."""
        return [prompt or "none" for prompt in self.prompts(numbers)]

    def prompts(self, numbers: Int[Tensor, "q"]) -> list[str]:
        """Prompts by number as they are."""
        return [self._prompts[number] for number in numbers.tolist()]

    def unseen(self, owned: Iterable[Bool[Tensor, "images"]]) -> list[str]:
        """Nothing: words of a prompt are of many captions, and those of none are the base's."""
        return []

    def _embeddings(self, numbers: Int[Tensor, "q"]) -> Float[Tensor, "q tokens width"]:
        if new := [number for number in dict.fromkeys(numbers.tolist()) if number not in self._embedded]:
            made = self.texts.embed([self._prompts[number] for number in new])
            self._embedded |= dict(zip(new, made, strict=True))
        return torch.stack([self._embedded[number] for number in numbers.tolist()])


def _captions(
    columns: Mapping[str, Sequence[str]], column: str, template: str | None, what: str = "pictures"
) -> tuple[list[str], str]:
    """The caption of every picture, and the config key that they hang on."""
    key = "conditions.column" if template is None else "conditions.template"
    try:
        needed = [column] if template is None else [name for _, name, *_ in Formatter().parse(template) if name]
        for name in [name for name in needed if name not in columns][:1]:
            known = ", ".join(columns) or "it has none"
            raise ValueError(
                f"conditions: {key.partition('.')[2]} needs the text of {name}, expected a column of the data "
                f"({known}). Set {key}, or add the column to pictures.csv."
            )
        count = len(next(iter(columns.values()), []))
        texts = ["{" + column + "}" if template is None else template] * count
        captions = [
            text.format_map({name: columns[name][place] for name in needed}) for place, text in enumerate(texts)
        ]
    except (KeyError, IndexError, AttributeError) as error:
        raise ValueError(f"conditions: template={template}, expected columns in braces: {error}. Set {key}.") from None
    if empty := captions.count(""):
        raise ValueError(
            f"conditions: {empty} of {len(captions)} {what} have no caption, expected one of each. Set {key}."
        )
    return captions, key


Conditions = Classes | Captions  # what members may be conditioned on
