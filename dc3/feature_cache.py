"""Features of image sets on disk, named by what they are made of, so that a set is embedded once.

The real images of every run of a sweep, and of every new set that is laid beside the others, are the same.
"""

import hashlib
import logging
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from dc3.fidelity import Embedded, embed
from dc3.images.image_set import ImageSet
from dc3.machine.files import replacing
from dc3.models.evaluation import images_digest
from dc3.models.feature_networks import FeatureNetwork
from dc3.runs.fingerprints import module_fingerprint

log = logging.getLogger(__name__)

UNREADABLE = (OSError, ValueError, KeyError, EOFError, BadZipFile)


def cached_embed(
    images: ImageSet | np.ndarray, network: FeatureNetwork, folder: Path, batch_size: int = 128
) -> Embedded:
    """`fidelity.embed`, read from `folder` where the same images went through the same network before.

    Same: pixels (of an image set: its fingerprint), weights, kind of device, and the code that embeds. A file that
    cannot be read is made again. Raises as `embed`, and ValueError for a network whose weights are not known.
    """
    path = folder / f"{_key(images, network)}.npz"
    try:
        with np.load(path) as kept:
            return Embedded(kept["features"], kept["logits"])
    except FileNotFoundError:
        pass
    except UNREADABLE as error:
        log.warning("%s cannot be read (%s) and is made again", path, type(error).__name__)
    embedded = embed(images, network, batch_size)
    with replacing(path) as partial:
        np.savez(partial, **embedded._asdict())
    return embedded


def _key(images: ImageSet | np.ndarray, network: FeatureNetwork) -> str:
    if not network.fingerprint:
        raise ValueError(f"feature_network={network.name!r} has no fingerprint: its features cannot be kept, use embed")
    device = str(getattr(network.device, "type", network.device))
    parts = (images_digest(images), network.name, network.fingerprint, device, module_fingerprint("fidelity"))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
