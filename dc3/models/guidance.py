"""Guidance in an interval of the steps: outside it the two unguided branches of InstructPix2Pix are not computed.

Interval guidance, arXiv 2404.07724; Step-AG, arXiv 2506.08351.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from diffusers import StableDiffusionInstructPix2PixPipeline
    from torch import Tensor

TENSORS = ["latents", "prompt_embeds", "image_latents"]  # what the callback needs of the pipeline


class GuidedSteps(NamedTuple):
    """Steps `first` … `last` − 1 of a denoising loop are guided."""

    first: int
    last: int

    @classmethod
    def of(cls, steps: int, start: float, until: float) -> "GuidedSteps":
        """The guided ones of `steps`, between two shares of them, rounded to whole steps."""
        check_interval(start, until)
        return cls(round(start * steps), round(until * steps))

    @property
    def at_first(self) -> bool:
        """Whether the loop begins with guidance."""
        return self.first == 0 < self.last

    def passes(self, steps: int) -> int:
        """U-Net passes of one edit: three in a guided step, one in another."""
        return steps + 2 * (self.last - self.first)

    def callback(self, scale: float, unguided: "Tensor") -> Callable[..., dict[str, "Tensor"]]:
        """For `callback_on_step_end`: turns guidance of strength `scale` on and off between the steps.

        `unguided` are the empty instruction's embeddings, (n, tokens, width). The pipeline orders its three branches:
        instruction and image, image alone, neither (image latents of 0).
        """
        import torch

        def after(
            pipeline: "StableDiffusionInstructPix2PixPipeline", step: int, _time: int, tensors: dict[str, "Tensor"]
        ) -> dict[str, "Tensor"]:
            guided = self.first <= step + 1 < self.last
            if guided == pipeline.do_classifier_free_guidance:
                return tensors
            count = len(tensors["latents"])
            text, image = tensors["prompt_embeds"][:count], tensors["image_latents"][:count]
            pipeline._guidance_scale = scale if guided else 1.0
            if guided:
                text = torch.cat([text, unguided, unguided])
                image = torch.cat([image, image, torch.zeros_like(image)])
            return tensors | {"prompt_embeds": text, "image_latents": image}

        return after


def check_interval(start: float, until: float) -> None:
    """ValueError unless 0 ≤ start ≤ until ≤ 1."""
    for name, share in (("guidance_from", start), ("guidance_until", until)):
        if not 0 <= share <= 1:
            raise ValueError(f"{name} = {share}: a share of the steps, from 0 to 1")
    if start > until:
        raise ValueError(
            f"guidance_from = {start}: lies after guidance_until = {until}; give a share of at most {until}, or a "
            "larger guidance_until"
        )
