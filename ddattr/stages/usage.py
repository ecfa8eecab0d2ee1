"""The code of a model card: how plain diffusers loads an export, makes pictures, and replays one of ours."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from ddattr.diffusion.noise import Stream
from ddattr.diffusion.pipeline import scheduler
from ddattr.stages.run import Run

_LOAD = """import torch
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained("FOLDER"{trust})
pictures = pipeline(batch_size=4, num_inference_steps={steps}{drawn}).images"""
_TAPE = """import numpy as np
from diffusers import DDIMScheduler

def tape(seed, step, shape={shape}):
    key = np.array([seed, {stream}], np.uint64)
    draw = np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, step]))
    return torch.from_numpy(draw.standard_normal(shape, np.float32))[None]

"""
_REPLAY = """scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
scheduler.set_timesteps({steps})
x = tape({seed}, 0)
with torch.no_grad():
    for i, t in enumerate(scheduler.timesteps[:{steps}]):
        out = pipeline.unet(x, t).sample
        x = scheduler.step(out, t, x, eta={eta}, variance_noise=tape({seed}, i + 1)).prev_sample"""

_PROMPTED_LOAD = """import torch
from diffusers import {kind}, StableDiffusionPipeline

scheduler = {kind}.from_pretrained("FOLDER", subfolder="scheduler")
pipeline = StableDiffusionPipeline.from_pretrained({base!r}, scheduler=scheduler, safety_checker=None)
{adapters}
asked = {{"height": {height}, "width": {width}, "num_inference_steps": {steps}, "guidance_scale": {guidance}}}
picture = pipeline({prompt!r}, **asked{drawn}).images[0]"""
_ONE = 'pipeline.load_lora_weights("FOLDER")'
_MEAN = """names = [f"{{k:03d}}" for k in range({count})]
for name in names:
    pipeline.load_lora_weights("FOLDER/lora", weight_name=f"{{name}}.safetensors", adapter_name=name)
one = pipeline.unet.forward

def mean(*given, **options):
    total = 0
    for name in names:
        pipeline.set_adapters(name)
        total = total + one(*given, **options)[0]
    return (total / len(names),)

pipeline.unet.forward = mean
"""
_PROMPTED_REPLAY = """pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
step, noise = pipeline.scheduler.step, iter([tape({seed}, i + 1) for i in range({steps})])

def on_tape(out, t, x, **_):
    return step(out, t, x, eta={eta}, variance_noise=next(noise), return_dict=False)

pipeline.scheduler.step = on_tape
x = pipeline({prompt!r}, **asked, latents=tape({seed}, 0), output_type="latent").images"""


class Usage(NamedTuple):
    """What a card says of use.

    Args:
        tag: what the hub calls such a model.
        load: code that loads it and makes pictures.
        said: of what it loads.
        picture: what is the same again.
        replay: code, to go on after `load`, that makes it.
    """

    tag: str
    load: str
    said: str
    picture: str
    replay: str


def of_pipeline(run: Run, seed: int, adapters: Sequence[str], alone: bool) -> Usage:
    """Of a pipeline's folder.

    Args:
        seed: of the picture.
        adapters: names of files that hold members as LoRA, if they are.
        alone: one member, no mean.
    """
    options = _options(run, seed)
    trust = "" if alone else ", trust_remote_code=True"
    said = (
        ""
        if alone
        else "`unet/mean.py` is the class of the mean, some lines of torch: read them before you trust it.\n"
    )
    said += f"Values are in [-1, 1], {' x '.join(map(str, run.shape))}. Steps are the run's own; another number makes\n"
    said += "other pictures.\n"
    if adapters:
        said += (
            f"\n`unet/` is the base with the adapter in it. {_files(adapters)}: the adapter alone, as "
            "`load_lora_weights` and `load_lora_adapter` of diffusers take it, alpha in it.\n"
        )
    return Usage(
        "unconditional-image-generation",
        _LOAD.format(trust=trust, **options),
        said,
        f"the picture of seed {seed}",
        (_TAPE + _REPLAY).format(**options),
    )


def of_adapters(run: Run, seed: int, prompt: str, adapters: Sequence[str]) -> Usage:
    """Of adapters for a text-to-image pipeline.

    Args:
        seed, prompt: of the picture.
        adapters: names of their files.
    """
    _, height, width = run.data.shape
    options = _options(run, seed) | {
        "base": run.pretrained,
        "prompt": prompt,
        "height": height,
        "width": width,
        "guidance": f"{run.conditions.guidance:g}",
        "adapters": _ONE if len(adapters) == 1 else _MEAN.format(count=len(adapters)),
    }
    said = f"{_files(adapters)}: LoRA of the UNet, alpha in it. Steps and guidance are the run's own.\n"
    if len(adapters) > 1:
        said += "The ensemble is the mean of what the network says with each: as many evaluations a step.\n"
    return Usage(
        "text-to-image",
        _PROMPTED_LOAD.format(**options),
        said,
        f"the latents, {' x '.join(map(str, run.shape))}, of seed {seed}",
        (_TAPE + _PROMPTED_REPLAY).format(**options),
    )


def _options(run: Run, seed: int) -> dict[str, Any]:
    sampler = run.build("sampler")
    kind = type(scheduler(run.process, sampler)).__name__
    return {
        "shape": tuple(run.shape),
        "stream": int(Stream.TAPE),
        "steps": sampler.steps,
        "seed": seed,
        "kind": kind,
        "eta": f"{sampler.eta:g}",
        "drawn": f", eta={sampler.eta:g}" if kind == "DDIMScheduler" and sampler.eta else "",  # theirs is 0
    }


def _files(adapters: Sequence[str]) -> str:
    return adapters[0] if len(adapters) == 1 else f"{adapters[0]} to {adapters[-1].rpartition('/')[2]}"
