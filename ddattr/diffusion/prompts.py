"""Prompts as a pipeline's text encoder has them. Apart from `text`, whose VAE takes time to import."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ddattr.diffusion.pretrained import fetched, model_folder


class Texts:
    """A pipeline's tokenizer and text encoder, frozen and on the CPU.

    Raises:
        FileNotFoundError, ValueError: as `text.unet`; transformers is not installed.
    """

    def __init__(self, path: str):
        try:
            from transformers import CLIPTextModel, CLIPTokenizer
            from transformers.utils import logging
        except ImportError:
            raise ValueError(
                "unet: text needs the library transformers. Install it: pip install 'ddattr[text]', or set another "
                "unet."
            ) from None
        place = model_folder(path, "text_encoder", "CLIPTextModel", "model")
        words = fetched(path) / "tokenizer"
        if not any((words / name).is_file() for name in ("vocab.json", "tokenizer.json")):
            raise FileNotFoundError(
                f"unet: {words} holds no vocab.json, expected the tokenizer of a pipeline. Set unet.path."
            )
        logging.disable_progress_bar()
        self.tokenizer = CLIPTokenizer.from_pretrained(words, local_files_only=True)
        self.encoder = CLIPTextModel.from_pretrained(
            place, use_safetensors=True, local_files_only=True, dtype=torch.float32
        )
        self.encoder.eval().requires_grad_(False)
        self.most = min(self.tokenizer.model_max_length, self.encoder.config.max_position_embeddings)

    def check(self, prompts: Sequence[str], key: str) -> None:
        """Refuses prompts that the encoder would cut.

        Args:
            key: of the config, where they are from.
        Raises:
            ValueError: names the first of them.
        """
        for prompt in dict.fromkeys(prompts):
            if (count := len(self.tokenizer(prompt).input_ids)) > self.most:
                group, _, name = key.partition(".")
                raise ValueError(
                    f"{group}: {name} has a prompt of {count} tokens, '{prompt[:40]}...', expected at most {self.most} "
                    f"with its start and end. Shorten it: {key}."
                )

    @torch.no_grad()
    def embed(self, prompts: Sequence[str]) -> Float[Tensor, "prompts tokens width"]:
        """Hidden states of the encoder's last layer, of prompts that are padded to its length."""
        given = self.tokenizer(list(prompts), padding="max_length", max_length=self.most, return_tensors="pt")
        with torch.inference_mode(False), torch.no_grad():
            return torch.cat([self.encoder(part)[0] for part in given.input_ids.split(32)])
